"""The state before the first step: parameters, optimizer, and the objective's own state."""

import dataclasses
import functools

import jax

from jaxdiff import objectives
from jaxdiff.config import Config, Data, Sample, Train
from jaxdiff.model import Model, adaptation
from jaxdiff.model.params import codebook_size, init_codebook, init_params
from jaxdiff.seeds import key_of
from jaxdiff.train import optim, parallel
from jaxdiff.train.state import TrainState, init


def program(config: Config) -> Config:
    """The config with the defaults of all that no compiled program of a training without frozen models depends on."""
    T, data = config.train, Data(image_shape=config.data.image_shape)
    train = Train(rate_steps(config), T.batch_size, T.accumulate, T.steps_per_call, T.seed)
    train = dataclasses.replace(train, parallel=T.parallel, mesh=T.mesh, rules=T.rules)
    return dataclasses.replace(config, name="", data=data, train=train, sample=Sample())


def rate_steps(config: Config) -> int:
    """Steps over which the learning rate changes; a constant one is the same in trainings of any length."""
    return config.train.steps if config.optim.decay_to != 1 else config.optim.warmup + 1


def make_optimizer(config: Config):
    """The optimizer of a config."""
    o = config.optim
    return optim.optimizer(
        o.learning_rate,
        rate_steps(config),
        o.warmup,
        o.decay_to,
        clip=o.clip,
        b1=o.b1,
        b2=o.b2,
        weight_decay=o.weight_decay,
        method=o.method,
        moment_dtype=o.moment_dtype,
    )


def make_levels(config: Config) -> objectives.LevelDraw:
    """The distribution of the levels of training examples."""
    return config.diffusion.levels(
        key=key_for(config, 2),
        batch_size=config.train.batch_size,
        axis_name=parallel.axis_name(config.train),
        schedule=config.diffusion.make_schedule(),
    )


def new_params(config: Config, key, base: Model | None = None):
    """Initial parameters of everything that is trained; with a base model, see `model.adaptation.init_trained`."""
    return adaptation.init_trained(config, base, key) if base else init_params(config, key)


def new_extra(config: Config, key):
    """Initial state of the objective: losses by level, or a codebook; () without."""
    if config.role in ("denoiser", "classifier"):
        return make_levels(config).init(config.diffusion.num_levels)
    return init_codebook(config, key)


def codebook(config: Config, extra):
    """The codebook's vectors in an objective's state; None without a codebook."""
    return extra.words if codebook_size(config) else None


def new_state(config: Config, base: Model | None = None) -> TrainState:
    """The state before the first step; `base` is the model that is adapted.

    As NumPy arrays, or where `train.parallel` is "sharded" on its mesh.
    """
    devices, key = parallel.of(config.train), key_for(config, 0)
    if not base:
        return devices.made(functools.partial(_compiled_init, program(config)), key)
    return devices.made(lambda key, arrays: _init(config, key, _with_arrays(base, arrays)), key, _arrays(base))


def _arrays(base):
    """The parameters of a base model that may be trained: arguments of a program, which would make constants of them."""
    text = base.submodels.get("text_encoder")
    return {"unet": base.params} | ({"text": text.params} if text else {})


def _with_arrays(base, arrays):
    texts = {"text_encoder": base.submodels["text_encoder"].replace(params=arrays["text"])} if "text" in arrays else {}
    return base.replace(params=arrays["unet"], submodels={**base.submodels, **texts})


def state_shapes(config: Config, base: Model | None = None) -> TrainState:
    """Structure, shapes and dtypes of the state."""
    if base:
        return jax.eval_shape(lambda: _init(config, key_of(0), base))
    return _compiled_init.eval_shape(program(config), key_of(0))  # traced once for both


def _init(config, key, base=None):
    return init(new_params(config, key, base), make_optimizer(config), new_extra(config, jax.random.fold_in(key, 2)))


_compiled_init = jax.jit(_init, static_argnums=0)


def step_key(config: Config) -> jax.Array:
    """The key of noise and dropout, from which the training step folds in the number of the step."""
    return key_for(config, 1)


def key_for(config: Config, use: int) -> jax.Array:
    """Key of initialisation (0), of noise and dropout (1), and of levels that a batch shares (2)."""
    return jax.random.fold_in(key_of(config.train.seed), use)
