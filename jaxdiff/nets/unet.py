"""The U-Net of DDPM (Ho et al. 2020, appendix B), conditioned on time and, if asked, on a label or a vector."""

import dataclasses
import functools
import math
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn

from jaxdiff.nets.attention import SelfAttention
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
from jaxdiff.types import Array, Cond
from jaxdiff.xla import materialized


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Shape of a `UNet`. The defaults are DDPM's for CIFAR-10 (35,746,307 parameters).

    Attributes:
      out_channels: channels of the output; twice the image's where the variance is learned.
      channels: channels of each resolution, finest first; each must be divisible by `groups`.
      blocks: residual blocks per resolution on the way down (one more on the way up).
      attention: resolutions that have self-attention, as positions in `channels`.
      mid_attention: self-attention at the bottom.
      head_dim: channels per attention head; None is a single head.
      groups: groups of the group norms.
      eps: of the group norms.
      dropout: rate inside the residual blocks, in [0, 1).
      patch: squares of this many pixels become channels at the entry (and back at the end); 1 is none.
      time_mode: "add" adds the time embedding in each block; "scale_shift" scales and shifts by it.
      context_mode: "add" adds the embedded label and vector to the time embedding; "multiply" multiplies each block by
        1 + a projection of them.
      num_classes: labels 0..num_classes - 1, num_classes being the null label; 0 is no label.
      vector_dim: size of the vector that conditions; 0 is none.
      flip_sin_to_cos: cosines first in the time embedding.
      freq_shift: 1 in DDPM's time embedding, 0 in Stable Diffusion's.
      downsample_padding: zeros on each side before a strided convolution; 0 is one zero at the end only, as in DDPM.
      dtype: of the computation; parameters, norms and softmax are float32.
      remat: keep only the input of each residual block and attention for the backward pass, which works the rest out again:
        less memory, more time.
      attention_kernel: see `jaxdiff.nets.attention.attend`; "cudnn" needs a GPU and dtype "bfloat16".
    """

    out_channels: int = 3
    channels: tuple[int, ...] = (128, 256, 256, 256)
    blocks: int = 2
    attention: tuple[int, ...] = (1,)
    mid_attention: bool = True
    head_dim: int | None = None
    groups: int = 32
    eps: float = 1e-6
    dropout: float = 0.0
    patch: int = 1
    time_mode: Literal["add", "scale_shift"] = "add"
    context_mode: Literal["add", "multiply"] = "add"
    num_classes: int = 0
    vector_dim: int = 0
    flip_sin_to_cos: bool = False
    freq_shift: float = 1.0
    downsample_padding: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    attention_kernel: Literal["plain", "xla", "cudnn"] = "plain"

    def __post_init__(self):
        if self.groups < 1 or (self.head_dim is not None and self.head_dim < 1):
            raise ValueError(f"groups={self.groups} and head_dim={self.head_dim} must be at least 1")
        for c in self.channels:
            if c % self.groups:
                common = math.gcd(*self.channels)
                fitting = max(g for g in range(1, self.groups + 1) if not common % g)
                raise ValueError(f"channels={c} cannot be divided into groups={self.groups}: groups={fitting} would do")
            if self.head_dim and c % self.head_dim:
                raise ValueError(f"channels={c} cannot be divided into heads of head_dim={self.head_dim}")
        if not self.channels or not set(self.attention) <= set(range(len(self.channels))):
            raise ValueError(f"attention={self.attention} must name positions 0..{len(self.channels) - 1} in channels")
        if self.channels[0] % 2 or not 0 <= self.dropout < 1 or self.patch < 1 or self.blocks < 1:
            raise ValueError("channels[0] must be even, dropout in [0, 1), patch and blocks at least 1")
        if self.attention_kernel == "cudnn":
            self._check_cudnn()

    def _check_cudnn(self):
        if self.dtype != "bfloat16":
            raise ValueError(f"attention_kernel='cudnn' needs dtype='bfloat16', not {self.dtype!r}")
        sites = [self.channels[i] for i in self.attention] + [self.channels[-1]] * self.mid_attention
        for dim in (self.head_dim or c for c in sites):
            if dim % 8 or dim > 256:
                raise ValueError(
                    f"attention_kernel='cudnn' needs a head_dim that is a multiple of 8 up to 256, not {dim}"
                )

    def check_platform(self, platform: str) -> None:
        """Raises ValueError unless this network runs on such devices, named as `jax.default_backend()` names them."""
        if self.attention_kernel == "cudnn" and platform not in ("gpu", "cuda"):
            raise ValueError(
                f"attention_kernel='cudnn' runs on GPUs only and this is a {platform.upper()}: choose 'plain' or 'xla'"
            )

    def check_image(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless images [..., H, W, C] can be halved as often as this network does."""
        multiple = self.patch * 2 ** (len(self.channels) - 1)
        if shape[-3] % multiple or shape[-2] % multiple:
            raise ValueError(
                f"images of {shape[-3]}x{shape[-2]} do not fit a U-Net with {len(self.channels)} resolutions and "
                f"patch={self.patch}: both sides must be multiples of {multiple}"
            )


class ResBlock(nn.Module):
    """norm, silu, conv; time and context; norm, silu, dropout, zero-initialised conv; added to the input."""

    features: int
    config: UNetConfig

    @nn.compact
    def __call__(self, x: Array, time: Array, context: Array | None, keys: Array | None) -> Array:
        """x [B, H, W, C], time and context [B, E] (already through silu) -> [B, H, W, features]."""
        cfg, dtype = self.config, jnp.dtype(self.config.dtype)
        h = nn.silu(GroupNorm(cfg.groups, cfg.eps, dtype, name="norm1")(x))
        h = Conv(self.features, dtype=dtype, name="conv1")(h)
        if context is not None:
            gain = Dense(self.features, init=zeros_init, dtype=dtype, name="context_emb_proj")(context)
            # In float32 for the gradient of the gain, see `plus`.
            h = (h.astype(jnp.float32) * (1 + gain[:, None, None])).astype(dtype)
        scale_shift = None
        if cfg.time_mode == "add":
            h = plus(h, Dense(self.features, dtype=dtype, name="time_emb_proj")(time)[:, None, None])
        else:
            scale_shift = jnp.split(Dense(2 * self.features, dtype=dtype, name="time_emb_proj")(time), 2, axis=-1)
        h = nn.silu(GroupNorm(cfg.groups, cfg.eps, dtype, name="norm2")(h, scale_shift))
        h = Dropout(cfg.dropout, name="dropout")(h, keys)
        h = Conv(self.features, init=zeros_init, dtype=dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, size=1, dtype=dtype, name="conv_shortcut")(x)
        return materialized(x + h)


_remat = functools.cache(nn.remat)  # of a class always the same class


def _res_block(features, cfg, name):
    return (_remat(ResBlock) if cfg.remat else ResBlock)(features, cfg, name=name)


def _self_attention(cfg, name):
    kind, dtype = _remat(SelfAttention) if cfg.remat else SelfAttention, jnp.dtype(cfg.dtype)
    return kind(cfg.head_dim, cfg.groups, cfg.eps, dtype=dtype, kernel=cfg.attention_kernel, name=name)


class DownBlock(nn.Module):
    """The residual blocks of one resolution on the way down, then a strided convolution unless it is the last."""

    features: int
    attention: bool
    last: bool
    config: UNetConfig

    @nn.compact
    def __call__(self, x, *emb):
        """x [B, H, W, C] -> (its successor, what the way up reads)."""
        cfg, skips = self.config, []
        for i in range(cfg.blocks):
            x = _res_block(self.features, cfg, f"resnets_{i}")(x, *emb)
            if self.attention:
                x = _self_attention(cfg, f"attentions_{i}")(x)
            skips.append(x)
        if not self.last:
            x = Downsample(self.features, cfg.downsample_padding, jnp.dtype(cfg.dtype), name="downsamplers_0")(x)
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

    features: int
    config: UNetConfig

    @nn.compact
    def __call__(self, x, *emb):
        cfg = self.config
        x = _res_block(self.features, cfg, "resnets_0")(x, *emb)
        if cfg.mid_attention:
            x = _self_attention(cfg, "attentions_0")(x)
        return _res_block(self.features, cfg, "resnets_1")(x, *emb)


class UpBlock(nn.Module):
    """The residual blocks of one resolution on the way up, each beside a skip; then upsampling unless it is the last."""

    features: int
    attention: bool
    last: bool
    config: UNetConfig

    @nn.compact
    def __call__(self, x, skips, *emb):
        """Consumes `blocks + 1` entries from the end of `skips`."""
        cfg = self.config
        for i in range(cfg.blocks + 1):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = _res_block(self.features, cfg, f"resnets_{i}")(x, *emb)
            if self.attention:
                x = _self_attention(cfg, f"attentions_{i}")(x)
        if not self.last:
            x = Upsample(self.features, jnp.dtype(cfg.dtype), name="upsamplers_0")(x)
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
        >>> variables = net.init(jax.random.key(0), x, t)
        >>> net.apply(variables, x, t).shape
        (4, 28, 28, 1)
    """

    config: UNetConfig

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, keys: Array | None = None) -> Array:
        """Runs the network.

        Args:
          x: noisy images [B, H, W, C].
          t: network times [B], level minus one.
          cond: label [B] and vector [B, vector_dim], each present exactly if the config has it.
          keys: one random key per example for dropout; None is no dropout.

        Returns:
          float32 [B, H, W, out_channels].

        Raises:
          ValueError: an image that cannot be halved often enough, or conditions that the config does not have.
        """
        cfg, dtype, depth = self.config, jnp.dtype(self.config.dtype), len(self.config.channels)
        x, skips, emb = way_down(cfg, x, t, cond, keys)
        for i, features in enumerate(cfg.channels[::-1]):
            level = depth - 1 - i
            block = UpBlock(features, level in cfg.attention, level == 0, cfg, name=f"up_blocks_{i}")
            x = block(x, skips, *emb)
        x = nn.silu(GroupNorm(cfg.groups, cfg.eps, dtype, name="conv_norm_out")(x))
        x = Conv(cfg.out_channels * cfg.patch**2, init=zeros_init, dtype=dtype, name="conv_out")(x)
        return depth_to_space(x, cfg.patch).astype(jnp.float32)


def way_down(cfg: UNetConfig, x: Array, t: Array, cond: Cond | None, keys: Array | None):
    """The U-Net from its entry to its bottom, its parts being submodules of the module that calls this.

    Args:
      cfg: see `UNetConfig`.
      x: noisy images [B, H, W, C].
      t: network times [B].
      cond: label [B] and vector [B, vector_dim], each present exactly if the config has it.
      keys: one random key per example for dropout; None is no dropout.

    Returns:
      (the bottom [B, h, w, channels[-1]], what the way up reads, the embeddings and keys that blocks are called with).

    Raises:
      ValueError: an image that cannot be halved often enough, or conditions that the config does not have.
    """
    cfg.check_image(x.shape)
    emb = (*_embed(cfg, t, cond or Cond()), keys)
    x = space_to_depth(x, cfg.patch)
    x = Conv(cfg.channels[0], dtype=jnp.dtype(cfg.dtype), name="conv_in")(x)
    skips, depth = [x], len(cfg.channels)
    for i, features in enumerate(cfg.channels):
        block = DownBlock(features, i in cfg.attention, i == depth - 1, cfg, name=f"down_blocks_{i}")
        x, new = block(x, *emb)
        skips += new
    return MidBlock(cfg.channels[-1], cfg, name="mid_block")(x, *emb), skips, emb


def _embed(cfg, t, cond):
    """Embeddings of time and of the conditions that multiply (None if there are none), [B, 4 channels[0]]."""
    _check(cfg, cond)
    size, dtype = 4 * cfg.channels[0], jnp.dtype(cfg.dtype)
    time = timestep_embedding(t, cfg.channels[0], cfg.flip_sin_to_cos, cfg.freq_shift)
    time = _MLP(size, dtype, name="time_embedding")(time)
    context = []
    if cfg.num_classes:
        table = nn.Embed(cfg.num_classes + 1, size, dtype=dtype, name="class_embedding")
        # What is out of range is NaN, also what is below 0, which would be counted from the end.
        context.append(table(jnp.where(cond.label < 0, cfg.num_classes + 1, cond.label)))
    if cfg.vector_dim:
        context.append(_MLP(size, dtype, name="vector_embedding")(cond.vector))
    if cfg.context_mode == "add" or not context:
        return nn.silu(sum(context, start=time)), None
    return nn.silu(time), nn.silu(sum(context))


class _MLP(nn.Module):
    """Two layers with a silu between them, named as published checkpoints name them."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        x = nn.silu(Dense(self.features, dtype=self.dtype, name="linear_1")(x))
        return Dense(self.features, dtype=self.dtype, name="linear_2")(x)


def _check(cfg: UNetConfig, cond: Cond) -> None:
    """Refuses conditions that the network would ignore, and misses those it needs."""
    takes = {"label": bool(cfg.num_classes), "vector": bool(cfg.vector_dim)}
    for name, value in cond._asdict().items():
        if value is not None and not takes.get(name):
            raise ValueError(f"this network takes no {name}: its config has no use for cond.{name}")
        if value is None and takes.get(name):
            raise ValueError(f"this network needs cond.{name} [B]")
