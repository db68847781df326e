"""Fusion methods, each a dataclass of its own options; and the plainest of them."""

import dataclasses
from collections.abc import Callable, Sequence

from jaxdiff.adapt import fuse
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.adapt.lora import Lora
from jaxdiff.model import Model
from jaxdiff.registry import Choice, Registry

FUSIONS = Registry("fusion method")


@dataclasses.dataclass(frozen=True)
class FusionMethod(Choice):
    """Base of the fusion methods: frozen dataclasses of their own options, registered in `FUSIONS`."""

    def check(self, adapters: Sequence[Adapter]) -> None:
        """Raises ValueError for options that are out of range, or adapters that the method cannot fuse."""

    def check_base(self, base: Model) -> None:
        """Raises ValueError for a base model that the method cannot work with."""

    def work(self, adapters: Sequence[Adapter]) -> int:
        """Number of steps that `fuse` reports in all."""
        return 0

    def fuse(self, base: Model, adapters: Sequence[Adapter], tick: Callable[[int], None]) -> dict[str, Lora]:
        """Returns the fused LoRA of each network that one of the adapters corrects; calls `tick` with numbers of steps."""
        raise NotImplementedError


@FUSIONS.register("average")
@dataclasses.dataclass(frozen=True)
class Average(FusionMethod):
    """The mean of the corrections, which keeps a share of each concept."""

    def fuse(self, base, adapters, tick):
        return {net: fuse.averaged(loras) for net, loras in loras_of(adapters).items()}


def loras_of(adapters: Sequence[Adapter]) -> dict[str, list[Lora]]:
    """The adapters' LoRAs of each network that one of them corrects, the text encoder first; of the others an empty one."""
    nets = [net for net in ("text", "unet") if any(net in adapter.loras for adapter in adapters)]
    return {net: [adapter.loras.get(net, Lora({}, {})) for adapter in adapters] for net in nets}


def in_turn(adapters: Sequence[Adapter], name: str) -> list[str]:
    """Prompts in the adapters' metadata without repetitions, one of each adapter after the other."""
    lists = [adapter.metadata.get(name, ()) for adapter in adapters]
    longest = max(map(len, lists), default=0)
    return [*dict.fromkeys(prompts[i] for i in range(longest) for prompts in lists if i < len(prompts))]
