"""Files written whole or not at all."""

from etils import epath


def write_whole(path: epath.PathLike, content: bytes) -> None:
    """Writes a file whole or not at all; a file that is there is replaced at the end.

    Args:
      path: the file, also gs://bucket/file.
      content: its bytes.
    """
    path = epath.Path(path)
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_bytes(content)
    unfinished.replace(path)
