"""Least variances: derivatives against complex steps, and what attains them against samples."""

from functools import partial

import numpy as np
import pytest
from sizes import sizes
from small import each_refused, somewhere

import tabular_bilevel as tb
from tabular_bilevel.problems import zoo

# Relative; linear systems of some states, twice over.
SOLVED = 1e-9

STEPS = 12


def tables(model):
    """Make what may be unknown, dense: policy, kernel, start and rewards."""
    shape = (*model.available.shape, model.n_states)
    return {
        "policy": tb.solve_follower(model).policy,
        "transition": model.transition.toarray().reshape(shape),
        "initial": model.initial,
        "leader_reward": model.leader_reward,
    }


class Formula:
    """The gradient of theory.md section 4, of tables that need not be a soft-optimal policy's."""

    def __init__(self, problem, theta, *, value=None, critic=None):
        self.model, self.value, self.critic = problem.model(theta), value, critic
        self.slopes = [problem.pushforward(theta, axis) for axis in np.eye(theta.size)]

    def __call__(self, policy, transition, initial, leader_reward):
        model, one = self.model, np.eye(self.model.n_states)
        beta, gamma_f, gamma_l = model.temperature, model.follower_discount, model.leader_discount
        moves = np.einsum("sa,sat->st", policy, transition)
        logs = np.log(np.where(policy == 0.0, 1.0, policy))

        def solved(discount, pairs):
            return np.linalg.solve(one - discount * moves, (policy * pairs).sum(axis=1))

        v_l = solved(gamma_l, leader_reward)
        v_f = self.value
        if v_f is None:
            v_f = solved(gamma_f, np.where(model.available, model.follower_reward, 0) - beta * logs)
        alpha = (leader_reward + gamma_l * transition @ v_l - v_l[:, None]) / beta
        if self.critic is not None:
            alpha = self.critic
        visits = np.linalg.solve((one - gamma_l * moves).T, initial)[:, None] * policy
        gradient = []
        for slope in self.slopes:
            stored = model.transition.copy()
            stored.data = slope.transition
            moved = stored.toarray().reshape(transition.shape)
            paid = slope.follower_reward - logs * slope.temperature + gamma_f * moved @ v_f
            d_q = paid + gamma_f * transition @ solved(gamma_f, paid)
            direct = visits * (slope.leader_reward + gamma_l * moved @ v_l)
            gradient.append((visits * alpha * d_q + direct).sum() + slope.initial @ v_l)
        return np.array(gradient)


def slopes(formula, known, name):
    """Differentiate by complex steps in each entry of a table."""
    found = []
    for place in np.ndindex(known[name].shape):
        moved = {key: table.astype(complex) for key, table in known.items()}
        moved[name][place] += 1e-100j
        found.append(formula(**moved).imag / 1e-100)
    return np.reshape(found, (*known[name].shape, -1))


def visits(model, policy, steps):
    law, seen = model.initial, 0.0
    for _ in range(steps):
        seen, law = seen + law, model.arrivals(policy * law[:, None])
    return seen[:, None] * policy


def spread(chance, slope):
    """Sum up a covariance over the last axis of chances, for each of what comes before."""
    mean = np.einsum("...a,...ad->...d", chance, slope)
    off, ends = slope - mean[..., None, :], 1.0 - chance.sum(axis=-1)
    square = np.einsum("...a,...ad,...ae->...de", chance, off, off)
    return square + np.einsum("...,...d,...e->...de", ends, mean, mean)


def expected(problem, theta, noise, names, **fixed):
    """Make parts from complex steps."""
    model = problem.model(theta)
    known, formula = tables(model), Formula(problem, theta, **fixed)
    seen, found = visits(model, known["policy"], STEPS), {}
    over = np.divide(1.0, seen, out=np.zeros_like(seen), where=seen > 0.0)
    weights = {
        "policy": 1.0 / seen.sum(axis=1),
        "transition": over,
        "initial": 1.0,
        "leader_reward": over * noise,
    }
    for name in names:
        slope = slopes(formula, known, name)
        if name == "leader_reward":
            part = np.einsum("...d,...e->...de", slope, slope)
        else:
            part = spread(known[name], slope)
        found[name] = (np.expand_dims(weights[name], (-1, -2)) * part).reshape(-1, *part.shape[-2:])
    return {name: part.sum(axis=0) for name, part in found.items()}


def rewards_only(temperature):
    problem = tb.problems.garnet(n_states=6, n_parameters=3, rng=4, temperature=temperature)
    return tb.FeatureProblem(
        problem.base,
        follower_reward=problem.follower_reward,
        leader_reward=problem.leader_reward,
        temperature=[[0.1, 0.0, 0.3]],
    )


PROBLEMS = {
    "rewards": rewards_only(temperature=1.0),
    "kernel": tb.problems.garnet(n_states=6, n_parameters=3, rng=4),
    "masked": zoo.named("masked layers").problem,
    "game": tb.problems.random_game(n_states=3),
    "layered": tb.problems.layered(),
}


def differs(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@sizes("where", ["rewards", "game"], ["kernel", "masked", "layered"])
def test_its_derivatives_are_those_of_complex_steps(where):
    problem = PROBLEMS[where]
    theta = somewhere(problem)
    noise = np.random.default_rng(1).uniform(size=problem.model(theta).available.shape)
    found = tb.lower_limit(problem, theta, tb.Episodes(1, STEPS), reward_variance=noise)
    parts = {name: part for name, part in vars(found).items() if part is not None}
    assert (len(parts) == 4) == (where == "rewards")  # elsewhere theta moves the kernel
    wanted = expected(problem, theta, noise, parts)
    for name, part in parts.items():
        assert differs(part, wanted[name]) <= SOLVED, name
    # the follower's value is at its best: a change of the policy does not change it
    value = tb.solve_follower(problem.model(theta)).value
    given = expected(problem, theta, noise, ["policy"], value=value)
    assert differs(found.policy, given["policy"]) <= SOLVED


def test_who_is_told_the_leaders_values_has_another_limit():
    """What the derivatives are compared with would show a part that is left out."""
    problem = PROBLEMS["rewards"]
    theta = somewhere(problem)
    limit = tb.Interaction().limit(problem, theta)
    told = limit.values.advantage / limit.planned.temperature
    found = tb.lower_limit(problem, theta, tb.Episodes(1, STEPS))
    other = expected(problem, theta, 0.0, ["policy"], critic=told)
    assert differs(found.policy, other["policy"]) > 0.1
    assert not found.leader_reward.any()


def frequencies(sample, noise, rng):
    """Make tables of what was seen; each state and pair was."""
    model, shape = sample.model, sample.model.available.shape
    counts = np.bincount(sample.pairs, minlength=shape[0] * shape[1])
    stored = model.transition.copy()
    stored.data = np.bincount(sample.entries[sample.entries >= 0], minlength=stored.nnz)
    moves = stored.toarray() / counts[:, None]
    starts = sample.pairs[sample.ends - sample.lengths] // shape[1]
    counts = counts.reshape(shape)
    return {
        "policy": counts / counts.sum(axis=1, keepdims=True),
        "transition": moves.reshape(*shape, shape[0]),
        "initial": np.bincount(starts, minlength=shape[0]) / sample.count,
        "leader_reward": model.leader_reward + rng.normal(size=shape) * np.sqrt(noise / counts),
    }


@pytest.mark.slow
def test_the_formula_of_what_was_seen_attains_it():
    problem, n, n_replicates, noise = PROBLEMS["rewards"], 4000, 1000, 0.5
    theta = somewhere(problem)
    model, formula = problem.model(theta), Formula(problem, theta)
    limit = tb.lower_limit(problem, theta, tb.Episodes(1, STEPS), reward_variance=noise)
    known, names = tables(model), ["policy", "transition", "initial", "leader_reward"]
    unknown = [names[:1], names[:3], names]
    rows = []
    for rng in np.random.default_rng(5).spawn(n_replicates):
        drawn = {"count": n, "horizon": STEPS, "rng": rng}
        sample = tb.sample_trajectories(model, known["policy"], **drawn)
        seen = frequencies(sample, noise, rng)
        rows.append(
            [formula(**{**known, **{name: seen[name] for name in names}}) for names in unknown]
        )
    total = n * np.var(rows, axis=0).sum(axis=1)
    least = [sum(np.trace(getattr(limit, name)) for name in names) for names in unknown]
    # of so many replicates, a standard error of about 4 %, and bias of order 1/n
    np.testing.assert_allclose(total / least, 1.0, atol=0.15)
    assert least[1] > 1.3 * least[0]  # which one is compared with shows


def test_actions_that_are_all_but_never_taken_do_not_count():
    problem = rewards_only(temperature=0.002)
    policy = tb.solve_follower(problem.model(np.zeros(3))).policy
    assert 0.0 < policy[policy > 0.0].min() < 1e-308  # over which 1 is infinite
    found = tb.lower_limit(problem, np.zeros(3), tb.Episodes(1, STEPS), reward_variance=1.0)
    assert all(np.isfinite(part).all() for part in vars(found).values())


def test_what_has_no_limit_is_refused():
    rewards = partial(tb.lower_limit, PROBLEMS["rewards"], np.zeros(3))
    layered = partial(tb.lower_limit, tb.problems.layered(), np.zeros(4))
    cold = partial(tb.lower_limit, tb.problems.two_state(temperature=1e-300), [0.2, -0.3])
    shape = r"^reward_variance has shape \(2,\), not \(6, 4\)$"
    each_refused(
        (lambda: rewards(reward_variance=-1.0), r"^reward_variance is -1.0, which is negative$"),
        (lambda: rewards(reward_variance=[1.0, 2.0]), shape),
        (lambda: layered(sampler=0), "^sampler is 0"),
        (lambda: layered(sampler=tb.Episodes(1, 1)), "^trajectories are cut before they show all"),
        (lambda: cold(reward_variance=1.0), r"^the limit overflows float64"),
    )
