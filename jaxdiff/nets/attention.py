"""Attention over the pixels of an image, and of pixels to a context."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxdiff.nets import flash
from jaxdiff.nets.bilinear import bilinear
from jaxdiff.nets.layers import Dense, GroupNorm, kernel_init, zeros_init
from jaxdiff.types import Array


def attention(q_BxQxHxD: Array, k_BxKxHxD: Array, v_BxKxHxD: Array, mask: Array | None = None) -> Array:
    """softmax(q k^T / sqrt(D)) v, divided by the row sums last.

    The division then touches [Q, D] numbers and not [Q, K]. The row maximum cancels in the quotient, so no gradient goes
    through it.

    Args:
      q_BxQxHxD: queries.
      k_BxKxHxD: keys.
      v_BxKxHxD: values.
      mask: which keys a query sees, bool, broadcastable to [B, H, Q, K] and of that rank; None is all.

    Returns:
      [B, Q, H, D], dtype of the values.
    """
    scores_BxHxQxK = masked_scores(q_BxQxHxD, k_BxKxHxD, mask)
    largest = lax.stop_gradient(scores_BxHxQxK.max(-1, keepdims=True))
    weights_BxHxQxK = jnp.exp(scores_BxHxQxK - largest)
    total_BxHxQ = weights_BxHxQxK.sum(-1)
    summed_BxQxHxD = jnp.einsum("bhqk,bkhd->bqhd", weights_BxHxQxK.astype(v_BxKxHxD.dtype), v_BxKxHxD)
    # In float32, as is then the gradient of the total, which nearly cancels that of the weights.
    quotient_BxQxHxD = summed_BxQxHxD.astype(jnp.float32) / total_BxHxQ.transpose(0, 2, 1)[..., None]
    return quotient_BxQxHxD.astype(v_BxKxHxD.dtype)


BLOCK, ROWS = 2**20, 512  # scores, and queries, that a block has at most, so that it stays in a cache
FEWEST = 512  # queries, and keys, from which on blocks are faster


@jax.custom_jvp
def blocked_attention(q_BxQxHxD: Array, k_BxKxHxD: Array, v_BxKxHxD: Array) -> Array:
    """The same as `attention`; on a CPU one head and a block of queries after the other, where nothing is differentiated.

    The scores of a block then stay in a cache, and all of them are never in memory (at 4,096 pixels a third of the time).
    Derivatives are those of `attention`.
    """
    return lax.platform_dependent(q_BxQxHxD, k_BxKxHxD, v_BxKxHxD, cpu=_by_blocks, default=attention)


@blocked_attention.defjvp
def _(primals, tangents):
    return jax.jvp(attention, primals, tangents)


def _by_blocks(q, k, v):
    (B, Q, H, D), K = q.shape, k.shape[1]
    rows = max(rows for rows in range(1, min(Q, ROWS) + 1) if Q % rows == 0 and rows * K <= max(BLOCK, K))

    def of_head(q_k_v):
        q_QxD, k_KxD, v_KxD = q_k_v
        k_DxK = k_KxD.T  # once, not in each block

        def block(q_RxD):
            scores_RxK = jnp.matmul(q_RxD * D**-0.5, k_DxK, preferred_element_type=jnp.float32)
            weights_RxK = jnp.exp(scores_RxK - scores_RxK.max(-1, keepdims=True))
            summed_RxD = weights_RxK.astype(v_KxD.dtype) @ v_KxD
            return (summed_RxD.astype(jnp.float32) / weights_RxK.sum(-1, keepdims=True)).astype(v_KxD.dtype)

        return lax.map(block, q_QxD.reshape(Q // rows, rows, D)).reshape(Q, D)

    heads = tuple(x.swapaxes(1, 2).reshape(B * H, -1, D) for x in (q, k, v))
    return lax.map(of_head, heads).reshape(B, H, Q, D).swapaxes(1, 2)


def edited(q_BxQxHxD, k_BxKxHxD, v_BxKxHxD, edit: Callable, site, mask: Array | None = None) -> tuple[Array, Array]:
    """edit(softmax(q k^T / sqrt(D)), site) v.

    Args:
      q_BxQxHxD: queries.
      k_BxKxHxD: keys.
      v_BxKxHxD: values.
      edit: (probabilities float32 [B, H, Q, K], site) -> probabilities.
      site: position of the layer in the network, for the edit.
      mask: which keys a query sees, bool, broadcastable to [B, H, Q, K] and of that rank; None is all.

    Returns:
      ([B, Q, H, D] in the dtype of the values, the probabilities as they were edited).
    """
    p_BxHxQxK = jax.nn.softmax(masked_scores(q_BxQxHxD, k_BxKxHxD, mask))
    new_BxHxQxK = edit(p_BxHxQxK, site)
    # What the edit adds, so that an edit that changes nothing leaves the bits as they are without one.
    added_BxQxHxD = jnp.einsum("bhqk,bkhd->bqhd", (new_BxHxQxK - p_BxHxQxK).astype(v_BxKxHxD.dtype), v_BxKxHxD)
    return attention(q_BxQxHxD, k_BxKxHxD, v_BxKxHxD, mask) + added_BxQxHxD, new_BxHxQxK


def masked_scores(q_BxQxHxD: Array, k_BxKxHxD: Array, mask: Array | None) -> Array:
    """q k^T / sqrt(D) in float32 [B, H, Q, K], the lowest number there is where a key is not seen."""
    scores_BxHxQxK = _scores(q_BxQxHxD * q_BxQxHxD.shape[-1] ** -0.5, k_BxKxHxD)
    return scores_BxHxQxK if mask is None else jnp.where(mask, scores_BxHxQxK, jnp.finfo(jnp.float32).min)


def _scores(q, k):
    """q k^T [B, H, Q, K] in float32 whatever the dtype of q and k: a softmax feels absolute errors, not relative ones."""
    if q.dtype == jnp.float32:
        return jnp.einsum("bqhd,bkhd->bhqk", q, k)
    return _low_precision_scores("s", q, k)


# The gradient of the scores is rounded, else the two products with it would be of float32 and bfloat16, and run as slowly
# as float32's.
_low_precision_scores = bilinear(
    "scores",
    {
        "q": lambda k, s: jnp.einsum("bhqk,bkhd->bqhd", s.astype(k.dtype), k),
        "k": lambda q, s: jnp.einsum("bhqk,bqhd->bkhd", s.astype(q.dtype), q),
        "s": lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32),
    },
    {"q": {"Q": 1, "D": 3}, "k": {"K": 1, "D": 3}, "s": {"Q": 2, "K": 3}},
)


def attend(
    q_BxQxHxD: Array, k_BxKxHxD: Array, v_BxKxHxD: Array, kernel: str = "plain", mask: Array | None = None
) -> Array:
    """softmax(q k^T / sqrt(D)) v by one of several programs.

    Args:
      q_BxQxHxD: queries.
      k_BxKxHxD: keys.
      v_BxKxHxD: values.
      kernel: "plain" is `attention`, or `blocked_attention` of many pixels; "flash" that of TPUs, see
        `nets.flash`, where there is no mask and as many queries and keys as it pays for; "xla" and "cudnn" are those of
        `jax.nn.dot_product_attention`. cuDNN's wants a GPU, a 16-bit dtype, and D a multiple of 8, at most 128, or 256 from
        Hopper on. "auto" is the fastest one here, see `fastest`. "flash" and "cudnn" keep no [Q, K] in memory, and have no
        forward mode: `jax.jvp` through them raises jax's TypeError, so a network that is to have one takes "plain".
      mask: which keys a query sees, bool, broadcastable to [B, H, Q, K] and of that rank; None is all.

    Returns:
      [B, Q, H, D], dtype of the values.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.attention import attend
        >>> q, k, v = jax.random.normal(jax.random.key(0), [3, 2, 16, 4, 8])
        >>> bool(jnp.allclose(attend(q, k, v), attend(q, k, v, kernel="xla"), atol=1e-5))
        True
    """
    if kernel == "auto":
        kernel = fastest(jax.default_backend(), q_BxQxHxD.dtype, q_BxQxHxD.shape[-1])
    if kernel == "flash" and (mask is not None or min(q_BxQxHxD.shape[1], k_BxKxHxD.shape[1]) < flash.FEWEST):
        kernel = "plain"
    if kernel == "flash":
        return flash.flash_attention(q_BxQxHxD, k_BxKxHxD, v_BxKxHxD)
    if kernel == "plain" and mask is None and min(q_BxQxHxD.shape[1], k_BxKxHxD.shape[1]) >= FEWEST:
        return blocked_attention(q_BxQxHxD, k_BxKxHxD, v_BxKxHxD)
    if kernel == "plain":
        return attention(q_BxQxHxD, k_BxKxHxD, v_BxKxHxD, mask)
    return jax.nn.dot_product_attention(q_BxQxHxD, k_BxKxHxD, v_BxKxHxD, mask=mask, implementation=kernel)


def fastest(platform: str, dtype, head_dim: int) -> str:
    """The kernel of "auto": flash attention on TPUs, cuDNN's on GPUs where it can be used, and else our own.

    A kernel cannot be split over devices by the compiler: where arrays are, and no mesh is known, it is our own, too.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if platform == "tpu" and (not mesh.empty or jax.local_device_count() == 1):
        return "flash"
    if platform in ("gpu", "cuda") and jnp.dtype(dtype).itemsize == 2 and head_dim % 8 == 0 and head_dim <= 128:
        return "cudnn"
    return "plain"


class SelfAttention(nn.Module):
    """Residual self-attention over all pixels, as in DDPM: x + out(attention(q, k, v)) of the normalised x.

    Attributes:
      head_dim: channels per head; None is one head of all channels.
      groups: of the group norm.
      eps: of the group norm.
      zero_init: start as the identity.
      dtype: of the computation.
      kernel: see `attend`.
    """

    head_dim: int | None = None
    groups: int = 32
    eps: float = 1e-6
    zero_init: bool = True
    dtype: jnp.dtype = jnp.float32
    kernel: str = "plain"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        B, H, W, C = x.shape
        h = GroupNorm(self.groups, self.eps, self.dtype, name="group_norm")(x).reshape(B, H * W, C)
        head_dim = self.head_dim or C

        def heads(name):
            return Dense(C, dtype=self.dtype, name=name)(h).reshape(B, H * W, C // head_dim, head_dim)

        h = attend(heads("to_q"), heads("to_k"), heads("to_v"), self.kernel).reshape(B, H * W, C)
        out = Dense(C, init=zeros_init if self.zero_init else kernel_init, dtype=self.dtype, name="to_out_0")
        return x + out(h).reshape(B, H, W, C)
