"""What guidance buys and what it costs: label accuracy, FID, recall over its scale, with every kind of guidance.

    python benchmarks/guidance.py            # prints the tables; about 25 minutes on two cores
    python benchmarks/guidance.py --write    # writes them into docs/guidance.md, with their pictures

The shipped conditional network is judged by the shipped digits_judge, which learned from other digits. Everything is drawn
by DDIM in 50 steps. What has been measured is kept in --kept, so that a run that was stopped goes on.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdiff import data, pretrained, progress
from jaxdiff.eval import draw, features, fid, images, neighbors
from jaxdiff.eval.guided import make_guide

ROOT = Path(__file__).parents[1]
PAGE, PICTURES = ROOT / "docs" / "guidance.md", ROOT / "docs" / "images"
BEGIN, END = "<!-- written by benchmarks/guidance.py -->\n", "<!-- end of what it writes -->\n"
STEPS, NUM, BATCH = 50, 1000, 40
SCALES = (0.0, 1.0, 1.1, 1.2, 1.5, 2.0, 4.0, 8.0)


class Kind(NamedTuple):
    """One way of guiding: its words, what `jaxdiff sample` is told, and whether a classifier does it."""

    name: str
    options: dict
    classifier: bool = False


KINDS = [
    *(Kind(f"cfg {scale:g}", {"guidance": scale}) for scale in SCALES),
    *(Kind(f"classifier {scale:g}", {"guidance": scale}, classifier=True) for scale in (0.0, 4.0)),
]


def real(*splits):
    """All images of these splits of the digits, uint8 [N, 28, 28, 1]."""
    sources = [data.load(f"digits:{split}") for split in splits]
    return np.stack([source[i]["image"] for source in sources for i in range(len(source))])


def gather(judge, drawn):
    return features.gathered(judge, [drawn[start : start + BATCH] for start in range(0, len(drawn), BATCH)])


def compare(judge, drawn, others, train):
    """What is known of drawn images beside others of the same number."""
    a, b = gather(judge, others), gather(judge, drawn)
    precision, recall = neighbors.precision_recall(a.kept, b.kept)
    return {
        "accuracy": float((b.classes == np.arange(len(drawn)) % 10).mean()),
        "fid": fid.frechet(a.moments, b.moments),
        "precision": precision,
        "recall": recall,
        "nearest": [float(np.percentile(neighbors.nearest(drawn / 255, train / 255), q)) for q in (5, 50)],
    }


def draw_by(kind, model, classifier, plain):
    """Images of one kind of guidance, of all classes in turn."""
    model = plain if kind.classifier else model
    how = {"sampler": "ddim", "eta": None, "variance": None, "spacing": "trailing", "labels": None} | kind.options
    sample = dataclasses.replace(model.config.sample, steps=STEPS, num=NUM, batch_size=BATCH, seed=1, **how)
    config = dataclasses.replace(model.config, sample=sample)
    guide = make_guide(config, classifier.config, classifier.params) if kind.classifier else None
    draw.check(config, guide)
    with progress.bar(kind.name, draw.num_steps(config), "steps") as tick:
        return draw.draw(config, model.params, tick, guide)


def measure(args):
    """{name: numbers} of the floor and of every kind, from what is kept or anew."""
    judge_model = pretrained.load("digits_judge")
    judge = features.classifier_features(judge_model.config.net, judge_model.params, "digits_judge")
    model, classifier, plain = (pretrained.load(name) for name in (args.model, args.classifier, args.unconditional))
    found = kept(args.kept, {name: load.about for name, load in (("model", model), ("classifier", classifier))})
    rng = np.random.default_rng(0)
    train, held = (rng.permutation(real(*splits))[:NUM] for splits in (("train",), ("judge", "test")))
    everything = real("train")
    if "floor" not in found:
        found["floor"] = compare(judge, train, held, everything)
        found["floor"]["nearest"] = [
            float(np.percentile(neighbors.nearest(held / 255, everything / 255), q)) for q in (5, 50)
        ]
        test = data.load("digits:test")
        labels = np.array([test[i]["label"] for i in range(len(test))])
        found["floor"]["accuracy"] = float((gather(judge, real("test")).classes == labels).mean())
    for kind in KINDS:
        if kind.name not in found:
            drawn = draw_by(kind, model, classifier, plain)
            found[kind.name] = compare(judge, drawn, held, everything)
            args.kept.write_text(json.dumps(found, indent=1))
    return found


def kept(path, about):
    """What was measured before, of the same models.

    Raises:
      ValueError: it is of others.
    """
    found = json.loads(path.read_text()) if path.exists() else {"about": about}
    if found["about"] != about:
        raise ValueError(f"{path} holds numbers of {found['about']}, and not of {about}: choose another --kept")
    path.parent.mkdir(parents=True, exist_ok=True)
    return found


def pictures(model):
    """Ten rows of digits without guidance, with the one that is chosen, and with too much."""
    for scale in (1.0, 3.0, 8.0):
        sample = dataclasses.replace(model.config.sample, steps=STEPS, num=80, batch_size=80, guidance=scale)
        config = dataclasses.replace(model.config, sample=sample)
        places = draw.layout(config)
        drawn = images.arranged(draw.draw(config, model.params), places)
        images.save_grid(PICTURES / f"guidance_{scale:g}.png", drawn, places.shape[1])


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
        rows = [
            (float(k.name.split()[1]), found[k.name])
            for k in KINDS
            if k.name.split()[0] == prefix and "," not in k.name
        ]
        scales, numbers = zip(*rows)
        left.plot(scales, [100 * n["accuracy"] for n in numbers], marker=marker, label=prefix)
        right.plot([n["recall"] for n in numbers], [n["fid"] for n in numbers], marker=marker, label=prefix)
        for scale, n in [(scale, n) for scale, n in rows if scale not in (1.1, 1.2)]:
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
    parser.add_argument("--kept", type=Path, default=Path("runs/guidance.json"))
    parser.add_argument("--write", action="store_true", help="write the tables and the pictures into docs/")
    args = parser.parse_args()
    found = measure(args)
    written = table(found)
    print(written)
    if args.write:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(before + BEGIN + written + END + rest.split(END)[1])
        plot(found)
        pictures(pretrained.load(args.model))


if __name__ == "__main__":
    main()
