"""What of a base model is trained, and how that and the rest are one network again.

Trained is a tree of some of these, the rest of the base being `frozen`:

    {"unet", "text": whole networks,  "lora": {"unet", "text": `lora.Factors` by path},  "words": [N, D],  "control"}

and `joined` makes of both the parameters that `apply` takes: {"unet", and "text" or "control" where they are needed}.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxdiff.adapt import control, lora, new_tokens
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.adapt.lora import Lora
from jaxdiff.config import Config
from jaxdiff.denoise import network
from jaxdiff.nets.clip import TextTransformer
from jaxdiff.nets.controlnet import ControlConfig, ControlNet
from jaxdiff.text import encoder
from jaxdiff.types import Apply

PROMPTS = 64  # that an adapter says it has learned from, and of its class, at most


def make_apply(config: Config, base) -> Apply:
    """The network as a function of the parameters that `joined` makes.

    Args:
      config: of the run.
      base: the model that is adapted, a `pretrained.Model`.
    """
    unet = network(config.make_net())
    if config.adapt.method == "control":
        return control.add_control(unet, network(ControlNet(control_config(config))))
    if config.adapt.reads:
        return encoder.with_text_encoder(unet, text_net(config, base), config.latent.skip)
    return _unet_alone(unet)


@functools.cache
def _unet_alone(apply):
    return lambda params, x_t, t, cond=None, keys=None: apply(params["unet"], x_t, t, cond, keys)


def control_config(config: Config) -> ControlConfig:
    """The ControlNet of such a run."""
    return ControlConfig(config.net, embedding=config.adapt.embedding)


def text_net(config: Config, base) -> TextTransformer:
    """The text transformer of the base, with room for the new words."""
    cfg = base.parts["text"].config.net
    size = base.parts["text"].tokenizer.vocab_size + len(config.adapt.words)
    return TextTransformer(dataclasses.replace(cfg, vocabulary=max(cfg.vocabulary, size)))


def frozen(config: Config, base) -> dict[str, Any]:
    """What of the base is not trained, but needed by `joined`."""
    a, kept = config.adapt, {}
    if a.method != "full":
        kept["unet"] = base.params
    if a.reads and not (a.method == "full" and a.text):
        kept["text"] = base.parts["text"].params
    return kept


def new_params(config: Config, base, key) -> dict[str, Any]:
    """What is trained, before the first step: joined to the rest it is the base, but for new words.

    Raises:
      ValueError: a rank that is too large, or kernels that there are not.
    """
    a, trained = config.adapt, {}
    if a.method == "control":
        return {"control": control.init(key, control_config(config), base.params)}
    nets = {"unet": base.params} | ({"text": base.parts["text"].params} if a.text else {})
    if a.method == "full":
        trained |= nets
    if a.method == "lora":
        where = {"unet": lora.pattern(a.where), "text": lora.TEXT_ATTENTION}
        fresh = {
            name: lora.init(jax.random.fold_in(key, i), params, a.rank, where[name])
            for i, (name, params) in enumerate(nets.items())
        }
        trained["lora"] = {name: one.factors for name, one in fresh.items()}
    if a.words:
        text = base.parts["text"]
        begin = a.begin if len(a.begin) == len(a.words) else (a.begin or ("",)) * len(a.words)
        trained["words"] = new_tokens.initial_embeddings(
            jax.random.fold_in(key, 2), text.params, [*map(text.tokenizer.token_ids, begin)]
        )
    return trained


def joined(config: Config, base) -> Callable:
    """What makes one network of what is trained and what is not.

    Returns:
      join(frozen, trained, key) -> parameters for `make_apply`; with a key, ranks of a LoRA are left out at random.
    """
    a = config.adapt
    scale = lora.scale(a.rank, a.alpha, a.stabilised)
    first = base.parts["text"].tokenizer.vocab_size if a.words else None

    def join(frozen, trained, key=None):
        whole = {name: trained.get(name, frozen.get(name)) for name in ("unet", "text", "control")}
        whole = {name: params for name, params in whole.items() if params is not None}
        for i, (name, factors) in enumerate(trained.get("lora", {}).items()):
            if a.dropout and key is not None:
                factors = lora.rank_dropout(jax.random.fold_in(key, i), factors, a.dropout)
            whole[name] = lora.merge(whole[name], Lora(factors, dict.fromkeys(factors, scale)))
        if a.words:
            whole["text"] = new_tokens.insert(whole["text"], trained["words"], first)
        return whole

    return join


def adapter(config: Config, trained, prompts: Sequence[str] = ()) -> Adapter:
    """What was trained beside a base, as an adapter; of "full" the new words alone.

    Args:
      config: of the run.
      trained: see the head of this file; for drawing, its average.
      prompts: what the images show that it has learned from.
    """
    a = config.adapt
    about = {
        "name": config.name,
        "base": a.base,
        "method": a.method,
        "prompts": [*prompts],
        "prior": list(a.prior[:PROMPTS]),
    }
    if a.method == "control":
        about |= {"condition": a.condition, "embedding": list(a.embedding)}
    scale = lora.scale(a.rank, a.alpha, a.stabilised)
    loras = {name: Lora(one, dict.fromkeys(one, scale)) for name, one in trained.get("lora", {}).items()}
    rows = dict(zip(a.words, trained["words"])) if a.words else {}
    return Adapter(about, loras, rows, trained.get("control"))
