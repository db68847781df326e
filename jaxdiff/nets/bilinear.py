"""Bilinear maps whose derivatives of every kind are programs written by hand.

For a bilinear map z = f(x, y), the sum of w * f(x, y) is linear in each of x, y and w. Its gradients are bilinear too,

    x = f_x(y, w),    y = f_y(x, w),    z = f(x, y),

and the transpose of each of the three maps, in either operand, is another of the three. `bilinear` makes them one primitive
of jax, whose parameter `out` names the result. The primitive's rules for `jvp`, transposition and `vmap` give the primitive
again, so forward mode, reverse mode, and any nesting of the two run these three maps and no others. A primitive it must be:
`custom_vjp` has no forward mode, `linear_call` no `vmap`, and `custom_jvp` leaves the transpose to jax.
"""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxdiff.types import Array
from jaxdiff.xla import materialized


class Family(NamedTuple):
    """Three bilinear maps that are each other's transposes; see `bilinear`."""

    primitive: Primitive
    maps: Mapping[str, Callable]
    axes: Mapping[str, Mapping[str, int]]
    programs: Mapping[str, Callable]
    materialize: frozenset[str]

    def operands(self, out: str) -> tuple[str, ...]:
        """Names of the operands of the map to `out`, in order."""
        return tuple(name for name in self.maps if name != out)


def bilinear(
    name: str,
    maps: Mapping[str, Callable],
    axes: Mapping[str, Mapping[str, int]],
    programs: Mapping[str, Callable] | None = None,
    materialize: tuple[str, ...] = (),
) -> Callable[..., Array]:
    """Primitive of three bilinear maps that are each other's transposes.

    Args:
      name: of the primitive, in jaxprs.
      maps: by the name of the result, map(first, second, **static) of the other two, in the order of `maps`.
      axes: by the name of an array, the positions of two of its axes by letters. Each two arrays share one letter, and
        concatenation of operands along an axis that the other operand lacks must concatenate the results.
      programs: the same maps in the form in which they run; None is `maps`, which otherwise give types alone.
      materialize: names of arrays that derivatives write to memory once, see `jaxdiff.xla.materialized`.

    Returns:
      product(out, first, second, **static), the map to the array named `out`; differentiable in both operands.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.bilinear import bilinear
        >>> maps = {"x": lambda y, z: z @ y.T, "y": lambda x, z: x.T @ z, "z": lambda x, y: x @ y}
        >>> axes = {"x": {"I": 0, "J": 1}, "y": {"J": 0, "K": 1}, "z": {"I": 0, "K": 1}}
        >>> product = bilinear("matmul", maps, axes)
        >>> a, b = jnp.ones([2, 3]), jnp.ones([3, 4])
        >>> jax.jvp(lambda a: product("z", a, b), (a,), (2 * a,))[1][0, 0]
        Array(6., dtype=float32)
    """
    family = Family(Primitive(name), maps, axes, programs or maps, frozenset(materialize))
    primitive, run = family.primitive, functools.partial(_run, family)
    primitive.def_impl(run)
    primitive.def_abstract_eval(functools.partial(_type, family))
    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=False))
    ad.primitive_jvps[primitive] = functools.partial(_jvp, family)
    ad.primitive_transposes[primitive] = functools.partial(_transpose, family)
    batching.primitive_batchers[primitive] = functools.partial(_batch, family)
    return functools.partial(_product, family)


def _product(family, out, first, second, **static):
    return family.primitive.bind(jnp.asarray(first), jnp.asarray(second), out=out, many=False, **static)


def _run(family, first, second, *, out, many, **static):
    """The map to `out`; for each pair along a leading axis of both operands, where `many`."""
    call = functools.partial(family.programs[out], **static)
    return (jax.vmap(call) if many else call)(first, second)


def _type(family, first, second, **params):
    run = functools.partial(_run, family._replace(programs=family.maps), **params)
    return jax.make_jaxpr(run)(first, second).out_avals[0]


def _jvp(family, primals, tangents, **params):
    named = zip(family.operands(params["out"]), primals, strict=True)
    first, second = (materialized(x) if name in family.materialize else x for name, x in named)
    product = functools.partial(family.primitive.bind, **params)
    terms = [(tangents[0], second), (first, tangents[1])]
    terms = [product(*term) for term in terms if ad.Zero not in map(type, term)]
    return product(first, second), functools.reduce(operator.add, terms)


def _transpose(family, cotangent, first, second, *, out, **params):
    if type(cotangent) is ad.Zero:
        return [None, None]
    names, linear = family.operands(out), 0 if ad.is_undefined_primal(first) else 1
    wanted, other = names[linear], names[1 - linear]
    given = {out: cotangent, other: second if linear == 0 else first}
    if read := {name: x for name, x in given.items() if name in family.materialize}:
        # Together, so that copies of an operand that the forward pass made are made again and not kept until now.
        given |= materialized(read)
    gradient = family.primitive.bind(*(given[name] for name in family.operands(wanted)), out=wanted, **params)
    return [gradient, None] if linear == 0 else [None, gradient]


def _batch(family, operands, dims, *, out, many, **static):
    """The mapped axis of one operand joins the axis that the other lacks; mapped axes of both pair along a leading axis."""
    product = functools.partial(family.primitive.bind, out=out, **static)
    if None not in dims:
        operands = [jnp.moveaxis(x, dim, 0) for x, dim in zip(operands, dims, strict=True)]
        if not many:
            return product(*operands, many=True), 0
        sizes = operands[0].shape[:2]
        y = product(*(x.reshape(-1, *x.shape[2:]) for x in operands), many=True)
        return y.reshape(*sizes, *y.shape[1:]), 0
    mapped = 0 if dims[1] is None else 1
    name, operands = family.operands(out)[mapped], list(operands)
    (letter,) = family.axes[name].keys() & family.axes[out].keys()
    axis, out_axis = family.axes[name][letter] + many, family.axes[out][letter] + many
    x = jnp.moveaxis(operands[mapped], dims[mapped], axis)
    operands[mapped] = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    y = product(*operands, many=many)
    return y.reshape(*y.shape[:out_axis], x.shape[axis], -1, *y.shape[out_axis + 1 :]), out_axis
