"""The leader's return under the follower's response (theory.md section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tabular_bilevel._base.arguments import positive_integer
from tabular_bilevel._base.arrays import (
    FloatArray,
    backwards,
    quiet,
    read_only,
    restore_read_only,
)
from tabular_bilevel._base.later import computed_later
from tabular_bilevel.finite.follower import Response
from tabular_bilevel.finite.linear import LinearSystem, policy_system
from tabular_bilevel.finite.model import Model


@dataclass(frozen=True, eq=False)
@computed_later("continuation")
class Evaluation:
    """The leader's objective, and what its hypergradient needs (theory.md section 3).

    Attributes
    ----------
    objective : float
        J, the leader's expected discounted return from the initial distribution.
    value : ndarray, shape (S,)
        V_L; over a finite horizon, with all steps left.
    action_value : ndarray, shape (S, A)
        Q_L; over a finite horizon, with all steps left. 0 where an action is unavailable.
    occupancy : ndarray, shape (S,)
        d_L(s) = sum_t discount^t P(s_t = s), not normalised.
    continuation : ndarray, shape (nnz,)
        For each stored transition (s, a, s'): sum_t discount^t P(s_t = s) V_L(s') with the steps
        left after t; over an infinite horizon this is d_L(s) V_L(s'). With it, what follows is the
        same for both horizons.
    horizon : int or None
        Number of steps that count; all if None.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.two_state().model([0.0, 0.0])
    >>> answer = tb.solve_follower(model)
    >>> evaluation = tb.evaluate_leader(model, answer)
    >>> round(float(evaluation.occupancy.sum()), 10)  # 1 / (1 - 0.8), the discounted steps
    5.0
    >>> bool(abs((answer.policy * evaluation.advantage).sum(axis=1)).max() < 1e-12)
    True
    """

    objective: float
    value: FloatArray
    action_value: FloatArray
    occupancy: FloatArray
    continuation: FloatArray
    horizon: int | None

    __setstate__ = restore_read_only

    @property
    @quiet
    def advantage(self) -> FloatArray:
        """A_L = Q_L - V_L, shape (S, A); without meaning where an action is unavailable."""
        return self.action_value - self.value[:, None]

    def __str__(self) -> str:
        steps = "all steps" if self.horizon is None else f"{self.horizon} steps"
        return f"Evaluation: objective {self.objective:.10g} over {steps}"


@quiet
def evaluate_leader(
    model: Model,
    response: Response,
    *,
    horizon: int | None = None,
    system: LinearSystem | None = None,
) -> Evaluation:
    """Evaluate as `tabular_bilevel.evaluate_leader` says, with the system if it is there."""
    policy, discount = response.policy, model.leader_discount
    source = model.entry_state
    target = model.transition.indices
    if horizon is None:
        system = system or policy_system(model, policy, discount)
        value = system.solve((policy * model.leader_reward).sum(axis=1))
        occupancy = system.solve_transposed(model.initial)
        action_value = model.leader_reward + discount * model.next_value(value)
        continuation = occupancy[source] * value[target]
    else:
        steps = positive_integer("horizon", horizon)
        value, occupancy = np.zeros((2, model.n_states))
        continuation = np.zeros(model.transition.nnz)

        def ahead(law: FloatArray) -> FloatArray:
            return discount * model.arrivals(policy * law[:, None])

        for law in backwards(ahead, model.initial, steps, model.n_states):  # discount^t P(s_t = s)
            occupancy += law
            continuation += law[source] * value[target]
            action_value = model.leader_reward + discount * model.next_value(value)
            value = (policy * action_value).sum(axis=1)
    return Evaluation(
        objective=float(model.initial @ value),
        value=read_only(value),
        action_value=read_only(action_value),
        occupancy=read_only(occupancy),
        continuation=read_only(continuation),
        horizon=horizon,
    )
