"""LoRA: what training would change in a kernel, as a product of two thin matrices (Hu et al. 2022).

(1)  W' = W + w s A B,   s = alpha / r, or alpha / sqrt(r) rank-stabilised (Kalajdzievski 2023)

in flax's order, x W: A [in, r] leads down to r numbers, and B [r, out], zero at first, up again. The kernel of a
convolution is taken as one matrix [height width in, out]. Corrections are merged before the network is called, and training
differentiates through that, so that no network knows of it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdiff.types import Array

ATTENTION = r"attn\d+/to_(q|k|v|out_0)/kernel$"  # of all attention in the U-Net
CONVOLUTIONS = r"conv\w*/kernel$"
TEXT = r"self_attn/(q|k|v|out)_proj/kernel$"  # of a CLIP's text transformer


class Factors(NamedTuple):
    """A and B of one kernel.

    Attributes:
      down: A, float32 [in, r].
      up: B, float32 [r, out].
    """

    down: Array
    up: Array


class Lora(NamedTuple):
    """Corrections of some kernels; a pytree, of which `factors` is trained.

    Attributes:
      factors: path of a kernel, such as "mid_block/.../to_q/kernel" -> its `Factors`.
      scale: the same path -> s, float32 scalar.
    """

    factors: dict[str, Factors]
    scale: dict[str, Array]


def init(key: Array, params, rank: int, where: str = ATTENTION, alpha: float | None = None, stabilised: bool = False):
    """Corrections that change nothing yet.

    Args:
      key: random key.
      params: of the network, a tree of dicts.
      rank: r, from 1 to the smaller side of each kernel.
      where: regular expression that is looked for in the paths of kernels.
      alpha: of s; by default r, so that s = 1 (sqrt(r) where it is rank-stabilised).
      stabilised: s = alpha / sqrt(r) in place of alpha / r.

    Returns:
      `Lora`: A is uniform in +-1 / sqrt(in), as in the paper's code, and B zero.

    Raises:
      ValueError: no kernel is found, or one is too small for the rank; one line.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.adapt import lora
        >>> params = {"attn1": {"to_q": {"kernel": jnp.ones([8, 4])}}, "conv_in": {"kernel": jnp.ones([3, 3, 4, 8])}}
        >>> small = lora.init(jax.random.key(0), params, rank=2, where=lora.ATTENTION + "|" + lora.CONVOLUTIONS)
        >>> {path: (down.shape, up.shape) for path, (down, up) in small.factors.items()}
        {'attn1/to_q/kernel': ((8, 2), (2, 4)), 'conv_in/kernel': ((36, 2), (2, 8))}
    """
    kernels = {path: leaf.shape for path, leaf in sorted(flatten_dict(params, sep="/").items())}
    kernels = {path: shape for path, shape in kernels.items() if len(shape) > 1 and re.search(where, path)}
    if not kernels:
        raise ValueError(f"no kernel's path holds {where}: try {ATTENTION}")
    factors = {}
    for i, (path, shape) in enumerate(kernels.items()):
        rows, columns = _matrix(shape)
        if not 1 <= rank <= min(rows, columns):
            raise ValueError(f"rank {rank} must be from 1 to {min(rows, columns)}: {path} is {rows}x{columns}")
        limit = rows**-0.5
        down = jax.random.uniform(jax.random.fold_in(key, i), (rows, rank), minval=-limit, maxval=limit)
        factors[path] = Factors(down, jnp.zeros([rank, columns]))
    root = rank**0.5 if stabilised else rank
    scale = jnp.float32((rank if alpha is None else alpha) / root)
    return Lora(factors, dict.fromkeys(factors, scale))


def merge(params, lora: Lora, weight: float = 1.0):
    """Parameters with a correction added, equation (1).

    Args:
      params: of the network, a tree of dicts.
      lora: from `init`, trained or not.
      weight: w. Traced; -1 takes away again what 1 has added, up to rounding.

    Returns:
      Parameters, structure, shapes and dtypes of `params`; several corrections are merged one after the other.

    Raises:
      ValueError: the correction is of another network, see `check`.

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
    """Raises ValueError for a correction of another network, which names the first layer that does not fit."""
    flat = flatten_dict(params, sep="/")
    for path, (down, up) in lora.factors.items():
        if path not in flat:
            raise ValueError(f"this LoRA is of another network: here is no {path}")
        here, there = _matrix(flat[path].shape), (down.shape[0], up.shape[1])
        if here != there:
            raise ValueError(
                f"this LoRA is of another network: {path} is {here[0]}x{here[1]} here, and {there[0]}x{there[1]} there"
            )


def drop(key: Array, factors: dict[str, Factors], rate: float) -> dict[str, Factors]:
    """Factors of which some ranks are left out at random, for training: rank dropout.

        A_k <- m_k A_k / (1 - p),   m_k = 0 with probability p

    Args:
      key: random key.
      factors: of a `Lora`.
      rate: p, in [0, 1). Traced.

    Returns:
      The same structure; on average the same correction.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.adapt import lora
        >>> factors = {"to_q/kernel": lora.Factors(jnp.ones([2, 4]), jnp.ones([4, 2]))}
        >>> sorted(set(lora.drop(jax.random.key(0), factors, 0.5)["to_q/kernel"].down[0].tolist()))
        [0.0, 2.0]
    """

    def one(i, down, up):
        kept = jax.random.uniform(jax.random.fold_in(key, i), [down.shape[1]]) >= rate
        return Factors(down * (kept / (1 - rate))[None], up)

    return {path: one(i, *both) for i, (path, both) in enumerate(sorted(factors.items()))}


def _matrix(shape) -> tuple[int, int]:
    """Rows and columns of a kernel."""
    rows = 1
    for side in shape[:-1]:
        rows *= side
    return rows, shape[-1]


def to_bytes(lora: Lora, about: Mapping[str, Any], dtype: str = "float16") -> bytes:
    """A correction as the content of a .safetensors file, of a few kilobytes.

    Args:
      lora: trained.
      about: what it was trained as, such as {"base": "captioned"}; what JSON can say.
      dtype: of the factors in it, "float16" or "float32".

    Returns:
      Arrays PATH.down and PATH.up in that type, and PATH.scale in float32.
    """
    arrays = {}
    for path, (down, up) in lora.factors.items():
        arrays |= {f"{path}.down": np.asarray(down, dtype), f"{path}.up": np.asarray(up, dtype)}
        arrays[f"{path}.scale"] = np.asarray(lora.scale[path], np.float32)
    return safetensors.numpy.save(arrays, {"lora": json.dumps(dict(about))})


def from_bytes(content: bytes) -> tuple[Lora, dict[str, Any]]:
    """A correction, float32, and what it was trained as, from the content of a file of `to_bytes`.

    Raises:
      ValueError: it is none; the message completes "the file ...".

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.adapt import lora
        >>> small = lora.init(jax.random.key(0), {"attn1": {"to_q": {"kernel": jnp.ones([8, 4])}}}, rank=2)
        >>> again, about = lora.from_bytes(lora.to_bytes(small, {"base": "captioned"}))
        >>> list(again.factors), about
        (['attn1/to_q/kernel'], {'base': 'captioned'})
    """
    try:
        arrays = safetensors.numpy.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # its length, then JSON
        about, paths = (
            json.loads(header["__metadata__"]["lora"]),
            [name[:-5] for name in arrays if name.endswith(".down")],
        )
        part = lambda path, name: jnp.asarray(arrays[f"{path}.{name}"], jnp.float32)
        factors = {path: Factors(part(path, "down"), part(path, "up")) for path in sorted(paths)}
        return Lora(factors, {path: part(path, "scale") for path in factors}), about
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError):
        raise ValueError("is no LoRA that jaxdiff has trained") from None
