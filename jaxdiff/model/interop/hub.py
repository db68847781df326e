"""Models by their names on the Hugging Face Hub, such as hf:org/name: only what is read is fetched, and never a pickle."""

import fnmatch
import logging
import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from jaxdiff.model.interop.weights import chosen

log = logging.getLogger("jaxdiff")
NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+?))?(:(?P<file>[\w./-]+))?")
TEXTS = "*.json", "merges.txt", "*/config.json", "scheduler/*.json", "tokenizer*/*.json", "tokenizer*/merges.txt"
NETWORKS = "unet", "vae", "vqvae", "text_encoder", "text_encoder_2", ""  # folders; "" is a network alone


class Name(NamedTuple):
    """A name on the Hub.

    Attributes:
      repo: repository, such as "org/name".
      revision: branch, tag or commit; None is the main one.
      file: file in it, such as "lora.safetensors"; None is all of a pipeline or a network.
    """

    repo: str
    revision: str | None = None
    file: str | None = None


def parsed(name: str) -> Name:
    """A name hf:ORG/NAME[@REVISION][:FILE] taken apart.

    Raises:
      ValueError: another form.

    Example::

        >>> from jaxdiff.model.interop import hub
        >>> hub.parsed("hf:org/name@fp16:loras/a.safetensors")
        Name(repo='org/name', revision='fp16', file='loras/a.safetensors')
    """
    if not (found := NAME.fullmatch(name)):
        raise ValueError(f"{name} must be of the form hf:ORG/NAME, hf:ORG/NAME@REVISION or hf:ORG/NAME:FILE")
    return Name(found["repo"], found["revision"], found["file"])


def local(name: str) -> str:
    """The path of a model or an adapter of the Hub on this machine, which is fetched where it is not in the cache.

    Args:
      name: see `parsed`. With HF_HUB_OFFLINE=1 only the cache is looked at.

    Raises:
      ValueError: another form of name, or no huggingface_hub.
      OSError: it is not there, or cannot be reached.
    """
    wanted = parsed(name)
    if wanted.file and not wanted.file.endswith((".safetensors", ".json")):
        raise ValueError(f"{name}: only .safetensors files are read, because others can run code")
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError:
        raise ValueError(f"{name} is fetched by huggingface_hub: pip install huggingface_hub") from None
    offline = is_offline()
    try:
        if wanted.file and not offline:
            return hub.hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision)
        if not offline:
            listed = hub.list_repo_files(wanted.repo, revision=wanted.revision)
            files = read_of(listed) or [file for file in listed if file.endswith(".safetensors") and "/" not in file]
            return _alone(hub.snapshot_download(wanted.repo, revision=wanted.revision, allow_patterns=files))
    except Exception as error:  # of huggingface_hub, or of the library by which it reaches the Hub
        log.info(
            "%s: the Hub says %s; the cache is looked at", name, str(error).partition("\n")[0] or type(error).__name__
        )
    try:
        if wanted.file:
            return hub.hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision, local_files_only=True)
        return _alone(hub.snapshot_download(wanted.repo, revision=wanted.revision, local_files_only=True))
    except (OSError, errors.LocalEntryNotFoundError):
        raise FileNotFoundError(f"{name} is not in the cache{'' if offline else ', and not on the Hub'}") from None


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set to true, as huggingface_hub reads it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _alone(folder):
    """The only file of weights of a repository that holds no more, such as a LoRA; else the folder."""
    inside = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    weights = [name for name in inside if name.endswith(".safetensors")]
    configs = any(name in inside for name in ("model_index.json", "config.json"))
    return os.path.join(folder, weights[0]) if len(weights) == 1 and not configs else folder


def read_of(files: Iterable[str]) -> list[str]:
    """The files of a repository that are read: configs, tokenizers, and one set of weights of each network.

    Example::

        >>> from jaxdiff.model.interop import hub
        >>> files = ["model_index.json", "unet/config.json", "v1.ckpt", "unet/diffusion_pytorch_model.bin"]
        >>> files += [f"unet/diffusion_pytorch_model{kind}.safetensors" for kind in ("", ".fp16", ".non_ema")]
        >>> hub.read_of(files)
        ['model_index.json', 'unet/config.json', 'unet/diffusion_pytorch_model.safetensors']
    """
    files, found = sorted(files), []
    found += [file for file in files if any(fnmatch.fnmatch(file, pattern) for pattern in TEXTS)]
    found = [file for file in found if not file.endswith(".index.json") and file.count("/") < 2]
    for folder in NETWORKS:
        prefix = f"{folder}/" if folder else ""
        inside = [file.removeprefix(prefix) for file in files if file.startswith(prefix)]
        if name := chosen(name for name in inside if "/" not in name):
            found.append(prefix + name)
            if name.endswith(".json"):
                variant = name.removesuffix(".json").partition(".index")[2]
                shards = rf"{re.escape(name.partition('.')[0])}{re.escape(variant)}-\d+-of-\d+(\.\w+)?\.safetensors"
                found += [prefix + one for one in inside if re.fullmatch(shards, one)]
    return sorted(found)
