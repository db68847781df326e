"""Models that ship, held-out images, prompts and edits, for benchmarks/editing.py."""

import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff
from jaxdiff import Cond, Guided, data, editing
from jaxdiff.data.sources import captioned
from jaxdiff.nets.unet import label_embedding
from jaxdiff.objectives import to_unit_range


class Painter:
    """The text-to-image model that ships."""

    def __init__(self):
        model = self.model = jaxdiff.load("captioned")
        self.reads, self.schedule, self.shape = model.text_encoder, model.schedule, model.shape
        self.words, self.denoise = model.tokenizer or self.reads.tokenizer, jaxdiff.denoiser_of(model)

    def encode(self, x):
        return _encode(self.model.codec, x)

    def decode(self, z):
        return _decode(self.model.codec, z)

    def guided(self, captions):
        """Conditions of captions, and of the empty one."""
        return jaxdiff.condition(self.model, prompts=captions)


_encode = jax.jit(lambda codec, x: codec.encode(x))
_decode = jax.jit(lambda codec, z: codec.decode(z))


class Digits:
    """The model of digits drawn by their label."""

    def __init__(self, name="digits"):
        model = jaxdiff.load(name)
        self.params, self.shape, self.denoise = model.params, model.shape, jaxdiff.denoiser_of(model)
        self.schedule = model.schedule

    def cond(self, labels):
        """Labels by their embeddings, and no augmentation."""
        return Cond(label=label_embedding(self.params, jnp.asarray(labels)), vector=jnp.zeros([len(labels), 6]))

    def guided(self, labels):
        """Labels, and the null label."""
        return Guided(self.cond(labels), self.cond(np.full(len(labels), 10)))


def held_out(source, num, wanted=lambda example: True):
    """The first examples of each digit in turn, and their images in [-1, 1]."""
    found = data.load(source)
    found = [example for i in range(len(found)) if wanted(example := found[i])]
    each = [[one for one in found if one["label"] == digit] for digit in range(10)]
    found = [one for row in zip(*each) for one in row][:num]
    return found, to_unit_range(np.stack([one["image"] for one in found]))


def middle(run, times=3):
    """Median seconds, after a first run."""
    jax.block_until_ready(run())
    found = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - start)
    return float(np.median(found))


def rows_of(tree, rows):
    return jax.tree.map(lambda x: x[rows], tree)


def swapped(num, seed=0, of=None):
    """Prompts that differ in the digit's colour, of combinations that both were trained on: (sources, targets, asked)."""
    rng, allowed = np.random.default_rng(seed), {tuple(map(int, one)) for one in captioned.combinations()[0]}
    found = []
    while len(found) < num:
        digit, (old, new) = (7, (0, 1)) if of == "red seven" else (int(rng.integers(10)), rng.permutation(7)[:2])
        back, size, place = (int(rng.integers(n)) for n in (7, 2, 5))
        if back in (old, new) or not {(digit, int(old), back), (digit, int(new), back)} <= allowed:
            continue
        shows = {"label": digit, "background": back, "size": size, "place": place}
        pair = [described(shows | {"colour": colour}) for colour in (old, new)]
        found.append((*pair, (digit, int(old), int(new), back)))
    return tuple(zip(*found))


def described(example):
    """All that there is to say of an image."""
    said = {name: names[example[name]] for name, names in captioned.ATTRIBUTES.items()}
    where = said["place"] if said["place"].startswith("in") else f"in the {said['place']}"
    return f"a {said['size']} {said['colour']} {said['label']} {where} on a {said['background']} background"


def edits(words, sources, targets, make=editing.replace, **windows):
    """One edit of all pairs: rows of the sources, then of the edited images."""
    return editing.pairs([make(words, *pair, **windows) for pair in zip(sources, targets)])
