"""Gradient fusion of Mix-of-Show: several concepts' LoRAs combined into one (Gu et al. 2023).

With X_k the inputs of a layer while concept k is sampled, and W + D_k its kernel with the update of that concept's LoRA,
the fused update reproduces each concept's own one at that concept's inputs:

(1)  D = argmin_D  sum_k |X_k D - X_k D_k|^2 + ridge |D|^2
(2)    = S^-1 sum_k G_k D_k,   G_k = X_k^T X_k,   S = sum_k G_k + ridge 1
(3)    = sum_k (S^-1 G_k s_k A_k) B_k                       for low-rank updates D_k = s_k A_k B_k

Only the Gram matrices of the inputs are needed, see `adapt.activations`. The paper minimises (1) by L-BFGS; (2) is the
exact minimum. By (3) it is a LoRA again, whose rank is the sum of all ranks: no full matrix is formed, and it is merged and
saved like any other. `pipeline.fuse.matched` trains it further, for all layers jointly.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import scipy.linalg

from jaxdiff.adapt.lora import Factors, Lora
from jaxdiff.types import Array


def fused(loras: Sequence[Lora], grams: Sequence[Mapping[str, Array]], ridge: float = 1e-3) -> Lora:
    """Gradient fusion: the LoRA that reproduces each concept's own one at its inputs, equation (3), layer by layer.

    A layer without an update in some concept's LoRA stays unchanged at that concept's inputs, if their Gram matrix is
    given. Concepts are weighted by the number of their inputs: give Gram matrices of equally many.

    It is computed on the host in float64: inputs of a layer are so correlated that S, whose eigenvalues range from 300
    times their mean to less than a millionth of it, is singular in float32. A ridge below 2.4e-7 |S|, the rounding error of
    Gram matrices in float32, is raised to that.

    Args:
      loras: one per concept, of any ranks.
      grams: path -> G_k [in, in] for each concept, of all layers that its LoRA updates at least; from the network with that
        LoRA merged, because these are the concept's inputs.
      ridge: at least 0, as a fraction of the mean diagonal of the sum of Gram matrices; it keeps the layer unchanged at
        inputs that no concept has. Smaller values are more accurate at the given inputs, and less so at others.

    Returns:
      `Lora` of rank sum_k r_k with scale 1, float32.

    Raises:
      ValueError: LoRAs and sets of Gram matrices that are not one each, a missing Gram matrix or one of another network, a
        negative ridge, or one so small that S has no inverse.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.adapt import fuse, lora
        >>> small = lambda *down: lora.Lora(
        ...     {"to_q/kernel": lora.Factors(jnp.array(down)[:, None], jnp.ones([1, 1]))}, {"to_q/kernel": 1.0}
        ... )
        >>> gram = lambda *inputs: {"to_q/kernel": jnp.diag(jnp.array(inputs))}
        >>> both = fuse.fused([small(3.0, 9.0), small(9.0, 5.0)], [gram(1.0, 0.0), gram(0.0, 1.0)])
        >>> down, up = both.factors["to_q/kernel"]
        >>> (down @ up).round(2).tolist()  # the first one's update at its inputs, and the second one's at its own
        [[3.0], [5.0]]
    """
    if len(grams) != len(loras) or not loras:
        raise ValueError(f"`grams` has {len(grams)} sets of Gram matrices for {len(loras)} LoRAs: give one per LoRA")
    if not ridge >= 0:
        raise ValueError(f"`ridge`={ridge} must be at least 0: it is a fraction of the mean diagonal")
    factors = {}
    for path, (size, _) in _shapes(loras).items():
        gram = [_gram(k, each, lora, path, size) for k, (each, lora) in enumerate(zip(grams, loras))]
        wanted = [g @ _scaled_down(lora, path) for g, lora in zip(gram, loras) if path in lora.factors]
        downs = _solve(sum(g for g in gram if g is not None), np.concatenate(wanted, axis=1), ridge, path)
        ups = np.concatenate([lora.factors[path].up for lora in loras if path in lora.factors])
        factors[path] = Factors(jnp.asarray(downs, jnp.float32), jnp.asarray(ups, jnp.float32))
    return Lora(factors, dict.fromkeys(factors, jnp.float32(1)))


def averaged(loras: Sequence[Lora], weights=None) -> Lora:
    """Weighted sum of low-rank updates; unlike `fused` it needs no inputs, and weakens each concept to its weight.

        D = sum_k w_k s_k A_k B_k

    Args:
      loras: one per concept, of any ranks; 0 at layers that a LoRA does not update.
      weights: w_k, float [K]; None is 1 / K each. Traced.

    Returns:
      `Lora` of rank sum_k r_k with scale 1, float32.

    Raises:
      ValueError: no LoRA, weights that are not one per LoRA, or LoRAs of different networks.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.adapt import fuse, lora
        >>> small = lambda number: lora.Lora(
        ...     {"to_q/kernel": lora.Factors(jnp.full([2, 1], number), jnp.ones([1, 1]))}, {"to_q/kernel": 1.0}
        ... )
        >>> down, up = fuse.averaged([small(2.0), small(6.0)]).factors["to_q/kernel"]
        >>> (down @ up).tolist()
        [[4.0], [4.0]]
    """
    weights = jnp.full(len(loras), 1 / max(1, len(loras))) if weights is None else jnp.asarray(weights, jnp.float32)
    if weights.shape != (len(loras),) or not loras:
        raise ValueError(f"`weights` {weights.shape} for {len(loras)} LoRAs: give one per LoRA, and one LoRA at least")
    factors = {}
    for path in _shapes(loras):
        updates = [(w, lora.scale[path], lora.factors[path]) for w, lora in zip(weights, loras) if path in lora.factors]
        downs = jnp.concatenate([jnp.float32(w * s) * down for w, s, (down, _) in updates], axis=1)
        factors[path] = Factors(downs, jnp.concatenate([jnp.float32(up) for _, _, (_, up) in updates]))
    return Lora(factors, dict.fromkeys(factors, jnp.float32(1)))


def _shapes(loras):
    """Path -> (in, out) of all kernels that some LoRA updates, sorted; rejects LoRAs of different networks."""
    shapes = {}
    for lora in loras:
        for path, (down, up) in lora.factors.items():
            shape = down.shape[0], up.shape[1]
            first = shapes.setdefault(path, shape)
            if shape != first:
                raise ValueError(
                    f"these LoRAs are of different networks: {path} is {first[0]}x{first[1]} in one and "
                    f"{shape[0]}x{shape[1]} in another"
                )
    return dict(sorted(shapes.items()))


def _gram(k, grams, lora, path, size):
    """G_k of a layer in float64; None if it is not given and the LoRA does not update the layer."""
    if path not in grams:
        if path in lora.factors:
            raise ValueError(
                f"LoRA {k} updates {path}, which its `grams` lack: give those of all layers that it updates"
            )
        return None
    if np.shape(grams[path]) != (size, size):
        raise ValueError(f"`grams` of LoRA {k} must be {size}x{size} for {path}, and not {np.shape(grams[path])}")
    return np.asarray(grams[path], np.float64)


def _scaled_down(lora, path):
    """s A in float64."""
    return np.asarray(lora.scale[path], np.float64) * np.asarray(lora.factors[path].down, np.float64)


def _solve(total, wanted, ridge, path):
    """(total + ridge 1)^-1 wanted; 0 for a layer whose inputs were all 0."""
    rounding = 2 * np.finfo(np.float32).eps * np.linalg.norm(total)
    added = max(ridge * np.trace(total) / len(total), rounding) or 1.0
    try:
        factor = scipy.linalg.cho_factor(total + added * np.eye(len(total)), lower=True)
    except np.linalg.LinAlgError:
        raise ValueError(
            f"S of {path} has no inverse: give a `ridge` above {ridge}, and Gram matrices of float32"
        ) from None
    return scipy.linalg.cho_solve(factor, wanted)
