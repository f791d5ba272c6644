"""The validation of the checker runs, at a small size, and fails a checker that is no good."""

import dataclasses

import checker
import pytest
from sizes import sizes

import tabular_bilevel as tb
from tabular_bilevel.checks import estimator as checking
from tabular_bilevel.checks import judging, mean_test

FEW = ["--checks", "5", "--family", "t5", "--workers", "1"]


@sizes(
    ("arguments", "printed"),
    [(["--part", "families", *FEW], "conclusive"), (["--part", "planted", *FEW], "claims passed")],
    [
        (["--part", "alarms", "--runs", "20"], "false alarms in 20 checks at 0.01"),
        (["--part", "power", "--plantings", "15"], "of 5 times"),
        (["--part", "replicates", "--checks", "40"], "95 % with 400 replicates"),
    ],
)
def test_it_runs(arguments, printed, capsys):
    assert checker.main([*arguments, "--seed", "0"]) == 0
    assert printed in capsys.readouterr().out


@pytest.mark.slow
def test_faults_are_named_on_a_problem_of_the_suite(monkeypatch, capsys):
    case = next(case for case in tb.standard_suite() if case.name == "unequal discounts")
    monkeypatch.setattr(checker, "standard_suite", lambda: (case,))
    assert checker.main(["--part", "controls", "--cases", "1", "--seed", "0"]) == 0
    assert " 0 missed" in capsys.readouterr().out
    plain = next(case for case in tb.standard_suite() if case.name == "plain")
    monkeypatch.setattr(checker, "standard_suite", lambda: (plain,))
    assert checker.main(["--part", "names", "--cases", "1", "--seed", "0"]) == 0
    assert "unknown none: " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verdict", "arguments"),
    [  # no power, or too many alarms
        (tb.Verdict.UNBIASED, ["--part", "power", "--plantings", "15"]),
        (tb.Verdict.BIASED, ["--part", "alarms", "--runs", "20"]),
    ],
)
def test_a_checker_that_always_says_the_same_fails(verdict, arguments, monkeypatch):
    judge = checking.judge

    def deaf(estimates, target, **settings):
        return dataclasses.replace(judge(estimates, target, **settings), verdict=verdict)

    for module in (checking, judging):
        monkeypatch.setattr(module, "judge", deaf)
    assert checker.main([*arguments, "--seed", "0"]) == 1


def test_a_family_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit):
        checker.main(["--part", "families", "--family", "t55"])
    assert "invalid choice: 't55'" in capsys.readouterr().err


def test_a_family_whose_mean_is_off_fails(monkeypatch, capsys):
    family = checker.Family("off", lambda rng, n: rng.normal(size=(n, 2)) + 1.0)
    monkeypatch.setattr(checker, "FAMILIES", (family,))
    assert checker.main(["--part", "families", "--checks", "10", "--workers", "1"]) == 1
    assert "OFF" in capsys.readouterr().out


def test_a_claim_that_is_too_small_fails(monkeypatch):
    judge = checking.judge

    def boastful(estimates, target, **settings):
        report = judge(estimates, target, **settings)
        small = report.smallest_visible_bias / 4.0
        return dataclasses.replace(report, smallest_visible_bias=small)

    monkeypatch.setattr(checking, "judge", boastful)
    few = ["--checks", "20", "--family", "normal, 2", "--workers", "1"]
    assert checker.main(["--part", "planted", *few]) == 1


@pytest.mark.slow
def test_a_test_that_takes_many_replicates_fails(monkeypatch):
    monkeypatch.setattr(mean_test, "EDGEWORTH", 100.0)
    assert checker.main(["--part", "replicates", "--checks", "40"]) == 1
