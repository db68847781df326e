"""The training steps of a run: one for each shape of its images, compiled when the first batch of it comes."""

import logging

from jaxdiff import hosts
from jaxdiff.config import Config
from jaxdiff.model.frozen_models import FrozenModels
from jaxdiff.train import setup

log = logging.getLogger("jaxdiff")


class CompiledSteps:
    """A training step (state, key, batch) -> (state, metrics) for batches of every shape that was prepared.

    Args:
      config: config of the run.
      frozen: its frozen models.
      kept: file of a step that was compiled before, see `kept_step`; "" for none.

    Attributes:
      flops: of one step on one device, the average of the calls so far; None if unknown.
    """

    def __init__(self, config: Config, frozen: FrozenModels, kept: str = ""):
        self.config, self.frozen, self.kept = config, frozen, kept
        self.flops, self.calls, self._steps = None, 0, {}

    def prepare(self, state, key, batch) -> float:
        """Compiles the step for batches of this shape, unless it is there; all processes must call it together.

        Returns:
          Seconds that it took.
        """
        shape = batch["image"].shape
        if shape in self._steps:
            return 0.0
        make = lambda: setup.compiled(self.config, state, key, batch, self.frozen, self.kept)
        # One that is kept is taken by all processes or none, which they settle while it is read.
        step, flops, seconds = make() if self.kept else hosts.together(make, "it is compiled")
        if self._steps:
            log.info("compiled for images of %s in %.0f s", "x".join(map(str, shape[-3:-1])), seconds)
        else:
            self.flops = flops
        self._steps[shape] = step, flops
        return seconds

    def __call__(self, state, key, batch):
        step, flops = self._steps[batch["image"].shape]
        self.calls += 1
        self.flops = flops if self.flops is None or flops is None else self.flops + (flops - self.flops) / self.calls
        return step(state, key, batch)
