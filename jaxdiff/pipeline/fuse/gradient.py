"""Gradient fusion (Gu et al. 2023, Mix-of-Show): layers solved one by one at the inputs of each concept, then matched."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import samplers
from jaxdiff.adapt import activations, fuse
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.adapt.lora import Lora
from jaxdiff.config.checks import check_seed
from jaxdiff.guidance import cfg
from jaxdiff.model import Model, denoiser_of, with_adapter
from jaxdiff.pipeline.conditions import encode, rows
from jaxdiff.pipeline.fuse.base import FUSIONS, FusionMethod, in_turn, loras_of
from jaxdiff.pipeline.fuse.matching import matched
from jaxdiff.process import q_sample
from jaxdiff.seeds import key_of
from jaxdiff.types import Array, Cond

SAMPLING_STEPS = 20  # the sampled images only have to be typical
LOOK = 25  # weight of sampling a concept, and of recording its inputs, in steps of `matched`, for progress
MOST = 2**30  # bytes of Gram matrices of one concept that are in memory at once
NO_LORA = Lora({}, {})


@FUSIONS.register("gradient")
@dataclasses.dataclass(frozen=True)
class Gradient(FusionMethod):
    """Corrections D that act on the inputs of each concept as that concept's own D_k does.

        D = argmin_D  sum_k |X_k D - X_k D_k|^2 + ridge |D|^2        layer by layer, see `adapt.fuse.fused`

    The inputs X_k of a layer are recorded with the concept's own LoRA, on images that it samples of its training prompts.
    One more concept, with D_k = 0, is the base model's own: the prompts of the classes, and the empty text. After that the
    layers are trained together, see `matched`.

    Attributes:
      images: number of images sampled of each concept.
      levels: number of noise levels at which the inputs on each image are recorded.
      ridge: weight of |D|^2; with more of it less changes where no concept has been seen.
      steps: number of training steps of all layers together; 0 is Mix-of-Show as published.
      seed: seed of images and noise.
      at_a_time: number of layers whose Gram matrices are in memory at once; with fewer the network runs more often. None is
        as many as take 1 GiB for each concept.
    """

    images: int = 60
    levels: int = 12
    ridge: float = 1e-4
    steps: int = 500
    seed: int = 0
    at_a_time: int | None = None

    def check(self, adapters: Sequence[Adapter]) -> None:
        for name, least in {"images": 1, "levels": 1, "steps": 0, "at_a_time": 1, "ridge": 0}.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"`{name}`={value} must be at least {least}")
        check_seed("`seed`", self.seed)
        if not all(adapter.metadata.get("prompts") for adapter in adapters):
            raise ValueError(
                "one of the adapters does not list its training prompts: train it again, or take an average"
            )

    def check_base(self, base: Model) -> None:
        if not base.config.samples or base.text_encoder is None or base.controls:
            raise ValueError(
                f"{base.config.name} is not a text-to-image model without ControlNets: give the base of these LoRAs"
            )

    def work(self, adapters: Sequence[Adapter]) -> int:
        loras = loras_of(adapters)
        groups = sum(len(_groups(some, self.at_a_time)) for some in loras.values())
        return LOOK * groups + (LOOK * (len(adapters) + 1) + self.steps if "unet" in loras else 0)

    def fuse(self, base: Model, adapters: Sequence[Adapter], tick: Callable[[int], None]) -> dict[str, Lora]:
        prompts = [*(adapter.metadata["prompts"] for adapter in adapters), _class_prompts(adapters)]
        prompts = [[some[i % len(some)] for i in range(self.images)] for some in prompts]
        fused = {}
        for net, loras in loras_of(adapters).items():
            models = [with_adapter(base, one._replace(loras={**one.loras, **fused})) for one in adapters]
            models.append(with_adapter(base, Adapter({}, fused)))  # for the U-Net: texts as all of them will be encoded
            loras = [*loras, NO_LORA]
            if net == "text":
                fused[net] = self.solve(loras, functools.partial(_text_grams, models, prompts), tick)
                continue
            samples = [_sample(model, some, self.seed, tick) for model, some in zip(models, prompts)]
            record = functools.partial(_image_grams, models, samples, self.levels, self.seed)
            solved = self.solve(loras, record, tick)
            fused[net] = matched(models[-1], solved, loras, samples, self.steps, seed=self.seed, tick=tick)
        return fused

    def solve(
        self,
        loras: Sequence[Lora],
        record: Callable[[Sequence[str]], Sequence[Mapping[str, Array]]],
        tick: Callable[[int], None],
    ) -> Lora:
        """`adapt.fuse.fused` of a few layers after the others, so that only their Gram matrices are in memory.

        Args:
          loras: one of each concept.
          record: paths of kernels -> Gram matrices of the layers' inputs, for each concept.
          tick: called with `LOOK` after each group of layers.
        """
        factors = {}
        for group in _groups(loras, self.at_a_time):
            of_group = lambda lora: {path: lora.factors[path] for path in group if path in lora.factors}  # noqa: B023
            some = [lora._replace(factors=of_group(lora)) for lora in loras]
            factors |= fuse.fused(some, record(group), self.ridge).factors
            tick(LOOK)
        return Lora(factors, dict.fromkeys(factors, jnp.float32(1)))


def _groups(loras, at_a_time):
    """Layers in groups of `at_a_time`; of None in groups whose Gram matrices take no more than `MOST`, or of one layer."""
    sizes = {path: 4 * factors.down.shape[0] ** 2 for lora in loras for path, factors in lora.factors.items()}
    groups, held = [], 0
    for path, size in sorted(sizes.items()):
        held += size
        if not groups or (held > MOST if at_a_time is None else len(groups[-1]) == at_a_time):
            groups.append([])
            held = size
        groups[-1].append(path)
    return groups


def _class_prompts(adapters):
    """Prompts for which the base model shall stay as it is: those of the classes, every fourth being the empty text."""
    prompts = in_turn(adapters, "prior")
    thirds = [prompts[i : i + 3] for i in range(0, len(prompts), 3)]
    return [prompt for third in thirds for prompt in (*third, "")] or [""]


def _text_grams(models, prompts, paths):
    """Gram matrices of the inputs of layers of each text encoder, which does not depend on noise levels."""
    grams = []
    for model, texts in zip(models, prompts):
        text = model.submodels["text_encoder"]
        gram = activations.grams(_text_apply(text.config.make_net()), paths)
        grams.append(activations.sum_over_batches(functools.partial(gram, text.params), [text.tokenizer(texts)]))
    return grams


@functools.cache
def _text_apply(net):  # one function for each network, so that its programs are compiled once
    return lambda params, tokens: net.apply({"params": params}, tokens)


def _sample(model, prompts, seed, tick):
    """Latents that a model samples of prompts, and the contexts of these."""
    cond = rows(model, encode(model, prompts), None, None, jnp.arange(len(prompts)))
    denoise = cfg(denoiser_of(model), jnp.float32(3.0))
    levels = model.levels(min(SAMPLING_STEPS, model.schedule.num_levels))
    x_T = model.noise(key_of(seed), len(prompts), levels[0])
    x_0, _ = samplers.sample(None, samplers.ddim(), denoise, model.schedule, levels, x_T, cond)
    tick(LOOK)
    return np.asarray(x_0), np.asarray(cond.cond.context)


def _image_grams(models, samples, levels, seed, paths):
    """Gram matrices of the inputs of layers of each U-Net, on its own samples at several noise levels."""
    schedule = models[0].schedule
    times = np.linspace(1, schedule.num_levels, levels).round().astype(int)
    gram, grams = activations.grams(models[0].apply, paths), []
    for model, (x_0, context) in zip(models, samples):
        of_batch = functools.partial(_gram_of_batch, gram, model.params, context)
        batches = ((_noised(schedule, x_0, t, seed), jnp.int32(t)) for t in times)
        grams.append(activations.sum_over_batches(of_batch, batches))
    return grams


def _gram_of_batch(gram, params, context, batch):
    return gram(params, *batch, Cond(context=context))


def _noised(schedule, x_0, t, seed):
    keys = jax.vmap(jax.random.fold_in, (0, None))(samplers.keys_for(key_of(seed), len(x_0)), int(t))
    return jax.vmap(q_sample, (None, 0, None, 0))(schedule, x_0, t, samplers.noise(keys, x_0.shape[1:]))
