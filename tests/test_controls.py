"""Estimators that are wrong on purpose: each has exactly the expectation that it says."""

import re
from functools import cache, partial

import numpy as np
import pytest
from sizes import pairs, sizes
from small import assert_refused, at, somewhere

import tabular_bilevel as tb
from tabular_bilevel.checks.diagnosis import Candidates
from tabular_bilevel.mistakes.knowledge import cut, replayed, right_limit
from tabular_bilevel.mistakes.register import FAULTS, RIGHT, cut_after

pytestmark = pytest.mark.usefixtures("once_a_problem")

# Sums of some hundred products.
ROUNDING = 1e-10

# Trajectories are cut where a part in 10^8 is left, of sums that may cancel.
NEGLIGIBLE = 1e-6

# Probability that a test here fails by chance; seeds are fixed, so one that passes goes on passing.
CHANCE = 1e-4

SQUARE = "type octile\nheight 2\nwidth 2\nmap\n..\n.@\n"

SHORT = {"follower_discount": 0.7, "leader_discount": 0.8, "temperature": 0.4}

SMALL, CYCLIC = {"depth": 3, "width": 2}, {"branching": 2, "n_actions": 2, **SHORT}
HIDDEN = {"follower_observes_leader": False}

# Where trajectories end by themselves, and where they are cut after so many steps.
PROBLEMS = {
    "layered": (tb.problems.layered(**SMALL, rng=3), None),
    "game, seen": (tb.problems.layered_game(**SMALL, rng=4), None),
    "game, hidden": (tb.problems.layered_game(**SMALL, **HIDDEN, rng=5), None),
    "masked": (tb.problems.zoo.named("masked layers").problem, 2),
    "garnet": (tb.problems.garnet(n_states=3, n_parameters=3, **CYCLIC), 2),
    "bandit": (tb.problems.bandit(**SHORT), 4),
    "two states": (tb.problems.two_state(), 4),
    "grid": (tb.problems.grid_world(SQUARE, **SHORT), 2),
    "cyclic game": (tb.problems.random_game(n_states=2, rng=1, **CYCLIC), 2),
}
each_problem = pytest.mark.parametrize("name", PROBLEMS)


def right_ones(name, horizon=None):
    return right_limit(*at(PROBLEMS[name][0]), horizon=horizon)


@cache
def suspected(name):
    return Candidates(*at(PROBLEMS[name][0])).singles


def close(found, wanted, *, rtol=ROUNDING):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=rtol * np.abs(wanted).max())


# ---------------------------------------------------------------- expectations


@each_problem
def test_the_right_ingredients_make_the_hypergradient(name):
    problem, horizon = PROBLEMS[name]
    exact = tb.hypergradient(*at(problem)).gradient
    rtol = ROUNDING if horizon is None else NEGLIGIBLE
    close(RIGHT.estimate(right_ones(name)).gradient, exact, rtol=rtol)


QUICK, SLOW = pairs(PROBLEMS, FAULTS)


@sizes(("name", "fault"), QUICK[::4], SLOW + [pair for k, pair in enumerate(QUICK) if k % 4])
def test_the_expectation_over_all_trajectories_is_the_controls_target(name, fault):
    problem, horizon = PROBLEMS[name]
    theta, control = somewhere(problem), tb.controls()[fault]
    wrong = FAULTS[fault].known(right_limit(problem, theta))
    if wrong is None:
        return
    check = partial(tb.check_by_enumeration, control, problem, theta, horizon=horizon)
    if FAULTS[fault].together:
        assert_refused("depends on all trajectories of an estimate together", check)
        return
    if wrong.law.restarts:
        assert_refused("needs episodes in a row, which enumeration does not", check)
        return
    seen = wrong if horizon is None else cut(wrong, min(horizon, wrong.law.horizon))
    wanted = FAULTS[fault].estimate(seen).gradient
    report = check(target=wanted, tolerance=ROUNDING)
    assert report.passed, report


def assert_met(control, problem, theta):
    """See that estimates that a control draws have its target."""
    settings = {"target": control.target(problem, theta), "false_alarm_rate": CHANCE, "rng": 0}
    report = tb.check_estimator(control, problem, theta, **settings)
    assert report.passed, report


@pytest.mark.slow
@sizes("name", ["grid"], ["masked"])
def test_episodes_in_a_row_have_the_controls_target(name):
    problem, theta = at(PROBLEMS[name][0])
    control = tb.controls(n_trajectories=40)["next episode counted as this one"]
    assert_met(control, problem, theta)
    exact = tb.hypergradient(problem, theta).gradient
    assert np.abs(control.target(problem, theta) - exact).max() > 0.1 * np.abs(exact).max()


@sizes(
    "fault",
    ["influence one step late"],
    ["simulator slips more than the planner", "averaged follower"],
)
def test_estimates_drawn_by_a_control_have_its_target(fault):
    settings = {**SHORT, "temperature": 0.5}
    problem = tb.problems.random_game(n_states=3, n_actions=2, rng=3, **settings)
    assert_met(tb.controls(n_trajectories=100)[fault], *at(problem))


TOGETHER = [name for name, fault in FAULTS.items() if fault.together]


@pytest.mark.parametrize("fault", TOGETHER)
def test_what_depends_on_all_trajectories_together_has_its_target_with_many(fault):
    problem = tb.problems.layered(depth=4, width=2, rng=3)
    theta, control = somewhere(problem), tb.controls(n_trajectories=2000)[fault]
    limit = control.limit(problem, theta)
    if "finished" in fault:
        problem, theta = at(tb.problems.zoo.named("episodic").problem)
        limit = cut(control.limit(problem, theta), 3)  # else all episodes end
    rows = [
        FAULTS[fault].estimate(limit.seeing(limit.law.sample(2000, rng=stream))).gradient
        for stream in np.random.default_rng(0).spawn(40)
    ]
    wanted, right = (each.estimate(limit).gradient for each in (FAULTS[fault], RIGHT))
    error = np.std(rows, axis=0) / np.sqrt(len(rows))
    # a ratio of means of 2,000 trajectories is biased by about 1 / 2,000
    allowed = 5.0 * error + 2e-3 * np.abs(wanted).max()
    assert (np.abs(np.mean(rows, axis=0) - wanted) < allowed).all()
    assert np.abs(wanted - right).max() > 0.02 * np.abs(right).max()


# ---------------------------------------------------------------- what shows where


@each_problem
def test_suspects_are_the_faults_that_change_something(name):
    right, found = right_ones(name), suspected(name)
    exact = RIGHT.estimate(right).gradient
    for fault in FAULTS.values():
        target = fault.target(right)
        if target is None or np.abs(target - exact).max() <= 1e-7 * np.abs(exact).max():
            assert fault not in found, fault.name
        elif np.abs(target - exact).max() > 1e-5 * np.abs(exact).max():
            close(found[fault], target, rtol=1e-10)


def test_each_fault_shows_somewhere():
    seen = {fault.name for name in PROBLEMS for fault in suspected(name)}
    long = tb.problems.bandit(temperature=0.5, leader_discount=0.98)
    seen |= {fault.name for fault in Candidates(*at(long)).singles}
    seen |= {fault.name for fault in Candidates(PLAIN, HERE, count=10).singles}
    warm = tb.FeatureProblem(PLAIN.base, temperature=[1.0])
    seen |= {fault.name for fault in Candidates(warm, np.zeros(1)).singles}
    assert set(FAULTS) - seen == set()


@pytest.mark.parametrize(
    ("settings", "harmless"),
    [
        ({"temperature": 1.0}, {"no 1/temperature", "1/temperature squared"}),
        (
            {"follower_discount": 0.6, "leader_discount": 0.6},
            {
                "discounts swapped",
                "follower's discount for the leader's",
                "leader's discount for the follower's",
            },
        ),
        (
            {"follower_discount": 0.0, "leader_discount": 0.0},
            {
                "no discount**t in the covariance",
                "normalised occupancy",
                "undiscounted influence",
                "no eligibility",
                "only the first decision counts",
            },
        ),
    ],
)
def test_faults_do_not_show_where_what_they_touch_does_not_matter(settings, harmless):
    usual = {"n_states": 4, "n_parameters": 3, **SHORT}
    problem = tb.problems.garnet(**{**usual, **settings})
    assert not {fault.name for fault in Candidates(*at(problem)).singles} & harmless
    plain = tb.problems.garnet(**usual)
    assert harmless <= {fault.name for fault in Candidates(*at(plain)).singles}


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("averaged follower", tb.problems.garnet()),
        ("averaged follower", tb.problems.random_game(follower_observes_leader=False)),
        ("next episode counted as this one", tb.problems.garnet()),
        ("cut after 100 steps", tb.problems.garnet(follower_discount=0.5, leader_discount=0.5)),
        ("last step missing", tb.problems.bandit()),
        ("simulator slips more than the planner", tb.problems.bandit()),
        ("simulator slips less than the planner", tb.problems.garnet()),
    ],
)
def test_a_fault_that_is_not_defined_says_so(fault, problem):
    control, theta = tb.controls()[fault], np.zeros(problem.n_parameters)
    message = re.escape(f"{fault!r} is not defined for this problem")
    for ask in (control.target, control.limit, lambda *at: control(*at, rng=0)):
        assert_refused(message, ask, problem, theta)
    report = tb.check_estimator(control, problem, theta, rng=0)
    assert report.verdict is tb.Verdict.BROKEN
    assert "is not defined for this problem" in report.trouble
    assert fault not in {suspect.name for suspect in Candidates(problem, theta).singles}


def test_controls_have_settings_and_check_them():
    assert {control.n_trajectories for control in tb.controls(n_trajectories=7).values()} == {7}
    with pytest.raises(ValueError, match="n_trajectories is 0, not a positive whole number"):
        tb.controls(n_trajectories=0)


# ---------------------------------------------------------------- independent answers

DISCOUNTS = {"follower_discount": 0.6, "leader_discount": 0.7}
PLAIN, HERE = at(tb.problems.garnet(n_states=5, n_parameters=3, temperature=0.4, **DISCOUNTS))
EXACT = tb.hypergradient(PLAIN, HERE)
RESPONSE, EVALUATION = EXACT.response, EXACT.evaluation


def part_through_follower(influence):
    """Pull back an influence measure, by the sensitivities of theory.md section 4."""
    model = EXACT.model
    flow = model.follower_discount * influence.ravel()[model.entry_row]
    measures = tb.Sensitivities.of(
        model,
        follower_reward=influence.copy(),
        transition=flow * RESPONSE.value[model.transition.indices],
    )
    return PLAIN.pullback(HERE, measures)


def influence(source, discount):
    """Solve mu = source + pi * discount * (what arrives of mu), densely."""
    policy = RESPONSE.policy
    onward = EXACT.model.transition.toarray()[:, :, None] * policy[None, :, :]
    flow = onward.reshape(policy.size, policy.size)
    return np.linalg.solve(np.eye(policy.size) - discount * flow.T, source.ravel()).reshape(
        policy.shape
    )


def occupancy(discount):
    """Count visits of pairs, discounted."""
    return influence(EXACT.model.initial[:, None] * RESPONSE.policy, discount)


ADVANTAGE = EVALUATION.action_value - EVALUATION.value[:, None]
LEADER, FOLLOWER, TEMPERATURE = 0.7, 0.6, 0.4

CREDIT = occupancy(LEADER) * ADVANTAGE / TEMPERATURE
TOWARDS = occupancy(LEADER) * EVALUATION.action_value / TEMPERATURE

KNOWN = {
    "sign flipped": -EXACT.gradient,
    "through-follower term sign-flipped": EXACT.direct - EXACT.indirect,
    "direct term dropped": EXACT.indirect,
    "through-follower term dropped": EXACT.direct,
    "normalised occupancy": (1.0 - LEADER) * EXACT.gradient,
    "no 1/temperature": EXACT.direct + TEMPERATURE * EXACT.indirect,
    "1/temperature squared": EXACT.direct + EXACT.indirect / TEMPERATURE,
    "influence one step early": EXACT.direct + FOLLOWER * EXACT.indirect,
    "no eligibility": EXACT.direct + part_through_follower(CREDIT),
    "only the first decision counts": EXACT.direct
    + part_through_follower(occupancy(0.0) * ADVANTAGE / TEMPERATURE),
    "leader's discount for the follower's": EXACT.direct
    + part_through_follower(influence(CREDIT, LEADER)),
    "influence one step late": EXACT.direct
    + part_through_follower(influence(CREDIT, FOLLOWER) - CREDIT),
    "action value for advantage": EXACT.direct
    + part_through_follower(influence(TOWARDS, FOLLOWER)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_targets_are_the_numbers_that_linear_algebra_gives(name):
    close(tb.controls()[name].target(PLAIN, HERE), KNOWN[name], rtol=NEGLIGIBLE)


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_a_cut_has_the_target_of_the_method_that_makes_it(steps):
    cut = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(1, steps)))
    close(tb.controls()[f"cut after {steps} steps"].target(PLAIN, HERE), cut.target(PLAIN, HERE))


def test_a_cut_of_any_length_is_a_fault():
    cut = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(1, 7)))
    fault = cut_after(7)
    assert fault.name == "cut after 7 steps"
    close(fault.target(right_limit(PLAIN, HERE)), cut.target(PLAIN, HERE))
    assert fault.target(right_limit(PLAIN, HERE, horizon=7)) is None


@pytest.mark.parametrize("sweeps", [1, 5])
def test_a_stale_follower_has_the_target_of_the_method_that_meets_it(sweeps):
    follower = tb.StoppedValueIteration(sweeps=sweeps, warm_start=False)
    method = tb.BoltzmannCovariance(tb.Interaction(follower=follower))
    control = tb.controls()[f"follower stopped after {sweeps} sweeps"]
    for problem in (PLAIN, tb.problems.two_state()):
        close(control.target(*at(problem)), method.target(*at(problem)))


def test_a_follower_that_sweeps_long_enough_is_not_stale():
    stale = FAULTS["follower stopped after 20 sweeps"]
    quick = tb.problems.garnet(follower_discount=0.1, leader_discount=0.7, n_parameters=3)
    right = right_limit(quick, HERE)
    close(stale.target(right), RIGHT.estimate(right).gradient)


def test_the_simulators_mismatch_is_that_of_the_published_four_rooms():
    # A slip of 0.44 is mixed with its mean so that it becomes 0.33: 1 - 4/3 * 0.33 is 0.56,
    # 1 - 4/3 * 0.44 is 0.4133, their quotient 1.355.
    (planner, theta), simulator = at(tb.problems.four_rooms()), tb.problems.four_rooms(slip=0.33)
    control = tb.controls()["simulator slips less than the planner"]
    world, wanted = control.limit(planner, theta).law.source, simulator.model(theta)
    share = abs(world.transition - wanted.transition).max()
    assert share < 2e-4  # the share has three digits
    method = tb.BoltzmannCovariance(tb.Interaction(simulator=simulator))
    exact = tb.hypergradient(planner, theta).gradient
    off = np.linalg.norm(method.target(planner, theta) - exact)
    apart = np.linalg.norm(control.target(planner, theta) - method.target(planner, theta))
    assert apart < 2e-3 * off


def test_slipping_keeps_rows_sums_and_what_they_reach():
    problem = PROBLEMS["masked"][0]
    limit = tb.controls()["simulator slips more than the planner"].limit(*at(problem))
    model, world = limit.planned, limit.law.source
    np.testing.assert_allclose(world.row_mass, model.row_mass, rtol=1e-14)
    np.testing.assert_array_equal(world.transition.data > 0, model.transition.data > 0)
    np.testing.assert_array_equal(world.transition.indices, model.transition.indices)
    assert abs(world.transition - model.transition).max() > 0.01


def game(**settings):
    usual = {"n_states": 3, "n_actions": 2, "temperature": 0.3, "rng": 2}
    return tb.problems.random_game(**{**usual, **settings})


def test_the_averaged_follower_of_a_leader_that_does_not_mix_is_the_right_one():
    problem = game()
    chosen = np.array([1, 0, 1])
    theta = np.where(np.arange(2) == chosen[:, None], 400.0, -400.0).ravel()
    right = right_limit(problem, theta)
    wrong = FAULTS["averaged follower"].known(right)
    np.testing.assert_allclose(wrong.response.value, right.response.value, rtol=1e-9)
    np.testing.assert_allclose(wrong.response.policy, right.response.policy, atol=1e-9)
    right = right_limit(problem, np.zeros(6))
    mixed = FAULTS["averaged follower"].known(right)
    assert np.abs(mixed.response.value - right.response.value).max() > 1e-3


def test_the_averaged_follower_backs_up_the_soft_maximum_of_averages():
    problem, theta = game(follower_discount=0.5), 0.5 * np.arange(6.0)
    wrong = FAULTS["averaged follower"].known(right_limit(problem, theta))
    policy, beta = problem.leader_policy(theta), problem.temperature
    kernel = problem.transition.toarray().reshape(3, 2, 2, 3)
    value = np.zeros(3)
    for _ in range(100):
        answers = problem.follower_reward + 0.5 * kernel @ value
        averages = (policy[:, :, None] * answers).sum(axis=1)
        value = beta * np.log(np.exp(averages / beta).sum(axis=1))
    np.testing.assert_allclose(wrong.response.action_value, answers.reshape(6, 2), rtol=1e-10)
    chances = np.exp(answers / beta)
    chances /= chances.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(wrong.response.policy, chances.reshape(6, 2), rtol=1e-9)


def test_the_modal_critic_of_both_follows_the_likeliest_pair_for_ever():
    problem, theta = game(leader_discount=0.6), 0.5 * np.arange(6.0)
    right = right_limit(problem, theta)
    wrong = FAULTS["modal actions of both players in the critic"].known(right)
    kernel = problem.transition.toarray().reshape(3, 2, 2, 3)
    leader, follower = problem.leader_policy(theta), right.response.policy.reshape(3, 2, 2)
    table = np.zeros((3, 2, 2))
    for _ in range(100):
        b = leader.argmax(axis=1)
        a = follower[np.arange(3), b].argmax(axis=1)
        table = problem.leader_reward + 0.6 * kernel @ table[np.arange(3), b, a]
    np.testing.assert_allclose(wrong.values.action_value, table.reshape(6, 2), atol=1e-12)
    value = (follower * table).sum(axis=2).ravel()
    np.testing.assert_allclose(wrong.values.value, value, atol=1e-12)
    # a control: the follower's mode alone is another critic
    alone = FAULTS["modal actions in the critic"].known(right)
    assert np.abs(alone.values.action_value - wrong.values.action_value).max() > 1e-3


@pytest.mark.parametrize("name", ["garnet", "cyclic game"])
def test_averaged_tails_are_divided_by_the_weights_of_the_steps_left(name):
    horizon = PROBLEMS[name][1]
    right = right_ones(name, horizon)
    found = FAULTS["influence averaged, not summed"].estimate(right).parts.indirect_measures
    # plainly: credit at t, later at u, over all pairs of times
    model, policy = right.planned, right.response.policy
    kernel = model.transition.toarray().reshape(*policy.shape, -1)
    credit = right.values.advantage / model.temperature
    follower, leader = model.follower_discount, model.leader_discount
    wanted, law = np.zeros(policy.shape), model.initial
    for t in range(horizon):
        flow = leader**t * credit * policy * law[:, None]
        flow /= sum(follower**k for k in range(horizon - t))
        for u in range(t, horizon):
            wanted += follower ** (u - t) * flow
            flow = policy * np.einsum("sa,saz->z", flow, kernel)[:, None]
        law = np.einsum("sa,sa,saz->z", policy, np.repeat(law[:, None], policy.shape[1], 1), kernel)
    np.testing.assert_allclose(found.follower_reward, wanted, atol=1e-12)
    summed = RIGHT.estimate(right).parts.indirect_measures.follower_reward
    assert np.abs(summed - wanted).max() > 0.01


def test_averages_are_known_where_play_does_not_end():
    averaged = FAULTS["influence averaged, not summed"]
    assert averaged.known(right_ones("layered")) is None
    assert averaged.known(right_ones("garnet")) is not None
    # without a follower's discount nothing follows, and there is nothing to average
    right = right_limit(*at(tb.problems.garnet(n_states=3, follower_discount=0.0)))
    close(averaged.target(right), RIGHT.estimate(right).gradient)


def test_replayed_data_have_the_old_laws_visits_and_todays_values():
    right = right_ones("garnet", 4)
    old = right_limit(PROBLEMS["garnet"][0], np.zeros(3), horizon=4)
    wrong = FAULTS["replayed data of theta = 0"].known(right)
    for found, wanted in zip(wrong.law.steps(), old.law.steps(), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert wrong.values is right.values
    assert wrong.response is right.response
    exact = RIGHT.estimate(right).gradient
    # data of now are right, and nothing is old at theta = 0
    np.testing.assert_array_equal(RIGHT.estimate(replayed(right, rate=0.0)).gradient, exact)
    at_0 = FAULTS["replayed data of theta = 0"].target(old)
    np.testing.assert_array_equal(at_0, RIGHT.estimate(old).gradient)
    assert np.abs(RIGHT.estimate(wrong).gradient - exact).max() > 1e-3 * np.abs(exact).max()


def test_another_policys_advantage_is_that_of_the_uniform_one():
    wrong = FAULTS["advantage of another policy"].known(right_limit(PLAIN, HERE))
    model = EXACT.model
    uniform = np.full((5, model.n_actions), 1.0 / model.n_actions)
    kernel = model.transition.toarray().reshape(5, -1, 5)
    value = np.linalg.solve(
        np.eye(5) - LEADER * (uniform[:, :, None] * kernel).sum(axis=1),
        (uniform * model.leader_reward).sum(axis=1),
    )
    action_value = model.leader_reward + LEADER * kernel @ value
    np.testing.assert_allclose(
        RIGHT.rule(wrong).credit, (action_value - value[:, None]) / TEMPERATURE, atol=1e-12
    )


# ---------------------------------------------------------------- odd problems


@pytest.mark.parametrize(
    "problem",
    [
        tb.problems.bandit(),
        tb.problems.bandit(leader_reward=[1.0]),
        tb.problems.bandit(leader_discount=0.9),
        tb.problems.garnet(n_states=1, n_parameters=1),
        tb.problems.garnet(follower_discount=0.0, leader_discount=0.0),
        tb.problems.layered(depth=1, width=1, n_parameters=1),
        tb.problems.random_game(n_states=1, n_leader_actions=1, n_actions=1),
        tb.problems.zoo.named("masked layers").problem,
    ],
    ids=str,
)
def test_targets_are_finite_on_problems_of_one_state_without_discounts_or_with_forbidden_actions(
    problem,
):
    right = right_limit(*at(problem))
    exact = tb.hypergradient(*at(problem)).gradient
    off = np.abs(RIGHT.estimate(right).gradient - exact).max()
    assert off <= 1e-7 + NEGLIGIBLE * np.abs(exact).max()
    for fault in FAULTS.values():
        target = fault.target(right)
        assert target is None or np.isfinite(target).all(), fault.name
