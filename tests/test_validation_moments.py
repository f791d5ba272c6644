"""Samples have the exact moments, and a wrong moment is noticed."""

import dataclasses
import re

import moments as script
import pytest

import tabular_bilevel as tb

TINY = ["--problems", "1", "--batches", "200", "--trajectories", "50"]


@pytest.mark.slow
def test_samples_are_within_the_intervals(capsys):
    assert script.main(["--problems", "4", "--batches", "400", "--trajectories", "200"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) > 25
    assert ", 0 left; " in last
    for name in ("BC-HG", "survivors", "given critic", "Bi-AC", "control: "):
        assert any(name in line for line in lines)


def test_a_wrong_variance_is_outside(monkeypatch, capsys):
    right = tb.estimator_moments

    def wrong(problem, theta, method, **cut):
        found = right(problem, theta, method, **cut)
        return dataclasses.replace(found, variance=2.0 * found.variance)

    monkeypatch.setattr(script, "methods", lambda problem, theta, n, seed: [("BC-HG", usual(n))])
    script.main(TINY)
    assert ", 0 left; " in capsys.readouterr().out
    monkeypatch.setattr(tb, "estimator_moments", wrong)
    assert script.main(TINY) == 1
    said = capsys.readouterr().out
    assert re.search(r"^outside: garnet \d+ BC-HG$", said, re.MULTILINE)


def test_what_a_file_of_results_has_is_not_run_again(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(script, "methods", lambda problem, theta, n, seed: [("BC-HG", usual(n))])
    kept = [*TINY, "--results", str(tmp_path / "results.jsonl")]
    script.main([*kept, "--first", "1"])
    assert script.main([*kept[:1], "2", *kept[2:]]) == script.main([*TINY[:1], "2", *TINY[2:]])
    *_, second, first, last, again, _, whole = capsys.readouterr().out.splitlines()
    assert (first, second[:7]) == (again, "1 metho")
    assert last == whole
    monkeypatch.setattr(script, "compared", None)
    script.main([*kept[:1], "2", *kept[2:]])
    assert capsys.readouterr().out == last + "\n"
    with pytest.raises(TypeError):  # other sizes are run
        script.main([*kept, "--batches", "100"])


def test_problems_have_no_rare_actions():
    for k in range(2 * len(script.FAMILIES)):
        name, problem, theta = script.drawn(k)
        model = problem.model(theta)
        policy = tb.solve_follower(model).policy[model.available]
        assert policy.min() >= script.RARE, name


def usual(n):
    return tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(n, 5)))
