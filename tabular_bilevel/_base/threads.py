"""One thread for linear algebra: on small matrices several wait for each other, and round anew."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def _libraries() -> list[Any]:
    """Find numpy's and scipy's libraries of linear algebra, which takes longer than to set them."""
    import scipy.linalg  # noqa: F401  (loads its own)
    from threadpoolctl import ThreadpoolController

    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


@cache
def _controls() -> list[tuple[Callable[[], int], Callable[[int], None]]]:
    """Find what tells and what sets each library's number of threads."""
    return [(_getter(library), _setter(library)) for library in _libraries()]


def _getter(library: Any) -> Callable[[], int]:
    """Take OpenBLAS's own function, which threadpoolctl looks up anew each time."""
    symbol = getattr(library, "_get_symbol", None)
    if symbol is None or library.internal_api != "openblas" or library.threading_layer == "openmp":
        return library.get_num_threads  # type: ignore[no-any-return]
    return symbol("openblas_get_num_threads")  # type: ignore[no-any-return]


def _setter(library: Any) -> Callable[[int], None]:
    """Pass by newer threadpoolctl's own lock: it lets the first thread alone set anything."""
    setter: Callable[[int], None] = library.set_num_threads
    return getattr(library, "_real_set_num_threads", setter)


class _OneThread:
    """Give the libraries back their threads when the last of those who are in leaves.

    What `threadpoolctl.threadpool_limits` does, in 2 microseconds instead of 40, and when threads
    come and go: each that leaves there sets what it found, which may be another's 1.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[tuple[Callable[[int], None], int]] = []

    def __enter__(self) -> None:
        controls = _controls()
        with self._lock:
            if self._inside == 0:
                self._before = []
                for count, put in controls:
                    if (before := count()) != 1:
                        self._before.append((put, before))
                        put(1)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for put, count in self._before:
                    put(count)


one_thread = _OneThread()
