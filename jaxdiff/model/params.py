"""Parameters of networks: initialised, and their shapes without computing anything."""

import functools

import jax
import jax.numpy as jnp

from jaxdiff import sharding
from jaxdiff.config import Config
from jaxdiff.nets.critic import PatchCritic
from jaxdiff.nets.vq_vae import Codebook


def init_params(config: Config, key):
    """Initial parameters of everything that training from scratch trains: the network, and an autoencoder's critic."""
    return _init(config.net, config.shape, bool(config.reconstruction.critic_weight), key)


def _init(net, shape, with_critic, key):
    arguments = net.example(shape)
    params = net.make().init(key, *arguments)["params"]
    if not with_critic:
        return params
    critic = PatchCritic().init(jax.random.fold_in(key, 1), *arguments)["params"]
    return {"autoencoder": params, "critic": critic}


def init_codebook(config: Config, key):
    """Initial state of an autoencoder's codebook, see `nets.vq_vae.Codebook`; () of networks without one."""
    if not (size := codebook_size(config)):
        return ()
    return Codebook.init(jax.random.normal(key, (size, config.net.latent_channels), jnp.float32))


def codebook_size(config: Config) -> int:
    """Number of vectors in the network's codebook; 0 without one."""
    return getattr(config.net, "codebook_size", 0)


def model_params(config: Config, params, codebook=None):
    """Parameters of the trained network, of those of a training state.

    Args:
      config: config of the run.
      params: parameters of the state, or their average, with a critic where there is one.
      codebook: vectors of the codebook [K, D], where the network has one.
    """
    params = params["autoencoder"] if config.reconstruction.critic_weight else params
    return {**params, "quantize": {"embedding": codebook}} if codebook_size(config) else params


def dtype_of(params):
    """The dtype of parameters, which all of a model's share."""
    return jax.tree.leaves(params)[0].dtype


def as_those(params, others):
    """Parameters in the dtype of others and on the same devices, see `sharding.as_placed`."""
    return sharding.as_placed(jax.tree.map(lambda leaf: leaf.astype(dtype_of(others)), params), others)


def param_shapes(config: Config):
    """Structure, shapes and dtypes of a model's parameters."""
    codebook = jax.eval_shape(functools.partial(init_codebook, config), jax.random.key(0))
    return model_params(config, trained_shapes(config), codebook.words if codebook else None)


def trained_shapes(config: Config):
    """Structure, shapes and dtypes of what training from scratch trains; traced once for each network."""
    return _trained_shapes(config.net, config.shape, bool(config.reconstruction.critic_weight))


@functools.cache
def _trained_shapes(*network):
    return jax.eval_shape(functools.partial(_init, *network), jax.random.key(0))
