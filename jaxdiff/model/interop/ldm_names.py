"""Names of the code that trained Stable Diffusion, by those of diffusers: of files that hold everything, and of LoRAs."""

import re
from typing import NamedTuple

import numpy as np

from jaxdiff.nets.autoencoder_config import AutoencoderConfig
from jaxdiff.nets.unet_config import UNetConfig, at

RES_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {  # of the blocks
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
MIDDLE = {"resnets.0": "middle_block.0", "attentions.0": "middle_block.1", "resnets.1": "middle_block.2"}
VAE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_q": "mid.attn_1.q",
    "mid_block.attentions.0.to_k": "mid.attn_1.k",
    "mid_block.attentions.0.to_v": "mid.attn_1.v",
    "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
}
OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
}


class Place(NamedTuple):
    """Place of a tensor of diffusers in another layout.

    Attributes:
      name: of the tensor that holds it.
      third: which third of its rows it is, 0 to 2; None is all.
      transposed: whether its axes are the other way round.
    """

    name: str
    third: int | None = None
    transposed: bool = False

    def shape(self, shape: tuple[int, ...], ndim: int) -> tuple[int, ...]:
        """Shape of the tensor of diffusers, of `ndim` axes, from that of the one that holds it."""
        return self.value(np.empty(shape, bool), ndim).shape

    def value(self, value: np.ndarray, ndim: int) -> np.ndarray:
        """The tensor of diffusers, of `ndim` axes, from the one that holds it; 1x1 convolutions may be matrices."""
        if self.third is not None and value.ndim and len(value) % 3 == 0:
            value = np.split(value, 3)[self.third]
        if self.transposed:
            value = value.T
        return value[:, :, 0, 0] if value.ndim == 4 and ndim == 2 and value.shape[2:] == (1, 1) else value


def unet_place(name: str, net: UNetConfig) -> Place:
    """Place of a U-Net's tensor.

    Example::

        >>> from jaxdiff.model.interop.ldm_names import unet_place
        >>> from jaxdiff.nets.unet_config import UNetConfig
        >>> net = UNetConfig(channels=(320, 640, 1280, 1280), attention=(0, 1, 2), context_dim=768)
        >>> unet_place("down_blocks.1.attentions.0.proj_in.weight", net).name
        'input_blocks.4.1.proj_in.weight'
    """
    depth = len(net.channels)
    counts = [at(net.blocks, level) + 1 for level in range(depth)]
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
    if not found:
        if name.startswith("mid_block."):
            module = re.match(r"mid_block\.(resnets|attentions)\.\d", name)[0]
            return Place(f"{MIDDLE[module.removeprefix('mid_block.')]}.{_inside(name.removeprefix(f'{module}.'))}")
        start = next(start for start in OUTSIDE if name.startswith(f"{start}."))
        return Place(OUTSIDE[start] + name.removeprefix(start))
    way, block, kind, i, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if way == "down":
        number = 1 + sum(counts[:block]) + (counts[block] - 1 if kind == "downsamplers" else i)
        rest = f"op.{rest.removeprefix('conv.')}" if kind == "downsamplers" else _inside(rest)
        return Place(f"input_blocks.{number}.{int(kind == 'attentions')}.{rest}")
    ups, level = counts[::-1], depth - 1 - block
    number = sum(ups[:block]) + (ups[block] - 1 if kind == "upsamplers" else i)
    position = {"resnets": 0, "attentions": 1, "upsamplers": 1 + (level in net.attention)}[kind]
    return Place(f"output_blocks.{number}.{position}.{rest if kind == 'upsamplers' else _inside(rest)}")


def _inside(rest):
    """Name within a residual block; within a transformer it is the same."""
    module, _, kind = rest.rpartition(".")
    return f"{RES_BLOCK[module]}.{kind}" if module in RES_BLOCK else rest


def autoencoder_place(name: str, net: AutoencoderConfig) -> Place:
    """Place of an autoencoder's tensor."""
    for theirs, ours in VAE.items():
        name = re.sub(rf"\b{re.escape(theirs)}\b", ours, name)
    name = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    up = lambda found: (
        f"up.{len(net.channels) - 1 - int(found[1])}.{'block.' if found[2] == 'resnets.' else 'upsample.'}"
    )
    return Place(re.sub(r"up_blocks\.(\d+)\.(resnets\.|upsamplers\.0\.)", up, name))


def clip_place(name: str) -> Place:
    """Place of a tensor of CLIP's text encoder as OpenAI has it."""
    return Place(f"text_model.{name}")


def open_clip_place(name: str) -> Place:
    """Place of a tensor of OpenCLIP's text encoder, in which q, k and v are one."""
    if name == "text_projection.weight":
        return Place("text_projection", transposed=True)
    for theirs, ours in OPEN_CLIP.items():
        name = re.sub(rf"\b{re.escape(theirs)}\b", ours, name)
    if found := re.fullmatch(r"(.*\.attn\.)([qkv])_proj\.(weight|bias)", name):
        return Place(f"{found[1]}in_proj_{found[3]}", third="qkv".index(found[2]))
    return Place(name)
