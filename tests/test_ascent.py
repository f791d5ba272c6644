"""Ascents: steps, optimisers' memory, saving and going on."""

import dataclasses
import itertools
import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest
from sizes import pairs, sizes
from small import assert_refused

import tabular_bilevel as tb
from tabular_bilevel.ascent import ascent
from tabular_bilevel.ascent.ascent import AscentState
from tabular_bilevel.estimators.register import METHODS, Setting
from tabular_bilevel.optimum import Perturbed

TOY = tb.problems.discrete_toy()
GAME_THETA = np.array([0.1, -0.2, 0.5, 0.0, 0.3, 0.0])

REWARDS = tb.FeatureProblem(
    tb.problems.garnet(n_states=5, n_actions=2, branching=2, rng=1).base.replace(
        follower_discount=0.9, leader_discount=0.9
    ),
    follower_reward=np.random.default_rng(2).normal(size=(10, 3)),
    leader_reward=np.random.default_rng(3).normal(size=(10, 3)),
)

SETTING = Setting(tb.StepBudget(30, 20), step_size=0.3, oracle=tb.StepBudget(50, 20))


def problem_for(name):
    """A problem that the method is defined for, and a theta."""
    return (TOY, GAME_THETA) if name == "bi-ac" else (REWARDS, np.array([0.3, -0.2, 0.1]))


EXACT, ADAM = tb.ExactGradient(), tb.Adam()


def thetas(steps):
    return np.array([step.next_theta for step in steps])


def climb(method=EXACT, optimiser=ADAM, *, theta=(0.0, 0.0, 0.0), **settings):
    return tb.ascend(REWARDS, theta, method, optimiser, **{"rng": 0, **settings})


BCHG = METHODS["bchg"](SETTING)


@sizes(("name", "optimiser"), *pairs([*METHODS], [tb.GradientAscent(0.1, 1.0), tb.Adam(0.05)]))
def test_a_saved_ascent_goes_on_as_if_it_had_not_stopped(name, optimiser, tmp_path):
    problem, theta = problem_for(name)
    method = METHODS[name](SETTING)
    whole = thetas(tb.ascend(problem, theta, method, optimiser, rng=3, n_iterations=6))
    *_, last = tb.ascend(problem, theta, method, optimiser, rng=3, n_iterations=3)
    last.state.save(tmp_path / "state.npz")
    state, more = AscentState.load(tmp_path / "state.npz")
    assert not more
    assert state.iteration == 3
    rest = thetas(tb.resume(problem, state, method, optimiser, n_iterations=6))
    np.testing.assert_array_equal(whole[3:], rest)
    assert not np.array_equal(whole[2], whole[3])


@pytest.mark.parametrize("name", METHODS)
def test_a_state_of_another_problem_is_refused(name):
    problem, theta = problem_for(name)
    method = METHODS[name](SETTING)
    state = next(tb.ascend(problem, theta, method, tb.Adam(), rng=3)).state
    if name == "bi-ac":
        other = tb.problems.random_game(n_states=3, n_actions=5)  # a game's theta fixes its states
    else:
        larger = tb.problems.garnet(n_states=9, n_parameters=3, leader_discount=0.9)
        other = tb.FeatureProblem(larger.base, follower_reward=larger.follower_reward)
    with pytest.raises(ValueError, match=r"^(start|follower_value|previous) has shape .*, not "):
        next(tb.resume(other, state, method, tb.Adam()))


def test_another_seed_is_another_ascent():
    one, other = (thetas(climb(BCHG, rng=seed, n_iterations=3)) for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_a_step_knows_the_exact_objective_and_gradient():
    theta = np.array([0.3, -0.2, 0.1])
    step = next(climb(BCHG, tb.GradientAscent(0.5), theta=theta))
    exact, short = tb.hypergradient(REWARDS, theta), tb.objective(REWARDS, theta, horizon=4)
    assert step.objective == pytest.approx(exact.objective, rel=1e-12)
    np.testing.assert_allclose(step.exact_gradient, exact.gradient, rtol=1e-9)
    assert step.objective_over(4) == pytest.approx(short, rel=1e-12)
    assert step.objective_over(None) == step.objective
    assert -1.0 <= step.cosine < 1.0
    np.testing.assert_array_equal(step.next_theta, theta + 0.5 * step.gradient)
    assert str(step).startswith("Iteration 0: objective ")


def test_what_is_exact_is_computed_when_asked_for_and_once(monkeypatch):
    calls = []
    real = ascent.road

    def counted(*arguments, **settings):
        calls.append(1)
        return real(*arguments, **settings)

    monkeypatch.setattr(ascent, "road", counted)
    step = next(climb(BCHG))
    assert not calls
    assert step.objective == step.objective
    assert step.exact_gradient is step.exact_gradient
    assert len(calls) == 1


def test_rounding_makes_no_cosine_above_one():
    cosines = [step.cosine for step in climb(theta=np.ones(3), n_iterations=50)]
    assert max(cosines) <= 1.0
    np.testing.assert_allclose(cosines, 1.0, atol=1e-12)  # of the exact method


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e170, 1e300])
def test_the_cosine_does_not_depend_on_the_unit_of_reward(size):
    theta = np.array([0.1, 0.3])
    cosines = []
    for reward in (1.0, size):
        bandit = tb.problems.bandit(leader_reward=[reward, 0.0])
        method = Perturbed(tb.ExactGradient(), 0.1 * reward)
        cosines.append(next(tb.ascend(bandit, theta, method, tb.Adam(), rng=0)).cosine)
    assert 0.0 < cosines[0] < 1.0
    assert cosines[1] == pytest.approx(cosines[0])


def test_a_gradient_of_zero_has_cosine_zero():
    bandit = tb.problems.bandit()  # its leader's reward does not depend on theta
    step = next(tb.ascend(bandit, np.zeros(2), tb.NaivePolicyGradient(), tb.Adam(), rng=0))
    assert step.cosine == 0.0


def test_arguments_are_not_changed_nor_the_generator_advanced():
    theta, rng = np.zeros(3), np.random.default_rng(5)
    before = rng.bit_generator.state
    first = thetas(climb(BCHG, theta=theta, rng=rng, n_iterations=2))
    assert rng.bit_generator.state == before
    assert not theta.any()
    np.testing.assert_array_equal(first, thetas(climb(BCHG, rng=5, n_iterations=2)))


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.Philox])
def test_other_generators_are_saved_too(kind, tmp_path):
    steps = list(climb(BCHG, rng=np.random.Generator(kind(1)), n_iterations=4))
    steps[1].state.save(tmp_path / "state", note=[1.0, 2.0])
    state, more = AscentState.load(tmp_path / "state")
    np.testing.assert_array_equal(more["note"], [1.0, 2.0])
    rest = thetas(tb.resume(REWARDS, state, BCHG, tb.Adam(), n_iterations=4))
    np.testing.assert_array_equal(rest, thetas(steps[2:]))


def spawning(problem, theta, *, rng, memory):
    """A method whose noise comes from a child of the generator."""
    exact = tb.ExactGradient()(problem, theta, rng=rng)
    noise = rng.spawn(1)[0].standard_normal(theta.size)
    return dataclasses.replace(exact, gradient=exact.gradient + noise)


@pytest.mark.parametrize("rng", [5, np.random.Generator(np.random.PCG64([1, 2**70])).spawn(2)[1]])
def test_a_method_that_spawns_generators_is_repeated_and_resumed(rng, tmp_path):
    whole, again = (list(climb(spawning, rng=rng, n_iterations=6)) for _ in range(2))
    whole = thetas(whole)
    np.testing.assert_array_equal(whole, thetas(again))
    again[2].state.save(tmp_path / "state")
    state, _ = AscentState.load(tmp_path / "state")
    rest = thetas(tb.resume(REWARDS, state, spawning, tb.Adam(), n_iterations=6))
    np.testing.assert_array_equal(whole[3:], rest)


def test_a_gradient_or_a_step_that_is_not_finite_is_named_with_its_iteration():
    def late(problem, theta, *, rng, memory):
        calls = memory.get("calls", np.zeros(1)) + 1.0
        gradient = np.array([0.0, 1.0, np.nan if calls > 2 else 0.0])
        exact = tb.ExactGradient()(problem, theta, rng=rng)
        return dataclasses.replace(exact, gradient=gradient, memory={"calls": calls})

    steps = climb(late)
    assert len(list(itertools.islice(steps, 2))) == 2
    with pytest.raises(ValueError, match=r"^estimate\[2\] is nan, not a(.|\n)*\nin iteration 2$"):
        next(steps)


@pytest.mark.parametrize(
    ("moved", "message"),
    [
        (np.full(3, np.inf), r"next theta\[0\] is inf, not a finite number"),
        (np.zeros(2), r"next theta has shape \(2,\), not \(3,\)"),
    ],
)
def test_a_step_that_is_no_theta_is_named_with_its_iteration(moved, message):
    wild = SimpleNamespace(step=lambda theta, gradient, memory: (moved, memory))
    with pytest.raises(ValueError, match=f"^{message}\nin iteration 0$"):
        next(climb(optimiser=wild))


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    steps = list(climb(n_iterations=2))
    steps[0].state.save(tmp_path / "state")

    def broken(*arguments, **tables):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="disk full"):
        steps[1].state.save(tmp_path / "state")
    assert AscentState.load(tmp_path / "state")[0].iteration == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "state"]


def save_often(path, seed):
    step = next(climb(rng=seed))
    for _ in range(100):
        step.state.save(path, seed=seed)


@pytest.mark.slow
def test_two_writers_of_a_state_do_not_break_each_other(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=save_often, args=(tmp_path / "s", k)) for k in (0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert AscentState.load(tmp_path / "s")[1]["seed"] in (0, 1)
    assert list(tmp_path.iterdir()) == [tmp_path / "s"]


def test_a_bar_shows_the_progress(capsys):
    assert len(list(climb(n_iterations=3, progress=True))) == 3
    assert "3/3" in capsys.readouterr().err


def test_what_is_no_optimiser_and_no_number_of_steps_is_refused():
    assert_refused(r"^optimiser is 0.1, which has no method step", climb, optimiser=0.1)
    assert_refused("^n_iterations is 0, not a positive whole number", climb, n_iterations=0)
