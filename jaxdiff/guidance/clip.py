"""CLIP guidance: the similarity of the predicted image and a text, as an objective of `by_gradient`."""

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.nets.clip import CLIP
from jaxdiff.types import Array, Static


def clip_similarity(net: CLIP, params, texts: Array, decode: Partial | None = None) -> Partial:
    """Cosine similarity of the predicted image and a text: the objective of CLIP guidance, for `by_gradient`.

        cos(text, image(D(x0)))           Radford et al. 2021;  D the decoder of a latent diffusion model, else the identity

    Args:
      net: text and image transformer.
      params: their parameters.
      texts: normalised embeddings from `CLIP.encode_text`: [projection], or one per example [B, projection].
      decode: latents -> images, see `latent.Codec`; None for a diffusion model of images.

    Returns:
      (x0 [B, ...], t, cond) -> float32 [B] in [-1, 1], a pytree: other texts do not recompile.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import guidance
        >>> from jaxdiff.nets.clip import CLIP, CLIPConfig, TextConfig, VisionConfig
        >>> tower = {"width": 8, "layers": 1, "heads": 2}
        >>> text = TextConfig(**tower, vocabulary=20, length=5, end_token=19)
        >>> net = CLIP(CLIPConfig(text, VisionConfig(**tower, size=8, patch=4), projection=4))
        >>> tokens, x0 = jnp.array([[1, 2, 19, 19, 19]]), jnp.ones([2, 8, 8, 3])
        >>> params = jax.jit(net.init)(jax.random.key(0), tokens, x0)["params"]
        >>> text = net.apply({"params": params}, tokens, method="encode_text")[0]
        >>> jaxdiff.call(guidance.clip_similarity(net, params, text), x0, 1, None).shape
        (2,)
    """
    return Partial(_similarity, Static(net), params, texts, decode)


def _similarity(net, params, texts, decode, x0, t, cond):
    del t, cond
    x = x0 if decode is None else decode(x0)
    images = net.value.apply({"params": params}, x, method="encode_image")
    return (images * jnp.broadcast_to(texts, images.shape)).sum(-1)
