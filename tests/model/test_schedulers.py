"""Schedulers of diffusers: each scheduler's own file gives the x_0 that diffusers arrives at."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff
from jaxdiff import samplers
from jaxdiff.denoise import denoiser, on_training_levels
from jaxdiff.model.interop import schedulers
from jaxdiff.types import Aux

with np.load(Path(__file__).parents[1] / "golden" / "schedulers.npz") as file:
    GOLDEN = dict(file)
CONFIGS, STEPS = json.loads(str(GOLDEN["configs"])), int(GOLDEN["steps"])


def network(params, x, t, cond=None, keys=None):
    """The formula of tests/golden/make_schedulers.py, whose time is one less than the level."""
    return 0.7 * x + 0.4 * jnp.sin(2 * x + ((jnp.asarray(t, jnp.float32) - 1) / 150).reshape(-1, 1)), Aux()


ROUNDED = on_training_levels(network)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_scheduler_s_file_is_its_sampler_spacing_and_schedule(name):
    made = schedulers.process(CONFIGS[name])
    schedule = made.diffusion.make_schedule()
    levels = made.spacing(schedule, STEPS)
    apply = ROUNDED if made.compat.round_levels else network
    denoise = denoiser(apply, (), schedule, made.diffusion.predict)
    scale = schedule(levels[0]).sigma if made.compat.scale_noise else 1.0
    keys, x_T = samplers.keys_for(jax.random.key(0), len(GOLDEN["x_T"])), scale * GOLDEN["x_T"]
    x, _ = jaxdiff.sample(keys, made.sampler(), denoise, schedule, levels, x_T)
    difference = np.abs(x - GOLDEN[name]).max() / np.abs(GOLDEN[name]).max()
    assert difference < 1e-4, difference


def test_the_table_of_agreement_has_all_that_is_compared():
    """The table of docs/pretrained.md, by benchmarks/agreement.py: every pipeline and scheduler, within bounds."""
    root = Path(__file__).parents[2]
    page = (root / "docs" / "pretrained.md").read_text()
    table = page.partition("<!-- agreement -->")[2].partition("<!-- end of agreement -->")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if re.search(r"\de-", line)
    ]
    pipelines = {path.name.replace("_", " ") for path in (root / "tests" / "golden" / "pipelines").iterdir()}
    classes = {f"`{name.rpartition(' ')[0]}`" for name in CONFIGS}
    assert {name.partition(",")[0] for name, *_ in rows} == pipelines | classes
    assert all(float(number) <= 1e-5 for _, *numbers in rows for number in numbers)
