"""Models with what was learned beside them: LoRAs merged, new words in their vocabulary, ControlNets at their side."""

import dataclasses

import numpy as np
from etils import epath

from jaxdiff.adapt import adapter as files
from jaxdiff.adapt import control, lora, words
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.adapt.control import Control
from jaxdiff.config import Adapt, Config
from jaxdiff.files import write_whole
from jaxdiff.nets.controlnet import ControlConfig, ControlNet
from jaxdiff.pretrained.model import Model
from jaxdiff.text import tokenizer
from jaxdiff.train import adaptation


def adapted(model: Model, adapter: Adapter, weight: float = 1.0) -> Model:
    """A model with an adapter; with several, one after the other.

    Args:
      model: that draws.
      adapter: from `pretrained.load_adapter`.
      weight: of its LoRAs; what else it holds is there, or not.

    Raises:
      ValueError: it is of another network, which names the first layer that does not fit; a word that is there already.

    Example::

        >>> import jax
        >>> from jaxdiff import pretrained
        >>> from jaxdiff.adapt import lora
        >>> from jaxdiff.adapt.adapter import Adapter
        >>> model = pretrained.load("captioned")
        >>> nothing = Adapter({}, {"unet": lora.init(jax.random.key(0), model.params, rank=2)})
        >>> same = pretrained.adapted(model, nothing, weight=0.8)
        >>> all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (model.params, same.params))))
        True
    """
    if "unet" in adapter.loras:
        model = model._replace(params=lora.merge(model.params, adapter.loras["unet"], weight))
    if "text" in adapter.loras or adapter.words:
        model = model._replace(parts={**model.parts, "text": _reading(_text(model), adapter, weight)})
    if adapter.control is not None:
        if not {"embedding", "condition"} <= set(adapter.about):
            raise ValueError("this ControlNet does not say its embedding and its condition: export it again")
        config = ControlConfig(model.config.net, embedding=tuple(adapter.about["embedding"]))
        control.check(config, adapter.control, model.params)
        made = Control(ControlNet(config), adapter.control, adapter.about["condition"])
        model = model._replace(controls=(*model.controls, made))
    return model


def _text(model):
    if "text" not in model.parts:
        raise ValueError(f"{model.config.name} reads no texts, and this LoRA or new word is of a network that does")
    return model.parts["text"]


def _reading(text, adapter, weight):
    """The text transformer with a LoRA and new words."""
    if "text" in adapter.loras:
        text = text._replace(params=lora.merge(text.params, adapter.loras["text"], weight))
    if not adapter.words:
        return text
    params = words.put(text.params, np.stack([*adapter.words.values()]), text.tokenizer.size)
    net = dataclasses.replace(text.config.net, vocabulary=len(words.table(params)))
    config = dataclasses.replace(text.config, net=net)
    return text._replace(config=config, params=params, tokenizer=tokenizer.with_words(text.tokenizer, [*adapter.words]))


def trained(config: Config, params, base: Model) -> Model:
    """What a run makes of its base.

    Args:
      config: of the run.
      params: what it has trained, see `train.adaptation`; for drawing, their average.
      base: the model that it adapts.
    """
    if "unet" in params:
        base = base._replace(params=params["unet"])
    if "text" in params:
        text = base.parts["text"]._replace(params=params["text"])
        base = base._replace(parts={**base.parts, "text": text})
    made = adapted(base, adaptation.adapter(config, params))
    return made._replace(config=dataclasses.replace(config, adapt=Adapt()))


def write_adapter(path: epath.PathLike, adapter: Adapter, dtype: str = "float16") -> None:
    """Writes an adapter as one .safetensors file, whole or not at all; see `adapt.adapter.to_bytes`."""
    write_whole(path, files.to_bytes(adapter, dtype))
