"""Fusion of adapters, by any of the methods."""

from collections.abc import Callable, Sequence

from jaxdiff.adapt import lora
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.model import Model
from jaxdiff.pipeline.fuse.base import FUSIONS, FusionMethod, in_turn


def fused(
    base: Model,
    adapters: Sequence[Adapter],
    method: str | FusionMethod = "gradient",
    tick: Callable[[int], None] = lambda steps: None,
) -> Adapter:
    """Fuses adapters of different concepts into one that draws all of them.

    Args:
      base: model that they were trained beside.
      adapters: two or more, with LoRAs.
      method: name of a fusion method, or one with its options, such as `FUSIONS["gradient"](images=20)`.
      tick: called after every few steps with their number, `work` in all.

    Returns:
      `Adapter` with the new tokens of all and one LoRA for each network, float32, its rank the sum of theirs.

    Raises:
      ValueError: as `check`; LoRAs of another network than the base's, or a base that the method cannot work with.

    Example::

        >>> import jaxdiff
        >>> from jaxdiff import model
        >>> from jaxdiff.pipeline import fuse
        >>> glyphs = [model.load_adapter(name) for name in ("star", "heart")]
        >>> sorted(fuse.fused(jaxdiff.load("captioned"), glyphs, "average").new_tokens)
        ['<heart>', '<star>']
    """
    method = FUSIONS.choice(method)
    check(adapters, method)
    method.check_base(base)
    _check_networks(base, adapters)
    new_tokens = {token: row for adapter in adapters for token, row in adapter.new_tokens.items()}
    prompts = {name: in_turn(adapters, name) for name in ("prompts", "prior")}
    metadata = {"name": "fused", "base": adapters[0].metadata.get("base"), "method": "lora", **prompts}
    return Adapter(metadata, method.fuse(base, adapters, tick), new_tokens)


def work(adapters: Sequence[Adapter], method: str | FusionMethod = "gradient") -> int:
    """Number of steps that `fused` reports in all."""
    return FUSIONS.choice(method).work(adapters)


def check(adapters: Sequence[Adapter], method: str | FusionMethod = "gradient") -> None:
    """Refuses adapters that cannot be fused.

    Raises:
      ValueError: fewer than two, one without a LoRA or with a ControlNet, two with the same new token, or what the method
        refuses; one line.
    """
    if len(adapters) < 2:
        raise ValueError("fusing needs two LoRAs or more")
    if not all(adapter.loras for adapter in adapters) or any(adapter.control for adapter in adapters):
        raise ValueError("only LoRAs are fused: use ControlNets and new tokens alone beside one another as they are")
    tokens = [token for adapter in adapters for token in adapter.new_tokens]
    if twice := {token for token in tokens if tokens.count(token) > 1}:
        raise ValueError(
            f"two of the adapters have the new token {min(twice)!r}: train one with other `adapt.new.tokens`"
        )
    FUSIONS.choice(method).check(adapters)


def _check_networks(base, adapters):
    params = {"unet": base.params}
    if "text_encoder" in base.submodels:
        params["text"] = base.submodels["text_encoder"].params
    for adapter in adapters:
        for net, corrections in adapter.loras.items():
            lora.check(params.get(net, {}), corrections)
