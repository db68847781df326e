"""Errors with the nearest valid choice."""

import contextlib
import difflib
import traceback
from collections.abc import Iterable, Iterator


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """Error for an unknown name, with the most similar known one if it is similar at all, see `nearest`.

    Args:
      kind: of thing that the name is for, such as "sampler".
      name: the unknown name.
      known: the valid names.

    Returns:
      `ValueError`, for the caller to raise.

    Example::

        >>> from jaxdiff.errors import unknown
        >>> unknown("sampler", "dim", ["ddim", "ddpm"])
        ValueError("unknown sampler 'dim': did you mean 'ddim'? (one of ddim, ddpm)")
    """
    known = list(known)
    if not known:
        return ValueError(f"unknown {kind} {name!r}: there is none")
    near = nearest(str(name), known)
    hint = "" if near is None else f": did you mean {near!r}?"
    return ValueError(f"unknown {kind} {name!r}{hint} (one of {', '.join(known)})")


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most similar to another, whatever its case and its dashes; None if none is similar.

    Args:
      name: the unknown name.
      known: the valid names.
      cutoff: least ratio of `difflib.SequenceMatcher`, from 0 to 1.

    Example::

        >>> from jaxdiff.errors import nearest
        >>> nearest("DDIM", ["unipc", "ddim"]), nearest("--fid", ["pretrained"])
        ('ddim', None)
    """
    plain = lambda text: text.strip("-").replace("-", "_").lower()
    names = {plain(one): one for one in known}
    close = difflib.get_close_matches(plain(name), names, 1, cutoff)
    return names[close[0]] if close else None


def check_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raises ValueError, see `unknown`, for what is none of the known names, such as a list or a dict.

    Example::

        >>> from jaxdiff.errors import check_known
        >>> check_known("sampler", ["ddim"], {"ddim": 1, "ddpm": 2})
        Traceback (most recent call last):
        ValueError: unknown sampler ['ddim']: did you mean 'ddim'? (one of ddim, ddpm)
    """
    if not isinstance(name, str) or name not in known:
        raise unknown(kind, name, known)


@contextlib.contextmanager
def of_code(name: str, path: str = "") -> Iterator[None]:
    """Turns any error of other people's code, which is run inside, into one line with the place in it.

    Args:
      name: of the code, which begins the line.
      path: its file, in which the place is looked for; of a module the deepest place is named, with its file.

    Raises:
      ValueError: the error's kind and text; also for `sys.exit`, which would end a command as if it were done.

    Example::

        >>> from jaxdiff.errors import of_code
        >>> with of_code("mine.py", "mine.py"):
        ...     raise NameError("name 'x' is not defined")
        Traceback (most recent call last):
        ValueError: mine.py: NameError: name 'x' is not defined
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        kind = type(error).__name__
        raise ValueError(f"{name}{_place(error, path)}: {kind}{f': {text}' if text else ''}") from error


def _place(error, path):
    """Such as ", line 3"; "" where none of the code's lines is to blame."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)[2:]]
    if isinstance(error, SyntaxError) and error.lineno:
        frames.append((error.filename, error.lineno))
    own = [(file, line) for file, line in frames if (file == path if path else "importlib" not in file)]
    if not own:
        return ""
    file, line = own[-1]
    return f", line {line}" if path else f" ({file}, line {line})"


class NotFinite(FloatingPointError):
    """A result that is infinite or not a number."""
