"""The training loop: host work around compiled calls."""

import contextlib
import functools
import time
from pathlib import Path

import jax
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxdiff import data, denoise, objectives
from jaxdiff.config import Config, Train, read_run, to_json
from jaxdiff.eval import draw, images
from jaxdiff.nets.unet import UNet
from jaxdiff.train import checkpoint, optim, parallel
from jaxdiff.train.state import TrainState, init
from jaxdiff.train.step import make_train_step, scanned
from jaxdiff.types import Cond


def train(config: Config, run: Path, resume: bool = False) -> TrainState:
    """Trains a diffusion model and leaves everything about it in a directory.

    Args:
      config: what to train.
      run: directory for `config.json`, `checkpoints/`, `samples/step_*.png` and TensorBoard events.
      resume: go on from the newest checkpoint in `run`.

    Returns:
      The state after the last step.

    Raises:
      FileExistsError: `run` holds a run and `resume` was not asked for.
      FileNotFoundError: `resume` was asked for and there is nothing to resume.
      ValueError: `resume` was asked for with a config that the run cannot go on with.
    """
    from tensorboardX import SummaryWriter  # here, for it loads PyTorch wherever that is installed

    source = open_source(config)
    claim_directory(run, resume)
    if resume:
        check_same(read_run(run), config)
    schedule, T = config.diffusion.make_schedule(), config.train
    apply = denoise.network(UNet(config.net))
    optimizer = make_optimizer(config)
    weighting = objectives.WEIGHTINGS[config.diffusion.weighting]
    loss_fn = objectives.denoising(apply, schedule, config.diffusion.predict, weighting)
    step = make_train_step(loss_fn, optimizer, config.optim.ema_decay)
    step = parallel.data_parallel(scanned(step))

    checkpoints = checkpoint.manager(run / "checkpoints", T.keep)
    state = new_state(config, optimizer)
    if resume:
        state = checkpoint.restore(checkpoints, state)
    start = int(state.step)
    check_rest(start, T)
    (run / "samples").mkdir(exist_ok=True)
    (run / "config.json").write_text(to_json(config))
    batches = data.batches(
        source,
        T.batch_size,
        seed=T.seed,
        start_step=start,
        steps_per_call=T.steps_per_call,
        labels=bool(config.net.num_classes),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    # The key of the noise; initialisation has its own, by another fold.
    key = jax.random.fold_in(jax.random.key(T.seed), 1)
    state = parallel.replicate(state)
    with _progress(start, T.steps) as advance, SummaryWriter(str(run)) as writer, contextlib.closing(checkpoints):
        log = Log(writer, advance, T.batch_size)
        for done in range(start + T.steps_per_call, T.steps + 1, T.steps_per_call):
            state, metrics = step(state, key, parallel.split(next(batches), axis=1))
            log.add(metrics)
            if done % T.log_every == 0 or done == T.steps:
                log.flush(done)
            if done % T.save_every == 0 or done == T.steps:
                checkpoint.save(checkpoints, parallel.first(state))
            if (T.sample_every and done % T.sample_every == 0) or done == T.steps:
                sheet = draw.draw(config, parallel.first(state.ema))
                images.save_grid(run / "samples" / f"step_{done:07d}.png", sheet)
                writer.add_image("samples", images.grid(sheet), done, dataformats="HWC")
    return parallel.first(state)


def open_source(config: Config):
    """The data that the config names.

    Raises:
      ValueError: its images are not of the shape that the config says.
    """
    source = data.load(config.data.name, config.data.split)
    found, said = source[0]["image"].shape, config.data.image_shape
    if found != said:
        found, said = ("x".join(map(str, shape)) for shape in (found, said))
        raise ValueError(f"the images of {config.data.name} are {found}, and --data.image-shape says {said}")
    return source


def claim_directory(run: Path, resume: bool) -> None:
    """Makes the run's directory, or checks that there is one to resume; never overwrites a run.

    Raises:
      FileExistsError: something of a run is there, and `resume` was not asked for.
      FileNotFoundError: `resume` was asked for and there is no run, or one without a checkpoint.
    """
    found = [name for name in ("config.json", "checkpoints", "samples") if (run / name).exists()]
    saved = any(path.name.isdigit() for path in (run / "checkpoints").glob("*"))
    if not resume and saved:
        raise FileExistsError(f"{run} already holds a run: add --resume to go on with it, or choose another --run-dir")
    if not resume and found:
        raise FileExistsError(
            f"{run} already holds a run that saved no checkpoint ({', '.join(found)}): remove it, or choose another "
            "--run-dir"
        )
    if resume and "config.json" not in found:
        raise FileNotFoundError(f"{run} holds no run to resume: leave --resume out to start one")
    if resume and not saved:
        raise FileNotFoundError(f"{run} saved no checkpoint to resume from: remove it and leave --resume out")
    run.mkdir(parents=True, exist_ok=True)


def check_same(before: Config, now: Config) -> None:
    """Refuses to resume with a config that would make another run of it.

    Raises:
      ValueError: the first field that may not change.
    """
    fixed = [("data",), ("net",), ("diffusion",), ("optim", "method"), ("train", "seed"), ("train", "batch_size")]
    for path in fixed:
        old, new = (functools.reduce(getattr, path, config) for config in (before, now))
        if old != new:
            raise ValueError(f"--resume cannot change {'.'.join(path)} from {old} to {new}: start another run")


def check_rest(start: int, train: Train) -> None:
    """Refuses to go on from step `start` to an end that the calls do not meet.

    Raises:
      ValueError: the end is not ahead, or not a whole number of calls away.
    """
    if start >= train.steps:
        raise ValueError(f"the run is at step {start} already: ask for more than --train.steps={train.steps}")
    if (train.steps - start) % train.steps_per_call:
        raise ValueError(
            f"from step {start} to --train.steps={train.steps} is not a multiple of "
            f"--train.steps-per-call={train.steps_per_call}"
        )


def make_optimizer(config: Config):
    """The optimizer that the config asks for."""
    o = config.optim
    return optim.optimizer(
        o.learning_rate,
        config.train.steps,
        o.warmup,
        o.decay_to,
        clip=o.clip,
        b1=o.b1,
        b2=o.b2,
        weight_decay=o.weight_decay,
        method=o.method,
    )


def new_params(config: Config, key):
    """Freshly initialised parameters of the config's network."""
    net = config.net
    cond = Cond(
        label=np.zeros(1, np.int32) if net.num_classes else None,
        vector=np.zeros((1, net.vector_dim), np.float32) if net.vector_dim else None,
    )
    x = np.zeros((1, *config.data.image_shape), np.float32)
    return UNet(net).init(key, x, np.zeros(1, np.int32), cond)["params"]


def param_shapes(config: Config):
    """Structure, shapes and dtypes of the parameters, computing nothing."""
    return jax.eval_shape(lambda: new_params(config, jax.random.key(0)))


def new_state(config: Config, optimizer) -> TrainState:
    """The state before the first step."""
    key = jax.random.fold_in(jax.random.key(config.train.seed), 0)
    return jax.jit(lambda key: init(new_params(config, key), optimizer))(key)


class Log:
    """Keeps metrics on the device between flushes, then fetches them all at once."""

    def __init__(self, writer, advance, batch_size):
        self.writer, self.advance, self.batch_size = writer, advance, batch_size
        self.waiting, self.last_step, self.last_time = [], None, time.perf_counter()

    def add(self, metrics) -> None:
        """Takes a call's metrics, replicated, without waiting for them."""
        self.waiting.append(metrics)

    def flush(self, step: int) -> None:
        """Averages what came since the last flush and writes it."""
        fetched = jax.device_get(self.waiting)
        means = {name: float(np.mean([np.mean(m[name]) for m in fetched])) for name in fetched[0]}
        now = time.perf_counter()
        if self.last_step is not None:
            means["images_per_second"] = (step - self.last_step) * self.batch_size / (now - self.last_time)
        for name, value in means.items():
            self.writer.add_scalar(name, value, step)
        self.advance(step, means)
        self.waiting, self.last_step, self.last_time = [], step, now


@contextlib.contextmanager
def _progress(start, steps):
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("training", total=steps, completed=start, numbers="compiling ...")

        def advance(step, means):
            speed = f"{means['images_per_second']:.0f} images/s" if "images_per_second" in means else ""
            bar.update(task, completed=step, numbers=f"loss {means['loss']:.4f}  {speed}")

        yield advance
