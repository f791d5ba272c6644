"""Checks at the boundary; every message names the entry and the number."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tabular_bilevel._base.arrays import BoolArray, FloatArray, IntArray
from tabular_bilevel._base.files import brief

# Distributions typed in with nine digits, or normalised in float64 over many successors, pass;
# a missing successor does not.
DISTRIBUTION_TOLERANCE = 1e-9

# A table that is asked for may take 2 GB, not swap the machine.
MOST_NUMBERS = 2**28

# Beyond it float64 skips whole numbers.
LARGEST_EXACT_INTEGER = 2**53

# numpy's own, at half the cost: it does not look for other kinds of arrays first.
vdot = getattr(np.vdot, "_implementation", np.vdot)

# A table made of another one sums to the same, but for the rounding of many successors.
ROUNDED_ANEW = 1e-12


def distribution_tolerance(dtype: np.dtype[Any], origin: float = 0.0) -> float:
    """How far a sum of probabilities of this dtype may be from 1; wider below float64.

    Never less than `origin`: how far the sums of the table are off that they were made of.
    """
    coarse = 16.0 * float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0
    return max(DISTRIBUTION_TOLERANCE, coarse, origin + ROUNDED_ANEW if origin else 0.0)


def entry(name: str, index: tuple[Any, ...]) -> str:
    """Spell an entry of an array: ``entry("transition", (3, 1))`` is ``transition[3, 1]``."""
    return f"{name}[{', '.join(str(int(i)) for i in index)}]" if index else name


def first(mask: npt.ArrayLike) -> tuple[Any, ...]:
    """Index of the first true entry."""
    flat = np.asarray(mask)
    return tuple(np.unravel_index(int(np.argmax(flat)), flat.shape))


def require_real_dtype(name: str, dtype: np.dtype[Any]) -> None:
    """Raise unless the dtype is one of real numbers, none wider than float64."""
    if dtype.kind not in "fiu":
        raise ValueError(f"{name} has dtype {dtype}; real numbers are needed")
    if dtype.itemsize > 8:
        raise ValueError(f"{name} has dtype {dtype}, which float64 cannot hold")


def as_array(name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    """View as an array of any dtype; masked entries are refused, which numpy would unmask."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.getmaskarray(value).any():
        raise ValueError(f"{entry(name, first(np.ma.getmaskarray(value)))} is masked")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not a rectangular array of numbers") from error


def as_numbers(name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    """View as an array of real numbers."""
    array = as_array(name, value)
    require_real_dtype(name, array.dtype)
    return array


def to_float64(name: str, array: npt.NDArray[Any]) -> FloatArray:
    """Copy to C-contiguous float64, exactly."""
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        inexact = (array > LARGEST_EXACT_INTEGER) | (array < -LARGEST_EXACT_INTEGER)
        if inexact.any():
            index = first(inexact)
            raise ValueError(
                f"{entry(name, index)} is {array[index]}, beyond the whole numbers that float64 "
                "holds"
            )
    return np.array(array, dtype=np.float64, order="C")


def real_array(name: str, value: npt.ArrayLike, shape: tuple[int | None, ...]) -> FloatArray:
    """Copy to a C-contiguous float64 array of the given shape; ``None`` is any positive length."""
    if type(value) is np.ndarray and value.dtype == np.float64 and value.shape == shape:
        return value.copy()
    array = as_numbers(name, value)
    fits = array.ndim == len(shape) and all(
        n > 0 if want is None else n == want for n, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("1+" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} has shape {array.shape}, not ({wanted}{',' * (len(shape) == 1)})")
    return to_float64(name, array)


def as_entries(name: str, matrix: Any) -> tuple[FloatArray, tuple[IntArray, IntArray]]:
    """Read the stored entries of a sparse matrix as data and (rows, columns); it is not changed.

    Entries come as stored, duplicates and zeros included. What scipy does not look at before it
    writes to memory is checked first.
    """
    require_real_dtype(name, matrix.dtype)
    starts = getattr(matrix, "indptr", None)
    if starts is not None and (
        starts[0] != 0 or starts[-1] != len(matrix.indices) or (np.diff(starts) < 0).any()
    ):
        raise ValueError(f"{name} has an indptr that does not rise from 0 to its entries' number")
    try:
        entries = sp.coo_array(matrix)
    except ValueError as error:
        raise ValueError(f"{name} is no sound sparse matrix: {error}") from error
    return to_float64(f"{name} (stored entries)", entries.data), entries.coords


def finite_array(
    name: str,
    value: npt.ArrayLike,
    shape: tuple[int | None, ...],
    *,
    where: BoolArray | None = None,
) -> FloatArray:
    """Copy as `real_array`; entries must be finite, or are set to 0 outside `where`."""
    if where is None and type(value) is np.ndarray and value.dtype == np.float64:
        array = value.copy()  # the rule, in the least time
        if value.shape == shape and math.isfinite(vdot(array, array)):
            return array
    array = real_array(name, value, shape)
    if where is not None:
        array[~where] = 0.0
    if not all_finite(array):
        index = first(~np.isfinite(array))
        raise ValueError(f"{entry(name, index)} is {array[index]}, not a finite number")
    return array


def all_finite(array: FloatArray) -> bool:
    """Say whether every entry is; a finite sum of squares shows it at a fourth of the cost."""
    return math.isfinite(vdot(array, array)) or bool(np.isfinite(array).all())


def require_probabilities(name: str, array: FloatArray) -> None:
    """Raise unless every entry is a finite number of at least 0."""
    bad = ~(np.isfinite(array) & (array >= 0.0))
    if bad.any():
        index = first(bad)
        raise ValueError(f"{entry(name, index)} is {array[index]}, not a probability")


def as_distribution(
    name: str, value: npt.ArrayLike, size: int, *, origin: float = 0.0
) -> FloatArray:
    """Copy a probability distribution over `size` outcomes; see `distribution_tolerance`."""
    array = real_array(name, value, (size,))
    require_probabilities(name, array)
    if abs(array.sum() - 1.0) > distribution_tolerance(as_array(name, value).dtype, origin):
        raise ValueError(f"{name} sums to {array.sum():.12g}, not 1")
    return array


def as_real(name: str, value: npt.ArrayLike) -> float:
    """Convert a real scalar."""
    if type(value) is float:
        return value
    array = as_numbers(name, value)
    if array.ndim != 0:
        raise ValueError(f"{name} has shape {array.shape}; one number is needed")
    return float(to_float64(name, array))


def require_room(what: str, *shape: int) -> None:
    """Raise if a dense table that was asked for would not fit into memory, before it is made."""
    count = math.prod(shape)
    if count > MOST_NUMBERS:
        raise ValueError(
            f"{what} would be of shape {shape}: {count:,} numbers, more than {MOST_NUMBERS:,}"
        )


def as_finite(name: str, value: npt.ArrayLike) -> float:
    """Convert a finite scalar."""
    number = as_real(name, value)
    if not np.isfinite(number):
        raise ValueError(f"{name} is {number}, not a finite number")
    return number


def as_flag(name: str, value: object) -> bool:
    """Take True or False, and nothing that would count as one of them."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} is {brief(repr(value))}, not True or False")
    return bool(value)


def as_discount(name: str, value: npt.ArrayLike) -> float:
    """Convert a discount, in [0, 1)."""
    number = as_real(name, value)
    if not 0.0 <= number < 1.0:
        raise ValueError(f"{name} is {number}, not in [0, 1)")
    return number


def as_leader_discount(value: npt.ArrayLike, *, name: str = "leader_discount") -> float:
    """Convert the leader's discount, in [0, 1]; 1 suits play that ends."""
    number = as_real(name, value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name} is {number}, not in [0, 1]")
    return number


def as_positive(name: str, value: npt.ArrayLike) -> float:
    """Convert a positive finite scalar."""
    number = as_real(name, value)
    if not (np.isfinite(number) and number > 0.0):
        raise ValueError(f"{name} is {number}, not a positive finite number")
    return number


def as_nonnegative(name: str, value: npt.ArrayLike) -> float:
    """Convert a finite scalar of at least 0."""
    number = as_finite(name, value)
    if number < 0.0:
        raise ValueError(f"{name} is {number}, below 0")
    return number


def as_names(
    name: str, given: Iterable[Any] | None, n: int, *, distinct: bool = False
) -> tuple[str, ...] | None:
    """Copy what `n` things are called, if they have names."""
    if given is None:
        return None
    if isinstance(given, str) or not np.iterable(given):
        raise ValueError(f"{name} is {given!r}, not a sequence of names")
    names = tuple(given)
    if len(names) != n:
        raise ValueError(f"{name} has {len(names)} names, not {n}")
    for i, one in enumerate(names):
        if not isinstance(one, str):
            raise ValueError(f"{entry(name, (i,))} is {one!r}, not a string")
        if distinct and one in names[:i]:
            same = entry(name, (names.index(one),))
            raise ValueError(f"{entry(name, (i,))} is {one!r}, and so is {same}")
    return names


def as_action_names(
    name: str, given: Iterable[Any] | None, shape: tuple[int, ...]
) -> tuple[tuple[str, ...], ...] | None:
    """Copy what the actions of each state are called: one sequence for all states, or one each."""
    if given is None:
        return None
    n_states, n_actions = shape
    rows = given if isinstance(given, str) or not np.iterable(given) else tuple(given)
    if not isinstance(rows, tuple) or all(isinstance(one, str) for one in rows):
        return (as_names(name, rows, n_actions) or (),) * n_states
    if len(rows) != n_states:
        raise ValueError(f"{name} has {len(rows)} rows of names, not {n_states}")
    each = (as_names(entry(name, (s,)), row, n_actions) for s, row in enumerate(rows))
    return tuple(row or () for row in each)


def as_theta(theta: npt.ArrayLike, size: int | None = None, *, name: str = "theta") -> FloatArray:
    """Copy a leader's parameter, a finite vector (of length `size`), or a direction of it."""
    if type(theta) is np.ndarray and theta.dtype == np.float64 and theta.ndim == 1:
        vector = theta.copy()  # the rule, in the least time
        if size in (None, vector.size) and math.isfinite(vdot(vector, vector)):
            return vector
    if hasattr(theta, "pullback"):
        raise ValueError(f"{name} is a problem: the problem comes first, and then theta")
    array = as_numbers(name, theta)
    if array.ndim != 1 or (size is not None and array.size != size):
        wanted = "any length" if size is None else f"length {size}"
        raise ValueError(f"{name} has shape {array.shape}, not that of a vector of {wanted}")
    return finite_array(name, array, array.shape)


def as_checked_theta(theta: npt.ArrayLike) -> FloatArray:
    """Copy as `as_theta` does; an empty theta is refused: there is nothing to be right or wrong."""
    vector = as_theta(theta)
    if vector.size == 0:
        raise ValueError("theta has no entries, so there is no gradient")
    return vector


def positive_integer(name: str, value: object) -> int:
    """Convert a whole number of at least 1."""
    try:
        number = 0 if isinstance(value, (bool, np.bool_)) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1:
        shown = repr(value) if isinstance(value, str) else value
        raise ValueError(f"{name} is {shown}, not a positive whole number")
    return number


def require_method(name: str, value: object, method: str) -> None:
    """Raise unless the value is an object, not a class, with the method."""
    if isinstance(value, type):
        raise ValueError(f"{name} is the class {value.__name__}, not an instance of it")
    if not callable(getattr(value, method, None)):
        raise ValueError(f"{name} is {brief(repr(value))}, which has no method {method}")


def keeps_up(thing: object, name: str, *others: str) -> bool:
    """Say whether a thing's method is as new as others, which an heir may have overridden."""
    kind: Any = type(thing)
    return _keeps_up(kind, name, *others)


@lru_cache(maxsize=256)
def _keeps_up(kind: Any, name: str, *others: str) -> bool:
    one, *rest = (
        next((k for k, each in enumerate(kind.__mro__) if method in vars(each)), math.inf)
        for method in (name, *others)
    )
    return one <= min(rest)


def as_generator(rng: np.random.Generator | int) -> np.random.Generator:
    """Take a generator as it is, or start one from a seed."""
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, bool) or not isinstance(rng, (int, np.integer)) or rng < 0:
        raise ValueError(
            f"rng is {brief(repr(rng))}, not a numpy Generator or a seed of at least 0"
        )
    return np.random.default_rng(int(rng))
