"""Batches in an order that is a function of the seed and the step alone."""

import functools
import os
import pickle
from collections.abc import Callable, Iterator

import cloudpickle
import grain
import numpy as np
from absl import flags

from jaxdiff.arguments import check_count, check_number, check_type, plain
from jaxdiff.data import augment as augmentation
from jaxdiff.data import caption_tags, example_checks, order
from jaxdiff.data.caption_tags import UNCHANGED, CaptionTags, text_of
from jaxdiff.data.order import ENDLESS
from jaxdiff.types import Cond


def batches(
    source,
    batch_size: int,
    *,
    seed: int = 0,
    start_step: int = 0,
    steps_per_call: int = 1,
    labels: bool = False,
    flip: bool = False,
    augment: float = 0.0,
    augment_cond: bool = False,
    contexts: bool = False,
    tokenize: Callable[[list[str]], np.ndarray] | None = None,
    hard_negatives: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int | None = None,
    tags: CaptionTags = UNCHANGED,
    trigger: str = "",
    num_workers: int = 0,
) -> Iterator[dict]:
    """Endless shuffled batches, reshuffled every epoch, read ahead in the background.

    Step n has the examples at positions n B .. (n + 1) B - 1 of one global order, whatever the number of processes; process
    p of P delivers positions p, p + P, ... of them. The images of a source with `buckets` are of one shape in all steps of
    a call, see `order.in_buckets`; those of one that `crops` are cropped around another place each time.

    Args:
      source: random-access data set of {"image": uint8 [H, W, C] or latents, "label": int, "caption": str, "context": float
        [L, D] or token ids [L]}, with `len` and `[i]`, such as a `jaxdiff.data.Source`. Only "image", the arrays that the
        options below need, and the `Source.extra_arrays` are used.
      batch_size: B, over all processes.
      seed: of the order, the mirroring and the augmentation.
      start_step: first step to deliver; of a source with `buckets` a multiple of `steps_per_call`.
      steps_per_call: K, number of steps in one batch.
      labels: deliver Cond(label) in "cond", int32 [K, B / P].
      flip: mirror each image left to right with probability 1/2, decided by the seed and the position.
      augment: strength of augmentation, see `jaxdiff.data.augment`; 0 for none.
      augment_cond: deliver the amounts of augmentation as Cond(vector) in "cond", float32 [K, B / P, 6].
      contexts: deliver the encoded captions as Cond(context) in "cond", float32 [K, B / P, L, D], and where examples have a
        "vector", that as Cond(vector), float32 [K, B / P, V]; with `tokenize`, their tokens.
      tokenize: texts -> int32 [B, L], such as a `text.tokenizer.Tokenizer`; deliver captions as "tokens", of several of an
        example one that is drawn by the seed and the position.
      hard_negatives: number of wrong captions to deliver per example, by `Source.hard_negative`.
      process_index: p, in 0..P - 1.
      process_count: P; must divide B.
      num_threads: number of threads that read and decode, each a step's batch at a time; None for one per core, at most 16.
      tags: changes of the captions' tags, decided by the seed and the position; with `tokenize`.
      trigger: words that stand in front of all captions of the source, and stay there.
      num_workers: number of processes that read and decode, each with `num_threads`; 0 for this one alone. They help where
        Python's lock keeps many cores from decoding; what they take must be known to `cloudpickle`, and a script that
        asks for them must start below `if __name__ == "__main__":`, since each of them imports it.

    Yields:
      Dicts of NumPy arrays: "image", uint8 [K, B / P, H, W, C]; "index", uint32 [K, B / P], the position in the global
      order modulo 2^32; "example", uint32 [K, B / P], the index in the source; with `labels`, `augment_cond` or `contexts`,
      "cond"; with `tokenize`, "tokens", int32 [K, B / P, L]; with `hard_negatives` too, "hard_negatives", int32
      [K, B / P, hard_negatives, L].

    Raises:
      TypeError: a source without `len` and `[i]`, such as a generator; `tokenize` is no function.
      ValueError: numbers of other types or out of range; P does not divide B, the source is empty, or lacks the labels,
        captions or wrong captions that are asked for. While reading: an example that lacks something, or has arrays of
        another layout than others of its batch.

    Example::

        >>> import numpy as np
        >>> from jaxdiff import data
        >>> source = [{"image": np.full([2, 2, 1], i, np.uint8), "label": i} for i in range(6)]
        >>> epoch = next(data.batches(source, 3, steps_per_call=2))  # two batches of three: every example once
        >>> sorted(epoch["image"][..., 0, 0, 0].ravel().tolist()), sorted(epoch["example"].ravel().tolist())
        ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5])
        >>> second = next(data.batches(source, 3, start_step=1))  # the same as the second of the two
        >>> second["index"].tolist(), bool((second["image"][0] == epoch["image"][1]).all())
        ([[3, 4, 5]], True)
    """
    example_checks.check_source(source)
    batch_size, process_count = check_count("batch_size", batch_size), check_count("process_count", process_count)
    steps_per_call, seed = check_count("steps_per_call", steps_per_call), check_count("seed", seed, least=0)
    _check_position(batch_size, start_step, process_index, process_count)
    for name, flag in (("labels", labels), ("flip", flip), ("augment_cond", augment_cond), ("contexts", contexts)):
        check_type(f"`{name}`", plain(flag), bool)
    check_number("augment", augment, "lie in [0, 3]", lambda x: (x >= 0) & (x <= 3))
    hard_negatives = check_count("hard_negatives", hard_negatives, least=0)
    example_checks.check_captioned(source, tokenize, hard_negatives)
    caption_tags.check(check_type("`tags`", tags, CaptionTags), "tags")
    check_type("`trigger`", trigger, str)
    num_workers = check_count("num_workers", num_workers, least=0)
    threads = min(16, os.cpu_count() or 1) if num_threads is None else check_count("num_threads", num_threads)
    num_classes = check_labels(source) if labels else None

    examples = _ordered(source, seed, start_step, batch_size, steps_per_call)
    read = functools.partial(_read, source, labels, num_classes, contexts and not tokenize, bool(hard_negatives))
    examples = examples.random_map(read) if getattr(source, "crops", False) else examples.map(read)
    if hard_negatives:
        examples = examples.random_map(functools.partial(_hard_negatives, source, tokenize, hard_negatives))
    if flip:
        examples = examples.random_map(_flip)
    if augment or augment_cond:
        examples = examples.random_map(functools.partial(_augment, augment, augment_cond))
    # Texts have random numbers of their own, by the position: with or without, those of images stay the same.
    text_at = functools.partial(_text, source, seed, tags, trigger)
    examples = examples.map_with_index(functools.partial(_at, text_at, tokenize, contexts))
    mine = examples[start_step * batch_size + process_index :: process_count]
    read_ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(4, threads))
    steps = mine.batch(batch_size // process_count, batch_fn=example_checks.stack)
    if not num_workers:
        return _deliver(iter(steps.to_iter_dataset(read_ahead).batch(steps_per_call)))
    _check_sent(source)
    calls = steps.batch(steps_per_call).to_iter_dataset(read_ahead)  # each is made by one worker
    return _deliver(_from_workers(calls, num_workers))


def _ordered(source, seed, start_step, batch_size, steps_per_call):
    """Indices of the examples, in the order of all epochs."""
    buckets = getattr(source, "buckets", None)
    if buckets is None:
        return order.shuffled(len(source), seed)
    if start_step % steps_per_call:
        raise ValueError(
            f"`start_step`={start_step} must be a multiple of `steps_per_call`={steps_per_call}: the images of a call are "
            "of one bucket"
        )
    return order.in_buckets(buckets, seed, batch_size * steps_per_call)


def _from_workers(calls, count):
    """An iterator over batches that other processes make."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain asks them, also in programs that have no use for them
    return iter(calls.mp_prefetch(grain.MultiprocessingOptions(count, per_worker_buffer_size=2)))


def _check_position(batch_size, start_step, process_index, process_count):
    """Refuses steps that there are not, and processes that cannot share a batch."""
    if batch_size > ENDLESS:
        raise ValueError(f"`batch_size`={batch_size} must be at most {ENDLESS}")
    if not 0 <= check_type("`start_step`", plain(start_step), int) < ENDLESS // batch_size:
        raise ValueError(f"`start_step`={start_step} must be from 0 to {ENDLESS // batch_size - 1}")
    if not 0 <= check_type("`process_index`", plain(process_index), int) < process_count:
        raise ValueError(f"`process_index`={process_index} must be from 0 to {process_count - 1}")
    if batch_size % process_count:
        raise ValueError(f"`batch_size`={batch_size} does not divide by {process_count} processes")


def check_labels(source) -> int | None:
    """Number of classes of a source with labels; None if unknown.

    Raises:
      ValueError: the source has no labels.
    """
    classes = getattr(source, "classes", None)
    if classes or (classes is None and "label" in source[0]):
        return classes and len(classes)
    raise ValueError(getattr(source, "no_labels_reason", "the examples have no labels"))


def _read(source, labels, num_classes, contexts, hard_negatives, i, rng=None):
    centre = () if rng is None else (tuple(rng.random(2)),)
    example, cond = getattr(source, "read", source.__getitem__)(i, *centre), Cond()
    asked = [name for name, wanted in (("image", True), ("label", labels), ("context", contexts)) if wanted]
    example_checks.check_has(example, i, *asked)
    image = np.asarray(example_checks.check_array(example["image"], "image", i, ndim=3))
    chosen = {"image": image, "example": np.uint32(i)}
    if labels:
        cond = cond._replace(label=np.int32(example_checks.check_label(example["label"], i, num_classes)))
    if contexts:
        context = example_checks.check_array(example["context"], "context", i)
        cond = cond._replace(context=context, vector=example.get("vector"))
    for name in getattr(source, "extra_arrays", ()):
        if name == "control":
            cond = cond._replace(control=example[name])
        else:
            chosen[name] = example[name]
    if hard_negatives:
        chosen["hard_negatives"] = source[i]  # replaced by `_hard_negatives`, which has a random generator
    return chosen | {"cond": cond} if any(array is not None for array in cond) else chosen


def _hard_negatives(source, tokenize, count, example, rng):
    texts = [source.hard_negative(example["hard_negatives"], rng) for _ in range(count)]
    return example | {"hard_negatives": example_checks.token_ids(tokenize, texts, int(example["example"]))}


def _flip(example, rng):
    return _transform(lambda image: image[:, ::-1], example) if rng.random() < 0.5 else example


def _transform(function, example):
    """Applies a geometric transformation to the image and to its control image."""
    example, cond = example | {"image": function(example["image"])}, example.get("cond", Cond())
    if cond.control is None:
        return example
    return example | {"cond": cond._replace(control=function(cond.control))}


def _augment(strength, augment_cond, example, rng):
    amounts = augmentation.amounts(rng, strength)
    example = _transform(lambda image: augmentation.affine(image, amounts), example)
    if not augment_cond:
        return example
    return example | {"cond": example.get("cond", Cond())._replace(vector=amounts)}


def _check_sent(source):
    """Raises ValueError for a source that other processes cannot be sent, such as one that maps its files into memory."""
    try:
        cloudpickle.dumps(source)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise ValueError(
            "`num_workers` (in training `data.workers`) is not for this source, which other processes cannot be sent: "
            f"leave it at 0 ({error})"
        ) from None


def _text(source, seed, tags, trigger, i, position):
    """The caption of example i there, also of a list of dicts."""
    if not hasattr(source, "caption"):
        return example_checks.caption(source[i], i)
    return text_of(source, i, seed, position, tags, trigger)


def _at(text_at, tokenize, contexts, index, example):
    """The example with its position and, if there is a tokenizer, the tokens of its caption there."""
    example = example | {"index": np.uint32(index % 2**32)}
    if not tokenize:
        return example
    i = int(example["example"])
    tokens = example_checks.token_ids(tokenize, [text_at(i, index)], i)[0]
    if not contexts:
        return example | {"tokens": tokens}
    return example | {"cond": example.get("cond", Cond())._replace(context=tokens)}


def _deliver(reader):
    """Yields the batches of a grain iterator, and ends its threads, also after an error."""
    try:
        yield from reader
    finally:
        reader.close()
