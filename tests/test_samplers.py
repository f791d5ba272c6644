"""Samplers: how many trajectories, where they are cut, and what survives."""

import numpy as np
import pytest
from scipy import stats
from small import refusal

import tabular_bilevel as tb

# Probability that a test of frequencies fails by chance; seeds are fixed, so one that passes goes
# on passing.
CHANCE = 1e-6

# From this many standard errors on a mean is known to be another.
SURE = 6.0


def at_zero(problem):
    return problem.model(np.zeros(problem.n_parameters))


GARNET = at_zero(tb.problems.garnet(n_states=6, follower_discount=0.7, leader_discount=0.8))
LAYERED = at_zero(tb.problems.layered(depth=4))  # every trajectory has four steps
BANDIT = at_zero(tb.problems.bandit())  # both discounts are 0
ENDING = GARNET.replace(transition=0.7 * GARNET.transition, termination=np.full((6, 4), 0.3))

MODELS = {"garnet": GARNET, "layered": LAYERED, "bandit": BANDIT, "ending": ENDING}

each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def sample(sampler, model, seed=0):
    policy = tb.solve_follower(model).policy
    return sampler.sample(model, policy, rng=np.random.default_rng(seed))


def same(one, other):
    return one.complete == other.complete and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("states", "actions", "next_states", "lengths")
    )


@each_model
@pytest.mark.parametrize(
    "sampler", [tb.Episodes(20, 9), tb.StepBudget(100, 9), tb.Survivors(20, 0.96)], ids=repr
)
def test_the_same_seed_gives_the_same_sample(sampler, model):
    assert same(sample(sampler, model), sample(sampler, model))
    assert not same(sample(sampler, model), sample(sampler, model, seed=1))
    assert sample(sampler, model).model is model


# ---------------------------------------------------------------- episodes


@pytest.mark.parametrize(
    ("follower", "leader", "steps"), [(0.99, 0.5, 1833), (0.5, 0.99, 1833), (0.0, 0.0, 1)]
)
def test_by_default_a_part_in_a_hundred_million_is_left_out(follower, leader, steps):
    # source: ln(1e-8) / ln(0.99) = 1832.8, and the docstring
    model = GARNET.replace(follower_discount=follower, leader_discount=leader)
    for sampler in (tb.Episodes(), tb.StepBudget(10)):
        assert sampler.horizon(model) == steps
        assert sampler.survival(model) == 1.0


@each_model
def test_episodes_are_as_many_as_asked_and_cut_where_told(model):
    drawn = sample(tb.Episodes(30, 3), model)
    assert drawn.count == drawn.complete == 30
    assert (drawn.lengths[~drawn.terminated] == 3).all()
    assert drawn.lengths.max() <= 3
    assert drawn.survival == 1.0
    assert tb.Episodes(30, 3).horizon(model) == 3


# ---------------------------------------------------------------- steps


@each_model
@pytest.mark.parametrize("n_steps", [1, 2, 7, 100, 1001])
@pytest.mark.parametrize("time_limit", [None, 1, 5, 2000])
def test_there_are_as_many_steps_as_asked(model, n_steps, time_limit):
    sampler = tb.StepBudget(n_steps, time_limit)
    drawn, limit = sample(sampler, model), sampler.horizon(model)
    assert drawn.lengths.sum() == n_steps
    assert (drawn.lengths >= 1).all()
    # each but the last has ended, or was given up at the limit
    whole = drawn.terminated | (drawn.lengths == limit)
    assert whole[:-1].all()
    assert drawn.complete == drawn.count - (not whole[-1])
    # and each is a fresh start
    assert (model.initial[drawn.states[:, 0]] > 0.0).all()


@pytest.mark.parametrize(
    ("model", "n_steps", "time_limit", "lengths", "complete"),
    [
        (LAYERED, 8, None, [4, 4], 2),  # the steps run out as the last episode ends
        (LAYERED, 10, None, [4, 4, 2], 2),
        (LAYERED, 9, 3, [3, 3, 3], 3),  # given up, but not for want of steps
        (LAYERED, 10, 3, [3, 3, 3, 1], 3),
        (LAYERED, 3, None, [3], 0),
        (LAYERED, 4, None, [4], 1),
        (GARNET, 6, 3, [3, 3], 2),
        (GARNET, 7, 3, [3, 3, 1], 2),
        (GARNET, 2, 3, [2], 0),
        (BANDIT, 3, None, [1, 1, 1], 3),
    ],
)
def test_a_trajectory_is_complete_unless_the_steps_ran_out(
    model, n_steps, time_limit, lengths, complete
):
    drawn = sample(tb.StepBudget(n_steps, time_limit), model)
    assert drawn.lengths.tolist() == lengths
    assert drawn.complete == complete


@pytest.mark.parametrize("n_envs", [1, 2, 5])
def test_environments_share_the_steps_one_after_another(n_envs):
    model, limit = ENDING, 4
    policy = tb.solve_follower(model).policy
    drawn = sample(tb.StepBudget(60, limit, n_envs), model)
    rng = np.random.default_rng(0)
    alone = tb.StepBudget(60 // n_envs, limit)
    parts = [alone.sample(model, policy, rng=rng) for _ in range(n_envs)]
    assert drawn.lengths.tolist() == [n for part in parts for n in part.lengths.tolist()]
    assert drawn.complete == sum(part.complete for part in parts)
    steps = np.concatenate([part.states[part.mask] for part in parts])
    np.testing.assert_array_equal(drawn.states[drawn.mask], steps)
    for array in (drawn.states, drawn.actions, drawn.next_states):
        assert (array[~drawn.mask] == -1).all()
    # a control: one environment cuts one trajectory at most, five cut up to five
    assert drawn.count - drawn.complete <= n_envs
    if n_envs == 5:
        one = sample(tb.StepBudget(60, limit), model)
        assert drawn.count - drawn.complete > one.count - one.complete


def test_published_environments_have_the_time_limit_each():
    # 1000 steps in five environments are 200 each: what does not end is given up, not cut
    drawn = sample(tb.StepBudget(1000, 200, 5), GARNET)
    assert drawn.lengths.tolist() == [200] * 5
    assert drawn.complete == 5
    assert sample(tb.StepBudget(995, 200, 5), GARNET).complete == 0


def test_many_chunks_are_one_sample():
    # a limit of 1000 lets each chunk have a few rows only; one of 4 has all rows at once
    for n_steps in (20_000, 19_998):
        one, other = (sample(tb.StepBudget(n_steps, limit), LAYERED) for limit in (1000, 4))
        assert same(one, other)


def test_restarts_have_the_law_of_the_start():
    drawn = sample(tb.StepBudget(50_000, 5), ENDING)
    first = np.bincount(drawn.states[:, 0], minlength=ENDING.n_states)
    assert stats.chisquare(first, ENDING.initial * drawn.count).pvalue > CHANCE
    uniform = np.full(ENDING.n_states, drawn.count / ENDING.n_states)
    assert stats.chisquare(first, uniform).pvalue < CHANCE


# ---------------------------------------------------------------- survivors


@pytest.mark.parametrize("probability", [None, 0.9])
def test_survivors_have_geometric_lengths(probability):
    sampler = tb.Survivors(50_000, probability)
    drawn, chance = sample(sampler, GARNET), sampler.survival(GARNET)
    assert chance == (0.8 if probability is None else 0.9)  # by default the larger discount
    assert drawn.survival == chance
    assert drawn.count == drawn.complete == 50_000
    for steps in (1, 2, 5, 10, 20):
        longer = int((drawn.lengths > steps).sum())
        for law, right in ((chance**steps, True), ((chance - 0.02) ** steps, False)):
            tails = stats.binom.cdf(longer, 50_000, law), stats.binom.sf(longer - 1, 50_000, law)
            assert (2.0 * min(tails) > CHANCE) == right


def test_survivors_are_cut_where_hardly_any_comes():
    for sampler, chance in ((tb.Survivors(), 0.8), (tb.Survivors(probability=0.99), 0.99)):
        horizon = sampler.horizon(GARNET)
        assert chance**horizon <= 1e-12 * (1.0 + 1e-9) < chance ** (horizon - 1)
    assert tb.Survivors().survival(BANDIT) == 0.5  # any will do
    assert tb.Survivors().horizon(BANDIT) == 40  # 2^-40 < 1e-12


@pytest.mark.parametrize("model", [GARNET, ENDING], ids=["garnet", "ending"])
def test_sums_divided_by_survival_have_no_bias(model):
    sampler, exact = tb.Survivors(50_000), tb.evaluate_leader(model, tb.solve_follower(model))
    drawn = sample(sampler, model)
    steps = np.arange(drawn.states.shape[1])
    ratio = model.leader_discount / drawn.survival
    assert ratio <= 1.0  # weights do not grow
    returns = drawn.leader_reward @ ratio**steps
    error = returns.std() / np.sqrt(returns.size)
    assert abs(returns.mean() - exact.objective) < 5.0 * error
    undivided = drawn.leader_reward @ model.leader_discount**steps
    wrong = undivided.std() / np.sqrt(undivided.size)
    assert abs(undivided.mean() - exact.objective) > SURE * wrong


def test_survivors_cost_fewer_steps_than_episodes():
    few, many = sample(tb.Survivors(1000), GARNET), sample(tb.Episodes(1000), GARNET)
    assert few.lengths.sum() < 0.1 * many.lengths.sum()


# ---------------------------------------------------------------- errors

GROWING = "probability is 0.75, below the discount 0.8: weights would grow without bound"
REFUSED = [
    (lambda: tb.Episodes(0), "n_trajectories is 0, not a positive whole number"),
    (lambda: tb.Episodes(1, 0.5), "steps is 0.5, not a positive whole number"),
    (lambda: tb.StepBudget(0), "n_steps is 0, not a positive whole number"),
    (lambda: tb.StepBudget("ten"), "n_steps is 'ten', not a positive whole number"),
    (lambda: tb.StepBudget(10, None, 4), "n_steps is 10, not a multiple of n_envs, 4"),
    (lambda: tb.StepBudget(1, n_envs=0), "n_envs is 0, not a positive whole number"),
    (lambda: tb.StepBudget(1, -1), "time_limit is -1, not a positive whole number"),
    (lambda: tb.Survivors(0), "n_trajectories is 0, not a positive whole number"),
    (lambda: tb.Survivors(1, 0.0), "probability is 0.0, not in (0, 1)"),
    (lambda: tb.Survivors(1, 1.0), "probability is 1.0, not in (0, 1)"),
    (lambda: tb.Survivors(1, np.nan), "probability is nan, not in (0, 1)"),
    (lambda: tb.Survivors(1, "0.9"), "probability has dtype <U3; real numbers are needed"),
    (lambda: sample(tb.Survivors(1, 0.75), GARNET), GROWING),
    (lambda: tb.Survivors(1, 0.75).horizon(GARNET), GROWING),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_bad_settings_are_refused_by_name_and_number(make, message):
    assert refusal(make) == message


@pytest.mark.parametrize("sampler", [tb.Episodes(10), tb.Survivors(10)])
def test_a_discount_too_near_one_for_any_memory_is_named(sampler):
    model = tb.problems.two_state(follower_discount=1.0 - 1e-15).model(np.zeros(2))
    message = r"^a trajectory may take \d{16,} steps, .* of 0\.999999999999999 and 0\.8: give"
    with pytest.raises(ValueError, match=message):
        sampler.sample(model, np.array([[0.5, 0.5], [1.0, 0.0]]), rng=np.random.default_rng(0))
