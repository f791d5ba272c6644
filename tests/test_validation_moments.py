"""Samples have the exact moments, a wrong moment is noticed, and chances are not too small."""

import dataclasses

import moments as script
import numpy as np
import pytest
from sizes import sizes
from small import somewhere

import tabular_bilevel as tb
from tabular_bilevel.sampling.all_trajectories import AllTrajectories

TINY = ["--problems", "1", "--batches", "200", "--trajectories", "50", "--workers", "1"]


@pytest.mark.slow
def test_samples_are_within_the_intervals(capsys):
    script.main(["--problems", "3", "--batches", "100", "--trajectories", "400", "--workers", "1"])
    *lines, last = capsys.readouterr().out.splitlines()
    assert ", 0 below; " in last
    for name in ("BC-HG", "survivors", "given critic", "SoBiRL", "Bi-AC"):
        assert sum(f": {name} " in line for line in lines) == 3
    assert sum(": control: " in line for line in lines) > 8


@pytest.fixture
def one(monkeypatch):
    problem = tb.problems.random_game(n_states=3, follower_observes_leader=False)
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(50, 5)))
    case = "BC-HG", problem, somewhere(problem), method
    monkeypatch.setattr(script, "methods", lambda k, n: [case])


@pytest.mark.parametrize(("rounding", "times"), [(script.ROUNDING, 1.001), (10.0, 2.0)])
def test_a_wrong_variance_is_outside(one, monkeypatch, capsys, rounding, times):
    """By what is computed from steps; and by samples alone."""
    right = tb.estimator_moments

    def wrong(*problem, **cut):
        found = right(*problem, **cut)
        return dataclasses.replace(found, variance=times * found.variance)

    script.main(TINY)
    assert ", 0 below; " in capsys.readouterr().out
    monkeypatch.setattr(script, "ROUNDING", rounding)
    monkeypatch.setattr(tb, "estimator_moments", wrong)
    assert script.main(TINY) == 1
    assert "outside: BC-HG (0 of 200 x 50)\n" in capsys.readouterr().out


def test_what_a_folder_of_results_has_is_not_run_again(one, monkeypatch, capsys, tmp_path):
    kept = [*TINY, "--results", str(tmp_path)]
    status = script.main(kept)
    monkeypatch.setattr(script, "compared", lambda *task: 1 / 0)
    assert script.main(kept) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == lines[2:]
    with pytest.raises(ZeroDivisionError):  # other sizes are run
        script.main([*kept, "--batches", "100"])


METHODS = {
    "own action": lambda data: tb.BoltzmannCovariance(data, own_action=True),
    "SoBiRL": tb.SoBiRL,
    "score function": tb.ScoreFunction,
}


@sizes("name", ["own action"], ["SoBiRL", "score function"])
def test_what_chances_are_made_of_is_right_for_all_trajectories(name):
    method = METHODS[name](tb.Interaction(tb.Episodes(1, 3)))
    problem = tb.problems.garnet(n_states=3, n_actions=2, branching=2, n_parameters=2)
    if name == "SoBiRL":
        problem = tb.FeatureProblem(problem.base, follower_reward=problem.follower_reward)
    theta = somewhere(problem)
    rule, limit = method.rule_at(problem, theta)
    every = AllTrajectories(limit.world, limit.law.policy, horizon=3)
    sample, chance = every.take(np.arange(every.count))
    ready = method.enumerable(problem, theta)
    rows = np.array([ready.estimate(sample.part(slice(k, k + 1))) for k in range(every.count)])
    mean = chance @ rows
    walk = script.Walk.of(rule, limit, 3).less(mean)
    for order in (2, 4):
        np.testing.assert_allclose(walk.moment(order), chance @ (rows - mean) ** order, rtol=1e-11)
    assert (walk.most() >= np.abs(rows - mean).max(axis=0) * (1.0 - 1e-12)).all()


def test_rare_events_are_no_surprise():
    """One event of chance 10^-6 among 10^5: once in ten times, and normal intervals are left."""
    n, rare = 10**5, 1e-6
    off = 1.0 / n - rare
    variance = rare * (1.0 - rare)
    assert script.normal(off, np.sqrt(variance / n)) < 1e-2
    assert n * rare < script.bernstein(off, variance, 1.0, n)
    assert script.bernstein(1e-4, variance, 1.0, n) < 1e-5  # ten events are one
