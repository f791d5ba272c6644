"""Array types, and the small things that are done to arrays everywhere."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import scipy.sparse.csgraph

from tabular_bilevel._base.threads import one_thread

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]
IntArray = npt.NDArray[np.integer[Any]]
BoolArray = npt.NDArray[np.bool_]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

#: Unit roundoff of float64: a sum of n products is off by less than n + 2 of it, relative to the
#: sum of their sizes.
ROUNDOFF = 2.0**-53

#: What underflows is lost by 2^-1074: many sums of it, before they are magnified.
UNDERFLOW = 2.0**-1000

#: Numbers in a dense block: a few of these are in memory at a time, 8 MB each.
BLOCK = 2**20


def at_least(bound: npt.ArrayLike, factor: npt.ArrayLike) -> FloatArray:
    """Pay for the underflow of a product of bounds, which is 0 only where a factor is."""
    return np.asarray(bound + UNDERFLOW * (np.asarray(factor) != 0.0))


def _silence() -> tuple[ContextVar[Any], Any]:
    """Find where numpy keeps its error state, which it does not tell, and what silence is there."""
    before = copy_context()
    with np.errstate(all="ignore"):
        inside = copy_context()
    changed = [place for place in inside if inside[place] is not before.get(place)]
    return (changed[0], inside[changed[0]]) if changed else (ContextVar("unknown"), "silence")


ERROR_STATE, SILENCE = _silence()


def quiet(function: F) -> F:
    """Decorate what callers call: it computes with one thread, and numpy does not warn.

    Numbers may underflow or overflow on the way, which is looked for in the results, so that
    numpy's error state and warnings have no say. Nor have they in a stranger's problem that is
    called from there: what is not finite is refused when it comes back. A stranger's estimator
    keeps the caller's state.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        if ERROR_STATE.get(None) is SILENCE:  # within another that is quiet
            return function(*arguments, **settings)
        before = ERROR_STATE.set(SILENCE)  # as numpy.errstate does, at a tenth of its cost
        try:
            with one_thread:
                return function(*arguments, **settings)
        finally:
            ERROR_STATE.reset(before)

    return cast("F", call)


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Mark a freshly made array as read-only and hand it on."""
    # by name, write=False, it takes twice as long
    array.setflags(False)  # type: ignore[call-arg]
    return array


def read_only_view(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Make a view for a kernel that takes read-only arrays and others: two types compile twice."""
    return read_only(array.view())


def read_only_matrix(matrix: sp.csr_array) -> sp.csr_array:
    """Mark the arrays of a freshly made matrix as read-only and hand it on.

    Indices that fit have 32 bits: kernels are compiled for one type.
    """
    if matrix.indices.dtype != np.int32 and max(matrix.nnz, matrix.shape[1]) < 2**31:
        matrix.indices = matrix.indices.astype(np.int32)
        matrix.indptr = matrix.indptr.astype(np.int32)
    for array in (matrix.data, matrix.indices, matrix.indptr):
        read_only(array)
    return matrix


def binary_scale(*arrays: FloatArray) -> float:
    """Find the power of two just below the largest absolute entry: dividing by it is exact."""
    largest = max(float(np.abs(array).max(initial=0.0)) for array in arrays)
    return math.ldexp(1.0, math.frexp(largest)[1] - 1)


def norm(vector: FloatArray) -> float:
    """Compute a Euclidean norm; its squares neither overflow nor vanish."""
    unit = binary_scale(vector)
    return float(np.linalg.norm(vector / unit) * unit)


def blocks(count: int, width: float) -> Iterator[slice]:
    """Split so many rows of a width: a block is one row, or has no more numbers than `BLOCK`."""
    size = max(1, int(BLOCK // max(width, 1)))
    return (slice(k, min(k + size, count)) for k in range(0, max(count, 1), size))


def backwards(step: Callable[[T], T], first: T, count: int, width: int) -> Iterator[T]:
    """Yield so many of first, step(first), ..., each of `width` numbers, from the last on back.

    Where all would take more than a block, some are kept, and what is between them is made again.
    """
    length = max(math.isqrt(count - 1) + 1, BLOCK // max(width, 1))
    kept = [first]
    for _ in range(length, count, length):
        now = kept[-1]
        for _ in range(length):
            now = step(now)
        kept.append(now)
    left = count - length * (len(kept) - 1)
    while kept:
        between = [kept.pop()]
        for _ in range(left - 1):
            between.append(step(between[-1]))
        while between:
            yield between.pop()
        left = length


def grouped_sums(group: IntArray, weights: FloatArray, n_groups: int) -> FloatArray:
    """Add up the weights of each group 0, ..., n_groups - 1."""
    return np.asarray(np.bincount(group, weights, minlength=n_groups), dtype=np.float64)


def ratio(sums: FloatArray, counts: FloatArray) -> FloatArray:
    """Divide entry by entry; 0 where there is nothing to divide by."""
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0.0)


@quiet
def softmax(logits: FloatArray) -> FloatArray:
    """Turn logits into probabilities along the last axis."""
    weights = np.exp(logits - np.maximum.reduce(logits, axis=-1, keepdims=True))
    return np.asarray(weights / np.add.reduce(weights, axis=-1, keepdims=True))


def centred(table: FloatArray, policy: FloatArray) -> FloatArray:
    """Subtract from each row its mean under the policy, shapes (S, A).

    Twice: what rounding leaves of the mean the first time is no zero-mean quantity, and would be
    amplified by 1 / (1 - discount) in whatever solve follows.
    """
    once = table - (policy * table).sum(axis=1, keepdims=True)
    return np.asarray(once - (policy * once).sum(axis=1, keepdims=True))


def narrowing(links: sp.csr_array) -> IntArray:
    """Place each row so that what it is linked with comes near (reverse Cuthill-McKee order)."""
    order = scipy.sparse.csgraph.reverse_cuthill_mckee(links)
    place = np.empty(order.size, dtype=np.int64)
    place[order] = np.arange(order.size)
    return place


def unchecked(kind: type[T], **attributes: Any) -> T:
    """Make a frozen object of all its attributes, without the look at each that its class takes."""
    made = object.__new__(kind)
    made.__dict__.update(attributes)
    return made


def changed(one: T, **attributes: Any) -> T:
    """Copy a frozen object with other attributes, as `unchecked`, and all that it remembers."""
    made = object.__new__(type(one))
    made.__dict__.update(one.__dict__, **attributes)
    return made


def restore_read_only(self: object, state: dict[str, Any]) -> None:
    """Serve as `__setstate__` of frozen objects: copies and pickles are as read-only as they."""
    for value in state.values():
        if isinstance(value, sp.csr_array):
            read_only_matrix(value)
        elif isinstance(value, np.ndarray):
            read_only(value)
        elif isinstance(value, dict):
            for part in value.values():
                if isinstance(part, np.ndarray):
                    read_only(part)
    self.__dict__.update(state)
