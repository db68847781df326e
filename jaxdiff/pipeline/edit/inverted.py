"""Real images: inverted to noise, and sampled again beside the edited image (Mokady et al. 2023; Miyake et al. 2023)."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from jaxdiff import editing
from jaxdiff.model import denoiser_of
from jaxdiff.objectives import to_unit_range
from jaxdiff.pipeline.edit.attention import AttentionOptions
from jaxdiff.pipeline.edit.base import EDIT_METHODS, Edited, EditMethod, Job, check_finite, difference
from jaxdiff.pipeline.edit.inversions import Inversion
from jaxdiff.pipeline.edit.paired import sample_pair
from jaxdiff.pipeline.sampling import encode


@dataclasses.dataclass(frozen=True)
class _Inverted(AttentionOptions):
    """Base of the methods that invert a real image by DDIM and sample it again beside the edited one.

    Attributes:
      inversion_rounds: fixed-point rounds in each step of the inversion; more bring the image back more exactly; by default
        3. An inversion that was kept has had them.
    """

    inversion_rounds: int | None = None

    needs: ClassVar = ("image", "source", "prompt")
    takes: ClassVar = ("guidance", "early", "control", "inversion")
    passes: ClassVar = 2

    def completed(self, inversion: Inversion | None) -> EditMethod:
        if inversion is not None and self.inversion_rounds is not None:
            raise ValueError("`inversion_rounds` is not for `inversion`, which has it already")
        return dataclasses.replace(self, inversion_rounds=3 if self.inversion_rounds is None else self.inversion_rounds)

    def check(self, job: Job) -> None:
        check_finite(self, {"inversion_rounds": 0})
        super().check(job)

    def run(self, job: Job, tick) -> Edited:
        found = job.inversion or self.inverted(job)
        tick(job.num_steps)
        found = self.prepared(job, found, tick)
        job.keep(found)
        trajectory = jnp.asarray(found.trajectory)
        before, after, words = sample_pair(job, tick, trajectory[0], found.levels, *self.sampling(job, found))
        panels = [("input", found.image), ("reconstruction", before), *difference(found.image, after), *words]
        return Edited(after, panels, found)

    def inverted(self, job: Job) -> Inversion:
        """The trajectory of the image up to noise."""
        levels, x0 = job.model.levels(job.num_steps), encode(job.model, to_unit_range(job.image[None]))
        denoise, cond = denoiser_of(job.model), job.source.cond
        trajectory = editing.invert(denoise, job.schedule, levels, x0, cond, self.inversion_rounds)
        return Inversion(job.image, np.asarray(trajectory), levels, job.source_prompt, control=job.control)

    def prepared(self, job: Job, found: Inversion, tick) -> Inversion:
        """The inversion with what the way back needs besides."""
        return found

    def sampling(self, job: Job, found: Inversion):
        """The sampler of the way back, and its unconditional embeddings, None for those of the condition."""
        raise NotImplementedError


@EDIT_METHODS.register("null-text")
@dataclasses.dataclass(frozen=True)
class NullText(_Inverted):
    """Null-text inversion (Mokady et al. 2023): unconditional embeddings are optimized so that guidance brings it back.

    Attributes:
      inner_steps: steps of Adam at each level; by default 10, or as the inversion was made with.
      learning_rate: learning rate of Adam at the first level; by default 0.01, or as the inversion was made with.
    """

    inner_steps: int | None = None
    learning_rate: float | None = None

    passes: ClassVar = 3

    def completed(self, inversion: Inversion | None) -> EditMethod:
        options = {"inner_steps": 10, "learning_rate": 0.01} | (dict(inversion.search) if inversion is not None else {})
        given = {name: getattr(self, name) for name in ("inner_steps", "learning_rate")}
        chosen = {name: options[name] if value is None else value for name, value in given.items()}
        return dataclasses.replace(super().completed(inversion), **chosen)

    def check(self, job: Job) -> None:
        check_finite(self, {"inner_steps": 1, "learning_rate": 0.0})
        if job.guidance == job.early == 1:
            raise ValueError(
                "at `guidance`=1 null-text inversion has nothing to do: take `method`='direct', or more guidance"
            )
        if job.leaf == "label" and np.issubdtype(job.source.uncond.label.dtype, np.integer):
            raise ValueError(
                f"a network of kind {job.model.config.net.kind!r} takes no embeddings of labels to optimize"
            )
        super().check(job)

    def search(self, job: Job) -> dict[str, float]:
        """Options that the embeddings depend on."""
        own = {"inner_steps": self.inner_steps, "learning_rate": self.learning_rate}
        return {"guidance": job.guidance, "early": job.early} | own

    def prepared(self, job: Job, found: Inversion, tick) -> Inversion:
        if found.embeddings is not None and dict(found.search) == self.search(job):
            tick(job.num_steps)
            return found
        embeddings = editing.null_text(
            denoiser_of(job.model),
            job.schedule,
            found.levels,
            jnp.asarray(found.trajectory),
            job.source,
            job.scale(),
            editing.null_text_config(job.num_steps, self.inner_steps, self.learning_rate),
            leaf=job.leaf,
            tick=tick,
        )
        return found._replace(embeddings=np.asarray(embeddings), search=self.search(job))

    def sampling(self, job: Job, found: Inversion):
        return job.sampler(), found.embeddings


@EDIT_METHODS.register("negative-prompt")
@dataclasses.dataclass(frozen=True)
class NegativePromptInversion(_Inverted):
    """Negative-prompt inversion (Miyake et al. 2023): the source prompt in place of optimized embeddings."""

    def sampling(self, job: Job, found: Inversion):
        return job.sampler(), editing.negative_prompt_inversion(found.levels, job.source, job.leaf)


@EDIT_METHODS.register("direct")
@dataclasses.dataclass(frozen=True)
class DirectInversion(_Inverted):
    """Direct inversion (Ju et al. 2024): the source is put back onto its trajectory after each step."""

    def sampling(self, job: Job, found: Inversion):
        trajectory = jnp.asarray(found.trajectory)
        both = jnp.concatenate([trajectory, trajectory], axis=1)
        return editing.direct_inversion(job.sampler(), found.levels, both, np.array([True, False])), None
