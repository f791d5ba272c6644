"""The command that says what a budget buys."""

import json
import sys

import numpy as np
import pytest

import tabular_bilevel as tb
from tabular_bilevel.cli import main


def test_it_prints_the_errors_and_writes_and_draws_them(tmp_path, monkeypatch, capsys):
    methods = {"BC-HG": tb.BoltzmannCovariance(), "naive": tb.NaivePolicyGradient()}
    curve = tb.error_curve(tb.problems.two_state(), [0.2, -0.3], methods, [1e2, 1e4])
    asked = []

    def known(problem, theta, *, budgets, progress):
        asked.append((str(problem), theta.tolist(), budgets))
        return curve

    monkeypatch.setattr(tb, "error_curve", known)
    table, picture, theta = (tmp_path / name for name in ("e.json", "e.svg", "t.npy"))
    np.save(theta, np.array([0.2, -0.3]))
    words = ["efficiency", "two-state", "--budget", "1e2,1e4", "--theta", str(theta)]
    assert main([*words, "--json", str(table), "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{curve}\nthe errors are drawn in {picture}\n"
    rows = json.loads(table.read_text())
    assert list(rows) == list(curve.methods)
    assert [row["error"] for row in rows["BC-HG"]] == curve.error[0].tolist()
    assert picture.read_text().startswith("<?xml")
    assert main(words[:2]) == 0
    loop = str(tb.problems.two_state())
    assert asked == [(loop, [0.2, -0.3], [1e2, 1e4]), (loop, [0.0, 0.0], [1e3, 1e4, 1e5])]


def test_it_says_at_once_how_far_it_is(monkeypatch, capsys):
    words = ["efficiency", "bandit", "--budget", "1e2"]
    assert main([*words, "--vary", "horizon=2"]) == 0
    assert capsys.readouterr().err == ""  # nobody is there to see it
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(words) == 0
    bar = capsys.readouterr().err
    assert "0 moments [00:00" in bar
    assert "| 0/33 [00:00" in bar
    assert main([*words, "--vary", "horizon=2"]) == 0
    assert "| 0/6 [00:00" in capsys.readouterr().err


def test_settings_are_varied(tmp_path, capsys):
    table, picture = tmp_path / "e.json", tmp_path / "e.svg"
    words = ["efficiency", "bandit", "--vary", "temperature=0.1,1", "--vary", "horizon=1"]
    assert main([*words, "--json", str(table), "--plot", str(picture)]) == 0
    grid = tb.error_grid(tb.problems.bandit, {"temperature": [0.1, 1], "horizon": [1]})
    assert capsys.readouterr().out == f"{grid}\nthe errors are drawn in {picture}\n"
    assert tuple(json.loads(table.read_text())) == grid.labels
    assert main([*words[:2], "--vary", "heat=1"]) == 2
    assert main([*words, "--vary", "temperature=2"]) == 2  # the first would be lost
    assert "bandit is not made of these settings" in capsys.readouterr().err
    mine = tmp_path / "mine.py"
    mine.write_text("from tabular_bilevel.problems import bandit as make\n")
    words = ["efficiency", f"{mine}:make", "--vary", "temperature=1,2.5", "--vary", "horizon=1"]
    assert main(words) == 0
    assert "\n2.5   " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vary", "temperature"], "'temperature' is not NAME=VALUE,... of numbers"),
        (["--vary", "temperature=hot"], "'temperature=hot' is not NAME=VALUE,... of numbers"),
        (["--budget", "many"], "'many' is not numbers, parted by commas"),
        (["--budget", "10,0"], "'10,0' has a budget below 1 step"),
        (["--budget", "nan"], "'nan' has a budget below 1 step"),
    ],
)
def test_bad_budgets_are_named(words, message, capsys):
    with pytest.raises(SystemExit):
        main(["efficiency", "two-state", *words])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    option, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(tb, "error_curve", pytest.fail)
    place = tmp_path / "nowhere" / "errors.svg"
    place.parent.write_text("")
    assert main(["efficiency", "two-state", option, str(place)]) == 2
    printed, error = capsys.readouterr()
    assert printed == ""
    assert error.startswith(f"tabular-bilevel: {option}: ")
    assert error.count("\n") == 1


def test_a_picture_of_another_kind_is_refused_before_the_work(capsys):
    assert main(["efficiency", "two-state", "--plot", "errors.doc"]) == 2
    assert "--plot" in capsys.readouterr().err
