"""The benchmark runs, and its plain implementation gives the package's gradient."""

import json
import sys

from benchmarks import bounds, road, small, solvers, sweep, training

MAP = "type octile\nheight 3\nwidth 4\nmap\n....\n.@@.\n....\n"

# Two float64 implementations of the same formulas.
ROUNDING = 1e-10


def test_the_road_is_measured_against_a_plain_implementation(tmp_path, monkeypatch, capsys):
    (tmp_path / "small.map").write_text(MAP, encoding="ascii")
    monkeypatch.setattr(sys, "argv", ["road.py", "--map", str(tmp_path / "small.map")])
    assert road.main() == 0
    heading, *lines, memory = capsys.readouterr().out.splitlines()
    assert heading.split() == ["problem", "parameters", "ours", "plain", "ratio", "differ"]
    assert [line.split()[0] for line in lines] == ["four", "small"]
    assert all(float(line.split()[-1]) < ROUNDING for line in lines)
    assert memory.startswith("peak memory")


def test_the_cost_of_bounds_is_measured(tmp_path, capsys):
    (tmp_path / "small.map").write_text(MAP, encoding="ascii")
    assert bounds.main(["--map", str(tmp_path / "small.map")]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[:5] == ["problem", "states", "plain", "bounded", "ratio"]
    assert [line.split()[0] for line in lines] == ["four", "small"]
    assert all(float(line.split()[-1]) < ROUNDING for line in lines)


def test_small_models_are_measured_and_agree(capsys):
    assert small.main(["--repeats", "1"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["temperature", "what", "median", "least", "ratio", "differ"]
    assert len(lines) >= 4 * len(small.TEMPERATURES)
    assert all(float(line.split()[-1]) < ROUNDING for line in lines)


def test_the_solver_is_measured_on_each_kind_of_model(tmp_path, capsys):
    table = tmp_path / "table.json"
    few = ["--states", "600", "--sides", "5", "--no-warehouse", "--no-peer", "--runs", "1"]
    assert solvers.main([*few, "--json", str(table)]) == 0
    heading, _, *lines, last = capsys.readouterr().out.splitlines()
    assert heading.split(" | ")[:3] == ["| problem", "states", "method"]
    assert len(lines) == 4
    assert last.startswith("medians of 1 runs")
    rows = json.loads(table.read_text())["rows"]
    assert [row["method"] for row in rows[2:]] == [
        "policy iteration by sweeps",
        "compiled policy iteration by a band of 13",
    ]
    assert all(row["sup error"] < solvers.SUP_ERROR for row in rows)


def test_what_workers_gain_is_measured_beside_what_they_could(tmp_path, capsys):
    few = ["--repeats", "1", "--tasks", "2", "--iterations", "2"]
    assert sweep.main([*few, "--json", str(tmp_path / "table.json")]) == 0
    heading, _, *lines = capsys.readouterr().out.splitlines()
    assert heading == "| what | s | gain |"
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    names = ["one worker", "two workers, started", "two workers, there", "one counts", "two count"]
    assert [row["what"] for row in rows] == names
    assert len(lines) == len(rows)
    assert rows[0]["gain"] == rows[3]["gain"] == 1.0


def test_training_is_measured_beside_what_it_is_made_of(tmp_path, capsys):
    table = tmp_path / "table.json"
    few = ["--repeats", "1", "--trajectories", "50"]
    assert training.main([*few, "--json", str(table)]) == 0
    heading, _, *lines, last = capsys.readouterr().out.splitlines()
    assert heading == "| what | ms | beside | its ms | ratio |"
    assert last.startswith("medians of 1 runs in turn")
    rows = json.loads(table.read_text())["rows"]
    assert [row["what"] for row in rows[2:]] == [
        "traces of BC-HG",
        "iteration of BC-HG",
        "iteration of AMD",
        "check_gradient",
        "import",
    ]
    assert len(lines) == len(rows)
    assert all(row["ratio"] > 0.0 for row in rows if row["beside"])
