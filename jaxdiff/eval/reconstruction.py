"""How much of an image an autoencoder gives back, and how much of its codebook it uses."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.config import Config
from jaxdiff.eval.measure import Measure
from jaxdiff.eval.spread import over_batches, replicated
from jaxdiff.nets.vq_vae import perplexity, quantize
from jaxdiff.objectives import to_unit_range
from jaxdiff.objectives.autoencoder import psnr
from jaxdiff.pretrained import Model


def work(measure: Measure) -> int:
    """How much `measured` ticks in all."""
    return math.ceil(measure.num / measure.batch_size)


def measured(config: Config, params, measure: Measure, real: list[dict], tick: Callable[[int], None]) -> dict:
    """What an autoencoder makes of images, from their likeliest latents.

    Args:
      config: of the run that it was trained in.
      params: its parameters, and the words of its codebook.
      measure: from `measure.complete`.
      real: examples that it has not seen, {"image": uint8 [H, W, C]}.
      tick: called after every batch.

    Returns:
      Of {"psnr": {"mean", "percentile_5"} in dB, "latents": {"root_mean_square"}, "codebook": {"used", "perplexity"}} those
      that were asked for.
    """
    codec, words = replicated(Model(config, params, {}).codec), config.reconstruction.words
    book = params["quantize"]["embedding"] if words else None

    @jax.jit
    def through(codec, book, images):
        x = to_unit_range(images)
        z = codec.encode(x)
        index = None if book is None else quantize(book, z / config.net.scaling_factor)[1]
        return psnr(x, codec.decode(z)), jnp.square(z).mean((1, 2, 3)), index

    def of_batch(_, images):
        said = jax.block_until_ready(through(codec, book, images))
        tick(1)
        return said

    images = np.stack([example["image"] for example in real])
    quality, squares, index = over_batches(of_batch, measure.num, measure.batch_size, measure.seed, images)
    found = {"psnr": {"mean": float(quality.mean()), "percentile_5": float(np.percentile(quality, 5))}}
    found["latents"] = {"root_mean_square": float(np.sqrt(squares.mean()))}
    if words:
        count = np.bincount(index.ravel(), minlength=words)
        spread = float(perplexity(jnp.asarray(count, jnp.float32)))
        found["codebook"] = {"used": float((count > 0).mean()), "perplexity": spread}
    return {name: found[name] for name in measure.metrics.split(",")}
