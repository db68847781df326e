"""Models as .safetensors files: weights, config, provenance, tokenizer and submodels in one file."""

import contextlib
import dataclasses
import json
import logging
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import safetensors
import safetensors.numpy
from etils import epath
from flax import traverse_util

from jaxdiff import config as configs
from jaxdiff import disk, sharding, tensor_files
from jaxdiff.config import Config
from jaxdiff.files import check_regular, write_whole
from jaxdiff.model.model import Model, Origin
from jaxdiff.model.params import param_shapes
from jaxdiff.paths import as_path
from jaxdiff.text import tokenizer

log = logging.getLogger("jaxdiff")
ORIGIN = ("step", "weights", "trained_on")  # fields of `Origin` that a file keeps
EARLIER = {"text": "text_encoder"}  # names that submodels had in version 0.1
DTYPES = ("float32", "bfloat16", "float16")
WRITTEN = ("float16", "float32")


def read(path: epath.PathLike, dtype: str = "float32", placement=None) -> Model:
    """Reads a model that `write` has written, tensor by tensor, onto the devices.

    Args:
      path: the file, also gs://bucket/file.
      dtype: dtype of the weights on the devices, "float32", "bfloat16" or "float16".
      placement: device, sharding or mesh of the weights, see `sharding.placed`; by default a copy on each local device.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: another kind of file, weights that do not fit its own config, or a damaged file; nothing is loaded then.
    """
    check_dtype(dtype)
    with opened(path) as file:
        header = _header_of(path, file)
        sums = tensor_files.checksums_of(header)
        found = {name.removesuffix(":"): said for name, said in submodels_of(header).items()}
        owners = {key: next((name for name in found if key.startswith(f"{name}:")), "") for key in file.keys()}

        def one(name, header):
            keys = {key.removeprefix(f"{name}:"): key for key, owner in owners.items() if owner == name}
            return _model(path, file, keys, header, sums, jnp.dtype(dtype), placement)

        submodels = {EARLIER.get(name, name): one(name, said) for name, said in found.items()}
        return one("", header).replace(submodels=submodels)


def check_dtype(dtype: str) -> None:
    """Raises ValueError unless weights can be loaded in this dtype."""
    if dtype not in DTYPES:
        raise ValueError(f"`dtype`={dtype!r} must be one of {', '.join(DTYPES)}")


@contextlib.contextmanager
def opened(path: epath.PathLike):
    """Opens a .safetensors file, whose tensors are then read one by one; a remote one is copied to a local disk first.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it is a pipe or a device.
      ValueError: it is of another kind.
    """
    path = as_path(path)
    check_regular(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    with contextlib.ExitStack() as stack:
        local = path
        if disk.is_remote(path):
            local = Path(stack.enter_context(tempfile.TemporaryDirectory())) / path.name
            path.copy(local)
        try:
            file = stack.enter_context(safetensors.safe_open(str(local), framework="numpy"))
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is not a file of weights ({error})") from None
        yield file


def header_of(path: epath.PathLike) -> dict[str, str]:
    """The metadata of a .safetensors file, without its tensors; ValueError where it is damaged."""
    with opened(path) as file:
        return _header_of(path, file)


def _header_of(path, file):
    header = file.metadata() or {}
    with _named(path):
        tensor_files.checksums_of(header)
    return header


@contextlib.contextmanager
def _named(path):
    """Errors of a damaged file name it."""
    try:
        yield
    except tensor_files.Damaged as error:
        raise ValueError(f"{path} is damaged ({error}): export or copy it again") from None


def _tensor(path, file, key, sums):
    value = file.get_tensor(key)
    with _named(path):
        tensor_files.check(sums, {key: value})
    return value


def submodels_of(header: dict[str, str]) -> dict[str, dict[str, str]]:
    """The headers of a file's submodels, by name."""
    return json.loads(header.get("submodels", header.get("parts", "{}")))


def _model(path, file, keys, header, sums, dtype, placement):
    """The model with this header, of the tensors that `keys` lists by their paths, and `sums` their checksums."""
    if not {"config", "about"} <= set(header):
        raise ValueError(f"{path} does not say what network it is of: give a file that jaxdiff export has written")
    config = runs_here(configs.from_json(header["config"], where=f"the config in {path}"))
    like = traverse_util.flatten_dict(param_shapes(config), sep="/")
    shapes = {name: tuple(file.get_slice(key).get_shape()) for name, key in keys.items()}
    wrong = [name for name in {**like, **shapes} if getattr(like.get(name), "shape", None) != shapes.get(name)]
    if wrong:
        raise ValueError(f"{path} does not fit its own config: {len(wrong)} of its weights, the first being {wrong[0]}")
    about = json.loads(header["about"])
    if not isinstance(about, dict) or not set(ORIGIN) <= set(about):
        raise ValueError(f"{path} does not say {', '.join(ORIGIN)}: give a file that jaxdiff export has written")
    flat = {
        name: sharding.placed(name, _tensor(path, file, key, sums).astype(dtype), placement)
        for name, key in keys.items()
    }
    return Model(
        config=in_dtype(config, dtype),
        params=traverse_util.unflatten_dict(flat, sep="/"),
        origin=Origin(Path(path).stem, **{name: about[name] for name in ORIGIN}),
        tokenizer=tokenizer.from_json(header["tokenizer"]) if "tokenizer" in header else None,
    )


def write(path: epath.PathLike, model: Model, dtype: str = "float16") -> None:
    """Writes a model as one .safetensors file, whole or not at all.

    Args:
      path: file to write, also gs://bucket/file.
      model: from `jaxdiff.load`; its ControlNets are not written.
      dtype: dtype of the weights in the file, "float16" or "float32".

    Raises:
      ValueError: another dtype or ending; weights that are not finite, too large for the dtype, or that were rounded to
        bfloat16 when they were loaded.
    """
    if dtype not in WRITTEN:
        raise ValueError(f"`dtype`={dtype!r} must be one of {', '.join(WRITTEN)}")
    if as_path(path).suffix != ".safetensors":
        raise ValueError(f"{path} must end in .safetensors")
    if any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(model)):
        raise ValueError(
            f"{model.config.name} was rounded to bfloat16 when it was loaded: load it in float32 to write it"
        )
    flat, headers = _flat("", model), {}
    for name, submodel in model.submodels.items():
        flat |= _flat(f"{name}:", submodel)
        headers[name] = _header(submodel)
    flat = {key: tensor_files.in_dtype(key, value, dtype) for key, value in flat.items()}
    header = _header(model) | ({"submodels": json.dumps(headers)} if headers else {})
    write_whole(path, safetensors.numpy.save(flat, tensor_files.with_checksums(flat, header)))


def _flat(prefix, model):
    return {f"{prefix}{key}": value for key, value in traverse_util.flatten_dict(model.params, sep="/").items()}


def _header(model):
    about = {name: getattr(model.origin, name) for name in ORIGIN}
    header = {"config": configs.to_json(model.config), "about": json.dumps(about)}
    return header | ({"tokenizer": tokenizer.to_json(model.tokenizer)} if model.tokenizer else {})


def in_dtype(config: Config, dtype) -> Config:
    """The config of a network that computes in the dtype of its weights; float32 leaves it as it is."""
    if jnp.dtype(dtype) != jnp.bfloat16:
        return config
    return dataclasses.replace(config, net=config.net.in_dtype("bfloat16"))


def runs_here(config: Config) -> Config:
    """The config with an attention kernel that these devices have; the weights are the same."""
    try:
        config.net.check_platform(jax.default_backend())
    except ValueError:
        net = config.net.without_kernels()
        log.info("attention is 'plain' here, and was %r in training", getattr(config.net, "attention_kernel", None))
        return dataclasses.replace(config, net=net)
    return config
