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
from jaxdiff import pretrained
from jaxdiff.config import Config
from jaxdiff.data import Source
from jaxdiff.eval import draw, images
from jaxdiff.eval.steered import Steered
from jaxdiff.train import adaptation, basis, checkpoint, disk, hosts, initial, parallel, rundir, setup, watch
from jaxdiff.train.alarm import Alarm
from jaxdiff.train.encode import DAY, encoded, fingerprint
from jaxdiff.train.parts import Parts, open_parts
from jaxdiff.train.state import TrainState
from jaxdiff.train.stop import Asked, Stop, Stopped

log = logging.getLogger("jaxdiff")
ADAPTER = "adapter.safetensors"  # in a run: what it has learned beside its base


def train(config: Config, run: epath.PathLike, resume: bool = False, profile: int = 0) -> TrainState:
    """Trains a network, a diffusion or one of those that stand at its ends, and leaves everything about it in a directory.

    A run that was stopped or killed and then resumed ends with the same bits as one that was not, on the same
    devices (GPUs must be told to be deterministic, see docs/reliability.md).

    Args:
      config: what to train; the same in every process.
      run: directory, local or remote (gs://bucket/run), that every process sees, for `config.json`, `checkpoints/`,
        `samples/step_*.png`, TensorBoard events, and copies of what it works with (codec and text .safetensors,
        `tokenizer.json`).
      resume: go on from the newest checkpoint in `run`.
      profile: how many steps to trace, see `watch.trace`.

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
    directory = epath.Path(run)
    hosts.check_same(
        {"run": str(run), "resume": resume, "profile": profile} | dataclasses.asdict(config), "how they were started"
    )
    base = basis.open_base(config, directory if resume else None)
    config = basis.of_base(config, base and base.config)
    data = hosts.together(lambda: opened(config, directory, profile), "the data is open")
    source = hosts.together(lambda: basis.examples(config, data, directory), "what is learned of it is known")
    parts = open_parts(config, source, directory if resume else None, base)
    shown = hosts.together(lambda: [] if resume else basis.prompts(config, data), "what the images show is known")
    run = Run(config, directory, source, parts, source)
    hosts.check_same({"data": position(run, 0), "models": fingerprint(parts.kept)}, "the data is the same")
    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(Stop())
        hosts.on_main(lambda: stack.enter_context(claimed(directory, resume)), f"{directory} is there")
        stack.enter_context(disk.told(directory, lambda: newest(directory)))
        state = restore(run) if resume else initial.new_state(config, base)
        if not resume:
            hosts.on_main(
                lambda: pretrained.keep(directory, parts.kept, parts.tokenizer, shown), "what it works with is kept"
            )
        hosts.on_main(lambda: rundir.write_config(directory, config), "the config is written")
        try:  # of several processes none knows here that another was asked: they stop after their first step
            tick = stopping.tick if jax.process_count() == 1 else lambda: None
            if base:
                drawing = functools.partial(basis.draw_class, config, base, directory, tick)
                hosts.on_main(drawing, "there are images of the class", timeout=DAY)
            run = run._replace(source=encoded(config, source, parts, tick))
        except Asked:
            said = "stopped before the first step, while the data was made ready; what was encoded is kept"
            raise Stopped(said, stopping.signum) from None
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
    """What is trained, where that is kept, on which examples, by what they are read, and what they were before that."""

    config: Config
    directory: epath.Path
    source: Source
    parts: Parts
    seen: Source


def opened(config: Config, directory: epath.Path, profile: int) -> Source:
    """The data, if all that is asked for can be done.

    Raises:
      ValueError, OSError: as `train`.
    """
    if profile < 0:
        raise ValueError(f"--profile={profile} must be a number of steps, 0 for none")
    if config.train.log_examples and disk.is_remote(directory):
        raise ValueError(
            f"--train.log-examples appends to files, which {directory} does not allow: choose a local --run-dir"
        )
    configs.check(config)
    if config.draws:
        draw.check(config)
    return setup.open_source(config)


@contextlib.contextmanager
def claimed(directory: epath.Path, resume: bool):
    """The run's directory, which nobody else writes into."""
    rundir.claim(directory, resume)
    with rundir.locked(directory):
        yield


def newest(directory: epath.Path) -> str:
    """What of the run is safe on the disk."""
    found = checkpoint.steps(rundir.checkpoints(directory))
    return f"the checkpoint of step {found[0]} is kept" if found else "there is no checkpoint yet"


def restore(run: Run) -> TrainState:
    """The newest sound state of a run, with which its config may go on over these examples.

    Raises:
      As `checkpoint.restore`; ValueError where another run would come of it.
    """
    checkpoints, config = rundir.checkpoints(run.directory), run.config
    before = hosts.together(lambda: configs.read_run(run.directory), "the run's config is read")
    rundir.check_same(before, config)
    state, about, step, corrupt = checkpoint.restore(checkpoints, initial.state_shapes(config, run.parts.base))
    rundir.check_same(configs.from_json(json.dumps(about["config"])), config)
    rundir.check_rest(step, config.train)
    check_examples(config, about["data"], position(run, step))

    def out_of_the_way():
        for bad in corrupt:
            log.warning("the corrupt checkpoint was moved to %s", checkpoint.set_aside(checkpoints, bad))

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
        self.checkpoints = checkpoint.manager(rundir.checkpoints(run.directory), run.config.train.keep)
        self.step = self.checkpoints.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Starts to write the replicated state after that step, unless that is written already."""
        if step == self.step:
            return
        if hosts.is_main():
            about = {"config": dataclasses.asdict(self.run.config), "data": position(self.run, step)}
            checkpoint.save(self.checkpoints, parallel.first(state), about)
        self.step = step

    def distrust(self, step: int) -> None:
        """Sets the checkpoint of that step aside, if there is one: its numbers are finite, but led to some that are not."""
        hosts.together(self.checkpoints.wait_until_finished, f"what came before step {step + 1} is written")
        found = checkpoint.steps(self.checkpoints.directory)
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
        Alarm() as alarm,
        contextlib.closing(setup.batches(run.config, run.source, start, run.parts)) as stream,
        watch.progress(start, T.steps) as show,
        watch.events(run.directory, start) as writer,
        watch.examples(run.directory, T.log_examples) as note,
        watch.trace(run.directory, profile, T.steps_per_call) as trace,
    ):
        alarm.attempt(saver.save, start, state)  # step 0, too, so that there always is something to resume
        batches = alarm.read(itertools.islice(stream, len(ends)))
        first = next(batches, None)
        alarm.settle("the first examples are read")
        step, flops, seconds = hosts.together(
            lambda: setup.compiled(run.config, state, key, first[0], run.parts), "it is compiled"
        )
        watched = watch.Log(writer, show, T.batch_size, flops, seconds, start)
        batches = itertools.chain([first], batches)

        def save():
            watched.check()  # only what came of finite losses and gradients
            with watched.paused():
                alarm.attempt(saver.save, done, state)

        for call, done in enumerate(ends, 1):
            batch, examples = watched.wait(next, batches)
            state, metrics = step(state, key, batch)
            alarm.tell()
            watched.add(done, metrics)
            trace(call, metrics)
            alarm.attempt(note, done, examples)
            last = done == T.steps
            if done % T.log_every == 0 or last:
                watched.check()  # outside of the attempt: all processes raise it
                alarm.attempt(watched.flush, done)
            drawing = run.config.draws and (last or (T.sample_every and done % T.sample_every == 0))
            if done % T.save_every == 0 or drawing:  # before drawing, in which a signal may come or memory run out
                save()
            if drawing:
                with watched.paused():
                    alarm.attempt(draw_samples, run, done, state, writer, stopping)
            if last or alarm.rung() or stopping.asked(call):
                break
        save()
        finish(saver, alarm)
    if done < T.steps:
        raise Stopped(f"stopped after step {done} of {T.steps}, which is saved in {run.directory}", stopping.signum)
    state = parallel.first(state)
    if run.parts.base and run.config.adapt.method != "full":
        hosts.on_main(lambda: leave_adapter(run, state), f"{ADAPTER} is written")
    return state


def leave_adapter(run: Run, state: TrainState) -> None:
    """Writes what was learned beside the base."""
    made = adaptation.adapter(run.config, state.ema, pretrained.kept_prompts(run.directory))
    pretrained.write_adapter(run.directory / ADAPTER, made)


def finish(saver: Saver, alarm: Alarm) -> None:
    """Waits, in every process, until process 0 has drawn and written all.

    Raises:
      As `Alarm.settle`.
    """
    alarm.attempt(saver.close)
    hosts.barrier("everything is written", timeout=3600)
    alarm.settle("nothing has failed")


def drawn(run: Run, config: Config, params, tick) -> np.ndarray:
    """Images by such parameters, uint8 [N, H, W, C]; by a ControlNet for what the first examples are told."""
    if not run.parts.base:
        return draw.draw(config, params, tick, ends=run.parts.ends)
    model, steered = pretrained.trained(config, params, run.parts.base), None
    if model.controls:
        pictures = np.stack([run.seen.read(i % len(run.seen))["control"] for i in range(config.sample.num)])
        steered = Steered(model.controls, (pictures,))
    return draw.draw(model.config, model.params, tick, ends=model.ends, steered=steered)


def asked(run: Run) -> Config:
    """The config with what is drawn while it trains: of a ControlNet the captions of the first examples."""
    sample = run.config.sample
    if run.config.adapt.method != "control" or not run.seen.captioned:
        return run.config
    prompts = tuple(run.seen.caption(i) for i in range(min(sample.num, len(run.seen))))
    return dataclasses.replace(run.config, sample=dataclasses.replace(sample, prompts=prompts))


def draw_samples(run: Run, done: int, state: TrainState, writer, stopping: Stop) -> None:
    """Draws a grid from the replicated state's averaged parameters, in process 0; not to the end if a signal comes."""
    if not hosts.is_main():
        return
    try:
        config = asked(run)
        sheet = drawn(run, config, parallel.first(state.ema), stopping.tick)
    except Asked:
        log.info("no samples of step %d were drawn", done)
        return
    (run.directory / "samples").mkdir(exist_ok=True)
    places = draw.layout(config)
    sheet = images.arranged(sheet, places)
    about = places.shape[1], config.sample.prompts
    images.save_grid(run.directory / "samples" / f"step_{done:07d}.png", sheet, *about)
    writer.image(done, "samples", np.asarray(images.sheet(sheet, *about).convert("RGB")))
