"""Several adapters as one: what each has learned of its own concept is there in one set of weights (Gu et al. 2023)."""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import objectives, samplers, timesteps
from jaxdiff.adapt import activations, fuse
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.adapt.lora import Factors, Lora, merge
from jaxdiff.adapt.lora import check as check_one
from jaxdiff.errors import unknown
from jaxdiff.guidance import cfg
from jaxdiff.pretrained.adapted import adapted
from jaxdiff.pretrained.model import Model
from jaxdiff.process import q_sample
from jaxdiff.train import optim, state
from jaxdiff.train.step import make_train_step
from jaxdiff.types import Array, Cond, Guided

STEPS = 20  # of sampling, for images that nobody looks at
LOOK = 25  # what drawing a concept, and looking at it, count beside a step of `matched`, for progress
MOST = 2**30  # bytes of the Gram matrices of one concept that are there at once
NOTHING = Lora({}, {})
METHODS = ("gradient", "average")


def fused(
    base: Model,
    adapters: Sequence[Adapter],
    method: str = "gradient",
    images: int = 60,
    levels: int = 12,
    ridge: float = 1e-4,
    steps: int = 500,
    seed: int = 0,
    at_a_time: int | None = None,
    tick: Callable[[int], None] = lambda count: None,
) -> Adapter:
    """One adapter that does what each of several does, layer by layer (`adapt.fuse`), and then in all (`matched`).

        D = argmin_D  sum_k |X_k D - X_k D_k|^2 + ridge |D|^2,   layer by layer        Gu et al. 2023 (Mix-of-Show)

    The inputs X_k of layers are those that are seen while each concept is drawn, by its own LoRA, for the prompts it was
    trained with; and those that the base sees for the prompts of their classes and for no text, where D_k is 0.

    Args:
      base: that they were trained beside.
      adapters: two or more, with LoRAs.
      method: "gradient", or "average", the mean of corrections, for which nothing of what follows but `tick` is used.
      images: of each concept.
      levels: of noise at which each image is looked at.
      ridge: see `fuse.fused`.
      steps: of `matched`; 0 leaves layers as they were solved, one by one, which is all that Mix-of-Show does.
      seed: of the images and the noise.
      at_a_time: how many layers are solved in one go, whose Gram matrices are in memory, at least 1; None is as many as
        have 1 GiB of them for each concept. With fewer the network runs the more often.
      tick: called with how much is done, of `work` in all.

    Returns:
      `Adapter` with the words of all and one LoRA for each network, float32, its rank the sum of theirs.

    Raises:
      ValueError: fewer than two, one that is no LoRA or of another network, two with the same new word, or one that does
        not say what it draws; an unknown method; a base that does not draw what it is told; images, levels or
        layers fewer than one, or steps fewer than none.

    Example::

        >>> from jaxdiff import pretrained
        >>> from jaxdiff.pretrained import fusion
        >>> glyphs = [pretrained.load_adapter(name) for name in ("star", "heart")]
        >>> sorted(fusion.fused(pretrained.load("captioned"), glyphs, "average").new_tokens)
        ['<heart>', '<star>']
    """
    check(adapters, method, images, levels, steps, at_a_time)
    if method == "gradient":
        _check_base(base)
    _check_fit(base, adapters)
    words = {word: row for adapter in adapters for word, row in adapter.new_tokens.items()}
    made = Adapter(_about(adapters), {}, words)
    nets = [net for net in ("text", "unet") if any(net in adapter.loras for adapter in adapters)]  # one reads the other
    if method == "average":
        loras = {net: fuse.averaged([adapter.loras.get(net, NOTHING) for adapter in adapters]) for net in nets}
        return made._replace(loras=loras)
    prompts = [
        _cycled(said, images) for said in (*(one.metadata["prompts"] for one in adapters), _of_classes(adapters))
    ]
    for net in nets:
        loras = [adapter.loras.get(net, NOTHING) for adapter in adapters] + [NOTHING]
        # texts as all of them will be read
        models = [adapted(base, one._replace(loras={**one.loras, **made.loras})) for one in adapters]
        models.append(adapted(base, made._replace(words={})))
        if net == "text":
            whole = _solved(loras, functools.partial(_seen_in_texts, models, prompts), ridge, at_a_time, tick)
        else:
            drawn = [_drawn(model, said, seed, tick) for model, said in zip(models, prompts)]
            look = functools.partial(_seen_in_images, models, drawn, levels, seed)
            solved = _solved(loras, look, ridge, at_a_time, tick)
            whole = matched(models[-1], solved, loras, drawn, steps, seed=seed, tick=tick)
        made = made._replace(loras={**made.loras, net: whole})
    return made


def _groups(loras, at_a_time):
    """Layers in groups of `at_a_time`; of None in groups whose Gram matrices take no more than `MOST`, or of one layer."""
    sizes = {path: 4 * both.down.shape[0] ** 2 for lora in loras for path, both in lora.factors.items()}
    groups, held = [], 0
    for path, size in sorted(sizes.items()):
        held += size
        if not groups or (held > MOST if at_a_time is None else len(groups[-1]) == at_a_time):
            groups.append([])
            held = size
        groups[-1].append(path)
    return groups


def _solved(loras, look, ridge, at_a_time, tick):
    """`fuse.fused` of some layers after the others, so that only those have their Gram matrices in memory."""
    factors = {}
    for group in _groups(loras, at_a_time):
        some = [
            Lora({path: lora.factors[path] for path in group if path in lora.factors}, lora.scale) for lora in loras
        ]
        factors |= fuse.fused(some, look(group), ridge).factors
        tick(LOOK)
    return Lora(factors, dict.fromkeys(factors, jnp.float32(1)))


def matched(
    base: Model,
    lora: Lora,
    loras: Sequence[Lora],
    drawn: Sequence[tuple[Array, Array]],
    steps: int,
    batch_size: int = 8,
    learning_rate: float = 2e-3,
    seed: int = 0,
    tick: Callable[[int], None] = lambda count: None,
) -> Lora:
    """A fused LoRA that goes on until the network says of each concept what it says with that concept's own.

        min_D  sum_k E |f(x_t, t, c_k; W + D) - f(x_t, t, c_k; W + D_k)|^2,   x_t of an image of concept k

    Layers that are solved one by one do not know of each other: each has an error where concepts want different things of
    the same input, and the errors of many add up. Together they have more room: what follows a layer can make up for it.

    Args:
      base: whose U-Net f is, with its parameters W, and what reads its texts.
      lora: D to begin with, such as that of `fuse.fused`; its ranks stay.
      loras: D_k, one of each concept.
      drawn: latents [N, H, W, C] of each concept, and the contexts [N, L, D] that they were drawn for; as many of each.
      steps: of Adam; of the examples one in ten has no text.
      batch_size: examples of each concept in a step.
      learning_rate: at first; it falls to a twentieth along a cosine.
      seed: of noise, levels, and which images.
      tick: called with 1 after each step.

    Returns:
      `Lora` of the paths, ranks and scales of `lora`; that itself where there are no steps.
    """
    if not steps:
        return lora
    null = Cond(context=base.reads([""])[0])
    made = lambda params, *args, keys=None: base.apply(params["made"], *args)
    loss_fn = objectives.distillation(
        made, functools.partial(_own, base.apply), base.config.diffusion.make_schedule(), null, 0.1
    )
    rate = optim.optimizer(learning_rate, steps, decay_to=0.05)
    join = lambda frozen, factors, key: {**frozen, "made": merge(frozen["base"], Lora(factors, lora.scale))}
    step = jax.jit(make_train_step(loss_fn, rate, join=join))
    now = state.init({path: _balanced(both) for path, both in lora.factors.items()}, rate)
    frozen, key = {"base": base.params, "loras": list(loras)}, jax.random.key(seed)
    images, contexts = (np.stack(each) for each in zip(*drawn))
    rng, each = np.random.default_rng(seed), np.arange(len(drawn))[:, None]
    for n in range(steps):
        rows = rng.integers(images.shape[1], size=[len(drawn), batch_size])
        index = n * rows.size + np.arange(rows.size)
        context = np.concatenate(contexts[each, rows])
        batch = {"image": np.concatenate(images[each, rows]), "cond": Cond(context=context), "index": index}
        now, _ = step(now, key, batch, frozen=frozen)
        tick(1)
    return lora._replace(factors=now.params)


def _own(apply, params, x_t, t, cond, keys=None):
    """What each concept's own LoRA says of its share of a batch, which is one concept after the other."""
    loras, rows = params["loras"], x_t.shape[0] // len(params["loras"])
    of = lambda k: jax.tree.map(lambda leaf: leaf[k * rows : (k + 1) * rows], (x_t, t, cond))
    said = [apply(merge(params["base"], lora), *of(k))[0] for k, lora in enumerate(loras)]
    return jnp.concatenate(said), ()


def _balanced(both):
    """The same product of factors of the same size, rank by rank, for which one learning rate is right."""
    down, up = both
    downs, ups = jnp.linalg.norm(down, axis=0), jnp.linalg.norm(up, axis=1)
    there = (downs > 0) & (ups > 0)
    ratio = jnp.where(there, jnp.sqrt(ups / jnp.where(there, downs, 1.0)), 1.0)
    return Factors(down * ratio[None], up / ratio[:, None])


def _of_classes(adapters):
    """What the base is to draw as it did: prompts of the classes, of each adapter in turn, every fourth being no text."""
    prompts = _in_turn(adapters, "prior")
    thirds = [prompts[i : i + 3] for i in range(0, len(prompts), 3)]
    return [prompt for third in thirds for prompt in (*third, "")] or [""]


def work(adapters: Sequence[Adapter], method: str = "gradient", steps: int = 500, at_a_time: int | None = None) -> int:
    """How much `fused` ticks in all."""
    if method == "average":
        return 0
    loras = {net: [one.loras[net] for one in adapters if net in one.loras] for net in ("text", "unet")}
    groups = sum(len(_groups(some, at_a_time)) for some in loras.values() if some)
    return LOOK * groups + (LOOK * (len(adapters) + 1) + steps if loras["unet"] else 0)


def check(
    adapters: Sequence[Adapter],
    method: str,
    images: int = 1,
    levels: int = 1,
    steps: int = 0,
    at_a_time: int | None = None,
) -> None:
    """Raises ValueError for what `fused` cannot do; one line."""
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    for name, number, least in (
        ("images", images, 1),
        ("levels", levels, 1),
        ("steps", steps, 0),
        ("at_a_time", at_a_time, 1),
    ):
        if number is not None and number < least:
            raise ValueError(f"{name}={number} must be at least {least}")
    if len(adapters) < 2:
        raise ValueError("fusing needs two LoRAs or more")
    if not all(adapter.loras for adapter in adapters) or any(adapter.control for adapter in adapters):
        raise ValueError("only LoRAs are fused: ControlNets and new words alone stand beside one another as they are")
    if method == "gradient" and not all(adapter.metadata.get("prompts") for adapter in adapters):
        raise ValueError("one of them does not say what it was trained to draw: train it again")
    words = [word for adapter in adapters for word in adapter.new_tokens]
    if twice := {word for word in words if words.count(word) > 1}:
        raise ValueError(f"two of them have learned {min(twice)!r}: train one with another --adapt.words")


def _check_base(base):
    if not base.config.draws or base.reads is None or base.controls:
        raise ValueError(
            f"{base.config.name} is no model, without a ControlNet, that draws what texts say: give the base of these LoRAs"
        )


def _check_fit(base, adapters):
    params = {"unet": base.params} | ({"text": base.parts["text"].params} if "text" in base.parts else {})
    for adapter in adapters:
        for net, one in adapter.loras.items():
            check_one(params.get(net, {}), one)


def _about(adapters):
    joined = {name: _in_turn(adapters, name) for name in ("prompts", "prior")}
    return {"name": "fused", "base": adapters[0].metadata.get("base"), "method": "lora", **joined}


def _in_turn(adapters, name):
    """What adapters say of their prompts, one of each after the other, so that the first few are of all of them."""
    each = itertools.zip_longest(*(adapter.metadata.get(name, ()) for adapter in adapters))
    return [*dict.fromkeys(prompt for some in each for prompt in some if prompt is not None)]


def _cycled(prompts, count):
    return [prompts[i % len(prompts)] for i in range(count)]


def _seen_in_texts(models, prompts, paths):
    """Gram matrices of what layers of each one's text transformer see; a text is read in one way."""
    seen = []
    for model, said in zip(models, prompts):
        text = model.parts["text"]
        grams = activations.grams(_reading(text.config.make_net()), paths)
        seen.append(activations.sum_over_batches(functools.partial(grams, text.params), [text.tokenizer(said)]))
    return seen


@functools.cache
def _reading(net):  # one function for each network, so that its programs are compiled once
    return lambda params, tokens: net.apply({"params": params}, tokens)


def _drawn(model, prompts, seed, tick):
    """Latents that a model draws for its prompts, and their contexts."""
    wanted = model.reads(prompts)
    nothing = jnp.broadcast_to(model.reads([""]), wanted.shape)
    schedule, keys = model.config.diffusion.make_schedule(), samplers.keys_for(jax.random.key(seed), len(prompts))
    x_T = samplers.noise(keys, model.config.shape)
    steps, guided = (
        timesteps.grid(schedule.num_levels, min(STEPS, schedule.num_levels)),
        cfg(model.denoiser(), jnp.float32(3.0)),
    )
    both = Guided(Cond(context=wanted), Cond(context=nothing))
    x_0, _ = samplers.sample(None, samplers.ddim(), guided, schedule, steps, x_T, both)
    tick(LOOK)
    return np.asarray(x_0), np.asarray(wanted)


def _seen_in_images(models, drawn, levels, seed, paths):
    """Gram matrices of what layers of each one's U-Net see of its own images at several levels."""
    schedule = models[0].config.diffusion.make_schedule()
    times = np.linspace(1, schedule.num_levels, levels).round().astype(int)
    grams, seen = activations.grams(models[0].apply, paths), []
    for model, (x_0, context) in zip(models, drawn):
        look = functools.partial(_look, grams, model.params, context)
        seen.append(
            activations.sum_over_batches(look, ((_noised(schedule, x_0, t, seed), jnp.int32(t)) for t in times))
        )
    return seen


def _look(grams, params, context, batch):
    return grams(params, *batch, Cond(context=context))


def _noised(schedule, x_0, t, seed):
    keys = jax.vmap(jax.random.fold_in, (0, None))(samplers.keys_for(jax.random.key(seed), len(x_0)), int(t))
    return jax.vmap(q_sample, (None, 0, None, 0))(schedule, x_0, t, samplers.noise(keys, x_0.shape[1:]))
