"""The methods of `jaxdiff edit`: each gives the panels of its sheet, among them "edited"."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from PIL import Image

from jaxdiff import editing, guidance, pretrained, samplers, timesteps
from jaxdiff.cli.edit import inversions
from jaxdiff.cli.edit.flags import ANEW, REAL, EditFlags
from jaxdiff.cli.edit.inversions import Inversion
from jaxdiff.cli.edit.prompts import Plan, leaf_of, planned, scale_of, told
from jaxdiff.data import fit
from jaxdiff.eval import images
from jaxdiff.objectives import to_unit_range
from jaxdiff.pretrained import Model
from jaxdiff.types import Array


class Job(NamedTuple):
    """What is to be done, from an inversion that is there or not; each method ticks three times its steps."""

    model: Model
    flags: EditFlags
    kept: Inversion | None
    tick: Callable[[int], None]

    @property
    def schedule(self):
        """The noise schedule of the model."""
        return self.model.config.diffusion.make_schedule()

    @property
    def image(self) -> np.ndarray:
        """The image that is edited."""
        return read_image(self.flags.image, self.model.config.data.image_shape)


def by_inversion(job: Job):
    """null-text, negative-prompt and direct."""
    flags, plan = job.flags, planned(job.model, job.flags)
    found = with_nulls(job, plan, job.kept or inverted(job, plan))
    path, levels, sampler = jnp.asarray(found.path), found.levels, samplers.ddim()
    if flags.save_inversion is not None:
        inversions.save(epath.Path(flags.save_inversion), found, job.model)
    if flags.method == "direct":
        sampler = editing.direct(sampler, levels, jnp.concatenate([path, path], axis=1), np.array([True, False]))
    nulls = {
        "null-text": found.nulls,
        "negative-prompt": editing.negative_prompt(levels, plan.here, leaf_of(job.model)),
        "direct": None,
    }[flags.method]
    before, after, looked = redrawn(job, plan, path[0], levels, sampler, nulls)
    return [("input", found.image), ("reconstruction", before), *shown_edit(found.image, after), *looked]


def drawn(job: Job):
    """p2p."""
    plan, schedule = planned(job.model, job.flags), job.schedule
    levels = timesteps.grid(schedule.num_steps, job.flags.steps)
    x_T = samplers.noise(samplers.keys_for(jax.random.key(job.flags.seed), 1), job.model.config.shape)
    job.tick(2 * job.flags.steps)
    before, after, looked = redrawn(job, plan, x_T, levels, samplers.ddim())
    return [("drawn", before), *shown_edit(before, after), *looked]


def anew(job: Job):
    """sdedit and inpaint."""
    (model, flags, _, tick), image, schedule = job, job.image, job.schedule
    known, x0, cond, denoise = known_part(job), to_x0(model, image), told(model, flags.prompt), model.denoiser()
    if flags.prompt is None:
        cond = cond.uncond
    else:
        denoise = guidance.cfg(denoise, scale_of(model, flags))
    if model.config.sample.clip:
        denoise = guidance.clip_x0(denoise, schedule)
    sampler, levels = samplers.ddim(), timesteps.grid(schedule.num_steps, flags.steps)
    if flags.method == "sdedit":
        levels = editing.strength_grid(schedule.num_steps, flags.steps, flags.strength)
    if known is not None:
        rounds = flags.rounds if flags.method == "inpaint" else 1  # more would draw over what is noised
        sampler = editing.inpaint(sampler, x0, cells(known, model.config.shape), rounds)
    tick(flags.steps)
    x = editing.sdedit(jax.random.key(flags.seed), sampler, denoise, schedule, levels, x0, cond)
    (after,) = to_images(model, x) if len(levels) > 1 else [image]  # what is not noised is not decoded, either
    tick(2 * flags.steps)
    if known is None:
        return [("input", image), *shown_edit(image, after)]
    after = np.where(known, image, after)
    return [("input", image), ("kept", np.where(known, image, np.uint8(128))), *shown_edit(image, after)]


def bridged(job: Job):
    """ddib."""
    model, flags, _, tick = job
    other = model if flags.to is None else pretrained.load(flags.to)
    other.denoiser()  # raises where it is none
    check_bridge(model, other)
    image, schedule = job.image, job.schedule
    end = max(1, schedule.num_steps // 100)  # the last step down to clean data cannot be undone
    levels, up = timesteps.grid(schedule.num_steps, flags.steps, end=end), editing.ddim_inversion(flags.refine)
    here, there = told(model, flags.source).cond, told(other, flags.prompt).cond
    x = editing.bridge(model.denoiser(), other.denoiser(), schedule, levels, to_x0(model, image), here, there, up=up)
    (after,) = to_images(other, x)
    tick(2 * flags.steps)
    x = editing.bridge(other.denoiser(), model.denoiser(), schedule, levels, x, there, here, up=up)
    (back,) = to_images(model, x)
    tick(flags.steps)
    return [("input", image), ("there and back", back), *shown_edit(image, after)]


METHODS = {name: by_inversion for name in REAL} | {name: anew for name in ANEW} | {"p2p": drawn, "ddib": bridged}


def inverted(job: Job, plan: Plan) -> Inversion:
    """The path of the image."""
    image, levels = job.image, timesteps.grid(job.schedule.num_steps, job.flags.steps)
    x0, refine = to_x0(job.model, image), job.flags.refine
    path = editing.invert(job.model.denoiser(), job.schedule, levels, x0, plan.here.cond, refine)
    return Inversion(image, np.asarray(path), levels, job.flags.source)


def with_nulls(job: Job, plan: Plan, found: Inversion) -> Inversion:
    """The inversion with the nulls of null-text inversion, which are looked for where they are not there."""
    flags, model = job.flags, job.model
    about = {name: getattr(flags, name) for name in inversions.SEARCH}
    job.tick(flags.steps)
    if flags.method != "null-text" or (found.nulls is not None and found.about == about):
        job.tick(flags.steps)
        return found
    path, search = jnp.asarray(found.path), editing.published(flags.steps, flags.adam, flags.rate)
    args = model.denoiser(), job.schedule, found.levels, path, plan.here, scale_of(model, flags), search
    nulls = editing.null_text(*args, of=leaf_of(model), tick=job.tick)
    return found._replace(nulls=np.asarray(nulls), about=about)


def redrawn(job: Job, plan: Plan, x_T, levels, sampler, nulls=None):
    """Source and edited image uint8, and panels of where each word of the prompt looked."""
    model, flags = job.model, job.flags
    if plan.blend is not None:
        sampler = editing.local_blend(sampler, plan.blend.words, np.array([0, -1]), size=plan.blend.side)
    both, maps = editing.redraw(
        model.denoiser(),
        job.schedule,
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
    job.tick(flags.steps)
    looked = {} if plan.edit is None else editing.by_word(maps[:, 1], model.reads.tokenizer, flags.prompt)
    return before, after, [(f"where {word!r} looked", editing.lit(after, heat)) for word, heat in looked.items()]


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """The image in a file, uint8 [H, W, C].

    Raises:
      OSError, ValueError: there is none, it is of another size, or transparent; one line.
    """
    content = epath.Path(path).read_bytes()
    try:
        image = fit.decode(content, shape, exact=True)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    with Image.open(io.BytesIO(content), formats=fit.FORMATS) as file:
        if file.has_transparency_data:
            raise ValueError(f"{path} is transparent, which no image of {fit.say(shape)} is: save it without alpha")
    return image


def known_part(job: Job) -> np.ndarray | None:
    """Which pixels are kept, bool [H, W, 1]; None where none are asked for.

    Raises:
      OSError, ValueError: as `read_image`, or the mask is all of one kind.
    """
    if job.flags.mask is None:
        return None
    known = read_image(job.flags.mask, (*job.model.config.data.image_shape[:2], 1)) < 128
    if not known.any() or known.all():
        raise ValueError(f"{job.flags.mask} must be bright where the image is drawn anew, and dark where it is kept")
    return known


def cells(known: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Which latents are of known pixels alone: [H, W, 1] -> [h, w, 1]."""
    tall, wide = known.shape[0] // shape[0], known.shape[1] // shape[1]
    return known.reshape(shape[0], tall, shape[1], wide, 1).all((1, 3))


def check_bridge(model: Model, other: Model) -> None:
    """Raises ValueError for models that share no noise."""
    tables = [one.config.diffusion.make_schedule().alphas_cumprod for one in (model, other)]
    shapes = {(one.config.shape, one.config.data.image_shape) for one in (model, other)}
    if len(shapes) > 1 or not np.array_equal(*tables):
        names = f"{model.config.name} and {other.config.name}"
        raise ValueError(f"{names} must have one noise schedule and images of one size to be bridged")


def to_x0(model: Model, image: np.ndarray) -> Array:
    """What the model diffuses, of one image: [1, ...]."""
    x = to_unit_range(image[None])
    return x if model.codec is None else jax.jit(lambda codec, x: codec.encode(x))(model.codec, x)


def to_images(model: Model, x0: Array) -> np.ndarray:
    """uint8 [B, H, W, C]."""
    x = x0 if model.codec is None else jax.jit(lambda codec, z: codec.decode(z))(model.codec, x0)
    return images.to_uint8(x)


def shown_edit(before: np.ndarray, after: np.ndarray):
    """Panels of the edited image and of what is different in it."""
    return [("edited", after), ("difference", np.abs(after.astype(int) - before).astype(np.uint8))]
