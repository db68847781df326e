"""InceptionV3 (Szegedy et al. 2015) as published for FID: the network of 2015-12-05 in TensorFlow, ported to PyTorch.

It differs from others of its name: 1008 classes, averages over real pixels only at the edges, and a maximum where the last
block should have an average. Modules carry the names of pytorch-fid's file `pt_inception-2015-12-05-6726825d.pth`.
"""

import functools
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jax import lax
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jaxdiff.files import check_regular
from jaxdiff.nets.layers import ones_init, row, zeros_init
from jaxdiff.paths import as_path
from jaxdiff.types import Array

SIZE = 299  # pixels on each side, those that it was trained on
CLASSES, FEATURES = 1008, 2048

# In float32 everywhere: accelerators multiply in fewer digits by default, and published numbers were not made so.
EXACT = lax.Precision.HIGHEST


class InceptionV3(nn.Module):
    """Features and classes of photographs, in float32.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.inception import InceptionV3, preprocess
        >>> images = jnp.zeros([4, 32, 32, 3], jnp.uint8)
        >>> run = lambda: InceptionV3().init_with_output(jax.random.key(0), preprocess(images))[0]
        >>> [x.shape for x in jax.eval_shape(run)]
        [(4, 2048), (4, 1008)]
    """

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Runs the network.

        Args:
          x: images in [-1, 1], float32 [B, 299, 299, 3], see `preprocess`; not much smaller ones would do.

        Returns:
          Features before the last layer ("pool3"), float32 [B, 2048], at least 0; logits of classes, float32 [B, 1008].
        """
        x = _conv("Conv2d_1a_3x3", 32, 3, 2)(x)
        x = _conv("Conv2d_2a_3x3", 32, 3, padding="VALID")(x)
        x = _shrink(_conv("Conv2d_2b_3x3", 64, 3)(x))
        x = _conv("Conv2d_3b_1x1", 80)(x)
        x = _shrink(_conv("Conv2d_4a_3x3", 192, 3, padding="VALID")(x))
        for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = MixedA(pooled, name=name)(x)
        x = MixedB(name="Mixed_6a")(x)
        for name, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = MixedC(inner, name=name)(x)
        x = MixedD(name="Mixed_7a")(x)
        x = MixedE(_average, name="Mixed_7b")(x)
        x = MixedE(_maximum, name="Mixed_7c")(x)
        features = x.mean((1, 2))
        return features, nn.Dense(CLASSES, precision=EXACT, name="fc")(features)


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation by stored statistics (eps 1e-3), relu.

    Attributes:
      features: output channels.
      size: height and width of the kernel.
      stride: step in both directions.
      padding: "SAME" or "VALID".
    """

    features: int
    size: tuple[int, int]
    stride: int
    padding: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        window = self.size, (self.stride, self.stride), self.padding
        x = nn.Conv(self.features, *window, use_bias=False, precision=EXACT, name="conv")(x)
        return nn.relu(StoredNorm(name="bn")(x))


class StoredNorm(nn.Module):
    """(x - mean) / sqrt(var + 1e-3) scale + bias for each channel; all four are parameters, for here it is not trained."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (x.shape[-1],)
        scale, var = (self.param(name, ones_init, shape) for name in ("scale", "var"))
        bias, mean = (self.param(name, zeros_init, shape) for name in ("bias", "mean"))
        gain = scale / jnp.sqrt(var + 1e-3)
        return x * row(gain, x) + row(bias - mean * gain, x)


def _conv(name, features, size=1, stride=1, padding=None):
    """A `ConvNorm`, which keeps the image's size if its stride is 1, by default."""
    size = size if isinstance(size, tuple) else (size, size)
    return ConvNorm(features, size, stride, padding or ("SAME" if stride == 1 else "VALID"), name=name)


def _shrink(x):
    return nn.max_pool(x, (3, 3), (2, 2))


def _average(x):
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _maximum(x):
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def _join(*branches):
    return jnp.concatenate(branches, axis=-1)


class MixedA(nn.Module):
    """Branches of 1x1, 5x5 and two 3x3 convolutions, and one that pools; [B, H, W, C] -> [B, H, W, 224 + pooled]."""

    pooled: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        five = _conv("branch5x5_2", 64, 5)(_conv("branch5x5_1", 48)(x))
        double = _conv("branch3x3dbl_2", 96, 3)(_conv("branch3x3dbl_1", 64)(x))
        double = _conv("branch3x3dbl_3", 96, 3)(double)
        pool = _conv("branch_pool", self.pooled)(_average(x))
        return _join(_conv("branch1x1", 64)(x), five, double, pool)


class MixedB(nn.Module):
    """Halves the image, [B, 35, 35, 288] -> [B, 17, 17, 768]."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        double = _conv("branch3x3dbl_2", 96, 3)(_conv("branch3x3dbl_1", 64)(x))
        double = _conv("branch3x3dbl_3", 96, 3, 2)(double)
        return _join(_conv("branch3x3", 384, 3, 2)(x), double, _shrink(x))


class MixedC(nn.Module):
    """Branches of 7x7 convolutions, each as 1x7 and 7x1; [B, H, W, C] -> [B, H, W, 768]."""

    inner: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        seven, double = _conv("branch7x7_1", self.inner)(x), _conv("branch7x7dbl_1", self.inner)(x)
        seven = _conv("branch7x7_2", self.inner, (1, 7))(seven)
        seven = _conv("branch7x7_3", 192, (7, 1))(seven)
        for i, size in ((2, (7, 1)), (3, (1, 7)), (4, (7, 1))):
            double = _conv(f"branch7x7dbl_{i}", self.inner, size)(double)
        double = _conv("branch7x7dbl_5", 192, (1, 7))(double)
        pool = _conv("branch_pool", 192)(_average(x))
        return _join(_conv("branch1x1", 192)(x), seven, double, pool)


class MixedD(nn.Module):
    """Halves the image, [B, 17, 17, 768] -> [B, 8, 8, 1280]."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = _conv("branch3x3_2", 320, 3, 2)(_conv("branch3x3_1", 192)(x))
        seven = _conv("branch7x7x3_1", 192)(x)
        seven = _conv("branch7x7x3_2", 192, (1, 7))(seven)
        seven = _conv("branch7x7x3_3", 192, (7, 1))(seven)
        seven = _conv("branch7x7x3_4", 192, 3, 2)(seven)
        return _join(three, seven, _shrink(x))


class MixedE(nn.Module):
    """Branches that end in 1x3 and 3x1 side by side, [B, H, W, C] -> [B, H, W, 2048].

    Attributes:
      pool: `_average`, or in the last block of this network `_maximum`.
    """

    pool: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = _conv("branch3x3_1", 384)(x)
        double = _conv("branch3x3dbl_2", 384, 3)(_conv("branch3x3dbl_1", 448)(x))
        three = [_conv("branch3x3_2a", 384, (1, 3))(three), _conv("branch3x3_2b", 384, (3, 1))(three)]
        double = [_conv("branch3x3dbl_3a", 384, (1, 3))(double), _conv("branch3x3dbl_3b", 384, (3, 1))(double)]
        pool = _conv("branch_pool", 192)(self.pool(x))
        return _join(_conv("branch1x1", 320)(x), *three, *double, pool)


def preprocess(images: Array) -> Array:
    """Images as the network is shown them in pytorch-fid: to [0, 1], bilinear to 299x299 without antialiasing, to [-1, 1].

    The original in TensorFlow places the pixels otherwise when it resizes (its corner at a pixel's corner), and shifts by
    128 / 255 where this shifts by 1/2: numbers of the two differ a little.

    Args:
      images: uint8 [B, H, W, C] with C 1 (repeated) or 3.

    Returns:
      float32 [B, 299, 299, 3].

    Raises:
      ValueError: images of another type or number of channels.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.nets.inception import preprocess
        >>> x = preprocess(jnp.full([2, 28, 28, 1], 255, jnp.uint8))
        >>> x.shape, round(float(x.min()), 4)
        ((2, 299, 299, 3), 1.0)
    """
    if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"Inception takes uint8 images [B, H, W, 1 or 3], not {images.dtype} {list(images.shape)}")
    x = jnp.broadcast_to(images, (*images.shape[:-1], 3)).astype(jnp.float32) / 255.0
    x = jax.image.resize(x, (len(x), SIZE, SIZE, 3), "linear", antialias=False, precision=EXACT)
    return 2.0 * x - 1.0


@functools.cache
def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters, "Mixed_5b/branch1x1/conv/kernel": (1, 1, 192, 64) and so on."""
    x = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    params = jax.eval_shape(InceptionV3().init, jax.random.key(0), x)["params"]
    return {name: leaf.shape for name, leaf in traverse_util.flatten_dict(params, sep="/").items()}


def load_inception(path: str | os.PathLike) -> dict:
    """Parameters of `InceptionV3` from a file that `benchmarks/convert_inception.py` made of the published one.

    Args:
      path: safetensors file, with the parameters' names as in `shapes`.

    Returns:
      Parameters, a tree of float32 NumPy arrays.

    Raises:
      FileNotFoundError: no such file.
      OSError: it is a pipe or a device.
      ValueError: not a safetensors file, or one of another network: tensors missing, left over or of other shapes.

    Example::

        >>> import tempfile
        >>> from jaxdiff.nets.inception import load_inception
        >>> with tempfile.NamedTemporaryFile() as empty:
        ...     load_inception(empty.name)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: ... is not a safetensors file: convert the published one by benchmarks/convert_inception.py
    """
    check_regular(as_path(path))
    try:
        found = load_file(path)
    except SafetensorError as error:
        hint = "convert the published one by benchmarks/convert_inception.py"
        raise ValueError(f"{path} is not a safetensors file: {hint}") from error
    wrong = differences({name: tensor.shape for name, tensor in found.items()})
    if wrong:
        raise ValueError(f"{path} is not the Inception network of FID: {wrong}")
    return traverse_util.unflatten_dict({name: x.astype("float32") for name, x in found.items()}, sep="/")


def differences(found: dict[str, tuple[int, ...]]) -> str:
    """Differences of names and shapes from `shapes`, in one line; "" if there are none.

    Args:
      found: shape of each tensor by its name.

    Returns:
      Text that names up to three tensors of each kind.

    Example::

        >>> from jaxdiff.nets.inception import differences, shapes
        >>> differences(shapes())
        ''
        >>> differences(shapes() | {"fc/bias": (1000,)})
        '1 of another shape (fc/bias (1000,) instead of (1008,))'
    """
    wanted = shapes()
    common = sorted(wanted.keys() & found.keys())
    kinds = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "of another shape": [f"{n} {found[n]} instead of {wanted[n]}" for n in common if found[n] != wanted[n]],
    }

    def some(names):
        return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

    return "; ".join(f"{len(names)} {kind} ({some(names)})" for kind, names in kinds.items() if names)
