"""Couplings: pairs of noise and images for the training of a denoiser."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.arguments import check_count
from jaxdiff.denoise import check_kind
from jaxdiff.objectives.teachers import check_scale, guided
from jaxdiff.samplers import ddim, sample
from jaxdiff.schedules import Schedule, check_schedule
from jaxdiff.timesteps import trailing
from jaxdiff.types import Apply, Array

# (params, x0, eps, cond) -> (x0, eps): images and noise of a batch, in pairs.
Coupling = Callable[[Any, Array, Array, Any], tuple[Array, Array]]


def optimal_transport() -> Coupling:
    """Noise permuted within the batch to be as near to its images as can be (Pooladian et al. 2023; Tong et al. 2024).

        minimise sum_i |x_0,i - eps_p(i)|^2 over permutations p, by the Hungarian algorithm

    Paths of a flow then cross less, and fewer steps follow them. The batch is what the loss is given: of `pmap` that of one
    device, of `train.accumulate` a part of it, and over a mesh the whole one; pairs so depend on these. Conditions stay
    with their images, so that the noise depends on them a little; that is a bias where they say much about the image. The
    algorithm takes time of the batch's third power: up to some hundreds.

    Returns:
      Coupling for `objectives.denoising`.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.objectives import optimal_transport
        >>> x0, eps = optimal_transport()((), jnp.array([[1.0], [-1.0]]), jnp.array([[-2.0], [0.5]]), None)
        >>> eps.ravel().tolist()
        [0.5, -2.0]
    """
    return _transport


def _transport(params, x0, eps, cond):
    del params, cond
    a, b = (x.reshape(len(x), -1) for x in (x0, eps))
    cost = -jnp.matmul(a, b.T, precision="highest")  # |a|^2 and |b|^2 are the same for all permutations
    rows, columns = optax.assignment.hungarian_algorithm(cost)
    return x0, eps[jnp.zeros(len(eps), columns.dtype).at[rows].set(columns)]


def reflow(
    teacher: Apply,
    schedule: Schedule,
    predict: str = "flow",
    null_cond: Any = None,
    scale: float = 1.0,
    steps: int = 25,
) -> Coupling:
    """Images that a teacher makes of the noise, in place of the data (Liu et al. 2022, rectified flow, algorithm 1).

        x_0 = ODE(x_T),   x_T = sqrt(alpha_T^2 + sigma_T^2) eps,        in DDIM steps under classifier-free guidance

    The flow that is trained on these pairs has straighter paths, and samples with the teacher's guidance. The teacher is
    evaluated `steps` times for each training step, and twice as often with guidance.

    Args:
      teacher: network of the same process, called with the params of the loss, of which it may use other entries.
      schedule: noise schedule.
      predict: kind of its output.
      null_cond: null condition of one example.
      scale: scale of the guidance; 1 is none.
      steps: number of DDIM steps.

    Returns:
      Coupling for `objectives.denoising`.

    Raises:
      ValueError: a scale without null_cond or not finite; fewer than one step, or more than levels.

    Example::

        >>> import jax, jax.numpy as jnp, jaxdiff
        >>> from jaxdiff import objectives, testing
        >>> schedule, data = jaxdiff.schedules.rectified_flow(), testing.gaussian([1.0], 0.25)
        >>> exact = lambda params, x, t, cond=None, keys=None: (data.denoiser(schedule)(x, t, None).x0, jaxdiff.types.Aux())
        >>> x0, eps = objectives.reflow(exact, schedule, "x0")((), jnp.zeros([2, 1]), jnp.array([[-1.0], [2.0]]), None)
        >>> bool(jnp.allclose(x0, 1 + 0.5 * eps, atol=0.1))  # the exact flow from N(0, 1) to N(1, 0.25)
        True
    """
    check_schedule(schedule)
    check_kind(predict, schedule)
    check_scale(scale, null_cond, teacher)
    levels = trailing(schedule, check_count("steps", steps))

    def couple(params, x0, eps, cond):
        del x0
        x_T = schedule.std(schedule.num_levels) * eps
        made, _ = sample(
            None, ddim(), guided(teacher, params, schedule, predict, null_cond, scale), schedule, levels, x_T, cond
        )
        return jax.lax.stop_gradient(made), eps

    return couple
