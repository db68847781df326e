"""New words: rows of a text transformer's table of tokens, which is all that textual inversion trains (Gal et al. 2023)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdiff.types import Array

TABLE = ("embeddings", "token_embedding", "embedding")


def token_embeddings(params) -> Array:
    """What a `nets.clip.TextTransformer` knows its tokens by, float32 [V, D]."""
    for name in TABLE:
        params = params[name]
    return params


def insert(params, rows: Array, first: int):
    """A text transformer's parameters with these rows in its table of tokens.

    Args:
      params: of a `nets.clip.TextTransformer`.
      rows: float32 [N, D], of the tokens first .. first + N - 1. Traced.
      first: the first token, at most as many as the table has rows; a table that is too short becomes longer.

    Returns:
      Parameters of that structure.

    Raises:
      ValueError: tokens that would leave a gap in the table, or rows of another width.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.adapt import new_tokens
        >>> params = {"embeddings": {"token_embedding": {"embedding": jnp.zeros([3, 2])}}}
        >>> new_tokens.token_embeddings(new_tokens.insert(params, jnp.ones([2, 2]), first=2)).tolist()
        [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
    """
    old = token_embeddings(params)
    if not 0 <= first <= len(old) or rows.shape[1:] != old.shape[1:]:
        raise ValueError(f"rows {rows.shape} from {first} on do not fit a table of tokens {old.shape}")
    new = jnp.concatenate([old[:first], jnp.asarray(rows, old.dtype), old[first + len(rows) :]])
    inner = params["embeddings"]
    return params | {"embeddings": inner | {"token_embedding": inner["token_embedding"] | {"embedding": new}}}


def initial_embeddings(key: Array, params, tokens: Sequence[Sequence[int]]) -> Array:
    """What new words begin as: each as the mean of the tokens of words that are there, or at random where it has none.

    Args:
      key: random key.
      params: of a `nets.clip.TextTransformer`.
      tokens: for each new word, any number.

    Returns:
      float32 [N, D]; at random with the mean and the standard deviation of the table.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.adapt import new_tokens
        >>> params = {"embeddings": {"token_embedding": {"embedding": jnp.array([[1.0, 3.0], [3.0, 5.0]])}}}
        >>> new_tokens.initial_embeddings(jax.random.key(0), params, [[0], [0, 1]]).tolist()
        [[1.0, 3.0], [2.0, 4.0]]
    """
    rows = jnp.asarray(token_embeddings(params))
    drawn = rows.mean(0)[None] + rows.std() * jax.random.normal(key, (len(tokens), rows.shape[1]))
    return jnp.stack([rows[jnp.asarray(of)].mean(0) if len(of) else row for of, row in zip(tokens, drawn)])
