"""Trained models: those that ship with the package, by name; files of weights; and runs."""

from pathlib import Path

from etils import epath

from jaxdiff import config as configs
from jaxdiff.adapt import adapter as adapter_files
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.config import Config
from jaxdiff.errors import unknown
from jaxdiff.pretrained.adapted import adapted, trained, write_adapter
from jaxdiff.pretrained.files import PARTS, beside, keep, kept_base, kept_prompts, read, runs_here, write
from jaxdiff.pretrained.model import Model, text_of
from jaxdiff.train import adaptation, checkpoint, initial, rundir

__all__ = [
    "PARTS",
    "SHIPPED",
    "Model",
    "adapted",
    "adapter_names",
    "adapter_of",
    "beside",
    "keep",
    "kept_base",
    "kept_prompts",
    "load",
    "load_adapter",
    "load_config",
    "names",
    "read",
    "text_of",
    "trained",
    "write",
    "write_adapter",
]
SHIPPED = Path(__file__).parents[1] / "weights"


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
        return _of_run(epath.Path(name))
    if name.endswith(".safetensors"):
        return read(name)
    if name in names():
        return read(SHIPPED / f"{name}.safetensors")
    if epath.Path(name).exists() or "/" in name:
        configs.read_run(name)  # which says what is missing
    raise unknown("model", name, names())


def load_config(name: str) -> Config:
    """The config of a model, as `load` takes it; of a run without its weights."""
    if (epath.Path(name) / "config.json").exists():
        return runs_here(configs.read_run(name))
    return load(name).config


def adapter_names() -> list[str]:
    """The adapters that ship with the package, all of `captioned`.

    Example::

        >>> from jaxdiff import pretrained
        >>> "star" in pretrained.adapter_names()
        True
    """
    return sorted(path.stem for path in (SHIPPED / "adapters").glob("*.safetensors"))


def load_adapter(name: str) -> Adapter:
    """What was learned beside a model: LoRAs, new words, a ControlNet.

    Args:
      name: a run that has adapted a model, which is looked for first; a .safetensors file that it has left or `jaxdiff
        export` has written; or one of `adapter_names()`.

    Returns:
      `adapt.adapter.Adapter`, for `adapted`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is none, or there is none of that name.

    Example::

        >>> from jaxdiff import pretrained
        >>> star = pretrained.load_adapter("star")
        >>> star.metadata["base"], list(star.new_tokens)
        ('captioned', ['<star>'])
    """
    path = epath.Path(name)
    if (path / "config.json").exists():
        if (adapter := adapter_of(name)) is None:
            raise ValueError(f"{name} is a run that has learned a whole network: give it in place of the model")
        return adapter
    if name in adapter_names():
        path = epath.Path(SHIPPED / "adapters" / f"{name}.safetensors")
    elif "/" not in name and not name.endswith(".safetensors"):
        raise unknown("adapter", name, adapter_names())
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: give a run that has adapted a model, or its adapter.safetensors")
    try:
        return adapter_files.from_bytes(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def adapter_of(run: str) -> Adapter | None:
    """What a run has learned beside its base, by its newest checkpoint; None of no run, or one of a whole network."""
    if not (epath.Path(run) / "config.json").exists():
        return None
    config = configs.read_run(run)
    if config.adapt.base is None or config.adapt.method == "full":
        return None
    return adaptation.adapter(config, _averaged(epath.Path(run), config, kept_base(run)).tree, kept_prompts(run))


def _averaged(run, config, base=None):
    return checkpoint.restore_ema(rundir.checkpoints(run), initial.param_shapes(config, base))


def _of_run(run: epath.Path) -> Model:
    config, where = runs_here(configs.read_run(run)), rundir.checkpoints(run)
    base, extra = kept_base(run) if config.adapt.base else None, ()
    if config.reconstruction.words:  # of which there is no average
        found = checkpoint.restore(where, initial.state_shapes(config))
        ema, extra = found.tree.ema, found.tree.extra
    else:
        found = _averaged(run, config, base)
        ema = found.tree
    about = {"run": str(run), "step": found.step, "weights": "EMA", "trained_on": config.data.source}
    if base:
        return trained(config, ema, base)._replace(about=about)
    return Model(config, initial.weights(config, ema, extra), about, *beside(run))
