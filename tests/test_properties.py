"""What must hold on every model, problem and game: laws of the follower, the leader, the gradient.

Each law comes with a control: the same comparison where the law is broken on purpose must fail.
"""

import dataclasses
import enum
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import logsumexp

import tabular_bilevel as tb
from tabular_bilevel import strategies

# A law holds up to some tens of float64 roundings, times the conditioning below, relative to the
# largest number compared (and to 1).
ROUNDING = 1e-14

# Five-point differences with this step on mild models (see MILD): the error is h^4 times the fifth
# derivative, at most some thousands there, and rounding / h; both are below the tolerance.
STEP = 1e-3
DIFFERENCE = 1e-7

MODELS = strategies.models()
ENDLESS = strategies.models(allow_termination=False)
MILD = strategies.models(max_states=4, max_discount=0.75, min_temperature=0.5)
PROBLEMS = strategies.problems()
GAMES = strategies.games()
SCALARS = ("follower_discount", "leader_discount", "temperature")
HORIZONS = st.sampled_from([None, 1, 2, 7])


def conditioning(model):
    """How much a solve of the follower and the leader magnifies rounding, at most."""
    patience = 1.0 - max(model.follower_discount, model.leader_discount)
    return 1.0 / (min(model.temperature, 1.0) * patience**2)


def close(actual, expected, model):
    actual, expected = np.asarray(actual), np.asarray(expected)
    size = max(1.0, np.abs(expected).max(initial=0.0))
    gap = np.abs(actual - expected).max(initial=0.0)
    return bool(gap <= ROUNDING * conditioning(model) * size)


def road(model, horizon=None):
    """Response, evaluation and sensitivities of a model."""
    response = tb.solve_follower(model)
    evaluation = tb.evaluate_leader(model, response, horizon=horizon)
    return response, evaluation, tb.sensitivities(model, response, evaluation)


def dense(model):
    """Arguments of `Model.from_tables`, the kernel as a dense (S, A, S) table."""
    fields = (field.name for field in dataclasses.fields(model))
    tables = {name: getattr(model, name) for name in fields if not name.endswith("_names")}
    n_states, n_actions = model.available.shape
    tables["transition"] = model.transition.toarray().reshape(n_states, n_actions, n_states)
    return tables


def tables(n_columns=None):
    """Strategy for whole-number multiples of 1/4, one for each column."""
    return st.lists(st.integers(-8, 8), min_size=n_columns, max_size=n_columns).map(
        lambda whole: np.array(whole) / 4.0
    )


def with_theta(problems, *, max_size=1.0):
    """Strategy for a problem and a theta of it."""
    return problems.flatmap(
        lambda problem: st.tuples(st.just(problem), strategies.thetas(problem, max_size=max_size))
    )


BOTH = st.one_of(with_theta(PROBLEMS), with_theta(GAMES))


# --- the follower ---------------------------------------------------------------------------------


@given(MODELS)
def test_policy_is_a_distribution_on_available_actions(model):
    policy = tb.solve_follower(model).policy
    assert (policy >= 0.0).all()
    assert not policy[~model.available].any()
    np.testing.assert_allclose(policy.sum(axis=1), 1.0, rtol=4 * np.finfo(float).eps)


def soft_bellman(model, value):
    """T V, state by state."""
    kernel = dense(model)["transition"]
    improved = []
    for s in range(model.n_states):
        action_values = [
            model.follower_reward[s, a] + model.follower_discount * kernel[s, a] @ value
            for a in range(model.n_actions)
            if model.available[s, a]
        ]
        improved.append(model.temperature * logsumexp(np.array(action_values) / model.temperature))
    return np.array(improved)


@given(MODELS)
def test_value_solves_the_soft_bellman_equation(model):
    response = tb.solve_follower(model)
    size = max(1.0, np.abs(response.value).max())
    assert np.abs(soft_bellman(model, response.value) - response.value).max() <= 1e-13 * size
    assert response.residual <= 1e-13 * size


def test_another_temperature_breaks_the_soft_bellman_equation():
    model = tb.problems.garnet().base
    value = tb.solve_follower(model).value
    assert np.abs(soft_bellman(model.replace(temperature=0.11), value) - value).max() > 1e-3


@given(MODELS)
def test_policy_is_the_soft_maximum_of_action_values(model):
    response = tb.solve_follower(model)
    gaps = (response.action_value - response.value[:, None]) / model.temperature
    assert np.array_equal(response.action_value == -np.inf, ~model.available)
    assert close(np.exp(gaps), response.policy, model)


@given(MODELS)
def test_policy_iteration_and_value_iteration_agree_within_their_bounds(model):
    newton = tb.solve_follower(model, solver=tb.PolicyIteration())
    sweeps = tb.solve_follower(model, solver=tb.ValueIteration())
    gap = np.abs(newton.value - sweeps.value).max()
    # the bounds hold up to rounding of the residual they are made from
    size = max(1.0, np.abs(newton.value).max())
    rounding = 1e-15 * size / (1.0 - model.follower_discount)
    assert gap <= newton.error_bound + sweeps.error_bound + rounding


def test_a_loose_solver_says_how_loose_it_is():
    model = tb.problems.garnet(follower_discount=0.99).base
    loose = tb.solve_follower(model, solver=tb.ValueIteration(tolerance=1e-4))
    gap = np.abs(loose.value - tb.solve_follower(model).value).max()
    assert 1e-6 < gap <= loose.error_bound


def scaled(model, factor):
    return model.replace(
        follower_reward=np.where(model.available, factor * model.follower_reward, -np.inf),
        temperature=factor * model.temperature,
    )


@given(MODELS, HORIZONS)
def test_another_currency_of_the_follower_changes_no_bit(model, horizon):
    """A power of two scales exactly: value times c, influence over c, and all else the same."""
    factor = 2.0**20
    before, after = road(model, horizon), road(scaled(model, factor), horizon)
    assert np.array_equal(after[0].value, factor * before[0].value)
    assert np.array_equal(after[0].policy, before[0].policy)
    assert after[1].objective == before[1].objective
    assert np.array_equal(factor * after[2].follower_reward, before[2].follower_reward)
    assert np.array_equal(after[2].leader_reward, before[2].leader_reward)
    assert np.array_equal(after[2].transition, before[2].transition)


def test_scaling_the_reward_without_the_temperature_changes_the_policy():
    model = tb.problems.garnet().base
    richer = model.replace(follower_reward=2.0 * model.follower_reward)
    assert not close(road(richer)[0].policy, road(model)[0].policy, model)


# --- an unreachable state -------------------------------------------------------------------------
# What else changes nothing, or by a known amount: tests/test_metamorphic.py.


def with_another_state(model, reward, successors):
    """Add a last state; none leads there, and its actions lead to `successors`."""
    names, n_actions = dense(model), model.n_actions
    kernel = np.pad(names["transition"], ((0, 1), (0, 0), (0, 1)))
    kernel[-1] = np.eye(model.n_states + 1)[successors]
    names["transition"] = kernel
    for name in ("follower_reward", "leader_reward"):
        names[name] = np.vstack([names[name], np.full(n_actions, reward)])
    names["termination"] = np.vstack([names["termination"], np.zeros(n_actions)])
    names["available"] = np.vstack([names["available"], np.ones(n_actions, dtype=bool)])
    names["initial"] = np.append(names["initial"], 0.0)
    return tb.Model.from_tables(**names)


def another_state(model):
    successors = st.lists(
        st.integers(0, model.n_states), min_size=model.n_actions, max_size=model.n_actions
    )
    return st.tuples(st.just(model), st.integers(-8, 8), successors)


@given(MODELS.flatmap(another_state), HORIZONS)
def test_an_unreachable_state_has_no_occupancy_and_no_influence(drawn, horizon):
    """Not even by rounding: nothing is added up there but zeros."""
    model, reward, successors = drawn
    _, evaluation, measures = road(with_another_state(model, reward, successors), horizon)
    there = [
        evaluation.occupancy[-1:],
        measures.leader_reward[-1],
        measures.follower_reward[-1],
        measures.transition_matrix.toarray()[-model.n_actions :].ravel(),
    ]
    assert not np.concatenate(there).any()


@given(strategies.models(min_states=4, max_states=12, max_actions=1, min_discount=0.9), HORIZONS)
def test_occupancy_is_never_negative(model, horizon):
    """As a sum of probabilities; an M-matrix is eliminated without a subtraction of likes."""
    assert (road(model, horizon)[1].occupancy >= 0.0).all()


# --- the leader -----------------------------------------------------------------------------------


@given(MODELS, HORIZONS)
def test_the_objective_counts_from_the_start_or_along_the_way(model, horizon):
    response, evaluation, _ = road(model, horizon)
    per_step = (response.policy * model.leader_reward).sum(axis=1)
    assert close(model.initial @ evaluation.value, evaluation.objective, model)
    assert close(evaluation.occupancy @ per_step, evaluation.objective, model)


def test_the_followers_discount_gives_another_objective():
    model = tb.problems.garnet().base
    response, evaluation, _ = road(model)
    patient = tb.evaluate_leader(model.replace(leader_discount=0.9), response)
    per_step = (response.policy * model.leader_reward).sum(axis=1)
    assert not close(patient.occupancy @ per_step, evaluation.objective, model)


def leader_step(model, policy, value):
    """One backward step of the leader's value, state by state."""
    kernel = dense(model)["transition"]
    pairs = [(s, a) for s in range(model.n_states) for a in range(model.n_actions)]
    following = np.zeros(model.n_states)
    for s, a in pairs:
        ahead = model.leader_discount * kernel[s, a] @ value
        following[s] += policy[s, a] * (model.leader_reward[s, a] + ahead)
    return following


@given(MODELS)
def test_the_leaders_value_solves_its_bellman_equation(model):
    response, evaluation, _ = road(model)
    assert close(leader_step(model, response.policy, evaluation.value), evaluation.value, model)
    expected = (response.policy * evaluation.action_value).sum(axis=1)
    assert close(evaluation.value, expected, model)
    assert close((response.policy * evaluation.advantage).sum(axis=1), 0.0, model)


@given(MODELS, st.integers(1, 20))
def test_one_step_more_is_one_backward_step(model, horizon):
    response = tb.solve_follower(model)
    value, longer = (
        tb.evaluate_leader(model, response, horizon=steps).value for steps in (horizon, horizon + 1)
    )
    assert close(longer, leader_step(model, response.policy, value), model)


@given(MODELS)
def test_one_step_is_the_first_reward(model):
    response, evaluation, _ = road(model, 1)
    per_step = (response.policy * model.leader_reward).sum(axis=1)
    assert close(evaluation.value, per_step, model)
    assert np.array_equal(evaluation.occupancy, model.initial)


@given(MODELS, st.integers(1, 400))
def test_a_finite_horizon_tends_to_the_infinite_one(model, horizon):
    """What is left out is what comes after, gamma^T times a value."""
    response, evaluation, _ = road(model)
    finite = tb.evaluate_leader(model, response, horizon=horizon)
    left_out = model.leader_discount**horizon * np.abs(evaluation.value).max()
    rounding = ROUNDING * conditioning(model) * max(1.0, np.abs(evaluation.value).max())
    assert np.abs(finite.value - evaluation.value).max() <= left_out + rounding
    assert abs(finite.objective - evaluation.objective) <= left_out + rounding


def test_a_horizon_too_short_is_noticed():
    model = tb.problems.garnet().base
    evaluation, finite = road(model)[1], road(model, 20)[1]
    assert abs(finite.objective - evaluation.objective) > 0.01


@given(strategies.models(max_discount=0.75))
def test_sensitivities_of_a_long_horizon_are_those_of_the_infinite_one(model):
    finite, infinite = road(model, 200)[2], road(model)[2]  # 0.75^200 = 1e-25
    assert close(finite.follower_reward, infinite.follower_reward, model)
    assert close(finite.leader_reward, infinite.leader_reward, model)
    assert close(finite.transition.data, infinite.transition.data, model)
    assert close(finite.initial, infinite.initial, model)


@given(
    MODELS.flatmap(lambda m: st.tuples(st.just(m), tables(m.available.size))),
    st.integers(-4, 4),
    st.integers(-4, 4),
    HORIZONS,
)
def test_the_leaders_reward_enters_linearly(drawn, first, second, horizon):
    model, other = drawn
    other = other.reshape(model.available.shape)
    own = model.leader_reward
    parts = [road(model.replace(leader_reward=reward), horizon) for reward in (own, other)]
    mixed = road(model.replace(leader_reward=first * own + second * other), horizon)

    def combined(read):
        return first * read(parts[0]) + second * read(parts[1])

    assert close(mixed[1].objective, combined(lambda part: part[1].objective), model)
    assert close(mixed[2].follower_reward, combined(lambda part: part[2].follower_reward), model)
    assert close(mixed[2].transition, combined(lambda part: part[2].transition), model)
    assert np.array_equal(mixed[2].leader_reward, parts[0][2].leader_reward)


def test_the_followers_reward_does_not_enter_linearly():
    model = tb.problems.garnet().base
    double = model.replace(follower_reward=2.0 * model.follower_reward)
    nothing = model.replace(follower_reward=0.0 * model.follower_reward)
    low, middle, high = (road(m)[1].objective for m in (nothing, model, double))
    assert not close(high - middle, middle - low, model)


# --- the sensitivities ----------------------------------------------------------------------------


def slope(function):
    """Five-point difference at 0."""
    near = function(STEP) - function(-STEP)
    far = function(2.0 * STEP) - function(-2.0 * STEP)
    return (8.0 * near - far) / (12.0 * STEP)


def value_of(model, horizon):
    return tb.evaluate_leader(model, tb.solve_follower(model), horizon=horizon).objective


def bumped(table, index, by):
    table = np.array(table)
    table[index] += by
    return table


def agrees(actual, expected):
    return abs(actual - expected) <= DIFFERENCE * max(1.0, abs(expected))


def some_pair(model):
    return st.tuples(
        st.just(model), st.sampled_from(list(zip(*np.nonzero(model.available), strict=True)))
    )


@given(MILD.flatmap(some_pair), HORIZONS)
def test_reward_sensitivities_are_differences(drawn, horizon):
    model, pair = drawn
    measures = road(model, horizon)[2]
    for name in ("follower_reward", "leader_reward"):

        def moved(h, name=name):
            table = bumped(getattr(model, name), pair, h)
            other = model.replace(**{name: table}, available=model.available)
            return value_of(other, horizon)

        assert agrees(slope(moved), getattr(measures, name)[pair])


def less_certain(model):
    """Let every step end the episode with probability 1/8 more: transitions can then grow."""
    kernel = model.like_transition(0.875 * model.transition.data)
    return model.replace(transition=kernel, termination=0.125 + 0.875 * model.termination)


def some_entry(model):
    """One of the positive stored transitions of available actions, if there is any."""
    model = less_certain(model)
    kernel, used = model.transition, model.available.ravel()[model.entry_row]
    entries = np.flatnonzero((kernel.data > 0.0) & used)
    return st.tuples(st.just(model), st.sampled_from(entries) if entries.size else st.none())


@given(MILD.flatmap(some_entry), HORIZONS)
def test_transition_sensitivities_are_differences(drawn, horizon):
    """A transition grows at the cost of the end."""
    model, k = drawn
    if k is None:
        return
    measures = road(model, horizon)[2]
    pair = np.unravel_index(model.entry_row[k], model.available.shape)

    def moved(h):
        return value_of(
            model.replace(
                transition=model.like_transition(bumped(model.transition.data, k, h)),
                termination=bumped(model.termination, pair, -h),
            ),
            horizon,
        )

    assert agrees(slope(moved), measures.transition[k])


@given(MILD, HORIZONS, st.integers(0, 3))
def test_initial_sensitivities_are_differences(model, horizon, state):
    """Of moving mass from everywhere to one state; J is linear in it."""
    state = state % model.n_states
    measures = road(model, horizon)[2]
    there = np.eye(model.n_states)[state]

    def value_at(h):
        return value_of(model.replace(initial=(1.0 - h) * model.initial + h * there), horizon)

    expected = measures.initial @ (there - model.initial)
    assert close((value_at(0.5) - value_at(0.0)) / 0.5, expected, model)


def test_a_wrong_entry_of_the_sensitivities_is_seen_by_differences():
    model = tb.problems.garnet(temperature=0.5, follower_discount=0.5, leader_discount=0.75).base
    influence = road(model)[2].follower_reward

    def moved(h):
        reward = bumped(model.follower_reward, (0, 0), h)
        return value_of(model.replace(follower_reward=reward), None)

    assert agrees(slope(moved), influence[0, 0])
    assert not agrees(slope(moved), influence[0, 1])
    assert not agrees(slope(moved), influence[0, 0] + 1e-6)


@given(MODELS, HORIZONS)
def test_starting_is_worth_the_leaders_value(model, horizon):
    _, evaluation, measures = road(model, horizon)
    assert np.array_equal(measures.initial, evaluation.value)


@given(MODELS, HORIZONS)
def test_influence_flows_forward(model, horizon):
    """What reaches a state is what its actions carry on: n = gamma_F P^T mu = sum_a mu."""
    measures = road(model, horizon)[2]
    arriving = model.follower_discount * model.arrivals(measures.follower_reward)
    assert close(measures.follower_reward.sum(axis=1), arriving, model)


def test_influence_does_not_flow_with_the_leaders_discount():
    model = tb.problems.garnet().base
    influence = road(model)[2].follower_reward
    arriving = model.leader_discount * model.arrivals(influence)
    assert not close(influence.sum(axis=1), arriving, model)


@given(strategies.models(max_actions=1), HORIZONS)
def test_a_follower_without_a_choice_has_no_influence(model, horizon):
    response, _, measures = road(model, horizon)
    assert not measures.follower_reward.any()
    assert np.array_equal(response.policy, np.ones((model.n_states, 1)))


@given(ENDLESS, HORIZONS)
def test_a_leader_that_gets_one_everywhere_counts_the_steps(model, horizon):
    measures = road(model.replace(leader_reward=np.ones_like(model.leader_reward)), horizon)[2]
    gamma = model.leader_discount
    steps = 1.0 / (1.0 - gamma) if horizon is None else sum(gamma**t for t in range(horizon))
    assert close(measures.leader_reward.sum(), steps, model)
    assert close(measures.follower_reward, 0.0, model)


@given(BOTH.flatmap(lambda drawn: st.tuples(st.just(drawn), strategies.thetas(drawn[0]))), HORIZONS)
def test_measures_along_a_tangent_are_the_forward_derivative(drawn, horizon):
    (problem, theta), direction = drawn
    measures = tb.hypergradient(problem, theta, horizon=horizon).sensitivities
    model = problem.model(theta)
    expected = tb.forward_gradient(problem, theta, directions=[direction], horizon=horizon)
    actual = measures.dot(problem.pushforward(theta, direction))
    size = max(1.0, np.abs(measures.transition).max(initial=0.0))
    assert close(actual / size, expected[0] / size, model)


@given(MODELS, HORIZONS)
def test_measures_add_up_and_vanish_along_no_change(model, horizon):
    measures = road(model, horizon)[2]
    twice = measures + measures
    assert np.array_equal(twice.follower_reward, 2.0 * measures.follower_reward)
    assert np.array_equal(twice.transition, 2.0 * measures.transition)
    assert measures.dot(tb.Tangent.zero(model)) == 0.0


# --- the gradient ---------------------------------------------------------------------------------


def gradient_close(actual, expected, result):
    """Close relative to the terms that a gradient is a sum of."""
    model, measures = result.model, result.sensitivities
    tables = (measures.follower_reward, measures.leader_reward, measures.transition)
    size = max(1.0, *(np.abs(table).sum() for table in tables))
    return close(np.asarray(actual) / size, np.asarray(expected) / size, model)


def columns_of(problem, base, chosen):
    """The problem whose parameters are some of another's."""
    names = ("follower_reward", "leader_reward", "transition", "initial")
    return tb.FeatureProblem(base, **{name: getattr(problem, name)[:, chosen] for name in names})


@given(with_theta(strategies.problems(min_parameters=2)), HORIZONS)
def test_the_gradient_of_concatenated_features_is_concatenated(drawn, horizon):
    """Some parameters at a time, the others at rest in the base."""
    problem, theta = drawn
    whole = tb.hypergradient(problem, theta, horizon=horizon)
    groups = [[0], list(range(1, problem.n_parameters))]
    pieces = []
    for chosen in groups:
        at_rest = theta.copy()
        at_rest[chosen] = 0.0
        part = columns_of(problem, problem.model(at_rest), chosen)
        pieces.append(tb.hypergradient(part, theta[chosen], horizon=horizon).gradient)
    assert gradient_close(np.concatenate(pieces), whole.gradient, whole)


@pytest.mark.slow
@given(with_theta(PROBLEMS), HORIZONS)
def test_a_parameter_twice_has_the_same_derivative_twice(drawn, horizon):
    problem, theta = drawn
    twice = columns_of(problem, problem.base, [*range(problem.n_parameters)] * 2)
    halves = tb.hypergradient(twice, np.tile(theta / 2.0, 2), horizon=horizon)
    first, second = np.split(halves.gradient, 2)
    assert np.array_equal(first, second)
    whole = tb.hypergradient(problem, theta, horizon=horizon)
    assert gradient_close(first, whole.gradient, whole)


@given(BOTH, HORIZONS)
def test_the_gradient_is_the_direct_and_the_indirect_part(drawn, horizon):
    problem, theta = drawn
    for accuracy in (tb.Estimated(), None):
        result = tb.hypergradient(problem, theta, accuracy=accuracy, horizon=horizon)
        size = np.abs([result.direct, result.indirect]).max(initial=0.0)  # each is rounded
        off = np.abs(result.gradient - result.direct - result.indirect)
        assert off.max(initial=0.0) <= 1e-13 * size
        pulled = problem.pullback(theta, result.sensitivities)
        assert gradient_close(pulled, result.gradient, result)
        if not result.accuracy.proven:
            largest = np.abs(result.evaluation.value).max()
            alone = tb.objective(problem, theta, horizon=horizon)  # by another road: other rounding
            assert abs(result.objective - alone) <= 100.0 * ROUNDING * largest


@given(BOTH, HORIZONS)
def test_independent_routes_give_the_same_gradient(drawn, horizon):
    problem, theta = drawn
    result = tb.hypergradient(problem, theta, horizon=horizon)
    forward = tb.forward_gradient(problem, theta, horizon=horizon)
    complex_step = tb.complex_step_gradient(problem, theta, horizon=horizon)
    assert gradient_close(forward, result.gradient, result)
    assert gradient_close(complex_step, result.gradient, result)


@pytest.mark.slow
@given(BOTH, HORIZONS)
def test_check_gradient_passes_every_problem_and_game(drawn, horizon):
    problem, theta = drawn
    tb.check_gradient(problem, theta, horizon=horizon).raise_if_failed()


@dataclasses.dataclass
class Changed:
    """A problem with another pullback."""

    inner: tb.ForwardProblem
    change: object

    def model(self, theta):
        return self.inner.model(theta)

    def pullback(self, theta, sensitivities):
        return self.change(self.inner.pullback(theta, sensitivities))

    def pushforward(self, theta, direction):
        return self.inner.pushforward(theta, direction)


@given(BOTH, HORIZONS)
def test_check_gradient_fails_a_gradient_with_another_sign(drawn, horizon):
    problem, theta = drawn
    gradient = tb.hypergradient(problem, theta, horizon=horizon).gradient
    assume(np.abs(gradient).max() > 1e-3)  # what is nothing but rounding has no sign
    assert not tb.check_gradient(Changed(problem, np.negative), theta, horizon=horizon).passed


@given(MODELS, HORIZONS)
def test_no_parameters_have_an_empty_gradient(model, horizon):
    problem = SimpleNamespace(
        model=lambda theta: model,
        pullback=lambda theta, sensitivities: np.zeros(0),
        pushforward=lambda theta, direction: tb.Tangent.zero(model),
    )
    for route in (tb.forward_gradient, tb.complex_step_gradient):
        assert route(problem, [], horizon=horizon).shape == (0,)
    for route in (tb.hypergradient, tb.difference_gradient):
        assert route(problem, [], horizon=horizon).gradient.shape == (0,)


# --- Markov games ---------------------------------------------------------------------------------


def by_hand(game, theta):
    """The model on the states (s, b), or on s for a follower that does not see b."""
    shape = S, B, A = game.follower_reward.shape
    P = game.transition.toarray().reshape(*shape, S)
    weights = np.exp(np.reshape(theta, (S, B)))
    f = weights / weights.sum(axis=1, keepdims=True)
    if game.follower_observes_leader:
        kernel = np.einsum("sbat,tc->sbatc", P, f).reshape(S * B, A, S * B)
        initial, available = (game.initial[:, None] * f).ravel(), game.available.reshape(S * B, A)
    else:
        kernel = np.einsum("sb,sbat->sat", f, P)
        initial, available = game.initial, game.available[:, 0]

    def seen(table):
        if game.follower_observes_leader:
            return table.reshape(S * B, A)
        return np.einsum("sb,sba->sa", f, table)

    return tb.Model.from_tables(
        transition=kernel,
        follower_reward=np.where(available, seen(game.follower_reward), -np.inf),
        leader_reward=seen(game.leader_reward),
        initial=initial,
        termination=np.minimum(seen(game.termination), 1.0),
        **{name: getattr(game, name) for name in SCALARS},
    )


@given(with_theta(GAMES))
def test_a_games_model_is_the_one_written_by_hand(drawn):
    game, theta = drawn
    model, expected = game.model(theta), by_hand(game, theta)
    exact = {"rtol": 1e-14, "atol": 1e-15}  # sums of at most two products
    for name in ("follower_reward", "leader_reward", "initial", "termination"):
        np.testing.assert_allclose(getattr(model, name), getattr(expected, name), **exact)
    assert np.array_equal(model.available, expected.available)
    kernel = model.transition.toarray()
    np.testing.assert_allclose(kernel, expected.transition.toarray(), **exact)


@given(with_theta(GAMES), HORIZONS)
def test_raising_all_logits_of_a_state_changes_nothing(drawn, horizon):
    game, theta = drawn
    result = tb.hypergradient(game, theta, horizon=horizon)
    sums = result.gradient.reshape(game.n_states, -1).sum(axis=1)
    assert gradient_close(sums, np.zeros(game.n_states), result)


def test_seeing_the_leader_makes_a_difference():
    theta = np.linspace(-1.0, 1.0, 12)
    seen, hidden = (
        tb.hypergradient(tb.problems.random_game(follower_observes_leader=sees), theta)
        for sees in (True, False)
    )
    assert not gradient_close(seen.gradient, hidden.gradient, seen)


@given(with_theta(strategies.games(min_leader_actions=1, max_leader_actions=1)), HORIZONS)
def test_a_leader_without_a_choice_has_no_gradient(drawn, horizon):
    game, theta = drawn
    assert not tb.hypergradient(game, theta, horizon=horizon).gradient.any()


# --- nothing is changed, nothing is forgotten, nothing is undefined -------------------------------


def arrays_in(thing, seen=()):
    """All arrays of an object and of what it holds, in a fixed order, with a name each."""
    if isinstance(thing, np.ndarray):
        yield "array", thing
    elif sp.issparse(thing):
        for part in ("data", "indices", "indptr"):
            yield part, getattr(thing, part)
    elif isinstance(thing, float):
        yield "number", np.array(thing)
    elif isinstance(thing, (list, tuple)):
        for item in thing:
            yield from arrays_in(item, seen)
    elif isinstance(thing, enum.Enum):
        yield thing.name, np.array(0)
    elif hasattr(thing, "__dict__") and id(thing) not in seen:
        fields = getattr(thing, "__dataclass_fields__", vars(thing))
        for name in fields:
            for part, array in arrays_in(getattr(thing, name), (*seen, id(thing))):
                yield f"{name}.{part}", array


def frozen(*things):
    return [(name, array.shape, array.tobytes()) for name, array in arrays_in(things)]


def public_results(problem, theta, horizon):
    """Everything there is to compute."""
    model = problem.model(theta)
    response = tb.solve_follower(model)
    evaluation = tb.evaluate_leader(model, response, horizon=horizon)
    measures = tb.sensitivities(model, response, evaluation)
    estimator = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(3, 5)))
    return [
        model,
        response,
        tb.solve_follower(model, solver=tb.ValueIteration()),
        evaluation,
        evaluation.advantage,
        measures,
        measures + measures,
        problem.pullback(theta, measures),
        problem.pushforward(theta, theta),
        measures.dot(problem.pushforward(theta, theta)),
        tb.hypergradient(problem, theta, horizon=horizon),
        tb.objective(problem, theta, horizon=horizon),
        tb.forward_gradient(problem, theta, horizon=horizon),
        tb.complex_step_gradient(problem, theta, horizon=horizon),
        tb.difference_gradient(problem, theta, horizon=horizon, levels=2),
        tb.sample_trajectories(model, response.policy, count=3, horizon=5, rng=1),
        estimator(problem, theta, rng=1),
    ]


@given(BOTH, HORIZONS)
def test_no_argument_is_changed_and_repeated_calls_agree_in_every_bit(drawn, horizon):
    problem, theta = drawn
    theta = np.array(theta)  # writeable: a change would go unnoticed by numpy
    arguments = frozen(problem, theta)
    first = public_results(problem, theta, horizon)
    results = frozen(*first)
    second = public_results(problem, theta, horizon)
    assert frozen(problem, theta) == arguments
    assert frozen(*first) == results
    assert frozen(*second) == results


def test_checks_of_estimators_change_nothing_and_repeat():
    problem, theta = tb.problems.two_state(), np.array([0.25, -0.5])
    estimator = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(20), tb.SarsaCritic(sweeps=2)))
    arguments = frozen(problem, theta)
    reports = [
        tb.check_estimator(estimator, problem, theta, n_replicates=30, rng=seed)
        for seed in (0, 0, 1)
    ]
    assert frozen(problem, theta) == arguments
    assert frozen(reports[0]) == frozen(reports[1])
    assert frozen(reports[0]) != frozen(reports[2])


def test_a_changed_argument_would_be_seen():
    problem, theta = tb.problems.two_state(), np.zeros(2)
    arguments = frozen(problem, theta)
    theta[0] = -0.0
    assert frozen(problem, theta) != arguments


@given(MODELS)
def test_a_model_shares_nothing_with_its_tables(model):
    names = dense(model)
    own = {name: np.array(table) for name, table in names.items()}
    own["transition"] = sp.csr_array(own["transition"].reshape(-1, model.n_states))
    own |= {name: getattr(model, name) for name in SCALARS}
    before = frozen(*own.values())
    copy = tb.Model.from_tables(**own)
    assert frozen(*own.values()) == before
    results = frozen(copy)
    for table in own.values():
        for _, array in arrays_in(table):
            array[...] = 0
    assert frozen(copy) == results


EXTREME = strategies.models(
    max_states=4, max_discount=0.9999, min_temperature=2.0**-20, max_temperature=2.0**20
)


def undefined(thing):
    """Names of results that are no numbers; a forbidden action's value and a radius alone may be
    infinite."""
    return [
        name
        for name, array in arrays_in(thing)
        if np.isnan(array).any()
        or (np.isinf(array).any() and "action_value" not in name and "accuracy" not in name)
    ]


@given(
    with_theta(st.one_of(strategies.problems(bases=EXTREME), GAMES)),
    st.sampled_from([1e-8, 1.0, 1e8]),
    HORIZONS,
)
def test_results_are_numbers(drawn, factor, horizon):
    """Also for extreme discounts, temperatures and rewards; warnings are errors here."""
    problem, theta = drawn
    assert not undefined(public_results(problem, theta, horizon))
    model = problem.model(theta)
    reward = np.where(model.available, factor * model.follower_reward, -np.inf)
    assert not undefined(road(model.replace(follower_reward=reward), horizon))


def test_an_undefined_result_would_be_seen():
    response = tb.solve_follower(tb.problems.two_state().base)
    assert not undefined(response)
    assert undefined(dataclasses.replace(response, value=np.array([0.0, np.nan])))
    assert undefined(dataclasses.replace(response, policy=np.array([[0.0, np.inf]])))
