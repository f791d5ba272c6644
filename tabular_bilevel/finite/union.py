"""Several models side by side: one model, whose first state says in which of them play is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arrays import FloatArray, read_only
from tabular_bilevel.finite.model import Model, Origin, made_of

#: What models side by side have in common.
SHARED = ("follower_discount", "leader_discount", "temperature")


class Place:
    """Where one model's tables are in the joint ones: pairs of (S, A), entries, and states."""

    def __init__(self, model: Model, first_state: int, first_entry: int) -> None:
        self.states = slice(first_state, first_state + model.n_states)
        self.pairs = self.states, slice(model.n_actions)
        self.entries = slice(first_entry, first_entry + model.transition.nnz)


def places(models: Sequence[Model]) -> list[Place]:
    """Find each model's place."""
    found, state, entry = [], 0, 0
    for model in models:
        found.append(Place(model, state, entry))
        state, entry = found[-1].states.stop, found[-1].entries.stop
    return found


def side_by_side(
    models: Sequence[Model], weights: FloatArray, names: Sequence[str] | None = None
) -> Model:
    """Join models that share discounts and temperature; each begins with its weight.

    Their disjoint union has the states in the order of the models. Where a model has fewer actions
    than another, the rest are unavailable. States' names begin with `names`, by default the models'
    numbers. Raises ValueError if a discount or the temperature is not that of the first.
    """
    first = models[0]
    for k, model in enumerate(models):
        for name in SHARED:
            one, other = getattr(first, name), getattr(model, name)
            if one != other:
                raise ValueError(
                    f"{name} is {one!r} in the first context and {other!r} in context {k}, from 0: "
                    "contexts share their discounts and their temperature"
                )
    frame = _frame(
        tuple(model._kernel for model in models),
        tuple(model.state_names for model in models),
        tuple(model.action_names for model in models),
        None if names is None else tuple(names),
        first.follower_discount,
        first.leader_discount,
    )
    shape = frame.follower_reward.shape
    return frame._with(
        follower_reward=_stacked([model.follower_reward for model in models], shape),
        leader_reward=_stacked([model.leader_reward for model in models], shape),
        initial=read_only(
            np.concatenate([w * model.initial for w, model in zip(weights, models, strict=True)])
        ),
        temperature=first.temperature,
    )


@lru_cache(maxsize=2)
def _frame(
    parts: tuple[Any, ...],
    state_names: tuple[Any, ...],
    action_names: tuple[Any, ...],
    names: tuple[str, ...] | None,
    follower_discount: float,
    leader_discount: float,
) -> Model:
    """Join kernels, which theta need not move, and names; the other tables are 0."""
    counts = [part.available.shape for part in parts]
    shape = sum(n_states for n_states, _ in counts), max(n_actions for _, n_actions in counts)
    lengths, columns = np.zeros(shape, dtype=np.int64), []
    state = 0
    for part, (n_states, n_actions) in zip(parts, counts, strict=True):
        rows = np.diff(part.transition.indptr).reshape(n_states, n_actions)
        lengths[state : state + n_states, :n_actions] = rows
        columns.append(part.transition.indices + np.int64(state))
        state += n_states
    transition = sp.csr_array(
        (
            np.concatenate([part.transition.data for part in parts]),
            np.concatenate(columns),
            np.concatenate([[0], np.cumsum(lengths)]),
        ),
        shape=(lengths.size, shape[0]),
    )
    called = [str(k) for k in range(len(parts))] if names is None else names
    states = None
    if any(own is not None for own in state_names):
        states = [
            f"{name}: {s}"
            for name, own, (n_states, _) in zip(called, state_names, counts, strict=True)
            for s in (range(n_states) if own is None else own)
        ]
    actions = None
    if all(own is not None for own in action_names):
        actions = [(*row, *[""] * (shape[1] - len(row))) for own in action_names for row in own]
    return made_of(
        Origin(max(_off(part.transition, part.termination) for part in parts)),
        transition=transition,
        follower_reward=np.zeros(shape),
        leader_reward=np.zeros(shape),
        initial=np.full(shape[0], 1.0 / shape[0]),
        follower_discount=follower_discount,
        leader_discount=leader_discount,
        temperature=1.0,
        available=_stacked([part.available for part in parts], shape),
        termination=_stacked([part.termination for part in parts], shape, fill=1.0),
        state_names=states,
        action_names=actions,
    )


def _off(transition: sp.csr_array, termination: FloatArray) -> float:
    """Measure how far row sums are from 1."""
    return Origin.of(transition, np.ones(1), termination).transition


def _stacked(tables: Sequence[Any], shape: tuple[int, int], fill: float = 0.0) -> Any:
    """Put tables below each other, filled up to one width."""
    if all(table.shape[1] == shape[1] for table in tables):
        return read_only(np.concatenate(tables))
    joint = np.full(shape, fill, dtype=tables[0].dtype)
    state = 0
    for table in tables:
        joint[state : state + table.shape[0], : table.shape[1]] = table
        state += table.shape[0]
    return read_only(joint)
