"""Which mistakes a problem tells apart: held against the targets of all of them."""

import numpy as np
import pytest
from small import assert_refused

import tabular_bilevel as tb
from tabular_bilevel.problems import zoo

# Two computations of one target.
ROUNDING = 1e-6


def targets_of(problem, theta):
    """What each mistake comes to, where it can be made."""
    found = {}
    for name, control in tb.controls(n_trajectories=1).items():
        try:
            found[name] = control.target(problem, theta)
        except (ValueError, tb.ConvergenceError):
            continue
    return found


def near(one, other, least):
    size = max(np.abs(one).max(), np.abs(other).max(), least)
    return np.abs(one - other).max() <= ROUNDING * size


@pytest.mark.parametrize("name", ["one-state bandit", "two-state", "plain", "game", "layered"])
def test_each_mistake_is_in_its_place(name):
    instance = zoo.named(name)
    problem, theta = instance.at
    found, targets = tb.tell_apart(problem, theta), targets_of(problem, theta)
    exact = tb.hypergradient(problem, theta).gradient
    least = np.abs(exact).max()
    groups = [*found.alike, *((name,) for name in found.told)]
    everything = [*found.hidden, *(name for group in groups for name in group)]
    assert sorted(everything) == sorted(tb.controls())
    for name in found.hidden:
        assert name not in targets or near(targets[name], exact, least), name
    for group in groups:
        assert not near(targets[group[0]], exact, least)
        assert all(near(targets[group[0]], targets[other], least) for other in group)
    first = [targets[group[0]] for group in groups]
    assert not any(near(a, b, least) for i, a in enumerate(first) for b in first[:i])
    assert all(len(group) > 1 for group in found.alike)


def test_a_coarser_look_tells_less_apart():
    problem, theta = zoo.named("plain").at
    fine, coarse = (tb.tell_apart(problem, theta, tolerance=t) for t in (1e-9, 0.1))
    assert fine == tb.tell_apart(problem, theta)
    assert set(coarse.told) < set(fine.told)
    assert set(fine.hidden) < set(coarse.hidden)


def test_it_says_what_it_found():
    found = tb.Distinction(hidden=("a",), alike=(("b", "c"),), told=("d", "e"))
    assert str(found) == (
        "5 mistakes: 2 are told from all others, 2 are alike in 1 groups, 1 are hidden\n"
        "alike: b; c\n"
        "hidden: a"
    )


def test_bad_input_is_named():
    for theta, settings, message in (
        ([0.0], {}, "theta has shape"),
        ([], {}, "theta has no entries"),
        ([0.0, np.nan], {}, r"theta\[1\] is nan"),
        ([0.0, 0.0], {"tolerance": 0.0}, "tolerance is 0.0, not a positive finite number"),
    ):
        assert_refused(message, tb.tell_apart, tb.problems.two_state(), theta, **settings)
