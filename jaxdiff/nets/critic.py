"""A critic of image patches, against which autoencoders are trained (Isola et al. 2017; Esser et al. 2021)."""

import jax.numpy as jnp
from flax import linen as nn

from jaxdiff.nets.layers import Conv, GroupNorm
from jaxdiff.types import Array


class PatchCritic(nn.Module):
    """Scores overlapping patches of an image: strided 4x4 convolutions, the channels doubling up to eight times.

    Norms are group norms instead of the published batch norms, whose statistics would be state.

    Attributes:
      channels: of the first convolution; divisible by `groups`.
      layers: strided convolutions.
      groups: of the group norms.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.critic import PatchCritic
        >>> scores, _ = jax.jit(PatchCritic(8, groups=4).init_with_output)(jax.random.key(0), jnp.zeros([2, 32, 32, 3]))
        >>> scores.shape
        (2, 2, 2, 1)
    """

    channels: int = 64
    layers: int = 3
    groups: int = 32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Images [B, H, W, C] in [-1, 1] -> scores, float32 [B, h, w, 1].

        Raises:
          ValueError: images that are too small for so many layers.
        """
        smallest = 3 * 2**self.layers
        if min(x.shape[1:3]) < smallest:
            raise ValueError(f"images of {x.shape[1]}x{x.shape[2]} are too small for a critic: at least {smallest}")
        for i in range(self.layers + 1):
            stride = 2 if i < self.layers else 1
            x = Conv(self.channels * min(2**i, 8), size=4, stride=stride, padding=(1, 1), name=f"conv_{i}")(x)
            x = x if i == 0 else GroupNorm(self.groups, 1e-5, name=f"norm_{i}")(x)
            x = nn.leaky_relu(x, 0.2)
        return Conv(1, size=4, padding=(1, 1), name="conv_out")(x).astype(jnp.float32)
