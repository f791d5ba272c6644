"""Mistakes that implementations make, each with the gradient that it comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arrays import FloatArray, ratio
from tabular_bilevel._base.errors import ConvergenceError
from tabular_bilevel.finite.adjoint import influence_source, temperature_slope
from tabular_bilevel.finite.follower import Response, StoppedValueIteration, solve_follower
from tabular_bilevel.finite.leader import evaluate_leader
from tabular_bilevel.finite.linear import LinearSystem, policy_system
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.vectors.load_vectors import Vector
from tabular_bilevel.vectors.stored import StoredProblem

__all__ = ["MISTAKES", "Mistake", "wrong_gradients"]

# Sweeps of value iteration after which an impatient follower stops.
SWEEPS = 100


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong.

    Attributes
    ----------
    name : str
        What it is.
    flags : tuple of str
        Of vectors that it shows on; any of them.
    gradient : callable
        What it comes to on a problem, shape (d,); None where it is not defined.
    """

    name: str
    flags: tuple[str, ...]
    gradient: Callable[[StoredProblem], FloatArray | None]


def wrong_gradients(vector: Vector) -> Iterator[tuple[Mistake, FloatArray]]:
    """Compute what each mistake comes to on a vector, in float64.

    Parameters
    ----------
    vector : Vector
        What the loader made.

    Yields
    ------
    mistake : Mistake
        Each that is defined there.
    gradient : ndarray, shape (d,)
        What it comes to; NaN where it overflows.
    """
    problem = StoredProblem.of(vector)
    for mistake in MISTAKES:
        try:
            with np.errstate(all="ignore"):
                gradient = mistake.gradient(problem)
        except (ValueError, ConvergenceError, np.linalg.LinAlgError):
            continue  # its follower's problem is none
        if gradient is not None:
            yield mistake, gradient


@dataclass(frozen=True, eq=False)
class _Road:
    """The measures of both parts on the problem's tables, right unless told otherwise."""

    problem: StoredProblem
    direct: Sensitivities
    indirect: Sensitivities

    @classmethod
    def at(
        cls,
        problem: StoredProblem,
        *,
        model: Model | None = None,
        response: Response | None = None,
        source: Callable[..., FloatArray] = influence_source,
        arrivals: Callable[[LinearSystem], Callable[[FloatArray], FloatArray]] | None = None,
    ) -> _Road:
        """Go it: on another model, with another response, source of influence, or solve."""
        tables = problem.tables
        model = tables if model is None else model
        response = solve_follower(model) if response is None else response
        evaluation = evaluate_leader(model, response)
        own = source(model, response, evaluation)
        system = policy_system(model, response.policy, model.follower_discount)
        solve = system.solve_transposed if arrivals is None else arrivals(system)
        later = solve(model.follower_discount * model.arrivals(own))
        influence = own + response.policy * later[:, None]
        pairs = evaluation.occupancy[:, None] * response.policy

        def entries(flow: FloatArray, value: FloatArray) -> FloatArray:
            return np.asarray(flow.ravel()[tables.entry_row] * value[tables.transition.indices])

        return cls(
            problem,
            Sensitivities.of(
                tables,
                leader_reward=pairs,
                entries=entries(model.leader_discount * pairs, evaluation.value),
                initial=evaluation.value.copy(),
            ),
            Sensitivities.of(
                tables,
                follower_reward=influence,
                entries=entries(model.follower_discount * influence, response.value),
                temperature=temperature_slope(model, response, influence),
            ),
        )

    def gradient(self, direct: float = 1.0, indirect: float = 1.0) -> FloatArray:
        """Combine the two parts."""
        theta = np.zeros(self.problem.n_parameters)
        parts = [self.problem.pullback(theta, part) for part in (self.direct, self.indirect)]
        return np.asarray(direct * parts[0] + indirect * parts[1])


def _scaled(direct: Callable[[Model], float], indirect: Callable[[Model], float]) -> Any:
    """Multiply the parts by wrong factors."""
    return lambda problem: _Road.at(problem).gradient(
        direct(problem.tables), indirect(problem.tables)
    )


def _with_discounts(follower: str, leader: str) -> Any:
    """Take one discount for the other."""
    return lambda problem: _Road.at(
        problem,
        model=problem.tables.replace(
            follower_discount=getattr(problem.tables, follower),
            leader_discount=getattr(problem.tables, leader),
        ),
    ).gradient()


def _frozen(*names: str) -> Any:
    """Forget the derivatives of some tables."""
    return lambda problem: _Road.at(
        replace(problem, **{name: np.zeros_like(getattr(problem, name)) for name in names})
    ).gradient()


def _kernel_frozen_in(part: str) -> Any:
    """Forget the kernel's derivative in one part."""

    def gradient(problem: StoredProblem) -> FloatArray:
        road = _Road.at(problem)
        measure = getattr(road, part)
        still = replace(measure, entries=np.zeros_like(measure.entries))
        return replace(road, **{part: still}).gradient()

    return gradient


def _action_value_source(model: Model, response: Response, evaluation: Any) -> FloatArray:
    action_value = model.leader_reward + model.leader_discount * model.next_value(evaluation.value)
    pairs = evaluation.occupancy[:, None] * response.policy
    return np.asarray(pairs * action_value / model.temperature)


def _entropy_counted(problem: StoredProblem) -> FloatArray:
    """Pay the leader the follower's bonus for randomness, too."""
    model = problem.tables
    response = solve_follower(model)
    bonus = np.where(model.available, response.value[:, None] - response.action_value, 0.0)
    return _Road.at(
        problem, model=model.replace(leader_reward=model.leader_reward + bonus), response=response
    ).gradient()


def _greedy(problem: StoredProblem) -> FloatArray:
    """Take the better action for sure; its derivative is 0 then."""
    response = solve_follower(problem.tables)
    values = np.where(problem.tables.available, response.action_value, -np.inf)
    best = np.eye(values.shape[1])[values.argmax(axis=1)]
    return _Road.at(problem, response=replace(response, policy=best)).gradient(indirect=0.0)


def _unshifted(problem: StoredProblem) -> FloatArray:
    """Take exponentials as they come."""
    model = problem.tables
    response = solve_follower(model)
    weights = np.where(model.available, np.exp(response.action_value / model.temperature), 0.0)
    total = weights.sum(axis=1)
    if not (np.isfinite(total) & (total > 0.0)).all():
        return np.full(problem.n_parameters, np.nan)
    return _Road.at(problem, response=response).gradient()


def _stopped(problem: StoredProblem) -> FloatArray:
    response = StoppedValueIteration(sweeps=SWEEPS, warm_start=False).solve(problem.tables)
    return _Road.at(problem, response=response).gradient()


def _everything_available(problem: StoredProblem) -> FloatArray | None:
    model = problem.tables
    if model.available.all():
        return None
    return _Road.at(
        problem, model=model.replace(available=np.ones_like(model.available))
    ).gradient()


def _endless(problem: StoredProblem) -> FloatArray | None:
    """Normalise each row to 1 that is not empty."""
    model = problem.tables
    mass = model.row_mass
    if not model.termination[model.available].any():
        return None
    kernel = model.transition.data * ratio(np.ones(mass.size), mass.ravel())[model.entry_row]
    endless = model.replace(
        transition=model.like_transition(kernel), termination=np.where(mass > 0.0, 0.0, 1.0)
    )
    return _Road.at(problem, model=endless).gradient()


def _restarted(problem: StoredProblem) -> FloatArray | None:
    """Go on after an episode's end with the next one's first state."""
    model = problem.tables
    ends = np.where(model.available, model.termination, 0.0)
    if not ends.any():
        return None
    kernel = model.transition.toarray() + ends.reshape(-1, 1) * model.initial
    again = model.replace(
        transition=sp.csr_array(kernel), termination=np.where(model.available, 0.0, 1.0)
    )
    return _Road.at(problem, model=again).gradient()


def _one(model: Model) -> float:
    return 1.0


def _zero(model: Model) -> float:
    return 0.0


def _rest(model: Model) -> float:
    return 1.0 - model.leader_discount


_FOLLOWER, _LEADER = "follower_discount", "leader_discount"

#: What implementations get wrong, names as in `tb.controls` where it is the same mistake.
MISTAKES: tuple[Mistake, ...] = (
    Mistake("discounts swapped", ("unequal-discounts",), _with_discounts(_LEADER, _FOLLOWER)),
    Mistake(
        "follower's discount for the leader's",
        ("unequal-discounts",),
        _with_discounts(_FOLLOWER, _FOLLOWER),
    ),
    Mistake(
        "leader's discount for the follower's",
        ("unequal-discounts",),
        _with_discounts(_LEADER, _LEADER),
    ),
    Mistake(
        "through-follower term dropped",
        ("follower-reward-parameters", "kernel-parameters"),
        _scaled(_one, _zero),
    ),
    Mistake(
        "direct term dropped",
        ("leader-reward-parameters", "kernel-parameters", "initial-parameters"),
        _scaled(_zero, _one),
    ),
    Mistake(
        "through-follower term sign-flipped",
        ("follower-reward-parameters", "kernel-parameters"),
        _scaled(_one, lambda model: -1.0),
    ),
    Mistake(
        "no 1/temperature", ("temperature-not-one",), _scaled(_one, lambda model: model.temperature)
    ),
    Mistake(
        "1/temperature squared",
        ("temperature-not-one",),
        _scaled(_one, lambda model: 1.0 / model.temperature),
    ),
    Mistake("kernel's derivative dropped", ("kernel-parameters",), _frozen("transition")),
    Mistake(
        "kernel's derivative dropped in the direct term",
        ("kernel-parameters",),
        _kernel_frozen_in("direct"),
    ),
    Mistake(
        "kernel's derivative dropped in the through-follower term",
        ("kernel-parameters",),
        _kernel_frozen_in("indirect"),
    ),
    Mistake(
        "temperature's derivative dropped", ("temperature-parameters",), _frozen("temperature")
    ),
    Mistake(
        "initial distribution's derivative dropped", ("initial-parameters",), _frozen("initial")
    ),
    Mistake(
        "leader reward's derivative dropped",
        ("leader-reward-parameters",),
        _frozen("leader_reward"),
    ),
    Mistake(
        "follower reward's derivative dropped",
        ("follower-reward-parameters",),
        _frozen("follower_reward"),
    ),
    Mistake(
        "no eligibility",
        ("follower-reward-parameters", "kernel-parameters"),
        lambda problem: _Road.at(problem, arrivals=lambda system: np.zeros_like).gradient(),
    ),
    Mistake(
        "kernel transposed in the influence",
        ("follower-reward-parameters", "kernel-parameters"),
        lambda problem: _Road.at(problem, arrivals=lambda system: system.solve).gradient(),
    ),
    Mistake(
        "action value for advantage",
        ("follower-reward-parameters", "kernel-parameters"),
        lambda problem: _Road.at(problem, source=_action_value_source).gradient(),
    ),
    Mistake(
        "normalised occupancy", ("near-one-discount", "unequal-discounts"), _scaled(_rest, _rest)
    ),
    Mistake(
        "entropy bonus in the leader's objective",
        ("follower-reward-parameters", "kernel-parameters"),
        _entropy_counted,
    ),
    Mistake("hard maximum for the soft one", ("tied-actions",), _greedy),
    Mistake(f"follower stopped after {SWEEPS} sweeps", ("near-one-discount",), _stopped),
    Mistake("exponentials that overflow", ("small-temperature",), _unshifted),
    Mistake("unavailable actions taken", ("masked-actions",), _everything_available),
    Mistake("rows normalised to 1", ("termination",), _endless),
    Mistake("next episode counted as this one", ("termination",), _restarted),
)
