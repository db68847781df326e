"""Editing of images, real and drawn: transforms of samplers and conditions, none of which a sampler or network knows."""

from jaxdiff.editing.blend import local_blend
from jaxdiff.editing.ddib import bridge
from jaxdiff.editing.inpaint import inpaint
from jaxdiff.editing.inversion import ddim_inversion, invert, reconstruct
from jaxdiff.editing.maps import by_word, collect_maps, lit, map_sides
from jaxdiff.editing.null_text import Search, null_text, published
from jaxdiff.editing.prompt_to_prompt import AttentionEdit, no_edit, pairs, refine, replace, reshare, reweight, windows
from jaxdiff.editing.real import redraw
from jaxdiff.editing.regional import Regions, by_region, no_regions, regions
from jaxdiff.editing.sdedit import sdedit, strength_grid
from jaxdiff.editing.shortcuts import direct, negative_prompt

__all__ = [
    "AttentionEdit",
    "Regions",
    "Search",
    "bridge",
    "by_region",
    "by_word",
    "collect_maps",
    "ddim_inversion",
    "direct",
    "inpaint",
    "invert",
    "lit",
    "local_blend",
    "map_sides",
    "negative_prompt",
    "no_edit",
    "no_regions",
    "null_text",
    "pairs",
    "published",
    "reconstruct",
    "redraw",
    "refine",
    "regions",
    "replace",
    "reshare",
    "reweight",
    "sdedit",
    "strength_grid",
    "windows",
]
