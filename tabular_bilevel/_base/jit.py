"""The one decorator of compiled code, and a cache of it that costs time at worst."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature

__all__ = ["kernel"]

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile on first call.

    - cached: compilation costs seconds; where no folder can be written to, or a cache fails in any
      other way, the function is compiled anew in each process.
    - ``nogil``: threads may run kernels side by side; no kernel starts threads itself.
    - ``error_model="numpy"``: a division by zero gives inf, and leaves loops free of branches.
    - compiled loops cannot be interrupted: callers let them return about every 0.1 s. (An interrupt
      in the middle of the compilation itself may be lost in llvmlite's callbacks.)
    - no ``fastmath``, no signatures: results do not depend on the machine more than need be, and
      read-only arrays are welcome.
    """
    compiled: F = numba.njit(nogil=True, error_model="numpy")(function)
    if hasattr(compiled, "_cache"):  # not with NUMBA_DISABLE_JIT
        with suppress(Exception):  # no folder can be written to, or whatever else
            compiled._cache = _Cache(function)  # what cache=True does, with numba's own
    return compiled


class _SealedCode(CompileResultCacheImpl):  # type: ignore[misc]
    """Machine code with a checksum: damaged, or of another source, it would end the process."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__(function)
        self._source = repr(
            (numba.__version__, self.filename_base, self.locator.get_source_stamp())
        )

    def reduce(self, result: Any) -> tuple[str, bytes]:
        """Turn a compiled function into what can be written to disk."""
        raw = dumps(super().reduce(result))
        return self._seal(raw, result.codegen), raw

    def rebuild(self, context: Any, reduced: tuple[str, bytes]) -> Any:
        """Turn what was read from disk into a compiled function."""
        seal, raw = reduced
        if seal != self._seal(raw, context.codegen()):
            raise ValueError("the cache is damaged, or of another source")
        return super().rebuild(context, pickle.loads(raw))

    def _seal(self, raw: bytes, codegen: Any) -> str:
        words = f"{self._source} {codegen.magic_tuple()}".encode()
        return hashlib.sha256(words + raw).hexdigest()


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache, except that a failure counts as an empty cache."""

    _impl_class = _SealedCode

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Read a compiled function; None if there is none, or none that is sound."""
        try:
            found = super().load_overload(signature, context)
            if found is None or found.signature.args == tuple(normalize_signature(signature)[0]):
                return found
        except Exception:  # damaged files lead to anything
            pass
        with suppress(Exception):
            self.flush()
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Write a compiled function, if possible."""
        with suppress(Exception):
            super().save_overload(signature, result)
