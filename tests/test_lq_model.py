"""What a linear-quadratic model refuses, and in which words."""

import pickle
from functools import partial

import numpy as np
import pytest
from small import each_refused, refusal

import tabular_bilevel as tb

TABLES = {
    "dynamics": [[0.9, 0.1], [0.0, 0.8]],
    "control": [[0.0], [1.0]],
    "state_cost": [[1.0, 0.0], [0.0, 2.0]],
    "control_cost": [[0.5]],
    "noise": [[0.1, 0.0], [0.0, 0.0]],
    "initial_mean": [1.0, 0.0],
    "initial_covariance": [[0.0, 0.0], [0.0, 0.0]],
    "follower_discount": 0.9,
    "leader_discount": 0.95,
    "temperature": 0.1,
    "leader_reward": tb.QuadraticReward(state=-np.eye(2), control=[[0.0]]),
}


def made(**changes):
    return tb.LinearQuadraticModel(**{**TABLES, **changes})


def paid(state, control):
    return {"leader_reward": tb.QuadraticReward(state=state, control=control)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dynamics": [[1.0, 0.0]]}, r"dynamics has shape \(1, 2\), not \(1, 1\)"),
        ({"dynamics": [[np.nan, 0.0], [0.0, 0.0]]}, r"dynamics\[0, 0\] is nan, not a finite"),
        ({"control": [1.0, 0.0]}, r"control has shape \(2,\), not \(2, 1\+\)"),
        ({"control": [[1.0]]}, r"control has shape \(1, 1\), not \(2, 1\+\)"),
        (
            {"state_cost": [[1.0, 0.5], [0.0, 1.0]]},
            r"state_cost is not symmetric: state_cost\[0, 1\] is 0.5, and state_cost\[1, 0\] is 0",
        ),
        ({"state_cost": -np.eye(2)}, r"state_cost has the eigenvalue -1, below 0"),
        ({"control_cost": [[0.0]]}, r"control_cost has the eigenvalue 0, which must be above 0"),
        ({"control_cost": np.eye(2)}, r"control_cost has shape \(2, 2\), not \(1, 1\)"),
        ({"noise": [[1.0, 2.0], [2.0, 1.0]]}, r"noise has the eigenvalue -1, below 0"),
        ({"initial_mean": [1.0]}, r"initial_mean has shape \(1,\), not \(2,\)"),
        ({"initial_covariance": [[0.0, 0.0], [0.0, -1e-3]]}, "initial_covariance has the eigenv"),
        ({"follower_discount": 1.0}, r"follower_discount is 1.0, not in \[0, 1\)"),
        ({"leader_discount": 1.0}, r"leader_discount is 1.0, not in \[0, 1\)"),
        ({"temperature": 0.0}, "temperature is 0.0, not a positive finite number"),
        ({"leader_horizon": 0}, "leader_horizon is 0, not a positive whole number"),
        ({"leader_horizon": 2.5}, "leader_horizon is 2.5, not a positive whole number"),
        ({"leader_reward": 3.0}, "leader_reward is of type float, not a QuadraticReward or"),
        (paid([[1.0]], [[1.0]]), r"leader_reward.state has shape \(1, 1\), not \(2, 2\)"),
        (paid(np.eye(2), np.eye(2)), r"leader_reward.control has shape \(2, 2\), not \(1, 1\)"),
        (
            {"leader_reward": tb.GaussianBump(centre=[1.0], precision=[[1.0]])},
            r"leader_reward.centre has shape \(1,\), not \(2,\)",
        ),
        # the first state grows by 1.2, times the root of the discount, whatever the input
        (
            {"dynamics": [[1.2, 0.0], [0.1, 0.8]]},
            r"a mode of dynamics grows, by 1.1384\d* a step .* control does not reach it",
        ),
        (
            {"dynamics": np.diag([0.5, 1.2]), "state_cost": np.diag([1.0, 0.0])},
            r"a mode of dynamics grows, by 1.1384\d* a step .* state_cost does not see it",
        ),
    ],
)
def test_bad_tables_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        made(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": [[1.0, 0.0]]}, "state has shape (1, 2), not that of a square matrix"),
        ({"state": [[1.0, 1.0], [0.0, 1.0]]}, "state is not symmetric"),
        ({"constant": np.inf}, "constant is inf, not a finite number"),
        ({"cross": [[1.0, 2.0]]}, "cross has shape (1, 2), not (1, 1)"),
        ({"precision": [[-1.0]]}, "precision has the eigenvalue -1, below 0"),
        ({"precision": np.eye(2)}, "precision has shape (2, 2), not (1, 1)"),
        ({"height": np.nan}, "height is nan, not a finite number"),
    ],
)
def test_bad_rewards_are_refused(changes, words):
    if changes.keys() & {"precision", "height"}:
        kind, right = tb.GaussianBump, {"centre": [0.0], "precision": [[1.0]]}
    else:
        kind, right = tb.QuadraticReward, {"state": [[1.0]], "control": [[1.0]]}
    assert refusal(kind, **right | changes).startswith(f"leader_reward.{words}")


def test_growth_that_the_discount_outweighs_needs_no_input():
    assert tb.solve_follower(made(dynamics=np.diag([1.05, 0.5]))).residual < 1e-12
    with pytest.raises(ValueError, match="control does not reach it"):
        made(dynamics=np.diag([1.055, 0.5]))  # 0.9 ** -0.5 is 1.0541


def test_units_do_not_matter_to_what_is_stabilisable():
    """A weak input, in other units, is as good as any."""
    tables = {"dynamics": [[1.2, 1.0], [0.0, 0.8]], "control_cost": [[0.5e-16]]}
    weak = made(control=[[0.0], [1e-8]], **tables)
    strong = made(control=[[0.0], [1.0]], **(tables | {"control_cost": [[0.5]]}))
    one, other = tb.solve_follower(weak), tb.solve_follower(strong)
    np.testing.assert_allclose(one.value_matrix, other.value_matrix, rtol=1e-9)
    np.testing.assert_allclose(1e-8 * one.gain, other.gain, rtol=1e-9)


def test_a_leader_that_counts_all_steps_needs_a_closed_loop_that_the_discount_outweighs():
    """The follower lets the first state grow by 1.04; all it can do is to pay for it."""
    model = made(dynamics=np.diag([1.04, 0.5]), leader_discount=0.95)
    answer = tb.solve_follower(model)
    with pytest.raises(ValueError, match=r"diverges: .* closed loop is 1.0136\d*, not below 1"):
        tb.evaluate_leader(model, answer)
    assert np.isfinite(tb.evaluate_leader(model, answer, horizon=50).objective)
    finite = model.replace(leader_horizon=50)
    assert tb.evaluate_leader(finite, answer).horizon == 50


def test_a_bump_over_all_steps_needs_a_state_that_stays():
    bump = tb.GaussianBump(centre=[0.0, 0.0], precision=np.eye(2))
    model = made(dynamics=np.diag([1.04, 0.5]), leader_reward=bump)
    answer = tb.solve_follower(model)
    play = partial(tb.evaluate_leader, model, answer)
    each_refused(
        (play, r"the spectral radius of the closed loop is 1\.04, not below"),
        (lambda: play(horizon=20_000), r"overflows float64 within 20,000 steps"),
        (lambda: tb.lq.state_laws(model, answer, 10**8), "more than 134,217,728 numbers"),
        (lambda: play(horizon=10**12), "over 1,000,000,000,000 steps are more than"),
    )
    now = model.replace(leader_discount=0.0)
    once = play(horizon=1).objective
    assert tb.evaluate_leader(now, answer, horizon=10**12).objective == once


def test_a_state_that_is_too_wide_for_a_bump_is_said():
    bump = tb.GaussianBump(centre=[0.0, 0.0], precision=[[2.0, 1.0], [1.0, 2.0]])
    model = made(
        dynamics=1.04 * np.eye(2),
        control=[[1e-9], [1e-9]],
        noise=np.zeros((2, 2)),
        initial_covariance=1e40 * np.ones((2, 2)),
        leader_reward=bump,
    )
    with pytest.raises(ValueError, match="the covariance of the state is too wide"):
        tb.evaluate_leader(model, tb.solve_follower(model), horizon=3)


def test_numbers_that_overflow_are_said():
    huge = tb.QuadraticReward(state=1e308 * np.eye(2), control=[[0.0]])
    model = made(leader_reward=huge, initial_mean=[10.0, 0.0])
    steep = tb.GaussianBump(centre=[1.0, 0.0], precision=1e300 * np.eye(2), height=1e10)
    for each in (model, model.replace(leader_horizon=5), made(leader_reward=steep)):
        with pytest.raises(ValueError, match="objective or its derivative is not finite"):
            tb.evaluate_leader(each, tb.solve_follower(each))


def test_models_are_frozen_and_survive_a_pickle():
    model = made(leader_reward=tb.GaussianBump(centre=[0.0, 0.0], precision=np.eye(2)))
    response = tb.solve_follower(model)
    evaluation = tb.evaluate_leader(model, response)
    measures = tb.sensitivities(model, response, evaluation)
    model_, response_, measures_ = pickle.loads(pickle.dumps((model, response, measures)))
    for one in (model, model_):
        with pytest.raises(AttributeError):
            one.temperature = 1.0
    for array in (
        model.dynamics, model.leader_reward.centre, model_.dynamics, model_.leader_reward.centre,
        response_.gain, evaluation.gain, measures_.leader_reward["centre"], measures_.dynamics,
    ):  # fmt: skip
        assert not array.flags.writeable


def test_arguments_are_copied():
    dynamics = np.array(TABLES["dynamics"])
    model = made(dynamics=dynamics)
    dynamics[:] = 7.0
    assert model.dynamics[0, 0] == 0.9


def test_what_is_said_of_a_model_and_its_stations():
    model = made()
    assert str(model) == (
        "LinearQuadraticModel: 2 states, 1 input, follower discount 0.9, leader discount 0.95, "
        "temperature 0.1"
    )
    response = tb.solve_follower(model)
    assert str(response).startswith("Response: 2 states, 1 input, residual ")
    evaluation = tb.evaluate_leader(model, response)
    assert str(evaluation).endswith("over all steps")
    assert "state_cost" in str(tb.sensitivities(model, response, evaluation))


@pytest.mark.parametrize(
    ("tangent", "words"),
    [
        ({"dynamics": np.zeros((1, 1))}, r"pushforward\(...\).dynamics has shape \(1, 1\), not"),
        ({"noise": [[0.0, 1.0], [0.0, 0.0]]}, r"pushforward\(...\).noise is not symmetric"),
        ({"temperature": np.nan}, r"pushforward\(...\).temperature is nan, not a finite number"),
        (
            {"leader_reward": {"height": 1.0}},
            r"pushforward\(...\).leader_reward has height; theta can move state, control, constan",
        ),
        (
            {"leader_reward": {"state": [[0.0, 1.0], [0.0, 0.0]]}},
            r"pushforward\(...\).leader_reward.state is not symmetric",
        ),
    ],
)
def test_bad_tangents_are_refused(tangent, words):
    class Problem:
        def model(self, theta):
            return made()

        def pullback(self, theta, sensitivities):
            return np.zeros(1)

        def pushforward(self, theta, direction):
            return tb.lq.Tangent(**tangent)

    for route in (tb.forward_gradient, tb.complex_step_gradient):
        with pytest.raises(ValueError, match=words):
            route(Problem(), [0.0])


def test_pictures_of_the_objective_are_of_either_kind():
    pytest.importorskip("matplotlib")
    problem = tb.problems.bilevel_lqr()
    drawn = tb.plots.line(problem, [-5.0, -5.0], [1.0, 0.0], steps=[-0.1, 0.0, 0.1])
    assert drawn.lines[0].get_ydata()[1] == tb.objective(problem, [-5.0, -5.0])
    plane = tb.plots.Plane([-5.0, -5.0], [1.0, 0.0], [0.0, 1.0])
    assert tb.plots.plane(problem, plane, n_points=3).collections


def test_what_is_for_tables_says_so():
    pytest.importorskip("matplotlib")
    problem = tb.problems.bilevel_lqr()
    theta = [0.0, 0.0]
    result = tb.hypergradient(problem, theta)
    names = ("influence_graph", "influence", "occupancy", "incentives")
    drawn = (getattr(tb.plots, name) for name in names)
    for refused in (
        *(partial(way, problem, theta) for way in (tb.enclose, tb.LeaderView, *drawn)),
        lambda: tb.error_bounds(problem, theta, result),
        lambda: tb.plots.graph(result.model),
        lambda: tb.count_trajectories(result.model),
        lambda: tb.best_baseline(tb.problems.building_thermal_control(), np.zeros(8)),
        lambda: tb.check_by_enumeration(tb.NaivePolicyGradient(), problem, theta),
        lambda: result.visits,
        lambda: result.influence,
    ):
        each_refused((refused, r"is a LinearQuadraticModel: \w+ is for tables only"))
    features = partial(tb.FeatureProblem, problem.model(theta), follower_reward=[[1.0]])
    for estimator in (tb.TruncatedNeumann(), tb.AdaptiveModelDesign()):
        each_refused(
            (partial(estimator, problem, theta, rng=0), "is a .*: this is for tables only")
        )
    each_refused(
        (features, "base is of type LinearQuadraticModel, not a Model"),
        (lambda: tb.solve_follower({}), "model is of type dict, not a Model or a LinearQuadratic"),
    )


@pytest.mark.parametrize(
    "solver",
    [
        *(tb.CompiledPolicyIteration(), tb.PolicyIteration(), tb.ValueIteration()),
        *(tb.StoppedPolicyIteration(steps=3), tb.StoppedValueIteration(sweeps=3)),
    ],
)
def test_solvers_of_tables_are_refused(solver):
    words = f"solver is a {type(solver).__name__} of the other kind of model, and model is a Linear"
    problem = tb.problems.bilevel_lqr()
    each_refused(
        (lambda: tb.solve_follower(made(), solver=solver), words),
        (lambda: tb.hypergradient(problem, [0.0, 0.0], solver=solver), words),
    )


def test_answers_of_another_kind_or_size_are_refused():
    ours, tables = made(), tb.problems.fork().model([0.5])
    our_answer, other_answer = tb.solve_follower(ours), tb.solve_follower(tables)
    ours_worth = tb.evaluate_leader(ours, our_answer)
    worth = tb.evaluate_leader(tables, other_answer)
    other_kind = "of the other kind of model, and model is a"
    for refused in (
        lambda: tb.evaluate_leader(ours, other_answer),
        lambda: tb.evaluate_leader(tables, our_answer),
        lambda: tb.sensitivities(ours, other_answer, ours_worth),
        lambda: tb.sensitivities(ours, our_answer, worth),
        lambda: tb.sensitivities(tables, other_answer, ours_worth),
    ):
        each_refused((refused, other_kind))
    larger = tb.problems.building_thermal_control().model([0.0] * 8)

    class Silent:
        def solve(self, model, *, start=None):
            return None

    silent = partial(tb.solve_follower, ours, solver=Silent())
    each_refused(
        (lambda: tb.evaluate_leader(larger, our_answer), r"_matrix has shape \(2, 2\), not \(4, 4"),
        (lambda: tb.lq.state_laws(ours, None, 3), r"response is of type NoneType, not the lq\.Res"),
        (silent, r"^solver.solve\(...\) is of type NoneType, not the lq.Resp"),
    )


def test_an_environment_is_of_tables():
    pytest.importorskip("gymnasium")
    from tabular_bilevel.adapters.gymnasium import FollowerEnv, to_gymnasium

    problem, words = tb.problems.bilevel_lqr(), "is a LinearQuadraticModel: this is for tables only"
    each_refused(
        (lambda: FollowerEnv(made()), f"model {words}"),
        (lambda: to_gymnasium(problem, [0.0, 0.0]), words),
    )
