"""The compiled pass from a response to measures gives the numbers of the readable road."""

import numpy as np
import pytest
from sizes import sizes

import tabular_bilevel as tb
from tabular_bilevel.finite import linear
from tabular_bilevel.finite.adjoint import direct_sensitivities, indirect_sensitivities, road
from tabular_bilevel.finite.follower import is_banded
from tabular_bilevel.problems import zoo

# Two eliminations of the same matrix: the roundings of a few solves, and of the differences between
# advantages, which a low temperature magnifies.
ROUNDING = 1e-11

NAMED = [(name, None) for name in zoo.NAMES]
QUICK = NAMED + [(name, 0) for name in zoo.FAMILIES]
SLOW = [(name, seed) for name in zoo.FAMILIES for seed in range(1, 6)]


def instance(name, seed):
    if seed is None:
        return zoo.named(name)
    return zoo.draw(name, seed, max_states=max(24, zoo.FAMILIES[name].smallest))


def read(model, response):
    evaluation = tb.evaluate_leader(model, response)
    return (
        evaluation,
        direct_sensitivities(model, response, evaluation),
        indirect_sensitivities(model, response, evaluation),
    )


def tables(evaluation, *parts):
    yield np.array(evaluation.objective)
    for name in ("value", "action_value", "occupancy", "continuation"):
        yield getattr(evaluation, name)
    for part in parts:
        for name in ("follower_reward", "leader_reward", "transition", "initial", "temperature"):
            yield np.asarray(getattr(part, name))


def furthest(found, wanted):
    """Largest difference of two tables, relative to the largest entry.

    An influence that is 0 is a difference of action values, over the temperature: where actions
    are alike, a thousandth of these is the size.
    """
    evaluation, direct, _ = wanted
    terms = evaluation.occupancy.max() * np.abs(evaluation.action_value).max()
    least = 1e-3 * terms / direct.model.temperature + np.finfo(np.float64).tiny
    return max(
        np.abs(x - y).max(initial=0.0) / (np.abs(y).max(initial=0.0) + least)
        for x, y in zip(tables(*found), tables(*wanted), strict=True)
    )


@sizes(("name", "seed"), QUICK, SLOW)
def test_the_compiled_road_is_the_one_that_is_read(name, seed):
    one = instance(name, seed)
    model = one.problem.model(one.theta)
    response = tb.solve_follower(model)
    assert furthest(road(model, response), read(model, response)) <= ROUNDING


@pytest.mark.parametrize("table", ["leader_discount", "follower_discount"])
def test_a_slightly_different_road_is_seen(table):
    model = zoo.named("random MDP").problem.model(zoo.named("random MDP").theta)
    other = model.replace(**{table: getattr(model, table) - 1e-9})
    response = tb.solve_follower(model)
    assert is_banded(model)
    assert furthest(road(other, response), read(model, response)) > ROUNDING


@pytest.mark.parametrize(("leader_discount", "count"), [(0.9, 1), (0.95, 2)])
def test_where_discounts_are_equal_one_matrix_is_factored(leader_discount, count, monkeypatch):
    problem = tb.problems.grid_world(
        "type octile\nheight 2\nwidth 90\nmap\n" + 2 * (90 * "." + "\n")
    )
    model = problem.model([0.0] * problem.n_parameters)
    model = model.replace(follower_discount=0.9, leader_discount=leader_discount, temperature=0.1)
    response, factored = tb.solve_follower(model), []
    wanted, init = road(model, response), linear._Sparse.__init__
    monkeypatch.setattr("tabular_bilevel.finite.adjoint.is_banded", lambda model: False)
    monkeypatch.setattr(linear, "WORTH_A_ROUND", np.inf)  # no sweep does
    monkeypatch.setattr(
        linear._Sparse, "__init__", lambda self, matrix: factored.append(init(self, matrix))
    )
    assert furthest(road(model, response), wanted) <= ROUNDING
    assert len(factored) == count


def test_the_readable_road_is_taken_where_there_is_no_other(monkeypatch):
    model = tb.problems.four_rooms().model([0.0] * 105)
    response = tb.solve_follower(model)
    wanted, over_time = read(model, response), tb.evaluate_leader(model, response, horizon=30)
    assert road(model, response, horizon=30)[0].objective == over_time.objective
    monkeypatch.setattr("tabular_bilevel.finite.adjoint.is_banded", lambda model: False)
    assert furthest(road(model, response), wanted) == 0.0
