"""Token embeddings of new tokens, the only parameters that textual inversion trains (Gal et al. 2023)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdiff.types import Array

TABLE = ("embeddings", "token_embedding", "embedding")


def token_embeddings(params) -> Array:
    """Table of token embeddings of a `nets.clip.TextTransformer`, float32 [V, D]."""
    for name in TABLE:
        params = params[name]
    return params


def insert(params, embeddings: Array, first: int):
    """Parameters of a text transformer with these embeddings in its table.

    Args:
      params: of a `nets.clip.TextTransformer`.
      embeddings: float32 [N, D], of the token ids first .. first + N - 1. Traced.
      first: first token id, at most the number of rows of the table, which grows if need be.

    Returns:
      Parameters of the same structure.

    Raises:
      ValueError: token ids that would leave a gap in the table, or embeddings of another width.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.adapt import new_tokens
        >>> params = {"embeddings": {"token_embedding": {"embedding": jnp.zeros([3, 2])}}}
        >>> new_tokens.token_embeddings(new_tokens.insert(params, jnp.ones([2, 2]), first=2)).tolist()
        [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
    """
    old = token_embeddings(params)
    if not 0 <= first <= len(old) or embeddings.shape[1:] != old.shape[1:]:
        raise ValueError(
            f"embeddings {embeddings.shape} from id {first} on do not fit a table of embeddings {old.shape}"
        )
    new = jnp.concatenate([old[:first], jnp.asarray(embeddings, old.dtype), old[first + len(embeddings) :]])
    inner = params["embeddings"]
    return params | {"embeddings": inner | {"token_embedding": inner["token_embedding"] | {"embedding": new}}}


def initial_embeddings(key: Array, params, token_ids: Sequence[Sequence[int]]) -> Array:
    """Initial embeddings of new tokens: each is the mean of those of given tokens, or random without any.

    Args:
      key: random key.
      params: of a `nets.clip.TextTransformer`.
      token_ids: for each new token, ids of any number of tokens.

    Returns:
      float32 [N, D]; random ones are normal with mean and standard deviation of the table.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.adapt import new_tokens
        >>> params = {"embeddings": {"token_embedding": {"embedding": jnp.array([[1.0, 3.0], [3.0, 5.0]])}}}
        >>> new_tokens.initial_embeddings(jax.random.key(0), params, [[0], [0, 1]]).tolist()
        [[1.0, 3.0], [2.0, 4.0]]
    """
    table = jnp.asarray(token_embeddings(params))
    random = table.mean(0)[None] + table.std() * jax.random.normal(key, (len(token_ids), table.shape[1]), jnp.float32)
    return jnp.stack([table[jnp.asarray(ids)].mean(0) if len(ids) else row for ids, row in zip(token_ids, random)])
