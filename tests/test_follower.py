"""The follower's solvers: closed forms, hard numbers, and what they say when they stop."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from small import refusal, tables

import tabular_bilevel as tb

SOLVERS = [tb.PolicyIteration(), tb.ValueIteration()]

# A geometric series and a log-sum-exp: rounding times 1 / (1 - 0.9).
ROUNDING = 1e-12


def one_state(reward, temperature, discount, **changes):
    n_actions = len(reward)
    return tables(
        transition=np.ones((1, n_actions, 1)),
        follower_reward=[reward],
        leader_reward=np.zeros((1, n_actions)),
        initial=[1.0],
        follower_discount=discount,
        temperature=temperature,
        **changes,
    )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("discount", [0.0, 0.9])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("temperature", [1e-6, 0.1, 1e6])
def test_one_state_has_its_closed_form(solver, discount, scale, temperature):
    reward = scale * np.array([1.0, 0.5, -2.0])
    response = tb.solve_follower(one_state(reward, temperature, discount), solver=solver)
    best = reward.max()
    total = np.exp((reward - best) / temperature).sum()
    value = (best + temperature * np.log(total)) / (1.0 - discount)
    assert response.value[0] == pytest.approx(value, rel=ROUNDING)
    policy = np.exp((reward - best) / temperature) / total
    np.testing.assert_allclose(response.policy[0], policy, rtol=1e-6, atol=1e-300)


@pytest.mark.parametrize("solver", SOLVERS)
def test_tied_actions_share(solver):
    response = tb.solve_follower(one_state([1.0, 1.0, 1.0 - 1e5], 1e-3, 0.9), solver=solver)
    np.testing.assert_array_equal(response.policy[0], [0.5, 0.5, 0.0])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_forbidden_action_is_never_played(solver):
    response = tb.solve_follower(one_state([-np.inf, 1.0], 0.5, 0.5), solver=solver)
    assert response.action_value[0, 0] == -np.inf
    np.testing.assert_array_equal(response.policy[0], [0.0, 1.0])
    assert response.value[0] == pytest.approx(2.0, rel=ROUNDING)  # one action: no entropy


@pytest.mark.parametrize("solver", SOLVERS)
def test_nothing_to_gain_is_worth_exactly_nothing(solver):
    response = tb.solve_follower(one_state([0.0], 0.5, 0.9), solver=solver)
    assert response.value[0] == 0.0
    assert response.residual == 0.0


@pytest.mark.parametrize("solver", [tb.ValueIteration, tb.PolicyIteration])
def test_a_solver_that_is_stopped_says_so(solver):
    model = tb.problems.garnet(temperature=0.01).model(np.zeros(6))
    with pytest.raises(tb.ConvergenceError, match=f"{solver.__name__} made 1 iterations") as e:
        tb.solve_follower(model, solver=solver(max_iterations=1))
    assert e.value.iterations == 1
    assert e.value.residual > 0.01
    assert "Allow more iterations" in str(e.value)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("discount", [0.99, 0.9999])
def test_long_horizons_converge_within_their_bound(solver, discount):
    model = tb.problems.garnet(follower_discount=discount, temperature=0.01).model(np.zeros(6))
    response = tb.solve_follower(model, solver=solver)
    better = tb.solve_follower(model)
    assert response.residual <= 1e-13 * np.abs(response.value).max() * 2
    gap = np.abs(response.value - better.value).max()
    assert gap <= response.error_bound + better.error_bound + 1e-9


@pytest.mark.parametrize("solver", [tb.PolicyIteration, tb.CompiledPolicyIteration])
def test_policy_iteration_ends_at_rounding_not_at_the_tolerance(solver):
    model = tb.problems.four_rooms().model(np.zeros(105))
    start = tb.solve_follower(model).value + 1e-6
    response = tb.solve_follower(model, solver=solver(tolerance=1e-5), start=start)
    assert response.residual <= 1e-14
    assert response.iterations == 1


def test_a_long_ring_near_discount_1_is_solved():
    rng, n_states = np.random.default_rng(0), 3000
    here = np.arange(n_states)
    columns = np.stack([here, here + 1, here, here - 1], axis=1).ravel() % n_states
    kernel = (np.tile([0.1, 0.9], 2 * n_states), (np.repeat(np.arange(2 * n_states), 2), columns))
    model = tables(
        transition=sp.csr_array(kernel, shape=(2 * n_states, n_states)),
        follower_reward=rng.normal(size=(n_states, 2)),
        leader_reward=np.zeros((n_states, 2)),
        initial=np.full(n_states, 1.0 / n_states),
        follower_discount=0.999999,
        temperature=1e-10,
    )
    response = tb.solve_follower(model)  # news of a better place goes a few cells a step
    assert response.iterations > 1000
    assert response.residual <= 1e-14 * np.abs(response.value).max()


def test_results_name_themselves():
    model = tb.problems.four_rooms().model(np.zeros(105))
    response = tb.solve_follower(model)
    assert str(model).startswith("Model: 104 states, 4 actions")
    assert "104 states" in str(response)
    assert "iterations" in str(response)
    evaluation = tb.evaluate_leader(model, response)
    assert "over all steps" in str(evaluation)
    assert "over 9 steps" in str(tb.evaluate_leader(model, response, horizon=9))
    assert "influence of mass" in str(tb.sensitivities(model, response, evaluation))


@pytest.mark.parametrize("horizon", [0, -1, 1.5])
def test_a_horizon_must_be_a_positive_whole_number(horizon):
    model = tb.problems.bandit().model([0.0, 0.0])
    response = tb.solve_follower(model)
    with pytest.raises(ValueError, match=f"horizon is {horizon}, not a positive whole number"):
        tb.evaluate_leader(model, response, horizon=horizon)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_reward_that_is_never_earned_costs_no_accuracy(solver):
    cheap = one_state([1.0, 0.5, -1.0], 0.1, 0.9)
    dear = one_state([1.0, 0.5, -1e8], 0.1, 0.9)
    low, high = (tb.solve_follower(model, solver=solver) for model in (cheap, dear))
    assert high.residual <= 1e-11
    assert high.value[0] == pytest.approx(low.value[0], rel=1e-8)  # exp(-20) was earned


@pytest.mark.parametrize("solver", [tb.PolicyIteration, tb.ValueIteration])
def test_settings_are_positive_numbers(solver):
    found = refusal(solver, max_iterations=0)
    assert found == "max_iterations is 0, not a positive whole number"
    for tolerance in (0.0, -1.0, np.nan, np.inf):
        found = refusal(solver, tolerance=tolerance)
        assert found == f"tolerance is {tolerance}, not a positive finite number"


def test_a_convergence_error_survives_a_worker_process():
    error = tb.ConvergenceError("stuck", residual=0.5, iterations=7)
    error.add_note("where it was")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert str(twin) == "stuck"
        assert (twin.residual, twin.iterations) == (0.5, 7)
        assert twin.__notes__ == ["where it was"]


def test_copies_and_pickles_are_as_read_only_as_they_were():
    problem = tb.problems.garnet()
    game = tb.problems.random_game()
    result = tb.hypergradient(problem, np.zeros(6))
    sample = tb.sample_trajectories(result.model, result.response.policy, count=2, horizon=3, rng=0)
    estimate = tb.Estimate(tb.BoltzmannCovariance()(problem, np.zeros(6), rng=0).gradient)
    law = tb.Interaction().limit(problem, np.zeros(6))
    for remake in (copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))):
        twin = remake(result)
        for array in (
            remake(estimate).gradient,
            remake(law).theta,
            remake(law).values.value,
            remake(law).law.policy,
            twin.gradient,
            twin.model.follower_reward,
            twin.model.transition.data,
            twin.response.policy,
            twin.evaluation.value,
            twin.sensitivities.follower_reward,
            twin.sensitivities.transition,
            remake(game).follower_reward,
            remake(game).transition.data,
            remake(problem).follower_reward.data,
            remake(sample).states,
        ):
            assert not array.flags.writeable
        np.testing.assert_array_equal(twin.gradient, result.gradient)
