"""The single loop: its steps are those that its docstring says, and it gets where it says."""

import numpy as np
import pytest
from sizes import pairs, sizes
from small import each_refused

import tabular_bilevel as tb
from tabular_bilevel.estimators import regularised_actor_critic as module

# Both sides are float64 evaluations of short formulas.
ROUNDING = 1e-12

SHORT = {"follower_discount": 0.7, "leader_discount": 0.7, "temperature": 0.5}


def rewards_of(problem):
    return tb.FeatureProblem(
        problem.base, follower_reward=problem.follower_reward, leader_reward=problem.leader_reward
    )


def with_one_discount(problem):
    base = problem.base.replace(leader_discount=problem.base.follower_discount)
    features = {"follower_reward": problem.follower_reward, "leader_reward": problem.leader_reward}
    return tb.FeatureProblem(base, **features)


GARNET = rewards_of(
    tb.problems.garnet(n_states=5, n_actions=3, n_parameters=3, branching=3, rng=4, **SHORT)
)
PATCHY = with_one_discount(tb.problems.zoo.named("forbidden and ending").problem)
THETA = np.array([0.3, -0.2, 0.1])
BOTH = pytest.mark.parametrize("problem", [GARNET, PATCHY], ids=["garnet", "patchy"])


def after(method, problem, theta, calls, memory=None):
    """The memory after some calls at one theta."""
    memory = memory or {}
    for _ in range(calls):
        memory = method(problem, theta, rng=0, memory=memory).memory
    return memory


def distance(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def by_hand(problem, theta, method, calls):
    """The docstring's equations, state by state; the gradient of the last call."""
    model = problem.model(theta)
    n, beta, gamma = model.n_states, model.temperature, model.follower_discount
    kernel = model.transition.toarray().reshape(n, model.n_actions, n)
    logits, values = np.zeros((2, n, model.n_actions)), np.zeros((2, n))
    for k in range(calls):
        weight = method.weight * (k + 1) ** method.growth
        tau = beta * (1.0 + method.bonus / (k + 1) ** method.fading)
        flows = np.zeros_like(logits)
        for j, bribe in enumerate((1.0 / weight, 0.0)):
            reward = model.follower_reward + bribe * model.leader_reward
            policy = np.zeros_like(reward)
            for s in range(n):
                there = np.flatnonzero(model.available[s])
                policy[s, there] = np.exp(logits[j, s, there])
                policy[s] /= policy[s].sum()
            law, visits = model.initial.copy(), np.zeros(n)
            for t in range(400):
                visits += gamma**t * law
                law = sum(law[s] * policy[s, a] * kernel[s, a] for s in range(n)
                          for a in range(model.n_actions))  # fmt: skip
            flows[j] = visits[:, None] * policy
            moved, value = logits[j].copy(), values[j].copy()
            for s in range(n):
                there = np.flatnonzero(model.available[s])
                delta = {
                    a: reward[s, a] + gamma * kernel[s, a] @ values[j]
                    - tau * np.log(policy[s, a]) - values[j, s]
                    for a in there
                }  # fmt: skip
                mean = sum(policy[s, a] * delta[a] for a in there)
                value[s] += method.critic_step * mean
                step = min(method.actor_step, 1.0 / tau) / flows[j].sum()
                for a in there:
                    moved[s, a] += step * flows[j, s, a] * (delta[a] - mean)
            logits[j], values[j] = moved, value
    slopes = (x.toarray() for x in (problem.leader_reward, problem.follower_reward))
    leader, follower = slopes
    return flows[0].ravel() @ leader + weight * (flows[0] - flows[1]).ravel() @ follower


@sizes("problem", [PATCHY], [GARNET])
def test_the_steps_are_those_of_the_docstring(problem):
    method = tb.RegularisedActorCritic(3.0, 0.3, 2.0, 0.6, 0.4, 0.4)
    memory = after(method, problem, THETA, 6)
    found = method(problem, THETA, rng=0, memory=memory).gradient
    assert distance(found, by_hand(problem, THETA, method, 7)) < 1e-10
    for other in ({"bonus": 2.1}, {"weight": 3.1}, {"actor_step": 0.5}, {"critic_step": 0.5}):
        settings = dict(
            zip(("weight", "growth", "bonus", "fading", "actor_step", "critic_step"),
                (3.0, 0.3, 2.0, 0.6, 0.4, 0.4), strict=True)
        )  # fmt: skip
        wrong = tb.RegularisedActorCritic(**settings | other)
        assert distance(found, by_hand(problem, THETA, wrong, 7)) > 1e-5


@BOTH
def test_without_a_sampler_an_estimate_is_its_mean(problem):
    method, memory = tb.RegularisedActorCritic(), {}
    for _ in range(4):
        estimate = method(problem, THETA, rng=0, memory=memory)
        assert np.array_equal(estimate.gradient, method.expected(problem, THETA, memory))
        memory = estimate.memory


@sizes(
    ("problem", "sampler"),
    *pairs([GARNET, PATCHY], [tb.Episodes(1000, 4), tb.Survivors(1000), tb.Episodes(1000)]),
)
def test_the_mean_of_sampled_estimates_is_the_expected_one(problem, sampler):
    method = tb.RegularisedActorCritic(sampler=sampler)
    memory = after(method, problem, THETA, 1)
    rows = np.array([method(problem, THETA, rng=k, memory=memory).gradient for k in range(50)])
    error = rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
    mean = method.expected(problem, THETA, memory)
    assert (np.abs(rows.mean(axis=0) - mean) < 5.0 * error).all()
    aim = method.aim(problem, THETA, memory)  # which its policies have not learned yet
    assert (np.abs(rows.mean(axis=0) - aim) > 5.0 * error).any()


def test_many_samples_move_as_the_model_does():
    seen = tb.RegularisedActorCritic(sampler=tb.Episodes(40_000))
    known = tb.RegularisedActorCritic()
    memory = after(known, GARNET, THETA, 3)
    one, other = (m(GARNET, THETA, rng=0, memory=memory).memory for m in (seen, known))
    for name in ("logits", "values"):
        moved = np.abs(other[name] - memory[name]).max()
        assert np.abs(one[name] - other[name]).max() < 0.1 * moved


TARGETS = {
    "fading bonus, growing weight": ({}, 0.02),
    "fading bonus": ({"growth": 0.0}, 0.02),
    "lasting bonus": ({"growth": 0.0, "fading": 0.0}, 0.002),
}


@BOTH
@sizes("name", ["lasting bonus"], [name for name in TARGETS if name != "lasting bonus"])
def test_calls_at_one_theta_come_to_the_target(name, problem):
    settings, room = TARGETS[name]
    method = tb.RegularisedActorCritic(**settings)
    target, exact = method.target(problem, THETA), tb.hypergradient(problem, THETA).gradient
    gaps = [
        distance(method.expected(problem, THETA, after(method, problem, THETA, calls)), target)
        for calls in (0, 100, 1500)
    ]
    assert gaps[0] > 0.1
    assert gaps[2] < min(room, gaps[1])
    assert (distance(target, exact) < ROUNDING) == (name == "fading bonus, growing weight")


@sizes(("discount", "temperature"), [(0.95, 2.0)], [(0.99, 0.1), (0.99, 2.0), (0.7, 20.0)])
def test_it_gets_there_at_any_discount_and_temperature(discount, temperature):
    settings = SHORT | {"follower_discount": discount, "leader_discount": discount}
    problem = rewards_of(
        tb.problems.garnet(n_states=5, n_actions=3, n_parameters=3, branching=3, rng=4,
                           **settings | {"temperature": temperature})
    )  # fmt: skip
    method = tb.RegularisedActorCritic()
    target = method.target(problem, THETA)
    memory = after(method, problem, THETA, 300)
    gap = distance(method.expected(problem, THETA, memory), target)
    assert gap < min(0.12, 0.2 * distance(method.expected(problem, THETA), target))


def test_a_bonus_that_stays_leaves_a_bias():
    method = tb.RegularisedActorCritic(fading=0.0)
    warm = module.Warmed(GARNET, 2.0)
    assert distance(method.target(GARNET, THETA), tb.hypergradient(warm, THETA).gradient) < ROUNDING
    assert distance(method.target(GARNET, THETA), tb.hypergradient(GARNET, THETA).gradient) > 0.1


def test_a_bonus_of_the_wrong_sign_does_not_get_there(monkeypatch):
    class Upside(module.Learner):
        def __init__(self, *args):
            super().__init__(*args)
            self.log_policy = -self.log_policy

    method = tb.RegularisedActorCritic()
    target = method.target(GARNET, THETA)

    def gap():
        memory = after(method, GARNET, THETA, 300)
        return distance(method.expected(GARNET, THETA, memory), target)

    right = gap()
    monkeypatch.setattr(module, "Learner", Upside)
    assert gap() > 2.0 * right


@pytest.mark.slow
def test_policies_lag_behind_a_theta_that_jumps():
    method = tb.RegularisedActorCritic()
    memory = after(method, GARNET, THETA, 1000)

    def lag(theta, memory):
        return distance(method.expected(GARNET, theta, memory), method.aim(GARNET, theta, memory))

    assert lag(THETA, memory) < 0.01
    elsewhere = THETA + np.array([2.0, -2.0, 1.0])
    assert lag(elsewhere, memory) > 0.5
    assert lag(elsewhere, after(method, GARNET, elsewhere, 1000, memory)) < 0.01


def test_an_ascent_climbs_and_its_bias_falls():
    problem = tb.problems.goal_position(3, temperature=0.1)
    method = tb.RegularisedActorCritic()
    steps = list(
        tb.ascend(problem, np.zeros(10), method, tb.GradientAscent(0.05, 1.0), rng=0,
                  n_iterations=300)
    )  # fmt: skip
    assert steps[-1].objective > 2.0 * steps[0].objective
    biases = [
        np.linalg.norm(step.gradient - tb.hypergradient(problem, step.theta).gradient)
        for step in (steps[0], steps[-1])
    ]
    assert biases[1] < 0.5 * biases[0]


@sizes("calls", [300], [3000])
def test_the_checker_sees_the_bias_until_it_is_small(calls):
    method = tb.RegularisedActorCritic(sampler=tb.Episodes(200))
    problem, theta = tb.problems.bandit(), [0.0, 0.3]
    report = tb.check_estimator(method, problem, theta, rng=0)
    assert report.verdict is tb.Verdict.BIASED
    memory = after(tb.RegularisedActorCritic(), problem, theta, calls)
    assert distance(
        method.expected(problem, theta, memory), tb.hypergradient(problem, theta).gradient
    ) < (0.1 if calls == 300 else 0.03)


def test_bad_input_is_named():
    make, usual = tb.RegularisedActorCritic, tb.RegularisedActorCritic()
    two, none = tb.problems.two_state(leader_discount=0.9), [0.0, 0.0]
    at, first = {"problem": GARNET, "theta": THETA}, {"iteration": np.ones(1)}
    before, logits = {"iteration": np.array([-1.0])}, {"logits": np.zeros((2, 4, 3))}
    no_number = {"iteration": np.ones(0)}
    each_refused(
        (lambda: make(0.0), "weight is 0"),
        (lambda: make(growth=-0.1), "growth is -0.1, not a finite number from"),
        (lambda: make(bonus=np.inf), "bonus is inf, not a finite number from"),
        (lambda: make(fading=np.nan), "fading is nan"),
        (lambda: make(actor_step=-1.0), "actor_step is -1"),
        (lambda: make(critic_step=1.5), "critic_step is 1.5, not in"),
        (lambda: make(sampler=7), "sampler is 7"),
        (
            lambda: usual.target(tb.problems.rounds(), none),
            "is defined for one discount, and follower_discount is 0.5, leader_discount 0.66",
        ),
        (lambda: usual.expected(two, none), "is defined for parameters of rewards only"),
        (lambda: usual(**at, rng=0, memory=logits), r"previous has shape \(2, 4, 3\), not \(2, 5"),
        (lambda: usual.expected(**at, memory=before), "memory's iteration is -1, below 0"),
        (lambda: tb.ZeroOrder()(**at, rng=0, memory=no_number), r"iteration has shape \(0,\)"),
        (
            lambda: make(growth=2e3).aim(**at, memory=first),
            "the penalty's weight in call 1 is inf, and the temperature .*: weight, growth",
        ),
    )
