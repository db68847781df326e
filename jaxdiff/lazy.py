"""Packages whose names are imported when they are first used (PEP 562)."""

import importlib
from collections.abc import Callable, Iterable, Mapping


def attach(package: str, names: Mapping[str, str], modules: Iterable[str] = ()) -> tuple[Callable, Callable, list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of a package.

    Args:
      package: its name, such as `__name__`.
      names: attribute -> module below the package that has it.
      modules: modules below the package that are attributes themselves.

    Example::

        >>> from jaxdiff import lazy
        >>> get, _, names = lazy.attach("jaxdiff", {"unknown": "errors"}, ["registry"])
        >>> get("unknown").__module__, get("registry").__name__, names
        ('jaxdiff.errors', 'jaxdiff.registry', ['unknown', 'registry'])
    """
    modules = list(modules)

    def get(name):
        if name in names:
            return getattr(importlib.import_module(f"{package}.{names[name]}"), name)
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    public = [*names, *modules]
    return get, lambda: sorted(public), public
