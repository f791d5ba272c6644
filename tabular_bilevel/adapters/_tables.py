"""Tables that another library computes: into a model, and its sensitivities back into tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.finite.adjoint import road
from tabular_bilevel.finite.follower import solve_follower
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.sensitivities import Sensitivities

__all__ = [
    "cotangents",
    "float64_tables",
    "model_of",
    "named_tables",
    "objective_and_slopes",
    "tangent_of",
]

VARYING = ("transition", "follower_reward", "leader_reward", "initial", "temperature")


def named_tables(tables: Any) -> dict[str, Any]:
    """Check that a function of theta returned a dictionary of tables that theta may move."""
    if not isinstance(tables, Mapping):
        raise ValueError(f"tables(theta) is a {type(tables).__name__}, not a dictionary")
    unknown = set(tables) - set(VARYING)
    if unknown:
        raise ValueError(
            f"tables(theta) has {', '.join(sorted(map(str, unknown)))}; theta can move "
            f"{', '.join(VARYING)}"
        )
    if not tables:
        raise ValueError("tables(theta) has no tables, so there is nothing that theta moves")
    return dict(tables)


def float64_tables(tables: dict[str, Any], float64: object) -> dict[str, Any]:
    """Check that tables have the library's float64: less would cost the gradient half its digits.

    A table of integers is most likely a constant, which belongs into the base.
    """
    for name, table in tables.items():
        if table.dtype != float64:
            raise ValueError(f"tables(theta)[{name!r}] has dtype {table.dtype}, not float64")
    return tables


def model_of(base: Model, tables: Mapping[str, Any]) -> Model:
    """Put tables in the place of the base's.

    A whole kernel, (S, A, S), is stored with its zeros, since they may move; one of shape (nnz,)
    has the base's stored entries. Its sensitivities then have the shape of the table again.
    """
    arrays = {name: np.asarray(table) for name, table in tables.items()}
    model = base
    if "transition" in arrays:
        model = model.replace(transition=_stored(base, arrays["transition"]))
    if "initial" in arrays:
        model = model.with_initial(arrays["initial"])
    if "follower_reward" in arrays or "leader_reward" in arrays:
        model = model.with_rewards(
            arrays.get("follower_reward", base.follower_reward),
            arrays.get("leader_reward", base.leader_reward),
        )
    if "temperature" in arrays:
        model = model.with_temperature(arrays["temperature"])
    return model


def cotangents(measures: Sensitivities, tables: Mapping[str, Any]) -> dict[str, FloatArray]:
    """Shape sensitivities like the tables that they belong to."""
    slopes = {
        "transition": measures.transition,
        "follower_reward": measures.follower_reward,
        "leader_reward": measures.leader_reward,
        "initial": measures.initial,
        "temperature": measures.temperature if "temperature" in tables else 0.0,
    }
    return {name: np.array(slopes[name]).reshape(table.shape) for name, table in tables.items()}


def tangent_of(base: Model, changes: Mapping[str, Any]) -> Tangent:
    """Read the change of a model from that of its tables; what is unavailable does not move."""
    zero, available = Tangent.zero(base), base.available
    arrays = {name: np.asarray(change) for name, change in changes.items()}

    def reward(name: str) -> FloatArray:
        return np.where(available, arrays[name], 0.0) if name in arrays else getattr(zero, name)

    kernel = arrays.get("transition", zero.transition)
    where = available[:, :, None] if kernel.ndim == 3 else available.ravel()[base.entry_row]
    return Tangent(
        follower_reward=reward("follower_reward"),
        leader_reward=reward("leader_reward"),
        transition=np.where(where, kernel, 0.0).ravel(),
        initial=arrays.get("initial", zero.initial),
        temperature=float(arrays.get("temperature", zero.temperature)),
    )


def objective_and_slopes(
    base: Model, tables: Mapping[str, Any], *, horizon: int | None
) -> tuple[float, dict[str, FloatArray]]:
    """Compute J, and its derivatives with respect to the tables."""
    model = model_of(base, tables)
    evaluation, direct, indirect = road(model, solve_follower(model), horizon=horizon)
    return evaluation.objective, cotangents(direct + indirect, tables)


def _stored(base: Model, kernel: Any) -> sp.csr_array:
    n_states, n_actions = base.follower_reward.shape
    if kernel.shape == base.transition.data.shape:
        return base.like_transition(kernel)
    whole = (n_states, n_actions, n_states)
    if kernel.shape != whole:
        raise ValueError(
            f"transition has shape {kernel.shape}, neither {whole} nor that of the "
            f"{base.transition.nnz} entries which the base stores"
        )
    n_rows = n_states * n_actions
    columns = np.tile(np.arange(n_states), n_rows)
    starts = np.arange(n_rows + 1) * n_states
    return sp.csr_array((kernel.ravel(), columns, starts), shape=(n_rows, n_states))
