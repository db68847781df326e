"""The few types that everything shares: what flows between schedules, networks, guidance and samplers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

Array = jax.Array


class AlphaSigma(NamedTuple):
    """Signal and noise scale of a level, x_t = alpha x_0 + sigma eps.

    Attributes:
      alpha: sqrt(alphabar_t), any shape, in [0, 1].
      sigma: sqrt(1 - alphabar_t), same shape, in [0, 1].
    """

    alpha: Array
    sigma: Array

    @property
    def log_snr(self) -> Array:
        """Log signal-to-noise ratio, log(alpha^2 / sigma^2); infinite where sigma or alpha is zero."""
        return 2.0 * (jnp.log(self.alpha) - jnp.log(self.sigma))


class Gaussian(NamedTuple):
    """A normal distribution with independent components: its mean and its standard deviation (not variance)."""

    mean: Array
    std: Array


class Aux(NamedTuple):
    """What a network says besides its output; every leaf has one row per example, None is absent.

    Attributes:
      variance: raw output [B, ...] in about [-1, 1] that interpolates the log-variances of a step
        (Nichol and Dhariwal 2021, eq. 15).
      maps: attention maps by site.
    """

    variance: Any = None
    maps: Any = None


class Prediction(NamedTuple):
    """What a denoiser believes about x_t; always x_t = alpha_t x0 + sigma_t eps.

    Attributes:
      x0: predicted clean data, shape of x_t.
      eps: predicted noise, shape of x_t.
      aux: see `Aux`.
    """

    x0: Array
    eps: Array
    aux: Aux = Aux()


class Cond(NamedTuple):
    """What a network is conditioned on; every leaf has one row per example, None is absent.

    Attributes:
      label: class label, int [B]; or its embedding, float [B, D], see `nets.unet.label_embedding`.
      vector: real-valued context [B, C].
      context: sequence that cross-attention reads [B, L, D].
      context_mask: which positions of `context` count, bool [B, L].
      image: picture concatenated to x_t [B, H, W, C].
      control: picture that a ControlNet reads [B, H, W, C]; of several, a tuple.
      control_scale: weight of the control [B], or of each of its residuals [B, n]; of several, a tuple.
      residuals: what ControlNets add to the U-Net, see `adapt.control`.
      attention_edit: callable pytree applied to attention probabilities.
    """

    label: Any = None
    vector: Any = None
    context: Any = None
    context_mask: Any = None
    image: Any = None
    control: Any = None
    control_scale: Any = None
    residuals: Any = None
    attention_edit: Any = None


class Guided(NamedTuple):
    """Two conditions, the wanted one and the one to be led away from: what classifier-free guidance reads."""

    cond: Cond | None
    uncond: Cond | None


# (params, x_t, t, cond, keys=None) -> (output, Aux): a network as a pure function of its parameters.
Apply = Callable[..., tuple[Array, Aux]]
# (x_t, t, cond) -> Prediction, with t a scalar level or one level per example.
Denoiser = Callable[[Array, Array, Any], Prediction]


@jax.tree_util.register_static
class Static:
    """A hashable value that rides in a pytree as structure and not as a leaf.

    Two are equal when their values are, so a `jax.tree_util.Partial` over equal statics is one compilation.
    """

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, Static) and self.value == other.value

    def __hash__(self):
        return hash(self.value)

    def __repr__(self):
        return f"Static({self.value!r})"


def is_traced(x) -> bool:
    """Whether jax is tracing `x`, so that it has a shape and no value that could be checked yet.

    The only place that names `jax.core.Tracer`, which jax exports and shows in its FAQ, but may move at any release.

    Example::

        >>> import jax
        >>> from jaxdiff.types import is_traced
        >>> is_traced(1.0), bool(jax.jit(lambda x: is_traced(x))(1.0))
        (False, True)
    """
    return isinstance(x, jax.core.Tracer)


@jax.jit
def called(function: Callable, *args):
    """function(*args), compiled once for all functions that are pytrees of one structure, whatever their arrays hold."""
    return function(*args)


def as_partial(function: Callable) -> Partial:
    """A function as a pytree: as it is where it is one, else one without arrays, that a new function compiles anew."""
    return function if isinstance(function, Partial) else Partial(function)


def rows(scale: Array, x: Array) -> Array:
    """Appends axes of length one to `scale` (scalar or [B]) so that it multiplies `x` [B, ...] row by row."""
    scale = jnp.asarray(scale)
    return scale.reshape(scale.shape + (1,) * (x.ndim - scale.ndim))
