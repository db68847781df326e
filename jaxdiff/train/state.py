"""State of training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.types import Array


class TrainState(NamedTuple):
    """A pytree; there is no random key in it, for keys are made from the step.

    Attributes:
      step: how many updates have been made, int32.
      params: the network's parameters.
      ema: their exponential moving average, from which samples are drawn.
      opt_state: the optimizer's state.
      extra: whatever else an objective keeps, such as codebooks; () if nothing.
    """

    step: Array
    params: Any
    ema: Any
    opt_state: Any
    extra: Any = ()


def init(params: Any, optimizer: optax.GradientTransformation, extra: Any = ()) -> TrainState:
    """State before the first step; the average starts as a copy of the parameters."""
    return TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimizer.init(params), extra)
