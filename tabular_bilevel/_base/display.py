"""How objects show themselves: a short line in a terminal, a small table in a notebook."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.html import element, written

AnyClass = TypeVar("AnyClass", bound=type)

# Characters of a line, of a value in it, and of a value in a table.
LINE, VALUE, CELL = 199, 60, 200

# Items of a tuple, list or mapping that are shown one by one.
FEW = 3


def displayed(cls: AnyClass) -> AnyClass:
    """Give a class `short_repr`, unless it is an enumeration, and `table` as `_repr_html_`."""
    if not getattr(cls, "_is_protocol", False):
        if not issubclass(cls, Enum):
            cls.__repr__ = short_repr  # type: ignore[method-assign]
        cls._repr_html_ = table  # type: ignore[attr-defined]
    return cls


def display_all(module: dict[str, Any]) -> None:
    """Treat all classes among a module's public names, given its `globals`, as `displayed` does."""
    for name in module["__all__"]:
        if isinstance(module.get(name), type):  # what is imported later is not there yet
            displayed(module[name])


@reprlib.recursive_repr("...")
def short_repr(self: object) -> str:
    """Write the class's name and its fields in less than 200 characters, arrays by their shapes.

    Where that is not enough room, parts are written as ``Name(...)``; then arrays are left out,
    then parts, then the last of the rest, and ``...`` says so.
    """
    name = type(self).__name__
    if not dataclasses.is_dataclass(self):
        told = str(self) if has_own(self, "__str__") else ""
        return cut(
            f"{name}({told!r})" if isinstance(self, Exception) else f"<{told or name}>", LINE
        )
    fields = [
        (field.name, getattr(self, field.name, None))
        for field in dataclasses.fields(self)
        if field.repr and not field.name.startswith("_")
    ]
    whole = _call(name, [f"{key}={_whole(value)}" for key, value in fields])
    if len(whole) <= LINE:
        return whole
    parts = [f"{key}={brief(value)}" for key, value in fields]
    kept = sorted(range(len(parts)), key=lambda i: (_rank(fields[i][1]), i))
    line = _call(name, parts)
    while len(line) > LINE and kept:
        kept.pop()
        line = _call(name, [*(parts[i] for i in sorted(kept)), "..."])
    return cut(line, LINE)


def table(self: object) -> str:
    """Write HTML for a notebook: the first line of `str`, which has a report's verdict, and fields.

    Arrays are given by shape and range. Everything is escaped, and there are no scripts.
    """
    name = type(self).__name__
    if isinstance(self, Enum):
        return _line(f"{name}.{self.name}: {self.value}")
    head = _first_line(self) if has_own(self, "__str__") else ""
    if not dataclasses.is_dataclass(self):
        return _line(head if head.startswith(name) else f"{name}: {head}".removesuffix(": "))
    left = "text-align: left"
    rows = (
        element("tr", element("th", key, style=left), element("td", text, style=left))
        for key, text in _rows(self)
    )
    return written(element("table", element("caption", cut(head or name, CELL)), *rows))


def _rows(self: Any) -> Iterator[tuple[str, str]]:
    """Name and text of each field, a verdict first."""
    fields = [field.name for field in dataclasses.fields(self) if not field.name.startswith("_")]
    if "verdict" not in fields and isinstance(getattr(type(self), "passed", None), property):
        yield "passed", str(self.passed)
    for key in sorted(fields, key=lambda key: key != "verdict"):
        yield key, cut(_cell(getattr(self, key, None)), CELL)


def _cell(value: Any) -> str:
    """Text of a value in a table."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, str):
        return value
    if is_array(value):
        return _range(value)
    if dataclasses.is_dataclass(value) and has_own(value, "__str__"):
        return _first_line(value)
    return brief(value)


def _range(array: Any) -> str:
    """Shape and range of an array, dense or sparse."""
    shape = " x ".join(map(str, array.shape)) or "one number"
    if sp.issparse(array):
        shape += f", {array.nnz} stored"
    try:
        numbers = np.asarray(array.data if sp.issparse(array) else array)
        if numbers.dtype.kind not in "biuf" or numbers.size == 0:
            return shape
        low, high = numbers.min(), numbers.max()
    except Exception:  # a tensor of another library, elsewhere than in memory
        return shape
    if numbers.dtype.kind == "b":
        return f"{shape}, {int(numbers.sum())} true"
    return f"{shape}, {low:.6g}" if low == high else f"{shape}, from {low:.6g} to {high:.6g}"


def brief(value: Any) -> str:
    """Write a value in 60 characters: arrays by shape, what is larger by its class or number."""
    if isinstance(value, type):
        return value.__name__
    if is_array(value):
        return f"<{'x'.join(map(str, value.shape)) or 'one number'}>"
    if isinstance(value, str):
        return repr(cut(value, VALUE - 5))
    if isinstance(value, (tuple, list, set, frozenset, Mapping)):
        return _items(value)
    name = type(value).__name__
    if dataclasses.is_dataclass(value):
        text = short_repr(value)
        return text if len(text) <= VALUE else f"{name}(...)"
    if callable(value) and hasattr(value, "__name__"):
        return cut(f"<{value.__name__.strip('<>')}>", VALUE)  # a lambda has them already
    return cut(repr(value), VALUE)


def _whole(value: Any) -> str:
    """Write a value without room for settings within settings in mind."""
    return short_repr(value) if dataclasses.is_dataclass(value) else brief(value)


def _items(values: Any) -> str:
    """Write a few small items, or how many there are."""
    if len(values) <= FEW:
        pairs = values.items() if isinstance(values, Mapping) else [(None, item) for item in values]
        texts = [brief(item) if key is None else f"{key!r}: {brief(item)}" for key, item in pairs]
        comma = "," * (isinstance(values, tuple) and len(values) == 1)
        marks = "()" if isinstance(values, tuple) else "[]" if isinstance(values, list) else "{}"
        text = f"{marks[0]}{', '.join(texts)}{comma}{marks[1]}"
        if len(text) <= VALUE:
            return text
    return f"<{len(values)} items>"


def _rank(value: Any) -> int:
    """Order what is left out last: numbers and words, then parts, then arrays."""
    if is_array(value):
        return 2
    return 1 if dataclasses.is_dataclass(value) or isinstance(value, (tuple, list, Mapping)) else 0


def is_array(value: Any) -> bool:
    """Say whether it is an array of NumPy, SciPy, JAX or PyTorch, a number of NumPy excepted."""
    if isinstance(value, (type, np.generic)):
        return False
    return hasattr(value, "shape") and hasattr(value, "dtype")


def has_own(value: object, method: str) -> bool:
    """Say whether the class of a value, or one above it but `object`, has the method."""
    return any(method in cls.__dict__ for cls in type(value).__mro__[:-1])


def cut(text: str, length: int) -> str:
    """Cut a text that is too long, and say so."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _first_line(value: object) -> str:
    return (str(value).splitlines() or [""])[0]


def _line(text: str) -> str:
    return written(element("div", cut(text, CELL)))


def _call(name: str, parts: list[str]) -> str:
    return f"{name}({', '.join(parts)})"
