"""From a config to what training needs: data, network, optimizer, step, first state."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from jaxdiff import data, denoise, objectives
from jaxdiff.config import Config
from jaxdiff.train import optim, parallel, speed
from jaxdiff.train.state import TrainState, init
from jaxdiff.train.step import make_train_step, scanned
from jaxdiff.types import Cond


def open_source(config: Config):
    """The data that the config names.

    Raises:
      ValueError, OSError: as `jaxdiff.data.load`; no labels, or more of them than the network knows.
    """
    d, flag = config.data, "--net.out-channels" if config.classifies else "--net.num-classes"
    labels = config.net.out_channels if config.classifies else config.net.num_classes
    source = data.load(d.source, d.image_shape, resize=d.resize, skip_broken=d.skip_broken)
    if labels and not source.classes:
        otherwise = "" if config.classifies else f": {flag} 0 trains without labels"
        raise ValueError(f"{source.unlabelled}{otherwise}")
    if labels and len(source.classes) > labels:
        raise ValueError(
            f"{d.source} has {len(source.classes)} classes, and the network labels for {labels}: "
            f"{flag} {len(source.classes)}"
        )
    return source


def batches(config: Config, source, start: int) -> Iterator[tuple[dict, np.ndarray]]:
    """What this process's devices get in each call from step `start` on, and the numbers of those examples [K, B / P]."""
    T = config.train
    stream = data.batches(
        source,
        T.batch_size,
        seed=T.seed,
        start_step=start,
        steps_per_call=T.steps_per_call,
        labels=bool(config.net.num_classes) or config.classifies,
        flip=config.data.flip,
        augment=config.data.augment,
        told=bool(config.net.vector_dim),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    with contextlib.closing(stream):
        for batch in stream:
            examples = batch.pop("example")
            yield parallel.split(batch, axis=1), examples


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
        moment_dtype=o.moment_dtype,
    )


def make_step(config: Config):
    """The training step on all devices, `train.steps_per_call` updates in each call; see `parallel.data_parallel`."""
    step = make_train_step(make_loss(config), make_optimizer(config), config.optim.ema_decay, config.train.accumulate)
    return parallel.data_parallel(scanned(step))


def make_loss(config: Config):
    """The objective that the config names, inside of `parallel.data_parallel`; see `objectives`."""
    d, apply, levels = config.diffusion, denoise.network(config.make_net()), make_levels(config)
    if config.classifies:
        return objectives.classification(apply, d.make_schedule(), levels=levels)
    null = Cond(label=config.net.num_classes) if d.drop else None
    if d.objective == "bound":
        says_variance = config.net.out_channels == 2 * config.data.image_shape[-1]
        variance = "learned" if says_variance else "posterior"
        return objectives.variational_bound(apply, d.make_schedule(), d.predict, variance, null, d.drop, levels=levels)
    return objectives.denoising(
        apply,
        d.make_schedule(),
        d.predict,
        objectives.WEIGHTINGS[d.weighting],
        null,
        d.drop,
        levels=levels,
        bound_weight=0.001 if d.objective == "hybrid" else 0.0,
        offset_noise=d.offset_noise,
        input_perturbation=d.input_perturbation,
    )


def make_levels(config: Config) -> objectives.Levels:
    """How the levels that examples are trained at are drawn."""
    makers = {
        "uniform": objectives.uniform,
        "clean": objectives.clean,
        "logit_normal": objectives.logit_normal,
        "stratified": lambda: objectives.stratified(_key(config, 2), config.train.batch_size),
        "importance": lambda: objectives.importance(axis_name=parallel.AXIS),
    }
    return makers[config.diffusion.levels]()


def compiled(config: Config, state: TrainState, key, batch) -> tuple[Callable, float | None, float]:
    """The training step, compiled for such arguments; its FLOPs per step and device, None if unknown; the seconds it took.

    The FLOPs are those of the program as it is written: what `net.remat` computes twice counts twice, cuDNN's attention
    does not count, and on a CPU some convolutions are the cheaper Winograd ones.
    """
    start, step = time.perf_counter(), make_step(config)
    lowered = whole = step.lower(state, key, batch)
    if config.train.accumulate > 1:  # the body of that loop, counted once, is a part of a step
        whole = make_step(dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=1))).lower(
            state, key, batch
        )
    lowered.compile()  # kept where the call of `step` finds it; to be called itself it would want global arrays
    return step, speed.flops(whole), time.perf_counter() - start


def step_key(config: Config) -> jax.Array:
    """The key of noise and dropout, of which `make_step` folds a step's; initialisation has its own, by another fold."""
    return _key(config, 1)


def new_params(config: Config, key):
    """Freshly initialised parameters of the config's network."""
    net = config.net
    cond = Cond(
        label=np.zeros(1, np.int32) if net.num_classes else None,
        vector=np.zeros((1, net.vector_dim), np.float32) if net.vector_dim else None,
    )
    x = np.zeros((1, *config.data.image_shape), np.float32)
    return config.make_net().init(key, x, np.zeros(1, np.int32), cond)["params"]


def param_shapes(config: Config):
    """Structure, shapes and dtypes of the parameters, computing nothing."""
    return jax.eval_shape(lambda: new_params(config, jax.random.key(0)))


def new_state(config: Config) -> TrainState:
    """The state before the first step, as NumPy arrays."""
    return jax.device_get(jax.jit(_init, static_argnums=0)(config, _key(config, 0)))


def state_shapes(config: Config) -> TrainState:
    """Structure, shapes and dtypes of the state, computing nothing."""
    return jax.eval_shape(lambda: _init(config, jax.random.key(0)))


def _init(config, key):
    extra = make_levels(config).init(config.diffusion.num_steps)
    return init(new_params(config, key), make_optimizer(config), extra)


def _key(config, use):
    """Key of initialisation (0), of noise and dropout (1), and of what a batch's levels share (2)."""
    return jax.random.fold_in(jax.random.key(config.train.seed), use)
