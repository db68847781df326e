"""The autoencoder of latent diffusion whose latents are kept near a normal distribution (Rombach et al. 2022, "KL-reg.").

(1)  q(z | x) = N(z; mu(x), sigma^2(x)),   x ~ D(z)
(2)  KL(q(z | x) || N(0, 1)) = 1/2 sum (mu^2 + sigma^2 - 1 - log sigma^2)              Kingma and Welling 2014, appendix B
"""

import jax.numpy as jnp
from flax import linen as nn

from jaxdiff.nets.autoencoder import AutoencoderConfig, ImageDecoder, ImageEncoder
from jaxdiff.nets.layers import Conv
from jaxdiff.types import Array, Gaussian

LOG_VARIANCE = -30.0, 20.0  # within which the logarithm of the variance is kept


class KLAutoencoder(nn.Module):
    """Encoder and decoder with a normal distribution between them, equation (1).

    Submodules carry the names that published checkpoints give them (`encoder/down_blocks_0/resnets_1/conv1`).

    Attributes:
      config: see `AutoencoderConfig`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.autoencoder import AutoencoderConfig
        >>> from jaxdiff.nets.kl_vae import KLAutoencoder
        >>> net = KLAutoencoder(AutoencoderConfig(channels=(8, 16), blocks=1, groups=4))
        >>> x = jnp.zeros([2, 16, 16, 3])
        >>> variables = jax.jit(net.init)(jax.random.key(0), x)
        >>> z = net.apply(variables, x, method="encode").mean
        >>> z.shape, net.apply(variables, z, method="decode").shape
        ((2, 8, 8, 4), (2, 16, 16, 3))
    """

    config: AutoencoderConfig

    def setup(self):
        channels, dtype = self.config.latent_channels, jnp.dtype(self.config.dtype)
        self.encoder = ImageEncoder(self.config, 2 * channels)
        self.decoder = ImageDecoder(self.config)
        if self.config.quant_convs:
            self.quant_conv = Conv(2 * channels, size=1, dtype=dtype)
            self.post_quant_conv = Conv(channels, size=1, dtype=dtype)

    def encode(self, x: Array) -> Gaussian:
        """q(z | x).

        Args:
          x: images [B, H, W, C] in [-1, 1].

        Returns:
          Mean and standard deviation, float32 [B, h, w, latent_channels].

        Raises:
          ValueError: images of other channels, or whose sides cannot be divided.
        """
        h = self.encoder(x)
        h = self.quant_conv(h) if self.config.quant_convs else h
        mean, log_variance = jnp.split(h.astype(jnp.float32), 2, axis=-1)
        return Gaussian(mean, jnp.exp(0.5 * jnp.clip(log_variance, *LOG_VARIANCE)))

    def decode(self, z: Array) -> Array:
        """z [B, h, w, latent_channels] -> images, float32 [B, H, W, C], in about [-1, 1]."""
        return self.decoder(self.post_quant_conv(z) if self.config.quant_convs else z)

    def __call__(self, x: Array) -> tuple[Array, Gaussian]:
        """Images decoded from the mean, and q(z | x)."""
        q = self.encode(x)
        return self.decode(q.mean), q


def divergence(q: Gaussian) -> Array:
    """KL(q || N(0, 1)) in nats, equation (2), summed over all but the first axis.

    Args:
      q: mean and standard deviation [B, ...].

    Returns:
      float32 [B].

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.nets.kl_vae import divergence
        >>> from jaxdiff.types import Gaussian
        >>> divergence(Gaussian(jnp.array([[0.0, 3.0]]), jnp.ones([1, 2]))).tolist()
        [4.5]
    """
    variance = jnp.square(q.std)
    terms = jnp.square(q.mean) + variance - 1 - jnp.log(variance)
    return 0.5 * terms.sum(tuple(range(1, terms.ndim)))
