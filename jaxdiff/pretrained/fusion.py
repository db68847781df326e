"""Several adapters as one: what each has learned of its own concept is there in one set of weights (Gu et al. 2023)."""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import samplers, timesteps
from jaxdiff.adapt import activations, fuse
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.adapt.lora import Lora
from jaxdiff.errors import unknown
from jaxdiff.guidance import cfg
from jaxdiff.pretrained.adapted import adapted
from jaxdiff.pretrained.model import Model
from jaxdiff.process import q_sample
from jaxdiff.types import Cond, Guided

STEPS = 20  # of sampling, for images that nobody looks at
NOTHING = Lora({}, {})
METHODS = ("gradient", "average")


def fused(
    base: Model,
    adapters: Sequence[Adapter],
    method: str = "gradient",
    images: int = 48,
    levels: int = 12,
    ridge: float = 1e-3,
    seed: int = 0,
    at_a_time: int | None = None,
    tick: Callable[[int], None] = lambda count: None,
) -> Adapter:
    """One adapter that does what each of several does, see `adapt.fuse`.

    The inputs of layers are those that are seen while each concept is drawn, by its own LoRA, for the prompts it was
    trained with; and those that the base sees for the prompts of their classes and for no text, where nothing is changed.

    Args:
      base: that they were trained beside.
      adapters: two or more, with LoRAs.
      method: "gradient", or "average", which needs no inputs.
      images: of each concept.
      levels: of noise at which each image is looked at.
      ridge: see `fuse.fused`.
      seed: of the images and the noise.
      at_a_time: how many layers are looked at in one go, see `activations.grams`.
      tick: called with 1 after each adapter, and after the base.

    Raises:
      ValueError: fewer than two, one that is no LoRA, or two with the same new word.
    """
    check(adapters, method)
    words = {word: row for adapter in adapters for word, row in adapter.words.items()}
    made = Adapter(_about(adapters), {}, words)
    for net in ("text", "unet"):  # first what the other reads
        if not any(net in adapter.loras for adapter in adapters):
            continue
        loras = [adapter.loras.get(net, NOTHING) for adapter in adapters]
        if method == "average":
            made = made._replace(loras={**made.loras, net: fuse.averaged(loras)})
            tick(len(adapters) + 1)
            continue
        paths = sorted({path for lora in loras for path in lora.factors})
        look = _LOOKS[net](base, paths, images, levels, seed, at_a_time)
        seen = []
        for adapter in adapters:
            own = adapter._replace(loras={**adapter.loras, **made.loras})  # texts as all of them will be read
            seen.append(look(adapted(base, own), adapter.about["prompts"]))
            tick(1)
        seen.append(look(base, _of_classes(adapters)))
        tick(1)
        made = made._replace(loras={**made.loras, net: fuse.fused([*loras, NOTHING], seen, ridge)})
    return made


def _of_classes(adapters):
    """What the base is to draw as it did: prompts of the classes, of each adapter in turn, every fourth being no text."""
    each = [adapter.about.get("prior", ()) for adapter in adapters]
    prompts = [prompt for some in itertools.zip_longest(*each) for prompt in some if prompt is not None]
    prompts = [*dict.fromkeys(prompts)]
    thirds = [prompts[i : i + 3] for i in range(0, len(prompts), 3)]
    return [prompt for third in thirds for prompt in (*third, "")] or [""]


def work(adapters: Sequence[Adapter]) -> int:
    """How much `fused` ticks in all."""
    return (len(adapters) + 1) * len({net for adapter in adapters for net in adapter.loras})


def check(adapters: Sequence[Adapter], method: str) -> None:
    """Raises ValueError for adapters that cannot be made one; one line."""
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if len(adapters) < 2:
        raise ValueError("fusing needs two LoRAs or more")
    if not all(adapter.loras for adapter in adapters) or any(adapter.control for adapter in adapters):
        raise ValueError("only LoRAs are fused: ControlNets and new words alone stand beside one another as they are")
    if method == "gradient" and not all(adapter.about.get("prompts") for adapter in adapters):
        raise ValueError("one of them does not say what it was trained to draw: train it again")
    words = [word for adapter in adapters for word in adapter.words]
    if twice := {word for word in words if words.count(word) > 1}:
        raise ValueError(f"two of them have learned {min(twice)!r}: train one with another --adapt.words")


def _about(adapters):
    joined = {name: [said for one in adapters for said in one.about.get(name, ())] for name in ("prompts", "prior")}
    joined = {name: list(dict.fromkeys(said)) for name, said in joined.items()}
    return {"name": "fused", "base": adapters[0].about["base"], "method": "lora", **joined}


def _look_at_text(base, paths, images, levels, seed, at_a_time):
    """(model, prompts) -> Gram matrices of what layers of its text transformer see."""
    del levels, seed  # a text is read in one way

    def look(model, prompts):
        text = model.parts["text"]
        net = text.config.make_net()
        grams = activations.grams(functools.partial(_read, net), paths, at_a_time)
        return activations.streamed(functools.partial(grams, text.params), [text.tokenizer(_cycled(prompts, images))])

    return look


def _cycled(prompts, count):
    return [prompts[i % len(prompts)] for i in range(count)]


def _read(net, params, tokens):
    return net.apply({"params": params}, tokens)


def _look_at_unet(base, paths, images, levels, seed, at_a_time):
    """(model, prompts) -> Gram matrices of what layers of its U-Net see of its own images at several levels."""
    schedule = base.config.diffusion.make_schedule()
    times = np.linspace(1, schedule.num_steps, levels).round().astype(int)
    grams = activations.grams(base.apply, paths, at_a_time)

    def look(model, prompts):
        wanted = model.reads(_cycled(prompts, images))
        nothing = jnp.broadcast_to(model.reads([""]), wanted.shape)
        keys = samplers.keys_for(jax.random.key(seed), images)
        x_T = samplers.noise(keys, model.config.shape)
        steps = timesteps.grid(schedule.num_steps, STEPS)
        guided = cfg(model.denoiser(), jnp.float32(3.0))
        both = Guided(Cond(context=wanted), Cond(context=nothing))
        x_0, _ = samplers.sample(None, samplers.ddim(), guided, schedule, steps, x_T, both)

        def batches():
            for t in times:
                fresh = jax.vmap(jax.random.fold_in, (0, None))(keys, int(t))
                x_t = jax.vmap(q_sample, (None, 0, None, 0))(schedule, x_0, t, samplers.noise(fresh, x_0.shape[1:]))
                yield x_t, jnp.int32(t), Cond(context=wanted)

        return activations.streamed(lambda batch: grams(model.params, *batch), batches())

    return look


_LOOKS = {"text": _look_at_text, "unet": _look_at_unet}
