"""Two BC-HG estimators that were written from theory.md alone pass every check."""

import importlib

import numpy as np
import pytest
from sizes import sizes
from small import somewhere

import tabular_bilevel as tb

# Sums of a few hundred float64 numbers.
ROUNDING = 1e-10


def lesson(library):
    pytest.importorskip(library)
    return importlib.import_module(f"book.lessons.bchg_{library}").bchg


@pytest.fixture(params=["jax", "torch"])
def bchg(request):
    return lesson(request.param)


def ends_early():
    """A layered problem in which every step may be the last."""
    problem = tb.problems.layered(depth=3, width=2, n_parameters=3, rng=4)
    base = problem.base
    end = np.where(base.termination == 1.0, 1.0, 0.3)
    data = base.transition.data * (1.0 - end.ravel())[base.entry_row]
    return tb.FeatureProblem(
        base.replace(transition=base.like_transition(data), termination=end),
        follower_reward=problem.follower_reward,
        leader_reward=problem.leader_reward,
        transition=problem.transition,
        initial=problem.initial,
    )


FINITE = {
    "three layers": tb.problems.layered(depth=3, width=2, n_parameters=3, rng=1),
    "one layer": tb.problems.layered(depth=1, width=3, n_parameters=3, rng=2),
    "discounts far apart": tb.problems.layered(
        depth=4, width=2, n_parameters=3, follower_discount=0.99, leader_discount=0.5, rng=3
    ),
    "early ends": ends_early(),
    "game": tb.problems.layered_game(depth=3, width=2, rng=5),
    "game, leader unseen": tb.problems.layered_game(
        depth=3, width=2, follower_observes_leader=False, rng=6
    ),
}


@sizes("name", [*FINITE][:1], [*FINITE][1:])
def test_its_expectation_is_the_hypergradient(bchg, name):
    problem = FINITE[name]
    tb.check_by_enumeration(bchg, problem, somewhere(problem)).raise_if_failed()


def test_without_a_temperature_it_is_found_out(bchg):
    problem = FINITE["three layers"]

    def wrong(view, batch):
        view.temperature = 1.0
        return bchg(view, batch)

    report = tb.check_by_enumeration(wrong, problem, somewhere(problem))
    assert report.diagnosis.best.name == "no 1/temperature"


@sizes("name", ["random_game"], ["garnet"])
def test_it_passes_on_samples(bchg, name):
    make = {"garnet": tb.problems.garnet, "random_game": tb.problems.random_game}[name]
    problem = make(n_states=3, follower_discount=0.6, leader_discount=0.7, rng=7)
    estimator = tb.BatchEstimator(bchg, tb.Episodes(100))  # of one length: JAX compiles once
    report = tb.check_estimator(
        estimator, problem, somewhere(problem), n_replicates=100, visible_bias=0.2, rng=0
    )
    report.raise_if_failed()


def test_traces_and_tails_are_the_same_sum():
    problem = tb.problems.random_game(n_states=3, rng=6)
    view = tb.LeaderView(problem, somewhere(problem))
    batch = view.draw(tb.Survivors(50), np.random.default_rng(8))
    traces, tails = (np.asarray(lesson(library)(view, batch)) for library in ("jax", "torch"))
    np.testing.assert_allclose(traces, tails, atol=ROUNDING * np.abs(traces).max())
