"""Python runs a kernel's first small calls: the same numbers, and nothing to wait for."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from sizes import sizes

import tabular_bilevel as tb
from tabular_bilevel._base import jit, kernels
from tabular_bilevel.problems import zoo

# Prints what a first call gives, what was compiled for it, and what is cached afterwards.
FIRST = """
import json, sys
import tabular_bilevel as tb
from tabular_bilevel._base import jit, kernels

if sys.argv[1] == "compiled":
    jit.MOST_STEPS = 0
problem = tb.problems.four_rooms()
result = tb.hypergradient(problem, [0.0] * problem.n_parameters)
counts = {name: len(getattr(kernels, name).signatures) for name in kernels.__all__}
numbers = [result.objective, *result.gradient.tolist(), *result.accuracy.gradient.tolist()]
print(json.dumps([counts, [repr(x) for x in numbers]]))
"""


def first_call(cache, how):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FIRST, how],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_first_hypergradient_compiles_nothing_and_has_the_numbers_of_the_compiled_one(tmp_path):
    counts, numbers = first_call(tmp_path, "at once")
    assert not any(counts.values())
    compiled, same = first_call(tmp_path, "compiled")
    assert sum(compiled.values()) > 15
    assert numbers == same
    cached, same = first_call(tmp_path, "at once")
    assert cached["centre"] == 1  # what is cached is taken
    assert numbers == same


def doubled_until(steps):
    @jit.patient_kernel(lambda array, *_: steps * array.size)
    def doubling(array, out):
        total = 0.0
        for k in range(array.size):
            out[k] = twice(array[k])
            total += out[k] / 0.0
        return total, array.size

    return doubling


@jit.kernel
def twice(x):
    return 2.0 * x


@pytest.fixture
def empty(monkeypatch):
    """No cache of an earlier run."""
    monkeypatch.setattr(jit._Patience, "_is_cached", lambda self, arguments: False)


@pytest.mark.usefixtures("empty")
def test_python_runs_few_steps_and_numba_many():
    array, out = np.arange(1.0, 5.0), np.empty(4)
    doubling = doubled_until(jit.MOST_STEPS // 8)
    for compiled in (0, 1, 1):
        found = doubling(array, out)
        assert found == (np.inf, 4)  # divided by 0, without a warning, in both
        assert [type(x) for x in found] == [float, int]
        assert out.tolist() == [2.0, 4.0, 6.0, 8.0]
        assert len(doubling.signatures) == compiled


@pytest.mark.usefixtures("empty")
def test_a_large_call_is_compiled_at_once_and_a_small_one_sooner_or_later():
    at_once, later = doubled_until(jit.MOST_STEPS), doubled_until(0)
    for call in range(1, jit.MOST_CALLS + 1):
        at_once(np.ones(1), np.ones(1))
        later(np.ones(1), np.ones(1))
        assert len(at_once.signatures) == 1
        assert len(later.signatures) == (call == jit.MOST_CALLS)


@sizes("name", zoo.NAMES[::3], [*zoo.NAMES[1::3], *zoo.NAMES[2::3]])
def test_numbers_are_the_same_to_the_last_bit(name, monkeypatch):
    problem, theta = zoo.named(name).problem, zoo.named(name).theta
    found = []
    for run in (False, True):
        for kernel in kernels.__all__:
            compiled = getattr(kernels, kernel)
            patience = compiled._compile_for_args
            if not isinstance(patience, jit._Patience):
                continue
            lines = jit.rebound(compiled, {}, lambda _: False)
            plain = np.errstate(all="ignore")(jit._with_numbers(lines))
            monkeypatch.setattr(patience, "_left", 0)
            if run:
                monkeypatch.setattr(kernels, kernel, plain)
        if problem.model(theta).n_states > 120:
            pytest.skip("a minute in Python")
        result = tb.hypergradient(problem, theta)
        found.append((result.objective, result.gradient, result.accuracy.gradient))
    for compiled, interpreted in zip(*found, strict=True):
        np.testing.assert_array_equal(compiled, interpreted)
