"""Diffusion transformers with adaLN-zero (Peebles and Xie 2022, "DiT", section 3).

(1)  c = MLP(time) + embedding(label) + MLP(vector)
(2)  h <- h + g_1(c) Attention(LN(h) (1 + s_1(c)) + b_1(c))
(3)  h <- h + Attention(h, context)                                  where there is one; PixArt-alpha, Chen et al. 2023
(4)  h <- h + g_2(c) FFN(LN(h) (1 + s_2(c)) + b_2(c))
     g, s and b of a linear layer of silu(c) that begins as 0, so that each block begins as the identity
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxdiff.nets.conditions import EmbeddingMLP, check_conditions, embed_interval, embed_label
from jaxdiff.nets.dit_config import DiTConfig
from jaxdiff.nets.layers import (
    Dense,
    Dropout,
    depth_to_space,
    kernel_init,
    space_to_depth,
    timestep_embedding,
    zeros_init,
)
from jaxdiff.nets.transformer import Attention, Context
from jaxdiff.types import Array, Cond

TIME_WAVES = 256


class DiT(nn.Module):
    """Transformer that maps a noisy image and its time to what it was trained to predict, of any size and aspect.

    Attributes:
      config: see `DiTConfig`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.dit import DiT
        >>> from jaxdiff.nets.dit_config import DiTConfig
        >>> net = DiT(DiTConfig(out_channels=3, width=32, depth=2, heads=2, num_classes=10))
        >>> x, t, cond = jnp.zeros([4, 8, 16, 3]), jnp.arange(4), Cond(label=jnp.arange(4))
        >>> variables = jax.jit(net.init)(jax.random.key(0), x, t, cond)
        >>> jax.jit(net.apply)(variables, x, t, cond).shape
        (4, 8, 16, 3)
    """

    config: DiTConfig

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, keys: Array | None = None) -> Array:
        """Runs the network.

        Args:
          x: noisy images [B, H, W, C].
          t: network times [B].
          cond: label int [B] or its embedding [B, width], vector [B, vector_dim] and context [B, L, context_dim], each
            present exactly if the config has it; context_mask and attention_edit may come with a context.
          keys: one random key per example for dropout; None is no dropout.

        Returns:
          float32 [B, H, W, out_channels].

        Raises:
          ValueError: an image that is not of whole patches, or conditions that the config does not have.
        """
        cfg, dtype, cond = self.config, jnp.dtype(self.config.dtype), cond or Cond()
        cfg.check_image(x.shape)
        check_conditions(cfg, cond, cfg.width)
        c = nn.silu(_embed(cfg, t, cond))
        B, H, W, _ = x.shape
        size = H // cfg.patch, W // cfg.patch
        h = NamedLinear(cfg.width, "proj", dtype=dtype, name="pos_embed")(space_to_depth(x, cfg.patch))
        h = h.reshape(B, size[0] * size[1], cfg.width)
        if cfg.positions == "sin_cos":
            h = h + jnp.asarray(waves_of_places(size, cfg.width), dtype)[None]
        context = Context(cond.context, cond.context_mask, cond.attention_edit)
        block = remat(DiTBlock) if cfg.remat else DiTBlock
        for i in range(cfg.depth):
            h = block(size, cfg, name=f"transformer_blocks_{i}")(h, c, context, keys)
        shift, scale = jnp.split(Dense(2 * cfg.width, init=zeros_init, dtype=dtype, name="proj_out_1")(c), 2, axis=-1)
        h = modulated(plain_norm(1e-6, dtype, "norm_out")(h), shift, scale)
        h = Dense(cfg.patch**2 * cfg.out_channels, init=zeros_init, dtype=dtype, name="proj_out_2")(h)
        return depth_to_space(h.reshape(B, *size, -1), cfg.patch).astype(jnp.float32)


remat = functools.cache(nn.remat)  # of a class always the same class


class DiTBlock(nn.Module):
    """Equations (2) to (4).

    Attributes:
      size: rows and columns of patches.
      config: see `DiTConfig`.
    """

    size: tuple[int, int]
    config: DiTConfig

    @nn.compact
    def __call__(self, h: Array, c: Array, context: Context, keys: Array | None) -> Array:
        """h [B, L, width], c [B, width] after silu -> [B, L, width]."""
        cfg, dtype = self.config, jnp.dtype(self.config.dtype)
        made = NamedLinear(6 * cfg.width, "linear", zeros_init, dtype, name="norm1")(c)
        b_1, s_1, g_1, b_2, s_2, g_2 = jnp.split(made, 6, axis=-1)
        turn = functools.partial(turned, size=self.size) if cfg.positions == "rotary" else lambda x: x
        of_site = (cfg.heads, self.size, dtype, cfg.attention_kernel)
        attention = Attention(*of_site, bias=True, qk_norm=cfg.qk_norm, name="attn1")
        h = h + g_1[:, None] * attention(
            modulated(plain_norm(1e-6, dtype, "norm_1")(h), b_1, s_1), context, False, turn
        )
        if cfg.context_dim:
            h = h + Attention(*of_site, bias=True, qk_norm=cfg.qk_norm, name="attn2")(h, context, True)
        inside = modulated(plain_norm(cfg.eps, dtype, "norm3")(h), b_2, s_2)
        feed = FeedForward(int(cfg.mlp_ratio * cfg.width), cfg.dropout, dtype, name="ff")
        return h + g_2[:, None] * feed(inside, keys)


class FeedForward(nn.Module):
    """Two layers with a GELU between them, in its form by tanh.

    Attributes:
      inner: channels between them.
      dropout: rate there.
      dtype: of the computation.
    """

    inner: int
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array, keys: Array | None) -> Array:
        """h [B, L, width] -> [B, L, width]."""
        inside = nn.gelu(NamedLinear(self.inner, "proj", dtype=self.dtype, name="net_0")(h))
        inside = Dropout(self.dropout, name="dropout")(inside, keys)
        return Dense(h.shape[-1], dtype=self.dtype, name="net_2")(inside)


class NamedLinear(nn.Module):
    """A linear layer within a module of its own, as published checkpoints name it."""

    features: int
    layer: str
    init: nn.initializers.Initializer = kernel_init
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        return Dense(self.features, init=self.init, dtype=self.dtype, name=self.layer)(x)


def plain_norm(eps: float, dtype, name: str) -> nn.LayerNorm:
    """A layer norm without parameters."""
    return nn.LayerNorm(eps, dtype, use_bias=False, use_scale=False, name=name)


def modulated(h: Array, shift: Array, scale: Array) -> Array:
    """Tokens h [B, L, C] scaled by 1 + `scale` [B, C] and moved by `shift` [B, C]."""
    return h * (1 + scale[:, None]) + shift[:, None]


def _embed(cfg, t, cond):
    """c of equation (1), [B, width]."""
    dtype = jnp.dtype(cfg.dtype)
    time = timestep_embedding(t, TIME_WAVES, flip_sin_to_cos=True)
    c = EmbeddingMLP(cfg.width, dtype, name="time_embedding")(time)
    c = c + embed_interval(cfg, t, cond.end, TIME_WAVES, cfg.width)
    if cfg.num_classes:
        c = c + embed_label(cfg.num_classes, cond.label, cfg.width, dtype)
    if cfg.vector_dim:
        c = c + EmbeddingMLP(cfg.width, dtype, name="vector_embedding")(cond.vector)
    return c


def waves_of_places(size: tuple[int, int], width: int, begin: Sequence[int] = (0, 0), unit: float = 1.0) -> np.ndarray:
    """Sinusoids of the column, then of the row, of each patch: sin and cos of p 10000^(-4 i / width), each a quarter.

    Args:
      size: rows and columns of patches.
      width: channels, a multiple of 4.
      begin: row and column of the first.
      unit: length of a step from one to the next.

    Returns:
      float32 [rows columns, width].

    Example::

        >>> from jaxdiff.nets.dit import waves_of_places
        >>> [round(float(wave), 3) for wave in waves_of_places((2, 3), 8)[4]]  # row 1, column 1
        [0.841, 0.01, 0.54, 1.0, 0.841, 0.01, 0.54, 1.0]
    """
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    places = (np.arange(side) + first for side, first in zip(size, begin))
    row, column = (unit * place.reshape(-1, 1) * frequencies for place in np.meshgrid(*places, indexing="ij"))
    return np.concatenate([np.sin(column), np.cos(column), np.sin(row), np.cos(row)], axis=1).astype(np.float32)


def turned(x_BxLxHxD: Array, size: tuple[int, int]) -> Array:
    """Rotary positions: pairs of channels are turned by angles of the row, others by those of the column (Su et al. 2021).

    Args:
      x_BxLxHxD: queries or keys of patches, D a multiple of 4.
      size: rows and columns of patches, L in all.

    Returns:
      The same shape; products of a query and a key depend on the distance of their places only.
    """
    pairs = x_BxLxHxD.shape[-1] // 4  # of each axis
    frequencies = 100.0 ** (-np.arange(pairs) / pairs)
    angles = np.concatenate([place.reshape(-1, 1) * frequencies for place in np.mgrid[: size[0], : size[1]]], axis=1)
    cos, sin = (jnp.asarray(wave(angles), jnp.float32)[None, :, None] for wave in (np.cos, np.sin))
    a, b = jnp.split(x_BxLxHxD.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x_BxLxHxD.dtype)
