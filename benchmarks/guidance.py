"""Gain and cost of guidance: label accuracy, FID, recall and memory over its scale.

    python benchmarks/guidance.py            # prints the table; about 20 minutes on two cores
    python benchmarks/guidance.py --write    # writes it into docs/guidance.md, with its pictures

The shipped conditional network is judged by the shipped digits_judge, which learned from other digits. Everything is drawn
by DDIM in 50 steps. Drawn images are kept, so that a run that was stopped goes on.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from drawn import BATCH, HELD_OUT, drawn, judge, judged, real
from pages import put

import jaxdiff
from jaxdiff import data
from jaxdiff.eval import fid, neighbors
from jaxdiff.pipeline import images

ROOT = Path(__file__).parents[1]
PAGE, PICTURES = ROOT / "docs" / "guidance.md", ROOT / "docs" / "images"
BEGIN, END = "<!-- written by benchmarks/guidance.py -->\n", "<!-- end of what it writes -->\n"
STEPS, NUM = 50, 1000
SCALES = (0.0, 1.0, 1.1, 1.5, 2.0, 4.0, 8.0)


class Kind(NamedTuple):
    """One way of guiding: its name, options of `jaxdiff.generate`, and whether a classifier does it."""

    name: str
    options: dict
    classifier: bool = False


KINDS = [
    *(Kind(f"cfg {scale:g}", {"guidance": scale}) for scale in SCALES),
    *(Kind(f"classifier {scale:g}", {"guidance": scale}, classifier=True) for scale in (0.0, 4.0)),
]


def compare(by, drawn, held, train):
    """Metrics of sampled images beside as many others."""
    a, b = judged(by, held), judged(by, drawn)
    precision, recall = neighbors.precision_recall(a.kept, b.kept)
    return {
        "accuracy": float((b.classes == np.arange(len(drawn)) % 10).mean()),
        "fid": fid.frechet(a.moments, b.moments),
        "precision": precision,
        "recall": recall,
        "nearest": distances(drawn, train),
    }


def distances(images, train):
    """5% and half of the images are nearer to a training image than this."""
    return [float(np.percentile(neighbors.nearest(images / 255, train / 255), q)) for q in (5, 50)]


def measure(args):
    """{name: numbers} of the floor and of every kind."""
    by, train, held = judge(), real("train"), real(*HELD_OUT, num=NUM)
    model, classifier, plain = (jaxdiff.load(name) for name in (args.model, args.classifier, args.unconditional))
    test = data.load("digits:test")
    labels = np.array([test[i]["label"] for i in range(len(test))])
    found = {"floor": compare(by, real("train", num=NUM), held, train)}
    found["floor"] |= {
        "accuracy": float((judged(by, real("test")).classes == labels).mean()),
        "nearest": distances(held, train),
    }
    for kind in KINDS:
        options = {"steps": STEPS, "num": NUM, "batch_size": BATCH, "seed": 1} | kind.options
        of = plain if kind.classifier else model
        sheet = drawn(args.kept, of, **options | ({"classifier": classifier} if kind.classifier else {}))
        found[kind.name] = compare(by, sheet, held, train)
        print(kind.name, found[kind.name], flush=True)
    return found


def pictures(args):
    """Ten rows of digits without guidance, with much, and with too much."""
    model = jaxdiff.load(args.model)
    for scale in (1.0, 3.0, 8.0):
        sheet = drawn(args.kept, model, guidance=scale, steps=STEPS, num=80, batch_size=BATCH)
        places = np.arange(80).reshape(8, 10).T
        images.save_grid(PICTURES / f"guidance_{scale:g}.png", images.arranged(sheet, places), places.shape[1])


def table(found):
    """The numbers as Markdown."""
    lines = [
        "| guidance | read as their label | FID | FID / floor | precision | recall | nearest training image: 5%, median |",
        "|---|---|---|---|---|---|---|",
    ]
    floor = found["floor"]["fid"]
    for name in ["floor", *(kind.name for kind in KINDS)]:
        row = found[name]
        called = "*real: one half against the other*" if name == "floor" else name
        near = ", ".join(f"{x:.2f}" for x in row["nearest"])
        lines.append(
            f"| {called} | {row['accuracy']:.1%} | {row['fid']:.2f} | {row['fid'] / floor:.1f} | {row['precision']:.2f} "
            f"| {row['recall']:.2f} | {near} |"
        )
    return "\n".join(lines) + "\n"


def plot(found):
    """Accuracy against diversity over the scale."""
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    for prefix, marker in (("cfg", "o"), ("classifier", "s")):
        rows = [(kind.options["guidance"], found[kind.name]) for kind in KINDS if kind.name.startswith(prefix)]
        scales, numbers = zip(*rows)
        left.plot(scales, [100 * n["accuracy"] for n in numbers], marker=marker, label=prefix)
        right.plot([n["recall"] for n in numbers], [n["fid"] for n in numbers], marker=marker, label=prefix)
        for scale, n in [(scale, n) for scale, n in rows if scale != 1.1]:  # which stands beside 1
            right.annotate(f"{scale:g}", (n["recall"], n["fid"]), textcoords="offset points", xytext=(4, 4), fontsize=8)
    left.set(xlabel="scale", ylabel="read as their label, %")
    right.axhline(found["floor"]["fid"], color="grey", linestyle=":", label="real digits")
    right.set(xlabel="recall", ylabel="FID", ylim=(0, None))
    for axis in (left, right):
        axis.legend(frameon=False)
        axis.grid(alpha=0.3)
    figure.savefig(PICTURES / "guidance.png", dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="digits")
    parser.add_argument("--classifier", default="digits_classifier")
    parser.add_argument("--unconditional", default="runs/digits", help="a run of `jaxdiff train digits`")
    parser.add_argument("--kept", type=Path, default=Path("runs/drawn"), help="where drawn images are kept")
    parser.add_argument("--write", action="store_true", help="write the tables and the pictures into docs/")
    args = parser.parse_args()
    found = measure(args)
    written = table(found)
    print(written)
    if args.write:
        put(PAGE, BEGIN, END, written)
        plot(found)
        pictures(args)


if __name__ == "__main__":
    main()
