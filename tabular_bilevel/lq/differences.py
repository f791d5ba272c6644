"""Least squares of temporal differences, in squares and products of the state.

Bradtke and Barto, "Linear least-squares algorithms for temporal difference learning", Machine
Learning 22, 1996.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tabular_bilevel._base.arrays import FloatArray, quiet
from tabular_bilevel.lq.values import QuadraticValues


class _Differences(NamedTuple):
    """Features of the steps, their sizes, and the matrix that takes weights to their rewards."""

    features: FloatArray
    sizes: FloatArray
    matrix: FloatArray


def _differences(states: FloatArray, discount: float) -> _Differences:
    rows, columns = np.triu_indices(states.shape[2])
    squares = states[:, :, rows] * states[:, :, columns]
    features = np.concatenate((squares, np.ones((*squares.shape[:2], 1))), axis=2)
    sizes = np.sqrt((features**2).mean(axis=(0, 1))) + np.finfo(np.float64).tiny
    features = features / sizes
    here, after = features[:, :-1], features[:, 1:]
    over = ((0, 1), (0, 1))
    return _Differences(here, sizes, np.tensordot(here, here - discount * after, over))


@quiet
def learned_values(states: FloatArray, earned: FloatArray, discount: float) -> QuadraticValues:
    """Learn what states are worth from what steps earn, shape (count, T)."""
    here, sizes, matrix = _differences(states, discount)
    weights = np.linalg.lstsq(matrix, np.tensordot(earned, here, axes=2), rcond=None)[0] / sizes
    n = states.shape[2]
    found = np.zeros((n, n))
    found[np.triu_indices(n)] = weights[:-1]
    return QuadraticValues((found + found.T)[None] / 2.0, weights[-1:], discount)


@quiet
def credited_values(states: FloatArray, credit: FloatArray, discount: float) -> FloatArray:
    """Make weights of the steps: their sum with anything is that of credit times its value.

    The value is what would be learned of a state: it is linear in what steps earn, whatever it is.
    """
    here, _, matrix = _differences(states, discount)
    credited = np.tensordot(credit, here, axes=2)
    return np.asarray(here @ np.linalg.lstsq(matrix.T, credited, rcond=None)[0])
