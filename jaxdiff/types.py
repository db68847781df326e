"""Types shared by schedules, networks, guidance and samplers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

Array = jax.Array


class AlphaSigma(NamedTuple):
    """Signal and noise scale of a level, x_t = alpha x_0 + sigma eps.

    Attributes:
      alpha: any shape, in [0, 1]; sqrt(alphabar_t) of DDPM.
      sigma: same shape, 0 or more; sqrt(1 - alphabar_t) of DDPM.
    """

    alpha: Array
    sigma: Array

    @property
    def log_snr(self) -> Array:
        """Log signal-to-noise ratio, log(alpha^2 / sigma^2); infinite where sigma or alpha is zero."""
        return 2.0 * (jnp.log(self.alpha) - jnp.log(self.sigma))


class Gaussian(NamedTuple):
    """Normal distribution with independent components: mean and standard deviation (not variance)."""

    mean: Array
    std: Array


class Aux(NamedTuple):
    """Further outputs of a network; every leaf has one row per example, None means absent.

    Attributes:
      variance: raw output [B, ...] in about [-1, 1] that interpolates the log-variances of a step
        (Nichol and Dhariwal 2021, eq. 15).
      maps: attention maps by site.
    """

    variance: Any = None
    maps: Any = None


class Prediction(NamedTuple):
    """Prediction of a denoiser at x_t; x_t = alpha_t x0 + sigma_t eps always holds.

    Attributes:
      x0: predicted clean data, shape of x_t.
      eps: predicted noise, shape of x_t.
      aux: see `Aux`.
    """

    x0: Array
    eps: Array
    aux: Aux = Aux()


class Cond(NamedTuple):
    """Condition of a network; every leaf has one row per example, None means absent.

    Attributes:
      label: class label, int [B]; or its embedding, float [B, D], see `nets.unet.label_embedding`.
      vector: real-valued context [B, C].
      context: sequence for cross-attention [B, L, D].
      context_mask: True at the positions of `context` that are attended to, bool [B, L].
      image: image concatenated to x_t [B, H, W, C].
      control: control input of a ControlNet [B, H, W, C]; a tuple with several ControlNets.
      control_scale: weight of the ControlNet's residuals [B], or of each of them [B, n]; a tuple with several ControlNets.
      residuals: sums of ControlNet residuals that the U-Net adds to its features, see `adapt.control`.
      attention_edit: callable pytree applied to attention probabilities.
      guidance: guidance scale that a distilled network takes as a condition [B].
      image_prompt: embedding of a picture, beside the context [B, E].
      image_prompt_scale: weight of the attention to it [B].
      end: level at which the path ends whose average velocity is predicted [B], see `objectives.mean_flow`; None is the
        velocity at the level itself.
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
    guidance: Any = None
    image_prompt: Any = None
    image_prompt_scale: Any = None
    end: Any = None


class Guided(NamedTuple):
    """Pair of conditions of classifier-free guidance.

    Attributes:
      cond: the condition that guidance moves towards.
      uncond: the one that it moves away from: the null label or empty text, or a negative prompt.
    """

    cond: Cond | None
    uncond: Cond | None


# (params, x_t, t, cond, keys=None) -> (output, Aux): a network as a pure function of its parameters.
Apply = Callable[..., tuple[Array, Aux]]
# (x_t, t, cond) -> Prediction, with t a scalar level or one level per example.
Denoiser = Callable[[Array, Array, Any], Prediction]


@jax.tree_util.register_static
class Static:
    """A hashable value that is part of a pytree's structure instead of a leaf.

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


def call(function: Callable, *args) -> Any:
    """Runs a function that is a pytree, such as a denoiser or a codec's decoder, as one compiled program.

    Its arrays are arguments of the program, so that all functions of one structure share a compilation, whatever their
    weights. `jax.jit(denoise)` instead copies the weights into the program as constants, and compiles for every object.

    Args:
      function: a `jax.tree_util.Partial`; any other function is compiled for itself.
      *args: its arguments, pytrees of arrays.

    Returns:
      function(*args).

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import testing
        >>> schedule, data = jaxdiff.schedules.linear(), testing.gaussian([1.0], 0.25)
        >>> jaxdiff.call(data.denoiser(schedule), jnp.zeros([2, 1]), 500, None).x0.shape
        (2, 1)
    """
    return _call(as_partial(function), *args)


@jax.jit
def _call(function, *args):
    return function(*args)


def as_partial(function: Callable, name: str = "") -> Partial:
    """A function as a pytree: a `Partial` unchanged; any other one without arrays, compiled for itself.

    Args:
      function: any.
      name: of the argument, for errors.

    Raises:
      TypeError: no function.
    """
    if not callable(function):
        where = f"`{name}`: " if name else ""
        raise TypeError(
            f"{where}a function is needed, not a {type(function).__name__}: of a model, jaxdiff.denoiser_of(model)"
        )
    return function if isinstance(function, Partial) else Partial(function)


def rows(scale: Array, x: Array) -> Array:
    """Appends axes of length one to `scale` (scalar or [B]) so that it multiplies `x` [B, ...] row by row."""
    scale = jnp.asarray(scale)
    return scale.reshape(scale.shape + (1,) * (x.ndim - scale.ndim))
