"""Does a problem's pullback fit its model? Exact gradients and estimates both rest on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tabular_bilevel._base.arrays import FloatArray, quiet
from tabular_bilevel.derivatives import n_entries
from tabular_bilevel.exact.routes import differences, extrapolated
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.kinds import by_kind
from tabular_bilevel.lq.linear import symmetric
from tabular_bilevel.lq.model import MOVED, SYMMETRIC, LinearQuadraticModel
from tabular_bilevel.lq.sensitivities import Sensitivities as LinearQuadraticSensitivities
from tabular_bilevel.problem import AnyProblem

# Table entries, of both rewards, the kernel, the initial distribution and the temperature, of the
# largest problem that is looked at: 36 models of it are made.
MOST_ENTRIES = 200_000

# Directions, and steps along each.
DIRECTIONS, STEP, LEVELS = 3, 0.1, 6

# Differences may be off by so many times their own error estimate, which can be too small by
# chance, and by at least this part of a typical derivative ...
DIFFERENCE_FACTOR, DIFFERENCE_TOLERANCE = 100.0, 1e-6

# ... and show nothing if that is more than this part.
LARGEST_ALLOWANCE = 1e-2

# Rounding of a difference: so many units of the tables' last digit, over the smallest step.
ROUNDING_UNITS = 100.0


@dataclass(frozen=True)
class PullbackTest:
    """What `check_pullback` found: what does not fit, or why it was not compared."""

    checked: bool = False
    trouble: str = ""
    skipped: str = ""


@quiet
def check_pullback(problem: AnyProblem, theta: FloatArray) -> PullbackTest:
    """Compare a problem's pullback with differences of its tables along a few random directions.

    Each table is weighted with random numbers, and the sum differentiated twice: by differences of
    ``problem.model``, and by ``problem.pullback`` of the same weights; at last all tables at once.
    Nothing is solved, so that it takes little time; `check_gradient` compares the whole gradient.
    Not checked where there are more than `MOST_ENTRIES` table entries, where theta moves which
    entries the kernel has, or where differences are too inaccurate to tell.
    """
    try:
        model = problem.model(theta)
    except ValueError as error:
        return PullbackTest(skipped=f"problem.model(theta) raises ValueError: {error}")
    count = _entries(model)
    if count > MOST_ENTRIES:
        return PullbackTest(skipped=f"{count:,} table entries are more than {MOST_ENTRIES:,}")
    rng = np.random.default_rng(0)
    measures: Mapping[str, Any] = _drawn(model, rng)
    pulled = np.array([problem.pullback(theta, one) for one in measures.values()], dtype=np.float64)
    sizes = np.array([_sum(model, one, model, size=True) for one in measures.values()])
    unit = np.sqrt(theta.size)

    def weighed(theta: FloatArray) -> FloatArray:
        moved = problem.model(theta)
        return np.array([_sum(moved, one, model) for one in measures.values()])

    unclear = ""
    for _ in range(DIRECTIONS):
        direction = rng.normal(size=theta.size)
        direction /= np.linalg.norm(direction)
        try:
            steps = np.array(differences(weighed, theta, direction, step=STEP, levels=LEVELS))
        except ValueError as error:
            return PullbackTest(skipped=f"no difference can be taken: {error}")
        for k, name in enumerate(measures):
            found, inaccuracy = extrapolated(steps[:, k].tolist())
            said = float(pulled[k] @ direction)
            typical = max(float(np.linalg.norm(pulled[k]) / unit), abs(found))
            rounding = ROUNDING_UNITS * np.finfo(np.float64).eps / STEP * sizes[k]
            allowed = DIFFERENCE_FACTOR * inaccuracy + DIFFERENCE_TOLERANCE * typical + rounding
            if not abs(found - said) <= allowed:
                return PullbackTest(
                    trouble=(
                        f"the problem's pullback does not fit its model: along a random direction "
                        f"{name} changes by {found:.6g}, and pullback says {said:.6g}"
                    )
                )
            if allowed > max(LARGEST_ALLOWANCE * typical, 2.0 * rounding):
                unclear = f"differences of {name} are too inaccurate to tell"
    return PullbackTest(checked=not unclear, skipped=unclear)


def _measures(model: Model, rng: np.random.Generator) -> Mapping[str, Sensitivities]:
    """Draw weights of each table, and of all at once; what is not available has none."""
    on = model.available
    tables: dict[str, Any] = {
        "follower_reward": rng.normal(size=on.shape) * on,
        "leader_reward": rng.normal(size=on.shape) * on,
        "transition": rng.normal(size=model.transition.nnz) * on.ravel()[model.entry_row],
        "initial": rng.normal(size=model.n_states),
        "temperature": float(rng.normal()),
    }
    alone = {
        f"the weighted sum of {name}": Sensitivities.of(model, **{name: table})
        for name, table in tables.items()
    }
    again = {name: np.array(table) for name, table in tables.items() if name != "temperature"}
    whole: dict[str, Any] = {**again, "temperature": tables["temperature"]}
    return {**alone, "the weighted sum of all tables": Sensitivities.of(model, **whole)}


def _weighed(model: Model, weights: Sensitivities, first: Model, *, size: bool = False) -> float:
    """Add up weighted tables, or the sizes of what is added."""
    kernel, known = model.transition, first.transition
    if not (
        np.array_equal(kernel.indptr, known.indptr)
        and np.array_equal(kernel.indices, known.indices)
    ):
        raise ValueError("theta moves which entries the kernel has")
    pairs = [
        (weights.follower_reward, model.follower_reward),
        (weights.leader_reward, model.leader_reward),
        (weights.transition, kernel.data),
        (weights.initial, model.initial),
        (np.array(weights.temperature), np.array(model.temperature)),
    ]
    terms = [weight[weight != 0.0] * table[weight != 0.0] for weight, table in pairs]
    return float(sum(np.abs(part).sum() if size else part.sum() for part in terms))


def _states_entries(model: LinearQuadraticModel) -> int:
    return sum(np.size(table) for table in _tables(model).values())


def _tables(model: LinearQuadraticModel) -> dict[str, Any]:
    """List what theta may move: tables, and numbers of the reward, by their names."""
    reward = model.leader_reward
    return {name: getattr(model, name) for name in MOVED} | {
        f"leader_reward.{name}": getattr(reward, name) for name in reward.moved
    }


def _states_measures(
    model: LinearQuadraticModel, rng: np.random.Generator
) -> Mapping[str, LinearQuadraticSensitivities]:
    """Draw weights of each table, and of all at once; those of symmetric tables are symmetric."""
    even = SYMMETRIC | {f"leader_reward.{name}" for name in model.leader_reward.symmetric}
    weights = {name: rng.normal(size=np.shape(table)) for name, table in _tables(model).items()}
    weights = {name: symmetric(one) if name in even else one for name, one in weights.items()}

    def made(names: Iterable[str]) -> LinearQuadraticSensitivities:
        chosen = {name: weights[name] for name in names}
        paid = {
            name.removeprefix("leader_reward."): chosen.pop(name)
            for name in list(chosen)
            if name.startswith("leader_reward.")
        }
        return LinearQuadraticSensitivities.of(model, leader_reward=paid, **chosen)

    alone = {f"the weighted sum of {name}": made([name]) for name in weights}
    return {**alone, "the weighted sum of all tables": made(weights)}


def _states_weighed(
    model: LinearQuadraticModel,
    weights: LinearQuadraticSensitivities,
    first: LinearQuadraticModel,
    *,
    size: bool = False,
) -> float:
    paid = {f"leader_reward.{name}": slope for name, slope in weights.leader_reward.items()}
    slopes = {name: getattr(weights, name) for name in MOVED} | paid
    terms = [np.multiply(slopes[name], table) for name, table in _tables(model).items()]
    return float(sum(np.abs(part).sum() if size else part.sum() for part in terms))


_entries = by_kind(n_entries, _states_entries)
_drawn = by_kind(_measures, _states_measures)
_sum = by_kind(_weighed, _states_weighed)
