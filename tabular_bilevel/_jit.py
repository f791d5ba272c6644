"""The one decorator of compiled code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

__all__ = ["kernel"]

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile on first call.

    - ``cache``: compilation costs seconds; where no folder can be written to, numba refuses to
      cache and the function is compiled anew in each process.
    - ``nogil``: threads may run kernels side by side; no kernel starts threads itself.
    - ``error_model="numpy"``: a division by zero gives inf, and leaves loops free of branches.
    - compiled loops cannot be interrupted: callers let them return about every 0.1 s. (An interrupt
      in the middle of the compilation itself may be lost in llvmlite's callbacks.)
    - no ``fastmath``, no signatures: results do not depend on the machine more than need be, and
      read-only arrays are welcome.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        compiled: F = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        compiled = numba.njit(**options)(function)
    return compiled
