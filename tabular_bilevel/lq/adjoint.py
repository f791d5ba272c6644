"""The derivative of J in the tables, by the adjoint equations (theory.md section 15)."""

from __future__ import annotations

import numpy as np

from tabular_bilevel._base.arrays import quiet
from tabular_bilevel.lq.follower import Response, closed_loop
from tabular_bilevel.lq.leader import Evaluation, evaluate_leader
from tabular_bilevel.lq.linear import lyapunov, symmetric
from tabular_bilevel.lq.model import LinearQuadraticModel
from tabular_bilevel.lq.sensitivities import Sensitivities


@quiet
def sensitivities(
    model: LinearQuadraticModel, response: Response, evaluation: Evaluation
) -> Sensitivities:
    """Differentiate J: one Lyapunov equation, whatever the number of parameters."""
    return direct_sensitivities(model, response, evaluation) + indirect_sensitivities(
        model, response, evaluation
    )


@quiet
def direct_sensitivities(
    model: LinearQuadraticModel, response: Response, evaluation: Evaluation
) -> Sensitivities:
    """Differentiate J with the follower's policy held fixed."""
    flow, noise = evaluation.closed_loop, evaluation.noise
    return Sensitivities.of(
        model,
        dynamics=flow,
        control=2.0 * noise @ model.control @ response.covariance - flow @ response.gain.T,
        noise=noise,
        initial_mean=evaluation.initial_mean,
        initial_covariance=evaluation.initial_covariance,
        leader_reward=evaluation.leader_reward,
    )


@quiet
def indirect_sensitivities(
    model: LinearQuadraticModel, response: Response, evaluation: Evaluation
) -> Sensitivities:
    """Differentiate J through the follower's gain and covariance.

    Both are functions of the tables and of the value matrix P. With g the follower's discount, Y =
    S^-1 dJ/dK, and T the symmetric sensitivity to S = R + g B' P B, that to P goes back along the
    closed loop, Z = g [(B Y A' + A Y' B') / 2 + B T B'] + g C Z C', as P came forward.
    """
    A, B, discount = model.dynamics, model.control, model.follower_discount
    P, gain = response.value_matrix, response.gain
    inverse = np.linalg.inv(model.control_cost + discount * symmetric(B.T @ P @ B))
    Y = inverse @ evaluation.gain
    T = -inverse @ evaluation.covariance @ response.covariance - symmetric(Y @ gain.T)
    closed = closed_loop(model, gain)
    source = discount * (symmetric(B @ Y @ A.T) + B @ symmetric(T) @ B.T)
    Z = lyapunov(np.sqrt(discount) * closed, source)
    through = P @ closed @ Z
    return Sensitivities.of(
        model,
        state_cost=Z,
        control_cost=symmetric(T + gain @ Z @ gain.T),
        dynamics=discount * (P @ B @ Y + 2.0 * through),
        control=discount * (P @ A @ Y.T + 2.0 * (P @ B @ symmetric(T) - through @ gain.T)),
        temperature=np.vdot(evaluation.covariance, inverse) / 2.0,
    )


def road(
    model: LinearQuadraticModel, response: Response, *, horizon: int | None = None
) -> tuple[Evaluation, Sensitivities, Sensitivities]:
    """Evaluate the leader and differentiate: the direct part, and that through the follower."""
    evaluation = evaluate_leader(model, response, horizon=horizon)
    direct = direct_sensitivities(model, response, evaluation)
    return evaluation, direct, indirect_sensitivities(model, response, evaluation)
