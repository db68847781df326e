"""Writes schedulers.npz: what schedulers of diffusers make of a network that is a formula. Needs `peers`.

    python tests/golden/make_schedulers.py

The noise that some of them draw is that of jaxdiff, handed to both.
"""

import json
from pathlib import Path

import diffusers
import jax
import numpy as np
import torch

from jaxdiff import samplers

HERE = Path(__file__).parent
STEPS, SHAPE = 7, (3, 4)
STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPACED = [{"timestep_spacing": "linspace"}, {"timestep_spacing": "trailing"}]
SPACED += [{"timestep_spacing": "leading", "steps_offset": 1}]
KINDS = {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}
CASES = {
    "DDIMScheduler": [{"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}, {"clip_sample": False}],
    "PNDMScheduler": [{"skip_prk_steps": True, "steps_offset": 1}, {"steps_offset": 1}],
    "DDPMScheduler": [{"clip_sample": False}, {"clip_sample": False, "variance_type": "fixed_large"}],
    "EulerDiscreteScheduler": [*SPACED, *KINDS, {"use_karras_sigmas": True}],
    "EulerAncestralDiscreteScheduler": [*SPACED, KINDS[0]],
    "DPMSolverMultistepScheduler": [
        *SPACED,
        *KINDS,
        {"use_karras_sigmas": True},
        {"algorithm_type": "sde-dpmsolver++"},
        {"solver_order": 1},
    ],
    "UniPCMultistepScheduler": [*SPACED, *KINDS, {"use_karras_sigmas": True}, {"solver_order": 1}],
    "LCMScheduler": [{}, {"original_inference_steps": 100}],
}


def network(x, time):
    """In place of a network: a smooth formula of its input and time."""
    return 0.7 * x + 0.4 * torch.sin(2 * x + time / 150)


def main():
    keys = samplers.keys_for(jax.random.key(0), SHAPE[0])
    x_T = np.asarray(samplers.noise(keys, SHAPE[1:]))
    configs, arrays = {}, {"x_T": x_T}
    for name, cases in CASES.items():
        for i, fields in enumerate(cases):
            scheduler = getattr(diffusers, name)(**STABLE | fields)
            configs[f"{name} {i}"] = json.loads(scheduler.to_json_string())
            arrays[f"{name} {i}"] = run(scheduler, keys, torch.tensor(x_T))
    np.savez_compressed(HERE / "schedulers.npz", configs=json.dumps(configs), steps=STEPS, **arrays)


def run(scheduler, keys, noise):
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    scheduler.set_timesteps(STEPS)
    x = noise * scheduler.init_noise_sigma
    for i, time in enumerate(scheduler.timesteps):
        z = torch.tensor(np.array(samplers.normal(samplers.fold(keys, i + 1), SHAPE[1:])))
        module.randn_tensor = lambda *args, z=z, **kwargs: z
        output = network(scheduler.scale_model_input(x, time), float(time))
        x = scheduler.step(output, time, x, return_dict=False)[0]
    return x.numpy()


if __name__ == "__main__":
    main()
