"""All trajectories: their number, their list, and what an estimator's expectation is over them."""

import functools
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from references.strangers import Plain
from sizes import pairs, sizes
from small import assert_refused, at, moving_rewards, refusal, somewhere

import tabular_bilevel as tb
from tabular_bilevel import strategies
from tabular_bilevel.checks import enumeration
from tabular_bilevel.estimators.contract import as_estimator
from tabular_bilevel.sampling.all_trajectories import AllTrajectories

pytestmark = pytest.mark.usefixtures("once_a_problem")

# A few hundred products and sums of numbers of the size of 1, each rounded.
ROUNDING = 1e-12


PROBLEMS = {
    "layered": tb.problems.layered(rng=3),
    "game, seen": tb.problems.layered_game(depth=3, rng=4),
    "game, hidden": tb.problems.layered_game(depth=4, follower_observes_leader=False, rng=5),
    "masked": tb.problems.zoo.named("masked layers").problem,
    "bandit of one step": tb.problems.layered(depth=1, width=2, n_actions=3, rng=6),
}

each_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def check(estimator, problem, **settings):
    return tb.check_by_enumeration(estimator, problem, somewhere(problem), **settings)


LAYERED, GAME, MASKED = PROBLEMS["layered"], PROBLEMS["game, seen"], PROBLEMS["masked"]

# 64 trajectories, so 2,080 batches of two.
SMALL_GAME = tb.problems.layered_game(depth=2, width=2, rng=8)


def bchg(view, batch, *, mistake="", dtype=np.float64):
    """BC-HG with V_L on arrival, theory.md section 6: a gradient a trajectory."""
    masked_steps = batch.mask
    names = ("follower_reward", "leader_reward", "log_transition", "log_initial")
    d_follower, d_leader, d_log_transition, d_log_initial = (
        getattr(view.jacobian, name).astype(dtype) for name in names
    )
    advantage, leader_value, follower_value = (
        getattr(view, name).astype(dtype)
        for name in ("leader_advantage", "leader_value", "follower_value")
    )
    temperature = 1.0 if mistake == "no 1/temperature" else view.temperature
    if mistake == "padding is steps":
        masked_steps = np.ones_like(masked_steps)
    gamma_f, gamma_l = dtype(view.follower_discount), dtype(view.leader_discount)
    start = batch.states[:, 0]
    gradient = leader_value[start, None] * d_log_initial[start]
    trace = np.zeros(start.size, dtype)
    for t in range(batch.states.shape[1]):
        s, a, following = batch.states[:, t], batch.actions[:, t], batch.next_states[:, t]
        weight = dtype(1.0) if mistake == "no gamma^t" else gamma_l**t
        step = masked_steps[:, t].astype(dtype)
        trace = step * (gamma_f * trace + weight * advantage[s, a] / dtype(temperature))
        arrival = gamma_f * trace * follower_value[following]
        arrival += step * weight * gamma_l * leader_value[following]
        on = (following >= 0) | (mistake == "V[-1] at the end")
        gradient += trace[:, None] * d_follower[s, a]
        gradient += (step * weight)[:, None] * d_leader[s, a]
        gradient[on] += arrival[on, None] * d_log_transition[batch.entries[on, t]]
    return gradient


def mistaken(mistake, **more):
    return functools.partial(bchg, mistake=mistake, **more)


def one_by_one(view, batch):
    return list(bchg(view, batch).mean(axis=0))


# ---------------------------------------------------------------- listing and counting


def listed(model, policy, horizon=None):
    """List all trajectories and their probabilities, step by step: the slow, readable way."""
    dense = model.transition.toarray().reshape(model.n_states, model.n_actions, -1)

    def onward(state, steps):
        for action in np.flatnonzero(policy[state] > 0.0):
            chance = policy[state, action]
            if model.termination[state, action] > 0.0:
                yield [(state, action, -1)], chance * model.termination[state, action]
            for following in np.flatnonzero(dense[state, action] > 0.0):
                first = state, action, following
                reached = chance * dense[first]
                if steps + 1 == horizon:
                    yield [first], reached
                    continue
                for rest, probability in onward(following, steps + 1):
                    yield [first, *rest], reached * probability

    for start in np.flatnonzero(model.initial > 0.0):
        for steps, probability in onward(start, 0):
            yield tuple(steps), model.initial[start] * probability


def same_as_listed(model, policy, horizon=None):
    every = AllTrajectories(model, policy, horizon=horizon)
    slow = dict(listed(model, policy, horizon))
    assert every.count == len(slow)
    sample, probabilities = every.take(np.arange(every.count))
    for row in range(every.count):
        steps = slice(sample.lengths[row])
        tables = (sample.states, sample.actions, sample.next_states)
        taken = tuple(zip(*(table[row, steps].tolist() for table in tables), strict=True))
        assert probabilities[row] == pytest.approx(slow.pop(taken), rel=ROUNDING)
        assert all((table[row, sample.lengths[row] :] == -1).all() for table in tables)
    assert not slow
    assert every.probability == pytest.approx(1.0, abs=1e-9)
    return sample, probabilities


@each_problem
def test_every_trajectory_is_listed_once_with_its_probability(problem):
    model = problem.model(somewhere(problem))
    sample, probabilities = same_as_listed(model, tb.solve_follower(model).policy)
    assert sample.terminated.all()
    assert probabilities.sum() == pytest.approx(1.0, abs=ROUNDING)


def test_what_cannot_happen_is_not_listed():
    model = MASKED.model(somewhere(MASKED))
    sample, _ = same_as_listed(model, tb.solve_follower(model).policy)
    assert model.available[sample.states[sample.mask], sample.actions[sample.mask]].all()
    assert len(set(sample.lengths)) == 4  # some end early
    first_action = np.eye(3)[model.available.argmax(axis=1)]
    assert tb.count_trajectories(model, policy=first_action) < sample.count / 10
    same_as_listed(model, first_action)


@given(model=strategies.models(max_states=3, max_actions=2))
def test_trajectories_that_are_cut_are_listed_as_well(model):
    same_as_listed(model, tb.solve_follower(model).policy, horizon=3)


def test_trajectories_are_numbered_in_the_order_of_their_steps_however_they_are_taken():
    model = MASKED.model(somewhere(MASKED))
    every = AllTrajectories(model, tb.solve_follower(model).policy)
    whole, probabilities = every.take(np.arange(every.count))
    steps = np.stack([whole.states, whole.actions, whole.next_states], axis=2)
    rows = steps.reshape(every.count, -1).tolist()
    assert rows == sorted(rows)
    some = np.array([7, 3, 3])
    part, chances = every.take(some)
    np.testing.assert_array_equal(part.states, whole.states[some])  # padded alike
    np.testing.assert_array_equal(chances, probabilities[some])


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        # starts and what the leader does there, (actions * successors), the last actions
        ({"branching": 3}, 6 * (2 * 6) ** 4 * 2),
        ({"branching": 3, "follower_observes_leader": False}, 3 * (2 * 3) ** 4 * 2),
        ({"depth": 60, "width": 2}, 4 * (2 * 4) ** 59 * 2),
    ],
)
def test_counts_are_exact_however_large(settings, count):
    game = tb.problems.layered_game(**settings)
    assert tb.count_trajectories(game.model(np.zeros(game.n_parameters))) == count


def test_a_horizon_of_many_steps_is_counted():
    model = tb.problems.bandit().model([0.0, 0.0])
    assert tb.count_trajectories(model, horizon=1000) == 2**1000


@pytest.mark.parametrize("name", ["bandit", "four-rooms", "random-game"])
def test_without_a_longest_trajectory_a_state_is_named(name):
    problem = tb.problems.CATALOGUE[name]()
    model = problem.model(np.zeros(problem.n_parameters))
    assert refusal(tb.count_trajectories, model) == (
        "state 0 can be visited twice, so no trajectory is the longest: cut them by a "
        "horizon, or take a problem in layers, such as tb.problems.layered and layered_game"
    )


def test_cycles_that_are_not_reached_do_not_matter():
    arrows = {"0": {"on": "1", "stray": "2"}, "1": {"end": None, "stop": None}}
    arrows |= {"2": {"a": "3", "b": "3"}, "3": {"a": "2", "b": "2"}}
    model = tb.problems.from_arrows(
        arrows, coins=["0"], follower_discount=0.9, leader_discount=0.9, temperature=1.0
    ).base
    careful = np.array([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    assert tb.count_trajectories(model, policy=careful) == 2
    assert refusal(tb.count_trajectories, model).startswith("state 2 can be visited twice")


def test_bad_settings_of_a_count_are_refused():
    for settings, message in (
        ({"horizon": 0}, "horizon is 0, not a positive whole number"),
        ({"policy": np.ones((2, 2))}, "policy has shape (2, 2), not (1, 2)"),
        ({"policy": [[0.5, 0.6]]}, "policy[0] sums to 1.1, not 1"),
    ):
        model = tb.problems.bandit().model([0.0, 0.0])
        assert refusal(tb.count_trajectories, model, **settings) == message


# ---------------------------------------------------------------- what is right passes


RIGHT = {
    "package": tb.BoltzmannCovariance(),
    "package, own action": tb.BoltzmannCovariance(baseline=False, own_action=True),
    "numpy": bchg,
    "BatchEstimator": tb.BatchEstimator(bchg),
    "one by one": one_by_one,
}


@sizes(("name", "estimator"), *pairs(list(PROBLEMS), list(RIGHT)))
def test_the_expectation_of_bchg_is_the_exact_gradient(name, estimator):
    problem = PROBLEMS[name]
    report = check(RIGHT[estimator], problem)
    report.raise_if_failed()
    exact = tb.hypergradient(*at(problem)).gradient
    assert np.abs(report.expectation - exact).max() <= ROUNDING * np.abs(exact).max()
    assert report.difference <= ROUNDING
    assert abs(report.total_probability - 1.0) <= ROUNDING
    assert report.n_trajectories == tb.count_trajectories(problem.model(somewhere(problem)))
    for name in ("expectation", "covariance", "target"):
        assert not getattr(report, name).flags.writeable


def test_chunks_change_nothing(monkeypatch):
    whole = check(bchg, MASKED)
    monkeypatch.setattr(enumeration, "CHUNK", 4 * 4 * 7)
    pieces = check(bchg, MASKED)
    assert whole.n_trajectories > 100
    np.testing.assert_allclose(pieces.expectation, whole.expectation, rtol=ROUNDING)
    np.testing.assert_allclose(pieces.covariance, whole.covariance, rtol=ROUNDING)
    assert pieces.total_probability == pytest.approx(1.0, abs=ROUNDING)


def test_expectation_and_covariance_of_a_bandit_are_known_by_hand():
    # the indicator of the action has the mean pi and the covariance diag(pi) - pi pi^T
    problem, theta = tb.problems.bandit(leader_reward=[0.0, 1.0, 5.0]), np.array([0.0, 1.0, 3.0])
    pi = np.exp(theta) / np.exp(theta).sum()

    def indicator(view, batch):
        return np.eye(3)[batch.actions[:, 0]]

    report = tb.check_by_enumeration(indicator, problem, theta, target=pi, horizon=1)
    assert report.passed
    assert report.n_trajectories == 3
    np.testing.assert_allclose(report.expectation, pi, atol=ROUNDING)
    np.testing.assert_allclose(report.covariance, np.diag(pi) - np.outer(pi, pi), atol=ROUNDING)
    spread = np.sqrt(pi * (1.0 - pi))  # of a coin toss
    np.testing.assert_allclose(report.standard_deviation, spread, atol=ROUNDING)
    for size in (2, 3):
        several = tb.check_by_enumeration(
            indicator, problem, theta, target=pi, horizon=1, batch_size=size
        )
        assert several.passed
        assert several.n_trajectories == 3
        np.testing.assert_allclose(several.covariance, report.covariance / size, atol=ROUNDING)


def test_the_covariance_is_that_of_samples():
    theta = somewhere(MASKED)
    report = check(bchg, MASKED)
    view = tb.LeaderView(MASKED, theta)
    rows = bchg(view, view.sample(100_000, steps=4, rng=0))
    # a covariance of 100,000 rows is off by about 0.5 %, more where tails are heavy
    bound = 0.03 * report.covariance.max()
    np.testing.assert_allclose(np.cov(rows.T), report.covariance, rtol=0, atol=bound)
    error = np.sqrt(np.diag(report.covariance) / len(rows))
    assert (np.abs(rows.mean(axis=0) - report.expectation) < 5.0 * error).all()


@sizes("horizon", [2], [1])
@pytest.mark.parametrize(
    "problem",
    [
        tb.problems.garnet(n_states=3, n_actions=2, branching=2, n_parameters=3, rng=2),
        tb.problems.random_game(n_states=2, n_actions=2, branching=2, rng=2),
    ],
    ids=["garnet", "game"],
)
def test_trajectories_that_are_cut_lead_to_the_methods_own_target(problem, horizon):
    for method in (tb.BoltzmannCovariance, tb.NaivePolicyGradient):
        estimator = method(tb.Interaction(tb.Episodes(1, horizon)))
        target = estimator.target(problem, somewhere(problem))
        report = check(estimator, problem, horizon=horizon, target=target)
        assert report.difference <= ROUNDING
        assert report.passed
        # what is cut is missing in the exact gradient
        assert not check(estimator, problem, horizon=horizon).passed


def test_sobirl_and_the_naive_gradient_come_to_their_targets_and_not_to_the_gradient():
    problem = moving_rewards(tb.problems.layered(depth=3, width=2, rng=3))
    for estimator in (tb.SoBiRL(), tb.SoBiRL(discounted=True), tb.NaivePolicyGradient()):
        target = estimator.target(problem, somewhere(problem))
        assert check(estimator, problem, target=target).difference <= ROUNDING
        assert check(estimator, problem).verdict is tb.Verdict.BIASED
    # a critic that learns from one trajectory leaves a bias
    learning = tb.BoltzmannCovariance(tb.Interaction(critic=tb.MonteCarloCritic()))
    assert check(learning, problem).verdict is tb.Verdict.BIASED


def test_exact_values_are_computed_once(monkeypatch):
    def fail(self, *arguments, **more):
        raise AssertionError("the exact critic was asked for each trajectory")

    monkeypatch.setattr(tb.ExactCritic, "values", fail)
    assert check(tb.BoltzmannCovariance(), LAYERED).passed


def test_a_simulator_is_where_trajectories_come_from():
    other = tb.problems.layered(branching=3, rng=3)
    estimator = tb.BoltzmannCovariance(tb.Interaction(simulator=other))
    theta = somewhere(LAYERED)
    target = estimator.target(LAYERED, theta)
    report = check(estimator, LAYERED, target=target)
    assert report.difference <= ROUNDING
    assert report.n_trajectories == tb.count_trajectories(
        other.model(theta), policy=tb.solve_follower(LAYERED.model(theta)).policy
    )


def test_a_gradient_of_zero_is_judged_by_the_size_of_estimates():
    report = check(lambda view, batch: np.zeros((len(batch.lengths), 4)), LAYERED, target=[0] * 4)
    assert report.passed
    assert report.difference == 0.0

    def score(view, batch):  # of the first state: its mean is 0
        return view.jacobian.log_initial[batch.states[:, 0]]

    assert check(score, LAYERED, target=np.zeros(4)).passed
    report = check(lambda view, batch: score(view, batch) + 1e-9, LAYERED, target=np.zeros(4))
    assert report.verdict is tb.Verdict.BIASED
    assert "standard deviation of an estimate" in str(report)


# ---------------------------------------------------------------- controls


@sizes(
    ("mistake", "problem", "dtype"),
    [
        ("no 1/temperature", LAYERED, np.float64),
        ("V[-1] at the end", LAYERED, np.float64),
        ("padding is steps", MASKED, np.float32),
        ("no gamma^t", GAME, np.float64),
    ],
    [
        ("no gamma^t", LAYERED, np.float32),
        ("no 1/temperature", GAME, np.float32),
        ("V[-1] at the end", GAME, np.float32),
    ],
)
def test_mistakes_are_seen(mistake, problem, dtype):
    report = check(mistaken(mistake, dtype=dtype), problem)
    assert report.verdict is tb.Verdict.BIASED
    assert report.difference > 10.0 * report.tolerance
    with pytest.raises(tb.CheckFailedError, match="Enumeration check: BIASED"):
        report.raise_if_failed()


def test_a_bias_of_a_part_in_a_million_million_is_seen():
    report = check(lambda view, batch: (1.0 + 1e-12) * bchg(view, batch), GAME, tolerance=1e-13)
    assert not report.passed
    assert report.difference == pytest.approx(1e-12, rel=0.1)
    assert check(bchg, GAME, tolerance=1e-13).passed


@sizes("name", ["game, seen"], [name for name in PROBLEMS if name != "game, seen"])
def test_single_precision_has_a_tolerance_of_its_own(name):
    problem = PROBLEMS[name]
    report = check(mistaken("", dtype=np.float32), problem)
    assert report.passed
    assert report.dtype == "float32"
    assert 1e-10 < report.difference < report.tolerance < 1e-3
    assert f"tolerance {report.tolerance:.2g} for float32" in str(report)
    double = check(lambda view, batch: bchg(view, batch, dtype=np.float32).astype(float), problem)
    assert not double.passed  # what says it is float64 is judged as that


def test_bfloat16_is_known_by_its_name():
    class Coarse:
        dtype = "torch.bfloat16"

        def __init__(self, rows):
            self.rows = rows

        def __array__(self, dtype=None, copy=None):
            return self.rows

    report = check(lambda view, batch: Coarse(bchg(view, batch)), GAME)
    assert report.passed
    assert report.dtype == "bfloat16"
    assert report.tolerance > 0.1


# ---------------------------------------------------------------- batches


def reinforced(view, batch, *, baseline):
    """BC-HG, but for the direct term: the whole return times the whole score."""
    discounts = view.leader_discount ** np.arange(batch.states.shape[1])
    returns = (discounts * batch.leader_reward).sum(axis=1)
    jacobian = view.jacobian
    score = jacobian.log_initial[batch.states[:, 0]].copy()
    through = np.zeros_like(score)
    trace = np.zeros(len(returns))
    for t, discount in enumerate(discounts):
        s, a, following = batch.states[:, t], batch.actions[:, t], batch.next_states[:, t]
        trace = view.follower_discount * trace
        trace += discount * view.leader_advantage[s, a] / view.temperature
        on = following >= 0
        log_f = jacobian.log_transition[batch.entries[on, t]]
        score[on] += log_f
        worth = view.follower_discount * trace[on] * view.follower_value[following[on]]
        through[on] += worth[:, None] * log_f
    return (returns - baseline(returns))[:, None] * score + through


def of_the_others(returns):
    return (returns.sum() - returns) / (returns.size - 1)


def test_a_baseline_from_the_other_trajectories_is_unbiased_and_one_from_all_is_not():
    right = functools.partial(reinforced, baseline=of_the_others)
    wrong = functools.partial(reinforced, baseline=np.mean)
    game = tb.problems.layered_game(depth=1, width=2, rng=8)
    report = check(right, game, batch_size=2)
    assert report.passed
    assert report.difference <= ROUNDING
    assert report.total_probability == pytest.approx(1.0, abs=ROUNDING)
    assert f"all {report.n_trajectories} trajectories in batches of 2" in str(report)
    assert check(wrong, game, batch_size=2).verdict is tb.Verdict.BIASED


def test_what_averages_over_visits_depends_on_the_size_of_the_batch():
    estimator = tb.HyperPolicyGradient()
    problem = PROBLEMS["bandit of one step"]
    exact = tb.hypergradient(problem, somewhere(problem)).gradient
    gaps = [
        np.linalg.norm(check(estimator, problem, batch_size=k).expectation - exact)
        for k in (1, 2, 4)
    ]
    assert gaps[0] > gaps[1] > gaps[2] > 0.1 * gaps[0]


def test_rows_that_depend_on_their_neighbours_are_judged_on_single_trajectories_first():
    report = check(functools.partial(reinforced, baseline=np.mean), SMALL_GAME)
    assert report.verdict is tb.Verdict.BIASED  # alone, each is its own baseline
    assert report.batch_size == 1
    # 0 / 0, and where it happened
    with pytest.raises(RuntimeWarning, match="invalid value") as caught:
        check(functools.partial(reinforced, baseline=of_the_others), SMALL_GAME)
    (note,) = caught.value.__notes__
    assert note.startswith("in an estimate from trajectory 0: states [0, 4], actions [0, 0]")


# ---------------------------------------------------------------- how they are put together

# 4 trajectories, so 10 batches of two and 20 of three.
SMALL = tb.problems.layered(depth=1, width=2, n_actions=2, n_parameters=3, rng=4)


def last(rows):
    return rows[-1]


def trimmed(rows):
    return np.sort(rows, axis=0)[: max(1, len(rows) - 1)].mean(axis=0)


def over_all_but_one(rows):
    return rows.sum(axis=0) / max(1, len(rows) - 1)


def put_together(how):
    return lambda view, batch: how(bchg(view, batch))


@pytest.mark.parametrize(
    ("how", "size"),
    [
        (functools.partial(np.sum, axis=0), 2),
        (functools.partial(np.median, axis=0), 3),  # of two it is the mean
        (functools.partial(np.max, axis=0), 2),
        (trimmed, 2),
        (over_all_but_one, 2),
        (lambda rows: rows.mean(axis=0) / np.sqrt(len(rows)), 2),
        (lambda rows: rows.mean(axis=0) * (1.0 + 1e-9 * (len(rows) > 2)), 3),
    ],
)
def test_what_is_right_on_one_trajectory_and_put_together_wrongly_is_biased(how, size):
    report = check(put_together(how), SMALL)
    assert report.verdict is tb.Verdict.BIASED
    assert report.batch_size == size
    assert f"have the right mean, batches of {size} do not" in str(report)


def test_the_mean_is_said_to_be_one():
    rows = check(bchg, SMALL)
    once = check(put_together(functools.partial(np.mean, axis=0)), SMALL)
    said = "batches of 2 and 3 are the mean of single trajectories, in all 60 tried"
    for report in (rows, once, check(tb.BoltzmannCovariance(), SMALL)):
        assert report.passed
        assert report.batch_size == 1
        assert said in str(report)
    by_size = check(bchg, SMALL, batch_size=2)
    assert by_size.passed
    assert by_size.combination == ""


def gently_of_the_others(returns):
    return (returns.sum() - returns) / max(returns.size - 1, 1)


@pytest.mark.parametrize("mean", [False, True])
def test_a_baseline_from_the_others_passes_by_all_pairs_and_triples(mean):
    problem = tb.problems.layered_game(depth=1, width=2, rng=8)
    right = functools.partial(reinforced, baseline=gently_of_the_others)
    of_all = functools.partial(
        reinforced, baseline=lambda returns: returns.mean() * (returns.size > 1)
    )
    for rows, passes in ((right, True), (of_all, False)):
        estimator = (lambda view, batch, f=rows: f(view, batch).mean(axis=0)) if mean else rows
        report = check(estimator, problem)
        assert report.passed is passes
        assert "a batch is not the mean of single trajectories: " in str(report)
        found = re.search(r"but all [\d,]+ batches of 2 and [\d,]+ batches of 3 have", str(report))
        assert found or not passes


def test_where_the_order_matters_all_orders_are_gone_through():
    report = check(put_together(last), SMALL)
    assert report.passed
    assert "16 batches of 2 and 64 batches of 3" in report.combination
    weighted = put_together(lambda rows: (rows * np.linspace(2.0, 1.0, len(rows))[:, None]).sum(0))
    assert check(weighted, SMALL, batch_size=2).verdict is tb.Verdict.BIASED
    assert check(put_together(last), SMALL, batch_size=2).passed


def test_too_many_batches_are_not_passed_and_that_is_said():
    median = put_together(functools.partial(np.median, axis=0))
    report = check(median, SMALL, limit=15)
    assert report.verdict is tb.Verdict.INCONCLUSIVE
    assert not report.passed
    assert report.reason.startswith("20 batches of 3 are more than the limit of 15")
    assert check(bchg, SMALL, limit=4).passed  # the mean needs none of them


def test_a_wrong_pullback_is_broken():
    doubled = Plain(SMALL, pullback=lambda *at: 2.0 * SMALL.pullback(*at))
    report = check(tb.BoltzmannCovariance(), doubled)
    assert report.verdict is tb.Verdict.BROKEN
    assert "pullback: the problem's pullback does not fit its model" in str(report)
    assert check(bchg, SMALL).pullback_checked


# ---------------------------------------------------------------- reports


def test_a_report_says_what_was_asked_for():
    report = check(bchg, GAME)
    assert report.asked == ("follower_value", "leader_advantage", "leader_value")
    assert "; asked for follower_value, leader_advantage, leader_value\n" in str(report)

    def direct(view, batch):
        weight = view.leader_discount ** np.arange(batch.states.shape[1]) * batch.mask
        return (weight[..., None] * view.jacobian.leader_reward[batch.states, batch.actions]).sum(1)

    assert "nothing that a decentralised leader lacks" in str(check(direct, LAYERED))
    whole = check(tb.BoltzmannCovariance(), SMALL)
    assert whole.asked is None
    assert "asked" not in str(whole)


def test_a_bar_shows_the_number_first(capsys):
    def fail(view, batch):
        raise RuntimeError("at work")

    with pytest.raises(RuntimeError):
        check(fail, LAYERED, progress=True)
    assert "0/384" in capsys.readouterr().err
    check(one_by_one, LAYERED, progress=True)
    assert "384/384" in capsys.readouterr().err


# ---------------------------------------------------------------- what is refused


def idle(view, batch):
    raise AssertionError("work was begun")


def test_what_cannot_be_gone_through_is_refused_before_any_work():
    for problem, settings, message in (
        (LAYERED, {"limit": 383}, "there are 384 trajectories, more than the limit of 383"),
        (
            LAYERED,
            {"batch_size": 2, "limit": 384},
            "there are 384 trajectories, 73,920 batches of 2, more than the limit of 384",
        ),
        (
            tb.problems.four_rooms(),
            {"horizon": 1000},
            "there are about 10^1189 trajectories, more than the limit of 1,000,000",
        ),
        (tb.problems.garnet(), {}, "can be visited twice, so no trajectory is the longest"),
        (LAYERED, {"limit": 0}, "limit is 0, not a positive whole number"),
        (LAYERED, {"batch_size": 0}, "batch_size is 0, not a positive whole number"),
        (LAYERED, {"horizon": 1.5}, "horizon is 1.5, not a positive whole number"),
        (LAYERED, {"tolerance": 0.0}, "tolerance is 0.0, not a positive finite number"),
        (LAYERED, {"target": [1.0]}, "target has shape (1,), not (4,)"),
    ):
        assert message in refusal(check, idle, problem, **settings)


def test_a_theta_without_entries_is_refused():
    message = "theta has no entries, so there is no gradient"
    assert_refused(message, tb.check_by_enumeration, idle, LAYERED, [])


def doubled(kind):
    """Make an heir that is called otherwise."""

    def call(self, problem, theta, **settings):
        right = kind.__call__(self, problem, theta, **settings)
        return replace(right, gradient=2.0 * right.gradient)

    return type("Twice", (kind,), {"__call__": call})


def test_an_heir_is_called_as_it_says():
    twice, once = doubled(tb.BatchEstimator)(bchg), tb.BatchEstimator(bchg)
    found = [
        as_estimator(each).at(LAYERED, np.zeros(4))(np.random.default_rng(0))
        for each in (twice, once)
    ]
    np.testing.assert_array_equal(found[0].gradient, 2.0 * found[1].gradient)


def test_estimators_that_cannot_be_enumerated_are_refused():
    for estimator, message in (
        (tb.ZeroOrder(), "which draws its own data"),
        (doubled(tb.BoltzmannCovariance)(), "whose __call__ is newer than its enumerable"),
        (doubled(tb.BatchEstimator)(bchg), "whose __call__ is newer than its enumerable"),
        (
            tb.HyperPolicyGradient(oracle=tb.Episodes(5)),
            "estimator draws a sample of its own, from Episodes(n_trajectories=5",
        ),
        (
            tb.BoltzmannCovariance(tb.Interaction(critic=tb.SarsaCritic())),
            "the critic draws random numbers (rng.permutation), which enumeration does not go",
        ),
        (
            lambda view, batch: np.random.default_rng().normal(size=(len(batch.lengths), 4)),
            "estimates of the same trajectories differ from call to call",
        ),
        (lambda view, batch: [1.0, 2.0], "estimate has shape (2,), neither (2, 4), a gradient for"),
        (lambda view, batch: batch.lengths, "estimate has shape (2,), neither (2, 4)"),
        (
            lambda view, batch: bchg(view, batch) * [1.0, np.nan, 1.0, 1.0],
            "estimate[1] is nan, not a finite number, from trajectory 0: states [0, 3, 6, 9], "
            "actions [0, 0, 0, 0]",
        ),
        (
            lambda view, batch: [0.0, 0.0, np.inf, 0.0],
            "estimate[2] is inf, not a finite number, from trajectories 0, 383, 0 with: states",
        ),
    ):
        assert message in refusal(check, estimator, LAYERED)


def test_a_number_that_is_not_finite_is_traced_to_its_trajectory():
    model = MASKED.model(somewhere(MASKED))
    every = AllTrajectories(model, tb.solve_follower(model).policy)
    sample, _ = every.take(np.array([41]))

    def once(view, batch):
        rows = bchg(view, batch)
        same = [
            (getattr(batch, name) == getattr(sample, name)).all(axis=1)
            for name in ("states", "actions", "next_states")
        ]
        rows[np.all(same, axis=0), 2] = -np.inf
        return rows

    steps = slice(sample.lengths[0])
    assert refusal(check, once, MASKED).startswith(
        "estimate[2] is -inf, not a finite number, from trajectory 41: states "
        f"{sample.states[0, steps].tolist()}, actions {sample.actions[0, steps].tolist()}"
    )


def test_an_error_says_from_which_trajectories_it_came():
    def picky(view, batch):
        if len(batch.lengths) > 3:
            raise KeyError("many")
        return bchg(view, batch)

    with pytest.raises(KeyError, match="many") as caught:
        check(picky, LAYERED)
    (note,) = caught.value.__notes__
    assert note.startswith("in an estimate from 384 trajectories from number 0, 0 with: states [")


def test_tables_with_few_digits_are_refused_or_allowed_for():
    base = LAYERED.base
    nine_digits = replace(base, initial=base.initial * (1.0 - 1e-9))
    problem = moving_rewards(LAYERED, nine_digits)
    message = "trajectories have the probability 0.999999999 in all, not 1 to the tolerance"
    assert message in refusal(check, bchg, problem)
    assert check(bchg, problem, tolerance=1e-8).passed


def test_twins_of_the_multinomial_numbers_agree():
    numbers = np.array(list(itertools.combinations_with_replacement(range(3), 4)))
    counted = [len(set(itertools.permutations(row))) for row in numbers.tolist()]
    np.testing.assert_array_equal(enumeration._arrangements(numbers), counted)


def test_a_sum_for_a_mean_is_named():
    layered = tb.problems.layered(depth=2, width=2, n_actions=2)

    class Summed:
        """BC-HG's estimates of single trajectories, added up."""

        interaction = tb.Interaction()

        def estimate(self, experience):
            found = tb.BoltzmannCovariance().estimate(experience)
            return experience.trajectories.count * found.gradient

    report = tb.check_by_enumeration(Summed(), layered, np.full(layered.n_parameters, 0.1))
    assert report.verdict is tb.Verdict.BIASED
    assert report.batch_size == 2
    assert report.diagnosis.best.name == "sum for mean"


@pytest.mark.parametrize(
    ("name", "passes"), [("half", True), ("sign flipped", False), ("no 1/temperature", False)]
)
def test_directions_are_compared_up_to_scale(name, passes):
    layered = tb.problems.layered(depth=2, width=2, n_actions=2, temperature=0.5)
    theta = np.full(layered.n_parameters, 0.1)
    report = tb.check_by_enumeration(tb.controls()[name], layered, theta, up_to_scale=True)
    assert report.passed == passes
    if passes:
        assert report.times == pytest.approx(0.5)
        assert "up to scale: 0.5 times the target" in str(report)
    else:
        assert name in {report.diagnosis.best.name, *report.diagnosis.best.alike}
    settings = {"target": 0.0 * theta, "up_to_scale": True}
    found = refusal(tb.check_by_enumeration, tb.controls()[name], layered, theta, **settings)
    assert found.startswith("target is 0, which has no direction to compare")
