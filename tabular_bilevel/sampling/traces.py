"""Sensitivities by traces: of a sample, and of the law that it is drawn from (theory.md section 6).

Every estimator that goes along trajectories credits each step with something, follows the credit
down the trajectory, and adds up the four measures that the problem pulls back. They differ in the
credit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.finite.adjoint import influence_measures, temperature_slope
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.sampling.experience import Experience, Limit
from tabular_bilevel.sampling.trajectories import Trajectories, row_blocks

__all__ = ["expected_traces", "expected_visits", "sampled_traces", "sampled_visits"]


def sampled_traces(
    experience: Experience,
    *,
    credit: FloatArray,
    credit_discount: float,
    trace_discount: float | None = None,
    leader_discount: float | None = None,
    baseline: bool = True,
    own_action: bool = False,
    trajectories: Trajectories | None = None,
) -> tuple[Sensitivities, Sensitivities]:
    """Add up sensitivities along trajectories, in one pass whatever the number of parameters.

    Parameters
    ----------
    experience : Experience
        Trajectories, response and critic.
    credit : ndarray, shape (S, A)
        Step t is credited with credit_discount^t times the entry of its pair, and each step from
        there on counts with it, discounted at `trace_discount`; all divided by the probability
        of having survived to be seen.
    credit_discount : float
        See there; the survival probability lets all steps count alike as they are seen.
    trace_discount, leader_discount : float, optional
        The follower's and the leader's, unless something else is wanted.
    baseline : bool
        Whether what arriving is worth has its mean taken off, where that changes no expectation.
    own_action : bool
        Whether the action on arrival counts towards what arriving is worth.
    trajectories : Trajectories, optional
        Others than the experience's.

    Returns
    -------
    direct, indirect : Sensitivities
        The direct ones per start, the indirect ones per complete trajectory.
    """
    from tabular_bilevel._base import kernels

    sample = experience.trajectories if trajectories is None else trajectories
    model, response, values = sample.model, experience.response, experience.values
    if trace_discount is None:
        trace_discount = model.follower_discount
    if leader_discount is None:
        leader_discount = model.leader_discount
    kernel, shape = model.transition, credit.shape
    influence, occupancy = np.zeros((2, *shape))
    direct_entries, indirect_entries = np.zeros((2, kernel.nnz))
    direct_initial, indirect_initial = np.zeros((2, model.n_states))
    for block in row_blocks(*sample.states.shape):
        kernels.eligibility_traces(
            sample.states[block],
            sample.actions[block],
            sample.next_states[block],
            sample.lengths[block],
            kernel.indptr,
            kernel.indices,
            kernel.data,
            model.initial,
            model.termination,
            model.follower_reward,
            model.leader_reward,
            response.value,
            response.action_value,
            values.value,
            values.action_value,
            model.follower_discount,
            leader_discount,
            trace_discount,
            credit_discount,
            sample.survival,
            credit,
            baseline,
            own_action,
            1.0 / sample.count,
            1.0 / max(1, sample.complete),
            influence,
            occupancy,
            direct_entries,
            indirect_entries,
            direct_initial,
            indirect_initial,
        )
    direct = Sensitivities.of(
        model, leader_reward=occupancy, entries=direct_entries, initial=direct_initial
    )
    indirect = Sensitivities.of(
        model,
        follower_reward=influence,
        entries=indirect_entries,
        initial=indirect_initial,
        temperature=partial(temperature_slope, experience.model, response, influence),
    )
    return direct, indirect


def expected_traces(
    limit: Limit,
    *,
    credit: FloatArray,
    credit_discount: float,
    trace_discount: float | None = None,
    initial: FloatArray | None = None,
) -> tuple[Sensitivities, Sensitivities]:
    """Compute the mean of `sampled_traces`, step by step over the law of the trajectories.

    Parameters
    ----------
    limit : Limit
        What the trajectories are drawn from.
    credit : ndarray, shape (S, A)
        As for `sampled_traces`.
    credit_discount : float
        As for `sampled_traces`.
    trace_discount : float, optional
        As for `sampled_traces`.
    initial : ndarray, shape (S,), optional
        Where trajectories start, if not where the model's do.

    Returns
    -------
    direct, indirect : Sensitivities
        Means of the sampled ones.
    """
    model, policy, values = limit.model, limit.response.policy, limit.values
    if trace_discount is None:
        trace_discount = model.follower_discount
    start = model.initial if initial is None else initial
    influence, occupancy = np.zeros_like(policy), np.zeros_like(policy)
    trace = np.zeros_like(policy)  # mean of the eligibility where a step is at (s, a)
    law, weight, credit_weight = start, 1.0, 1.0
    for _ in range(limit.horizon):
        pairs = policy * law[:, None]
        carried = policy * model.arrivals(trace_discount * trace)[:, None]
        trace = carried + credit_weight * pairs * credit
        influence += trace
        occupancy += weight * pairs
        law = model.arrivals(pairs)
        if not law.any():  # all episodes have ended, and what is carried with them
            break
        weight *= model.leader_discount
        credit_weight *= credit_discount
    source, target = model.entry_row, model.transition.indices
    direct = Sensitivities.of(
        model,
        leader_reward=occupancy,
        entries=model.leader_discount * occupancy.ravel()[source] * values.value[target],
        initial=values.value.copy(),
    )
    indirect = influence_measures(model, limit.response, influence)
    planned = partial(temperature_slope, limit.planned, limit.response, influence)
    return direct, replace(indirect, _temperature=planned)


def sampled_visits(trajectories: Trajectories, discount: float) -> tuple[FloatArray, FloatArray]:
    """Count visits, and add up discount^t over them, both (S, A)."""
    from tabular_bilevel._base import kernels

    counts, weights = np.zeros((2, *trajectories.model.follower_reward.shape))
    kernels.visits(
        trajectories.states,
        trajectories.actions,
        trajectories.lengths,
        discount / trajectories.survival,
        counts,
        weights,
    )
    return counts, weights


def expected_visits(
    limit: Limit, discount: float, *, initial: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Compute the means of `sampled_visits` per trajectory."""
    model, policy = limit.model, limit.response.policy
    counts, weights = np.zeros((2, *policy.shape))
    law, reached, weight = (model.initial if initial is None else initial), 1.0, 1.0
    for _ in range(limit.horizon):
        pairs = policy * law[:, None]
        counts += reached * pairs
        weights += weight * pairs
        law = model.arrivals(pairs)
        if not law.any():
            break
        reached *= limit.survival
        weight *= discount
    return counts, weights
