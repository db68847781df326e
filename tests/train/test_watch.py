"""What is said of a run's speed and health, against numbers worked out by hand."""

import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from rich.console import Console

from jaxdiff.train import parallel, speed, watch, writers


class Writer:
    """Keeps what TensorBoard would be given."""

    def __init__(self):
        self.written = {}

    def scalars(self, step, values):
        self.written |= {(name, step): value for name, value in values.items()}


class Clock:
    """A time that passes only when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(watch.time, "perf_counter", lambda: self.now)

    def tick(self, seconds):
        self.now += seconds


def metrics(*losses):
    """As the pmapped step gives them, for K steps, once the devices are done with them."""
    made = parallel.replicate({"loss": np.float32(losses), "grad_norm": np.ones(len(losses), np.float32)})
    return jax.block_until_ready(made)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_speed_is_that_of_training_alone(clock, monkeypatch):
    """10 steps of 32 images on 8 devices in 5 s, besides 7 s of saving; 40 GFLOP a step at a peak of 1 TFLOP/s."""
    monkeypatch.setattr(speed, "peak", lambda kind: 1e12)
    writer, shown = Writer(), []
    log = watch.Log(
        writer, lambda step, text: shown.append((step, text)), 32, flops=40e9, compile_seconds=3.0, start=20, before=4.0
    )
    log.wait(clock.tick, 0.5)
    clock.tick(1.5)
    log.add(25, metrics(1, 2, 3, 4, 5))
    with log.paused():
        clock.tick(7.0)
    log.wait(clock.tick, 1.0)
    clock.tick(2.0)
    log.add(30, metrics(6, 7, 8, 9, 10))
    log.flush(30)
    memory = writer.written.pop(("memory_gib", 30))
    assert 0.01 < memory < 1000
    expected = {
        ("compile_seconds", 30): 3.0,
        ("loss", 30): 5.5,
        ("grad_norm", 30): 1.0,
        ("seconds_per_step", 30): 0.5,
        ("images_per_second", 30): 64.0,
        ("images_per_second_per_device", 30): 8.0,
        ("data_wait_per_step", 30): 0.15,
        ("data_late", 30): 1.0,
        ("teraflops_per_device", 30): 0.08,
        ("share_of_peak", 30): 0.08,
        ("goodput", 30): 3.5 / 16,
        ("seconds_to_first_step", 30): 12.0 + 4.0,
    }
    assert writer.written == pytest.approx(expected)
    step, text = shown[-1]
    assert step == 30
    for part in (
        "loss 5.5000",
        "500 ms/step",
        "8 images/s/device",
        "0.08 TFLOP/s (8% of peak)",
        "data 150 ms, 100% late",
    ):
        assert part in text


def test_each_flush_begins_anew(clock):
    writer = Writer()
    log = watch.Log(writer, lambda *_: None, 8, None, 0.0)
    for end, loss, seconds in ((2, 1.0, 4.0), (4, 3.0, 2.0)):
        log.wait(clock.tick, seconds)
        log.add(end, metrics(loss, loss))
        log.flush(end)
    assert [writer.written["loss", end] for end in (2, 4)] == [1.0, 3.0]
    assert [writer.written["seconds_per_step", end] for end in (2, 4)] == [2.0, 1.0]
    assert [writer.written["data_wait_per_step", end] for end in (2, 4)] == [2.0, 1.0]


@pytest.mark.parametrize("busy", [True, False])
def test_data_is_late_if_the_devices_have_run_out_of_work(busy, monkeypatch):
    class Loss:
        def is_ready(self):
            return not busy

    log = watch.Log(None, lambda *_: None, 8, None, 0.0)
    log.wait(lambda: None)  # before the first call they have none anyway
    log.waiting = [(1, {"loss": Loss()})]
    log.wait(lambda: None)
    assert log.speeds(1.0, 1)["data_late"] == (0.0 if busy else 1.0)


def test_what_is_not_known_is_said_to_be_unknown(clock):
    writer, shown = Writer(), []
    log = watch.Log(writer, lambda step, text: shown.append(text), 8, None, 0.0)
    clock.tick(1.0)
    log.add(1, metrics(1.0))
    log.flush(1)
    assert "unknown TFLOP/s (unknown share of peak)" in shown[-1]
    assert not {name for name, _ in writer.written} & {"teraflops_per_device", "share_of_peak"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_says_the_first_step_that_is_not_finite(name, value, clock):
    log = watch.Log(None, lambda *_: None, 8, None, 0.0)
    log.add(5, metrics(1, 1, 1, 1, 1))
    bad = {"loss": np.ones(5, np.float32), "grad_norm": np.ones(5, np.float32)}
    bad[name][2:] = value
    log.add(10, parallel.replicate(bad))
    with pytest.raises(watch.NotFinite, match=f"{name} is {value} at step 8") as found:
        log.check()
    assert found.value.step == 8


def test_flops_are_those_of_the_products():
    """2 H W C O k^2 of a convolution, 2 N M K of a matrix product, the body of a loop once."""
    x, w, a = jnp.ones((2, 16, 16, 8)), jnp.ones((3, 3, 8, 32)), jnp.ones((64, 64))

    def program(x, w, a):
        y = lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y, lax.scan(lambda a, _: (a @ a, None), a, None, length=7)[0]

    expected = 2 * 2 * 14 * 14 * 8 * 32 * 9 + 2 * 64**3
    assert speed.flops(jax.jit(program).lower(x, w, a)) == pytest.approx(expected, rel=0.01)


PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "NVIDIA A10G": 70e12,
    "Tesla V100-SXM2-16GB": 125e12,
    "cpu": None,
    "NVIDIA GeForce RTX 9999": None,
    "TPU v40": None,
}


@pytest.mark.parametrize("kind", PEAKS)
def test_peaks(kind):
    assert speed.peak(kind) == PEAKS[kind]


def test_memory_is_what_the_device_says(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"peak_bytes_in_use": 3 * 2**30}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert speed.memory() == 3 * 2**30


def test_examples_are_appended_line_by_line(tmp_path):
    for step, numbers in ((2, [[5, 6], [7, 8]]), (4, [[1, 2], [3, 4]])):
        with watch.examples(tmp_path, True) as note:
            note(step, np.array(numbers))
    assert (tmp_path / "examples_0.tsv").read_text() == "1\t5 6\n2\t7 8\n3\t1 2\n4\t3 4\n"


def test_no_examples_unless_asked(tmp_path):
    with watch.examples(tmp_path, False) as note:
        note(1, np.zeros((1, 2)))
    assert list(tmp_path.iterdir()) == []


def test_where_there_is_no_terminal_the_progress_is_logged(caplog, monkeypatch):
    monkeypatch.setattr(watch, "Console", lambda: Console(force_terminal=False))
    with caplog.at_level("INFO", "jaxdiff"), watch.progress(0, 100) as show:
        show(20, "loss 0.5")
    assert caplog.messages == ["step 20 of 100: loss 0.5"]


@pytest.mark.parametrize(
    "steps, calls, expected",
    [
        (3, 6, [1, 2, "start", 3, 4, "stop", 5, 6]),
        (100, 4, [1, 2, "start", 3, 4, "stop"]),  # the run ends first
        (0, 3, [1, 2, 3]),
    ],
)
def test_a_trace_is_of_so_many_steps_from_the_third_call_on(steps, calls, expected, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: seen.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: seen.append("stop"))
    with watch.trace(tmp_path, steps, steps_per_call=2) as after:
        for call in range(1, calls + 1):
            seen.append(call)
            after(call, jnp.zeros(1))
    assert seen == expected


def test_a_trace_that_cannot_be_written_is_said_and_training_goes_on(tmp_path, monkeypatch, caplog):
    def fails():
        raise RuntimeError("FAILED_PRECONDITION: profile is a file")

    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", fails)
    with watch.trace(tmp_path, 2, steps_per_call=2) as after:
        for call in range(1, 6):
            after(call, jnp.zeros(1))
    assert caplog.text.count("the trace cannot be written to") == 1


def test_the_line_of_a_classifier_says_what_it_gets_right():
    numbers = dict.fromkeys(("seconds_per_step", "images_per_second_per_device", "memory_gib"), 1.0)
    numbers |= {"data_wait_per_step": 0.0, "data_late": 0.0, "loss": 0.5, "goodput": 0.9}
    assert "right" not in watch.line(numbers)
    assert watch.line(numbers | {"accuracy": 0.915}).startswith("loss 0.5000  91.5% right")


def test_a_terminal_that_is_gone_ends_the_line_of_progress_without_an_error(monkeypatch):
    """After a lost connection, when the run has saved."""

    class Gone(watch.Progress):
        def stop(self):
            raise OSError(5, "Input/output error")

        def start(self):
            pass

    monkeypatch.setattr(watch, "Console", lambda: SimpleNamespace(is_terminal=True))
    monkeypatch.setattr(watch, "Progress", Gone)
    with watch.progress(0, 10) as show:
        show(1, "loss 1")


def test_stacks_of_a_call_that_hangs(tmp_path):
    with watch.watchdog(tmp_path, 1) as alive:
        alive()
        for _ in range(3):  # no call is late
            time.sleep(0.5)
            alive()
        file = tmp_path / "stacks_0.txt"
        assert not file.read_text()
        time.sleep(1.5)
        said = file.read_text()
        assert "Timeout (0:00:01)!" in said and "test_stacks_of_a_call_that_hangs" in said
    before = file.read_text()
    time.sleep(1.2)
    assert file.read_text() == before
    with watch.watchdog(tmp_path.parent, 1) as alive:
        alive()
    assert not (tmp_path.parent / "stacks_0.txt").exists()  # nothing was late
    with watch.watchdog(tmp_path / "none", 0) as alive:
        alive()
    assert not (tmp_path / "none").exists()


def test_wandb_gets_what_tensorboard_gets(tmp_path, monkeypatch):
    """And the same run again where it is gone on with."""
    (tmp_path / "toy").mkdir()
    said = []
    run = SimpleNamespace(log=said.append, define_metric=lambda *a, **k: None, finish=lambda: said.append("finished"))
    package = SimpleNamespace(init=lambda **given: said.append(given) or run, Image=lambda image: image.shape)
    monkeypatch.setitem(sys.modules, "wandb", package)
    for start in (0, 5):
        with writers.events(tmp_path / "toy", start, "stars", {"name": "toy"}) as writer:
            writer.scalars(7, {"loss": 0.5})
            writer.image(7, "samples", np.zeros((4, 4, 3), np.uint8))
    first, *rest = said[: len(said) // 2]
    assert (first["project"], first["name"], first["resume"]) == ("stars", "toy", "allow")
    assert first["config"] == {"name": "toy"} and first == said[len(said) // 2]
    assert rest == [{"loss": 0.5, "step": 7}, {"samples": (4, 4, 3), "step": 7}, "finished"]
    assert len(list((tmp_path / "toy").glob("events.*"))) == 2
