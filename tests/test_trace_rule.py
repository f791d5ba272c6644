"""One formula: what a rule makes of a law is the mean of what it makes of trajectories."""

import copy
import dataclasses
import gc
import pickle
import weakref
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import twins
from sizes import pairs, sizes
from small import each_refused

import tabular_bilevel as tb
from tabular_bilevel.estimators.register import METHODS, Setting
from tabular_bilevel.mistakes.knowledge import cut, right_limit, slipping
from tabular_bilevel.mistakes.register import FAULTS, MISTAKES, _mistakes
from tabular_bilevel.moments.scored import ScoredMoments
from tabular_bilevel.moments.traced import TracedMoments
from tabular_bilevel.sampling.all_trajectories import AllTrajectories
from tabular_bilevel.sampling.critics import LeaderValues
from tabular_bilevel.sampling.traces import TraceRule
from tabular_bilevel.vectors import NOTES

SHORT = {"follower_discount": 0.7, "leader_discount": 0.8, "temperature": 0.4}

# Where trajectories end by themselves, and where they are cut after so many steps.
PROBLEMS = {
    "layered": (tb.problems.layered(depth=3, width=2, temperature=0.5, rng=3), None),
    "masked": (tb.problems.zoo.named("masked layers").problem, 2),
    "garnet": (
        tb.problems.garnet(n_states=3, n_actions=2, branching=2, n_parameters=3, **SHORT),
        3,
    ),
    "game": (tb.problems.random_game(n_states=2, branching=2, n_actions=2, rng=1, **SHORT), 2),
}

RULES = {
    "all": {},
    "plain": {"baseline": False},
    "own action": {"own_action": True},
    "own action, plain": {"own_action": True, "baseline": False},
    "late": {"late": True},
    "late, own action": {"late": True, "own_action": True},
    "centred": {"centred": True},
    "factors": {"direct": -0.5, "indirect": 3.0, "own_action": True},
    "factors, late": {"direct": 0.0, "indirect": 3.0, "late": True},
    "no discount": {"credit_discount": 1.0, "trace_discount": 1.0, "leader_discount": 1.0},
    "first step": {"credit_discount": 0.0, "trace_discount": 0.3},
}
# Sums of some hundred products.
ROUNDING = 1e-12

WORLDS = {"as known": None, "more slips": partial(slipping, share=0.25)}


def known(name, world):
    """Know all of a problem but the world, with values that belong together in no way."""
    problem, horizon = PROBLEMS[name]
    rng = np.random.default_rng(4)
    limit = right_limit(problem, 0.3 * rng.normal(size=problem.n_parameters))
    if WORLDS[world] is not None:
        limit = WORLDS[world](limit)
        if limit is None:
            return None
    model = limit.world
    values = LeaderValues(
        rng.normal(size=model.leader_reward.shape), rng.normal(size=model.n_states)
    )
    return replace(limit if horizon is None else cut(limit, horizon), values=values)


def rule_of(experience, **settings):
    credit = np.random.default_rng(5).normal(size=experience.response.policy.shape)
    usual = {"credit_discount": 0.8, "trace_discount": 0.7, "leader_discount": 0.9}
    return TraceRule(credit=credit, **(usual | settings))


def flat(measures):
    """String all measures together, that of the temperature as well."""
    slots = ("follower_reward", "leader_reward", "transition", "initial", "temperature")
    return np.concatenate([getattr(part, slot) for part in measures for slot in slots], axis=None)


def over_all(rule, limit):
    """Yield what a rule makes of each trajectory, and its probability; cuts by chance as well."""
    law = limit.law
    every = AllTrajectories(law.made_in, law.policy, horizon=law.horizon)
    sample, probabilities = every.take(np.arange(every.count))
    for k, p in enumerate(probabilities):
        one = sample.part(slice(k, k + 1)).replace(survival=law.survival)
        length = int(one.lengths[0])
        for steps in range(1 if law.survival < 1.0 else length, length + 1):
            ends = 1.0 - law.survival if steps < length else 1.0
            chance = p * law.survival ** (steps - 1) * ends
            yield chance, rule.measures(limit.seeing(one.cut(steps)))


def mean_over_all(rule, limit):
    """Average over all trajectories, by their probabilities."""
    return sum(p * flat(measures) for p, measures in over_all(rule, limit))


def moments_over_all(rule, limit):
    """Average the gradients and their products."""
    chances, rows = [], []
    for p, (direct, indirect) in over_all(rule, limit):
        chances.append(p)
        rows.append(limit.problem.pullback(limit.theta, direct + indirect))
    mean = np.array(chances) @ rows
    off = np.array(rows) - mean
    return mean, (off.T * chances) @ off


TRACES = {
    "with a baseline": {"baseline": True, "own_action": False, "survival": 1.0},
    "plain": {"baseline": False, "own_action": False, "survival": 1.0},
    "own actions": {"baseline": True, "own_action": True, "survival": 1.0},
    "survivors": {"baseline": True, "own_action": False, "survival": 0.8},
    "own actions of survivors": {"baseline": False, "own_action": True, "survival": 0.7},
}


@pytest.mark.parametrize("where", PROBLEMS)
@pytest.mark.parametrize("name", TRACES)
def test_a_rule_makes_of_a_sample_what_its_definition_says(name, where):
    """The twin adds up over all pairs of steps, without a trace."""
    limit = known(where, "as known")
    settings = dict(TRACES[name])
    survival = settings.pop("survival")
    rule = rule_of(limit, direct=0.25, indirect=-3.0, **settings)
    law = replace(limit.law, survival=survival)
    sample = law.sample(30, rng=np.random.default_rng(8))
    direct, indirect = rule.measures(replace(limit, seen=sample))
    model, values = limit.world, limit.values
    steps = [
        [
            (*step[:2], None if step[2] < 0 else step[2])
            for step in zip(*(table[i, :n].tolist() for table in tables_of(sample)), strict=True)
        ]
        for i, n in enumerate(sample.lengths)
    ]
    influence, occupancy, gone, carried, start, own_start = twins.sampled_measures(
        steps,
        model,
        worth=rule.worth(limit),
        advantage=values.advantage,
        leader_discount=rule.leader_discount,
        trace_discount=rule.trace_discount,
        credit_discount=rule.credit_discount,
        survival=survival,
        credit=rule.credit,
        direct_share=0.25 / 30,
        indirect_share=-3.0 / 30,
        own_action=rule.own_action,
    )
    pairs, states = model.follower_reward.shape, (model.n_states,)
    for found, sums, shape in (
        (indirect.follower_reward, influence, pairs),
        (direct.leader_reward, occupancy, pairs),
        (direct.transition_matrix, gone, (*pairs, *states)),
        (indirect.transition_matrix, carried, (*pairs, *states)),
        (direct.initial, start, states),
        (indirect.initial, own_start, states),
    ):
        wanted = np.zeros(shape)
        for place, number in sums.items():
            wanted[place] = number
        table = found.toarray().reshape(shape) if len(shape) == 3 else found
        assert np.abs(table - wanted).max() <= ROUNDING * max(1.0, np.abs(wanted).max())


def tables_of(sample):
    return sample.states, sample.actions, sample.next_states


@sizes(("name", "where"), *pairs([*RULES], [*PROBLEMS]))
@pytest.mark.parametrize("world", WORLDS)
def test_a_rule_makes_of_a_law_the_mean_over_its_trajectories(name, where, world):
    limit = known(where, world)
    if limit is None:
        return
    rule = rule_of(limit, **RULES[name])
    wanted = mean_over_all(rule, limit)
    np.testing.assert_allclose(
        flat(rule.measures(limit)), wanted, rtol=0, atol=ROUNDING * np.abs(wanted).max()
    )


def surviving(where, chance):
    limit = known(where, "more slips") or known(where, "as known")
    return replace(limit, seen=replace(limit.law, survival=chance))


def assert_right(moments, mean, covariance):
    size = np.abs(covariance).max()
    for found, wanted in (
        (moments.variances(), covariance.diagonal()),
        (moments.covariance(), covariance),
    ):
        np.testing.assert_allclose(found.mean, mean, rtol=0, atol=ROUNDING * np.abs(mean).max())
        np.testing.assert_allclose(found.covariance, wanted, rtol=0, atol=ROUNDING * size)


@sizes(("name", "where"), *pairs([*RULES], [*PROBLEMS]))
@pytest.mark.parametrize("survival", [1.0, 0.9])
def test_a_rules_moments_are_those_over_all_trajectories(name, where, survival):
    limit = surviving(where, survival)
    rule = rule_of(limit, **RULES[name])
    over = moments_over_all(rule, limit)
    assert_right(TracedMoments(rule, limit, limit.law.horizon), *over)
    if where == "layered":  # ends by itself, at the latest after as many steps
        if survival < 1.0 and name == "no discount":
            with pytest.raises(ValueError, match=r"decays by 1\.11111 from step to step"):
                TracedMoments(rule, limit, None)
        else:
            assert_right(TracedMoments(rule, limit, None), *over)


WRONG = {
    "no step after another": {"carried": lambda self, past: 0.0 * past[:, :, self.outcomes.state]},
    "a start that is certain": {"first": lambda self: np.ones_like(first(self))},
    "no second moment of the eligibility": {
        "carried": lambda self, past: np.where(
            np.arange(past.shape[0])[:, None, None] + np.arange(past.shape[0])[:, None] > 0,
            carried(self, past),
            0.0,
        )
    },
}
first, carried = TracedMoments.first, TracedMoments.carried


@pytest.mark.parametrize("name", WRONG)
def test_moments_that_lack_a_term_are_seen(monkeypatch, name):
    limit = known("garnet", "as known")
    rule = rule_of(limit)
    over = moments_over_all(rule, limit)
    for method, wrong in WRONG[name].items():
        monkeypatch.setattr(TracedMoments, method, wrong)
    with pytest.raises(AssertionError):
        assert_right(TracedMoments(rule, limit, limit.law.horizon), *over)


@sizes(("where", "survival"), *pairs([*PROBLEMS], [1.0, 0.8]))
@pytest.mark.parametrize("baseline", [False, True])
def test_moments_of_the_score_function_form_are_those_over_all_trajectories(
    baseline, where, survival
):
    limit = surviving(where, survival)
    scored = tb.ScoreFunction(baseline=baseline).rule(limit)
    over = moments_over_all(scored, limit)
    assert_right(ScoredMoments(scored, limit, limit.law.horizon), *over)
    direct, indirect = scored.measures(limit)
    mean = limit.problem.pullback(limit.theta, direct + indirect)
    np.testing.assert_allclose(mean, over[0], rtol=0, atol=ROUNDING * np.abs(mean).max())
    if where == "layered":  # ends by itself, at the latest after as many steps
        if survival < 1.0:
            with pytest.raises(ValueError, match=r"decays by 1\.12812 from step to step"):
                ScoredMoments(scored, limit, None)
        else:
            assert_right(ScoredMoments(scored, limit, None), *over)


def without(*terms):
    """Drop parts of a step's second moments: of z with 1, or of z with z."""

    def wrong(self, past, product):
        plain, linear, square = past
        if "cross" in terms:  # z with a step's score
            linear = 0.0 * linear
        found = list(scored_carried(self, (plain, linear, square), product))
        return tuple(0.0 * part if k in terms else part for k, part in enumerate(found))

    return wrong


scored_carried = ScoredMoments._carried


@pytest.mark.parametrize("terms", [["cross"], [1], [2]], ids=str)
@pytest.mark.parametrize("where", ["layered", "garnet"])
def test_moments_of_the_score_function_form_that_lack_a_term_are_seen(monkeypatch, where, terms):
    limit = known(where, "as known")
    scored = tb.ScoreFunction().rule(limit)
    over = moments_over_all(scored, limit)
    monkeypatch.setattr(ScoredMoments, "_carried", without(*terms))
    for horizon in [limit.law.horizon, None][: 2 if where == "layered" else 1]:
        with pytest.raises(AssertionError):
            assert_right(ScoredMoments(scored, limit, horizon), *over)


@pytest.mark.parametrize("slot", ["credit_discount", "trace_discount", "leader_discount"])
def test_another_rule_makes_something_else(slot):
    limit = known("garnet", "as known")
    found = flat(rule_of(limit, **{slot: 0.75}).measures(limit))
    assert np.abs(found - mean_over_all(rule_of(limit), limit)).max() > 1e-3


def test_an_experience_is_of_a_sample_or_of_a_law():
    problem = tb.problems.garnet()
    interaction = tb.Interaction(tb.Episodes(3))
    seen = interaction.gather(problem, np.zeros(6), rng=0)
    limit = interaction.limit(problem, np.zeros(6))
    assert seen.trajectories is seen.seen
    assert limit.law is limit.seen
    assert seen.world is seen.planned  # there is no simulator
    with pytest.raises(ValueError, match=r"^what was seen is a sample of trajectories, not a law$"):
        _ = seen.law
    with pytest.raises(ValueError, match=r"^what was seen is a law, not a sample of trajectories$"):
        _ = limit.trajectories
    with pytest.warns(DeprecationWarning, match=r"^Experience\.model is called planned now"):
        assert seen.model is seen.planned


@pytest.mark.parametrize("name", METHODS)
def test_methods_say_where_their_data_come_from_if_any_are_drawn(name):
    setting = Setting(tb.StepBudget(7))
    sampler = getattr(METHODS[name](setting), "sampler", None)
    assert sampler in (setting.sampler, None)
    assert (sampler is None) == (name in {"zero-order", "amd", "penalty", "neumann", "exact"})


def test_a_method_is_given_the_trajectories_that_it_would_draw():
    problem = tb.problems.layered_game(depth=3, width=2, rng=4)
    theta = 0.2 * np.arange(problem.n_parameters)
    methods = (
        tb.BoltzmannCovariance(own_action=True),
        tb.HyperPolicyGradient(tb.Interaction(critic=tb.MonteCarloCritic())),
        tb.BiLevelActorCritic(),
    )
    for method in methods:
        given = method.enumerable(problem, theta)
        drawn = method.sampler.sample(given.model, given.policy, rng=np.random.default_rng(3))
        once = method(problem, theta, rng=3)
        np.testing.assert_allclose(given.estimate(drawn), once.gradient, rtol=1e-12)
    learning = tb.BiLevelActorCritic(step_size=0.1).enumerable(problem, theta)
    with pytest.raises(ValueError, match=r"the critic draws random numbers \(rng\.permutation\)"):
        learning.estimate(drawn)
    oracle = tb.HyperPolicyGradient(oracle=tb.Episodes(9))
    each_refused(
        (lambda: tb.SoBiRL().enumerable(problem, theta), "is defined for parameters of rewards"),
        (lambda: oracle.enumerable(problem, theta), "a sample of its own, from Episodes"),
    )


def test_the_register_of_mistakes_has_each_once_with_words_and_flags():
    names = [mistake.name for mistake in _mistakes()]
    assert names == list(MISTAKES)
    assert set(FAULTS) < set(MISTAKES)
    for mistake in MISTAKES.values():
        in_estimators = mistake.name in FAULTS
        assert bool(mistake.instead) == in_estimators
        assert bool(mistake.flags) == (mistake.road is not None)
        assert in_estimators or mistake.road is not None
        assert set(mistake.flags) <= set(NOTES)


# ---------------------------------------------------------------- what is asked for


TWO = tb.problems.two_state()


def lazy(asked, problem=TWO):
    """Sensitivities that note what they are asked for."""
    model = problem.model(np.array([0.2, -0.3]))

    def noted(name, array):
        return lambda: asked.append(name) or array

    return tb.Sensitivities.of(
        model,
        follower_reward=np.ones(model.available.shape),
        transition=noted("transition", np.arange(float(model.transition.nnz))),
        initial=noted("initial", np.arange(1.0, model.n_states + 1.0)),
    )


def test_what_a_pullback_does_not_ask_for_is_not_computed():
    rewards, kernel = [], []
    tb.problems.bandit().pullback([0.2, -0.3], lazy(rewards, tb.problems.bandit()))
    TWO.pullback([0.2, -0.3], lazy(kernel))
    assert rewards == []
    assert "transition" in kernel


def test_a_sum_is_computed_once_when_it_is_asked_for():
    asked = []
    measures = lazy(asked)
    whole = measures + measures
    assert whole.follower_reward[0, 0] == 2.0
    assert asked == []
    assert whole.initial.tolist() == [2.0, 4.0]
    assert asked == ["initial"]
    assert whole.initial is whole.initial
    assert not whole.initial.flags.writeable
    assert whole.transition[1] == 2.0
    assert asked == ["initial", "transition"]


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, dataclasses.replace, lambda x: pickle.loads(pickle.dumps(x))],
)
def test_copies_hold_the_numbers(again):
    asked = []
    found = again(lazy(asked))
    assert sorted(asked) == ["initial", "transition"]
    assert found.initial.tolist() == [1.0, 2.0]
    assert found.transition[1] == 1.0
    assert len(asked) == 2


def test_sensitivities_have_no_other_attributes():
    with pytest.raises(AttributeError, match=r"^Sensitivities has no attribute 'kernel'$"):
        _ = lazy([]).kernel


def test_an_estimate_does_not_hold_on_to_its_sample():
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(50, steps=9)))
    experience = method.interaction.gather(TWO, [0.2, -0.3], rng=0)
    sample = weakref.ref(experience.trajectories)
    estimate = method.estimate(experience)
    del experience
    gc.collect()
    assert sample() is None
    assert estimate.parts.direct.shape == (2,)
