"""The denoising objective, with which almost every diffusion model is trained."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.arguments import AT_LEAST_0, check_number
from jaxdiff.denoise import check_kind, to_prediction
from jaxdiff.objectives.couplings import Coupling
from jaxdiff.objectives.levels import LevelDraw, uniform
from jaxdiff.objectives.noising import Noising, checked, noised
from jaxdiff.objectives.variational import level_terms
from jaxdiff.objectives.weightings import simple
from jaxdiff.preconditioning import check_same_process
from jaxdiff.process import target_for
from jaxdiff.schedules import Schedule, check_schedule
from jaxdiff.types import Apply, Array, Prediction


def denoising(
    apply: Apply,
    schedule: Schedule,
    predict: str = "eps",
    weighting: Callable[[Schedule, Array, str], Array] = simple,
    null_cond=None,
    cond_dropout: float = 0.0,
    *,
    levels: LevelDraw | None = None,
    coupling: Coupling | None = None,
    bound_weight: float = 0.0,
    offset_noise: float = 0.0,
    input_perturbation: float = 0.0,
) -> Callable:
    """Mean squared error of a network's output at a random level, one value per example (Ho et al. 2020, algorithm 1).

        L = w(t) mean |target(x_0, eps, t) - f(x_t, t)|^2,   eps ~ N(0, I),  x_t = alpha_t x_0 + sigma_t eps

    A network with twice the image's channels also predicts a variance, on which this loss does not depend; the hybrid loss
    trains it (Nichol and Dhariwal 2021, eq. 16), without a gradient through the mean:

        L_hybrid = L + bound_weight L_vlb,   L_vlb = T times the bound's term of level t, in bits per dimension

    Args:
      apply: network as a function of its parameters, from `denoise.network`.
      schedule: noise schedule.
      predict: kind of the network's output, "eps", "x0", "v", "score" or "flow".
      weighting: w, see `objectives.weightings`.
      null_cond: null condition: a `Cond` of one example (no batch axis); fields that are None are never dropped.
      cond_dropout: probability, in [0, 1], with which an example's condition is replaced by `null_cond` (Ho and Salimans
        2021).
      levels: random draw of t, see `objectives.levels`; None is uniform over 1..T.
      coupling: pairs of images and noise, see `objectives.couplings`; None is independent ones.
      bound_weight: weight of L_vlb, 0.001 in the paper; 0 for a network that predicts no variance.
      offset_noise: standard deviation of noise that is added to eps, one number per example and channel, so that the
        mean brightness is learnt too; about 0.1, or 0 for none.
      input_perturbation: gamma of Ning et al. 2023: x_t has noise eps + gamma xi, the target has eps; 0.1, or 0 for none.

    Returns:
      loss_fn(params, extra, keys [B], batch) -> (loss, (extra, {"loss": loss})), loss float32 [B]; extra is the memory of
      `levels`, initially `levels.init(T)`, () if uniform.
      `batch["image"]` is uint8 [B, H, W, C], or float already in [-1, 1]; `batch["cond"]`, optional, is a `Cond`, and
      `batch["index"]`, which some `levels` need, the examples' positions in the stream.

    Raises:
      TypeError: `schedule` is no `Schedule`; `weighting` or `coupling` is no function.
      ValueError: a weight, a size of noise or a probability out of range; unknown kind, or one that cannot be used with
        zero terminal signal-to-noise; cond_dropout without null_cond; bound_weight together with offset_noise or
        input_perturbation; a preconditioned network with another kind or schedule. From loss_fn: with cond_dropout, the
        batch's `cond` lacks a field of null_cond; the output does not have the image's shape; it has no variance with a
        bound_weight, or a variance without.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff.objectives.denoising import denoising
        >>> grey = lambda params, x_t, t, cond, keys=None: (jnp.full_like(x_t, params), jaxdiff.types.Aux())
        >>> loss_fn = denoising(grey, jaxdiff.schedules.linear(), predict="x0")
        >>> batch = {"image": jnp.full([2, 8, 8, 1], 255, jnp.uint8)}  # white, 1 in [-1, 1]
        >>> loss, _ = loss_fn(0.5, (), jax.random.split(jax.random.key(0), 2), batch)
        >>> loss.tolist()  # (1 - 0.5)^2 at every level
        [0.25, 0.25]
    """
    check_schedule(schedule)
    check_kind(predict, schedule)
    check_same_process(apply, predict, schedule)
    for name, given in (("weighting", weighting), ("coupling", coupling)):
        if not callable(given) and (name != "coupling" or given is not None):
            raise TypeError(f"`{name}` must be a function, see `jaxdiff.objectives`, not {type(given).__name__}")
    check_number("bound_weight", bound_weight, *AT_LEAST_0)
    if bound_weight and (offset_noise or input_perturbation):
        raise ValueError(
            "the bound assumes plain noise: leave `offset_noise` and `input_perturbation` at 0 with a `bound_weight`"
        )
    levels = uniform() if levels is None else levels
    options = checked(Noising(levels, null_cond, cond_dropout, offset_noise, input_perturbation))

    def loss_fn(params, extra, keys, batch):
        couple = coupling and functools.partial(coupling, jax.lax.stop_gradient(params))
        x0, eps, x_t, t, weight, cond, net_keys, _ = noised(options, schedule, extra, keys, batch, couple)
        output, aux = apply(params, x_t, t, cond, keys=net_keys)
        prediction = to_prediction(predict, schedule, output, aux, x_t, t)
        if (prediction.aux.variance is not None) != bool(bound_weight):
            has = "no" if prediction.aux.variance is None else "a"
            raise ValueError(
                f"a network that predicts {has} variance cannot be trained with `bound_weight`={bound_weight}: "
                "the hybrid loss needs twice the image's channels, the plain one exactly these"
            )
        target = jax.vmap(functools.partial(target_for, predict), (None, 0, 0, 0))(schedule, x0, eps, t)
        error = jnp.square(output[..., : x_t.shape[-1]] - target).mean(tuple(range(1, target.ndim)))
        loss = weighting(schedule, t, predict) * error
        if bound_weight:
            fixed = Prediction(*jax.lax.stop_gradient((prediction.x0, prediction.eps)), prediction.aux)
            terms = level_terms(schedule, fixed, x0, x_t, t, "learned")
            loss = loss + bound_weight * schedule.num_levels * terms
        extra = levels.update(extra, batch.get("index"), t, loss)
        return weight * loss, (extra, {"loss": weight * loss})

    return loss_fn
