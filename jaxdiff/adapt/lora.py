"""LoRA: low-rank updates of kernels (Hu et al. 2022).

(1)  W' = W + w s A B,   s = alpha / r, or alpha / sqrt(r) if rank-stabilised (Kalajdzievski 2023)

in flax's order, x W: A [in, r] projects down to r dimensions, and B [r, out], zero at first, up again. The kernel of a
convolution counts as one matrix [height width in, out]. Updates are merged into the parameters before the network is
called, and training differentiates through the merge, so that networks do not depend on LoRA.
"""

import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdiff.types import Array

# All attention layers of a U-Net, a DiT and an MMDiT, in which the text has projections of its own.
ATTENTION = r"attn\d*/(to_(q|k|v|out_0|add_out)|add_(q|k|v)_proj)/kernel$"
CONVOLUTIONS = r"conv\w*/kernel$"
FEED_FORWARD = r"ff(_context)?/net_(0/proj|2)/kernel$"  # of transformer blocks
TEXT_ATTENTION = r"self_attn/(q|k|v|out)_proj/kernel$"  # of CLIP's text transformer
TARGETS = {"attention": ATTENTION, "convolutions": CONVOLUTIONS, "feed_forward": FEED_FORWARD}


class Factors(NamedTuple):
    """Low-rank factors A and B of one kernel.

    Attributes:
      down: A, float32 [in, r].
      up: B, float32 [r, out].
    """

    down: Array
    up: Array


class Lora(NamedTuple):
    """Low-rank updates of some kernels; a pytree, of which `factors` is trained.

    Attributes:
      factors: path of a kernel, such as "mid_block/.../to_q/kernel" -> its `Factors`.
      scale: the same path -> s, float32 scalar.
    """

    factors: dict[str, Factors]
    scale: dict[str, Array]


def init(
    key: Array, params, rank: int, targets: str = ATTENTION, alpha: float | None = None, rank_stabilised: bool = False
) -> Lora:
    """Initial low-rank updates, which are zero.

    Args:
      key: random key.
      params: of the network, a tree of dicts.
      rank: r, from 1 to the smaller side of each kernel.
      targets: regular expression, searched for in the paths of kernels.
      alpha: of s; None is r.
      rank_stabilised: whether s = alpha / sqrt(r) instead of alpha / r.

    Returns:
      `Lora`: A is uniform in +-1 / sqrt(in), as in the paper's code, and B zero.

    Raises:
      ValueError: no kernel's path matches, or a kernel is too small for the rank.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.adapt import lora
        >>> params = {"attn1": {"to_q": {"kernel": jnp.ones([8, 4])}}, "conv_in": {"kernel": jnp.ones([3, 3, 4, 8])}}
        >>> small = lora.init(jax.random.key(0), params, rank=2, targets=lora.ATTENTION + "|" + lora.CONVOLUTIONS)
        >>> {path: (down.shape, up.shape) for path, (down, up) in small.factors.items()}
        {'attn1/to_q/kernel': ((8, 2), (2, 4)), 'conv_in/kernel': ((36, 2), (2, 8))}
    """
    kernels = {path: leaf.shape for path, leaf in sorted(flatten_dict(params, sep="/").items())}
    kernels = {path: shape for path, shape in kernels.items() if len(shape) > 1 and re.search(targets, path)}
    if not kernels:
        raise ValueError(f"no kernel's path matches {targets!r}: try {ATTENTION}")
    factors = {}
    for i, (path, shape) in enumerate(kernels.items()):
        rows, columns = _matrix(shape)
        if not 1 <= rank <= min(rows, columns):
            raise ValueError(f"`rank`={rank} must be from 1 to {min(rows, columns)}: {path} is {rows}x{columns}")
        limit = rows**-0.5
        down = jax.random.uniform(jax.random.fold_in(key, i), (rows, rank), jnp.float32, -limit, limit)
        factors[path] = Factors(down, jnp.zeros([rank, columns], jnp.float32))
    return Lora(factors, dict.fromkeys(factors, scale(rank, alpha, rank_stabilised)))


def scale(rank: int, alpha: float | None = None, rank_stabilised: bool = False) -> Array:
    """Scale s of equation (1), float32; an alpha of None is the rank."""
    return jnp.float32((rank if alpha is None else alpha) / (rank**0.5 if rank_stabilised else rank))


def pattern(targets: str) -> str:
    """Regular expression for the paths of target kernels.

    Args:
      targets: names in `TARGETS` joined by +, or a regular expression, which is returned as it is.

    Raises:
      ValueError: it is neither.

    Example::

        >>> import re
        >>> from jaxdiff.adapt import lora
        >>> [bool(re.search(lora.pattern("attention+convolutions"), f"{name}/kernel")) for name in ("conv1", "proj_in")]
        [True, False]
    """
    names = targets.split("+")
    if set(names) <= set(TARGETS):
        return "|".join(TARGETS[name] for name in names)
    try:
        re.compile(targets)
    except re.error as error:
        raise ValueError(
            f"{targets!r} is neither made of {', '.join(TARGETS)} joined by +, nor a regular expression ({error})"
        ) from None
    return targets


def merge(params, lora: Lora, weight: float = 1.0):
    """Parameters with low-rank updates added, equation (1).

    Args:
      params: of the network, a tree of dicts.
      lora: from `init`, trained or not.
      weight: w. Traced; -1 undoes 1, up to rounding.

    Returns:
      Parameters with the structure, shapes and dtypes of `params`; several LoRAs are merged one after the other.

    Raises:
      ValueError: the LoRA is of another network, see `check`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.adapt import lora
        >>> params = {"to_q": {"kernel": jnp.ones([2, 3])}}
        >>> factors = {"to_q/kernel": lora.Factors(jnp.ones([2, 1]), jnp.array([[1.0, 2.0, 3.0]]))}
        >>> small = lora.Lora(factors, {"to_q/kernel": 0.5})
        >>> lora.merge(params, small, weight=2.0)["to_q"]["kernel"].tolist()
        [[2.0, 3.0, 4.0], [2.0, 3.0, 4.0]]
    """
    check(params, lora)
    flat = flatten_dict(params, sep="/")
    for path, (down, up) in lora.factors.items():
        change = weight * lora.scale[path] * jnp.matmul(down, up, precision="highest")
        flat[path] = flat[path] + change.reshape(flat[path].shape).astype(flat[path].dtype)
    return unflatten_dict(flat, sep="/")


def check(params, lora: Lora) -> None:
    """Raises ValueError if a LoRA is of another network; the message names the first layer that does not fit."""
    flat = flatten_dict(params, sep="/")
    for path, (down, up) in lora.factors.items():
        if path not in flat:
            raise ValueError(f"this LoRA is of another network: this one has no {path}")
        needs, has = _matrix(flat[path].shape), (down.shape[0], up.shape[1])
        if needs != has:
            raise ValueError(
                f"this LoRA is of another network: {path} must be {needs[0]}x{needs[1]} for this one, and is "
                f"{has[0]}x{has[1]} in it"
            )


def rank_dropout(key: Array, factors: dict[str, Factors], rate: float) -> dict[str, Factors]:
    """Factors with random ranks left out, a regularisation for training.

        A_k <- m_k A_k / (1 - p),   m_k = 0 with probability p, else 1

    Args:
      key: random key.
      factors: of a `Lora`.
      rate: p, in [0, 1). Traced.

    Returns:
      Factors of the same structure, whose products A B have the same mean.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.adapt import lora
        >>> factors = {"to_q/kernel": lora.Factors(jnp.ones([2, 4]), jnp.ones([4, 2]))}
        >>> sorted(set(lora.rank_dropout(jax.random.key(0), factors, 0.5)["to_q/kernel"].down[0].tolist()))
        [0.0, 2.0]
    """

    def one(i, down, up):
        mask = jax.random.uniform(jax.random.fold_in(key, i), [down.shape[1]], jnp.float32) >= rate
        return Factors(down * (mask / (1 - rate))[None], up)

    return {path: one(i, *both) for i, (path, both) in enumerate(sorted(factors.items()))}


def _matrix(shape) -> tuple[int, int]:
    """Rows and columns of a kernel as a matrix."""
    return math.prod(shape[:-1]), shape[-1]
