"""Runs as models: the newest averaged weights of a run's checkpoints, and the frozen models beside them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxdiff import config as configs
from jaxdiff import meshes, sharding
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.config import Config, Latent
from jaxdiff.files import read_json, read_text
from jaxdiff.model import adaptation, files
from jaxdiff.model.adapters import with_adapter
from jaxdiff.model.model import Model, Origin
from jaxdiff.model.params import as_those, codebook_size, dtype_of, model_params, trained_shapes
from jaxdiff.text import tokenizer
from jaxdiff.text.tokenizer import Tokenizer

SUBMODELS = {  # names of the files beside a run's checkpoints
    "codec": "codec",
    "text_encoder": "text",
    "second_text_encoder": "second_text",
}


def holds_run(run: epath.PathLike) -> bool:
    """Whether a directory was written by `jaxdiff train`."""
    return (epath.Path(run) / "config.json").exists()


def checkpoint_dir(run: epath.PathLike) -> epath.Path:
    """The directory of a run's checkpoints."""
    return epath.Path(run) / "checkpoints"


def read(run: epath.PathLike, dtype: str = "float32", placement=None) -> Model:
    """Reads the model of a run's newest checkpoint, see `jaxdiff.load`; of an adaptation, the base with it.

    Raises:
      ValueError, OSError: as `jaxdiff.load`.
    """
    run, config = epath.Path(run), files.runs_here(configs.read_run(run))
    base = kept_base(run, dtype, placement) if config.adapt.base else None
    step, params, codebook = averaged(run, config, base)
    origin = Origin(run.name, step, "EMA", str(config.data.source), str(run))
    if base:
        return adapted(config, params, base).replace(origin=origin)
    submodels, words = frozen_models(run, dtype, placement)
    params = on_devices(model_params(config, params, codebook), dtype, placement)
    config = files.in_dtype(config, dtype)
    return Model(config=config, params=params, submodels=submodels, tokenizer=words, origin=origin)


def on_devices(params, dtype: str = "float32", placement=None):
    """Parameters of a checkpoint on the devices, in a dtype."""
    put = lambda path, leaf: sharding.placed(meshes.path_of(path), np.asarray(leaf, jnp.dtype(dtype)), placement)
    return jax.tree_util.tree_map_with_path(put, params)


def averaged(run: epath.PathLike, config: Config, base: Model | None):
    """The newest checkpoint of a run: its step, its averaged parameters, and its codebook, None without one."""
    from jaxdiff.model import checkpoints as reader  # imports Orbax

    like = adaptation.trained_shapes(config, base) if base else trained_shapes(config)
    # As they are saved, also where the base is bfloat16.
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), like)
    if not codebook_size(config):
        found = reader.restore_ema(checkpoint_dir(run), like)
        return found.step, found.tree, None
    found = reader.restore_raw(checkpoint_dir(run), like)  # of codebooks there is no average
    return found.step, found.tree["ema"], found.tree["rest"]["extra"]["words"]


def adapted(config: Config, trained, base: Model) -> Model:
    """A base model with the outcome of its adaptation, in the base's dtype and on its devices.

    Args:
      config: config of the run.
      trained: trained parameters, see `jaxdiff.model.adaptation`; for sampling, their average.
      base: base model.
    """
    if "unet" in trained:
        base = base.replace(params=as_those(trained["unet"], base.params))
    if "text" in trained:
        text = base.submodels["text_encoder"]
        text = text.replace(params=as_those(trained["text"], text.params))
        base = base.replace(submodels={**base.submodels, "text_encoder": text})
    model = with_adapter(base, adaptation.adapter(config, trained))
    config = dataclasses.replace(config, adapt="none")
    return model.replace(config=files.in_dtype(config, dtype_of(base.params)))


def frozen_models(
    run: epath.PathLike, dtype: str = "float32", placement=None
) -> tuple[dict[str, Model], Tokenizer | None]:
    """The submodels and the tokenizer that a run keeps beside its checkpoints."""
    run = epath.Path(run)
    paths = {name: run / f"{file}.safetensors" for name, file in SUBMODELS.items()}
    submodels = {name: files.read(path, dtype, placement) for name, path in paths.items() if path.exists()}
    path = run / "tokenizer.json"
    return submodels, tokenizer.from_json(read_text(path)) if path.exists() else None


def check_kept(run: epath.PathLike, latent: Latent, *more: str) -> None:
    """Raises ValueError if a run has lost one of its copies: of the models that `latent` names, and more."""
    names = [*more, *(file for name, file in SUBMODELS.items() if getattr(latent, name))]
    if lost := [f"{name}.safetensors" for name in names if not (epath.Path(run) / f"{name}.safetensors").exists()]:
        raise ValueError(f"{run} has lost its {' and '.join(lost)}, without which it cannot go on")


def kept_base(run: epath.PathLike, dtype: str = "float32", placement=None) -> Model:
    """The copy of the base model that a run keeps, with its submodels.

    Raises:
      ValueError: the run has lost it.
    """
    run = epath.Path(run)
    check_kept(run, configs.read_run(run).latent, "base")
    base = files.read(run / "base.safetensors", dtype, placement)
    return base.replace(submodels=frozen_models(run, dtype, placement)[0])


def kept_prompts(run: epath.PathLike) -> list[str]:
    """Some of the captions that a run adapts its base model to.

    Raises:
      ValueError: the file is not JSON, or no list of texts.
    """
    path = epath.Path(run) / "prompts.json"
    prompts = read_json(path) if path.exists() else []
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"{path} must hold a list of texts")
    return prompts


def adapter_of(run: epath.PathLike) -> Adapter | None:
    """The adapter of a run's newest checkpoint; None if this is not a run, or if all weights were trained."""
    if not holds_run(run):
        return None
    config = configs.read_run(run)
    if config.adapt.base is None or config.adapt.kind == "dreambooth":
        return None
    _, trained, _ = averaged(run, config, kept_base(run))
    return adaptation.adapter(config, trained, kept_prompts(run))
