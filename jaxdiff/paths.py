"""Paths as people give them: of a disk, with ~, or of a bucket; addresses of the web are refused with what to do."""

import os
import re
import urllib.parse

from etils import epath

WEB = re.compile(r"(?i)(https?|ftps?|sftp):/")  # one slash, for pathlib has taken the other
FILE = re.compile(r"(?i)file:/+(localhost(?=/))?")
HUB = re.compile(r"(?i)((https?:/+)?(www\.)?(huggingface\.co|hf\.co)|hf:/)/(?P<rest>.*)")
BUCKETS = {"gs": "gs", "gcs": "gs", "s3": "s3", "s3a": "s3"}  # also as other tools write them


def as_path(path: epath.PathLike, hub: bool = False) -> epath.Path:
    """The path that a text names, with ~ expanded.

    Args:
      path: on a disk, or in a bucket such as gs://bucket/file.
      hub: names of the Hugging Face Hub are taken here, so that its addresses are answered by them.

    Raises:
      ValueError: an address of the web or of an unknown kind, or a home directory that does not exist; the message says
        what to give.

    Example::

        >>> from jaxdiff.paths import as_path
        >>> as_path("https://huggingface.co/org/name/tree/main", hub=True)
        Traceback (most recent call last):
        ValueError: https://huggingface.co/org/name/tree/main is an address of the web: give hf:org/name
    """
    text = os.fspath(path)
    if problem := _problem(text, hub):
        raise ValueError(f"{text} is {problem}")
    try:
        found = epath.Path(path).expanduser()
    except KeyError:
        raise ValueError(f"{text} is an address of an unknown kind: gs:// and s3:// are known") from None
    if os.fspath(found).startswith("~"):
        raise ValueError(f"there is no home directory for {text}")
    return found


def check_path(name: str, path: str | bytes | os.PathLike) -> str | os.PathLike:
    """A path as given; one of bytes, as of `os.listdir(b".")`, as text.

    Args:
      name: of the argument, for the error.
      path: what was given.

    Raises:
      ValueError: it is no path, or empty, or holds a null byte.

    Example::

        >>> from jaxdiff.paths import check_path
        >>> check_path("`path`", b"a.safetensors"), check_path("`path`", 5)
        Traceback (most recent call last):
        ValueError: `path` must be a name or a path, not 5
    """
    if not isinstance(path, str | bytes | os.PathLike) or not os.fspath(path):
        raise ValueError(f"{name} must be a name or a path, not {path!r}")
    if "\0" in os.fsdecode(path):
        raise ValueError(f"{name} must be a name or a path, and {path!r} holds a null byte")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be a name or a path, and {path!r} holds half of a character") from None
    return os.fsdecode(path) if isinstance(path, bytes) else path


def _problem(text, hub):
    """The kind of an address that is no path, and the remedy; "" for others."""
    if hub and (name := hub_name(text)) and not os.path.exists(text):
        return f"an address of the web: give {name}"
    if WEB.match(text):
        return "an address of the web, which is neither read nor written: download it first, and give its path"
    if found := FILE.match(text):
        return f"an address: give the path /{urllib.parse.unquote(text[found.end() :].lstrip('/'))}"
    scheme, marks, rest = text.partition("://")
    if marks and scheme not in ("gs", "s3", "az") and (known := BUCKETS.get(scheme.lower())):
        return f"an address of an unknown kind: give {known}://{rest}"
    if marks or not (bucket := re.match(r"(gs|s3):/+", text)) or os.path.exists(text[: bucket.end()]):
        return ""
    return f"a path on a disk: give {bucket[1]}://{text[bucket.end() :]}"


def hub_name(address: str) -> str:
    """The name hf:ORG/NAME[@REVISION][:FILE] of a model's page or file on the Hugging Face Hub; "" of other addresses.

    Example::

        >>> from jaxdiff.paths import hub_name
        >>> hub_name("https://huggingface.co/org/name/resolve/main/lora.safetensors?download=true")
        'hf:org/name:lora.safetensors'
    """
    if not (found := HUB.fullmatch(address.removeprefix("hf:") if "://" in address[3:] else address)):
        return ""
    words = [urllib.parse.unquote(word) for word in re.split("[?#]", found["rest"])[0].split("/") if word]
    if len(words) < 2 or words[0] in ("datasets", "spaces", "docs", "papers", "collections"):
        return ""
    at, inside = words[3:4] if words[2:3] and words[2] in ("tree", "blob", "resolve", "raw") else [], words[4:]
    revision = f"@{at[0]}" if at and at[0] != "main" else ""
    return f"hf:{words[0]}/{words[1]}{revision}" + (f":{'/'.join(inside)}" if inside and words[2] != "tree" else "")
