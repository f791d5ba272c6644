"""Critics: returns averaged, tables learnt, and what they come to with infinite data."""

from dataclasses import replace

import numpy as np
import pytest
import twins
from small import patchy, refusal

import tabular_bilevel as tb
from tabular_bilevel.checks.judging import judge
from tabular_bilevel.sampling.critics import visited_mean

# Sums of a few thousand numbers of the size of 1, in another order.
ROUNDING = 1e-11

# A part in 10^12 of the trajectories outlives its rows, of which there are a few hundred.
OUTLIVED = 1e-9

# Probability that a correct critic fails a test of means; the seeds are fixed.
FALSE_ALARM_RATE = 1e-4


PATCHY = patchy()
GARNET = tb.problems.garnet(
    n_states=4, n_actions=2, follower_discount=0.7, leader_discount=0.8, temperature=1.0, rng=2
).base
MODELS = {"patchy": PATCHY, "garnet": GARNET}

# One action and one successor: all targets are certain.
CHAIN = tb.problems.layered(depth=4, width=1, n_actions=1, branching=1, rng=3).base

SAMPLERS = {"episodes": tb.Episodes(200, 6), "survivors": tb.Survivors(200, 0.9)}

each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


def learn(critic, model, sampler, *, seed=0, previous=None):
    response = tb.solve_follower(model)
    rng = np.random.default_rng(seed)
    drawn = sampler.sample(model, response.policy, rng=rng)
    return critic.values(response, drawn, rng=rng, previous=previous), drawn


def as_lists(drawn):
    """The trajectories as the twins have them."""
    tables = drawn.states, drawn.actions, drawn.next_states
    for i, n in enumerate(drawn.lengths):
        steps = zip(*(table[i, :n].tolist() for table in tables), strict=True)
        yield [(s, a, None if following < 0 else following) for s, a, following in steps]


# ---------------------------------------------------------------- averages


@each_model
def test_the_exact_critic_solves_the_leaders_equation(model):
    values, _ = learn(tb.ExactCritic(), model, tb.Episodes(2, 3))
    policy = tb.solve_follower(model).policy
    ahead = model.leader_discount * model.next_value(values.value)
    np.testing.assert_allclose(values.value, (policy * values.action_value).sum(axis=1), atol=1e-12)
    gap = policy * (model.leader_reward + ahead - values.action_value)
    assert np.abs(gap).max() <= ROUNDING
    assert np.abs((policy * values.advantage).sum(axis=1)).max() <= ROUNDING


@each_model
@each_sampler
def test_monte_carlo_averages_the_returns_of_all_visits(model, sampler):
    values, drawn = learn(tb.MonteCarloCritic(), model, sampler)
    discount = model.leader_discount / drawn.survival
    counts, returns = twins.monte_carlo(
        as_lists(drawn), reward=model.leader_reward, discount=discount
    )
    for s in range(model.n_states):
        seen = [(counts[s, a], returns[s, a]) for a in range(model.n_actions) if (s, a) in counts]
        total = sum(n for n, _ in seen)
        wanted = sum(r for _, r in seen) / total if total else 0.0
        assert values.value[s] == pytest.approx(wanted, abs=ROUNDING)
        for a in range(model.n_actions):
            wanted = returns[s, a] / counts[s, a] if (s, a) in counts else 0.0
            assert values.action_value[s, a] == pytest.approx(wanted, abs=ROUNDING)
    assert (values.action_value[~model.available] == 0.0).all()
    # the control: undiscounted returns are others
    _, plain = twins.monte_carlo(as_lists(drawn), reward=model.leader_reward, discount=1.0)
    assert max(abs(plain[key] - returns[key]) for key in returns) > 0.1


def plain_limit(model, policy, horizon, survival):
    """Average what is left to earn over the law of the visits, in plain loops."""
    kernel = model.transition.toarray().reshape(*policy.shape, model.n_states)
    left = np.zeros((horizon + 1, *policy.shape))  # of the steps t, t + 1, ... that are not cut
    for t in reversed(range(horizon)):
        ahead = (policy * left[t + 1]).sum(axis=1)
        for s, a in np.ndindex(policy.shape):
            left[t, s, a] = model.leader_reward[s, a] + model.leader_discount * (
                kernel[s, a] @ ahead
            )
    visits, worth = np.zeros((2, *policy.shape))
    law = np.array(model.initial)
    for t in range(horizon):
        following = np.zeros(model.n_states)
        for s, a in np.ndindex(policy.shape):
            chance = survival**t * law[s] * policy[s, a]
            visits[s, a] += chance
            worth[s, a] += chance * left[t, s, a]
            following += law[s] * policy[s, a] * kernel[s, a]
        law = following
    return visits, worth


@each_model
@each_sampler
def test_the_limit_of_monte_carlo_is_that_of_plain_loops(model, sampler):
    response = tb.solve_follower(model)
    limit = tb.MonteCarloCritic().limit(model, response, sampler)
    horizon, survival = sampler.horizon(model), sampler.survival(model)
    visits, worth = plain_limit(model, response.policy, horizon, survival)
    seen = visits > 0.0
    gap = limit.action_value[seen] - worth[seen] / visits[seen]
    assert np.abs(gap).max() <= ROUNDING
    assert (limit.action_value[~seen] == 0.0).all()
    np.testing.assert_allclose(limit.value, worth.sum(axis=1) / visits.sum(axis=1), rtol=ROUNDING)
    exact = tb.evaluate_leader(model, response).action_value
    apart = np.abs(limit.action_value - exact)[seen].max()
    if isinstance(sampler, tb.Survivors):  # nothing is cut but by chance
        assert apart <= OUTLIVED
    else:
        assert apart > 0.01


@each_model
@each_sampler
def test_monte_carlo_comes_to_its_limit(model, sampler):
    # the returns of a pair, less as many limits as it had visits, have the mean zero
    response = tb.solve_follower(model)
    limit = tb.MonteCarloCritic().limit(model, response, sampler)
    exact = tb.evaluate_leader(model, response).action_value
    gaps, wrong = [], []
    for stream in np.random.default_rng(4).spawn(100):
        drawn = sampler.sample(model, response.policy, rng=stream)
        values = tb.MonteCarloCritic().values(response, drawn, rng=stream)
        counts = np.zeros(limit.action_value.shape)
        np.add.at(counts, (drawn.states[drawn.mask], drawn.actions[drawn.mask]), 1.0)
        gaps.append((counts * (values.action_value - limit.action_value)).ravel())
        wrong.append((counts * (values.action_value - 0.9 * exact)).ravel())
    zero = np.zeros(exact.size)
    settings = {"false_alarm_rate": FALSE_ALARM_RATE, "power": 0.99}
    assert judge(np.array(gaps), zero, **settings).verdict is not tb.Verdict.BIASED
    assert judge(np.array(wrong), zero, **settings).verdict is tb.Verdict.BIASED


def test_means_are_over_pairs_and_over_states():
    counts = np.array([[1.0, 3.0], [0.0, 2.0], [0.0, 0.0]])
    sums = np.array([[4.0, 6.0], [0.0, 5.0], [0.0, 0.0]])
    values = visited_mean(counts, sums)
    np.testing.assert_array_equal(values.action_value, [[4.0, 2.0], [0.0, 2.5], [0.0, 0.0]])
    np.testing.assert_array_equal(values.value, [2.5, 2.5, 0.0])  # (4 + 6) / 4, not (4 + 2) / 2
    np.testing.assert_array_equal(values.advantage, [[1.5, -0.5], [-2.5, 0.0], [0.0, 0.0]])
    for array in (values.action_value, values.value, values.advantage):
        assert not array.flags.writeable


def test_values_under_a_policy_are_means_of_action_values():
    values = tb.LeaderValues.under(np.array([[0.25, 0.75]]), np.array([[4.0, 8.0]]))
    np.testing.assert_array_equal(values.value, [7.0])
    np.testing.assert_array_equal(values.advantage, [[-3.0, 1.0]])


# ---------------------------------------------------------------- learning

LEARNING = [tb.SarsaCritic(), tb.TemporalDifferenceCritic()]

each_learning = pytest.mark.parametrize("critic", LEARNING, ids=["SARSA", "TD"])


@each_learning
@each_model
def test_the_limit_of_a_learning_critic_is_the_truth(critic, model):
    response = tb.solve_follower(model)
    limit = critic.limit(model, response, tb.Episodes(1, 2))
    exact = tb.evaluate_leader(model, response)
    np.testing.assert_array_equal(limit.action_value, exact.action_value)
    np.testing.assert_allclose(limit.value, exact.value, rtol=1e-15)


# With steps of 0.002 an entry wanders about its mean by sqrt(0.002 / 2) = 3 % of its target's
# deviation, and the 20,000 trajectories' own error is smaller: an eighth of the spread of the
# exact values is far more than both.
NEAR = 0.125


@each_learning
def test_a_learning_critic_comes_near_the_truth(critic):
    careful = replace(critic, step_size=0.002, sweeps=50)
    values, _ = learn(careful, GARNET, tb.Episodes(2000, 10))
    exact = tb.evaluate_leader(GARNET, tb.solve_follower(GARNET)).action_value
    spread = exact.max() - exact.min()
    assert np.abs(values.action_value - exact).max() <= NEAR * spread
    # and an untrained one does not
    lazy, _ = learn(replace(critic, step_size=1e-6, sweeps=1), GARNET, tb.Episodes(2000, 10))
    assert np.abs(lazy.action_value - exact).max() > 2.0 * NEAR * spread


@each_model
@pytest.mark.parametrize("sampler", [tb.Episodes(4000, 4), tb.Survivors(4000, 0.8)])
def test_sarsa_comes_to_its_limit_where_a_cut_is_an_end(sampler, model):
    # many runs with small steps, each from where the one before ended; their mean has less noise
    critic = tb.SarsaCritic(step_size=0.003, sweeps=3, cut_is_end=True)
    response = tb.solve_follower(model)
    limit = critic.limit(model, response, sampler).action_value
    exact = tb.evaluate_leader(model, response).action_value
    table, tables = exact, []
    for seed in range(30):
        table = learn(critic, model, sampler, seed=seed, previous=table)[0].action_value
        tables.append(table)
    seen = response.policy > 0.02  # elsewhere there are few steps to learn from
    mean = np.mean(tables[10:], axis=0)
    assert np.abs(mean - limit)[seen].max() < 0.03
    assert np.abs(exact - limit)[seen].max() > 0.3  # the control: what a cut takes off


@pytest.mark.parametrize("sweeps", [1, 2, 3, 4, 7])
def test_a_sweep_of_temporal_differences_looks_one_step_further(sweeps):
    # The target table is that of before the sweep, so in whatever order steps come, k sweeps of
    # size 1 know exactly what k steps earn.
    critic = tb.TemporalDifferenceCritic(step_size=1.0, sweeps=sweeps)
    values, _ = learn(critic, CHAIN, tb.Episodes(3))
    reward, discount = CHAIN.leader_reward[:, 0], CHAIN.leader_discount
    wanted = [sum(discount**k * reward[s + k] for k in range(min(sweeps, 4 - s))) for s in range(4)]
    np.testing.assert_allclose(values.action_value[:, 0], wanted, rtol=1e-14)


def test_temporal_differences_look_beyond_a_cut():
    critic = tb.TemporalDifferenceCritic(step_size=1.0, sweeps=1)
    previous = np.array([[0.0], [0.0], [8.0], [0.0]])
    values, _ = learn(critic, CHAIN, tb.Episodes(3, 2), previous=previous)
    wanted = CHAIN.leader_reward[1, 0] + CHAIN.leader_discount * 8.0  # state 2 is where it was cut
    assert values.action_value[1, 0] == pytest.approx(wanted, rel=1e-14)
    assert values.action_value[3, 0] == 0.0


def test_a_cut_is_an_end_to_sarsa_if_told_so():
    reward, discount = CHAIN.leader_reward[:, 0], CHAIN.leader_discount
    for cut_is_end, wanted in (
        (False, [reward[0], 0.0, 0.0, 0.0]),
        (True, [reward[0] + discount * reward[1], reward[1], 0.0, 0.0]),
    ):
        critic = tb.SarsaCritic(step_size=1.0, sweeps=3, cut_is_end=cut_is_end)
        values, _ = learn(critic, CHAIN, tb.Episodes(3, 2))
        np.testing.assert_allclose(values.action_value[:, 0], wanted, rtol=1e-14)


def test_the_first_table_has_the_spread_asked_for():
    model = tb.problems.garnet(n_states=100, n_actions=10).base
    still = {"step_size": 1e-12, "sweeps": 1}
    table = learn(tb.SarsaCritic(**still, initial_spread=3.0), model, tb.Episodes(2, 3))[0]
    # of a thousand normal numbers: both within five standard errors
    assert table.action_value.std() == pytest.approx(3.0, abs=5.0 * 3.0 / np.sqrt(2000))
    assert table.action_value.mean() == pytest.approx(0.0, abs=5.0 * 3.0 / np.sqrt(1000))
    flat = learn(tb.SarsaCritic(**still), model, tb.Episodes(2, 3))[0]
    assert np.abs(flat.action_value).max() < 1e-10
    # an earlier table is not disturbed
    previous = np.full((100, 10), 2.0)
    spread = tb.SarsaCritic(**still, initial_spread=3.0)
    on = learn(spread, model, tb.Episodes(2, 3), previous=previous)[0]
    assert np.abs(on.action_value - 2.0).max() < 1e-10


@each_learning
def test_learning_goes_on_from_an_earlier_table_and_leaves_it_as_it_was(critic):
    slow = replace(critic, step_size=0.05, sweeps=2)
    exact = tb.evaluate_leader(GARNET, tb.solve_follower(GARNET)).action_value
    table, gaps = np.zeros(exact.shape), []
    for seed in range(16):
        held = table.copy()
        values, _ = learn(slow, GARNET, tb.Episodes(20, 6), seed=seed, previous=table)
        np.testing.assert_array_equal(table, held)
        table = values.action_value
        gaps.append(np.abs(table - exact).max())
    assert gaps[-1] < 0.5 * gaps[0]
    # a table begun anew is as far off as the first
    anew, _ = learn(slow, GARNET, tb.Episodes(20, 6), seed=15)
    assert np.abs(anew.action_value - exact).max() > 0.8 * gaps[0]


@each_learning
def test_learning_repeats_itself_with_the_same_randomness(critic):
    one, other, third = (
        learn(critic, PATCHY, tb.Episodes(20, 6), seed=seed)[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.action_value, other.action_value)
    assert (one.action_value != third.action_value).any()
    assert (one.action_value[~PATCHY.available] == 0.0).all()


# ---------------------------------------------------------------- errors

REFUSED = [
    ({"step_size": 0.0}, "step_size is 0.0, not in (0, 1]"),
    ({"step_size": 1.5}, "step_size is 1.5, not in (0, 1]"),
    ({"step_size": np.nan}, "step_size is nan, not in (0, 1]"),
    ({"step_size": "1"}, "step_size has dtype <U1; real numbers are needed"),
    ({"sweeps": 0}, "sweeps is 0, not a positive whole number"),
    ({"sweeps": 2.0}, "sweeps is 2.0, not a positive whole number"),
    ({"sweeps": True}, "sweeps is True, not a positive whole number"),
    ({"step_size": True}, "step_size has dtype bool; real numbers are needed"),
    ({"step_size": None}, "step_size has dtype object; real numbers are needed"),
    ({"step_size": [0.5]}, "step_size has shape (1,); one number is needed"),
]


@pytest.mark.parametrize("make", [tb.SarsaCritic, tb.TemporalDifferenceCritic])
def test_bad_settings_are_refused_by_name_and_number(make):
    for settings, message in REFUSED:
        assert refusal(make, **settings) == message


def test_a_bad_spread_is_refused():
    finite = "not a finite number"
    for spread, words in {-0.5: "below 0", np.inf: finite, np.nan: finite}.items():
        found = refusal(tb.SarsaCritic, initial_spread=spread)
        assert found == f"initial_spread is {spread}, {words}"


@each_learning
def test_a_table_of_another_shape_is_refused(critic):
    # compiled code would write beyond its end
    for previous, words in (
        (np.zeros((2, 2)), " has shape (2, 2), not (4, 2)"),
        (np.zeros(8), " has shape (8,), not (4, 2)"),
        (np.full((4, 2), np.inf), "[0, 0] is inf, not a finite number"),
    ):
        found = refusal(learn, critic, GARNET, tb.Episodes(3, 3), previous=previous)
        assert found == "previous" + words
