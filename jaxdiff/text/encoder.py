"""Text encoders: from texts to the context of a network's cross-attention."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.nets.clip import Read, TextTransformer
from jaxdiff.nets.layers import timestep_embedding
from jaxdiff.text.tokenizer import Tokenizer
from jaxdiff.types import Apply, Array, Static, call


class TextEncoder(NamedTuple):
    """Tokenizer, and the text transformer that was trained with it.

    Calling it compiles once for all text encoders of one structure, whatever their weights: these are arguments of the
    compiled program. To encode within a function of your own, hand over `embed`, which is a pytree, and the token ids:
    `jax.jit(lambda embed, token_ids: embed(token_ids))`. Under `jax.jit(encoder.embed)` the weights would be constants of
    the program, and each new encoder a new compilation.

    Attributes:
      tokenizer: texts -> token ids, int32 [B, L].
      embed: token ids -> `nets.clip.Read`, whose tokens are the context, float32 [B, L, D]; a pytree.
      second: tokenizer of the second of two text transformers, whose token ids are [B, 2, L]; None of one alone.
      widths: channels of the context that are of each text transformer.
      zeros: channels and tokens of zeros that the context has beside and behind them, see `padded`.
    """

    tokenizer: Tokenizer
    embed: Partial
    second: Tokenizer | None = None
    widths: tuple[int, ...] = ()
    zeros: tuple[int, int] = (0, 0)

    def __call__(self, texts: Sequence[str]) -> Array:
        """Context [B, L, D] of texts; those that are too long are truncated, see `Tokenizer.truncation`."""
        return self.pad(self._run(Partial(_context, self.embed), texts))

    def read(self, texts: Sequence[str]) -> Read:
        """Context of texts, and the vectors of the whole texts [B, width]."""
        found = self._run(self.embed, texts)
        return found._replace(tokens=self.pad(found.tokens))

    def pad(self, tokens: Array) -> Array:
        """A context [B, L, D] of `embed` with the zeros."""
        channels, count = self.zeros
        return jnp.pad(tokens, ((0, 0), (0, count), (0, channels))) if any(self.zeros) else tokens

    def token_ids(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids of texts as `embed` takes them, int32 [B, L] or [B, 2, L]."""
        ids = self.tokenizer(texts)
        return ids if self.second is None else np.stack([ids, self.second(texts)], axis=1)

    def read_ids(self, ids: np.ndarray) -> Read:
        """The same as `read`, of token ids and without the zeros."""
        return _in_batches(self.embed, ids)

    def _run(self, function, texts):
        return _in_batches(function, self.token_ids(texts))


def _in_batches(function, ids):
    count = -(-len(ids) // 8) * 8  # padded to a multiple of 8 rows: few compilations
    found = call(function, np.resize(ids, (count, *ids.shape[1:])))
    return jax.tree.map(lambda rows: rows[: len(ids)], found)


def text_encoder(tokenizer: Tokenizer, net: TextTransformer, params, skip: int = 0, norm: bool = True) -> TextEncoder:
    """Text encoder of a text-to-image model.

    Args:
      tokenizer: the one that the text transformer was trained with.
      net: the text transformer.
      params: its parameters.
      skip: number of its last blocks that are left out: 0 in Stable Diffusion 1, 1 in 2 and XL.
      norm: whether the context is normalised; not so in Stable Diffusion XL.

    Raises:
      ValueError: the tokenizer's vocabulary, length or end token is not that of the text transformer.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.clip import TextConfig, TextTransformer
        >>> from jaxdiff.text import encoder, tokenizer
        >>> tokens = tokenizer.train(["a red seven"], vocab_size=600, length=6)
        >>> net = TextTransformer(TextConfig(8, 2, 2, vocabulary=600, length=6, end_token=tokens.end_id))
        >>> params = jax.jit(net.init)(jax.random.key(0), jnp.zeros([1, 6], jnp.int32))["params"]
        >>> encoder.text_encoder(tokens, net, params)(["a red one", ""]).shape
        (2, 6, 8)
    """
    cfg = net.config
    if tokenizer.vocab_size > cfg.vocabulary or tokenizer.length != cfg.length or tokenizer.end_id != cfg.end_token:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, length {tokenizer.length} and end token "
            f"{tokenizer.end_id}; the text transformer has {cfg.vocabulary}, {cfg.length} and {cfg.end_token}"
        )
    return TextEncoder(tokenizer, Partial(_embed, Static(net), params, Static((skip, norm))), widths=(cfg.width,))


def side_by_side(first: TextEncoder, second: TextEncoder, both_vectors: bool = False) -> TextEncoder:
    """Two text encoders as one, whose contexts stand side by side.

    Args:
      first: a text encoder.
      second: another one, of texts of the same length.
      both_vectors: whether their vectors stand side by side, too, as in Stable Diffusion 3; else that of the second is
        taken, as in Stable Diffusion XL.
    """
    embed = Partial(_side_by_side, Static(both_vectors), first.embed, second.embed)
    return TextEncoder(first.tokenizer, embed, second.tokenizer, first.widths + second.widths)


def padded(encoder: TextEncoder, width: int, tokens: int) -> TextEncoder:
    """A text encoder whose context has zeros beside it, up to a width, and some tokens of zeros behind it.

    So Stable Diffusion 3 is given texts without its T5, whose place the tokens take (Esser et al. 2024, section 5.3.2).
    """
    return encoder._replace(zeros=(width - sum(encoder.widths), tokens))


def with_sizes(vector: Array, vector_dim: int, sizes: Array) -> Array:
    """Vectors of texts with the sizes that Stable Diffusion XL is conditioned on beside them (Podell et al. 2023, 2.2).

    Args:
      vector: of the texts, float32 [B, V].
      vector_dim: size of the network's vector, V + 6 waves of an even number; V for a network without sizes.
      sizes: height and width of the original, top and left of the crop, height and width of the image, in pixels, [6] or
        [B, 6].

    Returns:
      float32 [B, vector_dim], each size as sinusoids.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.text.encoder import with_sizes
        >>> with_sizes(jnp.ones([2, 4]), 4 + 6 * 2, jnp.array([0, 0, 0, 0, 8, 8]))[0, 3:7].tolist()  # cos 0, sin 0
        [1.0, 1.0, 0.0, 1.0]
    """
    waves = (vector_dim - vector.shape[1]) // 6
    if not waves:
        return vector
    found = timestep_embedding(jnp.asarray(sizes).reshape(-1), waves, flip_sin_to_cos=True, freq_shift=0.0)
    return jnp.concatenate([vector, jnp.broadcast_to(found.reshape(-1, 6 * waves), (len(vector), 6 * waves))], axis=1)


@functools.cache
def with_text_encoder(apply: Apply, net: TextTransformer, skip: int = 0) -> Apply:
    """Network that encodes its texts itself, so that the text transformer is trained with it: apply -> apply.

    Args:
      apply: network as a function of its parameters, from `denoise.network`.
      net: the text transformer.
      skip: number of its last blocks that are left out.

    Returns:
      Apply function of parameters {"unet": the network's, "text": the text transformer's} and of a `Cond` whose context is
      token ids, int [B, L]. Equal arguments give the same function.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff import Cond
        >>> from jaxdiff.nets.clip import TextConfig, TextTransformer
        >>> from jaxdiff.text import encoder
        >>> net = TextTransformer(TextConfig(8, 2, 2, vocabulary=600, length=6, end_token=5))
        >>> params = {"unet": {}, "text": jax.jit(net.init)(jax.random.key(0), jnp.full([1, 6], 5))["params"]}
        >>> stub = lambda params, x_t, t, cond, keys=None: cond.context.shape  # in place of a network
        >>> encoder.with_text_encoder(stub, net)(params, None, 1, Cond(context=jnp.full([2, 6], 5)))
        (2, 6, 8)
    """

    def apply_both(params, x_t, t, cond, keys=None):
        context = net.apply({"params": params["text"]}, cond.context, skip).tokens
        return apply(params["unet"], x_t, t, cond._replace(context=context), keys)

    return apply_both


def tokens_only(encoder: TextEncoder) -> TextEncoder:
    """Text encoder that returns token ids as they are, for networks from `with_text_encoder`, which embed them."""
    return encoder._replace(embed=Partial(_identity))


def _identity(token_ids):
    return Read(token_ids, None)


def _embed(net, params, options, token_ids):
    return net.value.apply({"params": params}, token_ids, *options.value)


def _context(embed, token_ids):
    return embed(token_ids).tokens


def _side_by_side(both_vectors, first, second, token_ids):
    one, other = first(token_ids[:, 0]), second(token_ids[:, 1])
    vector = jnp.concatenate([one.pooled, other.pooled], axis=-1) if both_vectors.value else other.pooled
    return Read(jnp.concatenate([one.tokens, other.tokens], axis=-1), vector)
