"""Inversion and editing: what comes back, what changes, what stays, and what it costs, with the models that ship.

    python benchmarks/editing.py            # prints the tables; about half an hour on two cores
    python benchmarks/editing.py --write    # writes them into docs/editing.md, with their pictures
    python benchmarks/editing.py --only words

Images are held out: of `captioned:test` and `digits:test`. Digits are read by digits_judge, which learned from other
digits; colours and where the digit is from pixels (`jaxdiff.eval.shown`).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from pages import run_sections
from PIL import Image

from jaxdiff import Cond, Guided, data, editing, guidance, pretrained, samplers, timesteps, xla
from jaxdiff.data import captioned
from jaxdiff.editing.null_text import _steps as searching
from jaxdiff.eval import features, images, neighbors, shown
from jaxdiff.nets.unet import label_embedding
from jaxdiff.objectives import to_unit_range
from jaxdiff.objectives.autoencoder import psnr
from jaxdiff.samplers import State

ROOT = Path(__file__).parents[1]
PAGE, PICTURES = ROOT / "docs" / "editing.md", ROOT / "docs" / "images"
WINDOWS = {"cross": 0.2, "own": 1.0}  # shares of the way for which attention is taken over
FALLING, GENTLE = (20.0, 3.0, 800), (5.0, 2.0, 800)  # guidance above and below a level
RED, GREEN = 0, 1


class Painter:
    """The text-to-image model that ships, with its ends compiled."""

    def __init__(self):
        model = pretrained.load("captioned")
        codec, self.reads = model.ends
        self.words, self.shape, self.denoise = self.reads.tokenizer, model.config.shape, model.denoiser()
        self.schedule = model.config.diffusion.make_schedule()
        self.encode, self.decode = jax.jit(codec.encode), jax.jit(codec.decode)

    def guided(self, captions):
        """What images show, and nothing."""
        context = self.reads(captions)
        return Guided(Cond(context=context), Cond(context=jnp.broadcast_to(self.reads([""]), context.shape)))


class Digits:
    """The model of digits drawn by their label."""

    def __init__(self, name="digits"):
        model = pretrained.load(name)
        self.params, self.shape, self.denoise = model.params, model.config.shape, model.denoiser()
        self.schedule = model.config.diffusion.make_schedule()

    def cond(self, labels):
        """Labels by their embeddings, and no augmentation."""
        return Cond(label=label_embedding(self.params, jnp.asarray(labels)), vector=jnp.zeros([len(labels), 6]))

    def guided(self, labels):
        """What images show, and the null label."""
        return Guided(self.cond(labels), self.cond(np.full(len(labels), 10)))


def held_out(source, num, wanted=lambda example: True):
    """The first examples of each digit in turn, and their images in [-1, 1]."""
    found = data.load(source)
    found = [example for i in range(len(found)) if wanted(example := found[i])]
    each = [[one for one in found if one["label"] == digit] for digit in range(10)]
    found = [one for row in zip(*each) for one in row][:num]
    return found, to_unit_range(np.stack([one["image"] for one in found]))


def middle(run, times=3):
    """Median seconds, after a first run."""
    jax.block_until_ready(run())
    found = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - start)
    return float(np.median(found))


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
    z, told = painter.encode(x), painter.guided([one["caption"] for one in examples])
    pictures = [images.to_uint8(x)]

    def line(name, x, again, seconds=""):
        found = np.asarray(psnr(x, jnp.clip(again, -1, 1)))
        lines.append(f"| {name} | {found.mean():.2f} dB | {found.min():.2f} dB | {seconds} |")
        print(lines[-1], flush=True)
        pictures.append(images.to_uint8(again))

    with_scale = guidance.cfg(painter.denoise, scale)
    invert = lambda: editing.invert(painter.denoise, painter.schedule, levels, z, told.cond)
    path, seconds = invert(), f"{middle(invert, 1):.1f}"
    back = lambda denoise, cond, axes=None: painter.decode(
        editing.reconstruct(denoise, painter.schedule, levels, path[0], cond, axes)
    )
    axes = Guided(None, Cond(context=0))
    line("autoencoder alone", x, painter.decode(z))
    line("DDIM inversion, back at scale 1", x, back(painter.denoise, told.cond), seconds)
    line("DDIM inversion, back at 7.5", x, back(with_scale, told))
    start = time.perf_counter()
    search = lambda: editing.null_text(painter.denoise, painter.schedule, levels, path, told, scale)
    nulls = jax.block_until_ready(search())
    first = time.perf_counter() - start
    seconds = f"{middle(search, 1):.1f} ({first:.1f} with compiling)"
    line(
        "**null-text inversion**, published rates",
        x,
        back(with_scale, Guided(told.cond, Cond(context=nulls)), axes),
        seconds,
    )
    nulls = editing.negative_prompt(levels, told)
    line("negative-prompt inversion", x, back(with_scale, Guided(told.cond, Cond(context=nulls)), axes), "0")
    sampler = editing.direct(samplers.ddim(), levels, path, np.ones(len(z), bool))
    kept = samplers.sample(None, sampler, with_scale, painter.schedule, levels, path[0], told)[0]
    line("direct inversion, its source rows", x, painter.decode(kept), "0")
    titles = ["held out", "autoencoder", "DDIM, 1", "DDIM, 7.5", "null-text", "negative-prompt", "direct"]

    digits, (some, x) = Digits(), held_out("digits:test", 16)
    told = digits.guided([one["label"] for one in some])
    path = editing.invert(digits.denoise, digits.schedule, levels, x, told.cond)
    with_scale = guidance.cfg(digits.denoise, scale)
    again = lambda cond, axes=None: editing.reconstruct(with_scale, digits.schedule, levels, path[0], cond, axes)
    count = len(pictures)
    plain = editing.reconstruct(digits.denoise, digits.schedule, levels, path[0], told.cond)
    line("`digits`: DDIM inversion, back at scale 1", x, plain)
    line("`digits`: back at 7.5", x, again(told))
    for name, rate in (("published rates", 0.01), ("10 times those rates", 0.1)):
        nulls = editing.null_text(
            digits.denoise, digits.schedule, levels, path, told, scale, editing.published(50, rate=rate), of="label"
        )
        line(f"`digits`: null-label inversion, {name}", x,
             again(Guided(told.cond, told.uncond._replace(label=nulls)), Guided(None, Cond(label=0))))  # fmt: skip
    if args.write:
        images.sheet(np.concatenate(pictures[:count]), 16, titles).save(PICTURES / "editing_guided.png")
    return "\n".join(lines) + "\n"


def swapped(num, seed=0, of=None):
    """Prompts that differ in the digit's colour, of combinations that both were trained on: (sources, targets, asked)."""
    rng, allowed = np.random.default_rng(seed), {tuple(map(int, one)) for one in captioned.combinations()[0]}
    found = []
    while len(found) < num:
        digit, (old, new) = (7, (0, 1)) if of == "red seven" else (int(rng.integers(10)), rng.permutation(7)[:2])
        back, size, place = (int(rng.integers(n)) for n in (7, 2, 5))
        if back in (old, new) or not {(digit, int(old), back), (digit, int(new), back)} <= allowed:
            continue
        shows = {"label": digit, "background": back, "size": size, "place": place}
        pair = [described(shows | {"colour": colour}) for colour in (old, new)]
        found.append((*pair, (digit, int(old), int(new), back)))
    return tuple(zip(*found))


def described(example):
    """All that there is to say of an image."""
    said = {name: names[example[name]] for name, names in captioned.NAMES.items()}
    where = said["place"] if said["place"].startswith("in") else f"in the {said['place']}"
    return f"a {said['size']} {said['colour']} {said['label']} {where} on a {said['background']} background"


def edits(words, sources, targets, make=editing.replace, **windows):
    """One edit of all pairs: rows of the sources, then of the edited images."""
    return editing.pairs([make(words, *pair, **windows) for pair in zip(sources, targets)])


class Judged:
    """What pairs of pictures show, before and after."""

    def __init__(self):
        judge = pretrained.load("digits_judge")
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
        told, target = painter.guided(sources), Cond(context=painter.reads(targets))
        z_T = samplers.noise(samplers.keys_for(jax.random.key(1), 200), painter.shape)
        for scale in scales:
            name = "3" if scale == 3.0 else "20 above level 800, then 3"
            with_edit = edits(painter.words, sources, targets, **WINDOWS)
            for how, edit in (("without editing", editing.no_edit(400, painter.words.length)), ("edited", with_edit)):
                z = in_parts(painter, levels, z_T, told, target, scale, edit)
                pictures = images.to_uint8(np.concatenate([painter.decode(part) for part in np.split(z, 4)]))
                lines.append(row(f"{title}, guidance {name}: {how}", judged(pictures, asked)))
                print(lines[-1], flush=True)
                if args.write and kind is None and scale is rising:
                    rows = np.concatenate([pictures[:16], pictures[200:216]])
                    path = PICTURES / f"editing_words_{'plain' if how == 'without editing' else 'edited'}.png"
                    images.sheet(rows, 16, ["source", how]).save(path)
    return "\n".join(lines) + "\n"


def in_parts(painter, levels, z_T, told, target, scale, edit, parts=4, nulls=None, trajectory=None):
    """`redraw`, some pairs at a time."""
    count, found = len(z_T), []
    for part in np.split(np.arange(count), parts):
        own = rows_of(edit, np.concatenate([part, part + count]))
        own = own._replace(source=np.where(own.source == 0, 0, -len(part)))
        args = painter.denoise, painter.schedule, levels, z_T[part], rows_of(told, part), rows_of(target, part), scale
        more = {} if nulls is None else {"nulls": nulls[:, part]}
        if trajectory is not None:
            both = np.concatenate([part, part])
            kept = np.arange(len(both)) < len(part)
            more["sampler"] = editing.direct(samplers.ddim(), levels, trajectory[:, both], kept)
        found.append(np.asarray(editing.redraw(*args, edit=own, **more)[0]))
    halves = [np.split(one, 2) for one in found]
    return np.concatenate([np.concatenate([half[i] for half in halves]) for i in (0, 1)])


def rows_of(tree, rows):
    return jax.tree.map(lambda x: x[rows], tree)


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
    z, told, target = painter.encode(x), painter.guided(sources), Cond(context=painter.reads(targets))
    swaps, never = edits(painter.words, sources, targets, **WINDOWS), editing.no_edit(2 * count, painter.words.length)
    path = editing.invert(painter.denoise, painter.schedule, levels, z, told.cond)
    gentle, parts = guidance.stepped(*GENTLE), count // 25
    negative = editing.negative_prompt(levels, told)
    searches = {scale: searched(painter, levels, path, told, scale, parts) for scale in (3.0, gentle)}
    cases = (
        ("negative-prompt, guidance 7.5", 7.5, swaps, {"nulls": negative}),
        ("direct, guidance 3", 3.0, swaps, {"trajectory": path}),
        ("null-text, guidance 3", 3.0, swaps, {"nulls": searches[3.0]}),
        ("negative-prompt, guidance 5 above level 800, then 2", gentle, swaps, {"nulls": negative}),
        ("direct, the same", gentle, swaps, {"trajectory": path}),
        ("null-text, the same, without editing", gentle, never, {"nulls": searches[gentle]}),
        ("null-text, the same", gentle, swaps, {"nulls": searches[gentle]}),
    )
    before = images.to_uint8(x)
    for name, scale, edit, how in cases:
        z = in_parts(painter, levels, path[0], told, target, scale, edit, parts, **how)
        pictures = images.to_uint8(np.concatenate([painter.decode(part) for part in np.split(z, parts)]))
        quality = np.asarray(psnr(x, to_unit_range(pictures[:count]))).mean()
        found = judged(np.concatenate([before, pictures[count:]]), asked)
        lines.append(row(f"{title}, {count} images: {name} (reconstruction {quality:.1f} dB)", found))
        print(lines[-1], flush=True)
    return np.concatenate([before[:16], pictures[:16], pictures[count : count + 16]])


def recoloured(examples, new):
    return [one | {"colour": c} for one, c in zip(examples, new)]


def searched(painter, levels, path, told, scale, parts):
    """`null_text`, some images at a time."""
    found = []
    for part in np.split(np.arange(path.shape[1]), parts):
        args = painter.denoise, painter.schedule, levels, path[:, part], rows_of(told, part), scale
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
    heun = {"up": samplers.heun(), "down": samplers.heun()}
    refined = {f"DDIM, {rounds} rounds": {"up": editing.ddim_inversion(rounds)} for rounds in (0, 3, 10)}
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


def cost(args):
    """What editing takes beside drawing, in one run, and how often it compiles."""
    del args
    painter, levels, found = Painter(), timesteps.grid(1000, 50), []
    sources, targets, _ = swapped(8)
    told, target = painter.guided(sources), Cond(context=painter.reads(targets))
    z_T = samplers.noise(samplers.keys_for(jax.random.key(1), 8), painter.shape)
    edit = edits(painter.words, sources, targets, **WINDOWS)
    args, blend = (painter.denoise, painter.schedule, levels, z_T, told, target, 3.0), blended(painter, edit, 1.0)
    run = lambda edit, **how: editing.redraw(*args, edit=edit, **how)
    cases = (lambda: run(None), lambda: run(edit), lambda: run(edit, sampler=blend, collect=editing.collect_maps()))
    plain, edited, all_of_it = (middle(case, 5) for case in cases)
    same = np.array_equal(run(None)[0], run(editing.no_edit(16, painter.words.length))[0])
    found.append(
        f"Prompt-to-prompt of 8 pairs takes {edited / plain:.2f} times plain sampling of those rows ({edited:.1f} s and "
        f"{plain:.1f} s), and {all_of_it / plain:.2f} times with local blend and maps of where words looked. An edit that "
        f"changes nothing leaves the same bits: {same}."
    )
    found += [
        "",
        "| seven more runs with other prompts, images, scales, windows ... | programs compiled |",
        "|---|---|",
    ]
    found += [f"| {how} | {recompiled(run)} |" for how, run in again(painter, levels, z_T, sources, targets).items()]

    examples, x = held_out("captioned:test", 2)
    z, told = painter.encode(x), painter.guided([one["caption"] for one in examples])
    path = jax.block_until_ready(editing.invert(painter.denoise, painter.schedule, levels, z, told.cond))
    seconds = []
    for i, scale in enumerate((7.5, 5.0)):
        start, own = time.perf_counter(), slice(i, i + 1)
        args = painter.denoise, painter.schedule, levels, path[:, own], rows_of(told, own), scale
        jax.block_until_ready(editing.null_text(*args))
        seconds.append(time.perf_counter() - start)
    found += [
        "",
        f"Null-text inversion of one held-out image in 50 steps: {seconds[0]:.1f} s with compiling, {seconds[1]:.1f} s of "
        f"another one.",
        "",
        *commands(examples[0]),
    ]
    return "\n".join(found) + "\n"


def blended(painter, edit, number):
    """Local blend of all words."""
    tokens = np.full([len(edit.source), painter.words.length], number)
    return editing.local_blend(samplers.ddim(), tokens, edit.source, size=8, threshold=number / 10)


def recompiled(run):
    """How many programs seven runs compile after a first one."""
    made = lambda: samplers.base._sample._cache_size() + searching._cache_size()
    jax.block_until_ready(run(2))
    before = made()
    for number in range(3, 10):
        jax.block_until_ready(run(number))
    return made() - before


def again(painter, levels, z_T, sources, targets):
    """Every method as a function of a number that changes all that a user could."""
    denoise, schedule, key = painter.denoise, painter.schedule, jax.random.key(0)
    read = lambda number: (sources, targets) if number % 2 else (targets, sources)

    def redraw(number, sampler=lambda edit: samplers.ddim(), nulls=False):
        old, new = read(number)
        make = editing.refine if number % 3 else editing.replace
        edit = edits(painter.words, old, new, make, cross=number / 10, own=(number / 20, 1.0))
        edit = edit._replace(scale=edit.scale * number)  # as re-weighting does
        how = {"nulls": editing.negative_prompt(levels, painter.guided(old))} if nulls else {}
        args = (
            denoise,
            schedule,
            levels,
            z_T * number,
            painter.guided(old),
            Cond(context=painter.reads(new)),
            float(number),
        )
        return editing.redraw(*args, edit=edit, sampler=sampler(edit), **how)[0]

    def direct(number):
        path = jnp.full([51, 16, *painter.shape], float(number))
        return redraw(number, lambda edit: editing.direct(samplers.ddim(), levels, path, edit.source == 0))

    def inpainted(number, from_level=1000):
        known = (np.arange(painter.shape[0]) < number)[:, None, None]
        sampler, guide = (
            editing.inpaint(samplers.ddim(), z_T * number, known, number),
            guidance.cfg(denoise, float(number)),
        )
        grid = np.linspace(from_level, 0, 11).round().astype(int)
        return editing.sdedit(key, sampler, guide, schedule, grid, z_T, painter.guided(read(number)[0]))

    def searched_for(number):
        told, few = painter.guided(read(number)[0]), levels[-6:]
        path = editing.invert(denoise, schedule, few, z_T * number, told.cond, number % 4)
        return editing.null_text(
            denoise, schedule, few, path, told, float(number), editing.published(5, number, number / 99)
        )

    def bridged(number):
        told = [Cond(context=painter.reads(of)) for of in read(number)]
        return editing.bridge(denoise, denoise, schedule, levels, z_T, *told, up=editing.ddim_inversion(number % 4))

    return {
        "prompt-to-prompt": redraw,
        "the same with nulls": lambda number: redraw(number, nulls=True),
        "with local blend": lambda number: redraw(number, lambda edit: blended(painter, edit, number)),
        "direct inversion": direct,
        "inversion and null-text": searched_for,
        "sdedit with inpainting": lambda number: inpainted(number, 100 * number),
        "bridge": bridged,
    }


def commands(example):
    """How long `jaxdiff edit` takes in a new process, with nothing compiled before."""
    new = next(name for i, name in enumerate(captioned.COLOURS) if i not in (example["colour"], example["background"]))
    source = described(example)
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(example["image"]).save(Path(folder) / "in.png")

        def seconds(*flags, cache):
            target = source.replace(list(captioned.COLOURS)[example["colour"]], new, 1)
            command = [sys.executable, "-m", "jaxdiff", "edit", "captioned", "--prompt", target, *flags, "--overwrite"]
            start, env = time.perf_counter(), os.environ | {"XDG_CACHE_HOME": str(Path(folder) / cache)}
            env.pop("JAX_COMPILATION_CACHE_DIR", None)
            subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
            return time.perf_counter() - start

        whole = ("--image", "in.png", "--source", source, "--save-inversion", "kept.safetensors", "--method")
        found = {how: seconds(*whole, how, cache=how) for how in ("direct", "negative-prompt", "null-text")}
        once_more = seconds("--from-inversion", "kept.safetensors", cache="null-text")
    says = ", ".join(f"`{how}` {took:.0f} s" for how, took in found.items())
    return [f"`jaxdiff edit` of one held-out image, a new process with nothing compiled before: {says}; another edit from "
            f"the inversion that was kept, {once_more:.0f} s."]  # fmt: skip


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
