"""The convolutional encoder and decoder of latent diffusion (Rombach et al. 2022; Esser et al. 2021, VQGAN).

They are a U-Net's way down and way up without time and without what crosses over.
"""

import jax.numpy as jnp
from flax import linen as nn

from jaxdiff.nets.autoencoder_config import AutoencoderConfig
from jaxdiff.nets.layers import Conv, GroupNorm, depth_to_space, space_to_depth
from jaxdiff.nets.unet import BlockCond, DownBlock, MidBlock, UpBlock
from jaxdiff.types import Array


class ImageEncoder(nn.Module):
    """Images [B, H, W, C] -> [B, h, w, features], the sides divided by `config.factor`."""

    config: AutoencoderConfig
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        self.config.latent_shape(x.shape)
        cfg, dtype = self.config.unet(), jnp.dtype(self.config.dtype)
        x = Conv(cfg.channels[0], dtype=dtype, name="conv_in")(space_to_depth(x, cfg.patch))
        for level in range(len(cfg.channels)):
            x, _ = DownBlock(level, cfg, name=f"down_blocks_{level}")(x, BlockCond())
        x = MidBlock(cfg, name="mid_block")(x, BlockCond())
        x = nn.silu(GroupNorm(cfg.groups, cfg.eps, dtype, name="conv_norm_out")(x))
        return Conv(self.features, dtype=dtype, name="conv_out")(x)


class ImageDecoder(nn.Module):
    """Latents [B, h, w, latent_channels] -> float32 images [B, H, W, C]."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, z: Array) -> Array:
        cfg, dtype, depth = self.config.unet(), jnp.dtype(self.config.dtype), len(self.config.channels)
        x = Conv(cfg.channels[-1], dtype=dtype, name="conv_in")(z)
        x = MidBlock(cfg, name="mid_block")(x, BlockCond())
        for i in range(depth):
            x = UpBlock(depth - 1 - i, cfg, name=f"up_blocks_{i}")(x, None, BlockCond())
        x = nn.silu(GroupNorm(cfg.groups, cfg.eps, dtype, name="conv_norm_out")(x))
        x = Conv(self.config.image_channels * cfg.patch**2, dtype=dtype, name="conv_out")(x)
        return depth_to_space(x, cfg.patch).astype(jnp.float32)
