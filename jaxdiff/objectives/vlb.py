"""The variational bound as an objective."""

import jax
import jax.numpy as jnp

from jaxdiff.denoise import check_kind, read_output
from jaxdiff.errors import unknown
from jaxdiff.objectives.levels import Levels, uniform
from jaxdiff.objectives.noising import Noising, noised
from jaxdiff.objectives.variational import bound_term
from jaxdiff.process import VARIANCES
from jaxdiff.schedules import Schedule
from jaxdiff.types import Apply, Array, Prediction


def variational_bound(
    apply: Apply,
    schedule: Schedule,
    predict: str = "eps",
    variance: str = "posterior",
    null=None,
    drop: float = 0.0,
    *,
    levels: Levels | None = None,
):
    """The variational bound on the likelihood, of one random level per example (Ho et al. 2020, eq. 5).

        L_vlb = T L_{t-1},   L_{t-1} the bound's term of the step t -> t - 1, in bits per dimension

    Its mean over levels and noise is the bound without L_T, which nothing can be learnt of. With "learned" it is Nichol and
    Dhariwal's L_vlb (2021, section 3.3), whose levels they draw by importance.

    Args:
      apply: network as a function of its parameters, from `denoise.network`.
      schedule: noise schedule.
      predict: what the network is to output, "eps", "x0", "v" or "score".
      variance: of the model's steps, "posterior", "beta", or "learned" for a network with twice the image's channels.
      null: see `denoising`.
      drop: see `denoising`.
      levels: see `denoising`.

    Returns:
      loss_fn as of `denoising`, loss in bits per dimension.

    Raises:
      ValueError: unknown variance, and else as `denoising`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff.objectives import variational_bound
        >>> schedule = jaxdiff.schedules.from_betas([0.0001, 0.0001])
        >>> right = lambda params, x_t, t, cond, keys=None: (jnp.ones_like(x_t), jaxdiff.types.Aux())
        >>> batch = {"image": jnp.full([1000, 2, 2, 1], 255, jnp.uint8)}  # white, 1 in [-1, 1]
        >>> keys = jaxdiff.samplers.keys_for(jax.random.key(0), 1000)
        >>> loss, _ = variational_bound(right, schedule, "x0")(None, (), keys, batch)
        >>> round(float(loss.mean()), 1)  # a decoder that is right, and not quite sure of it
        0.5
    """
    check_kind(predict, schedule)
    if variance not in VARIANCES:
        raise unknown("variance", variance, VARIANCES)
    if drop and null is None:
        raise ValueError("drop needs a null condition to put in the place of the dropped ones")
    levels = uniform() if levels is None else levels

    def loss_fn(params, extra, keys, batch):
        x0, _, x_t, t, weight, cond, net_keys = noised(Noising(levels, null, drop), schedule, extra, keys, batch)
        output, aux = apply(params, x_t, t, cond, keys=net_keys)
        said = read_output(predict, schedule, output, aux, x_t, t)
        if (said.aux.variance is not None) != (variance == "learned"):
            raise ValueError(
                f"variance={variance!r} is not for a network with {output.shape[-1]} channels and images with "
                f"{x_t.shape[-1]}"
            )
        loss = schedule.num_steps * level_terms(schedule, said, x0, x_t, t, variance)
        extra = levels.update(extra, batch.get("index"), t, loss)
        return weight * loss, (extra, {"loss": weight * loss})

    return loss_fn


def level_terms(schedule: Schedule, prediction: Prediction, x0: Array, x_t: Array, t: Array, variance: str) -> Array:
    """`bound_term` of the steps t -> t - 1 of a batch.

    Args:
      schedule: noise schedule of at least two levels.
      prediction: the denoiser's belief at x_t, leaves of the shape of x_t.
      x0: clean data, float [B, ...].
      x_t: a draw of q(x_t | x_0), same shape.
      t: levels in 1..T, int [B].
      variance: of the model's step, see `bound_term`.

    Returns:
      Bits per dimension, float32 [B].
    """
    above = jnp.minimum(t + 1, schedule.num_steps)
    one = lambda prediction, x0, x_t, t, above: bound_term(schedule, prediction, x0, x_t, t, t - 1, above, variance)
    return jax.vmap(one)(prediction, x0, x_t, t, above)
