"""Layers whose plain form XLA runs slowly, and the small ones that every network shares. Images are NHWC."""

import zlib

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxdiff.nets.conv import conv2d
from jaxdiff.types import Array, rows
from jaxdiff.xla import materialized

# With their dtype, for the default one, and with it the random numbers, depends on jax's 64-bit mode.
kernel_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", dtype=jnp.float32)
zeros_init = nn.initializers.constant(0.0, jnp.float32)
ones_init = nn.initializers.constant(1.0, jnp.float32)


class Conv(nn.Module):
    """Square convolution with bias, by `conv2d`; a 1x1 kernel is a matrix product.

    Attributes:
      features: output channels.
      size: kernel size.
      stride: step in both directions.
      padding: zeros before and after, the same in both directions; None is size // 2 on each side.
      init: initialiser of the kernel.
      dtype: of the computation; parameters are float32.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: tuple[int, int] | None = None
    init: nn.initializers.Initializer = kernel_init
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.init, shape).astype(self.dtype)
        bias = self.param("bias", zeros_init, (self.features,))
        x = x.astype(self.dtype)
        if self.size == 1 and self.stride == 1:
            return plus(matmul(x, kernel[0, 0]), row(bias, x))
        pad = self.padding or (self.size // 2, self.size // 2)
        return plus(conv2d(x, kernel, self.stride, (pad, pad)), row(bias, x))


class Dense(nn.Module):
    """Affine map of the last axis; `flax.linen.Dense` without its broadcasting of ranks."""

    features: int
    use_bias: bool = True
    init: nn.initializers.Initializer = kernel_init
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.init, (x.shape[-1], self.features)).astype(self.dtype)
        y = matmul(x.astype(self.dtype), kernel)
        return plus(y, row(self.param("bias", zeros_init, (self.features,)), y)) if self.use_bias else y


def matmul(x: Array, kernel: Array) -> Array:
    """x [..., C] @ kernel [C, O], operands and gradient written to memory once."""
    return materialized(materialized(x) @ kernel)


def plus(x: Array, y: Array) -> Array:
    """x + y in the dtype of x, where y may have axes of length one; the sum over them that is y's gradient is in float32.

    In bfloat16, of 8 binary digits, a sum of thousands of numbers would stop growing long before its end.
    """
    return (x.astype(jnp.float32) + y).astype(x.dtype)


def row(vector: Array, x: Array) -> Array:
    """Prepends axes of length one to `vector` [C] so that it meets the last axis of `x` [..., C]."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018) as per-channel sums and one multiply-add.

    y = x a + b, with a and b [B, C] worked out from the sums of x and x^2 over each channel, combined into groups. This
    reads x twice and writes it once; the plain form normalises in a reshaped array and is about three times slower on a
    CPU. Sums are in float32 whatever the dtype.

    Attributes:
      groups: number of groups; must divide the channels.
      eps: added to the variance.
      dtype: of the result.
    """

    groups: int = 32
    eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, scale_shift: tuple[Array, Array] | None = None) -> Array:
        """Normalises x [B, ..., C]; `scale_shift` ([B, C] each) applies y (1 + scale) + shift on top."""
        channels = x.shape[-1]
        gain = self.param("scale", ones_init, (channels,))
        bias = self.param("bias", zeros_init, (channels,))
        if channels % self.groups:
            raise ValueError(f"{channels} channels cannot be divided into {self.groups} groups of the group norm")
        space = tuple(range(1, x.ndim - 1))
        x = materialized(x)
        x32 = x.astype(jnp.float32)
        sums = jnp.stack([x32.sum(space), jnp.square(x32).sum(space)])  # [2, B, C]
        grouped = sums.reshape(2, x.shape[0], self.groups, channels // self.groups).mean(-1, keepdims=True)
        mean, square = grouped * (1 / (x32[0, ..., 0].size))
        inverse_std = lax.rsqrt(jnp.maximum(square - mean**2, 0.0) + self.eps)  # [B, groups, 1]
        a = (gain.reshape(1, self.groups, -1) * inverse_std).reshape(-1, channels)
        b = bias[None] - (mean * a.reshape(mean.shape[0], self.groups, -1)).reshape(-1, channels)
        if scale_shift is not None:
            scale, shift = scale_shift
            a, b = a * (1 + scale), b * (1 + scale) + shift
        middle = (x.shape[0],) + (1,) * len(space) + (channels,)
        return (x32 * a.reshape(middle) + b.reshape(middle)).astype(self.dtype)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by two and a 3x3 convolution, done on the small image.

    Each of the four output pixels of an input pixel sees a 2x2 neighbourhood of the small image, so four 2x2 convolutions
    give the same numbers for 4/9 of the work (Shi et al. 2016, sub-pixel convolution). Parameters are those of the 3x3
    convolution, under `conv`.

    Attributes:
      features: output channels.
      dtype: of the computation.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return _UpsampleConv(self.features, self.dtype, name="conv")(x)


class _UpsampleConv(nn.Module):
    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", kernel_init, (3, 3, x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", zeros_init, (self.features,))
        return plus(upsample_conv(x.astype(self.dtype), kernel), row(bias, x))


def upsample_conv(x: Array, kernel: Array) -> Array:
    """conv2d(nearest_upsample(x, 2), kernel) for a 3x3 kernel with padding 1, without the large image.

    Args:
      x: [B, H, W, C].
      kernel: [3, 3, C, O].

    Returns:
      [B, 2H, 2W, O].
    """
    B, H, W, _ = x.shape
    phases = [
        [conv2d(x, _fold(_fold(kernel, a, 0), b, 1), 1, ((1 - a, a), (1 - b, b))) for b in (0, 1)]
        for a in (0, 1)  # output pixels (2i + a, 2j + b)
    ]
    y = jnp.stack([jnp.stack(line, axis=3) for line in phases], axis=2)  # [B, H, 2, W, 2, O]
    return y.reshape(B, 2 * H, 2 * W, -1)


def _fold(kernel: Array, phase: int, axis: int) -> Array:
    """The two taps on the small image: of the three on the large one, those on the same small pixel are summed."""
    first, middle, last = jnp.split(kernel, 3, axis)
    return jnp.concatenate([first + middle, last] if phase else [first, middle + last], axis)


class Dropout(nn.Module):
    """Dropout with one key per example, so that the mask of an example depends neither on the batch nor on the device.

    Attributes:
      rate: probability of a zero, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, keys: Array | None) -> Array:
        """Masks x [B, ...] by keys [B]; without keys (sampling) x is returned as it is."""
        if keys is None or self.rate == 0.0:
            return x
        site = zlib.crc32("/".join(self.path).encode())
        kept = jnp.float32(1 - self.rate)
        keep = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, site), kept, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


def space_to_depth(x: Array, factor: int) -> Array:
    """[B, H, W, C] -> [B, H / factor, W / factor, factor^2 C]: each square of pixels becomes channels."""
    B, H, W, C = x.shape
    x = x.reshape(B, H // factor, factor, W // factor, factor, C)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, H // factor, W // factor, factor**2 * C)


def depth_to_space(x: Array, factor: int) -> Array:
    """Inverse of `space_to_depth`."""
    B, H, W, C = x.shape
    x = x.reshape(B, H, W, factor, factor, C // factor**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, H * factor, W * factor, -1)


def timestep_embedding(t: Array, dim: int, flip_sin_to_cos: bool = False, freq_shift: float = 1.0) -> Array:
    """Sinusoids of t: sin and cos of t 10000^(-i / (dim/2 - freq_shift)) (Vaswani et al. 2017; DDPM, appendix B).

    Args:
      t: network times [B].
      dim: even size of the embedding.
      flip_sin_to_cos: cosines first, as Stable Diffusion has it.
      freq_shift: 1 in DDPM, 0 in Stable Diffusion.

    Returns:
      float32 [B, dim].
    """
    half = dim // 2
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift))
    angles = rows(t.astype(jnp.float32), frequencies[None]) * frequencies[None]
    waves = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(waves[::-1] if flip_sin_to_cos else waves, axis=-1)
