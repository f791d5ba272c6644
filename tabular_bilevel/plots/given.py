"""What a picture is given, checked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import entry, finite_array, first, require_probabilities
from tabular_bilevel._base.arrays import FloatArray

# Scales of matplotlib overflow far above it.
LARGEST = 1e100

# How far a row of a policy may be from 1 in all.
ROUNDED = 1e-6


def as_numbers(name: str, value: npt.ArrayLike, shape: tuple[int | None, ...]) -> FloatArray:
    """Copy an array of numbers that can be drawn: finite, and no larger than 1e100."""
    array = finite_array(name, value, shape)
    _refuse(name, array, np.abs(array) > LARGEST, f"beyond the {LARGEST:g} that can be drawn")
    return array


def as_sizes(name: str, value: npt.ArrayLike, shape: tuple[int | None, ...]) -> FloatArray:
    """Copy an array of numbers that are at least 0."""
    array = as_numbers(name, value, shape)
    _refuse(name, array, array < 0.0, "below 0")
    return array


def as_policy(name: str, value: npt.ArrayLike, shape: tuple[int, int]) -> FloatArray:
    """Copy an array whose rows are distributions over actions."""
    array = as_numbers(name, value, shape)
    require_probabilities(name, array)
    sums = array.sum(axis=1)
    off = np.abs(sums - 1.0) > ROUNDED
    if off.any():
        index = first(off)
        raise ValueError(f"{entry(name, index)} sums to {sums[index]:.6g}, not 1")
    return array


def _refuse(name: str, array: FloatArray, bad: npt.NDArray[np.bool_], why: str) -> None:
    """Raise for the first bad entry."""
    if bad.any():
        index = first(bad)
        raise ValueError(f"{entry(name, index)} is {array[index]}, {why}")
