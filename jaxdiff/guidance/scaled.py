"""Classifier-free guidance by name: a constant scale, or one that depends on the level."""

from jaxdiff.guidance.cfg import cfg, on_cond
from jaxdiff.guidance.limits import rescaled_cfg
from jaxdiff.guidance.weights import Weight, early, late, stepped
from jaxdiff.registry import Registry
from jaxdiff.schedules import Schedule
from jaxdiff.types import Denoiser

# Each choice is called as choice(denoise, schedule, scale, rescale) -> Denoiser of conditions that are `Guided`.
GUIDANCES = Registry("guidance")


def _guided(denoise, schedule, weight: Weight, rescale: float) -> Denoiser:
    return rescaled_cfg(denoise, weight, schedule, rescale) if rescale else cfg(denoise, weight)


@GUIDANCES.register("constant")
def constant_scale(denoise: Denoiser, schedule: Schedule, scale: float, rescale: float) -> Denoiser:
    """Classifier-free guidance with the same scale at all levels (Ho and Salimans 2021).

    Args:
      denoise: a denoiser whose network was trained with condition dropout.
      schedule: its noise schedule.
      scale: scale of the guidance; the Python number 1 is the conditional prediction alone.
      rescale: share by which contrast is brought back, see `rescaled`; the Python number 0 is none.

    Returns:
      `Denoiser`, a pytree, for conditions that are `Guided`.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import Guided, guidance
        >>> schedule = jaxdiff.schedules.linear()
        >>> times = lambda x_t, t, cond: jaxdiff.process.predict_from("x0", schedule, cond * x_t, x_t, jnp.asarray(t))
        >>> denoise = guidance.GUIDANCES.choice("constant")(times, schedule, 3.0, 0.0)
        >>> denoise(jnp.ones([1, 1]), 500, Guided(jnp.array([[2.0]]), jnp.array([[1.0]]))).x0.tolist()  # 1 + 3 (2 - 1)
        [[4.0]]
    """
    return on_cond(denoise) if scale == 1 and not rescale else _guided(denoise, schedule, scale, rescale)


@GUIDANCES.register("stepped")
def stepped_scale(
    denoise: Denoiser, schedule: Schedule, scale: float, rescale: float, first: float = 20.0, last_first: float = 0.8
) -> Denoiser:
    """Classifier-free guidance with another scale at the highest levels, where shape is settled.

    Args:
      denoise: as for `constant_scale`.
      schedule: its noise schedule.
      scale: scale at the other levels.
      rescale: see `constant_scale`.
      first: scale at the highest levels.
      last_first: share of T above which levels are the highest, in [0, 1].
    """
    return _guided(denoise, schedule, stepped(first, scale, last_first * schedule.num_levels), rescale)


@GUIDANCES.register("early")
def early_scale(denoise: Denoiser, schedule: Schedule, scale: float, rescale: float) -> Denoiser:
    """Classifier-free guidance with a scale that is large at high noise, where it changes shape.

        s(t) = scale sigma_t / sqrt(alpha_t^2 + sigma_t^2)

    Args:
      denoise: as for `constant_scale`.
      schedule: its noise schedule.
      scale: upper limit of the scale.
      rescale: see `constant_scale`.
    """
    return _guided(denoise, schedule, early(schedule, scale), rescale)


@GUIDANCES.register("late")
def late_scale(denoise: Denoiser, schedule: Schedule, scale: float, rescale: float) -> Denoiser:
    """Classifier-free guidance with a scale that is large at low noise, where it changes texture.

        s(t) = scale alpha_t / sqrt(alpha_t^2 + sigma_t^2)

    Args:
      denoise: as for `constant_scale`.
      schedule: its noise schedule.
      scale: upper limit of the scale.
      rescale: see `constant_scale`.
    """
    return _guided(denoise, schedule, late(schedule, scale), rescale)
