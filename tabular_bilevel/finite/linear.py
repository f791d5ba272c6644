"""The linear systems of the road: (I - discount * P_policy) x = b, and its transpose.

The matrix is an M-matrix, diagonally dominant by rows, so elimination needs no pivoting and every
solution for b >= 0 is at least 0. How to solve depends on size and shape only:

- up to `DENSE_STATES` states, LAPACK on a dense matrix;
- larger, sweeps in place, as far as they gain enough: in a random graph, whose factors fill up;
- where they do not, SuperLU on maps and chains, whose factors stay sparse;
- on other graphs, and for a Newton step that need not be exact, BiCGSTAB;
- where that does not get there, SuperLU all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg

from tabular_bilevel._base import kernels
from tabular_bilevel._base.arrays import ROUNDOFF, FloatArray, grouped_sums, read_only_view
from tabular_bilevel.finite.model import Model

__all__ = [
    "LinearSystem",
    "discounted_system",
    "factored_system",
    "policy_system",
    "policy_transition",
]

# Measured on random graphs: a solve by factors takes as long as one by sweeps, 0.9 ms; at 400
# states thirty times as long.
DENSE_STATES = 150

# Residuals are asked for at this multiple of rounding, relative to the terms they are made of;
# where they get no smaller, the second will do.
REFINED = 4.0 * np.finfo(np.float64).eps
ROUNDED = 64.0 * np.finfo(np.float64).eps

# A round of sweeps that does not gain this factor is the last one: BiCGSTAB is faster.
ROUND_OF_SWEEPS = 8
WORTH_A_ROUND = 4.0

# Sweeps balance the residual over one state in so many: their rows alone have to be added up.
ONE_STATE_IN = 8

# Iterations of BiCGSTAB beyond which the factors of a map are faster; those of a random graph fill
# up, and take the time of about as many iterations as there are states.
MOST_ITERATIONS = 250

# Sweeps that look for the leading vector, without which they gain little anyway.
POWER_SWEEPS = 30

# Expected steps beyond which the chance to end is lost: it is 1 less the sum of the other chances.
MOST_STEPS = 1.0 / ROUNDOFF


class LinearSystem(Protocol):
    """A matrix that can be solved with, and its transpose too; b is (S,) or (S, k)."""

    @property
    def method(self) -> str:
        """How it is solved, in words."""
        ...

    def solve(self, b: FloatArray, *, accuracy: float = 0.0) -> FloatArray:
        """Solve (I - discount P) x = b; a residual of `accuracy` times b will do."""
        ...

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """Solve (I - discount P^T) x = b."""
        ...


class _Dense:
    method = "dense factors"

    def __init__(self, matrix: FloatArray) -> None:
        # The transpose is dominant by columns, so that LAPACK's pivoting leaves it as it is: the
        # factors keep their signs, occupancies are not negative, and 0 where no path leads.
        # LAPACK itself: what is singular shows in the solutions, scipy's wrapper would warn of it.
        factor, self._solve = scipy.linalg.get_lapack_funcs(("getrf", "getrs"), (matrix,))
        self._lu, self._pivots, _ = factor(matrix.T, overwrite_a=True)

    def solve(self, b: FloatArray, *, accuracy: float = 0.0) -> FloatArray:
        return np.asarray(self._solve(self._lu, self._pivots, b, trans=1)[0])

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        return np.asarray(self._solve(self._lu, self._pivots, b)[0])


class _Sparse:
    method = "sparse factors"

    def __init__(self, matrix: sp.csc_array) -> None:
        # Dominance by rows makes the diagonal a safe pivot, and the pattern is nearly symmetric.
        self._factors = scipy.sparse.linalg.splu(
            matrix,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )

    def solve(self, b: FloatArray, *, accuracy: float = 0.0) -> FloatArray:
        return np.asarray(self._factors.solve(b))

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        return np.asarray(self._factors.solve(b, trans="T"))


class _Swept:
    """Sweeps, BiCGSTAB where they gain too little, and factors where these are faster."""

    def __init__(
        self, model: Model, kernel: sp.csr_array, discount: float, mass: FloatArray
    ) -> None:
        self._model, self._kernel, self._discount = model, kernel, discount
        self._leading, self._ahead = _leading_vector(kernel, discount, mass)
        self._level = np.full_like(self._leading, 1.0 / self._leading.size)
        self._stays = 1.0 / (1.0 - discount * kernel.diagonal())

    @property
    def method(self) -> str:
        if "_factors" in self.__dict__:
            return "sparse factors"
        ways = [self.__dict__.get(way) for way in ("_right", "_left")]
        return "BiCGSTAB" if any(way and not way.enough for way in ways) else "sweeps"

    def solve(self, b: FloatArray, *, accuracy: float = 0.0) -> FloatArray:
        return self._each(
            b,
            lambda column: self._right.solve(column, accuracy),
            _Sparse.solve,
            exact=accuracy == 0.0,
        )

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        return self._each(b, lambda column: self._left.solve(column, 0.0), _Sparse.solve_transposed)

    def _each(
        self,
        b: FloatArray,
        swept: Callable[[FloatArray], FloatArray | None],
        factored: Callable[[_Sparse, FloatArray], FloatArray],
        *,
        exact: bool = True,
    ) -> FloatArray:
        columns = []
        for column in np.atleast_2d(b.T):
            x = None if "_factors" in self.__dict__ else swept(column)
            x = factored(self._factors, column) if x is None else x
            if exact and x.dtype == float and column.min() >= 0.0:
                x = np.maximum(x, 0.0)  # what a path leads to has not less than none of it
            columns.append(x)
        return np.reshape(np.array(columns).T, b.shape)

    @cached_property
    def _right(self) -> _Sweeps:
        some = np.zeros_like(self._leading)
        some[::ONE_STATE_IN] = 1.0
        rows = self._kernel[::ONE_STATE_IN]
        lost = some - self._discount * (rows.T @ some[::ONE_STATE_IN])
        return _Sweeps(
            self._model, self._kernel, self._discount, self._stays, self._leading, some, lost
        )

    @cached_property
    def _left(self) -> _Sweeps:
        kernel = self._kernel.T.tocsr()
        lost = self._leading - self._discount * self._ahead
        return _Sweeps(
            self._model, kernel, self._discount, self._stays, self._level, self._leading, lost
        )

    @cached_property
    def _factors(self) -> _Sparse:
        return _Sparse(_matrix(self._kernel, self._discount))


class _Sweeps:
    """Sweeps x <- b + discount P x in place, before each of which a multiple of `along` is added.

    It makes the residual orthogonal to `against`. Sweeps alone gain a factor of the discount each.
    What they leave lies along P's leading vector, which is 1 where no episode ends. Without it they
    gain P's second eigenvalue, too: in a random graph a half, and by working in place a third; next
    to nothing on a map. For the transposed system the two vectors change places.
    """

    def __init__(
        self,
        model: Model,
        kernel: sp.csr_array,
        discount: float,
        stays: FloatArray,  # 1 / (1 - discount P(s|s))
        along: FloatArray,
        against: FloatArray,
        lost: FloatArray,  # against - discount P^T against
    ) -> None:
        self._model, self._kernel, self._discount = model, kernel, discount
        self.enough = True  # for all right sides so far
        mass = (lost * along).sum()
        scale = 1.0 / mass if abs(mass) > ROUNDOFF else 0.0
        self._stays, self._vectors = stays, (along, scale * against, scale * lost)

    def solve(self, b: FloatArray, accuracy: float) -> FloatArray | None:
        """Solve for one right side; None where factors are faster, or nothing else gets there."""
        b = np.asarray(b, dtype=np.result_type(b, self._kernel))
        x, residual, smallest = np.zeros_like(b), b, np.inf
        for _ in range(10):
            size, terms = _largest(residual), _largest(b) + _largest(x)
            if size <= max(REFINED * terms, accuracy * _largest(b)):
                return x
            if not size < smallest / 2.0:
                return x if size <= ROUNDED * terms else None
            smallest = size
            gain = max(accuracy, 1e-10)
            step, enough = self._sweep(residual, gain * size)
            if not enough:
                if accuracy == 0.0 and self._model.narrow:
                    return None
                self.enough = False
                scaled = self._iterate(residual / size, step / size, gain)  # no underflow
                if scaled is None:
                    return None
                step = scaled * size
            x += step
            if accuracy > 0.0 and enough:
                return x
            residual = b - x + self._discount * (self._kernel @ x)
        return None

    def _sweep(self, residual: FloatArray, aim: float) -> tuple[FloatArray, bool]:
        """Sweep from 0; also return whether the changes came down to what was aimed at."""
        x, before, kernel = np.zeros_like(residual), np.inf, self._kernel
        while True:
            change = kernels.linear_sweeps(
                read_only_view(kernel.indptr),
                read_only_view(kernel.indices),
                read_only_view(kernel.data),
                self._discount,
                self._stays,
                read_only_view(residual),
                *self._vectors,
                aim,
                ROUND_OF_SWEEPS,
                x,
            )
            if change <= aim:
                return x, True
            if not change < before / WORTH_A_ROUND:
                return x, False
            before = change

    def _iterate(self, b: FloatArray, x: FloatArray, aim: float) -> FloatArray | None:
        """Go on from x by BiCGSTAB (van der Vorst, 1992), without the threads of scipy's products.

        For vectors of some 10,000 entries they wait for each other: 30 times the time was seen.
        Unknown are the moves to other states, x / stays: states that mostly stay would be slow.
        """
        most = MOST_ITERATIONS if self._model.narrow else max(MOST_ITERATIONS, x.size)
        x = x / self._stays
        residual = b - self._times(x)
        if not _largest(residual) < _largest(b):  # sweeps led away
            x, residual = np.zeros_like(b), b
        shadow = direction = residual
        product = _inner(shadow, residual)
        for _ in range(most):
            if _largest(residual) <= aim:
                return x * self._stays
            ahead = self._times(direction)
            pivot = _inner(shadow, ahead)
            if not abs(pivot) > 0.0:  # breaks down, as below
                return None
            length = product / pivot
            x = x + length * direction
            residual = residual - length * ahead
            if _largest(residual) <= aim:
                return x * self._stays
            image = self._times(residual)
            power = _inner(image, image)
            if not abs(power) > 0.0:
                return None
            damping = _inner(image, residual) / power
            x += damping * residual
            residual = residual - damping * image
            before, product = product, _inner(shadow, residual)
            if not abs(damping * before) > 0.0:
                return None
            turn = product / before * length / damping
            direction = residual + turn * (direction - damping * ahead)
        return None

    def _times(self, moves: FloatArray) -> FloatArray:
        x = moves * self._stays
        return np.asarray(x - self._discount * (self._kernel @ x))


def _inner(a: FloatArray, b: FloatArray) -> Any:
    return (a.conj() * b).sum()


def _matrix(kernel: sp.csr_array, discount: float) -> sp.csc_array:
    return sp.csc_array(sp.eye_array(kernel.shape[0], format="csr") - discount * kernel)


def _largest(numbers: FloatArray) -> float:
    return float(np.abs(numbers).max())


def _leading_vector(
    kernel: sp.csr_array, discount: float, mass: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Find P's leading vector v as far as sweeps need it, given P 1; return v and P v.

    Where no episode ends it is 1. It has to be right as far as 1 - discount P of it is.
    """
    leading, ahead = np.ones_like(mass), mass
    for _ in range(POWER_SWEEPS):
        top = _largest(ahead)
        if not top > 0.0 or _largest(ahead / top - leading) <= 0.1 * abs(1.0 - discount * top):
            break
        leading = ahead / top
        ahead = kernel @ leading
    return leading, ahead


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


def discounted_system(model: Model, kernel: sp.csr_array, discount: float) -> LinearSystem:
    """Prepare the system I - discount * kernel of states that the model's transitions link.

    The kernel may be complex.
    """
    n_states = kernel.shape[0]
    if n_states > DENSE_STATES:
        return _Swept(model, kernel, discount, kernel @ np.ones(n_states))
    return _Dense(np.eye(n_states) - discount * kernel.toarray())


def policy_system(
    model: Model, policy: FloatArray, discount: float, weights: FloatArray | None = None
) -> LinearSystem:
    """Prepare the system I - discount * P_policy: factors, or a matrix where iteration is faster.

    The weights, shape (nnz,), are the policy's chances of each stored transition, where they are
    known. Raises ValueError if the discount is 1, and in float64 the policy does not end the
    episode.
    """
    if discount == 1.0:
        return _undiscounted_system(model, policy)
    if weights is None:
        weights = _policy_weights(model, policy)
    if model.n_states <= DENSE_STATES:
        return _Dense(_policy_matrix(model, weights, discount))
    if model.overlapping:
        kernel = policy_transition(model.transition, policy)
    else:
        entries, shape = model.transition, (model.n_states, model.n_states)
        starts = np.ascontiguousarray(entries.indptr[:: model.n_actions])
        kernel = sp.csr_array((weights, entries.indices, starts), shape=shape)
    return _Swept(model, kernel, discount, np.einsum("sa,sa->s", policy, model.row_mass))


def factored_system(model: Model, policy: FloatArray, discount: float) -> LinearSystem:
    """Prepare the system of `policy_system` for many right sides: factors, where sparse."""
    if discount == 1.0 or model.n_states <= DENSE_STATES or not model.narrow:
        return policy_system(model, policy, discount)
    return _Sparse(_matrix(policy_transition(model.transition, policy), discount))


def _undiscounted_system(model: Model, policy: FloatArray) -> LinearSystem:
    kernel = policy_transition(model.transition, policy)
    try:
        system = discounted_system(model, kernel, 1.0)
        steps = system.solve(np.ones(model.n_states))
    except RuntimeError:  # SuperLU's, of a singular matrix
        steps = np.full(model.n_states, np.inf)
    _require_steps(steps)
    return system


def _require_steps(steps: FloatArray) -> None:
    """Raise unless the expected numbers of steps are such; then the system is an M-matrix's."""
    endless = ~((steps > 0.0) & (steps < MOST_STEPS))
    if endless.any():
        found = steps[endless][0]
        raise ValueError(
            f"leader_discount is 1, and from state {int(np.argmax(endless))} the follower's policy "
            "ends the episode too rarely for float64, if it does: the expected number of steps "
            f"comes out as {found:.3g}" + ("" if found > 0.0 else ", as it cannot be")
        )


def _policy_weights(model: Model, policy: FloatArray) -> FloatArray:
    return np.asarray(policy.ravel()[model.entry_row] * model.transition.data)


def _policy_matrix(model: Model, weights: FloatArray, discount: float) -> FloatArray:
    """Fill I - discount * P_policy directly, at a tenth of a sparse product's overhead."""
    n_states = model.n_states
    place = model.entry_state * n_states + model.transition.indices
    matrix = grouped_sums(place, -discount * weights, n_states**2).reshape(n_states, n_states)
    matrix[np.diag_indices(n_states)] += 1.0
    return matrix
