"""Linear algebra of closed loops: discounted sums of powers, by doubling."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arrays import FloatArray, quiet
from tabular_bilevel._base.errors import ConvergenceError

# Squares of a stable matrix in float64: 2^64 steps reach any radius that is told from 1.
MOST_SQUARES = 64

# What is left out of the sum is smaller than the sum by the fourth power of it.
SMALLEST_POWER = 1e-5


def symmetric(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Average a matrix, or each of a stack, with its transpose (no conjugate)."""
    total = np.asarray(matrix + matrix.swapaxes(-1, -2))
    total /= 2.0
    return total


def spectral_radius(matrix: FloatArray) -> float:
    """Compute the largest modulus of an eigenvalue."""
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def is_stable(matrix: FloatArray) -> bool:
    """Say whether powers of the matrix fall to 0, by squaring it until they do or grow."""
    power = matrix
    for _ in range(MOST_SQUARES):
        size = np.linalg.norm(power)
        if size < 1.0:
            return True
        if not size < np.finfo(np.float64).max ** 0.25:
            return False
        power = power @ power
    return False


def powers(matrix: FloatArray, count: int) -> FloatArray:
    """Stack matrix^k for k = 0, ..., count - 1, by doubling the stack."""
    stack = np.empty((count, *matrix.shape))
    stack[0] = np.eye(len(matrix))
    done, power = 1, matrix
    while done < count:
        more = min(done, count - done)
        np.matmul(stack[:more], power, out=stack[done : done + more])
        done, power = done + more, power @ power
    return stack


# Matrices from this size on are inverted one by one: three times as fast as in a stack.
LARGE = 24


def inverses(stack: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Invert a stack of positive definite matrices, and take the logarithms of determinants."""
    if stack.shape[1] < LARGE:
        lower = np.linalg.cholesky(stack)
        half = np.linalg.inv(lower)
        sizes = np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1)
        return half.swapaxes(1, 2) @ half, 2.0 * sizes
    from scipy.linalg import lapack

    found, sizes = np.empty_like(stack), np.empty(len(stack))
    for matrix, inverse, k in zip(stack, found, range(len(stack)), strict=True):
        lower, failed = lapack.dpotrf(matrix, lower=1)
        if failed:
            raise np.linalg.LinAlgError("not positive definite")
        sizes[k] = 2.0 * np.log(lower.diagonal()).sum()
        half, _ = lapack.dpotri(lower, lower=1, overwrite_c=1)  # 0 above the diagonal
        np.add(half, half.T, out=inverse)
        inverse.flat[:: len(inverse) + 1] /= 2.0
    return found, sizes


@quiet
def lyapunov(matrix: npt.NDArray[Any], source: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Solve X = matrix X matrix' + source: the sum of matrix^k source matrix'^k over k >= 0.

    Each step doubles the number of summands (Smith, "Matrix equation XA + BX = C", SIAM Journal on
    Applied Mathematics 16, 1968). Complex matrices are transposed, not conjugated. Raises
    `ConvergenceError` if the powers do not fall to 0.
    """
    total, power = source, matrix
    for _ in range(MOST_SQUARES):
        total = total + power @ total @ power.T
        size = np.linalg.norm(power)
        if size <= SMALLEST_POWER:
            return symmetric(total)
        if not np.isfinite(size):
            break
        power = power @ power
    raise ConvergenceError(
        f"powers of a matrix do not fall to 0: its spectral radius is {spectral_radius(matrix):.6g}"
        if np.isfinite(matrix).all()
        else "a matrix is not finite",
        residual=float("inf"),
        iterations=MOST_SQUARES,
    )
