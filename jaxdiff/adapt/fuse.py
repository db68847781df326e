"""Gradient fusion of Mix-of-Show: several concepts' corrections become one that does what each does (Gu et al. 2023).

With X_k the inputs that a layer sees while concept k is drawn, and W + D_k its kernel with that concept's correction, the
fused correction does at the inputs of each concept what that concept's own one does:

(1)  D = argmin_D  sum_k |X_k D - X_k D_k|^2 + ridge |D|^2
(2)    = (sum_k G_k + ridge 1)^-1 sum_k G_k D_k,   G_k = X_k^T X_k

so that of all inputs only their Gram matrices are kept. The paper goes down (1) by L-BFGS; (2) is where that ends.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import jax.scipy.linalg

from jaxdiff.types import Array


def gram(inputs: Array) -> Array:
    """G of one batch of a layer's inputs, to be added up over batches.

    Args:
      inputs: float [..., in].

    Returns:
      float32 [in, in].

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.adapt import fuse
        >>> fuse.gram(jnp.array([[1.0, 2.0], [0.0, 1.0]])).tolist()
        [[1.0, 2.0], [2.0, 5.0]]
    """
    x = inputs.reshape(-1, inputs.shape[-1]).astype(jnp.float32)
    return jnp.matmul(x.T, x, precision="highest")


def fused(grams: Sequence[Array], changes: Sequence[Array], ridge: float = 1e-4) -> Array:
    """The one correction of a layer that does what several do, equation (2).

    Args:
      grams: G_k of each concept, float32 [in, in].
      changes: D_k of each, s A B of its LoRA, float32 [in, out].
      ridge: as a share of the mean diagonal of the sum of the Gram matrices; keeps inputs that no concept has as they are.

    Returns:
      float32 [in, out].

    Raises:
      ValueError: not one Gram matrix for each correction.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.adapt import fuse
        >>> one, other = jnp.diag(jnp.array([1.0, 0.0])), jnp.diag(jnp.array([0.0, 1.0]))  # of inputs that share nothing
        >>> change = fuse.fused([one, other], [jnp.array([[3.0], [9.0]]), jnp.array([[9.0], [5.0]])])
        >>> change.round(2).tolist()  # what the first does at its inputs, and the second at its own
        [[3.0], [5.0]]
    """
    if len(grams) != len(changes) or not grams:
        raise ValueError(f"{len(grams)} Gram matrices are not one for each of {len(changes)} corrections")
    wanted = sum(jnp.matmul(g, d, precision="highest") for g, d in zip(grams, changes))
    whole = sum(grams)
    whole = whole + ridge * jnp.trace(whole) / len(whole) * jnp.eye(len(whole))
    return jax.scipy.linalg.solve(whole, wanted, assume_a="pos")
