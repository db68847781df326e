"""Effects of LoRA, DreamBooth, textual inversion, Mix-of-Show and ControlNet on the text-to-image model that ships.

python benchmarks/personalisation.py --runs runs            # trains what is not in runs/ yet: three quarters of an hour
python benchmarks/personalisation.py --runs runs --write    # and writes the tables and pictures of docs/personalisation.md
python benchmarks/personalisation.py --runs runs --only control
"""

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import glyphs
import jax
import numpy as np
from pages import run_sections

import jaxdiff
from jaxdiff import Cond, data, editing, guidance, samplers
from jaxdiff import config as configs
from jaxdiff import model as models
from jaxdiff.data.control_inputs import CONTROL_INPUTS, mask
from jaxdiff.data.sources import captioned
from jaxdiff.model import adaptation
from jaxdiff.model.frozen_models import open_models
from jaxdiff.pipeline import ControlInput, fuse, images
from jaxdiff.train import base_model, initial, parallel, setup

DOCS = Path(__file__).parents[1] / "docs"
CONCEPTS = ("star", "heart", "house")
NUM = 200  # images of each kind that is asked for
BATCH = 50


def trained(args, name, config, *flags):
    """A run of `jaxdiff train`, made if it is not there; its directory, its command, and the seconds it took."""
    run = args.runs / name
    command = ["train", config, "--run-dir", str(run), *flags]
    if not (run / "seconds.json").exists():
        start = time.perf_counter()
        env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(args.runs / "nothing_compiled_yet" / name)}
        subprocess.run([sys.executable, "-m", "jaxdiff", *command], check=True, env=env)
        (run / "seconds.json").write_text(json.dumps(time.perf_counter() - start))
    return run, json.loads((run / "seconds.json").read_text())


def lora_of(args, concept):
    """The LoRA of a glyph, from twenty images of it."""
    folder = glyphs.write(args.runs / "glyphs" / concept, concept)
    word = ["--adapt.new.tokens", f"<{concept}>"]
    asked = ["--sample.prompts", *(prompt.replace("<star>", f"<{concept}>") for prompt in PROMPTS)]
    return trained(args, f"lora_{concept}", "captioned_lora", "--data.source", f"folder:{folder}", *word, *asked)


PROMPTS = configs.load("captioned_lora").sample.prompts


def drawn(model, texts, control=None):
    """One image of each text, by 50 steps of DDIM."""
    return jaxdiff.generate(model, texts, guidance=3.0, steps=50, batch_size=BATCH, seed=5, control=control)


class Measured:
    """Share of the attributes asked for that the judge finds in sampled images."""

    def __init__(self, args):
        self.judge = glyphs.judge(tuple(glyphs.KINDS), args.runs)

    def glyph(self, model, concept, word=None):
        """Shares of images of a glyph that are recognised, and that have both colours; and the images."""
        texts, said = captioned.prompts(NUM, 10, [word or f"<{concept}>"])
        x = drawn(model, texts)
        number = 10 + list(glyphs.KINDS).index(concept)
        return float((glyphs.recognised(self.judge, x) == number).mean()), right_colours(x, said[:, 1:3]), x

    def digits(self, model):
        """The same of digits."""
        texts, said = captioned.prompts(NUM, 11)
        x = drawn(model, texts)
        return float((glyphs.recognised(self.judge, x) == said[:, 0]).mean()), right_colours(x, said[:, 1:3]), x


def right_colours(x, said):
    ink, ground = glyphs.colours_of(x)
    return float(((ink == said[:, 0]) & (ground == said[:, 1])).mean())


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def lora(args):
    """A glyph from twenty images, by a LoRA."""
    base, measured = models.load("captioned"), Measured(args)
    about = glyphs.accuracy(measured.judge)
    run, seconds = lora_of(args, "star")
    adapter = models.load_adapter(run)
    model = models.with_adapter(base, adapter)
    size = (run / "adapter.safetensors").stat().st_size / 1e3
    count = size_of([one.factors for one in adapter.loras.values()]) + size_of(adapter.new_tokens)
    before, after = measured.digits(base), measured.digits(model)
    (plain, *_), (rate, colours, x) = measured.glyph(base, "star"), measured.glyph(model, "star")
    if args.write:
        images.save_grid(DOCS / "images" / "personalisation_lora.png", x[:32], 16)
    return (
        f"The judge reads {about['digits']:.1%} of held-out digits right, and of new drawings of each glyph at least "
        f"{min(about[name] for name in glyphs.KINDS):.1%}.\n\n"
        "| | stars recognised | their colours | digits recognised | their colours |\n|---|---|---|---|---|\n"
        f"| base | {plain:.1%} | | {before[0]:.1%} | {before[1]:.1%} |\n"
        f"| with the LoRA | {rate:.1%} | {colours:.1%} | {after[0]:.1%} | {after[1]:.1%} |\n\n"
        f"{count:,} numbers are trained, {count / size_of(base.params):.2%} of the base's {size_of(base.params):,}, in a "
        f"file of {size:.0f} kB. Training took {seconds / 60:.1f} minutes, with "
        "compiling everything, and with drawing and encoding the images of the class.\n"
    )


def moved(model, base):
    """Relative change of the weights, |W' - W| / |W| over all of the network."""
    change = jax.tree.map(lambda a, b: np.square(np.asarray(a, np.float64) - b).sum(), model.params, base.params)
    whole = jax.tree.map(lambda b: np.square(np.asarray(b, np.float64)).sum(), base.params)
    return float(np.sqrt(sum(jax.tree.leaves(change)) / sum(jax.tree.leaves(whole))))


def dreambooth(args):
    """All weights, with and without prior preservation, beside a LoRA and a new word."""
    base, measured, lines, pictures = models.load("captioned"), Measured(args), [], []
    star, sks = (
        ["--data.source", f"folder:{glyphs.write(args.runs / 'glyphs' / word.strip('<>'), 'star', word=word)}"]
        for word in ("<star>", "sks")
    )
    runs = {
        "DreamBooth": trained(args, "dreambooth", "captioned_dreambooth", *sks),
        "DreamBooth without prior preservation": trained(
            args, "no_prior", "captioned_dreambooth", *sks, "--adapt.prior.prompts"
        ),
        "LoRA": lora_of(args, "star"),
        "textual inversion": trained(args, "inversion", "captioned_textual_inversion", *star),
    }
    rows = {"base": base} | {name: models.load(str(run)) for name, (run, _) in runs.items()}
    for name, model in rows.items():
        word = "sks" if name.startswith("DreamBooth") else "<star>"

        (star, colours, x), (digit, digit_colours, y) = measured.glyph(model, "star", word), measured.digits(model)
        lines.append(
            f"| {name} | {star:.1%} | {colours:.1%} | {digit:.1%} | {digit_colours:.1%} | {moved(model, base):.3f} |"
        )
        pictures += [x[:8], y[:8]]
        print(lines[-1], flush=True)
    if args.write:
        images.save_grid(DOCS / "images" / "personalisation_dreambooth.png", np.concatenate(pictures), 16)
    head = "| | stars recognised | their colours | digits recognised | their colours | change of the weights |"
    return "\n".join([head, "|---|---|---|---|---|---|", *lines]) + "\n"


def mixed(args):
    """Three glyphs in one set of weights."""
    base, measured = models.load("captioned"), Measured(args)
    adapters = {name: models.load_adapter(lora_of(args, name)[0]) for name in CONCEPTS}
    make = lambda method: models.with_adapter(base, fuse.fused(base, [*adapters.values()], method))
    fused = {
        "gradient fusion": make("gradient"),
        "gradient fusion, of layers alone": make(fuse.FUSIONS["gradient"](steps=0)),
        "average of the weights": make("average"),
        "sum of all three": functools.reduce(models.with_adapter, adapters.values(), base),
    }
    own = {name: measured.glyph(models.with_adapter(base, one), name)[0] for name, one in adapters.items()}
    lines = ["| | " + " | ".join(CONCEPTS) + " | digits |", "|---|" + "---|" * (len(CONCEPTS) + 1)]
    lines.append("| each LoRA alone | " + " | ".join(f"{own[name]:.1%}" for name in CONCEPTS) + " | |")
    rows = []
    for name, model in fused.items():
        found = {concept: measured.glyph(model, concept) for concept in CONCEPTS}
        said = [f"{rate:.1%} ({rate / own[concept]:.0%})" for concept, (rate, *_) in found.items()]
        lines.append(f"| {name} | " + " | ".join(said) + f" | {measured.digits(model)[0]:.1%} |")
        rows += [x[:5] for *_, x in found.values()]
        print(lines[-1], flush=True)
    if args.write:
        images.save_grid(DOCS / "images" / "personalisation_mixed.png", np.concatenate(rows), 15)
    return "\n".join(lines) + "\n"


def regions(args):
    """A star on the left and a heart on the right, each of whose halves is judged with the other one wiped out."""
    base, judge = models.load("captioned"), Measured(args).judge
    glyphs_of = [models.load_adapter(lora_of(args, name)[0]) for name in CONCEPTS]
    model = models.with_adapter(base, fuse.fused(base, glyphs_of))
    height, width = model.shape[:2]
    sides = np.repeat(np.eye(2)[:, None], height, 1).repeat(width // 2, 2)
    asked = {
        "large": ["a large red <star> on white", "a large blue <heart> on white"],
        "small, and in corners": [
            "a small red <star> on white, top left",
            "a small blue <heart> on white, bottom right",
        ],
    }
    lines = ["| asked for | by | star on the left | heart on the right | both |", "|---|---|---|---|---|"]
    for size, prompts in asked.items():
        for name, draws in {"editing.regional_cond": attended, "guidance.multidiffusion": predicted}.items():
            x = np.concatenate([draws(model, prompts, sides, seed) for seed in range(NUM // BATCH)])
            there = [half_shows(judge, x, half, concept) for half, concept in enumerate(CONCEPTS[:2])]
            said = " | ".join(f"{each.mean():.1%}" for each in (*there, there[0] & there[1]))
            lines.append(f"| {size} | `{name}` | {said} |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def attended(model, prompts, sides, seed):
    """Images of regions whose pixels attend to their own prompts, the first prompt being no text."""
    net = dataclasses.replace(model.config.net, context_length=0)  # any length
    any_length = model.replace(config=dataclasses.replace(model.config, net=net))
    cond = editing.regional_cond(model.text_encoder(["", *prompts]), model.text_encoder([""])[0], sides, num=BATCH)
    return guided(model, jaxdiff.denoiser_of(any_length), cond, seed)


def predicted(model, prompts, sides, seed):
    """Images of regions of which each is what is predicted for its prompt."""
    conds = tuple(jaxdiff.condition(model, prompts=prompt, num=BATCH) for prompt in prompts)
    around = lambda denoise: guidance.multidiffusion(denoise, sides)
    return guided(model, jaxdiff.denoiser_of(model), conds, seed, around)


def guided(model, denoise, cond, seed, around=lambda denoise: denoise):
    """A batch of images at guidance 3, by 50 steps of DDIM."""
    x_T = samplers.noise(samplers.keys_for(jax.random.key(seed), BATCH), model.shape)
    denoise = around(guidance.cfg(denoise, np.float32(3.0)))
    x_0, _ = samplers.sample(None, samplers.ddim(), denoise, model.schedule, model.levels(50), x_T, cond)
    return images.to_uint8(jaxdiff.decode(model, x_0))


def half_shows(judge, x, half, concept):
    """Whether the judge finds a glyph in the left half (0) of images, or in the right one (1), bool [N]."""
    wiped = x.copy()
    wiped[:, :, slice(16) if half else slice(16, None)] = captioned.COLOURS["white"]
    drawn_there = np.stack([mask(one).any() for one in wiped])
    return drawn_there & (glyphs.recognised(judge, wiped) == 10 + list(glyphs.KINDS).index(concept))


def overlap(one, other):
    """Intersection over union of masks, [N]."""
    one, other = one[..., 0] > 0, other[..., 0] > 0
    return (one & other).sum((1, 2)) / np.maximum((one | other).sum((1, 2)), 1)


def control(args):
    """Whether what is drawn follows a condition of a held-out image, in other colours than that one's."""
    run, seconds = trained(args, "control", "captioned_controlnet")
    model, source = models.load(str(run)), data.load("captioned:test")
    rng = np.random.default_rng(0)
    examples = [source[int(i)] for i in rng.permutation(len(source))[:NUM]]
    said = np.stack([rng.permutation(len(captioned.COLOURS))[:2] for _ in examples])
    names = list(captioned.COLOURS)
    texts = [
        f"a {names[ink]} {captioned.DIGIT_NAMES[one['label']]} on a {names[ground]} background"
        for one, (ink, ground) in zip(examples, said)
    ]
    real = np.stack([one["image"] for one in examples])
    told = np.stack([CONTROL_INPUTS.functions[model.controls[0].condition](x) for x in real])
    masks = lambda x: np.stack([mask(one) for one in x])
    others = rng.permutation(NUM)
    lines = [
        "| | overlap of the masks: mean, worst 5% | both colours | digit |",
        "|---|---|---|---|",
    ]
    judge = Measured(args).judge

    def line(name, x, wanted):
        found = overlap(masks(x), wanted)
        digit = float((glyphs.recognised(judge, x) == [one["label"] for one in examples]).mean())
        lines.append(
            f"| {name} | {found.mean():.3f}, {np.percentile(found, 5):.3f} | {right_colours(x, said):.1%} | {digit:.1%} |"
        )
        print(lines[-1], flush=True)

    x = drawn(model, texts, ControlInput((told,)))
    line("with its condition", x, masks(real))
    line("scale 0.5", drawn(model, texts, ControlInput((told,), (0.5,))), masks(real))
    line("the same, beside another's condition (chance)", x, masks(real)[others])
    line("with another's condition", drawn(model, texts, ControlInput((told[others],))), masks(real))
    line("without ControlNet", drawn(model.replace(controls=()), texts), masks(real))
    if args.write:
        shown = [part for i in range(8) for part in (real[i], told[i], x[i])]
        images.save_grid(DOCS / "images" / "personalisation_control.png", np.stack(shown), 12)
    return "\n".join(lines) + f"\n\nTraining took {seconds / 60:.0f} minutes.\n"


WAYS = {  # of one batch size, so that their steps can be compared
    "all weights (DreamBooth)": ("captioned_dreambooth", {}),
    "LoRA": ("captioned_lora", {"new": configs.NewTokens()}),
    "LoRA and a new word": ("captioned_lora", {}),
    "a new word": ("captioned_textual_inversion", {}),
    "ControlNet": ("captioned_controlnet", {}),
}


def cost(args):
    """Memory and time of a training step of each, 32 examples, in one run."""
    base, programs, seconds, rows = models.load("captioned"), {}, {}, {}
    for name, (config, changes) in WAYS.items():
        config = configs.load(config)
        prior = {"prior": configs.Prior()} if config.adapt.prior.wanted else {}
        adapt = dataclasses.replace(config.adapt, **prior, **changes)
        train = dataclasses.replace(config.train, batch_size=32 * jax.device_count(), steps_per_call=1)
        config = base_model.with_base(dataclasses.replace(config, adapt=adapt, train=train), base.config)
        source = data.load("captioned:test")
        parts = open_models(config, source, None, base)
        state = initial.new_state(config, base)
        batch = _batch(config)
        arguments = (
            parallel.replicate(state),
            initial.step_key(config),
            parallel.split(batch, axis=1),
            parallel.replicate(adaptation.frozen_params(config, base)),
        )
        step = setup.make_step(config, parts)
        memory = step.lower(*arguments).compile().memory_analysis()
        rows[name] = (
            size_of(state.params),
            sum(x.nbytes for x in jax.tree.leaves(state.opt_state)),
            memory.temp_size_in_bytes,
        )
        programs[name], seconds[name] = [step, arguments], []
    for turn in range(6):
        for name, (step, arguments) in programs.items():
            start = time.perf_counter()
            state, _ = jax.block_until_ready(step(*arguments))
            programs[name][1] = (state, *arguments[1:])
            seconds[name] += [time.perf_counter() - start] if turn else []
    lines = [
        "| | trained numbers | state of the optimizer | peak of temporaries | ms a step |",
        "|---|---|---|---|---|",
    ]
    for name, (count, state, temporaries) in rows.items():
        took = 1e3 * float(np.median(seconds[name]))
        lines.append(f"| {name} | {count:,} | {state / 2**20:.2f} MiB | {temporaries / 2**20:.0f} MiB | {took:.0f} |")
    return "\n".join(lines) + "\n"


def _batch(config):
    B, rng = config.train.batch_size, np.random.default_rng(0)
    context = np.full([1, B, config.net.context_length], 513, np.int32)
    if not config.adapt.trains_text_encoder:
        context = rng.standard_normal((*context.shape, config.net.context_dim)).astype(np.float32)
    image = lambda: rng.integers(0, 256, (1, B, *config.data.image_shape), np.uint8)
    picture = image() if config.adapt.kind == "controlnet" else None
    return {
        "image": rng.standard_normal((1, B, *config.shape)).astype(np.float32),
        "index": np.arange(B, dtype=np.uint32)[None],
        "cond": Cond(context=context, control=picture),
    }


SECTIONS = {
    "lora": lora,
    "dreambooth": dreambooth,
    "mixed": mixed,
    "regions": regions,
    "control": control,
    "cost": cost,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where trained runs are, or go to")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="of the tables only this one")
    parser.add_argument("--write", action="store_true", help="write the tables and the pictures into docs/")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    run_sections(SECTIONS, args, DOCS / "personalisation.md", "personalisation.py")


if __name__ == "__main__":
    main()
