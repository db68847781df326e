"""What an adaptation has learned, as one small file: LoRAs, new words, a ControlNet."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdiff.adapt.lora import Factors, Lora
from jaxdiff.types import Array


class Adapter(NamedTuple):
    """What was learned beside a base model.

    Attributes:
      metadata: what it was trained as, such as {"base": "captioned"}; what JSON can say.
      loras: of "unet" and "text", where there are such.
      new_tokens: new words, and what each is to the text transformer [D].
      control: parameters of a ControlNet; None is none.
    """

    metadata: Mapping[str, Any]
    loras: Mapping[str, Lora] = {}
    new_tokens: Mapping[str, Array] = {}
    control: Any = None


def to_bytes(adapter: Adapter, dtype: str = "float16") -> bytes:
    """An adapter as the content of a .safetensors file.

    Args:
      adapter: trained.
      dtype: of its numbers in the file, "float16" or "float32"; scales and new words are float32.

    Returns:
      Arrays NET:PATH.down and .up of each kernel with a LoRA, NET:scale of all of them in the order of their paths,
      word:WORD and control:PATH.

    Raises:
      ValueError: numbers that are too large for the dtype.
    """
    arrays = {f"word:{word}": np.asarray(row, np.float32) for word, row in adapter.new_tokens.items()}
    with np.errstate(over="ignore"):  # of which is told below
        for net, lora in adapter.loras.items():
            for path, (down, up) in lora.factors.items():
                arrays |= {f"{net}:{path}.down": np.asarray(down).astype(dtype, order="C")}
                arrays |= {f"{net}:{path}.up": np.asarray(up).astype(dtype, order="C")}
            arrays[f"{net}:scale"] = np.array([lora.scale[path] for path in sorted(lora.factors)], np.float32)
        for path, value in flatten_dict(adapter.control or {}, sep="/").items():
            arrays[f"control:{path}"] = np.asarray(value).astype(dtype, order="C")
    if not all(np.isfinite(value).all() for value in arrays.values()):
        raise ValueError(f"some numbers are too large to be written as {dtype}: choose float32")
    return safetensors.numpy.save(arrays, {"adapter": json.dumps(dict(adapter.metadata))})


def from_bytes(content: bytes) -> Adapter:
    """The adapter in the content of a file of `to_bytes`, float32.

    Raises:
      ValueError: it is none; the message completes "the file ...".

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.adapt import adapter, lora
        >>> small = lora.init(jax.random.key(0), {"attn1": {"to_q": {"kernel": jnp.ones([8, 4])}}}, rank=2)
        >>> content = adapter.to_bytes(adapter.Adapter({"base": "captioned"}, {"unet": small}, {"<star>": jnp.ones(3)}))
        >>> again = adapter.from_bytes(content)
        >>> list(again.loras["unet"].factors), again.new_tokens["<star>"].tolist(), again.metadata, len(content) < 1000
        (['attn1/to_q/kernel'], [1.0, 1.0, 1.0], {'base': 'captioned'}, True)
    """
    try:
        arrays = safetensors.numpy.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # its length, then JSON
        about = dict(json.loads(header["__metadata__"]["adapter"]))
        arrays = {name: jnp.asarray(value, jnp.float32) for name, value in arrays.items()}
        of = {kind: _of(arrays, f"{kind}:") for kind in ("unet", "text", "word", "control")}
        loras = {net: _lora(of[net]) for net in ("unet", "text") if of[net]}
        control = unflatten_dict(of["control"], sep="/") if of["control"] else None
        return Adapter(about, loras, of["word"], control)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError):
        raise ValueError("is no LoRA, new word or ControlNet that jaxdiff has trained") from None


def _of(arrays, start):
    return {name.removeprefix(start): value for name, value in sorted(arrays.items()) if name.startswith(start)}


def _lora(arrays):
    paths = sorted(name.removesuffix(".down") for name in arrays if name.endswith(".down"))
    factors = {path: Factors(arrays[f"{path}.down"], arrays[f"{path}.up"]) for path in paths}
    return Lora(factors, dict(zip(paths, arrays["scale"], strict=True)))
