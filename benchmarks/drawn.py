"""What benchmarks of drawn digits share: real digits, equally many of each, and drawn ones that are kept."""

import dataclasses
import hashlib
import json
import zlib
from pathlib import Path

import jax
import numpy as np

from jaxdiff import data, model as models, progress
from jaxdiff.eval import draw, features

HELD_OUT = ("judge", "test")  # half of the digits, which no generator has seen
BATCH = 40


def real(*splits, num: int | None = None) -> np.ndarray:
    """Images of these splits, uint8 [N, 28, 28, 1]: all, or `num` of them at random, equally many of each digit."""
    examples = [source[i] for source in (data.load(f"digits:{split}") for split in splits) for i in range(len(source))]
    images, labels = (np.stack([example[what] for example in examples]) for what in ("image", "label"))
    if num is None:
        return images
    order = np.random.default_rng(0).permutation(len(images))
    return images[np.concatenate([order[labels[order] == digit][: num // 10] for digit in range(10)])]


def judge() -> features.Features:
    """The network that ships to judge digits."""
    model = models.load("digits_judge")
    return features.classifier_features(model.config.net, model.params, "digits_judge")


def judged(by: features.Features, images: np.ndarray) -> features.Gathered:
    """What a judge says of images."""
    return features.gathered(by, [images[start : start + BATCH] for start in range(0, len(images), BATCH)])


def drawn(directory: Path, title: str, model: models.Model, guide=None, guide_about=None, **sample) -> np.ndarray:
    """Images that a model draws, uint8 [num, 28, 28, 1]: those that are kept of exactly this, or new ones."""
    plain = {"sampler": "ddim", "eta": None, "variance": None, "spacing": "trailing", "guidance": 1.0, "labels": None}
    config = dataclasses.replace(model.config, sample=dataclasses.replace(model.config.sample, **plain | sample))
    weights = [zlib.crc32(np.ascontiguousarray(leaf)) for leaf in jax.tree.leaves(model.params)]
    what = {"model": model.about, "weights": weights, "guide": guide_about, "sample": dataclasses.asdict(config.sample)}
    what = json.dumps(what, sort_keys=True)
    path = directory / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.npz"
    if path.exists():
        return np.load(path)["images"]
    draw.check(config, guide)
    with progress.bar(title, draw.num_steps(config), "steps") as tick:
        images = draw.draw(config, model.params, tick, guide)
    directory.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, images=images, what=what)
    return images
