"""The autoencoder of latent diffusion whose latents are words of a codebook (van den Oord et al. 2017, VQ-VAE).

(1)  z_q = e_k,   k = argmin_j |z_e - e_j|                                              eq. 1, 2
(2)  the decoder's gradient goes to z_e as if z_q were it ("straight through")          section 3.2
(3)  N_j <- d N_j + (1 - d) n_j,  m_j <- d m_j + (1 - d) sum_{i: k_i = j} z_i,  e_j = m_j / N_j      appendix A.1
     with n_j the number of latents that fall to e_j, instead of a gradient of |sg(z_e) - e|^2
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxdiff.nets.autoencoder import AutoencoderConfig, ImageDecoder, ImageEncoder
from jaxdiff.nets.layers import Conv
from jaxdiff.types import Array


class VQAutoencoder(nn.Module):
    """Encoder and decoder; the codebook between them is no parameter, see `Codebook`.

    Submodules carry the names that published checkpoints give them, `quantize/embedding` being the codebook's words.

    Attributes:
      config: see `AutoencoderConfig`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.autoencoder import AutoencoderConfig
        >>> from jaxdiff.nets.vq_vae import VQAutoencoder, quantize
        >>> net = VQAutoencoder(AutoencoderConfig(channels=(8, 16), blocks=1, groups=4))
        >>> x, words = jnp.zeros([2, 16, 16, 3]), jax.random.normal(jax.random.key(1), [32, 4])
        >>> variables = jax.jit(net.init)(jax.random.key(0), x)
        >>> z, index = quantize(words, net.apply(variables, x, method="encode"))
        >>> net.apply(variables, z, method="decode").shape, index.shape
        ((2, 16, 16, 3), (2, 8, 8))
    """

    config: AutoencoderConfig

    def setup(self):
        channels, dtype = self.config.latent_channels, jnp.dtype(self.config.dtype)
        self.encoder = ImageEncoder(self.config, channels)
        self.decoder = ImageDecoder(self.config)
        self.quant_conv = Conv(channels, size=1, dtype=dtype)
        self.post_quant_conv = Conv(channels, size=1, dtype=dtype)

    def encode(self, x: Array) -> Array:
        """Images [B, H, W, C] in [-1, 1] -> z_e, float32 [B, h, w, latent_channels].

        Raises:
          ValueError: images of other channels, or whose sides cannot be divided.
        """
        return self.quant_conv(self.encoder(x)).astype(jnp.float32)

    def decode(self, z: Array) -> Array:
        """z_q [B, h, w, latent_channels] -> images, float32 [B, H, W, C], in about [-1, 1]."""
        return self.decoder(self.post_quant_conv(z))

    def __call__(self, x: Array) -> Array:
        """Images decoded from z_e itself: for initialisation."""
        return self.decode(self.encode(x))


def quantize(words: Array, z: Array) -> tuple[Array, Array]:
    """The nearest words, equations (1) and (2).

    Args:
      words: [K, D].
      z: [..., D].

    Returns:
      (z_q [..., D], with the gradient of z; which words they are, int32 [...]).

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.vq_vae import quantize
        >>> words = jnp.array([[0.0, 0.0], [1.0, 1.0]])
        >>> z_q, index = quantize(words, jnp.array([[0.9, 0.7]]))
        >>> z_q.tolist(), index.tolist()
        ([[1.0, 1.0]], [1])
    """
    words, flat = jnp.asarray(words), z.reshape(-1, z.shape[-1])
    # In full precision also on TPUs, where two words are near; |z|^2 is the same for all words.
    products = jnp.matmul(flat, words.T, precision=lax.Precision.HIGHEST)
    distance = jnp.square(words).sum(1)[None] - 2 * products
    index = distance.argmin(1).reshape(z.shape[:-1])
    return z + lax.stop_gradient(words[index] - z), index


class Codebook(NamedTuple):
    """Words and the running sums that they are the quotient of, equation (3).

    Attributes:
      words: e [K, D].
      count: N [K].
      total: m [K, D].
    """

    words: Array
    count: Array
    total: Array

    @classmethod
    def init(cls, words: Array) -> "Codebook":
        """The codebook of these words [K, D], each as if seen once."""
        return cls(words, jnp.ones(len(words), jnp.float32), words)


def moved(
    book: Codebook, key: Array, z: Array, index: Array, decay: float, dead: float, axis_name: str | None = None
) -> Codebook:
    """The codebook after one batch, equation (3); a word that few latents fall to begins again as one of them.

    Args:
      book: before.
      key: random key, the same on all devices, of which latent a dead word becomes.
      z: latents [..., D].
      index: which word each fell to, int [...].
      decay: d, in [0, 1).
      dead: a word whose running count is below this begins again; 0 is never.
      axis_name: of the devices over which sums are taken.

    Returns:
      The codebook after.
    """
    K, D = book.words.shape
    flat, index = z.reshape(-1, D), index.reshape(-1)
    count = jax.ops.segment_sum(jnp.ones(len(index), jnp.float32), index, K)
    total = jax.ops.segment_sum(flat, index, K)
    if axis_name is not None:
        count, total = lax.psum((count, total), axis_name)
        flat = lax.all_gather(flat, axis_name).reshape(-1, D)
    count, total = (decay * old + (1 - decay) * new for old, new in ((book.count, count), (book.total, total)))
    others = flat[jax.random.randint(key, [K], 0, len(flat), jnp.int32)]
    start = dead + 1.0  # not to be dead at once again
    alive = count >= dead
    count = jnp.where(alive, count, start)
    total = jnp.where(alive[:, None], total, start * others)
    words = jnp.where(count[:, None] > 1e-6, total / jnp.maximum(count, 1e-6)[:, None], book.words)
    return Codebook(words, count, total)


def perplexity(count: Array) -> Array:
    """exp of the entropy of how often words are used [K]: how many words it would be, were they used equally often."""
    share = count / count.sum()
    return jnp.exp(-jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1.0)), 0.0).sum())
