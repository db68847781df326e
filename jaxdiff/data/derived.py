"""Sources made of sources: other captions, images of the class beside those of one thing, pictures for a ControlNet."""

import dataclasses
import json
import zlib
from collections.abc import Sequence

import numpy as np

from jaxdiff.data.base import Source
from jaxdiff.data.control_inputs import CONTROL_INPUTS

PRIOR_FRACTION = 0.5  # of the class in `with_prior`


def with_prompts(source: Source, prompts: Sequence[str]) -> Source:
    """The images with other captions: each once with each of the prompts, one after the other.

    Args:
      source: of any images.
      prompts: at least one.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import Source, derived
        >>> grey = Source(lambda i: {"image": np.full([2, 2, 1], i, np.uint8)}, 2, (2, 2, 1))
        >>> [example["caption"] for example in derived.with_prompts(grey, ["a photo of <dusk>", "<dusk>"])]
        ['a photo of <dusk>', '<dusk>', 'a photo of <dusk>', '<dusk>']
    """
    count = len(prompts)
    return dataclasses.replace(
        source,
        read=lambda i: source.read(i // count),
        size=len(source) * count,
        identity=_mixed(source.identity, list(prompts)),
        caption=lambda i: prompts[i % count],
        hard_negative=None,
    )


def with_prior(source: Source, prior: Source) -> Source:
    """Images of one thing and of its class in turn, each with "prior", bool: whether it is of the class.

    Args:
      source: of the thing.
      prior: of the class; the smaller one of the two is repeated. Both have captions, or none has.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import Source, derived
        >>> grey = lambda n, size: Source(lambda i: {"image": np.full([1, 1, 1], n + i, np.uint8)}, size, (1, 1, 1))
        >>> both = derived.with_prior(grey(0, 1), grey(100, 2))
        >>> [(int(one["image"].max()), bool(one["prior"])) for one in both]
        [(0, False), (100, True), (0, False), (101, True)]
    """
    halves = source, prior

    def of(i):
        half = halves[i % 2]
        return half, i // 2 % len(half)

    def read(i):
        half, j = of(i)
        return {"image": half.read(j)["image"], "prior": np.bool_(i % 2)}

    def caption(i):
        half, j = of(i)
        return half.caption(j)

    return Source(
        read,
        2 * max(len(source), len(prior)),
        source.image_shape,
        no_labels_reason="images of a class beside those of a thing have no labels",
        identity=_mixed(source.identity, [len(source), prior.identity, len(prior)]),
        caption=caption if source.captioned and prior.captioned else None,
        files=(*source.files, *prior.files),
        no_captions_reason=source.no_captions_reason if not source.captioned else prior.no_captions_reason,
        extra_arrays=("prior",),
    )


def with_control(source: Source, condition: str) -> Source:
    """The same with "control", the picture that a ControlNet is told, see `data.control_inputs`.

    Args:
      source: of any images.
      condition: one of `control_inputs.CONTROL_INPUTS`.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import Source, derived
        >>> grey = Source(lambda i: {"image": np.full([8, 8, 1], i, np.uint8)}, 2, (8, 8, 1))
        >>> derived.with_control(grey, "edges")[1]["control"].shape
        (8, 8, 3)
    """
    make = CONTROL_INPUTS[condition]
    read = lambda i: (example := source.read(i)) | {"control": make(example["image"])}
    return dataclasses.replace(
        source, read=read, identity=_mixed(source.identity, condition), extra_arrays=("control",)
    )


def _mixed(identity, more):
    return identity ^ zlib.crc32(json.dumps(more).encode())
