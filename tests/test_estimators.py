"""Every estimator on every problem: its mean, its target, its memory, and its own errors."""

import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from references.strangers import Plain
from sizes import pairs, sizes
from small import at, moving_rewards, refusal, somewhere

import tabular_bilevel as tb
from tabular_bilevel.estimators import bi_level_actor_critic
from tabular_bilevel.estimators.bi_level_actor_critic import StackelbergCritic
from tabular_bilevel.estimators.register import METHODS, Setting
from tabular_bilevel.estimators.zero_order import cubature

pytestmark = pytest.mark.usefixtures("once_a_problem")

# Probability that a correct estimator fails here; seeds are fixed, so one that passes goes on
# passing.
FALSE_ALARM_RATE = 1e-4

# Two float64 ways to the same number, relative to the gradient's norm: discounts of at most 0.99
# leave a few digits less than all.
ROUNDING = 1e-10

# Central differences of size 1e-4: their cubic term, and rounding of a value of 100 over the size.
DIFFERENCES, DIFFERENCE_SIZE = 1e-6, 1e-4

# What value iteration leaves of its first error: less than rounding.
SETTLED = 1e-20

# Trajectories cut where a part in 10^8 is left out.
TRUNCATION = 1e-7

# A sign is taken as known from this many standard errors on.
SURE = 5.0

# Discounts with which 83 steps are as good as all.
SHORT = {"follower_discount": 0.7, "leader_discount": 0.8, "temperature": 0.5}
HIDDEN = {"follower_observes_leader": False}


def rewards_only():
    """Equal discounts and parameters of rewards: what SoBiRL and the penalty need."""
    settings = SHORT | {"leader_discount": SHORT["follower_discount"]}
    garnet = tb.problems.garnet(n_states=5, n_actions=3, n_parameters=3, rng=4, **settings)
    return moving_rewards(garnet)


def short_toy():
    """The discrete toy with a discount at which a few steps decide."""
    toy = tb.problems.discrete_toy()
    tables = ("transition", "follower_reward", "leader_reward", "initial")
    return tb.MarkovGame(
        **{name: getattr(toy, name) for name in tables}, **SHORT | {"follower_discount": 0.8}
    )


PROBLEMS = {
    "garnet": tb.problems.garnet(n_states=6, n_actions=3, n_parameters=4, rng=1, **SHORT),
    "layered": tb.problems.layered(rng=2, **SHORT | {"temperature": 2.0}),
    "two-state": tb.problems.two_state(follower_discount=0.7),
    "bandit": tb.problems.bandit(leader_reward=[0.0, 1.0, 0.5]),
    "toy": short_toy(),
    "game, seen": tb.problems.random_game(n_states=3, rng=3, **SHORT),
    "game, hidden": tb.problems.random_game(n_states=3, rng=3, **SHORT | HIDDEN),
    "rewards": rewards_only(),
    "patchy": tb.problems.zoo.named("forbidden and ending").problem,
}


def exact_gradient(problem, theta):
    return tb.hypergradient(problem, theta).gradient


def interaction(sampler, critic=None, **more):
    return tb.Interaction(sampler, tb.ExactCritic() if critic is None else critic, **more)


# Learning critics are not here: with finite step sizes their values have an error of their own.
# HPGD has a bias of 1 / visits, which ten thousand visits hide; without the baseline, by chance
# survival or differences of sampled returns there is more noise.
SAMPLED = {
    "BC-HG": tb.BoltzmannCovariance(interaction(tb.Episodes(100))),
    "BC-HG, no baseline": tb.BoltzmannCovariance(interaction(tb.Episodes(800)), baseline=False),
    "BC-HG, own action": tb.BoltzmannCovariance(interaction(tb.Episodes(100)), own_action=True),
    "BC-HG, survivors": tb.BoltzmannCovariance(interaction(tb.Survivors(400))),
    "BC-HG, steps": tb.BoltzmannCovariance(interaction(tb.StepBudget(10_000, 100))),
    "BC-HG, environments": tb.BoltzmannCovariance(interaction(tb.StepBudget(10_000, 100, 5))),
    "BC-HG, 7 steps": tb.BoltzmannCovariance(interaction(tb.Episodes(100, 7))),
    "BC-HG, averaged": tb.BoltzmannCovariance(
        interaction(tb.Episodes(400, 20)), average_tails=True
    ),
    "BC-HG, own of averaged": tb.BoltzmannCovariance(
        interaction(tb.Episodes(400, 20)), average_tails=True, own_action=True
    ),
    "BC-HG, Monte Carlo": tb.BoltzmannCovariance(
        interaction(tb.Episodes(400), tb.MonteCarloCritic())
    ),
    "HPGD": tb.HyperPolicyGradient(interaction(tb.Episodes(1000))),
    "HPGD, 7 steps": tb.HyperPolicyGradient(interaction(tb.Episodes(1000, 7))),
    "HPGD, Monte Carlo": tb.HyperPolicyGradient(
        interaction(tb.Episodes(1000), tb.MonteCarloCritic())
    ),
    "HPGD, survivors": tb.HyperPolicyGradient(interaction(tb.Survivors(1000))),
    "HPGD, oracle": tb.HyperPolicyGradient(
        interaction(tb.Episodes(200), tb.MonteCarloCritic()), oracle=tb.Episodes(1000, 50)
    ),
    "HPGD, uniform": tb.HyperPolicyGradient(
        interaction(tb.Episodes(200), tb.MonteCarloCritic()), uniform=tb.Episodes(1000)
    ),
    "SoBiRL": tb.SoBiRL(interaction(tb.Episodes(400, 5))),
    "SoBiRL, each step": tb.SoBiRL(interaction(tb.Survivors(800)), each_step=True),
    "SoBiRL, discounted": tb.SoBiRL(interaction(tb.Episodes(400)), discounted=True),
    "naive": tb.NaivePolicyGradient(interaction(tb.Episodes(100))),
    "score function": tb.ScoreFunction(interaction(tb.Episodes(400))),
    "score function, 7 steps": tb.ScoreFunction(interaction(tb.Episodes(400, 7)), baseline=True),
    "naive, 7 steps": tb.NaivePolicyGradient(interaction(tb.Episodes(100, 7))),
    "Bi-AC": tb.BiLevelActorCritic(tb.Episodes(100)),
    "penalty, sampled": tb.ValueGapPenalty(3.0, sampler=tb.Episodes(1000)),
    "penalty, 3 steps": tb.ValueGapPenalty(3.0, sampler=tb.Episodes(1000, 3)),
    "penalty, survivors": tb.ValueGapPenalty(3.0, sampler=tb.Survivors(1000)),
    "zero-order": tb.ZeroOrder(radius=0.1, n_directions=10),
    "zero-order, one-sided": tb.ZeroOrder(radius=0.03, n_directions=10, two_sided=False),
}

KNOWN_MODEL = {
    "exact": tb.ExactGradient(),
    "Neumann": tb.TruncatedNeumann(2),
    "AMD": tb.AdaptiveModelDesign(20),
    "penalty": tb.ValueGapPenalty(10.0),
}

# Where a method is defined, and what it says elsewhere.
DEFINED = {
    tb.SoBiRL: (
        {"bandit", "rewards"},
        "SoBiRL is defined for parameters of rewards only, and theta moves transitions, the "
        "initial distribution or the temperature",
    ),
    tb.ValueGapPenalty: (
        {"bandit", "rewards", "toy"},
        "ValueGapPenalty is defined for one discount, and follower_discount is ",
    ),
    tb.BiLevelActorCritic: (
        {"toy", "game, seen"},
        "BiLevelActorCritic is defined for Markov games whose follower sees the leader's action, "
        "and the problem is ",
    ),
}


def is_refused(estimator, where):
    """Where the estimator is not defined, see that it says so as documented."""
    places, message = DEFINED.get(type(estimator), (set(PROBLEMS), None))
    if where not in places:
        assert refusal(estimator, *at(PROBLEMS[where]), rng=0).startswith(message)
        assert refusal(estimator.target, *at(PROBLEMS[where])).startswith(message)
    return where not in places


def check(estimator, problem, theta, *, target=None, n_replicates=120):
    return tb.check_estimator(
        estimator,
        problem,
        theta,
        target=estimator.target(problem, theta) if target is None else target,
        n_replicates=n_replicates,
        visible_bias=1.0,  # these are to be near their targets, and take little time
        false_alarm_rate=FALSE_ALARM_RATE,
        rng=5,
    )


class WithoutDirections:
    """A zero-order estimator, less what its directions alone make of the exact gradient g.

    z z^T g has the mean g, so the mean is unchanged, and all but the remainder of Taylor's series
    and the noise in J is gone.
    """

    def __init__(self, estimator):
        self.estimator = estimator
        self.target = estimator.target

    def __call__(self, problem, theta, *, rng):
        sampler = self.estimator.sampler
        horizon = None if sampler is None else sampler.horizon(problem.model(theta))
        gradient = tb.hypergradient(problem, theta, horizon=horizon).gradient
        shape = (self.estimator.n_directions, theta.size)
        directions = copy.deepcopy(rng).standard_normal(shape)
        alone = directions.T @ (directions @ gradient) / len(directions)
        return self.estimator(problem, theta, rng=rng).gradient - alone + gradient


class Apart:
    """Episodes drawn from a stream of their own, so that an estimator's directions are known."""

    def __init__(self, episodes):
        self.episodes = episodes

    def sample(self, model, policy, *, rng):
        return self.episodes.sample(model, policy, rng=rng.spawn(1)[0])

    def horizon(self, model):
        return self.episodes.horizon(model)


SAMPLED["zero-order, sampled"] = tb.ZeroOrder(
    radius=0.3, n_directions=8, sampler=Apart(tb.Episodes(200))
)
SAMPLED["zero-order, 3 steps"] = tb.ZeroOrder(
    radius=0.3, n_directions=8, sampler=Apart(tb.Episodes(200, 3))
)


# ---------------------------------------------------------------- every estimator, every problem


QUICK, SLOW = pairs(SAMPLED, PROBLEMS)


@sizes(("name", "where"), QUICK[::2], SLOW + QUICK[1::2])
def test_the_mean_of_the_estimates_is_the_target(name, where):
    estimator, (problem, theta) = SAMPLED[name], at(PROBLEMS[where])
    if is_refused(estimator, where):
        return
    if isinstance(estimator, tb.ZeroOrder):
        # a cubature's target is near the mean, and few replicates show nothing else
        report = check(WithoutDirections(estimator), problem, theta, n_replicates=30)
        assert report.statistic <= report.critical_value, str(report)
    else:
        report = check(estimator, problem, theta)
        assert report.verdict is tb.Verdict.UNBIASED, str(report)


@pytest.mark.parametrize("where", PROBLEMS)
@pytest.mark.parametrize("name", KNOWN_MODEL)
def test_methods_that_know_the_model_compute_what_they_say(name, where):
    estimator, (problem, theta) = KNOWN_MODEL[name], at(PROBLEMS[where])
    if is_refused(estimator, where):
        return
    wanted, tolerance = PLAIN[name](problem, theta)
    found = estimator(problem, theta, rng=0).gradient
    assert distance(found, wanted) <= tolerance
    np.testing.assert_array_equal(estimator.target(problem, theta), found)


@sizes(
    "estimator",
    [tb.NaivePolicyGradient(interaction(tb.Episodes(50)))],
    [  # at a discount of 0.99 and a temperature of 0.05 one estimate is mostly noise
        tb.BoltzmannCovariance(interaction(tb.Survivors(2000))),
        tb.HyperPolicyGradient(interaction(tb.Episodes(200))),
    ],
)
def test_the_published_toys_long_discount_is_no_obstacle(estimator):
    problem, theta = tb.problems.discrete_toy(), np.array([0.0, 0.0, 3.0, 0.0, 0.0, 0.0])
    report = check(estimator, problem, theta)
    assert report.verdict is tb.Verdict.UNBIASED, str(report)
    assert distance(exact_gradient(problem, theta), plain_neumann(problem, theta)) <= ROUNDING


def distance(one, other):
    """Compare two gradients, relative to the second."""
    return np.linalg.norm(one - other) / np.linalg.norm(other)


# ---------------------------------------------------------------- the same in plain numpy


def plain(model):
    """Solve the follower by value iteration, and the leader by a dense matrix."""
    n_states, n_actions = model.follower_reward.shape
    kernel = model.transition.toarray().reshape(n_states, n_actions, n_states)
    follower_value = np.zeros(n_states)
    for _ in range(int(np.log(SETTLED) / np.log(max(model.follower_discount, SETTLED))) + 1):
        action_value = model.follower_reward + model.follower_discount * kernel @ follower_value
        scaled = np.where(model.available, action_value / model.temperature, -np.inf)
        follower_value = model.temperature * np.logaddexp.reduce(scaled, axis=1)
    policy = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    policy /= policy.sum(axis=1, keepdims=True)
    chain = np.einsum("sa,sat->st", policy, kernel)
    leader = np.eye(n_states) - model.leader_discount * chain
    leader_value = np.linalg.solve(leader, (policy * model.leader_reward).sum(axis=1))
    return SimpleNamespace(
        kernel=kernel,
        policy=policy,
        follower_value=follower_value,
        leader_value=leader_value,
        advantage=model.leader_reward
        + model.leader_discount * kernel @ leader_value
        - leader_value[:, None],
        occupancy=np.linalg.solve(leader.T, model.initial)[:, None] * policy,
    )


def slopes(problem, theta, model):
    """List the derivatives of the tables, one entry a parameter."""
    for direction in np.eye(theta.size):
        tangent = problem.pushforward(theta, direction)
        dense = model.like_transition(np.array(tangent.transition)).toarray()
        yield SimpleNamespace(
            follower_reward=tangent.follower_reward,
            leader_reward=tangent.leader_reward,
            kernel=dense.reshape(*model.follower_reward.shape, model.n_states),
            initial=tangent.initial,
        )


def plain_neumann(problem, theta, terms=None):
    """Sum the series of the pairs' kernel, (gamma_F T^T)^k w for k up to `terms`, or all of it."""
    model = problem.model(theta)
    known = plain(model)
    n_pairs = known.policy.size
    pairs = np.einsum("sat,tb->satb", known.kernel, known.policy).reshape(n_pairs, n_pairs)
    step = model.follower_discount * pairs.T
    source = (known.occupancy * known.advantage / model.temperature).ravel()
    if terms is None:
        influence = np.linalg.solve(np.eye(n_pairs) - step, source)
    else:
        influence = sum(np.linalg.matrix_power(step, k) @ source for k in range(terms + 1))
    influence = influence.reshape(known.policy.shape)
    return np.array(
        [
            (influence * slope.follower_reward).sum()
            + model.follower_discount * (influence * (slope.kernel @ known.follower_value)).sum()
            + (known.occupancy * slope.leader_reward).sum()
            + model.leader_discount * (known.occupancy * (slope.kernel @ known.leader_value)).sum()
            + slope.initial @ known.leader_value
            for slope in slopes(problem, theta, model)
        ]
    )


def plain_amd(problem, theta, sweeps):
    """Sweep the tables and their derivatives, a parameter and a pair at a time."""
    model = problem.model(theta)
    n_states, beta = model.n_states, model.temperature
    gamma, delta = model.follower_discount, model.leader_discount
    kernel = model.transition.toarray().reshape(*model.follower_reward.shape, n_states)
    actions = [np.flatnonzero(model.available[s]) for s in range(n_states)]

    def answer(value):
        """Q, V and pi of each state, over its actions."""
        for s, own in enumerate(actions):
            worth = np.array(
                [model.follower_reward[s, a] + gamma * kernel[s, a] @ value for a in own]
            )
            best = beta * np.logaddexp.reduce(worth / beta)
            yield best, np.exp((worth - best) / beta)

    gradient = []
    for slope in slopes(problem, theta, model):
        V, dV, W, dW = np.zeros((4, n_states))
        Q = [np.zeros(own.size) for own in actions]
        for _ in range(sweeps):
            after, V_after, dV_after, W = list(answer(V)), np.zeros(n_states), np.zeros(n_states), W
            dQ = [
                np.array(
                    [
                        slope.follower_reward[s, a]
                        + gamma * (slope.kernel[s, a] @ V + kernel[s, a] @ dV)
                        for a in own
                    ]
                )
                for s, own in enumerate(actions)
            ]
            for s, (best, policy) in enumerate(after):
                V_after[s], dV_after[s] = best, policy @ dQ[s]
            W = np.array([policy @ Q[s] for s, (_, policy) in enumerate(after)])
            Q = [
                np.array([model.leader_reward[s, a] + delta * kernel[s, a] @ W for a in own])
                for s, own in enumerate(actions)
            ]
            dW = np.array(
                [
                    sum(
                        p
                        * (
                            slope.leader_reward[s, a]
                            + delta * (slope.kernel[s, a] @ W + kernel[s, a] @ dW)
                            + (dQ[s][i] - dV_after[s]) * Q[s][i] / beta
                        )
                        for i, (a, p) in enumerate(zip(actions[s], policy, strict=True))
                    )
                    for s, (_, policy) in enumerate(after)
                ]
            )
            V, dV = V_after, dV_after
        W = np.array([policy @ Q[s] for s, (_, policy) in enumerate(answer(V))])
        gradient.append(slope.initial @ W + model.initial @ dW)
    return np.array(gradient)


def plain_penalty(problem, theta, weight):
    """Differentiate max_pi J - weight (V*_F - V_F^pi) = weight rho.(V - V*_F) by differences."""

    def climbed(theta):
        model = problem.model(theta)
        reward = model.follower_reward + model.leader_reward / weight
        tempted = plain(model.with_rewards(reward, model.leader_reward)).follower_value
        return weight * model.initial @ (tempted - plain(model).follower_value)

    return np.array(
        [
            (climbed(theta + step) - climbed(theta - step)) / (2.0 * DIFFERENCE_SIZE)
            for step in DIFFERENCE_SIZE * np.eye(theta.size)
        ]
    )


PLAIN = {
    "exact": lambda problem, theta: (plain_neumann(problem, theta), ROUNDING),
    "Neumann": lambda problem, theta: (plain_neumann(problem, theta, 2), ROUNDING),
    "AMD": lambda problem, theta: (plain_amd(problem, theta, 20), ROUNDING),
    "penalty": lambda problem, theta: (plain_penalty(problem, theta, 10.0), DIFFERENCES),
}


@pytest.mark.parametrize(
    ("near", "name"),
    [
        (tb.TruncatedNeumann(3), "Neumann"),
        (tb.TruncatedNeumann(1), "Neumann"),
        (tb.TruncatedNeumann(10), "exact"),
        (tb.AdaptiveModelDesign(19), "AMD"),
        (tb.AdaptiveModelDesign(21), "AMD"),
        (tb.ValueGapPenalty(10.1), "penalty"),
        (tb.ExactGradient(), "penalty"),
    ],
)
def test_a_setting_nearby_is_told_apart_from_the_plain_computation(near, name):
    wanted, tolerance = PLAIN[name](*at(PROBLEMS["rewards"]))
    assert distance(near.target(*at(PROBLEMS["rewards"])), wanted) > 2.0 * tolerance


def test_the_penalised_objective_is_what_the_best_policy_gets():
    # the maximum over policies, by a search over the three actions' logits of the bandit
    from scipy import optimize

    (problem, theta), weight = at(PROBLEMS["bandit"]), 3.0
    model = problem.model(theta)
    paid, earned = model.follower_reward[0], model.leader_reward[0]

    def penalised(logits):
        policy = np.exp(logits - np.logaddexp.reduce(logits))
        follower = policy @ paid - model.temperature * policy @ np.log(policy)
        best = model.temperature * np.logaddexp.reduce(paid / model.temperature)
        return policy @ earned - weight * (best - follower)

    searched = optimize.minimize(lambda logits: -penalised(logits), np.zeros(3), tol=1e-10)
    tempted = plain(model.with_rewards(paid[None] + earned[None] / weight, earned[None]))
    closed = weight * (tempted.follower_value - plain(model).follower_value)[0]
    assert penalised(searched.x) == pytest.approx(closed, abs=1e-8)  # the search's own tolerance
    assert penalised(theta) < closed - 1e-4


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize("where", PROBLEMS)
def test_where_nothing_is_cut_targets_are_the_exact_gradient_and_its_direct_part(where):
    problem, theta = at(PROBLEMS[where])
    exact = tb.ExactGradient()(problem, theta, rng=0)
    norm = np.linalg.norm(exact.gradient)
    for sampler, tolerance in ((tb.Episodes(), TRUNCATION), (tb.Survivors(), ROUNDING)):
        for method, wanted in (
            (tb.BoltzmannCovariance, exact.gradient),
            (tb.NaivePolicyGradient, exact.parts.direct),
        ):
            target = method(interaction(sampler)).target(problem, theta)
            assert np.linalg.norm(target - wanted) <= tolerance * norm
    hpgd = tb.HyperPolicyGradient(interaction(tb.Survivors()))
    assert distance(hpgd.target(problem, theta), exact.gradient) <= ROUNDING
    for averaged in (tb.MonteCarloCritic(), tb.ExactCritic()):
        told, oracle = interaction(tb.Survivors(), averaged), tb.Survivors(probability=0.97)
        hpgd = tb.HyperPolicyGradient(told, oracle=oracle)
        assert distance(hpgd.target(problem, theta), exact.gradient) <= ROUNDING
    monte_carlo = tb.BoltzmannCovariance(interaction(tb.Survivors(), tb.MonteCarloCritic()))
    assert distance(monte_carlo.target(problem, theta), exact.gradient) <= ROUNDING


def test_targets_have_the_biases_of_their_methods():
    # the controls of the test above: what is cut or missing shows
    problem, theta = at(PROBLEMS["garnet"])
    exact = exact_gradient(problem, theta)
    names = ("BC-HG, 7 steps", "BC-HG, averaged", "HPGD, 7 steps", "naive", "HPGD, Monte Carlo")
    for name in names:
        assert distance(SAMPLED[name].target(problem, theta), exact) > 1e-3, name
    learning = tb.SarsaCritic(), tb.TemporalDifferenceCritic()
    for critic in learning:  # their limit is the truth
        target = tb.BoltzmannCovariance(interaction(tb.Survivors(), critic)).target(problem, theta)
        assert distance(target, exact) <= ROUNDING


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_bias_is_its_target_less_the_exact_gradient(name):
    problem, theta = at(PROBLEMS["toy" if name == "bi-ac" else "rewards"])
    method, exact = METHODS[name](Setting()), exact_gradient(problem, theta)
    bias, norm = method.bias(problem, theta), np.linalg.norm(exact)
    np.testing.assert_allclose(bias, method.target(problem, theta) - exact, atol=ROUNDING * norm)
    # known by their formulas: some are exact, some drop a part of the gradient
    exact_ones = {"bchg-exact-critic", "score-function", "regularised-ac", "exact"}
    assert (np.linalg.norm(bias) <= TRUNCATION * norm) == (name in exact_ones)


@pytest.mark.parametrize("discounted", [False, True])
def test_sobirl_is_right_where_episodes_are_one_step_long(discounted):
    problem, theta = at(PROBLEMS["bandit"])
    sobirl = tb.SoBiRL(interaction(tb.Episodes()), discounted)
    # source: problems.bandit_closed_form, by hand
    _, gradient = tb.problems.bandit_closed_form(theta, leader_reward=[0.0, 1.0, 0.5])
    assert distance(sobirl.target(problem, theta), gradient) <= ROUNDING
    # and only there
    longer = at(PROBLEMS["rewards"])
    assert distance(sobirl.target(*longer), exact_gradient(*longer)) > 0.1


def test_sobirl_with_each_step_has_no_eligibility():
    # sum_t gamma_L^t E[Q_L (dr_F - E_pi dr_F)] = sum_t gamma_L^t E[A_L dr_F]: docstring
    problem, theta = at(PROBLEMS["rewards"])
    sobirl = tb.SoBiRL(interaction(tb.Episodes()), each_step=True)
    wrong = tb.controls()["no eligibility"].target(problem, theta)
    assert distance(sobirl.target(problem, theta), wrong) <= TRUNCATION
    first = tb.SoBiRL(interaction(tb.Episodes(200, 50))).target(problem, theta)
    assert distance(first, wrong) > 1e-3


@pytest.mark.parametrize("each_step", [False, True])
def test_where_rewards_ignore_the_action_sobirl_is_naive_in_each_estimate(each_step):
    problem = tb.problems.four_rooms(temperature=0.005)
    theta = 2.0 * np.random.default_rng(0).normal(size=105)
    told = interaction(tb.StepBudget(400, 200, 2), tb.MonteCarloCritic())
    sobirl = tb.SoBiRL(told, each_step=each_step)(problem, theta, rng=1)
    naive = tb.NaivePolicyGradient(told)(problem, theta, rng=1)
    # rounding: what one state's actions are credited with cancels
    size = np.abs(naive.gradient).max()
    assert np.abs(sobirl.gradient - naive.gradient).max() <= 1e-9 * size
    # a control: a follower's reward that knows the action is credited
    parts = tb.SoBiRL(told, each_step=each_step)(*at(PROBLEMS["rewards"]), rng=1).parts
    assert np.abs(parts.indirect).max() > 1e-3


def test_a_uniform_sample_has_the_part_through_the_follower_of_another_start():
    problem, theta = at(PROBLEMS["rewards"])
    hpgd = tb.HyperPolicyGradient(interaction(tb.Survivors()), uniform=tb.Survivors())
    n_states = problem.base.n_states
    anywhere = moving_rewards(problem, problem.base.with_initial(np.full(n_states, 1 / n_states)))
    here, there = (tb.hypergradient(p, theta) for p in (problem, anywhere))
    expected = here.direct + there.indirect
    assert distance(hpgd.target(problem, theta), expected) <= ROUNDING
    assert distance(expected, here.gradient) > 1e-3


def test_sobirl_without_a_discount_is_not_for_trajectories_cut_by_chance():
    (problem, theta), survivors = at(PROBLEMS["rewards"]), interaction(tb.Survivors(10))
    sobirl = tb.SoBiRL(survivors)
    for found in (refusal(sobirl, problem, theta, rng=0), refusal(sobirl.target, problem, theta)):
        assert re.match(r"SoBiRL without a discount is defined for .* 0\.7: weights", found)
    tb.SoBiRL(survivors, discounted=True)(problem, theta, rng=0)


def test_sobirl_has_the_same_mean_discounted_or_not():
    # E_pi[dr_F - E_pi dr_F] = 0 after the first step, whatever its weight: docstring
    whole = interaction(tb.Episodes(steps=200))
    one, other = (tb.SoBiRL(whole, each).target(*at(PROBLEMS["rewards"])) for each in (False, True))
    assert distance(one, other) <= ROUNDING


@pytest.mark.parametrize(
    ("where", "near", "far", "ratio"),
    [  # the next order is a thousand times smaller, or 0.02^2, but for a coefficient
        *((x, tb.ValueGapPenalty(1e4), tb.ValueGapPenalty(1e3), 10.0) for x in ("bandit", "toy")),
        ("rewards", tb.ValueGapPenalty(1e4), tb.ValueGapPenalty(1e3), 10.0),
        ("garnet", tb.ZeroOrder(radius=0.01), tb.ZeroOrder(radius=0.02), 4.0),
    ],
)
def test_the_bias_falls_with_the_weight_or_the_square_of_the_radius(where, near, far, ratio):
    near, far = (np.linalg.norm(method.bias(*at(PROBLEMS[where]))) for method in (near, far))
    assert far / near == pytest.approx(ratio, rel=0.02)
    assert near > 1e-6


@pytest.mark.parametrize("terms", [1, 3, 10, 30])
def test_neumanns_bias_is_below_the_discount_to_the_terms(terms):
    problem, theta = at(PROBLEMS["garnet"])
    model = problem.model(theta)
    known = plain(model)
    source = np.abs(known.occupancy * known.advantage / model.temperature).sum()
    gamma = model.follower_discount
    bound = [
        np.abs(slope.follower_reward + gamma * slope.kernel @ known.follower_value).max()
        * source
        * gamma ** (terms + 1)
        / (1.0 - gamma)
        for slope in slopes(problem, theta, model)
    ]
    gap = np.abs(tb.TruncatedNeumann(terms).target(problem, theta) - exact_gradient(problem, theta))
    assert (gap <= bound).all()
    assert gap.max() > 0.0


def test_neumann_is_exact_where_episodes_have_ended():
    problem = PROBLEMS["layered"]  # of depth 4: an action is felt up to three steps later
    theta = somewhere(problem)
    exact = exact_gradient(problem, theta)
    assert distance(tb.TruncatedNeumann(3).target(problem, theta), exact) <= ROUNDING
    assert distance(tb.TruncatedNeumann(2).target(problem, theta), exact) > 1e-4


@pytest.mark.parametrize("where", ["garnet", "game, hidden", "patchy", "toy"])
def test_amds_bias_falls_with_the_sweeps(where):
    problem, theta = at(PROBLEMS[where])
    exact = exact_gradient(problem, theta)
    gaps = [
        distance(tb.AdaptiveModelDesign(sweeps).target(problem, theta), exact)
        for sweeps in (5, 20, 50, 200)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.01
    assert gaps[-1] <= ROUNDING


def test_a_zero_order_target_is_cut_where_its_trajectories_are():
    problem, theta = at(PROBLEMS["garnet"])
    cut = tb.hypergradient(problem, theta, horizon=3).gradient
    # the radius' own bias is of order 1e-8
    short = tb.ZeroOrder(radius=1e-4, sampler=tb.Episodes(100, 3)).target(problem, theta)
    assert distance(short, cut) <= 1e-6
    assert distance(cut, exact_gradient(problem, theta)) > 0.1


@pytest.mark.parametrize("where", ["rewards", "toy", "bandit"])
def test_a_penalty_cut_late_or_by_chance_is_the_exact_one(where):
    problem, theta = at(PROBLEMS[where])
    exact = tb.ValueGapPenalty(10.0).target(problem, theta)
    for sampler, tolerance in ((tb.Episodes(), 1e-5), (tb.Survivors(), 1e-8)):
        # what is left out counts `weight` times
        target = tb.ValueGapPenalty(10.0, sampler=sampler).target(problem, theta)
        assert distance(target, exact) <= tolerance
    short = tb.ValueGapPenalty(10.0, sampler=tb.Episodes(10, 3)).target(problem, theta)
    assert (distance(short, exact) > 0.1) == (where != "bandit")  # whose episodes are one step long


def test_a_zero_order_target_needs_an_optimal_follower():
    problem, theta = at(PROBLEMS["garnet"])
    stopped = tb.ZeroOrder(follower=tb.StoppedValueIteration(sweeps=3))
    with pytest.raises(ValueError, match=r"^follower is StoppedValueIteration\(.* is known for an"):
        stopped.target(problem, theta)
    settled = tb.ZeroOrder(follower=tb.StoppedValueIteration(sweeps=200))
    assert distance(settled.target(problem, theta), tb.ZeroOrder().target(problem, theta)) < 1e-12


@pytest.mark.parametrize("radius", [1e-200, 1e200])
def test_a_radius_whose_square_is_no_number_is_none_the_less_a_radius(radius):
    # differences of nothing, and of what saturated: finite, if of no use
    problem = tb.problems.four_rooms()
    estimate = tb.ZeroOrder(radius=radius)(problem, np.zeros(105), rng=0)
    assert np.isfinite(estimate.gradient).all()


@pytest.mark.parametrize("d", [1, 2, 3, 6])
def test_the_cubature_has_a_normals_moments_up_to_the_fifth(d):
    # source: E z_i^2 = 1, E z_i^4 = 3, E z_i^2 z_j^2 = 1, all odd ones 0
    nodes, weights = map(np.array, zip(*cubature(d), strict=True))
    assert len(weights) == 2 * d**2 + 1
    eye = np.eye(d)
    pairs = np.einsum("ij,kl->ijkl", eye, eye)
    fourth = pairs + pairs.transpose(0, 2, 1, 3) + pairs.transpose(0, 3, 2, 1)
    moments = {"": 1.0, "i": 0.0, "ij": eye, "ijk": 0.0, "ijkl": fourth, "ijklm": 0.0}
    for axes, moment in moments.items():
        factors = ",".join("n" + axis for axis in axes)
        found = np.einsum(f"n,{factors}->{axes}" if axes else "n->", weights, *[nodes] * len(axes))
        np.testing.assert_allclose(found, np.broadcast_to(moment, found.shape), atol=1e-12)
    sixth = weights @ nodes[:, 0] ** 6
    assert abs(sixth - 15.0) > 0.1  # of degree 5, no more


def test_bi_ac_has_the_leaders_optimal_values():
    problem, theta = at(PROBLEMS["game, seen"])
    model = problem.model(theta)
    known = plain(model)
    best = known.policy.argmax(axis=1)
    # plain loops over the game's own states: s is b // n, and (s, b) answers with its mode
    n_choices = problem.n_leader_actions
    table = np.zeros(model.leader_reward.shape)
    for _ in range(400):
        top = np.zeros(model.n_states)
        for z in range(model.n_states):
            s = z // n_choices
            top[z] = max(table[k, best[k]] for k in range(s * n_choices, (s + 1) * n_choices))
        table = model.leader_reward + model.leader_discount * known.kernel @ top
    value = (known.policy * table).sum(axis=1)
    wanted = [
        model.leader_discount * (known.occupancy * (slope.kernel @ value)).sum()
        + slope.initial @ value
        for slope in slopes(problem, theta, model)
    ]
    found = tb.BiLevelActorCritic().target(problem, theta)
    assert distance(found, np.array(wanted)) <= TRUNCATION
    naive = tb.NaivePolicyGradient().target(problem, theta)
    assert distance(found, naive) > 0.01  # another leader's values


# No chance in its transitions: steps of size 1 carry values back.
CERTAIN = tb.problems.random_game(n_states=3, branching=1, rng=3, **SHORT | {"temperature": 2.0})


def test_bi_acs_critic_learns_its_fixed_point():
    def table(**learning):
        estimator = tb.BiLevelActorCritic(tb.Episodes(200), **learning)
        return estimator(*at(CERTAIN), rng=1).memory["leader_action_value"]

    gap = np.abs(table(step_size=1.0, sweeps=100) - table()).max()
    assert gap <= TRUNCATION * np.abs(table()).max()
    assert np.abs(table(step_size=0.01) - table()).max() > 0.1 * np.abs(table()).max()


# ---------------------------------------------------------------- wrong targets


@sizes(
    ("name", "other", "where"),
    [
        ("naive", "BC-HG, survivors", "garnet"),
        ("BC-HG", "naive", "game, hidden"),
        ("BC-HG, steps", "BC-HG, 7 steps", "two-state"),
        ("HPGD", "SoBiRL", "rewards"),
        ("penalty, 3 steps", "penalty, sampled", "rewards"),
    ],
    [
        ("naive", "BC-HG, survivors", "rewards"),
        ("BC-HG, 7 steps", "BC-HG, survivors", "two-state"),
        ("HPGD, survivors", "HPGD, 7 steps", "garnet"),
        ("SoBiRL", "BC-HG, survivors", "rewards"),
        ("SoBiRL, discounted", "naive", "rewards"),
        ("Bi-AC", "naive", "game, seen"),
        ("penalty, sampled", "HPGD, survivors", "rewards"),
    ],
)
def test_another_methods_target_is_not_met(name, other, where):
    problem, theta = at(PROBLEMS[where])
    target = SAMPLED[other].target(problem, theta)
    report = check(SAMPLED[name], problem, theta, target=target, n_replicates=120)
    assert report.verdict is tb.Verdict.BIASED, str(report)


# ---------------------------------------------------------------- expectations, and variance


def test_expectations_stop_where_all_episodes_have_ended(monkeypatch):
    # layered of depth 4; with a discount near 1 a horizon has 1.8 * 10^7 steps
    problem = tb.problems.layered(follower_discount=1.0 - 1e-6, leader_discount=1.0 - 1e-6)
    theta, calls = somewhere(problem), []
    limit = interaction(tb.Episodes()).limit(problem, theta)
    assert limit.law.horizon > 10_000_000
    real = tb.Model.arrivals

    def counted(model, flow):
        calls.append(1)
        assert len(calls) < 100
        return real(model, flow)

    monkeypatch.setattr(tb.Model, "arrivals", counted)
    target = tb.BoltzmannCovariance(interaction(tb.Episodes())).target(problem, theta)
    assert distance(target, exact_gradient(problem, theta)) <= ROUNDING
    counts, _ = limit.law.visits(1.0)
    assert counts.sum() == pytest.approx(4.0)


@pytest.mark.slow
def test_the_baseline_takes_variance_off_and_the_own_action_adds_some():
    # An own action adds an advantage of mean zero that nothing else knows of. The same seed gives
    # the same trajectories, so squared errors are compared pair by pair.
    problem = tb.problems.random_game()
    theta = np.linspace(-0.5, 0.5, problem.n_parameters)
    exact = exact_gradient(problem, theta)
    usual = tb.BoltzmannCovariance(interaction(tb.Episodes(20)))

    def squares(estimator):
        rows = np.array([estimator(problem, theta, rng=k).gradient for k in range(300)])
        return ((rows - exact) ** 2).sum(axis=1)

    here = squares(usual)
    for other, sign in (
        (replace(usual, own_action=True), 1.0),
        (replace(usual, baseline=False), 1.0),
        (usual, 0.0),
    ):
        more = squares(other) - here
        standard_error = more.std() / np.sqrt(more.size)
        assert sign * more.mean() >= sign * SURE * standard_error
        assert (more.mean() > 0.0) == (sign > 0.0)


# ---------------------------------------------------------------- memory, randomness, arguments

EVERY = SAMPLED | KNOWN_MODEL


def place_for(estimator):
    return PROBLEMS["game, seen" if isinstance(estimator, tb.BiLevelActorCritic) else "rewards"]


@pytest.mark.parametrize("name", EVERY)
def test_an_estimate_repeats_itself_and_changes_no_argument(name):
    estimator, (problem, theta) = EVERY[name], at(place_for(EVERY[name]))
    given = theta.copy()
    first = estimator(problem, given, rng=3)
    memory = dict(first.memory)
    held = {key: table.copy() for key, table in memory.items()}
    second = estimator(problem, given, rng=4, memory=memory)
    np.testing.assert_array_equal(given, theta)
    assert given.flags.writeable
    assert memory.keys() == held.keys()
    for key, table in held.items():
        np.testing.assert_array_equal(memory[key], table)
        assert not memory[key].flags.writeable
    assert not first.gradient.flags.writeable
    np.testing.assert_array_equal(estimator(problem, theta, rng=3).gradient, first.gradient)
    again = estimator(problem, theta, rng=np.random.default_rng(4), memory=first.memory)
    np.testing.assert_array_equal(again.gradient, second.gradient)
    if name in SAMPLED:
        assert (estimator(problem, theta, rng=5).gradient != first.gradient).any()
    np.testing.assert_array_equal(*(estimator.target(problem, x) for x in (theta, given)))


@pytest.mark.parametrize("name", EVERY)
def test_the_follower_goes_on_from_its_last_answer(name):
    estimator, (problem, theta) = EVERY[name], at(place_for(EVERY[name]))
    first = estimator(problem, theta, rng=3)
    second = estimator(problem, theta, rng=3, memory=first.memory)
    if isinstance(estimator, tb.AdaptiveModelDesign):
        assert second.response.residual < 1e-2 * first.response.residual
    else:
        assert second.response.iterations < first.response.iterations


@pytest.mark.parametrize("kind", [tb.SarsaCritic, tb.TemporalDifferenceCritic])
def test_a_critic_goes_on_from_its_last_table(kind):
    critic = kind(step_size=1e-6, sweeps=1)
    (problem, theta), got = at(PROBLEMS["garnet"]), interaction(tb.Episodes(20), critic)
    quick = interaction(tb.Episodes(20), replace(critic, step_size=0.1, sweeps=5))
    learnt = quick.gather(problem, theta, rng=0)
    on = got.gather(problem, theta, rng=1, memory=learnt.memory).values.action_value
    anew = got.gather(problem, theta, rng=1).values.action_value
    # steps of 1e-6 move hardly anything
    assert np.abs(on - learnt.values.action_value).max() < 0.01 < np.abs(on - anew).max()


def test_an_oracles_critic_sees_its_sample_only_and_goes_on_from_its_last_table():
    (problem, theta), seen = at(PROBLEMS["garnet"]), []

    class Watched(tb.SarsaCritic):
        def values(self, response, trajectories, **more):
            values = super().values(response, trajectories, **more)
            seen.append((trajectories.count, more["previous"], values.action_value))
            return values

    hpgd = tb.HyperPolicyGradient(
        interaction(tb.Episodes(20, 5), Watched(step_size=0.1)), oracle=tb.Episodes(30, 5)
    )
    first = hpgd(problem, theta, rng=0)
    second = hpgd(problem, theta, rng=1, memory=first.memory)
    assert [count for count, _, _ in seen] == [30, 30]
    assert seen[0][1] is None
    assert seen[1][1] is first.memory["leader_action_value"] is seen[0][2]
    assert second.memory["leader_action_value"] is seen[1][2]


def test_bi_ac_estimates_from_the_experience_of_others():
    (problem, theta), bi_ac = at(PROBLEMS["game, seen"]), tb.BiLevelActorCritic(tb.Episodes(20))
    seen = interaction(tb.Episodes(20)).gather(problem, theta, rng=3)  # with another critic
    alone = bi_ac(problem, theta, rng=3)  # neither critic draws random numbers
    np.testing.assert_array_equal(bi_ac.estimate(seen).gradient, alone.gradient)
    assert distance(tb.NaivePolicyGradient().estimate(seen).gradient, alone.gradient) > 0.01
    learning = replace(bi_ac, step_size=0.5)
    own = learning.interaction_for(problem).gather(problem, theta, rng=3)
    found = learning.estimate(own).gradient
    np.testing.assert_array_equal(found, learning(problem, theta, rng=3).gradient)
    with pytest.raises(ValueError, match="is defined for Markov games"):
        bi_ac.estimate(interaction(tb.Episodes(2)).gather(PROBLEMS["bandit"], np.zeros(3), rng=0))


def test_bi_acs_critic_goes_on_from_its_last_table():
    theta, learning = somewhere(CERTAIN), tb.BiLevelActorCritic(tb.Episodes(20), step_size=0.1)
    first = learning(CERTAIN, theta, rng=0)
    second = learning(CERTAIN, theta, rng=0, memory=first.memory)
    fixed = tb.BiLevelActorCritic(tb.Episodes(20))(CERTAIN, theta, rng=0)
    far, near = (
        np.abs(estimate.memory["leader_action_value"] - fixed.memory["leader_action_value"]).sum()
        for estimate in (first, second)
    )
    assert near < 0.9 * far


def test_amds_tables_go_on():
    problem, theta = at(PROBLEMS["patchy"])
    ten = tb.AdaptiveModelDesign(10)
    first = ten(problem, theta, rng=0)
    second = ten(problem, theta, rng=0, memory=first.memory)
    whole = tb.AdaptiveModelDesign(20)(problem, theta, rng=0)
    np.testing.assert_array_equal(second.gradient, whole.gradient)
    assert (first.gradient != whole.gradient).any()


def test_the_radius_decays_with_the_iterations():
    problem, theta = at(PROBLEMS["garnet"])
    decaying = tb.ZeroOrder(radius=0.6, decaying=True, n_directions=3)
    first = decaying(problem, theta, rng=0)
    second = decaying(problem, theta, rng=1, memory=first.memory)
    third = decaying(problem, theta, rng=2, memory=second.memory)
    for seed, (estimate, radius) in enumerate(((first, 0.6), (second, 0.3), (third, 0.2))):
        plain_radius = tb.ZeroOrder(radius=radius, n_directions=3)(problem, theta, rng=seed)
        assert distance(estimate.gradient, plain_radius.gradient) <= 1e-6  # rounding over radius
    wider = tb.ZeroOrder(radius=0.6, n_directions=3)(problem, theta, rng=2)
    assert distance(third.gradient, wider.gradient) > 1e-3


def test_estimates_say_what_they_are_made_of():
    problem, theta = at(PROBLEMS["rewards"])
    twenty = tb.Episodes(20, 5)
    for estimator, trajectories, steps in (
        (tb.BoltzmannCovariance(interaction(twenty)), 20, 100),
        (tb.HyperPolicyGradient(interaction(twenty)), 20, 100),
        (tb.ValueGapPenalty(sampler=twenty), 40, 200),
        (tb.ZeroOrder(sampler=twenty, n_directions=3), 120, 600),
        (tb.ZeroOrder(sampler=twenty, n_directions=3, two_sided=False), 80, 400),
        (tb.ZeroOrder(), 0, 0),
        (tb.ExactGradient(), 0, 0),
    ):
        estimate = estimator(problem, theta, rng=0)
        assert (estimate.n_trajectories, estimate.n_steps) == (trajectories, steps)
        if (parts := estimate.parts) is not None:
            np.testing.assert_allclose(parts.direct + parts.indirect, estimate.gradient, rtol=1e-12)
    assert parts is not None
    assert str(estimate).endswith("from the model")


# ---------------------------------------------------------------- a simulator that differs


@pytest.mark.slow
def test_a_simulator_that_differs_moves_the_target_and_the_mean():
    # source: the published four rooms plan with one slip and sample with another
    planned = tb.problems.four_rooms(temperature=0.05)
    simulator = tb.problems.four_rooms(temperature=0.05, slip=0.33)
    theta = np.zeros(planned.n_parameters)
    alike = tb.BoltzmannCovariance(interaction(tb.Episodes(200)))
    differs = tb.BoltzmannCovariance(interaction(tb.Episodes(200), simulator=simulator))
    exact = exact_gradient(planned, theta)
    assert distance(alike.target(planned, theta), exact) <= TRUNCATION
    assert distance(differs.target(planned, theta), exact) > 0.05
    assert check(differs, planned, theta).verdict is tb.Verdict.UNBIASED
    assert check(differs, planned, theta, target=exact).verdict is tb.Verdict.BIASED


@pytest.mark.parametrize("name", ["BC-HG", "HPGD", "SoBiRL, discounted", "naive"])
@pytest.mark.parametrize("change", [{"temperature": 1.0}, {"follower_discount": 0.3}])
def test_the_follower_answers_as_it_planned_whatever_the_simulator_says(name, change):
    problem, theta = at(PROBLEMS["rewards"])
    other = moving_rewards(problem, problem.base.replace(**change))
    estimator = SAMPLED[name]
    estimator = replace(estimator, interaction=replace(estimator.interaction, simulator=other))
    assert check(estimator, problem, theta).verdict is tb.Verdict.UNBIASED


# ---------------------------------------------------------------- errors

REFUSED = [
    (lambda: tb.AdaptiveModelDesign(0), "sweeps is 0, not a positive whole number"),
    (lambda: tb.TruncatedNeumann(0), "terms is 0, not a positive whole number"),
    (lambda: tb.ValueGapPenalty(0.0), "weight is 0.0, not a positive finite number"),
    (lambda: tb.ValueGapPenalty(np.inf), "weight is inf, not a positive finite number"),
    (lambda: tb.ZeroOrder(radius=-1.0), "radius is -1.0, not a positive finite number"),
    (lambda: tb.ZeroOrder(n_directions=0), "n_directions is 0, not a positive whole number"),
    (lambda: tb.BiLevelActorCritic(sweeps=0), "sweeps is 0, not a positive whole number"),
    (lambda: tb.BiLevelActorCritic(step_size=1.5), "step_size is 1.5, not in (0, 1]"),
    (
        lambda: tb.Interaction(critic={}).limit(PROBLEMS["bandit"], np.zeros(3)),
        "critic is {}, which has no method limit",
    ),
    (
        lambda: tb.SoBiRL(tb.Interaction),
        f"interaction is {tb.Interaction!r}, not an Interaction, which holds a sampler",
    ),
    (
        lambda: tb.HyperPolicyGradient(oracle=tb.Episodes(1), uniform=tb.Episodes(1)),
        "oracle and uniform are two ways to take a separate sample",
    ),
    (
        lambda: tb.ValueGapPenalty().target(PROBLEMS["garnet"], np.zeros(4)),
        "ValueGapPenalty is defined for one discount, and follower_discount is 0.7, "
        "leader_discount 0.8",
    ),
]

# Of what settings, in which place, and which method it lacks.
LACKING = [
    (tb.Interaction, "sampler", 5, "sample"),
    (tb.Interaction, "critic", None, "values"),
    (tb.Interaction, "follower", "best", "solve"),
    (tb.Interaction, "simulator", 0.33, "model"),
    (tb.HyperPolicyGradient, "oracle", 5000, "sample"),
    (tb.HyperPolicyGradient, "uniform", "uniform", "sample"),
    (tb.ValueGapPenalty, "sampler", 7, "sample"),
    (tb.ZeroOrder, "sampler", 7, "sample"),
    (tb.ZeroOrder, "follower", None, "solve"),
    (tb.BiLevelActorCritic, "follower", 3, "solve"),
    (tb.TruncatedNeumann, "follower", None, "solve"),
]

CLASSES = [
    (tb.Interaction, "sampler", tb.Episodes),
    (tb.BiLevelActorCritic, "sampler", tb.Episodes),
    (tb.ValueGapPenalty, "follower", tb.PolicyIteration),
    (tb.ExactGradient, "follower", tb.ValueIteration),
]


def test_bad_settings_are_refused_by_name_and_number():
    for make, message in REFUSED:
        assert refusal(make) == message
    for kind, name, given, method in LACKING:
        found = refusal(kind, **{name: given})
        assert found == f"{name} is {given!r}, which has no method {method}"
    for kind, name, given in CLASSES:
        found = refusal(kind, **{name: given})
        assert found == f"{name} is the class {given.__name__}, not an instance of it"


def test_bi_acs_critic_says_when_it_does_not_settle(monkeypatch):
    monkeypatch.setattr(bi_level_actor_critic, "MOST_CHOICES", 1)
    with pytest.raises(tb.ConvergenceError, match="the leader's best choices still change"):
        tb.BiLevelActorCritic().target(*at(PROBLEMS["game, seen"]))


@pytest.mark.parametrize("leader_discount", [0.0, 0.9, 0.99999])
def test_bi_acs_critic_is_a_fixed_point_at_any_discount(leader_discount):
    problem = tb.problems.random_game(n_states=20, leader_discount=leader_discount)
    model = problem.model(somewhere(problem))
    response = tb.solve_follower(model)
    critic = StackelbergCritic(problem.n_leader_actions, step_size=None, sweeps=1)
    table = critic.limit(model, response, tb.Episodes()).action_value
    ahead = model.next_value(critic._best(response, table))
    gap = np.abs(model.leader_reward + leader_discount * ahead - table).max()
    assert gap <= ROUNDING * np.abs(table).max()


def test_amds_tables_of_another_problem_are_refused():
    amd, (problem, theta) = tb.AdaptiveModelDesign(1), at(PROBLEMS["garnet"])
    memory = amd(problem, theta, rng=0).memory
    names = ("follower_value", "follower_value_slope", "leader_action_value", "leader_value_slope")
    for name in names:
        wrong = {**memory, name: memory[name][:-1]}
        found = refusal(amd, problem, theta, rng=0, memory=wrong)
        assert re.match(rf"{name} has shape \(5,.*, not \(6,", found)


def test_amd_pulls_back_entry_by_entry_where_it_cannot_push_forward():
    problem, theta = at(PROBLEMS["garnet"])
    there, bare = (tb.AdaptiveModelDesign(3)(p, theta, rng=0) for p in (problem, Plain(problem)))
    np.testing.assert_allclose(bare.gradient, there.gradient, rtol=1e-12)


def test_a_simulator_of_another_shape_or_with_other_actions_is_refused():
    problem, theta = tb.problems.two_state(), np.zeros(2)
    interaction = tb.Interaction(simulator=tb.problems.bandit(leader_reward=[0.0, 1.0]))
    message = "simulator has tables of shape (1, 2), the problem (2, 2)"
    assert refusal(interaction.gather, problem, theta, rng=0).startswith(message)
    assert refusal(interaction.limit, problem, theta).startswith(message)
    problem = PROBLEMS["patchy"]
    base = problem.base.replace(
        available=np.ones((5, 3), dtype=bool), follower_reward=np.ones((5, 3))
    )
    simulator = SimpleNamespace(model=lambda theta: base, pullback=problem.pullback)
    found = refusal(tb.Interaction(simulator=simulator).gather, *at(problem), rng=0)
    assert found == "available[1, 2] is True in the simulator, False in the problem"


def test_a_sampler_is_no_interaction():
    methods = tb.BoltzmannCovariance, tb.HyperPolicyGradient, tb.SoBiRL, tb.NaivePolicyGradient
    for method in methods:
        found = refusal(method, tb.Episodes(10))
        assert re.match(r"interaction is Episodes\(.*\), not an Interaction, which holds", found)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_no_memory_is_named(name):
    problem = tb.problems.random_game() if name in {"bi-ac", "bchg-game"} else tb.problems.bandit()
    method = METHODS[name](tb.Setting(tb.Episodes(2, 3)))
    for memory in (None, 5, [], "x"):
        found = refusal(method, *at(problem), rng=0, memory=memory)
        assert found == f"memory is {memory!r}, not a mapping of names to arrays"
