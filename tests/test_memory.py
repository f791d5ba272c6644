"""No step holds a table of states by states, or of parameters by states: 3 GB at this size."""

import math
import tracemalloc
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
from sizes import sizes

import tabular_bilevel as tb
from tabular_bilevel.checks import localising
from tabular_bilevel.mistakes.knowledge import slipping

SIZE = 20_000  # states, and parameters

# A twentieth of such a table; the widest step holds some vectors as long as the transition table.
ROOM = SIZE**2 * 8 / 20


def random_graph():
    base = tb.problems.garnet(n_states=SIZE, branching=5, n_parameters=1).model([0.0])
    pairs = np.arange(base.follower_reward.size)
    owner = (np.ones(pairs.size), (pairs, pairs % SIZE))  # each pays for its own share
    return tb.FeatureProblem(base, follower_reward=sp.csr_array(owner, shape=(pairs.size, SIZE)))


def open_map():
    rows = "\n".join(["." * 200] * 100)
    text = f"type octile\nheight 100\nwidth 200\nmap\n{rows}\n"
    return tb.problems.grid_world(text, temperature=0.05)


ROWS = np.random.default_rng(0).normal(size=(30, SIZE))

PROBLEMS = {"random graph": cache(random_graph), "map": cache(open_map)}

CALLS = {
    "solve": lambda problem, theta: tb.solve_follower(problem.model(theta)),
    "evaluate": lambda problem, theta: tb.evaluate_leader(
        problem.model(theta), tb.solve_follower(problem.model(theta))
    ),
    "objective": tb.objective,
    "hypergradient, bounded": tb.hypergradient,
    "hypergradient": lambda *at: tb.hypergradient(*at, accuracy=tb.Estimated()),
    "mistake": lambda *at: slipping(tb.Interaction().limit(*at), share=0.5),
    "factors": lambda _, theta: localising._Sample(theta + ROWS, 0.0).fit(ROWS[:5].T),
    "check": tb.check_gradient,
}


def held(call):
    """Most bytes that it holds at once beyond what was there."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@sizes(
    ("kind", "name"),
    [(kind, name) for kind in PROBLEMS for name in CALLS if name != "check"],
    [("random graph", "check")],
)
def test_memory_grows_with_the_transitions(kind, name):
    problem = PROBLEMS[kind]()
    theta = np.zeros(problem.n_parameters)
    assert problem.n_parameters >= SIZE - 1
    assert held(lambda: CALLS[name](problem, theta)) < ROOM


def test_a_problem_of_many_places_is_made_without_such_a_table():
    assert held(lambda: tb.problems.goal_position(math.isqrt(SIZE))) < ROOM


@pytest.mark.parametrize("dtype", [np.float64, np.bool_])
def test_a_table_of_states_by_states_is_seen(dtype):
    assert held(lambda: np.empty((SIZE, SIZE), dtype)) > ROOM
