"""Multimodal diffusion transformers: image and text attend to one another as one sequence (Esser et al. 2024, figure 2).

(1)  c = MLP(time) + MLP(vector)
(2)  h, e <- (h, e) + g_1(c) Attention([LN(h) (1 + s_1(c)) + b_1(c), LN(e) (1 + s_1'(c)) + b_1'(c)])
(3)  h <- h + g_2(c) FFN(LN(h) (1 + s_2(c)) + b_2(c)),   e likewise
     of tokens h of the image and e of the text, each with weights of its own, but for the attention over both
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxdiff.nets.attention import attend
from jaxdiff.nets.conditions import EmbeddingMLP, check_conditions
from jaxdiff.nets.dit import TIME_WAVES, FeedForward, NamedLinear, modulated, plain_norm, remat, waves_of_places
from jaxdiff.nets.layers import Dense, depth_to_space, space_to_depth, timestep_embedding, zeros_init
from jaxdiff.nets.mmdit_config import MMDiTConfig
from jaxdiff.types import Array, Cond


class MMDiT(nn.Module):
    """Transformer of Stable Diffusion 3 that maps a noisy image, its time and a text to the flow, of any size and aspect.

    Attributes:
      config: see `MMDiTConfig`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff import Cond
        >>> from jaxdiff.nets.mmdit import MMDiT
        >>> from jaxdiff.nets.mmdit_config import MMDiTConfig
        >>> net = MMDiT(MMDiTConfig(3, depth=2, heads=2, head_dim=16, context_dim=8, vector_dim=4))
        >>> cond = Cond(context=jnp.zeros([4, 5, 8]), vector=jnp.zeros([4, 4]))
        >>> variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros([4, 8, 16, 3]), jnp.arange(4), cond)
        >>> jax.jit(net.apply)(variables, jnp.zeros([4, 8, 16, 3]), jnp.arange(4), cond).shape
        (4, 8, 16, 3)
    """

    config: MMDiTConfig

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, keys: Array | None = None) -> Array:
        """Runs the network.

        Args:
          x: noisy images [B, H, W, C].
          t: network times [B], 1000 sigma in Stable Diffusion 3.
          cond: context [B, L, context_dim] and vector [B, vector_dim], and nothing else.
          keys: not used, for there is no dropout.

        Returns:
          float32 [B, H, W, out_channels].

        Raises:
          ValueError: an image that is not of whole patches or too large, or other conditions.
        """
        cfg, dtype, cond = self.config, jnp.dtype(self.config.dtype), cond or Cond()
        cfg.check_image(x.shape)
        check_conditions(cfg, cond, cfg.width)
        if cond.context_mask is not None or cond.attention_edit is not None:
            raise ValueError("joint attention takes no cond.context_mask and no cond.attention_edit: leave them out")
        c = nn.silu(Embeddings(cfg.width, dtype, name="time_text_embed")(t, cond.vector))
        B, H, W, _ = x.shape
        size = H // cfg.patch, W // cfg.patch
        h = NamedLinear(cfg.width, "proj", dtype=dtype, name="pos_embed")(space_to_depth(x, cfg.patch))
        h = h.reshape(B, size[0] * size[1], cfg.width) + jnp.asarray(middle_waves(size, cfg), dtype)[None]
        e = Dense(cfg.width, dtype=dtype, name="context_embedder")(cond.context)
        block = remat(JointBlock) if cfg.remat else JointBlock
        for i in range(cfg.depth):
            last = i == cfg.depth - 1
            h, e = block(cfg, last, i in cfg.dual_attention, name=f"transformer_blocks_{i}")(h, e, c)
        scale, shift = jnp.split(
            NamedLinear(2 * cfg.width, "linear", zeros_init, dtype, name="norm_out")(c), 2, axis=-1
        )
        h = modulated(plain_norm(1e-6, dtype, "norm")(h), shift, scale)
        h = Dense(cfg.patch**2 * cfg.out_channels, init=zeros_init, dtype=dtype, name="proj_out")(h)
        return depth_to_space(h.reshape(B, *size, -1), cfg.patch).astype(jnp.float32)


class Embeddings(nn.Module):
    """Equation (1)."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, t: Array, vector: Array) -> Array:
        """t [B], vector [B, D] -> [B, features]."""
        waves = timestep_embedding(t, TIME_WAVES, flip_sin_to_cos=True, freq_shift=0.0)
        time = EmbeddingMLP(self.features, self.dtype, name="timestep_embedder")(waves)
        return time + EmbeddingMLP(self.features, self.dtype, name="text_embedder")(vector)


class JointBlock(nn.Module):
    """Equations (2) and (3).

    Attributes:
      config: see `MMDiTConfig`.
      last: whether the text is read and not updated.
      dual: whether the image also attends to itself alone.
    """

    config: MMDiTConfig
    last: bool
    dual: bool

    @nn.compact
    def __call__(self, h: Array, e: Array, c: Array) -> tuple[Array, Array]:
        """h [B, L, width], e [B, M, width], c [B, width] after silu -> h and e."""
        cfg, dtype, norm = self.config, jnp.dtype(self.config.dtype), _norms(self.config)

        feed = lambda name: FeedForward(4 * cfg.width, dtype=dtype, name=name)

        def made(count, name):
            linear = NamedLinear(count * cfg.width, "linear", zeros_init, dtype, name=name)
            return jnp.split(linear(c), count, axis=-1)

        b_1, s_1, g_1, b_2, s_2, g_2, *more = made(9 if self.dual else 6, "norm1")
        normed = norm("norm_h")(h)
        if self.last:
            s_e, b_e = made(2, "norm1_context")
        else:
            b_e, s_e, g_e, b_f, s_f, g_f = made(6, "norm1_context")
        attention = JointAttention(cfg, not self.last, name="attn")
        for_h, for_e = attention(modulated(normed, b_1, s_1), modulated(norm("norm_e")(e), b_e, s_e))
        h = h + g_1[:, None] * for_h
        if self.dual:
            b_3, s_3, g_3 = more
            h = h + g_3[:, None] * JointAttention(cfg, False, name="attn2")(modulated(normed, b_3, s_3), None)[0]
        h = h + g_2[:, None] * feed("ff")(modulated(norm("norm2")(h), b_2, s_2), None)
        if self.last:
            return h, e
        e = e + g_e[:, None] * for_e
        return h, e + g_f[:, None] * feed("ff_context")(modulated(norm("norm2_e")(e), b_f, s_f), None)


class JointAttention(nn.Module):
    """Attention over the tokens of image and text together, each projected by weights of its own.

    Attributes:
      config: see `MMDiTConfig`.
      updates_text: whether there is an output for the text.
    """

    config: MMDiTConfig
    updates_text: bool

    @nn.compact
    def __call__(self, h: Array, e: Array | None) -> tuple[Array, Array | None]:
        """h [B, L, width] and e [B, M, width], or None -> the same."""
        cfg, dtype, L = self.config, jnp.dtype(self.config.dtype), h.shape[1]

        def heads(name, tokens, norm=""):
            split = Dense(cfg.width, dtype=dtype, name=name)(tokens).reshape(*tokens.shape[:2], cfg.heads, cfg.head_dim)
            return nn.RMSNorm(1e-6, dtype, name=norm)(split) if norm and cfg.qk_norm else split

        q, k, v = heads("to_q", h, "norm_q"), heads("to_k", h, "norm_k"), heads("to_v", h)
        if e is not None:
            added = (
                heads("add_q_proj", e, "norm_added_q"),
                heads("add_k_proj", e, "norm_added_k"),
                heads("add_v_proj", e),
            )
            q, k, v = (jnp.concatenate(pair, axis=1) for pair in zip((q, k, v), added))
        mixed = attend(q, k, v, cfg.attention_kernel)
        mixed = mixed.reshape(*mixed.shape[:2], cfg.width)
        for_h = Dense(cfg.width, dtype=dtype, name="to_out_0")(mixed[:, :L])
        return for_h, Dense(cfg.width, dtype=dtype, name="to_add_out")(mixed[:, L:]) if self.updates_text else None


def _norms(cfg):
    return lambda name: plain_norm(1e-6, jnp.dtype(cfg.dtype), name)


def middle_waves(size: tuple[int, int], cfg: MMDiTConfig) -> np.ndarray:
    """Sinusoids of the places of an image in the middle of the square of all, in units of `base_places` / `places`.

    Args:
      size: rows and columns of patches.
      cfg: specification of the network.

    Returns:
      float32 [rows columns, width].
    """
    begin = [(cfg.places - side) // 2 for side in size]
    return waves_of_places(size, cfg.width, begin, cfg.base_places / cfg.places)
