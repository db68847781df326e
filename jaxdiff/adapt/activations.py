"""Gram matrices of the inputs of layers, computed while a network runs, without any change to it.

(1)  G = X^T X,   X [rows, in] the inputs of a layer, one row for each product with its kernel [in, out]

For linear layers and 1x1 convolutions X are the inputs themselves. For larger convolutions its rows are patches, in the
order of the rows of the kernel as a matrix [height width in, out], as in `adapt.lora`.
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
    """Gram matrix of a layer's inputs, equation (1).

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
    """Function that runs a network and returns the Gram matrices of some of its layers.

    These are the only outputs of the compiled program, so that a layer's input is freed as soon as its Gram matrix is
    computed, and layers after the last of them do not run. With fewer layers per program, fewer matrices are in memory at
    once (a 3x3 convolution of 1280 channels has one of 530 MB), and the network runs more often.

    Args:
      call: function that runs flax modules, such as `lambda params, x, t: net.apply({"params": params}, x, t)`. It is
        traced; equal ones share compilations.
      paths: of kernels, as in the `factors` of a `Lora`, from the module that is applied.
      layers_per_call: number of layers per program, at least 1; None is all. Outside of jit each program runs separately;
        within jit XLA may combine them. The results are equal.

    Returns:
      Function of the arguments of `call`, which are pytrees of arrays -> {path: float32 [in, in]}; a pytree itself. For
      layers that run several times, matrices are summed. It raises ValueError for a path without a layer, and for networks
      whose blocks run within another transformation: those with `config.remat` have the same parameters without it.

    Raises:
      ValueError: no paths, or fewer than one layer per program.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.adapt import activations
        >>> from jaxdiff.nets.attention import SelfAttention
        >>> net, x = SelfAttention(groups=4), jax.random.normal(jax.random.key(0), [2, 4, 4, 8])
        >>> params = jax.jit(net.init)(jax.random.key(1), x)["params"]
        >>> run = activations.grams(lambda params, x: net.apply({"params": params}, x), ["to_q/kernel", "to_k/kernel"])
        >>> found = run(params, x)
        >>> {path: g.shape for path, g in found.items()}, round(float(jnp.trace(found["to_q/kernel"])))  # normalised inputs
        ({'to_k/kernel': (8, 8), 'to_q/kernel': (8, 8)}, 256)
    """
    paths = tuple(dict.fromkeys(paths))
    if not paths or (layers_per_call is not None and layers_per_call < 1):
        raise ValueError(
            f"`paths` has {len(paths)} paths and `layers_per_call`={layers_per_call}: both must be at least 1"
        )
    size = layers_per_call or len(paths)
    return Partial(_grams, Static(call), Static(tuple(paths[i : i + size] for i in range(0, len(paths), size))))


def sum_over_batches(run: Callable, batches: Iterable) -> dict[str, np.ndarray]:
    """Gram matrices summed over batches, on the host in float64; a device holds those of one batch only.

    Args:
      run: batch -> {path: G}, such as `functools.partial(activations.grams(call, paths), params)`.
      batches: its arguments, taken one after the other, at least one.

    Returns:
      {path: float32 [in, in]}.

    Raises:
      ValueError: no batch.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.adapt import activations
        >>> run = lambda batch: {"to_q/kernel": activations.gram(batch)}
        >>> activations.sum_over_batches(run, (jnp.full([2, 1], x) for x in (1.0, 3.0)))["to_q/kernel"].tolist()
        [[20.0]]
    """
    total = {}
    for batch in batches:
        for path, g in jax.device_get(run(batch)).items():  # waits for the result before the next batch is made
            total[path] = total.get(path, 0) + g.astype(np.float64)
    if not total:
        raise ValueError("`batches` is empty: give at least one batch")
    return {path: g.astype(np.float32) for path, g in total.items()}


def _grams(call: Static, groups: Static, *args) -> dict[str, Array]:
    found = {}
    for paths in groups.value:
        _check_level(call.value, paths, args)
        found |= _intercepted(call.value, paths, args)
    return found


def _check_level(call, paths, args):
    """Refuses layers that run inside another transformation, which their matrices may not leave.

    One that did would be a traced constant of the program. `_intercepted` keeps this trace and makes no second one.
    """
    try:
        leaked = any(map(is_traced, jax.make_jaxpr(_intercepted, static_argnums=(0, 1))(call, paths, args).consts))
    except jax.errors.UnexpectedTracerError:
        leaked = True
    if leaked:
        raise ValueError(
            "some of these layers run inside another transformation: give a network of dataclasses.replace(config, "
            "remat=False), which has the same parameters, and call it without a jit or scan of your own"
        )


@functools.partial(jax.jit, static_argnames=("call", "paths"))
def _intercepted(call, paths, args):
    found = {}

    def intercept(run, args, kwargs, context):
        layer = _layer(context.module) if context.method_name == "__call__" else None
        if layer is not None and layer[0] in paths:
            path, rows = layer
            g = gram(rows(*args, **kwargs))
            found[path] = found[path] + g if path in found else g
        return run(*args, **kwargs)

    with nn.intercept_methods(intercept):
        call(*args)
    for path in paths:
        if path not in found:
            raise ValueError(f"no layer that runs has the kernel {path}: give paths from the module that is applied")
    return {path: found[path] for path in paths}


def _layer(module):
    """Path of a layer's kernel, and the function from its input to the rows of X; None for other modules."""
    path = lambda *names: "/".join((*module.path, *names, "kernel"))
    if isinstance(module, Dense):
        return path(), lambda x: x.astype(module.dtype)
    if isinstance(module, Conv):
        if module.size == 1 and module.stride == 1:  # of any rank
            return path(), lambda x: x.astype(module.dtype)
        pad = module.padding or (module.size // 2, module.size // 2)
        return path(), lambda x: patches(x.astype(module.dtype), module.size, module.stride, pad)
    if isinstance(module, Upsample):  # it computes on the small image; its kernel is that of the upsampled one
        return path("conv"), lambda x: patches(x.astype(module.dtype).repeat(2, 1).repeat(2, 2), 3, 1, (1, 1))
    return None


def patches(x: Array, size: int, stride: int, padding: tuple[int, int]) -> Array:
    """Patches of an image, with each of which a convolution multiplies its kernel.

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
