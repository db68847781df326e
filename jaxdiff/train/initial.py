"""What training begins with: parameters, optimizer and state."""

import functools

import jax
import numpy as np

from jaxdiff import objectives
from jaxdiff.config import Config
from jaxdiff.nets.autoencoder import AutoencoderConfig
from jaxdiff.nets.clip import CLIPConfig, TextConfig
from jaxdiff.nets.critic import PatchCritic
from jaxdiff.nets.unet import UNetConfig
from jaxdiff.nets.vq_vae import Codebook
from jaxdiff.train import adaptation, optim, parallel
from jaxdiff.train.state import TrainState, init
from jaxdiff.types import Cond


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


def make_levels(config: Config) -> objectives.LevelDraw:
    """How the levels that examples are trained at are drawn."""
    makers = {
        "uniform": objectives.uniform,
        "clean": objectives.clean,
        "logit_normal": objectives.logit_normal,
        "stratified": lambda: objectives.stratified(key_for(config, 2), config.train.batch_size),
        "importance": lambda: objectives.importance(axis_name=parallel.AXIS),
    }
    return makers[config.diffusion.levels]()


def new_params(config: Config, key, base=None):
    """Freshly initialised parameters of all that the config trains; of a `base`, see `adaptation.new_params`."""
    if base:
        return adaptation.new_params(config, base, key)
    net, arguments = config.make_net(), example(config)
    params = net.init(key, *arguments)["params"]
    if not config.reconstruction.critic_weight:
        return params
    critic = PatchCritic().init(jax.random.fold_in(key, 1), *arguments)["params"]
    return {"autoencoder": params, "critic": critic}


def example(config: Config) -> tuple:
    """What the config's network is called with, of one example, for its shapes."""
    net, x = config.net, np.zeros((1, *config.shape), np.float32)
    if isinstance(net, AutoencoderConfig):
        return (x,)
    if isinstance(net, TextConfig):
        return (np.zeros((1, net.length), np.int32),)
    if isinstance(net, CLIPConfig):
        return np.zeros((1, net.text.length), np.int32), x
    context = (1, net.context_length or 1, net.context_dim)
    cond = Cond(
        label=np.zeros(1, np.int32) if net.num_classes else None,
        vector=np.zeros((1, net.vector_dim), np.float32) if net.vector_dim else None,
        context=np.zeros(context, np.float32) if net.context_dim else None,
    )
    return x, np.zeros(1, np.int32), cond


def new_extra(config: Config, key):
    """What the objective remembers, before the first step."""
    if isinstance(config.net, UNetConfig):
        return make_levels(config).init(config.diffusion.num_levels)
    if config.reconstruction.words:
        return Codebook.init(jax.random.normal(key, (config.reconstruction.words, config.net.latent_channels)))
    return ()


def weights(config: Config, ema, extra):
    """Of a state, what the trained network consists of: without a critic, and with the words of its codebook."""
    ema = ema["autoencoder"] if config.reconstruction.critic_weight else ema
    return {**ema, "quantize": {"embedding": extra.words}} if config.reconstruction.words else ema


@functools.cache
def weight_shapes(config: Config):
    """Structure, shapes and dtypes of `weights`, computing nothing."""
    key = jax.random.key(0)
    return jax.eval_shape(lambda: weights(config, new_params(config, key), new_extra(config, key)))


def param_shapes(config: Config, base=None):
    """Structure, shapes and dtypes of the parameters that are trained, computing nothing."""
    return jax.eval_shape(lambda: new_params(config, jax.random.key(0), base))


def new_state(config: Config, base=None) -> TrainState:
    """The state before the first step, as NumPy arrays; `base` is the model that is adapted, if one is."""
    if base:  # whose parameters would be constants of a program
        return jax.device_get(_init(config, key_for(config, 0), base))
    return jax.device_get(jax.jit(_init, static_argnums=0)(config, key_for(config, 0)))


def state_shapes(config: Config, base=None) -> TrainState:
    """Structure, shapes and dtypes of the state, computing nothing."""
    return jax.eval_shape(lambda: _init(config, jax.random.key(0), base))


def _init(config, key, base=None):
    return init(new_params(config, key, base), make_optimizer(config), new_extra(config, jax.random.fold_in(key, 2)))


def step_key(config: Config) -> jax.Array:
    """The key of noise and dropout, of which the training step folds a step's; initialisation has its own."""
    return key_for(config, 1)


def key_for(config: Config, use: int) -> jax.Array:
    """Key of initialisation (0), of noise and dropout (1), and of what a batch's levels share (2)."""
    return jax.random.fold_in(jax.random.key(config.train.seed), use)
