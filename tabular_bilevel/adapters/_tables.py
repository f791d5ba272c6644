"""Tables that another library computes: into a model, and its sensitivities back into tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.kinds import AnyModel, AnySensitivities, by_kind, road, solve_follower
from tabular_bilevel.lq.model import MOVED, LinearQuadraticModel
from tabular_bilevel.lq.model import Tangent as LinearQuadraticTangent
from tabular_bilevel.lq.sensitivities import Sensitivities as LinearQuadraticSensitivities

VARYING = ("transition", "follower_reward", "leader_reward", "initial", "temperature")

# Before the names of what a linear-quadratic model's leader earns.
REWARD = "leader_reward."

_varying = by_kind(
    lambda _: VARYING,
    lambda base: (*MOVED, *(REWARD + name for name in base.leader_reward.moved)),
)


def named_tables(base: AnyModel, tables: Any) -> dict[str, Any]:
    """Check that a function of theta returned a dictionary of tables that theta may move."""
    varying = _varying(base)
    if not isinstance(tables, Mapping):
        raise ValueError(f"tables(theta) is a {type(tables).__name__}, not a dictionary")
    unknown = set(tables) - set(varying)
    if unknown:
        raise ValueError(
            f"tables(theta) has {', '.join(sorted(map(str, unknown)))}; theta can move "
            f"{', '.join(varying)}"
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


def _model_of_tables(base: Model, tables: Mapping[str, Any]) -> Model:
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


def _parted(tables: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell a linear-quadratic model's tables from the numbers of its leader's reward."""
    arrays = {name: np.asarray(table) for name, table in tables.items()}
    reward = {name: arrays.pop(name) for name in tables if name.startswith(REWARD)}
    return arrays, {name.removeprefix(REWARD): table for name, table in reward.items()}


def _linear_quadratic_model_of(
    base: LinearQuadraticModel, tables: Mapping[str, Any]
) -> LinearQuadraticModel:
    arrays, reward = _parted(tables)
    return base.replace(**arrays, leader_reward=replace(base.leader_reward, **reward))


model_of = by_kind(_model_of_tables, _linear_quadratic_model_of)


def cotangents(measures: AnySensitivities, tables: Mapping[str, Any]) -> dict[str, FloatArray]:
    """Shape sensitivities like the tables that they belong to."""
    slopes: Mapping[str, Any] = _slopes(measures.model, measures, tables)
    return {name: np.array(slopes[name]).reshape(table.shape) for name, table in tables.items()}


def _slopes_of_tables(
    _: Model, measures: Sensitivities, tables: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "transition": measures.transition,
        "follower_reward": measures.follower_reward,
        "leader_reward": measures.leader_reward,
        "initial": measures.initial,
        "temperature": measures.temperature if "temperature" in tables else 0.0,
    }


def _slopes_of_linear_quadratic(
    _: LinearQuadraticModel, measures: LinearQuadraticSensitivities, __: Mapping[str, Any]
) -> dict[str, Any]:
    reward = {REWARD + name: slope for name, slope in measures.leader_reward.items()}
    return {name: getattr(measures, name) for name in MOVED} | reward


_slopes = by_kind(_slopes_of_tables, _slopes_of_linear_quadratic)


def _tangent_of_tables(base: Model, changes: Mapping[str, Any]) -> Tangent:
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


def _linear_quadratic_tangent_of(
    _: LinearQuadraticModel, changes: Mapping[str, Any]
) -> LinearQuadraticTangent:
    arrays, reward = _parted(changes)
    return LinearQuadraticTangent(**arrays, leader_reward=reward)


tangent_of = by_kind(_tangent_of_tables, _linear_quadratic_tangent_of)


def objective_and_slopes(
    base: AnyModel, tables: Mapping[str, Any], *, horizon: int | None
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
