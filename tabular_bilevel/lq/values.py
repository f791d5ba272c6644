"""The leader's value of a state, step by step: a quadratic, or a sum of Gaussian bumps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from tabular_bilevel._base.arrays import FloatArray, quiet
from tabular_bilevel.lq.follower import closed_loop
from tabular_bilevel.lq.leader import moved_noise, rounding_horizon
from tabular_bilevel.lq.linear import lyapunov, powers
from tabular_bilevel.lq.model import LinearQuadraticModel
from tabular_bilevel.lq.rewards import QuadraticReward, Widened, by_state


@dataclass(frozen=True, eq=False)
class QuadraticValues:
    """x' matrices[t] x + constants[t] at step t; the last ones hold from their step on.

    The discount is that of the steps that they add up.
    """

    matrices: FloatArray  # symmetric, shape (T + 1, n, n)
    constants: FloatArray
    discount: float

    def at(self, states: FloatArray, first: int = 0) -> FloatArray:
        """Value states, shape (count, steps, n), at the steps from `first` on."""
        which = self._which(first, states.shape[1])
        return np.asarray(quadratics(states, self.matrices[which]) + self.constants[which])

    def smoothed(self, covariance: FloatArray) -> QuadraticValues:
        """Average over a Gaussian of this covariance around each state."""
        more = np.tensordot(self.matrices, covariance, axes=2)
        return replace(self, constants=self.constants + more)

    def slopes(self, state: FloatArray, t: int) -> tuple[FloatArray, FloatArray]:
        """Differentiate at one state: the gradient, and half the second derivative."""
        matrix = self.matrices[min(t, len(self.matrices) - 1)]
        return 2.0 * matrix @ state, matrix

    def _which(self, first: int, steps: int) -> Any:
        return np.minimum(np.arange(first, first + steps), len(self.matrices) - 1)


@dataclass(frozen=True, eq=False)
class BumpValues:
    """The sum over j of heights[j] exp(-gap' precisions[j] gap), gap = powers[j] x - centre.

    Attributes
    ----------
    centre : ndarray, shape (n,)
        Where the reward is largest.
    precision : ndarray, shape (n, n)
        Of the reward.
    powers, spreads : ndarray, shape (T, n, n)
        Where the mean of the state is j steps on, and its covariance there.
    weights : ndarray, shape (T,)
        Height of the reward, discounted.
    horizon : int or None
        At step t only the first horizon - t count; all if None.
    discount : float
        Of the steps that they add up.
    """

    centre: FloatArray
    precision: FloatArray
    powers: FloatArray
    spreads: FloatArray
    weights: FloatArray
    horizon: int | None
    discount: float

    @cached_property
    def _wide(self) -> Widened:
        return Widened(self.precision, self.spreads)

    @cached_property
    def precisions(self) -> FloatArray:
        """Of the reward's mean j steps on, shape (T, n, n)."""
        return self._wide.precisions

    @property
    def heights(self) -> FloatArray:
        """Of the same, shape (T,)."""
        return self.weights * self._wide.heights

    def _left(self, t: int) -> int:
        return len(self.powers) if self.horizon is None else max(0, self.horizon - t)

    def at(self, states: FloatArray, first: int = 0) -> FloatArray:
        """Value states, shape (count, steps, n), at the steps from `first` on."""
        total, heights = np.zeros(states.shape[:2]), self.heights
        for j, power in enumerate(self.powers):
            steps = states.shape[1] if self.horizon is None else max(0, self.horizon - first - j)
            gap = states[:, :steps] @ power.T - self.centre
            total[:, :steps] += heights[j] * np.exp(-quadratics(gap, self.precisions[j]))
        return total

    def smoothed(self, covariance: FloatArray) -> BumpValues:
        """Average over a Gaussian of this covariance around each state."""
        more = self.powers @ covariance @ self.powers.swapaxes(1, 2)
        return replace(self, spreads=self.spreads + more)

    def slopes(self, state: FloatArray, t: int) -> tuple[FloatArray, FloatArray]:
        """Differentiate at one state: the gradient, and half the second derivative."""
        left = self._left(t)
        powers, precisions = self.powers[:left], self.precisions[:left]
        gap = powers @ state - self.centre
        pull = (precisions @ gap[:, :, None])[:, :, 0]
        size = self.heights[:left] * np.exp(-(gap * pull).sum(axis=1))
        back = powers.swapaxes(1, 2)
        gradient = -2.0 * size @ (back @ pull[:, :, None])[:, :, 0]
        bent = 2.0 * pull[:, :, None] * pull[:, None, :] - precisions
        return gradient, np.tensordot(size, back @ bent @ powers, axes=1)


Values = QuadraticValues | BumpValues


@quiet
def exact_values(model: LinearQuadraticModel, policy: Any) -> Values:
    """Value states under a policy, by the Bellman equation."""
    discount, reward, steps = model.leader_discount, model.leader_reward, model.leader_horizon
    closed = closed_loop(model, policy.gain)
    noise = moved_noise(model, policy.covariance)
    if isinstance(reward, QuadraticReward):
        paid = by_state(vars(reward), policy.gain)
        base = float(np.vdot(reward.control, policy.covariance)) + reward.constant
        if steps is None:
            matrix = lyapunov(np.sqrt(discount) * closed.T, paid)
            constant = (base + discount * np.vdot(matrix, noise)) / (1.0 - discount)
            return QuadraticValues(matrix[None], np.array([constant]), discount)
        matrices, constants = np.zeros((steps + 1, *paid.shape)), np.zeros(steps + 1)
        for t in range(steps - 1, -1, -1):
            after = matrices[t + 1]
            matrices[t] = paid + discount * closed.T @ after @ closed
            constants[t] = base + discount * (np.vdot(after, noise) + constants[t + 1])
        return QuadraticValues(matrices, constants, discount)
    count = rounding_horizon(discount) if steps is None else steps
    moved = powers(closed, count)
    spread = np.zeros_like(moved)
    spread[1:] = (moved @ noise @ moved.swapaxes(1, 2))[:-1].cumsum(axis=0)
    return BumpValues(
        centre=reward.centre,
        precision=reward.precision,
        powers=moved,
        spreads=spread,
        weights=np.asarray(reward.height * discount ** np.arange(count), dtype=np.float64),
        horizon=steps,
        discount=discount,
    )


def quadratics(rows: FloatArray, matrices: FloatArray) -> FloatArray:
    """Compute x' M x for many x, shape (count, steps, n), with one M or one a step."""
    moved = np.matmul(rows[:, :, None, :], matrices)[:, :, 0, :]
    return np.asarray((moved * rows).sum(axis=-1))
