"""Checks of arguments, whose errors name the argument that is wrong."""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.registry import Choice
from jaxdiff.types import Cond, Prediction, is_traced

# Fields of `Cond` that are one array each.
ARRAYS_OF_COND = (
    "label", "vector", "context", "context_mask", "image", "guidance", "image_prompt", "image_prompt_scale", "end",
)  # fmt: skip

# Ranges of `check_number`: what a number must do, in words, and whether each of some numbers does.
ABOVE_0 = "be above 0 and finite", lambda x: (x > 0) & np.isfinite(x)
AT_LEAST_0 = "be at least 0 and finite", lambda x: (x >= 0) & np.isfinite(x)
FRACTION = "lie in [0, 1]", lambda x: (x >= 0) & (x <= 1)


def plain(value: Any) -> Any:
    """NumPy or jax scalars as Python numbers, and lists and vectors as tuples of them; anything else unchanged.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.arguments import plain
        >>> plain(np.int64(7)), plain([np.float32(0.5)]), plain("7")
        (7, (0.5,), '7')
    """
    if type(value) in (list, tuple) or (isinstance(value, np.ndarray) and value.ndim == 1):
        return tuple(map(plain, value))
    is_scalar = isinstance(value, np.generic | np.ndarray | jax.Array) and value.shape == ()
    return value.item() if is_scalar and not jnp.issubdtype(value.dtype, jax.dtypes.extended) else value


def check_type(name: str, value: Any, kind: Any) -> Any:
    """Checks that a value is of a type; an int is a float here, and a bool is no number.

    Args:
      name: of the argument, as the message has it.
      value: what was given.
      kind: a type, or what stands for several in annotations, such as `int | None`.

    Returns:
      The value.

    Raises:
      ValueError: it is of another type.

    Example::

        >>> from jaxdiff.arguments import check_type
        >>> check_type("`steps`", 2.5, int | None)
        Traceback (most recent call last):
        ValueError: `steps`=2.5 must be of type int | None
    """
    import typeguard  # here, because it takes a tenth of a second

    try:
        if isinstance(value, bool) and kind not in (bool, bool | None):
            raise typeguard.TypeCheckError("is a bool")
        return typeguard.check_type(value, kind, collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS)
    except typeguard.TypeCheckError:
        kind = getattr(kind, "__name__", kind) if isinstance(kind, type) else str(kind).replace("typing.", "")
        shown = repr(value) if isinstance(value, str | int | float | tuple | None) else type(value).__name__
        raise ValueError(f"{name}={shown} must be of type {kind}") from None


def check_fields(options: Any, where: str = "") -> Any:
    """Checks the types of a dataclass's fields, and of those of the dataclasses in them, such as a sampler's options.

    Args:
      options: instance of a dataclass.
      where: what stands before the names in messages, such as "train.".

    Returns:
      The same with `plain` values.

    Raises:
      ValueError: a field of another type; it is named.

    Example::

        >>> from jaxdiff.arguments import check_fields
        >>> from jaxdiff.config import Sample
        >>> check_fields(Sample(steps="3"))
        Traceback (most recent call last):
        ValueError: `steps`='3' must be of type int
    """
    kinds, changed = typing.get_type_hints(type(options)), {}
    for field in dataclasses.fields(options):
        value, default = getattr(options, field.name), field.default
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            kind = kinds[field.name] if isinstance(default, Choice) else type(default)
            if not isinstance(value, kind):
                raise ValueError(f"`{where}{field.name}` must be a {kind.__name__}, not {value!r}")
            found = check_fields(value, f"{where}{field.name}.")
        else:
            found = check_type(f"`{where}{field.name}`", plain(value), kinds[field.name])
        if found is not value:
            changed[field.name] = found
    return dataclasses.replace(options, **changed) if changed else options


def check_own_types(options: Any) -> None:
    """Checks the types of a frozen dataclass's fields as it is made, before they are compared with anything.

    In its `__post_init__`; its values are then `plain`.

    Raises:
      ValueError: a field of another type; it is named.

    Example::

        >>> from jaxdiff import UNetConfig
        >>> UNetConfig(groups="4")
        Traceback (most recent call last):
        ValueError: groups='4' must be of type int
    """
    kinds = _types_of(type(options))
    for field in dataclasses.fields(options):
        value, kind = plain(getattr(options, field.name)), kinds[field.name]
        if not _is_of(value, kind):
            if typing.get_origin(kind) is typing.Literal:
                known = " or ".join(map(repr, typing.get_args(kind)))
                raise ValueError(f"{field.name}={value!r} must be {known}")
            check_type(field.name, value, kind)
        object.__setattr__(options, field.name, value)


_types_of = functools.cache(typing.get_type_hints)


def _is_of(value, kind):
    """True for a value of a type, of those that are told without typeguard, which takes long to import."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return type(value) is str and value in parts
    if origin in (typing.Union, types.UnionType):
        return any(_is_of(value, part) for part in parts)
    if origin is tuple and parts[1:] == (...,):
        return type(value) is tuple and all(_is_of(one, parts[0]) for one in value)
    if kind is float:
        return type(value) in (int, float)
    return isinstance(kind, type) and (
        type(value) is kind or (dataclasses.is_dataclass(kind) and isinstance(value, kind))
    )


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Checks that a value is a whole number of at least `least`.

    Raises:
      ValueError: no whole number, or a smaller one.

    Example::

        >>> from jaxdiff.arguments import check_count
        >>> check_count("size", 0)
        Traceback (most recent call last):
        ValueError: `size`=0 must be at least 1
    """
    count = check_type(f"`{name}`", plain(value), int)
    if count < least:
        raise ValueError(f"`{name}`={count} must be at least {least}")
    return count


def as_numbers(name: str, values: Any) -> np.ndarray:
    """Values as a float64 array.

    Raises:
      ValueError: texts, or rows of different lengths.
    """
    try:
        return np.asarray(values, np.float64)
    except jax.errors.TracerArrayConversionError:
        raise
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be an array of numbers") from None


def as_array(name: str, value: Any) -> Any:
    """A tensor or picture of another library, which converts itself to NumPy, as an array; all else unchanged.

    Raises:
      ValueError: it cannot be converted, such as a tensor that requires gradients.

    Example::

        >>> from PIL import Image
        >>> from jaxdiff.arguments import as_array
        >>> as_array("image", Image.new("L", (3, 2))).shape, as_array("image", [1, 2])
        ((2, 3), [1, 2])
    """
    if isinstance(value, np.ndarray | np.generic | jax.Array) or isinstance(value, type):
        return value
    if not any(hasattr(value, name) for name in ("__array__", "__array_interface__")):
        return value
    try:
        return np.asarray(value)
    except Exception as error:  # of anybody's
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"`{name}`, of type {type(value).__name__}, cannot be read as an array of NumPy ({reason})"
        ) from None


def check_text(name: str, text: Any) -> str:
    """Checks that a value is a text, without lone surrogates: halves of characters, which no UTF-8 can hold.

    Raises:
      ValueError: it is none.

    Example::

        >>> from jaxdiff.arguments import check_text
        >>> check_text("prompts", "a \\ud800")
        Traceback (most recent call last):
        ValueError: `prompts`='a \\ud800' holds half of a character (a lone surrogate), which is no UTF-8
    """
    if not isinstance(text, str):
        raise ValueError(f"`{name}` must be a text, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"`{name}`={text!r} holds half of a character (a lone surrogate), which is no UTF-8") from None
    return text


def check_arrays(name: str, tree: Any) -> None:
    """Checks that all leaves of a pytree are numbers or arrays of them, as compiled functions take; they may be traced.

    Raises:
      TypeError: one is a text, or anything else.

    Example::

        >>> from jaxdiff.arguments import check_arrays
        >>> check_arrays("cond", {"text": "a seven"})
        Traceback (most recent call last):
        TypeError: `cond` must be of arrays, such as jaxdiff.condition makes, and it holds a str
    """
    for leaf in jax.tree.leaves(tree):
        dtype = getattr(leaf, "dtype", None)
        array = isinstance(leaf, np.ndarray | np.generic | jax.Array | jax.ShapeDtypeStruct) or is_traced(leaf)
        if isinstance(leaf, bool | int | float | complex) or (
            array and getattr(dtype, "kind", "") not in ("O", "U", "S")
        ):
            continue
        found = type(leaf).__name__ if not array else f"array of {dtype}"
        raise TypeError(f"`{name}` must be of arrays, such as jaxdiff.condition makes, and it holds a {found}")


def check_cond(cond: Any) -> None:
    """Checks that a network's condition is a `Cond` of arrays, or None; they may be traced.

    Raises:
      TypeError: it is something else, or one of its fields is, such as a list.
    """
    if cond is None:
        return
    if not isinstance(cond, Cond):
        found = "an array" if is_traced(cond) else type(cond).__name__
        raise TypeError(f"`cond` must be a Cond, such as jaxdiff.condition(...).cond, not {found}")
    for name in ARRAYS_OF_COND:
        value = getattr(cond, name)
        if value is not None and (isinstance(value, str | list | tuple | dict) or np.ndim(value) == 0):
            kind = type(value).__name__ if not hasattr(value, "shape") else "one number"
            raise TypeError(f"`cond.{name}` must be an array with one row for each example, not {kind}")


def check_images(name: str, images: Any, shape: tuple[int, int, int] | None = None) -> np.ndarray:
    """Checks that images are uint8 [N, H, W, C], of 1 or 3 channels.

    Args:
      name: of the argument.
      images: what was given, an array of NumPy or jax.
      shape: H, W and C; None takes any.

    Returns:
      The images.

    Raises:
      ValueError: another dtype, such as floats in [0, 1], or another shape, such as [N, C, H, W].

    Example::

        >>> import numpy as np
        >>> from jaxdiff.arguments import check_images
        >>> check_images("images", np.zeros([2, 3, 8, 8], np.uint8))
        Traceback (most recent call last):
        ValueError: `images` must be uint8 [N, H, W, C] of 1 or 3 channels, not uint8 [2, 3, 8, 8]
    """
    found, dtype = np.shape(images), getattr(images, "dtype", None)
    fits = len(found) == 4 and (found[1:] == tuple(shape) if shape else found[3] in (1, 3))
    if dtype != np.uint8 or not fits:
        wanted = f"[N, {', '.join(map(str, shape))}]" if shape else "[N, H, W, C] of 1 or 3 channels"
        raise ValueError(f"`{name}` must be uint8 {wanted}, not {dtype or type(images).__name__} {list(found)}")
    return images


def check_floats(name: str, x: Any) -> None:
    """Checks that x is a number or an array of floats; x may be traced.

    Raises:
      ValueError: integers, such as images of uint8, or a list.
    """
    dtype = getattr(x, "dtype", None)
    if isinstance(x, list | tuple) or (
        dtype is not None and np.shape(x) != () and not jnp.issubdtype(dtype, jnp.floating)
    ):
        raise ValueError(f"`{name}` must be of floats, not {dtype or type(x).__name__}: images are x / 127.5 - 1")


def check_prediction(prediction: Any, x_t: Any) -> Prediction:
    """Checks that a denoiser returned a `Prediction` whose x0 and eps have the shape of x_t; these may be traced.

    Raises:
      TypeError: no `Prediction`.
      ValueError: x0 or eps is missing, a number, or of another shape.
    """
    if not isinstance(prediction, Prediction):
        raise TypeError(f"`denoise` must return a Prediction(x0, eps), not {type(prediction).__name__}")
    for name in ("x0", "eps"):
        value = getattr(prediction, name)
        if value is None or np.shape(value) != np.shape(x_t):
            found = None if value is None else list(np.shape(value))
            raise ValueError(f"`denoise` must return {name} of the shape of x_t, {list(np.shape(x_t))}, not {found}")
    return prediction


def check_number(
    name: str,
    value: Any,
    wanted: str = "be a finite number",
    fits: Callable[[np.ndarray], Any] = np.isfinite,
    per_example: bool = False,
) -> None:
    """Checks that a value is a real number in some range; one that is traced, or on other hosts' devices, passes.

    Args:
      name: of the argument.
      value: number, or array of one; or, with `per_example`, vector of them.
      wanted: what it must do, in words.
      fits: float64 array -> whether each number is in the range.
      per_example: whether one number for each example [B] may be given.

    Raises:
      ValueError: no number, several, or one outside of the range.

    Example::

        >>> from jaxdiff.arguments import FRACTION, check_number
        >>> check_number("phi", 2.0, *FRACTION)
        Traceback (most recent call last):
        ValueError: `phi`=2.0 must lie in [0, 1]
    """
    leaves = jax.tree.leaves(value)
    if any(is_traced(x) or (isinstance(x, jax.Array) and not x.is_fully_addressable) for x in leaves):
        return
    try:
        found = np.asarray(value)
    except ValueError:  # rows of different lengths
        found = np.empty(0, object)
    if not (jnp.issubdtype(found.dtype, jnp.integer) or jnp.issubdtype(found.dtype, jnp.floating)):
        shown = repr(value) if isinstance(value, str | bool | None) else type(value).__name__
        raise ValueError(f"`{name}`={shown} must {wanted}")
    if found.ndim > per_example:
        several = "one number, or one for each example [B]" if per_example else "one number"
        raise ValueError(f"`{name}` must be {several}, not of shape {list(found.shape)}")
    numbers = found.astype(np.float64).ravel()
    wrong = numbers[~np.asarray(fits(numbers))]
    if wrong.size:
        raise ValueError(f"`{name}`={wrong[0] if found.ndim else value} must {wanted}")
