"""The training loop: host work around compiled calls."""

import contextlib
import dataclasses
import itertools
import json
import logging

from etils import epath

from jaxdiff import config as configs
from jaxdiff.config import Config
from jaxdiff.data import Source
from jaxdiff.eval import draw, images
from jaxdiff.train import checkpoint, disk, hosts, parallel, rundir, setup, watch
from jaxdiff.train.alarm import Alarm
from jaxdiff.train.state import TrainState
from jaxdiff.train.stop import Asked, Stop, Stopped

log = logging.getLogger("jaxdiff")


def train(config: Config, run: epath.PathLike, resume: bool = False, profile: int = 0) -> TrainState:
    """Trains a diffusion model and leaves everything about it in a directory.

    A run that was stopped or killed and then resumed ends with the same bits as one that was not, on the same
    devices (GPUs must be told to be deterministic, see docs/reliability.md).

    Args:
      config: what to train; the same in every process.
      run: directory, local or remote (gs://bucket/run), that every process sees, for `config.json`, `checkpoints/`,
        `samples/step_*.png` and TensorBoard events.
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
    if profile < 0:
        raise ValueError(f"--profile={profile} must be a number of steps, 0 for none")
    if config.train.log_examples and disk.is_remote(run):
        raise ValueError(f"--train.log-examples appends to files, which {run} does not allow: choose a local --run-dir")
    run = epath.Path(run)
    hosts.check_same({"run": str(run), "resume": resume, "profile": profile} | dataclasses.asdict(config))
    hosts.together(lambda: configs.check(config))
    hosts.together(lambda: draw.check(config))
    source = hosts.together(lambda: setup.open_source(config))
    hosts.check_same({"data": position(config, 0, source)})
    hosts.on_main(lambda: rundir.claim(run, resume))
    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(Stop())
        hosts.on_main(lambda: stack.enter_context(rundir.locked(run)))
        stack.enter_context(disk.told(run, lambda: newest(run)))
        hosts.barrier(f"{run} is there")
        state = restore(config, run, source) if resume else setup.new_state(config)
        hosts.on_main(lambda: rundir.write_config(run, config))
        saver = hosts.together(lambda: stack.enter_context(contextlib.closing(Saver(config, run, source))))
        try:
            return steps(config, run, source, state, saver, stopping, profile)
        except watch.NotFinite as error:
            saver.distrust(error.step - 1)
            raise watch.NotFinite(
                f"{error}: the checkpoint of step {saver.step} in {run} is good, so that --resume goes on from there, for "
                "example with a lower --optim.learning-rate",
                error.step,
            ) from None


def newest(run: epath.Path) -> str:
    """What of the run is safe on the disk."""
    found = checkpoint.steps(rundir.checkpoints(run))
    return f"the checkpoint of step {found[0]} is kept" if found else "there is no checkpoint yet"


def restore(config: Config, run: epath.Path, source: Source) -> TrainState:
    """The newest sound state of a run, with which `config` may go on over these examples.

    Raises:
      As `checkpoint.restore`; ValueError where another run would come of it.
    """
    directory = rundir.checkpoints(run)
    rundir.check_same(configs.read_run(run), config)
    state, about, step, corrupt = checkpoint.restore(directory, setup.state_shapes(config))
    rundir.check_same(configs.from_json(json.dumps(about["config"])), config)
    rundir.check_rest(step, config.train)
    before, now = about["data"], position(config, step, source)
    if before["examples"] != now["examples"]:
        raise ValueError(
            f"{config.data.source} had {before['examples']} examples when the run began, and now has {len(source)}: "
            "the run can only go on with those that it began with"
        )
    if before != now:
        raise ValueError(
            f"{config.data.source} holds other examples than when the run began, which it could only go on with "
            f"({before}, now {now})"
        )

    def out_of_the_way():
        for bad in corrupt:
            log.warning("the corrupt checkpoint was moved to %s", checkpoint.set_aside(directory, bad))

    hosts.on_main(out_of_the_way)
    log.info("going on from step %d of %s", step, run)
    return state


def position(config: Config, step: int, source: Source) -> dict[str, int]:
    """Where a run is in its data after a step, and all that the order of examples depends on."""
    at, seed = step * config.train.batch_size, config.train.seed
    return {"position": at, "seed": seed, "examples": len(source), "identity": source.identity}


class Saver:
    """Writes checkpoints, in process 0.

    Attributes:
      checkpoints: Orbax's manager.
      step: of the newest checkpoint; None before the first.
    """

    def __init__(self, config: Config, run: epath.Path, source: Source):
        self.config, self.source = config, source
        self.checkpoints = checkpoint.manager(rundir.checkpoints(run), config.train.keep)
        self.step = self.checkpoints.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Starts to write the replicated state after that step, unless that is written already."""
        if step == self.step:
            return
        if hosts.is_main():
            where = position(self.config, step, self.source)
            about = {"config": dataclasses.asdict(self.config), "data": where}
            checkpoint.save(self.checkpoints, parallel.first(state), about)
        self.step = step

    def distrust(self, step: int) -> None:
        """Sets the checkpoint of that step aside, if there is one: its numbers are finite, but led to some that are not."""
        self.checkpoints.wait_until_finished()
        hosts.barrier(f"what came before step {step + 1} is written")
        found = checkpoint.steps(self.checkpoints.directory)
        hosts.barrier("looked for it")  # in all processes, before process 0 moves it
        if len(found) > 1 and found[0] == step:
            if hosts.is_main():
                moved = checkpoint.set_aside(self.checkpoints.directory, step, "not_finite")
                log.warning("the checkpoint of step %d, which led to this, was moved to %s", step, moved)
            self.step = found[1]

    def close(self) -> None:
        """Waits until everything is written."""
        self.checkpoints.close()


def steps(
    config: Config, run: epath.Path, source, state: TrainState, saver: Saver, stopping: Stop, profile: int
) -> TrainState:
    """All steps from `state` on, and what is to be done between them; gives the last state.

    What one process does alone, or with another success than the others, is attempted, so that all end together.

    Raises:
      As `train`.
    """
    T, start, key, alarm = config.train, int(state.step), setup.step_key(config), Alarm()
    done, state = start, parallel.replicate(state)
    with (
        contextlib.closing(setup.batches(config, source, start)) as stream,
        watch.progress(start, T.steps) as show,
        watch.events(run, start) as writer,
        watch.examples(run, T.log_examples) as note,
        watch.trace(run, profile, T.steps_per_call) as trace,
    ):
        alarm.attempt(saver.save, start, state)  # step 0, too, so that there always is something to resume
        batches = alarm.read(stream)
        first = next(batches, None)
        alarm.settle()
        step, flops, seconds = setup.compiled(config, state, key, first[0])
        watched = hosts.together(lambda: watch.Log(writer, show, T.batch_size, flops, seconds, start))
        batches = itertools.chain([first], batches)

        def save():
            watched.check()  # only what came of finite losses and gradients
            with watched.paused():
                alarm.attempt(saver.save, done, state)

        for call, done in enumerate(range(start + T.steps_per_call, T.steps + 1, T.steps_per_call), 1):
            batch, examples = watched.wait(next, batches)
            state, metrics = step(state, key, batch)
            alarm.tell()
            watched.add(done, metrics)
            alarm.attempt(note, done, examples)
            alarm.attempt(trace, call, metrics)
            last = done == T.steps
            if done % T.log_every == 0 or last:
                watched.check()
                alarm.attempt(watched.flush, done)
            drawing = last or (T.sample_every and done % T.sample_every == 0)
            if done % T.save_every == 0 or drawing:  # before drawing, in which a signal may come or memory run out
                save()
            if drawing:
                with watched.paused():
                    alarm.attempt(draw_samples, config, run, done, state, writer, stopping)
            if last or alarm.rung() or stopping.asked(call):
                break
        save()
        finish(saver, alarm)
    if done < T.steps:
        raise Stopped(f"stopped after step {done} of {T.steps}, which is saved in {run}", stopping.signum)
    return parallel.first(state)


def finish(saver: Saver, alarm: Alarm) -> None:
    """Waits, in every process, until process 0 has drawn and written all."""
    alarm.attempt(saver.close)
    hosts.barrier("everything is written", timeout=3600)
    alarm.settle()


def draw_samples(config: Config, run: epath.Path, done: int, state: TrainState, writer, stopping: Stop) -> None:
    """Draws a grid from the replicated state's averaged parameters, in process 0; not to the end if a signal comes."""
    if not hosts.is_main():
        return
    try:
        sheet = draw.draw(config, parallel.first(state.ema), stopping.tick)
    except Asked:
        log.info("no samples of step %d were drawn", done)
        return
    (run / "samples").mkdir(exist_ok=True)
    images.save_grid(run / "samples" / f"step_{done:07d}.png", sheet)
    writer.image(done, "samples", images.grid(sheet))
