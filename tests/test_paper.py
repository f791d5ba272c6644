"""The reproduction of the published curves runs, and goes on after an interrupt."""

import csv
import dataclasses
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from published.measure import Number, agree
from sizes import sizes

import tabular_bilevel as tb
from tabular_bilevel.problems.known import KNOWN

FOLDER = Path(__file__).parents[1] / "validation" / "paper"


@pytest.fixture
def reproduce(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("protocol", "reproduce"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return runpy.run_path(str(FOLDER / "reproduce.py"))


def agrees_with_what_is_kept(reproduce, arguments, monkeypatch, tmp_path, tables):
    """Keep the numbers of tiny runs in another file, and compare them with those of the book."""
    kept = json.loads((FOLDER / "numbers.json").read_text(encoding="utf-8"))["tiny"]
    wanted = {key: Number(*pair) for key, pair in kept.items() if key.startswith(tables)}
    monkeypatch.setitem(reproduce["main"].__globals__, "KEPT", tmp_path / "kept.json")
    assert reproduce["main"]([*arguments, "--keep"]) == 0
    found = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))["tiny"]
    assert found.keys() == wanted.keys()
    assert [key for key in found if not agree(Number(*found[key]), wanted[key])] == []


@pytest.fixture
def protocol(monkeypatch):
    return runpy.run_path(str(FOLDER / "protocol.py"), run_name="protocol_itself")


@pytest.mark.slow
def test_the_table_has_every_method_and_is_the_same_when_made_again(
    reproduce, tmp_path, monkeypatch, capsys
):
    arguments = ["--scale", "tiny", "--out", str(tmp_path), "--workers", "1"]
    assert reproduce["main"](arguments) == 0
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == [
        "bchg", "hpgd-oracle", "hpgd-mc", "hpgd-sarsa", "sobirl", "naive",
        "bchg-game", "naive", "bi-ac", "naive, replayed", "bi-ac, replayed",
    ]  # fmt: skip
    assert [row["published"] for row in rows][:2] == ["0.667", "0.692"]
    # twenty iterations from the published start: -0.741, and half of the toy's way at most
    assert all(row["ours"] in ("-0.740", "-0.741") for row in rows[:6])
    assert float(rows[6]["best known"]) == pytest.approx(27.316, abs=1e-3)
    before = (tmp_path / "table.md").read_bytes()
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(made) == 22
    for name in ("best_of", "noisy", "annealed"):  # nor searched for
        monkeypatch.setitem(reproduce["main"].__globals__, name, pytest.fail)
    assert reproduce["main"](arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made  # nothing was run again
    assert (tmp_path / "table.md").read_bytes() == before
    assert "| published | -0.741 | -0.252 | 0.203 |" in capsys.readouterr().out
    agrees_with_what_is_kept(reproduce, arguments, monkeypatch, tmp_path, "curves, ")


def test_of_runs_that_are_missing_their_number_is_told(reproduce, tmp_path, monkeypatch, capsys):
    words = ["--scale", "tiny", "--out", str(tmp_path), "--keep"]
    monkeypatch.setitem(reproduce["main"].__globals__, "KEPT", tmp_path / "kept.json")
    assert reproduce["main"](words) == 1
    assert capsys.readouterr().out == "22 of 22 runs are not there\n"
    assert not (tmp_path / "kept.json").exists()


def test_published_ends_of_the_package_are_those_of_the_figures(protocol):
    ends = [known for known in KNOWN if known.method]
    assert len(ends) == 9
    for known in ends:
        problem = known.problem.replace("-", " ")
        at = (problem, 1.0 if "toy" in problem else 0.001, known.batch, known.method)
        assert abs(known.value - protocol["PUBLISHED"][at][0]) <= 0.51 * known.digit


def test_a_curve_is_read_out_of_a_figure(monkeypatch, tmp_path):
    figures = runpy.run_path(str(FOLDER / "figures.py"))
    tick = "{0} 10 m {0} 5 l B 10 {1} m 5 {1} l B "
    axes = tick.format(10, 20) + tick.format(60, 40)
    there = " ".join(f"{10 + k} {32 if k else 30} l" for k in range(200))
    back = " ".join(f"{10 + k} {36 if k else 34} l" for k in range(199, -1, -1))
    band = f"10 34 m {there} 209 36 l {back} h B"
    line = "q .459 .439 .702 RG [ 1 2 ] 0 d 10 32 m 20 34 l S Q q .459 .439 .702 RG"
    pen = figures["PURPLE"], "1 2"
    figure = figures["Figure"]("", "", {pen: "one"}, (1.0, 2.0), is_deviation=False)
    ((method, mean, width),) = figures["curves"](figure, f"{axes} {line} {band} Q")
    # ticks at 20 and 40 say 1 and 2: the band from 32 to 36 is 1.7, and 0.1 each way
    assert method == "one"
    np.testing.assert_allclose(mean[[0, 1, -1]], [1.6, 1.7, 1.7])
    np.testing.assert_allclose(width, 0.1)


def test_an_interrupt_says_how_to_go_on(reproduce, tmp_path, monkeypatch, capsys):
    def interrupt(plan, workers):
        raise KeyboardInterrupt

    monkeypatch.setitem(reproduce["main"].__globals__, "make", interrupt)
    assert reproduce["main"](["--scale", "tiny", "--out", str(tmp_path)]) == 130
    assert "start again with the same options" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_its_cell_left_out(reproduce, tmp_path, monkeypatch, capsys):
    def failing(problem, theta, *, rng, memory):
        raise ValueError("made to fail")

    world = reproduce["main"].__globals__
    build = world["Cell"].runs

    def runs(cell, seeds, folder):
        for run in build(cell, seeds, folder):
            fails = cell.method == "sobirl" and run.seed == 1
            yield dataclasses.replace(run, method=failing) if fails else run

    monkeypatch.setattr(world["Cell"], "runs", runs)
    known = {("four rooms", 0.001, "published"): 0.8, ("discrete toy", 1.0, "published"): 27.3}
    monkeypatch.setitem(world, "optima", lambda *_: known)
    assert reproduce["main"](["--scale", "tiny", "--out", str(tmp_path), "--workers", "1"]) == 1
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        methods = [row["method"] for row in csv.DictReader(file)]
    assert len(methods) == 10
    assert "sobirl" not in methods
    error = capsys.readouterr().err
    assert "1 runs failed, the first: made to fail, in a call of " in error, error[-900:]
    assert "in the task four-rooms-0.001-100-sobirl" in error


@sizes("every", [11], [3])
def test_a_forecast_makes_some_of_the_runs_that_are_left(every, reproduce, tmp_path, capsys):
    def forecast(every):
        words = ["--scale", "tiny", "--out", str(tmp_path), "--workers", "1"]
        assert reproduce["main"]([*words, "--forecast", every]) == 0
        return capsys.readouterr().out, len(list((tmp_path / "runs").glob("*.npz")))

    printed, there = forecast(str(every))
    assert there == len(range(every // 2, 22, every))
    assert printed.startswith(f"{there} runs took ")
    assert f"the other {22 - there} would take " in printed
    if every > 3:
        return
    assert forecast("1")[1] == 22
    assert forecast("1") == ("", 22)  # nothing is left


def test_the_full_grid_is_the_published_one(protocol):
    cells = list(protocol["SCALES"]["full"].cells("published"))
    rooms = [cell for cell in cells if cell.problem == "four rooms"]
    assert {(cell.knob, cell.steps) for cell in rooms} == {
        (temperature, steps)
        for temperature in (0.001, 0.003, 0.005)
        for steps in (100, 200, 400, 1000)
    }
    assert {cell.rate for cell in cells} == {0.5, 0.1, 0.05, 0.01}
    steps = {0.1, 0.3, 0.5, 0.7, 0.9, 1.0}
    assert {cell.critic_step for cell in rooms if cell.method == "bchg"} == steps
    # 12 settings, 4 rates, and 6 critic's steps for the two methods whose critic learns
    assert len(rooms) == 12 * 4 * (2 * 6 + 4)
    assert {cell.iterations for cell in rooms} == {10_000}
    assert {cell.knob for cell in cells if cell.problem == "discrete toy"} == {1.0, 2.0}
    assert len({cell.name for cell in cells}) == len(cells)


def test_environments_and_oracle_are_the_published_ones(protocol, tmp_path):
    # source: data/experiment_reg_lambda_*/config.yaml at akimotolab/BC-HG 9c9d42c
    for steps, n_envs in ((100, 1), (200, 1), (400, 2), (1000, 5)):
        cell = protocol["Cell"]("four rooms", 0.001, steps, "hpgd-oracle", 0.1, 0.5, "planner", 1)
        (run,) = cell.runs(1, tmp_path)
        assert run.method.sampler == tb.StepBudget(steps, 200, n_envs)
        assert run.method.oracle == tb.StepBudget(10_000, 200, n_envs)


def test_the_ablation_is_the_published_one(protocol, tmp_path):
    # source: data/subopt_*/*/config.yaml, src/follower/soft_q_iteration_subopt.py, likewise
    cells = list(protocol["SCALES"]["full"].cells("published", "ablation"))
    rooms = [cell for cell in cells if cell.problem == "four rooms"]
    assert {cell.stop for cell in rooms} == {1, 2, 5, 10, 20, 50}
    assert {(cell.knob, cell.steps) for cell in rooms} == {(0.003, 100)}
    assert {cell.stop for cell in cells if cell not in rooms} == {1, 2, 5, 10, 50, 100}
    assert len({cell.name for cell in cells}) == len(cells)
    followers = {}
    for cell in (*rooms[:1], *rooms[-1:]):
        (run,) = cell.runs(1, tmp_path)
        assert run.method.sampler == tb.StepBudget(100, 200, 2)
        followers[cell.carried] = run.method.interaction.follower
    assert followers == {
        True: tb.StoppedPolicyIteration(steps=1, warm_start=True),
        False: tb.StoppedPolicyIteration(steps=50, warm_start=False),
    }
    toy = next(cell for cell in cells if cell not in rooms)
    (run,) = toy.runs(1, tmp_path)
    follower = run.method.interaction.follower
    assert follower == tb.StoppedPolicyIteration(steps=1, evaluations=1, initial_spread=0.0)
    # ten seeds are cheap on the toy, twenty are published
    assert protocol["SCALES"]["full"].ablation_seeds == 20


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "n_rows"), [("ablation", 10), ("variants", 2)])
def test_other_experiments_have_a_table_of_their_own(
    reproduce, tmp_path, monkeypatch, experiment, n_rows
):
    words = ["--scale", "tiny", "--experiment", experiment, "--out", str(tmp_path)]
    words += ["--workers", "1"]
    assert reproduce["main"](words) == 0
    agrees_with_what_is_kept(reproduce, words, monkeypatch, tmp_path, f"{experiment}, ")
    with (tmp_path / f"{experiment}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == n_rows
    assert not (tmp_path / "table.csv").exists()
    if experiment == "ablation":
        stops = [row["follower"] for row in rows if row["problem"] == "four rooms"]
        ways = "carried", "reset"
        assert stops == [f"{way}, stops after {steps}" for way in ways for steps in (1, 5)]
        ends = {row["follower"]: float(row["ours"]) for row in rows if row["method"] == "bchg-game"}
        assert all(25.0 < end < 28.0 for end in ends.values())
    else:
        assert [row["method"] for row in rows] == ["sobirl-modified", "hpgd-uniform"]


@pytest.mark.parametrize(
    ("slip", "planned", "simulated"),
    [("published", 0.44, 0.33), ("planner", 0.44, None), ("simulator", 0.33, None)],
)
def test_the_slip_is_a_setting(protocol, slip, planned, simulated):
    cell = protocol["Cell"]("four rooms", 0.001, 100, "bchg", 0.1, 0.5, slip, 10)
    problem, simulator = cell.build()

    def slip_of(world):
        # a move whose four outcomes are four cells: the chosen one has 1 - slip
        kernel = world.model(np.zeros(105)).transition
        row = int(np.argmax(np.diff(kernel.indptr) == 4))
        return 1.0 - kernel[[row]].toarray().max()

    assert slip_of(problem) == pytest.approx(planned)
    assert (simulator is None) == (simulated is None)
    if simulator is not None:
        assert slip_of(simulator) == pytest.approx(simulated)


@pytest.mark.slow
def test_the_continuous_tasks_have_a_table_that_is_the_same_when_made_again(tmp_path):
    continuous = runpy.run_path(str(FOLDER / "continuous.py"))
    arguments = ["--scale", "tiny", "--out", str(tmp_path), "--workers", "1"]
    assert continuous["main"](arguments) == 0
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| building | bchg | -196 |" in table
    assert table.count("| -162.503 |") == 6
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert continuous["main"](arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made  # nothing was run again
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == table
