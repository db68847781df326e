"""Number of steps and noise: FID of DDIM and DDPM over the number of steps.

    python benchmarks/steps.py            # prints the table; over two hours on two cores
    python benchmarks/steps.py --write    # writes it into docs/samplers.md, and docs/images/steps.png

The shipped conditional network, without guidance, from the same noise every time, beside the 2,500 digits that it has not
seen: FID in the features of the shipped judge, who sees strokes and overlooks noise, and the Frechet distance of patches of
7x7 pixels, which sees noise and overlooks strokes. The claims are those of Song et al. 2021 (DDIM), table 1, who do not
clip. Drawn images are kept, so that a run that was stopped goes on. For this small network one process on each core is 1.4
times as fast as one on both:

    taskset -c 0 python benchmarks/steps.py --only 0 3 & taskset -c 1 python benchmarks/steps.py --only 1 2 4 5 & wait
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from drawn import HELD_OUT, drawn, judge, judged, real
from pages import put

import jaxdiff
from jaxdiff import xla
from jaxdiff.eval import fid
from jaxdiff.samplers import SAMPLERS

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "samplers.md", ROOT / "docs" / "images" / "steps.png"
BEGIN, END = "<!-- written by benchmarks/steps.py -->\n", "<!-- end of the steps -->\n"
STEPS = (5, 10, 20, 50, 100, 250, 1000)
CLIPPED_STEPS = STEPS[:5]
BATCH, PATCH = 8, 7


class Way(NamedTuple):
    """One way of drawing, and the numbers of steps in which it is tried."""

    name: str
    options: dict
    steps: tuple[int, ...] = STEPS


class Score(NamedTuple):
    """Distance of sampled images from real ones, by FID and by patches, with its uncertainty."""

    fid: float
    patches: float
    fid_error: float
    patches_error: float


TITLES = {"fid": "FID", "patches": "patches, x 1000"}
LARGE = {"sampler": SAMPLERS["ddpm"](variance="beta")}
WAYS = [
    *(Way(f"DDIM, eta {eta:g}", {"sampler": SAMPLERS["ddim"](eta=eta), "clip": False}) for eta in (0.0, 0.5, 1.0)),
    Way("DDPM, fixed-large", LARGE | {"clip": False}),
    Way("DDIM, eta 0, clipped", {"sampler": "ddim", "clip": True}, CLIPPED_STEPS),
    Way("DDPM, fixed-large, clipped", LARGE | {"clip": True}, CLIPPED_STEPS),
]


def measure(args):
    """{(way, steps): Score}, and under "floor" that of as many training images."""
    by, model, held = judge(), jaxdiff.load(args.model), real(*HELD_OUT)
    held = [judged(by, held).moments, fid.moments(patches(held).reshape(-1, PATCH**2))]
    train = real("train", num=args.num)
    found = {"floor": score(by, held, train.reshape(10, -1, *train.shape[1:]).swapaxes(0, 1).reshape(train.shape))}
    ways = [WAYS[i] for i in args.only]
    for way, steps in [(way, steps) for steps in STEPS for way in ways if steps in way.steps]:  # the cheap ones first
        options = {"steps": steps, "num": args.num, "batch_size": BATCH, "seed": 2} | way.options
        sheet = drawn(args.kept, model, **options)
        found[way.name, steps] = score(by, held, sheet)
        print(way.name, steps, found[way.name, steps], flush=True)
    return found


def score(by, held, images) -> Score:
    """Distance of images from held-out ones, image i being of label i % 10; standard errors by 20 bootstraps."""
    kinds = [judged(by, images).kept[:, None], patches(images)]  # [n, rows of each, D]
    of = lambda which: [fid.frechet(h, fid.moments(np.concatenate(kind[which]))) for h, kind in zip(held, kinds)]
    draws = 10 * np.random.default_rng(0).integers(0, len(images) // 10, (20, len(images) // 10, 10)) + np.arange(10)
    return Score(*of(slice(None)), *np.std([of(draw.ravel()) for draw in draws], axis=0, ddof=1))


def patches(images):
    """All patches of images [n, 28, 28, 1] that do not overlap, [n, 16, 49], so scaled that distances are x 1000."""
    side = images.shape[1] // PATCH
    tiles = images.reshape(len(images), side, PATCH, side, PATCH).swapaxes(2, 3)
    return tiles.reshape(len(images), side**2, PATCH**2) / 255 * math.sqrt(1000)


def table(found, num):
    """The numbers as Markdown."""
    parts = []
    for field, title in TITLES.items():
        lines = [f"| {title} | {' | '.join(f'S = {steps}' for steps in STEPS)} |", "|---" * (len(STEPS) + 1) + "|"]
        for way in WAYS:
            cells = [f"{getattr(found[way.name, steps], field):.2f}" if steps in way.steps else "" for steps in STEPS]
            lines.append(f"| {way.name} | {' | '.join(cells)} |")
        error = np.median([getattr(score, f"{field}_error") for score in found.values()])
        floor = f"of as many training images, the floor, it is {getattr(found['floor'], field):.2f}"
        parts += ["\n".join(lines), f"Of {num} images each, standard error about {error:.2f}, by bootstrap; {floor}."]
    return "\n\n".join(parts) + "\n"


def plot(found):
    """Both distances over the number of steps."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    for axis, (field, title) in zip(axes, TITLES.items()):
        for way, marker in zip(WAYS, "os^DoD"):
            style = {"linestyle": ":", "fillstyle": "none"} if way.options["clip"] else {}
            scores = [found[way.name, steps] for steps in way.steps]
            values, errors = ([getattr(score, of) for score in scores] for of in (field, f"{field}_error"))
            bars = axis.errorbar(way.steps, values, errors, marker=marker, label=way.name, elinewidth=0.6, **style)
            bars[2][0].set_alpha(0.6)
        axis.axhline(getattr(found["floor"], field), color="grey", linestyle="--", label="real digits")
        axis.set(xlabel="steps S", ylabel=title, xscale="log", xticks=STEPS, xticklabels=STEPS)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set(ylim=(0, None))
    axes[1].set(yscale="log", yticks=(5, 10, 20, 50), yticklabels=(5, 10, 20, 50))
    axes[1].minorticks_off()
    axes[1].legend(frameon=False)
    figure.savefig(PICTURE, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="digits")
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--kept", type=Path, default=Path("runs/drawn"), help="where drawn images are kept")
    every = list(range(len(WAYS)))
    parser.add_argument("--only", type=int, nargs="+", default=every, choices=every, help="rows to draw, for later")
    parser.add_argument("--write", action="store_true", help="write the table and the picture into docs/")
    args = parser.parse_args()
    if args.write and args.only != every:
        parser.error("--write needs all rows: leave out --only")
    xla.tune_cpu()
    found = measure(args)
    if args.only != every:
        return
    written = table(found, args.num)
    print(written)
    if args.write:
        put(PAGE, BEGIN, END, written)
        plot(found)


if __name__ == "__main__":
    main()
