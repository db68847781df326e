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


def with_checksums(tensors: Mapping[str, np.ndarray], header: Mapping[str, str]) -> dict[str, str]:
    """The header of a file with the checksums of its tensors and of itself.

    Args:
      tensors: the arrays, by name.
      header: texts by name.

    Example::

        >>> import numpy as np
        >>> from jaxdiff import tensor_files
        >>> header = tensor_files.with_checksums({"w": np.zeros(3)}, {"about": "nothing"})
        >>> tensor_files.damaged(header, {"w": np.zeros(3)}), tensor_files.damaged(header, {"w": np.ones(3)})
        ('', 'the checksum of w is not what was written')
    """
    sums = {WHOLE_HEADER: _of_header(header)} | {name: _of_tensor(value) for name, value in tensors.items()}
    return {**header, CHECKSUMS: json.dumps(sums)}


def damaged(header: Mapping[str, str], tensors: Mapping[str, np.ndarray] | None = None) -> str:
    """Says what is not as it was written, of some tensors and the header; "" where all is, and without checksums.

    Args:
      header: of the file.
      tensors: those of its tensors that were read, as the file holds them; None compares the header alone.
    """
    if CHECKSUMS not in header:
        return ""
    try:
        sums = dict(json.loads(header[CHECKSUMS]))
    except (TypeError, ValueError):
        return "its checksums cannot be read"
    if sums.get(WHOLE_HEADER) != _of_header(header):
        return "the checksum of its header is not what was written"
    wrong = (name for name, value in (tensors or {}).items() if sums.get(name) != _of_tensor(value))
    name = next(wrong, None)
    return "" if name is None else f"the checksum of {name} is not what was written"


def _of_tensor(value):
    value = np.asarray(value)
    form = zlib.crc32(f"{value.dtype.name}{list(value.shape)}".encode())
    return zlib.crc32(np.ascontiguousarray(value).reshape(-1).view(np.uint8), form)


def _of_header(header):
    return zlib.crc32(
        json.dumps({name: text for name, text in header.items() if name != CHECKSUMS}, sort_keys=True).encode()
    )
