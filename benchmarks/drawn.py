"""Real digits, equally many of each, and sampled ones, which are kept in files."""

import hashlib
import json
import zlib
from pathlib import Path

import jax
import numpy as np

import jaxdiff
from jaxdiff import data
from jaxdiff.eval import features

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
    model = jaxdiff.load("digits_judge")
    return features.classifier_features(model.config.net, model.params, "digits_judge")


def judged(by: features.Features, images: np.ndarray) -> features.Gathered:
    """Judgement of images."""
    return features.gathered(by, [images[start : start + BATCH] for start in range(0, len(images), BATCH)])


def drawn(directory: Path, model: jaxdiff.Model, **options) -> np.ndarray:
    """Images of `jaxdiff.generate` with its options, uint8 [num, 28, 28, 1]: kept ones of exactly these, or new ones."""
    given = {name: str(getattr(of, "config", of)) for name, of in options.items()}
    leaves = jax.tree.leaves((model, options.get("classifier")))
    about = json.dumps([str(model.config), given, [zlib.crc32(np.ascontiguousarray(leaf)) for leaf in leaves]])
    path = directory / f"{hashlib.sha256(about.encode()).hexdigest()[:16]}.npz"
    if path.exists():
        return np.load(path)["images"]
    images = jaxdiff.generate(model, **options)
    directory.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, images=images, about=about)
    return images
