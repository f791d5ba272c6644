"""The suite of problems, and the command line's check."""

import json
import sys

import numpy as np
import pytest
from sizes import sizes

import tabular_bilevel as tb
from tabular_bilevel.cli import main

SUITE = tb.standard_suite()

# A suite of two keeps tests short.
SHORT = SUITE[:2]

STRANGERS = """
import numpy as np


def bchg(view, batch):
    jacobian, states = view.jacobian, batch.states
    gradient = jacobian.log_initial[states[:, 0]] * view.leader_value[states[:, 0], None]
    trace = np.zeros(len(states))
    for t in range(states.shape[1]):
        here = np.flatnonzero(batch.mask[:, t])
        s, a, following = states[here, t], batch.actions[here, t], batch.next_states[here, t]
        weight = view.leader_discount**t
        credit = weight * view.leader_advantage[s, a] / view.temperature
        trace[here] = view.follower_discount * trace[here] + credit
        gradient[here] += trace[here, None] * jacobian.follower_reward[s, a]
        gradient[here] += weight * jacobian.leader_reward[s, a]
        on = following >= 0
        arriving = trace[here][on] * view.follower_discount * view.follower_value[following[on]]
        arriving += weight * view.leader_discount * view.leader_value[following[on]]
        score = jacobian.log_transition[batch.entries[here[on], t]]
        gradient[here[on]] += arriving[:, None] * score
    return gradient


def direct_term(view, batch):
    weight = view.leader_discount ** np.arange(batch.states.shape[1]) * batch.mask
    slope = view.jacobian.leader_reward[batch.states, batch.actions]
    return (weight[..., None] * slope).sum(axis=1)


class Named:
    def __call__(self, problem, theta, *, rng):
        return np.zeros(2)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A stranger's module in the working directory."""
    (tmp_path / "my_module.py").write_text(STRANGERS)
    monkeypatch.chdir(tmp_path)
    yield "my_module"
    sys.modules.pop("my_module", None)


def parts(case):
    exact = tb.hypergradient(case.problem, case.theta)
    return np.linalg.norm(exact.direct), np.linalg.norm(exact.indirect)


def test_every_problem_has_what_it_is_named_for():
    made = {case.name: case for case in SUITE}
    models = {name: case.problem.model(case.theta) for name, case in made.items()}
    assert len(made) == len(SUITE)
    assert models["small temperature"].temperature == 0.05
    assert models["discount near 1"].leader_discount == 0.98
    assert models["unequal discounts"].follower_discount < models["plain"].follower_discount
    unreachable = models["unreachable state"]
    arrivals = unreachable.arrivals(np.ones((unreachable.n_states, unreachable.n_actions)))
    assert (arrivals + unreachable.initial)[4] == 0.0
    assert not models["forbidden action"].available.all()
    assert (models["deterministic kernel"].transition.data == 1.0).all()
    assert 0.0 < models["episodic"].termination.max() < 1.0
    tied = tb.solve_follower(models["ties"]).policy
    np.testing.assert_allclose(tied, 1.0 / 3.0, rtol=1e-12)
    assert tb.count_trajectories(models["layered"]) < 1000
    assert models["one-state bandit"].n_states == 1
    assert made["one parameter"].theta.size == 1
    assert made["a thousand parameters"].theta.size == 1000
    assert made["game"].problem.follower_observes_leader
    assert not made["game, leader unseen"].problem.follower_observes_leader
    for name in ("kernel parameters only", "initial distribution only"):
        tables = made[name].problem
        assert tables.follower_reward.nnz == tables.leader_reward.nnz == 0
    assert parts(made["through the policy only"])[0] == 0.0
    assert parts(made["initial distribution only"])[1] == 0.0
    # half of the corridor has to be walked before anything happens
    assert models["long horizon"].n_states == 20


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.name)
def test_both_parts_matter_where_both_are_there(case):
    direct, indirect = parts(case)
    if min(direct, indirect) > 0.0:
        assert min(direct, indirect) > 0.1 * max(direct, indirect)


@sizes("suite", [SUITE[::4]], [SUITE])
def test_bchg_passes_the_suite(suite):
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(200)))
    report = tb.check_suite(method, suite=suite, visible_bias=0.15, rng=0)
    report.raise_if_failed()
    assert list(report.reports) == [case.name for case in suite]
    assert f"no bias seen on {len(suite)} of {len(suite)} problems" in str(report)


def test_the_naive_gradient_fails_and_is_named():
    method = tb.NaivePolicyGradient(tb.Interaction(tb.Episodes(200)))
    report = tb.check_suite(method, suite=SHORT, rng=0)
    assert not report.passed
    assert next(iter(report.mistakes)) == "through-follower term dropped"
    assert "explains 2 of 2 biases: through-follower term dropped" in str(report)
    with pytest.raises(tb.CheckFailedError, match="Suite check FAILED"):
        report.raise_if_failed()


def test_what_decides_nothing_is_named_with_its_reason():
    wrong = tb.controls(n_trajectories=200)["through-follower term sign-flipped"]
    report = tb.check_suite(wrong, suite=SHORT, n_replicates=60, rng=0)
    assert {one.verdict for one in report.reports.values()} == {tb.Verdict.INCONCLUSIVE}
    assert "through-follower term sign-flipped? fewer than 100 replicates" in str(report)
    assert "explains 2 of 2 biases: through-follower term sign-flipped" in str(report)


def test_what_no_mistake_can_explain_is_no_explained_bias():
    guess = tb.Guess(("half",), ("half the gradient",), (), 1.0, 0.0, fits=True)
    found = (tb.Diagnosis((guess,), 0.0), tb.Diagnosis(), None)
    reports = {
        str(k): tb.EstimatorReport(tb.Verdict.BIASED, diagnosis=each)
        for k, each in enumerate(found)
    }
    assert "explains 1 of 1 biases: half" in str(tb.SuiteReport(reports, 0.001))


@pytest.mark.slow
def test_directions_and_a_stopped_follower_are_checked_on_a_suite():
    follower = tb.StoppedValueIteration(sweeps=3)
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(200), follower=follower))

    def small(problem, theta, rng):
        return 0.01 * method(problem, theta, rng=rng).gradient

    settings = {"suite": SHORT, "rng": 0, "follower": follower, "visible_bias": 0.3}
    assert tb.check_suite(small, up_to_scale=True, **settings).passed
    assert tb.check_suite(method, **settings).passed
    assert tb.check_suite(small, **settings).verdict is tb.Verdict.BIASED
    settings["follower"] = None
    assert tb.check_suite(method, **settings).verdict is tb.Verdict.BIASED


def test_the_false_alarm_rate_is_shared():
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(50)))
    report = tb.check_suite(method, suite=SHORT, false_alarm_rate=0.02, rng=0)
    assert {one.false_alarm_rate for one in report.reports.values()} == {0.01}


def test_seeds_repeat_and_fresh_ones_do_not():
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(5)))

    def means(rng):
        report = tb.check_suite(method, suite=SHORT, n_replicates=30, rng=rng)
        return [one.mean.tolist() for one in report.reports.values()]

    assert means(3) == means(3)
    assert means(None) != means(None)


def test_an_empty_suite_is_refused():
    with pytest.raises(ValueError, match="suite has no problems"):
        tb.check_suite(tb.ExactGradient(), suite=[])


def test_a_method_that_is_not_defined_is_broken_there_with_the_reason():
    report = tb.check_suite(tb.SoBiRL(), suite=SHORT[:1], rng=0)
    assert "SoBiRL is defined for parameters of rewards only" in str(report)


@pytest.mark.slow
def test_a_strangers_estimator_is_checked_on_one_problem(module, capsys):
    settings = ["--problem", "garnet", "--seed", "0", "--replicates", "200"]
    assert main(["check", f"{module}:bchg", *settings]) == 0
    printed = capsys.readouterr().out
    assert "no bias seen" in printed
    assert "asked for follower_value, leader_advantage, leader_value" in printed
    assert main(["check", f"{module}:direct_term", *settings]) == 1
    printed = capsys.readouterr().out
    assert "BIASED" in printed
    assert "decentralised: asked for nothing of the follower's" in printed


def test_a_strangers_estimator_is_checked_on_the_suite(module, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tb, "standard_suite", lambda: SHORT)
    command = ["check", f"{module}:bchg", "--seed", "0", "--report", str(tmp_path / "report")]
    assert main([*command, "--visible-bias", "0.2"]) == 0
    printed = capsys.readouterr().out
    begun, *lines, passed, asked, where = printed.splitlines()
    assert where.endswith("/report/index.html")
    assert begun == "2 problems, up to 400 calls on each"
    assert passed.startswith("Suite check passed: no bias seen on 2 of 2 problems")
    assert (tmp_path / "report/report.txt").read_text().splitlines() == [passed, *lines, asked]
    saved = json.loads((tmp_path / "report/report.json").read_text())
    assert saved["passed"]
    assert saved["verdict"] == "no bias seen"
    assert saved["estimator"] == "my_module:bchg"
    plain = saved["reports"]["plain"]
    assert plain["verdict"] == "no bias seen"
    assert f"plain{plain['verdict']:>34}" in printed
    assert plain["smallest_visible_gap"] > 0.0
    assert plain["reason"] == ""


def test_all_trajectories_are_announced_and_gone_through(module, capsys):
    command = ["check", f"{module}:bchg", "--problem", "layered", "--enumerate"]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("384 trajectories\nEnumeration check: no bias seen")


def test_batches_and_cut_trajectories_are_gone_through(module, capsys):
    command = ["check", f"{module}:bchg", "--problem", "bandit", "--theta", "theta.npy"]
    np.save("theta.npy", np.zeros(2))
    assert main([*command, "--enumerate"]) == 2
    assert "can be visited twice, so no trajectory is the longest: cut them by a horizon" in (
        capsys.readouterr().err
    )
    settings = ["--enumerate", "--horizon", "1"]
    assert main([*command, *settings]) == 0
    assert "batches of 2 and 3 are the mean of single trajectories" in capsys.readouterr().out
    assert main([*command, *settings, "--batch-size", "2"]) == 0
    assert "all 2 trajectories in batches of 2" in capsys.readouterr().out
    for settings in (["--horizon", "1"], ["--batch-size", "2"]):
        assert main([*command, *settings]) == 2
        assert "--horizon and --batch-size need --enumerate" in capsys.readouterr().err


def test_a_class_is_made_and_a_theta_is_read(module, capsys, tmp_path):
    np.save(tmp_path / "theta.npy", np.zeros(2))
    command = ["check", f"{module}:Named", "--problem", "bandit", "--theta", "theta.npy"]
    assert main(command) == 1
    assert "BIASED" in capsys.readouterr().out  # what it returns is always the same, and wrong
