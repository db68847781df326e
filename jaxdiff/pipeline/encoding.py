"""Latents and contexts of training data: computed once by the frozen models of a run, and kept on disk."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util

from jaxdiff import disk, hosts, progress
from jaxdiff.config import Config, Latent, to_values
from jaxdiff.config.fields import FREE_OF_DATA
from jaxdiff.data import Source, captions, records, sizes
from jaxdiff.data import encoded as files
from jaxdiff.data.paths import data_dir
from jaxdiff.model import Model
from jaxdiff.model.frozen_models import FrozenModels
from jaxdiff.objectives import to_unit_range
from jaxdiff.sharding import replicated, split
from jaxdiff.text import tokenizer
from jaxdiff.text.encoder import with_sizes

log = logging.getLogger("jaxdiff")
PIXELS = 2**19  # of the images that a device encodes at a time, which are no more than MOST
MOST = 64
DAY = 24 * 3600  # seconds by which one process may be slower than another


def encoded(config: Config, source: Source, frozen: FrozenModels, tick: Callable[[], None] = lambda: None) -> Source:
    """The examples as latents and contexts; the source itself where no frozen model encodes it.

    They are computed once and kept in TFDS_DATA_DIR/encoded, which all processes must see, for this run and all others of
    the same models and data, in shards that the processes share out; an encoding that was stopped goes on from the shards
    that are there. Latents are the means, of `Codec.encode` without keys. Both are kept as float16.

    Args:
      config: config of the run.
      source: its examples.
      frozen: its frozen models.
      tick: called after each batch; may raise, to stop.

    Raises:
      ValueError, OSError: the data cannot be read, there is no room, not all processes see the folder, or the kept
        encodings are of other data.
    """
    if source.encoded_by:
        prepared = lambda: records.as_encoded(source, made_by(config.latent, frozen))
        return hosts.together(prepared, "the records are those of the models", DAY)
    if not frozen.submodels:
        return source
    if source.buckets:
        return _encoded_in_buckets(config, source, frozen, tick)
    name = hosts.together(
        lambda: identity(config, source, frozen) if hosts.is_main() else "", "the data has a name", DAY
    )
    folder = data_dir() / "encoded" / hosts.gather(name, "its name is known")[0]
    hosts.on_main(lambda: folder.mkdir(parents=True, exist_ok=True), f"{folder} is there")
    hosts.together(lambda: check_folder(folder), f"{folder} is seen")
    if hosts.gather(str(files.is_complete(folder)), "it is known whether the data is encoded")[0] == "False":
        hosts.together(lambda: _encode(config, source, frozen, folder, tick), "the data is encoded", timeout=DAY)
        hosts.on_main(lambda: files.mark_complete(folder, len(source)), f"{folder} is whole")
    latents = hosts.together(lambda: files.load(folder, source), f"{folder} is open")
    if config.encodes_texts:  # of the captions in each step
        latents = dataclasses.replace(latents, caption=source.caption)
    some = np.stack([latents[i]["image"] for i in range(min(len(latents), 256))]) if config.latent.codec else np.ones(1)
    if not 0.5 < (std := float(np.sqrt(np.square(some).mean()))) < 2:
        factor = frozen.submodels["codec"].config.net.scaling_factor
        log.warning(
            "the latents have a root mean square of %.3g, where 1 is right: `latent.scaling_factor` %.3g would make it so",
            std,
            factor / std,
        )
    return latents


def _encoded_in_buckets(config, source, frozen, tick):
    """Each bucket encoded as a source of its own."""
    parts = []
    for bucket, shape in enumerate(source.buckets.shapes):
        mine = sizes.part(source, bucket)
        of_shape = dataclasses.replace(config, data=dataclasses.replace(config.data, image_shape=shape, buckets=()))
        parts.append(encoded(of_shape, mine, frozen, tick) if len(mine) else None)
    return sizes.joined(source, parts)


def check_local(folder: epath.Path, remedy: str) -> None:
    """Raises ValueError for a remote folder, with a clause that says what to do."""
    if disk.is_remote(folder):
        raise ValueError(f"{folder} is remote, and array_record is written to disks: {remedy}")


def check_folder(folder: epath.Path) -> None:
    """Refuses a folder in which the processes cannot share what they encode.

    Raises:
      ValueError: it is remote.
      FileNotFoundError: it is not there, where process 0 has made it.
    """
    check_local(folder, "set TFDS_DATA_DIR to one, or mount it")
    if not folder.exists():
        raise FileNotFoundError(
            f"{folder} is only seen by process 0: set TFDS_DATA_DIR to a folder that all processes see"
        )


def identity(config: Config, source: Source, frozen: FrozenModels) -> str:
    """A name that other data or other models would not have; of files, their sizes and times count."""
    digest = hashlib.sha256(json.dumps(_of_images(config)).encode())
    digest.update(json.dumps([source.identity, len(source), config.latent.skip_blocks]).encode())
    digest.update(source.fingerprint().encode())
    if frozen.text_encoder:
        digest.update(json.dumps(list(source.captions())).encode())
    if config.encodes_texts:
        digest.update(f"tokens {tokenizer.to_json(frozen.text_encoder.tokenizer)}".encode())
    digest.update(fingerprint(frozen.submodels).encode())
    digest.update(_of_texts(config).encode())
    return f"{config.data.source.kind}-{digest.hexdigest()[:16]}"


def _of_images(config):
    """Values of the config's data, but for those that captions or `Source.identity` tell of, or that change no example."""
    others = ("buckets", "min_size", "random_crop", "caption_tags", "trigger", *FREE_OF_DATA)
    return {name: value for name, value in to_values(config.data).items() if name not in others}


def _of_texts(config):
    """Options by which contexts and vectors are made of the text encoders' results; "" where none is set."""
    latent, default = config.latent, Latent()
    names = ("context_norm", "zero_empty_text", "both_vectors", "zero_tokens")
    chosen = {name: getattr(latent, name) for name in names if getattr(latent, name) != getattr(default, name)}
    if latent.second_text_encoder:
        chosen |= {"vector_dim": config.net.vector_dim, "context_dim": config.net.context_dim}
    return json.dumps(chosen) if chosen else ""


def made_by(latent: Latent, frozen: FrozenModels) -> dict[str, str]:
    """Digests of the models that encode images and captions, with how they are read."""
    found = {name: fingerprint({name: model}) for name, model in frozen.submodels.items() if name != "base"}
    if "text_encoder" in found:
        found["text_encoder"] += f" {latent.skip_blocks} {latent.context_norm}"
    return found


def fingerprint(models: Mapping[str, Model]) -> str:
    """Digest of models' specifications, tokenizers and weights."""
    digest = hashlib.sha256()
    for name, model in sorted(models.items()):
        digest.update(f"{name} {json.dumps(to_values(model.config.net))}".encode())
        digest.update(tokenizer.to_json(model.tokenizer).encode() if model.tokenizer else b"")
        for path, value in sorted(traverse_util.flatten_dict(model.params, sep="/").items()):
            digest.update(path.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _encode(config, source, frozen, folder, tick):
    """Writes those shards of the folder that are this process's and are missing."""
    mine = [shard for shard in files.shards(len(source)) if shard.number % jax.process_count() == jax.process_index()]
    if hosts.is_main():
        warn_of_truncation(config, source, frozen)
    missing = sum(len(shard) for shard in mine if not files.has_shard(folder, shard))
    with progress.bar("encoding the data", missing, "examples", delay=2.0) as advance:
        write_missing(config, source, frozen, folder, mine, advance, tick)


def write_missing(
    config: Config,
    source: Source,
    frozen: FrozenModels,
    folder: epath.Path,
    shards: Iterable[files.Shard],
    advance: Callable[[int], None] = lambda count: None,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Encodes the examples of those shards whose files are not there, and writes these.

    Args:
      config: config with the shape of the images.
      source: all examples.
      frozen: models that encode them, if any.
      folder: folder of the files.
      shards: shards that are to be there.
      advance: called with numbers of examples that are written.
      tick: called after each batch; may raise, to stop.

    Raises:
      ValueError, OSError: the data cannot be read, or there is no room.
    """

    def watched(shard):
        for n, example in enumerate(encode(config, source, frozen, shard.examples, tick)):
            if not n:
                disk.check_room(folder, len(shard) * sum(value.nbytes for value in example.values()))
            yield example
            advance(1)

    for shard in shards:
        if not files.has_shard(folder, shard):
            files.write_shard(folder, shard, watched(shard))


def warn_of_truncation(config: Config, source: Source, frozen: FrozenModels) -> None:
    """Warns once of captions that are cut, or that are not the only ones of an example; not without a text encoder."""
    if not frozen.text_encoder:
        return
    if not config.encodes_texts and (several := captions.of(source).count_several()):
        log.warning("%d examples have several captions, and each is encoded once, with the first of them", several)
    words = frozen.text_encoder.tokenizer
    cut = [*filter(None, map(words.truncation, source.captions()))]
    if cut:
        log.warning("of %d of the %d captions the end is cut, such as %r", len(cut), len(source), cut[0][1])


def encode(
    config: Config, source: Source, frozen: FrozenModels, which: range, tick: Callable[[], None] = lambda: None
) -> Iterator[dict[str, np.ndarray]]:
    """Encodes some examples: yields {"image", "context", "label", ...}, those that there are."""
    H, W, _ = config.data.image_shape
    size = max(1, min(MOST, PIXELS // (H * W))) * jax.local_device_count()
    codec, embed = replicated((frozen.codec and frozen.codec.encode, frozen.text_encoder and frozen.text_encoder.embed))
    originals = _originals(config, source) if config.latent.second_text_encoder else None
    with ThreadPoolExecutor() as threads:
        for start in range(which.start, which.stop, size):
            tick()
            numbers = range(start, min(start + size, which.stop))
            filled = [*numbers, *[start] * (size - len(numbers))]
            examples = list(threads.map(source.read, filled))
            texts = [source.caption(i) for i in filled] if frozen.text_encoder else []
            tokens = frozen.text_encoder.token_ids(texts) if texts else None
            x = np.stack([example["image"] for example in examples])
            images, contexts, vectors = jax.device_get(_encoded(codec, embed, *split((x, tokens))))
            if config.latent.zero_empty_text:
                contexts, vectors = (_without_empty(part, texts) for part in (contexts, vectors))
            if originals is not None:
                crops = crops_of(originals[filled], H, W)
                vectors = np.asarray(with_sizes(vectors, config.net.vector_dim, crops), np.float16)
            for n in range(len(numbers)):
                made = {"image": images[n]} | ({} if contexts is None else {"context": contexts[n]})
                made |= {} if originals is None else {"vector": vectors[n]}
                made |= {name: np.asarray(examples[n][name]) for name in source.extra_arrays}
                yield made | ({"label": np.int32(examples[n]["label"])} if source.classes else {})


@jax.jit
def _encoded(codec, embed, x, tokens):
    latents = x if codec is None else codec(to_unit_range(x)).astype("float16")
    if embed is None:
        return latents, None, None
    contexts, vectors = embed(tokens)
    return latents, contexts if contexts.dtype == jnp.int32 else contexts.astype("float16"), vectors


def _without_empty(rows, texts):
    """Rows of texts, with zeros for those that are empty."""
    return np.where(np.reshape([bool(text) for text in texts], (-1,) + (1,) * (rows.ndim - 1)), rows, 0)


def _originals(config, source):
    """Heights and widths of the images before they were cropped and resized, [N, 2]."""
    known = source.encoded is not None
    return sizes.sizes_of(source) if known else np.tile(config.data.image_shape[:2], (len(source), 1))


def crops_of(originals: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sizes of images that are cropped from the middle, as Stable Diffusion XL is conditioned on them.

    Args:
      originals: heights and widths of the files, [B, 2].
      height: of the images, in pixels.
      width: of the images.

    Returns:
      int32 [B, 6]: height and width of the original, top and left of the crop once the original covers the image, height
      and width of the image.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.pipeline.encoding import crops_of
        >>> crops_of(np.array([[2000, 3000]]), 1000, 1000).tolist()
        [[2000, 3000, 0, 250, 1000, 1000]]
    """
    wanted = np.broadcast_to([height, width], originals.shape)
    covering = originals * (wanted / originals).max(axis=1, keepdims=True)
    return np.concatenate([originals, np.round((covering - wanted) / 2), wanted], axis=1).astype(np.int32)
