"""The U-Net of DDPM (Ho et al. 2020, appendix B) and of latent diffusion (Rombach et al. 2022)."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from jaxdiff.nets.attention import SelfAttention
from jaxdiff.nets.conditions import EmbeddingMLP, check_conditions, embed_interval, embed_label
from jaxdiff.nets.layers import (
    Conv,
    Dense,
    Dropout,
    GroupNorm,
    Upsample,
    depth_to_space,
    plus,
    space_to_depth,
    timestep_embedding,
    zeros_init,
)
from jaxdiff.nets.transformer import Context, ImageProjection, SpatialTransformer
from jaxdiff.nets.unet_config import UNetConfig, at
from jaxdiff.types import Array, Cond
from jaxdiff.xla import materialized


class BlockCond(NamedTuple):
    """Condition of a block.

    Attributes:
      time: embedding of the time [B, E], after silu; None in networks without time.
      gain: embedding of the multiplicative conditions [B, E], after silu; None without.
      keys: one random key per example for dropout; None is none.
      context: context of the transformer blocks; None without.
    """

    time: Array | None = None
    gain: Array | None = None
    keys: Array | None = None
    context: Context | None = None


class ResBlock(nn.Module):
    """norm, silu, conv; time and context; norm, silu, dropout, zero-initialised conv; added to the input."""

    features: int
    config: UNetConfig

    @nn.compact
    def __call__(self, x: Array, block_cond: BlockCond) -> Array:
        """x [B, H, W, C] -> [B, H, W, features]."""
        cfg, dtype = self.config, jnp.dtype(self.config.dtype)
        h = nn.silu(GroupNorm(cfg.groups, cfg.eps, dtype, name="norm1")(x))
        h = Conv(self.features, dtype=dtype, name="conv1")(h)
        if block_cond.gain is not None:
            gain = Dense(self.features, init=zeros_init, dtype=dtype, name="context_emb_proj")(block_cond.gain)
            # In float32 for the gradient of the gain, see `plus`.
            h = (h.astype(jnp.float32) * (1 + gain[:, None, None])).astype(dtype)
        scale_shift = None
        if block_cond.time is not None and cfg.time_mode == "add":
            h = plus(h, Dense(self.features, dtype=dtype, name="time_emb_proj")(block_cond.time)[:, None, None])
        elif block_cond.time is not None:
            scale_shift = jnp.split(
                Dense(2 * self.features, dtype=dtype, name="time_emb_proj")(block_cond.time), 2, axis=-1
            )
        h = nn.silu(GroupNorm(cfg.groups, cfg.eps, dtype, name="norm2")(h, scale_shift))
        h = Dropout(cfg.dropout, name="dropout")(h, block_cond.keys)
        h = Conv(self.features, init=zeros_init, dtype=dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, size=1, dtype=dtype, name="conv_shortcut")(x)
        return materialized(x + h)


_remat = functools.cache(nn.remat)  # of a class always the same class


def _res_block(features, cfg, name):
    return (_remat(ResBlock) if cfg.remat else ResBlock)(features, cfg, name=name)


def _attention(cfg, level, name, x, block_cond):
    """Self-attention, or a transformer where there is a context, at the resolution of that position in `channels`."""
    dtype, kernel, heads = jnp.dtype(cfg.dtype), cfg.attention_kernel, cfg.heads(level)
    if cfg.context_dim:
        kind, shape = SpatialTransformer, (heads, at(cfg.transformer_blocks, level), cfg.linear_projection, cfg.groups)
        return (_remat(kind) if cfg.remat else kind)(*shape, dtype, kernel, name=name)(x, block_cond.context)
    kind = _remat(SelfAttention) if cfg.remat else SelfAttention
    return kind(x.shape[-1] // heads, cfg.groups, cfg.eps, dtype=dtype, kernel=kernel, name=name)(x)


class DownBlock(nn.Module):
    """The residual blocks of one resolution on the way down, then a strided convolution unless it is the last.

    Attributes:
      level: position of the resolution in `config.channels`.
      config: see `UNetConfig`.
    """

    level: int
    config: UNetConfig

    @nn.compact
    def __call__(self, x, block_cond):
        """x [B, H, W, C] -> (its successor, what the way up reads)."""
        cfg, skips, features = self.config, [], self.config.channels[self.level]
        for i in range(at(cfg.blocks, self.level)):
            x = _res_block(features, cfg, f"resnets_{i}")(x, block_cond)
            if self.level in cfg.attention:
                x = _attention(cfg, self.level, f"attentions_{i}", x, block_cond)
            skips.append(x)
        if self.level < len(cfg.channels) - 1:
            x = Downsample(features, cfg.downsample_padding, jnp.dtype(cfg.dtype), name="downsamplers_0")(x)
            skips.append(x)
        return x, skips


class Downsample(nn.Module):
    """3x3 convolution of stride 2; padding 0 means one zero at the end of each axis, as in DDPM."""

    features: int
    padding: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        pad = (self.padding, self.padding) if self.padding else (0, 1)
        return Conv(self.features, stride=2, padding=pad, dtype=self.dtype, name="conv")(x)


class MidBlock(nn.Module):
    """The bottom: block, attention, block."""

    config: UNetConfig

    @nn.compact
    def __call__(self, x, block_cond):
        cfg, features = self.config, self.config.channels[-1]
        x = _res_block(features, cfg, "resnets_0")(x, block_cond)
        if cfg.mid_attention:
            x = _attention(cfg, len(cfg.channels) - 1, "attentions_0", x, block_cond)
        return _res_block(features, cfg, "resnets_1")(x, block_cond)


class UpBlock(nn.Module):
    """The residual blocks of one resolution on the way up, each beside a skip if there are skips; then upsampling.

    Attributes:
      level: position of the resolution in `config.channels`.
      config: see `UNetConfig`.
    """

    level: int
    config: UNetConfig

    @nn.compact
    def __call__(self, x, skips, block_cond):
        """Consumes `blocks + 1` entries from the end of `skips`, None in networks without; the finest keeps the size."""
        cfg, features = self.config, self.config.channels[self.level]
        for i in range(at(cfg.blocks, self.level) + 1):
            x = x if skips is None else jnp.concatenate([x, skips.pop()], axis=-1)
            x = _res_block(features, cfg, f"resnets_{i}")(x, block_cond)
            if self.level in cfg.attention:
                x = _attention(cfg, self.level, f"attentions_{i}", x, block_cond)
        if self.level > 0:
            x = Upsample(features, jnp.dtype(cfg.dtype), name="upsamplers_0")(x)
        return x


class UNet(nn.Module):
    """U-Net that maps a noisy image and its time to what it was trained to predict.

    Submodules carry the names that published checkpoints give them (`down_blocks_0/resnets_1/conv1`).

    Attributes:
      config: see `UNetConfig`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.unet import UNet, UNetConfig
        >>> net = UNet(UNetConfig(out_channels=1, channels=(32, 64), groups=8))
        >>> x, t = jnp.zeros([4, 28, 28, 1]), jnp.arange(4)
        >>> variables = jax.jit(net.init)(jax.random.key(0), x, t)
        >>> jax.jit(net.apply)(variables, x, t).shape
        (4, 28, 28, 1)
    """

    config: UNetConfig

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, keys: Array | None = None) -> Array:
        """Runs the network.

        Args:
          x: noisy images [B, H, W, C].
          t: network times [B], level minus one.
          cond: label int [B] or its embedding (see `label_embedding`), vector [B, vector_dim], context [B, L, context_dim],
            image [B, H, W, image_channels], guidance [B], and image_prompt [B, image_prompt_dim] with image_prompt_scale
            [B], each present exactly if the config has it; context_mask and attention_edit may come with a context.
            residuals, of a `ControlNet`, may come with any: what is added to each skip in order (after conv_in, each block
            and each downsampler) and at last to the bottom, each of the shape of its place.
          keys: one random key per example for dropout; None is no dropout.

        Returns:
          float32 [B, H, W, out_channels].

        Raises:
          ValueError: an image that cannot be halved often enough, conditions that the config does not have, or residuals
            of another network.
        """
        cfg, dtype, depth = self.config, jnp.dtype(self.config.dtype), len(self.config.channels)
        cond = cond or Cond()
        x, skips, block_cond = encode(cfg, x, t, cond._replace(residuals=None), keys)
        if cond.residuals is not None:
            *skips, x = _plus_residuals([*skips, x], cond.residuals)
        for i in range(depth):
            x = UpBlock(depth - 1 - i, cfg, name=f"up_blocks_{i}")(x, skips, block_cond)
        x = nn.silu(GroupNorm(cfg.groups, cfg.eps, dtype, name="conv_norm_out")(x))
        x = Conv(cfg.out_channels * cfg.patch**2, init=zeros_init, dtype=dtype, name="conv_out")(x)
        return depth_to_space(x, cfg.patch).astype(jnp.float32)


def encode(cfg: UNetConfig, x: Array, t: Array, cond: Cond | None, keys: Array | None, hint: Array | None = None):
    """Encoder of the U-Net; its parts are submodules of the module that calls this.

    Args:
      cfg: see `UNetConfig`.
      x: noisy images [B, H, W, C].
      t: network times [B].
      cond: see `UNet`; without residuals.
      keys: one random key per example for dropout; None is no dropout.
      hint: added to the output of conv_in, [B, H / patch, W / patch, channels[0]]; None adds nothing.

    Returns:
      (features at the bottom [B, h, w, channels[-1]], skips, condition of the blocks).

    Raises:
      ValueError: an image that cannot be halved often enough, or conditions that the config does not have.
    """
    cfg.check_image(x.shape)
    cond = cond or Cond()
    check_conditions(cfg, cond, 4 * cfg.channels[0])
    block_cond = BlockCond(*_embed(cfg, t, cond), keys, _context(cfg, cond))
    x = space_to_depth(x if cond.image is None else jnp.concatenate([x, cond.image], axis=-1), cfg.patch)
    x = Conv(cfg.channels[0], dtype=jnp.dtype(cfg.dtype), name="conv_in")(x)
    x = x if hint is None else plus(x, hint)
    skips = [x]
    for level in range(len(cfg.channels)):
        x, new = DownBlock(level, cfg, name=f"down_blocks_{level}")(x, block_cond)
        skips += new
    return MidBlock(cfg, name="mid_block")(x, block_cond), skips, block_cond


def label_embedding(params, label: Array) -> Array:
    """Learned embeddings of labels, which `Cond.label` takes in place of labels: to mix or to optimise them.

    Args:
      params: of a `UNet` with classes.
      label: int [B], num_classes being the null label.

    Returns:
      float32 [B, 4 channels[0]]; NaN for other integers.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, load
        >>> from jaxdiff.nets.unet import label_embedding
        >>> one, seven = label_embedding(load("digits").params, jnp.array([1, 7]))
        >>> Cond(label=(one + seven)[None] / 2).label.shape  # between a one and a seven
        (1, 256)
    """
    table = params["class_embedding"]["embedding"]
    return jnp.take(table, jnp.where(label < 0, len(table), label), axis=0, mode="fill", fill_value=jnp.nan)


def _embed(cfg, t, cond):
    """Embeddings of time and of the conditions that multiply (None if there are none), [B, 4 channels[0]]."""
    size, dtype = 4 * cfg.channels[0], jnp.dtype(cfg.dtype)
    time = timestep_embedding(t, cfg.channels[0], cfg.flip_sin_to_cos, cfg.freq_shift)
    scale = None
    if cfg.guidance_dim:  # 0 is no guidance, in the steps of times
        scale = timestep_embedding(1000 * (jnp.asarray(cond.guidance, jnp.float32) - 1), cfg.guidance_dim)
    time = EmbeddingMLP(size, dtype, name="time_embedding")(time, scale)
    time = time + embed_interval(cfg, t, cond.end, cfg.channels[0], size)
    context = []
    if cfg.num_classes:
        context.append(embed_label(cfg.num_classes, cond.label, size, dtype))
    if cfg.vector_dim:
        context.append(EmbeddingMLP(size, dtype, name="vector_embedding")(cond.vector))
    if cfg.context_mode == "add" or not context:
        return nn.silu(sum(context, start=time)), None
    return nn.silu(time), nn.silu(sum(context))


def _context(cfg, cond):
    if cond.context is None:
        return None
    context = Context(cond.context, cond.context_mask, cond.attention_edit)
    if not cfg.image_prompt_dim:
        return context
    project = ImageProjection(cfg.image_prompt_tokens, cfg.context_dim, jnp.dtype(cfg.dtype), name="image_proj")
    return context._replace(image=project(cond.image_prompt), image_scale=cond.image_prompt_scale)


def _plus_residuals(places, residuals):
    """Skips and bottom features with the residuals of a ControlNet added."""
    if len(residuals) != len(places):
        raise ValueError(
            f"this network needs {len(places)} cond.residuals, one for each skip and one for the bottom, "
            f"and these are {len(residuals)}"
        )
    for i, (h, r) in enumerate(zip(places, residuals)):
        if jnp.shape(r) != h.shape:
            raise ValueError(f"this network needs cond.residuals[{i}] {h.shape}, and this one is {jnp.shape(r)}")
    return [plus(h, r) for h, r in zip(places, residuals)]
