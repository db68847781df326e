"""The methods of `jaxdiff edit`: each gives the panels of its sheet, "edited" among them, and ticks its steps."""

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxdiff import editing, guidance, samplers, timesteps
from jaxdiff.cli.edit import inversions
from jaxdiff.cli.edit.flags import ANEW, REAL
from jaxdiff.cli.edit.inversions import Inversion
from jaxdiff.cli.edit.job import Job, cells, leaf_of, scale_of
from jaxdiff.eval import images
from jaxdiff.objectives import to_unit_range
from jaxdiff.pretrained import Model
from jaxdiff.types import Array, call


def by_inversion(job: Job, tick):
    """null-text, negative-prompt and direct."""
    flags, found = job.flags, with_nulls(job, job.kept or inverted(job), tick)
    path, levels, sampler = jnp.asarray(found.path), found.levels, samplers.ddim()
    if flags.save_inversion is not None:
        inversions.save(epath.Path(flags.save_inversion), found, job.model)
    if flags.method == "direct":
        sampler = editing.direct(sampler, levels, jnp.concatenate([path, path], axis=1), np.array([True, False]))
    nulls = {
        "null-text": found.nulls,
        "negative-prompt": editing.negative_prompt(levels, job.here, leaf_of(job.model)),
        "direct": None,
    }[flags.method]
    before, after, looked = redrawn(job, tick, path[0], levels, sampler, nulls)
    return [("input", found.image), ("reconstruction", before), *shown_edit(found.image, after), *looked]


def drawn(job: Job, tick):
    """p2p."""
    levels = timesteps.grid(job.schedule.num_levels, job.flags.steps)
    x_T = samplers.noise(samplers.keys_for(jax.random.key(job.flags.seed), 1), job.model.config.shape)
    before, after, looked = redrawn(job, tick, x_T, levels, samplers.ddim())
    return [("drawn", before), *shown_edit(before, after), *looked]


def anew(job: Job, tick):
    """sdedit and inpaint."""
    model, flags, schedule, image, known = job.model, job.flags, job.schedule, job.image, job.known
    denoise, cond, x0 = model.denoiser(), job.there.uncond, to_x0(model, image)
    if flags.prompt is not None:
        denoise, cond = guidance.cfg(denoise, scale_of(model, flags)), job.there
    if model.config.sample.clip:
        denoise = guidance.clip_x0(denoise, schedule)
    sampler, levels = samplers.ddim(), timesteps.grid(schedule.num_levels, flags.steps)
    if flags.method == "sdedit":
        levels = editing.strength_grid(schedule.num_levels, flags.steps, flags.strength)
    if known is not None:
        rounds = flags.rounds if flags.method == "inpaint" else 1  # more would draw over what is noised
        sampler = editing.inpaint(sampler, x0, cells(known, model.config.shape), rounds)
    x = editing.sdedit(jax.random.key(flags.seed), sampler, denoise, schedule, levels, x0, cond)
    (after,) = to_images(model, x) if len(levels) > 1 else [image]  # what is not noised is not decoded, either
    tick(flags.steps)
    if known is None:
        return [("input", image), *shown_edit(image, after)]
    after = np.where(known, image, after)
    return [("input", image), ("kept", np.where(known, image, np.uint8(128))), *shown_edit(image, after)]


def bridged(job: Job, tick):
    """ddib."""
    (model, other, flags), schedule = (job.model, job.other, job.flags), job.schedule
    end = max(1, schedule.num_levels // 100)  # the last step down to clean data cannot be undone
    levels, up = timesteps.grid(schedule.num_levels, flags.steps, end=end), editing.ddim_inversion(flags.refine)
    a, b, here, there = model.denoiser(), other.denoiser(), job.here.cond, job.there.cond
    x = editing.bridge(a, b, schedule, levels, to_x0(model, job.image), here, there, up=up)
    (after,) = to_images(other, x)
    tick(2 * flags.steps)
    (back,) = to_images(model, editing.bridge(b, a, schedule, levels, x, there, here, up=up))
    tick(2 * flags.steps)
    return [("input", job.image), ("there and back", back), *shown_edit(job.image, after)]


METHODS = {name: by_inversion for name in REAL} | {name: anew for name in ANEW} | {"p2p": drawn, "ddib": bridged}
# How often each goes up or down its steps.
PASSES = dict.fromkeys(METHODS, 1) | {"null-text": 3, "negative-prompt": 2, "direct": 2, "ddib": 4}


def inverted(job: Job) -> Inversion:
    """The path of the image."""
    image, levels = job.image, timesteps.grid(job.schedule.num_levels, job.flags.steps)
    x0, refine = to_x0(job.model, image), job.flags.refine
    path = editing.invert(job.model.denoiser(), job.schedule, levels, x0, job.here.cond, refine)
    return Inversion(image, np.asarray(path), levels, job.flags.source)


def with_nulls(job: Job, found: Inversion, tick) -> Inversion:
    """The inversion with the nulls of null-text inversion, which are looked for where they are not there."""
    flags, model = job.flags, job.model
    about = {name: getattr(flags, name) for name in inversions.SEARCH}
    tick(flags.steps)
    if flags.method != "null-text":
        return found
    if found.nulls is not None and found.about == about:
        tick(flags.steps)
        return found
    path, search = jnp.asarray(found.path), editing.published(flags.steps, flags.adam, flags.rate)
    args = model.denoiser(), job.schedule, found.levels, path, job.here, scale_of(model, flags), search
    nulls = editing.null_text(*args, of=leaf_of(model), tick=tick)
    return found._replace(nulls=np.asarray(nulls), about=about)


def redrawn(job: Job, tick, x_T, levels, sampler, nulls=None):
    """Source and edited image uint8, and panels of where each word of the prompt looked."""
    model, flags = job.model, job.flags
    if job.blend is not None:
        sampler = editing.local_blend(sampler, job.blend.tokens, np.array([0, -1]), size=job.blend.side)
    both, maps = editing.redraw(
        model.denoiser(),
        job.schedule,
        levels,
        x_T,
        job.here,
        job.there.cond,
        scale_of(model, flags),
        nulls=nulls,
        edit=job.edit,
        sampler=sampler,
        of=leaf_of(model),
        collect=None if job.edit is None else editing.collect_maps(),
    )
    before, after = to_images(model, both)
    tick(flags.steps)
    looked = {} if job.edit is None else editing.by_word(maps[:, 1], model.reads.tokenizer, flags.prompt)
    return before, after, [(f"where {word!r} looked", editing.lit(after, heat)) for word, heat in looked.items()]


def to_x0(model: Model, image: np.ndarray) -> Array:
    """What the model diffuses, of one image: [1, ...]."""
    x = to_unit_range(image[None])
    return x if model.codec is None else call(model.codec.encode, x)


def to_images(model: Model, x0: Array) -> np.ndarray:
    """uint8 [B, H, W, C]."""
    x = x0 if model.codec is None else call(model.codec.decode, x0)
    return images.to_uint8(x)


def shown_edit(before: np.ndarray, after: np.ndarray):
    """Panels of the edited image and of what is different in it."""
    return [("edited", after), ("difference", np.abs(after.astype(int) - before).astype(np.uint8))]
