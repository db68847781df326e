"""The primitive of a bilinear map beside jax's own matrix product: derivatives of every kind, under every vmap."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets.bilinear import bilinear

MAPS = {"x": lambda y, z: z @ y.T, "y": lambda x, z: x.T @ z, "z": lambda x, y: x @ y}
AXES = {"x": {"I": 0, "J": 1}, "y": {"J": 0, "K": 1}, "z": {"I": 0, "K": 1}}
product = functools.partial(bilinear("matmul", MAPS, AXES, materialize=("x",)), "z")
RNG = np.random.default_rng(0)
normal = lambda *shape: RNG.standard_normal(shape).astype(np.float32)
close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-5)


def derivatives(product):
    """A function (x, y, w) -> value, tangent and gradients of the product, w being tangent of x and cotangent in turn."""

    def run(x, y, w):
        z, tangent = jax.jvp(product, (x, y), (w, jnp.cos(y)))
        return z, tangent, jax.vjp(product, x, y)[1](jnp.sin(z) + (w @ y))

    return run


def mapped(axes):
    """Operands with an axis of length 3, and of length 2, where `axes` = ((first, second), ...) have a position."""
    x, y, w = (4, 5), (5, 6), (4, 5)
    shapes = []
    for shape, (one, two) in zip((x, y, w), axes, strict=True):
        shape = shape if two is None else (*shape[:two], 2, *shape[two:])
        shapes.append(shape if one is None else (*shape[:one], 3, *shape[one:]))
    return [normal(*shape) for shape in shapes]


@pytest.mark.parametrize("axes", list(itertools.product([None, 0, 2], [None, 1], [None, 0]))[1:], ids=str)
def test_derivatives_under_vmap_are_jax_s(axes):
    args = mapped([(axis, None) for axis in axes])
    ours, plain = (jax.vmap(derivatives(f), axes)(*args) for f in (product, jnp.matmul))
    close(ours, plain)


@pytest.mark.parametrize("outer", [(0, None, None), (None, 2, None), (1, 0, 0)], ids=str)
@pytest.mark.parametrize("inner", [(0, None, None), (None, 1, None), (2, 0, 1)], ids=str)
def test_derivatives_under_two_vmaps_are_jax_s(outer, inner):
    args = mapped(list(zip(outer, inner, strict=True)))
    ours, plain = (jax.vmap(jax.vmap(derivatives(f), inner), outer)(*args) for f in (product, jnp.matmul))
    close(ours, plain)


def test_derivatives_of_a_vmap_are_jax_s():
    x, y = normal(3, 4, 5), normal(5, 6)

    def loss(product):
        return lambda x, y: (jax.vmap(product, (0, None))(x, y) ** 3).sum()

    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        close(*(derivative(loss(f), 1)(x, y) for f in (product, jnp.matmul)))


def test_third_derivatives_are_jax_s():
    x, y = normal(3, 3), normal(3, 3)
    third = lambda product: jax.grad(lambda x: jax.hessian(lambda x: (product(x, jnp.sin(x) @ y) ** 2).sum())(x).sum())
    close(*(jax.jit(third(f))(x) for f in (product, jnp.matmul)), rtol=1e-4)


def test_linear_in_one_operand_transposes():
    x, y, z = normal(4, 5), normal(5, 6), normal(4, 6)
    close(jax.linear_transpose(lambda x: product(x, y), x)(z)[0], z @ y.T)
    close(jax.linear_transpose(lambda y: product(x, y), y)(z)[0], x.T @ z)
    pushed = jax.linearize(product, x, y)[1]
    close(pushed(2 * x, y), 3 * x @ y)


def test_operands_of_other_types_are_refused_as_by_the_map():
    with pytest.raises(TypeError, match="contracting dimensions"):
        product(normal(4, 5), normal(4, 6))
