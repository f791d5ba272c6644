"""The validation of the checker runs, at a small size, and fails a checker that is no good."""

import importlib.util
from pathlib import Path

import pytest

import tabular_bilevel as tb
from tabular_bilevel.checks import estimator as checking

PATH = Path(__file__).parents[1] / "validation" / "checker.py"


@pytest.fixture
def checker():
    spec = importlib.util.spec_from_file_location("checker", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["--part", "alarms", "--runs", "20"], "false alarms in 20 checks at 0.01"),
        (["--part", "power", "--plantings", "15"], "of 5 times"),
    ],
)
def test_it_runs(checker, arguments, printed, capsys):
    assert checker.main([*arguments, "--seed", "0"]) == 0
    assert printed in capsys.readouterr().out


def test_faults_are_named_on_a_problem_of_the_suite(checker, capsys):
    case = next(case for case in tb.standard_suite() if case.name == "unequal discounts")
    checker.standard_suite = lambda: (case,)
    assert checker.main(["--part", "names", "--cases", "1", "--seed", "0"]) == 0
    assert " 0 missed" in capsys.readouterr().out


def test_a_checker_that_always_passes_has_no_power(checker, monkeypatch):
    judge = checking.judge

    def lenient(estimates, target, **settings):
        report = judge(estimates, target, **settings)
        object.__setattr__(report, "verdict", tb.Verdict.UNBIASED)
        return report

    monkeypatch.setattr(checking, "judge", lenient)
    assert checker.main(["--part", "power", "--plantings", "15", "--seed", "0"]) == 1


def test_a_checker_that_always_fails_alarms_too_often(checker, monkeypatch):
    judge = checking.judge

    def strict(estimates, target, **settings):
        report = judge(estimates, target, **settings)
        object.__setattr__(report, "verdict", tb.Verdict.BIASED)
        return report

    monkeypatch.setattr(checking, "judge", strict)
    assert checker.main(["--part", "alarms", "--runs", "20", "--seed", "0"]) == 1
