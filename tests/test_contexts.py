"""Contexts: several followers and one theta are one problem, by every route."""

import dataclasses
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from references.strangers import Plain, Pushing
from sizes import sizes
from small import assert_refused

import tabular_bilevel as tb
from tabular_bilevel.derivatives import reach
from tabular_bilevel.finite.sensitivities import SensitivityBounds
from tabular_bilevel.problems import contexts, zoo

# Both sides are float64 solves of mild models.
ROUNDING = 1e-10

PROBLEM, THETA = zoo.named("two followers").at
GOALS = (1, 9), (11, 11)
FORK, DEAR = tb.problems.fork(), tb.problems.fork(cost=2.0)


def relative(found, wanted):
    return np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max())


def mean_of_each(problem, theta, answer):
    """The answer's mean over the contexts, each solved alone."""
    each = [answer(one, theta) for one in problem.problems]
    return np.tensordot(problem.weights, np.array(each), axes=1)


ROUTES = {
    "objective": tb.objective,
    "gradient": lambda *at: tb.hypergradient(*at).gradient,
    "direct part": lambda *at: tb.hypergradient(*at).direct,
    "a horizon": lambda *at: tb.hypergradient(*at, horizon=4).gradient,
    "forward mode": tb.forward_gradient,
    "complex step": tb.complex_step_gradient,
    "BC-HG's target": tb.BoltzmannCovariance().target,
    "naive target": tb.NaivePolicyGradient().target,
}


@pytest.mark.parametrize("route", ROUTES)
@sizes("seed", range(3), range(3, 12))
def test_each_answer_is_the_mean_of_the_contexts(route, seed):
    problem, theta = zoo.draw("contexts", seed, number=seed, max_states=12).at
    answer = ROUTES[route]
    assert relative(answer(problem, theta), mean_of_each(problem, theta, answer)) < ROUNDING


@sizes("seed", range(3), range(3, 20))
def test_bounds_and_enclosures_hold(seed):
    pytest.importorskip("flint")
    problem, theta = zoo.draw("contexts", seed, number=seed, max_states=12).at
    result, proof = tb.hypergradient(problem, theta), tb.enclose(problem, theta)
    assert result.accuracy.level is tb.Level.BOUNDED
    gap = np.abs(result.gradient - proof.gradient.centre)
    assert (gap <= result.accuracy.gradient + proof.gradient.radius).all()
    assert (result.accuracy.gradient < 1e-6).all()


def unweighted(problem, theta, measures):
    for (one, part), weight in zip(
        contexts.shares(problem, theta, measures), problem.weights, strict=True
    ):
        yield one, dataclasses.replace(part, initial=part.initial / weight)


def first_alone(problem, theta, measures):
    nothing = dict.fromkeys(("follower_reward", "leader_reward", "transition", "initial"), 0.0)
    for k, (one, part) in enumerate(contexts.shares(problem, theta, measures)):
        yield one, part.times(nothing if k else {})


def heat_twice(problem, theta, measures):
    for one, part in contexts.shares(problem, theta, measures):
        yield one, dataclasses.replace(part, _temperature=measures.temperature)


def shared_out(right, shares):
    """Contexts that share out measures in another way."""

    def pullback(theta, measures):
        parts = shares(right, np.asarray(theta), measures)
        return sum(problem.pullback(theta, part) for problem, part in parts)

    return Pushing(right, pullback=pullback)


@pytest.mark.parametrize("wrong", [unweighted, first_alone, heat_twice])
def test_measures_shared_out_in_a_wrong_way_are_seen(wrong):
    problem, theta = zoo.draw("contexts", 4, number=4, max_states=10).at
    assert tb.check_gradient(shared_out(problem, contexts.shares), theta).passed
    assert not tb.check_gradient(shared_out(problem, wrong), theta).passed


def test_each_context_counts_in_the_bounds(monkeypatch):
    def forgetful(*args):
        first, *others = contexts.shares_of_bounds(*args)
        yield first
        for part in others:
            yield type(part)(**{name: 0.0 * x for name, x in vars(part).items()})

    wide = tb.hypergradient(PROBLEM, THETA).accuracy.gradient
    monkeypatch.setattr("tabular_bilevel.derivatives.shares_of_bounds", forgetful)
    assert (tb.hypergradient(PROBLEM, THETA).accuracy.gradient < wide).all()


@pytest.mark.parametrize("table", ["follower_reward", "leader_reward", "transition", "initial"])
def test_errors_of_a_table_reach_as_far_as_the_contexts_derivatives(table):
    """Each |J|^T error, with J's entries from `pushforward`; rounding is far below."""
    model, theta = PROBLEM.model(THETA), THETA
    off = np.abs(np.random.default_rng(0).normal(size=getattr(nothing(model), table).shape))
    measures = tb.Sensitivities.of(model)
    found = reach(PROBLEM, theta, measures, dataclasses.replace(nothing(model), **{table: off}))
    slopes = [np.ravel(getattr(PROBLEM.pushforward(theta, row), table)) for row in np.eye(3)]
    assert (found.bound >= np.abs(slopes) @ off.ravel() * (1.0 - 1e-9)).all()
    if table.endswith("reward"):  # formulas for distributions give away more
        assert (found.bound <= np.abs(slopes) @ off.ravel() * (1.0 + 1e-9)).all()


def nothing(model):
    pairs, states = np.zeros(model.available.shape), np.zeros(model.n_states)
    entries = np.zeros(model.transition.nnz)
    return SensitivityBounds(pairs, pairs, entries, pairs, states, 0.0, 0.0)


def test_a_sampled_estimator_is_right_and_a_wrong_one_is_seen():
    bchg = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(200, 60)))
    naive = tb.NaivePolicyGradient(tb.Interaction(tb.Episodes(200, 60)))
    assert tb.check_estimator(bchg, PROBLEM, THETA, rng=1, n_replicates=100).passed
    assert not tb.check_estimator(naive, PROBLEM, THETA, rng=1, n_replicates=100).passed


def test_all_trajectories_of_two_layered_followers():
    short, long = (tb.problems.layered(depth=k, width=1, rng=k) for k in (2, 3))
    problem, theta = tb.Contexts([short, long], [0.25, 0.75]), [0.3, -0.2, 0.1, 0.0]
    counts = [tb.count_trajectories(p.model(theta)) for p in (short, long, problem)]
    assert counts[2] == counts[0] + counts[1]
    assert tb.check_by_enumeration(tb.BoltzmannCovariance(), problem, theta).passed
    assert not tb.check_by_enumeration(tb.NaivePolicyGradient(), problem, theta).passed


def test_play_stays_in_its_context():
    model = PROBLEM.model(THETA)
    policy = tb.solve_follower(model).policy
    sample = tb.Episodes(2000, 5).sample(model, policy, rng=np.random.default_rng(0))
    inside = sample.states >= 5  # the second has states 5 to 8
    assert (inside == inside[:, :1]).all()
    assert abs(inside[:, 0].mean() - PROBLEM.weights[1]) < 4.0 * np.sqrt(0.7 * 0.3 / 2000)


def test_a_warmer_follower_is_one_with_smaller_rewards():
    warm = tb.problems.fork(temperature=2.0)
    half = tb.problems.fork(cost=np.log(3.0) / 2.0)
    paid = tb.FeatureProblem(
        half.base, follower_reward=0.5 * half.follower_reward, leader_reward=half.leader_reward
    )
    assert abs(tb.objective(warm, [0.4]) - tb.objective(paid, [0.4])) < ROUNDING
    assert tb.check_gradient(tb.Contexts([FORK, paid]), [0.4]).passed
    with pytest.raises(ValueError, match=r"temperature is 1.0 in the first context and 2.0 in con"):
        tb.Contexts([FORK, warm]).model([0.4])


def whole(problem):
    """A stranger's problem whose pushforward gives the kernel's change as a whole table."""

    def pushforward(theta, direction):
        tangent, model = problem.pushforward(theta, direction), problem.model(theta)
        table = model.like_transition(tangent.transition).toarray()
        kernel = table.reshape(model.n_states, model.n_actions, -1)
        return dataclasses.replace(tangent, transition=kernel)

    return Pushing(problem, pushforward=pushforward)


@pytest.mark.parametrize("wrap", [whole, Plain])
def test_strangers_problems_will_do(wrap):
    first, second = PROBLEM.problems
    mixed = tb.Contexts([first, wrap(second)], PROBLEM.weights)
    assert tb.check_gradient(mixed, THETA).passed
    own, found = (tb.hypergradient(problem, THETA) for problem in (PROBLEM, mixed))
    assert relative(found.gradient, own.gradient) < ROUNDING
    assert found.accuracy.level is tb.Level.BOUNDED


def test_one_context_that_says_how_long_theta_is_is_enough():
    silent = SimpleNamespace(model=FORK.model, pullback=FORK.pullback)
    assert tb.Contexts([silent, FORK]).n_parameters == 1
    assert not hasattr(tb.Contexts([silent, silent]), "n_parameters")
    assert tb.objective(tb.Contexts([silent, silent]), [0.2]) == tb.objective(FORK, [0.2])


def test_states_are_called_by_their_context():
    problem = tb.Contexts([tb.problems.rounds(coins=["dock"]), PROBLEM_OF_ONE], names=["a", "b"])
    model = problem.model([0.0])
    assert model.state_names == ("a: dock", "a: aisle", "b: 0", "b: 1")
    assert tb.Contexts([FORK, FORK]).model([0.0]).state_names == ("0: fork", "1: fork")
    assert tb.Contexts([FORK, FORK]).model([0.0]).action_names == (("noisy", "quiet"),) * 2
    assert PROBLEM.model(THETA).state_names is None
    assert problem.parameter_names == ("dock",)


def of_one():
    base = tb.problems.rounds(coins=["dock"]).base
    bare = base.replace(state_names=None, action_names=None)
    return tb.FeatureProblem(bare, leader_reward=np.eye(4)[:, :1])


PROBLEM_OF_ONE = of_one()


def test_a_copy_is_the_same():
    fresh = tb.Contexts(PROBLEM.problems, PROBLEM.weights)
    size = len(pickle.dumps(fresh))
    before = tb.hypergradient(fresh, THETA)
    assert len(pickle.dumps(fresh)) < 1.01 * size  # no model at theta is kept
    copy = pickle.loads(pickle.dumps(fresh))
    assert np.array_equal(tb.hypergradient(copy, THETA).gradient, before.gradient)
    with pytest.raises(ValueError, match="read-only"):
        copy.weights[0] = 1.0


def test_a_problem_that_changes_between_calls_is_asked_again():
    class Dial:
        factor = 1.0

        def model(self, theta):
            return FORK.model(self.factor * np.asarray(theta))

        def pullback(self, theta, measures):
            return self.factor * FORK.pullback(self.factor * np.asarray(theta), measures)

    dial = Dial()
    problem = tb.Contexts([dial, FORK])
    first = tb.hypergradient(problem, [0.5]).gradient
    dial.factor = 2.0
    second = tb.hypergradient(problem, [0.5]).gradient
    assert first != second
    assert tb.check_gradient(problem, [0.5]).passed


def heated(rate):
    """Move the temperature its own way, equal to the others' at theta = 0 only."""
    features = {"leader_reward": FORK.leader_reward, "temperature": [rate]}
    return Pushing(tb.FeatureProblem(FORK.base, **features))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tb.Contexts([]), "problems is empty"),
        (lambda: tb.Contexts(FORK), r"problems is FeatureProblem\(.*, not a sequence of problems"),
        (lambda: tb.problems.four_rooms(goals=GOALS).cells, "each context has a map of its own"),
        (lambda: tb.Contexts([FORK, 3]), r"problems\[1\] is 3, which has no method model"),
        (lambda: tb.Contexts([FORK, tb.problems.two_state()]), r"problems\[1\] has 2 parameters, "),
        (lambda: tb.Contexts([FORK, DEAR], [0.5, 0.6]), r"weights sums to 1.1, not 1"),
        (lambda: tb.Contexts([FORK, DEAR], [1.5, -0.5]), r"weights\[1\] is -0.5"),
        (lambda: tb.Contexts([FORK, DEAR], [1.0]), r"weights has shape \(1,\)"),
        (lambda: tb.Contexts([FORK, DEAR], names=["calm"]), "names has 1 names, not 2"),
        (
            lambda: tb.Contexts([FORK, FORK, DEAR], names=["a", "b", "a"]),
            r"names\[2\] is 'a', and so is names\[0\]",
        ),
        (
            lambda: tb.Contexts([FORK, tb.problems.rounds(coins=["dock"])]).model([0.0]),
            "follower_discount is 0.0 in the first context and 0.5 in context 1",
        ),
        (lambda: tb.Contexts([FORK, DEAR]).model([0.0, 1.0]), "theta has shape"),
        (
            lambda: tb.Contexts([tb.problems.building_thermal_control()]).model(np.zeros(8)),
            r"problems\[0\].model\(theta\) is a LinearQuadraticModel: this is for tables only",
        ),
        (
            lambda: tb.forward_gradient(tb.Contexts([heated(1.0), heated(2.0)]), [0.0]),
            r"problems\[1\] moves the temperature by 2, and problems\[0\] by 1",
        ),
        (lambda: tb.problems.four_rooms(goals=[]), "goals is empty"),
        (lambda: tb.problems.four_rooms(goals=None), "goals is None, not a sequence of"),
        (lambda: tb.problems.four_rooms(goals=[(True, 9)]), r"goals\[0\] is \(True, 9\), not a"),
        (lambda: tb.problems.four_rooms(goals=[(1, 9), (0, 0)]), r"goals\[1\] \(0, 0\) is not a"),
    ],
)
def test_bad_input_is_named(make, message):
    assert_refused(message, make)


def test_four_rooms_with_two_goals_are_two_walks():
    both, *each = (tb.problems.four_rooms(goals=goals) for goals in (GOALS, *([g] for g in GOALS)))
    theta = np.random.default_rng(3).normal(size=105)
    for answer in (tb.objective, lambda *at: tb.hypergradient(*at).gradient):
        found, alone = answer(both, theta), [answer(one, theta) for one in each]
        assert np.abs(found - np.mean(alone, axis=0)).max() < ROUNDING
    model = both.model(theta)
    assert model.state_names[0] == "to 1, 9: 1, 1"
    ends = [each[0].at(GOALS[0]), 104 + each[0].at(GOALS[1])]
    assert np.flatnonzero(model.termination.any(axis=1)).tolist() == ends
    charges = 0.2 * (1.0 - np.exp(theta[-1]) / np.exp(theta).sum())
    assert np.allclose(model.leader_reward[ends], -5.0 * charges, rtol=0.0, atol=ROUNDING)
    assert np.array_equal(model.follower_reward[ends], np.ones((2, 4)))


def test_one_goal_is_the_problem_without_contexts():
    plain, one = tb.problems.four_rooms(), tb.problems.four_rooms(goals=[(1, 9)])
    assert type(plain.inner) is type(one.inner) is tb.FeatureProblem
    assert tb.objective(plain, np.zeros(105)) == tb.objective(one, np.zeros(105))
