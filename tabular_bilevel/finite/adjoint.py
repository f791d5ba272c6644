"""The derivative of J in the tables, by the adjoint equations (theory.md section 4)."""

from __future__ import annotations

from functools import partial

import numpy as np

from tabular_bilevel._base import kernels
from tabular_bilevel._base.arrays import (
    FloatArray,
    centred,
    grouped_sums,
    quiet,
    read_only,
    read_only_view,
    unchecked,
)
from tabular_bilevel.finite.follower import Response, is_banded, log_policy
from tabular_bilevel.finite.leader import Evaluation, evaluate_leader
from tabular_bilevel.finite.linear import LinearSystem, policy_system
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import Sensitivities


@quiet
def sensitivities(model: Model, response: Response, evaluation: Evaluation) -> Sensitivities:
    """Differentiate as `tabular_bilevel.sensitivities` says: the sum of both parts."""
    return direct_sensitivities(model, response, evaluation) + indirect_sensitivities(
        model, response, evaluation
    )


@quiet
def direct_sensitivities(model: Model, response: Response, evaluation: Evaluation) -> Sensitivities:
    """Differentiate J with the policy held fixed; its influence on the follower is 0."""
    return _direct(model, response, evaluation, evaluation.occupancy[:, None] * response.policy)


def _direct(
    model: Model, response: Response, evaluation: Evaluation, pairs: FloatArray
) -> Sensitivities:
    """Differentiate with the policy held fixed, given the occupancy of pairs, shape (S, A)."""

    def flow() -> FloatArray:
        chances = response.policy.ravel()[model.entry_row]
        return np.asarray(model.leader_discount * chances * evaluation.continuation)

    value = evaluation.value.copy()
    return Sensitivities.of(model, leader_reward=pairs, transition=flow, initial=value)


@quiet
def indirect_sensitivities(
    model: Model,
    response: Response,
    evaluation: Evaluation,
    *,
    system: LinearSystem | None = None,
) -> Sensitivities:
    """Differentiate J through the follower's policy alone, with its system if it is there.

    That is 0 in the leader's reward and the initial distribution.
    """
    policy, discount = response.policy, model.follower_discount
    source = influence_source(model, response, evaluation)
    system = system or policy_system(model, policy, discount)
    arrivals = system.solve_transposed(discount * model.arrivals(source))
    return influence_measures(model, response, source + policy * arrivals[:, None])


def evaluated(model: Model, response: Response, *, horizon: int | None = None) -> Evaluation:
    """Evaluate the leader with the very numbers of `road`."""
    if _has_compiled_road(model, horizon):
        return road(model, response)[0]
    return evaluate_leader(model, response, horizon=horizon)


def _has_compiled_road(model: Model, horizon: int | None) -> bool:
    return horizon is None and model.leader_discount < 1.0 and is_banded(model)


def road(
    model: Model, response: Response, *, horizon: int | None = None
) -> tuple[Evaluation, Sensitivities, Sensitivities]:
    """Evaluate the leader and differentiate, in one compiled pass where the model is narrow.

    Returns the same, but for rounding, as `evaluate_leader`, `direct_sensitivities` and
    `indirect_sensitivities`: those are to be read.
    """
    if not _has_compiled_road(model, horizon):
        system = None
        if horizon is None and model.follower_discount == model.leader_discount:
            system = policy_system(model, response.policy, model.leader_discount)
        evaluation = evaluate_leader(model, response, horizon=horizon, system=system)
        direct = direct_sensitivities(model, response, evaluation)
        indirect = indirect_sensitivities(model, response, evaluation, system=system)
        return evaluation, direct, indirect
    kernel, (place, width) = model.transition, model.band
    shape = model.available.shape
    value, occupancy = np.empty(model.n_states), np.empty(model.n_states)
    action_value, pairs, influence = np.empty(shape), np.empty(shape), np.empty(shape)
    kernels.leader_measures(
        kernel.indptr,
        kernel.indices,
        kernel.data,
        model.leader_reward,
        model.initial,
        model.follower_discount,
        model.leader_discount,
        model.temperature,
        read_only_view(response.policy),
        place,
        width,
        value,
        action_value,
        occupancy,
        pairs,
        influence,
    )
    evaluation = unchecked(
        Evaluation,
        objective=float(model.initial.dot(value)),
        value=read_only(value),
        action_value=read_only(action_value),
        occupancy=read_only(occupancy),
        horizon=None,
        later_continuation=lambda: occupancy[model.entry_state] * value[kernel.indices],
    )
    direct = _direct(model, response, evaluation, pairs)
    return evaluation, direct, influence_measures(model, response, influence)


def influence_source(model: Model, response: Response, evaluation: Evaluation) -> FloatArray:
    """Compute w = d_L pi A_L / temperature, the influence without what led there, shape (S, A)."""
    policy = response.policy
    # d_L Q_L, and with its mean under the policy taken off, d_L A_L
    ahead = grouped_sums(
        model.entry_row,
        model.transition.data * evaluation.continuation,
        policy.size,
    ).reshape(policy.shape)
    weighted = evaluation.occupancy[:, None] * model.leader_reward + model.leader_discount * ahead
    return np.asarray(policy * centred(weighted, policy) / model.temperature)


def influence_measures(model: Model, response: Response, influence: FloatArray) -> Sensitivities:
    """Differentiate J through the follower's policy, given the influence measure, shape (S, A)."""

    def flow() -> FloatArray:
        arriving = response.value[model.transition.indices]
        return np.asarray(model.follower_discount * influence.ravel()[model.entry_row] * arriving)

    return Sensitivities.of(
        model,
        follower_reward=influence,
        transition=flow,
        temperature=partial(temperature_slope, model, response, influence),
    )


@quiet
def temperature_slope(model: Model, response: Response, influence: FloatArray) -> float:
    """Differentiate J with respect to the temperature, given the influence measure, shape (S, A).

    With log pi = (Q_F - V_F) / temperature and dV_F / d(temperature) having the entropy as its
    source, a change of the temperature acts like one of r_F by -log pi times as much.
    """
    return -float(np.vdot(influence, log_policy(model, response.action_value)))
