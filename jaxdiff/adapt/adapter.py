"""Adapters: the trained parts of an adaptation in one small file: LoRAs, new tokens, a ControlNet."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdiff import tensor_files
from jaxdiff.adapt.lora import Factors, Lora
from jaxdiff.types import Array

NETS = "unet", "text", "text_2"


class Adapter(NamedTuple):
    """Trained parameters that adapt a base model.

    Attributes:
      metadata: of its training, such as {"base": "captioned"}; values of JSON.
      loras: of the networks "unet", "text" and "text_2", the second of two text encoders, or of some of them.
      new_tokens: new token -> its embedding in the text transformer [D]; [n, D] is read as n tokens in a row.
      control: parameters of a ControlNet, or None.
      second_tokens: new token -> its embedding in the second of two text transformers.
    """

    metadata: Mapping[str, Any]
    loras: Mapping[str, Lora] = {}
    new_tokens: Mapping[str, Array] = {}
    control: Any = None
    second_tokens: Mapping[str, Array] = {}


def to_bytes(adapter: Adapter, dtype: str = "float16") -> bytes:
    """Content of the .safetensors file of an adapter.

    Args:
      adapter: any.
      dtype: of the parameters in the file, "float16" or "float32"; scales and new tokens are float32.

    Returns:
      Tensors NET:PATH.down and .up of each kernel with a LoRA, NET:scale of all of them in the order of their paths,
      word:TOKEN, word_2:TOKEN, and control:PATH.

    Raises:
      ValueError: numbers that are not finite, or outside of the dtype's range.
    """
    tensors = {f"word:{token}": np.asarray(row, np.float32) for token, row in adapter.new_tokens.items()}
    tensors |= {f"word_2:{token}": np.asarray(row, np.float32) for token, row in adapter.second_tokens.items()}
    weights = {}
    for net, lora in adapter.loras.items():
        for path, (down, up) in lora.factors.items():
            weights |= {f"{net}:{path}.down": down, f"{net}:{path}.up": up}
        tensors[f"{net}:scale"] = np.array([lora.scale[path] for path in sorted(lora.factors)], np.float32)
    weights |= {f"control:{path}": value for path, value in flatten_dict(adapter.control or {}, sep="/").items()}
    tensors = {name: tensor_files.in_dtype(name, value, "float32") for name, value in tensors.items()}
    tensors |= {name: tensor_files.in_dtype(name, value, dtype) for name, value in weights.items()}
    header = {"adapter": json.dumps(dict(adapter.metadata))}
    return safetensors.numpy.save(tensors, tensor_files.with_checksums(tensors, header))


def from_bytes(content: bytes) -> Adapter:
    """Adapter from the content of a file of `to_bytes`; all parameters are float32.

    Raises:
      ValueError: the content is not that of an adapter, or damaged; the message completes "the file ...".

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.adapt import adapter, lora
        >>> small = lora.init(jax.random.key(0), {"attn1": {"to_q": {"kernel": jnp.ones([8, 4])}}}, rank=2)
        >>> content = adapter.to_bytes(adapter.Adapter({"base": "captioned"}, {"unet": small}, {"<star>": jnp.ones(3)}))
        >>> again = adapter.from_bytes(content)
        >>> list(again.loras["unet"].factors), again.new_tokens["<star>"].tolist(), again.metadata, len(content) < 1500
        (['attn1/to_q/kernel'], [1.0, 1.0, 1.0], {'base': 'captioned'}, True)
    """
    wrong = ValueError("is no LoRA, new token or ControlNet that jaxdiff has trained")
    try:
        tensors = safetensors.numpy.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # 8 bytes of its length, then JSON
        header = header["__metadata__"]
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError):
        raise wrong from None
    try:
        tensor_files.check(tensor_files.checksums_of(header), tensors)
    except tensor_files.Damaged as error:
        raise ValueError(f"is damaged ({error}): export or copy it again") from None
    try:
        metadata = dict(json.loads(header["adapter"]))
        tensors = {name: jnp.asarray(value, jnp.float32) for name, value in tensors.items()}
        of = {kind: _with_prefix(tensors, f"{kind}:") for kind in (*NETS, "word", "word_2", "control")}
        loras = {net: _lora(of[net]) for net in NETS if of[net]}
        control = unflatten_dict(of["control"], sep="/") if of["control"] else None
        return Adapter(metadata, loras, of["word"], control, of["word_2"])
    except (KeyError, TypeError, ValueError):
        raise wrong from None


def _with_prefix(tensors, prefix):
    return {name.removeprefix(prefix): value for name, value in sorted(tensors.items()) if name.startswith(prefix)}


def _lora(tensors):
    paths = sorted(name.removesuffix(".down") for name in tensors if name.endswith(".down"))
    factors = {path: Factors(tensors[f"{path}.down"], tensors[f"{path}.up"]) for path in paths}
    return Lora(factors, dict(zip(paths, tensors["scale"], strict=True)))
