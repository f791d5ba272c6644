"""The derivatives of a problem's tables at theta, checked: forward, or else by pull-backs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arguments import as_finite, entry, finite_array, first
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.problem import BilevelProblem, ForwardProblem, pulled_back

__all__ = ["all_tangents", "tangents_at"]

# How far sums of derivatives may be from 0, relative to the largest entry, or to 1: derivatives in
# float32, and of logits of size 1e9, pass; a forgotten successor does not.
LARGEST_LEAK = 1e-6


def tangents_at(
    problem: BilevelProblem, theta: FloatArray, rows: FloatArray
) -> tuple[Model, Iterable[Tangent]]:
    """Build the model at theta, and its checked tangents one at a time."""
    if not isinstance(problem, ForwardProblem):
        raise TypeError(
            f"{type(problem).__name__} has no pushforward(theta, direction), which forward mode "
            "needs"
        )
    model = problem.model(theta)
    return model, (_checked(problem.pushforward(theta, row), model) for row in rows)


def all_tangents(problem: BilevelProblem, theta: FloatArray, model: Model) -> list[Tangent]:
    """Differentiate the tables along each axis: forward if the problem can, else entry by entry."""
    if isinstance(problem, ForwardProblem):
        return list(tangents_at(problem, theta, np.eye(theta.size))[1])
    n_pairs, nnz = model.follower_reward.size, model.transition.nnz
    rows = np.array([pulled_back(problem, theta, unit) for unit in _units(model)])
    follower, leader, kernel, initial = np.split(rows.T, np.cumsum([n_pairs, n_pairs, nnz]), axis=1)
    shape = (theta.size, *model.follower_reward.shape)
    tables = zip(follower.reshape(shape), leader.reshape(shape), kernel, initial, strict=True)
    unit = Sensitivities.of(model, temperature=1.0)
    slopes = pulled_back(problem, theta, unit).tolist()
    tangents = [
        Tangent(*change, temperature=slope) for change, slope in zip(tables, slopes, strict=True)
    ]
    for tangent in tangents:
        _require_no_leaks("pullback(...) of entries of", tangent, model)
    return tangents


def _units(model: Model) -> Iterator[Sensitivities]:
    """Make the measures of one table entry each, in the order of `Tangent`."""
    for name, table in (
        ("follower_reward", model.follower_reward),
        ("leader_reward", model.leader_reward),
        ("entries", model.transition.data),
        ("initial", model.initial),
    ):
        for k in range(table.size):
            unit = np.zeros_like(table)
            unit.flat[k] = 1.0
            table_unit: dict[str, Any] = {name: unit}
            yield Sensitivities.of(model, **table_unit)


def _checked(tangent: Tangent, model: Model) -> Tangent:
    """Check what a pushforward returned; a kernel's change may come as a whole table."""
    change: Any = tangent.transition
    kernel = model.transition
    if sp.issparse(change):
        change = change.toarray()
    if np.ndim(change) > 1 and np.size(change) == kernel.shape[0] * kernel.shape[1]:
        change = np.reshape(change, kernel.shape)[model.entry_row, kernel.indices]
    available = model.available
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
