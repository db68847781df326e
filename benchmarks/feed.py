"""Images a second that a training is given, of large photographs, beside Pillow in a plain loop and torch's DataLoader.

    python benchmarks/feed.py             # 12-megapixel JPEGs to 256x256; torch needs `pip install jaxdiff[peers]`

Each decodes all files once a round, in turns; medians of the rounds. Nothing is kept between rounds.
"""

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from jaxdiff import data

SIZE = 256


def write_photographs(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """Files with the frequencies of photographs: sums of noise at several scales."""
    values, paths = np.random.default_rng(0), []
    for i in range(count):
        layers = [
            Image.fromarray(values.integers(0, 256, (height // s, width // s, 3), np.uint8)).resize((width, height))
            for s in (2, 16, 128)
        ]
        mixed = Image.blend(Image.blend(layers[0].filter(ImageFilter.BoxBlur(1)), layers[1], 0.6), layers[2], 0.6)
        paths.append(folder / f"{i:03}.jpg")
        mixed.save(paths[-1], quality=92)
    return paths


def fit(path: Path) -> np.ndarray:
    """A photograph as most scripts read it."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (SIZE, SIZE), Image.Resampling.BICUBIC))


def plain(paths: list[Path]) -> Iterator[int]:
    """Pillow in a loop."""
    for path in paths:
        fit(path)
        yield 1


def jaxdiff_feed(folder: Path, batch: int) -> Callable[[list[Path]], Iterator[int]]:
    """The data pipeline of a training, without the memory of decoded images."""

    def run(paths):
        source = data.parse(f"folder:{folder}")((SIZE, SIZE, 3))
        batches = data.batches(source, batch)
        for _ in range(len(paths) // batch):
            yield next(batches)["image"].shape[1]
        batches.close()

    return run


def torch_feed(batch: int, workers: int) -> Callable[[list[Path]], Iterator[int]]:
    """torch's DataLoader with worker processes."""
    import torch

    class Photographs(torch.utils.data.Dataset):
        def __init__(self, paths):
            self.paths = paths

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, i):
            return torch.from_numpy(fit(self.paths[i]).copy())

    def run(paths):
        loader = torch.utils.data.DataLoader(Photographs(paths), batch, shuffle=True, num_workers=workers)
        for images in loader:
            yield len(images)

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_photographs(folder, args.count, 4000, 3000)
        ways = {"Pillow in a loop": plain, "jaxdiff": jaxdiff_feed(folder, args.batch)}
        if importlib.util.find_spec("torch"):
            ways[f"torch's DataLoader, {args.workers} workers"] = torch_feed(args.batch, args.workers)
        found = {way: [] for way in ways}
        for round_ in range(args.rounds + 1):
            for way, run in ways.items():
                start = time.perf_counter()
                count = sum(run(paths))
                if round_:  # the first warms up
                    found[way].append(count / (time.perf_counter() - start))
    print("| | images a second |\n|---|---|")
    for way, rates in found.items():
        print(f"| {way} | {np.median(rates):.1f} |")


if __name__ == "__main__":
    main()
