"""The benchmark runs, and its plain implementation gives the package's gradient."""

import json
import subprocess
import sys

import numpy as np
import pytest
from benchmarks import (
    bounds,
    growth,
    hypergradients,
    linear_quadratic,
    million,
    peers,
    road,
    runner,
    solvers,
    sweep,
    training,
)
from sizes import sizes

import tabular_bilevel as tb

TABLES = (
    bounds, growth, hypergradients, linear_quadratic, million, road, solvers, sweep, training,
)  # fmt: skip

MAP = "type octile\nheight 3\nwidth 4\nmap\n....\n.@@.\n....\n"

# Two float64 implementations of the same formulas.
ROUNDING = 1e-10

# Relative to the gradient: value iteration stops at a sup error of 1e-8 of values of size 1, which
# a temperature of 0.005 divides; differences of step 1e-5 have a third derivative's and rounding's.
ERRORS = {"implicit_by_iteration": 1e-5, "differences": 1e-5}


@pytest.fixture(autouse=True)
def turns_of_one_call(monkeypatch):
    monkeypatch.setattr(runner, "TURN", 0.0)


@pytest.mark.parametrize("module", [road, bounds])
def test_ours_is_measured_against_a_plain_one(module, tmp_path, monkeypatch, capsys):
    (tmp_path / "small.map").write_text(MAP, encoding="ascii")
    monkeypatch.setattr(runner, "WARM", 0)
    few = ["--runs", "1", "--map", str(tmp_path / "small.map"), "--json", str(tmp_path / "table")]
    assert module.main(few) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [row["problem"] for row in rows] == ["four rooms", "small"]
    assert all(float(n) < ROUNDING for row in rows for name, n in row.items() if "off" in name)
    assert len(json.loads((tmp_path / "table").read_text())["rows"]) == 2


@pytest.mark.parametrize("module", TABLES)
def test_each_table_says_what_it_is_and_offers_what_it_has(module, capsys):
    with pytest.raises(SystemExit):
        module.main(["--help"])
    said = capsys.readouterr().out
    assert module.__doc__ in said
    assert "--json" in said
    assert ("--environment" in said) == (module in (hypergradients, linear_quadratic, solvers))


def rows_of(text):
    """Read a table in Markdown: a dictionary a line."""
    lines = [[one.strip() for one in line.split("|")[1:-1]] for line in text.splitlines()]
    lines = [line for line in lines if line]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


class StandIn:
    """Runs a peer here, with this environment's packages, so that nothing is installed."""

    def __init__(self, _, name):
        self._make = getattr(peers, name)
        self.versions = {"here": "1"}

    def ask(self, **request):
        if "prepare" in request:
            self._run = self._make(dict(np.load(request["prepare"])))
            return {}
        np.save(request["answer"], self._run())
        return {"seconds": 1.0}

    def close(self):
        pass


@pytest.fixture
def peers_here(monkeypatch):
    monkeypatch.setattr(runner, "environment", lambda folder, packages: sys.executable)
    monkeypatch.setattr(runner, "Peer", StandIn)
    yield
    if "jax" in sys.modules:  # peers in JAX set it for their own process
        sys.modules["jax"].config.update("jax_enable_x64", False)


@pytest.mark.slow
@pytest.mark.parametrize("name", hypergradients.PEERS)
def test_each_peer_differentiates_four_rooms(name, peers_here, monkeypatch, capsys):
    if "numba" not in name:
        pytest.importorskip("jax")
    monkeypatch.setattr(hypergradients, "TEMPERATURES", (0.005,))
    assert hypergradients.main(["--runs", "1", "--patience", "0", "--peers", name]) == 0
    *ours, theirs = rows_of(capsys.readouterr().out)
    assert all(float(row["off"]) < ROUNDING for row in ours)
    assert theirs["what"] == hypergradients.PEERS[name]
    assert float(theirs["off"]) < ERRORS.get(name, ROUNDING)


@sizes(
    "name",
    [name for name in solvers.SOFT if "jax" not in name],
    [n for n in solvers.SOFT if "jax" in n],
)
def test_each_soft_peer_has_our_value(name, peers_here, capsys):
    if "jax" in name:
        pytest.importorskip("jax")
    few = ["--states", "--sides", "4", "--no-warehouse", "--runs", "1", "--peers", name]
    assert solvers.main(few) == 0
    (row,) = rows_of(capsys.readouterr().out)
    assert 0.0 < float(row["off"]) <= peers.SUP_ERROR


def test_a_peer_answers_from_a_process_of_its_own(tmp_path):
    peer = runner.Peer(sys.executable, "soft_numba")
    model = solvers.garnet(5, 0.9)
    solvers.save(model, tmp_path / "tables.npz")
    assert peer.ask(prepare=str(tmp_path / "tables.npz")) == {}
    assert peer.ask(answer=str(tmp_path / "answer.npy"))["seconds"] >= 0.0
    peer.close()
    gap = np.load(tmp_path / "answer.npy") - tb.solve_follower(model).value
    assert np.abs(gap).max() <= peers.SUP_ERROR


def test_a_peer_that_cannot_be_had_is_told(monkeypatch, tmp_path, capsys):
    def refuse(python, name):
        raise RuntimeError

    monkeypatch.setattr(runner, "environment", lambda folder, packages: sys.executable)
    monkeypatch.setattr(runner, "Peer", refuse)
    few = ["--states", "--sides", "3", "--no-warehouse", "--runs", "1", "--peers", "mdpsolver"]
    assert solvers.main(few) == 0
    assert "'mdpsolver: no': 'not to be had here'" in capsys.readouterr().out


def test_an_environment_that_is_there_gets_what_it_lacks(monkeypatch, tmp_path, capsys):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()

    def refuse(command, **_):
        return subprocess.CompletedProcess(command, 1, stderr="no such thing")

    monkeypatch.setattr(runner.subprocess, "run", refuse)
    assert runner.environment(tmp_path, ["jax"]) == tmp_path / "bin" / "python"
    assert capsys.readouterr().err == "jax cannot be installed here: no such thing\n"


def test_an_end_is_a_state_that_stays():
    model = tb.problems.four_rooms().model(np.zeros(105))
    tables = {name: getattr(model.transition, name) for name in ("data", "indices", "indptr")}
    kernel, reward, states, _ = peers.with_an_end({**tables, "reward": model.follower_reward})
    np.testing.assert_allclose(kernel.sum(axis=1), 1.0)
    assert (reward[-1], states[-1], kernel[-1, -1]) == (0.0, 104, 1.0)


def test_the_solver_is_measured_on_each_kind_of_model(tmp_path, capsys):
    table = tmp_path / "table.json"
    few = ["--states", "600", "--sides", "5", "--no-warehouse", "--no-peers", "--runs", "1"]
    assert solvers.main([*few, "--json", str(table)]) == 0
    out = capsys.readouterr().out
    assert "medians of 1 runs in turn, one of who takes more than 5 s, by the processor; " in out
    assert len(rows_of(out)) == 4
    written = json.loads(table.read_text())
    assert {"python", "numpy", "tabular-bilevel"} <= written["versions"].keys()
    assert written["measured"].startswith("medians of 1 runs")
    assert [row["method"] for row in written["rows"][2:]] == [
        "policy iteration by sweeps",
        "compiled policy iteration by a band of 13",
    ]
    assert all(row["sup error"] < peers.SUP_ERROR for row in written["rows"])


@pytest.mark.slow
def test_growth_is_fitted_and_drawn(tmp_path, monkeypatch, capsys):
    growing = {"parameters": (1, 10), "actions": (2, 4), "cells of a square": (9, 16)}
    monkeypatch.setattr(growth, "GROWING", growing)
    few = ["--growing", *growing, "--states", "200", "--runs", "1"]
    assert growth.main([*few, "--plot", str(tmp_path / "growth.svg")]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [row["to"] for row in rows] == ["1", "10", "2", "4", "9", "16", *["power"] * 3]
    assert (tmp_path / "growth.svg").stat().st_size > 1000


def test_a_power_is_fitted():
    rows = [
        {"growing": "n", "to": n, **dict.fromkeys(growth.MEASURES, 3.0 * n**1.5)} for n in (2, 8)
    ]
    (found,) = growth.powers(rows)
    fitted = dict.fromkeys(growth.MEASURES, pytest.approx(1.5))
    assert found == {"growing": "n", "to": "power", **fitted}


def test_a_small_million(capsys):
    assert million.main(["--side", "4"]) == 0
    made, solved, derived = rows_of(capsys.readouterr().out)
    assert made["what"] == "16 states made"
    assert float(solved["sup error"]) < 1e-9
    assert (derived["what"], float(derived["J"]) > 0.0) == ("J and 16 derivatives", True)


@sizes("workers", [False], [True])
def test_what_workers_gain_is_measured_beside_what_they_could(
    workers, tmp_path, monkeypatch, capsys
):
    if not workers:  # their work is done here, so that none are started
        swept = sweep.swept
        monkeypatch.setattr(sweep, "swept", lambda _, runs, fresh: swept(1, runs, False))
        monkeypatch.setattr(sweep, "counted", lambda _, n: sweep.count(n))
    few = ["--runs", "1", "--tasks", "2", "--iterations", "2"]
    assert sweep.main([*few, "--json", str(tmp_path / "table.json")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("| what | s | gain |\n")
    assert "medians of 1 runs in turn, by the clock; " in out
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    names = ["one worker", "two workers, started", "two workers, there", "one counts", "two count"]
    assert [row["what"] for row in rows] == names
    assert rows[0]["gain"] == rows[3]["gain"] == 1.0


@sizes("n_lines", [3], [7])
def test_training_is_measured_beside_what_it_is_made_of(n_lines, tmp_path, monkeypatch, capsys):
    table, lines = tmp_path / "table.json", training.lines
    monkeypatch.setattr(training, "lines", lambda n: lines(n)[:n_lines])
    few = ["--runs", "1", "--trajectories", "50"]
    assert training.main([*few, "--json", str(table)]) == 0
    assert capsys.readouterr().out.startswith("| what | ms | beside | its ms | ratio |\n")
    rows = json.loads(table.read_text())["rows"]
    names = [
        "traces of BC-HG",
        "iteration of BC-HG",
        "iteration of AMD",
        "check_gradient",
        "import",
    ]
    assert [row["what"] for row in rows[2:]] == names[: n_lines - 2]
    assert all(row["ratio"] > 0.0 for row in rows if row["beside"])


@pytest.mark.slow
def test_linear_quadratic_models_are_measured_against_jax(peers_here, monkeypatch, capsys):
    pytest.importorskip("jax")
    monkeypatch.setattr(runner, "Peer", StandIn)
    monkeypatch.setattr(runner, "WARM", 0)
    assert linear_quadratic.main(["--runs", "1", "--buildings", "2"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [row["states"] for row in rows] == ["8", "8"]
    assert all(float(row["off"]) < ROUNDING for row in rows)
    two = linear_quadratic.Street(2)
    theta = np.linspace(-1.0, 1.0, 8)
    alone = tb.hypergradient(two.one, theta)
    assert np.allclose(tb.hypergradient(two, theta).gradient, 2.0 * alone.gradient, rtol=1e-10)
