"""The derivatives of a problem's tables at theta, checked, and how far errors reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arguments import (
    all_finite,
    as_finite,
    entry,
    finite_array,
    first,
    keeps_up,
    real_array,
)
from tabular_bilevel._base.arrays import ROUNDOFF, UNDERFLOW, FloatArray
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.sensitivities import Sensitivities, SensitivityBounds
from tabular_bilevel.finite.tangents import Tangents, stored
from tabular_bilevel.kinds import AnyModel, by_kind
from tabular_bilevel.lq.model import checked_tangent
from tabular_bilevel.problem import (
    AnyProblem,
    BilevelProblem,
    ForwardProblem,
    model_at,
    moves_as,
    pulled_back,
)
from tabular_bilevel.problems.contexts import Contexts, shares, shares_of_bounds
from tabular_bilevel.problems.features import FeatureProblem
from tabular_bilevel.problems.reparametrised import Reparametrised

# A stranger's method is called so often for the derivatives of all tables, at some 20 microseconds
# each, where nobody asked for them ...
MAX_CALLS = 4096

# ... and returns so many numbers, which is a tenth of a second and 128 MB.
MAX_NUMBERS = 2**24

# How far sums of derivatives may be from 0, relative to the largest entry, or to 1: derivatives in
# float32, and of logits of size 1e9, pass; a forgotten successor does not.
LARGEST_LEAK = 1e-6

# How far a pullback may be from linear, relative to the sizes of what it adds up: one that computes
# in float32 passes; one that clips, or adds a constant, does not.
LARGEST_NONLINEARITY = 1e-3


def has_pushforward(problem: object) -> TypeGuard[ForwardProblem]:
    """Say whether a problem can be differentiated forward, all of its parts."""
    if isinstance(problem, Reparametrised):
        return has_pushforward(problem.inner) and hasattr(problem.transform, "pushforward")
    if isinstance(problem, Contexts):
        return all(has_pushforward(each) for each in problem.problems)
    return isinstance(problem, ForwardProblem)


def tangents_along(
    problem: AnyProblem, theta: FloatArray, directions: Iterable[FloatArray]
) -> tuple[Any, Iterator[Any]]:
    """Build the model at theta, and its checked tangents along directions, one at a time."""
    if not has_pushforward(problem):
        raise TypeError(
            f"{type(problem).__name__} has no pushforward(theta, direction), which forward mode "
            "needs"
        )
    model = model_at(problem, theta)
    return model, _pushed(problem, theta, model, directions)


def tangents_at(
    problem: BilevelProblem, theta: FloatArray, model: Model, *, limited: bool = False
) -> Tangents:
    """Differentiate the tables: forward if the problem can, else by pull-backs entry by entry.

    Raises ValueError if a derivative is none, or, where it is `limited`, takes too many calls.
    """
    rewards = _of_rewards(problem, theta, model)
    if rewards is not None:
        return rewards
    if has_pushforward(problem):
        if limited:
            _require_few(problem, theta.size, model, forward=True)
        columns = _pushed(problem, theta, model, axes(theta.size))
        try:
            return Tangents.stacked(model, theta.size, columns, given=_given("pushforward"))
        except NotImplementedError:  # some code can be differentiated backward only
            pass
    if limited:
        _require_few(problem, theta.size, model, forward=False)
    units = _by_units(problem, theta, model)
    tangents = Tangents.of(model, theta.size, given=_given("pullback"), **units)
    _require_linear(problem, theta, tangents, _random_measures(model))
    for tangent in tangents:
        _require_no_leaks("pullback(...) of entries of", tangent, model)
    return tangents


class Reach(NamedTuple):
    """What measures come to when they are pulled back, and by how much that is off.

    Attributes
    ----------
    pulled : ndarray, shape (d,)
        The measures, pulled back.
    bound : ndarray, shape (d,)
        How far it is from the exact measures, pulled back exactly; infinite where nothing is known.
    given : str
        What the bound takes for granted, in words; empty if nothing.
    why : callable
        Says why the bound is infinite; nothing if it need not be.
    own : bool
        Whether the problem's own pullback said so: it need not be asked again.
    """

    pulled: FloatArray
    bound: FloatArray
    given: str = ""
    why: Callable[[], str] = str
    own: bool = False


def reach(
    problem: BilevelProblem,
    theta: FloatArray,
    measures: Sensitivities,
    bounds: SensitivityBounds,
) -> Reach:
    """Pull back measures that are off by at most `bounds`, and bound how far that reaches.

    By the problem's own `pullback_bound` if it has one, else by the sizes of its derivatives.
    """
    if moves_as(problem, Reparametrised) and _bounds_itself(problem.transform):
        inner = reach(problem.inner, problem.transform.forward(theta), measures, bounds)
        pulled, bound = _own(problem.transform, theta, inner.pulled, inner.bound)

        def why() -> str:
            passed = all_finite(inner.bound)
            return _infinite(problem.transform, bound) if passed else inner.why()

        return Reach(pulled, bound, inner.given, why, inner.own)
    if moves_as(problem, Contexts):
        parts = shares(problem, theta, measures), shares_of_bounds(problem, theta, measures, bounds)
        return _added([reach(one, theta, x, off) for (one, x), off in zip(*parts, strict=True)])
    if _bounds_itself(problem):
        pulled, bound = _own(problem, theta, measures, bounds)
        return Reach(
            pulled, bound, "", lambda: _infinite(problem, bound) if all_finite(pulled) else "", True
        )
    try:
        tangents = tangents_at(problem, theta, measures.model, limited=True)
        if tangents.given == _given("pullback"):
            _require_linear(problem, theta, tangents, measures)
    except ValueError as error:
        reason = str(error)
        return Reach(np.zeros(theta.size), np.full(theta.size, np.inf), why=lambda: reason)
    return Reach(*tangents.bounded_dot(measures, bounds), tangents.given)


def _bounds_itself(part: Any) -> bool:
    """Say whether a part has a bound for its pullback, and did not inherit it for another."""
    return keeps_up(part, "pullback_bound", "pullback") and hasattr(part, "pullback_bound")


def _added(parts: Sequence[Reach]) -> Reach:
    """Add up what contexts pull back; each addition rounds."""
    pulled, bound = (
        np.sum([getattr(x, name) for x in parts], axis=0) for name in ("pulled", "bound")
    )
    size = np.sum([np.abs(part.pulled) for part in parts], axis=0) + bound
    bound += (len(parts) + 2.0) * ROUNDOFF * size
    given = _joined(part.given for part in parts)
    return Reach(pulled, bound, given, lambda: _joined(part.why() for part in parts))


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(filter(None, texts)))


def _own(part: Any, theta: FloatArray, measures: Any, bounds: Any) -> tuple[FloatArray, FloatArray]:
    """Pull back by a part of a problem, with its own bound.

    In one pass, if there is one and no heir's methods are others.
    """
    at_once = getattr(part, "_bounded_pullback", None)
    if at_once is not None and keeps_up(part, "_bounded_pullback", "pullback", "pullback_bound"):
        found: tuple[FloatArray, FloatArray] = at_once(theta, measures, bounds)
        return found
    pulled = real_array("pullback(...)", part.pullback(theta, measures), theta.shape)
    bound = part.pullback_bound(theta, measures, bounds)
    bound = real_array("pullback_bound(...)", bound, theta.shape)
    if not bound.min(initial=0.0) >= 0.0 and (bound < 0.0).any():  # no number bounds nothing
        index = first(bound < 0.0)
        raise ValueError(f"{entry('pullback_bound(...)', index)} is {bound[index]}, below 0")
    return pulled, bound


def _infinite(part: Any, bound: FloatArray) -> str:
    return "" if all_finite(bound) else f"the pullback_bound of {type(part).__name__} is infinite"


def _given(method: str) -> str:
    return f"given the derivatives as {method} returns them, which check_gradient tests"


def _of_rewards(problem: BilevelProblem, theta: FloatArray, model: Model) -> Tangents | None:
    """Read them off features where theta moves rewards only, without a call for each parameter."""
    names = ("follower_reward", "leader_reward")
    if moves_as(problem, Reparametrised) and hasattr(problem.transform, "pushforward"):
        x = problem.transform.forward(theta)
        inner = _of_rewards(problem.inner, x, model)
        if inner is None:
            return None
        slopes = _columns(problem.transform.pushforward(theta, axis) for axis in axes(theta.size))
        rewards = {name: getattr(inner, name) @ slopes for name in names}
    elif moves_as(problem, FeatureProblem) and problem.moves_rewards_only:
        kept = sp.diags_array(model.available.ravel().astype(np.float64))
        rewards = {name: kept @ getattr(problem, name) for name in names}
    else:
        return None
    return Tangents.of(model, theta.size, given=_given("pushforward"), **rewards)


def _columns(vectors: Iterable[FloatArray]) -> sp.csc_array:
    """Put vectors side by side; no more than one is in memory as it is."""
    places, numbers, n_rows = [], [], 0
    for vector in vectors:
        kept = np.flatnonzero(vector)
        places.append(kept)
        numbers.append(vector[kept])
        n_rows = vector.size
    starts = np.cumsum([0, *(kept.size for kept in places)])
    parts = (np.concatenate(numbers), np.concatenate(places), starts)
    return sp.csc_array(parts, shape=(n_rows, len(places)))


def _axis(k: int, n: int) -> FloatArray:
    axis = np.zeros(n)
    axis[k] = 1.0
    return axis


def axes(n: int, which: Iterable[int] | None = None) -> Iterator[FloatArray]:
    """Make unit vectors of a length, one at a time; by default all."""
    return (_axis(k, n) for k in (range(n) if which is None else which))


def _pushed(
    problem: Any, theta: FloatArray, model: AnyModel, directions: Iterable[FloatArray]
) -> Iterator[Any]:
    return (_checked(model, problem.pushforward(theta, row)) for row in directions)


def n_entries(model: Model) -> int:
    """Count the table entries that theta may move."""
    return int(2 * model.available.sum() + model.transition.nnz + model.n_states + 1)


def _require_few(problem: object, n_parameters: int, model: Model, *, forward: bool) -> None:
    """Raise if it takes many calls, or numbers, to differentiate all tables."""
    name, count = type(problem).__name__, n_entries(model)
    if n_parameters * count > MAX_NUMBERS:
        raise ValueError(
            f"the derivatives of {count:,} table entries of {name} in {n_parameters:,} "
            f"parameters are more than {MAX_NUMBERS:,} numbers"
        )
    if forward and n_parameters > MAX_CALLS:
        raise ValueError(
            f"pushforward of {name} would be called for each of {n_parameters:,} parameters, more "
            f"than {MAX_CALLS:,}"
        )
    if not forward and count > MAX_CALLS:
        raise ValueError(
            f"pullback of {name}, which has no working pushforward, would be called for each of "
            f"{count:,} table entries, more than {MAX_CALLS:,}"
        )


def _by_units(problem: BilevelProblem, theta: FloatArray, model: Model) -> dict[str, sp.csr_array]:
    """Pull back the measures of one table entry each; unavailable actions have none."""
    available = model.available
    tables = {
        "follower_reward": np.array(available, dtype=np.float64),
        "leader_reward": np.array(available, dtype=np.float64),
        "transition": available.ravel()[model.entry_row].astype(np.float64),
        "initial": np.ones(model.n_states),
    }

    def row(name: str, used: FloatArray, k: int) -> FloatArray:
        """Pull back the measures of one entry, if there is one."""
        if used.flat[k] == 0.0:
            return np.zeros(theta.size)
        unit: dict[str, Any] = {name: _axis(k, used.size).reshape(used.shape)}
        return pulled_back(problem, theta, Sensitivities.of(model, **unit))

    slopes = {
        name: sp.csr_array(_columns(row(name, used, k) for k in range(used.size)).T)
        for name, used in tables.items()
    }
    heat = pulled_back(problem, theta, Sensitivities.of(model, temperature=1.0))
    return {**slopes, "temperature": sp.csr_array(heat[None, :])}


def _random_measures(model: Model) -> Sensitivities:
    rng, available = np.random.default_rng(0), model.available
    return Sensitivities.of(
        model,
        follower_reward=rng.standard_normal(available.shape) * available,
        leader_reward=rng.standard_normal(available.shape) * available,
        transition=rng.standard_normal(model.transition.nnz) * available.ravel()[model.entry_row],
        initial=rng.standard_normal(model.n_states),
        temperature=rng.standard_normal(),
    )


def _require_linear(
    problem: BilevelProblem, theta: FloatArray, tangents: Tangents, measures: Sensitivities
) -> None:
    """Raise unless the pullback of measures is what those of single entries add up to."""
    pulled, wanted = np.asarray(problem.pullback(theta, measures)), tangents.dot(measures)
    allowed = LARGEST_NONLINEARITY * tangents.size(measures) + UNDERFLOW
    bad = np.abs(pulled - wanted) > allowed
    if bad.any():
        index = first(bad)
        raise ValueError(
            f"pullback is not linear in the sensitivities: {entry('pullback(...)', index)} is "
            f"{pulled[index]:.6g}, and those of single table entries add up to {wanted[index]:.6g}"
        )


def _checked_tables(model: Model, tangent: Tangent) -> Tangent:
    """Check what a pushforward returned."""
    change, available = stored(tangent.transition, model), model.available
    tables = {
        "follower_reward": (tangent.follower_reward, available),
        "leader_reward": (tangent.leader_reward, available),
        "transition": (change, available.ravel()[model.entry_row]),
        "initial": (tangent.initial, np.ones(model.n_states, dtype=np.bool_)),
    }
    checked = Tangent(
        **{
            name: finite_array(f"pushforward(...).{name}", table, where.shape, where=where)
            for name, (table, where) in tables.items()
        },
        temperature=as_finite("pushforward(...).temperature", tangent.temperature),
    )
    _require_no_leaks("pushforward(...)", checked, model)
    return checked


_checked = by_kind(_checked_tables, checked_tangent)


def _require_no_leaks(source: str, tangent: Tangent, model: Model) -> None:
    """Raise if the derivative of a distribution does not add up to 0."""
    sums, start = tangent.leaks(model)
    origin = model.origin  # coarse tables' sums, which are not 1, may move
    for name, table, leaks, off in (
        ("transition", tangent.transition, sums, origin.transition),
        ("initial", tangent.initial, np.array(start), origin.initial),
    ):
        size = max(1.0, np.abs(table).max(initial=0.0))
        bad = np.abs(leaks) > (LARGEST_LEAK + 2.0 * off) * size
        if bad.any():
            index = first(bad)
            raise ValueError(
                f"{entry(f'{source}.{name}', index)} sums to {leaks[index]:.12g}, not 0, as the "
                "derivative of a distribution does"
            )
