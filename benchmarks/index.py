"""Time to the first batch of a folder of very many captioned images, at the first start and later, and memory of its index.

    python benchmarks/index.py                        # a million images with captions, two million files: some minutes
    python benchmarks/index.py --count 10000          # a short form
    python benchmarks/index.py --source shards        # the same in archives of 10,000

Each start is a process of its own: it opens the source, reads all captions and takes one batch. Memory is that of Python's
objects and NumPy's arrays that are left when it is open, by tracemalloc in another such process.
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from PIL import Image

from jaxdiff import progress

PER_FOLDER = 10_000
START = """
import sys, time
from jaxdiff import data
began = time.perf_counter()
traced = sys.argv[2] == "memory"
if traced:
    import tracemalloc
    tracemalloc.start()
source = data.load(sys.argv[1], (32, 32, 3))
opened = time.perf_counter() - began
texts = source.captions()
if traced:
    print(tracemalloc.get_traced_memory()[0] / len(source))
else:
    captions = time.perf_counter() - began
    next(data.batches(source, 64))
    print(opened, captions, time.perf_counter() - began)
"""


def write(root: Path, count: int, shards: bool) -> None:
    """Images of 16x16 pixels with a caption each, in folders or archives of `PER_FOLDER`."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(file, "JPEG")
    image = file.getvalue()
    with progress.bar("writing the images", count, delay=2.0) as advance:
        for start in range(0, count, PER_FOLDER):
            names = [f"{i:08}" for i in range(start, min(start + PER_FOLDER, count))]
            files = ((f"{name}.{end}", content) for name in names for end, content in _pair(image, name))
            (_archive if shards else _folder)(root / f"{start // PER_FOLDER:05}", files)
            advance(len(names))


def _pair(image, name):
    return ("jpg", image), ("txt", f"a teal square, number {name}".encode())


def _folder(path, files):
    path.mkdir()
    for name, content in files:
        (path / name).write_bytes(content)


def _archive(path, files):
    with tarfile.open(path.with_suffix(".tar"), "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def start(source: str, kept: Path, what: str) -> list[float]:
    """What a process prints that opens a source, with the indices that are kept in a directory."""
    environment = os.environ | {"TFDS_DATA_DIR": str(kept)}
    command = [sys.executable, "-c", START, source, what]
    return [float(text) for text in subprocess.check_output(command, env=environment, text=True).split()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--source", choices=("folder", "shards"), default="folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root, kept = Path(name) / "images", Path(name) / "kept"
        root.mkdir()
        began = time.perf_counter()
        write(root, args.count, args.source == "shards")
        print(f"{args.count:,} images written in {time.perf_counter() - began:.0f} s")
        print("| start | open (s) | captions read (s) | first batch (s) |\n|---|---|---|---|")
        source = f"{args.source}:{root}"
        for which in ("first", "second"):
            print(f"| {which} | " + " | ".join(f"{seconds:.1f}" for seconds in start(source, kept, "time")) + " |")
        print(f"index: {start(source, kept, 'memory')[0]:.0f} bytes an image, with its caption")


if __name__ == "__main__":
    main()
