"""`jaxdiff.edit`: an edit from its arguments to its outcome."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from jaxdiff import progress
from jaxdiff.arguments import as_array, check_fields, check_text, check_type, plain
from jaxdiff.config import Sample
from jaxdiff.config.checks import check_seed
from jaxdiff.model import Model, check_model, denoiser_of
from jaxdiff.pipeline import conditions
from jaxdiff.pipeline.conditions import ControlInput
from jaxdiff.pipeline.edit.base import EDIT_METHODS, Edited, EditMethod, Job, known_latents
from jaxdiff.pipeline.edit.inversions import Inversion, control_checksum
from jaxdiff.pipeline.requests import as_control
from jaxdiff.registry import Choice
from jaxdiff.samplers import SAMPLERS
from jaxdiff.types import Guided


def edit(
    model: Model,
    image: np.ndarray | None = None,
    prompt: str | int | None = None,
    source: str | int | None = None,
    method: str | EditMethod = "null-text",
    *,
    steps: int | None = None,
    guidance: float | None = None,
    early: float | None = None,
    mask: np.ndarray | None = None,
    to: Model | None = None,
    control: np.ndarray | ControlInput | None = None,
    sampler: str | Choice | None = None,
    seed: int | None = None,
    inversion: Inversion | None = None,
    show_progress: bool = True,
    **options,
) -> Edited:
    """Edits an image.

    Args:
      model: denoiser, from `jaxdiff.load`.
      image: image to edit, uint8 [H, W, C] of the model's shape; "p2p" samples one of `source` in its place.
      prompt: text, or label, of the edited image.
      source: text, or label, of the image as it is.
      method: "null-text", "negative-prompt", "direct", "p2p", "sdedit", "inpaint" or "ddib", see `EDIT_METHODS`; or one of
        its choices with options.
      steps: N, number of sampling steps; 50 by default, or those of `inversion`.
      guidance: scale of the guidance; by default the model's own, or 3 where that is 1.
      early: scale in the first fifth of the way, where shape is settled; by default `guidance`, but 20 for "p2p" where
        `guidance` is not given.
      mask: pixels to draw anew, of "inpaint" and "sdedit", bool [H, W], or uint8 [H, W, 1], 128 and above being True.
      to: model that "ddib" translates to; by default the same.
      control: picture for the model's ControlNet, see `jaxdiff.generate`.
      sampler: sampler, by name or with options, for "p2p", "sdedit" and "inpaint"; "ddim" by default.
      seed: seed of everything random; 0 by default.
      inversion: inversion of an earlier edit of the image, with its `source` and `steps`; the slow part is not
        repeated.
      show_progress: show a bar when it takes more than two seconds.
      **options: options of the method, such as `strength` of "sdedit".

    Returns:
      `Edited`, whose `image` is uint8 [H, W, C].

    Raises:
      TypeError: `model` or `to` is no `Model`, or `inversion` no `Inversion`.
      ValueError: arguments that do not fit the method or the model; one line that says what to change.
      NotFinite: an image that is not finite.

    Example::

        >>> import jaxdiff
        >>> model = jaxdiff.load("digits")
        >>> seven = jaxdiff.generate(model, labels=7, guidance=2.0, steps=10)[0]
        >>> jaxdiff.edit(model, seven, prompt=9, method="sdedit", strength=0.5, steps=10).image.shape
        (28, 28, 1)
    """
    check_model(model)
    if to is not None:
        check_model(to, "to")
    prompt, source, guidance, early, seed, steps = map(plain, (prompt, source, guidance, early, seed, steps))
    for name, value, kind in (
        ("prompt", prompt, str | int | None),
        ("source", source, str | int | None),
        ("guidance", guidance, float | None),
        ("early", early, float | None),
        ("seed", seed, int | None),
        ("steps", steps, int | None),
    ):
        check_type(f"`{name}`", value, kind)
    if inversion is not None and not isinstance(inversion, Inversion):
        raise TypeError(f"`inversion` must be an Inversion, such as of an earlier edit, not {type(inversion).__name__}")
    given = {
        "image": image, "prompt": prompt, "source": source, "guidance": guidance, "early": early, "mask": mask, "to": to,
        "control": control, "sampler": sampler, "seed": seed, "inversion": inversion,
    }  # fmt: skip
    method = EDIT_METHODS.choice(method)
    method = dataclasses.replace(method, **_known(method, options))
    method = check_fields(method)
    job = prepare(model, method, given, steps)
    bar = progress.bar(method.kind, method.passes * job.num_steps, "steps", delay=2.0 if show_progress else math.inf)
    with bar as tick:
        return job.method.run(job, tick)


def _known(method, options):
    """Options of a method; one value in place of a tuple is a tuple of one."""
    names = {field.name for field in dataclasses.fields(method)}
    if wrong := next((name for name in options if name not in names), None):
        owners = [
            kind for kind, cls in EDIT_METHODS.items() if wrong in {field.name for field in dataclasses.fields(cls)}
        ]
        of = (
            f"is of `method` {' and '.join(owners)}" if owners else f"is unknown (there are {', '.join(sorted(names))})"
        )
        raise ValueError(f"`{wrong}` is not an option of `method` {method.kind}: it {of}")
    as_tuple = lambda value: (value,) if isinstance(value, str | int | float) else tuple(value)
    of_many = {name for name in options if isinstance(getattr(method, name), tuple)}
    return {name: as_tuple(value) if name in of_many else value for name, value in options.items()}


def prepare(model: Model, method: EditMethod, given: dict, num_steps: int | None = None) -> Job:
    """The job of an edit, checked.

    Args:
      model: denoiser.
      method: method with its options.
      given: arguments of `edit` by name; None is not given.
      num_steps: N.

    Raises:
      ValueError: as `edit`.
    """
    denoiser_of(model)  # raises where it is none
    check_given(method, given, num_steps)
    inversion: Inversion | None = given.get("inversion")
    prompts = {name: given.get(name) for name in ("prompt", "source")}
    if inversion is not None:
        prompts["source"], num_steps = inversion.source, len(inversion.levels) - 1
    method = method.completed(inversion)
    prompts = {name: as_label(model, text) if isinstance(text, str) else text for name, text in prompts.items()}
    prompts = {name: None if text is None else str(text) for name, text in prompts.items()}
    other, image = given.get("to") or model, given.get("image")
    image = None if image is None else checked_image(image, model)
    check_prompt(model, prompts["source"], "source")
    check_prompt(other, prompts["prompt"], "prompt")
    few = in_few_steps(model)
    if few and method.kind not in ("sdedit", "inpaint"):
        raise ValueError(
            f"{model.config.name} is distilled for few steps, which no inversion follows: choose `method` sdedit or inpaint"
        )
    control = as_control(given.get("control"))
    checksum = control_checksum(control)
    if inversion is not None and inversion.control != checksum:
        raise ValueError("`inversion` was made with other `control` pictures: give the same, or invert the image again")
    job = Job(
        model,
        other,
        method,
        image,
        known=known_pixels(given.get("mask"), model),
        source_prompt=prompts["source"],
        prompt=prompts["prompt"],
        source=edit_condition(model, prompts["source"], control),
        target=edit_condition(other, prompts["prompt"], control if other is model or other.controls else None),
        num_steps=(few.steps if few else 50) if num_steps is None else num_steps,
        sampler=SAMPLERS.choice(given.get("sampler") or (few.sampler if few else "ddim")),
        seed=given.get("seed") or 0,
        inversion=inversion,
        control=checksum,
    )
    job = with_guidance(job, given)
    check_seed("`seed`", job.seed)
    if job.num_steps < 1:
        raise ValueError(f"`steps`={job.num_steps} must be at least 1")
    model.levels(job.num_steps)  # raises where there is no such grid
    job.sampler()  # raises for options out of range
    method.check(job)
    return _with_scale(job)


def in_few_steps(model: Model) -> Sample | None:
    """Settings of sampling of a model that was distilled for few steps, with its guidance learned; None of others."""
    sample = model.config.sample
    return sample if sample.sampler.kind == "lcm" and not model.config.net.guidance_dim else None


def _with_scale(job: Job) -> Job:
    """The job of a network that takes the guidance as a condition: it has that scale, and no other guidance.

    Raises:
      ValueError: a method that guides by both halves of the condition, or two scales.
    """
    if not job.model.config.net.guidance_dim:
        return job
    if job.method.kind not in ("sdedit", "inpaint"):
        raise ValueError(f"{job.model.config.name} takes `guidance` as a condition: choose `method` sdedit or inpaint")
    if job.early != job.guidance:
        raise ValueError(f"{job.model.config.name} takes one `guidance` for all levels: leave out `early`")
    scale = jnp.full(1, job.guidance, jnp.float32)
    return job._replace(target=Guided(*(cond._replace(guidance=scale) for cond in job.target)))


def with_guidance(job: Job, given: dict) -> Job:
    """The job with its guidance: as given, or as the inversion was made with, or by default."""
    own = job.model.config.sample.guidance
    default = 3.0 if own == 1 and not in_few_steps(job.model) else own  # at 1 there is no guidance
    search = dict(job.inversion.search) if job.inversion is not None and job.method.kind == "null-text" else {}
    scale, early = given.get("guidance"), given.get("early")
    if early is None:
        early = scale if scale is not None else search.get("early", job.method.early_guidance or default)
    scale = search.get("guidance", default) if scale is None else scale
    for name, value in (("guidance", scale), ("early", early)):
        if not 0 <= value < math.inf:
            raise ValueError(f"`{name}`={value} must be at least 0 and finite")
    return job._replace(guidance=float(scale), early=float(early))


def check_given(method: EditMethod, given: dict, num_steps: int | None) -> None:
    """Raises ValueError where the method lacks arguments, or has some that it does not take."""
    there, inverted = {name for name, value in given.items() if value is not None}, given.get("inversion") is not None
    if extra := sorted(there - {*method.needs, *method.takes}):
        owners = [kind for kind, cls in EDIT_METHODS.items() if extra[0] in (*cls.needs, *cls.takes)]
        raise ValueError(f"`{extra[0]}` is not for `method` {method.kind}, but for {', '.join(owners)}")
    if inverted and (again := sorted(there & {"image", "source"})):
        raise ValueError(f"`{again[0]}` is not for `inversion`, which has it already")
    if inverted and num_steps is not None:
        raise ValueError("`steps` is not for `inversion`, which has it already")
    have = there | ({"image", "source"} if inverted else set())
    if missing := [name for name in method.needs if name not in have]:
        raise ValueError(f"`method` {method.kind} needs {' and '.join(f'`{name}`' for name in missing)}")
    if given.get("prompt") is None and (alone := sorted(there & {"guidance", "early"})):
        raise ValueError(f"`{alone[0]}` needs `prompt`: there is nothing to guide to")


def as_label(model: Model, text: str) -> str:
    """The number of a class that is given by its name, of a model with labels; other texts as they are.

    Where all names are numbers, a number is a name.
    """
    names = model.config.data.classes if model.config.net.num_classes and model.text_encoder is None else ()
    if names and text not in names and all(name.isdecimal() for name in names):
        raise ValueError(f"{model.config.name} has no class {text!r}: there are {', '.join(names[:20])}")
    return str(names.index(text)) if text in names else text


def check_prompt(model: Model, prompt: str | None, name: str) -> None:
    """Raises ValueError for a prompt that the model does not take whole; None is none, for any."""
    net = model.config.net
    if prompt is None:
        return
    check_text(name, prompt)
    if (encoder := model.text_encoder) is not None:
        if not prompt.strip():
            raise ValueError(f"`{name}` must say something")
        if cut := encoder.tokenizer.truncation(prompt):
            raise ValueError(f"`{name}` {prompt!r} is too long: {cut[1]!r} would not be read")
    elif not net.num_classes:
        raise ValueError(f"{model.config.name} takes neither texts nor labels: leave out `{name}`")
    elif not (prompt.isdecimal() and int(prompt) < net.num_classes):
        raise ValueError(
            f"{model.config.name} takes labels: `{name}` {prompt!r} must be one of 0..{net.num_classes - 1}"
        )


def edit_condition(model: Model, prompt: str | None, control: ControlInput | None) -> Guided:
    """The condition of a prompt, a text or a label, and the unconditional one, a row each; twice the latter without.

    Labels are given by their embeddings, so that null-text inversion can optimize the unconditional one.
    """
    texts = prompt and [prompt] if model.text_encoder is not None else None
    labels = [int(prompt)] if prompt is not None and texts is None else None
    if control is not None or model.controls:
        conditions.check(model, None, None, "", control)
    both = conditions.rows(model, conditions.encode(model, texts), labels, control, jnp.arange(1))
    if not (net := model.config.net).num_classes or net.label_embedding(model.params, both.cond.label) is None:
        return both
    embed = lambda cond: cond._replace(label=net.label_embedding(model.params, cond.label))
    return Guided(*map(embed, both))


def checked_image(image: np.ndarray, model: Model) -> np.ndarray:
    """The image, uint8 [H, W, C] of the model's shape.

    Raises:
      ValueError: it is of another shape or dtype.
    """
    image = np.asarray(as_array("image", image))
    if image.dtype != np.uint8 or image.shape != tuple(model.image_shape):
        raise ValueError(f"`image` must be uint8 {tuple(model.image_shape)}, not {image.dtype} {image.shape}")
    return image


def known_pixels(mask: np.ndarray | None, model: Model) -> np.ndarray | None:
    """The pixels that a mask keeps, bool [H, W, 1]; None without a mask.

    Raises:
      ValueError: the mask is of another size, or keeps all or nothing that the model could keep.
    """
    if mask is None:
        return None
    mask = np.asarray(as_array("mask", mask))
    if mask.dtype not in (bool, np.uint8):
        raise ValueError(f"`mask` must be of bool or uint8, not {mask.dtype}")
    mask = mask if mask.dtype == bool else mask >= 128
    mask = mask[..., None] if mask.ndim == 2 else mask
    if mask.shape != (*model.image_shape[:2], 1):
        raise ValueError(f"`mask` must be of the image's size {tuple(model.image_shape[:2])}, not {mask.shape}")
    known = ~mask
    if known.all() or not known.any():
        raise ValueError("`mask` must be bright where the image is drawn anew, and dark where it is kept")
    if not known_latents(known, model.shape).any():
        side = known.shape[0] // model.shape[0]
        raise ValueError(f"`mask` keeps no whole latent, which is of {side}x{side} pixels: keep more")
    return known
