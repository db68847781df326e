"""Models and adapters by name: those that ship, files of weights, and runs."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence

import jax
from etils import epath
from jax.sharding import Mesh

from jaxdiff import config as configs
from jaxdiff import meshes
from jaxdiff.adapt.adapter import Adapter, from_bytes
from jaxdiff.arguments import check_type, plain
from jaxdiff.config import Config
from jaxdiff.errors import unknown
from jaxdiff.files import read_regular
from jaxdiff.model import files, runs, shipped
from jaxdiff.model.adapters import with_adapter
from jaxdiff.model.interop import clips, controlnets, embeddings, folder, hub, ip_adapters, loras, single_file, weights
from jaxdiff.model.model import Model, check_model
from jaxdiff.paths import as_path, check_path


def load(
    name: str,
    dtype: str = "float32",
    placement=None,
    *,
    mesh: Mesh | None = None,
    tokenizer: str | None = None,
    predict: str | None = None,
) -> Model:
    """Loads a trained model onto the devices.

    Args:
      name: directory that `jaxdiff train` has written, also gs://bucket/run, which is looked for first; .safetensors file
        that `jaxdiff export` has written; folder of a pipeline that diffusers has saved, or single .safetensors file of a
        Stable Diffusion, see `jaxdiff.model.interop`; "hf:org/name" of the Hugging Face Hub; or a name
        that ships, see `jaxdiff.model.names`.
      dtype: dtype of the weights on the devices, "float32", "bfloat16" or "float16"; with bfloat16 the network also
        computes in it.
      placement: device, sharding or mesh of the weights, see `sharding.placed`; by default a copy on each local device.
      mesh: from `jaxdiff.mesh`, over which large weights are split as they are read, and the images that are sampled; for
        models that no device can hold.
      tokenizer: of a single file, folder of its tokenizer; by default "tokenizer" beside it.
      predict: of a single file, kind of its prediction, "eps" or "v"; by default as its header says, or else "v" of Stable
        Diffusion 2 and "eps" of others.

    Returns:
      `Model`, a pytree.

    Raises:
      TypeError: `placement` is no device, sharding or mesh.
      ValueError: there is none of that name, or the file does not hold one.
      OSError: a run without a checkpoint that can be read.

    Example::

        >>> import jaxdiff
        >>> model = jaxdiff.load("digits")
        >>> model.image_shape, model.config.net.num_classes
        ((28, 28, 1), 10)
    """
    name = _as_name(name)
    files.check_dtype(dtype)
    if placement is not None and not isinstance(placement, jax.Device | jax.sharding.Sharding | Mesh):
        raise TypeError(
            f"`placement` must be a device, such as jax.devices('cpu')[0], a sharding or a mesh, not {placement!r}"
        )
    if mesh is not None:
        if placement is not None:
            raise ValueError("`mesh` says where the weights are: leave out `placement`")
        check_type("`mesh`", mesh, Mesh)
        meshes.check_local(mesh)
        placement = mesh
    if name.startswith("hf:"):
        model = load(hub.local(name), dtype, placement, tokenizer=tokenizer, predict=predict)
        return model.replace(config=_named(model.config, name), origin=dataclasses.replace(model.origin, name=name))
    if single_file.is_single_file(name):
        return single_file.read(name, dtype, placement, tokenizer, predict)
    if tokenizer or predict:
        raise ValueError(f"`tokenizer` and `predict` are for single files of others, and {name} is none")
    if folder.holds_pipeline(name):
        return folder.read(name, dtype, placement)
    if clips.holds_clip(name):
        return clips.read(name, dtype, placement)
    if folder.holds_autoencoder(name):
        return folder.read_autoencoder(name, dtype, placement)
    if runs.holds_run(name):
        return runs.read(name, dtype, placement)
    return files.read(_file(name), dtype, placement)


def load_config(name: str) -> Config:
    """The config of a model, named as for `load`, without its weights."""
    name = _as_name(name)
    if name.startswith("hf:"):
        return _named(load_config(hub.local(name)), name)
    if single_file.is_single_file(name):
        return single_file.read_config(name)
    if folder.holds_pipeline(name):
        return folder.read_config(name)
    if clips.holds_clip(name):
        return clips.read_config(name)
    if folder.holds_autoencoder(name):
        return folder.autoencoder_config(name)
    if runs.holds_run(name):
        return files.runs_here(configs.read_run(name))
    path = _file(name)
    header = files.header_of(path)
    if "config" not in header:
        raise ValueError(f"{path} does not say what network it is of: give a file that jaxdiff export has written")
    return files.runs_here(configs.from_json(header["config"], where=f"the config in {path}"))


def load_adapter(name: str, model: Model | None = None) -> Adapter:
    """Loads what was trained beside a base model: LoRAs, new tokens, a ControlNet.

    Args:
      name: run that has adapted a model, which is looked for first; .safetensors file that it has left or `jaxdiff export`
        has written; or a name that ships, see `jaxdiff.model.adapter_names`. With a model, also those of others, see
        `with_adapters`.
      model: base model, by which the layers of a published adapter are known.

    Returns:
      `adapt.adapter.Adapter`, for `with_adapter`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file holds no adapter, or there is none of that name.

    Example::

        >>> from jaxdiff import model
        >>> star = model.load_adapter("star")
        >>> star.metadata["base"], list(star.new_tokens)
        ('captioned', ['<star>'])
    """
    name = _as_name(name, "an adapter")
    if name.startswith("hf:"):
        return load_adapter(hub.local(name), model)
    path = as_path(name)
    weights.check_kind(path)
    if model and (theirs := _published(path)):
        return theirs.read(path, model)
    if runs.holds_run(path):
        if (adapter := runs.adapter_of(name)) is None:
            raise ValueError(f"{name} is a run that has learned a whole network: give it in place of the model")
        return adapter
    if name in shipped.adapter_names():
        path = epath.Path(shipped.ADAPTERS / f"{name}.safetensors")
    elif path.is_file() and path.suffix != ".safetensors":
        raise ValueError(f"{name} is no adapter: give a .safetensors file, a run, or a folder that diffusers has saved")
    elif name in shipped.names():
        raise ValueError(f"{name} is a model, and no adapter: give it in place of the model")
    elif "/" not in name and not name.endswith(".safetensors"):
        raise unknown("adapter", name, shipped.adapter_names())
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: give a run that has adapted a model, or its adapter.safetensors")
    content = read_regular(path)
    try:
        return from_bytes(content)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def _adapter_path(name):
    """The place of an adapter, by which two names of it are known."""
    name = os.path.expanduser(name)
    ships = name in shipped.adapter_names() and not runs.holds_run(epath.Path(name))
    return os.path.realpath(shipped.ADAPTERS / f"{name}.safetensors" if ships else name)


def is_published_adapter(name: str) -> bool:
    """Whether a file or folder is a LoRA, textual inversion or ControlNet in a layout of others."""
    return _published(_as_name(name, "an adapter")) is not None


def _published(path):
    return next((kind for kind in (loras, controlnets, embeddings) if kind.is_published(path)), None)


def with_adapters(
    model: Model,
    adapters: str | Sequence[str] | Mapping[str, float] = (),
    controlnet: str | Sequence[str] = (),
) -> Model:
    """A model with LoRAs, new tokens and ControlNets.

    Args:
      model: base model.
      adapters: LoRAs and new tokens, named as for `load_adapter`, or .safetensors files of LoRAs in the layouts of kohya's
        scripts, PEFT and diffusers, or of textual inversions; a mapping gives the weight of each LoRA, else 1.
      controlnet: ControlNets, named likewise, or folders that diffusers has saved.

    Returns:
      `Model`; LoRAs are merged into its weights, in the given order.

    Raises:
      ValueError, OSError: as `load_adapter` and `with_adapter`; the message names the adapter.

    Example::

        >>> import jaxdiff
        >>> model = jaxdiff.with_adapters(jaxdiff.load("captioned"), {"star": 0.8})
        >>> model.text_encoder.tokenizer.token_ids("a <star>") == model.text_encoder.tokenizer.token_ids("a") + [603]
        True
    """
    check_model(model)
    paths = {}
    weights = dict(adapters) if isinstance(adapters, Mapping) else {}
    asked = [("adapters", name, weights.get(name, 1.0)) for name in _names("adapters", adapters)]
    asked += [("controlnet", name, 1.0) for name in _names("controlnet", controlnet)]
    for argument, name, weight in asked:
        name = os.fspath(check_path(f"each of `{argument}`", name))
        weight = check_type(f"the weight of {name}", plain(weight), float)
        adapter = load_adapter(name, model)
        if argument == "adapters" and (before := paths.setdefault(_adapter_path(name), name)) != name:
            raise ValueError(f"{name} is the adapter {before}, too: give it once, with the sum of the weights")
        right = "adapters" if adapter.control is None else "controlnet"
        if argument != right:
            raise ValueError(f"{name} is {'not ' if right == 'adapters' else ''}a ControlNet: give it as `{right}`")
        if not math.isfinite(weight) or (weight != 1 and argument == "adapters" and not adapter.loras):
            raise ValueError(f"{name}: the weight {weight:g} must be finite, and new tokens alone have none")
        try:
            model = with_adapter(model, adapter, weight)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return model


def _names(argument, given):
    """One name or several as a list; None and "" are none."""
    if isinstance(given, str | bytes | os.PathLike):
        return [given] if given else []
    if not isinstance(given, Sequence | Mapping | None):
        raise ValueError(f"`{argument}` must be a name, or a list of them, not {type(given).__name__}")
    return list(given or ())


def with_ip_adapter(model: Model, name: str, image_encoder: str) -> Model:
    """A model that is also conditioned on pictures, as `image_prompt` of `jaxdiff.generate` (IP-Adapter, Ye et al. 2023).

    Args:
      model: text-to-image model.
      name: .safetensors file such as ip-adapter_sd15.safetensors, also hf:ORG/NAME:FILE.
      image_encoder: folder of the image encoder that reads the pictures.

    Raises:
      ValueError, OSError: files that are missing, or of another network.
    """
    check_model(model)
    name, image_encoder = _as_name(name, "`name`"), _as_name(image_encoder, "`image_encoder`")
    name = hub.local(name) if name.startswith("hf:") else name
    weights.check_kind(name)
    return ip_adapters.with_ip_adapter(model, name, image_encoder)


def _named(config, name):
    """The config of a model of the Hub, whose folder in the cache has no name of its own."""
    return dataclasses.replace(config, name=hub.parsed(name).repo.partition("/")[2])


def _as_name(name, what="a model"):
    name = check_path(what, name)
    as_path(name, hub=True)  # refuses what cannot be one
    return os.path.expanduser(os.fspath(name))  # which no shell does behind an equals sign


def _file(name):
    weights.check_kind(name)
    if name.endswith(".safetensors"):
        return epath.Path(name)
    if name in shipped.names():
        return epath.Path(shipped.WEIGHTS / f"{name}.safetensors")
    if epath.Path(name).is_file():
        raise ValueError(f"{name} is no model: give a .safetensors file, a run, or a folder that diffusers has saved")
    if epath.Path(name).exists() or "/" in name:
        configs.read_run(name)  # which says what is missing
    if name in shipped.adapter_names():
        about = load_adapter(name)
        base, argument = about.metadata["base"], "adapters" if about.control is None else "controlnet"
        raise ValueError(f"{name} is an adapter: give the model {base}, and {name} as `{argument}`")
    raise unknown("model", name, shipped.names())
