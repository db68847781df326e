"""Trained models: those that ship with the package, by name; files of weights; and runs."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax import traverse_util

from jaxdiff import config as configs
from jaxdiff.config import Config
from jaxdiff.denoise import denoiser, network
from jaxdiff.errors import unknown
from jaxdiff.train import checkpoint, rundir, setup
from jaxdiff.types import Apply, Denoiser

SHIPPED = Path(__file__).parent / "weights"
ABOUT = ("step", "weights", "trained_on")


class Model(NamedTuple):
    """A trained network and what it was trained as.

    Attributes:
      config: of the run that it was trained in.
      params: its parameters, for a run the averaged ones (EMA), float32.
      about: where it came from: "model" or "run", "step", "weights" and "trained_on".
    """

    config: Config
    params: Any
    about: dict[str, Any]

    @property
    def apply(self) -> Apply:
        """The network as a function of its parameters."""
        return network(self.config.make_net())

    def denoiser(self) -> Denoiser:
        """The network as a `Denoiser`, a pytree; of a classifier there is none.

        Raises:
          ValueError: it is a classifier.
        """
        if self.config.classifies:
            raise ValueError("a classifier is no denoiser: its logits are model.apply(model.params, x_t, t)[0]")
        return denoiser(self.apply, self.params, self.config.diffusion.make_schedule(), self.config.diffusion.predict)


def names() -> list[str]:
    """The models that ship with the package.

    Example::

        >>> from jaxdiff import pretrained
        >>> "digits" in pretrained.names()
        True
    """
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def load(name: str) -> Model:
    """A trained model.

    Args:
      name: a directory that `jaxdiff train` has written, also gs://bucket/run, which is looked for first; a .safetensors
        file that `jaxdiff export` has written; or one of `names()`.

    Returns:
      `Model`.

    Raises:
      ValueError: there is none of that name, or the file holds none.
      OSError: a run without a checkpoint that can be read.

    Example::

        >>> import jax, jaxdiff
        >>> model = jaxdiff.pretrained.load("digits")
        >>> model.config.data.image_shape, model.config.net.num_classes
        ((28, 28, 1), 10)
        >>> x_t = jax.random.normal(jax.random.key(0), [1, 28, 28, 1])
        >>> seven = jaxdiff.Cond(label=jax.numpy.array([7]), vector=jax.numpy.zeros([1, 6]))
        >>> jax.eval_shape(model.denoiser(), x_t, 1000, seven).x0.shape
        (1, 28, 28, 1)
    """
    if (epath.Path(name) / "config.json").exists():
        config = runs_here(configs.read_run(name))
        restored = checkpoint.restore_ema(rundir.checkpoints(name), setup.param_shapes(config))
        about = {"run": str(name), "step": restored.step, "weights": "EMA", "trained_on": config.data.source}
        return Model(config, restored.tree, about)
    if name.endswith(".safetensors"):
        return read(name)
    if name in names():
        return read(SHIPPED / f"{name}.safetensors")
    if epath.Path(name).exists() or "/" in name:
        configs.read_run(name)  # which says what is missing
    raise unknown("model", name, names())


def read(path: epath.PathLike) -> Model:
    """The model in a .safetensors file that `write` has written.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is none, or not of this library, or its weights are not those of its config.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            flat = {key: file.get_tensor(key).astype(np.float32) for key in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no file of weights ({error})") from None
    if not {"config", "about"} <= set(metadata):
        raise ValueError(f"{path} does not say what network it is of: give a file that jaxdiff export has written")
    config = runs_here(configs.from_json(metadata["config"], where=f"the config in {path}"))
    like = traverse_util.flatten_dict(setup.param_shapes(config), sep="/")
    wrong = [key for key in {**like, **flat} if getattr(like.get(key), "shape", None) != np.shape(flat.get(key))]
    if wrong:
        raise ValueError(f"{path} does not fit its own config: {len(wrong)} of its weights, the first being {wrong[0]}")
    said = json.loads(metadata["about"])
    if not isinstance(said, dict) or not set(ABOUT) <= set(said):
        raise ValueError(f"{path} does not say {', '.join(ABOUT)}: give a file that jaxdiff export has written")
    about = {"model": Path(path).stem} | {key: said[key] for key in ABOUT}
    return Model(config, traverse_util.unflatten_dict(flat, sep="/"), about)


def write(path: epath.PathLike, model: Model, dtype: str = "float16") -> None:
    """Writes a model as one .safetensors file: weights, config, and what it is.

    Args:
      path: file to write.
      model: from `load`.
      dtype: of the weights in the file, "float16" or "float32".

    Raises:
      ValueError: weights that are too large for the dtype.
    """
    flat = traverse_util.flatten_dict(model.params, sep="/")
    with np.errstate(over="ignore"):  # of which is told below
        flat = {key: np.ascontiguousarray(np.asarray(value).astype(dtype)) for key, value in flat.items()}
    if not all(np.isfinite(value).all() for value in flat.values()):
        raise ValueError(f"some weights are not finite as {dtype}: choose float32")
    about = {key: model.about[key] for key in ABOUT}
    metadata = {"config": json.dumps(dataclasses.asdict(model.config)), "about": json.dumps(about)}
    epath.Path(path).write_bytes(safetensors.numpy.save(flat, metadata))


def runs_here(config: Config) -> Config:
    """The same with a program for attention that these devices have; the parameters know nothing of that."""
    try:
        config.net.check_platform(jax.default_backend())
    except ValueError:
        logging.getLogger("jaxdiff").info(
            "attention is 'plain' here, and was %r in training", config.net.attention_kernel
        )
        return dataclasses.replace(config, net=dataclasses.replace(config.net, attention_kernel="plain"))
    return config
