"""Measures of the papers: how good the follower's answer is, and where a step pushes it."""

from __future__ import annotations

import math

import numpy as np

from tabular_bilevel._base.arrays import FloatArray, binary_scale, quiet
from tabular_bilevel.finite.follower import Response, log_policy
from tabular_bilevel.finite.leader import Evaluation
from tabular_bilevel.finite.linear import policy_system
from tabular_bilevel.finite.model import Model


@quiet
def relative_gap(model: Model, response: Response, best: Response) -> float:
    """Compute by what share an answer earns less than the best one, its randomness paid for."""
    reward = model.follower_reward - model.temperature * log_policy(model, response.action_value)
    earned = np.vecdot(response.policy, np.where(model.available, reward, 0.0))
    system = policy_system(model, response.policy, model.follower_discount)
    most = float(model.initial @ best.value)
    short = most - float(model.initial @ system.solve(earned))
    return short / abs(most) if most != 0.0 else math.copysign(math.inf, short) if short else 0.0


@quiet
def divergence(model: Model, response: Response, best: Response) -> float:
    """Average over all states, alike, KL(pi || pi*)."""
    gap = log_policy(model, response.action_value) - log_policy(model, best.action_value)
    return float(np.vecdot(response.policy, gap).mean())


@quiet
def guidance(model: Model, response: Response, evaluation: Evaluation, then: FloatArray) -> float:
    """Correlate A_L with how much likelier an action becomes, over the leader's discounted visits.

    `then` is log pi after the step, shape (S, A). 0 where one of the two does not vary.
    """
    pairs = evaluation.occupancy[:, None] * response.policy
    share = pairs / pairs.sum()
    changed = then - log_policy(model, response.action_value)
    worth, changed = (
        table - np.vdot(share, table)
        for table in (np.where(model.available, evaluation.advantage, 0.0), changed)
    )
    if not (worth.any() and changed.any()):
        return 0.0
    # squares of what is tiny or huge would be 0 or infinite
    worth, changed = worth / binary_scale(worth), changed / binary_scale(changed)
    spread = math.sqrt(np.vdot(share, worth**2) * np.vdot(share, changed**2))
    return float(np.clip(np.vdot(share, worth * changed) / spread, -1.0, 1.0)) if spread else 0.0
