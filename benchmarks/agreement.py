"""Agreement of published pipelines with diffusers, as the table in docs/pretrained.md.

    python benchmarks/agreement.py [--write]

Each row is the largest difference from what diffusers computes with the same weights, noise and texts, divided by the
largest value of that: of the small pipelines in tests/golden/pipelines, and of its schedulers with a formula in place of a
network (tests/golden/schedulers.npz). Both are written by scripts beside them. `--write` puts the table into the page.
"""

import argparse
import json
import math
import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
GOLDEN, PAGE = ROOT / "tests" / "golden", ROOT / "docs" / "pretrained.md"
PROMPT, NEGATIVE, STEPS, GUIDANCE = "a red seven on blue", "a small one", 6, 7.5  # of tests/golden/make_pipelines.py
MARKS = "<!-- agreement -->", "<!-- end of agreement -->"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    table = "\n".join(rows())
    print(table)
    if parser.parse_args().write:
        page = PAGE.read_text()
        start, end = (page.index(mark) for mark in MARKS)
        PAGE.write_text(f"{page[:start]}{MARKS[0]}\n\n{table}\n\n{page[end:]}")


def rows():
    """Lines of the table."""
    yield "| | text encoders | latents | image |"
    yield "|---|---|---|---|"
    for folder in sorted((GOLDEN / "pipelines").iterdir()):
        name, numbers = pipeline(folder)
        yield f"| {name} | {' | '.join(map(rounded, numbers))} |"
    yield ""
    yield "| scheduler | x_0 after 7 steps, largest of its cases |"
    yield "|---|---|"
    for name, number in schedulers().items():
        yield f"| `{name}` | {rounded(number)} |"


def rounded(number: float) -> str:
    """A number rounded up to one digit."""
    exponent = math.floor(math.log10(number))
    digit = math.ceil(number / 10**exponent)
    return f"1e{exponent + 1}" if digit == 10 else f"{digit}e{exponent}"


def largest(found, wanted):
    """Largest difference, divided by the largest value."""
    import numpy as np

    return float(np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max())


def pipeline(folder):
    """Name and differences of a pipeline: of its contexts, latents and image."""
    import jax
    import numpy as np

    import jaxdiff
    from jaxdiff.pipeline import conditions
    from jaxdiff.types import Guided

    with np.load(folder / "drawn.npz") as file:
        drawn = {name: x.transpose(0, 2, 3, 1) if x.ndim == 4 else x for name, x in dict(file).items()}
    model = jaxdiff.load(folder)
    sample, negative = model.config.sample, "" if "vector" in drawn else NEGATIVE
    scale = {"guidance": GUIDANCE} if model.config.net.guidance_dim else {}
    cond = jaxdiff.condition(model, prompts=[PROMPT], negative=negative, **scale)
    if "mask" in drawn:
        picture = conditions.masked_picture(model, 255 * drawn["picture"][0], drawn["mask"][0] < 0.5)
        cond = Guided(*(one._replace(image=picture) for one in cond))
    denoise = jaxdiff.denoiser_of(model)
    distilled = model.config.net.guidance_dim
    denoise = jaxdiff.guidance.on_cond(denoise) if distilled else jaxdiff.guidance.cfg(denoise, GUIDANCE)
    levels = model.levels(STEPS, sample.spacing)
    arguments = sample.sampler(), denoise, model.schedule, levels, drawn["noise"], cond
    z, _ = jaxdiff.sample(jax.random.key(0), *arguments)
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
    name = f"{folder.name.replace('_', ' ')}, {scheduler.removesuffix('Scheduler')}, {model.config.diffusion.predict}"
    found = jaxdiff.decode(model, drawn["latents"])
    read = model.text_encoder.read([PROMPT])
    return name, (largest(read.tokens, drawn["context"]), largest(z, drawn["latents"]), largest(found, drawn["image"]))


def schedulers():
    """Largest difference of each class of schedulers."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxdiff
    from jaxdiff import samplers
    from jaxdiff.denoise import denoiser, on_training_levels
    from jaxdiff.model.interop import schedulers
    from jaxdiff.types import Aux

    with np.load(GOLDEN / "schedulers.npz") as file:
        golden = dict(file)

    def formula(params, x, t, cond=None, keys=None):
        return 0.7 * x + 0.4 * jnp.sin(2 * x + ((jnp.asarray(t, jnp.float32) - 1) / 150).reshape(-1, 1)), Aux()

    worst = {}
    for name, config in json.loads(str(golden["configs"])).items():
        made = schedulers.process(config)
        schedule = made.diffusion.make_schedule()
        levels = made.spacing(schedule, int(golden["steps"]))
        apply = on_training_levels(formula) if made.compat.round_levels else formula
        denoise = denoiser(apply, (), schedule, made.diffusion.predict)
        scale = schedule(levels[0]).sigma if made.compat.scale_noise else 1.0
        keys = samplers.keys_for(jax.random.key(0), len(golden["x_T"]))
        x, _ = jaxdiff.sample(keys, made.sampler(), denoise, schedule, levels, scale * golden["x_T"])
        kind = re.sub(r" \d+$", "", name)
        worst[kind] = max(worst.get(kind, 0.0), largest(x, golden[name]))
    return worst


if __name__ == "__main__":
    main()
