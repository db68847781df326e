"""Writes the .npz files beside it: what diffusers computes, for the tests of the mathematics and the samplers.

    pip install -e ".[peers]"
    python tests/golden/make_math.py

Names and levels in the files are jaxdiff's: level = published timestep + 1, and level 0 is clean data.

Everything is computed by diffusers' own code, with three interventions:

* Its tables are float32, in which 1 - alphas_cumprod has three digits at the first timesteps. Before stepping, the
  cumulative product is taken again in float64, from its own betas.
* Its DDIM always steps by num_train_timesteps // num_inference_steps, which is not its own grid for every spacing. For a
  step t -> s these two numbers, which `step` uses for nothing else, are set to t - s and 1. Whole DDIM trajectories are
  left alone and taken only from grids where the stride is the grid's.
* Its DDPM is given single steps by `set_timesteps(timesteps=...)`. Its noise comes from a seeded generator and is drawn
  once more from the same seed for the file.

Left out: steps from far above timestep 0 into clean data with fixed-large or learned variance, where diffusers adds noise
and jaxdiff by design adds none; and eps-predictions across a step whose signal grows more than 30 times, which float32
cannot hold to 1e-5 in any implementation.
"""

import pathlib

import diffusers
import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

HERE = pathlib.Path(__file__).parent
SCHEDULES = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
KINDS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
VARIANCES = {"posterior": "fixed_small", "beta": "fixed_large", "learned": "learned_range"}
SPACINGS = ("leading", "trailing", "linspace")
STEP_SCHEDULES = [("linear", 1000), ("linear", 400), ("scaled_linear", 1000), ("cosine", 1000), ("cosine", 400)]
RNG = np.random.default_rng(0)


def make(kind, schedule, T, **options):
    """A scheduler whose cumulative product is in float64."""
    scheduler = kind(num_train_timesteps=T, clip_sample=False, **SCHEDULES[schedule], **options)
    scheduler.alphas_cumprod = torch.cumprod(1.0 - scheduler.betas.double(), 0)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    if kind is DDIMScheduler:
        to_one = options.get("set_alpha_to_one", True)
        scheduler.final_alpha_cumprod = scheduler.one if to_one else scheduler.alphas_cumprod[0]
    return scheduler


def normal(*shape):
    """Random numbers that float32 holds exactly."""
    return RNG.standard_normal(shape).astype(np.float32)


def tensor(x):
    return torch.from_numpy(np.asarray(x, np.float64))


def published_grid(T, N, spacing, offset=0):
    scheduler = DDIMScheduler(num_train_timesteps=T, timestep_spacing=spacing, steps_offset=offset)
    scheduler.set_timesteps(N)
    return scheduler.timesteps.numpy()


def pairs(T):
    """Levels (t, s) to step between: neighbours, and every spacing's grids down to clean data."""
    chosen = {(t, t - 1) for t in (1, 2, 3, T // 2, T - 1, T)}
    for spacing in SPACINGS:
        levels = [*(published_grid(T, 7, spacing) + 1), 0]
        chosen |= set(zip(map(int, levels[:-1:2]), map(int, levels[1::2])))
    return sorted(chosen)


def alpha_bar(scheduler, level):
    return float(scheduler.alphas_cumprod[level - 1]) if level else 1.0


def near_truth(kind, a, x0, e, n):
    """What a network that is nearly right would output, so that x0 and eps stay of order one."""
    alpha, sigma = a**0.5, (1 - a) ** 0.5
    outputs = {"eps": e + 0.2 * alpha * n, "x0": x0 + 0.2 * sigma * n, "v": alpha * e - sigma * x0 + 0.2 * n}
    return outputs[kind].astype(np.float32)


def steps(variants, step):
    """Rows of one-step cases; `step` gives x_s, or None to leave a case out."""
    rows = []
    for schedule, T in STEP_SCHEDULES:
        tables = make(DDPMScheduler, schedule, T)
        for kind in KINDS:
            for variant in variants:
                for t, s in pairs(T):
                    a_t, a_s = alpha_bar(tables, t), alpha_bar(tables, s)
                    if kind == "eps" and a_s > 900 * a_t:
                        continue
                    x0, e, n, noise = (normal(3) for _ in range(4))
                    x_t = (a_t**0.5 * x0 + (1 - a_t) ** 0.5 * e).astype(np.float32)
                    output, raw = near_truth(kind, a_t, x0, e, n), np.tanh(normal(3))
                    row = dict(schedule=schedule, T=T, kind=kind, variant=variant, t=t, s=s)
                    row |= dict(x_t=x_t, output=output, raw=raw, noise=noise)
                    x_s = step(row)
                    if x_s is not None:
                        rows.append(row | {"x_s": x_s})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def ddim_step(row):
    scheduler = make(DDIMScheduler, row["schedule"], row["T"], prediction_type=KINDS[row["kind"]])
    scheduler.register_to_config(num_train_timesteps=row["t"] - row["s"])
    scheduler.num_inference_steps = 1
    output, x_t, noise = (tensor(row[name])[None] for name in ("output", "x_t", "noise"))
    return scheduler.step(output, row["t"] - 1, x_t, eta=row["variant"], variance_noise=noise).prev_sample[0].numpy()


def ddpm_step(row):
    if row["s"] == 0 and row["t"] > 1 and row["variant"] != "posterior":
        return None
    options = {"prediction_type": KINDS[row["kind"]], "variance_type": VARIANCES[row["variant"]]}
    scheduler = make(DDPMScheduler, row["schedule"], row["T"], **options)
    scheduler.set_timesteps(timesteps=[row["t"] - 1] + [row["s"] - 1] * (row["s"] > 0))
    seed = int(RNG.integers(2**31))
    output, x_t, raw = (tensor(row[name])[None] for name in ("output", "x_t", "raw"))
    row["noise"] = drawn(seed, x_t)[0].numpy()
    if row["variant"] == "learned":
        output = torch.cat([output, raw], 1)
    return scheduler.step(output, row["t"] - 1, x_t, torch.Generator().manual_seed(seed)).prev_sample[0].numpy()


def drawn(seed, like):
    """The noise that a scheduler draws from a generator with this seed."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


def toy(x, level, T):
    """A nonlinear guess of x0."""
    return torch.tanh(0.8 * x + 0.5 * np.sin(6.0 * level / T))


def speak(kind, a, x, x0):
    """The network output that means this x0."""
    alpha, sigma = a**0.5, (1 - a) ** 0.5
    eps = (x - alpha * x0) / sigma
    return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[kind]


def trajectory(sampler, schedule, T, N, spacing, kind, variant, offset=0, end=0):
    """x at every level of a whole run, the levels, and the noise of every step."""
    options = dict(prediction_type=KINDS[kind], timestep_spacing=spacing, steps_offset=offset)
    if sampler == "ddpm":
        scheduler = make(DDPMScheduler, schedule, T, variance_type=VARIANCES[variant], **options)
    else:
        scheduler = make(DDIMScheduler, schedule, T, set_alpha_to_one=end == 0, **options)
    scheduler.set_timesteps(N)
    x = tensor(normal(4, 3))
    xs, noises = [x], []
    for i, timestep in enumerate(scheduler.timesteps.tolist()):
        output = speak(kind, scheduler.alphas_cumprod[timestep], x, toy(x, timestep + 1, T))
        noise = drawn(i, x) if sampler == "ddpm" else tensor(normal(4, 3))
        if sampler == "ddpm":
            x = scheduler.step(output, timestep, x, torch.Generator().manual_seed(i)).prev_sample
        else:
            given = noise if variant else None
            x = scheduler.step(output, timestep, x, eta=variant, variance_noise=given).prev_sample
        xs.append(x)
        noises.append(noise)
    levels = [*(scheduler.timesteps.numpy() + 1), end]
    return {"levels": np.array(levels, np.int32), "x": torch.stack(xs).numpy(), "noise": torch.stack(noises).numpy()}


TRAJECTORIES = [
    # sampler, schedule, T, N, spacing, kind, eta or variance, offset, end
    ("ddim", "linear", 1000, 10, "leading", "eps", 0.0, 0, 0),
    ("ddim", "linear", 1000, 7, "leading", "eps", 0.0, 0, 0),
    ("ddim", "linear", 400, 16, "trailing", "x0", 0.0, 0, 0),
    ("ddim", "cosine", 1000, 20, "trailing", "v", 0.0, 0, 0),
    ("ddim", "scaled_linear", 1000, 20, "leading", "eps", 0.0, 1, 1),
    ("ddim", "linear", 1000, 10, "leading", "eps", 0.5, 0, 0),
    ("ddim", "scaled_linear", 1000, 20, "leading", "v", 0.5, 1, 1),
    ("ddim", "cosine", 400, 10, "trailing", "v", 1.0, 0, 0),
    ("ddpm", "linear", 1000, 10, "leading", "eps", "posterior", 0, 0),
    ("ddpm", "linear", 1000, 10, "leading", "eps", "beta", 0, 0),
    ("ddpm", "linear", 400, 15, "trailing", "x0", "posterior", 0, 0),
    ("ddpm", "cosine", 1000, 12, "linspace", "v", "beta", 0, 0),
]


def main():
    """Writes all files."""
    tables, grids, forward = {}, {}, {}
    for name in SCHEDULES:
        for T in (1000, 400):
            scheduler = DDPMScheduler(num_train_timesteps=T, **SCHEDULES[name])
            tables[f"{name}/{T}/betas"] = scheduler.betas.numpy()
            tables[f"{name}/{T}/alphas_cumprod"] = scheduler.alphas_cumprod.numpy()
            betas = rescale_zero_terminal_snr(scheduler.betas.double())
            tables[f"zero_terminal/{name}/{T}/betas"] = betas.float().numpy()
            tables[f"zero_terminal/{name}/{T}/alphas_cumprod"] = torch.cumprod(1.0 - betas, 0).float().numpy()
    for spacing, T, N, offset in [
        *(("leading", 1000, N, o) for N in (1, 3, 7, 20, 50, 300, 999) for o in (0, 1)),
        *(("leading", 400, N, 0) for N in (7, 50, 400)),
        *(("trailing", 1000, N, 0) for N in (1, 3, 7, 16, 50, 300, 1000)),
        *(("trailing", 400, N, 0) for N in (6, 15)),
        *(("linspace", 1000, N, 0) for N in (1, 2, 5, 10, 20, 25, 50, 1000)),
        *(("linspace", 400, N, 0) for N in (6, 14)),
    ]:
        grids[f"{spacing}/{T}/{N}/{offset}"] = published_grid(T, N, spacing, offset) + 1
    for name, T in STEP_SCHEDULES:
        scheduler, t = make(DDPMScheduler, name, T), np.array([1, 2, 10, T // 2, T - 1, T])
        x0, eps = normal(len(t), 3), normal(len(t), 3)
        arguments = tensor(x0), tensor(eps), torch.from_numpy(t - 1)
        columns = {"t": t, "x0": x0, "eps": eps}
        columns |= {"x_t": scheduler.add_noise(*arguments).numpy(), "v": scheduler.get_velocity(*arguments).numpy()}
        forward |= {f"{name}/{T}/{column}": value for column, value in columns.items()}
    runs = {}
    for case in TRAJECTORIES:
        runs |= {"/".join(map(str, case)) + "/" + name: value for name, value in trajectory(*case).items()}
    versions = {"versions": np.array([f"diffusers {diffusers.__version__}", f"torch {torch.__version__}"])}
    np.savez_compressed(HERE / "tables.npz", **tables, **versions)
    np.savez_compressed(HERE / "grids.npz", **grids, **versions)
    np.savez_compressed(HERE / "forward.npz", **forward, **versions)
    np.savez_compressed(HERE / "ddim_steps.npz", **steps((0.0, 0.5, 1.0), ddim_step), **versions)
    np.savez_compressed(HERE / "ddpm_steps.npz", **steps(tuple(VARIANCES), ddpm_step), **versions)
    np.savez_compressed(HERE / "trajectories.npz", **runs, **versions)


if __name__ == "__main__":
    main()
