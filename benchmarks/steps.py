"""How many steps are enough, and how much noise they should add: FID of DDIM and DDPM over the number of steps.

    python benchmarks/steps.py            # prints the table; about an hour on two cores
    python benchmarks/steps.py --write    # writes it into docs/samplers.md, and docs/images/steps.png

The shipped conditional network, without guidance, from the same noise every time; FID in the features of the shipped judge,
beside the 2,500 digits that the network has not seen. The claims are those of Song et al. 2021 (DDIM), table 1.
Drawn images are kept, so that a run that was stopped goes on.
"""

import argparse
from pathlib import Path

from drawn import BATCH, HELD_OUT, drawn, judge, judged, real

from jaxdiff import pretrained
from jaxdiff.eval import fid

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "samplers.md", ROOT / "docs" / "images" / "steps.png"
BEGIN, END = "<!-- written by benchmarks/steps.py -->\n", "<!-- end of the steps -->\n"
STEPS = (5, 10, 20, 50, 100, 250, 1000)
WAYS = {
    "DDIM, eta 0": {"eta": 0.0},
    "DDIM, eta 0.5": {"eta": 0.5},
    "DDIM, eta 1": {"eta": 1.0},
    "DDPM, fixed-large": {"sampler": "ddpm", "variance": "beta"},
}


def measure(args):
    """{way: {steps: FID}}, and the floor: as many training images."""
    by, model = judge(), pretrained.load(args.model)
    held = judged(by, real(*HELD_OUT)).moments
    found = {"floor": fid.frechet(held, judged(by, real("train", num=args.num)).moments)} | {way: {} for way in WAYS}
    for steps in STEPS:  # the cheap ones first
        for way, options in WAYS.items():
            how = {"steps": steps, "num": args.num, "batch_size": BATCH, "seed": 2} | options
            sheet = drawn(args.kept, f"{way}, {steps} steps", model, **how)
            found[way][str(steps)] = fid.frechet(held, judged(by, sheet).moments)
            print(way, steps, found[way][str(steps)], flush=True)
    return found


def table(found, num):
    """The numbers as Markdown."""
    lines = ["| FID | " + " | ".join(f"S = {steps}" for steps in STEPS) + " |", "|---" * (len(STEPS) + 1) + "|"]
    for way in WAYS:
        lines.append(f"| {way} | " + " | ".join(f"{found[way][str(steps)]:.2f}" for steps in STEPS) + " |")
    return (
        "\n".join(lines)
        + f"\n\nOf {num} images each; of as many training images, the floor, it is {found['floor']:.2f}.\n"
    )


def plot(found):
    """FID over the number of steps."""
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(5.5, 3.6), constrained_layout=True)
    for way, marker in zip(WAYS, "os^D"):
        axis.loglog(STEPS, [found[way][str(steps)] for steps in STEPS], marker=marker, label=way)
    axis.axhline(found["floor"], color="grey", linestyle=":", label="real digits")
    axis.set(xlabel="steps", ylabel="FID", xticks=STEPS, xticklabels=STEPS)
    axis.minorticks_off()
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    figure.savefig(PICTURE, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="digits")
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--kept", type=Path, default=Path("runs/drawn"), help="where drawn images are kept")
    parser.add_argument("--write", action="store_true", help="write the table and the picture into docs/")
    args = parser.parse_args()
    found = measure(args)
    written = table(found, args.num)
    print(written)
    if args.write:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(before + BEGIN + written + END + rest.split(END)[1])
        plot(found)


if __name__ == "__main__":
    main()
