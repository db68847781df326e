"""Can the drawn digits be read, are all ten there, and were they only remembered?

    python benchmarks/digits.py runs/digits

A scikit-learn classifier is fitted on the `judge` split and slightly moved, turned and stretched copies of it; no generator
sees that split. It reads 256 samples, drawn from the averaged weights as the run's config says, and beside them the real
`test` split. Samples are remembered if they are nearer to training images than real digits are: the distances of both are
compared.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage
from sklearn.neural_network import MLPClassifier

import jaxdiff
from jaxdiff import data
from jaxdiff.eval import neighbors

COPIES = 9  # of each digit that the reader learns from, beside the digit itself


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--num", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    model = jaxdiff.load(args.run)
    drawn = jaxdiff.generate(model, num=args.num, seed=args.seed).reshape(args.num, -1) / 255.0
    (judge, labels), (test, truth), (train, _) = (split(name) for name in ("judge", "test", "train"))

    reader = MLPClassifier((512,), alpha=1e-3, early_stopping=True, random_state=0)
    reader.fit(
        np.concatenate([judge, *(distorted(judge, seed) for seed in range(COPIES))]), np.tile(labels, COPIES + 1)
    )
    print(f"reader: {reader.score(test, truth):.1%} of the 500 real test digits right")
    for name, images in (("real test digits", test), (f"{args.num} samples", drawn)):
        probability = reader.predict_proba(images)
        sure = probability.max(1) >= 0.9
        counts = np.bincount(probability.argmax(1)[sure], minlength=10)
        print(f"{name}: {sure.mean():.1%} read with probability >= 0.9; of each digit {counts.tolist()}")
        print(f"  distance to the nearest training image: median {np.median(neighbors.nearest(images, train)):.2f}")
    sample = model.config.sample
    print(f"  ({sample.sampler}, {sample.steps} steps, {sample.spacing}, seed {args.seed}, EMA weights)")


def split(name):
    source = data.load(f"digits:{name}")
    examples = [source[i] for i in range(len(source))]
    return np.stack([e["image"].reshape(-1) for e in examples]) / 255.0, np.array([e["label"] for e in examples])


def distorted(images, seed):
    """The images, each turned by up to 12 degrees, stretched and slanted by up to 15%, and moved by up to 1.5 pixels."""
    rng, middle = np.random.default_rng(seed), np.array([13.5, 13.5])

    def one(image):
        angle, stretch, slant = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(0.9, 1.1, 2), rng.uniform(-0.15, 0.15)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn @ np.array([[1, slant], [0, 1]]) / stretch
        return ndimage.affine_transform(image, matrix, middle - matrix @ middle + rng.uniform(-1.5, 1.5, 2), order=1)

    return np.stack([one(image) for image in images.reshape(-1, 28, 28)]).reshape(images.shape)


if __name__ == "__main__":
    main()
