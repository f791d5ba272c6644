"""Each compiled kernel against its slow twin."""

import ctypes
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
import twins
from small import at_some_theta, patchy

import tabular_bilevel as tb
from tabular_bilevel._base import jit, kernels
from tabular_bilevel._base.generators import addresses
from tabular_bilevel.certify import bounds
from tabular_bilevel.finite import linear

# Twin and kernel add the same few hundred numbers in another order; relative to the largest.
ROUNDING = 1e-12

# The largest and the smallest number that rng.random() returns.
TOP, BOTTOM = 1.0 - 2.0**-53, 0.0


MODELS = {
    "garnet": at_some_theta(tb.problems.garnet(n_states=8, n_actions=3, rng=2)),
    "layered": at_some_theta(tb.problems.layered(temperature=1.0, rng=3)),
    "game, seen": at_some_theta(tb.problems.random_game(rng=4)),
    "game, hidden": at_some_theta(tb.problems.random_game(follower_observes_leader=False, rng=4)),
    "patchy": patchy(n_states=7),
    "two-state": at_some_theta(tb.problems.two_state()),
    "one state": tb.problems.bandit(leader_discount=0.5, follower_discount=0.5).base,
}

each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def frozen(**arrays):
    """Read-only, as models, trajectories and critics hold them."""
    for value in arrays.values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    return arrays


def kernel_of(model):
    transition = model.transition
    return {"indptr": transition.indptr, "indices": transition.indices, "data": transition.data}


def iteration_call(model, *, tolerance=1e-9, max_sweeps=10_000):
    inputs = kernel_of(model) | {
        "reward": model.follower_reward,
        "available": model.available,
        "discount": model.follower_discount,
        "temperature": model.temperature,
        "tolerance": tolerance,
        "max_sweeps": max_sweeps,
    }
    scratch = {"scratch": np.empty(model.n_states), "action_value": np.empty(model.n_actions)}
    return inputs, scratch | {"value": np.zeros(model.n_states)}


def sampling_call(model, *, count=40, horizon=12, budget=10_000, survival=1.0, room=480):
    inputs = kernel_of(model) | {
        "termination": model.termination,
        "initial": model.initial,
        "policy": tb.solve_follower(model).policy,
        "horizon": horizon,
        "budget": budget,
        "survival": survival,
    }
    outputs = {name: np.full(room, -7, np.int32) for name in ("pairs", "entries")}
    return inputs, outputs | {"lengths": np.full(count, -7)}


def sample_of(model, *, count=40, horizon=12, seed=8):
    """Trajectories by the twin: as lists, and as the kernels' arrays."""
    policy = tb.solve_follower(model).policy
    rng = np.random.default_rng(seed)
    lists = twins.sample_trajectories(rng, model, policy, count=count, horizon=horizon)
    return lists, frozen(**in_a_row(model, lists))


def in_a_row(model, lists):
    """The steps of all trajectories one after another, as numbers of pairs and of entries."""
    kernel, steps = model.transition, [step for steps in lists for step in steps]
    pairs = [s * model.n_actions + a for s, a, _ in steps]
    place = dict(zip(zip(model.entry_row, kernel.indices, strict=True), itertools.count()))
    entries = [place.get((pair, step[2]), -1) for pair, step in zip(pairs, steps, strict=True)]
    return {
        "pairs": np.array(pairs, np.int32),
        "entries": np.array(entries, np.int32),
        "lengths": np.array([len(steps) for steps in lists]),
    }


def trace_settings(model, seed=6):
    return frozen(credit=np.random.default_rng(seed).normal(size=model.follower_reward.shape)) | {
        "leader_discount": model.leader_discount,
        "trace_discount": 0.8,
        "credit_discount": 0.6,
        "direct_share": 0.25,
        "indirect_share": 0.5,
    }


def traces_call(model):
    settings = trace_settings(model)
    inputs = sample_of(model)[1] | settings | {"n_actions": model.n_actions}
    sizes = {
        "occupancy": model.follower_reward.size,
        "gone": model.transition.nnz,
        "starts": model.n_states,
        "influence": model.follower_reward.size,
        "carried": model.transition.nnz,
    }
    outputs = {name: np.zeros(size) for name, size in sizes.items()}
    return inputs | {"credit": settings["credit"].ravel()}, outputs


def answers_settings(model, seed=6):
    worth = np.random.default_rng(seed).normal(size=model.follower_reward.shape)
    return frozen(worth=worth) | {"discount": 0.8, "share": 0.25}


def answers_call(model):
    settings = answers_settings(model)
    inputs = sample_of(model)[1] | settings | {"worth": settings["worth"].ravel()}
    return inputs, {"answered": np.zeros(model.transition.nnz)}


PLAYERS = ("leader", "follower")


def weigh_settings(model, seed=6):
    """What arriving is worth to each player: any numbers."""
    rng, shape = np.random.default_rng(seed), model.follower_reward.shape
    return {
        player: frozen(
            worth=rng.normal(size=model.n_states),
            off=rng.normal(size=shape),
            start=rng.normal(size=model.n_states),
        )
        for player in PLAYERS
    }


def weigh_call(model):
    inputs = kernel_of(model) | {"initial": model.initial}
    for player, settings in weigh_settings(model).items():
        inputs |= {f"{player}_{name}": np.ravel(value) for name, value in settings.items()}
    given, sums = traces_call(model)
    run(kernels.eligibility_traces, given, sums)
    outputs = {name: sums[name] for name in ("gone", "starts", "carried")}
    return inputs, outputs | {"credited_starts": 3.0 * sums["starts"]}


def is_policy_call(model):
    policy = tb.solve_follower(model).policy
    return {"policy": policy, "available": model.available, "tolerance": 1e-9}, {}


def followed_call(model):
    lengths = sample_of(model)[1]["lengths"]
    return {"lengths": lengths}, {"followed": np.empty(lengths.sum(), dtype=bool)}


def newton_call(model, *, tolerance=1e-13, rounding=1e-13, max_iterations=1000):
    place, width = model.band
    shape = model.follower_reward.shape
    inputs = kernel_of(model) | {
        "reward": model.follower_reward,
        "available": model.available,
        "discount": model.follower_discount,
        "temperature": model.temperature,
        "tolerance": tolerance,
        "rounding": rounding,
        "max_iterations": max_iterations,
        "place": place,
        "width": width,
    }
    return inputs, {
        "value": np.linspace(-1.0, 1.0, model.n_states),
        "action_value": np.empty(shape),
        "policy": np.empty(shape),
    }


def band_call(model, *, place=None):
    place = model.band[0] if place is None else place
    kernel, policy = kernel_of(model), tb.solve_follower(model).policy
    kernel["weights"] = policy.ravel()[model.entry_row] * kernel.pop("data")
    apart = np.abs(place[model.entry_state] - place[kernel["indices"]])
    squares = np.full((2, model.n_states, model.n_states), np.nan)
    return {**kernel, "discount": 0.9, "place": place}, {
        "band": np.full((model.n_states, 2 * int(apart.max(initial=0)) + 1), np.nan),
        "rows": squares[0],
        "inverse": squares[1],
    }


def measures_call(model):
    place, width = model.band
    response = tb.solve_follower(model)
    tables = ("leader_reward", "initial", "follower_discount", "leader_discount", "temperature")
    inputs = kernel_of(model) | {name: getattr(model, name) for name in tables}
    inputs |= {"policy": response.policy, "place": place, "width": width}
    states, pairs = model.n_states, model.available.shape
    shapes = {
        "value": states,
        "action_value": pairs,
        "occupancy": states,
        "pairs": pairs,
        "influence": pairs,
    }
    return inputs, {name: np.full(shape, np.nan) for name, shape in shapes.items()}


def look_call(model):
    inputs = kernel_of(model) | {
        "reward": model.follower_reward,
        "available": model.available,
        "discount": model.follower_discount,
        "temperature": model.temperature,
        "value": np.linspace(-1.0, 1.0, model.n_states),
    }
    shape = model.follower_reward.shape
    return inputs, {"action_value": np.empty(shape), "policy": np.empty(shape)}


def gap_call(model):
    value = np.linspace(-1.0, 1.0, model.n_states)
    action_value, logits = twins.look_ahead(model, value)
    inputs = kernel_of(model) | {
        "reward": model.follower_reward,
        "temperature": model.temperature,
        "value": value,
        "action_value": action_value,
    }
    del inputs["indices"]
    return inputs, {
        "policy": np.exp(logits),
        "weights": np.empty(model.transition.nnz),
        "gap": np.empty(model.n_states),
    }


def sweeps_call(model, *, tolerance=1e-13, max_sweeps=1000):
    rng, discount = np.random.default_rng(20), 0.9
    matrix = linear.policy_transition(model.transition, tb.solve_follower(model).policy)
    b, along, against = (
        rng.normal(size=model.n_states),
        np.ones(model.n_states),
        rng.random(model.n_states),
    )
    against /= against @ (along - discount * (matrix @ along))
    inputs = {
        "indptr": matrix.indptr,
        "indices": matrix.indices,
        "data": matrix.data,
        "discount": discount,
        "stays": 1.0 / (1.0 - discount * matrix.diagonal()),
        "b": b,
        "along": along,
        "against": against,
        "lost": against - discount * (matrix.T @ against),
        "tolerance": tolerance,
        "max_sweeps": max_sweeps,
    }
    return inputs, {"x": np.zeros(model.n_states)}


def product_call(model):
    kernel = model.transition
    inputs = kernel_of(model)
    vector = np.random.default_rng(6).normal(size=model.n_states)
    return {**inputs, "vector": vector}, {"total": np.zeros(kernel.shape[0])}


def pull_back_call(model):
    kernel, rng = model.transition, np.random.default_rng(18)
    inputs = kernel_of(model)
    inputs |= {
        "slopes": rng.normal(size=model.n_states),
        "errors": rng.random(model.n_states),
        "roundings": 8.0,
    }
    return inputs, {name: np.zeros(kernel.shape[0]) for name in ("pulled", "bound")}


def pad_call(model):
    inputs = sample_of(model)[1]
    flat, lengths = inputs["pairs"], inputs["lengths"]
    return {"flat": flat, "lengths": lengths}, {"table": np.full((len(lengths), 12), -7, np.int32)}


def steps_of(model):
    arrays = sample_of(model)[1]
    return {name: arrays[name] for name in ("pairs", "lengths")}


EXPECTED = {
    "plain": {"late": False, "restarts": False},
    "late": {"late": True, "restarts": False},
    "in a row": {"late": False, "restarts": True},
}


def expected_settings(model, name="plain", seed=6):
    credit = np.random.default_rng(seed).normal(size=model.follower_reward.shape)
    numbers = {"trace_discount": 0.8, "leader_discount": 0.9, "credit_discount": 0.6}
    return EXPECTED[name] | numbers | frozen(credit=credit) | {"steps": 6}


def expected_call(model, name="plain"):
    tables = {key: getattr(model, key) for key in ("initial", "termination")}
    inputs = kernel_of(model) | tables | expected_settings(model, name) | {"all_ended": 1e-18}
    inputs |= {"policy": tb.solve_follower(model).policy}
    shape, n_states = model.follower_reward.shape, model.n_states
    sums = ("before", "influence", "occupancy", "answered", "credited")
    return inputs, {
        "law": model.initial.copy(),
        "carried": np.zeros(n_states),
        "weights": np.ones(2),
        "scratch": np.empty((2, n_states)),
        **{key: np.zeros(shape) for key in sums},
    }


def visits_call(model):
    inputs = steps_of(model) | {"discount": 0.7}
    return inputs, {name: np.zeros(model.follower_reward.size) for name in ("counts", "weights")}


def monte_carlo_call(model):
    inputs = steps_of(model) | {"reward": model.leader_reward.ravel(), "discount": 0.7}
    return inputs, {name: np.zeros(model.follower_reward.size) for name in ("counts", "returns")}


def differences_call(model):
    lists, arrays = sample_of(model)
    del arrays["lengths"]
    inputs = arrays | {
        "order": order_of(lists)[1],
        "indices": model.transition.indices,
        "reward": model.leader_reward.ravel(),
        "discount": model.leader_discount,
        "step_size": 0.3,
        "target_value": np.random.default_rng(4).normal(size=model.n_states),
    }
    return inputs, {"action_value": np.full(model.leader_reward.size, 0.25)}


def order_of(lists):
    """Two passes over all steps in random order, as (trajectory, t) and as numbers."""
    steps = [(i, t) for i, trajectory in enumerate(lists) for t in range(len(trajectory))]
    rng = np.random.default_rng(9)
    order = np.concatenate([rng.permutation(len(steps)) for _ in range(2)])
    return [steps[k] for k in order], order


def sarsa_call(model, *, cut_is_end=False):
    lists, arrays = sample_of(model)
    del arrays["lengths"]
    inputs = arrays | {
        "order": order_of(lists)[1],
        "followed": np.array(twins.mark_followed(map(len, lists))),
        "reward": model.leader_reward.ravel(),
        "discount": model.leader_discount,
        "step_size": 0.3,
        "cut_is_end": cut_is_end,
    }
    return inputs, {"action_value": np.full(model.leader_reward.size, 0.25)}


def gaps_call(model):
    rng, shape = np.random.default_rng(12), model.follower_reward.shape
    inputs = kernel_of(model) | {
        "reward": model.follower_reward,
        "available": model.available,
        "discount": model.follower_discount,
        "value": 1e3 * rng.normal(size=model.n_states),
    }
    return inputs, {name: np.full(shape, 7.0) for name in ("gap", "rest", "error")}


def moved_gaps_call(model, *, scale=1e-9):
    inputs, outputs = gaps_call(model)
    run(kernels.value_gaps, inputs, outputs)
    kept = {name: inputs[name] for name in (*kernel_of(model), "available", "discount")}
    correction = scale * np.random.default_rng(13).normal(size=model.n_states)
    return {**kept, "correction": correction}, outputs


def flow_call(model):
    rng, shape = np.random.default_rng(13), model.follower_reward.shape
    inputs = kernel_of(model) | {
        "source": model.initial,
        "flow": model.available * rng.normal(size=shape),
        "policy": tb.solve_follower(model).policy,
        "discount": model.follower_discount,
        "measure": 1e3 * rng.normal(size=model.n_states),
    }
    names = ("residual", "rest", "error", "count")
    return inputs, {name: np.full(model.n_states, 7.0) for name in names}


def moved_flow_call(model, *, scale=1e-9):
    inputs, outputs = flow_call(model)
    run(kernels.flow_residual, inputs, outputs)
    kept = {name: inputs[name] for name in (*kernel_of(model), "policy", "discount")}
    step = scale * np.random.default_rng(14).normal(size=model.n_states)
    del outputs["count"]
    return {**kept, "step": step}, {**outputs, "moved": np.full((3, model.n_states), 7.0)}


def reach_call(model):
    n_states, n_actions = model.follower_reward.shape
    inputs = kernel_of(model) | {
        "policy": tb.solve_follower(model).policy,
        "discount": model.follower_discount,
        "inverse": np.random.default_rng(14).normal(size=(n_states, n_states)),
    }
    shape = ((3 + n_actions) * n_states, n_states)
    return inputs, {"scratch": np.full(n_states, 7.0), "reach": np.full(shape, 7.0)}


def patience_call(model):
    """An end of play at each step, rarely; and what the steps from there are about."""
    transition, policy = model.transition, tb.solve_follower(model).policy
    rng = np.random.default_rng(25)
    return kernel_of(model) | {
        "data": 0.9 * transition.data,
        "policy": policy,
        "aside": 1e-3 * rng.random(policy.shape),
        "terms": 20.0,
        "steps": -9.0 - rng.random(model.n_states),
    }, {}


def stray_call(model):
    rng, shape = np.random.default_rng(21), model.follower_reward.shape
    inputs = {
        "policy": tb.solve_follower(model).policy,
        "log_error": 1e-2 * rng.random(shape),
        "spare": 0.1 * (rng.random(shape) < 0.3),
        "other": rng.random(shape),
        "residual": rng.normal(size=model.n_states),
        "residual_error": 1e-2 * rng.random(model.n_states),
        "temperature": model.temperature,
        "reach": 0.1 * model.temperature,
    }
    return inputs, {
        "aside": np.full(shape, 7.0),
        "stray": np.full(model.n_states, 7.0),
        "bound": np.full(model.n_states, 7.0),
    }


def policy_errors_call(model):
    rng, shape = np.random.default_rng(22), model.follower_reward.shape
    inputs = {
        "policy": tb.solve_follower(model).policy,
        "log_error": 10.0 ** rng.uniform(-6, 1, shape),
        "spare": 1e-3 * (rng.random(shape) < 0.3),
        "leak": 1e-4 * rng.random(model.n_states),
        "available": model.available,
        "gap": rng.normal(size=shape),
        "gap_error": rng.random(shape),
        "value": rng.normal(size=model.n_states),
        "correction": rng.normal(size=model.n_states),
        "ahead_error": 0.3,
        "advantage": 1e-3 * model.temperature * rng.random(shape),
        "stray": 1e-3 * model.temperature * rng.random(model.n_states),
        "temperature": model.temperature,
    }
    return inputs, {
        "aside": rng.random(shape),
        "log_policy_error": rng.random(shape) * (rng.random(shape) < 0.7),
        **{name: np.full(shape, 7.0) for name in ("error", "action_value", "action_value_error")},
    }


def evaluate_call(model):
    rng, shape = np.random.default_rng(23), model.follower_reward.shape
    rows = ("stored", "correction", "value_error", "spread")
    inputs = {
        "start": model.initial,
        "gap": rng.normal(size=shape),
        "available": model.available,
        **{name: rng.random(model.n_states) for name in rows},
        "propagated": rng.random(shape),
    }
    return inputs, {
        "advantage_error": rng.random(shape),
        "value": np.full(model.n_states, 7.0),
        "initial_error": np.full(model.n_states, 7.0),
        "action_value": np.full(shape, 7.0),
    }


def measure_sources_call(model):
    rng, shape = np.random.default_rng(24), model.follower_reward.shape
    inputs = {
        "residual": rng.normal(size=model.n_states),
        "error": rng.random(model.n_states),
        "measure": rng.normal(size=model.n_states),
        "step": rng.normal(size=model.n_states),
        "flow_error": rng.random(shape),
        "leak": rng.random(model.n_states),
        "policy_error": rng.random(shape),
        "policy_leak": rng.random(model.n_states),
        "operator_policy": rng.random(shape),
        "operator_leak": rng.random(model.n_states),
        "aside": rng.random(shape),
        "contraction": 0.9,
        "patience": 3.0,
    }
    return inputs, {"sources": np.full(model.n_states + model.available.size, 7.0)}


def pair_measures_call(model):
    rng, shape = np.random.default_rng(25), model.follower_reward.shape
    inputs = {
        "policy": tb.solve_follower(model).policy,
        "policy_error": model.available * rng.random(shape),
        "log_policy": -rng.random(shape),
        "log_policy_error": rng.random(shape),
        "available": model.available,
        "occupancy": rng.normal(size=model.n_states),
        "occupancy_error": rng.random(model.n_states),
        "arrivals": rng.normal(size=model.n_states),
        "step": rng.normal(size=model.n_states),
        "arrivals_error": rng.random(model.n_states),
        "least": 0.25,
        "lost": 0.125,
    }
    names = ("pairs", "pairs_error", "influence", "influence_error")
    return inputs, {name: rng.random(shape) for name in names}


def shares_call(model):
    rng, shape = np.random.default_rng(26), model.follower_reward.shape
    inputs = {
        "share": model.available / model.available.sum(axis=1, keepdims=True),
        "slopes": rng.normal(size=(shape[0], max(1, shape[1] - 1))),
        "errors": rng.random((shape[0], max(1, shape[1] - 1))),
        "roundings": 2.0**50,
        "each_fold": 2.0**49,
        "factor": -3.0,
    }
    return inputs, {name: np.full(shape, 7.0) for name in ("pulled", "bound")}


def policy_call(model, *, scale=1.0):
    shape = model.follower_reward.shape
    rng = np.random.default_rng(15)
    inputs = {
        "gap": scale * rng.normal(size=shape),
        "error": np.full(shape, 1e-15 * scale),
        "available": model.available,
        "temperature": model.temperature,
    }
    names = ("policy", "log_error", "spare", "log_policy", "log_policy_error")
    tables = {name: np.full(shape, 7.0) for name in names}
    names = ("residual", "residual_error", "leak")
    rows = {name: np.full(model.n_states, 7.0) for name in names}
    return inputs, tables | rows


def slopes_call(model):
    rng, shape = np.random.default_rng(16), model.follower_reward.shape
    inputs = kernel_of(model) | {
        "discount": 0.7,
        "flow": model.available * rng.normal(size=shape),
        "flow_error": model.available * rng.random(shape),
        "value": rng.normal(size=model.n_states),
        "value_error": 0.3,
        "spread": rng.random(model.n_states),
    }
    stored = model.transition.nnz
    return inputs, {
        "slopes": np.full(stored, 7.0),
        "total": np.ones(stored),
        "errors": np.zeros(stored),
        "shift": np.zeros(shape),
    }


def outward_call(model):
    bounds = np.random.default_rng(19).random(8)
    return {"factor": 1.5, "least": 1e-3}, {"bounds": bounds}


def advantages_call(model):
    rng, shape = np.random.default_rng(18), model.follower_reward.shape
    inputs = {
        "gap": model.available * rng.normal(size=shape),
        "error": 1e-3 * rng.random(shape),
        "policy": tb.solve_follower(model).policy,
        "policy_error": model.available * 1e-2 * rng.random(shape),
        "aside": 1e-2 * rng.random(shape),
        "reach": 9.0,
    }
    tables = {name: np.full(shape, 7.0) for name in ("advantage", "advantage_error")}
    return inputs, {"residual": np.full(model.n_states, 7.0)} | tables


def sources_call(model):
    rng, shape = np.random.default_rng(19), model.follower_reward.shape
    inputs = {
        "policy": tb.solve_follower(model).policy,
        "policy_error": model.available * 1e-2 * rng.random(shape),
        "occupancy": rng.random(model.n_states),
        "occupancy_error": 1e-2 * rng.random(model.n_states),
        "advantage": rng.normal(size=shape),
        "advantage_error": 1e-2 * rng.random(shape),
        "temperature": model.temperature,
        "available": model.available,
        "least": 1e-200,
        **kernel_of(model),
        "discount": 0.7,
    }
    tables = {name: np.full(shape, 7.0) for name in ("source", "source_error")}
    return inputs, tables | {name: np.full(model.n_states, 7.0) for name in ("leak", "arrivals")}


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    """What is tested is the machine code."""
    for name in kernels.__all__:
        patience = getattr(kernels, name)._compile_for_args
        if isinstance(patience, jit._Patience):
            monkeypatch.setattr(patience, "_left", 0)


def spread_call(model, *, coin=0.25):
    """Any numbers but for the weights, which are symmetric."""
    rng, k, width = np.random.default_rng(20), 3, 4
    kernel, n_rows = model.transition, model.follower_reward.size
    half = rng.normal(size=(k, k, kernel.nnz))
    inputs = {
        "state": model.entry_state,
        "arrival": kernel.indices.astype(np.int64),
        "row": model.entry_row,
        "weights": half + half.transpose(1, 0, 2),
        "slopes": rng.normal(size=(k, n_rows, width)),
        "given": rng.normal(size=(k, n_rows)),
        "coming": rng.normal(size=(k, model.n_states + 1, width)),
        "means": rng.normal(size=(k, model.n_states + 1, width)),
        "decays": rng.random(k),
        "coin": coin,
    }
    scratch = {name: np.full((k, width), np.nan) for name in ("later", "off")}
    return inputs, scratch | {"found": np.zeros(width)}


def run(kernel, inputs, outputs, *, rng=None):
    """Call the kernel."""
    stream = () if rng is None else addresses(rng)
    return kernel(*stream, **inputs, **outputs)


def agree(array, other):
    array, other = (np.where(np.isneginf(x), 0.0, x) for x in (array, other))
    return np.abs(array - other).max() <= ROUNDING * max(1.0, np.abs(other).max())


CALLS = {
    "answers": answers_call,
    "is_policy": is_policy_call,
    "mark_followed": followed_call,
    "action_reach": reach_call,
    "advantages": advantages_call,
    "evaluate": evaluate_call,
    "invert_band": band_call,
    "least_patience": lambda model: ({"contraction": model.follower_discount * 0.9}, {}),
    "lost": lambda model: ({"patience": 10.0, "size": model.temperature}, {}),
    "shown_patience": patience_call,
    "measure_sources": measure_sources_call,
    "moved_flow": moved_flow_call,
    "moved_gaps": moved_gaps_call,
    "pair_measures": pair_measures_call,
    "policy_errors": policy_errors_call,
    "stray_residuals": stray_call,
    "outward": outward_call,
    "influence_sources": sources_call,
    "flow_residual": flow_call,
    "slope_errors": slopes_call,
    "soft_policy": policy_call,
    "value_gaps": gaps_call,
    "soft_value_iteration": iteration_call,
    "look_ahead": look_call,
    "soft_gap": gap_call,
    "linear_sweeps": sweeps_call,
    "soft_policy_iteration": newton_call,
    "leader_measures": measures_call,
    "sample_trajectories": sampling_call,
    "eligibility_traces": traces_call,
    "expected_traces": expected_call,
    "visits": visits_call,
    "weigh_arrivals": weigh_call,
    "monte_carlo": monte_carlo_call,
    "pad": pad_call,
    "pull_back": pull_back_call,
    "pull_back_shares": shares_call,
    "local_variances": spread_call,
    "sparse_product": product_call,
    "sarsa": sarsa_call,
    "temporal_differences": differences_call,
}


def test_every_kernel_has_a_twin_and_a_call_here():
    assert {*CALLS, "centre"} == set(kernels.__all__)
    assert all(callable(getattr(twins, name)) for name in CALLS)


@each_model
@pytest.mark.parametrize("max_sweeps", [0, 1, 5, 10_000])
def test_soft_value_iteration_is_its_twin(model, max_sweeps):
    settings = {"tolerance": 1e-9 if max_sweeps > 5 else 0.0, "max_sweeps": max_sweeps}
    inputs, outputs = iteration_call(model, **settings)
    sweeps, change = run(kernels.soft_value_iteration, inputs, outputs)
    value, twin_sweeps, twin_change = twins.soft_value_iteration(model, **settings)
    assert sweeps == twin_sweeps
    assert sweeps == max_sweeps or (max_sweeps > 5 and change <= 1e-9)
    assert change == twin_change == np.inf if max_sweeps == 0 else agree(change, twin_change)
    assert agree(outputs["value"], np.array([value[s] for s in range(model.n_states)]))


def test_soft_value_iteration_takes_the_maximum_at_a_tiny_temperature():
    model = MODELS["garnet"].replace(temperature=1e-300)
    inputs, outputs = iteration_call(model)
    run(kernels.soft_value_iteration, inputs, outputs)
    value, reward = outputs["value"], model.follower_reward
    hard = (reward + model.follower_discount * model.next_value(value)).max(axis=1)
    assert np.abs(hard - value).max() <= 1e-9  # the iteration's own tolerance


@each_model
@pytest.mark.parametrize("max_iterations", [0, 1, 2, 1000])
@pytest.mark.parametrize("rounding", [1e-11, -1.0])  # no step more, or one
def test_soft_policy_iteration_is_its_twin(model, max_iterations, rounding):
    settings = {"tolerance": 1e-11, "rounding": rounding, "max_iterations": max_iterations}
    inputs, outputs = newton_call(model, **settings)
    start = outputs["value"].copy()
    iterations, residual, scale, near = run(kernels.soft_policy_iteration, inputs, outputs)
    value, action_value, policy, twin_iterations, twin_residual, twin_scale = (
        twins.soft_policy_iteration(model, start, **settings)
    )
    assert iterations == twin_iterations
    assert near == (twin_residual <= 1e-11 * twin_scale)
    assert agree(residual, twin_residual)
    assert agree(scale, twin_scale)
    assert agree(outputs["value"], value)
    assert agree(outputs["policy"], policy)
    available = model.available
    assert agree(outputs["action_value"][available], action_value[available])
    assert (outputs["action_value"][~available] == -np.inf).all()


@each_model
@pytest.mark.parametrize("coin", [0.0, 0.25])
def test_local_variances_are_their_twins(model, coin):
    inputs, outputs = spread_call(model, coin=coin)
    run(kernels.local_variances, inputs, outputs)
    assert agree(outputs["found"], twins.local_variances(**inputs))


def unbanded(band):
    """The factors L and U, whole."""
    n, width = band.shape[0], band.shape[1] // 2
    both = sum(
        np.diag(band[max(0, -k) : n - max(0, k), width + k], k)
        for k in range(-min(width, n - 1), min(width, n - 1) + 1)
    )
    return np.tril(both, -1) + np.eye(n), np.triu(both)


@each_model
@pytest.mark.parametrize("places", ["narrow", "as they come", "backwards"])
def test_invert_band_is_its_twin_and_leaves_the_factors(model, places):
    given = np.arange(model.n_states)
    given = {"narrow": None, "as they come": given, "backwards": given[::-1].copy()}[places]
    inputs, outputs = band_call(model, place=given)
    run(kernels.invert_band, inputs, outputs)
    policy = tb.solve_follower(model).policy
    matrix, inverse = twins.invert_band(model, policy, inputs["discount"], inputs["place"])
    assert agree(outputs["inverse"], inverse)
    lower, upper = unbanded(outputs["band"])
    assert agree(lower @ upper, matrix)


def test_loops_alone_need_no_elimination():
    model = tb.Model.from_tables(
        transition=np.eye(3).reshape(3, 1, 3),
        follower_reward=np.ones((3, 1)),
        leader_reward=np.ones((3, 1)),
        initial=[1.0, 0.0, 0.0],
        follower_discount=0.5,
        leader_discount=0.5,
        temperature=1.0,
    )
    assert model.band[1] == 0
    np.testing.assert_allclose(tb.solve_follower(model).value, 2.0, rtol=1e-15)


@each_model
@pytest.mark.parametrize("leader_discount", [None, 0.0, 0.5])
def test_leader_measures_are_their_twins(model, leader_discount):
    if leader_discount is not None:
        model = model.replace(leader_discount=leader_discount)
    inputs, outputs = measures_call(model)
    run(kernels.leader_measures, inputs, outputs)
    twin = twins.leader_measures(model, inputs["policy"])
    assert twin.keys() == outputs.keys()
    for name, wanted in twin.items():
        assert agree(outputs[name], wanted)


@each_model
def test_a_look_ahead_is_its_twin(model):
    inputs, outputs = look_call(model)
    run(kernels.look_ahead, inputs, outputs)
    same_numbers(outputs.values(), twins.look_ahead(model, inputs["value"]))


@each_model
def test_a_soft_gap_is_its_twin(model):
    inputs, outputs = gap_call(model)
    residual, scale = run(kernels.soft_gap, inputs, outputs)
    *wanted, twin_residual, twin_scale = twins.soft_gap(
        model, inputs["value"], inputs["action_value"]
    )
    assert agree(residual, twin_residual)
    assert agree(scale, twin_scale)
    same_numbers(outputs.values(), wanted)


def same_numbers(outputs, wanted):
    for found, twin in zip(outputs, wanted, strict=True):
        infinite = np.isinf(twin)
        assert agree(found[~infinite], twin[~infinite])
        assert (found[infinite] == -np.inf).all()


@pytest.mark.parametrize(
    "model",
    [*MODELS.values(), at_some_theta(tb.problems.garnet(n_states=150, branching=3))],
    ids=[*MODELS, "blocks"],
)
@pytest.mark.parametrize("max_sweeps", [1, 3, 1000])
def test_linear_sweeps_are_their_twins(model, max_sweeps):
    inputs, outputs = sweeps_call(model, max_sweeps=max_sweeps)
    change = run(kernels.linear_sweeps, inputs, outputs)
    parts = (inputs["data"], inputs["indices"], inputs["indptr"])
    kernel = sp.csr_array(parts, shape=(model.n_states, model.n_states)).toarray()
    names = ("discount", "b", "along", "against")
    settings = {"tolerance": 1e-13, "max_sweeps": max_sweeps}
    x, wanted = twins.linear_sweeps(kernel, *(inputs[name] for name in names), **settings)
    assert agree(outputs["x"], x)
    assert agree(change, wanted)
    solved = np.linalg.solve(np.eye(len(x)) - inputs["discount"] * kernel, inputs["b"])
    assert max_sweeps < 1000 or agree(x, solved)


@each_model
@pytest.mark.parametrize(
    ("budget", "survival"), [(10_000, 1.0), (25, 1.0), (24, 1.0), (10_000, 0.7), (25, 0.7)]
)
def test_sampled_trajectories_are_the_twins(model, budget, survival):
    inputs, outputs = sampling_call(model, budget=budget, survival=survival)
    rng, twin_rng = np.random.default_rng(8), np.random.default_rng(8)
    filled, total, longest = run(kernels.sample_trajectories, inputs, outputs, rng=rng)
    settings = {"count": 40, "horizon": 12, "budget": budget, "survival": survival}
    lists = twins.sample_trajectories(twin_rng, model, inputs["policy"], **settings)
    assert filled == len(lists)
    assert total == sum(map(len, lists))
    assert longest == max(map(len, lists))
    np.testing.assert_array_equal(outputs["lengths"][:filled], [len(steps) for steps in lists])
    assert (outputs["lengths"][filled:] == -7).all()
    wanted = in_a_row(model, lists)
    for name in ("pairs", "entries"):
        np.testing.assert_array_equal(outputs[name][:total], wanted[name])
        assert (outputs[name][total:] == -7).all()  # untouched beyond the end
    assert rng.bit_generator.state == twin_rng.bit_generator.state


@pytest.mark.parametrize("room", [11, 12, 30])
def test_no_trajectory_is_begun_that_might_not_find_room(room):
    whole, cut = (sampling_call(MODELS["garnet"], room=size) for size in (480, room))
    for inputs, outputs in (whole, cut):
        rng = np.random.default_rng(8)
        outputs["made"] = run(kernels.sample_trajectories, inputs, outputs, rng=rng)
    filled, total, _ = cut[1]["made"]
    lengths = whole[1]["lengths"]
    assert total == lengths[:filled].sum()
    assert room - 12 < total <= room or filled == 0
    np.testing.assert_array_equal(cut[1]["entries"][:total], whole[1]["entries"][:total])


def by_pair(model, names, twin):
    shape = model.follower_reward.shape
    return {name: filled(sums, shape).ravel() for name, sums in zip(names, twin, strict=True)}


# What twins give, by output.
PLAIN_TWINS = {
    "pad": lambda model, given: {"table": twins.pad(*given.values(), longest=12)},
    "mark_followed": lambda model, given: {"followed": twins.mark_followed(given["lengths"])},
    "sparse_product": lambda model, given: {
        "total": np.array(twins.sparse_product(model.transition.toarray(), given["vector"]))
    },
    "pull_back": lambda model, given: twins.pull_back(
        model.transition, *(given[name] for name in ("slopes", "errors", "roundings"))
    ),
    "answers": lambda model, given: {
        "answered": at_entries(model, twins.answers(sample_of(model)[0], **answers_settings(model)))
    },
    "visits": lambda model, given: by_pair(
        model, ("counts", "weights"), twins.visits(sample_of(model)[0], discount=0.7)
    ),
    "monte_carlo": lambda model, given: by_pair(
        model,
        ("counts", "returns"),
        twins.monte_carlo(sample_of(model)[0], reward=model.leader_reward, discount=0.7),
    ),
    "advantages": lambda model, given: dict(enumerate(twins.advantages(**given))),
    "influence_sources": lambda model, given: dict(enumerate(twins.influence_sources(**given))),
}


@each_model
@pytest.mark.parametrize("name", PLAIN_TWINS)
def test_plain_sums_are_the_twins(model, name):
    inputs, outputs = CALLS[name](model)
    run(getattr(kernels, name), inputs, outputs)
    wanted = PLAIN_TWINS[name](model, inputs)
    for found, twin in zip(outputs.values(), wanted.values(), strict=True):
        assert agree(found, twin)


@pytest.mark.parametrize("name", ["slopes", "errors"])
def test_pulled_back_errors_are_0_only_where_nothing_is(name):
    model = next(iter(MODELS.values()))
    inputs, outputs = pull_back_call(model)
    nothing = {"slopes": np.zeros(model.n_states), "errors": np.zeros(model.n_states)}
    run(kernels.pull_back, inputs | nothing, outputs)
    assert not outputs["bound"].any()
    least = {name: np.full(model.n_states, 5e-324)}
    run(kernels.pull_back, inputs | nothing | least, outputs)
    assert (outputs["bound"] > 0.0).tolist() == (np.diff(model.transition.indptr) > 0).tolist()


# Distributions whose sum is short of 1 by rounding, with impossible outcomes at both ends.
SHORT = 1.0 - 1e-10


@pytest.mark.parametrize(
    ("number", "termination", "step"),
    [
        (TOP, 0.0, (2 * 4 + 2, 4 * (2 * 4 + 2) + 2)),
        (BOTTOM, 0.0, (1 * 4 + 1, 4 * (1 * 4 + 1) + 1)),
        (TOP, 0.5, (2 * 4 + 2, -1)),
        (BOTTOM, 0.5, (1 * 4 + 1, 4 * (1 * 4 + 1) + 1)),
    ],
)
def test_impossible_outcomes_are_never_drawn(number, termination, step):
    law = np.array([0.0, 0.5, 0.5 * SHORT, 0.0])
    outputs = {name: np.zeros(1, int) for name in ("pairs", "entries")}
    stuck = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_void_p)(lambda state: number)
    kernels.sample_trajectories(
        ctypes.cast(stuck, ctypes.c_void_p).value,
        0,
        indptr=4 * np.arange(17),
        indices=np.tile(np.arange(4), 16),
        data=np.tile(law * (1.0 - termination), 16),
        termination=np.full((4, 4), termination),
        initial=law,
        policy=np.tile(law, (4, 1)),
        horizon=1,
        budget=1,
        survival=1.0,
        **outputs,
        lengths=np.zeros(1, int),
    )
    assert tuple(int(array[0]) for array in outputs.values()) == step


def at_entries(model, sums):
    """Sums over (s, a, s'), in the order of the kernel's entries."""
    shape = (model.n_states, model.n_actions, model.n_states)
    places = np.divmod(model.entry_row, model.n_actions)
    return filled(sums, shape)[*places, model.transition.indices]


@each_model
def test_eligibility_traces_are_the_discounted_sums(model):
    inputs, outputs = traces_call(model)
    run(kernels.eligibility_traces, inputs, outputs)
    occupancy, gone, starts, influence, carried = twins.eligibility_traces(
        sample_of(model)[0], **trace_settings(model)
    )
    for name, sums in (("occupancy", occupancy), ("influence", influence)):
        assert agree(outputs[name], filled(sums, model.follower_reward.shape).ravel())
    for name, sums in (("gone", gone), ("carried", carried)):
        assert agree(outputs[name], at_entries(model, sums))
    assert agree(outputs["starts"], filled(starts, model.n_states))


@each_model
def test_arrivals_are_weighed_as_by_the_twin(model):
    inputs, outputs = weigh_call(model)
    run(kernels.weigh_arrivals, inputs, outputs)
    _, gone, starts, _, carried = twins.eligibility_traces(
        sample_of(model)[0], **trace_settings(model)
    )
    credited = {s: 3.0 * number for s, number in starts.items()}
    names = (("gone", "starts"), ("carried", "credited_starts"))
    for player, sums, (entry_name, start_name) in zip(
        PLAYERS, ((gone, starts), (carried, credited)), names, strict=True
    ):
        settings = weigh_settings(model)[player]
        entries, begun = twins.weigh_arrivals(model, entries=sums[0], starts=sums[1], **settings)
        assert agree(outputs[entry_name], at_entries(model, entries))
        assert agree(outputs[start_name], filled(begun, model.n_states))


@each_model
@pytest.mark.parametrize("place", [(0, 0), (-1, -1)])
@pytest.mark.parametrize("off", [0.0, 1e-10, 1e-8, -1e-8, -2.0, 1.0, np.nan, np.inf])
def test_a_policy_is_told_as_by_the_twin(model, place, off):
    inputs, _ = is_policy_call(model)
    inputs["policy"] = inputs["policy"].copy()
    inputs["policy"][place] += off
    frozen(**inputs)
    found = run(kernels.is_policy, inputs, {})
    assert found == twins.is_policy(**inputs)
    if abs(off) < 1e-9 and model.available[place]:
        assert found
    if not abs(off) <= 1e-9:
        assert not found


@each_model
@pytest.mark.parametrize("name", EXPECTED)
def test_expected_traces_are_the_discounted_sums(model, name):
    settings = expected_settings(model, name)
    inputs, outputs = expected_call(model, name)
    ended = run(kernels.expected_traces, inputs, outputs)
    assert not (ended and name == "in a row")
    sums = twins.expected_traces(model, inputs["policy"], **settings)
    for key, total in zip(("influence", "occupancy", "answered", "credited"), sums, strict=True):
        assert agree(outputs[key], filled(total, model.follower_reward.shape))


def test_expected_traces_go_on_where_they_left_off_and_say_when_all_have_ended():
    model = MODELS["layered"]
    whole, blocks = expected_call(model), expected_call(model)
    run(kernels.expected_traces, *whole)
    for steps in (1, 2, 3):
        run(kernels.expected_traces, blocks[0] | {"steps": steps}, blocks[1])
    for key, array in whole[1].items():
        np.testing.assert_array_equal(array, blocks[1][key])
    assert run(kernels.expected_traces, whole[0] | {"steps": 50}, whole[1])


LEARNING = [
    ("temporal_differences", differences_call, "target_value", {}),
    ("sarsa", sarsa_call, "cut_is_end", {"cut_is_end": False}),
    ("sarsa", sarsa_call, "cut_is_end", {"cut_is_end": True}),
]


@each_model
@pytest.mark.parametrize(("name", "make", "own", "settings"), LEARNING)
def test_temporal_differences_are_the_twins(model, name, make, own, settings):
    inputs, outputs = make(model, **settings)
    run(getattr(kernels, name), inputs, outputs)
    lists = sample_of(model)[0]
    table = dict.fromkeys(np.ndindex(model.leader_reward.shape), 0.25)
    getattr(twins, name)(
        order_of(lists)[0],
        lists,
        reward=model.leader_reward,
        discount=model.leader_discount,
        step_size=0.3,
        table=table,
        **{own: inputs[own]},
    )
    assert agree(outputs["action_value"], filled(table, model.leader_reward.shape).ravel())


def filled(sums, shape):
    table = np.zeros(shape)
    for index, total in sums.items():
        table[index] = total
    return table


# Twice float64's digits, with a few thousand roundings, for numbers of size 1e3; what is computed
# with single digits is as small as the correction.
DOUBLED = 1e3 * 2.0**-90


@each_model
@pytest.mark.parametrize("scale", [None, 0.0, 1e-9, 1.0])
def test_gaps_are_within_their_error_of_the_exact_ones(model, scale):
    inputs, outputs = gaps_call(model)
    run(kernels.value_gaps, inputs, outputs)
    correction = np.zeros(model.n_states)
    if scale is not None:
        move, outputs = moved_gaps_call(model, scale=scale)
        run(kernels.moved_gaps, move, outputs)
        correction, outputs["rest"] = move["correction"], np.zeros(model.available.shape)
    given = (inputs[name] for name in ("reward", "discount", "value"))
    exact = twins.value_gaps(model, *given, correction)
    for pair, gap in exact.items():
        found = Fraction(outputs["gap"][pair]) + Fraction(outputs["rest"][pair])
        assert abs(found - gap) <= Fraction(outputs["error"][pair])
        rounding = 0.0 if scale is None else 2.0**-52 * abs(gap) + 1e-14 * scale
        assert outputs["error"][pair] <= rounding + DOUBLED
    left_out = np.ones(model.available.shape, dtype=bool)
    left_out[tuple(np.array(list(exact)).T)] = False
    assert not any(outputs[name][left_out].any() for name in ("gap", "rest", "error"))


@each_model
@pytest.mark.parametrize("scale", [None, 0.0, 1e-9, 1.0])
def test_flow_residuals_are_within_their_error_of_the_exact_ones(model, scale):
    inputs, outputs = flow_call(model)
    run(kernels.flow_residual, inputs, outputs)
    step = np.zeros(model.n_states)
    if scale is not None:
        move, outputs = moved_flow_call(model, scale=scale)
        run(kernels.moved_flow, move, outputs)
        step, outputs["rest"] = move["step"], np.zeros(model.n_states)
    given = (inputs[name] for name in ("source", "flow", "policy", "discount", "measure"))
    exact = twins.flow_residual(model, *given, step)
    for s, residual in enumerate(exact):
        found = Fraction(outputs["residual"][s]) + Fraction(outputs["rest"][s])
        assert abs(found - residual) <= Fraction(outputs["error"][s])
        rounding = 0.0 if scale is None else 2.0**-52 * abs(residual) + 1e-13 * scale
        assert outputs["error"][s] <= rounding + DOUBLED


@pytest.mark.parametrize("call", [gaps_call, flow_call])
def test_plain_float64_residuals_would_break_their_error(call):
    model, nothing = MODELS["garnet"], np.zeros(MODELS["garnet"].n_states)
    inputs, outputs = call(model)
    if call is gaps_call:
        run(kernels.value_gaps, inputs, outputs)
        names = ("reward", "discount", "value")
        exact = twins.value_gaps(model, *(inputs[name] for name in names), nothing)
        value = inputs["value"]
        plain = inputs["reward"] + inputs["discount"] * model.next_value(value) - value[:, None]
    else:
        run(kernels.flow_residual, inputs, outputs)
        names = ("source", "flow", "policy", "discount", "measure")
        given = (inputs[name] for name in names)
        exact = dict(enumerate(twins.flow_residual(model, *given, nothing)))
        leaving = inputs["flow"] + inputs["policy"] * inputs["measure"][:, None]
        plain = inputs["source"] + inputs["discount"] * model.arrivals(leaving)
        plain = plain - inputs["measure"]
    assert any(abs(Fraction(plain[k]) - x) > outputs["error"][k] for k, x in exact.items())


@each_model
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e9])
def test_soft_policies_are_the_twins(model, scale):
    inputs, outputs = policy_call(model, scale=scale)
    run(kernels.soft_policy, inputs, outputs)
    policy, residual, log_policy = twins.soft_policy(
        inputs["gap"], model.available, model.temperature
    )
    far = outputs["spare"] > 0.0
    assert agree(outputs["residual"], residual)
    assert np.all(policy[far] < outputs["spare"][far])
    near = model.available & ~far
    # the twin's logarithms round as the kernel's
    ratio = np.abs(np.log(outputs["policy"][near]) - np.log(policy[near]))
    assert np.all(ratio <= 2.0 * outputs["log_error"][near] + 1e-15)
    assert not outputs["policy"][~model.available].any()
    off = np.abs(outputs["log_policy"] - log_policy)
    assert np.all(off <= 2.0 * outputs["log_policy_error"] + 1e-15)
    assert outputs["log_policy_error"].max() <= 1e-12 * max(scale, 1.0) / model.temperature
    assert np.abs(outputs["residual_error"]).max() <= 1e-13 * max(scale, model.temperature)
    for chances, leak in zip(outputs["policy"], outputs["leak"], strict=True):
        assert abs(1 - sum(map(Fraction, chances.tolist()))) <= leak <= 1e-15


@each_model
def test_errors_of_slopes_are_the_twins(model):
    inputs, outputs = slopes_call(model)
    run(kernels.slope_errors, inputs, outputs)
    names = ("discount", "flow", "flow_error", "value", "value_error", "spread")
    slopes, errors, shift = twins.slope_errors(model, *(inputs[name] for name in names))
    for k, (row, following) in enumerate(
        zip(model.entry_row, model.transition.indices, strict=True)
    ):
        at = (*divmod(int(row), model.n_actions), int(following))
        if at in slopes:  # a stored 0 of the kernel has no twin
            assert agree(outputs["slopes"][k], slopes[at])
            assert agree(outputs["total"][k], 1.0 + slopes[at])
            assert agree(outputs["errors"][k], errors[at])
    assert all(agree(outputs["shift"][pair], bound) for pair, bound in shift.items())


def test_growth_is_bounded_from_above():
    for x in np.concatenate([np.logspace(-300, 2.8, 400), [0.0, 9e-4, 1e-3, 1.1e-3]]).tolist():
        growth = kernels.doubled.growth(x)
        exact = math.expm1(x)
        assert exact <= growth <= exact * (1.0 + 1e-3 / 2 + 1e-6)
    assert kernels.doubled.growth(800.0) == math.inf
    for log_error in (math.nan, math.inf, 800.0):
        assert kernels.doubled.moved_probability(0.5, 0.0, log_error) == 1.0


STAGES = (
    "evaluate",
    "least_patience",
    "lost",
    "measure_sources",
    "pair_measures",
    "policy_errors",
    "shown_patience",
    "pull_back_shares",
    "stray_residuals",
)


@each_model
@pytest.mark.parametrize("name", STAGES)
def test_stages_of_bounds_are_the_twins(model, name):
    inputs, outputs = CALLS[name](model)
    twin = getattr(twins, name)(
        **inputs, **{k: v.copy() for k, v in outputs.items() if (v != 7.0).any()}
    )
    numbers = run(getattr(kernels, name), inputs, outputs)
    np.testing.assert_allclose(() if numbers is None else numbers, twin.pop("numbers"), ROUNDING)
    assert twin.keys() == outputs.keys()
    for key, wanted in twin.items():
        assert agree(outputs[key], wanted), key


def test_bounds_are_widened_as_by_the_twin():
    inputs, outputs = outward_call(None)
    outputs["bounds"][:5] = 0.0, -1e-3, np.nan, np.inf, 5e-324
    twin = twins.outward(outputs["bounds"], inputs["factor"], inputs["least"])
    assert twin[:5] == [0.0, np.inf, np.inf, np.inf, 1e-3]
    run(kernels.outward, inputs, outputs)
    np.testing.assert_array_equal(outputs["bounds"], twin)


@each_model
def test_the_reach_of_actions_is_the_twins(model):
    inputs, outputs = reach_call(model)
    run(kernels.action_reach, inputs, outputs)
    n, (*blocks, advantage) = (
        model.n_states,
        twins.action_reach(model, inputs["policy"], inputs["discount"], inputs["inverse"]),
    )
    for k, block in enumerate(blocks):
        assert agree(outputs["reach"][k * n : (k + 1) * n], block)
    table = outputs["reach"][3 * n :].reshape(*model.available.shape, n)
    assert all(agree(table[pair], row) for pair, row in advantage.items())


def test_patience_is_without_bound_where_play_need_not_end():
    assert kernels.least_patience(1.0) == kernels.least_patience(1.5) == math.inf
    assert kernels.lost(math.inf, 0.0) == 0.0 < kernels.lost(1.0, 1e-300)
    inputs, _ = patience_call(MODELS["garnet"])
    for mass, steps in ((0.9, 0.0), (0.9, math.nan), (1.0, 1e18)):
        changed = {"data": inputs["data"] / 0.9 * mass, "steps": np.full(8, steps)}
        assert kernels.shown_patience(**inputs | changed) == math.inf


@each_model
@pytest.mark.parametrize("discounts", [(0.9, 0.9), (0.9, 0.5), (0.9, 0.0)])
def test_the_chain_is_that_of_its_lines_with_the_twins_matrices(model, discounts, monkeypatch):
    model = model.replace(follower_discount=discounts[0], leader_discount=discounts[1])
    response, names = tb.solve_follower(model), (*bounds.BY_A_SOLVER,)
    found = bounds._centre(model, response, None)
    lines = jit.rebound(kernels.centre, {name: getattr(twins, name) for name in names})
    monkeypatch.setattr(kernels, "centre", np.errstate(all="ignore")(lines))
    wanted = bounds._centre(model, response, None)
    for name in ("value", "policy"):
        assert agree(getattr(found.response, name), getattr(wanted.response, name))
    for name in ("value", "action_value", "occupancy"):
        assert agree(getattr(found.evaluation, name), getattr(wanted.evaluation, name))
    tables = ("follower_reward", "leader_reward", "transition", "initial", "temperature")
    for name in tables:
        assert agree(getattr(found.measures, name), getattr(wanted.measures, name))
    radii = [
        {**one.bounds, **{name: getattr(one.bounds["sensitivities"], name) for name in tables}}
        for one in (found, wanted)
    ]
    for name in radii[0].keys() - {"sensitivities"}:  # of residuals, which are rounding
        one, other = (np.max(each[name]) for each in radii)
        assert other / 3.0 <= one <= 3.0 * other, name


@each_model
@pytest.mark.parametrize("name", CALLS)
def test_kernels_change_their_outputs_only(model, name):
    kernel = getattr(kernels, name)
    inputs, outputs = CALLS[name](model)
    compiled = {k: v.copy() for k, v in outputs.items()}
    given = {k: writable(v) for k, v in inputs.items()}
    draws = name == "sample_trajectories"
    rng, same = (np.random.default_rng(8) if draws else None for _ in range(2))
    run(kernel.py_func, given, outputs, rng=rng)
    run(kernel, inputs, compiled, rng=same)
    for key, array in given.items():
        np.testing.assert_array_equal(array, inputs[key])
    for key, array in outputs.items():
        assert agree(array, compiled[key])


def writable(value):
    return value.copy() if isinstance(value, np.ndarray) else value
