"""Independent estimates of an estimator, and what it does meanwhile that it should not."""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from tabular_bilevel._base.arrays import FloatArray, binary_scale, quiet
from tabular_bilevel._base.frames import raised_at, traceback_of
from tabular_bilevel.checks.judging import ROUNDING
from tabular_bilevel.estimators.contract import AtTheta
from tabular_bilevel.problem import TablesOnlyError
from tabular_bilevel.sampling.experience import NOTHING
from tabular_bilevel.sampling.view import Precision

# ... and estimates of a coarser dtype are sums that lose a few bits of it.
ROUNDINGS_OF_A_SUM = 64.0

# A call made again with the same generator differs by more than this share of the replicates'
# spread: less may be the order of a sum.
SAME_AGAIN = 1e-3

# A function that draws from no generator, and gives the same in so many calls, is deterministic.
DETERMINISTIC_CALLS = 5

# Objects in which a function's own generators are looked for.
MOST_OBJECTS = 10_000


class BrokenEstimatorError(Exception):
    """An estimator does not return gradients, or not independent ones; with what it raised."""

    traceback = ""


class Replicates:
    """Independent estimates, at most `count`, drawn as they are needed into `rows`.

    What the estimator does meanwhile is seen.
    """

    def __init__(
        self,
        estimator: AtTheta,
        streams: Sequence[np.random.Generator],
        burn_in: int,
        called: Callable[[], object] = lambda: None,
    ) -> None:
        self.rows: list[FloatArray] = []
        self.count = len(streams)
        self._estimator, self._streams, self._burn_in = estimator, streams, burn_in
        self._called = called  # after each one
        self._first: tuple[np.random.Generator, _Globals] | None = None  # of the first call
        self._drew: set[str] = set()  # global generators that were drawn from
        self._last: dict[str, int] = {}  # and where they were left
        self._reseeded: set[str] = set()
        self._remembers = False

    def are_determined(self, of: object) -> bool:
        """Draw a few, and say whether they had to be: all the same, no generator drawn from.

        Generators are the one given in each call, the global ones, and what `of`, the estimator as
        it was given, holds itself. What it draws from elsewhere, or keeps, is not known.
        """
        while len(self.rows) < min(DETERMINISTIC_CALLS, self.count):
            stream = self._streams[len(self.rows)]
            before = _states([stream, *generators_of(of)])
            self.drawn(len(self.rows) + 1)
            if self._drew or _states([stream, *generators_of(of)]) != before:
                return False
        rows = np.array(self.rows)
        return _same_again(rows, rows[:1], self.rounding)

    @property
    def left(self) -> bool:
        """Whether more can be drawn."""
        return len(self.rows) < self.count

    def drawn(self, number: int) -> FloatArray:
        """Return so many of them, shape (n, d), the same ones first."""
        now = _Globals.now()
        while len(self.rows) < number:
            now = self._draw(self._streams[len(self.rows)], now)
            self._called()
        return np.array(self.rows)

    def _draw(self, stream: np.random.Generator, before: _Globals) -> _Globals:
        """Draw one more, the global generators being so; say how they are then."""
        for name in self._drew:
            _draw_once(name)  # one that is seeded anew in each call would look untouched
        if self._drew:
            before = _Globals.now()
        if self._first is None:
            self._first = copy.deepcopy(stream), before
        self.rows.append(self._estimate(stream))
        now = _Globals.now()
        for name, state in now.fingerprints.items():
            if state != before.fingerprints.get(name, state):
                self._drew.add(name)
                if self._last.get(name) == state:
                    self._reseeded.add(name)
                self._last[name] = state
        return now

    def _estimate(self, stream: np.random.Generator) -> FloatArray:
        """Warm up, and make the call that counts."""
        memory, calls = NOTHING, self._burn_in + 1
        for call in range(calls):
            try:
                found = self._estimator(stream, memory)
            except TablesOnlyError:
                raise
            except Exception as error:
                which = f", call {call + 1} of {calls}" if self._burn_in else ""
                place = raised_at(error) or self._estimator.place
                broken = BrokenEstimatorError(
                    f"replicate {len(self.rows)}{which}: {type(error).__name__}: {error}"
                    + (f" ({place})" if place else "")
                )
                broken.traceback = traceback_of(error)
                raise broken from error
            memory = found.memory
        self._remembers = self._remembers or bool(memory)
        return found.gradient

    def start_afresh(self) -> bool:
        """Draw the first again, all generators as they were, and compare.

        Twice, as what goes round in a circle may have come back to its start.
        """
        assert self._first is not None
        stream, then = self._first
        now = _Globals.now()
        try:
            again = []
            for _ in range(2):
                then.restore()
                again.append(self._estimate(copy.deepcopy(stream)))
        except BrokenEstimatorError:  # whatever it is, it did not happen the first time
            return False
        finally:
            now.restore()
        return _same_again(np.array(again), np.array(self.rows), self.rounding)

    @property
    def asked(self) -> tuple[str, ...] | None:
        """What the estimator asked of its view, if it goes by one."""
        view = self._estimator.view
        return None if view is None else view.asked

    @property
    def rounding(self) -> float:
        """Relative size of what rounding may do."""
        return rounding_of(self._estimator.precision)[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noticed."""
        notes = list(rounding_of(self._estimator.precision)[1])
        if self._drew:
            names = " and ".join(sorted(self._drew))
            notes.append(f"draws from the global generator of {names}: seeds do not reproduce it")
        if self._burn_in and self.rows and not self._remembers:
            notes.append("the burn-in changes nothing: no call gave a memory back")
        return tuple(notes)

    def require_sound(self) -> None:
        """Raise if replicates cannot be independent."""
        if self._reseeded:
            names = " and ".join(sorted(self._reseeded))
            raise BrokenEstimatorError(
                f"seeds the global generator of {names} anew in each call: replicates repeat"
            )


def rounding_of(precision: Precision) -> tuple[float, tuple[str, ...]]:
    """Say what rounding may do, relative to the largest entry; and in words, if it is much."""
    if precision.unit <= float(np.finfo(np.float64).eps):
        return ROUNDING, ()
    rounding = ROUNDINGS_OF_A_SUM * precision.unit
    note = (
        f"estimates are {precision.dtype}: gaps below {rounding:.1g} of the largest entry count "
        "as rounding"
    )
    return rounding, (note,)


@quiet
def _same_again(again: FloatArray, rows: FloatArray, rounding: float) -> bool:
    """Whether some estimates are those of the first row."""
    unit = binary_scale(rows, again)
    again, rows = again / unit, rows / unit
    allowed = SAME_AGAIN * rows.std(axis=0) + rounding * np.abs(rows).max()
    return bool((np.abs(again - rows[0]) <= allowed).all())


@dataclass(frozen=True)
class _Globals:
    """States of generators that an estimator should leave alone."""

    states: dict[str, Any]

    @classmethod
    def now(cls) -> _Globals:
        states = {
            "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
            "Python": random.getstate(),
        }
        torch = sys.modules.get("torch")
        if torch is not None:
            states["PyTorch"] = torch.random.get_rng_state()
        return cls(states)

    @cached_property
    def fingerprints(self) -> dict[str, int]:
        numpy, python = self.states["numpy"], self.states["Python"]
        prints = {"numpy": hash(pickle.dumps(numpy)), "Python": hash(python)}
        if "PyTorch" in self.states:
            prints["PyTorch"] = hash(self.states["PyTorch"].numpy().tobytes())
        return prints

    def restore(self) -> None:
        np.random.set_state(self.states["numpy"])  # noqa: NPY002
        random.setstate(self.states["Python"])
        if "PyTorch" in self.states:
            sys.modules["torch"].random.set_rng_state(self.states["PyTorch"])


def _draw_once(name: str) -> None:
    if name == "numpy":
        np.random.random()  # noqa: NPY002
    elif name == "Python":
        random.random()
    else:
        sys.modules["torch"].rand(1)


def _states(generators: Sequence[Any]) -> list[Any]:
    """Take the states of generators, by value."""
    found: list[Any] = []
    for generator in generators:
        if isinstance(generator, random.Random):
            found.append(generator.getstate())
        elif isinstance(generator, np.random.RandomState):
            found.append(pickle.dumps(generator.get_state(legacy=False)))
        elif isinstance(generator, (np.random.Generator, np.random.BitGenerator)):
            bits: Any = getattr(generator, "bit_generator", generator)
            spawned = getattr(bits.seed_seq, "n_children_spawned", 0)
            found.append((pickle.dumps(bits.state), spawned))
        elif hasattr(generator, "get_state"):
            found.append(generator.get_state().numpy().tobytes())
        else:
            found.append(np.asarray(generator.tolist()).tobytes())
    return found


def _is_generator(one: object) -> bool:
    """Know generators of NumPy, Python and PyTorch, and JAX's keys, without importing these."""
    kinds = (np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random)
    if isinstance(one, kinds):
        return not isinstance(one, random.SystemRandom)  # which has no state
    library = type(one).__module__.partition(".")[0]
    if library == "torch":
        return type(one).__name__ == "Generator"
    return library.startswith("jax") and str(getattr(one, "dtype", "")) == "uint32"


def generators_of(given: object) -> list[Any]:
    """Find the generators that a function or an object holds.

    Looked at are attributes, closures, defaults, arguments of partials, and the globals that its
    code names, and what those hold; `MOST_OBJECTS` at most.
    """
    found: list[Any] = []
    seen: set[int] = set()
    waiting: list[Any] = [given]
    while waiting and len(seen) < MOST_OBJECTS:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, (str, bytes, int, float, np.ndarray, ModuleType)):
            continue
        seen.add(id(one))
        if _is_generator(one):
            found.append(one)
        elif isinstance(one, FunctionType):
            waiting.extend(_held(one))
        elif isinstance(one, MethodType):
            waiting.extend([one.__func__, one.__self__])
        elif isinstance(one, functools.partial):
            waiting.extend([one.func, one.args, one.keywords])
        elif isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, (list, tuple, set, frozenset)):
            waiting.extend(one)
        elif not isinstance(one, type):
            waiting.extend(getattr(one, "__dict__", {}).values())
            waiting.extend(m for m in vars(type(one)).values() if isinstance(m, FunctionType))
    return found


def _held(function: FunctionType) -> list[Any]:
    """List what a function can reach by names."""
    found: list[Any] = [function.__defaults__ or (), function.__kwdefaults__ or {}]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # of a cell that is empty
            found.append(cell.cell_contents)
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        found += [
            function.__globals__[name] for name in code.co_names if name in function.__globals__
        ]
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    return found
