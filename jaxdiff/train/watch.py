"""Watching a run: progress line, speed, hangs, and the first number that is not finite."""

import contextlib
import faulthandler
import logging
import math
import os
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from jaxdiff import disk, errors, hosts
from jaxdiff.train import parallel, speed

log = logging.getLogger("jaxdiff")


class NotFinite(errors.NotFinite):
    """The loss or its gradient became infinite or not a number.

    Attributes:
      step: the first such step.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Log:
    """Keeps metrics on the device between flushes, then fetches them all at once.

    Attributes:
      writer: of numbers and pictures, see `writers`; None writes none.
      show: (step, text) -> None, moves the progress line.
      batch_size: examples per step, over all devices.
      flops: of one step on one device, on average; None if unknown.
      compile_seconds: that making the step took.
      start: the step before the first.
      on_host: metrics on the devices -> as NumPy arrays [K].
      before: seconds that went by in this process before.
    """

    def __init__(
        self,
        writer,
        show,
        batch_size: int,
        flops: float | None,
        compile_seconds: float,
        start: int = 0,
        on_host: Callable = parallel.first,
        before: float = 0.0,
    ):
        self.on_host, self.began, self.trained = on_host, time.perf_counter() - before, 0.0
        self.writer, self.show, self.batch_size, self.flops = writer, show, batch_size, flops
        self.peak = speed.peak(jax.devices()[0].device_kind)
        self.waiting, self.means, self.flushed = [], [], start
        self.clock, self.data_wait, self.idle, self.late = time.perf_counter(), 0.0, 0.0, []
        self.once, self.first_seen = {"compile_seconds": compile_seconds}, False  # of the first flush
        show(start, f"compiled in {compile_seconds:.0f} s")

    def wait(self, get: Callable, *arguments):
        """Result of `get`; its time counts as waiting for data, which is late if the devices have no work left."""
        start = time.perf_counter()
        try:
            return get(*arguments)
        finally:
            waited = time.perf_counter() - start
            self.data_wait += waited
            if self.waiting:  # else they are known to have come to an end, whatever the data
                self.late.append(jax.tree.leaves(self.waiting[-1][1])[0].is_ready())
            if not self.waiting or self.late[-1]:  # while the devices work, it costs nothing
                self.idle += waited

    def add(self, step: int, metrics) -> None:
        """Takes the metrics of the call that ended with `step`; waits only for those of the call before.

        So that the devices always have a call ahead of them, and a run that is to stop has not got far ahead of them.

        Args:
          step: how many steps were made.
          metrics: dict of arrays on the devices, see `on_host`.
        """
        if self.waiting:
            jax.block_until_ready(self.waiting[-1])
            self._note_first()
        self.waiting.append((step, metrics))

    def _note_first(self):
        """Notes, once, that the first call has come to an end."""
        if not self.first_seen:
            self.once["seconds_to_first_step"], self.first_seen = time.perf_counter() - self.began, True

    def check(self) -> None:
        """Fetches what was added, once the devices have come so far.

        Raises:
          NotFinite: the first loss or norm of a gradient that is not finite.
        """
        fetched = [(step, self.on_host(metrics)) for step, metrics in self.waiting]
        if fetched:
            self._note_first()
        self.waiting = []
        for step, metrics in fetched:
            for k, values in enumerate(zip(*metrics.values()), step - len(metrics["loss"]) + 1):
                bad = {name: value for name, value in zip(metrics, values) if not np.isfinite(value)}
                if bad:  # a loss that is not finite has no finite gradient, and is what people know
                    name = "loss" if "loss" in bad else min(bad)
                    raise NotFinite(f"{name} is {bad[name]} at step {k}", k)
            self.means.append({name: float(np.mean(values)) for name, values in metrics.items()})

    @contextlib.contextmanager
    def paused(self):
        """Context whose time does not count as training."""
        start = time.perf_counter()
        yield
        self.clock += time.perf_counter() - start

    def flush(self, step: int) -> None:
        """Averages what came since the last flush and writes it."""
        self.check()
        numbers = {name: float(np.mean([means[name] for means in self.means])) for name in self.means[0]}
        steps, now = step - self.flushed, time.perf_counter()
        self.trained += now - self.clock - self.idle
        numbers |= self.once | self.speeds((now - self.clock) / steps, steps)
        numbers["goodput"] = self.trained / (now - self.began)
        if self.writer is not None:
            self.writer.scalars(step, numbers)
        self.show(step, line(numbers))
        self.means, self.late, self.flushed, self.clock = [], [], step, time.perf_counter()
        self.data_wait = self.idle = 0.0
        self.once = {}

    def speeds(self, seconds: float, steps: int) -> dict[str, float]:
        """Speed, where a step took so many seconds; what is not known is left out."""
        numbers = {
            "seconds_per_step": seconds,
            "images_per_second": self.batch_size / seconds,
            "images_per_second_per_device": self.batch_size / seconds / jax.device_count(),
            "data_wait_per_step": self.data_wait / steps,
            "data_late": float(np.mean(self.late)) if self.late else 0.0,
            "memory_gib": speed.memory() / 2**30,
        }
        if self.flops is not None:
            numbers["teraflops_per_device"] = self.flops / seconds / 1e12
            if self.peak is not None:
                numbers["share_of_peak"] = self.flops / seconds / self.peak
        return numbers


def line(numbers: dict[str, float]) -> str:
    """The numbers of a flush in a line."""
    peak = f"{numbers['share_of_peak']:.0%}" if "share_of_peak" in numbers else "unknown share"
    flops = f"{numbers['teraflops_per_device']:.3g}" if "teraflops_per_device" in numbers else "unknown"
    right = f"  {numbers['accuracy']:.1%} right" if "accuracy" in numbers else ""
    return (
        f"loss {numbers['loss']:.4f}{right}  {1e3 * numbers['seconds_per_step']:.3g} ms/step  "
        f"{numbers['images_per_second_per_device']:.3g} images/s/device  {flops} TFLOP/s ({peak} of peak)  "
        f"{numbers['memory_gib']:.1f} GiB  data {1e3 * numbers['data_wait_per_step']:.3g} ms, "
        f"{numbers['data_late']:.0%} late  {numbers['goodput']:.0%} of the time trained"
    )


@contextlib.contextmanager
def progress(start: int, steps: int):
    """Gives (step, text) -> None, which in process 0 moves a progress line, or logs where there is no terminal."""
    if not hosts.is_main():
        yield lambda step, text: None
        return
    if not Console().is_terminal:
        yield lambda step, text: log.info("step %d of %d: %s", step, steps, text)
        return
    wrapped = TextColumn("{task.fields[text]}", table_column=Column(ratio=1, overflow="fold"))
    bar = Progress(BarColumn(12), MofNCompleteColumn(), TimeRemainingColumn(), wrapped, expand=True)
    task = bar.add_task("training", total=steps, completed=start, text="compiling ...")
    bar.start()
    try:
        yield lambda step, text: bar.update(task, completed=step, text=text)
    finally:
        with contextlib.suppress(OSError):  # the terminal may be gone
            bar.stop()


@contextlib.contextmanager
def watchdog(run: epath.PathLike, seconds: int):
    """Gives () -> None, to be called after every call of the step; where it is not for long, stacks are written.

    All threads' stacks, of every process, into `stacks_P.txt` in the run's directory, or beside the log of a remote run,
    again and again while it hangs; nothing is stopped. The first step may compile for as long as it needs.

    Args:
      run: directory of the run.
      seconds: that a call may take; 0 for none.
    """
    if not seconds:
        yield lambda: None
        return
    with contextlib.ExitStack() as stack:
        path, file = epath.Path(run) / f"stacks_{jax.process_index()}.txt", sys.__stderr__
        if not disk.is_remote(run):
            file = stack.enter_context(hosts.together(lambda: open(path, "a"), "files for stacks are opened"))
            stack.callback(lambda: None if os.path.getsize(path) else os.remove(path))
        try:
            yield lambda: faulthandler.dump_traceback_later(seconds, repeat=True, file=file)
        finally:
            faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def examples(run: epath.PathLike, wanted: bool):
    """Gives (step, numbers [K, B / P]) -> None, which writes which examples of the data this process gave to each step.

    A line "step<TAB>numbers" in `examples_P.tsv`; `step` is the last of the K. Where a run was resumed, the steps that it
    made again stand there again.
    """
    if not wanted:
        yield lambda step, numbers: None
        return
    path = epath.Path(run) / f"examples_{jax.process_index()}.tsv"
    with hosts.together(lambda: path.open("a"), "the lists of examples are opened") as file:

        def write(step, numbers):
            for k, row in enumerate(numbers, step - len(numbers) + 1):
                file.write(f"{k}\t{' '.join(map(str, row))}\n")
            file.flush()

        yield write


@contextlib.contextmanager
def trace(run: epath.PathLike, steps: int, steps_per_call: int):
    """Gives (call, metrics) -> None for after every call, which traces at least `steps` steps from the third call on.

    `jax.profiler` writes it into `profile` in the run's directory, for TensorBoard's profile plugin and Perfetto. Where
    that fails it is said, and training goes on.
    """
    directory, calls, running = str(epath.Path(run) / "profile"), math.ceil(steps / steps_per_call), False

    def turn(on):
        nonlocal running
        running = on
        try:
            jax.profiler.start_trace(directory) if on else jax.profiler.stop_trace()
        except (RuntimeError, OSError) as error:
            log.warning("the trace cannot be written to %s (%s)", directory, error)
            running = False

    def after(call, metrics):
        if calls and (call == 2 or (call == 2 + calls and running)):
            jax.block_until_ready(metrics)
            turn(call == 2)

    try:
        yield after
    finally:
        if running:  # the run ended first
            turn(False)
