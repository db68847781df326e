"""Adaptation of a base model: its trained parameters, its frozen ones, and how both join to one network.

The trained parameters are a tree with some of these, the rest of the base being `frozen`:

    {"unet", "text": whole networks,  "lora": {"unet", "text": `lora.Factors` by path},  "words": [N, D],  "control"}

`joined` makes of both the parameters that `apply` takes: {"unet", and "text" or "control" where they are needed}.
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
from jaxdiff.model.model import Model
from jaxdiff.nets.clip import TextTransformer
from jaxdiff.nets.controlnet import ControlConfig, ControlNet
from jaxdiff.text import encoder
from jaxdiff.types import Apply

PROMPTS = 64  # captions, and prompts of the class, that an adapter's metadata lists at most


def make_apply(config: Config, base: Model) -> Apply:
    """The network as a function of the parameters that `joined` returns.

    Args:
      config: config of the run.
      base: base model.
    """
    d, unet = config.diffusion, config.diffusion.network(config.make_trained_net())
    if config.adapt.kind == "controlnet":
        return d.scaled(control.add_control(unet, d.network(ControlNet(control_config(config)))))
    if config.encodes_texts:
        return d.scaled(encoder.with_text_encoder(unet, text_net(config, base), config.latent.skip_blocks))
    return d.scaled(_part(unet, "unet"))


def make_teacher(config: Config) -> Apply:
    """The base's own network as a function of the parameters that `joined` returns for "few_steps"."""
    return config.diffusion.scaled(_part(config.diffusion.network(config.make_net()), "base"))


@functools.cache
def _part(apply, name):
    return lambda params, x_t, t, cond=None, keys=None: apply(params[name], x_t, t, cond, keys)


def control_config(config: Config) -> ControlConfig:
    """Specification of the ControlNet that a run trains."""
    return ControlConfig(config.net, embedding=config.adapt.embedding)


def text_net(config: Config, base: Model) -> TextTransformer:
    """The text transformer of the base, with embeddings for the new tokens."""
    text = base.submodels["text_encoder"]
    size = text.tokenizer.vocab_size + len(config.adapt.new.tokens)
    return TextTransformer(dataclasses.replace(text.config.net, vocabulary=max(text.config.net.vocabulary, size)))


def frozen_params(config: Config, base: Model) -> dict[str, Any]:
    """Parameters of the base that `joined` needs and that are not trained."""
    a, frozen = config.adapt, {}
    if a.kind != "dreambooth":
        frozen["unet"] = base.params
    if config.encodes_texts and not (a.kind == "dreambooth" and a.text_encoder):
        frozen["text"] = base.submodels["text_encoder"].params
    return frozen


def init_trained(config: Config, base: Model, key) -> dict[str, Any]:
    """Trained parameters before the first step: joined to the frozen ones they are the base, but for new tokens.

    Raises:
      ValueError: a rank that is too large, or no kernels to correct.
    """
    a, trained = config.adapt, {}
    if a.kind == "controlnet":
        return {"control": control.init(key, control_config(config), base.params)}
    nets = {"unet": base.params} | ({"text": base.submodels["text_encoder"].params} if a.text_encoder else {})
    if a.kind == "dreambooth":
        trained |= nets
    if a.low_rank:
        where = {"unet": lora.pattern(a.targets), "text": lora.TEXT_ATTENTION}
        fresh = {
            name: lora.init(jax.random.fold_in(key, i), params, a.rank, where[name])
            for i, (name, params) in enumerate(nets.items())
        }
        trained["lora"] = {name: one.factors for name, one in fresh.items()}
    if new := a.new.tokens:
        text = base.submodels["text_encoder"]
        initial = a.new.initial if len(a.new.initial) == len(new) else (a.new.initial or ("",)) * len(new)
        token_ids = [*map(text.tokenizer.token_ids, initial)]
        trained["words"] = new_tokens.initial_embeddings(jax.random.fold_in(key, 2), text.params, token_ids)
    return trained


def trained_shapes(config: Config, base: Model) -> dict[str, Any]:
    """Structure, shapes and dtypes of the trained parameters."""
    return jax.eval_shape(lambda: init_trained(config, base, jax.random.key(0)))


def joined(config: Config, base: Model) -> Callable:
    """Returns join(frozen, trained, key) -> parameters for `make_apply`; with a key, ranks of a LoRA are dropped."""
    a, first = config.adapt, None
    if a.new.tokens:
        first = base.submodels["text_encoder"].tokenizer.vocab_size

    def join(frozen, trained, key=None):
        whole = {name: trained.get(name, frozen.get(name)) for name in ("unet", "text", "control")}
        whole = {name: params for name, params in whole.items() if params is not None}
        for i, (name, factors) in enumerate(trained.get("lora", {}).items()):
            if a.dropout and key is not None:
                factors = lora.rank_dropout(jax.random.fold_in(key, i), factors, a.dropout)
            whole[name] = lora.merge(whole[name], _as_lora(a, factors))
        if a.kind == "few_steps":
            whole["base"] = frozen["unet"]
        if a.new.tokens:
            whole["text"] = new_tokens.insert(whole["text"], trained["words"], first)
        return whole

    return join


def _as_lora(a, factors):
    return Lora(factors, dict.fromkeys(factors, lora.scale(a.rank, a.alpha, a.rank_stabilised)))


def adapter(config: Config, trained, prompts: Sequence[str] = ()) -> Adapter:
    """The outcome of an adaptation as an adapter; of DreamBooth its new tokens alone.

    Args:
      config: config of the run.
      trained: trained parameters; for sampling, their average.
      prompts: captions that it was trained with.
    """
    a = config.adapt
    metadata = {
        "name": config.name,
        "base": a.base,
        "method": a.kind,
        "prompts": [*prompts],
        "prior": list(a.prior.prompts[:PROMPTS]),
    }
    if a.kind == "controlnet":
        metadata |= {"condition": a.condition, "embedding": list(a.embedding)}
    if a.kind == "few_steps":
        s = config.sample
        metadata["sample"] = {"sampler": s.sampler.kind, "steps": s.steps, "spacing": s.spacing.kind}
        metadata["sample"]["guidance"] = s.guidance
    loras = {name: _as_lora(a, factors) for name, factors in trained.get("lora", {}).items()}
    rows = dict(zip(a.new.tokens, trained["words"])) if a.new.tokens else {}
    return Adapter(metadata, loras, rows, trained.get("control"))
