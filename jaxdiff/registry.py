"""Registries: what can be chosen by name, each choice declared once, together with its own options.

A function is registered where it is written; the options are its parameters that have defaults. Configs hold a `Choice`, a
frozen dataclass of these options; the command line makes its flags of the same dataclass, `config.json` holds its fields.
"""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from jaxdiff.errors import unknown


@dataclasses.dataclass(frozen=True)
class Choice:
    """A registered name with values for its options; called, it calls what was registered.

    Attributes:
      kind: the registered name.
      registry: the registry that it belongs to.
      traits: what else was said of it when it was registered, by name.
    """

    kind: ClassVar[str]
    registry: ClassVar["Registry"]
    traits: ClassVar[Mapping[str, Any]] = {}

    def __call__(self, *args, **kwargs) -> Any:
        """Calls the registered function with these options behind the arguments."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return self.registry.functions[self.kind](*args, **kwargs, **options)

    def __str__(self) -> str:
        """The text form, see `Registry.parse`, without options behind the first."""
        for field in dataclasses.fields(self)[:1]:
            value = getattr(self, field.name)
            if field.type is str and value != field.default:
                return f"{self.kind}:{value}"
        return self.kind


class Registry(Mapping):
    """Choices of one sort, by name: a mapping from names to subclasses of `Choice`.

    Attributes:
      what: the sort, such as "sampler", for errors.
      functions: the registered functions, by name.

    Example::

        >>> from jaxdiff.registry import Registry
        >>> POWERS = Registry("power")
        >>> @POWERS.register("power")
        ... def power(x, exponent: float = 2.0):
        ...     '''x to a power.'''
        ...     return x**exponent
        >>> POWERS["power"](exponent=3.0)(2), POWERS.choice("power")(3)
        (8.0, 9.0)
        >>> POWERS.choice("powr")
        Traceback (most recent call last):
        ValueError: unknown power 'powr': did you mean 'power'? (one of power)
    """

    def __init__(self, what: str):
        self.what, self.functions, self._classes = what, {}, {}

    def register(self, name: str, leave_out: tuple[str, ...] = (), **traits) -> Callable:
        """Decorator that registers a function under a name, or a frozen dataclass that is a `Choice` already.

        Args:
          name: by which it is chosen.
          leave_out: parameters with defaults that are not options, because no text can give them.
          **traits: `Choice.traits`, of which others ask instead of the name.

        Returns:
          A decorator that returns what it is given.

        Raises:
          ValueError: when applied, if the name is taken.
          TypeError: the name is no text; when applied, if an option has no annotation.
        """
        if not isinstance(name, str):
            raise TypeError(f"a {self.what} is registered under a name, not under a {type(name).__name__}")

        def add(declared):
            if name in self._classes:
                raise ValueError(f"there is a {self.what} {name!r} already")
            made = declared
            if not isinstance(declared, type):
                self.functions[name] = declared
                made = _dataclass_of(declared, name, leave_out)
            made.kind, made.registry, made.traits = name, self, traits
            self._classes[name] = made
            return declared

        return add

    def choice(self, given: "str | Choice") -> Choice:
        """A choice by name, with the default of each option; a `Choice` of this registry as it is.

        Raises:
          ValueError: unknown name, or a choice of another registry.
          TypeError: neither a name nor a choice.
        """
        if isinstance(given, Choice):
            if given.registry is not self:
                raise ValueError(f"{given} is a {given.registry.what}, not a {self.what}")
            return given
        return self[given]()

    def parse(self, text: str) -> Choice:
        """A choice in text form: its name, or NAME:VALUE with the value of its first option, a text.

        Raises:
          ValueError: unknown name, or a value for a choice whose first option is not a text.
          TypeError: no text.
        """
        self._check_name(text)
        name, _, value = text.partition(":")
        cls = self[name]
        if not value:
            return cls()
        fields = dataclasses.fields(cls)
        if not fields:
            raise ValueError(f"{self.what} {name} has no options: leave out {value!r}")
        if fields[0].type is not str:
            raise ValueError(f"{self.what} {name} takes no value behind a colon: {text!r}")
        return cls(value)

    def _check_name(self, name):
        """Raises TypeError for what is no text, such as a list, a function, or what a choice makes when it is called."""
        if isinstance(name, str):
            return
        found = f"the class {name.__name__}" if isinstance(name, type) else f"of type {type(name).__name__}"
        raise TypeError(
            f"the {self.what} must be a name, such as {next(iter(self), 'NAME')!r}, or a choice, not {found}"
        )

    def __getitem__(self, name: str) -> type[Choice]:
        self._check_name(name)
        if name not in self._classes:
            raise unknown(self.what, name, self._classes)
        return self._classes[name]

    def __contains__(self, name) -> bool:
        return isinstance(name, str) and name in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


def _dataclass_of(function, name, leave_out):
    """The frozen dataclass of a function's options, with the function's docstring, of which flags take their help."""
    fields = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.default is parameter.empty or parameter.name in leave_out:
            continue
        if parameter.annotation is parameter.empty:
            raise TypeError(f"the option {parameter.name} of {name} needs an annotation")
        fields.append((parameter.name, parameter.annotation, dataclasses.field(default=parameter.default)))
    namespace = {"__doc__": inspect.getdoc(function), "__module__": function.__module__}
    return dataclasses.make_dataclass(name, fields, frozen=True, bases=(Choice,), namespace=namespace)


def import_all(package: str, paths: Iterable[str], ending: str = "") -> None:
    """Imports all modules of a package, so that everything that they register is there.

    Args:
      package: its name.
      paths: its `__path__`.
      ending: only modules whose names end so.
    """
    for module in pkgutil.iter_modules(paths):
        if module.name.endswith(ending):
            importlib.import_module(f"{package}.{module.name}")
