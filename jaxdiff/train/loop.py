"""The training loop: host work around compiled calls."""

import contextlib
import dataclasses
import functools
import itertools
import json
import logging
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from jaxdiff import config as configs
from jaxdiff import disk, hosts
from jaxdiff import model as models
from jaxdiff.config import Config
from jaxdiff.data import Source
from jaxdiff.model import Model, adaptation, checkpoints, runs
from jaxdiff.model.frozen_models import FrozenModels, keep, open_models
from jaxdiff.model.params import model_params
from jaxdiff.pipeline import ControlInput, Request, images, sampling
from jaxdiff.pipeline.encode import DAY, encoded, fingerprint
from jaxdiff.train import base_model, checkpoint, initial, parallel, rundir, setup, watch
from jaxdiff.train.failure_sync import FailureSync
from jaxdiff.train.state import TrainState
from jaxdiff.train.stop import Asked, Stop, Stopped

log = logging.getLogger("jaxdiff")
ADAPTER = "adapter.safetensors"  # file of a run's adapter


def fit(
    config: Config,
    source: Source | None = None,
    run: epath.PathLike | None = None,
    resume: bool = False,
    profile: int = 0,
) -> TrainState:
    """Trains a network and writes everything about it into a directory.

    A run that was stopped or killed and then resumed ends with the same bits as one that was not, on the same
    devices (GPUs must be told to be deterministic, see docs/reliability.md).

    Args:
      config: the run; the same in every process.
      source: training data, in place of the one that the config names; on resume the same again.
      run: directory, local or remote (gs://bucket/run), that every process sees, for `config.json`, `checkpoints/`,
        `samples/step_*.png`, TensorBoard events, and copies of the frozen models; runs/NAME by default.
      resume: go on from the newest checkpoint in `run`.
      profile: number of steps to trace, see `watch.trace`.

    Returns:
      The state after the last step, as NumPy arrays.

    Raises:
      ValueError: a config that cannot be trained, that differs between processes, or with which the run cannot go on;
        data that cannot be read.
      FileExistsError: `run` holds a run and `resume` was not asked for, or another process is training there.
      FileNotFoundError: `resume` was asked for and there is nothing to resume; data that is not there.
      OSError: no space is left, or no checkpoint can be read.
      watch.NotFinite: the loss is not finite any more; the last good checkpoint stays.
      stop.Stopped: Ctrl-C, SIGTERM or a preemption; everything was saved.
    """
    directory = epath.Path(run if run is not None else f"runs/{config.name}")
    started = {"run": str(directory), "resume": resume, "profile": profile} | configs.to_values(config)
    hosts.check_same(started, "how they were started")
    base = base_model.open_base(config, directory if resume else None)
    config = base_model.with_base(config, base and base.config)
    data = hosts.together(lambda: opened(config, directory, profile, source), "the data is open")
    source = hosts.together(lambda: base_model.examples(config, data, directory), "the examples are known")
    frozen = open_models(config, source, directory if resume else None, base)
    prompts = hosts.together(lambda: [] if resume else base_model.prompts(config, data), "the captions are known")
    run = Run(config, directory, source, frozen, source)
    hosts.together(
        lambda: sampling.check(untrained(run), request(run)) if config.samples else None, "it can be sampled"
    )
    hosts.check_same({"data": position(run, 0), "models": fingerprint(frozen.to_keep)}, "the data is the same")
    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(Stop())
        hosts.on_main(lambda: stack.enter_context(claimed(directory, resume)), f"{directory} is there")
        stack.enter_context(disk.told(directory, lambda: newest(directory)))
        state = restore(run) if resume else initial.new_state(config, base)
        if not resume:
            hosts.on_main(lambda: keep(directory, frozen, prompts), "the frozen models are kept")
        hosts.on_main(lambda: rundir.write_config(directory, config), "the config is written")
        try:  # of several processes none knows here that another was asked: they stop after their first step
            tick = stopping.tick if jax.process_count() == 1 else lambda: None
            if base:
                sample_class = functools.partial(base_model.sample_class, config, base, directory, tick)
                hosts.on_main(sample_class, "there are images of the class", timeout=DAY)
            run = run._replace(source=encoded(config, source, frozen, tick))
        except Asked:
            message = "stopped before the first step, while the data was made ready; what was encoded is kept"
            raise Stopped(message, stopping.signum) from None
        saver = hosts.together(lambda: stack.enter_context(contextlib.closing(Saver(run))), "checkpoints can be saved")
        try:
            return steps(run, state, saver, stopping, profile)
        except watch.NotFinite as error:
            saver.distrust(error.step - 1)
            raise watch.NotFinite(
                f"{error}: the checkpoint of step {saver.step} in {directory} is good, so that --resume goes on from "
                "there, for example with a lower --optim.learning-rate",
                error.step,
            ) from None


class Run(NamedTuple):
    """A run.

    Attributes:
      config: its config.
      directory: its directory.
      source: its examples, as latents and contexts where frozen models encode them.
      frozen: models that it uses and does not train.
      images: its examples before they were encoded.
    """

    config: Config
    directory: epath.Path
    source: Source
    frozen: FrozenModels
    images: Source


def opened(config: Config, directory: epath.Path, profile: int, source: Source | None) -> Source:
    """The data, if all that is asked for can be done.

    Raises:
      ValueError, OSError: as `fit`.
    """
    if profile < 0:
        raise ValueError(f"`profile`={profile} must be a number of steps, 0 for none")
    if config.train.log_examples and disk.is_remote(directory):
        raise ValueError(
            f"`train.log_examples` appends to files, which {directory} does not allow: choose a local --run-dir"
        )
    configs.check(config)
    return setup.open_source(config, source)


@contextlib.contextmanager
def claimed(directory: epath.Path, resume: bool):
    """The run's directory, which nobody else writes into."""
    rundir.claim(directory, resume)
    with rundir.locked(directory):
        yield


def newest(directory: epath.Path) -> str:
    """What of the run is safe on the disk."""
    found = checkpoints.steps(runs.checkpoint_dir(directory))
    return f"the checkpoint of step {found[0]} is kept" if found else "there is no checkpoint yet"


def restore(run: Run) -> TrainState:
    """The newest sound state of a run, with which its config may go on over these examples.

    Raises:
      As `model.checkpoints.restore`; ValueError where another run would come of it.
    """
    directory, config = runs.checkpoint_dir(run.directory), run.config
    before = hosts.together(lambda: configs.read_run(run.directory), "the run's config is read")
    rundir.check_same(before, config)
    state, about, step, corrupt = checkpoint.restore(directory, initial.state_shapes(config, run.frozen.base))
    rundir.check_same(configs.from_json(json.dumps(about["config"])), config)
    rundir.check_rest(step, config.train)
    check_examples(config, about["data"], position(run, step))

    def out_of_the_way():
        for bad in corrupt:
            log.warning("the corrupt checkpoint was moved to %s", checkpoint.set_aside(directory, bad))

    hosts.on_main(out_of_the_way, f"what came after step {step} is out of the way")
    log.info("going on from step %d of %s", step, run.directory)
    return state


def check_examples(config: Config, before: dict, now: dict) -> None:
    """Refuses to go on with other examples than those that a run began with.

    Raises:
      ValueError: they are other ones, see `position`.
    """
    if before["examples"] != now["examples"]:
        raise ValueError(
            f"{config.data.source} had {before['examples']} examples when the run began, and now has {now['examples']}: "
            "the run can only go on with those that it began with"
        )
    if before != now:
        raise ValueError(
            f"{config.data.source} holds other examples than when the run began, which it could only go on with "
            f"({before}, now {now})"
        )


def position(run: Run, step: int) -> dict[str, int]:
    """Where a run is in its data after a step, and all that the order of examples depends on."""
    T, source = run.config.train, run.source
    at = step * T.batch_size
    return {"position": at, "seed": T.seed, "examples": len(source), "identity": source.identity}


class Saver:
    """Writes checkpoints, in process 0.

    Attributes:
      checkpoints: Orbax's manager.
      step: of the newest checkpoint; None before the first.
    """

    def __init__(self, run: Run):
        self.run = run
        self.checkpoints = checkpoint.manager(runs.checkpoint_dir(run.directory), run.config.train.keep)
        self.step = self.checkpoints.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Starts to write the replicated state after that step, unless that is written already."""
        if step == self.step:
            return
        if hosts.is_main():
            about = {"config": configs.to_values(self.run.config), "data": position(self.run, step)}
            checkpoint.save(self.checkpoints, parallel.first(state), about)
        self.step = step

    def distrust(self, step: int) -> None:
        """Sets the checkpoint of that step aside, if there is one: its numbers are finite, but led to some that are not."""
        hosts.together(self.checkpoints.wait_until_finished, f"what came before step {step + 1} is written")
        found = checkpoints.steps(self.checkpoints.directory)
        bad = len(found) > 1 and found[0] == step
        self.step = found[bad]

        def aside():
            if bad:
                moved = checkpoint.set_aside(self.checkpoints.directory, step, "not_finite")
                log.warning("the checkpoint of step %d, which led to this, was moved to %s", step, moved)

        hosts.barrier("they were looked through")  # by all processes, before process 0 moves one
        hosts.on_main(aside, "the last good checkpoint is the newest")

    def close(self) -> None:
        """Waits until everything is written."""
        self.checkpoints.close()


def steps(run: Run, state: TrainState, saver: Saver, stopping: Stop, profile: int) -> TrainState:
    """All steps from `state` on, and what is to be done between them; gives the last state.

    What may fail in one process and not in another is attempted, so that all end together.

    Raises:
      As `train`.
    """
    T, start = run.config.train, int(state.step)
    ends = range(start + T.steps_per_call, T.steps + 1, T.steps_per_call)
    done, state, key = start, parallel.replicate(state), initial.step_key(run.config)
    with (
        FailureSync() as sync,
        contextlib.closing(setup.batches(run.config, run.source, start, run.frozen)) as stream,
        watch.progress(start, T.steps) as show,
        watch.events(run.directory, start) as writer,
        watch.examples(run.directory, T.log_examples) as note,
        watch.trace(run.directory, profile, T.steps_per_call) as trace,
    ):
        sync.attempt(saver.save, start, state)  # step 0, too, so that there always is something to resume
        batches = sync.read(itertools.islice(stream, len(ends)))
        first = next(batches, None)
        sync.raise_together("the first examples are read")
        step, flops, seconds = hosts.together(
            lambda: setup.compiled(run.config, state, key, first[0], run.frozen), "it is compiled"
        )
        watched = watch.Log(writer, show, T.batch_size, flops, seconds, start)
        batches = itertools.chain([first], batches)

        def save():
            watched.check()  # only what came of finite losses and gradients
            with watched.paused():
                sync.attempt(saver.save, done, state)

        for call, done in enumerate(ends, 1):
            batch, examples = watched.wait(next, batches)
            state, metrics = step(state, key, batch)
            sync.share()
            watched.add(done, metrics)
            trace(call, metrics)
            sync.attempt(note, done, examples)
            last = done == T.steps
            if done % T.log_every == 0 or last:
                watched.check()  # outside of the attempt: all processes raise it
                sync.attempt(watched.flush, done)
            drawing = run.config.samples and (last or (T.sample_every and done % T.sample_every == 0))
            if done % T.save_every == 0 or drawing:  # before drawing, in which a signal may come or memory run out
                save()
            if drawing:
                with watched.paused():
                    sync.attempt(draw_samples, run, done, state, writer, stopping)
            if last or sync.any_failed() or stopping.asked(call):
                break
        save()
        finish(saver, sync)
    if done < T.steps:
        raise Stopped(f"stopped after step {done} of {T.steps}, which is saved in {run.directory}", stopping.signum)
    state = parallel.first(state)
    if run.frozen.base and run.config.adapt.kind != "dreambooth":
        hosts.on_main(lambda: leave_adapter(run, state), f"{ADAPTER} is written")
    return state


def leave_adapter(run: Run, state: TrainState) -> None:
    """Writes what was learned beside the base."""
    made = adaptation.adapter(run.config, state.ema, runs.kept_prompts(run.directory))
    models.write_adapter(run.directory / ADAPTER, made)


def finish(saver: Saver, sync: FailureSync) -> None:
    """Waits, in every process, until process 0 has drawn and written all.

    Raises:
      As `FailureSync.raise_together`.
    """
    sync.attempt(saver.close)
    hosts.barrier("everything is written", timeout=3600)
    sync.raise_together("nothing has failed")


def trained(run: Run, ema, extra=()) -> Model:
    """The model of a state's averaged parameters, with the frozen models around it."""
    config, frozen = run.config, run.frozen
    if frozen.base:
        return runs.adapted(config, ema, frozen.base)
    params = runs.on_devices(model_params(config, ema, initial.codebook(config, extra)))
    return Model(config=config, params=params, submodels=frozen.submodels, tokenizer=frozen.tokenizer)


def untrained(run: Run) -> Model:
    """The model without its parameters, for checks."""
    controls = (None,) if run.config.adapt.kind == "controlnet" else ()
    return Model(config=run.config, params=None, submodels=run.frozen.submodels, controls=controls)


def request(run: Run) -> Request:
    """The images that are sampled while a run trains; of a ControlNet those of the first examples' pictures."""
    sample = run.config.sample
    if run.config.adapt.kind != "controlnet":
        return Request(sample)
    if run.images.captioned:
        prompts = tuple(run.images.caption(i) for i in range(min(sample.num, len(run.images))))
        sample = dataclasses.replace(sample, prompts=prompts)
    pictures = np.stack([run.images.read(i % len(run.images))["control"] for i in range(sample.num)])
    return Request(sample, control=ControlInput((pictures,)))


def draw_samples(run: Run, done: int, state: TrainState, writer, stopping: Stop) -> None:
    """Samples a grid with the replicated state's averaged parameters, in process 0; given up if a signal comes."""
    if not hosts.is_main():
        return
    model, asked = trained(run, parallel.first(state.ema)), request(run)
    try:
        sampled = np.concatenate([batch for batch, _ in sampling.batches(model, asked, stopping.tick)])
    except Asked:
        log.info("no samples of step %d were drawn", done)
        return
    (run.directory / "samples").mkdir(exist_ok=True)
    places = sampling.layout(model, asked)
    sheet = images.arranged(sampled, places)
    about = places.shape[1], asked.sample.prompts
    images.save_grid(run.directory / "samples" / f"step_{done:07d}.png", sheet, *about)
    writer.image(done, "samples", np.asarray(images.sheet(sheet, *about).convert("RGB")))
