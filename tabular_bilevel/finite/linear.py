"""The linear systems of the road: (I - discount * P_policy) x = b, and its transpose.

The matrix is an M-matrix, diagonally dominant by rows, so elimination needs no pivoting and every
solution for b >= 0 is at least 0. How to solve depends on size and shape only:

- up to `DENSE_STATES` states, LAPACK on a dense matrix;
- larger and narrow (a map, a chain: after reordering, transitions stay near the diagonal), SuperLU,
  whose factors stay sparse;
- larger and wide (a random graph, whose factors fill up), GMRES, which a discount makes converge
  fast, refined until the residual is at rounding level; SuperLU where it does not get there.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.csgraph
import scipy.sparse.linalg

from tabular_bilevel._base.arrays import ROUNDOFF, FloatArray, grouped_sums
from tabular_bilevel.finite.model import Model

__all__ = [
    "LinearSystem",
    "discounted_system",
    "policy_inverse",
    "policy_system",
    "policy_transition",
]

# Measured: the dense factorisation of 500 states takes 4 ms, as long as the sparse one of a grid.
DENSE_STATES = 500

# Mean distance from the diagonal, as a part of the number of states, below which factors stay
# sparse. Maps of 40,000 cells have 0.004, random graphs with 3 successors an action 0.3.
NARROW = 0.1

# Residuals are asked for at this multiple of rounding, relative to the terms they are made of.
REFINED = 4.0 * np.finfo(np.float64).eps

# Expected steps beyond which the chance to end is lost: it is 1 less the sum of the other chances.
MOST_STEPS = 1.0 / ROUNDOFF


class LinearSystem(Protocol):
    """A matrix that can be solved with, and its transpose too; b is (S,) or (S, k)."""

    def solve(self, b: FloatArray) -> FloatArray:
        """Solve (I - discount P) x = b."""
        ...

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """Solve (I - discount P^T) x = b."""
        ...


class _Dense:
    def __init__(self, matrix: FloatArray) -> None:
        # The transpose is dominant by columns, so that LAPACK's pivoting leaves it as it is: the
        # factors keep their signs, occupancies are not negative, and 0 where no path leads.
        # LAPACK itself: what is singular shows in the solutions, scipy's wrapper would warn of it.
        factor, self._solve = scipy.linalg.get_lapack_funcs(("getrf", "getrs"), (matrix,))
        self._lu, self._pivots, _ = factor(matrix.T, overwrite_a=True)

    def solve(self, b: FloatArray) -> FloatArray:
        return np.asarray(self._solve(self._lu, self._pivots, b, trans=1)[0])

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        return np.asarray(self._solve(self._lu, self._pivots, b)[0])


class _Sparse:
    def __init__(self, matrix: sp.csc_array) -> None:
        # Dominance by rows makes the diagonal a safe pivot, and the pattern is nearly symmetric.
        self._factors = scipy.sparse.linalg.splu(
            matrix,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )

    def solve(self, b: FloatArray) -> FloatArray:
        return np.asarray(self._factors.solve(b))

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        return np.asarray(self._factors.solve(b, trans="T"))


class _Krylov:
    def __init__(self, matrix: sp.csr_array) -> None:
        self._matrix = matrix
        self._direct: _Sparse | None = None

    def solve(self, b: FloatArray) -> FloatArray:
        return self._solve(self._matrix, b, transposed=False)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        return self._solve(self._matrix.T.tocsr(), b, transposed=True)

    def _solve(self, matrix: sp.csr_array, b: FloatArray, *, transposed: bool) -> FloatArray:
        columns = [self._refine(matrix, column) for column in np.atleast_2d(b.T)]
        if all(column is not None for column in columns):
            return np.reshape(np.array(columns).T, b.shape)
        if self._direct is None:
            self._direct = _Sparse(self._matrix.tocsc())
        return self._direct.solve_transposed(b) if transposed else self._direct.solve(b)

    @staticmethod
    def _refine(matrix: sp.csr_array, b: FloatArray) -> FloatArray | None:
        x = np.zeros_like(b)
        smallest = np.inf
        for _ in range(10):
            residual = b - matrix @ x
            size = float(np.abs(residual).max())
            if size <= REFINED * (np.abs(b).max() + np.abs(x).max()):
                return x
            if not size < smallest / 2.0:
                return None
            smallest = size
            step, _ = scipy.sparse.linalg.gmres(
                matrix, residual, rtol=1e-6, atol=0.0, restart=30, maxiter=30
            )
            x = x + step
        return None


def policy_transition(transition: sp.csr_array, policy: FloatArray) -> sp.csr_array:
    """Kernel of states under a policy, P_policy(s'|s), shape (S, S); real or complex."""
    n_states, n_actions = policy.shape
    averages = sp.csr_array(
        (
            policy.ravel(),
            np.arange(n_states * n_actions, dtype=np.int32),
            np.arange(0, n_states * n_actions + 1, n_actions, dtype=np.int32),
        ),
        shape=(n_states, n_states * n_actions),
    )
    return averages @ transition


def discounted_system(kernel: sp.csr_array, discount: float) -> LinearSystem:
    """Prepare the system I - discount * kernel of a kernel of states, real or complex."""
    n_states = kernel.shape[0]
    matrix = sp.csr_array(sp.eye_array(n_states, format="csr") - discount * kernel)
    if n_states <= DENSE_STATES:
        return _Dense(matrix.toarray())
    return _Sparse(matrix.tocsc()) if _is_narrow(kernel) else _Krylov(matrix)


def policy_system(model: Model, policy: FloatArray, discount: float) -> LinearSystem:
    """Prepare the system I - discount * P_policy.

    Parameters
    ----------
    model : Model
        The kernel.
    policy : ndarray, shape (S, A)
        Probability of each action.
    discount : float
        In [0, 1].

    Returns
    -------
    LinearSystem
        Factors, or the matrix where an iteration is faster.

    Raises
    ------
    ValueError
        If the discount is 1, and in float64 the policy does not end the episode.
    """
    if discount == 1.0:
        return _undiscounted_system(model, policy)
    if model.n_states > DENSE_STATES:
        return discounted_system(policy_transition(model.transition, policy), discount)
    return _Dense(_policy_matrix(model, policy, discount))


def _undiscounted_system(model: Model, policy: FloatArray) -> LinearSystem:
    kernel = policy_transition(model.transition, policy)
    try:
        system = discounted_system(kernel, 1.0)
        steps = system.solve(np.ones(model.n_states))
    except RuntimeError:  # SuperLU's, of a singular matrix
        steps = np.full(model.n_states, np.inf)
    _require_steps(steps)
    return system


def _require_steps(steps: FloatArray) -> None:
    """Raise unless the expected numbers of steps are such; then the system is an M-matrix's."""
    endless = ~((steps > 0.0) & (steps < MOST_STEPS))
    if endless.any():
        raise ValueError(
            f"leader_discount is 1, and from state {int(np.argmax(endless))} the follower's policy "
            "ends the episode too rarely for float64, if it does: the expected number of steps "
            f"comes out as {steps[endless][0]:.3g}"
        )


def policy_inverse(model: Model, policy: FloatArray, discount: float) -> FloatArray:
    """Invert I - discount * P_policy, shape (S, S); for small models."""
    # at half the cost of solving for the unit vectors
    factors, pivots, _ = scipy.linalg.lapack.dgetrf(
        _policy_matrix(model, policy, discount).T, overwrite_a=True
    )
    inverse, singular = scipy.linalg.lapack.dgetri(factors, pivots, overwrite_lu=True)
    if discount == 1.0:
        _require_steps(inverse.sum(axis=0) if singular == 0 else np.full(model.n_states, np.inf))
    return np.ascontiguousarray(inverse.T)


def _policy_matrix(model: Model, policy: FloatArray, discount: float) -> FloatArray:
    """Fill I - discount * P_policy directly, at a tenth of a sparse product's overhead."""
    n_states = model.n_states
    place = model.entry_state * n_states + model.transition.indices
    weights = policy.ravel()[model.entry_row] * model.transition.data
    matrix = grouped_sums(place, -discount * weights, n_states**2).reshape(n_states, n_states)
    matrix[np.diag_indices(n_states)] += 1.0
    return matrix


def _is_narrow(kernel: sp.csr_array) -> bool:
    n_states = int(kernel.shape[0])
    order = scipy.sparse.csgraph.reverse_cuthill_mckee(kernel)
    place = np.empty(n_states, dtype=np.int64)
    place[order] = np.arange(n_states)
    row, column = sp.coo_array(kernel).coords
    distance = float(np.abs(place[row] - place[column]).mean())
    return distance < NARROW * n_states
