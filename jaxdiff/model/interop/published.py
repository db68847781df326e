"""Published configs of our specifications: the inverse of `networks` and `schedulers`."""

import dataclasses
import itertools
import logging
from collections.abc import Callable
from typing import Any

from jaxdiff.config import Config
from jaxdiff.model.interop import networks, schedulers
from jaxdiff.nets.autoencoder_config import AutoencoderConfig
from jaxdiff.nets.clip_config import TextConfig
from jaxdiff.nets.controlnet import ControlConfig
from jaxdiff.nets.dit_config import DiTConfig
from jaxdiff.nets.mmdit_config import MMDiTConfig
from jaxdiff.nets.unet_config import UNetConfig, at

log = logging.getLogger("jaxdiff")
BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
KINDS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def unet(net: UNetConfig, side: int | tuple[int, int]) -> dict[str, Any]:
    """Config of a `UNet2DConditionModel`, or of a `UNet2DModel` where there is no context.

    Args:
      net: specification.
      side: of its images or latents; height and width where they differ.

    Raises:
      ValueError: the class cannot say all of the specification; a field is named.
    """
    fields = _conditioned(net) if net.context_dim else _plain(net)
    fields |= {"sample_size": side, "dropout": net.dropout}
    return _checked(fields, net, networks.unet)


def _shared(net, prefix):
    """Fields of both kinds of U-Net."""
    kind = lambda way: tuple(
        f"{prefix if level in net.attention else ''}{way}Block2D" for level in range(len(net.channels))
    )
    return {
        "in_channels": net.out_channels + net.image_channels,
        "out_channels": net.out_channels,
        "block_out_channels": net.channels,
        "down_block_types": kind("Down"),
        "up_block_types": kind("Up")[::-1],
        "layers_per_block": net.blocks,
        "norm_num_groups": net.groups,
        "norm_eps": net.eps,
        "flip_sin_to_cos": net.flip_sin_to_cos,
        "freq_shift": int(net.freq_shift),
        "downsample_padding": net.downsample_padding,
        "resnet_time_scale_shift": {"add": "default"}.get(net.time_mode, net.time_mode),
    }


def _conditioned(net):
    heads = tuple(net.heads(level) for level in range(len(net.channels)))
    fields = _shared(net, "CrossAttn") | {
        "_class_name": "UNet2DConditionModel",
        "attention_head_dim": heads[0] if len(set(heads)) == 1 else heads,  # the number of heads, in this class
        "cross_attention_dim": net.context_dim,
        "transformer_layers_per_block": net.transformer_blocks,
        "use_linear_projection": net.linear_projection,
        "time_cond_proj_dim": net.guidance_dim or None,
    }
    if net.vector_dim:
        fields |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": net.vector_dim,
        }
    return fields


def _plain(net):
    level = min(net.attention, default=len(net.channels) - 1)
    whole = net.head_dim is None and all(at(net.num_heads, level) == 1 for level in range(len(net.channels)))
    return _shared(net, "Attn") | {
        "_class_name": "UNet2DModel",
        "attention_head_dim": None if whole else net.channels[level] // net.heads(level),
        "add_attention": net.mid_attention,
        "attn_norm_num_groups": None if net.time_mode == "add" else net.groups,
    }


def dit(net: DiTConfig, side: int, channels: int) -> dict[str, Any]:
    """Config of a `DiTTransformer2DModel` of latents of so many channels; errors as of `controlnet`."""
    fields = {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": net.heads,
        "attention_head_dim": net.width // net.heads,
        "in_channels": channels,
        "out_channels": net.out_channels,
        "num_layers": net.depth,
        "dropout": net.dropout,
        "patch_size": net.patch,
        "num_embeds_ada_norm": net.num_classes,
        "norm_eps": net.eps,
        "sample_size": side,
    }
    return _checked(fields, net, networks.dit)


def mmdit(net: MMDiTConfig) -> dict[str, Any]:
    """Config of an `SD3Transformer2DModel`; errors as of `controlnet`."""
    fields = {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": net.base_places * net.patch,
        "patch_size": net.patch,
        "in_channels": net.out_channels,
        "out_channels": net.out_channels,
        "num_layers": net.depth,
        "attention_head_dim": net.head_dim,
        "num_attention_heads": net.heads,
        "joint_attention_dim": net.context_dim,
        "caption_projection_dim": net.width,
        "pooled_projection_dim": net.vector_dim,
        "pos_embed_max_size": net.places,
        "dual_attention_layers": net.dual_attention,
        "qk_norm": "rms_norm" if net.qk_norm else None,
    }
    return _checked(fields, net, networks.mmdit)


def controlnet(config: ControlConfig) -> dict[str, Any]:
    """Config of a `ControlNetModel`.

    Raises:
      ValueError: the class cannot say all of the specification; a field is named.
    """
    fields = unet(config.unet, 8)
    for name in ("out_channels", "up_block_types", "dropout", "time_cond_proj_dim", "sample_size"):
        fields.pop(name)
    fields |= {"_class_name": "ControlNetModel", "conditioning_embedding_out_channels": config.embedding}
    return _checked(fields, config, lambda fields, where: networks.controlnet(fields, config.unet, where))


def autoencoder(net: AutoencoderConfig, side: int | tuple[int, int]) -> dict[str, Any]:
    """Config of an `AutoencoderKL`.

    Raises:
      ValueError: the class cannot say all of the specification; a field is named.
    """
    depth = len(net.channels)
    fields = {
        "_class_name": "AutoencoderKL",
        "in_channels": net.image_channels,
        "out_channels": net.image_channels,
        "down_block_types": ("DownEncoderBlock2D",) * depth,
        "up_block_types": ("UpDecoderBlock2D",) * depth,
        "block_out_channels": net.channels,
        "layers_per_block": net.blocks,
        "latent_channels": net.latent_channels,
        "norm_num_groups": net.groups,
        "scaling_factor": net.scaling_factor,
        "mid_block_add_attention": net.mid_attention,
        "use_quant_conv": net.quant_convs,
        "use_post_quant_conv": net.quant_convs,
        "sample_size": side,
    }
    if net.latents_mean or net.latents_std != 1.0:
        each = lambda value: value if isinstance(value, tuple) else (value,) * net.latent_channels
        fields |= {"latents_mean": each(net.latents_mean), "latents_std": each(net.latents_std)}
    return _checked(fields, net, networks.autoencoder)


def text_transformer(net: TextConfig, start_id: int, pad_id: int) -> dict[str, Any]:
    """Config of a `CLIPTextModel`, or of a `CLIPTextModelWithProjection`."""
    fields = {
        "architectures": ["CLIPTextModelWithProjection" if net.projection else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": net.width,
        "intermediate_size": net.inner or 4 * net.width,
        "num_hidden_layers": net.layers,
        "num_attention_heads": net.heads,
        "hidden_act": net.activation,
        "vocab_size": net.vocabulary,
        "max_position_embeddings": net.length,
        "layer_norm_eps": 1e-5,
        "bos_token_id": start_id,
        "eos_token_id": net.end_token,
        "pad_token_id": pad_id,
    }
    fields |= {"projection_dim": net.projection} if net.projection else {}
    return _checked(fields, net, lambda fields, where: networks.text_transformer(fields, net.end_token, where))


def scheduler(config: Config) -> dict[str, Any]:
    """Config of the scheduler of diffusers that samples as the model does by default.

    A sampler or a spacing that diffusers does not have is DDIM with even steps, which any model can be sampled by.

    Raises:
      ValueError: a process that its schedulers do not have.
    """
    d, s = config.diffusion, config.sample
    schedule = d.schedule
    if config.net.kind == "mmdit":
        return _flow_scheduler(d)
    if schedule.kind not in BETAS or d.shift != 1 or (schedule.kind == "cosine" and schedule != type(schedule)()):
        raise ValueError(f"the schedule {schedule} with shift={d.shift:g} is none that diffusers knows by name")
    if d.predict not in KINDS:
        raise ValueError(f"`predict`={d.predict!r} is no kind of prediction of diffusers")
    if d.time != "level" or d.sigma_data:
        raise ValueError(
            f"`time`={d.time!r} with `sigma_data`={d.sigma_data:g} is of no pipeline of diffusers that is written"
        )
    fields = {
        "num_train_timesteps": d.num_levels,
        "beta_start": getattr(schedule, "beta_start", 1e-4),
        "beta_end": getattr(schedule, "beta_end", 0.02),
        "beta_schedule": BETAS[schedule.kind],
        "prediction_type": KINDS[d.predict],
        "rescale_betas_zero_snr": d.zero_snr,
    }
    fields |= {"clip_sample": s.clip and not config.latent.codec}
    wanted = {"sampler": s.sampler, "spacing": s.spacing, "compat": s.compat, "clip": fields["clip_sample"]}
    process = ("schedule", "num_levels", "predict", "zero_snr")
    for kind, (read, _) in schedulers.SCHEDULERS.items():
        for own in _options(s):
            written = {"_class_name": kind} | {name: value for name, value in (fields | own).items() if name in read}
            found = _process(written)
            same = found and all(getattr(found.diffusion, name) == getattr(d, name) for name in process)
            if same and all(getattr(found, name) == value for name, value in wanted.items()):
                return written
    log.info("diffusers has no scheduler for %s on %s: DDIMScheduler is written", s.sampler.kind, s.spacing.kind)
    own = {"timestep_spacing": "trailing", "steps_offset": 1, "set_alpha_to_one": True}
    return {"_class_name": "DDIMScheduler"} | fields | own


def _flow_scheduler(diffusion):
    fields = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": diffusion.shift}
    found = schedulers.process(fields).diffusion
    if any(getattr(found, name) != getattr(diffusion, name) for name in ("schedule", "num_levels", "predict", "time")):
        raise ValueError("a StableDiffusion3Pipeline has rectified flow of 1000 levels, and predicts the flow")
    return fields


def _process(fields):
    try:
        return schedulers.process(fields)
    except ValueError:  # fields that the class does not take
        return None


def _options(sample):
    """Fields that say how a scheduler samples, in all the ways that could be meant."""
    sampler, spacing = sample.sampler, sample.spacing
    own = {"skip_prk_steps": not getattr(sampler, "runge_kutta", False), "steps_offset": getattr(spacing, "offset", 1)}
    own |= {"set_alpha_to_one": getattr(spacing, "end", 0) == 0, "use_karras_sigmas": spacing.kind == "karras"}
    own |= {"variance_type": "fixed_large" if getattr(sampler, "variance", "") == "beta" else "fixed_small"}
    own |= {"algorithm_type": "sde-dpmsolver++" if getattr(sampler, "sde", False) else "dpmsolver++"}
    own |= {"original_inference_steps": getattr(spacing, "original_steps", 50)}
    own |= {"timestep_scaling": getattr(sampler, "timestep_scaling", 10.0)}
    own |= {"solver_order": getattr(sampler, "order", 2), "solver_type": getattr(sampler, "variant", "midpoint")}
    spacings = [spacing.kind] if spacing.kind in ("leading", "trailing", "linspace") else ["linspace", "leading"]
    for name, order in itertools.product(spacings, (own["solver_order"], 1)):  # order 1 is DDIM
        yield own | {"timestep_spacing": name, "solver_order": order}


def _checked(fields, spec, read: Callable):
    """The fields as JSON has them, if they are read as the same specification."""
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    name = fields.get("_class_name") or fields["architectures"][0]
    found = read(fields, name)
    for field in dataclasses.fields(spec):
        has, wanted = (_plainly(of, field.name) for of in (found, spec))
        if has != wanted and field.name not in networks.OF_A_RUN:
            raise ValueError(f"{field.name}={getattr(spec, field.name)!r} is nothing that a {name} has")
    return fields


def _plainly(spec, name):
    """Value of a field; of fields that may say the same in several ways, for each resolution or channel."""
    if name in ("latents_mean", "latents_std") and not isinstance(getattr(spec, name), tuple):
        return (getattr(spec, name),) * spec.latent_channels
    if hasattr(spec, "channels") and (name in networks.PER_RESOLUTION or name == "head_dim"):
        levels = range(len(spec.channels))
        if name in ("num_heads", "head_dim") and hasattr(spec, "heads"):
            return tuple(map(spec.heads, levels))
        return tuple(at(getattr(spec, name), level) for level in levels)
    return getattr(spec, name)
