"""What a layer sees, as the Gram matrix of its inputs: seen from outside while a network runs, which knows nothing of it.

(1)  G = X^T X,   X [rows, in] the inputs of a layer, one row for each product with its kernel [in, out]

Of a linear layer and of a 1x1 convolution X are the inputs themselves. Of a larger convolution they are the squares of
pixels under its kernel, in the order of the rows of the kernel as a matrix [height width in, out], as `adapt.lora` has it.
"""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.tree_util import Partial

from jaxdiff.nets.layers import Conv, Dense, Upsample
from jaxdiff.types import Array, Static, is_traced


def gram(inputs: Array) -> Array:
    """G of a layer's inputs, equation (1).

    Args:
      inputs: float [..., in].

    Returns:
      float32 [in, in].

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.adapt import activations
        >>> activations.gram(jnp.array([[1.0, 2.0], [0.0, 1.0]])).tolist()
        [[1.0, 2.0], [2.0, 5.0]]
    """
    x = inputs.reshape(-1, inputs.shape[-1]).astype(jnp.float32)
    return jnp.matmul(x.T, x, precision="highest")


def grams(call: Callable, paths: Iterable[str], layers_per_call: int | None = None) -> Partial:
    """A function that runs a network and gives the Gram matrices of some of its layers, and nothing else of it.

    Only Gram matrices leave the compiled program, so that an input is let go as soon as its own is worked out; what follows
    the last of these layers does not even run. A program that looks at fewer layers at a time holds fewer of the matrices
    (of a 3x3 convolution of 1280 channels one has 530 MB), and runs the network that many times more often.

    Args:
      call: runs flax modules, such as `lambda params, x, t: net.apply({"params": params}, x, t)`. It is called while it is
        traced; equal ones share compilations.
      paths: of kernels, as in the `factors` of a `Lora`, from the module that is applied.
      layers_per_call: how many layers a program looks at, at least 1; None is all. Outside of jit each such program runs
        on its own; inside, XLA may make one of them all. Results are equal.

    Returns:
      A function of the arguments of `call`, arrays and pytrees of them, a pytree itself -> {path: float32 [in, in]}. Layers
      that run several times have the sum. It raises ValueError for a path that no layer of the run has, and for a network
      whose blocks run inside another transformation: one with `config.remat` has the same parameters without it.

    Raises:
      ValueError: no paths, or fewer than one layer at a time.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.adapt import activations
        >>> from jaxdiff.nets.attention import SelfAttention
        >>> net, x = SelfAttention(groups=4), jax.random.normal(jax.random.key(0), [2, 4, 4, 8])
        >>> params = jax.jit(net.init)(jax.random.key(1), x)["params"]
        >>> look = activations.grams(lambda params, x: net.apply({"params": params}, x), ["to_q/kernel", "to_k/kernel"])
        >>> seen = look(params, x)
        >>> {path: g.shape for path, g in seen.items()}, round(float(jnp.trace(seen["to_q/kernel"])))  # all normalised
        ({'to_k/kernel': (8, 8), 'to_q/kernel': (8, 8)}, 256)
    """
    paths = tuple(dict.fromkeys(paths))
    if not paths or (layers_per_call is not None and layers_per_call < 1):
        raise ValueError(
            f"{len(paths)} paths, {layers_per_call} at a time: give the paths of layers, and at least 1 at a time"
        )
    size = layers_per_call or len(paths)
    return Partial(_grams, Static(call), Static(tuple(paths[i : i + size] for i in range(0, len(paths), size))))


def sum_over_batches(look: Callable, batches: Iterable) -> dict[str, np.ndarray]:
    """Gram matrices of many batches, added up on the host in float64, so that a device holds those of one batch alone.

    Args:
      look: batch -> {path: G}, such as `functools.partial(activations.grams(call, paths), params)`.
      batches: what it is called with, one after the other, each when the one before is done.

    Returns:
      {path: float32 [in, in]}.

    Raises:
      ValueError: there is no batch.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.adapt import activations
        >>> look = lambda batch: {"to_q/kernel": activations.gram(batch)}
        >>> activations.sum_over_batches(look, (jnp.full([2, 1], x) for x in (1.0, 3.0)))["to_q/kernel"].tolist()
        [[20.0]]
    """
    total = {}
    for batch in batches:
        for path, g in jax.device_get(look(batch)).items():  # which waits until it is there
            total[path] = total.get(path, 0) + g.astype(np.float64)
    if not total:
        raise ValueError("there is no batch: give at least one, of what the network is run on")
    return {path: g.astype(np.float32) for path, g in total.items()}


def _grams(call: Static, groups: Static, *args) -> dict[str, Array]:
    found = {}
    for paths in groups.value:
        _check_level(call.value, paths, args)
        found |= _looked_at(call.value, paths, args)
    return found


def _check_level(call, paths, args):
    """Refuses layers that run inside another transformation, which their matrices may not leave.

    One that did would be a traced constant of the program. `_looked_at` keeps this trace and makes no second one.
    """
    try:
        leaked = any(map(is_traced, jax.make_jaxpr(_looked_at, static_argnums=(0, 1))(call, paths, args).consts))
    except jax.errors.UnexpectedTracerError:
        leaked = True
    if leaked:
        raise ValueError(
            "some of these layers run inside another transformation: give a network of dataclasses.replace(config, "
            "remat=False), which has the same parameters, and call it without a jit or scan of your own"
        )


@functools.partial(jax.jit, static_argnames=("call", "paths"))
def _looked_at(call, paths, args):
    found = {}

    def look(run, args, kwargs, context):
        seen = _seen(context.module) if context.method_name == "__call__" else None
        if seen is not None and seen[0] in paths:
            path, rows = seen
            g = gram(rows(*args, **kwargs))
            found[path] = found[path] + g if path in found else g
        return run(*args, **kwargs)

    with nn.intercept_methods(look):
        call(*args)
    for path in paths:
        if path not in found:
            raise ValueError(f"no layer that runs has the kernel {path}: give paths from the module that is applied")
    return {path: found[path] for path in paths}


def _seen(module):
    """The path of a layer's kernel, and what makes X of the layer's input; None of what is no such layer."""
    path = lambda *parts: "/".join((*module.path, *parts, "kernel"))
    if isinstance(module, Dense):
        return path(), lambda x: x.astype(module.dtype)
    if isinstance(module, Conv):
        if module.size == 1 and module.stride == 1:  # of any rank
            return path(), lambda x: x.astype(module.dtype)
        pad = module.padding or (module.size // 2, module.size // 2)
        return path(), lambda x: patches(x.astype(module.dtype), module.size, module.stride, pad)
    if isinstance(module, Upsample):  # which does the same on the small image: its kernel is that of the large one
        return path("conv"), lambda x: patches(x.astype(module.dtype).repeat(2, 1).repeat(2, 2), 3, 1, (1, 1))
    return None


def patches(x: Array, size: int, stride: int, padding: tuple[int, int]) -> Array:
    """The squares of pixels that a convolution multiplies by its kernel.

    Args:
      x: [B, H, W, C].
      size: of the kernel.
      stride: in both directions.
      padding: zeros before and after, in both directions.

    Returns:
      [B, H', W', size size C], in the order of the rows of a kernel [size, size, C, O] as a matrix.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.adapt import activations
        >>> x = jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1)
        >>> activations.patches(x, size=2, stride=1, padding=(0, 1))[0, :, 0].tolist()
        [[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 0.0, 0.0]]
    """
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    height, width = ((side - size) // stride + 1 for side in x.shape[1:3])
    along = lambda start, count: slice(start, start + (count - 1) * stride + 1, stride)
    taps = [x[:, along(i, height), along(j, width)] for i in range(size) for j in range(size)]
    return jnp.concatenate(taps, axis=-1)
