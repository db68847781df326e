"""Accuracy of every sampler: its distance from the true marginal, its order, its distance from diffusers' trajectories.

    python benchmarks/samplers.py            # prints the table; about three minutes on two cores
    python benchmarks/samplers.py --write    # writes it into docs/samplers.md, and docs/images/samplers.png

Paths go from level T = 4096 of the VP-SDE's schedule to level 1, over steps in Karras' spacing and over steps even in
levels. Data is a Gaussian, of which optimal denoiser, flow and marginals are known. docs/samplers.md says what is measured.
"""

import argparse
import fnmatch
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from pages import put

from jaxdiff import process, samplers, schedules, testing, timesteps
from jaxdiff.samplers.dpmpp import _update as dpmpp_update
from jaxdiff.samplers.euler_ancestral import _update as euler_ancestral_update
from jaxdiff.samplers.lcm import end_of_path
from jaxdiff.testing.convergence import paths_for
from jaxdiff.types import AlphaSigma, Guided

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "samplers.md", ROOT / "docs" / "images" / "samplers.png"
BEGIN, END = "<!-- written by benchmarks/samplers.py -->\n", "<!-- end of what it writes -->\n"
PROCESSES_BEGIN, END_OF_PROCESSES = (
    "<!-- processes: written by benchmarks/samplers.py -->\n",
    "<!-- end of processes -->\n",
)
T, FEW, MANY = 4096, 32, 128  # errors are those of few steps, orders those between few and many
SCHEDULE = schedules.linear(T, 0.1 / T, 20 / T)  # Song et al. 2021 (score SDE), appendix C
STABLE = schedules.scaled_linear()
DATA = testing.gaussian([1.0, -0.5], [0.5, 0.1])
WIDE = testing.gaussian(np.tile([1.0, -0.5], 32), np.tile([0.5, 0.1], 32))
PATHS = 1000  # where moments are a matter of chance; with 32 numbers of a kind each, standard errors are below 0.004
KEY = jax.random.key(0)


def top(schedule):
    """Level T, or where sigma / alpha is the 80 of EDM."""
    return T if schedule is SCHEDULE else float(schedule.level_of(AlphaSigma(jnp.float32(1), jnp.float32(80))))


LEVELS = {
    "karras": lambda schedule, count: timesteps.grid_by_sigma(schedule, count, start=top(schedule)),
    "even": lambda schedule, count: timesteps.grid(T, count, end=1).astype(np.float32),
    "even to 0": lambda schedule, count: timesteps.grid(T, count, end=0).astype(np.float32),
}
PROCESSES = {"rectified flow": schedules.rectified_flow(T), "EDM": schedules.edm(T)}
GOLDEN = {}
for _file in ("trajectories", "solvers"):
    GOLDEN |= np.load(ROOT / "tests" / "golden" / f"{_file}.npz")
asked = [0]  # how often a denoiser was called


def count(x):
    asked[0] += 1
    return np.asarray(x)


def exact(schedule, data, x_t, t, cond):
    """The optimal denoiser, which counts its calls."""
    x_t = jax.pure_callback(count, jax.ShapeDtypeStruct(x_t.shape, x_t.dtype), x_t)
    return data.denoiser(schedule)(x_t, t, cond)


def jump(schedule, data, x_t, t, cond):
    """A perfect consistency model: x0 is where the flow ends."""
    said, (alpha, sigma) = exact(schedule, data, x_t, t, cond), schedule(t)
    x_t = alpha * said.x0 + sigma * said.eps  # through what was said, so that the call counts
    x0 = data.flow(schedule, x_t, t, 0)
    return said._replace(x0=x0, eps=(x_t - alpha * x0) / sigma)


def average(schedule, data, x_t, t, cond):
    """A perfect network of average velocities: x0 and eps of the line from x_t to the flow at `cond.end`."""
    said, (alpha, sigma), s = exact(schedule, data, x_t, t, None), schedule(t), cond.end[0]
    x_t, at = alpha * said.x0 + sigma * said.eps, schedule(s)  # through what was said, so that the call counts
    eps = (alpha * data.flow(schedule, x_t, t, s) - at.alpha * x_t) / (alpha * at.sigma - at.alpha * sigma)
    return said._replace(x0=(x_t - sigma * eps) / alpha, eps=eps)


def ddpm_step(**how):
    return lambda schedule, said, state, t, s, z: samplers.State(
        process.p_step(schedule, said, state.x, t, s, z, **how)
    )


def euler_step(schedule, said, state, t, s, z):
    return samplers.State(euler_ancestral_update(schedule, said, t, s, z))


def lcm_step(schedule, said, state, t, s, z):
    return samplers.State(process.q_sample(schedule, end_of_path(10.0, 0.5, said, state.x, t), s, z))


def told_twice(sampler):
    """A sampler of two conditions, both of which are none."""
    return sampler._replace(step=Partial(guided_step, sampler.step))


def guided_step(step, keys, denoise, schedule, state, t, s, cond):
    return step(keys, denoise, schedule, state, t, s, Guided(None, None))


class Row(NamedTuple):
    """A sampler, and how it is measured."""

    make: Callable[[int], samplers.Sampler]  # given how many steps there are
    draws: bool = False
    golden: tuple[str, ...] = ()  # diffusers' runs
    move: Any = None  # where they have noise, the sampler's step with it
    steps: tuple[int, ...] = (FEW, MANY)
    spacings: tuple[str, ...] = tuple(LEVELS)
    denoise: Callable = exact
    affine: bool = True


noisy = lambda make, *golden, **how: Row(make, True, golden, **how)
corrected = lambda predictor: noisy(
    lambda N: samplers.predictor_corrector(predictor=predictor), steps=(FEW,), affine=False
)
ROWS = {
    "ddim()": Row(lambda N: samplers.ddim(), golden=("ddim/*/0.0/*",)),
    "ddim_cfgpp(0.6)": Row(lambda N: told_twice(samplers.ddim_cfgpp(0.6))),
    "heun()": Row(lambda N: samplers.heun(), golden=("heun",)),
    "flow_heun()": Row(lambda N: samplers.flow_heun()),
    "dpmpp_2m()": Row(lambda N: samplers.dpmpp_2m(), golden=("dpmpp_2m", "dpmpp_2m/to 1")),
    "unipc(order=1)": Row(lambda N: samplers.unipc(1), golden=("unipc/order 1",)),
    "unipc()": Row(lambda N: samplers.unipc(), golden=("unipc/bh2*",)),
    'unipc(variant="bh1")': Row(lambda N: samplers.unipc(variant="bh1"), golden=("unipc/bh1*",)),
    "unipc(order=3)": Row(lambda N: samplers.unipc(3), golden=("unipc/order 3",)),
    "pndm()": Row(lambda N: samplers.pndm(), golden=("pndm*",)),
    "probability_flow_fixed()": Row(lambda N: samplers.probability_flow_fixed()),
    "probability_flow()": Row(lambda N: samplers.probability_flow(), steps=(1,), spacings=("even", "even to 0")),
    "ddpm()": noisy(lambda N: samplers.ddpm(), "ddpm/*/posterior/*", move=ddpm_step()),
    'ddpm("beta")': noisy(lambda N: samplers.ddpm("beta"), "ddpm/*/beta/*", move=ddpm_step(variance="beta")),
    "ddim(0.3)": noisy(lambda N: samplers.ddim(0.3), "ddim/*/0.5/*", move=ddpm_step(eta=0.5)),
    "ddim(1.0)": noisy(lambda N: samplers.ddim(1.0), "ddim/*/1.0/*", move=ddpm_step(eta=1.0)),
    "euler_ancestral()": noisy(lambda N: samplers.euler_ancestral(), "euler_ancestral", move=euler_step),
    "dpmpp_2m(sde=True)": noisy(lambda N: samplers.dpmpp_2m(sde=True), "dpmpp_2m/sde*", move=dpmpp_update),
    "heun(churn=8/N)": noisy(lambda N: samplers.heun(churn=8 / N)),
    "euler_maruyama()": noisy(lambda N: samplers.euler_maruyama()),
    "reverse_diffusion()": noisy(lambda N: samplers.reverse_diffusion()),
    "predictor_corrector()": corrected("reverse_diffusion"),
    "predictor_corrector(predictor=ddpm())": corrected(samplers.ddpm()),
    "mean_flow()": Row(lambda N: samplers.mean_flow(), steps=(FEW,), spacings=("even", "even to 0"), denoise=average),
    "lcm()": noisy(
        lambda N: samplers.lcm(), "lcm*", move=lcm_step, steps=(FEW,), spacings=("even", "even to 0"), denoise=jump
    ),
}


class Measured(NamedTuple):
    """Results of one number of steps."""

    evaluations: float  # of the denoiser, a step
    moments: float  # the largest error of mean and variance at the last level
    paths: float  # root mean square distance from the exact flow


def measure(row: Row, spacing: str, steps: int, schedule=SCHEDULE) -> Measured:
    """Runs a sampler from the marginal at the first level to the last level."""
    levels, data = LEVELS[spacing](schedule, steps), DATA if row.affine else WIDE
    paths = max(256, paths_for(steps, (2,)) * row.draws) if row.affine else PATHS
    keys = samplers.keys_for(KEY, paths)
    mean, cov = data.moments(schedule, levels[0])
    x_T = (mean + np.sqrt(np.diag(cov)) * np.asarray(samplers.noise(keys, mean.shape))).astype(np.float32)
    asked[0] = 0
    path = keys if row.draws else None, row.make(steps), Partial(row.denoise, schedule, data), schedule, levels, x_T
    *_, (x, _) = samplers.chunks(*path, size=FEW)  # compiled once for few and many steps
    off = np.asarray(x - data.flow(schedule, x_T, levels[0], levels[-1]), np.float64)
    if row.affine:
        noise = testing.noise_of_steps(keys, steps, (2,)) if row.draws else []
        moments = testing.affine_moments(x, x_T, noise, mean, cov)
    else:
        kinds = np.asarray(x, np.float64).reshape(-1, 2)
        moments = kinds.mean(0), np.diag(kinds.var(0))
    true_mean, true_cov = data.moments(schedule, levels[-1])
    errors = np.abs(moments[0] - true_mean[:2]), np.abs(np.diag(moments[1] - true_cov[:2, :2]))
    return Measured(asked[0] / steps, float(np.max(errors)), float(np.sqrt(np.mean(off**2))))


def golden_error(row: Row) -> float | None:
    """The largest distance from x along diffusers' runs; None where there is none."""
    names = {name.rsplit("/", 1)[0] for name in GOLDEN if name.startswith("dd")} | {
        name.split(":")[0] for name in GOLDEN if ":" in name
    }
    cases = [case for pattern in row.golden for case in fnmatch.filter(sorted(names), pattern)]
    return max(float(np.abs(follow(row, case) - published(case, "x")[1:]).max()) for case in cases) if cases else None


def published(case: str, column: str):
    return GOLDEN[f"{case}:{column}" if f"{case}:x" in GOLDEN else f"{case}/{column}"]


def follow(row: Row, case: str) -> np.ndarray:
    """x after every step of a run from diffusers' x_T, with its levels and its noise."""
    schedule, denoise = network(case)
    levels, state = published(case, "levels"), row.make(FEW).init(jnp.asarray(published(case, "x")[0], jnp.float32))
    if row.move is None:
        collect = lambda state, _: state.x
        return samplers.sample(None, row.make(FEW), denoise, schedule, levels, state.x, collect=collect)[1]
    visited = []
    for t, s, z in zip(levels[:-1], levels[1:], jnp.asarray(published(case, "noise"), jnp.float32)):
        state = row.move(schedule, denoise(state.x, t), state, t, s, z)
        visited.append(state.x)
    return np.stack(visited)


def network(case: str):
    """Schedule and nonlinear toy network of a run, as in tests/golden/make_samplers.py and make_math.py."""
    if f"{case}:x" in GOLDEN:
        toy = lambda x, t, cond=None: process.predict_from(
            "eps", STABLE, jnp.tanh(0.8 * x) + 0.3 * jnp.sin(6.0 * t / 1000), x, t
        )
        return STABLE, toy
    _, name, steps, _, _, kind, *_ = case.split("/")
    schedule = getattr(schedules, name)(int(steps))

    def toy(x, t, cond=None):
        x0, (alpha, sigma) = jnp.tanh(0.8 * x + 0.5 * jnp.sin(6.0 * t / int(steps))), schedule(t)
        output = process.target_for(kind, schedule, x0, (x - alpha * x0) / sigma, t)
        return process.predict_from(kind, schedule, output, x, t)

    return schedule, toy


HEADS = {
    "evaluations": "evaluations a step",
    "error karras": "error, Karras",
    "order karras": "order, Karras",
    "error even": "error, even",
    "order even": "order, even",
    "error even to 0": "error, even to 0",
    "golden": "diffusers",
}


def cells(name: str) -> dict[str, str]:
    """One line of the table."""
    row, found = ROWS[name], {}
    for spacing in row.spacings:
        few, *many = (measure(row, spacing, steps) for steps in row.steps[: 1 if spacing == "even to 0" else 2])
        found.setdefault("evaluations", f"{few.evaluations:.2g}")
        found[f"error {spacing}"] = f"{few.moments:.1e}"
        if many:
            found[f"order {spacing}"] = f"{order(row, row.steps, [few, *many]):.2f}"
    golden = golden_error(row)
    return found | ({} if golden is None else {"golden": f"{golden:.0e}"})


def order(row: Row, steps, found: list[Measured]) -> float:
    """Of the paths where there is no noise, and else of the moments."""
    return testing.order_of(steps, [each.moments if row.draws else each.paths for each in found])


def on_process(name: str, schedule) -> tuple[str, str]:
    """Error of few steps, and order, in Karras' spacing on another process."""
    row = ROWS[name]
    found = [measure(row, "karras", steps, schedule) for steps in row.steps]
    return f"{found[0].moments:.1e}", f"{order(row, row.steps, found):.2f}"


COMPARED = [name for name, row in ROWS.items() if len(row.steps) == 2]


def table_of_processes() -> str:
    heads = [f"{what}, {name}" for name in PROCESSES for what in ("error", "order")]
    lines = [["sampler", *heads], ["---"] * (1 + len(heads))]
    for name in COMPARED:
        lines.append([f"`{name}`", *(cell for schedule in PROCESSES.values() for cell in on_process(name, schedule))])
        print(lines[-1], flush=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def table() -> str:
    lines = [["sampler", *HEADS.values()], ["---"] * (1 + len(HEADS))]
    for name in ROWS:
        found = cells(name)
        lines.append([f"`{name}`", *(found.get(head, "-") for head in HEADS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def draw():
    """Errors against steps in Karras' spacing."""
    import matplotlib.pyplot as plt

    counts, left_out = (16, 32, 64, 128), ["unipc(order=1)", 'unipc(variant="bh1")', "ddim(1.0)", "euler_ancestral()"]
    left_out += ["ddim_cfgpp(0.6)"]  # here it is ddim()
    figure, axes = plt.subplots(1, 2, figsize=(10, 5), sharey=True, layout="constrained")
    for name, row in ROWS.items():
        if len(row.steps) < 2 or name in left_out:
            continue
        found = [measure(row, "karras", steps) for steps in counts]
        errors = [each.moments if row.draws else each.paths for each in found]
        label = f"{name}: {order(row, (counts[1], counts[-1]), [found[1], found[-1]]):.2f}"
        dashed = {"linestyle": "--"} if name == "dpmpp_2m()" else {}  # it lies on heun's
        axes[int(row.draws)].loglog(counts, errors, base=2, marker="o", markersize=4, label=label, **dashed)
    for panel, title in zip(axes, ("distance from the exact flow", "error of mean and variance")):
        panel.set(title=title, xlabel="steps", xticks=counts, xticklabels=counts, yscale="log")
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(title="order from 32 to 128 steps", fontsize="small", title_fontsize="small", loc="lower left")
    figure.savefig(PICTURE, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table and the picture into docs/")
    args = parser.parse_args()
    written, others = table(), table_of_processes()
    print(written, others, sep="\n")
    if args.write:
        put(PAGE, BEGIN, END, written)
        put(PAGE, PROCESSES_BEGIN, END_OF_PROCESSES, others)
        draw()


if __name__ == "__main__":
    main()
