"""The zoo of instances: each is right, and is what it is called."""

import contextlib
import dataclasses

import numpy as np
import pytest
from sizes import sizes
from small import each_refused

import tabular_bilevel as tb
from tabular_bilevel.problems import zoo

# Of these the derivatives themselves overflow or underflow.
EXTREME = ("extreme", "extreme-game")

CHECKED = [name for name in zoo.FAMILIES if name not in EXTREME]


def small(name, seed):
    """Of twelve states, or as few as there may be."""
    most = max(12, zoo.FAMILIES[name].smallest)
    return zoo.draw(name, seed, number=seed, max_states=most)


class Doubled:
    """Its pullback is off by a factor of 2."""

    def __init__(self, problem):
        self.problem, self.model = problem, problem.model

    def pullback(self, theta, measures):
        return 2.0 * self.problem.pullback(theta, measures)


@sizes("name", zoo.NAMES[::3], [name for name in zoo.NAMES if name not in zoo.NAMES[::3]])
def test_derivatives_of_a_named_instance_are_right(name):
    assert tb.check_gradient(*zoo.named(name).at).passed


@sizes("name", zoo.NAMES[::5], [name for name in zoo.NAMES if name not in zoo.NAMES[::5]])
def test_derivatives_that_are_doubled_are_wrong(name):
    instance = zoo.named(name)
    assert not tb.check_gradient(Doubled(instance.problem), instance.theta).passed


# Closed forms lie where differences say nothing.
@sizes(
    ("name", "seed"),
    [(name, 0) for name in CHECKED],
    [(name, seed) for name in CHECKED for seed in range(1, 10) if name != "closed-form"],
)
def test_derivatives_of_a_drawn_instance_are_right(name, seed):
    assert tb.check_gradient(*small(name, seed).at).passed


def test_names_are_unique_and_each_class_of_problem_is_ordinary():
    assert len({*zoo.NAMES, *zoo.FAMILIES}) == len(zoo.NAMES) + len(zoo.FAMILIES)
    assert set(zoo.ORDINARY) <= set(zoo.NAMES)
    problems = [zoo.named(name).problem for name in zoo.ORDINARY]
    kinds = {tb.Contexts, tb.FeatureProblem, tb.MarkovGame, tb.Reparametrised}
    assert {type(x) for x in problems} == kinds
    seen = {x.follower_observes_leader for x in problems if isinstance(x, tb.MarkovGame)}
    assert seen == {True, False}


def same(one, other):
    tables = [instance.problem.model(instance.theta) for instance in (one, other)]
    return np.array_equal(one.theta, other.theta) and all(
        np.array_equal(*(getattr(model, name) for model in tables))
        for name in ("follower_reward", "leader_reward", "initial", "termination")
    )


@pytest.mark.parametrize("name", zoo.NAMES)
def test_a_named_instance_is_always_the_same_and_stays_so(name):
    instance = zoo.named(name)
    assert (instance.name, instance.flags) == (name, ())
    assert same(instance, zoo.named(name))
    with pytest.raises(ValueError, match="read-only"):
        instance.theta[0] = 1.0


@pytest.mark.parametrize("name", zoo.FAMILIES)
def test_a_family_keeps_to_its_size_its_seed_and_its_flags(name):
    family = zoo.FAMILIES[name]
    overflow = contextlib.suppress(ValueError) if name in EXTREME else contextlib.nullcontext()
    for most in (family.smallest, family.smallest + 3):
        for seed in range(6):
            instance = zoo.draw(name, seed, number=seed, max_states=most)
            with overflow:
                assert instance.problem.model(instance.theta).n_states <= most
    assert (family.name, instance.name, instance.flags) == (name, name, family.flags)
    if name not in EXTREME:
        assert same(small(name, 3), small(name, 3))
        assert not same(small(name, 3), small(name, 9))
    with pytest.raises(dataclasses.FrozenInstanceError):
        instance.theta = np.zeros(2)


def test_a_budget_has_a_parameter_more():
    spent = zoo.budgeted(zoo.named("two-state"), 3)
    assert isinstance(spent.problem, tb.Reparametrised)
    assert spent.problem.transform.forward(spent.theta).shape == (2,)


def test_what_is_not_in_the_zoo_is_refused():
    each_refused(
        (lambda: zoo.named("tie"), "no instance is called 'tie'; there are plain, small temp"),
        (lambda: zoo.draw("ties", 0), "no family is called 'ties'; there are closed-form, garnet"),
        (lambda: zoo.draw("four-rooms", 0), "max_states is 8, and four-rooms needs 20"),
        (lambda: zoo.draw("wild", 0, max_states=0), "max_states is 0, not a positive whole"),
        (lambda: zoo.draw("wild", "0"), "rng"),
    )
