"""Reconstruction quality of an autoencoder, and usage of its codebook."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.eval.measure import Measure
from jaxdiff.model import Model
from jaxdiff.nets.vq_vae import perplexity, quantize
from jaxdiff.objectives import to_unit_range
from jaxdiff.objectives.autoencoder import psnr
from jaxdiff.sharding import over_batches


def work(measure: Measure) -> int:
    """Number of ticks of `measured`."""
    return math.ceil(measure.num / measure.batch_size)


def measured(model: Model, measure: Measure, real: list[dict], tick: Callable[[int], None]) -> dict:
    """Reconstruction of images by an autoencoder, from the means of their latents.

    Args:
      model: autoencoder.
      measure: from `measure.complete`.
      real: examples that it has not seen, {"image": uint8 [H, W, C]}.
      tick: called after every batch.

    Returns:
      Of {"psnr": {"mean", "percentile_5"} in dB, "latents": {"root_mean_square"}, "codebook": {"used", "perplexity"}} those
      that are measured.
    """
    codec, size, factor = model.codec, model.config.net.codebook_size, model.config.net.scaling_factor
    book = model.params["quantize"]["embedding"] if size else None

    @jax.jit
    def through(codec, book, images):
        x = to_unit_range(images)
        z = codec.encode(x)
        index = None if book is None else quantize(book, z / factor)[1]
        return psnr(x, codec.decode(z)), jnp.square(z).mean((1, 2, 3)), index

    def of_batch(_, images):
        result = jax.block_until_ready(through(codec, book, images))
        tick(1)
        return result

    images = np.stack([example["image"] for example in real])
    quality, squares, index = over_batches(of_batch, measure.num, measure.batch_size, measure.seed, images)
    found = {"psnr": {"mean": float(quality.mean()), "percentile_5": float(np.percentile(quality, 5))}}
    found["latents"] = {"root_mean_square": float(np.sqrt(squares.mean()))}
    if size:
        count = np.bincount(index.ravel(), minlength=size)
        spread = float(perplexity(jnp.asarray(count, jnp.float32)))
        found["codebook"] = {"used": float((count > 0).mean()), "perplexity": spread}
    return {name: found[name] for name in measure.metrics.split(",")}
