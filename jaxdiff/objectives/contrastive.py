"""The contrastive objective of CLIP: text to image and image to text within the batch (Radford et al. 2021, figure 3).

(1)  L_i = -1/2 log softmax_j(s t_i . x_j)[i] - 1/2 log softmax_j(s x_i . t_j)[i],   s = exp(logit_scale), at most 100
(2)  the t_j of the second softmax may include hard negatives: wrong captions of x_i that are almost right
                                                                                        Yuksekgonul et al. 2023, NegCLIP
"""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jax import lax

from jaxdiff.nets.clip import CLIP
from jaxdiff.objectives.noising import to_unit_range

LARGEST_SCALE = 100.0


def contrastive(net: CLIP, axis_name: str | None = None) -> Callable:
    """The objective of a `CLIP`, equation (1), over the examples of all devices.

    Args:
      net: text and image transformer.
      axis_name: mapped axis of devices, whose texts and images are all compared; None for one device.

    Returns:
      loss_fn(params, extra, keys [B], batch) -> (loss [B], (extra, metrics)), metrics "loss", "accuracy" (1 where a text
      is nearest to its image) and "scale", float32 [B]. `batch["tokens"]` is int [B, L]; `batch["image"]` is uint8
      [B, H, W, C], or float already in [-1, 1]; `batch["hard_negatives"]`, optional, is int [B, M, L], of each
      image.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.clip import CLIP, CLIPConfig, TextConfig, VisionConfig
        >>> from jaxdiff.objectives import contrastive
        >>> tower = {"width": 8, "layers": 1, "heads": 2}
        >>> text = TextConfig(**tower, vocabulary=20, length=5, end_token=19)
        >>> net = CLIP(CLIPConfig(text, VisionConfig(**tower, size=8, patch=4), projection=4))
        >>> batch = {"tokens": jnp.array([[1, 2, 19, 19, 19]] * 4), "image": jnp.zeros([4, 8, 8, 3])}
        >>> params = jax.jit(net.init)(jax.random.key(0), batch["tokens"], batch["image"])["params"]
        >>> loss, _ = jax.jit(contrastive(net))(params, (), None, batch)  # four equal examples
        >>> jnp.exp(loss).round(4).tolist()
        [4.0, 4.0, 4.0, 4.0]
    """

    def loss_fn(params, extra, keys, batch):
        del keys  # nothing is random
        texts, images, scale = net.apply({"params": params}, batch["tokens"], to_unit_range(batch["image"]))
        # Limited in value and not in gradient, so that it can decrease again.
        scale, first = scale + lax.stop_gradient(jnp.minimum(scale, LARGEST_SCALE) - scale), 0
        all_texts, all_images = texts, images
        if axis_name is not None:
            all_texts, all_images = (lax.all_gather(x, axis_name, tiled=True) for x in (texts, images))
            first = lax.axis_index(axis_name) * len(texts)
        own = first + jnp.arange(len(texts))
        by_text, by_image = scale * texts @ all_images.T, scale * images @ all_texts.T
        if "hard_negatives" in batch:
            M, L = batch["hard_negatives"].shape[1:]
            wrong = net.apply({"params": params}, batch["hard_negatives"].reshape(-1, L), method="encode_text")
            wrong = jnp.einsum("bd,bmd->bm", images, wrong.reshape(-1, M, wrong.shape[-1]))
            by_image = jnp.concatenate([by_image, scale * wrong], axis=1)
        losses = [optax.softmax_cross_entropy_with_integer_labels(logits, own) for logits in (by_text, by_image)]
        loss = 0.5 * (losses[0] + losses[1])
        correct = (by_text.argmax(1) == own).astype(jnp.float32)
        return loss, (extra, {"loss": loss, "accuracy": correct, "scale": jnp.broadcast_to(scale, loss.shape)})

    return loss_fn
