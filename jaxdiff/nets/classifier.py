"""A classifier of noisy images: the U-Net's way down and attention pooling (Dhariwal and Nichol 2021, section 4)."""

import jax.numpy as jnp
from flax import linen as nn

from jaxdiff.nets.attention import attention
from jaxdiff.nets.layers import Dense, GroupNorm, plus
from jaxdiff.nets.unet import UNetConfig, encode
from jaxdiff.types import Array, Cond


class AttentionPool(nn.Module):
    """Attention pooling to one vector: the mean of all pixels is the query (Radford et al. 2021, CLIP, section 2.4).

        pool(x) = softmax(q_0 k^T / sqrt(D)) v,   q, k, v of the tokens (mean_i x_i, x_1, ..., x_HW) + positions

    Attributes:
      head_dim: D, channels per head; None is one head of all channels.
      dtype: of the computation.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.classifier import AttentionPool
        >>> pooled, _ = AttentionPool(head_dim=4).init_with_output(jax.random.key(0), jnp.ones([2, 3, 3, 8]))
        >>> pooled.shape
        (2, 8)
    """

    head_dim: int | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x [B, H, W, C] -> float32 [B, C].

        Raises:
          ValueError: another image size than that of the parameters, which have a position for each pixel.
        """
        B, H, W, C = x.shape
        position = self._positions(H, W, C)
        pixels = x.reshape(B, H * W, C)
        mean = pixels.astype(jnp.float32).mean(1, keepdims=True).astype(x.dtype)
        tokens = plus(jnp.concatenate([mean, pixels], axis=1), position[None])
        head_dim = self.head_dim or C

        def heads(name, tokens):
            h = Dense(C, dtype=self.dtype, name=name)(tokens)
            return h.reshape(*h.shape[:2], C // head_dim, head_dim)

        # The plain program whatever those of the blocks: one query keeps no [Q, K] worth saving.
        pooled = attention(heads("to_q", tokens[:, :1]), heads("to_k", tokens), heads("to_v", tokens))
        return pooled.reshape(B, C).astype(jnp.float32)

    def _positions(self, H, W, C):
        """Positional embeddings of the tokens, float32 [1 + H W, C]; the first is that of the mean."""
        name, shape = "positional_embedding", (1 + H * W, C)
        if self.has_variable("params", name) and self.get_variable("params", name).shape != shape:
            made_for = self.get_variable("params", name).shape[0] - 1
            raise ValueError(
                f"this classifier was made for images with {made_for} positions at its bottom and these have {H}x{W}: "
                "give it images of the size that it was trained on"
            )
        return self.param(name, nn.initializers.normal(C**-0.5, jnp.float32), shape)


class Encoder(nn.Module):
    """Features of a noisy image: the U-Net's way down and bottom, a norm, and attention pooling.

    What it shares with the `UNet` of the same config has the same names and shapes.

    Attributes:
      config: see `UNetConfig`; `out_channels` makes no difference here.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff.nets.classifier import Encoder
        >>> net = Encoder(jaxdiff.UNetConfig(channels=(16, 32), blocks=1, groups=8))
        >>> x, t = jnp.zeros([4, 28, 28, 1]), jnp.arange(4)
        >>> features, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), x, t)
        >>> features.shape
        (4, 32)
    """

    config: UNetConfig

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, keys: Array | None = None) -> Array:
        """Runs the network.

        Args:
          x: noisy images [B, H, W, C], of one size for all time.
          t: network times [B], level minus one: -1 is a clean image.
          cond: label [B] and vector [B, vector_dim], each present exactly if the config has it.
          keys: one random key per example for dropout; None is no dropout.

        Returns:
          float32 [B, channels[-1]].

        Raises:
          ValueError: an image that cannot be halved often enough or is of another size than the parameters are for, or
            conditions that the config does not have.
        """
        cfg, dtype = self.config, jnp.dtype(self.config.dtype)
        x, *_ = encode(cfg, x, t, cond, keys)
        # Not "conv_norm_out": the U-Net's norm of that name is of other channels.
        x = nn.silu(GroupNorm(cfg.groups, cfg.eps, dtype, name="norm_out")(x))
        return AttentionPool(x.shape[-1] // cfg.heads(len(cfg.channels) - 1), dtype, name="pool")(x)


class Classifier(nn.Module):
    """Classifier of noisy images: logits of p(y | x_t) (Dhariwal and Nichol 2021, section 4).

    The label is what it is to find and no condition: it is called with `cond=None`, unless its config has conditions of
    another kind.

    Attributes:
      config: see `UNetConfig`; `out_channels` is the number of classes.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff.nets.classifier import Classifier
        >>> net = Classifier(jaxdiff.UNetConfig(out_channels=10, channels=(8, 16), blocks=1, attention=(), groups=4))
        >>> x = jnp.zeros([4, 8, 8, 1])
        >>> params = jax.jit(net.init)(jax.random.key(0), x, jnp.zeros([4]))["params"]
        >>> logits, _ = jax.jit(jaxdiff.network(net))(params, x, 500)
        >>> jax.nn.log_softmax(logits).shape
        (4, 10)
    """

    config: UNetConfig

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, keys: Array | None = None) -> Array:
        """Runs the network.

        Args:
          x: noisy images [B, H, W, C].
          t: network times [B], see `Encoder`.
          cond: see `Encoder`.
          keys: one random key per example for dropout; None is no dropout.

        Returns:
          Logits, float32 [B, out_channels].

        Raises:
          ValueError: see `Encoder`.
        """
        features = Encoder(self.config, name="encoder")(x, t, cond, keys)
        return Dense(self.config.out_channels, name="head")(features)
