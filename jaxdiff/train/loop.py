"""The training loop: host work around compiled calls."""

import contextlib
import dataclasses
import itertools
import json
import logging

from etils import epath

from jaxdiff import config as configs
from jaxdiff.config import Config
from jaxdiff.eval import draw, images
from jaxdiff.train import checkpoint, disk, hosts, parallel, rundir, setup, watch
from jaxdiff.train.state import TrainState
from jaxdiff.train.stop import Asked, Stop, Stopped

log = logging.getLogger("jaxdiff")


def train(config: Config, run: epath.PathLike, resume: bool = False, profile: int = 0) -> TrainState:
    """Trains a diffusion model and leaves everything about it in a directory.

    A run that was stopped or killed and then resumed ends with the same bits as one that was not, on the same devices.

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
    run = epath.Path(run)
    hosts.check_same({"run": str(run), "resume": resume, "profile": profile} | dataclasses.asdict(config))
    hosts.together(lambda: configs.check(config))
    hosts.together(lambda: draw.check(config))
    source = hosts.together(lambda: setup.open_source(config))
    hosts.check_same({"examples": len(source), "skipped": list(source.skipped)})
    hosts.on_main(lambda: rundir.claim(run, resume))
    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(Stop())
        hosts.on_main(lambda: stack.enter_context(rundir.locked(run)))
        hosts.barrier(f"{run} is there")
        state = restore(config, run, len(source)) if resume else setup.new_state(config)
        if hosts.is_main():
            (run / "config.json").write_text(configs.to_json(config))
        saver = Saver(config, run, len(source))
        stack.enter_context(disk.told(run, saver.newest))
        stack.enter_context(contextlib.closing(saver))
        try:
            state = steps(config, run, source, state, saver, stopping, profile)
        except watch.NotFinite as error:
            saver.distrust(error.step - 1)
            raise watch.NotFinite(
                f"{error}: the checkpoint of step {saver.step} in {run} is good, so that --resume goes on from there, for "
                "example with a lower --optim.learning-rate",
                error.step,
            ) from None
        hosts.barrier(f"all {config.train.steps} steps are made and drawn", timeout=3600)
        return state


def restore(config: Config, run: epath.Path, examples: int) -> TrainState:
    """The newest sound state of a run, with which `config` may go on over so many examples.

    Raises:
      As `checkpoint.restore`; ValueError where another run would come of it.
    """
    directory = rundir.checkpoints(run)
    rundir.check_same(configs.read_run(run), config)
    state, about, step, corrupt = checkpoint.restore(directory, setup.state_shapes(config))
    rundir.check_same(configs.from_json(json.dumps(about["config"])), config)
    rundir.check_rest(step, config.train)
    before, now = about["data"], position(config, step, examples)
    if before["examples"] != examples:
        raise ValueError(
            f"{config.data.source} had {before['examples']} examples when the run began, and now has {examples}"
        )
    if before != now:
        raise ValueError(f"the checkpoint of step {step} is at {before} of its data, and would go on at {now}")
    if hosts.is_main():
        for bad in corrupt:
            log.warning("the corrupt checkpoint was moved to %s", checkpoint.set_aside(directory, bad))
    hosts.barrier(f"checkpoints after step {step} are out of the way")
    log.info("going on from step %d of %s", step, run)
    return state


def position(config: Config, step: int, examples: int) -> dict[str, int]:
    """Where a run is in its data after a step: all that the order of examples depends on."""
    return {"position": step * config.train.batch_size, "seed": config.train.seed, "examples": examples}


class Saver:
    """Writes checkpoints, in process 0.

    Attributes:
      checkpoints: Orbax's manager.
      step: of the newest checkpoint; None before the first.
    """

    def __init__(self, config: Config, run: epath.Path, examples: int):
        self.config, self.examples = config, examples
        self.checkpoints = checkpoint.manager(rundir.checkpoints(run), config.train.keep)
        self.step = self.checkpoints.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Starts to write the replicated state after that step, unless that is written already."""
        if step == self.step:
            return
        if hosts.is_main():
            where = position(self.config, step, self.examples)
            about = {"config": dataclasses.asdict(self.config), "data": where}
            checkpoint.save(self.checkpoints, parallel.first(state), about)
        self.step = step

    def distrust(self, step: int) -> None:
        """Sets the checkpoint of that step aside, if there is one: its numbers are finite, but led to some that are not."""
        self.checkpoints.wait_until_finished()
        found = checkpoint.steps(self.checkpoints.directory)
        hosts.barrier(f"looking for a checkpoint of step {step}")
        if found[0] == step and len(found) > 1:
            if hosts.is_main():
                moved = checkpoint.set_aside(self.checkpoints.directory, step, "not_finite")
                log.warning("the checkpoint of step %d, which led to this, was moved to %s", step, moved)
            self.step = found[1]

    def close(self) -> None:
        """Waits until everything is written."""
        self.checkpoints.close()

    def newest(self) -> str:
        """What of the run is safe on the disk."""
        found = checkpoint.steps(self.checkpoints.directory)
        return f"the checkpoint of step {found[0]} is kept" if found else "there is no checkpoint yet"


def steps(
    config: Config, run: epath.Path, source, state: TrainState, saver: Saver, stopping: Stop, profile: int
) -> TrainState:
    """All steps from `state` on, and what is to be done between them; gives the last state.

    Raises:
      As `train`.
    """
    T, start, key = config.train, int(state.step), setup.step_key(config)
    state = parallel.replicate(state)
    saver.save(start, state)  # step 0, too, so that there always is something to resume
    with (
        contextlib.closing(setup.batches(config, source, start)) as batches,
        watch.progress(start, T.steps) as show,
        watch.events(run, start) as writer,
        watch.examples(run, T.log_examples) as note,
    ):
        first = next(batches)
        step, flops, seconds = setup.compiled(config, state, key, first[0])
        log = watch.Log(writer, show, T.batch_size, flops, seconds, start)
        trace, batches = watch.trace(run, profile, T.steps_per_call), itertools.chain([first], batches)

        def save():
            log.check()  # only what came of finite losses and gradients
            with log.paused():
                saver.save(done, state)

        done = start
        for call, end in enumerate(range(start + T.steps_per_call, T.steps + 1, T.steps_per_call), 1):
            try:
                batch, examples = log.wait(next, batches)
            except (ValueError, OSError):
                save()
                raise
            state, metrics = step(state, key, batch)
            done, last = end, end == T.steps
            note(done, examples)
            log.add(done, metrics)
            trace(call, metrics)
            if done % T.log_every == 0 or last:
                if writer:
                    disk.check_room(run, 2**20)  # a full disk would block it
                log.flush(done)
            if done % T.save_every == 0 or last:
                save()
            if last or (T.sample_every and done % T.sample_every == 0):
                log.check()
                with log.paused():
                    draw_samples(config, run, done, state, writer, stopping)
            if stopping.asked(call) and not last:
                save()
                raise Stopped(f"stopped after step {done} of {T.steps}, which is saved in {run}", stopping.signum)
        return parallel.first(state)


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
    writer.add_image("samples", images.grid(sheet), done, dataformats="HWC")
