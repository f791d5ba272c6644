"""Arrays that are computed if and when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tabular_bilevel._base.arrays import quiet, read_only

T = TypeVar("T")


def computed_later(*names: str) -> Callable[[type[T]], type[T]]:
    """Let functions take the place of some arrays of a frozen dataclass, for `unchecked`.

    That which computes `initial` is called `later_initial`. Copies and pickles have the arrays.
    """

    @quiet
    def compute(self: Any, name: str) -> Any:
        """Compute an array that is not there yet."""
        known: dict[str, Any] = vars(self)
        function = known.get("later_" + name)
        if function is not None:
            known.setdefault(name, read_only(function()))
            known.pop("later_" + name, None)  # another thread may have been here, too
        if name not in known:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return known[name]

    def state(self: Any) -> dict[str, Any]:
        for name in names:
            getattr(self, name)
        known: dict[str, Any] = vars(self)
        return known

    def decorated(cls: type[T]) -> type[T]:
        cls.__getattr__ = compute  # type: ignore[attr-defined]
        if "__getstate__" not in vars(cls):
            cls.__getstate__ = state  # type: ignore[method-assign]
        return cls

    return decorated
