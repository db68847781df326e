"""`jaxdiff edit`."""

import contextlib
import dataclasses
import json
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from PIL import Image

from jaxdiff import editing, guidance, pretrained, progress, samplers, timesteps
from jaxdiff.cli import inversions
from jaxdiff.cli.files import unused, writable
from jaxdiff.cli.flags import parse
from jaxdiff.cli.inversions import Inversion
from jaxdiff.data import fit
from jaxdiff.editing import AttentionEdit
from jaxdiff.eval import images
from jaxdiff.nets.unet import label_embedding
from jaxdiff.objectives import to_unit_range
from jaxdiff.pretrained import Model
from jaxdiff.types import Array, Cond, Guided

REAL = ("null-text", "negative-prompt", "direct")
REDRAWN, ANEW = (*REAL, "p2p"), ("sdedit", "inpaint")
# Flags that only some methods have, and what they are where they are not given.
OPTIONS: dict[str, tuple[tuple[str, ...], Any]] = {
    "image": ((*REAL, *ANEW, "ddib"), None),
    "source": ((*REDRAWN, "ddib"), None),
    "guidance": ((*REDRAWN, *ANEW), None),
    "early": ((*REDRAWN, *ANEW), None),
    "words": (REDRAWN, "auto"),
    "cross": (REDRAWN, 0.2),
    "own": (REDRAWN, 1.0),
    "weigh": (REDRAWN, ()),
    "blend": (REDRAWN, ()),
    "refine": ((*REAL, "ddib"), 3),
    "adam": (("null-text",), 10),
    "rate": (("null-text",), 0.01),
    "save_inversion": (REAL, None),
    "from_inversion": (REAL, None),
    "strength": (("sdedit",), 0.6),
    "mask": (("inpaint",), None),
    "rounds": (("inpaint",), 5),
    "to": (("ddib",), None),
    "seed": (("p2p", *ANEW), 0),
}
EARLY = 0.8  # share of the levels above which guidance is --early
FLAGS = {name: f"--{name.replace('_', '-')}" for name in OPTIONS}


@dataclasses.dataclass(frozen=True)
class EditFlags:
    """Edits an image by what it shall show: a text, or a class label where the model draws those.

    Attributes:
      prompt: what the image shall show.
      method: null-text, negative-prompt and direct invert a real image and redraw it by prompt-to-prompt; p2p draws an
        image of --source and edits that; sdedit noises the image and draws it from there; inpaint draws a part of it;
        ddib translates it through the noise to another prompt, or another model.
      image: the image, a PNG, JPEG or WebP file of the model's size.
      source: what it shows now.
      steps: from noise to image; by default 50.
      guidance: its scale; by default the model's own.
      early: its scale in the first fifth of the way, where shape is settled; by default the same, but 20 for p2p
        where --guidance is not given.
      words: replace (a word for a word), refine (words added, left out or changed), or auto: replace where both prompts
        have as many.
      cross: share of the way for which words look where they looked in the source, in [0, 1].
      own: share of the way for which pixels look where they looked in the source, in [0, 1].
      weigh: WORD=SCALE, words of the prompt that shall count more (above 1) or less, for 0.8 of the way or --cross.
      blend: words of both prompts where alone the image may change.
      refine: rounds of refinement in each step of the inversion.
      adam: steps of Adam in each step of null-text inversion.
      rate: of Adam, in the first step.
      save_inversion: keep the inversion in this .safetensors file.
      from_inversion: take it from there: no --image, --source or --steps are needed.
      strength: of sdedit, in [0, 1]: 0 keeps the image, 1 draws a new one.
      mask: an image of the same size: what is bright in it is drawn anew.
      rounds: how often inpainting takes each step, at least 1; more fits better.
      to: the model that the image is translated to; by default the same.
      seed: of what is drawn.
      out: the edited image (.png); by default a new file in edits. The sheet beside it is named the same with _sheet.
      overwrite: replace files that are there.
    """

    prompt: str
    method: Literal["null-text", "negative-prompt", "direct", "p2p", "sdedit", "inpaint", "ddib"] = "null-text"
    image: Path | None = None
    source: str | None = None
    steps: int | None = None
    guidance: float | None = None
    early: float | None = None
    words: Literal["auto", "replace", "refine"] | None = None
    cross: float | None = None
    own: float | None = None
    weigh: tuple[str, ...] | None = None
    blend: tuple[str, ...] | None = None
    refine: int | None = None
    adam: int | None = None
    rate: float | None = None
    save_inversion: Path | None = None
    from_inversion: Path | None = None
    strength: float | None = None
    mask: Path | None = None
    rounds: int | None = None
    to: str | None = None
    seed: int | None = None
    out: Path | None = None
    overwrite: bool = False


def edit(name: str, args: list[str]) -> None:
    """`jaxdiff edit MODEL ...`."""
    model = pretrained.load(name)
    flags = complete(parse(EditFlags, dataclasses.MISSING, args, f"jaxdiff edit {name}"), model)
    paths = output_paths(flags)
    with progress.bar(flags.method, 3 * flags.steps, "steps", patience=1.0) as tick:
        panels = METHODS[flags.method](model, flags, tick)
    edited = dict(panels)["edited"]
    images.to_pil(edited).save(paths["edited"])
    images.panels(panels).save(paths["sheet"])
    for what, path in paths.items():
        print(f"{what:<12} {path}")


def complete(flags: EditFlags, model: Model) -> EditFlags:
    """The flags with the defaults of their method.

    Raises:
      ValueError: a flag of another method, one that is missing, or a number out of range; one line.
    """
    model.denoiser()  # raises where it is none
    typed = {name for name in OPTIONS if getattr(flags, name) is not None}
    for name in sorted(typed):
        methods, _ = OPTIONS[name]
        if flags.method not in methods:
            raise ValueError(f"{FLAGS[name]} is not for --method {flags.method}, but for {', '.join(methods)}")
    wordy = sorted(typed & {"words", "cross", "own", "weigh", "blend"})
    if model.reads is None and (wordy or flags.method == "p2p"):
        what = FLAGS[wordy[0]] if wordy else "--method p2p"
        raise ValueError(f"{what} needs words, and {model.config.name} draws none")
    needed = {name for name in ("image", "source", "mask") if flags.method in OPTIONS[name][0]}
    if flags.from_inversion is not None:
        again = sorted(typed & {"image", "source", "refine", "save_inversion"} | {"steps"} & {flags.steps and "steps"})
        if again:
            raise ValueError(f"--{again[0].replace('_', '-')} is not for --from-inversion, which has it already")
        needed -= {"image", "source"}
    missing = sorted(needed - typed)
    if missing:
        raise ValueError(f"--method {flags.method} needs {' and '.join(FLAGS[name] for name in missing)}")
    scale = model.config.sample.guidance
    defaults = {name: default for name, (_, default) in OPTIONS.items()} | {"guidance": scale}
    defaults["early"] = scale if flags.guidance is None else flags.guidance
    if flags.method == "p2p" and flags.guidance is None:
        defaults["early"] = 20.0
    flags = dataclasses.replace(flags, **{name: defaults[name] for name in OPTIONS if name not in typed})
    flags = dataclasses.replace(flags, steps=50 if flags.steps is None else flags.steps)
    for name, low in (("steps", 1), ("refine", 0), ("adam", 1), ("rounds", 1)):
        if getattr(flags, name) < low:
            raise ValueError(f"--{name} {getattr(flags, name)} must be at least {low}")
    return flags


def output_paths(flags: EditFlags) -> dict[str, epath.Path]:
    """What will be written where.

    Raises:
      OSError, ValueError: as `writable`.
    """
    about = re.sub(r"[^a-z0-9]+", "-", flags.prompt.lower()).strip("-")[:40]
    stem = flags.image.stem if flags.image else "drawn" if flags.method == "p2p" else flags.from_inversion.stem
    if flags.out is None:
        epath.Path("edits").mkdir(exist_ok=True)
    out = unused(epath.Path("edits") / f"{stem}_{flags.method}_{about}.png", flags.overwrite)
    out = out if flags.out is None else epath.Path(flags.out)
    paths = {"edited": out, "sheet": out.with_stem(f"{out.stem}_sheet")}
    if flags.save_inversion is not None:
        paths["inversion"] = epath.Path(flags.save_inversion)
    ending = {"inversion": (".safetensors",)}
    return {what: writable(path, ending.get(what, (".png",)), flags.overwrite) for what, path in paths.items()}


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """The image in a file, uint8 [H, W, C].

    Raises:
      OSError, ValueError: there is none, it is of another size, or transparent; one line.
    """
    content = epath.Path(path).read_bytes()
    try:
        image = fit.decode(content, shape, exact=True)
        with Image.open(epath.Path(path).open("rb")) as file:
            alpha = file.has_transparency_data
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if alpha:
        raise ValueError(f"{path} is transparent, which no image of {fit.say(shape)} is: save it without alpha")
    return image


def to_x0(model: Model, image: np.ndarray) -> Array:
    """What the model diffuses, of one image: [1, ...]."""
    x = to_unit_range(image[None])
    return x if model.codec is None else jax.jit(lambda codec, x: codec.encode(x))(model.codec, x)


def to_images(model: Model, x0: Array) -> np.ndarray:
    """uint8 [B, H, W, C]."""
    x = x0 if model.codec is None else jax.jit(lambda codec, z: codec.decode(z))(model.codec, x0)
    return images.to_uint8(x)


def told(model: Model, prompt: str) -> Guided:
    """A prompt, which is a text or a label, and what stands for none of them.

    Raises:
      ValueError: it is no such label, or the model has neither; one line.
    """
    net, zeros = model.config.net, jnp.zeros([1, model.config.net.vector_dim]) if model.config.net.vector_dim else None
    if model.reads is not None:
        if not prompt.strip():
            raise ValueError("a prompt must say something")
        cut = model.reads.tokenizer.cut(prompt)
        if cut:
            raise ValueError(f"{prompt!r} is too long: {cut[1]!r} would not be read")
        return Guided(*(Cond(context=model.reads([text]), vector=zeros) for text in (prompt, "")))
    if not net.num_classes:
        raise ValueError(f"{model.config.name} draws neither texts nor labels: it cannot be told what to show")
    if not prompt.isdecimal() or int(prompt) >= net.num_classes:
        raise ValueError(f"{model.config.name} draws labels: {prompt!r} must be one of 0..{net.num_classes - 1}")
    labels = (int(prompt), net.num_classes)
    return Guided(*(Cond(label=label_embedding(model.params, jnp.array([one])), vector=zeros) for one in labels))


def leaf_of(model: Model) -> str:
    """Which leaf of a condition the prompt is in."""
    return "label" if model.reads is None else "context"


def scale_of(model: Model, flags: EditFlags):
    """Guidance: a number, or a function of the level."""
    if flags.early == flags.guidance:
        return flags.guidance
    return guidance.stepped(flags.early, flags.guidance, EARLY * model.config.diffusion.num_steps)


class Plan(NamedTuple):
    """What is to be redrawn: the two prompts, how attention is edited, and the tokens of --blend."""

    source: str
    here: Guided
    there: Cond
    edit: AttentionEdit | None
    blend: np.ndarray | None


def planned(model: Model, flags: EditFlags, source: str) -> Plan:
    """All that can be wrong with prompts and words, found before anything takes long.

    Raises:
      ValueError: as `told`, `attention_edit` and `looked_for`.
    """
    here, there = told(model, source), told(model, flags.prompt).cond
    edit = attention_edit(model, flags, source)
    return Plan(source, here, there, edit, looked_for(model, flags, source))


def attention_edit(model: Model, flags: EditFlags, source: str) -> AttentionEdit | None:
    """How attention is edited; None for a model without words.

    Raises:
      ValueError: prompts that cannot be aligned, or a word that is not there; one line.
    """
    if model.reads is None:
        return None
    words = model.reads.tokenizer
    how = flags.words
    if how == "auto":
        how = "replace" if len(source.split()) == len(flags.prompt.split()) else "refine"
    make = {"replace": editing.replace, "refine": editing.refine}[how]
    num_steps = model.config.diffusion.num_steps
    weights = dict(weight_of(one) for one in flags.weigh)
    longer = dict.fromkeys(weights, max(flags.cross, 0.8))  # a word has its weight while its window is open
    found = make(words, source, flags.prompt, cross=flags.cross, own=flags.own, words=longer, num_steps=num_steps)
    for word, scale in weights.items():
        found = editing.reweight(words, found, flags.prompt, word, scale)
    return editing.pairs(found, 1)


def weight_of(text: str) -> tuple[str, float]:
    """WORD=SCALE taken apart.

    Raises:
      ValueError: it is not that.
    """
    word, _, scale = text.partition("=")
    try:
        return word, float(scale)
    except ValueError:
        raise ValueError(f"--weigh {text} must be WORD=SCALE, such as red=2") from None


def looked_for(model: Model, flags: EditFlags, source: str) -> np.ndarray | None:
    """The tokens of --blend in the source and in the prompt, 1 or 0, [2, L]; None where there are none.

    Raises:
      ValueError: a word that is in neither prompt.
    """
    if not flags.blend:
        return None
    words = model.reads.tokenizer
    found = np.zeros([2, words.length], np.float32)
    for word in flags.blend:
        there = []
        for row, prompt in zip(found, (source, flags.prompt)):
            with contextlib.suppress(ValueError):  # it may be in one of them alone
                there += words.places(prompt, word)
                row[words.places(prompt, word)] = 1
        if not there:
            raise ValueError(f"--blend {word} is in neither {source!r} nor {flags.prompt!r}")
    return found


def invert(model: Model, flags: EditFlags, plan: Plan, image: np.ndarray) -> Inversion:
    """The path of an image."""
    schedule = model.config.diffusion.make_schedule()
    levels = timesteps.grid(schedule.num_steps, flags.steps)
    path = editing.invert(model.denoiser(), schedule, levels, to_x0(model, image), plan.here.cond, flags.refine)
    return Inversion(image, np.asarray(path), levels, plan.source)


def with_nulls(model: Model, flags: EditFlags, plan: Plan, found: Inversion, tick) -> Inversion:
    """The inversion with the nulls of its method, which are looked for where they are not there.

    Raises:
      ValueError: those that are there were looked for in another way.
    """
    of, count = leaf_of(model), len(found.levels) - 1
    if flags.method != "null-text":
        tick(flags.steps)
        nulls = editing.negative_prompt(found.levels, plan.here, of) if flags.method == "negative-prompt" else None
        return found._replace(nulls=nulls)
    with_what = json.dumps([getattr(flags, name) for name in ("guidance", "early", "adam", "rate")])
    if found.nulls is not None:
        if found.about != with_what:
            raise ValueError(
                f"{flags.from_inversion} was made with --guidance, --early, --adam and --rate {found.about[1:-1]}, "
                f"which are now {with_what[1:-1]}"
            )
        tick(flags.steps)
        return found
    search, schedule, parts = (
        editing.published(count, flags.adam, flags.rate),
        model.config.diffusion.make_schedule(),
        [],
    )
    path, scale = jnp.asarray(found.path), scale_of(model, flags)
    args = model.denoiser(), schedule, found.levels, path, plan.here, scale, search, of
    for part in editing.null_text_parts(*args, size=min(10, count)):
        parts.append(np.asarray(part))
        tick(len(part))
    return found._replace(nulls=np.concatenate(parts), about=with_what)


def redrawn(model: Model, flags: EditFlags, tick, plan: Plan, x_T, levels, sampler=None, nulls=None):
    """Source and edited image uint8, and panels of where each word of the prompt looked."""
    sampler = sampler or samplers.ddim()
    if plan.blend is not None:
        side = min(16, model.config.shape[0] // model.config.net.patch)
        sampler = editing.local_blend(sampler, plan.blend, np.array([0, -1]), size=side)
    both, maps = editing.redraw(
        model.denoiser(),
        model.config.diffusion.make_schedule(),
        levels,
        x_T,
        plan.here,
        plan.there,
        scale_of(model, flags),
        nulls=nulls,
        edit=plan.edit,
        sampler=sampler,
        of=leaf_of(model),
        collect=None if plan.edit is None else editing.collect_maps(),
    )
    before, after = to_images(model, both)
    tick(flags.steps)
    looked = {} if plan.edit is None else editing.by_word(maps[:, 1], model.reads.tokenizer, flags.prompt)
    return before, after, [(f"where {word!r} looked", editing.lit(after, heat)) for word, heat in looked.items()]


def by_inversion(model: Model, flags: EditFlags, tick):
    """null-text, negative-prompt and direct."""
    if flags.from_inversion is None:
        plan, image = planned(model, flags, flags.source), read_image(flags.image, model.config.data.image_shape)
        found = invert(model, flags, plan, image)
    else:
        found = inversions.load(flags.from_inversion, model)
        flags = dataclasses.replace(flags, steps=len(found.levels) - 1)
        plan = planned(model, flags, found.source)
    tick(flags.steps)
    found = with_nulls(model, flags, plan, found, tick)
    path, sampler = jnp.asarray(found.path), None
    if flags.method == "direct":
        sampler = editing.direct(samplers.ddim(), jnp.concatenate([path, path], axis=1), np.array([True, False]))
    if flags.save_inversion is not None:
        nulls = found.nulls if flags.method == "null-text" else None
        inversions.save(epath.Path(flags.save_inversion), found._replace(nulls=nulls), model)
    before, after, looked = redrawn(model, flags, tick, plan, path[0], found.levels, sampler, found.nulls)
    return [("input", found.image), ("reconstruction", before), *shown_edit(found.image, after), *looked]


def drawn(model: Model, flags: EditFlags, tick):
    """p2p."""
    plan = planned(model, flags, flags.source)
    levels = timesteps.grid(model.config.diffusion.num_steps, flags.steps)
    x_T = samplers.noise(samplers.keys_for(jax.random.key(flags.seed), 1), model.config.shape)
    tick(2 * flags.steps)
    before, after, looked = redrawn(model, flags, tick, plan, x_T, levels)
    return [("drawn", before), *shown_edit(before, after), *looked]


def anew(model: Model, flags: EditFlags, tick):
    """sdedit and inpaint."""
    shape = model.config.data.image_shape
    image, schedule = read_image(flags.image, shape), model.config.diffusion.make_schedule()
    x0, denoise = to_x0(model, image), guidance.cfg(model.denoiser(), scale_of(model, flags))
    if model.config.sample.clip:
        denoise = guidance.clip_x0(denoise, schedule)
    sampler, levels = samplers.ddim(), timesteps.grid(schedule.num_steps, flags.steps)
    known = None
    if flags.method == "sdedit":
        levels = editing.strength_grid(schedule.num_steps, flags.steps, flags.strength)
    else:
        known = read_image(flags.mask, (*shape[:2], 1)) < 128
        if not known.any() or known.all():
            raise ValueError(f"{flags.mask} must be bright where the image is drawn anew, and dark where it is kept")
        sampler = editing.inpaint(sampler, x0, cells(known, model.config.shape), flags.rounds)
    tick(flags.steps)
    key = jax.random.key(flags.seed)
    x = editing.sdedit(key, sampler, denoise, schedule, levels, x0, told(model, flags.prompt))
    (after,) = to_images(model, x) if len(levels) > 1 else [image]  # what is not noised is not decoded, either
    tick(2 * flags.steps)
    if known is None:
        return [("input", image), *shown_edit(image, after)]
    after = np.where(known, image, after)
    return [("input", image), ("kept", np.where(known, image, np.uint8(128))), *shown_edit(image, after)]


def cells(known: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Which latents are of known pixels alone: [H, W, 1] -> [h, w, 1]."""
    tall, wide = known.shape[0] // shape[0], known.shape[1] // shape[1]
    return known.reshape(shape[0], tall, shape[1], wide, 1).all((1, 3))


def bridged(model: Model, flags: EditFlags, tick):
    """ddib."""
    other = model if flags.to is None else pretrained.load(flags.to)
    other.denoiser()  # raises where it is none
    tables = [one.config.diffusion.make_schedule().alphas_cumprod for one in (model, other)]
    shapes = {(one.config.shape, one.config.data.image_shape) for one in (model, other)}
    if len(shapes) > 1 or not np.array_equal(*tables):
        raise ValueError(
            f"{model.config.name} and {other.config.name} must have one noise schedule and images of one size to be bridged"
        )
    image, schedule = read_image(flags.image, model.config.data.image_shape), model.config.diffusion.make_schedule()
    end = max(1, schedule.num_steps // 100)  # the last step down to clean data cannot be undone
    levels, up = timesteps.grid(schedule.num_steps, flags.steps, end=end), editing.ddim_inversion(flags.refine)
    conds = told(model, flags.source).cond, told(other, flags.prompt).cond
    go = lambda one, two, x, here, there: editing.bridge(
        one.denoiser(), two.denoiser(), schedule, levels, x, here, there, up=up
    )
    there = go(model, other, to_x0(model, image), *conds)
    tick(2 * flags.steps)
    again = go(other, model, there, *conds[::-1])
    tick(flags.steps)
    (after,), (back,) = to_images(other, there), to_images(model, again)
    return [("input", image), ("there and back", back), *shown_edit(image, after)]


def shown_edit(before: np.ndarray, after: np.ndarray):
    """Panels of the edited image and of what is different in it."""
    return [("edited", after), ("difference", np.abs(after.astype(int) - before).astype(np.uint8))]


METHODS = {name: by_inversion for name in REAL} | {name: anew for name in ANEW} | {"p2p": drawn, "ddib": bridged}
