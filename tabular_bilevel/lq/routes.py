"""Other roads to the same derivative: forward mode, and a complex step (theory.md section 15)."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np

from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.lq.follower import closed_loop, solve_follower
from tabular_bilevel.lq.leader import (
    average_law,
    counted_steps,
    moment_of_all,
    moved_noise,
    state_laws,
    step_weights,
)
from tabular_bilevel.lq.linear import lyapunov, symmetric
from tabular_bilevel.lq.model import MOVED, LinearQuadraticModel, Tangent
from tabular_bilevel.lq.rewards import QuadraticReward, StateLaws


def forward_slopes(
    model: LinearQuadraticModel, tangents: Iterable[Tangent], horizon: int | None
) -> FloatArray:
    """Differentiate J along tangents: the Riccati equation, the policy, and then the laws."""
    A, B, discount = model.dynamics, model.control, model.follower_discount
    answer, later = solve_follower(model), model.leader_discount
    P, K, covariance = answer.value_matrix, answer.gain, answer.covariance
    C, V = closed_loop(model, K), moved_noise(model, covariance)
    S = model.control_cost + discount * B.T @ P @ B
    steps = counted_steps(model, horizon)
    reward = model.leader_reward
    summed = steps is None and isinstance(reward, QuadraticReward)
    mean = model.initial_mean
    if summed:
        start = model.initial_covariance + np.outer(mean, mean)
        laws, weights = average_law(moment_of_all(C, V, start, later), 1.0 / (1.0 - later))
    else:
        weights = step_weights(C, later, steps)
        laws = state_laws(model, answer, len(weights))
    slopes = reward.slopes(laws, weights, K, covariance)

    found = []
    for moved in tangents:
        dA, dB = moved.dynamics, moved.control
        dF = dA - dB @ K  # of the closed loop, the policy held fixed
        source = moved.state_cost + K.T @ moved.control_cost @ K
        source = source + 2.0 * discount * symmetric(dF.T @ P @ C)
        dP = lyapunov(np.sqrt(discount) * C.T, source)
        dS = moved.control_cost + discount * (2.0 * symmetric(dB.T @ P @ B) + B.T @ dP @ B)
        ahead = discount * (dB.T @ P @ A + B.T @ dP @ A + B.T @ P @ dA)
        dK = np.linalg.solve(S, ahead - dS @ K)
        heat = moved.temperature / model.temperature
        dcovariance = heat * covariance - np.linalg.solve(S, dS @ covariance)
        dC = dF - B @ dK
        dV = moved.noise + B @ dcovariance @ B.T + 2.0 * symmetric(dB @ covariance @ B.T)
        if summed:
            change = moved.initial_covariance + 2.0 * symmetric(np.outer(moved.initial_mean, mean))
            spread = 2.0 * symmetric(dC @ laws.covariances[0] @ C.T)
            change = change + later * weights[0] * (dV + spread)
            moment = lyapunov(np.sqrt(later) * C, change)
            changes = np.zeros((1, len(mean))), moment[None] / weights[0]
        else:
            changes = _moved_laws(C, dC, dV, laws, moved)
        found.append(
            np.vdot(slopes.means, changes[0])
            + np.vdot(slopes.covariances, changes[1])
            + np.vdot(slopes.gain, dK)
            + np.vdot(slopes.covariance, dcovariance)
            + sum(np.vdot(slopes.reward[name], x) for name, x in moved.leader_reward.items())
        )
    return np.array(found)


def _moved_laws(
    closed: FloatArray, turn: FloatArray, noise: FloatArray, laws: StateLaws, moved: Tangent
) -> tuple[FloatArray, FloatArray]:
    means, covariances = np.empty_like(laws.means), np.empty_like(laws.covariances)
    means[0], covariances[0] = moved.initial_mean, moved.initial_covariance
    for t in range(len(means) - 1):
        means[t + 1] = closed @ means[t] + turn @ laws.means[t]
        spread = 2.0 * symmetric(turn @ laws.covariances[t] @ closed.T)
        covariances[t + 1] = closed @ covariances[t] @ closed.T + spread + noise
    return means, covariances


# Far below any rounding, far above underflow when multiplied by small numbers.
COMPLEX_STEP = 1e-100

# Newton's method is exact in the imaginary part from a solved real one: a second step is rounding.
COMPLEX_STEPS = 3


def complex_slopes(
    model: LinearQuadraticModel, tangents: Iterable[Tangent], horizon: int | None
) -> FloatArray:
    """Differentiate J by evaluating it at complex tables, with transposes that do not conjugate."""
    start = solve_follower(model).value_matrix
    steps = counted_steps(model, horizon)
    return np.array([_complex_derivative(model, moved, start, steps) for moved in tangents])


def _complex_derivative(
    model: LinearQuadraticModel, moved: Tangent, start: FloatArray, steps: int | None
) -> float:
    h = 1j * COMPLEX_STEP
    at: Any = SimpleNamespace(
        **{name: getattr(model, name) + h * getattr(moved, name) for name in MOVED}
    )
    reward = model.leader_reward
    numbers = {
        name: getattr(reward, name) + h * np.asarray(change)
        for name, change in moved.leader_reward.items()
    }
    A, B, discount = at.dynamics, at.control, model.follower_discount
    P = start.astype(np.complex128)
    for _ in range(COMPLEX_STEPS):
        S = at.control_cost + discount * B.T @ P @ B
        K = np.linalg.solve(S, discount * B.T @ P @ A)
        C = A - B @ K
        gap = at.state_cost + K.T @ at.control_cost @ K + discount * C.T @ P @ C - P
        P = P + lyapunov(np.sqrt(discount) * C.T, gap)
    covariance = at.temperature / 2.0 * np.linalg.inv(S)
    V = at.noise + B @ covariance @ B.T
    later, mean, spread = model.leader_discount, at.initial_mean, at.initial_covariance
    if steps is None and isinstance(reward, QuadraticReward):
        moment = moment_of_all(C, V, spread + np.outer(mean, mean), later)
        laws, weights = average_law(moment, 1.0 / (1.0 - later))
    else:
        weights = step_weights(C.real, later, steps)
        means, covariances = [mean], [spread]
        for _ in weights[1:]:
            means.append(C @ means[-1])
            covariances.append(C @ covariances[-1] @ C.T + V)
        laws = StateLaws(np.array(means), np.array(covariances))
    objective = reward.expected(numbers, laws, weights, K, covariance)
    return float(objective.imag / COMPLEX_STEP)
