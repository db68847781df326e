"""CLIP: a text and an image transformer that meet in one space (Radford et al. 2021), as OpenAI and OpenCLIP have them.

(1)  h <- h + MHA(LN(h)),   h <- h + MLP(LN(h))                              pre-norm blocks; the text's see only the past
(2)  text: LN of the last block, at the end-of-text token;  image: LN of the last block, at the class token
(3)  similarity = exp(s) cos(W_t text, W_i image)                            figure 3
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdiff.nets.attention import attend
from jaxdiff.nets.clip_config import STEM_GROUPS, CLIPConfig, ImageEncoderConfig, TextConfig, VisionConfig
from jaxdiff.nets.layers import Conv, Dense, GroupNorm
from jaxdiff.types import Array


class Read(NamedTuple):
    """Output of a transformer for a text or an image.

    Attributes:
      tokens: [B, L, width]; of a text the context that a U-Net reads.
      pooled: the whole [B, width].
    """

    tokens: Array
    pooled: Array


class Block(nn.Module):
    """A block of a transformer, equation (1)."""

    config: TextConfig | VisionConfig

    @nn.compact
    def __call__(self, h: Array, mask: Array | None) -> Array:
        """h [B, L, C] -> [B, L, C]; mask [1, 1, L, L] says which tokens see which."""
        cfg, inner = self.config, self.config.inner or 4 * h.shape[-1]
        h = h + TokenAttention(cfg.heads, name="self_attn")(nn.LayerNorm(1e-5, name="layer_norm1")(h), mask)
        return h + MLP(inner, cfg.activation, name="mlp")(nn.LayerNorm(1e-5, name="layer_norm2")(h))


class TokenAttention(nn.Module):
    """Attention of tokens to tokens, of many heads."""

    heads: int

    @nn.compact
    def __call__(self, h: Array, mask: Array | None) -> Array:
        """h [B, L, C] -> [B, L, C]."""
        B, L, C = h.shape
        q, k, v = (
            Dense(C, name=f"{name}_proj")(h).reshape(B, L, self.heads, C // self.heads) for name in ("q", "k", "v")
        )
        return Dense(C, name="out_proj")(attend(q, k, v, mask=mask).reshape(B, L, C))


class MLP(nn.Module):
    """Two layers with an activation between them."""

    features: int
    activation: str

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """h [B, L, C] -> [B, L, C]."""
        x = Dense(self.features, name="fc1")(h)
        x = x * nn.sigmoid(1.702 * x) if self.activation == "quick_gelu" else nn.gelu(x, approximate=False)
        return Dense(h.shape[-1], name="fc2")(x)


class TextTransformer(nn.Module):
    """Reads a text: tokens in their order, each of which sees those before it.

    Submodules carry the names that published checkpoints give them (`encoder/layers_0/self_attn/q_proj`).

    Attributes:
      config: see `TextConfig`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.clip import TextConfig, TextTransformer
        >>> net = TextTransformer(TextConfig(width=8, layers=2, heads=2, vocabulary=20, length=5, end_token=19))
        >>> read, _ = net.init_with_output(jax.random.key(0), jnp.array([[18, 3, 19, 19, 19]]))
        >>> read.tokens.shape, read.pooled.shape
        ((1, 5, 8), (1, 8))
    """

    config: TextConfig

    def setup(self):
        cfg = self.config
        self.embeddings = _TextEmbeddings(cfg)
        self.encoder = _Encoder(cfg)
        self.final_layer_norm = nn.LayerNorm(1e-5)
        if cfg.projection:
            self.text_projection = Dense(cfg.projection, use_bias=False)

    def __call__(self, tokens: Array, skip: int = 0, norm: bool = True) -> Read:
        """Reads texts.

        Args:
          tokens: int [B, length] in [0, vocabulary), with an end token in each.
          skip: blocks at the end that `Read.tokens` leaves out, its norm being the last one all the same; 1 for Stable
            Diffusion XL, and for 2 with a whole text transformer of OpenCLIP-H, whose published copy lacks that block.
          norm: whether `Read.tokens` are normalised; not so in Stable Diffusion XL.

        Returns:
          `Read`; `pooled` is of all blocks, at the first end token, projected where there is a projection, and NaN where
          there is no end token.

        Raises:
          ValueError: texts of another length, or more blocks left out than there are.
        """
        cfg, (B, L) = self.config, tokens.shape
        if cfg.length != L:
            raise ValueError(f"texts of {L} tokens: this transformer reads {cfg.length}")
        if not 0 <= skip < cfg.layers:
            raise ValueError(f"skip={skip} must be at least 0 and less than the {cfg.layers} blocks")
        past = jnp.tril(jnp.ones([L, L], bool))[None, None]
        after = self.encoder(self.embeddings(tokens), past)
        last, read = self.final_layer_norm(after[-1]), after[-1 - skip]
        read = self.final_layer_norm(read) if norm else read
        end = (tokens == cfg.end_token).argmax(1)
        ends = (tokens == cfg.end_token).any(1)[:, None]
        pooled = jnp.where(ends, last[jnp.arange(B), end], jnp.nan)
        return Read(read, self.text_projection(pooled) if cfg.projection else pooled)


class _TextEmbeddings(nn.Module):
    config: TextConfig

    @nn.compact
    def __call__(self, tokens):
        cfg = self.config
        words = nn.Embed(cfg.vocabulary, cfg.width, embedding_init=_normal(0.02), name="token_embedding")(tokens)
        places = nn.Embed(cfg.length, cfg.width, embedding_init=_normal(0.01), name="position_embedding")
        return words + places(jnp.arange(cfg.length))[None]


class _Encoder(nn.Module):
    config: TextConfig | VisionConfig

    @nn.compact
    def __call__(self, h, mask):
        """The tokens after each block."""
        after = []
        for i in range(self.config.layers):
            h = Block(self.config, name=f"layers_{i}")(h, mask)
            after.append(h)
        return after


class VisionTransformer(nn.Module):
    """Reads an image: squares of pixels as tokens, and one more that stands for the whole.

    Attributes:
      config: see `VisionConfig`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.clip import VisionConfig, VisionTransformer
        >>> net = VisionTransformer(VisionConfig(width=8, layers=2, heads=2, size=8, patch=4))
        >>> read, _ = net.init_with_output(jax.random.key(0), jnp.zeros([1, 8, 8, 3]))
        >>> read.tokens.shape, read.pooled.shape
        ((1, 5, 8), (1, 8))
    """

    config: VisionConfig

    def setup(self):
        cfg = self.config
        self.embeddings = _VisionEmbeddings(cfg)
        self.pre_layrnorm = nn.LayerNorm(1e-5)  # as published
        self.encoder = _Encoder(cfg)
        self.post_layernorm = nn.LayerNorm(1e-5)

    def __call__(self, x: Array) -> Read:
        """Reads images.

        Args:
          x: [B, size, size, C], normalised by `mean` and `std`, see `normalized`.

        Returns:
          `Read`: the class token and one for each square, and the normalised class token.

        Raises:
          ValueError: images of another size.
        """
        h = self.encoder(self.pre_layrnorm(self.embeddings(x)), None)[-1]
        return Read(h, self.post_layernorm(h[:, 0]))


class _VisionEmbeddings(nn.Module):
    config: VisionConfig

    @nn.compact
    def __call__(self, x):
        cfg, (B, H, W, C) = self.config, x.shape
        if (H, W, C) != (cfg.size, cfg.size, len(cfg.mean)):
            raise ValueError(f"images of {H}x{W}x{C}: this transformer reads {cfg.size}x{cfg.size}x{len(cfg.mean)}")
        for i, channels in enumerate(cfg.stem):
            x = Conv(channels, stride=2, padding=(1, 1), name=f"stem_{i}")(x)
            x = nn.relu(GroupNorm(STEM_GROUPS, 1e-5, name=f"stem_norm_{i}")(x))
        side = 1 if cfg.stem else cfg.patch
        patches = nn.Conv(cfg.width, (side, side), side, "VALID", use_bias=False, name="patch_embedding")
        squares = patches(x).reshape(B, -1, cfg.width)
        whole = self.param("class_embedding", _normal(cfg.width**-0.5), (cfg.width,))
        h = jnp.concatenate([jnp.broadcast_to(whole[None, None], (B, 1, cfg.width)), squares], axis=1)
        places = nn.Embed(h.shape[1], cfg.width, embedding_init=_normal(0.02), name="position_embedding")
        return h + places(jnp.arange(h.shape[1]))[None]


class ImageEncoder(nn.Module):
    """An image transformer with a projection, for image prompts.

    Attributes:
      config: see `ImageEncoderConfig`.
    """

    config: ImageEncoderConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Images [B, H, W, C] in [-1, 1], of any size -> float32 [B, projection]."""
        pooled = VisionTransformer(self.config.vision, name="vision_model")(normalized(x, self.config.vision)).pooled
        return Dense(self.config.projection, use_bias=False, name="visual_projection")(pooled)


class CLIP(nn.Module):
    """Both transformers and the space in which they meet.

    Attributes:
      config: see `CLIPConfig`.
    """

    config: CLIPConfig

    def setup(self):
        self.text_model = TextTransformer(self.config.text)
        self.vision_model = VisionTransformer(self.config.vision)
        self.text_projection = Dense(self.config.projection, use_bias=False)
        self.visual_projection = Dense(self.config.projection, use_bias=False)
        self.logit_scale = self.param("logit_scale", lambda _: jnp.log(jnp.float32(1 / 0.07)))

    def encode_text(self, tokens: Array) -> Array:
        """Texts int [B, length] -> float32 [B, projection], of length 1."""
        return _unit(self.text_projection(self.text_model(tokens).pooled))

    def encode_image(self, x: Array) -> Array:
        """Images [B, H, W, C] in [-1, 1], of any size -> float32 [B, projection], of length 1."""
        return _unit(self.visual_projection(self.vision_model(normalized(x, self.config.vision)).pooled))

    def __call__(self, tokens: Array, x: Array) -> tuple[Array, Array, Array]:
        """(`encode_text`, `encode_image`, exp(s) of equation (3))."""
        return self.encode_text(tokens), self.encode_image(x), jnp.exp(self.logit_scale)


def normalized(x: Array, config: VisionConfig) -> Array:
    """Images as a `VisionTransformer` reads them.

    Args:
      x: [B, H, W, C] in [-1, 1], of any size: the square in the middle is cut out, and scaled by bicubic interpolation.
      config: of the transformer.

    Returns:
      float32 [B, size, size, C].

    Raises:
      ValueError: images of other channels.
    """
    B, H, W, C = x.shape
    if len(config.mean) != C:
        raise ValueError(f"images of {C} channels: this transformer reads {len(config.mean)}")
    side = min(H, W)
    top, left = (H - side) // 2, (W - side) // 2
    x = 0.5 * (jnp.asarray(x, jnp.float32)[:, top : top + side, left : left + side] + 1)
    if side != config.size:
        x = jnp.clip(jax.image.resize(x, (B, config.size, config.size, C), "bicubic"), 0, 1)
    mean, std = (jnp.array(of, jnp.float32).reshape(1, 1, 1, C) for of in (config.mean, config.std))
    return (x - mean) / std


def _unit(x):
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _normal(std):
    return nn.initializers.normal(std, jnp.float32)
