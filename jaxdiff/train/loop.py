"""The training loop: host work around compiled calls."""

import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import time

import jax
from etils import epath

from jaxdiff import config as configs
from jaxdiff import disk, hosts, meshes
from jaxdiff import model as models
from jaxdiff.arguments import check_fields, check_type
from jaxdiff.config import Config
from jaxdiff.data import Source
from jaxdiff.model import adaptation, checkpoints, runs
from jaxdiff.model.frozen_models import FrozenModels, keep, open_models
from jaxdiff.paths import as_path
from jaxdiff.pipeline.encoding import DAY, encoded, fingerprint
from jaxdiff.train import base_model, initial, kept_step, parallel, previews, rundir, setup, watch, writers
from jaxdiff.train.compiled_steps import CompiledSteps
from jaxdiff.train.failure_sync import FailureSync
from jaxdiff.train.run import Run, Saver, position, restore
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
    compiled_step: epath.PathLike | None = None,
) -> TrainState:
    """Trains a network and writes everything about it into a directory.

    A run that was stopped or killed and then resumed ends with the same bits as one that was not, on the same
    devices (GPUs must be set to be deterministic, see docs/reliability.md).

    Args:
      config: the run; the same in every process.
      source: training data, in place of the one that the config names, which is "own" then; on resume the same again.
      run: directory, local or remote (gs://bucket/run), that every process sees, for `config.json`, `checkpoints/`,
        `samples/step_*.png`, TensorBoard events, and copies of the frozen models; runs/NAME by default.
      resume: go on from the newest checkpoint in `run`.
      profile: number of steps to trace, see `watch.trace`.
      compiled_step: file of `jaxdiff plan --save`, with which a training with `train.parallel` "sharded" need not compile;
        one of another program is not taken, with a warning. It is executed: give what you have made.

    Returns:
      The state after the last step, as NumPy arrays; where `train.parallel` is "sharded" as arrays on its mesh.

    Raises:
      ValueError: a config that cannot be trained, that differs between processes, or with which the run cannot go on;
        data that cannot be read.
      FileExistsError: `run` holds a run and `resume` is False, or another process is training there.
      FileNotFoundError: `resume` is True and there is nothing to resume; data that is not there.
      OSError: no space is left, or no checkpoint can be read.
      watch.NotFinite: the loss is not finite any more; the last good checkpoint stays.
      stop.Stopped: Ctrl-C, SIGTERM or a preemption; everything was saved.
    """
    began = time.perf_counter()
    config = check_fields(check_type("`config`", config, Config))
    check_type("`source`", source, Source | None)
    check_type("`run`", run, str | os.PathLike | None)
    check_type("`profile`", profile, int)
    check_type("`compiled_step`", compiled_step, str | os.PathLike | None)
    if run is not None and not os.fspath(run):
        raise ValueError("`run` is empty: give a directory, or leave it out")
    directory = as_path(run if run is not None else f"runs/{config.name}")
    if source is not None:
        config = dataclasses.replace(config, data=setup.of_own(config.data, source))
    kept = os.fspath(compiled_step or "")
    started = {"run": str(directory), "resume": resume, "profile": profile, "compiled_step": bool(kept)}
    started |= configs.to_values(config)
    hosts.check_same(started, "how they were started")
    hosts.together(lambda: check_kept(config, kept), "the compiled step is there")
    run, prompts = opened(config, source, directory, resume, profile)
    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(Stop())
        hosts.on_main(lambda: stack.enter_context(claimed(directory, resume)), f"{directory} is there")
        stack.enter_context(disk.explained(directory, lambda: newest(directory)))
        state = restore(run) if resume else initial.new_state(run.config, run.frozen.base)
        if not resume:
            hosts.on_main(lambda: keep(directory, run.frozen, prompts), "the frozen models are kept")
        hosts.on_main(lambda: rundir.write_config(directory, run.config), "the config is written")
        try:
            run = prepared(run, stopping)
        except Asked:
            message = "stopped before the first step, while the data was made ready; what was encoded is kept"
            raise Stopped(message, stopping.signum) from None
        saver = hosts.together(lambda: stack.enter_context(contextlib.closing(Saver(run))), "checkpoints can be saved")
        try:
            return steps(run, state, saver, stopping, profile, began, kept)
        except watch.NotFinite as error:
            saver.distrust(error.step - 1)
            raise watch.NotFinite(
                f"{error}: the checkpoint of step {saver.step} in {directory} is good, so that `resume` goes on from "
                "there, for example with a lower `optim.learning_rate`",
                error.step,
            ) from None


def opened(
    config: Config, source: Source | None, directory: epath.Path, resume: bool, profile: int
) -> tuple[Run, list[str]]:
    """The run, if everything that is asked for can be done, and some of the captions of an adaptation.

    Raises:
      ValueError, OSError: as `fit`.
    """
    base = base_model.open_base(config, directory if resume else None)
    config = base_model.with_base(config, base and base.config)
    hosts.together(lambda: check(config, directory, profile), "the config is checked")
    data = hosts.together(lambda: _open(config, source, resume), "the data is open")
    there = resume and runs.holds_run(directory)  # else it is refused when there is nothing to go on from
    learned = hosts.together(lambda: configs.read_run(directory) if there else None, "the run's config is read")
    config, data = hosts.together(
        lambda: setup.with_names(config, data, learned or (base and base.config)), "the classes are known"
    )
    source = hosts.together(lambda: base_model.examples(config, data, directory), "the examples are known")
    frozen = open_models(config, source, directory if resume else None, base)
    words = frozen.text_encoder.tokenizer if frozen.text_encoder else None
    hosts.together(lambda: setup.check_trigger(config, frozen), "the trigger is read")
    hosts.together(lambda: check_rules(config, frozen), "every rule is for an array")
    prompts = hosts.together(
        lambda: [] if resume else base_model.prompts(config, data, words), "the captions are known"
    )
    run = Run(config, directory, source, frozen, source)
    hosts.together(lambda: previews.check(run), "images can be sampled")
    hosts.check_same({"data": position(run, 0), "models": fingerprint(frozen.to_keep)}, "the data is the same")
    return run, prompts


def check_rules(config: Config, frozen: FrozenModels) -> None:
    """Raises ValueError for one of `train.rules` that is for no array of the state, or of what is frozen."""
    if config.train.rules:
        rest = adaptation.frozen_params(config, frozen.base) if frozen.base else {}
        trees = {"state": initial.state_shapes(config, frozen.base), "frozen": rest}
        meshes.check_rules(trees, [meshes.parse_rule(rule) for rule in config.train.rules])


def _open(config, source, resume):
    try:
        return setup.open_source(config, source)
    except FileNotFoundError as error:
        if resume:
            raise FileNotFoundError(
                f"{error}: if it has moved, or this is another directory, give `data.source`"
            ) from None
        raise


def check(config: Config, directory: epath.Path, profile: int) -> None:
    """Refuses a config that cannot be trained in a directory.

    Raises:
      ValueError: one line that says what to change.
    """
    if profile < 0:
        raise ValueError(f"`profile`={profile} must be a number of steps, 0 for none")
    if config.train.log_examples and disk.is_remote(directory):
        raise ValueError(
            f"`train.log_examples` appends to files, which {directory} does not allow: choose a local directory"
        )
    configs.check(config)


def prepared(run: Run, stopping: Stop) -> Run:
    """The run with its examples encoded, after images of the class were sampled where they are learned, too.

    Raises:
      Asked: a signal came.
    """
    # Of several processes none knows here that another was asked to stop: they do after their first step.
    tick = stopping.tick if jax.process_count() == 1 else lambda: None
    config, base = run.config, run.frozen.base
    if base:
        sample_class = functools.partial(base_model.sample_class, config, base, run.directory, tick)
        hosts.on_main(sample_class, "there are images of the class", timeout=DAY)
    return run._replace(source=encoded(config, run.source, run.frozen, tick))


def check_kept(config: Config, path: str) -> None:
    """Raises ValueError or OSError for a file that is no compiled step, or that no training of this config takes."""
    if path and config.train.parallel == "pmap":
        raise ValueError("`compiled_step` is for `train.parallel` sharded: leave it out")
    if path and config.data.buckets:
        raise ValueError("`compiled_step` is of images of one size, and `data.buckets` has several: leave it out")
    if path:
        kept_step.check(path)


@contextlib.contextmanager
def claimed(directory: epath.Path, resume: bool):
    """The run's directory, which nobody else writes into."""
    rundir.claim(directory, resume)
    with rundir.locked(directory):
        yield


def newest(directory: epath.Path) -> str:
    """The newest checkpoint of a run, as a clause of a message."""
    found = checkpoints.steps(runs.checkpoint_dir(directory))
    return f"the checkpoint of step {found[0]} is kept" if found else "there is no checkpoint yet"


def steps(
    run: Run, state: TrainState, saver: Saver, stopping: Stop, profile: int, began: float, kept: str
) -> TrainState:
    """Makes all steps from `state` on, and logs, saves and samples between them; returns the last state.

    Whatever may fail in one process alone is attempted, so that all end together.

    Raises:
      As `fit`.
    """
    T, start, devices = run.config.train, int(state.step), parallel.of(run.config.train)
    ends = range(start + T.steps_per_call, T.steps + 1, T.steps_per_call)
    done, state, key = start, devices.place(state), initial.step_key(run.config)
    with (
        FailureSync() as sync,
        contextlib.closing(setup.batches(run.config, run.source, start, run.frozen)) as stream,
        watch.progress(start, T.steps) as show,
        writers.events(run.directory, start, T.wandb, configs.to_values(run.config)) as writer,
        watch.examples(run.directory, T.log_examples) as note,
        watch.trace(run.directory, profile, T.steps_per_call) as trace,
        watch.watchdog(run.directory, T.hang_seconds) as alive,
    ):
        sync.attempt(saver.save, start, state)  # step 0, too, so that there always is something to resume
        batches = sync.read(itertools.islice(stream, len(ends)))
        first = next(batches, None)
        sync.raise_together("the first examples are read")
        step = CompiledSteps(run.config, run.frozen, kept)
        seconds = step.prepare(state, key, first[0])
        before = time.perf_counter() - began
        watched = watch.Log(writer, show, T.batch_size, step.flops, seconds, start, devices.on_host, before)
        batches = itertools.chain([first], batches)

        def save():
            watched.check()  # only what came of finite losses and gradients
            with watched.paused():
                sync.attempt(saver.save, done, state)

        for call, done in enumerate(ends, 1):
            batch, examples = watched.wait(next, batches)
            with watched.paused():
                step.prepare(state, key, batch)
            state, metrics = step(state, key, batch)
            watched.flops = step.flops
            sync.share()
            watched.add(done, metrics)
            alive()
            trace(call, metrics)
            sync.attempt(note, done, examples)
            last = done == T.steps
            if done % T.log_every == 0 or last:
                watched.check()  # outside of the attempt: all processes raise it
                sync.attempt(watched.flush, done)
            preview = run.config.samples and (last or (T.sample_every and done % T.sample_every == 0))
            if done % T.save_every == 0 or preview:  # before sampling, in which a signal may come or memory run out
                save()
            if preview:
                with watched.paused():
                    sync.attempt(previews.draw, run, done, state, writer, stopping)
            if last or sync.any_failed() or stopping.asked(call):
                break
        save()
        finish(saver, sync)
    if done < T.steps:
        raise Stopped(f"stopped after step {done} of {T.steps}, which is saved in {run.directory}", stopping.signum)
    state = devices.finished(state)
    if run.frozen.base and run.config.adapt.kind != "dreambooth":
        trained = meshes.on_host(state.ema)
        hosts.on_main(lambda: leave_adapter(run, trained), f"{ADAPTER} is written")
    return state


def leave_adapter(run: Run, trained) -> None:
    """Writes the adapter of a run, of the average of what it has trained."""
    made = adaptation.adapter(run.config, trained, runs.kept_prompts(run.directory))
    models.write_adapter(run.directory / ADAPTER, made)


def finish(saver: Saver, sync: FailureSync) -> None:
    """Waits, in every process, until process 0 has sampled and written everything.

    Raises:
      As `FailureSync.raise_together`.
    """
    sync.attempt(saver.close)
    hosts.barrier("everything is written", timeout=3600)
    sync.raise_together("nothing has failed")
