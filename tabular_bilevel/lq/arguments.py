"""Checks of matrices at the boundary; every message names the entry and the number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import entry, finite_array, first
from tabular_bilevel._base.arrays import FloatArray, read_only
from tabular_bilevel.lq.linear import symmetric

# Typed in with nine digits, or computed, a matrix is symmetric to this, relative to its size.
ASYMMETRY = 1e-9

# Eigenvalues of a matrix that is not negative are computed to some roundings of its size.
NEGATIVITY = 1e-12


def sizes(n_states: int, n_controls: int) -> str:
    """Say how many states and inputs there are."""
    states, inputs = (
        f"{n} {what}{'s' * (n > 1)}" for n, what in ((n_states, "state"), (n_controls, "input"))
    )
    return f"{states}, {inputs}"


def as_symmetric(name: str, value: npt.ArrayLike, size: int | None = None) -> FloatArray:
    """Copy a symmetric matrix, of any size if none is said."""
    matrix = finite_array(name, value, (size, size))
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} has shape {matrix.shape}, not that of a square matrix")
    off = np.abs(matrix - matrix.T)
    if off.max() > ASYMMETRY * np.abs(matrix).max():
        i, j = first(off == off.max())
        raise ValueError(
            f"{name} is not symmetric: {entry(name, (i, j))} is {matrix[i, j]:.9g}, and "
            f"{entry(name, (j, i))} is {matrix[j, i]:.9g}"
        )
    return read_only(symmetric(matrix))


def as_not_negative(name: str, value: npt.ArrayLike, size: int | None = None) -> FloatArray:
    """Copy a symmetric matrix that has no eigenvalue below 0, such as a covariance."""
    matrix = as_symmetric(name, value, size)
    lowest, largest = _eigenvalues(matrix)
    if lowest < -NEGATIVITY * largest:
        raise ValueError(f"{name} has the eigenvalue {lowest:.6g}, below 0")
    return matrix


def as_positive_definite(name: str, value: npt.ArrayLike, size: int) -> FloatArray:
    """Copy a symmetric matrix that has all its eigenvalues above 0."""
    matrix = as_symmetric(name, value, size)
    lowest, largest = _eigenvalues(matrix)
    if not lowest > NEGATIVITY * largest:
        raise ValueError(f"{name} has the eigenvalue {lowest:.6g}, which must be above 0")
    return matrix


def _eigenvalues(matrix: FloatArray) -> tuple[float, float]:
    """Find the lowest, and the largest modulus."""
    found = np.linalg.eigvalsh(matrix)
    return float(found[0]), float(np.abs(found).max())


def as_change(
    name: str, changes: Mapping[str, Any], tables: Mapping[str, Any], symmetric: frozenset[str]
) -> dict[str, Any]:
    """Check changes of tables, which have their shapes; a table that is left out does not move."""
    unknown = sorted(changes.keys() - tables.keys())
    if unknown:
        raise ValueError(f"{name} has {', '.join(unknown)}; theta can move {', '.join(tables)}")
    found: dict[str, Any] = {}
    for key, table in tables.items():
        shape = np.shape(table)
        change = changes.get(key)
        if change is None:
            found[key] = read_only(np.zeros(shape))
        elif key in symmetric:
            found[key] = as_symmetric(f"{name}.{key}", change, shape[0])
        else:
            found[key] = read_only(finite_array(f"{name}.{key}", change, shape))
    return found
