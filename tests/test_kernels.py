"""Each compiled kernel against its slow twin."""

import ctypes
import dataclasses
import itertools
import math
import types
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
import twins
from sizes import pairs, sizes
from small import at_some_theta, patchy

import tabular_bilevel as tb
from tabular_bilevel._base import jit, kernels
from tabular_bilevel._base.generators import addresses
from tabular_bilevel.certify import bounds as bounding
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


def policy_errors_call(model):
    rng, shape = np.random.default_rng(22), model.follower_reward.shape
    inputs = {
        "policy": tb.solve_follower(model).policy,
        "log_error": 10.0 ** rng.uniform(-6, 1, shape),
        "spare": 1e-3 * (rng.random(shape) < 0.3),
        "available": model.available,
        "gap": rng.normal(size=shape),
        "gap_error": rng.random(shape),
        "value": rng.normal(size=model.n_states),
        "ahead_error": 0.3,
        "temperature": model.temperature,
    }
    names = ("error", "action_value", "action_value_error")
    outputs = {"log_policy_error": rng.random(shape)}
    outputs |= {name: np.full(shape, 7.0) for name in names}
    return inputs, outputs | {"several": np.full(model.n_states, 7.0)}


# What is known to be near a truth: each case is the truth, how it is found, and a call. Inputs are
# off by `off`, or by a multiple of what they say.


def around(rng, truth, error, stretch=1.0):
    """Sums of two numbers that are off by the error, or by a multiple."""
    signs = rng.choice([-0.999, 0.999], size=truth.shape)
    near = truth + twins.exact(stretch * signs * error)
    high = near.astype(float)
    return high, (near - twins.exact(high)).astype(float)


def some(rng, *shape):
    """Some sums of two numbers, exactly."""
    high = rng.normal(size=shape)
    return twins.exact(high, 2.0**-54 * rng.random(shape) * high)


def chances(model):
    """The policy, made to add up to 1 exactly."""
    policy = twins.exact(tb.solve_follower(model).policy)
    return policy / policy.sum(axis=1, keepdims=True)


def empty(shape, *names):
    return {name: np.full(shape, 7.0) for name in names}


def room(n_states, n_rows):
    """Scratch, of kernels that look for each state's best action."""
    return {
        "best": np.full(n_states, 7, dtype=np.int64),
        "scratch": np.full((n_rows, n_states), 7.0),
    }


def gaps_case(model, off=0.0, stretch=1.0):
    rng, shape = np.random.default_rng(12), model.follower_reward.shape
    v = 1024 * some(rng, model.n_states)
    reward, discount = model.follower_reward, model.follower_discount
    truth = twins.value_gaps(model, reward, Fraction(discount), v)
    inputs = {"reward": reward, "available": model.available, "discount": discount}
    inputs |= dict(zip(("value", "low"), around(rng, v, 0.0), strict=True))
    found = [(("gap", "rest"), "error", truth)]
    return found, kernel_of(model) | inputs, empty(shape, "gap", "rest", "error"), ()


def arrivals(model):
    """How many pairs lead to each state."""
    return np.bincount(model.transition.indices, minlength=model.n_states).astype(float)


def flow_case(model, off=0.0, stretch=1.0):
    rng, shape = np.random.default_rng(13), model.follower_reward.shape
    flow, m = model.available * some(rng, *shape), 1024 * some(rng, model.n_states)
    policy, low = around(rng, chances(model), 0.0)
    discount = model.follower_discount
    given = flow, twins.exact(policy, low), Fraction(discount), m
    source = (
        -twins.flow_residual(model, 0, *given).astype(np.float32).astype(float)
    )  # nearly solved
    inputs = {"source": source, "policy": policy, "policy_rest": low, "discount": discount}
    inputs |= dict(zip(("flow", "flow_rest"), around(rng, flow, 0.0), strict=True))
    inputs |= dict(zip(("measure", "low"), around(rng, m, 0.0), strict=True))
    inputs["count"] = arrivals(model)
    outputs = empty(model.n_states, "residual", "rest")
    found = [(("residual",), "error", twins.flow_residual(model, twins.exact(source), *given))]
    return found, kernel_of(model) | inputs, outputs, ("error",)


def move_gaps_case(model, off=1e-3, stretch=1.0):
    rng, shape = np.random.default_rng(27), model.follower_reward.shape
    gap, error = model.available * some(rng, *shape), model.available * off * rng.random(shape)
    step, discount = 2.0**-40 * rng.normal(size=model.n_states), model.follower_discount
    inputs = {"available": model.available, "discount": discount, "step": step}
    near = dict(zip(("gap", "rest"), around(rng, gap, error, stretch), strict=True))
    outputs = near | {"error": error, "moved": np.full(shape, 7.0)}
    gap, moved = twins.move_gaps(model, Fraction(discount), gap, twins.exact(step))
    found = [(("gap", "rest"), "error", gap), (("moved",), "error", moved)][: 1 + (off == 0.0)]
    return found, kernel_of(model) | inputs, outputs, ()


def near_policy(rng, model, off, stretch):
    policy, available = chances(model), model.available
    choice = available & (available.sum(axis=1, keepdims=True) > 1)
    error = off * rng.random(policy.shape) * np.where(choice, policy.astype(float), 0.0)
    high, low = around(rng, policy, error, stretch)
    return policy, {"policy": high, "low": low, "policy_error": error}


def advantages_case(model, off=1e-3, stretch=1.0):
    rng, shape = np.random.default_rng(18), model.follower_reward.shape
    policy, inputs = near_policy(rng, model, off, stretch)
    gap, error = model.available * some(rng, *shape), model.available * off * rng.random(shape)
    inputs |= dict(zip(("gap", "rest"), around(rng, gap, error, stretch), strict=True))
    advantage, mean = twins.advantages(gap, policy)
    found = [
        (("advantage", "advantage_rest"), "advantage_error", advantage),
        (("residual",), "residual_error", mean),
    ]
    inputs["error"] = error
    outputs = empty(model.n_states, "residual")
    outputs |= empty(shape, "advantage", "advantage_rest", "advantage_error")
    outputs |= empty(model.n_states, "residual_error")
    return found, inputs, outputs | {"scratch": np.full((4, model.n_states), 7.0)}, ("most",)


def evaluate_case(model, off=1e-3, stretch=1.0):
    rng, shape = np.random.default_rng(23), model.follower_reward.shape
    value = some(rng, model.n_states)
    inputs = {
        "start": model.initial,
        "gap": rng.normal(size=shape),
        "available": model.available,
        **dict(zip(("value", "low"), around(rng, value, off, stretch), strict=True)),
        "value_error": off,
    }
    found = [(("objective",), "error", twins.evaluate(twins.exact(model.initial), value))]
    return found, inputs, empty(shape, "action_value"), ("objective", "error")


def sources_case(model, off=1e-3, stretch=1.0):
    rng, shape = np.random.default_rng(19), model.follower_reward.shape
    policy, inputs = near_policy(rng, model, off, stretch)
    measure, share = abs(some(rng, model.n_states)), off / model.n_states
    advantage, _ = twins.advantages(model.available * some(rng, *shape), policy)
    error = off * rng.random(shape)
    near = around(rng, advantage, error + off, stretch)
    inputs |= dict(zip(("advantage", "advantage_rest"), near, strict=True))
    near = around(rng, measure, share, stretch)
    inputs |= dict(zip(("measure", "measure_low"), near, strict=True))
    inputs |= {
        "measure_error": off,
        "advantage_error": error,
        "ahead_error": off,
        "temperature": model.temperature,
        "available": model.available,
        "least": 1e-200,
        **kernel_of(model),
        "discount": 0.7,
    }
    truth = twins.influence_sources(policy, measure, advantage, Fraction(model.temperature))
    outputs = empty(shape, "source", "source_rest", "source_error")
    found = [(("source", "source_rest"), "source_error", truth)]
    outputs |= empty(model.n_states, "arrivals") | room(model.n_states, 5)
    return found, inputs, outputs, ("all_errors",)


def pair_measures_case(model, off=1e-3, stretch=1.0):
    rng, shape = np.random.default_rng(25), model.follower_reward.shape
    policy, inputs = near_policy(rng, model, off, stretch)
    log_policy = twins.exact(-rng.random(shape) * model.available)
    occupancy, measure = (twins.exact(rng.normal(size=model.n_states)) for _ in range(2))
    source = model.available * some(rng, *shape)
    errors = {name: model.available * off * rng.random(shape) for name in ("log", "source")}
    lasting_error = off * rng.random(model.n_states)
    names = ("chances", "chances_error", "pairs", "pairs_error", "influence", "influence_error")
    inputs |= {
        "log_policy": around(rng, log_policy, errors["log"], stretch)[0],
        "log_policy_error": errors["log"],
        "available": model.available,
        "occupancy": around(rng, occupancy, lasting_error, stretch)[0],
        "occupancy_error": lasting_error,
        "measure": around(rng, measure, off, stretch)[0],
        "measure_error": off,
        "least": 1e-200,
        "lost": 1e-200,
        "source": around(rng, source, errors["source"], stretch)[0],
        "source_error": errors["source"],
    }
    pairs, influence, slope = twins.pair_measures(policy, log_policy, occupancy, measure, source)
    found = [
        (("chances",), "chances_error", policy),
        (("pairs",), "pairs_error", pairs),
        (("influence",), "influence_error", influence),
        (("slope",), "slope_error", slope),
    ]
    return found, inputs, empty(shape, *names), ("slope", "slope_error")


CASES = {
    "advantages": advantages_case,
    "evaluate": evaluate_case,
    "flow_residual": flow_case,
    "influence_sources": sources_case,
    "move_gaps": move_gaps_case,
    "pair_measures": pair_measures_case,
    "value_gaps": gaps_case,
}


def policy_call(model, *, scale=1.0, off=0.0, temperature=None, tied=False):
    rng, shape = np.random.default_rng(15), model.follower_reward.shape
    gap = some(rng, *shape)
    if tied:
        gap = gap / 2**53 + 1
    gap, low = around(rng, Fraction(scale) * gap, 0.0)
    inputs = {
        "gap": gap,
        "rest": low,
        "error": np.full(shape, off),
        "available": model.available,
        "temperature": model.temperature if temperature is None else temperature,
    }
    names = ("policy", "low", "log_error", "spare", "log_policy", "log_policy_error")
    outputs = empty(shape, *names) | empty(model.n_states, "residual", "residual_error")
    return inputs, outputs | room(model.n_states, 10)


def move_flow_call(model):
    rng, n = np.random.default_rng(28), model.n_states
    inputs = kernel_of(model) | {
        "policy": tb.solve_follower(model).policy,
        "discount": model.follower_discount,
        "contraction": model.follower_discount * (1.0 + 2.0**-40),
        "step": 2.0**-20 * rng.normal(size=n),
        "count": arrivals(model),
        "error": 1e-30,
    }
    return inputs, {"residual": 2.0**-20 * rng.normal(size=n)}


def move_policy_call(model, *, off=0.0, stretch=1.0, size=2.0**-30):
    """A policy of gaps that are all over the place, off as it says, and how its gaps move."""
    rng, shape, available = np.random.default_rng(29), model.available.shape, model.available
    temperature, choice = 0.25, available & (available.sum(axis=1, keepdims=True) > 1)
    exact = twins.soft_policy(4 * some(rng, *shape), available, Fraction(temperature))
    moved = available * twins.exact(size * temperature * rng.normal(size=shape))
    errors = [where * off * rng.random(shape) for where in (choice, choice, available)]
    residual_error = off * rng.random(model.n_states)
    policy, log_policy, residual = exact
    weights = policy * twins.exact(errors[0])
    inputs = {
        "moved": around(rng, moved, temperature * errors[2], stretch)[0],
        "error": temperature * errors[2],
        "available": available,
        "temperature": temperature,
    }
    near = around(rng, policy, weights.astype(float), 0.99 * stretch)
    outputs = dict(zip(("policy", "low"), near, strict=True)) | {
        "log_error": errors[0],
        "spare": np.zeros(shape),
        "log_policy": around(rng, log_policy, errors[1], stretch)[0],
        "log_policy_error": errors[1],
        "residual": around(rng, residual, residual_error, stretch)[0],
        "residual_error": residual_error,
    }
    outputs |= room(model.n_states, 6)
    twins.move_policy(*exact[:2], moved, residual, available, Fraction(temperature))
    return exact, inputs, outputs


def exponentials_call(model):
    x = -abs(model.follower_reward)
    return {"x": x, "rest": 1e-17 * x}, empty(x.shape, "high", "low")


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


def slopes_call(model):
    rng, shape = np.random.default_rng(16), model.follower_reward.shape
    inputs = kernel_of(model) | {
        "discount": 0.7,
        "flow": model.available * rng.normal(size=shape),
        "flow_error": model.available * rng.random(shape),
        "value": rng.normal(size=model.n_states),
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
    **{name: lambda model, case=case: case(model)[1:3] for name, case in CASES.items()},
    "exponentials": exponentials_call,
    "answers": answers_call,
    "is_policy": is_policy_call,
    "mark_followed": followed_call,
    "least_patience": lambda model: ({"contraction": model.follower_discount * 0.9}, {}),
    "lost": lambda model: ({"patience": 10.0, "size": model.temperature}, {}),
    "shown_patience": patience_call,
    "policy_errors": policy_errors_call,
    "outward": outward_call,
    "slope_errors": slopes_call,
    "move_flow": move_flow_call,
    "move_policy": lambda model: move_policy_call(model)[1:],
    "soft_policy": policy_call,
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
}


@sizes(("model", "name"), *pairs([*MODELS.values()], [*PLAIN_TWINS]))
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


@sizes(
    ("model", "off"),
    *pairs([*MODELS.values()], [0.0, 1e-10, 1e-8, -1e-8, -2.0, 1.0, np.nan, np.inf]),
)
@pytest.mark.parametrize("place", [(0, 0), (-1, -1)])
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


def within(parts, truth, error):
    """Say where the sum of some numbers is within its error of the truth.

    Bounds are made larger by far more in the end, for what is lost in the bounds themselves.
    """
    return np.asarray(abs(twins.exact(*parts) - truth) <= error * (1.0 + 2.0**-40))


def solved(name, model, **settings):
    """Run a case: the truth, the parts of what was found, and what they say they are off by."""
    found, inputs, outputs, names = CASES[name](model, **settings)
    numbers = run(getattr(kernels, name), inputs, outputs)
    outputs |= dict(zip(names, np.atleast_1d(() if numbers is None else numbers), strict=True))
    return [
        (truth, [outputs[part] for part in parts or ()] or [0.0], outputs[error])
        for parts, error, truth in found
    ]


# What numbers of twice float64's digits, and of its own, are off by, if nothing else is, relative
# to the largest of some hundreds that were added up.
TWICE, ONCE = 2.0**-88, 2.0**-46


@each_model
@pytest.mark.parametrize("off", [0.0, 1e-9, 1e-3])
@pytest.mark.parametrize("name", CASES)
def test_numbers_are_within_their_error_of_the_truth(model, name, off):
    for truth, parts, error in solved(name, model, off=off):
        assert within(parts, truth, error).all()
        size = 1.0 + float(abs(truth).max() if np.ndim(truth) else abs(truth))
        if off == 0.0 and np.ndim(parts[0]):
            assert np.max(error) <= (TWICE if len(parts) == 2 else ONCE) * size


@pytest.mark.parametrize("name", CASES)
def test_numbers_that_are_spoilt_are_not_within_their_error(name):
    model = MODELS["garnet"]
    for truth, (high, *low), error in solved(name, model, off=0.0):
        if np.any(high):
            spoilt = high if low else high * (1.0 + 2.0**-40)
            assert not within([spoilt], truth, error).all()
    if name not in ("value_gaps", "flow_residual"):  # which know of no errors
        for truth, parts, error in solved(name, model, off=1e-3, stretch=30.0):
            assert not within(parts, truth, error).all()


# How often a policy has probabilities of all sizes, and a temperature next to the ends of float64.
POLICIES = {
    "level": {"scale": 1e-3},
    "plain": {},
    "steep": {"scale": 20.0},
    "far": {"scale": 1e3},
    "farthest": {"scale": 1e9},
    "unsure": {"off": 1e-6},
    "very unsure": {"scale": 100.0, "off": 100.0},
    "cold": {"temperature": 1e-300},
    "cold, all but tied": {"temperature": 2.0**-55, "tied": True},
    "cold, and sure": {"temperature": 1e-300, "scale": 1e-299},
    "hot": {"temperature": 1e300},
    "subnormal gaps": {"scale": 1e-310, "temperature": 1e-300},
    "ends": {"scale": 1e307, "temperature": 1e306},
}


@each_model
@pytest.mark.parametrize("name", POLICIES)
def test_soft_policies_are_within_their_errors(model, name):
    settings = {"scale": 1.0, "off": 0.0} | POLICIES[name]
    inputs, outputs = policy_call(model, **settings)
    rng, available = np.random.default_rng(3), model.available
    near = twins.exact(inputs["gap"], inputs["rest"]), inputs["error"]
    exact = twins.exact(*around(rng, *near))
    run(kernels.soft_policy, inputs, outputs)
    temperature = Fraction(inputs["temperature"])
    policy, log_policy, residual = twins.soft_policy(exact, available, temperature)
    with np.errstate(all="ignore"):
        moved = np.expm1(outputs["log_error"])
        error = outputs["policy"] * moved + outputs["spare"] * (1.0 + moved)
    error = np.fmin(error, 1.0)
    found = outputs["policy"], outputs["low"]
    assert within(found, policy, error).all()
    assert within([outputs["log_policy"]], log_policy, outputs["log_policy_error"]).all()
    assert within([outputs["residual"]], residual, outputs["residual_error"]).all()
    assert not any(outputs[key][~available].any() for key in (*outputs,)[:6])
    if name in ("level", "plain", "steep"):
        heat = max(settings["scale"], model.temperature)
        assert error.max() <= 2.0**-80 * max(1.0, settings["scale"] / model.temperature)
        assert outputs["residual_error"].max() <= 2.0**-48 * heat
        logs = abs(outputs["log_policy"])
        assert np.all(outputs["log_policy_error"] <= 2.0**-50 * (1.0 + logs))
        if name == "plain" and model is MODELS["garnet"]:
            assert not within(found[:1], policy, error).all()


@each_model
@pytest.mark.parametrize(
    ("off", "size"),
    [(1e-12, 0.0), (1e-3, 2.0**-40), (0.0, 2.0**-28), (1e-12, 2.0**-20), (0.0, 2.0**-20)],
)
def test_moved_policies_are_within_their_errors(model, off, size):
    for stretch in (1.0, 30.0):
        exact, inputs, outputs = move_policy_call(model, off=off, stretch=stretch, size=size)
        run(kernels.move_policy, inputs, outputs)
        parts = [outputs[name] for name in ("policy", "low")]
        inside = [
            within(parts, exact[0], outputs["policy"] * np.expm1(outputs["log_error"])),
            within([outputs["log_policy"]], exact[1], outputs["log_policy_error"] + ONCE),
            within([outputs["residual"]], exact[2], outputs["residual_error"] + ONCE),
        ]
        assert all(each.all() for each in inside) == (stretch == 1.0 or off == 0.0)
    if off == 0.0:
        assert outputs["log_error"].max() <= 2.0**-46 * size + 200.0 * size**3 + 2.0**-99
        assert size == 0.0 or not within(parts[:1], exact[0], 2.0**-56 * exact[0]).all()


def test_where_one_action_is_certain_the_others_errors_weigh_nothing():
    shape, never = (2, 3), 2.0**-900
    policy = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    available = np.array([[True] * 3, [False, False, True]])
    spare = np.where(available & (policy == 0.0), never, 0.0)
    moved, error = available * np.full(shape, 2.0**-40), available * np.full(shape, 8.0)
    log_error, residual_error = np.zeros(shape), np.zeros(2)
    kernels.move_policy(
        moved, error, available, 1.0, policy, np.zeros(shape), log_error, spare, np.zeros(shape),
        np.zeros(shape), np.zeros(2), residual_error, *room(2, 6).values(),
    )  # fmt: skip
    assert log_error.max() <= 2.0**-99
    assert not log_error[1].any()
    assert np.all((residual_error >= 8.0) & (residual_error <= 8.001))


def test_an_advantage_counts_as_often_as_it_is_played():
    zero, tables = np.zeros((1, 3)), empty((1, 3), "advantage", "advantage_rest", "advantage_error")
    policy, gap = np.array([[0.5, 0.5, 0.0]]), np.array([[0.25, -0.25, -100.0]])
    arrays = gap, zero, zero, policy, zero, zero, np.zeros(1), *tables.values(), np.zeros(1)
    assert kernels.advantages(*arrays, np.zeros((4, 1))) == 0.125


def test_all_that_flows_into_a_state_is_counted():
    n = 100
    arrivals = np.full(n, 2.0**-54)  # each is lost
    arrivals[0] = 1.0
    indptr, indices, data = np.arange(n + 1), np.zeros(n, dtype=np.int64), np.ones(n)
    residual, count = np.zeros(n), np.full(n, 7.0)
    kernels.chain.count_arrivals(indices, count)
    assert count.tolist() == [n] + [0.0] * (n - 1)
    error = kernels.move_flow(
        indptr, indices, data, np.ones((n, 1)), 0.5, 0.5, arrivals, count, residual, 0.0
    )
    truth = -twins.exact(arrivals)
    truth[0] += Fraction(1, 2) * twins.exact(arrivals).sum()
    away = abs(twins.exact(residual) - truth).sum()
    assert 20.0 * 2.0**-53 < away <= error


def test_a_state_that_all_may_reach_makes_the_others_no_less_sure():
    n, rare = 1000, 2.0**-20
    indptr = np.array([0, *range(1, 2 * n, 2)])
    indices = np.array([0, *np.ravel([(0, s) for s in range(1, n)])])
    data = np.array([0.5, *[rare, 0.5] * (n - 1)])
    count, ones, table = np.bincount(indices).astype(float), np.ones(n), np.ones((n, 1))
    source = np.array([0.75 - 0.5 * (n - 1) * rare, *[0.75] * (n - 1)])
    residual = np.empty(n)
    error = kernels.flow_residual(
        indptr, indices, data, source, 0.0 * table, 0.0 * table, table, 0.0 * table, 0.5, ones,
        0.0 * ones, count, residual, np.empty(n),
    )  # fmt: skip
    assert not residual.any()
    assert error <= 2.0**-84


@each_model
@pytest.mark.parametrize("size", [2.0**-40, 1.0])
def test_moved_residuals_of_measures_add_up_to_their_errors(model, size):
    inputs, outputs = move_flow_call(model)
    inputs["step"] = size * inputs["step"]
    given = Fraction(inputs["discount"]), *map(twins.exact, (inputs["step"], outputs["residual"]))
    truth = twins.move_flow(model, twins.exact(inputs["policy"]), *given)
    error = run(kernels.move_flow, inputs, outputs)
    away = abs(twins.exact(outputs["residual"]) - truth).sum()
    assert away <= error <= 2.0**-40 * abs(inputs["step"]).sum() + 1e-18
    inputs, outputs = move_flow_call(model)
    assert run(kernels.move_flow, inputs | {"error": 1e-3}, outputs) >= 2e-3


def test_a_single_action_is_played_for_sure_and_equal_ones_alike():
    gap = np.array([[0.3, -7.0, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1]])
    available = np.array([[False, True, False, False], [True] * 4])
    outputs = empty(gap.shape, "policy", "low", "log_error", "spare", "log", "log_policy_error")
    outputs |= empty(2, "residual", "residual_error") | room(2, 10)
    kernels.soft_policy(gap, 1e-18 * available, 0.0 * gap, available, 0.7, *outputs.values())
    assert outputs["policy"].tolist() == [[0.0, 1.0, 0.0, 0.0], [0.25] * 4]
    assert not outputs["low"].any()
    assert not any(outputs[name][0].any() for name in ("log_error", "spare", "log_policy_error"))
    assert outputs["residual"][0] == -7.0


def test_no_gap_is_larger_than_that_of_the_best_action():
    # six orders of the same sum, of which the state's value is a rounding error
    p = 0.6514643102812321, 0.1708738690470095, 0.1776618206717583
    ahead, discount = 1.548010402986685, 0.9097497519094198
    indices, data = np.tile([1, 2, 3], 6), np.ravel([*itertools.permutations(p)])
    indptr = np.minimum(3 * np.arange(25), 18)
    shape, value = (4, 6), np.array([-9.297439979967201e-18, ahead, ahead, ahead])
    reward, available = np.full(shape, -discount * ahead), np.ones(shape, dtype=bool)
    gaps = empty(shape, "gap", "rest", "error")
    given = reward, available, discount, value, np.zeros(4)
    kernels.value_gaps(indptr, indices, data, *given, *gaps.values())
    np.testing.assert_array_equal(gaps["gap"] + gaps["rest"], gaps["gap"])
    outputs = empty(shape, "policy", "low", "log_error", "spare", "log_policy", "log_policy_error")
    outputs |= empty(4, "residual", "residual_error") | room(4, 10)
    kernels.soft_policy(*gaps.values(), available, 1e-60, *outputs.values())
    assert outputs["log_policy"].max() <= 0.0


def test_where_errors_are_large_they_count_once():
    outputs = empty((1, 2), "policy", "low", "log_error", "spare", "log", "log_policy_error")
    outputs |= empty(1, "residual", "residual_error") | room(1, 10)
    gap, error = np.array([[0.0, -2.0]]), np.array([[0.0, 1.2]])
    kernels.soft_policy(gap, 0.0 * gap, error, gap < 1.0, 1.0, *outputs.values())
    assert outputs["residual_error"][0] <= 0.46  # more than log((1 + e^-0.8) / (1 + e^-2))


@pytest.mark.parametrize("spoilt", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("python", [False, True], ids=["compiled", "in Python"])
@pytest.mark.parametrize("place", range(3))
def test_what_is_no_number_leaves_no_bound_of_a_policy(spoilt, python, place):
    inputs, outputs = policy_call(MODELS["garnet"])
    inputs["gap"][0, place], inputs["error"][0, place] = spoilt, math.nan
    kernel = (
        jit.rebound(kernels.soft_policy, {}, lambda _: False) if python else kernels.soft_policy
    )
    with np.errstate(all="ignore"):
        run(kernel, inputs, outputs)
    assert not outputs["residual_error"][0] < math.inf
    assert not outputs["log_error"][0, place] < math.inf
    assert (outputs["residual_error"][1:] < 1e-12).all()


def test_exponentials_have_twice_the_digits():
    rng, doubled = np.random.default_rng(1), kernels.doubled
    x = [*rng.uniform(-649.0, 1.0, 2000), *rng.uniform(-1.0, 1.0, 500), *-np.logspace(-300, 0, 300)]
    x = np.array([*x, *range(-649, 1), -0.0])
    x = x[:, None]
    rest = rng.uniform(-1.0, 1.0, x.shape) * 2.0**-53 * abs(x)
    found, same = np.empty((2, *x.shape)), np.empty((2, *x.shape))
    kernels.exponentials(x, rest, *found)
    jit.rebound(kernels.exponentials, {}, lambda _: False)(x, rest, *same)
    np.testing.assert_array_equal(found, same)
    exact = twins.exponentials(x.ravel(), rest.ravel())[:, None]
    assert within(found, exact, exact * Fraction(doubled.DOUBLED_EXP)).all()
    assert not within(found[:1], exact, exact * Fraction(doubled.DOUBLED_EXP)).all()
    assert found[:, -1].ravel().tolist() == [1.0, 0.0]
    odd = np.array([[math.nan], [-1e300], [-math.inf]])
    kernels.exponentials(odd, np.zeros((3, 1)), *found[:, :3])
    assert (found[0, :3] < doubled.FLOOR).all()


# What a kernel says of two numbers each.
by_fusion = jit.kernel(lambda x, y: kernels.doubled.two_product(x, y))


def test_products_are_exact_whoever_makes_them():
    rng = np.random.default_rng(2)
    ends = [1.0, 1.0 + 2.0**-52, 2.0 - 2.0**-52, 2.0**27 + 1.0, 2.0**53 - 1.0, 0.0, -0.0, 1.0 / 3.0]
    many = rng.normal(size=3000) * 2.0 ** rng.integers(-400, 400, 3000)
    for x, y in [*itertools.product(ends, ends), *zip(many, many[::-1], strict=True)]:
        pair = by_fusion(x, y)
        assert pair == kernels.doubled.two_product(x, y)
        assert within(pair, Fraction(x) * Fraction(y), 0)
    small = [
        5e-324,
        2.0**-1074 * 3,
        1e-310,
        2.0**-537 / 3.0,
        1e-160,
        1e-300 / 3.0,
        1e300,
        1e154 / 3.0,
    ]
    for x, y in itertools.product(small, small):
        pair = by_fusion(x, y)
        same = kernels.doubled.two_product(x, y)
        assert pair == same or not (math.isfinite(pair[1]) or math.isfinite(same[1]))


def test_products_and_quotients_have_twice_the_digits():
    rng, doubled = np.random.default_rng(4), kernels.doubled
    scales = twins.exact(2.0 ** rng.integers(-200, 200, 2000))
    parts = *around(rng, scales * some(rng, 2000), 0.0), *around(rng, some(rng, 2000), 0.0)
    for numbers in zip(*parts, strict=True):
        x, y = twins.exact(*numbers[:2]), twins.exact(*numbers[2:])
        for function, exact in ((doubled.product_of, x * y), (doubled.quotient, x / y)):
            assert within(function(*numbers), exact, abs(exact) * Fraction(doubled.DOUBLED))
            assert not within(function(*numbers)[:1], exact, abs(exact) * Fraction(doubled.DOUBLED))


def test_the_objective_of_many_states_is_within_its_error():
    """Each term is lost in the sum so far, and the sum of what is lost loses a little each time."""
    n = 2**14
    start, value, nothing = np.full(n, 1.0 / n), np.full(n, n * 2.0**-54), np.zeros(n)
    value *= 1.0 + 1365.0 * 2.0**-52
    value[0], value[-1] = n, -n
    tables = np.zeros((n, 1)), np.ones((n, 1), dtype=bool)
    objective, error = kernels.evaluate(start, *tables, value, nothing, 0.0, np.zeros((n, 1)))
    exact = sum(Fraction(x) for x in value) / n
    assert within([objective], exact, error)
    assert error <= 2.0**-70


def test_what_is_no_number_is_never_forgotten():
    chain, nothing, spoilt = kernels.chain, np.zeros(2), np.array([math.nan, 1.0])
    assert math.isnan(chain.largest(spoilt, nothing)[1])
    assert math.isnan(chain.largest(nothing, spoilt)[1])
    assert chain.is_idle(1.0, math.nan, math.inf)
    inputs, _ = patience_call(MODELS["garnet"])
    inputs["policy"] = inputs["policy"].copy()
    inputs["policy"][0, 0] = math.nan
    assert not kernels.shown_patience(**inputs) < math.inf
    for name, spoil in (("advantages", "gap"), ("influence_sources", "policy_error")):
        _, inputs, outputs, _ = CASES[name](MODELS["garnet"])
        inputs[spoil][0] = math.nan
        number = run(getattr(kernels, name), inputs, outputs)
        assert not np.max([number, *outputs.get("residual_error", ())]) < math.inf


def test_sums_on_the_way_through_the_chain():
    chain, table = kernels.chain, np.array([[1.0, 2.0], [3.0, -4.0]])
    assert chain.averaged(np.array([[0.5, 0.5], [0.25, 0.75]]), table).tolist() == [1.5, -2.25]
    assert chain.largest(np.array([1.0, -3.0]), np.array([3.0, 0.5])) == (3.0, 4.0)
    number, low = np.array([1.0, 2.0**53]), np.array([2.0**-60, -1.0])
    assert chain.step_on(number, low, np.array([2.0**-54, 1.0])) == (1.0, 1.0)
    assert number.tolist() == [1.0, 2.0**53]
    assert low.tolist() == [2.0**-54 + 2.0**-60, 0.0]
    error = np.empty(2)
    assert chain.rounded(np.array([0.0, -8.0]), 1.0, error) == 8.0
    assert error.tolist() == [1.0, 1.0 + 2.0**-50]
    given = np.array([0.5, -0.25]), np.array([-1.0, 2.0]), abs(table)
    np.testing.assert_allclose(kernels.residuals.left_over(*given), [3.0, 0.75, 17.0], 1e-15)


@pytest.mark.parametrize("off", [0.0, 1e-9, 1e-3])
def test_what_is_carried_is_within_its_error(off):
    """Kernels that move probabilities against each other are the worst: actions of two kinds."""
    model, rng = MODELS["garnet"], np.random.default_rng(6)
    n, shape, entries = model.n_states, model.available.shape, tuple(kernel_of(model).values())
    policy, given = near_policy(rng, model, off, 1.0)
    flow = some(rng, *shape)
    matrix = Fraction(0.9) * twins.exact(model.transition.toarray()).T
    moved = matrix.reshape(n, *shape)
    source = twins.exact(model.initial) + (matrix @ flow.ravel())
    truth = twins.solution(twins.exact(np.eye(n)) - (moved * policy).sum(axis=2), source)
    high, rest = around(rng, flow, off / flow.size)
    operator = kernels.chain.operator_of(model.band, *entries, given["policy"], 0.9)
    measure, low, error = kernels.chain.carried(
        operator, 10.0 * (1.0 + 2.0**-40), entries, model.initial, source.astype(float), high, rest,
        off, *given.values(), 0.9, 0.9, arrivals(model), np.zeros(n), np.zeros(n),
    )  # fmt: skip
    assert abs(twins.exact(measure, low) - truth).sum() <= error
    assert error <= 1e4 * off + 2.0**-75
    assert off > 0.0 or abs(twins.exact(measure) - truth).sum() > error


def kept_apart(kernel):
    """Call a kernel, and see that arrays which overlap are left alone: LLVM counts on it."""

    def run(*arguments):
        arrays = [each for each in arguments if isinstance(each, np.ndarray)]
        shared = [x for x, y in itertools.permutations(arrays, 2) if np.shares_memory(x, y)]
        before = [x.copy() for x in shared]
        found = kernel(*arguments)
        for one, other in zip(shared, before, strict=True):
            np.testing.assert_array_equal(one, other)
        return found

    return run


def test_the_chain_calls_kernels_with_arrays_that_do_not_overlap(monkeypatch):
    chain, calls = kernels.chain, kernels.centre.py_func.__globals__
    names = [
        name for name in calls if name in ("carried", *chain.carried.py_func.__code__.co_names)
    ]
    names += [name for name in kernels.centre.py_func.__code__.co_names if name in calls]
    others = {name: kept_apart(calls[name]) for name in names if hasattr(calls[name], "py_func")}
    others["carried"] = kept_apart(jit.rebound(chain.carried, others))
    assert {"move_policy", "move_flow", "solve_transposed"} <= others.keys()
    monkeypatch.setattr(kernels, "centre", jit.rebound(kernels.centre, others))
    model = MODELS["patchy"]
    bounding._centre(model, tb.solve_follower(model), None)
    inputs, outputs = gaps_case(model)[1:3]
    with pytest.raises(AssertionError):
        kept_apart(kernels.value_gaps)(*inputs.values(), *[outputs["gap"]] * 3)


@each_model
@pytest.mark.parametrize("discounts", [(0.9, 0.9), (0.9, 0.5), (0.9, 0.0)])
def test_the_chain_within_a_band_is_that_by_a_solver(model, discounts, monkeypatch):
    model = model.replace(follower_discount=discounts[0], leader_discount=discounts[1])
    response = tb.solve_follower(model)
    found = bounding._centre(model, response, None)
    monkeypatch.setattr(bounding, "is_banded", lambda _: False)
    wanted = bounding._centre(model, response, None)
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
    for name in radii[0].keys() - {"sensitivities"}:  # rounding of the results, and little else
        one, other = (np.max(each[name]) for each in radii)
        assert other / 1.1 <= one <= 1.1 * other, name


def test_by_a_solver_passes_over_arrays_are_still_compiled():
    known = bounding._factored_centre().__globals__
    names = bounding._factored_centre().__code__.co_names
    plain = {name for name in names if isinstance(known.get(name), types.FunctionType)}
    assert plain == {"carried", "is_idle", "lost", "operator_of", "solve"}


@sizes("model", [*MODELS.values()][:1], [*MODELS.values()][1:])
def test_the_chain_refines_what_it_is_given(model):
    response = tb.solve_follower(model)
    moved = response.value + 1e-5 * np.random.default_rng(7).normal(size=model.n_states)
    far = dataclasses.replace(response, value=moved)
    found, wanted = (bounding._centre(model, one, None).bounds for one in (far, response))
    for name in ("value", "policy", "leader_value", "occupancy", "objective"):
        assert np.max(found[name]) <= 1.1 * np.max(wanted[name]) + 2.0**-60


@each_model
def test_errors_of_slopes_are_the_twins(model):
    inputs, outputs = slopes_call(model)
    run(kernels.slope_errors, inputs, outputs)
    names = ("discount", "flow", "flow_error", "value", "spread")
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
    for x in np.concatenate([np.logspace(-300, 2.8, 400), [0.0, 0.99, 1.0, 1.01]]).tolist():
        growth, exact = kernels.doubled.growth(x), math.expm1(x)
        assert exact <= growth <= exact * (1.0 + min(x, 1.0))
    assert kernels.doubled.growth(800.0) == math.inf
    for log_error in (math.nan, math.inf, 800.0):
        assert kernels.doubled.moved_probability(0.5, 0.0, log_error) == 1.0


STAGES = (
    "least_patience",
    "lost",
    "policy_errors",
    "shown_patience",
    "pull_back_shares",
)


@sizes(("model", "name"), *pairs([*MODELS.values()], [*STAGES]))
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


@each_model
def test_what_probabilities_that_are_all_near_are_off_by_is_the_twins(model):
    inputs, outputs = policy_errors_call(model)
    inputs["log_error"] = 1e-4 * inputs["log_error"]
    inputs |= {"spare": 0.0 * inputs["spare"], "ahead_error": 0.1 * inputs["temperature"]}
    twin = twins.policy_errors(**inputs, log_policy_error=outputs["log_policy_error"].copy())
    run(kernels.policy_errors, inputs, outputs)
    assert agree(outputs["error"], twin["error"])


def test_bounds_are_widened_as_by_the_twin():
    inputs, outputs = outward_call(None)
    outputs["bounds"][:5] = 0.0, -1e-3, np.nan, np.inf, 5e-324
    twin = twins.outward(outputs["bounds"], inputs["factor"], inputs["least"])
    assert twin[:5] == [0.0, np.inf, np.inf, np.inf, 1e-3]
    run(kernels.outward, inputs, outputs)
    np.testing.assert_array_equal(outputs["bounds"], twin)


def test_patience_is_without_bound_where_play_need_not_end():
    assert kernels.least_patience(1.0) == kernels.least_patience(1.5) == math.inf
    assert kernels.lost(math.inf, 0.0) == 0.0 < kernels.lost(1.0, 1e-300)
    inputs, _ = patience_call(MODELS["garnet"])
    for mass, steps in ((0.9, 0.0), (0.9, math.nan), (1.0, 1e18)):
        changed = {"data": inputs["data"] / 0.9 * mass, "steps": np.full(8, steps)}
        assert kernels.shown_patience(**inputs | changed) == math.inf


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
