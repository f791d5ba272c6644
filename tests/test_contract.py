"""The contract of estimators: every kind at every entry; memories; what is refused."""

import json
import re
import sys
from dataclasses import replace
from functools import partial
from types import MappingProxyType, SimpleNamespace

import kinds
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import DRAWING, EXACT, GIVEN, NOISY, PROBLEM, REMEMBERING, THETA, WRONG
from scipy import stats
from sizes import pairs, sizes
from small import assert_refused

import tabular_bilevel as tb
from tabular_bilevel.ascent.training import Run, train
from tabular_bilevel.cli import main
from tabular_bilevel.estimators.contract import as_memory
from tabular_bilevel.optimum import Perturbed

pytestmark = pytest.mark.usefixtures("once_a_problem")

# Probability that a test here fails by chance; seeds are fixed, so one that passes goes on passing.
CHANCE = 1e-4

CLIMB = tb.GradientAscent(0.1)
SUITE = (tb.SuiteCase("layers", "nobody", PROBLEM, THETA),)


def ascended(estimator):
    steps = list(tb.ascend(PROBLEM, THETA, estimator, CLIMB, rng=0, n_iterations=2))
    assert steps[0].objective == pytest.approx(tb.objective(PROBLEM, THETA))
    np.testing.assert_allclose(steps[0].exact_gradient, EXACT, rtol=1e-9)
    return steps[0].gradient


def resumed(estimator):
    state = tb.AscentState.start(THETA, rng=0)
    return next(tb.resume(PROBLEM, state, estimator, CLIMB)).gradient


def perturbed(estimator):
    return Perturbed(estimator, 0.0)(PROBLEM, THETA, rng=0).gradient


def a_run(estimator):
    return Run("a", PROBLEM, THETA, estimator, CLIMB, seed=0, n_iterations=1)


def trained(estimator):
    return (train(a_run(estimator)).theta - THETA) / CLIMB.rate


def trained_in_a_sweep(estimator):
    ((_, curve),) = tb.sweep([("a", partial(train, a_run(estimator)))])
    return (curve.theta - THETA) / CLIMB.rate


def checked(estimator):
    report = tb.check_estimator(estimator, PROBLEM, THETA, n_replicates=30, rng=0, burn_in=1)
    assert report.verdict is not tb.Verdict.BROKEN, report
    return report.mean


def checked_on_a_suite(estimator):
    report = tb.check_suite(estimator, suite=SUITE, n_replicates=30, rng=0)
    assert report.reports["layers"].verdict is not tb.Verdict.BROKEN, report
    return report.reports["layers"].mean


def enumerated(estimator):
    return tb.check_by_enumeration(estimator, PROBLEM, THETA).expectation


ENTRIES = (
    ascended, resumed, perturbed, trained, trained_in_a_sweep, checked, checked_on_a_suite,
    enumerated,
)  # fmt: skip
each_entry = pytest.mark.parametrize("entry", ENTRIES)


@sizes(("kind", "entry"), *pairs([*DRAWING, *GIVEN], ENTRIES))
def test_every_kind_is_taken_at_every_entry(kind, entry):
    estimator = getattr(kinds, kind)
    if entry is enumerated and kind in DRAWING:
        assert_refused("which draws its own data; to be run on all", entry, estimator)
        return
    found = entry(estimator)
    assert found.shape == (4,)
    if kind not in NOISY:
        np.testing.assert_allclose(found, EXACT, rtol=1e-12)


@each_entry
@pytest.mark.parametrize("kind", [*WRONG, "class"])
def test_what_is_no_estimator_is_refused_at_every_entry(kind, entry):
    estimator = getattr(kinds, kind, tb.BoltzmannCovariance)
    message = WRONG.get(kind, "is the class BoltzmannCovariance, not an instance of it")
    assert_refused(rf"^(estimator|method) {message}", entry, estimator)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run one of the command line's entries on an estimator; status, output and errors."""

    def run(entry, kind):
        np.save(tmp_path / "theta.npy", THETA)
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # no plot
        at = ["--problem", "layered", "--theta", str(tmp_path / "theta.npy"), "--seed", "0"]
        name = f"kinds:{kind}"
        arguments = {
            "check": ["check", name, *at, "--replicates", "30", "--burn-in", "1"],
            "enumerate": ["check", name, *at, "--enumerate"],
            "train": [
                "train", "layered", "--estimator", name, "--seeds", "1", "--steps", "2",
                "--out", str(tmp_path / "out"), "--workers", "1",
            ],
        }  # fmt: skip
        status = main(arguments[entry])
        return status, *capsys.readouterr()

    return run


COMMANDS = ["check", "enumerate", "train"]


@sizes(("kind", "entry"), *pairs([*DRAWING, *GIVEN], COMMANDS))
def test_the_command_line_takes_every_kind(kind, entry, run):
    status, said, error = run(entry, kind)
    if entry == "enumerate" and kind in DRAWING:
        assert status == 2
        assert "which draws its own data" in error
    elif kind == "control":
        assert status in ((0,) if entry == "train" else (1, 3))  # 30 calls may decide nothing
    elif kind == "sampled" and entry == "check":
        assert "Estimator check: " in said
    else:
        assert (status, error) == (0, "")


@sizes(("kind", "entry"), *pairs([*WRONG], COMMANDS))
def test_the_command_line_refuses_what_is_no_estimator(kind, entry, run):
    status, _, error = run(entry, kind)
    assert (status, error.count("\n")) == (2, 1)
    assert re.match(f"tabular-bilevel: estimator {WRONG[kind]}", error)


def test_settings_of_the_packages_methods_are_not_for_others(capsys):
    arguments = ["train", "layered", "--estimator", "kinds:of_view", "--out", "nowhere"]
    for option in ("--batch", "--time-limit", "--critic-step", "--simulator-slip"):
        assert main([*arguments, option, "1"]) == 2
        assert f"{option[2:]} is for --method, not for --estimator" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_find_an_estimator_of_the_working_directory(tmp_path, monkeypatch, capsys):
    (tmp_path / "of_my_own.py").write_text("def up(problem, theta, rng):\n    return theta + 1.0\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    arguments = ["train", "two_state", "--estimator", "of_my_own:up", "--out", "out"]
    assert main([*arguments, "--seeds", "2", "--workers", "2", "--steps", "2"]) == 0
    assert (tmp_path / "out" / "curves.csv").read_text().count("\nof_my_own:up,") == 6
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["estimator"] == "of_my_own:up"
    assert not summary.keys() & {"method", "batch", "time_limit", "critic_step", "simulator_slip"}
    assert sys.path == before
    # what was made with another estimator is not gone on with
    arguments[3] = "kinds:of_view"
    assert main([*arguments, "--seeds", "1", "--workers", "1", "--steps", "2"]) == 2
    assert "was saved by another run" in capsys.readouterr().err


# ---------------------------------------------------------------- errors in others' code


@pytest.mark.parametrize("entry", [ascended, resumed, trained, perturbed])
def test_an_error_is_not_changed_and_says_where_it_came_from(entry):
    with pytest.raises(KeyError, match="no such state") as caught:
        entry(kinds.raising)
    notes = caught.value.__notes__
    assert notes[0] == "in a call of raising at theta = [ 0.1 -0.2  0.3  0.1]"
    assert notes[1:] == ([] if entry is perturbed else ["in iteration 0"])


def test_an_error_in_a_check_is_a_finding_or_says_where_it_came_from():
    report = tb.check_estimator(kinds.raising, PROBLEM, THETA, rng=5)
    begin, _, place = report.trouble.partition(" (")
    assert begin == "replicate 0: KeyError: 'no such state'"
    assert re.fullmatch(r".*kinds\.py, line \d+\)", place)
    assert "the same again: rng=5" in str(report)
    late = tb.check_estimator(failing_at(3), PROBLEM, THETA, rng=5, burn_in=4)
    assert late.trouble.startswith("replicate 0, call 4 of 5: KeyError: 3 (")
    with pytest.raises(KeyError, match="in an estimate from trajectories"):
        enumerated(kinds.raising_in_a_batch)


def failing_at(call):
    def estimator(view, rng, memory):
        calls = int(memory.get("calls", 0))
        if calls == call:
            raise KeyError(calls)
        return EXACT, {"calls": calls + 1}

    return estimator


@pytest.mark.parametrize("entry", ["enumerate", "train"])
def test_an_error_in_others_code_is_a_line(entry, run):
    kind = "raising_in_a_batch"
    status, _, error = run(entry, kind)
    begin = f"tabular-bilevel: kinds:{kind} cannot be used: KeyError: 'no such state' "
    assert (status, error.count("\n")) == (2, 1)
    assert re.match(begin + r"\(.*kinds\.py, line \d+\), in a", error)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("entry", [ascended, checked, trained])
def test_an_interrupt_goes_through(entry, stop):
    def stopped(problem, theta, rng):
        raise stop

    with pytest.raises(stop):
        entry(stopped)


@pytest.mark.parametrize("entry", [ascended, perturbed, trained, checked, enumerated])
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros(3), r"estimate has shape \(3,\), n"),
        (np.zeros((4, 1)), r"estimate has shape \(4, 1\), n|there are 100 trajectories"),
        (np.zeros(4, complex), "estimate has dtype complex128; real numbers are needed"),
        (np.zeros(4, np.longdouble), "estimate has dtype .*, which float64 cannot hold"),
        (np.array([0.0, 0.0, np.nan, 0.0]), r"estimate\[2\] is nan, not a finite number"),
        (np.ma.masked_array(np.zeros(4), [0, 1, 0, 0]), r"estimate\[1\] is masked"),
        (["a"] * 4, "estimate has dtype <U1; real numbers are needed"),
        (None, "it returned None, not a gradient: is its return statement missing"),
        (SimpleNamespace(gradient=[1.0]), r"estimate has shape \(1,\), n"),
        ([[1.0], [1.0, 2.0]], "inhomogeneous"),
    ],
)
def test_what_is_no_gradient_is_named(returned, message, entry):
    drawing, given = (lambda view, rng: returned), (lambda view, batch: returned)
    assert_named(message, entry, drawing if entry is checked else given)


def assert_named(message, entry, estimator):
    """See a mistake named: a check finds it, and elsewhere it is raised."""
    if entry is checked:
        report = tb.check_estimator(estimator, PROBLEM, THETA, rng=0)
        assert report.verdict is tb.Verdict.BROKEN
        assert re.search(message, report.trouble)
    else:
        assert_refused(message, entry, estimator)


def test_adapters_check_what_they_are_made_of():
    more, less = kinds.with_one_more, kinds.with_one_less
    batch, sampling = tb.BatchEstimator, tb.SamplingEstimator
    for message, make, *rest in (
        ("function is 3, which cannot be called", batch, 3),
        ("function is <class 'dict'>, which cannot be called", batch, dict),
        (r"has the parameters \(view\), not \(view, batch\)", batch, less),
        (r"has the parameters \(view, batch, scale\), not \(view, rng\)", sampling, more),
        ("sampler is 20, which has no method sample", batch, kinds.of_batch, 20),
        ("method is 3, which cannot be called", Perturbed, 3, 0.0),
    ):
        assert_refused(message, make, *rest)


def test_parameters_that_python_does_not_tell_are_none():
    untold = SimpleNamespace(__call__=None)
    odd = type("Odd", (), {"__call__": property(lambda self: 3)})()
    for estimator, message in ((untold, "cannot be called"), (odd, "parameters are not known")):
        assert_refused(message, checked, estimator)
    message = "memory is 3, not a mapping of names to arrays"
    assert_refused(message, kinds.samples, PROBLEM, THETA, rng=0, memory=3)


def test_a_function_with_other_names_is_taken_by_its_adapter():
    adapted = tb.BatchEstimator(lambda v, b: kinds.of_batch(v, b))
    np.testing.assert_allclose(adapted(PROBLEM, THETA, rng=0), EXACT)
    assert str(adapted(PROBLEM, THETA, rng=0)).endswith("100 trajectories of 400 steps in all")


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("kind", REMEMBERING)
def test_a_memory_goes_in_and_out_and_survives_a_resume(kind, tmp_path):
    estimator = getattr(kinds, kind)
    steps = list(tb.ascend(PROBLEM, THETA, estimator, CLIMB, rng=0, n_iterations=5))
    assert [step.estimate.memory["calls"] for step in steps] == [1, 2, 3, 4, 5]
    steps[2].state.save(tmp_path / "state")
    state, _ = tb.AscentState.load(tmp_path / "state")
    rest = list(tb.resume(PROBLEM, state, estimator, CLIMB, n_iterations=5))
    assert [step.estimate.memory["calls"] for step in rest] == [4, 5]


def fragile(view, rng, memory):
    """Keep tables of many types, and return what depends on each of their bits."""
    tables = {
        "whole": np.array([-1, 2], dtype=np.int8),
        "coarse": np.array([[1.5, 2.5], [0.1, 0.2], [0.3, 0.7]], dtype=np.float32, order="F"),
        "half": np.array(0.1, dtype=np.float16),
        "flags": np.array([True, False]),
        "swapped": np.array([0.1, 0.2], dtype=">f8"),
        "none": np.zeros((0, 3)),
        "a name / of words.npy": rng.normal(size=(2, 3))[:, ::2],
    }
    kept = {name: np.asarray(memory.get(name, table)) for name, table in tables.items()}
    noise = 0.1 * rng.normal(size=4)
    for table in kept.values():
        noise += np.asarray(table, dtype=float).sum() * 1e-3 + len(table.tobytes(order="A"))
    grown = {name: table if table.dtype == bool else table * 3 // 2 + table.dtype.type(1)
             for name, table in kept.items()}  # fmt: skip
    grown["a name / of words.npy"] = kept["a name / of words.npy"] * 1.1
    return EXACT + noise, grown


def test_a_memory_of_any_numbers_survives_a_resume_bit_for_bit(tmp_path):
    whole = list(tb.ascend(PROBLEM, THETA, fragile, CLIMB, rng=0, n_iterations=6))
    for k, step in enumerate(whole[:5]):
        step.state.save(tmp_path / "state")
        state, _ = tb.AscentState.load(tmp_path / "state")
        following = next(tb.resume(PROBLEM, state, fragile, CLIMB))
        assert following.next_theta.tobytes() == whole[k + 1].next_theta.tobytes()
        for name, table in whole[k + 1].estimate.memory.items():
            again = following.estimate.memory[name]
            assert (again.dtype, again.tobytes()) == (table.dtype, table.tobytes())


def test_a_memory_can_only_be_read():
    def writes(view, rng, memory):
        table = memory.get("table", np.zeros(2))
        table[0] += 1.0
        return EXACT, {"table": table}

    def replaces(view, rng, memory):
        memory["table"] = 1.0
        return EXACT, memory

    climb = tb.ascend(PROBLEM, THETA, writes, CLIMB, rng=0)
    next(climb)
    with pytest.raises(ValueError, match="read-only"):
        next(climb)
    with pytest.raises(TypeError, match="does not support item assignment"):
        next(tb.ascend(PROBLEM, THETA, replaces, CLIMB, rng=0))


def test_what_changes_its_table_afterwards_does_not_change_the_memory():
    table = np.zeros(2)

    def grows(view, rng, memory):
        table[:] += 1.0
        return EXACT, {"table": table}

    first, second = tb.ascend(PROBLEM, THETA, grows, CLIMB, rng=0, n_iterations=2)
    assert first.estimate.memory["table"][0] == 1.0
    assert second.estimate.memory["table"][0] == 2.0


BAD_MEMORIES = [
    (3, "memory is 3, not a mapping of names to arrays"),
    (None, "memory is None, not a mapping of names to arrays"),
    ([("table", 1.0)], r"memory is \[\('table', 1.0\)\], not a mapping"),
    ({3: [1.0]}, "memory has the name 3, not a string of 1 to 200 printable characters"),
    ({"": [1.0]}, "memory has the name '', not a string"),
    ({"a\0b": [1.0]}, r"memory has the name 'a.{1,2}x00b', not a string"),
    ({"\ud800": [1.0]}, r"memory has the name '.{1,2}ud800', not a string"),
    ({"a" * 201: [1.0]}, "memory has the name 'aaa"),
    ({"table": [[1.0, np.nan]]}, r"memory.table\[0, 1\] is nan, not a finite number"),
    ({"table": -np.inf}, r"memory.table is -inf, not a finite number"),
    ({"table": np.ma.masked_array([1.0], [True])}, r"memory.table\[0\] is masked"),
    ({"table": None}, "memory.table is no array of real numbers, but of dtype object"),
    ({"table": ["a"]}, "memory.table is no array of real numbers, but of dtype <U1"),
    ({"table": 1j}, "memory.table is no array of real numbers, but of dtype complex128"),
    ({"table": np.longdouble(1)}, "memory.table is no array of real numbers, but of dtype"),
    ({str(k): 0.0 for k in range(501)}, "memory has 501 names, more than 500"),
]


@pytest.mark.parametrize("entry", [ascended, checked, enumerated])
@pytest.mark.parametrize(("memory", "message"), BAD_MEMORIES)
def test_what_is_no_memory_is_named(memory, message, entry):
    def estimator(view, batch, memory, returned=memory):
        return EXACT, returned

    assert_named(message, entry, estimator)


@pytest.mark.parametrize("returned", [EXACT, list(EXACT), (EXACT,), (EXACT, {}, {})])
def test_what_takes_a_memory_gives_one_back(returned):
    message = "not a pair .gradient, memory., which an estimator with a parameter 'memory' returns"
    assert_refused(message, ascended, lambda view, rng, memory: returned)


@pytest.mark.slow
@given(st.dictionaries(st.text(), st.floats() | st.integers() | st.lists(st.floats()), max_size=3))
def test_a_memory_that_is_taken_can_be_saved(tmp_path_factory, memory):
    try:
        kept = as_memory(memory)
    except ValueError:
        return
    path = tmp_path_factory.mktemp("memory") / "state"
    replace(tb.AscentState.start(THETA, rng=0), memory=kept).save(path)
    loaded, held = (
        {name: table.tobytes() for name, table in memory.items()}
        for memory in (tb.AscentState.load(path)[0].memory, kept)
    )
    assert loaded == held


def test_arrays_of_other_libraries_are_remembered():
    torch = pytest.importorskip("torch")
    jnp = pytest.importorskip("jax.numpy")
    memory = {"torch": torch.ones(2, requires_grad=True), "jax": jnp.ones(2, dtype="bfloat16")}
    for table in as_memory(MappingProxyType(memory)).values():
        np.testing.assert_array_equal(table, 1.0)
        assert not table.flags.writeable


# ---------------------------------------------------------------- burn-in

# All of the gradient goes through the follower, and so by the critic.
REWARDS = tb.FeatureProblem(
    PROBLEM.base.replace(temperature=0.5), follower_reward=PROBLEM.follower_reward
)
N_TRAJECTORIES = 40
MODEL = REWARDS.model(THETA)
POLICY = tb.solve_follower(MODEL).policy
PAIRS = POLICY.shape


def drawn(chances, rng):
    """Draw from each row; what is beyond its sum is one more outcome."""
    return (rng.random(len(chances))[:, None] > chances.cumsum(axis=1)).sum(axis=1)


def with_a_sarsa_table(discount):
    """Make BC-HG with a critic that goes on learning, from one visit to each pair a call.

    Its table is right on average once it is warm, whatever the step size: what is drawn does not
    depend on it.
    """
    kernel = MODEL.transition.toarray()

    def estimator(problem, theta, rng, memory):
        table = memory.get("table", np.zeros(PAIRS))
        arrived = drawn(kernel, rng)
        following = np.minimum(arrived, PAIRS[0] - 1)
        worth = table[following, drawn(POLICY[following], rng).clip(max=PAIRS[1] - 1)]
        aim = MODEL.leader_reward.ravel() + discount * np.where(arrived < PAIRS[0], worth, 0.0)
        learnt = table + 0.9 * (aim.reshape(PAIRS) - table)
        sample = tb.Episodes(N_TRAJECTORIES).sample(MODEL, POLICY, rng=rng)
        advantage = table - (POLICY * table).sum(axis=1, keepdims=True)
        influence, trace = np.zeros(PAIRS), np.zeros(N_TRAJECTORIES)
        for t in range(sample.states.shape[1]):
            on = sample.mask[:, t]
            at = sample.states[on, t], sample.actions[on, t]
            trace[on] *= MODEL.follower_discount
            trace[on] += MODEL.leader_discount**t * advantage[at] / MODEL.temperature
            np.add.at(influence, at, trace[on] / N_TRAJECTORIES)
        return influence.ravel() @ REWARDS.follower_reward, {"table": learnt}

    return estimator


def after(estimator, n_calls):
    """Go on from one memory that was warmed up once, in every call."""
    memory, rng = {}, np.random.default_rng(1)
    for _ in range(n_calls):
        _, memory = estimator(REWARDS, THETA, rng, memory)
    return lambda problem, theta, rng: estimator(problem, theta, rng, memory)[0]


def test_a_warm_critic_is_checked_after_a_burn_in():
    right, wrong = map(with_a_sarsa_table, (MODEL.leader_discount, 0.0))
    at = {"problem": REWARDS, "theta": THETA, "rng": 0, "n_replicates": 100}
    at["visible_bias"] = 1.0  # a table is noisy
    assert tb.check_estimator(right, **at, burn_in=1).verdict is tb.Verdict.BIASED
    report = tb.check_estimator(right, **at, burn_in=12)
    assert report.passed, report
    assert f"{report.n_replicates} replicates, each after 12 calls of burn-in, one" in str(report)
    assert tb.check_estimator(wrong, **at, burn_in=12).verdict is tb.Verdict.BIASED
    # replicates that share a memory share its error, and a table that is right on average is wrong
    assert tb.check_estimator(after(right, 12), **at).verdict is tb.Verdict.BIASED


def averaging(problem, theta, rng, memory):
    """A critic's table of which the last calls' noise is a part."""
    table = memory.get("table", EXACT)
    return table + rng.normal(size=4), {"table": table + 0.5 * (EXACT + rng.normal(size=4) - table)}


@pytest.mark.slow
@pytest.mark.parametrize("runs", [20, 400])
def test_a_burn_in_keeps_the_false_alarm_rate(runs):
    rate, settings = 0.05, {"n_replicates": 100, "target": EXACT, "burn_in": 4}
    settings["false_alarm_rate"] = rate

    def alarms(estimator):
        reports = (
            tb.check_estimator(estimator, PROBLEM, THETA, rng=seed, **settings)
            for seed in range(runs)
        )
        return sum(report.verdict is tb.Verdict.BIASED for report in reports)

    assert stats.binom.sf(alarms(averaging) - 1, runs, rate) > CHANCE
    one = after(averaging, 4)  # the control: one memory for all
    assert stats.binom.sf(alarms(one) - 1, runs, rate) < CHANCE


def test_replicates_of_a_burn_in_are_the_calls_of_an_ascent_that_stands_still():
    report = tb.check_estimator(averaging, PROBLEM, THETA, n_replicates=30, rng=3, burn_in=6)
    still = SimpleNamespace(step=lambda theta, gradient, memory: (theta, memory))
    rows = []
    for stream in np.random.default_rng(3).spawn(30):
        *_, last = tb.ascend(PROBLEM, THETA, averaging, still, rng=stream, n_iterations=7)
        rows.append(last.gradient)
    np.testing.assert_allclose(report.mean, np.mean(rows, axis=0), rtol=1e-12)


def test_hidden_state_is_found_beside_a_memory():
    kept = []

    def estimator(problem, theta, rng, memory):
        if not kept:
            kept.append(rng.normal(size=4))
        return EXACT + kept[0] + 0.1 * rng.normal(size=4), memory

    report = tb.check_estimator(estimator, PROBLEM, THETA, rng=0, burn_in=2)
    assert report.verdict is tb.Verdict.INCONCLUSIVE
    assert "but in a memory that it gives back" in report.reason


def test_a_burn_in_without_a_memory_is_told_of():
    report = tb.check_estimator(kinds.of_view, PROBLEM, THETA, burn_in=3, rng=0)
    assert report.notes == ("the burn-in changes nothing: no call gave a memory back",)
    assert not tb.check_estimator(averaging, PROBLEM, THETA, burn_in=3, rng=0).notes


@pytest.mark.parametrize("burn_in", [-1, 1.5, "1", True, None])
def test_a_burn_in_is_a_number_of_calls(burn_in):
    with pytest.raises(ValueError, match=r"burn_in is .*, not a whole number from 0"):
        tb.check_estimator(kinds.of_view, PROBLEM, THETA, burn_in=burn_in, rng=0)
