"""3x3 convolutions with 4/9 of the multiplications, for the CPU: F(2x2, 3x3) of Winograd (Lavin and Gray 2016).

Each 2x2 square Y of the output follows from the 4x4 square d of the input that it sees and from the kernel g,

    Y = A^T [(G g G^T) * (B^T d B)] A,

where the product * is elementwise and summed over channels: sixteen matrix products at a quarter of the pixels, in place of
nine at all of them. The small matrices hold only 0, 1, -1 and 1/2, so no more than a digit or so is lost. The sixteen are
done as four rows of four, and what one step hands to the next is written to memory once (see `jaxdiff.xla.materialized`).
"""

import jax.numpy as jnp
from jax import lax

from jaxdiff.types import Array


def applies(image_shape: tuple, kernel_shape: tuple, dtype, stride: int, padding: tuple) -> bool:
    """Whether a convolution is of the kind that this file does, and large enough to gain by it."""
    H, W = image_shape[1:3]
    kind = kernel_shape[:2] == (3, 3) and stride == 1 and padding == ((1, 1), (1, 1)) and not H % 2 and not W % 2
    return kind and dtype == jnp.float32 and H * W >= 64 and min(kernel_shape[2:]) >= 64


def conv(x: Array, kernel: Array) -> Array:
    """x [B, H, W, C] convolved with kernel [3, 3, C, O], one zero on each side -> [B, H, W, O]."""
    return _conv(x, kernel, "tnc,tco->tno")


def conv_input_grad(kernel: Array, g: Array) -> Array:
    """Gradient of `conv` in x: the output's gradient g [B, H, W, O] convolved with the flipped kernel."""
    return _conv(g, kernel[::-1, ::-1], "tno,tco->tnc")


def conv_kernel_grad(x: Array, g: Array) -> Array:
    """Gradient of `conv` in the kernel: G^T [(B^T d B) * (A dY A^T)] G, summed over the squares."""
    C, O = x.shape[-1], g.shape[-1]
    rows = _A([g[:, 0::2], g[:, 1::2]])
    squares = [_gathered(_A([row[:, :, 0::2], row[:, :, 1::2]]), O) for row in rows]
    products = [
        lax.optimization_barrier(jnp.einsum("tnc,tno->tco", d, dy)) for d, dy in zip(_squares(x), squares, strict=True)
    ]
    return jnp.stack([jnp.stack(_Gt(list(row))) for row in _Gt(products)]).reshape(3, 3, C, O)


def _conv(x, kernel, product):
    B, H, W, _ = x.shape
    rows = _G(list(kernel))
    kernels = [lax.optimization_barrier(jnp.stack(_G(list(row)))) for row in rows]
    products = [lax.optimization_barrier(jnp.einsum(product, d, g)) for d, g in zip(_squares(x), kernels, strict=True)]
    pixels = [[pixel.reshape(B, H // 2, W // 2, -1) for pixel in _At(list(row))] for row in _At(products)]
    y = jnp.stack([jnp.stack(row, axis=3) for row in pixels], axis=2)  # [B, H/2, 2, W/2, 2, O]
    return y.reshape(B, H, W, -1)


def _squares(x):
    """B^T d B of the 4x4 squares, which overlap by two: four rows of [4, squares, C]."""
    _, H, W, C = x.shape
    x = lax.optimization_barrier(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
    rows = _Bt([x[:, i : i + H - 1 : 2] for i in range(4)])
    return [_gathered(_Bt([row[:, :, j : j + W - 1 : 2] for j in range(4)]), C) for row in rows]


def _gathered(entries, channels):
    return lax.optimization_barrier(jnp.stack([entry.reshape(-1, channels) for entry in entries]))


# The small matrices, each applied to a list of its columns' operands.


def _Bt(d):
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _G(g):
    return [g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]]


def _Gt(m):
    return [m[0] + (m[1] + m[2]) / 2, (m[1] - m[2]) / 2, (m[1] + m[2]) / 2 + m[3]]


def _At(m):
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _A(y):
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]
