"""Images sampled while a run trains, from its averaged parameters."""

import dataclasses
import itertools
import logging

import jax
import numpy as np

from jaxdiff import hosts, meshes
from jaxdiff.errors import NotFinite
from jaxdiff.model import Model, runs
from jaxdiff.model.params import model_params
from jaxdiff.pipeline import ControlInput, Request, images, requests, sampling
from jaxdiff.train import parallel
from jaxdiff.train.run import Run
from jaxdiff.train.state import TrainState
from jaxdiff.train.stop import Asked, Stop

log = logging.getLogger("jaxdiff")


def check(run: Run) -> None:
    """Raises ValueError if the images of a run's config cannot be sampled; before there are any parameters."""
    if run.config.samples:
        controls = (None,) if run.config.adapt.kind == "controlnet" else ()
        untrained = Model(config=run.config, params=None, submodels=run.frozen.submodels, controls=controls)
        requests.check(untrained, request(run))


def model_of(run: Run, ema) -> Model:
    """The model of a denoiser's averaged parameters, with the frozen models around it."""
    config, frozen, mesh = run.config, run.frozen, None
    if config.train.parallel == "sharded":  # then no device may hold it: over those of this process
        mesh = meshes.mesh(fsdp=jax.local_device_count(), devices=jax.local_devices())
    if frozen.base:
        base = frozen.base.replace(params=runs.on_devices(frozen.base.params, placement=mesh))
        return runs.adapted(config, ema, base)
    params = runs.on_devices(model_params(config, ema), placement=mesh)
    return Model(config=config, params=params, submodels=frozen.submodels)


def request(run: Run) -> Request:
    """The images that are sampled; of a ControlNet those of the first examples' pictures."""
    sample = run.config.sample
    if run.config.adapt.kind != "controlnet":
        return Request(sample)
    shown = list(itertools.islice(_shown(run.images), sample.num))
    if not shown:
        captioned = " with a caption" * run.images.captioned
        raise ValueError(f"there is no image of `data.image_shape`{captioned} to sample the like of: add one")
    if run.images.captioned:
        sample = dataclasses.replace(sample, prompts=tuple(map(run.images.caption, shown)))
    pictures = np.stack([run.images.read(shown[i % len(shown)])["control"] for i in range(sample.num)])
    return Request(sample, control=ControlInput((pictures,)))


def _shown(images):
    """Examples that can be sampled again: of the shape of the run's samples, with captions that are not empty."""
    for i in range(len(images)):
        if images.shape_of(i) == images.image_shape and (not images.captioned or images.caption(i).strip()):
            yield i


def draw(run: Run, step: int, state: TrainState, writer, stopping: Stop) -> None:
    """Samples a sheet of images with the state on the devices, in process 0; gives up if a signal comes.

    Args:
      run: run of a denoiser.
      step: step of the state, for the name of the file.
      state: state on the devices.
      writer: `writers.Events`.
      stopping: signals.
    """
    ema = parallel.of(run.config.train).on_host(state.ema)
    if not hosts.is_main():
        return
    model, asked = model_of(run, ema), request(run)
    try:
        sampled = np.concatenate([batch for batch, _ in sampling.batches(model, asked, stopping.tick)])
    except Asked:
        log.info("no images of step %d were sampled", step)
        return
    except NotFinite as error:
        log.warning("no images of step %d: %s", step, error)
        return
    (run.directory / "samples").mkdir(exist_ok=True)
    places = sampling.layout(model, asked)
    sheet = images.arranged(sampled, places)
    about = places.shape[1], asked.sample.prompts
    images.save_grid(run.directory / "samples" / f"step_{step:07d}.png", sheet, *about)
    writer.image(step, "samples", np.asarray(images.sheet(sheet, *about).convert("RGB")))
