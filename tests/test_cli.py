"""The command line."""

import dataclasses
import json
import os
import runpy
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sizes import sizes

import tabular_bilevel as tb
from tabular_bilevel.checks import verify
from tabular_bilevel.cli import main
from tabular_bilevel.estimators.register import METHODS, Setting
from tabular_bilevel.mistakes.knowledge import right_limit
from tabular_bilevel.mistakes.register import FAULTS


@sizes("problems", [{"random MDP"}], [{"four rooms", "discrete toy", "random MDP", "random game"}])
def test_verify_passes_and_writes_what_it_printed(problems, tmp_path, monkeypatch, capsys):
    cases = [case for case in verify.verify_cases() if case.name in problems]
    if len(cases) == 1:  # quick
        cases = [dataclasses.replace(cases[0], n_trajectories=50)]
    monkeypatch.setattr(verify, "verify_cases", lambda: cases)
    report = tmp_path / "report.json"
    assert main(["verify", "--json", str(report)]) == 0
    printed = capsys.readouterr().out.splitlines()
    written = json.loads(report.read_text(encoding="utf-8"))
    assert written["passed"] is True
    assert written["version"] == tb.__version__
    checks = written["checks"]
    assert len(printed) == len(checks) + 1
    assert printed[-1].startswith(f"{len(checks)} of {len(checks)} checks ok")
    by_problem = {check["problem"] for check in checks}
    assert by_problem == problems
    for problem in by_problem:
        names = [check["name"] for check in checks if check["problem"] == problem]
        for route in ("forward mode", "complex step", "differences"):
            assert f"adjoint gradient = {route}" in names
        assert "BC-HG mean = exact gradient" in names
        assert sum(name.startswith("must fail: ") for name in names) >= 4
    faults = {check["name"] for check in checks if check["name"].startswith("must fail: ")}
    assert len(faults) == 5
    for check in checks:
        fails = check["value"] > check["bound"]
        assert fails == check["name"].startswith("must fail: ")


@pytest.fixture
def failing_stage(monkeypatch):
    bad = verify.Check("toy", "sum", 2.0, 1.0, False, "wrong on purpose", tb.Level.ESTIMATE, np.inf)
    good = verify.Check("toy", "sign", 0.0, 1.0, True, "", tb.Level.BOUNDED, 1e-9)
    plan = [verify.Stage("toy", lambda: [good, bad])]
    monkeypatch.setattr(verify, "stages", lambda cases: plan)


@pytest.mark.usefixtures("failing_stage")
def test_a_failed_check_is_an_exit_status_of_one(capsys):
    assert main(["verify"]) == 1
    printed = capsys.readouterr().out
    assert "FAIL toy" in printed
    assert "1 of 2 checks ok" in printed
    assert "failed: toy, sum" in printed


@pytest.fixture
def case(monkeypatch):
    """The random MDP, with little noise to see through, and one fault."""
    monkeypatch.setattr(verify, "PLANTED", ("no eligibility",))
    return dataclasses.replace(verify.verify_cases()[2], n_trajectories=50)


def test_a_wrong_estimator_would_fail_verify(case, monkeypatch):
    right = right_limit(case.problem, case.theta)

    def wrong(estimator, experience):
        return FAULTS["no eligibility"].estimate(right.seeing(experience.trajectories))

    monkeypatch.setattr(tb.BoltzmannCovariance, "estimate", wrong)
    checks = {check.name: check for check in verify._estimator_checks(case)}
    assert not checks["BC-HG mean = exact gradient"].passed


def test_a_fault_that_is_not_seen_would_fail_verify(case, monkeypatch):
    harmless = dataclasses.replace(FAULTS["no eligibility"], rule=None)
    monkeypatch.setattr(verify, "FAULTS", {**FAULTS, "no eligibility": harmless})
    checks = {check.name: check for check in verify._estimator_checks(case)}
    assert not checks["must fail: no eligibility"].passed


def test_verify_shows_where_the_mean_is(case):
    """For its page: factors of the parts, of which none is wrong, and mean beside gradient."""
    (report,) = (check.report for check in verify._estimator_checks(case) if check.report)
    factors = report.localisation.factors
    assert {"direct", "through_follower", "follower_reward"} <= set(factors)
    assert not any(factor.wrong for factor in factors.values())
    exact = tb.hypergradient(case.problem, case.theta).gradient
    np.testing.assert_array_equal(report.target, exact)


def test_an_interrupt_says_so(monkeypatch, capsys):
    def interrupt(cases):
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "stages", interrupt)
    assert main(["verify"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_problems_lists_all(capsys):
    assert main(["problems"]) == 0
    printed = capsys.readouterr().out
    for name in (*tb.problems.CATALOGUE, *tb.problems.CONTINUOUS):
        assert f"\n{name} " in printed


def test_gradient_is_printed_and_written(gradient, tmp_path, capsys):
    theta = 0.01 * np.random.default_rng(0).normal(size=105)
    assert main(gradient("four-rooms", theta)) == 0
    exact = tb.hypergradient(tb.problems.four_rooms(), theta)
    assert f"J = {exact.objective:.12g}" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(tmp_path / "theta-gradient.npy"), exact.gradient)


@pytest.fixture
def gradient(tmp_path):
    """What is typed for a gradient at a theta that was stored."""

    def words(problem, theta=(0.0, 0.0)):
        np.save(tmp_path / "theta.npy", theta)
        return ["gradient", problem, "--theta", str(tmp_path / "theta.npy")]

    return words


def test_gradient_takes_a_horizon_and_a_place(gradient, tmp_path):
    words = gradient("discrete-toy", np.zeros(6))
    assert main([*words, "--horizon", "150", "--out", str(tmp_path / "g.npy")]) == 0
    exact = tb.hypergradient(tb.problems.discrete_toy(), np.zeros(6), horizon=150)
    np.testing.assert_array_equal(np.load(tmp_path / "g.npy"), exact.gradient)


def test_unusable_input_is_one_line_and_an_exit_status_of_two(tmp_path, capsys):
    np.save(tmp_path / "short.npy", np.zeros(3))
    (tmp_path / "text.npy").write_text("no array", encoding="utf-8")
    np.savez(tmp_path / "theta.npz", theta=np.zeros(105))
    for name, message in (
        ("short.npy", "theta has shape (3,), not that of a vector of length 105"),
        ("text.npy", "text.npy"),
        ("none.npy", "none.npy"),
        ("theta.npz", "theta.npz is no .npy file of numbers"),
    ):
        assert main(["gradient", "four-rooms", "--theta", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert main(["verify", "--json", str(tmp_path / "no" / "such" / "folder.json")]) == 2


def test_an_unknown_problem_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["gradient", "no-such", "--theta", "theta.npy"])
    assert stop.value.code == 2
    assert "four-rooms" in capsys.readouterr().err


def test_the_module_runs_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tabular_bilevel", "--version"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("tabular_bilevel", run_name="__main__")
    assert not stop.value.code
    assert capsys.readouterr().out.strip() == f"tabular-bilevel {tb.__version__}"


def test_importing_compiles_nothing_and_stays_light():
    heavy = ("numba", "scipy.stats", "hypothesis", "matplotlib", "tqdm", "joblib", "jsonschema")
    heavy += tuple(f"tabular_bilevel.{folder}" for folder in tb.LATER)
    code = f"import sys, tabular_bilevel; print({{*{heavy}}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_gradient_is_where_it_says(gradient, tmp_path, capsys):
    place = tmp_path / "no-suffix"
    assert main([*gradient("bandit"), "--out", str(place)]) == 0
    assert str(place) in capsys.readouterr().out
    np.testing.assert_allclose(np.load(place), [-0.25, 0.25])


def test_a_solver_that_gives_up_is_no_failed_check(gradient, monkeypatch, capsys):
    def gives_up(*arguments, **settings):
        raise tb.ConvergenceError("stuck", residual=1.0, iterations=3)

    monkeypatch.setattr(tb, "hypergradient", gives_up)
    assert main(gradient("bandit")) == 2
    assert "stuck" in capsys.readouterr().err


def test_names_with_underscores_are_understood(gradient):
    assert main(gradient("two_state")) == 0


def unread(arguments):
    """Run the command line into a pipe that nobody reads; return its status and its errors."""
    command = [sys.executable, "-m", "tabular_bilevel", *arguments]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    return done.returncode, done.stderr


def test_a_reader_who_leaves_is_no_error(gradient):
    assert unread(gradient("bandit")) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a shell is needed that closes what it hands on")
def test_a_standard_output_that_is_closed_is_no_error(gradient):
    words = f"'{sys.executable}' -m tabular_bilevel {shlex.join(gradient('bandit'))} >&-"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------- train

TRAIN = ["train", "two_state", "--method", "bchg", "--steps", "40", "--batch", "10"]


def test_train_writes_curves_a_summary_and_a_plot(tmp_path, capsys):
    out = tmp_path / "curves"
    assert main([*TRAIN, "--seeds", "2", "--out", str(out), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "seed 0: J = " in printed
    assert "mean of 2: J = " in printed
    names = {path.name for path in out.iterdir()}
    assert names == {"seed-0.npz", "seed-1.npz", "curves.csv", "summary.json", "curves.png"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["method"] == "bchg"
    assert summary["rate"] == 0.1
    lines = (out / "curves.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 41  # a look at J each iteration, of so few


@pytest.mark.slow
@sizes("workers", ["1"], ["2"])
def test_a_reader_who_leaves_does_not_end_the_training(workers, tmp_path):
    out = tmp_path / "curves"
    settings = ["--seeds", "3", "--out", str(out), "--workers", workers]
    assert unread([*TRAIN, *settings]) == (0, "")
    assert json.loads((out / "summary.json").read_text())["final_objectives"].keys() == set("012")


def test_a_seed_that_fails_is_named_and_the_others_are_made(tmp_path, monkeypatch, capsys):
    real = tb.BoltzmannCovariance.__call__

    def fails_once(self, problem, theta, *, rng, **more):
        if not list(tmp_path.iterdir()):
            (tmp_path / "failed").touch()
            raise ValueError("made to fail")
        return real(self, problem, theta, rng=rng, **more)

    monkeypatch.setattr(tb.BoltzmannCovariance, "__call__", fails_once)
    assert main([*TRAIN, "--seeds", "3", "--out", str(tmp_path), "--workers", "1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("tabular-bilevel: made to fail, in a call of BoltzmannCovariance at th")
    assert said.endswith(", in iteration 0, in the task seed 0\n")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"failed", "seed-1.npz", "seed-2.npz"}


def test_train_takes_the_published_simulator_and_adam(tmp_path, capsys):
    settings = ["--seeds", "1", "--steps", "3", "--workers", "1", "--optimiser", "adam"]
    arguments = ["train", "four-rooms", "--method", "bchg", "--out", str(tmp_path), *settings]
    assert main([*arguments, "--simulator-slip", "0.33"]) == 0
    assert main(arguments) == 2  # the same folder, other settings
    assert "was saved by another run" in capsys.readouterr().err


ALL = [
    "train", "four-rooms", "--method", "hpgd-oracle", "--seeds", "3", "--seed", "4",
    "--steps", "600", "--batch", "17", "--time-limit", "7", "--rate", "0.3",
    "--critic-step", "0.25", "--every", "9",
    "--simulator-slip", "0.2", "--workers", "2",
]  # fmt: skip


@pytest.fixture
def planned(monkeypatch, tmp_path):
    """What the command line would train, and with how many workers."""

    def plan(*arguments):
        seen = []

        def curves(training, workers):
            seen.extend((training, workers))
            raise KeyboardInterrupt

        monkeypatch.setattr("tabular_bilevel.ascent.curves.Training.curves", curves)
        assert main([*arguments, "--out", str(tmp_path / "new")]) == 130
        return seen

    return plan


def test_each_option_of_train_reaches_its_place(planned, tmp_path):
    training, workers = planned(*ALL)
    assert workers == 2
    assert training.problem.n_parameters == training.n_parameters == 105
    assert training.method == "hpgd-oracle"
    assert list(training.seeds) == [4, 5, 6]
    assert (training.n_iterations, training.every) == (600, 9)
    assert training.folder == tmp_path / "new"
    assert training.optimiser == tb.GradientAscent(0.3, 1.0)
    interaction = training.estimator.interaction
    assert interaction.sampler == tb.StepBudget(17, 7)
    assert training.estimator.oracle == tb.StepBudget(5_000, 7)
    slippery = tb.problems.four_rooms(slip=0.2).model(np.zeros(105)).transition
    found = interaction.simulator.model(np.zeros(105)).transition
    np.testing.assert_array_equal(found.toarray(), slippery.toarray())
    assert training.words == {
        "problem": "four-rooms", "method": "hpgd-oracle", "batch": 17, "time_limit": 7, "rate": 0.3,
        "critic_step": 0.25, "every": 9, "simulator_slip": 0.2, "optimiser": "sgd",
        "version": tb.__version__,
    }  # fmt: skip


def test_train_by_default_is_the_published_protocol(planned):
    training, _ = planned("train", "four-rooms", "--method", "bchg")
    assert training.optimiser == tb.GradientAscent(0.1, 1.0)
    assert training.estimator == METHODS["bchg"](Setting())
    rooms, _ = planned("train", "building", "--method", "bchg-exact-critic", "--batch", "600")
    assert rooms.estimator.sampler == tb.Episodes(3, 200)  # where no episode ends

    learned, _ = planned("train", "two-state", "--method", "bchg", "--critic-step", "0.25")
    assert learned.estimator.interaction.critic.step_size == 0.25
    assert list(training.seeds) == list(range(10))
    assert (training.n_iterations, training.every) == (10_000, 50)
    adam, _ = planned("train", "two-state", "--method", "bchg", "--optimiser", "adam")
    assert adam.optimiser == tb.Adam(0.1)


def test_a_finished_training_is_prolonged_but_not_shortened(tmp_path, capsys, monkeypatch):
    def trained(folder, steps):
        settings = ["--seeds", "2", "--every", "10", "--workers", "1", "--out", str(folder)]
        return main([*TRAIN, *settings, "--steps", steps])

    longer, whole = tmp_path / "longer", tmp_path / "whole"
    monkeypatch.setitem(sys.modules, "tabular_bilevel.plots", None)  # which takes long
    assert trained(longer, "40") == trained(longer, "60") == trained(whole, "60") == 0
    assert (longer / "curves.csv").read_bytes() == (whole / "curves.csv").read_bytes()
    assert json.loads((longer / "summary.json").read_text())["steps"] == 60
    assert trained(longer, "50") == 2
    assert "seed-0.npz holds 60 steps, and n_iterations is 50" in capsys.readouterr().err


def test_train_says_that_the_plot_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tabular_bilevel.plots", None)
    assert main([*TRAIN, "--seeds", "1", "--out", str(tmp_path), "--workers", "1"]) == 0
    assert "no plot: it needs matplotlib" in capsys.readouterr().out
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--method", "magic"], "method is 'magic', not one of bchg, "),
        (["--seeds", "0"], "seeds is 0, not a positive whole number"),
        (["--workers", "0"], "workers is 0, not a positive whole number"),
        (["--steps", "0"], "steps is 0, not a positive whole number"),
        (["--batch", "0"], "batch is 0, not a positive whole number"),
        (["--every", "0"], "every is 0, not a positive whole number"),
        (["--seed", "-1"], "seed is -1, below 0"),
        (["--rate", "0"], "rate is 0.0, not a positive finite number"),
        (["--critic-step", "2"], "step_size is 2.0, not in (0, 1]"),
        (["--simulator-slip", "0.3"], "simulator-slip is for four-rooms, not for two-state"),
        (["--method", "sobirl"], "SoBiRL is defined for parameters of rewards only"),
        (["--method", "bi-ac"], "BiLevelActorCritic is defined for Markov games"),
    ],
)
def test_train_refuses_bad_settings_in_a_line(changes, message, tmp_path, capsys):
    settings = ["--seeds", "1", "--workers", "1", "--out", str(tmp_path), *changes]
    assert main([*TRAIN, *settings]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_simulator_that_the_method_does_not_ask_is_refused(tmp_path, capsys):
    settings = ["--method", "exact", "--simulator-slip", "0.3", "--out", str(tmp_path)]
    assert main(["train", "four-rooms", *settings]) == 2
    assert "simulator-slip has no use: exact samples nothing" in capsys.readouterr().err


# As the command line, but workers save curves often enough for them to be cut short at once.
SAVES_OFTEN = """
import sys

import joblib
from tabular_bilevel import cli
from tabular_bilevel.ascent import training

def often():
    training.SAVE_EVERY = 0.02

with joblib.parallel_config("loky", inner_max_num_threads=1, initializer=often):
    sys.exit(cli.main())
"""


@pytest.mark.slow  # tests of training interrupt it at every step, in one process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_train_goes_on_to_the_same_curves(number, tmp_path):
    """Whether a signal comes to all processes, as from a terminal, or to the first alone."""
    driver = tmp_path / "driver.py"
    driver.write_text(SAVES_OFTEN, encoding="utf-8")
    settings = ["--method", "bchg", "--seeds", "2", "--steps", "4000", "--batch", "20"]
    cut, whole = tmp_path / "cut", tmp_path / "whole"

    def steps_made():
        return sum(tb.AscentState.load(path)[0].iteration for path in cut.glob("*.npz"))

    def interrupted(send):
        before, deadline = steps_made(), time.monotonic() + 60.0
        with subprocess.Popen(
            [sys.executable, str(driver), "train", "four-rooms", *settings,
             "--out", str(cut), "--workers", "2"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            while steps_made() == before:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            send(process.pid, number)
            _, error = process.communicate(timeout=30)
        assert process.returncode == 130
        assert error.splitlines()[-1] == "tabular-bilevel: interrupted"
        assert not (cut / "curves.csv").exists()
        return steps_made()

    assert 0 < interrupted(os.killpg) < interrupted(os.kill) < 2 * 4000
    for out in (cut, whole):
        assert main(["train", "four-rooms", *settings, "--out", str(out), "--workers", "1"]) == 0
    assert (cut / "curves.csv").read_bytes() == (whole / "curves.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes in /proc")
def test_an_interrupt_while_workers_start_is_one_line(tmp_path):
    command = [sys.executable, "-m", "tabular_bilevel", *TRAIN, "--steps", "1000000"]
    with subprocess.Popen(
        [*command, "--seeds", "2", "--out", str(tmp_path), "--workers", "2"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        # the workers, and one that multiprocessing has
        while len(children.read_text().split()) < 3:
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert error == "tabular-bilevel: interrupted\n"
    assert process.returncode == 130
