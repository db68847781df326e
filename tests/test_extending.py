"""Samplers, guidances, data sources and networks from outside of the package, used from the command line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TOYS = '''
"""A toy of each sort that can be added."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.tree_util import Partial

from jaxdiff import guidance
from jaxdiff.data import SOURCES, Source
from jaxdiff.guidance import GUIDANCES
from jaxdiff.nets.spec import NETS, DenoiserSpec
from jaxdiff.samplers import SAMPLERS, Sampler, State


@SAMPLERS.register("toy_sampler")
def toy_sampler(share: float = 0.5) -> Sampler:
    """Sampler that moves to a mixture of x and the predicted x0.

    Args:
      share: share of x0.
    """
    return Sampler(Partial(State), Partial(_step, jnp.asarray(share)))


def _step(share, keys, denoise, schedule, state, t, s, cond):
    prediction = denoise(state.x, t, cond)
    return State((1 - share) * state.x + share * prediction.x0), prediction


@GUIDANCES.register("toy_guidance")
def toy_guidance(denoise, schedule, scale, rescale, power: float = 2.0):
    """Guidance with a power of the scale.

    Args:
      power: the power.
    """
    return guidance.cfg(denoise, scale**power)


@SOURCES.register("toy_source")
def toy_source(image_shape, count: str = "3", grey: int = 7) -> Source:
    """Source of equal grey images.

    Args:
      count: how many.
      grey: their value.
    """
    shape = image_shape or (8, 8, 1)
    return Source(lambda i: {"image": np.full(shape, grey, np.uint8), "label": i % 2}, int(count), shape, ("a", "b"))


class ToyNet(nn.Module):
    """One 1x1 convolution, with a bias for each label."""

    config: "ToyConfig"

    @nn.compact
    def __call__(self, x, t, cond=None, keys=None):
        bias = nn.Embed(self.config.num_classes + 1, self.config.out_channels)(cond.label)
        return nn.Conv(self.config.out_channels, (1, 1))(x) + bias[:, None, None]


@NETS.register("toy_net")
@dataclasses.dataclass(frozen=True)
class ToyConfig(DenoiserSpec):
    """Specification of a `ToyNet`.

    Attributes:
      out_channels: channels of the output.
      num_classes: labels.
    """

    out_channels: int = 1
    num_classes: int = 2

    def make(self):
        return ToyNet(self)
'''

CONFIG = """
from jaxdiff.config import Config, Data, Diffusion, Optim, Sample, Train


def get_config():
    return Config(
        name="toy",
        data=Data(source="toy_source:5", image_shape=(8, 8, 1)),
        diffusion=Diffusion(num_levels=20, cond_dropout=0.1),
        optim=Optim(warmup=0),
        train=Train(steps=2, batch_size=8, log_every=1, save_every=2),
        sample=Sample(steps=2, num=2, batch_size=8),
    )
"""

PROGRAM = """
import sys
import numpy as np
from jaxdiff import cli

def run(*args):
    cli.main(["--import", "toys.py", *args])

run("train", "toy.py", "--net", "toy_net", "--run-dir", "run", "--data.source.grey", "9")
run("sample", "run", "--sampler", "toy_sampler", "--share", "0", "--out", "a.png", "--npz")
run("sample", "run", "--sampler", "toy_sampler", "--share", "0.9", "--guidance", "2", "--out", "b.png", "--npz")
run("sample", "run", "--sampler", "toy_sampler", "--share", "0.9", "--guidance", "2", "--guide", "toy_guidance",
    "--guide.power", "3", "--out", "c.png", "--npz")
a, b, c = (np.load(f"{name}.npz")["images"] for name in "abc")
assert (a != b).any() and (b != c).any()
from jaxdiff import config
assert config.read_run("run").data.source.grey == 9 and config.read_run("run").net.kind == "toy_net"
"""


def test_a_toy_of_each_from_outside_of_the_package(tmp_path):
    (tmp_path / "toys.py").write_text(TOYS)
    (tmp_path / "toy.py").write_text(CONFIG)
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_model_of_a_kind_that_is_not_registered_is_refused_by_name(tmp_path):
    from jaxdiff import config

    text = config.to_json(config.Config()).replace('"kind": "unet"', '"kind": "toy_net"')
    with pytest.raises(ValueError, match="unknown network 'toy_net'"):
        config.from_json(text)


# Files that each of these has: its own, its test, and those of its family that export or specify it. Pages of the
# documentation, configs and benchmarks are not counted.
COUNTED = {
    "a sampler": (r"\breverse_diffusion\b", "jaxdiff/samplers/sde.py", 1),
    "a guidance": (r"\bstepped_scale\b", "jaxdiff/guidance/scaled.py", 1),
    "a data source": (r"\boutlined\b", "jaxdiff/data/sources/outlined.py", 1),
}


@pytest.mark.parametrize("pattern, own, most", COUNTED.values(), ids=COUNTED)
def test_files_of_the_package_that_name_a_choice(pattern, own, most):
    files = [path for path in (ROOT / "jaxdiff").rglob("*.py") if re.search(pattern, path.read_text())]
    assert ROOT / own in files and len(files) <= most, files
