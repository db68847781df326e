"""Diffusion in latent space: the same diffusion between an encoder and a decoder (Rombach et al. 2022).

(1)  z = f E(x),   x = D(z / f)          f the scaling factor that brings latents near unit variance        section 4.3, D.1
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from jaxdiff.nets.kl_vae import KLAutoencoder
from jaxdiff.nets.vq_vae import VQAutoencoder, quantize
from jaxdiff.samplers import normal
from jaxdiff.text.encoder import TextEncoder
from jaxdiff.types import Array, Static


class Codec(NamedTuple):
    """The two ends of a diffusion in latent space, equation (1), both pytrees.

    Attributes:
      encode: (images [B, H, W, C] in [-1, 1], keys [B] or None) -> latents [B, h, w, c]; without keys the likeliest.
      decode: latents -> images in about [-1, 1].
    """

    encode: Partial
    decode: Partial


class Encoders(NamedTuple):
    """What stands at the two ends of a diffusion: texts go in, images come out; None is none.

    Attributes:
      codec: of the latents that are diffused.
      text_encoder: from texts to what the network's cross-attention reads.
    """

    codec: Codec | None = None
    text_encoder: TextEncoder | None = None


def kl_codec(net: KLAutoencoder, params, scaling_factor: float = 0.18215) -> Codec:
    """The codec of a `KLAutoencoder`.

    Args:
      net: the autoencoder.
      params: its parameters.
      scaling_factor: f of equation (1), from the config of the model: 0.18215 in Stable Diffusion 1 and 2.

    Returns:
      `Codec`, which with keys draws the latent, and without takes its mean.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff import latent
        >>> from jaxdiff.nets.autoencoder import AutoencoderConfig
        >>> from jaxdiff.nets.kl_vae import KLAutoencoder
        >>> net, x = KLAutoencoder(AutoencoderConfig(channels=(8, 16), blocks=1, groups=4)), jnp.zeros([2, 16, 16, 3])
        >>> codec = latent.kl_codec(net, jax.jit(net.init)(jax.random.key(0), x)["params"])
        >>> z = jax.jit(codec.encode)(x)
        >>> z.shape, jax.jit(codec.decode)(z).shape
        ((2, 8, 8, 4), (2, 16, 16, 3))
    """
    factor = jnp.asarray(scaling_factor, jnp.float32)
    return Codec(Partial(_kl_encode, Static(net), params, factor), Partial(_decode, Static(net), params, factor))


def vq_codec(net: VQAutoencoder, params, codebook: Array, scaling_factor: float = 1.0) -> Codec:
    """The codec of a `VQAutoencoder`; what is decoded is first moved to the nearest words.

    Args:
      net: the autoencoder.
      params: its parameters.
      codebook: of its codebook [K, D].
      scaling_factor: f of equation (1).

    Returns:
      `Codec`, whose latents are those before the codebook: a diffusion draws near words, and decoding finds them.
    """
    factor = jnp.asarray(scaling_factor, jnp.float32)
    encode = Partial(_vq_encode, Static(net), params, factor)
    return Codec(encode, Partial(_vq_decode, Static(net), params, codebook, factor))


def _kl_encode(net, params, factor, x, keys=None):
    q = net.value.apply({"params": params}, x, method="encode")
    z = q.mean if keys is None else q.mean + q.std * normal(keys, q.mean.shape[1:])
    return factor * z


def _vq_encode(net, params, factor, x, keys=None):
    del keys  # nothing is random
    return factor * net.value.apply({"params": params}, x, method="encode")


def _decode(net, params, factor, z):
    return net.value.apply({"params": params}, z / factor, method="decode")


def _vq_decode(net, params, words, factor, z):
    return net.value.apply({"params": params}, quantize(words, z / factor)[0], method="decode")


def sliced(codec: Codec, size: int = 1) -> Codec:
    """The same codec, decoding so many images at a time: less memory.

    Args:
      codec: any codec.
      size: images at a time, at least 1.

    Raises:
      ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"size={size} must be at least 1")
    return codec._replace(decode=Partial(_sliced, Static(size), codec.decode))


def _sliced(size, decode, z):
    return lax.map(lambda z: decode(z[None])[0], z, batch_size=size.value)


def tiled(codec: Codec, tile: int = 64, overlap: int = 16) -> Codec:
    """The same codec, decoding squares that overlap, one after the other: large images in the memory of small ones.

    Where squares overlap their images are mixed, the share of each falling to 0 towards its edge. Attention and norms then
    see one square at a time, so that colours may differ a little from those of the whole.

    Args:
      codec: any codec.
      tile: side of the squares, in latents.
      overlap: of neighbouring squares, in latents, from 0 to tile - 1.

    Raises:
      ValueError: no such squares.

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
        raise ValueError(f"overlap={overlap} must lie in 0..tile - 1, and tile={tile} be above 0")
    return codec._replace(decode=Partial(_tiled, Static(tile), Static(overlap), codec.decode))


def _tiled(tile, overlap, decode, z):
    tile, overlap, (B, h, w, c) = tile.value, overlap.value, z.shape
    rows, columns = min(tile, h), min(tile, w)
    corners = list(itertools.product(_starts(h, rows, overlap), _starts(w, columns, overlap)))
    _, H, W, C = jax.eval_shape(decode, jax.ShapeDtypeStruct((B, rows, columns, c), z.dtype)).shape
    factor = H // rows
    share = _ramp(H, factor * overlap)[:, None] * _ramp(W, factor * overlap)[None]

    def add(so_far, corner):
        image, total = so_far
        square = decode(lax.dynamic_slice(z, (0, *corner, 0), (B, rows, columns, c)))
        at = (0, *(factor * n for n in corner), 0)
        shares = share[None, :, :, None]
        image = lax.dynamic_update_slice(image, lax.dynamic_slice(image, at, square.shape) + shares * square, at)
        total = lax.dynamic_update_slice(total, lax.dynamic_slice(total, at, shares.shape) + shares, at)
        return (image, total), None

    empty = jnp.zeros([B, factor * h, factor * w, C]), jnp.zeros([1, factor * h, factor * w, 1])
    (image, total), _ = lax.scan(add, empty, tuple(jnp.array(n) for n in zip(*corners)))
    return image / total


def _starts(size, tile, overlap):
    """Where squares begin that cover a side, the last one ending with it."""
    return [*range(0, size - tile, max(1, tile - overlap)), size - tile]


def _ramp(size, overlap):
    """The share of a square along a side, float32 [size]: above 0, and rising and falling within the overlap."""
    place = jnp.arange(size) + 0.5
    edge = jnp.minimum(place, size - place)
    return jnp.minimum(edge / max(overlap, 0.5), 1.0)
