"""Drawing by pictures: which ControlNets steer a network, by what, and how much."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.adapt import control
from jaxdiff.adapt.control import Control
from jaxdiff.config import Config
from jaxdiff.types import Array, Cond, Guided


class Steered(NamedTuple):
    """What steers a network.

    Attributes:
      controls: one ControlNet, or several whose residuals are added.
      pictures: for each, uint8 [N, H, W, C]; image i is drawn for the i-th of them, in turn.
      scales: of each; () is 1.
      guess: whether the picture alone is to say what is drawn, see `adapt.control.guess_scales`.
    """

    controls: tuple[Control, ...]
    pictures: tuple[np.ndarray, ...]
    scales: tuple[float, ...] = ()
    guess: bool = False


def check(config: Config, steered: Steered | None) -> None:
    """Refuses ControlNets without a picture or a scale each.

    Raises:
      ValueError: one line that says what to change.
    """
    if steered is None:
        return
    count = len(steered.controls)
    if len(steered.pictures) != count or len(steered.scales) not in (0, count):
        raise ValueError(
            f"there are {count} ControlNets, {len(steered.pictures)} pictures (--control) and {len(steered.scales)} scales "
            "(--control-scale): give one of each for every one"
        )
    if steered.guess and config.sample.guidance == 1:
        raise ValueError("--guess is for guidance, whose other half is not told the picture: add --guidance 3")


def condition(
    config: Config, cond: Cond | Guided | None, indices: Array, steered: Steered | None
) -> Cond | Guided | None:
    """What images are drawn for, with the pictures.

    Args:
      config: of the network.
      cond: from `guided.condition`.
      indices: which images, int [B].
      steered: what steers; None is nothing.
    """
    if steered is None:
        return cond
    B, count = len(indices), control.num_residuals(config.net)
    scales = [jnp.full([B, count], scale, jnp.float32) for scale in steered.scales or [1.0] * len(steered.controls)]
    if steered.guess:
        scales = [scale * control.guess_scales(1.0, count)[None] for scale in scales]
    pictures = [jnp.asarray(each)[indices % len(each)] for each in steered.pictures]
    one = lambda each: each[0] if len(each) == 1 else tuple(each)

    def told(cond, scales):
        return (cond or Cond())._replace(control=one(pictures), control_scale=one(scales))

    if not isinstance(cond, Guided):
        return told(cond, scales)
    return Guided(
        told(cond.cond, scales), told(cond.uncond, [0 * scale if steered.guess else scale for scale in scales])
    )
