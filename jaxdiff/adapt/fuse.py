"""Gradient fusion of Mix-of-Show: several concepts' LoRAs become one that does what each does (Gu et al. 2023).

With X_k the inputs that a layer sees while concept k is drawn, and W + D_k its kernel with that concept's correction, the
fused correction does at the inputs of each concept what that concept's own one does:

(1)  D = argmin_D  sum_k |X_k D - X_k D_k|^2 + ridge |D|^2
(2)    = S^-1 sum_k G_k D_k,   G_k = X_k^T X_k,   S = sum_k G_k + ridge 1
(3)    = sum_k (S^-1 G_k s_k A_k) B_k                       of D_k = s_k A_k B_k, what a LoRA is

so that of all inputs only their Gram matrices are kept, see `adapt.activations`. The paper goes down (1) by L-BFGS; (2) is
where that ends. By (3) it is a LoRA again, of all ranks together: no full matrix is written down, and it is merged, kept
and given away like any other. `pipeline.fuse.matched` goes on from there, over all layers together.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import scipy.linalg

from jaxdiff.adapt.lora import Factors, Lora
from jaxdiff.types import Array


def fused(loras: Sequence[Lora], grams: Sequence[Mapping[str, Array]], ridge: float = 1e-3) -> Lora:
    """The one LoRA that does at the inputs of each concept what its own does, equation (3), layer by layer.

    A layer that some concepts do not correct is kept as it is at their inputs, if their Gram matrix of it is given. A
    concept weighs as much as its inputs: give Gram matrices of as many of each.

    It is worked out on the host in float64: inputs of a layer are so alike that S, whose eigenvalues reach from 300 times
    their mean to below a millionth of it, is singular to the digits of float32. Below the rounding of Gram matrices in
    float32, 2.4e-7 |S|, the ridge has no effect.

    Args:
      loras: one of each concept, of any ranks.
      grams: of each concept, path -> G_k [in, in], of all layers that it corrects at least. As the concept's own inputs
        are, they come from the network with that concept's LoRA merged.
      ridge: at least 0, as a share of the mean diagonal of the sum of the Gram matrices; keeps inputs that no concept has
        as they are. Less of it is nearer to each concept at the inputs that were seen, and further off at others.

    Returns:
      `Lora` of rank sum_k r_k with the scale 1, float32.

    Raises:
      ValueError: not one set of Gram matrices for each LoRA, one that lacks a layer or is of another network, a ridge
        below 0, or one so small that S has no inverse; one line.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.adapt import fuse, lora
        >>> small = lambda *down: lora.Lora(
        ...     {"to_q/kernel": lora.Factors(jnp.array(down)[:, None], jnp.ones([1, 1]))}, {"to_q/kernel": 1.0}
        ... )
        >>> sees = lambda *inputs: {"to_q/kernel": jnp.diag(jnp.array(inputs))}
        >>> both = fuse.fused([small(3.0, 9.0), small(9.0, 5.0)], [sees(1.0, 0.0), sees(0.0, 1.0)])
        >>> down, up = both.factors["to_q/kernel"]
        >>> (down @ up).round(2).tolist()  # what the first does at its inputs, and the second at its own
        [[3.0], [5.0]]
    """
    if len(grams) != len(loras) or not loras:
        raise ValueError(f"{len(grams)} sets of Gram matrices are not one for each of {len(loras)} LoRAs")
    if not ridge >= 0:
        raise ValueError(f"ridge={ridge} must be at least 0: it is a share of the mean diagonal")
    factors = {}
    for path, (size, _) in _shapes(loras).items():
        seen = [_gram(k, gram, lora, path, size) for k, (gram, lora) in enumerate(zip(grams, loras))]
        wanted = [g @ _scaled(lora, path) for g, lora in zip(seen, loras) if path in lora.factors]
        downs = _solve(sum(g for g in seen if g is not None), np.concatenate(wanted, axis=1), ridge, path)
        ups = np.concatenate([lora.factors[path].up for lora in loras if path in lora.factors])
        factors[path] = Factors(jnp.asarray(downs, jnp.float32), jnp.asarray(ups, jnp.float32))
    return Lora(factors, dict.fromkeys(factors, jnp.float32(1)))


def averaged(loras: Sequence[Lora], weights=None) -> Lora:
    """The weighted sum of corrections, which needs no inputs and keeps of each concept its share alone.

        D = sum_k w_k s_k A_k B_k

    Args:
      loras: one of each concept, of any ranks; 0 at layers that it does not have.
      weights: w_k, float [K]; by default 1 / K each, which is the mean. Traced.

    Returns:
      `Lora` of rank sum_k r_k with the scale 1, float32.

    Raises:
      ValueError: no LoRA, not one weight for each, or LoRAs of different networks; one line.

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
        raise ValueError(f"weights {weights.shape} are not one for each of {len(loras)} LoRAs")
    factors = {}
    for path in _shapes(loras):
        having = [(w, lora.scale[path], lora.factors[path]) for w, lora in zip(weights, loras) if path in lora.factors]
        downs = jnp.concatenate([jnp.float32(w * s) * down for w, s, (down, _) in having], axis=1)
        factors[path] = Factors(downs, jnp.concatenate([jnp.float32(up) for _, _, (_, up) in having]))
    return Lora(factors, dict.fromkeys(factors, jnp.float32(1)))


def _shapes(loras):
    """Path -> (in, out) of all that some LoRA corrects, in order; refuses LoRAs of different networks."""
    shapes = {}
    for lora in loras:
        for path, (down, up) in lora.factors.items():
            here = down.shape[0], up.shape[1]
            there = shapes.setdefault(path, here)
            if here != there:
                raise ValueError(
                    f"these LoRAs are of different networks: {path} is {there[0]}x{there[1]} in one and "
                    f"{here[0]}x{here[1]} in another"
                )
    return dict(sorted(shapes.items()))


def _gram(k, gram, lora, path, size):
    """G_k of a layer in float64; None where a concept that does not correct it has none."""
    if path not in gram:
        if path in lora.factors:
            raise ValueError(
                f"LoRA {k} corrects {path}, of which its Gram matrices have none: give all that it corrects"
            )
        return None
    if np.shape(gram[path]) != (size, size):
        raise ValueError(f"the Gram matrix {k} of {path} must be {size}x{size}, and this one is {np.shape(gram[path])}")
    return np.asarray(gram[path], np.float64)


def _scaled(lora, path):
    """s A in float64."""
    return np.asarray(lora.scale[path], np.float64) * np.asarray(lora.factors[path].down, np.float64)


def _solve(whole, wanted, ridge, path):
    """(whole + ridge 1)^-1 wanted; 0 at a layer whose inputs were all 0."""
    rounding = 2 * np.finfo(np.float32).eps * np.linalg.norm(whole)
    added = max(ridge * np.trace(whole) / len(whole), rounding) or 1.0
    try:
        factor = scipy.linalg.cho_factor(whole + added * np.eye(len(whole)), lower=True)
    except np.linalg.LinAlgError:
        raise ValueError(
            f"S of {path} has no inverse: give a ridge above {ridge}, and Gram matrices of float32"
        ) from None
    return scipy.linalg.cho_solve(factor, wanted)
