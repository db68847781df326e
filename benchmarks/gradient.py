"""Guidance by a gradient that acts late against one that acts early, where both raise the objective by as much.

    python benchmarks/gradient.py            # prints the table; about two minutes on two cores
    python benchmarks/gradient.py --write    # writes it into docs/guidance.md, and docs/images/gradient.png

The shipped network draws digits of no label by DDIM in 20 steps, from the same noise every time. `guidance.by_gradient`
leads it up an objective of the predicted image, with strength s sqrt(alphabar) and s sqrt(1 - alphabar); s is searched for.
Level T itself is left out: alpha is 5e-5 there, and what a gradient adds to x0, a network's errors with it, is divided by
it.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from drawn import judge
from jax.tree_util import Partial
from pages import put

import jaxdiff
from jaxdiff import data, guidance, samplers, timesteps, xla
from jaxdiff.pipeline import images

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "guidance.md", ROOT / "docs" / "images" / "gradient.png"
BEGIN, END = "<!-- written by benchmarks/gradient.py -->\n", "<!-- end of the gradient -->\n"
STEPS, NUM, SHOWN = 20, 64, 14
LEVELS = timesteps.grid(1000, STEPS)
COARSE = 3  # cycles across the image, up to which a change counts as one of shape
WEIGHTS = {"late": guidance.late, "early": guidance.early}
SOON = 3  # the step, from 0, at which the table looks how much of the change is there


class Goal(NamedTuple):
    """Objective: ink under a mask [28, 28], the rise wanted, and the start of the search for each scale."""

    mask: np.ndarray
    rise: float
    first: dict[str, float]


class Drawn(NamedTuple):
    """Digits [NUM, 28, 28, 1], and what was predicted of them on the way [STEPS, NUM, 28, 28, 1]."""

    x: np.ndarray
    path: np.ndarray


def ink(mask, x0, t=None, cond=None):
    """Ink under a mask [28, 28], as a share of all pixels; x0 [B, 28, 28, 1] -> [B]."""
    return (0.5 * (x0[..., 0] + 1) * mask).mean((1, 2))


def predicted(state, prediction):
    """Record of a step."""
    return prediction.x0


def goals() -> dict[str, Goal]:
    """More ink anywhere, about half as much again; and ink where threes have it and digits in general do not."""
    source = data.load("digits")
    drawn, label = (np.stack([source[i][what] for i in range(len(source))]) for what in ("image", "label"))
    three = drawn[label == 3, ..., 0].mean(0) - drawn[..., 0].mean(0)
    return {
        "more ink": Goal(np.ones([28, 28]), 0.065, {"late": 210.0, "early": 58.0}),
        "towards a 3": Goal(three / np.abs(three).mean(), 0.18, {"late": 100.0, "early": 24.0}),
    }


def draw(model, mask=None, weight=None) -> Drawn:
    """Digits of no label, led up the ink under a mask with a weight t -> w."""
    net, schedule, denoise = model.config.net, model.schedule, jaxdiff.denoiser_of(model)
    if mask is not None:
        led = guidance.by_gradient(denoise, Partial(ink, jnp.asarray(mask, jnp.float32)), schedule, weight)
        denoise = guidance.within(led, denoise, 0, schedule.num_levels - 1)
    cond = jaxdiff.Cond(jnp.full(NUM, net.num_classes), jnp.zeros([NUM, net.vector_dim]))
    x_T = samplers.noise(samplers.keys_for(jax.random.key(0), NUM), (28, 28, 1))
    found = jaxdiff.sample(None, samplers.ddim(), denoise, schedule, LEVELS, x_T, cond, collect=predicted)
    return Drawn(*(np.clip(x, -1, 1) for x in found))


def matched(model, goal: Goal, when: str, plain: Drawn) -> tuple[float, Drawn]:
    """The scale at which the objective has risen by so much, to a twentieth of it, and what is drawn there."""
    schedule, low, high, scale = model.schedule, 0.0, np.inf, goal.first[when]
    for _ in range(12):
        drawn = draw(model, goal.mask, WEIGHTS[when](schedule, scale))
        gain = (ink(goal.mask, drawn.x) - ink(goal.mask, plain.x)).mean()
        if abs(gain / goal.rise - 1) < 0.05:
            return scale, drawn
        low, high = (scale, high) if gain < goal.rise else (low, scale)
        guess = scale * float(np.clip(goal.rise / max(gain, 1e-3 * goal.rise), 0.25, 4)) ** 0.9
        scale = guess if low < guess < high else (low + high) / 2
    raise RuntimeError(f"no scale of {when!r} raises the objective by {goal.rise}: choose a smaller rise")


def coarse(change) -> float:
    """The share of a change [B, 28, 28, 1], squared, that has at most so many cycles across the image."""
    power = np.square(np.abs(np.fft.fft2(change[..., 0]))).sum(0)
    cycles = 28 * np.hypot(*np.meshgrid(*[np.fft.fftfreq(28)] * 2))
    return float(power[cycles <= COARSE + 1e-6].sum() / power.sum())


def settled(plain: Drawn, drawn: Drawn) -> np.ndarray:
    """Share of the final change that the predictions hold after each step [STEPS]; 1 at the end."""
    change = drawn.path - plain.path
    return (change * change[-1:]).sum((1, 2, 3, 4)) / np.square(change[-1]).sum()


def read(by, x) -> tuple[np.ndarray, np.ndarray]:
    """Class and certainty of digits, by the judge."""
    _, p = jax.jit(by.of)(images.to_uint8(x))
    return np.asarray(p.argmax(1)), np.asarray(p.max(1))


def row(by, name: str, plain: Drawn, x, mask=None, path: Drawn | None = None) -> str:
    """One line of the table."""
    (before, _), (now, p) = read(by, plain.x), read(by, x)
    cells = [f"{(ink(mask, x) - ink(mask, plain.x)).mean():+.3f}" if mask is not None else "-"]
    change = x - plain.x
    cells += [f"{np.sqrt(np.square(change).mean()):.2f}", f"{coarse(change):.0%}"] if change.any() else ["-", "-"]
    cells += [f"{settled(plain, path)[SOON]:.0%}"] if path else ["-"]
    cells += [f"{(now != before).mean():.0%}" if change.any() else "-", f"{(p >= 0.9).mean():.0%}"]
    return f"| {name} | {' | '.join(cells)} |"


def table(by, plain: Drawn, wanted: dict[str, Goal], found: dict[tuple[str, str], tuple[float, Drawn]]) -> str:
    """The numbers as Markdown."""
    heads = ["", "rise of the objective", "rms change", "of it coarse", f"of it predicted at t = {LEVELS[SOON]}"]
    heads += ["read as another digit", "read with p >= 0.9"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", row(by, "unguided", plain, plain.x)]
    for (goal, when), (scale, drawn) in found.items():
        lines.append(row(by, f"{goal}, `{when}`, scale {scale:.2g}", plain, drawn.x, wanted[goal].mask, drawn))
    lines.append(row(by, "*other noise, for comparison*", plain, np.roll(plain.x, 1, axis=0)))
    return "\n".join(lines) + "\n"


def plot(plain: Drawn, found) -> None:
    """Digits with and without, and when the change comes."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(2.6, 1), layout="constrained")
    rows = {"unguided": plain} | {f"{goal}, {when}": drawn for (goal, when), (_, drawn) in found.items()}
    sheet = images.grid(images.to_uint8(np.concatenate([drawn.x[:SHOWN] for drawn in rows.values()])), SHOWN)
    axes[0].imshow(sheet[..., 0], cmap="gray")
    axes[0].set(xticks=[], yticks=16 + 30 * np.arange(len(rows)), yticklabels=rows)
    axes[0].tick_params(length=0)
    axes[0].spines[:].set_visible(False)
    for ((goal, when), (_, drawn)), style in zip(found.items(), ("C0-", "C1-", "C0--", "C1--")):
        axes[1].plot(LEVELS[:-1], settled(plain, drawn), style, label=f"{goal}, {when}")
    axes[1].set(xlim=(1000, 0), xlabel="level t", ylabel="share of the final change")
    axes[1].legend(frameon=False, fontsize=8)
    axes[1].grid(alpha=0.3)
    figure.savefig(PICTURE, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="digits")
    parser.add_argument("--write", action="store_true", help="write the table and the picture into docs/")
    args = parser.parse_args()
    xla.tune_cpu()
    model = jaxdiff.load(args.model)
    plain = draw(model)
    wanted = goals()
    found = {(name, when): matched(model, goal, when, plain) for name, goal in wanted.items() for when in WEIGHTS}
    written = table(judge(), plain, wanted, found)
    print(written)
    if args.write:
        put(PAGE, BEGIN, END, written)
        plot(plain, found)


if __name__ == "__main__":
    main()
