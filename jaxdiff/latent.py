"""Latent diffusion: diffusion between an image encoder and a decoder (Rombach et al. 2022).

(1)  z = f E(x),   x = D(z / f)          f the scaling factor, which gives latents about unit variance      section 4.3, D.1
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from jaxdiff.nets.kl_vae import KLAutoencoder
from jaxdiff.nets.vq_vae import VQAutoencoder, quantize
from jaxdiff.samplers import normal
from jaxdiff.types import Array, Static


class Codec(NamedTuple):
    """Image encoder and decoder of a latent diffusion model, equation (1); a pytree, and so are both functions.

    A jitted function takes the codec as an argument, so that its weights are traced: codecs of one structure then share a
    compilation. Under `jax.jit(codec.decode)` the weights would be constants of the program, and each call of `jax.jit` on
    a new codec a new compilation.

    Attributes:
      encode: (images [B, H, W, C] in [-1, 1], keys [B] or None) -> latents [B, h, w, c]; the mean of their distribution
        without keys, a sample with them.
      decode: latents -> images in about [-1, 1].

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jax.tree_util import Partial
        >>> from jaxdiff import latent
        >>> decode = jax.jit(lambda codec, z: codec.decode(z))
        >>> codecs = [latent.Codec(None, Partial(jnp.multiply, factor)) for factor in (2.0, 3.0)]
        >>> [decode(codec, jnp.ones([1])).tolist() for codec in codecs]  # one compilation
        [[2.0], [3.0]]
    """

    encode: Partial
    decode: Partial


def kl_codec(net: KLAutoencoder, params, scaling_factor: float = 0.18215, mean=0.0, std=1.0) -> Codec:
    """Codec of a `KLAutoencoder`.

    Args:
      net: the autoencoder.
      params: its parameters.
      scaling_factor: f of equation (1), from the model's config: 0.18215 in Stable Diffusion 1 and 2. Traced.
      mean: what is taken off the latents before, a number or one for each channel. Traced.
      std: what they are divided by before, likewise.

    Returns:
      `Codec`; `encode` samples from the posterior with keys, and returns its mean without.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff import latent
        >>> from jaxdiff.nets.autoencoder import AutoencoderConfig
        >>> from jaxdiff.nets.kl_vae import KLAutoencoder
        >>> net, x = KLAutoencoder(AutoencoderConfig(channels=(8, 16), blocks=1, groups=4)), jnp.zeros([2, 16, 16, 3])
        >>> codec = latent.kl_codec(net, jax.jit(net.init)(jax.random.key(0), x)["params"])
        >>> z = jax.jit(lambda codec, x: codec.encode(x))(codec, x)
        >>> z.shape, jax.jit(lambda codec, z: codec.decode(z))(codec, z).shape
        ((2, 8, 8, 4), (2, 16, 16, 3))
    """
    by_channel = lambda x: jnp.asarray(x, jnp.float32).reshape((1, 1, 1, -1) if np.ndim(x) else ())
    factor, mean, std = map(by_channel, (scaling_factor, mean, std))
    shared = Static(net), params, factor / std, mean
    return Codec(Partial(_kl_encode, *shared), Partial(_decode, *shared))


def vq_codec(net: VQAutoencoder, params, codebook: Array, scaling_factor: float = 1.0) -> Codec:
    """Codec of a `VQAutoencoder`; decoding first quantizes the latents to the nearest codebook vectors.

    Args:
      net: the autoencoder.
      params: its parameters.
      codebook: vectors of the codebook [K, D].
      scaling_factor: f of equation (1). Traced.

    Returns:
      `Codec`; its latents are those before quantization.
    """
    factor = jnp.asarray(scaling_factor, jnp.float32)
    encode = Partial(_vq_encode, Static(net), params, factor)
    return Codec(encode, Partial(_vq_decode, Static(net), params, codebook, factor))


def _kl_encode(net, params, factor, mean, x, keys=None):
    q = net.value.apply({"params": params}, x, method="encode")
    z = q.mean if keys is None else q.mean + q.std * normal(keys, q.mean.shape[1:])
    return factor * (z - mean)


def _vq_encode(net, params, factor, x, keys=None):
    del keys  # the encoder is deterministic
    return factor * net.value.apply({"params": params}, x, method="encode")


def _decode(net, params, factor, mean, z):
    return net.value.apply({"params": params}, z / factor + mean, method="decode")


def _vq_decode(net, params, codebook, factor, z):
    return net.value.apply({"params": params}, quantize(codebook, z / factor)[0], method="decode")


def sliced(codec: Codec, size: int = 1) -> Codec:
    """The same codec, which decodes a few images at a time, in less memory.

    Args:
      codec: any codec.
      size: images at a time, at least 1.

    Raises:
      ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"`size`={size} must be at least 1")
    return codec._replace(decode=Partial(_sliced, Static(size), codec.decode))


def _sliced(size, decode, z):
    return lax.map(lambda z: decode(z[None])[0], z, batch_size=size.value)


def tiled(codec: Codec, tile: int = 64, overlap: int = 16) -> Codec:
    """The same codec, which decodes overlapping tiles one after the other: large images in the memory of small ones.

    Where tiles overlap their images are averaged, with weights that fall to 0 towards the edges of a tile. Attention and
    norms see one tile at a time, so that colours may differ a little from those of an image decoded at once.

    Args:
      codec: any codec.
      tile: side of the tiles, in latents.
      overlap: of neighbouring tiles, in latents, from 0 to tile - 1.

    Raises:
      ValueError: a tile below 1, or an overlap outside of that range.

    Example::

        >>> import jax.numpy as jnp
        >>> from jax.tree_util import Partial
        >>> from jaxdiff import latent
        >>> double = Partial(lambda z: z.repeat(2, 1).repeat(2, 2))
        >>> codec = latent.tiled(latent.Codec(None, double), tile=4, overlap=2)
        >>> z = jnp.arange(49.0).reshape(1, 7, 7, 1)
        >>> bool(jnp.allclose(codec.decode(z), double(z)))
        True
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"`overlap`={overlap} must lie in 0..`tile` - 1, and `tile`={tile} be at least 1")
    return codec._replace(decode=Partial(_tiled, Static(tile), Static(overlap), codec.decode))


def _tiled(tile, overlap, decode, z):
    tile, overlap, (B, h, w, c) = tile.value, overlap.value, z.shape
    rows, columns = min(tile, h), min(tile, w)
    corners = list(itertools.product(_starts(h, rows, overlap), _starts(w, columns, overlap)))
    _, H, W, C = jax.eval_shape(decode, jax.ShapeDtypeStruct((B, rows, columns, c), z.dtype)).shape
    factor = H // rows
    weights = _ramp(H, factor * overlap)[:, None] * _ramp(W, factor * overlap)[None]
    weights = weights[None, :, :, None]

    def add(sums, corner):
        weighted, total = sums
        decoded = decode(lax.dynamic_slice(z, (0, *corner, 0), (B, rows, columns, c)))
        at = (0, *(factor * n for n in corner), 0)
        weighted = lax.dynamic_update_slice(
            weighted, lax.dynamic_slice(weighted, at, decoded.shape) + weights * decoded, at
        )
        total = lax.dynamic_update_slice(total, lax.dynamic_slice(total, at, weights.shape) + weights, at)
        return (weighted, total), None

    zeros = tuple(jnp.zeros([n, factor * h, factor * w, c], jnp.float32) for n, c in ((B, C), (1, 1)))
    (weighted, total), _ = lax.scan(add, zeros, tuple(jnp.array(n) for n in zip(*corners)))
    return weighted / total


def _starts(size, tile, overlap):
    """Starts of tiles that cover a side; the last tile ends with the side."""
    return [*range(0, size - tile, max(1, tile - overlap)), size - tile]


def _ramp(size, overlap):
    """Weights along one side of a tile, float32 [size]: above 0, rising and falling within the overlap."""
    place = jnp.arange(size, dtype=jnp.float32) + 0.5
    edge = jnp.minimum(place, size - place)
    return jnp.minimum(edge / max(overlap, 0.5), 1.0)
