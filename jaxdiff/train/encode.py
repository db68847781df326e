"""Images and captions, read once by the models that a run works with, before it trains on what they make of them."""

import dataclasses
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util

from jaxdiff import progress
from jaxdiff.config import Config
from jaxdiff.data import Source
from jaxdiff.data import encoded as files
from jaxdiff.data.paths import data_dir
from jaxdiff.eval.spread import replicated, split
from jaxdiff.latent import Ends
from jaxdiff.objectives import to_unit_range
from jaxdiff.pretrained import Model
from jaxdiff.text import tokenizer
from jaxdiff.train import disk, hosts
from jaxdiff.train.parts import Parts

log = logging.getLogger("jaxdiff")
PIXELS = 2**19  # of the images that a device encodes at a time, which are no more than MOST
MOST = 64
DAY = 24 * 3600  # seconds by which one process may be slower than another


def encoded(config: Config, source: Source, parts: Parts, tick: Callable[[], None] = lambda: None) -> Source:
    """The examples as latents and contexts; the source itself where no model reads it.

    They are computed once and kept in TFDS_DATA_DIR/encoded, which all processes must see, for this run and all others of
    the same models and data, in parts that the processes share out; an encoding that was stopped goes on from the parts
    that are there. Latents are the likeliest ones, of `Codec.encode` without keys. Both are kept as float16.

    Args:
      config: of the run.
      source: its examples.
      parts: the models that read them.
      tick: called after each batch; may raise, to stop.

    Raises:
      ValueError, OSError: the data cannot be read, there is no room, not all processes see the folder, or what was kept is
        not of the data.
    """
    if not parts.models:
        return source
    name = hosts.together(
        lambda: identity(config, source, parts) if hosts.is_main() else "", "the data has a name", DAY
    )
    folder = data_dir() / "encoded" / hosts.gather(name, "its name is known")[0]
    hosts.on_main(lambda: folder.mkdir(parents=True, exist_ok=True), f"{folder} is there")
    hosts.together(lambda: check_folder(folder), f"{folder} is seen")
    if hosts.gather(str(files.is_complete(folder)), "it is known whether the data is encoded")[0] == "False":
        hosts.together(lambda: _encode(config, source, parts, folder, tick), "the data is encoded", timeout=DAY)
        hosts.on_main(lambda: files.mark_complete(folder, len(source)), f"{folder} is whole")
    latents = hosts.together(lambda: files.load(folder, source), f"{folder} is open")
    some = np.stack([latents[i]["image"] for i in range(min(len(latents), 256))]) if config.latent.codec else np.ones(1)
    if not 0.5 < (std := float(np.sqrt(np.square(some).mean()))) < 2:
        factor = parts.models["codec"].config.net.scaling_factor
        log.warning(
            "the latents are %.3g large, where 1 is right: --latent.factor %.3g would make them so", std, factor / std
        )
    return latents


def check_folder(folder: epath.Path) -> None:
    """Refuses a folder in which the processes cannot share what they encode.

    Raises:
      ValueError: it is remote.
      FileNotFoundError: it is not there, where process 0 has made it.
    """
    if disk.is_remote(folder):
        raise ValueError(
            f"{folder} is remote, and array_record is written to disks: set TFDS_DATA_DIR to one, or mount it"
        )
    if not folder.exists():
        raise FileNotFoundError(
            f"{folder} is only seen by process 0: set TFDS_DATA_DIR to a folder that all processes see"
        )


def identity(config: Config, source: Source, parts: Parts) -> str:
    """A name that other data or other models would not have; of files, their sizes and times count."""
    said = hashlib.sha256(json.dumps(dataclasses.asdict(config.data)).encode())
    said.update(json.dumps([source.identity, len(source), config.latent.skip]).encode())
    said.update(source.fingerprint().encode())
    if parts.ends.reads:
        said.update(json.dumps([source.caption(i) for i in range(len(source))]).encode())
    if config.adapt.reads:
        said.update(f"tokens {tokenizer.to_json(parts.ends.reads.tokenizer)}".encode())
    said.update(fingerprint(parts.models).encode())
    return f"{config.data.source.split(':')[0]}-{said.hexdigest()[:16]}"


def fingerprint(models: Mapping[str, Model]) -> str:
    """What other models would not have."""
    said = hashlib.sha256()
    for name, model in sorted(models.items()):
        said.update(f"{name} {json.dumps(dataclasses.asdict(model.config.net))}".encode())
        said.update(tokenizer.to_json(model.tokenizer).encode() if model.tokenizer else b"")
        for path, value in sorted(traverse_util.flatten_dict(model.params, sep="/").items()):
            said.update(path.encode() + np.ascontiguousarray(value).tobytes())
    return said.hexdigest()


def _encode(config, source, parts, folder, tick):
    """Writes those parts of the folder that are this process's and are not there."""
    mine = [part for part in files.shards(len(source)) if part.number % jax.process_count() == jax.process_index()]
    missing = [part for part in mine if not files.has_shard(folder, part)]
    _tell_of_cuts(source, parts)
    with progress.bar("encoding the data", sum(map(len, missing)), "examples", patience=2.0) as advance:

        def watched(examples):
            for example in examples:
                yield example
                advance(1)

        for part in missing:
            examples = encode(config, source, parts.ends, part.examples, tick)
            first = next(examples)
            disk.check_room(folder, len(part) * sum(value.nbytes for value in first.values()))
            files.write_shard(folder, part, watched(itertools.chain([first], examples)))


def _tell_of_cuts(source, parts):
    """Says once that captions are longer than what is read of them, where some are."""
    if not parts.ends.reads or not hosts.is_main():
        return
    words = parts.ends.reads.tokenizer
    cut = [found for i in range(len(source)) if (found := words.cut(source.caption(i)))]
    if cut:
        log.warning("of %d of the %d captions the end is cut, such as %r", len(cut), len(source), cut[0][1])


def encode(
    config: Config, source: Source, ends: Ends, which: range, tick: Callable[[], None] = lambda: None
) -> Iterator[dict[str, np.ndarray]]:
    """Some examples as the models at the two ends make them: {"image", "context", "label"}, what there is of them."""
    H, W, _ = config.data.image_shape
    size = max(1, min(MOST, PIXELS // (H * W))) * jax.local_device_count()
    codec, embed = replicated((ends.codec and ends.codec.encode, ends.reads and ends.reads.embed))
    with ThreadPoolExecutor() as threads:
        for start in range(which.start, which.stop, size):
            tick()
            numbers = range(start, min(start + size, which.stop))
            filled = [*numbers, *[start] * (size - len(numbers))]
            examples = list(threads.map(source.read, filled))
            tokens = ends.reads.tokenizer([source.caption(i) for i in filled]) if ends.reads else None
            x = np.stack([example["image"] for example in examples])
            images, contexts = jax.device_get(_made(codec, embed, *split((x, tokens))))
            for n in range(len(numbers)):
                made = {"image": images[n]} | ({} if contexts is None else {"context": contexts[n]})
                made |= {name: np.asarray(examples[n][name]) for name in source.extra_arrays}
                yield made | ({"label": np.int32(examples[n]["label"])} if source.classes else {})


@jax.jit
def _made(codec, embed, x, tokens):
    latents = x if codec is None else codec(to_unit_range(x)).astype("float16")
    contexts = embed and embed(tokens)
    return latents, contexts if contexts is None or contexts.dtype == jnp.int32 else contexts.astype("float16")
