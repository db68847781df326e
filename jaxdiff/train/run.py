"""A run: its config, directory, examples and frozen models; how it is saved and restored."""

import json
import logging
from typing import NamedTuple

from etils import epath

from jaxdiff import config as configs
from jaxdiff import hosts
from jaxdiff.config import Config
from jaxdiff.data import Source
from jaxdiff.model import checkpoints, runs
from jaxdiff.model.frozen_models import FrozenModels
from jaxdiff.train import checkpoint, initial, parallel, rundir
from jaxdiff.train.state import TrainState

log = logging.getLogger("jaxdiff")


class Run(NamedTuple):
    """A run.

    Attributes:
      config: its config.
      directory: its directory.
      source: its examples, as latents and contexts where frozen models encode them.
      frozen: models that it uses and does not train.
      images: its examples before they are encoded.
    """

    config: Config
    directory: epath.Path
    source: Source
    frozen: FrozenModels
    images: Source


def position(run: Run, step: int) -> dict[str, int]:
    """Position of a run in its data after a step, and everything that its examples and their order depend on."""
    T, source = run.config.train, run.source
    at = step * T.batch_size
    known = {"identity": source.identity, "contents": run.images.contents()}
    return {"position": at, "seed": T.seed, "examples": len(source)} | known


def restore(run: Run) -> TrainState:
    """The newest sound state of a run, with which its config may go on over these examples.

    Raises:
      As `model.checkpoints.restore`; ValueError if the rest would be of another run.
    """
    directory, config = runs.checkpoint_dir(run.directory), run.config
    before = hosts.together(lambda: configs.read_run(run.directory), "the run's config is read")
    rundir.check_same(before, config)
    moved = before.data.source != config.data.source
    state, about, step, corrupt = checkpoint.restore(
        directory, parallel.of(config.train).like(initial.state_shapes(config, run.frozen.base))
    )
    rundir.check_same(configs.from_json(json.dumps(about["config"])), config)
    check_examples(config, about["data"], position(run, step), moved)
    rundir.check_rest(step, config.train)

    def set_aside():
        for bad in corrupt:
            log.warning("the corrupt checkpoint was moved to %s", checkpoint.set_aside(directory, bad))

    hosts.on_main(set_aside, f"what came after step {step} is out of the way")
    log.info("going on from step %d of %s", step, run.directory)
    return state


def check_examples(config: Config, before: dict, now: dict, moved: bool) -> None:
    """Refuses to go on with other examples than those that a run began with.

    At the same path names count alone, since a broken file may be replaced, and the log says where others have changed; at
    another path sizes and contents count, too.

    Raises:
      ValueError: their positions differ, see `position`.
    """
    if before["examples"] != now["examples"]:
        raise ValueError(
            f"{config.data.source} had {before['examples']} examples when the run began, and now has {now['examples']}: "
            "the run can only go on with those that it began with"
        )
    if moved and not before.get("contents"):
        raise ValueError(f"the run kept no checksum of its files: move {config.data.source} back to the earlier path")
    if not moved:
        if before.get("contents", now["contents"]) != now["contents"]:
            log.warning("some files of %s have changed since the run began", config.data.source)
        before, now = ({name: value for name, value in each.items() if name != "contents"} for each in (before, now))
    if before != now:
        raise ValueError(
            f"{config.data.source} holds other examples than when the run began, which it could only go on with "
            f"({before}, now {now})"
        )


class Saver:
    """Writes checkpoints, in process 0, or where arrays are on a mesh in every process.

    Attributes:
      everyone: whether every process writes.
      checkpoints: Orbax's manager.
      step: step of the newest checkpoint; None before the first.
    """

    def __init__(self, run: Run):
        self.run = run
        self.everyone = run.config.train.parallel == "sharded"
        keep, directory = run.config.train.keep, runs.checkpoint_dir(run.directory)
        self.checkpoints = checkpoint.manager(directory, keep, self.everyone)
        self.step = self.checkpoints.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Starts to write the state on the devices after a step, unless it is written already."""
        if step == self.step:
            return
        if self.everyone:  # what may fail in one process alone, before all wait for one another
            about = hosts.together(lambda: self._about(step), f"a checkpoint of step {step} can be begun")
            self.step = step  # also where it fails: the same in all processes
            checkpoint.save(self.checkpoints, state, about)
        elif hosts.is_main():
            checkpoint.save(self.checkpoints, parallel.first(state), self._about(step))
        self.step = step

    def _about(self, step):
        """Config and position in the data, for a checkpoint; raises the error of the checkpoint before, if it failed."""
        self.checkpoints.check_for_errors()
        return {"config": configs.to_values(self.run.config), "data": position(self.run, step)}

    def distrust(self, step: int) -> None:
        """Sets the checkpoint of a step aside, if there is one: it is finite, but led to numbers that are not."""
        hosts.together(self.checkpoints.wait_until_finished, f"what came before step {step + 1} is written")
        found = checkpoints.steps(self.checkpoints.directory)
        bad = len(found) > 1 and found[0] == step
        self.step = found[bad]

        def set_aside():
            if bad:
                moved = checkpoint.set_aside(self.checkpoints.directory, step, "not_finite")
                log.warning("the checkpoint of step %d, which led to this, was moved to %s", step, moved)

        hosts.barrier("the checkpoints are listed")  # by all processes, before process 0 moves one
        hosts.on_main(set_aside, "the last good checkpoint is the newest")

    def close(self) -> None:
        """Waits until everything is written."""
        self.checkpoints.close()
