"""The control branch of ControlNet: the U-Net's encoder once more, which is also shown a picture (Zhang et al. 2023).

With E the encoder, whose outputs z_1, ..., z_n are the skips and the bottom, E' its trainable copy, p the picture, and Z
convolutions that are zero at first:

(1)  h = Z_0(embed(p)),   r_i = Z_i(E'(x_t, t, c; h)_i)        section 3.1, eq. 2; h is added after the first convolution
(2)  eps = D(z_1 + r_1, ..., z_n + r_n)                        with D the decoder, see `jaxdiff.adapt.control`
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from jaxdiff.arguments import check_own_types
from jaxdiff.nets.layers import Conv, zeros_init
from jaxdiff.nets.unet import UNetConfig, encode
from jaxdiff.types import Array, Cond


@dataclasses.dataclass(frozen=True)
class ControlConfig:
    """Shape of a `ControlNet`. The defaults are those for latents of one eighth of the picture's sides.

    Attributes:
      unet: of the network that is controlled; `out_channels` makes no difference here.
      picture_channels: channels of the picture.
      embedding: channels of the layers that read the picture; between any two its sides are halved, down to those of the
        noisy image (divided by `unet.patch`).
    """

    unet: UNetConfig
    picture_channels: int = 3
    embedding: tuple[int, ...] = (16, 32, 96, 256)

    def __post_init__(self):
        check_own_types(self)
        if self.picture_channels < 1 or not self.embedding or min(self.embedding) < 1:
            raise ValueError(
                f"picture_channels={self.picture_channels} and all of embedding={self.embedding} must be at least 1, "
                "and embedding not empty"
            )

    def picture_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """The shape of the picture that goes with noisy images [..., H, W, C].

        Raises:
          ValueError: images that the U-Net cannot halve often enough.

        Example::

            >>> from jaxdiff import UNetConfig
            >>> from jaxdiff.nets.controlnet import ControlConfig
            >>> ControlConfig(UNetConfig()).picture_shape((64, 64, 4))
            (512, 512, 3)
        """
        self.unet.check_image(shape)
        factor = 2 ** (len(self.embedding) - 1)
        height, width = (side // self.unet.patch * factor for side in shape[-3:-1])
        return height, width, self.picture_channels


class PictureEmbedding(nn.Module):
    """A picture as features of a U-Net: convolutions, every other one of which halves its sides; the last starts at zero.

    Attributes:
      features: of the output.
      channels: of the layers before.
      dtype: of the computation.
    """

    features: int
    channels: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, p: Array) -> Array:
        """p [B, H, W, C] -> [B, H / f, W / f, features], f = 2^(len(channels) - 1)."""
        h = nn.silu(Conv(self.channels[0], dtype=self.dtype, name="conv_in")(p))
        for i, (here, there) in enumerate(zip(self.channels, self.channels[1:])):
            h = nn.silu(Conv(here, dtype=self.dtype, name=f"blocks_{2 * i}")(h))
            h = nn.silu(Conv(there, stride=2, dtype=self.dtype, name=f"blocks_{2 * i + 1}")(h))
        return Conv(self.features, init=zeros_init, dtype=self.dtype, name="conv_out")(h)


class ControlNet(nn.Module):
    """Residuals of the skips and bottom features of a `UNet` of the same config, equation (1); zero at initialisation.

    Layers that the `UNet` has, too, have the same names and shapes; the others are named as in published checkpoints.

    Attributes:
      config: see `ControlConfig`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff import Cond, UNetConfig
        >>> from jaxdiff.nets.controlnet import ControlConfig, ControlNet
        >>> net = ControlNet(ControlConfig(UNetConfig(channels=(8, 16), blocks=1, groups=4), embedding=(4, 8)))
        >>> x, t, cond = jnp.zeros([2, 8, 8, 3]), jnp.arange(2), Cond(control=jnp.zeros([2, 16, 16, 3]))
        >>> residuals, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), x, t, cond)
        >>> [r.shape[1:] for r in residuals]
        [(8, 8, 8), (8, 8, 8), (4, 4, 8), (4, 4, 16), (4, 4, 16)]
    """

    config: ControlConfig

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, keys: Array | None = None) -> tuple[Array, ...]:
        """Runs the network.

        Args:
          x: noisy images [B, H, W, C].
          t: network times [B], level minus one.
          cond: control [B, H', W', picture_channels], float in [0, 1] or uint8 in 0..255, of the size that
            `ControlConfig.picture_shape` says; and the conditions of the `UNet`.
          keys: one random key per example for dropout; None is no dropout.

        Returns:
          As many arrays as the `UNet` has skips, and one for the bottom, each of the shape of its place, in the dtype of
          the computation.

        Raises:
          ValueError: no picture or one of another size or type, an image that cannot be halved often enough, or
            conditions that the config does not have.
        """
        cfg, dtype, cond = self.config.unet, jnp.dtype(self.config.unet.dtype), cond or Cond()
        embed = PictureEmbedding(cfg.channels[0], self.config.embedding, dtype, name="controlnet_cond_embedding")
        hint = embed(_picture(self.config, cond.control, x.shape))
        cond = cond._replace(control=None)
        if not cfg.guidance_dim:  # of a network that was distilled after the ControlNet was trained
            cond = cond._replace(guidance=None)
        if not cfg.image_prompt_dim:
            cond = cond._replace(image_prompt=None, image_prompt_scale=None)
        bottom, skips, _ = encode(cfg, x, t, cond, keys, hint)
        names = [*(f"controlnet_down_blocks_{i}" for i in range(len(skips))), "controlnet_mid_block"]
        zero = lambda h, name: Conv(h.shape[-1], size=1, init=zeros_init, dtype=dtype, name=name)(h)
        return tuple(map(zero, [*skips, bottom], names))


def _picture(config, picture, shape):
    """The picture in [0, 1], if it goes with images of that shape."""
    wanted = (shape[0], *config.picture_shape(shape))
    if picture is None:
        raise ValueError(f"this ControlNet needs a picture: cond.control {wanted}")
    if jnp.shape(picture) != wanted:
        raise ValueError(f"this ControlNet needs cond.control {wanted}, and this one is {jnp.shape(picture)}")
    dtype = jnp.result_type(picture)
    if dtype == jnp.uint8:
        return jnp.asarray(picture, jnp.float32) / 255
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"cond.control must be float in [0, 1] or uint8, not {dtype}")
    return jnp.asarray(picture)
