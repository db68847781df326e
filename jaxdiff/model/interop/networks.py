"""Specifications of networks from the config.json files of diffusers and transformers."""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxdiff.model.interop.classes import (
    AUTOENCODER_KL,
    CLIP_TEXT,
    CLIP_VISION,
    CONTROLNET,
    DIT,
    SD3,
    UNET_2D,
    UNET_2D_CONDITION,
    VQ_MODEL,
)
from jaxdiff.model.interop.fields import one_of
from jaxdiff.model.interop.mapping import PATCHES
from jaxdiff.nets.autoencoder_config import AutoencoderConfig
from jaxdiff.nets.clip_config import CLIPConfig, ImageEncoderConfig, TextConfig, VisionConfig
from jaxdiff.nets.controlnet import ControlConfig
from jaxdiff.nets.dit_config import DiTConfig
from jaxdiff.nets.mmdit_config import MMDiTConfig
from jaxdiff.nets.unet_config import UNetConfig, at

WITHOUT = {"guidance_dim": 0, "image_prompt_dim": 0}  # what is added to a U-Net that its ControlNets know nothing of
PER_RESOLUTION = ("num_heads", "transformer_blocks", "blocks")
OF_A_RUN = ("dtype", "remat", "attention_kernel", "context_length")  # not of the weights


def unet(config: Mapping[str, Any], where: str = "config.json") -> UNetConfig:
    """Specification of a `UNet2DConditionModel` or a `UNet2DModel`.

    Args:
      config: published config.
      where: name of its file, for errors.

    Raises:
      ValueError: a class, a field or a block that is not supported; it is named.

    Example::

        >>> from jaxdiff.model.interop import networks
        >>> spec = networks.unet({"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768})
        >>> spec.channels, spec.attention, spec.num_heads, spec.context_dim
        ((320, 640, 1280, 1280), (0, 1, 2), 8, 768)
    """
    makers = {"UNet2DConditionModel": _unet_2d_condition, "UNet2DModel": _unet_2d}
    kind = config.get("_class_name")
    if kind not in makers:
        raise ValueError(f"{where}: the class {kind} is not supported, only {' and '.join(makers)}")
    with _named(where):
        return makers[kind](config, where)


def _unet_2d_condition(config, where):
    f = UNET_2D_CONDITION.values(config, where)
    if f["in_channels"] < f["out_channels"]:
        raise ValueError(f"{where}: in_channels={f['in_channels']} must be at least out_channels={f['out_channels']}")
    return _conditioned(f, where)


def _conditioned(f, where):
    # `attention_head_dim` of this class is the number of heads.
    heads = f["attention_head_dim"] if f["num_attention_heads"] is None else f["num_attention_heads"]
    attention = _attention(f, "CrossAttn", where)
    return UNetConfig(
        **_shared(f, attention, where),
        num_heads=heads,
        context_dim=_one(f["cross_attention_dim"], where, "cross_attention_dim"),
        transformer_blocks=f["transformer_layers_per_block"],
        linear_projection=f["use_linear_projection"],
        vector_dim=_vector_dim(f, where),
        image_channels=f["in_channels"] - f["out_channels"],
        guidance_dim=f["time_cond_proj_dim"] or 0,
    )


def _vector_dim(f, where):
    """Size of the vector of text and image sizes of Stable Diffusion XL; 0 without."""
    if one_of({None: False, "text_time": True}, f, "addition_embed_type", where):
        for name in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
            if not isinstance(f[name], int):
                raise ValueError(f"{where}: {name}={f[name]!r} must be a number with addition_embed_type='text_time'")
        return f["projection_class_embeddings_input_dim"]
    return 0


def _unet_2d(config, where):
    f = UNET_2D.values(config, where)
    _same(f["in_channels"], f["out_channels"], where, "in_channels", "out_channels")
    if f["attn_norm_num_groups"] not in (None, f["norm_num_groups"]):
        raise ValueError(f"{where}: attn_norm_num_groups={f['attn_norm_num_groups']} is not supported, only null")
    if f["add_attention"] and f["attn_norm_num_groups"] is None and f["resnet_time_scale_shift"] != "default":
        raise ValueError(
            f"{where}: attn_norm_num_groups=None is an attention without its norm, which is not supported, with "
            f"resnet_time_scale_shift={f['resnet_time_scale_shift']!r}"
        )
    one_of({"UNetMidBlock2D": True}, f, "mid_block_type", where)
    shape = {"head_dim": f["attention_head_dim"]} if f["attention_head_dim"] else {}
    return UNetConfig(**_shared(f, _attention(f, "Attn", where), where), **shape, mid_attention=f["add_attention"])


def _shared(f, attention, where):
    """Fields of both kinds of U-Net."""
    return {
        "out_channels": f["out_channels"],
        "channels": f["block_out_channels"],
        "attention": attention,
        "blocks": f["layers_per_block"],
        "groups": f["norm_num_groups"],
        "eps": f["norm_eps"],
        "dropout": f["dropout"],
        "time_mode": one_of({"default": "add", "scale_shift": "scale_shift"}, f, "resnet_time_scale_shift", where),
        "flip_sin_to_cos": f["flip_sin_to_cos"],
        "freq_shift": float(f["freq_shift"]),
        "downsample_padding": f["downsample_padding"],
    }


def _attention(f, prefix, where):
    """Positions of the resolutions with attention, which are the same on the way down and up."""
    found = []
    for way, types in (("Down", f["down_block_types"]), ("Up", f["up_block_types"][::-1])):
        kinds = {f"{way}Block2D": False, f"{prefix}{way}Block2D": True}
        for kind in types:
            if kind not in kinds:
                raise ValueError(f"{where}: the block {kind} is not supported, only {' and '.join(kinds)}")
        found.append(tuple(level for level, kind in enumerate(types) if kinds[kind]))
    if found[0] != found[1]:
        raise ValueError(f"{where}: down_block_types and up_block_types have attention at different resolutions")
    return found[0]


def dit(config: Mapping[str, Any], where: str = "config.json") -> DiTConfig:
    """Specification of a `DiTTransformer2DModel`, or of a `Transformer2DModel` of that kind; errors as of `unet`."""
    one_of({"DiTTransformer2DModel": True, "Transformer2DModel": True}, config, "_class_name", where)
    if config.get("norm_type", "ada_norm_zero") != "ada_norm_zero":
        raise ValueError(f"{where}: norm_type={config['norm_type']!r} is not supported, only 'ada_norm_zero'")
    f = DIT.values(config, where)
    if f["patch_size"] not in PATCHES:
        raise ValueError(f"{where}: patch_size={f['patch_size']} is not supported, only {', '.join(map(str, PATCHES))}")
    with _named(where):
        return DiTConfig(
            out_channels=f["out_channels"] or f["in_channels"],
            width=f["num_attention_heads"] * f["attention_head_dim"],
            depth=f["num_layers"],
            heads=f["num_attention_heads"],
            patch=f["patch_size"],
            num_classes=f["num_embeds_ada_norm"],
            eps=f["norm_eps"],
            dropout=f["dropout"],
        )


def mmdit(config: Mapping[str, Any], where: str = "config.json") -> MMDiTConfig:
    """Specification of an `SD3Transformer2DModel`; errors as of `unet`."""
    one_of({"SD3Transformer2DModel": True}, config, "_class_name", where)
    f, width = SD3.values(config, where), "num_attention_heads * attention_head_dim"
    if type(side := config.get("sample_size", 128)) is not int:
        raise ValueError(f"{where}: sample_size={side!r} must be one number")
    _same(f["in_channels"], f["out_channels"] or f["in_channels"], where, "in_channels", "out_channels")
    _same(
        f["num_attention_heads"] * f["attention_head_dim"],
        f["caption_projection_dim"],
        where,
        width,
        "caption_projection_dim",
    )
    one_of(dict.fromkeys(PATCHES, True), f, "patch_size", where)
    with _named(where):
        return MMDiTConfig(
            out_channels=f["in_channels"],
            depth=f["num_layers"],
            heads=f["num_attention_heads"],
            head_dim=f["attention_head_dim"],
            patch=f["patch_size"],
            context_dim=f["joint_attention_dim"],
            vector_dim=f["pooled_projection_dim"],
            places=f["pos_embed_max_size"],
            base_places=max(1, side // f["patch_size"]),
            qk_norm=one_of({None: False, "rms_norm": True}, f, "qk_norm", where),
            dual_attention=f["dual_attention_layers"],
        )


def controlnet(config: Mapping[str, Any], net: UNetConfig, where: str = "config.json") -> ControlConfig:
    """Specification of a `ControlNetModel`.

    Args:
      config: published config.
      net: of the U-Net that it is to control.
      where: name of its file, for errors.

    Raises:
      ValueError: a field or a block that is not supported, or that the U-Net has otherwise; it is named.
    """
    f = CONTROLNET.values(config, where)
    ups = tuple(kind.replace("Down", "Up") for kind in reversed(f["down_block_types"]))
    others = {
        "out_channels": f["in_channels"],
        "up_block_types": ups,
        "dropout": net.dropout,
        "time_cond_proj_dim": None,
    }
    own = _conditioned(f | others, where)
    net = without_additions(net)
    for field in dataclasses.fields(own):
        has, needs = (getattr(of, field.name) for of in (own, net))
        if field.name in PER_RESOLUTION:
            has, needs = (tuple(at(value, level) for level in range(len(net.channels))) for value in (has, needs))
        if has != needs and field.name not in OF_A_RUN:
            raise ValueError(
                f"{where}: this ControlNet is of another network: {field.name} is {has} in it, not {needs}"
            )
    if f["conditioning_channels"] != 3:
        raise ValueError(f"{where}: conditioning_channels={f['conditioning_channels']} is not supported, only 3")
    return ControlConfig(net, embedding=f["conditioning_embedding_out_channels"])


def without_additions(net: UNetConfig) -> UNetConfig:
    """The U-Net without what was added to it, of which its ControlNets know nothing."""
    return dataclasses.replace(net, **WITHOUT)


def autoencoder(config: Mapping[str, Any], where: str = "config.json") -> AutoencoderConfig:
    """Specification of an `AutoencoderKL` or a `VQModel`.

    Args:
      config: published config.
      where: name of its file, for errors.

    Raises:
      ValueError: a class, a field or a block that is not supported; it is named.
    """
    f = one_of({"AutoencoderKL": AUTOENCODER_KL, "VQModel": VQ_MODEL}, config, "_class_name", where).values(
        config, where
    )
    if f.get("vq_embed_dim") not in (None, f["latent_channels"]):
        raise ValueError(
            f"{where}: vq_embed_dim={f['vq_embed_dim']} must be {f['latent_channels']}, the latent_channels"
        )
    for name, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        for block in f[name]:
            if block != kind:
                raise ValueError(f"{where}: the block {block} is not supported, only {kind}")
    _same(f["in_channels"], f["out_channels"], where, "in_channels", "out_channels")
    return AutoencoderConfig(
        image_channels=f["in_channels"],
        channels=f["block_out_channels"],
        blocks=f["layers_per_block"],
        latent_channels=f["latent_channels"],
        codebook_size=f.get("num_vq_embeddings", 0),
        groups=f["norm_num_groups"],
        mid_attention=f["mid_block_add_attention"],
        scaling_factor=f["scaling_factor"],
        **({} if "num_vq_embeddings" in f else _whitening(f, where)),
    )


def _whitening(f, where):
    """Mean, standard deviation and convolutions around the latents of an `AutoencoderKL`."""
    _same(f["use_quant_conv"], f["use_post_quant_conv"], where, "use_quant_conv", "use_post_quant_conv")
    if f["shift_factor"] and f["latents_mean"]:
        raise ValueError(f"{where}: shift_factor and latents_mean both say it: only one is supported")
    return {
        "latents_mean": f["latents_mean"] or float(f["shift_factor"] or 0),
        "latents_std": f["latents_std"] or 1.0,
        "quant_convs": f["use_quant_conv"],
    }


def clip(config: Mapping[str, Any], end_token: int, where: str = "config.json") -> CLIPConfig:
    """Specification of a `CLIPModel`.

    Args:
      config: published config.
      end_token: id of the tokenizer's end token.
      where: name of its file, for errors.

    Raises:
      ValueError: a field that is not supported; it is named.
    """
    parts = {name: config.get(name) for name in ("text_config", "vision_config")}
    if wrong := next((name for name, part in parts.items() if not isinstance(part, Mapping)), None):
        raise ValueError(f"{where}: {wrong} must hold fields")
    text = {name: value for name, value in parts["text_config"].items() if name != "architectures"}
    return CLIPConfig(
        text_transformer(text, end_token, f"{where}: text_config"),
        vision_transformer(parts["vision_config"], f"{where}: vision_config"),
        config.get("projection_dim", 512),
    )


def vision_transformer(config: Mapping[str, Any], where: str = "config.json") -> VisionConfig:
    """Specification of a `CLIPVisionModel`; errors as of `clip`."""
    f = CLIP_VISION.values(config, where)
    return VisionConfig(
        **_transformer(f, where),
        size=f["image_size"],
        patch=f["patch_size"],
    )


def _transformer(f, where):
    """Fields of both transformers of a CLIP."""
    inner = f["intermediate_size"]
    return {
        "width": f["hidden_size"],
        "layers": f["num_hidden_layers"],
        "heads": f["num_attention_heads"],
        "activation": one_of({"quick_gelu": "quick_gelu", "gelu": "gelu"}, f, "hidden_act", where),
        "inner": 0 if inner == 4 * f["hidden_size"] else inner,
    }


def image_encoder(config: Mapping[str, Any], where: str = "config.json") -> ImageEncoderConfig:
    """Specification of a `CLIPVisionModelWithProjection`; errors as of `clip`."""
    kind = config.get("architectures", ["CLIPVisionModelWithProjection"])
    if kind != ["CLIPVisionModelWithProjection"]:
        raise ValueError(f"{where}: architectures={kind!r} is not supported, only ['CLIPVisionModelWithProjection']")
    return ImageEncoderConfig(vision_transformer(config, where), CLIP_VISION.values(config, where)["projection_dim"])


def text_transformer(config: Mapping[str, Any], end_token: int, where: str = "config.json") -> TextConfig:
    """Specification of a `CLIPTextModel` or a `CLIPTextModelWithProjection`.

    Args:
      config: published config.
      end_token: id of the tokenizer's end token; that of published configs is a placeholder.
      where: name of its file, for errors.

    Raises:
      ValueError: a class or a field that is not supported; it is named.
    """
    kinds = ["CLIPTextModel"], ["CLIPTextModelWithProjection"]
    if (kind := config.get("architectures", kinds[0])) not in kinds:
        raise ValueError(f"{where}: architectures={kind!r} is not supported, only {' and '.join(map(str, kinds))}")
    f = CLIP_TEXT.values(config, where)
    return TextConfig(
        **_transformer(f, where),
        vocabulary=f["vocab_size"],
        length=f["max_position_embeddings"],
        end_token=end_token,
        projection=f["projection_dim"] if kind == kinds[1] else 0,
    )


@contextlib.contextmanager
def _named(where):
    """Errors of a specification begin with the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None


def _one(value, where, name):
    """A number that may be written once for each resolution."""
    if isinstance(value, tuple) and len(set(value)) > 1:
        raise ValueError(f"{where}: {name}={value} is not supported, only one number for all")
    return value[0] if isinstance(value, tuple) else value


def _same(one, other, where, *names):
    if one != other:
        raise ValueError(f"{where}: {names[0]}={one} and {names[1]}={other} must be equal")
