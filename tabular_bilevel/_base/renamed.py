"""Old names that go on working, with a warning that says the new one, or that there is none."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
AnyClass = TypeVar("AnyClass", bound=type)


def keywords_renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a decorator that takes keyword arguments by their old names, too: new names by old."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def renamed(*arguments: Any, **keywords: Any) -> R:
            for old in names.keys() & keywords.keys():
                new = names[old]
                if new in keywords:
                    raise TypeError(f"{function.__name__}() got both {old!r} and {new!r}")
                warn(old, new, f"{function.__name__}()")
                keywords[new] = keywords.pop(old)
            return function(*arguments, **keywords)

        return renamed

    return decorate


def without_use(*names: str) -> Callable[[AnyClass], AnyClass]:
    """Make a decorator of classes that takes settings which are no more, and does without them."""

    def decorate(cls: AnyClass) -> AnyClass:
        make = cls.__init__  # type: ignore[misc]

        @functools.wraps(make)
        def __init__(self: Any, *arguments: Any, **keywords: Any) -> None:  # noqa: N807
            for name in keywords.keys() & {*names}:
                told = f"{name} of {cls.__name__}() has no use any more"
                warnings.warn(told, DeprecationWarning, stacklevel=2)
                del keywords[name]
            make(self, *arguments, **keywords)

        cls.__init__ = __init__  # type: ignore[misc]
        return cls

    return decorate


def method_renamed(old: str, new: str) -> Callable[..., Any]:
    """Make the method that goes on by an old name."""

    def renamed(self: Any, *arguments: Any, **keywords: Any) -> Any:
        warnings.warn(f"{old} is called {new} now", DeprecationWarning, stacklevel=2)
        return getattr(self, new)(*arguments, **keywords)

    renamed.__doc__ = f"Do as `{new}`, which is its name now."
    return renamed


def found_by_old_name(module: str, name: str, names: Mapping[str, Any]) -> Any:
    """Find what a module's `__getattr__` is asked for, by old names."""
    if name not in names:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warn(name, names[name].__name__, module)
    return names[name]


def warn(old: str, new: str, where: str) -> None:
    """Say that a name is called something else now."""
    warnings.warn(f"{old} of {where} is called {new} now", DeprecationWarning, stacklevel=4)
