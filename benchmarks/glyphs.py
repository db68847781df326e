"""Glyphs that no shipped model has seen, drawn as the captioned digits are, and a judge that tells them from digits.

    python benchmarks/glyphs.py star --out glyphs/star                  # 20 pictures with captions of "<star>"
    python benchmarks/glyphs.py heart --out glyphs/heart --word heart --count 50
    python benchmarks/glyphs.py --sheet glyphs.png                      # all kinds, to look at
    python benchmarks/glyphs.py star heart --judge runs                 # trains their judge and says how often it is right

Seeds below `JUDGED` are for pictures that models learn from; those above are for the judge, and for judging the judge.
The judge of all kinds takes two minutes on two cores, and is then right about 98.7% of held-out digits and 1,600 of 1,600
new glyphs. Ask it about all kinds even where one is of interest: a judge takes a kind that it does not know for another.
"""

import argparse
import dataclasses
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from jaxdiff import Cond, data, network, objectives, progress, xla
from jaxdiff import model as models
from jaxdiff.data import augment
from jaxdiff.data.sources import captioned
from jaxdiff.errors import unknown
from jaxdiff.eval import features, shown
from jaxdiff.nets.classifier import Classifier
from jaxdiff.objectives import levels
from jaxdiff.pipeline import images
from jaxdiff.train import optim, state
from jaxdiff.train.step import make_train_step

JUDGED, HELD = 1_000_000, 2_000_000  # seeds of what the judge learns from, and of what it is tested on
FINE, SCALE = 8, 9  # how much finer glyphs are drawn than they are kept; pixels of 28 to one unit of their outlines


# Outlines, x to the right and y down, about a circle of radius 1: lines of a pen, areas, and holes in what is drawn before.


def star(rng):
    angles, radii = np.arange(10) * np.pi / 5, np.where(np.arange(10) % 2, rng.uniform(0.38, 0.5), 1)
    return [("area", np.stack([radii * np.sin(angles), -radii * np.cos(angles)], -1))]


def heart(rng):
    a, dip = np.linspace(0, 2 * np.pi, 48), rng.uniform(4, 6)
    x, y = 16 * np.sin(a) ** 3, 13 * np.cos(a) - dip * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a)
    return [("area", np.stack([x, -y - 2], -1) / 16)]


def house(rng):
    wall, eaves, door = rng.uniform(0.6, 0.75), rng.uniform(-0.1, 0.15), rng.uniform(0.18, 0.28)
    roof = [(-1, eaves), (0, -1), (1, eaves)]
    return [("area", roof), ("area", _box(wall, eaves, 1)), ("hole", _box(door, rng.uniform(0.35, 0.5), 1.3))]


def arrow(rng):
    wide, low = rng.uniform(0.6, 0.8), rng.uniform(-0.3, 0)
    return [("line", [(0, 1), (0, -1)]), ("line", [(-wide, low), (0, -1), (wide, low)])]


def cross(rng):
    wide, high = rng.uniform(-0.12, 0.12, 2)
    return [("line", [(wide, -1), (wide, 1)]), ("line", [(-1, high), (1, high)])]


def moon(rng):
    off, radius = rng.uniform(0.4, 0.55), rng.uniform(0.72, 0.82)  # of the circle that is cut out of one of radius 1
    x = (1 - radius**2 + off**2) / (2 * off)  # where they meet
    y = np.sqrt(1 - x**2)
    outer, inner = np.arctan2(y, x), np.arctan2(y, x - off)
    a, b = np.linspace(outer, 2 * np.pi - outer, 32), np.linspace(2 * np.pi - inner, inner, 32)
    around, back = np.stack([np.cos(a), np.sin(a)], -1), np.stack([off + radius * np.cos(b), radius * np.sin(b)], -1)
    return [("area", np.concatenate([around, back]))]


def triangle(rng):
    return [("area", [(rng.uniform(-0.15, 0.15), -1), (1, 0.8), (-1, 0.8)])]


def mushroom(rng):
    a, brim = np.linspace(np.pi, 2 * np.pi, 24), rng.uniform(0, 0.2)
    cap = np.stack([np.cos(a), brim + (1 + brim) * np.sin(a)], -1)
    return [("area", cap), ("area", _box(rng.uniform(0.2, 0.35), brim, 1))]


def _box(half, top, bottom):
    return [(-half, top), (half, top), (half, bottom), (-half, bottom)]


KINDS = {f.__name__: f for f in (star, heart, house, arrow, cross, moon, triangle, mushroom)}
PENS = {"area": (0.1, 0.25), "line": (0.32, 0.5)}  # widths, least and largest; that of an area rounds its corners


def ink(name: str, rng: np.random.Generator) -> np.ndarray:
    """A glyph as if by hand: slanted, turned, stretched, bent and drawn with a pen of its own width, uint8 [28, 28]."""
    if name not in KINDS:
        raise unknown("glyph", name, KINDS)
    parts, moved = KINDS[name](rng), _hand(rng)
    pens = {what: rng.uniform(*widths) for what, widths in PENS.items()}
    page = Image.new("L", (28 * FINE, 28 * FINE))
    draw = ImageDraw.Draw(page)
    for what, points in parts:
        at = [tuple(point) for point in FINE * (14 + SCALE * moved(np.array(points, np.float64)))]
        if what != "line":
            draw.polygon(at, 255 if what == "area" else 0)
        if what != "hole":
            _stroke(draw, at if what == "line" else [*at, at[0]], FINE * SCALE * pens[what])
    return np.asarray(page.resize((28, 28), Image.Resampling.BOX))


def _hand(rng):
    """The way in which one drawing differs from the outline: linear, and bent by slow waves."""
    turn, slant, stretch = np.deg2rad(rng.uniform(-10, 10)), rng.uniform(-0.15, 0.15), np.exp(rng.uniform(-0.12, 0.12))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = rotation @ np.array([[stretch, slant], [0, 1 / stretch]])
    waves, phases = rng.normal(0, 1.2, [2, 2]), rng.uniform(0, 2 * np.pi, 2)
    return lambda points: points @ linear.T + 0.06 * np.sin(points @ waves + phases[None])


def _stroke(draw, at, width):
    """Lines with round ends and corners."""
    draw.line(at, 255, round(width))
    for x, y in at:
        draw.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], 255)


def example(
    name: str,
    rng: np.random.Generator,
    colour: str | None = None,
    background: str | None = None,
    size: str | None = None,
    place: str | None = None,
    word: str | None = None,
) -> tuple[np.ndarray, str, dict[str, int]]:
    """A picture of a glyph as the captioned digits are, and its caption.

    Args:
      name: of `KINDS`.
      rng: NumPy generator, of the drawing and of what is not given.
      colour: of `captioned.COLOURS`, as is background; random and never the same where they are not given.
      background: see colour.
      size: of `captioned.SIZES`.
      place: of `captioned.PLACES`.
      word: what the caption calls it; None is the name in angle brackets.

    Returns:
      Image uint8 [32, 32, 3], caption, and what it shows as positions in `captioned.ATTRIBUTES`: "colour", "background",
      "size" and "place".
    """
    said = {"colour": colour, "background": background, "size": size, "place": place}
    if colour is not None and colour == background:
        raise ValueError(f"a {colour} glyph on {background} cannot be seen: give two colours")
    for what, given in said.items():
        choices = [
            one
            for one in captioned.ATTRIBUTES[what]
            if what not in ("colour", "background") or one not in said.values()
        ]
        if given is None:
            said[what] = str(rng.choice(choices))
        elif given not in captioned.ATTRIBUTES[what]:
            raise unknown(what, given, captioned.ATTRIBUTES[what])
    text = captioned.TEMPLATES[rng.integers(len(captioned.TEMPLATES))].format(digit=word or f"<{name}>", **said)
    positions = {what: captioned.ATTRIBUTES[what].index(one) for what, one in said.items()}
    return captioned.picture(ink(name, rng), **said), text, positions


def examples(name: str, count: int, seed: int = 0, **given) -> list[tuple[np.ndarray, str, dict[str, int]]]:
    """That many of `example`; with a larger count the first ones stay as they are."""
    if name not in KINDS:
        raise unknown("glyph", name, KINDS)
    kind = [*KINDS].index(name)
    return [example(name, np.random.default_rng([seed, kind, i]), **given) for i in range(count)]


def write(folder, name: str, count: int = 20, seed: int = 0, word: str | None = None) -> Path:
    """Writes glyphs as PNGs with captions in metadata.jsonl, as `data.load("folder:...")` reads them; overwrites nothing.

    Raises:
      FileExistsError: the folder holds anything else.
      ValueError: no pictures, or a seed of those that the judge learns from.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    if not 0 <= seed < JUDGED:
        raise ValueError(f"seed={seed} must be in 0..{JUDGED - 1}: those above are for the judge")
    folder, files, lines = Path(folder), {}, []
    for i, (image, text, _) in enumerate(examples(name, count, seed, word=word)):
        images.to_pil(image).save(file := io.BytesIO(), "PNG")
        files[f"{i:05d}.png"] = file.getvalue()
        lines.append(json.dumps({"file_name": f"{i:05d}.png", "text": text}) + "\n")
    files["metadata.jsonl"] = "".join(lines).encode()
    there = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []
    if others := [path.name for path in there if not path.is_file() or path.read_bytes() != files.get(path.name)]:
        raise FileExistsError(f"{folder} holds something else, such as {min(others)}: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        (folder / path).write_bytes(content)
    return folder


class Judge(NamedTuple):
    """Judge of what a picture shows.

    Attributes:
      classes: what it can tell apart: the words of the ten digits, then the glyphs.
      features: of their ink, uint8 [B, 28, 28, 1], see `seen`.
    """

    classes: tuple[str, ...]
    features: features.Features


def seen(pictures: np.ndarray) -> np.ndarray:
    """The ink of pictures uint8 [N, 32, 32, 3] without colour, size and place, uint8 [N, 28, 28, 1]."""
    return np.stack([shown.read(picture).digit for picture in pictures])[..., None]


def judge(names: Sequence[str], directory=None, steps: int = 600) -> Judge:
    """A classifier of pictures of digits and such glyphs.

    It starts from `digits_judge`, and learns from `captioned:judge`, which no generator has seen, and from glyphs of its
    own; all of them a little blurred and stained, as drawn pictures are.

    Args:
      names: of `KINDS`; their classes are 10, 11, ... in this order.
      directory: where it is kept, so that a second call only reads it; None is nowhere.
      steps: of training.
    """
    if not names or len(set(names)) < len(names):
        raise ValueError(f"names={tuple(names)}: give one glyph or more, each once")
    for name in set(names) - set(KINDS):
        raise unknown("glyph", name, KINDS)
    classes = (*captioned.DIGIT_NAMES, *names)
    path = None if directory is None else Path(directory) / f"judge_{'_'.join(names)}_{steps}.safetensors"
    if path is not None and path.exists():
        model = models.read(path)
    else:
        model = trained(names, steps)
    if path is not None and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        models.write(unfinished := path.with_suffix(".tmp"), model, "float32")
        unfinished.replace(path)
    return Judge(classes, features.classifier_features(model.config.net, model.params, f"judge of {', '.join(names)}"))


def trained(names: Sequence[str], steps: int, batch_size: int = 64) -> models.Model:
    """`digits_judge` with a new head, trained further on the classes of `judge`."""
    rng, key = np.random.default_rng(0), jax.random.key(0)
    x, labels = lessons(names)
    start = models.load("digits_judge")
    net = dataclasses.replace(start.config.net, out_channels=10 + len(names))
    fresh = jax.jit(Classifier(net).init)(key, jnp.zeros([1, 28, 28, 1]), jnp.zeros([1]))["params"]
    params = jax.tree.map(jnp.asarray, fresh | {"encoder": start.params["encoder"]})
    schedule = start.config.diffusion.make_schedule()
    loss_fn = objectives.classification(network(Classifier(net)), schedule, levels=levels.clean(), label_smoothing=0.05)
    optimizer = optim.optimizer(1e-3, steps, min(50, steps // 2), 0.02, weight_decay=0.01, method="muon")
    step = jax.jit(make_train_step(loss_fn, optimizer, ema_decay=0.99), donate_argnums=0)
    now = state.init(params, optimizer)
    of = [np.flatnonzero(labels == label) for label in range(net.out_channels)]
    with progress.bar("training the judge", steps, "steps") as advance:
        for n in range(steps):
            rows = [rng.choice(of[label]) for label in rng.integers(net.out_channels, size=batch_size)]
            moved = np.stack([augment.affine(x[row], augment.amounts(rng)) for row in rows])
            index = n * batch_size + jnp.arange(batch_size)
            now, _ = step(now, key, {"image": moved, "cond": Cond(label=jnp.asarray(labels[rows])), "index": index})
            advance(1)
    about = {"model": "judge", "step": steps, "weights": "EMA", "trained_on": "captioned:judge and " + ", ".join(names)}
    return models.Model(dataclasses.replace(start.config, name="glyphs_judge", net=net), now.ema, about)


def lessons(names: Sequence[str], each: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Training examples of the judge: inks uint8 [N, 28, 28, 1] and classes int [N]."""
    rng, digits = np.random.default_rng(1), data.load("captioned:judge")
    pictures = [(example["image"], example["label"]) for example in digits]
    for label, name in enumerate(names, 10):
        pictures += [(image, label) for image, *_ in examples(name, each, JUDGED)]
    worn = np.stack([wear(image, rng) for image, _ in pictures])
    return seen(worn), np.array([label for _, label in pictures])


def wear(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture uint8 [32, 32, 3] a little blurred and stained."""
    blur, stains = rng.uniform(0, 0.7), ndimage.gaussian_filter(rng.normal(size=picture.shape), (1, 1, 0))
    x = ndimage.gaussian_filter(picture.astype(np.float64), (blur, blur, 0))
    return np.clip(np.round(x + rng.uniform(0, 15) * stains / stains.std()), 0, 255).astype(np.uint8)


def recognised(judge: Judge, pictures: np.ndarray) -> np.ndarray:
    """Classes that pictures uint8 [N, 32, 32, 3] show, as positions in `judge.classes`, int [N]."""
    inks = seen(pictures)
    return features.gathered(judge.features, [inks[i : i + 100] for i in range(0, len(inks), 100)]).classes


def colours_of(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colours of ink and background of pictures uint8 [N, 32, 32, 3], as positions in `captioned.COLOURS`.

    The background is the median of the border; the ink the mean of the 12 pixels that are farthest from it.
    """
    x = pictures.astype(np.float64)
    border = np.concatenate([x[:, 0], x[:, -1], x[:, :, 0], x[:, :, -1]], axis=1)
    back = np.median(border, axis=1)
    pixels = x.reshape(len(x), -1, 3)
    farthest = np.argsort(-np.square(pixels - back[:, None]).sum(-1), axis=1)[:, :12]
    front = np.take_along_axis(pixels, farthest[..., None], axis=1).mean(1)
    nearest = lambda colour: np.square(colour[:, None] - shown.PALETTE[None]).sum(-1).argmin(1)
    return nearest(front), nearest(back)


def sheet(columns: int = 12) -> Image.Image:
    """All kinds, a row each of small ones and of large ones."""
    rows = [examples(name, columns, size=size) for name in KINDS for size in captioned.SIZES]
    return images.sheet(np.stack([image for row in rows for image, *_ in row]), columns, [*KINDS])


def accuracy(judge: Judge, each: int = 200) -> dict[str, float]:
    """Accuracy on held-out digits, all and by size, and on new glyphs."""
    digits = list(data.load("captioned:test"))
    right = recognised(judge, np.stack([one["image"] for one in digits])) == [one["label"] for one in digits]
    found = {"digits": right.mean()}
    for n, size in enumerate(captioned.SIZES):
        found[f"{size} digits"] = right[[one["size"] == n for one in digits]].mean()
    for label, name in enumerate(judge.classes[10:], 10):
        new = np.stack([image for image, *_ in examples(name, each, HELD)])
        found[name] = np.mean(recognised(judge, new) == label)
    return {what: float(share) for what, share in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--out", type=Path, help="folder that pictures of one glyph are written to")
    parser.add_argument("--count", type=int, default=20, help="how many pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures")
    parser.add_argument("--word", help='what captions call the glyph, by default its name in angle brackets: "<star>"')
    parser.add_argument("--sheet", type=Path, help="PNG of all kinds")
    parser.add_argument("--judge", type=Path, help="folder of the judge of these glyphs, which is trained and tested")
    args = parser.parse_args()
    if not (args.out or args.sheet or args.judge) or (args.out and len(args.names) != 1):
        parser.error("say one glyph and --out FOLDER, or glyphs and --judge FOLDER, or --sheet FILE.png")
    if args.sheet:
        sheet().save(args.sheet)
        print(args.sheet)
    try:
        if args.out:
            print(write(args.out, args.names[0], args.count, args.seed, args.word))
        if args.judge:
            start = time.perf_counter()
            by = judge(args.names or [*KINDS], args.judge)
            print(f"ready after {time.perf_counter() - start:.0f} s")
            print(*(f"{what}: {share:.1%} right" for what, share in accuracy(by).items()), sep="\n")
    except (ValueError, FileExistsError) as error:
        raise SystemExit(f"{error}") from None


if __name__ == "__main__":
    xla.tune_cpu()
    main()
