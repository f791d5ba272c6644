"""The papers' measures on an iteration: guidance effect, optimality gap, divergence."""

import numpy as np
import pytest
from sizes import pairs, sizes
from small import patchy

import tabular_bilevel as tb
from tabular_bilevel.ascent.measures import divergence, guidance, relative_gap
from tabular_bilevel.finite.follower import log_policy
from tabular_bilevel.problems import zoo

# Sums of a few hundred terms, and differences of logarithms at temperatures down to 0.1.
ROUNDING = 1e-9

WALKS = tb.Episodes(20, 10)


def step_of(problem, method, *, theta=None, optimiser=None, memory=()):
    theta = np.full(problem.n_parameters, 0.1) if theta is None else theta
    return next(tb.ascend(problem, theta, method, optimiser or tb.GradientAscent(0.1), rng=0))


def stopping(sweeps):
    follower = tb.StoppedValueIteration(sweeps=sweeps)
    return tb.BoltzmannCovariance(tb.Interaction(WALKS, follower=follower))


def plainly(model, policy):
    """The value of a policy, entropy counted, by 4,000 sweeps."""
    kernel = model.transition.toarray().reshape(*policy.shape, model.n_states)
    value = np.zeros(model.n_states)
    for _ in range(4000):
        swept = np.zeros(model.n_states)
        for s, a in zip(*np.nonzero(policy), strict=True):
            ahead = model.follower_discount * kernel[s, a] @ value
            reward = model.follower_reward[s, a] - model.temperature * np.log(policy[s, a])
            swept[s] += policy[s, a] * (reward + ahead)
        value = swept
    return model.initial @ value


@sizes(("sweeps", "seed"), *pairs([1, 4], [3, 5]))
def test_gap_and_divergence_are_what_they_say(sweeps, seed):
    model = patchy(seed)
    best = tb.solve_follower(model)
    answer = tb.StoppedValueIteration(sweeps=sweeps).solve(model)
    most, earned = (plainly(model, each.policy) for each in (best, answer))
    lost = (most - earned) / abs(most)
    assert relative_gap(model, answer, best) == pytest.approx(lost, abs=ROUNDING)
    seen = model.available
    terms = answer.policy[seen] * np.log(answer.policy[seen] / best.policy[seen]) / model.n_states
    assert divergence(model, answer, best) == pytest.approx(terms.sum(), abs=ROUNDING)
    # an answer that is not optimal loses something, and the optimal one nothing
    assert relative_gap(model, answer, best) > 1e-4
    assert divergence(model, answer, best) > 1e-4
    assert abs(relative_gap(model, best, best)) <= ROUNDING
    assert divergence(model, best, best) == 0.0


def test_a_worthless_best_has_no_share():
    model = patchy(3)
    best, bad = tb.solve_follower(model), tb.StoppedValueIteration(sweeps=1).solve(model)
    nothing = tb.Response(**{**vars(best), "value": np.zeros(model.n_states)})
    assert relative_gap(model, bad, nothing) in (np.inf, -np.inf)


def test_an_iteration_says_how_good_its_follower_is():
    problem = zoo.draw("patchy", 3).problem
    gaps, divergences = zip(
        *(
            (step.follower_gap, step.follower_divergence)
            for step in (step_of(problem, stopping(sweeps)) for sweeps in (1, 3, 30))
        ),
        strict=True,
    )
    assert gaps[0] > gaps[1] > gaps[2] > 0.0
    assert divergences[0] > divergences[1] > divergences[2] > 0.0
    exact = step_of(problem, tb.ExactGradient())
    assert abs(exact.follower_gap) <= ROUNDING
    assert exact.follower_divergence <= ROUNDING


def test_an_estimator_of_unknown_follower_has_no_gap():
    step = step_of(tb.problems.bandit(), lambda problem, theta, rng: np.zeros(2))
    for ask in (lambda: step.follower_gap, lambda: step.follower_divergence):
        with pytest.raises(ValueError, match=r"^the method does not say how its follower answers$"):
            ask()
    assert step.guidance_effect == 0.0  # theta stood still


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_guidance_effect_is_a_correlation_over_discounted_visits(seed):
    problem = tb.problems.garnet(n_states=6, leader_discount=0.8, rng=seed)
    step = step_of(problem, tb.ExactGradient())
    model = problem.model(step.theta)
    here, there = (
        tb.solve_follower(problem.model(theta)) for theta in (step.theta, step.next_theta)
    )
    values = tb.evaluate_leader(model, here)
    # as many draws of a pair as its visits say, in the limit: numpy's own weighted covariance
    weights = (values.occupancy[:, None] * here.policy).ravel()
    changed = np.log(there.policy / here.policy).ravel()
    table = np.cov(values.advantage.ravel(), changed, aweights=weights)
    expected = table[0, 1] / np.sqrt(table[0, 0] * table[1, 1])
    assert step.guidance_effect == pytest.approx(expected, abs=1e-6)
    assert 0.01 < abs(expected) < 1.0
    # controls: undiscounted weights, and a step the other way
    others = np.cov(values.advantage.ravel(), changed)
    assert abs(others[0, 1] / np.sqrt(others[0, 0] * others[1, 1]) - expected) > 1e-3
    down = step_of(problem, tb.controls()["sign flipped"])
    assert down.guidance_effect * step.guidance_effect < 0.0


@pytest.mark.parametrize("size", [1e-300, 1.0, 1e300])
def test_of_two_actions_a_step_makes_the_better_one_likelier_or_not(size):
    # two values of each variable, in the same order: the correlation is 1, or -1
    problem = tb.problems.bandit(leader_reward=[0.0, size])
    optimiser = tb.GradientAscent(0.1 / size)
    up = step_of(problem, tb.ExactGradient(), optimiser=optimiser)
    down = step_of(problem, tb.controls()["sign flipped"], optimiser=optimiser)
    assert up.guidance_effect == pytest.approx(1.0)
    assert down.guidance_effect == pytest.approx(-1.0)


def test_where_the_leader_does_not_care_there_is_no_guidance():
    problem = tb.problems.bandit(leader_reward=[1.0, 1.0])
    model, answer = problem.model([0.0, 0.0]), tb.solve_follower(problem.model([0.0, 0.0]))
    values = tb.evaluate_leader(model, answer)
    then = log_policy(model, answer.action_value + np.array([0.0, 1.0]))
    assert guidance(model, answer, values, then) == 0.0


def test_an_iteration_is_not_slower_for_them():
    # they are computed when asked for: nothing of them is there before
    step = step_of(tb.problems.garnet(), stopping(3))
    assert not {"guidance_effect", "_stations"} & vars(step).keys()
    assert step.guidance_effect == step.guidance_effect
    assert "guidance_effect" in vars(step)
