"""Writers of a run's numbers and pictures: TensorBoard, Weights & Biases."""

import contextlib
import os
import time
import uuid
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from etils import epath

from jaxdiff import files, hosts


class Events:
    """Writes TensorBoard events at once and in the thread that calls, which so hears of it where that fails.

    What an interrupted life of the run wrote after step `start` is hidden. tensorboardX only documents its SummaryWriter,
    whose thread keeps errors to itself; that the parts used here write what TensorBoard reads is tested in
    tests/train/test_watch.py.
    """

    def __init__(self, run: epath.PathLike, start: int):
        from tensorboardX import (  # here, for it loads PyTorch wherever that is installed
            event_file_writer,
            proto,
            summary,
        )

        self._summary, self._proto = summary, proto.event_pb2
        self._file = event_file_writer.EventsWriter(str(epath.Path(run) / "events"), f".{os.getpid()}.{start}")
        began = self._proto.SessionLog(status=self._proto.SessionLog.START)
        self._file.write_event(self._proto.Event(step=start + 1, session_log=began))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by name."""
        for name, value in values.items():
            self._write(step, self._summary.scalar(name, value))
        self._file.flush()

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture [H, W, C] of a step."""
        self._write(step, self._summary.image(name, image, dataformats="HWC"))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, step, summary):
        self._file.write_event(self._proto.Event(wall_time=time.time(), step=step, summary=summary))


class Wandb:
    """Writes numbers and pictures to Weights & Biases, of whose package only `init`, `log`, `Image` and `finish` are used.

    A run that is gone on with goes on there, too, by a name that is kept in its directory; steps that it makes again are
    written again.
    """

    def __init__(self, run: epath.PathLike, project: str, about: Mapping):
        import wandb  # here, for it is an extra

        kept = epath.Path(run) / "wandb_id.txt"
        if not kept.exists():
            files.write_whole(kept, uuid.uuid4().hex[:16])
        again = {"id": kept.read_text(), "resume": "allow"}
        self._wandb = wandb
        self._run = wandb.init(project=project, name=epath.Path(run).name, config=dict(about), **again)
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by name."""
        self._run.log({**values, "step": step})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture [H, W, C] of a step."""
        self._run.log({name: self._wandb.Image(image), "step": step})

    def close(self) -> None:
        self._run.finish()


class All:
    """Writes what it is given with several writers."""

    def __init__(self, *writers):
        self.writers = writers

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by name."""
        for writer in self.writers:
            writer.scalars(step, values)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture [H, W, C] of a step."""
        for writer in self.writers:
            writer.image(step, name, image)

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for writer in self.writers:
                stack.callback(writer.close)


@contextlib.contextmanager
def events(run: epath.PathLike, start: int, project: str = "", about: Mapping = MappingProxyType({})):
    """Gives a writer of numbers and pictures in process 0, None in the others.

    Args:
      run: directory of the run, for TensorBoard.
      start: step that it goes on from.
      project: project of Weights & Biases; "" is none.
      about: config of the run, for that.
    """

    def opened():
        if not hosts.is_main():
            return None
        more = [Wandb(run, project, about)] if project else []
        return All(Events(run, start), *more)

    writer = hosts.together(opened, "the events are opened")
    with contextlib.closing(writer) if writer else contextlib.nullcontext():
        yield writer
