"""Attention over the pixels of an image."""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxdiff.nets.layers import Dense, GroupNorm, kernel_init, zeros_init
from jaxdiff.types import Array


def attention(q_BxQxHxD: Array, k_BxKxHxD: Array, v_BxKxHxD: Array) -> Array:
    """softmax(q k^T / sqrt(D)) v, divided by the row sums last.

    The division then touches [Q, D] numbers and not [Q, K]. The row maximum cancels in the quotient, so no gradient goes
    through it.

    Args:
      q_BxQxHxD: queries.
      k_BxKxHxD: keys.
      v_BxKxHxD: values.

    Returns:
      [B, Q, H, D], dtype of the values.
    """
    scores_BxHxQxK = jnp.einsum("bqhd,bkhd->bhqk", q_BxQxHxD * q_BxQxHxD.shape[-1] ** -0.5, k_BxKxHxD)
    scores_BxHxQxK = scores_BxHxQxK.astype(jnp.float32)
    largest = lax.stop_gradient(scores_BxHxQxK.max(-1, keepdims=True))
    weights_BxHxQxK = jnp.exp(scores_BxHxQxK - largest)
    total_BxHxQ = weights_BxHxQxK.sum(-1)
    summed_BxQxHxD = jnp.einsum("bhqk,bkhd->bqhd", weights_BxHxQxK.astype(v_BxKxHxD.dtype), v_BxKxHxD)
    return summed_BxQxHxD / total_BxHxQ.transpose(0, 2, 1)[..., None].astype(v_BxKxHxD.dtype)


class SelfAttention(nn.Module):
    """Residual self-attention over all pixels, as in DDPM: x + out(attention(q, k, v)) of the normalised x.

    Attributes:
      head_dim: channels per head; None is one head of all channels.
      groups: of the group norm.
      eps: of the group norm.
      zero_init: start as the identity.
      dtype: of the computation.
    """

    head_dim: int | None = None
    groups: int = 32
    eps: float = 1e-6
    zero_init: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        B, H, W, C = x.shape
        h = GroupNorm(self.groups, self.eps, self.dtype, name="group_norm")(x).reshape(B, H * W, C)
        head_dim = self.head_dim or C

        def heads(name):
            return Dense(C, dtype=self.dtype, name=name)(h).reshape(B, H * W, C // head_dim, head_dim)

        h = attention(heads("to_q"), heads("to_k"), heads("to_v")).reshape(B, H * W, C)
        out = Dense(C, init=zeros_init if self.zero_init else kernel_init, dtype=self.dtype, name="to_out_0")
        return x + out(h).reshape(B, H, W, C)
