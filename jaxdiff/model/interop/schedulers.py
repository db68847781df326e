"""Noise schedule, kind of prediction, grid and sampler from the scheduler_config.json files of diffusers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxdiff.config import Diffusion
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
CLIPPING_UNUSED = ("dynamic_thresholding_ratio", "sample_max_value")  # of thresholding alone
SCHEDULERS = {
    "DDIMScheduler": Fields(
        PROCESS | {"clip_sample": True, "set_alpha_to_one": True, "rescale_betas_zero_snr": False},
        {"trained_betas": None, **CLIPPING},
        ("skip_prk_steps", *CLIPPING_UNUSED),
    ),
    "PNDMScheduler": Fields(
        PROCESS | {"set_alpha_to_one": False, "skip_prk_steps": False},
        {"trained_betas": None},
        ("clip_sample",),  # which it does not have, and Stable Diffusion's file says all the same
    ),
    "DDPMScheduler": Fields(
        PROCESS | {"clip_sample": True, "variance_type": "fixed_small", "rescale_betas_zero_snr": False},
        {"trained_betas": None, **CLIPPING},
        CLIPPING_UNUSED,
    ),
}
KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


class Process(NamedTuple):
    """Forward process and sampling of a scheduler.

    Attributes:
      diffusion: forward process and kind of prediction.
      sampler: sampler with its options.
      spacing: grid of levels with its options.
      clip: whether the predicted x0 is clipped to [-1, 1].
    """

    diffusion: Diffusion
    sampler: Choice
    spacing: Choice
    clip: bool


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
        >>> found.diffusion.predict, found.sampler.kind, found.spacing
        ('v', 'ddim', leading(offset=0, start=None, end=0))
    """
    kind = config.get("_class_name")
    if kind not in SCHEDULERS:
        raise ValueError(f"{where}: the class {kind} is not supported, only {', '.join(SCHEDULERS)}")
    f = SCHEDULERS[kind].values(config, where)
    diffusion = Diffusion(
        schedule=_schedule(f, where),
        num_levels=f["num_train_timesteps"],
        predict=one_of(KINDS, f, "prediction_type", where),
        zero_snr=f.get("rescale_betas_zero_snr", False),
    )
    end = 0 if f.get("set_alpha_to_one", True) else 1
    return Process(diffusion, _sampler(kind, f, where), _spacing(f, end, where), f.get("clip_sample", False))


def _schedule(f, where):
    ends = {"beta_start": f["beta_start"], "beta_end": f["beta_end"]}
    choices = {
        "linear": lambda: SCHEDULES["linear"](**ends),
        "scaled_linear": lambda: SCHEDULES["scaled_linear"](**ends),
        "squaredcos_cap_v2": lambda: SCHEDULES["cosine"](),
    }
    return one_of(choices, f, "beta_schedule", where)()


def _sampler(kind, f, where):
    if kind == "DDIMScheduler":
        return SAMPLERS["ddim"]()
    if kind == "PNDMScheduler":
        if not f["skip_prk_steps"]:
            raise ValueError(f"{where}: skip_prk_steps=False is not supported, only True")
        return SAMPLERS["pndm"]()
    variances = {"fixed_small": "posterior", "fixed_large": "beta"}
    return SAMPLERS["ddpm"](one_of(variances, f, "variance_type", where))


def _spacing(f, end, where):
    name, offset = f["timestep_spacing"], f["steps_offset"]
    choices = {
        "leading": lambda: SPACINGS["leading"](offset=offset, end=end),
        "trailing": lambda: SPACINGS["trailing"](end=end),
    }
    choice = one_of(choices, f, "timestep_spacing", where)()
    if name == "leading" and offset < end:
        raise ValueError(f"{where}: steps_offset=0 must be 1 where set_alpha_to_one=False")
    return choice
