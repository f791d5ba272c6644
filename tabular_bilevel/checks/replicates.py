"""Independent estimates of an estimator, and what it does meanwhile that it should not."""

from __future__ import annotations

import copy
import pickle
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tabular_bilevel._base.arrays import FloatArray, binary_scale, quiet
from tabular_bilevel.checks.judging import ROUNDING
from tabular_bilevel.estimators.contract import AtTheta
from tabular_bilevel.sampling.experience import NOTHING

__all__ = ["BrokenEstimatorError", "Replicates"]

# ... and estimates of a coarser dtype are sums that lose a few bits of it.
ROUNDINGS_OF_A_SUM = 64.0

# A call made again with the same generator differs by more than this share of the replicates'
# spread: less may be the order of a sum.
SAME_AGAIN = 1e-3


class BrokenEstimatorError(Exception):
    """An estimator does not return gradients, or not independent ones."""


class Replicates:
    """Independent estimates, drawn as they are needed; what the estimator does meanwhile is seen.

    Attributes
    ----------
    rows : list of ndarray, shape (d,)
        Those drawn so far.
    count : int
        How many there can be.
    """

    def __init__(
        self, estimator: AtTheta, streams: Sequence[np.random.Generator], burn_in: int
    ) -> None:
        self.rows: list[FloatArray] = []
        self.count = len(streams)
        self._estimator, self._streams, self._burn_in = estimator, streams, burn_in
        self._first: tuple[np.random.Generator, _Globals] | None = None  # of the first call
        self._drew: set[str] = set()  # global generators that were drawn from
        self._last: dict[str, int] = {}  # and where they were left
        self._reseeded: set[str] = set()
        self._remembers = False

    @property
    def left(self) -> bool:
        """Whether more can be drawn."""
        return len(self.rows) < self.count

    def drawn(self, number: int) -> FloatArray:
        """Return so many of them, shape (n, d), the same ones first."""
        while len(self.rows) < number:
            self.rows.append(self._draw(self._streams[len(self.rows)]))
        return np.array(self.rows)

    def _draw(self, stream: np.random.Generator) -> FloatArray:
        for name in self._drew:
            _draw_once(name)  # one that is seeded anew in each call would look untouched
        before = _Globals.now()
        if self._first is None:
            self._first = copy.deepcopy(stream), before
        estimate = self._estimate(stream)
        for name, state in _Globals.now().fingerprints.items():
            if state != before.fingerprints.get(name, state):
                self._drew.add(name)
                if self._last.get(name) == state:
                    self._reseeded.add(name)
                self._last[name] = state
        return estimate

    def _estimate(self, stream: np.random.Generator) -> FloatArray:
        """Warm up, and make the call that counts."""
        memory, calls = NOTHING, self._burn_in + 1
        for call in range(calls):
            try:
                found = self._estimator(stream, memory)
            except Exception as error:
                which = f", call {call + 1} of {calls}" if self._burn_in else ""
                raise BrokenEstimatorError(
                    f"replicate {len(self.rows)}{which}: {type(error).__name__}: {error}"
                ) from error
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
        unit = self._estimator.precision.unit
        return ROUNDINGS_OF_A_SUM * unit if self._is_coarse else ROUNDING

    @property
    def _is_coarse(self) -> bool:
        return self._estimator.precision.unit > float(np.finfo(np.float64).eps)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noticed."""
        notes = []
        if self._is_coarse:
            notes.append(
                f"estimates are {self._estimator.precision.dtype}: gaps below {self.rounding:.1g} "
                "of the largest entry count as rounding"
            )
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
        prints = {name: hash(pickle.dumps(state)) for name, state in self.states.items()}
        if "PyTorch" in prints:
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
