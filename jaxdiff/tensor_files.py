"""Checksums of the tensors in .safetensors files of ours: of each when it is written, compared when it is read.

They stand in the header under `CHECKSUMS`, as JSON of CRC-32 by name; that of the rest of the header under "". CRC-32 runs
at more than 1 GB/s, so that a model of 4 GB takes some seconds more. Files of others, and of before, have none.
"""

import json
import zlib
from collections.abc import Mapping

import numpy as np

CHECKSUMS = "checksums"  # key in the header
WHOLE_HEADER = ""  # no tensor has this name


class Damaged(ValueError):
    """A file that is not as it was written; the message says what of it."""


def in_dtype(name: str, value, dtype: str) -> np.ndarray:
    """A tensor as it is written.

    Args:
      name: of the tensor, for errors.
      value: array of NumPy or jax.
      dtype: of the file.

    Raises:
      ValueError: it is not finite, or too large for the dtype.

    Example::

        >>> import numpy as np
        >>> from jaxdiff import tensor_files
        >>> tensor_files.in_dtype("conv/kernel", np.ones(2), "float16").dtype
        dtype('float16')
        >>> tensor_files.in_dtype("conv/kernel", np.array([1e6]), "float16")
        Traceback (most recent call last):
        ValueError: the weights conv/kernel are not finite as float16: choose `dtype`=float32
    """
    value = np.asarray(value)
    with np.errstate(over="ignore"):  # refused below
        written = value.astype(dtype, order="C")
    if not np.isfinite(written).all():
        if not np.isfinite(value).all():
            raise ValueError(f"the weights {name} are not finite, and nothing that is made with them would be")
        raise ValueError(f"the weights {name} are not finite as {dtype}: choose `dtype`=float32")
    return written


def with_checksums(tensors: Mapping[str, np.ndarray], header: Mapping[str, str]) -> dict[str, str]:
    """The header of a file with the checksums of its tensors and of itself.

    Args:
      tensors: the arrays, by name.
      header: texts by name.

    Example::

        >>> import numpy as np
        >>> from jaxdiff import tensor_files
        >>> header = tensor_files.with_checksums({"w": np.zeros(3)}, {"about": "nothing"})
        >>> tensor_files.check(tensor_files.checksums_of(header), {"w": np.ones(3)})
        Traceback (most recent call last):
        jaxdiff.tensor_files.Damaged: the checksum of w is not what was written
    """
    sums = {WHOLE_HEADER: _of_header(header)} | {name: _of_tensor(value) for name, value in tensors.items()}
    return {**header, CHECKSUMS: json.dumps(sums)}


def checksums_of(header: Mapping[str, str]) -> Mapping[str, int]:
    """The checksums in a header, which has its own; {} of a file without.

    Raises:
      Damaged: the header is not as it was written.
    """
    if CHECKSUMS not in header:
        return {}
    try:
        sums = dict(json.loads(header[CHECKSUMS]))
    except (TypeError, ValueError):
        raise Damaged("its checksums cannot be read") from None
    if sums.get(WHOLE_HEADER) != _of_header(header):
        raise Damaged("the checksum of its header is not what was written")
    return sums


def check(sums: Mapping[str, int], tensors: Mapping[str, np.ndarray]) -> None:
    """Compares tensors, as the file holds them, with what `checksums_of` says; without checksums none.

    Raises:
      Damaged: one is not as it was written; it is named.
    """
    for name, value in tensors.items() if sums else ():
        if sums.get(name) != _of_tensor(value):
            raise Damaged(f"the checksum of {name} is not what was written")


def _of_tensor(value):
    value = np.asarray(value)
    form = zlib.crc32(f"{value.dtype.name}{list(value.shape)}".encode())
    return zlib.crc32(np.ascontiguousarray(value).reshape(-1).view(np.uint8), form)


def _of_header(header):
    return zlib.crc32(
        json.dumps({name: text for name, text in header.items() if name != CHECKSUMS}, sort_keys=True).encode()
    )
