"""The table of biases is made, agrees with the exact gradient, and notices a wrong method."""

import json
import sys

import estimators as script
import numpy as np
import pytest

import tabular_bilevel as tb

# Two float64 ways to the same number.
ROUNDING = 1e-10


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the script at a tiny size; return its status and its table."""
    monkeypatch.setattr(script, "SMOOTHING", 30)

    def measure(*problems, methods=None):
        table = tmp_path / "table.json"
        sizes = ["--trajectories", "60", "--replicates", "100", "--json", str(table)]
        monkeypatch.setattr(sys, "argv", ["estimators.py", *sizes, "--problem", *problems])
        if methods is not None:
            monkeypatch.setattr(script, "methods", methods)
        return script.main(), json.loads(table.read_text(encoding="utf-8"))

    return measure


@pytest.mark.slow
def test_the_table_has_every_method_where_it_is_defined(run, capsys):
    status, rows = run("two-state", "rewards")
    heading, *lines, count = capsys.readouterr().out.splitlines()
    assert heading.split() == ["problem", "method", "bias", "cosine", "deviation", "verdict"]
    assert len(lines) == len(rows)
    assert count == f"{len(rows)} checks, 0 BIASED"
    assert status == 0
    found = {(row["problem"], row["method"]): row for row in rows}
    for name in ("SoBiRL", "penalty, weight 10"):
        assert ("rewards", name) in found
        assert ("two-state", name) not in found
    assert not any(method == "Bi-AC" for _, method in found)
    assert found["rewards", "exact"]["bias"] < ROUNDING
    assert found["rewards", "exact"]["cosine"] == pytest.approx(1.0)
    assert found["rewards", "exact"]["deviation"] < ROUNDING
    assert found["rewards", "naive"]["bias"] > 0.1
    assert found["rewards", "BC-HG"]["deviation"] > 0.01
    for falling in (
        [f"penalty, weight {weight}" for weight in (10, 100, 1000)],
        [f"Neumann, terms {terms}" for terms in (1, 10, 100)],
        [f"zero-order, u = {radius}" for radius in ("1", "0.1", "0.01")],
    ):
        biases = [found["rewards", method]["bias"] for method in falling]
        assert biases == sorted(biases, reverse=True)


class Twice:
    """An estimator that is twice what it says."""

    def __call__(self, problem, theta, *, rng):
        estimate = tb.NaivePolicyGradient(tb.Interaction(tb.Episodes(50)))(problem, theta, rng=rng)
        estimate.gradient.setflags(write=True)
        np.multiply(estimate.gradient, 2.0, out=estimate.gradient)
        return estimate

    def target(self, problem, theta):
        return tb.NaivePolicyGradient().target(problem, theta)


def test_a_method_that_misses_its_target_fails(run, capsys):
    status, rows = run("two-state", methods=lambda n, visits: [("twice", Twice())])
    assert status == 1
    assert [row["verdict"] for row in rows] == ["BIASED"]
    assert "1 checks, 1 BIASED" in capsys.readouterr().out


def test_an_error_that_is_not_about_the_problem_is_not_hidden(run):
    def broken(n, visits):
        yield "broken", tb.BoltzmannCovariance(tb.Interaction(tb.Survivors(5, 0.1)))

    with pytest.raises(ValueError, match=r"probability is 0\.1, below the discount 0\.9"):
        run("two-state", methods=broken)
