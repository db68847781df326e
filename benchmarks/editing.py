"""Inversion and editing: what comes back, what changes, what stays, and what it costs, with the models that ship.

    python benchmarks/editing.py            # prints the tables; some 45 minutes on two cores
    python benchmarks/editing.py --write    # writes them into docs/editing.md, with their pictures
    python benchmarks/editing.py --only words

Images are held out: of `captioned:test` and `digits:test`. Digits are read by digits_judge, which learned from other
digits; colours and where the digit is from pixels (`jaxdiff.eval.shown`).
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from edited import Digits, Painter, described, edits, held_out, middle, rows_of, swapped
from editing_cost import WINDOWS, cost
from pages import run_sections

import jaxdiff
from jaxdiff import Cond, Guided, data, editing, guidance, samplers, timesteps, xla
from jaxdiff.data.sources import captioned
from jaxdiff.eval import features, neighbors, shown
from jaxdiff.objectives import to_unit_range
from jaxdiff.objectives.autoencoder import psnr
from jaxdiff.pipeline import images
from jaxdiff.samplers import State

ROOT = Path(__file__).parents[1]
PAGE, PICTURES = ROOT / "docs" / "editing.md", ROOT / "docs" / "images"
FALLING, GENTLE = (20.0, 3.0, 800), (5.0, 2.0, 800)  # guidance above and below a level
RED, GREEN = 0, 1


def decibels(x, y, peak):
    """Peak signal-to-noise ratio of each row."""
    return 10 * np.log10(peak**2 / np.square(np.asarray(x) - np.asarray(y)).reshape(len(x), -1).mean(1))


def misses(denoise, schedule, levels, path, cond):
    """By how much each DDIM step down misses the point of the path below, root mean square [N]."""
    pairs = zip(path[:-1], path[1:], levels[:-1], levels[1:])
    step = jax.jit(lambda x, t, s: samplers.ddim().step(None, denoise, schedule, State(x), t, s, cond)[0].x)
    return np.array([float(jnp.sqrt(jnp.square(step(x, t, s) - below).mean())) for x, below, t, s in pairs])


def inversion(args):
    """Round trips at scale 1."""
    lines = [
        "| | steps | rounds | PSNR, mean | worst image | miss of a step, contraction per round |",
        "|---|---|---|---|---|---|",
    ]
    painter, digits = Painter(), Digits()
    examples, x = held_out("captioned:test", args.num)
    z = painter.encode(x)
    latents = painter.encode(held_out("captioned:test", 500)[1])
    peak = float(latents.max() - latents.min())
    some, images_ = held_out("digits:test", args.num)
    cases = [("`captioned`", painter, z, Cond(context=painter.reads([one["caption"] for one in examples])), peak, steps)
             for steps in (10, 20, 50, 100)]  # fmt: skip
    labels = digits.cond([one["label"] for one in some])
    cases += [("`digits`", digits, images_, labels, 2.0, steps) for steps in (10, 20, 50, 100)]
    for name, model, x0, cond, highest, steps in cases:
        levels, first = timesteps.grid(1000, steps), None
        for rounds in (0, 1, 3, 10):
            path = editing.invert(model.denoise, model.schedule, levels, x0, cond, refine=rounds)
            again = editing.reconstruct(model.denoise, model.schedule, levels, path[0], cond)
            found, missed = decibels(again, x0, highest), misses(model.denoise, model.schedule, levels, path, cond)
            first = missed if first is None else first
            shrinks = np.exp(np.log(missed / first).mean() / rounds) if rounds else None
            says = f"{missed.mean():.1e}" + (f", {shrinks:.2f}" if rounds else "")
            lines.append(f"| {name} | {steps} | {rounds} | {found.mean():.1f} dB | {found.min():.1f} dB | {says} |")
            print(lines[-1], flush=True)
        if steps == 50:
            noisy = samplers.ddim(eta=1.0)
            keys = jax.random.key(0)
            drawn = samplers.sample(keys, noisy, model.denoise, model.schedule, levels, path[0], cond)[0]
            found = decibels(drawn, x0, highest)
            lines.append(
                f"| {name}, back down with eta = 1 | 50 | 10 | {found.mean():.1f} dB | {found.min():.1f} dB | |"
            )
            print(lines[-1], flush=True)
    low, high = float(latents.min()), float(latents.max())
    lines += ["", f"Peak: the range of 500 held-out latents, {low:.2f}..{high:.2f}; of digits, [-1, 1]."]
    return "\n".join(lines) + "\n"


def guided(args):
    """Reconstructions at a guidance of 7.5."""
    lines = ["| | PSNR, mean | worst image | seconds |", "|---|---|---|---|"]
    levels, scale = timesteps.grid(1000, 50), 7.5
    painter = Painter()
    examples, x = held_out("captioned:test", 16)
    z, both = painter.encode(x), painter.guided([one["caption"] for one in examples])
    pictures = [images.to_uint8(x)]

    def line(name, x, again, seconds=""):
        found = np.asarray(psnr(x, jnp.clip(again, -1, 1)))
        lines.append(f"| {name} | {found.mean():.2f} dB | {found.min():.2f} dB | {seconds} |")
        print(lines[-1], flush=True)
        pictures.append(images.to_uint8(again))

    with_scale = guidance.cfg(painter.denoise, scale)
    invert = lambda: editing.invert(painter.denoise, painter.schedule, levels, z, both.cond)
    path, seconds = invert(), f"{middle(invert, 1):.1f}"
    back = lambda denoise, cond, axes=None: painter.decode(
        editing.reconstruct(denoise, painter.schedule, levels, path[0], cond, axes)
    )
    axes = Guided(None, Cond(context=0))
    line("autoencoder alone", x, painter.decode(z))
    line("DDIM inversion, back at scale 1", x, back(painter.denoise, both.cond), seconds)
    line("DDIM inversion, back at 7.5", x, back(with_scale, both))
    start = time.perf_counter()
    search = lambda: editing.null_text(painter.denoise, painter.schedule, levels, path, both, scale)
    nulls = jax.block_until_ready(search())
    first = time.perf_counter() - start
    seconds = f"{middle(search, 1):.1f} ({first:.1f} with compiling)"
    line(
        "**null-text inversion**, published rates",
        x,
        back(with_scale, Guided(both.cond, Cond(context=nulls)), axes),
        seconds,
    )
    nulls = editing.negative_prompt_inversion(levels, both)
    line("negative-prompt inversion", x, back(with_scale, Guided(both.cond, Cond(context=nulls)), axes), "0")
    sampler = editing.direct_inversion(samplers.ddim(), levels, path, np.ones(len(z), bool))
    kept = samplers.sample(None, sampler, with_scale, painter.schedule, levels, path[0], both)[0]
    line("direct inversion, its source rows", x, painter.decode(kept), "0")
    titles = ["held out", "autoencoder", "DDIM, 1", "DDIM, 7.5", "null-text", "negative-prompt", "direct"]

    digits, (some, x) = Digits(), held_out("digits:test", 16)
    both = digits.guided([one["label"] for one in some])
    path = editing.invert(digits.denoise, digits.schedule, levels, x, both.cond)
    with_scale = guidance.cfg(digits.denoise, scale)
    again = lambda cond, axes=None: editing.reconstruct(with_scale, digits.schedule, levels, path[0], cond, axes)
    count = len(pictures)
    plain = editing.reconstruct(digits.denoise, digits.schedule, levels, path[0], both.cond)
    line("`digits`: DDIM inversion, back at scale 1", x, plain)
    line("`digits`: back at 7.5", x, again(both))
    for name, rate in (("published rates", 0.01), ("10 times those rates", 0.1)):
        nulls = editing.null_text(
            digits.denoise,
            digits.schedule,
            levels,
            path,
            both,
            scale,
            editing.null_text_config(50, learning_rate=rate),
            leaf="label",
        )
        line(f"`digits`: null-label inversion, {name}", x,
             again(Guided(both.cond, both.uncond._replace(label=nulls)), Guided(None, Cond(label=0))))  # fmt: skip
    if args.write:
        images.sheet(np.concatenate(pictures[:count]), 16, titles).save(PICTURES / "editing_guided.png")
    return "\n".join(lines) + "\n"


class Judged:
    """Attributes that pairs of pictures show, before and after."""

    def __init__(self):
        judge = jaxdiff.load("digits_judge")
        self.judge = features.classifier_features(judge.config.net, judge.params, "digits_judge")

    def __call__(self, pictures, asked):
        """Shares of the pairs, and the mean overlap of their digits."""
        said = [shown.read(one) for one in pictures]
        digits = features.gathered(self.judge, [np.stack([one.digit for one in said])[..., None]]).classes
        before, after = said[: len(asked)], said[len(asked) :]
        return {
            "changed": np.mean([one.colour == new for one, (_, _, new, _) in zip(after, asked)]),
            "digit": np.mean(digits[: len(asked)] == digits[len(asked) :]),
            "background": np.mean([a.background == b.background for a, b in zip(before, after)]),
            "overlap": np.mean([shown.overlap(a.mask, b.mask) for a, b in zip(before, after)]),
        }


HEAD = ["| | changed | digit kept | background kept | overlap of the digits |", "|---|---|---|---|---|"]


def row(name, found):
    shares = " | ".join(f"{found[what]:.1%}" for what in ("changed", "digit", "background"))
    return f"| {name} | {shares} | {found['overlap']:.3f} |"


def words(args):
    """Prompt-to-prompt on images that are drawn: another colour, the rest as it was."""
    painter, judged, lines = Painter(), Judged(), list(HEAD)
    levels, rising = timesteps.grid(1000, 50), guidance.stepped(*FALLING)
    red, other = '"a … red seven …" -> "a … green seven …"', "any digit, any colours"
    for kind, title, scales in (("red seven", red, (rising,)), (None, other, (rising, 3.0))):
        sources, targets, asked = swapped(200, of=kind)
        both, target = painter.guided(sources), Cond(context=painter.reads(targets))
        z_T = samplers.noise(samplers.keys_for(jax.random.key(1), 200), painter.shape)
        for scale in scales:
            name = "3" if scale == 3.0 else "20 above level 800, then 3"
            with_edit = edits(painter.words, sources, targets, **WINDOWS)
            for how, edit in (("without editing", editing.no_edit(400, painter.words.length)), ("edited", with_edit)):
                z = in_parts(painter, levels, z_T, both, target, scale, edit)
                pictures = images.to_uint8(np.concatenate([painter.decode(part) for part in np.split(z, 4)]))
                lines.append(row(f"{title}, guidance {name}: {how}", judged(pictures, asked)))
                print(lines[-1], flush=True)
                if args.write and kind is None and scale is rising:
                    rows = np.concatenate([pictures[:16], pictures[200:216]])
                    path = PICTURES / f"editing_words_{'plain' if how == 'without editing' else 'edited'}.png"
                    images.sheet(rows, 16, ["source", how]).save(path)
    return "\n".join(lines) + "\n"


def in_parts(painter, levels, z_T, both, target, scale, edit, parts=4, nulls=None, trajectory=None):
    """`sample_pairs`, some pairs at a time."""
    count, found = len(z_T), []
    for part in np.split(np.arange(count), parts):
        own = rows_of(edit, np.concatenate([part, part + count]))
        own = own._replace(source_offset=np.where(own.source_offset == 0, 0, -len(part)))
        args = painter.denoise, painter.schedule, levels, z_T[part], rows_of(both, part), rows_of(target, part), scale
        more = {} if nulls is None else {"uncond_embeddings": nulls[:, part]}
        if trajectory is not None:
            doubled = np.concatenate([part, part])
            kept = np.arange(len(doubled)) < len(part)
            more["sampler"] = editing.direct_inversion(samplers.ddim(), levels, trajectory[:, doubled], kept)
        found.append(np.asarray(editing.sample_pairs(*args, edit=own, **more)[0]))
    halves = [np.split(one, 2) for one in found]
    return np.concatenate([np.concatenate([half[i] for half in halves]) for i in (0, 1)])


def real(args):
    """The same on held-out images, through their inversion."""
    painter, judged, lines, rng = Painter(), Judged(), list(HEAD), np.random.default_rng(0)
    allowed = {tuple(map(int, one)) for one in captioned.combinations()[0]}
    taken = lambda one: (one["colour"], one["background"])
    fits = lambda one, c: c not in taken(one) and (one["label"], c, one["background"]) in allowed
    reds = held_out("captioned:test", args.real, lambda one: one["colour"] == RED and fits(one, GREEN))
    real_rows(painter, judged, lines, "red -> green", *reds, [GREEN] * args.real)
    some = held_out("captioned:test", args.real)
    new = [int(rng.choice([c for c in range(7) if fits(one, c)])) for one in some[0]]
    pictures = real_rows(painter, judged, lines, "any colours", *some, new)
    if args.write:
        images.sheet(pictures, 16, ["held out", "reconstruction", "edited"]).save(PICTURES / "editing_real.png")
    return "\n".join(lines) + "\n"


def real_rows(painter, judged, lines, title, examples, x, new):
    """Adds the rows of such images with a digit of a new colour each; gives the first ones and what became of them."""
    levels, count = timesteps.grid(1000, 50), len(examples)
    asked = [(one["label"], one["colour"], c, one["background"]) for one, c in zip(examples, new)]
    sources, targets = ([described(one) for one in of] for of in (examples, recoloured(examples, new)))
    z, both, target = painter.encode(x), painter.guided(sources), Cond(context=painter.reads(targets))
    swaps, never = edits(painter.words, sources, targets, **WINDOWS), editing.no_edit(2 * count, painter.words.length)
    path = editing.invert(painter.denoise, painter.schedule, levels, z, both.cond)
    gentle, parts = guidance.stepped(*GENTLE), count // 25
    negative = editing.negative_prompt_inversion(levels, both)
    searches = {scale: searched(painter, levels, path, both, scale, parts) for scale in (3.0, gentle)}
    cases = (
        ("negative-prompt, guidance 7.5", 7.5, swaps, {"uncond_embeddings": negative}),
        ("direct, guidance 3", 3.0, swaps, {"trajectory": path}),
        ("null-text, guidance 3", 3.0, swaps, {"uncond_embeddings": searches[3.0]}),
        ("negative-prompt, guidance 5 above level 800, then 2", gentle, swaps, {"uncond_embeddings": negative}),
        ("direct, the same", gentle, swaps, {"trajectory": path}),
        ("null-text, the same, without editing", gentle, never, {"uncond_embeddings": searches[gentle]}),
        ("null-text, the same", gentle, swaps, {"uncond_embeddings": searches[gentle]}),
    )
    before = images.to_uint8(x)
    for name, scale, edit, how in cases:
        z = in_parts(painter, levels, path[0], both, target, scale, edit, parts, **how)
        pictures = images.to_uint8(np.concatenate([painter.decode(part) for part in np.split(z, parts)]))
        quality = np.asarray(psnr(x, to_unit_range(pictures[:count]))).mean()
        found = judged(np.concatenate([before, pictures[count:]]), asked)
        lines.append(row(f"{title}, {count} images: {name} (reconstruction {quality:.1f} dB)", found))
        print(lines[-1], flush=True)
    return np.concatenate([before[:16], pictures[:16], pictures[count : count + 16]])


def recoloured(examples, new):
    return [one | {"colour": c} for one, c in zip(examples, new)]


def searched(painter, levels, path, both, scale, parts):
    """`null_text`, some images at a time."""
    found = []
    for part in np.split(np.arange(path.shape[1]), parts):
        args = painter.denoise, painter.schedule, levels, path[:, part], rows_of(both, part), scale
        found.append(editing.null_text(*args))
    return jnp.concatenate(found, axis=1)


def bridge(args):
    """From the digits to outlined ones and back, by models that share no image."""
    lines = [
        "| 50 steps | down to level | there and back, PSNR | worst image | arrives as its digit |",
        "|---|---|---|---|---|",
    ]
    a, b = Digits("digits"), Digits("outlined")
    examples, x = held_out("digits:test", 50)
    labels = np.array([one["label"] for one in examples])
    reader = nearest_reader()
    pictures = [images.to_uint8(x[:20])]
    heun = {"inversion_sampler": samplers.heun(), "down": samplers.heun()}
    refined = {f"DDIM, {rounds} rounds": {"inversion_sampler": editing.ddim_inversion(rounds)} for rounds in (0, 3, 10)}
    cases = [("DDIM, 0 rounds", {}, 0), *((name, how, 10) for name, how in (refined | {"Heun": heun}).items())]
    go = lambda one, other, levels, x, how: editing.bridge(
        one.denoise, other.denoise, one.schedule, levels, x, one.cond(labels), other.cond(labels), **how
    )
    for name, how, end in cases:
        levels = timesteps.grid(1000, 50, end=end)
        there = go(a, b, levels, x, how)
        again = go(b, a, levels, there, how)
        found = decibels(again, x, 2.0)
        right = np.mean(reader(images.to_uint8(there)) == labels)
        lines.append(f"| {name} | {end} | {found.mean():.1f} dB | {found.min():.1f} dB | {right:.0%} |")
        print(lines[-1], flush=True)
    pictures += [images.to_uint8(there[:20]), images.to_uint8(again[:20])]
    levels = timesteps.grid(1000, 50)
    cond = b.cond(np.arange(500) % 10)
    drawn = samplers.noise(samplers.keys_for(jax.random.key(0), 500), b.shape)
    drawn = images.to_uint8(samplers.sample(None, samplers.ddim(), b.denoise, b.schedule, levels, drawn, cond)[0])
    train, held = (data.load(f"outlined:{split}") for split in ("judge", "test"))
    train, held = (np.stack([source[i]["image"] for i in range(len(source))]) / 255 for source in (train, held))
    of = {
        name: np.percentile(neighbors.nearest(x, train), [5, 50])
        for name, x in (("drawn", drawn / 255), ("held", held))
    }
    lines += [
        "",
        f"Nothing is remembered: the nearest training image of 500 that `outlined` draws is at {of['drawn'][0]:.2f} (5%) "
        f"and {of['drawn'][1]:.2f} (median), that of held-out ones at {of['held'][0]:.2f} and {of['held'][1]:.2f}. "
        f"{np.mean(reader(drawn) == np.arange(500) % 10):.1%} of them are read as their label, "
        f"{np.mean(reader((held * 255).astype(np.uint8)) == held_labels()):.1%} of held-out ones.",
    ]
    if args.write:
        images.sheet(np.concatenate(pictures), 20, ["held out", "bridged", "and back"]).save(
            PICTURES / "editing_bridge.png"
        )
    return "\n".join(lines) + "\n"


def held_labels():
    source = data.load("outlined:test")
    return np.array([source[i]["label"] for i in range(len(source))])


def nearest_reader():
    """Reads outlined digits by the five nearest of `outlined:train`, which no model of outlined ones has seen."""
    source = data.load("outlined:train")
    known = np.stack([source[i]["image"] for i in range(len(source))]).reshape(len(source), -1) / 255.0
    labels = np.array([source[i]["label"] for i in range(len(source))])

    def read(pictures):
        x = pictures.reshape(len(pictures), -1) / 255.0
        far = (x**2).sum(1)[:, None] - 2 * x @ known.T + (known**2).sum(1)
        votes = labels[np.argsort(far, axis=1)[:, :5]]
        return np.array([np.bincount(one, minlength=10).argmax() for one in votes])

    return read


SECTIONS = {"inversion": inversion, "guided": guided, "words": words, "real": real, "bridge": bridge, "cost": cost}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=48, help="images that are inverted")
    parser.add_argument(
        "--real", type=int, default=75, help="real images that are edited, a multiple of 25, at most 75"
    )
    parser.add_argument("--only", choices=SECTIONS, action="append", help="of the tables only this one")
    parser.add_argument("--write", action="store_true", help="write the tables and the pictures into docs/")
    args = parser.parse_args()
    xla.tune_cpu()
    run_sections(SECTIONS, args, PAGE, "editing.py")


if __name__ == "__main__":
    main()
