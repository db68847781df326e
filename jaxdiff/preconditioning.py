r"""Network times, which stand in place of levels, and EDM's scaling of a network's input and output.

With s = sigma_t / alpha_t, the data's standard deviation d, and x = x_t / alpha_t (Karras et al. 2022, table 1),

  (1)  x0 = c_skip x + c_out F(c_in x; c_noise)
  (2)  c_skip = d^2 / (s^2 + d^2),  c_out = s d / sqrt(s^2 + d^2),  c_in = 1 / sqrt(s^2 + d^2),  c_noise = ln(s) / 4

so that the network's input and its target have variance 1 at every level. Here (1) is written for x_t, with
S = sqrt(alpha_t^2 d^2 + sigma_t^2), and is finite where alpha_t is 0:

  (3)  x0 = alpha_t d^2 / S^2 x_t + sigma_t d / S F(x_t / S; c_noise)

Both need the schedule inside of the network's function. It is a constant of the program, and part of what makes two
functions equal.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jaxdiff.arguments import check_type
from jaxdiff.errors import check_known
from jaxdiff.schedules import Schedule, check_schedule, equal
from jaxdiff.types import Apply, Array, is_traced

TIMES = ("level", "sigma", "fraction", "log_ratio")
SMALLEST = 1e-6  # of sigma / alpha, whose logarithm is asked for: clean data has 0


class _Fixed:
    """A schedule that is hashed and compared by its tables."""

    def __init__(self, schedule: Schedule):
        check_schedule(schedule)
        self.schedule = Schedule(*(np.asarray(table) for table in schedule))
        self._tables = tuple(table.tobytes() for table in self.schedule)

    def __eq__(self, other):
        return isinstance(other, _Fixed) and self._tables == other._tables

    def __hash__(self):
        return hash(self._tables)


@dataclasses.dataclass(frozen=True)
class _Time:
    """Level -> network time. Equal ones give networks that share compilations."""

    kind: str
    fixed: _Fixed

    def __call__(self, t):
        alpha, sigma = self.fixed.schedule(t)
        if self.kind == "sigma":
            return 1000 * sigma
        if self.kind == "fraction":
            return sigma
        return jnp.log(jnp.maximum(sigma / alpha, SMALLEST)) / 4


def network_time(kind: str, schedule: Schedule) -> Callable | None:
    """Function from levels to what a network is given in their place, for `denoise.network`.

    Args:
      kind: "level", t - 1, as in DDPM and Stable Diffusion; "sigma", 1000 sigma_t, as in flow models such as Stable
        Diffusion 3; "fraction", sigma_t, by which waves of it are slow: derivatives along the path, of `mean_flow`, stay
        small (Lu and Song 2024, section 4.1); or "log_ratio", c_noise = ln(sigma_t / alpha_t) / 4 of EDM.
      schedule: noise schedule of the network; not used by "level".

    Returns:
      t -> time, float32 of the shape of t; None for "level", which `denoise.network` has by itself.

    Raises:
      ValueError: unknown kind; "log_ratio" with a schedule whose last level has no signal.
      TypeError: schedule is no `Schedule`.

    Example::

        >>> from jaxdiff import preconditioning, schedules
        >>> float(preconditioning.network_time("sigma", schedules.rectified_flow(4))(1))
        250.0
    """
    check_known("network time", kind, TIMES)
    if kind == "level":
        return None
    fixed = _Fixed(schedule)
    if kind == "log_ratio" and fixed.schedule.alpha[-1] == 0:
        raise ValueError(
            "the network time 'log_ratio' is infinite at a last level without signal: choose 'sigma' or 'level' with "
            "this schedule"
        )
    return _Time(kind, fixed)


@dataclasses.dataclass(frozen=True)
class Preconditioned:
    """An `Apply` whose output is x0, of a network F that is scaled as in equation (3); see `preconditioned`."""

    apply: Apply
    fixed: _Fixed
    sigma_data: float

    def __call__(self, params, x_t: Array, t, cond=None, keys=None):
        alpha, sigma = (scale.reshape(-1, *(1,) * (x_t.ndim - 1)).astype(x_t.dtype) for scale in self.fixed.schedule(t))
        d, size = self.sigma_data, jnp.hypot(alpha * self.sigma_data, sigma)
        F, aux = self.apply(params, x_t / size, t, cond, keys)
        skip, out = alpha * jnp.square(d / size), sigma * d / size
        if F.shape == x_t.shape:
            return skip * x_t + out * F, aux
        F, variance = F[..., : x_t.shape[-1]], F[..., x_t.shape[-1] :]
        return jnp.concatenate([skip * x_t + out * F, variance], -1), aux


def preconditioned(apply: Apply, schedule: Schedule, sigma_data: float = 0.5) -> Preconditioned:
    """A network with EDM's preconditioning, equation (3): apply -> apply, whose output is x0.

    Its denoiser and its loss have `predict`="x0", and the loss the weighting "edm" of the same sigma_data, by which the
    error of every level begins at 1. It is the outermost transform of a network: ControlNets and adapters come before it.

    Args:
      apply: network as a function of its parameters, from `denoise.network`, with a `network_time` of "log_ratio" in EDM.
      schedule: noise schedule that it is trained and sampled with.
      sigma_data: standard deviation d of the data, above 0; EDM's 0.5 is that of photographs in [-1, 1].

    Returns:
      apply(params, x_t, t, cond=None, keys=None) -> (x0, Aux). Equal arguments give equal functions, which share
      compilations.

    Raises:
      ValueError: sigma_data is not above 0.
      TypeError: schedule is no `Schedule`.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import preconditioning
        >>> schedule = jaxdiff.schedules.from_alpha_sigma([1.0], [1.0])
        >>> zeros = lambda params, x, t, cond=None, keys=None: (jnp.zeros_like(x), jaxdiff.types.Aux())
        >>> x0, _ = preconditioning.preconditioned(zeros, schedule, 1.0)((), jnp.array([[3.0]]), 1)
        >>> round(float(x0[0, 0]), 4)  # c_skip x, one half of it
        1.5
    """
    if not check_type("`sigma_data`", sigma_data, float) > 0:
        raise ValueError(f"`sigma_data`={sigma_data} must be above 0, such as 0.5")
    return Preconditioned(apply, _Fixed(schedule), float(sigma_data))


def check_same_process(apply: Apply, predict: str, schedule: Schedule) -> None:
    """Raises ValueError for a preconditioned network with another schedule, or another kind of prediction than x0.

    A traced schedule is not compared.
    """
    if not isinstance(apply, Preconditioned):
        return
    if predict != "x0":
        raise ValueError(f"`predict`={predict!r} is not what a preconditioned network returns: choose 'x0'")
    if not is_traced(schedule.alpha) and not equal(apply.fixed.schedule, schedule):
        raise ValueError("`schedule` is not the one that the network is preconditioned for: take that one")
