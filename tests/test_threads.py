"""Results do not depend on how many threads the libraries of linear algebra may use."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import tabular_bilevel as tb
from tabular_bilevel._base import threads

DRIVER = """
import hashlib
import json
import sys

import numpy as np
import tabular_bilevel as tb
from tabular_bilevel._base import threads
from tabular_bilevel.problems import zoo

if "free" in sys.argv:
    threads._OneThread.__enter__ = threads._OneThread.__exit__ = lambda *_: None
names = zoo.NAMES if "whole" in sys.argv else zoo.NAMES[::5]
cases = {name: (zoo.named(name).problem, zoo.named(name).theta) for name in names}
cases |= {n: (tb.problems.garnet(n_states=n), np.zeros(6)) for n in (120, 190, 600)}
found = {}
for name, (problem, theta) in cases.items():
    result = tb.hypergradient(problem, theta, solver=tb.PolicyIteration())
    readable = tb.evaluate_leader(result.model, result.response)
    arrays_of = (
        result.gradient, result.accuracy.gradient, result.response.value, result.evaluation.value,
        readable.value, readable.occupancy,
    )
    found[name] = hashlib.sha256(b"".join(x.tobytes() for x in arrays_of)).hexdigest()
many = np.random.default_rng(0).normal(size=(200, 200)) / 30.0
one = np.eye(200)
model = tb.LinearQuadraticModel(
    dynamics=many, control=one, state_cost=one, control_cost=one, noise=one,
    initial_mean=np.zeros(200), initial_covariance=one, follower_discount=0.9, leader_discount=0.9,
    temperature=1.0, leader_reward=tb.QuadraticReward(state=one, control=one),
)
value = tb.solve_follower(model).value_matrix
found["linear-quadratic"] = hashlib.sha256(value.tobytes()).hexdigest()
print(json.dumps(found))
"""


def numbers(n_threads, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRIVER, *arguments],
        env={**os.environ, "OPENBLAS_NUM_THREADS": str(n_threads), "OMP_NUM_THREADS": "2"},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def alone():
    return numbers(1)


def test_the_same_numbers_with_two_threads(alone):
    assert numbers(2) == alone


@pytest.mark.slow
def test_the_whole_zoo_has_the_same_numbers_with_two_threads():
    assert numbers(2, "whole") == numbers(1, "whole")


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor: one thread")
def test_without_the_limit_they_differ(alone):
    assert numbers(2, "free") != alone


TABLES = {
    "transition": np.ones((1, 1, 1)), "follower_reward": [[0.0]], "leader_reward": [[0.0]],
    "initial": [1.0], "leader_discount": 0.5, "temperature": 1.0,
}  # fmt: skip


def counts():
    return [library.get_num_threads() for library in threads._libraries()]


@pytest.fixture
def two_threads():
    libraries, mine = threads._libraries(), counts()
    assert libraries
    for library in libraries:
        threads._setter(library)(2)
    yield counts()
    for library, count in zip(libraries, mine, strict=True):
        threads._setter(library)(count)


def test_threads_are_given_back_after_an_error(two_threads):
    with pytest.raises(ValueError, match="discount"):
        tb.Model.from_tables(**{**TABLES, "follower_discount": 2.0})
    assert counts() == two_threads


def test_threads_are_given_back_by_the_last_that_leaves(two_threads):
    inside, leave = threading.Event(), threading.Event()

    def visit():
        with threads.one_thread:
            inside.set()
            leave.wait(10.0)

    other = threading.Thread(target=visit)
    with threads.one_thread:
        other.start()
        assert inside.wait(10.0)
        assert set(counts()) == {1}
    assert set(counts()) == {1}  # the other is inside
    leave.set()
    other.join()
    assert counts() == two_threads
