"""Images and captions, read once by the models that a run works with, before it trains on what they make of them."""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from flax import traverse_util

from jaxdiff import progress
from jaxdiff.config import Config
from jaxdiff.data import Source
from jaxdiff.data import encoded as files
from jaxdiff.data.tfds import data_dir
from jaxdiff.eval.spread import replicated, split
from jaxdiff.latent import Ends
from jaxdiff.objectives import to_unit_range
from jaxdiff.text import tokenizer
from jaxdiff.train import hosts
from jaxdiff.train.parts import Parts

log = logging.getLogger("jaxdiff")
PER_DEVICE = 64  # examples encoded at a time


def encoded(config: Config, source: Source, parts: Parts) -> Source:
    """The examples as latents and contexts; the source itself where no model reads it.

    They are computed once and kept in TFDS_DATA_DIR/encoded, which all processes must see, for this run and all others of
    the same models and data; process p of P writes the p-th part of them. Latents are the likeliest ones, of `Codec.encode`
    without keys. Both are kept as float16.

    Raises:
      ValueError, OSError: the data cannot be read, or what was kept is not of it.
    """
    if not parts.models:
        return source
    folder = data_dir() / "encoded" / identity(config, source, parts)
    if hosts.gather(str(files.is_complete(folder)), "it is known whether the data is encoded")[0] == "False":
        _encode(config, source, parts, folder)
    latents = hosts.together(lambda: files.load(folder, source), f"{folder} is open")
    std = files.about(folder)["std"]
    if config.latent.codec and not 0.5 < std < 2:
        log.warning(
            "the latents have a standard deviation of %.3g, not near 1: --net.scaling-factor of the autoencoder should be "
            "%.3g times what it is",
            std,
            1 / std,
        )
    return latents


def identity(config: Config, source: Source, parts: Parts) -> str:
    """A name that other data or other models would not have."""
    said = hashlib.sha256(json.dumps(dataclasses.asdict(config.data)).encode())
    said.update(json.dumps([source.identity, len(source), config.latent.skip]).encode())
    for name, model in sorted(parts.models.items()):
        said.update(f"{name} {json.dumps(dataclasses.asdict(model.config.net))}".encode())
        said.update(tokenizer.to_json(model.tokenizer).encode() if model.tokenizer else b"")
        for path, value in sorted(traverse_util.flatten_dict(model.params, sep="/").items()):
            said.update(path.encode() + np.ascontiguousarray(value).tobytes())
    return f"{config.data.source.split(':')[0]}-{said.hexdigest()[:16]}"


def _encode(config, source, parts, folder):
    """Writes the folder, each process its part of it; it is there when it is whole."""
    me, count = jax.process_index(), jax.process_count()
    ahead = folder.with_name(f"{folder.name}.{hosts.gather(str(os.getpid()), 'a folder is named')[0]}")
    hosts.on_main(lambda: ahead.mkdir(parents=True), f"{ahead} is made")
    first, last = (len(source) * p // count for p in (me, me + 1))
    seen = []

    def write():
        with progress.bar("encoding the data", last - first, "examples", patience=2.0) as advance:
            examples = encode(config, source, parts.ends, range(first, last))
            return files.write_part(ahead, me, _watched(examples, seen, advance))

    fields = hosts.together(write, "the data is encoded")
    squares = [float(said) for said in hosts.gather(str(np.mean(seen)), "its latents are measured")]

    def finish():
        files.complete(ahead, fields, std=float(np.sqrt(np.mean(squares))), models=sorted(parts.models))
        if files.is_complete(folder):  # by another run
            ahead.rmtree()
        else:
            ahead.rename(folder)

    hosts.on_main(finish, f"{folder} is there")


def _watched(examples, seen, advance):
    for example in examples:
        seen.append(np.square(example["image"].astype(np.float32)).mean())
        advance(1)
        yield example


def encode(config: Config, source: Source, ends: Ends, which: range) -> Iterator[dict[str, np.ndarray]]:
    """Some examples as the models at the two ends make them: {"image", "context", "label"}, what there is of them."""
    size = PER_DEVICE * jax.local_device_count()
    make = jax.jit(lambda codec, embed, x, tokens: (_latents(codec, x), embed and embed(tokens)))
    codec, embed = replicated((ends.codec and ends.codec.encode, ends.reads and ends.reads.embed))
    with ThreadPoolExecutor() as threads:
        for start in range(which.start, which.stop, size):
            numbers = range(start, min(start + size, which.stop))
            examples = list(threads.map(source.__getitem__, numbers))
            filled = [*examples, *[examples[0]] * (size - len(examples))]
            tokens = ends.reads.tokenizer([example["caption"] for example in filled]) if ends.reads else None
            x = np.stack([example["image"] for example in filled])
            images, contexts = jax.device_get(make(codec, embed, *split((x, tokens))))
            for n, example in enumerate(examples):
                made = {"image": images[n]} | ({} if contexts is None else {"context": contexts[n].astype(np.float16)})
                yield made | ({"label": np.int32(example["label"])} if source.classes else {})


def _latents(codec, x):
    return x if codec is None else codec(to_unit_range(x)).astype("float16")
