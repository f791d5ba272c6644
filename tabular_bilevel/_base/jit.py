"""The one decorator of compiled code, and a cache of it that costs time at worst."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType
from typing import Any, TypeVar

import numba
import numpy as np
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature

from tabular_bilevel._base.processes import interrupts_after

F = TypeVar("F", bound=Callable[..., object])

# Steps that Python runs of a kernel, all calls together, before it is compiled: that takes half a
# second or so, and so does compiling. A first hypergradient of some hundred states stays below it.
MOST_STEPS = 4_000_000

# So many calls at most, however small.
MOST_CALLS = 50


def kernel(function: F) -> F:
    """Compile on first call.

    - cached: compilation costs seconds; where no folder can be written to, or a cache fails in any
      other way, the function is compiled anew in each process.
    - ``nogil``: threads may run kernels side by side; no kernel starts threads itself.
    - ``error_model="numpy"``: a division by zero gives inf, and leaves loops free of branches.
    - compiled loops cannot be interrupted: callers let them return about every 0.1 s. (An interrupt
      in the middle of the compilation itself may be lost in llvmlite's callbacks; one while code is
      read from the cache comes after it.)
    - no ``fastmath``, no signatures: results do not depend on the machine more than need be, and
      read-only arrays are welcome.
    - an array that is filled overlaps no other, and none that is given is returned: LLVM counts on
      it, and vectorises loops over many.
    """
    compiled: F = numba.njit(nogil=True, error_model="numpy")(function)
    if hasattr(compiled, "_cache"):  # not with NUMBA_DISABLE_JIT
        with suppress(Exception):
            compiled._compiler._customize_flags = _apart  # type: ignore[attr-defined]
        with suppress(Exception):  # no folder can be written to, or whatever else
            compiled._cache = _Cache(function)  # what cache=True does, with numba's own
    return compiled


def _apart(flags: Any) -> Any:
    """Say that arrays do not overlap, as numba does of its universal functions."""
    flags.noalias = True
    return flags


def patient_kernel(steps: Callable[..., int]) -> Callable[[F], F]:
    """Compile as `kernel` does, but not for a few small calls, which take about `steps(...)` steps.

    Python runs these itself, for the same numbers to the last bit: a first result does not wait for
    code that only loops need. Code that is in the cache is taken from there.
    """

    def decorated(function: F) -> F:
        compiled = kernel(function)
        if hasattr(compiled, "_cache"):
            compiled._compile_for_args = _Patience(compiled, steps)  # type: ignore[attr-defined]
        return compiled

    return decorated


def patient_chain(function: F) -> F:
    """Compile what calls one kernel after the other, after `MOST_CALLS` calls.

    Until then Python runs its own lines, and those of kernels without patience.
    """
    compiled = kernel(function)
    if hasattr(compiled, "_cache"):
        chain = rebound(compiled, {})
        compiled._compile_for_args = _Patience(compiled, lambda *_: 0, chain)  # type: ignore[attr-defined]
    return compiled


def _is_patient(compiled: Any) -> bool:
    return isinstance(compiled._compile_for_args, _Patience)


def rebound(
    compiled: Any, names: dict[str, Any], stays: Callable[[Any], bool] = _is_patient
) -> Callable[..., Any]:
    """Let Python run a kernel's own lines, with other functions behind some names.

    So it does those of kernels that are called there, but for what `stays` compiled.
    """
    function = _plain(compiled)
    called = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    others = {
        name: rebound(found, names, stays)
        for name, found in called.items()
        if isinstance(found, Dispatcher) and not stays(found)
    }
    namespace = {**function.__globals__, **others, **names}
    return FunctionType(function.__code__, namespace, function.__name__)


def elements(*arguments: Any) -> int:
    """Count twenty steps for each element of an array, as passes over arrays take."""
    return 20 * sum(one.size for one in arguments if isinstance(one, np.ndarray))


class _Patience:
    """Says what numba calls where it has compiled nothing for these types of arguments."""

    def __init__(
        self,
        compiled: Any,
        steps: Callable[..., int],
        plain: Callable[..., Any] | None = None,
    ) -> None:
        self._compiled, self._steps = compiled, steps
        self._compile = compiled._compile_for_args
        self._left = MOST_STEPS
        self._plain: Callable[..., Any] | None = None
        self._lines = plain

    def __call__(self, *arguments: Any) -> Any:
        if self._left > 0:
            self._left -= max(self._steps(*arguments), MOST_STEPS // MOST_CALLS)
        if self._left <= 0 or self._is_cached(arguments):
            self._left = 0
            return self._compile(*arguments)
        if self._plain is None:
            lines = self._lines or rebound(self._compiled, {}, lambda _: False)
            self._plain = np.errstate(all="ignore")(_with_numbers(lines))
        return self._plain

    def _is_cached(self, arguments: tuple[Any, ...]) -> bool:
        if self._plain is not None:
            return False  # nor was it before
        compiled, cache = self._compiled, self._compiled._cache
        if not isinstance(cache, _Cache):
            return False
        types = tuple(map(compiled.typeof_pyval, arguments))
        with global_compiler_lock:
            cache.looked_up = types, cache.load_overload(types, compiled.targetctx)
        return cache.looked_up[1] is not None


def _plain(found: Any) -> Any:
    return getattr(found, "py_func", found)


def _with_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return Python's numbers, as compiled functions do."""

    def run(*arguments: Any) -> Any:
        found = function(*arguments)
        if isinstance(found, tuple):
            return tuple(map(_number, found))
        return _number(found)

    return run


def _number(found: Any) -> Any:
    return found.item() if isinstance(found, np.generic) else found


class _SealedCode(CompileResultCacheImpl):  # type: ignore[misc]
    """Machine code with a checksum: damaged, or of another source, it would end the process."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__(function)
        called = [f for f in function.__globals__.values() if isinstance(f, Dispatcher)]
        files = {_plain(f).__code__.co_filename for f in (function, *called)}
        stamps = [_stamp(name) for name in sorted(files)]
        self._source = repr((numba.__version__, self.filename_base, stamps))

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


def _stamp(file: str) -> tuple[int, int] | None:
    """Say which version of a file this is, as numba does; None if there is no file."""
    with suppress(OSError):
        found = os.stat(file)
        return found.st_mtime_ns, found.st_size
    return None


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache, except that a failure counts as an empty cache."""

    _impl_class = _SealedCode
    looked_up: tuple[Any, Any] = (None, None)  # a signature, and what was found

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Read a compiled function; None if there is none, or none that is sound."""
        if signature == self.looked_up[0]:
            return self.looked_up[1]
        try:
            with interrupts_after():  # or llvmlite's callbacks might lose them
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
