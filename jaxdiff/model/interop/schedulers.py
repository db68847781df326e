"""Noise schedule, kind of prediction, grid and sampler from the scheduler_config.json files of diffusers."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxdiff.config import Compat, Diffusion
from jaxdiff.model.interop.fields import Fields, one_of
from jaxdiff.registry import Choice
from jaxdiff.samplers import SAMPLERS
from jaxdiff.schedules import SCHEDULES
from jaxdiff.timesteps import SPACINGS

PROCESS = {  # of every scheduler
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 0,
}
CLIPPING = {"thresholding": False, "clip_sample_range": 1.0}
SIGMAS = {"use_exponential_sigmas": False, "use_beta_sigmas": False, "final_sigmas_type": "zero"}
FLOW = {"use_flow_sigmas": False, "flow_shift": 1.0, "use_dynamic_shifting": False, "time_shift_type": "exponential"}
SNR = {"rescale_betas_zero_snr": False}
SOLVER = PROCESS | SNR | {"timestep_spacing": "linspace", "solver_order": 2, "use_karras_sigmas": False}
SCHEDULERS = {  # fields that are honoured, and the only values that others may have
    "DDIMScheduler": (PROCESS | SNR | {"clip_sample": True, "set_alpha_to_one": True}, CLIPPING),
    "PNDMScheduler": (PROCESS | {"set_alpha_to_one": False, "skip_prk_steps": False}, {}),
    "DDPMScheduler": (PROCESS | SNR | {"clip_sample": True, "variance_type": "fixed_small"}, CLIPPING),
    "EulerDiscreteScheduler": (
        PROCESS | SNR | {"timestep_spacing": "linspace", "use_karras_sigmas": False},
        SIGMAS | {"interpolation_type": "linear", "timestep_type": "discrete", "sigma_min": None, "sigma_max": None},
    ),
    "EulerAncestralDiscreteScheduler": (PROCESS | SNR | {"timestep_spacing": "linspace"}, {}),
    "DPMSolverMultistepScheduler": (
        SOLVER | {"algorithm_type": "dpmsolver++"},
        CLIPPING
        | SIGMAS
        | FLOW
        | {"solver_type": "midpoint", "use_lu_lambdas": False, "lambda_min_clipped": -math.inf, "variance_type": None},
    ),
    "UniPCMultistepScheduler": (
        SOLVER | {"solver_type": "bh2"},
        CLIPPING
        | SIGMAS
        | FLOW
        | {"predict_x0": True, "disable_corrector": (), "solver_p": None, "shift_terminal": None}
        | {"sigma_min": None, "sigma_max": None},
    ),
    "LCMScheduler": (
        PROCESS
        | SNR
        | {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
        | {"original_inference_steps": 50, "timestep_scaling": 10.0},
        CLIPPING,
    ),
}
FLOW_MATCH = Fields(  # of rectified flow, which has no betas
    {"shift": 1.0},
    {
        "num_train_timesteps": 1000,
        "use_dynamic_shifting": False,
        "invert_sigmas": False,
        "shift_terminal": None,
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "stochastic_sampling": False,
    },
    ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"),  # of dynamic shifting
)
# Of thresholding alone, of a last step to level 1, and fields that files keep of a scheduler that was there before.
UNUSED = {"dynamic_thresholding_ratio", "sample_max_value", "lower_order_final", "euler_at_final", "tensor_format"}
UNUSED |= {name for fields in SCHEDULERS.values() for some in fields for name in some}
KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


class Process(NamedTuple):
    """Forward process and sampling of a scheduler.

    Attributes:
      diffusion: forward process and kind of prediction.
      sampler: sampler with its options.
      spacing: grid of levels with its options.
      clip: whether the predicted x0 is clipped to [-1, 1].
      compat: departures of diffusers from the papers.
      steps: most steps by default.
    """

    diffusion: Diffusion
    sampler: Choice
    spacing: Choice
    clip: bool = False
    compat: Compat = Compat()
    steps: int = 1000


def process(config: Mapping[str, Any], where: str = "scheduler_config.json") -> Process:
    """Reads the config of a scheduler.

    Args:
      config: published config.
      where: name of its file, for errors.

    Raises:
      ValueError: a class, a field or a value that is not supported; it is named.

    Example::

        >>> from jaxdiff.model.interop import schedulers
        >>> found = schedulers.process({"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"})
        >>> found.diffusion.predict, found.sampler.kind, found.spacing.kind
        ('v', 'ddim', 'leading')
    """
    kind = config.get("_class_name")
    if kind == "FlowMatchEulerDiscreteScheduler":
        return _flow_match(FLOW_MATCH.values(config, where), where)
    if kind not in SCHEDULERS:
        raise ValueError(
            f"{where}: the class {kind} is not supported, only {', '.join(SCHEDULERS)} and "
            "FlowMatchEulerDiscreteScheduler"
        )
    read, fixed = SCHEDULERS[kind]
    fixed = {"trained_betas": None, "timestep_values": None} | fixed
    f = Fields(read, fixed, tuple(UNUSED - read.keys() - fixed.keys())).values(config, where)
    diffusion = Diffusion(
        schedule=_schedule(f, where),
        num_levels=f["num_train_timesteps"],
        predict=one_of(KINDS, f, "prediction_type", where),
        zero_snr=f.get("rescale_betas_zero_snr", False),
    )
    try:
        diffusion.make_schedule()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    make = {
        "DDIMScheduler": _ddim,
        "PNDMScheduler": _pndm,
        "DDPMScheduler": _ddpm,
        "EulerDiscreteScheduler": _euler,
        "EulerAncestralDiscreteScheduler": _euler_ancestral,
        "DPMSolverMultistepScheduler": _dpm_solver,
        "UniPCMultistepScheduler": _unipc,
        "LCMScheduler": _lcm,
    }[kind]
    return make(diffusion, f, where)


def _flow_match(f, where):
    """Rectified flow, whose Euler's steps are those of DDIM; the network is given 1000 sigma."""
    if not f["shift"] > 0:
        raise ValueError(f"{where}: shift={f['shift']} must be above 0")
    diffusion = Diffusion("rectified_flow", 1000, "flow", shift=float(f["shift"]), time="sigma")
    return Process(diffusion, SAMPLERS["ddim"](), SPACINGS["flow_match"]())


def _schedule(f, where):
    ends = {"beta_start": f["beta_start"], "beta_end": f["beta_end"]}
    choices = {
        "linear": lambda: SCHEDULES["linear"](**ends),
        "scaled_linear": lambda: SCHEDULES["scaled_linear"](**ends),
        "squaredcos_cap_v2": lambda: SCHEDULES["cosine"](),
    }
    return one_of(choices, f, "beta_schedule", where)()


def _ddim(diffusion, f, where):
    return Process(diffusion, SAMPLERS["ddim"](), _steps(f, where), f["clip_sample"])


def _pndm(diffusion, f, where):
    return Process(diffusion, SAMPLERS["pndm"](runge_kutta=not f["skip_prk_steps"]), _steps(f, where))


def _ddpm(diffusion, f, where):
    variance = one_of({"fixed_small": "posterior", "fixed_large": "beta"}, f, "variance_type", where)
    return Process(diffusion, SAMPLERS["ddpm"](variance), _steps(f, where), f["clip_sample"])


def _steps(f, where):
    """Spacing of schedulers that step from a level to the one T // N below."""
    offset, end = f["steps_offset"], 0 if f.get("set_alpha_to_one", True) else 1
    choices = {
        "leading": lambda: SPACINGS["leading"](offset=offset, end=end),
        "trailing": lambda: SPACINGS["trailing"](end=end),
    }
    choice = one_of(choices, f, "timestep_spacing", where)()
    if choice.kind == "leading" and offset < end:
        raise ValueError(f"{where}: steps_offset={offset} must be at least {end} where set_alpha_to_one={end == 0}")
    return choice


def _euler(diffusion, f, where):
    spacing, compat = _sigmas(f, where)
    if f["use_karras_sigmas"]:
        one_of({"linspace": True}, f, "timestep_spacing", f"{where}: with use_karras_sigmas")
        spacing = _karras(diffusion)
    return Process(diffusion, SAMPLERS["ddim"](), spacing, compat=compat)  # Euler's steps in sigma are those of DDIM


def _euler_ancestral(diffusion, f, where):
    spacing, compat = _sigmas(f, where)
    return Process(diffusion, SAMPLERS["euler_ancestral"](), spacing, compat=compat)


def _sigmas(f, where):
    """Spacing of Euler's methods, whose x_T is sigma_max z where the grid begins at level T."""
    choices = {
        "linspace": lambda: SPACINGS["linspace"](rounded=False),
        "leading": lambda: SPACINGS["leading"](offset=f["steps_offset"]),
        "trailing": lambda: SPACINGS["trailing"](),
    }
    return one_of(choices, f, "timestep_spacing", where)(), Compat(scale_noise=f["timestep_spacing"] != "leading")


def _dpm_solver(diffusion, f, where):
    sde = one_of({"dpmsolver++": False, "sde-dpmsolver++": True}, f, "algorithm_type", where)
    first = SAMPLERS["ddpm"]("posterior") if sde else SAMPLERS["ddim"]()
    sampler = one_of({1: first, 2: SAMPLERS["dpmpp_2m"](sde=sde)}, f, "solver_order", where)
    return Process(diffusion, sampler, **_points(diffusion, f, where))


def _unipc(diffusion, f, where):
    variant = one_of({"bh1": "bh1", "bh2": "bh2"}, f, "solver_type", where)
    order = one_of({1: 1, 2: 2}, f, "solver_order", where)
    return Process(diffusion, SAMPLERS["unipc"](order, variant), **_points(diffusion, f, where))


def _points(diffusion, f, where):
    """Spacing of solvers that spread N + 1 levels and end at clean data."""
    if f["use_karras_sigmas"]:
        return {"spacing": _karras(diffusion), "compat": Compat(round_levels=f["beta_schedule"] != "squaredcos_cap_v2")}
    choices = {
        "linspace": lambda: SPACINGS["linspace"](drop_lowest=True),
        "leading": lambda: SPACINGS["leading"](offset=f["steps_offset"], drop_lowest=True),
        "trailing": lambda: SPACINGS["trailing"](),
    }
    return {"spacing": one_of(choices, f, "timestep_spacing", where)()}


def _karras(diffusion):
    return SPACINGS["karras"](start=float(diffusion.num_levels))


def _lcm(diffusion, f, where):
    sampler = SAMPLERS["lcm"](timestep_scaling=f["timestep_scaling"])
    spacing = SPACINGS["consistency"](original_steps=f["original_inference_steps"])
    return Process(diffusion, sampler, spacing, f["clip_sample"], steps=4)
