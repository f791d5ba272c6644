"""The exact computation of a gradient, and what can be wrong on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tabular_bilevel._base.arguments import as_theta
from tabular_bilevel._base.arrays import FloatArray, ratio, read_only
from tabular_bilevel.finite.adjoint import influence_source, temperature_slope
from tabular_bilevel.finite.follower import Response, StoppedValueIteration, solve_follower
from tabular_bilevel.finite.leader import Evaluation, evaluate_leader
from tabular_bilevel.finite.linear import LinearSystem, policy_system
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.problem import BilevelProblem


@dataclass(frozen=True, eq=False)
class Road:
    """The exact gradient at one theta (theory.md section 4); a mistake changes something here.

    Attributes
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : ndarray, shape (d,)
        Where.
    tables : Model
        The problem's there, which have the derivatives.
    model : Model
        What is computed with.
    response : Response, optional
        The follower's; its optimal one in that model by default.
    source : callable
        Computes the influence without what led there.
    arrivals : callable
        Takes the follower's system, and returns what sums up arrivals.
    direct, indirect : float
        Factors of the two parts.
    no_direct, no_indirect : tuple of str
        Tables whose derivatives are left out of a part, by their names in `Sensitivities`.
    """

    problem: BilevelProblem = field(repr=False)
    theta: FloatArray
    tables: Model
    model: Model
    response: Response | None = None
    source: Callable[[Model, Response, Evaluation], FloatArray] = influence_source
    arrivals: Callable[[LinearSystem], Callable[[FloatArray], FloatArray]] = lambda system: (
        system.solve_transposed
    )
    direct: float = 1.0
    indirect: float = 1.0
    no_direct: tuple[str, ...] = ()
    no_indirect: tuple[str, ...] = ()

    @classmethod
    def at(cls, problem: BilevelProblem, theta: npt.ArrayLike) -> Road:
        """Lay out the right one."""
        theta = read_only(as_theta(theta))
        tables = problem.model(theta)
        return cls(problem, theta, tables, tables)

    def gradient(self) -> FloatArray:
        """Compute the gradient, shape (d,)."""
        tables, model = self.tables, self.model
        response = solve_follower(model) if self.response is None else self.response
        evaluation = evaluate_leader(model, response)
        own = self.source(model, response, evaluation)
        system = policy_system(model, response.policy, model.follower_discount)
        later = self.arrivals(system)(model.follower_discount * model.arrivals(own))
        influence = own + response.policy * later[:, None]
        pairs = evaluation.occupancy[:, None] * response.policy

        def entries(flow: FloatArray, value: FloatArray) -> FloatArray:
            return np.asarray(flow.ravel()[tables.entry_row] * value[tables.transition.indices])

        direct = Sensitivities.of(
            tables,
            leader_reward=pairs,
            transition=entries(model.leader_discount * pairs, evaluation.value),
            initial=evaluation.value.copy(),
        )
        indirect = Sensitivities.of(
            tables,
            follower_reward=influence,
            transition=entries(model.follower_discount * influence, response.value),
            temperature=temperature_slope(model, response, influence),
        )
        one, other = (
            self.problem.pullback(self.theta, part.times(dict.fromkeys(left_out, 0.0)))
            for part, left_out in ((direct, self.no_direct), (indirect, self.no_indirect))
        )
        return np.asarray(self.direct * one + self.indirect * other)

    def without(self, *names: str) -> Road:
        """Forget the derivatives of some tables."""
        return replace(self, no_direct=names, no_indirect=names)


def with_discounts(follower: str, leader: str) -> Callable[[Road], Road]:
    """Take one discount for the other."""
    return lambda road: replace(
        road,
        model=road.tables.replace(
            follower_discount=getattr(road.tables, follower),
            leader_discount=getattr(road.tables, leader),
        ),
    )


def stopped_at(sweeps: int) -> Callable[[Road], Road]:
    """Let the follower stop early."""
    follower = StoppedValueIteration(sweeps=sweeps, warm_start=False)
    return lambda road: replace(road, response=follower.solve(road.tables))


def action_value_source(model: Model, response: Response, evaluation: Evaluation) -> FloatArray:
    """Take the leader's action value for its advantage."""
    action_value = model.leader_reward + model.leader_discount * model.next_value(evaluation.value)
    pairs = evaluation.occupancy[:, None] * response.policy
    return np.asarray(pairs * action_value / model.temperature)


def entropy_counted(road: Road) -> Road:
    """Pay the leader the follower's bonus for randomness, too."""
    model = road.tables
    response = solve_follower(model)
    bonus = np.where(model.available, response.value[:, None] - response.action_value, 0.0)
    paid = model.replace(leader_reward=model.leader_reward + bonus)
    return replace(road, model=paid, response=response)


def greedy(road: Road) -> Road:
    """Take the better action for sure; its derivative is 0 then."""
    response = solve_follower(road.tables)
    values = np.where(road.tables.available, response.action_value, -np.inf)
    best = np.eye(values.shape[1])[values.argmax(axis=1)]
    return replace(road, response=replace(response, policy=best), indirect=0.0)


def unshifted(road: Road) -> Road:
    """Take exponentials as they come: what overflows is no number."""
    model = road.tables
    response = solve_follower(model)
    weights = np.where(model.available, np.exp(response.action_value / model.temperature), 0.0)
    total = weights.sum(axis=1)
    overflows = not (np.isfinite(total) & (total > 0.0)).all()
    return replace(road, response=response, direct=np.nan if overflows else 1.0)


def everything_available(road: Road) -> Road | None:
    """Take actions that are not available."""
    available = road.tables.available
    if available.all():
        return None
    return replace(road, model=road.tables.replace(available=np.ones_like(available)))


def endless(road: Road) -> Road | None:
    """Normalise each row to 1 that is not empty."""
    model = road.tables
    mass = model.row_mass
    if not model.termination[model.available].any():
        return None
    kernel = model.transition.data * ratio(np.ones(mass.size), mass.ravel())[model.entry_row]
    whole = model.replace(
        transition=model.like_transition(kernel), termination=np.where(mass > 0.0, 0.0, 1.0)
    )
    return replace(road, model=whole)


def restarted(road: Road) -> Road | None:
    """Go on after an episode's end with the next one's first state."""
    model = road.tables
    ends = np.where(model.available, model.termination, 0.0)
    if not ends.any():
        return None
    kernel = model.transition + sp.csr_array(ends.reshape(-1, 1)) @ sp.csr_array(
        model.initial[None]
    )
    again = model.replace(transition=kernel, termination=np.where(model.available, 0.0, 1.0))
    return replace(road, model=again)
