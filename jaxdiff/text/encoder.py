"""Texts as what a U-Net's cross-attention reads."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.tree_util import Partial

from jaxdiff.nets.clip import TextTransformer
from jaxdiff.text.tokenizer import Tokenizer
from jaxdiff.types import Apply, Array, Static, call


class TextEncoder(NamedTuple):
    """A tokenizer and the transformer that was trained with it.

    Attributes:
      tokenizer: texts -> int32 [B, L].
      embed: tokens -> float32 [B, L, D], a pytree.
    """

    tokenizer: Tokenizer
    embed: Partial

    def __call__(self, texts: Sequence[str]) -> Array:
        """Texts -> context [B, L, D]; what is too long is cut, see `Tokenizer.cut`."""
        tokens = self.tokenizer(texts)
        count = -(-len(texts) // 8) * 8  # so that few numbers of texts compile anew
        filled = np.resize(tokens, (count, tokens.shape[1]))
        return call(self.embed, filled)[: len(texts)]


def text_encoder(tokenizer: Tokenizer, net: TextTransformer, params, skip: int = 0) -> TextEncoder:
    """What reads texts for a U-Net.

    Args:
      tokenizer: of texts.
      net: the text transformer.
      params: its parameters.
      skip: how many of its last blocks are left out: 0 in Stable Diffusion 1, 1 in 2.

    Raises:
      ValueError: the transformer reads other tokens than the tokenizer says.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.clip import TextConfig, TextTransformer
        >>> from jaxdiff.text import encoder, tokenizer
        >>> words = tokenizer.train(["a red seven"], size=600, length=6)
        >>> net = TextTransformer(TextConfig(8, 2, 2, vocabulary=600, length=6, end_token=words.end))
        >>> params = jax.jit(net.init)(jax.random.key(0), jnp.zeros([1, 6], jnp.int32))["params"]
        >>> encoder.text_encoder(words, net, params)(["a red one", ""]).shape
        (2, 6, 8)
    """
    cfg = net.config
    if tokenizer.size > cfg.vocabulary or tokenizer.length != cfg.length or tokenizer.end != cfg.end_token:
        raise ValueError(
            f"the tokenizer has {tokenizer.size} words, {tokenizer.length} to a text, its end being {tokenizer.end}; the "
            f"transformer has {cfg.vocabulary}, {cfg.length} and {cfg.end_token}"
        )
    return TextEncoder(tokenizer, Partial(_embed, Static(net), params, Static(skip)))


@functools.cache
def with_text_encoder(apply: Apply, net: TextTransformer, skip: int = 0) -> Apply:
    """A network that reads texts itself: apply function -> apply function, through which the text's half learns, too.

    Args:
      apply: network as a function of its parameters, from `denoise.network`.
      net: the text transformer.
      skip: how many of its last blocks are left out.

    Returns:
      The same of parameters {"unet": the network's, "text": the transformer's} and of a `Cond` whose context is tokens, int
      [B, L]. Equal arguments give the same function.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff import Cond
        >>> from jaxdiff.nets.clip import TextConfig, TextTransformer
        >>> from jaxdiff.text import encoder
        >>> net = TextTransformer(TextConfig(8, 2, 2, vocabulary=600, length=6, end_token=5))
        >>> text = jax.jit(net.init)(jax.random.key(0), jnp.full([1, 6], 5))["params"]
        >>> says = lambda params, x_t, t, cond, keys=None: cond.context.shape  # in place of a network
        >>> tokens = Cond(context=jnp.full([2, 6], 5))
        >>> encoder.with_text_encoder(says, net)({"unet": {}, "text": text}, None, 1, tokens)
        (2, 6, 8)
    """

    def read(params, x_t, t, cond, keys=None):
        context = net.apply({"params": params["text"]}, cond.context, skip).tokens
        return apply(params["unet"], x_t, t, cond._replace(context=context), keys)

    return read


def tokens_only(reads: TextEncoder) -> TextEncoder:
    """What gives texts as tokens, float context [B, L, D] being made of them later, see `with_text_encoder`."""
    return reads._replace(embed=Partial(_as_they_are))


def _as_they_are(tokens):
    return tokens


def _embed(net, params, skip, tokens):
    return net.value.apply({"params": params}, tokens, skip.value).tokens
