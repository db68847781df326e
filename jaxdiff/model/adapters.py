"""Adapters of a model: LoRAs merged into its weights, new tokens in its vocabulary, ControlNets beside its network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxdiff import sharding
from jaxdiff.adapt import adapter as files
from jaxdiff.adapt import control, lora, new_tokens
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.adapt.control import Control
from jaxdiff.arguments import AT_LEAST_0, check_count, check_number, check_type
from jaxdiff.files import write_whole
from jaxdiff.model.model import Model
from jaxdiff.model.params import as_those
from jaxdiff.nets.controlnet import ControlConfig, ControlNet
from jaxdiff.samplers import SAMPLERS
from jaxdiff.text import tokenizer
from jaxdiff.timesteps import SPACINGS


def with_adapter(model: Model, adapter: Adapter, weight: float = 1.0) -> Model:
    """A model with one adapter that is loaded already, see `with_adapters`.

    Args:
      model: base model, or one with other adapters.
      adapter: from `load_adapter`.
      weight: weight of its LoRAs.

    Returns:
      A model like the base; sampler, steps and guidance by default are those that the adapter was distilled for.

    Raises:
      ValueError: the adapter is of another network, and the message names the first layer that does not fit; or its new
        token is in the vocabulary; or it says how to sample in a way that is not known.

    Example::

        >>> import jax, jaxdiff
        >>> from jaxdiff.adapt import lora
        >>> from jaxdiff.adapt.adapter import Adapter
        >>> model = jaxdiff.load("captioned")
        >>> nothing = Adapter({}, {"unet": lora.init(jax.random.key(0), model.params, rank=2)})
        >>> same = jaxdiff.model.with_adapter(model, nothing, weight=0.8)
        >>> all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (model.params, same.params))))
        True
    """
    if "unet" in adapter.loras:
        model = model.replace(params=_merged(model.params, adapter.loras["unet"], weight))
    for net, name, tokens in (
        ("text", "text_encoder", adapter.new_tokens),
        ("text_2", "second_text_encoder", adapter.second_tokens),
    ):
        if net in adapter.loras or tokens:
            if name not in model.submodels:
                what = name.replace("_", " ")
                raise ValueError(f"{model.config.name} has no {what}, which this LoRA or new token is of")
            text = _with_text(model.submodels[name], adapter.loras.get(net), tokens, weight)
            model = model.replace(submodels={**model.submodels, name: text})
    if adapter.control is not None:
        model = model.replace(controls=(*model.controls, _control(model, adapter)))
    return _sampled_as(model, adapter.metadata["sample"]) if weight and "sample" in adapter.metadata else model


def _sampled_as(model, said):
    """The model with the sampler, the steps, their spacing and the guidance that an adapter was distilled for."""
    if not isinstance(said, dict) or said.keys() != {"sampler", "steps", "spacing", "guidance"}:
        raise ValueError(
            f"sample={said!r} of this adapter must have a sampler, steps, a spacing and a guidance: export it again"
        )
    check_number("guidance", guidance := check_type("`guidance`", said["guidance"], float), *AT_LEAST_0)
    chosen = {"steps": check_count("steps", said["steps"]), "guidance": guidance}
    for name, registry in (("sampler", SAMPLERS), ("spacing", SPACINGS)):
        chosen[name] = registry.choice(check_type(f"`{name}`", said[name], str))
    sample = dataclasses.replace(model.config.sample, **chosen)
    return model.replace(config=dataclasses.replace(model.config, sample=sample))


def _merged(params, correction, weight):
    """Merged parameters where the plain ones are, in one program for each network."""
    lora.check(params, correction)
    return sharding.as_placed(_merge(params, correction, jnp.float32(weight)), params)


@jax.jit
def _merge(params, correction, weight):
    return lora.merge(params, correction, weight)


def _control(model, adapter):
    if not {"embedding", "condition"} <= set(adapter.metadata):
        raise ValueError("this ControlNet does not say its embedding and its condition: export it again")
    net = dataclasses.replace(model.config.net, **dict.fromkeys(adapter.metadata.get("without", ()), 0))
    config = ControlConfig(net, embedding=tuple(adapter.metadata["embedding"]))
    control.check(config, adapter.control, model.params)
    params = as_those(adapter.control, model.params)
    return Control(ControlNet(config), params, adapter.metadata["condition"])


def _with_text(text, corrections, tokens, weight):
    """A text transformer with a LoRA and new tokens."""
    if corrections:
        text = text.replace(params=_merged(text.params, corrections, weight))
    if not tokens:
        return text
    rows = {token: np.atleast_2d(np.asarray(row)) for token, row in tokens.items()}
    width = text.config.net.width
    if wrong := next((token for token, row in rows.items() if row.shape[1] != width), None):
        raise ValueError(
            f"{wrong!r} is of a text encoder of width {rows[wrong].shape[1]}, and this one has width {width}"
        )
    params = new_tokens.insert(text.params, np.concatenate([*rows.values()]), text.tokenizer.vocab_size)
    net = dataclasses.replace(text.config.net, vocabulary=len(new_tokens.token_embeddings(params)))
    words = tokenizer.with_new_tokens(text.tokenizer, {token: len(row) for token, row in rows.items()})
    params = sharding.as_placed(params, text.params)
    return text.replace(config=dataclasses.replace(text.config, net=net), params=params, tokenizer=words)


def write_adapter(path: epath.PathLike, adapter: Adapter, dtype: str = "float16") -> None:
    """Writes an adapter as one .safetensors file, whole or not at all; see `adapt.adapter.to_bytes`."""
    write_whole(path, files.to_bytes(adapter, dtype))
