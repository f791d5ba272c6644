"""Curves: saved as they grow, gone on with, the same whatever happened."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sizes import pairs, sizes

import tabular_bilevel as tb
from tabular_bilevel.ascent import training
from tabular_bilevel.ascent.curves import Training
from tabular_bilevel.ascent.training import Curve, Run, train
from tabular_bilevel.estimators.register import METHODS, Setting

PROBLEM = tb.problems.two_state()


def a_run(**changes):
    method = METHODS["bchg"](Setting(tb.StepBudget(20, 10), step_size=0.3))
    run = Run("two-state", PROBLEM, np.array([0.3, -0.2]), method, tb.Adam(0.05), 1, 12, 3)
    return dataclasses.replace(run, **changes)


def same(curve, other):
    return all(
        np.array_equal(getattr(curve, name), getattr(other, name))
        for name in ("iteration", "objective", "theta")
    )


def test_a_curve_has_the_start_and_the_end():
    curve = train(a_run())
    np.testing.assert_array_equal(curve.iteration, [0, 3, 6, 9, 12])
    assert curve.objective[0] == pytest.approx(tb.objective(PROBLEM, [0.3, -0.2]), rel=1e-12)
    assert curve.objective[-1] == pytest.approx(tb.objective(PROBLEM, curve.theta), rel=1e-12)
    np.testing.assert_array_equal(train(a_run(every=5)).iteration, [0, 5, 10, 12])
    short = train(a_run(horizon=4)).objective[0]
    assert short == pytest.approx(tb.objective(PROBLEM, [0.3, -0.2], horizon=4), rel=1e-12)


def test_a_seed_is_a_curve():
    assert same(train(a_run()), train(a_run()))
    assert not same(train(a_run()), train(a_run(seed=2)))


def test_the_final_objective_is_an_average_over_the_end():
    curve = Curve(np.array([0, 90, 95, 100]), np.array([9.0, 9.0, 2.0, 4.0]), np.zeros(1))
    assert curve.final() == 3.0
    assert curve.final(0.1) == 5.0


@dataclasses.dataclass
class Interrupted:
    """A method that is interrupted at one call, before or after it does its work."""

    method: object
    call: int
    early: bool
    error: type = KeyboardInterrupt
    calls: int = 0

    def __call__(self, problem, theta, *, rng, memory):
        self.calls += 1
        if self.early and self.calls == self.call:
            raise self.error
        estimate = self.method(problem, theta, rng=rng, memory=memory)
        if self.calls == self.call:
            raise self.error
        return estimate


@sizes(("call", "error"), *pairs([1, 2, 4, 7, 12, 13], [KeyboardInterrupt, SystemExit]))
@pytest.mark.parametrize("early", [True, False])
def test_an_interrupted_run_goes_on_to_the_same_curve(call, early, error, tmp_path):
    whole = train(a_run())
    run = a_run(path=tmp_path / "curve.npz")
    method = Interrupted(run.method, call, early, error)
    with pytest.raises(error):
        train(dataclasses.replace(run, method=method))
    assert run.path.exists() == (call > 1)
    assert same(train(run), whole)


@pytest.mark.parametrize("look", [1, 2, 5])
def test_an_interrupt_during_a_look_repeats_the_look(look, tmp_path, monkeypatch):
    run, looks = a_run(path=tmp_path / "curve.npz"), 0
    real = tb.Iteration.objective_over

    def objective_over(self, horizon):
        nonlocal looks
        looks += 1
        if looks == look:
            raise KeyboardInterrupt
        return real(self, horizon)

    monkeypatch.setattr(tb.Iteration, "objective_over", objective_over)
    with pytest.raises(KeyboardInterrupt):
        train(run)
    monkeypatch.undo()
    assert same(train(run), train(a_run()))


def test_an_interrupt_between_a_look_and_a_step_repeats_the_look(tmp_path, monkeypatch):
    run = a_run(path=tmp_path / "curve.npz")

    real = training.AscentState.save

    def save(self, path, **more):
        real(self, path, **{**more, "iterations": [0, 3, 6], "objectives": [0.0, 0.0, 0.0]})

    monkeypatch.setattr(training.AscentState, "save", save)
    with pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(run, method=Interrupted(run.method, 7, early=True)))
    monkeypatch.undo()
    np.testing.assert_array_equal(train(run).iteration, [0, 3, 6, 9, 12])


def test_what_is_finished_is_not_made_again_and_can_be_prolonged(tmp_path):
    run = a_run(path=tmp_path / "curve.npz")
    first = train(run)
    no_method = dataclasses.replace(run, method=None)
    assert same(train(no_method), first)
    longer = train(dataclasses.replace(run, n_iterations=18))
    assert same(longer, train(a_run(n_iterations=18)))


@pytest.mark.parametrize("name", ["n_iterations", "every"])
def test_the_numbers_of_a_run_are_checked(name):
    with pytest.raises(ValueError, match=f"{name} is 0, not a positive whole number"):
        train(a_run(**{name: 0}))


def test_a_growing_curve_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    saved = []
    real = training.AscentState.save

    def save(self, path, **more):
        saved.append(self.iteration)
        real(self, path, **more)

    monkeypatch.setattr(training.AscentState, "save", save)
    train(a_run(path=tmp_path / "curve.npz"))
    assert saved == [*range(1, 13), 12]


def swept(runs, workers):
    return tb.sweep([(run.label, partial(train, run)) for run in runs], workers=workers)


@pytest.mark.slow
def test_two_workers_make_the_curves_of_one():
    runs = [a_run(seed=seed, label=str(seed)) for seed in range(3)]
    alone, shared = (dict(swept(runs, workers)) for workers in (1, 2))
    assert all(same(alone[run.label], shared[run.label]) for run in runs)


@dataclasses.dataclass
class Announced:
    """A method that has its process save at each step, and leaves a file at its fifth call."""

    method: object
    path: object
    calls: int = 0

    def __call__(self, problem, theta, *, rng, memory):
        training.SAVE_EVERY = 0.0
        self.calls += 1
        if self.calls == 5:
            self.path.touch()
        return self.method(problem, theta, rng=rng, memory=memory)


@pytest.mark.slow
def test_workers_end_when_nobody_waits_for_them_and_what_they_saved_is_gone_on_with(tmp_path):
    endless = a_run(n_iterations=10**9, path=tmp_path / "curve.npz", label="endless")
    under_way = tmp_path / "under-way"
    announced = dataclasses.replace(endless, method=Announced(endless.method, under_way))
    results = swept([a_run(), announced], workers=2)
    assert next(results)[0] == "two-state"
    while not under_way.exists():
        time.sleep(0.01)
    results.close()
    n_iterations = tb.AscentState.load(endless.path)[0].iteration + 5
    longer = dataclasses.replace(endless, n_iterations=n_iterations)
    assert same(train(longer), train(dataclasses.replace(longer, path=None)))


# Two workers, one of which is idle, and a file that says that the other is busy.
ENDLESS = """
import dataclasses, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from test_training import Announced, a_run, swept

if __name__ == "__main__":
    folder = Path(sys.argv[2])
    run = a_run(n_iterations=10**9, path=folder / "curve.npz", label="endless")
    run = dataclasses.replace(run, method=Announced(run.method, folder / "under-way"))
    for finished, _ in swept([a_run(), run], workers=2):
        print(finished, flush=True)
"""


def children(process):
    """The processes that a process started, by its place in /proc."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found]


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow  # nobody waits for them in the one above
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes in /proc")
@sizes("number", [signal.SIGKILL], [signal.SIGTERM])
def test_workers_end_when_their_parent_is_killed(number, tmp_path):
    driver = tmp_path / "driver.py"
    driver.write_text(ENDLESS, encoding="utf-8")
    command = [sys.executable, str(driver), str(Path(__file__).parent), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "two-state\n"  # the first run's worker is idle now
        while not (tmp_path / "under-way").exists():
            time.sleep(0.01)
        workers = children(parent.pid)
        assert len(workers) >= 2
        parent.send_signal(number)
    deadline = time.monotonic() + 30.0
    while any(map(alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert tb.AscentState.load(tmp_path / "curve.npz")[0].iteration >= 4


# ---------------------------------------------------------------- curves for people


def a_training(folder):
    return Training(
        problem=PROBLEM,
        n_parameters=2,
        method="bchg",
        estimator=METHODS["bchg"](Setting(tb.StepBudget(20, 10))),
        optimiser=tb.Adam(0.05),
        seeds=(0, 1, 2),
        n_iterations=10,
        every=5,
        words={"problem": "two-state"},
        folder=folder,
    )


def test_curves_are_written(tmp_path):
    work = a_training(tmp_path / "new" / "folder")
    curves = dict(work.curves(workers=1))
    summary = work.write(curves)
    finals = np.array([curves[seed].final() for seed in range(3)])
    assert summary["mean"] == pytest.approx(finals.mean())
    assert summary["standard_error"] == pytest.approx(finals.std(ddof=1) / np.sqrt(3))
    assert json.loads((work.folder / "summary.json").read_text())["problem"] == "two-state"
    lines = (work.folder / "curves.csv").read_text().splitlines()
    assert lines[0] == "method,seed,iteration,objective"
    assert lines[1] == f"bchg,0,0,{float(curves[0].objective[0])!r}"
    assert len(lines) == 1 + 3 * 3


def test_one_seed_has_no_standard_error(tmp_path):
    work = dataclasses.replace(a_training(tmp_path), seeds=(4,))
    assert work.write(dict(work.curves(workers=1)))["standard_error"] is None


# ---------------------------------------------------------------- the published protocol

SAMPLER, ORACLE, SIMULATOR = tb.StepBudget(7, 5), tb.StepBudget(11, 5), tb.problems.two_state()
FOLLOWER = tb.CompiledPolicyIteration(tolerance=1e-8)
TOLD, AVERAGED, LEARNED = (
    tb.Interaction(SAMPLER, critic, FOLLOWER, SIMULATOR)
    for critic in (
        tb.ExactCritic(),
        tb.MonteCarloCritic(),
        tb.SarsaCritic(step_size=0.3, sweeps=1, initial_spread=1.0, cut_is_end=True),
    )
)

# source: Kudo et al., ICAPS 2026, and their published code; the rest in the defaults of each
PUBLISHED = {
    "bchg": tb.BoltzmannCovariance(LEARNED, average_tails=True),
    "bchg-game": tb.BoltzmannCovariance(LEARNED, own_action=True),
    "bchg-exact-critic": tb.BoltzmannCovariance(TOLD),
    "hpgd-mc": tb.HyperPolicyGradient(AVERAGED),
    "hpgd-sarsa": tb.HyperPolicyGradient(LEARNED),
    "hpgd-oracle": tb.HyperPolicyGradient(AVERAGED, ORACLE),
    "hpgd-uniform": tb.HyperPolicyGradient(AVERAGED, uniform=SAMPLER),
    "sobirl": tb.SoBiRL(AVERAGED),
    "sobirl-discounted": tb.SoBiRL(AVERAGED, discounted=True),
    "sobirl-modified": tb.SoBiRL(AVERAGED, each_step=True),
    "score-function": tb.ScoreFunction(AVERAGED),
    "naive": tb.NaivePolicyGradient(LEARNED),
    "bi-ac": tb.BiLevelActorCritic(SAMPLER, 0.3, sweeps=1, follower=FOLLOWER),
    "zero-order": tb.ZeroOrder(0.1, two_sided=False, decaying=True, n_directions=1),
    "amd": tb.AdaptiveModelDesign(20),
    "penalty": tb.ValueGapPenalty(100.0),
    "regularised-ac": tb.RegularisedActorCritic(10.0, 0.25, 1.0, 0.5, 10.0, 0.5, SAMPLER),
    "neumann": tb.TruncatedNeumann(10),
    "exact": tb.ExactGradient(),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_methods_are_those_of_the_papers(name):
    setting = Setting(SAMPLER, step_size=0.3, oracle=ORACLE, simulator=SIMULATOR)
    assert METHODS[name](setting) == PUBLISHED[name]


def test_settings_are_those_of_the_papers():
    assert Setting() == Setting(
        tb.StepBudget(100, 200), 0.5, tb.StepBudget(5000, 200), None, FOLLOWER
    )
    stops = tb.StoppedPolicyIteration(steps=2)
    learns = [METHODS[name](Setting(follower=stops)) for name in ("bchg", "hpgd-mc", "naive")]
    assert {method.interaction.follower for method in learns} == {stops}
    assert METHODS["bi-ac"](Setting(follower=stops)).follower == stops


def test_a_seed_starts_near_zero_whatever_the_method(tmp_path):
    run = a_training(tmp_path)._run(7)
    np.testing.assert_array_equal(run.theta, np.random.default_rng([7, 1]).normal(0.0, 0.01, 2))
    assert run.seed == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "magic"}, "estimator is 'magic', which cannot be called"),
        ({"seeds": ()}, "seeds is empty"),
        ({"seeds": (0, -1)}, "seed is -1, below 0"),
        ({"seeds": (0, 1, 0)}, r"seeds has some twice: \[0, 1, 0\]"),
    ],
)
def test_a_training_that_cannot_be_made_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=f"^{message}"):
        dataclasses.replace(a_training(tmp_path), **changes)
