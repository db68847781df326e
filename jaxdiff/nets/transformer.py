"""Transformer blocks of latent diffusion: pixels attend to one another and to a context (Rombach et al. 2022, section 3.3).

(1)  Attention(Q, K, V) = softmax(Q K^T / sqrt(d)) V,   Q = h W_Q,  K = c W_K,  V = c W_V
     with h the pixels as tokens, and c the same pixels (self-attention) or the context (cross-attention)
(2)  GEGLU(h) = (h W + b) * gelu(h V + c)                                          Shazeer 2020, eq. 6
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from jaxdiff.nets.attention import attend, edited
from jaxdiff.nets.layers import Conv, Dense, GroupNorm, zeros_init
from jaxdiff.types import Array, rows


class Site(NamedTuple):
    """Position of an attention layer in the network, for attention edits.

    Attributes:
      name: of the module, with slashes between.
      cross: whether the keys are those of the context, and not the pixels themselves.
      size: height and width of the image whose pixels ask.
    """

    name: str
    cross: bool
    size: tuple[int, int]


class Context(NamedTuple):
    """Context of transformer blocks.

    Attributes:
      tokens: [B, L, D], which cross-attention reads.
      mask: which of them count, bool [B, L]; None is all.
      edit: (probabilities [B, H, Q, K], `Site`) -> probabilities; None is none.
      image: tokens of an image prompt [B, T, D], which cross-attention reads by keys and values of their own; None is none.
      image_scale: weight of what it reads there [B].
    """

    tokens: Array
    mask: Array | None = None
    edit: Callable | None = None
    image: Array | None = None
    image_scale: Array | None = None


class ImageProjection(nn.Module):
    """The embedding of a picture as tokens of a context: a linear layer and a norm (IP-Adapter, Ye et al. 2023, 3.2)."""

    tokens: int
    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, embedding: Array) -> Array:
        """[B, E] -> [B, tokens, features]."""
        projected = Dense(self.tokens * self.features, dtype=self.dtype, name="proj")(embedding)
        return nn.LayerNorm(1e-5, self.dtype, name="norm")(projected.reshape(-1, self.tokens, self.features))


class Attention(nn.Module):
    """Attention of tokens to tokens, equation (1), of many heads.

    Attributes:
      heads: how many; they divide the channels.
      size: height and width of the image whose pixels ask.
      dtype: of the computation.
      kernel: see `attend`; where there is an edit, it is "plain".
      bias: whether the projections of queries, keys and values have one.
      qk_norm: whether queries and keys are normalised in each head (Henry et al. 2020; Esser et al. 2024, section 5.3.2).
    """

    heads: int
    size: tuple[int, int]
    dtype: jnp.dtype = jnp.float32
    kernel: str = "plain"
    bias: bool = False
    qk_norm: bool = False

    @nn.compact
    def __call__(self, h_BxQxC: Array, context: Context, cross: bool, turn: Callable = lambda x: x) -> Array:
        """-> [B, Q, C]; `turn` is applied to queries and keys [B, L, heads, D], for rotary positions."""
        B, Q, C = h_BxQxC.shape
        read = context.tokens if cross else h_BxQxC

        def split(name, tokens):
            projected = Dense(C, use_bias=self.bias, dtype=self.dtype, name=name)(tokens)
            return projected.reshape(B, -1, self.heads, C // self.heads)

        norm = (lambda name, x: nn.RMSNorm(1e-6, self.dtype, name=name)(x)) if self.qk_norm else lambda name, x: x
        q, k, v = split("to_q", h_BxQxC), split("to_k", read), split("to_v", read)
        q, k = turn(norm("norm_q", q)), turn(norm("norm_k", k))
        mask = context.mask[:, None, None] if cross and context.mask is not None else None
        if context.edit is None:
            mixed = attend(q, k, v, self.kernel, mask)
        else:
            site = Site("/".join(self.path), cross, self.size)
            mixed, p_BxHxQxK = edited(q, k, v, context.edit, site, mask)
            if cross:  # averaged over heads; the last one, not a list of all
                self.sow("maps", "map", p_BxHxQxK.mean(1), reduce_fn=lambda _, new: new, init_fn=lambda: None)
        if cross and context.image is not None:  # equation (5) of IP-Adapter
            seen = attend(q, split("to_k_ip", context.image), split("to_v_ip", context.image), self.kernel)
            mixed = mixed + rows(context.image_scale, seen).astype(seen.dtype) * seen
        return Dense(C, dtype=self.dtype, name="to_out_0")(mixed.reshape(B, Q, C))


class FeedForward(nn.Module):
    """Two layers with GEGLU between them, equation (2), four times as wide inside."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """h [B, Q, C] -> [B, Q, C]."""
        C = h.shape[-1]
        return Dense(C, dtype=self.dtype, name="net_2")(GEGLU(4 * C, self.dtype, name="net_0")(h))


class GEGLU(nn.Module):
    """A linear layer gated by another one, equation (2)."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """h [B, Q, C] -> [B, Q, features]."""
        value, gate = jnp.split(Dense(2 * self.features, dtype=self.dtype, name="proj")(h), 2, axis=-1)
        return value * nn.gelu(gate, approximate=False)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and a feed-forward layer, each of the normalised tokens and added to them."""

    heads: int
    size: tuple[int, int]
    dtype: jnp.dtype = jnp.float32
    kernel: str = "plain"

    @nn.compact
    def __call__(self, h: Array, context: Context) -> Array:
        """h [B, Q, C] -> [B, Q, C]."""
        for i, cross in ((1, False), (2, True)):
            attention = Attention(self.heads, self.size, self.dtype, self.kernel, name=f"attn{i}")
            h = h + attention(nn.LayerNorm(1e-5, self.dtype, name=f"norm{i}")(h), context, cross)
        return h + FeedForward(self.dtype, name="ff")(nn.LayerNorm(1e-5, self.dtype, name="norm3")(h))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of an image, between two projections; added to the image.

    Attributes:
      heads: of each attention.
      blocks: how many in a row.
      linear: whether the projections are linear layers, as in Stable Diffusion 2, or 1x1 convolutions, as in 1; they
        compute the same.
      groups: of the group norm.
      dtype: of the computation.
      kernel: see `attend`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.transformer import Context, SpatialTransformer
        >>> net, x = SpatialTransformer(heads=2, groups=4), jnp.zeros([1, 4, 4, 8])
        >>> y, _ = net.init_with_output(jax.random.key(0), x, Context(jnp.zeros([1, 7, 16])))
        >>> y.shape
        (1, 4, 4, 8)
    """

    heads: int
    blocks: int = 1
    linear: bool = False
    groups: int = 32
    dtype: jnp.dtype = jnp.float32
    kernel: str = "plain"

    @nn.compact
    def __call__(self, x: Array, context: Context) -> Array:
        """x [B, H, W, C] -> [B, H, W, C]."""
        B, H, W, C = x.shape
        h = GroupNorm(self.groups, 1e-6, self.dtype, name="norm")(x).reshape(B, H * W, C)
        project = Dense if self.linear else functools.partial(Conv, size=1)
        h = project(C, dtype=self.dtype, name="proj_in")(h)
        for i in range(self.blocks):
            h = TransformerBlock(self.heads, (H, W), self.dtype, self.kernel, name=f"transformer_blocks_{i}")(
                h, context
            )
        return x + project(C, init=zeros_init, dtype=self.dtype, name="proj_out")(h).reshape(B, H, W, C)
