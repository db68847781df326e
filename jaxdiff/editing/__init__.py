"""Image editing by transforms of samplers and conditions; samplers and networks do not depend on any of them."""

from jaxdiff.editing.blend import local_blend
from jaxdiff.editing.ddib import bridge
from jaxdiff.editing.inpaint import inpaint
from jaxdiff.editing.inversion import ddim_inversion, invert, reconstruct
from jaxdiff.editing.maps import collect_maps, highlight, maps_by_size, word_heatmaps
from jaxdiff.editing.null_text import NullTextConfig, null_text, null_text_config
from jaxdiff.editing.optimization_free import direct_inversion, negative_prompt_inversion
from jaxdiff.editing.paired_sampling import sample_pairs
from jaxdiff.editing.prompt_to_prompt import (
    AttentionEdit,
    no_edit,
    pairs,
    refine,
    replace,
    reweight,
    set_source_share,
    windows,
)
from jaxdiff.editing.regional import Regions, no_regions, regional_cond, regions
from jaxdiff.editing.sdedit import sdedit, strength_grid

__all__ = [
    "AttentionEdit",
    "NullTextConfig",
    "Regions",
    "bridge",
    "collect_maps",
    "ddim_inversion",
    "direct_inversion",
    "highlight",
    "inpaint",
    "invert",
    "local_blend",
    "maps_by_size",
    "negative_prompt_inversion",
    "no_edit",
    "no_regions",
    "null_text",
    "null_text_config",
    "pairs",
    "reconstruct",
    "refine",
    "regional_cond",
    "regions",
    "replace",
    "reweight",
    "sample_pairs",
    "sdedit",
    "set_source_share",
    "strength_grid",
    "windows",
    "word_heatmaps",
]
