"""Writes solvers.npz beside it: whole runs of diffusers' solvers, for the tests of the samplers.

    pip install -e ".[peers]"
    python tests/golden/make_samplers.py

Levels in the file are jaxdiff's: level = published timestep + 1, and level 0 is clean data. Each case holds the levels, x
at each of them, the first being where the run begins, and the noise of every step, if any. The network is a nonlinear toy.

Everything is computed by diffusers' own code and on its own grids, with two interventions:

* Its tables are float32, in which 1 - alphas_cumprod has three digits at the first timesteps. Before a grid is set, the
  cumulative product is taken again in float64, from its own betas.
* Noise of schedulers that take a generator, and not the noise itself, is drawn once more from the same seed for the file.

Grids are those whose levels are whole numbers ("trailing" down to level 0, "leading" with offset 1 down to level 1); a
stride that does not divide 1000 is left to the schedulers that look up their next timestep, for PNDM computes it as
1000 // steps. Runs that end at level 1 switch off `lower_order_final`, which would end them with first-order steps though
no limit is met there; so UniPC's third order, of which diffusers lowers the last two steps, is compared on such a run, and
so is its "bh1", which ends in NaN at level 0 in diffusers.
Schedulers whose sample is x / alpha are given and read through alpha = 1 / sqrt(1 + sigma^2).
"""

import pathlib

import diffusers
import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

HERE = pathlib.Path(__file__).parent
RNG = np.random.default_rng(1)
T = 1000
SHAPE = (4, 3)
TRAILING = {"timestep_spacing": "trailing"}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
TO_LEVEL_1 = {"final_sigmas_type": "sigma_min", "lower_order_final": False} | TRAILING
SDE = {"algorithm_type": "sde-dpmsolver++"}
CASES = {
    # name: scheduler, its options, steps, last level
    "heun": (HeunDiscreteScheduler, TRAILING, 10, 0),
    "dpmpp_2m": (DPMSolverMultistepScheduler, TRAILING, 10, 0),
    "dpmpp_2m/to 1": (DPMSolverMultistepScheduler, TO_LEVEL_1, 16, 1),
    "dpmpp_2m/sde": (DPMSolverMultistepScheduler, TRAILING | SDE, 10, 0),
    "dpmpp_2m/sde to 1": (DPMSolverMultistepScheduler, TO_LEVEL_1 | SDE, 16, 1),
    "unipc/bh1 to 1": (UniPCMultistepScheduler, TO_LEVEL_1 | {"solver_type": "bh1"}, 16, 1),
    "unipc/bh2": (UniPCMultistepScheduler, TRAILING, 10, 0),
    "unipc/bh2 to 1": (UniPCMultistepScheduler, TO_LEVEL_1, 16, 1),
    "unipc/order 1": (UniPCMultistepScheduler, TRAILING | {"solver_order": 1}, 10, 0),
    "unipc/order 3": (UniPCMultistepScheduler, TO_LEVEL_1 | {"solver_order": 3}, 16, 1),
    "pndm": (PNDMScheduler, TRAILING | {"skip_prk_steps": True, "set_alpha_to_one": True}, 10, 0),
    "pndm/to 1": (PNDMScheduler, LEADING | {"skip_prk_steps": True}, 10, 1),
    "euler_ancestral": (EulerAncestralDiscreteScheduler, TRAILING, 10, 0),
    "lcm": (LCMScheduler, {}, 4, 0),
    "lcm/10": (LCMScheduler, {}, 10, 0),
}
OVER_ALPHA = (HeunDiscreteScheduler, EulerAncestralDiscreteScheduler)
DRAWING = (EulerAncestralDiscreteScheduler, LCMScheduler)


def toy(x, level):
    """A nonlinear guess of eps."""
    return torch.tanh(0.8 * x) + 0.3 * np.sin(6.0 * level / T)


def normal(*shape):
    """Random numbers that float32 holds exactly."""
    return torch.from_numpy(RNG.standard_normal(shape).astype(np.float32).astype(np.float64))


def make(kind, options):
    """A scheduler of Stable Diffusion's betas whose cumulative product is in float64."""
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = kind(num_train_timesteps=T, **betas, **options)
    scheduler.alphas_cumprod = torch.cumprod(1.0 - scheduler.betas.double(), 0)
    if kind is PNDMScheduler and not scheduler.config.set_alpha_to_one:
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    return scheduler


def run(kind, options, steps, end):
    """Levels, x at each, and the noise of every step."""
    scheduler = make(kind, options)
    scheduler.set_timesteps(steps)
    # A level that comes twice is a step of two evaluations, Heun's or the first of PNDM; the second one's x is kept.
    levels = [*(int(timestep) + 1 for timestep in scheduler.timesteps), end]
    x, noises = normal(*SHAPE), []
    xs = {levels[0]: x}
    for i, timestep in enumerate(scheduler.timesteps):
        before, after = (over_alpha(scheduler, j) for j in (i, i + 1))
        given, noise = draw(kind, options, i)
        scheduler.is_scale_input_called = True
        now = timestep if kind in OVER_ALPHA else int(timestep)
        x = scheduler.step(toy(x, levels[i]), now, x * before, **given).prev_sample / after
        xs[levels[i + 1]] = x
        noises.append(noise)
    columns = {"levels": np.array(list(xs), np.int32), "x": torch.stack(list(xs.values())).numpy()}
    return columns if None in noises else columns | {"noise": torch.stack(noises).numpy()}


def over_alpha(scheduler, i):
    """What the scheduler's sample is over x_t, before its call i."""
    return float(1 + scheduler.sigmas[i].double() ** 2) ** 0.5 if isinstance(scheduler, OVER_ALPHA) else 1.0


def draw(kind, options, i):
    """What call i is given to draw noise from, and this noise."""
    if kind in DRAWING:
        generator = torch.Generator().manual_seed(i)
        return {"generator": generator}, torch.randn(
            SHAPE, generator=torch.Generator().manual_seed(i), dtype=torch.float64
        )
    if "sde" in options.get("algorithm_type", ""):
        noise = normal(*SHAPE)
        return {"variance_noise": noise}, noise
    return {}, None


def main():
    """Writes the file."""
    table = {"versions": np.array([f"diffusers {diffusers.__version__}", f"torch {torch.__version__}"])}
    for name, case in CASES.items():
        table |= {f"{name}:{column}": value for column, value in run(*case).items()}
    np.savez_compressed(HERE / "solvers.npz", **table)


if __name__ == "__main__":
    main()
