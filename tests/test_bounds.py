"""Error bounds hold against ball arithmetic, grow when a result is wrong, and are of use."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import scipy.sparse as sp
from references.strangers import (
    Plain,
    Pushing,
    Single,
    returned_by_pullback,
    returned_by_pushforward,
)
from sizes import pairs, sizes

import tabular_bilevel as tb
from tabular_bilevel import derivatives as differentiating
from tabular_bilevel._base import jit, kernels
from tabular_bilevel.certify import bounds as bounding
from tabular_bilevel.certify.bounds import error_bounds
from tabular_bilevel.problems import zoo

flint = pytest.importorskip("flint")

import bounds_fuzz  # noqa: E402
from references.ball_reference import BITS, Reference, broken, derivatives, off  # noqa: E402

# What the issue of certified numbers asks of the fuzz: this share of the gradients that are not 0
# has a bound of this size, relative to the gradient. Measured: 98 % of 10,000.
WANTED, RADIUS = 0.88, 1e-6

AT_ZERO = np.zeros(3)


def road(problem, theta=AT_ZERO):
    result = tb.hypergradient(problem, theta, accuracy=tb.Estimated())
    return result, error_bounds(problem, theta, result)


def truth_of(problem, result):
    reference = Reference(result.model, result.response.value)
    return reference, reference.gradient(*derivatives(problem, result.model))


def relative_radius(bounds, gradient):
    """Bound relative to the gradient; None if that is 0."""
    size = max(float(abs(ball).mid()) for ball in gradient)
    return float(bounds.gradient.max()) / size if size > 0.0 else None


@sizes("block", range(2), range(2, 10))
def test_no_bound_is_broken_on_problems_at_the_corners(block):
    radii = []
    for seed in range(40 * block, 40 * (block + 1)):
        problem = zoo.draw("wild", seed).problem
        result, bounds = road(problem)
        reference, gradient = truth_of(problem, result)
        assert broken(result, bounds, reference, gradient) == []
        refined = tb.hypergradient(problem, AT_ZERO)
        assert broken(refined, refined.accuracy.bounds, reference, gradient) == []
        radii.append(relative_radius(refined.accuracy.bounds, gradient))
    radii = np.array([radius for radius in radii if radius is not None])
    assert (radii <= RADIUS).mean() >= WANTED


@pytest.mark.parametrize("seed", [70004, 70014, 70041, 70074])
@pytest.mark.parametrize("exponent", [-1030, -980, 900])
def test_no_bound_is_broken_where_rewards_and_temperature_are_next_to_the_ends_of_float64(
    seed, exponent
):
    problem = zoo.draw("wild", seed).problem
    base, scale = problem.base, 2.0**exponent
    scaled = base.replace(
        follower_reward=scale * base.follower_reward,
        leader_reward=scale * base.leader_reward,
        temperature=scale * base.temperature,
    )
    names = ("follower_reward", "leader_reward", "transition", "initial")
    problem = tb.FeatureProblem(scaled, **{name: getattr(problem, name) for name in names})
    result = tb.hypergradient(problem, AT_ZERO)
    assert broken(result, result.accuracy.bounds, *truth_of(problem, result)) == []


@pytest.mark.parametrize("block", range(3))
def test_no_bound_is_broken_by_a_solver(block, monkeypatch):
    monkeypatch.setattr(bounding, "is_banded", lambda _: False)
    for seed in range(1000 + 40 * block, 1000 + 40 * (block + 1)):
        problem = zoo.draw("wild", seed).problem
        result, bounds = road(problem)
        truth = truth_of(problem, result)
        assert broken(result, bounds, *truth) == []
        refined = tb.hypergradient(problem, AT_ZERO)
        assert broken(refined, refined.accuracy.bounds, *truth) == []


# Garnet MDPs with 20 states; the radii it reached with residuals
# in ball arithmetic and zero-mass arguments, for V, the policy, J and the gradient.
TABLE = {
    (0.9, 1.0): (5e-15, 1e-13, 3e-14, 3e-10),
    (0.9, 1e-4): (7e-15, 5e-10, 1e-10, 3e-4),
    (0.99, 1e-2): (5e-14, 6e-11, 1e-11, 4e-7),
    (0.999, 1e-2): (9e-14, 6e-10, 1e-10, 3e-6),
    (0.9999, 1e-2): (3e-12, 6e-9, 1e-9, 5e-5),
    (0.9999, 1e-4): (2e-12, 3e-6, 2e-7, 8e-1),
}


def garnet_20(discount, temperature, seed):
    rng = np.random.default_rng(seed)
    base = tb.problems.garnet(
        follower_discount=discount, leader_discount=discount, temperature=temperature, rng=rng
    ).base
    return tb.FeatureProblem(
        base,
        follower_reward=rng.normal(size=(80, 3)),
        leader_reward=rng.normal(size=(80, 3)),
        transition=rng.normal(size=(base.transition.nnz, 3)),
    )


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_bounds_are_as_tight_as_the_design_says(case):
    found = []
    for seed in range(3):
        result, bounds = road(garnet_20(*case, seed))
        value, gradient = (np.abs(x).max() for x in (result.response.value, result.gradient))
        found.append(
            (
                bounds.value.max() / value,
                bounds.policy.max(),
                bounds.objective / abs(result.objective),
                bounds.gradient.max() / gradient,
            )
        )
    # tenfold room, as random instances differ
    assert np.all(np.median(found, axis=0) <= 10.0 * np.array(TABLE[case]))


def test_bounds_are_tight_enough_to_see_the_error():
    problem = garnet_20(0.999, 1e-2, 0)
    result, bounds = road(problem)
    reference, gradient = truth_of(problem, result)
    errors = [off(x, ball) for x, ball in zip(result.gradient, gradient, strict=True)]
    assert bounds.gradient.max() <= 100.0 * max(errors)
    assert bounds.objective <= 10.0 * off(result.objective, reference.objective)
    policy_error = max(off(result.response.policy[k], ball) for k, ball in reference.policy.items())
    assert bounds.policy.max() <= 2.0 * policy_error


@pytest.mark.parametrize("theta", [[0.3, -0.2], [900.0, 0.0]], ids=["mild", "underflow"])
def test_the_bandit_is_within_its_bounds(theta):
    problem = tb.problems.bandit(leader_discount=0.9, follower_discount=0.5)
    result, bounds = road(problem, theta)
    with flint.ctx.workprec(BITS):
        weights = [(flint.arb(x) - flint.arb(max(theta))).exp() for x in theta]
        policy = [w / sum(weights) for w in weights]
        remaining = 1 - flint.arb(0.9)
        slope = policy[0] * policy[1] / remaining
        assert off(result.objective, policy[1] / remaining) <= bounds.objective
        for a, sign in enumerate((-1, 1)):
            assert off(result.response.policy[0, a], policy[a]) <= bounds.policy[0, a]
            assert off(result.gradient[a], sign * slope) <= bounds.gradient[a]
    assert bounds.gradient.max() <= 1e-13 * max(abs(result.gradient).max(), 1e-200)


def test_the_two_states_closed_form_is_within_the_bounds():
    theta = np.array([0.2, -0.3])
    result, bounds = road(tb.problems.two_state(), theta)
    objective, gradient = tb.problems.two_state_closed_form(theta)
    rounding = 1e-13  # of the closed form itself
    assert abs(result.objective - objective) <= bounds.objective + rounding
    assert np.all(np.abs(result.gradient - gradient) <= bounds.gradient + rounding)
    assert bounds.gradient.max() < 1e-13


# Results that are wrong, and what of them is.


def perturbed_response(problem, result):
    rng = np.random.default_rng(1)
    value = result.response.value + 1e-6 * rng.normal(size=result.model.n_states)
    policy = result.response.policy * (1.0 + 1e-6 * rng.normal(size=result.response.policy.shape))
    policy /= policy.sum(axis=1, keepdims=True)
    response = dataclasses.replace(result.response, value=value, policy=policy)
    evaluation = tb.evaluate_leader(result.model, response)
    return rebuilt(problem, result, response, evaluation)


def wrong_occupancy(problem, result):
    evaluation = dataclasses.replace(
        result.evaluation,
        occupancy=result.evaluation.occupancy * (1.0 + 1e-6),
        continuation=result.evaluation.continuation * (1.0 + 1e-6),
    )
    return rebuilt(problem, result, result.response, evaluation)


def swapped_discounts(problem, result):
    model = result.model
    swapped = model.replace(
        follower_discount=model.leader_discount, leader_discount=model.follower_discount
    )
    measures = tb.sensitivities(swapped, result.response, result.evaluation)
    return dataclasses.replace(
        result,
        sensitivities=dataclasses.replace(measures, model=model),
        gradient=problem.pullback(AT_ZERO, measures),
    )


def rebuilt(problem, result, response, evaluation):
    measures = tb.sensitivities(result.model, response, evaluation)
    return dataclasses.replace(
        result,
        objective=evaluation.objective,
        response=response,
        evaluation=evaluation,
        sensitivities=measures,
        gradient=problem.pullback(AT_ZERO, measures),
    )


def mixing(**scalars):
    rng = np.random.default_rng(5)
    base = tb.problems.garnet(n_states=6, n_actions=3, rng=rng).base.replace(**scalars)
    return tb.FeatureProblem(
        base,
        follower_reward=rng.normal(size=(18, 3)),
        leader_reward=rng.normal(size=(18, 3)),
        transition=rng.normal(size=(base.transition.nnz, 3)),
        initial=rng.normal(size=(6, 3)),
    )


@sizes(
    ("spoil", "banded"),
    *pairs([perturbed_response, wrong_occupancy, swapped_discounts], [False, True]),
)
def test_bounds_of_a_wrong_result_cover_its_error(spoil, banded, monkeypatch):
    monkeypatch.setattr(bounding, "is_banded", lambda _: banded)
    problem = mixing()
    result = tb.hypergradient(problem, AT_ZERO)
    right = error_bounds(problem, AT_ZERO, result)
    wrong = spoil(problem, result)
    grown = error_bounds(problem, AT_ZERO, wrong)
    reference, gradient = truth_of(problem, result)
    assert broken(wrong, grown, reference, gradient) == []
    # and by no more than need be
    errors = [off(x, ball) for x, ball in zip(wrong.gradient, gradient, strict=True)]
    assert 1e-7 < max(errors) <= grown.gradient.max() <= 1.001 * max(errors)
    # those of the right result would not have covered it
    assert broken(wrong, right, reference, gradient)


class Liar:
    """A linear solver gone wrong."""

    def __init__(self, answer):
        self._answer = answer

    def solve(self, b):
        return self._answer(b)

    solve_transposed = solve


@pytest.mark.parametrize(
    "answer", [np.zeros_like, lambda b: -3.0 * b, lambda b: np.full_like(b, np.nan)]
)
def test_a_lying_solver_makes_bounds_large_and_not_wrong(answer, monkeypatch):
    problem = mixing(follower_discount=0.5, leader_discount=0.4)
    result = tb.hypergradient(problem, AT_ZERO)
    honest = error_bounds(problem, AT_ZERO, result)
    monkeypatch.setattr(bounding, "is_banded", lambda _: False)
    monkeypatch.setattr(bounding, "factored_system", lambda *_: Liar(answer))
    bounds = error_bounds(problem, AT_ZERO, result)
    assert broken(result, bounds, *truth_of(problem, result)) == []
    assert bounds.gradient.max() > 1.5 * honest.gradient.max()


def test_a_system_of_another_policy_makes_bounds_large_and_not_wrong(monkeypatch):
    problem = mixing()
    result = tb.hypergradient(problem, AT_ZERO)
    honest, model = error_bounds(problem, AT_ZERO, result), result.model
    other = np.eye(3)[np.zeros(6, dtype=int)]
    monkeypatch.setattr(bounding, "is_banded", lambda _: False)
    given = bounding.factored_system
    monkeypatch.setattr(bounding, "factored_system", lambda *_: given(model, other, 0.5))
    bounds = error_bounds(problem, AT_ZERO, result)
    assert broken(result, bounds, *truth_of(problem, result)) == []
    assert bounds.gradient.max() > 1.5 * honest.gradient.max()


def game(*, seen):
    return tb.problems.random_game(n_states=3, follower_observes_leader=seen, rng=7)


def slopes_of_a_game(problem, theta, model):
    """Exact derivatives of the model's tables: of f(b|s), f (1 - f) and - f f'."""
    n_states, n_leader, n_actions = problem.follower_reward.shape
    kernel = problem.transition.toarray().reshape(n_states, n_leader, n_actions, n_states)
    with flint.ctx.workprec(BITS):
        f = [[flint.arb(x) for x in row] for row in problem.leader_policy(theta)]
        arb = flint.arb

        def change(s, b, i):  # of f(b|s) with parameter i
            at, c = divmod(i, n_leader)
            return f[s][b] * (int(b == c) - f[s][c]) if at == s else arb(0)

        columns = range(problem.n_parameters)
        n_model = model.n_states
        rewards = np.full((2, n_model * n_actions, len(columns)), arb(0), dtype=object)
        moves = np.full((model.transition.nnz, len(columns)), arb(0), dtype=object)
        start = np.full((n_model, len(columns)), arb(0), dtype=object)
        for i in columns:
            for k, (row, j) in enumerate(
                zip(model.entry_row, model.transition.indices, strict=True)
            ):
                z, a = divmod(int(row), n_actions)
                if problem.follower_observes_leader:
                    (s, b), (after, c) = divmod(z, n_leader), divmod(int(j), n_leader)
                    moves[k, i] = arb(kernel[s, b, a, after]) * change(after, c, i)
                else:
                    moves[k, i] = sum(
                        (arb(kernel[z, b, a, j]) * change(z, b, i) for b in range(n_leader)), arb(0)
                    )
            if problem.follower_observes_leader:
                for z in range(n_model):
                    s, b = divmod(z, n_leader)
                    start[z, i] = arb(problem.initial[s]) * change(s, b, i)
                continue
            for n, table in enumerate((problem.follower_reward, problem.leader_reward)):
                for row in range(n_model * n_actions):
                    s, a = divmod(row, n_actions)
                    rewards[n, row, i] = sum(
                        (arb(table[s, b, a]) * change(s, b, i) for b in range(n_leader)), arb(0)
                    )
    return rewards[0], rewards[1], moves, start


@pytest.mark.parametrize("seen", [True, False])
def test_bounds_of_games_hold(seen):
    problem = game(seen=seen)
    theta = np.random.default_rng(3).normal(size=problem.n_parameters)
    result, bounds = road(problem, theta)
    reference = Reference(result.model, result.response.value)
    gradient = reference.gradient(*slopes_of_a_game(problem, theta, result.model))
    assert broken(result, bounds, reference, gradient) == []
    assert bounds.gradient.max() <= 1e-11 * np.abs(result.gradient).max()


def budget_gradient(total, theta, slope, bits):
    """Turn the gradient in the shares into that in the logits, exactly."""
    with flint.ctx.workprec(bits):
        weights = [flint.arb(float(x)).exp() for x in theta]
        share = [w / sum(weights, flint.arb(0)) for w in weights]
        mean = sum((p * x for p, x in zip(share, slope, strict=False)), flint.arb(0))
        return [
            flint.arb(total) * p * (x - mean)
            for p, x in zip(share, [*slope, flint.arb(0)], strict=True)
        ]


def test_bounds_of_a_budget_hold():
    inner = zoo.draw("wild", 12).problem
    problem = tb.Reparametrised(inner, tb.Budget(total=-0.2, n_parameters=4))
    theta = np.array([0.1, -0.4, 0.0, 0.7])
    result, bounds = road(problem, theta)
    reference = Reference(result.model, result.response.value)
    shares = problem.transform.forward(theta)
    moved = tb.FeatureProblem(
        inner.model(shares),
        follower_reward=inner.follower_reward,
        leader_reward=inner.leader_reward,
        transition=inner.transition,
        initial=inner.initial,
        temperature=inner.temperature,
    )
    slope = reference.gradient(*derivatives(moved, result.model))
    gradient = budget_gradient(-0.2, theta, slope, BITS)
    assert broken(result, bounds, reference, gradient) == []
    assert relative_radius(bounds, gradient) < 1e-9  # a wrong pullback is far from the centre's


@pytest.mark.parametrize("size", [1.0, 30.0, 700.0, 800.0])
def test_bounds_of_a_box_and_of_a_line_hold(size):
    box = tb.Box([-0.1, 0.2, 1e-3], [0.3, 0.7, 2e-3])
    theta, inner = size * np.array([0.1, -1.0, 0.7]), np.array([1.0 / 3.0, -2.0 / 7.0, 1e5 / 3.0])
    bound = box.pullback_bound(theta, inner, np.zeros(3))
    line = tb.along(tb.problems.garnet(n_parameters=3), np.zeros(3), theta).transform
    with flint.ctx.workprec(BITS):
        for k in range(3):
            far = flint.arb(float(theta[k])).exp()
            wide = flint.arb(float(box.high[k])) - flint.arb(float(box.low[k]))
            slope = wide * far / (1 + far) ** 2 * flint.arb(float(inner[k]))
            assert off(box.pullback(theta, inner)[k], slope) <= bound[k] < 1e-13 * abs(inner[k])
        slope = sum((flint.arb(float(a)) * float(b) for a, b in zip(theta, inner, strict=True)), 0)
        summed = off(line.pullback([0.0], inner)[0], slope)
        assert summed <= line.pullback_bound([0.0], inner, np.zeros(3))[0] < 1e-7
    # what the inner gradient may be off comes on top
    for transform, at in ((box, theta), (line, [0.0])):
        moved = transform.pullback(at, inner + 0.25) - transform.pullback(at, inner)
        told = transform.pullback_bound(at, inner, np.full(3, 0.25))
        assert (np.abs(moved) <= told).all()


# Numbers of 1e-324 and of 1e300 meet.
MANY_BITS = 3000


def extreme_truth(problem, theta, result):
    reference = Reference(result.model, result.response.value, bits=MANY_BITS)
    if isinstance(problem, tb.MarkovGame):
        return reference, reference.gradient(*slopes_of_a_game(problem, theta, result.model))
    if isinstance(problem, tb.FeatureProblem):
        return reference, reference.gradient(*derivatives(problem, result.model))
    inner, shares = problem.inner, problem.transform.forward(theta)
    names = ("follower_reward", "leader_reward", "transition", "initial", "temperature")
    features = {name: getattr(inner, name) for name in names}
    moved = tb.FeatureProblem(inner.model(shares), **features)
    slope = reference.gradient(*derivatives(moved, result.model))
    return reference, budget_gradient(problem.transform.total, theta, slope, MANY_BITS)


def stream(number, seed):
    """The streams that the seeds below were found in."""
    return np.random.default_rng([number, seed])


def wild_problem(seed):
    return zoo.draw("wild", seed)


def extreme_problem(seed):
    return zoo.draw("extreme", stream(3, seed))


def extreme_game(seed):
    return zoo.draw("extreme-game", stream(4, seed), max_states=9)


def extreme_budget(seed):
    return zoo.budgeted(extreme_problem(seed), stream(5, seed))


def extreme(draw, seed):
    """Draw an instance whose numbers are in float64's range, and solve it."""
    problem, theta = draw(seed).at
    try:
        result = tb.hypergradient(problem, theta)
    except ValueError as error:
        pytest.skip(f"numbers overflow: {error}")
    if result.accuracy.bounds is None:
        pytest.skip("numbers overflow where bounds are computed")
    return problem, theta, result


# Some, and those where products of bounds did underflow to 0.
EXTREMES = [
    *((extreme_problem, seed) for seed in (*range(30), 288, 334, 378, 388, 5584)),
    *((extreme_game, seed) for seed in (*range(10), 53, 129, 287, 335, 360, 428)),
    *((extreme_budget, seed) for seed in (*range(30), 33, 188, 317, 347)),
]


@pytest.mark.parametrize(("draw", "seed"), EXTREMES)
def test_what_underflows_is_not_taken_for_0(draw, seed):
    problem, theta, result = extreme(draw, seed)
    reference, gradient = extreme_truth(problem, theta, result)
    assert broken(result, result.accuracy.bounds, reference, gradient) == []
    plain = tb.hypergradient(problem, theta, accuracy=tb.Estimated())
    assert broken(plain, error_bounds(problem, theta, plain), reference, gradient) == []


def test_a_gradient_below_the_normal_numbers_has_a_radius():
    base = tb.problems.bandit(leader_reward=[0.0, 1.57543804e-8]).base
    problem = tb.FeatureProblem(base, leader_reward=[[0.0], [1e-308]])
    result = tb.hypergradient(problem, [0.0])
    assert 0.0 < result.gradient[0] < 1e-307
    assert result.accuracy.gradient[0] > 0.0


@pytest.mark.parametrize("seed", range(20))
def test_pushforwards_stand_in_for_a_missing_bound(seed):
    problem = zoo.draw("wild", seed).problem
    result = tb.hypergradient(problem, AT_ZERO)
    own = error_bounds(problem, AT_ZERO, result).gradient
    found = error_bounds(Pushing(problem), AT_ZERO, result)
    assert found.vacuous == ""
    # tangents know what the features do, and count each number's rounding more generously
    assert np.all(found.gradient <= 50.0 * own + 1e-290)
    gradient = truth_of(problem, result)[1]
    for stored, ball, bound in zip(result.gradient, gradient, found.gradient, strict=True):
        assert off(stored, ball) <= bound


@pytest.mark.parametrize(
    ("kind", "returned"),
    [
        (Plain, returned_by_pullback),
        (Single, returned_by_pullback),
        (Pushing, returned_by_pushforward),
    ],
)
@pytest.mark.parametrize(
    ("draw", "seed"),
    [
        *((wild_problem, seed) for seed in range(12)),
        *((extreme_problem, seed) for seed in (*range(12), 288, 334)),
        *((extreme_game, seed) for seed in range(6)),
        *((extreme_budget, seed) for seed in range(6)),
    ],
)
def test_bounds_hold_given_what_a_strangers_code_returns(draw, seed, kind, returned):
    problem, theta = draw(seed).at
    stranger = kind(problem)
    try:
        result = tb.hypergradient(stranger, theta)
    except ValueError as error:
        pytest.skip(f"numbers overflow: {error}")
    if not result.accuracy.proven:
        pytest.skip(result.accuracy.reason)
    reference = Reference(result.model, result.response.value, bits=MANY_BITS)
    gradient = reference.gradient(*returned(stranger, theta, result.model))
    for stored, ball, bound in zip(
        result.gradient, gradient, result.accuracy.gradient, strict=True
    ):
        assert off(stored, ball) <= bound


@pytest.mark.parametrize(
    ("kind", "limit", "reason"),
    [
        (
            Plain,
            "MAX_CALLS",
            "pullback of Plain, which has no working pushforward, would be called for each of 97 "
            "table entries, more than 2",
        ),
        (
            Pushing,
            "MAX_CALLS",
            "pushforward of Pushing would be called for each of 3 parameters, more than 2",
        ),
        (
            Pushing,
            "MAX_NUMBERS",
            "the derivatives of 97 table entries of Pushing in 3 parameters are more than 2 "
            "numbers",
        ),
    ],
)
def test_derivatives_that_take_too_many_calls_leave_an_estimate(kind, limit, reason, monkeypatch):
    monkeypatch.setattr(differentiating, limit, 2)
    problem = mixing()
    bounds = error_bounds(kind(problem), AT_ZERO, tb.hypergradient(problem, AT_ZERO))
    assert np.isinf(bounds.gradient).all()
    assert np.isfinite(bounds.sensitivities.follower_reward).all()
    assert bounds.vacuous == reason
    assert bounds.vacuous in str(bounds)
    accuracy = tb.hypergradient(kind(problem), AT_ZERO).accuracy
    assert (accuracy.level, accuracy.reason) == (tb.Level.ESTIMATE, reason)


class Halving:
    """A change of parameters that cannot bound anything."""

    n_parameters = 3

    def forward(self, theta):
        return np.asarray(theta) / 2.0

    pullback = pushforward = lambda self, theta, x: x / 2.0


def test_a_transform_without_a_bound_is_pushed_forward():
    problem = tb.Reparametrised(mixing(), Halving())
    result, bounds = road(problem)
    gradient = truth_of(mixing(), result)[1]
    with flint.ctx.workprec(BITS):
        gradient = [ball / 2 for ball in gradient]
    for stored, ball, bound in zip(result.gradient, gradient, bounds.gradient, strict=True):
        assert off(stored, ball) <= bound < 1e-10


def test_a_discount_that_cannot_be_told_from_one_bounds_nothing():
    problem = tb.problems.bandit(leader_discount=1.0 - 2.0**-53)
    _, bounds = road(problem, np.array([0.1, 0.2]))
    assert bounds.objective == np.inf
    assert np.isinf(bounds.gradient).all()
    assert np.isfinite(bounds.policy).all()
    assert "0.9999999999999999 times the largest row sum is not provably below 1" in str(bounds)


def test_a_finite_horizon_is_not_covered_and_says_so():
    problem = mixing()
    result = tb.hypergradient(problem, AT_ZERO, horizon=3)
    bounds = error_bounds(problem, AT_ZERO, result)
    assert np.isinf(bounds.gradient).all()
    assert bounds.objective == np.inf
    assert bounds.value.max() < 1e-13
    assert bounds.vacuous == "a finite horizon is not covered"


def test_probabilities_that_underflow_have_an_absolute_bound():
    result, bounds = road(tb.problems.bandit(), np.array([0.0, 1e6]))
    assert result.response.policy[0, 0] == 0.0
    assert 0.0 < bounds.policy[0, 0] < 1e-250
    assert bounds.gradient.max() < 1e-250


def one_action(seed):
    rng = np.random.default_rng(seed)
    base = tb.problems.garnet(n_states=5, n_actions=1, rng=rng).base
    return tb.FeatureProblem(base, follower_reward=rng.normal(size=(5, 3)))


@pytest.mark.parametrize(
    ("reward", "temperature", "other"),
    [(1e25, 1e-3, True), (1.0, 1e-200, True), (1e299, 1e-310, False)],
)
def test_a_value_without_a_rounding_leaves_a_certain_choice_certain(reward, temperature, other):
    model = tb.Model.from_tables(
        transition=np.zeros((1, 2, 1)),
        follower_reward=[[reward, 0.0]],
        leader_reward=[[1.0, 0.0]],
        initial=[1.0],
        termination=np.ones((1, 2)),
        available=[[True, other]],
        follower_discount=0.0,
        leader_discount=0.0,
        temperature=temperature,
    )
    bounds = bounding._centre(model, tb.solve_follower(model), None).bounds
    assert bounds["value"].max() <= 2.0**-52 * reward
    assert bounds["policy"].max() <= 2.0**-90


@pytest.mark.parametrize("banded", [False, True], ids=["by a solver", "within a band"])
@pytest.mark.parametrize("seed", range(3))
def test_a_follower_without_a_choice_has_radius_zero(seed, banded, monkeypatch):
    monkeypatch.setattr(bounding, "is_banded", lambda _: banded)
    result, bounds = road(one_action(seed))
    assert not result.gradient.any()
    assert not bounds.gradient.any()
    assert not bounds.policy.any()
    assert not bounds.sensitivities.follower_reward.any()


def loops(discount):
    """A choice between two absorbing loops, near a tie: nothing mixes."""
    kernel = np.zeros((3, 2, 3))
    kernel[0, 0, 1] = kernel[0, 1, 2] = kernel[1, :, 1] = kernel[2, :, 2] = 1.0
    base = tb.Model.from_tables(
        transition=kernel,
        follower_reward=[[0.0, 1e-3], [1.0, 1.0], [1.0, 1.0]],
        leader_reward=[[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]],
        initial=[1.0, 0.0, 0.0],
        follower_discount=discount,
        leader_discount=discount,
        temperature=1e-3,
    )
    return tb.FeatureProblem(base, follower_reward=np.eye(6, 3))


@pytest.mark.parametrize("discount", [0.9, 0.999, 0.9999])
def test_several_absorbing_classes_are_bounded(discount):
    problem = loops(discount)
    result, bounds = road(problem)
    reference, gradient = truth_of(problem, result)
    assert broken(result, bounds, reference, gradient) == []
    assert relative_radius(bounds, gradient) < 1e-6


MAP = "\n".join(
    "".join(
        "@" if i % 4 in (0, 1) and 0 < i < 39 and j % 12 in range(1, 10) else "." for j in range(40)
    )
    for i in range(40)
)


@pytest.mark.parametrize("kind", ["map", "graph"])
def test_large_models_are_bounded(kind):
    if kind == "map":
        problem = tb.problems.grid_world(f"type octile\nheight 40\nwidth 40\nmap\n{MAP}\n")
    else:
        problem = tb.problems.garnet(n_states=700, rng=3)
    theta = np.zeros(problem.n_parameters)
    result, bounds = road(problem, theta)
    assert result.model.n_states > 500
    assert bounds.gradient.max() <= 1e-8 * np.abs(result.gradient).max()
    assert bounds.objective <= 1e-8 * abs(result.objective)
    wrong = dataclasses.replace(result, gradient=result.gradient + 1e-5)
    assert error_bounds(problem, theta, wrong).gradient.min() > 0.9e-5


FUNCTIONS = {
    "exp": (jit.kernel(lambda x: math.exp(x)), np.exp),
    "expm1": (jit.kernel(lambda x: math.expm1(x)), np.expm1),
    "log": (jit.kernel(lambda x: math.log(x)), np.log),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_exponentials_and_logarithms_are_as_accurate_as_assumed(name):
    rng = np.random.default_rng(0)
    x = {
        "exp": np.concatenate([-rng.exponential(1.0, 3000), rng.uniform(-700.0, 0.0, 3000), [0.0]]),
        "expm1": np.concatenate([rng.exponential(1e-9, 3000), rng.exponential(1.0, 3000), [0.0]]),
        "log": np.concatenate(
            [rng.uniform(1.0, 9.0, 3000), 1.0 + rng.exponential(1e-6, 3000), [1.0]]
        ),
    }[name].tolist()
    limit = kernels.doubled.EXP_ROUNDOFFS * 2.0**-53
    with flint.ctx.workprec(120):
        truth = [getattr(flint.arb(given), name)() for given in x]
        for function in FUNCTIONS[name]:
            found = [float(function(given)) for given in x]
            for y, ball in zip(found, truth, strict=True):
                assert abs(flint.arb(y) - ball) <= abs(ball) * limit
            assert found[-1] == (1.0 if name == "exp" else 0.0)  # exactly, as is assumed, too


def test_bounds_are_printed_in_one_line():
    _, bounds = road(mixing())
    text = str(bounds)
    assert text.startswith("ErrorBounds: value ")
    assert "gradient" in text
    assert "\n" not in text


def test_features_of_unavailable_actions_do_not_count():
    base = mixing().base
    available = np.ones((6, 3), dtype=bool)
    available[:, 2] = False
    masked = base.replace(available=available)
    features = np.ones((18, 1)) * 1e12 * ~available.reshape(18, 1) + available.reshape(18, 1)
    problem = tb.FeatureProblem(masked, follower_reward=sp.csr_array(features))
    _, bounds = road(problem, np.zeros(1))
    assert bounds.gradient.max() < 1e-10


@pytest.mark.parametrize("options", [[], ["--solver"]], ids=["within a band", "by a solver"])
def test_the_fuzz_runs_and_sees_a_bound_that_is_too_small(options, monkeypatch, capsys):
    systems, given = [], bounding.factored_system
    monkeypatch.setattr(bounding, "is_banded", bounding.is_banded)  # and back, in the end
    monkeypatch.setattr(bounding, "factored_system", lambda *at: systems.append(at) or given(*at))
    assert bounds_fuzz.main(["--count", "3", *options]) == 0
    assert bool(systems) == bool(options)
    assert "broken bounds: 0 problems" in capsys.readouterr().out

    def without(problem, theta, result):
        bounds = error_bounds(problem, theta, result)
        return dataclasses.replace(bounds, value=bounds.value * 0.0)

    monkeypatch.setattr(bounding, "error_bounds", without)
    assert bounds_fuzz.main(["--count", "1"]) == 1
    assert "value is off by" in capsys.readouterr().out


@pytest.mark.parametrize("make", [tb.problems.rounds, tb.problems.bandit, tb.problems.four_rooms])
def test_an_heir_with_derivatives_of_its_own_is_believed(make):
    problem = make()
    kind, theta = type(problem), np.full(problem.n_parameters, 0.1)

    class Twice(kind):
        def model(self, theta):
            return kind.model(self, 2.0 * np.asarray(theta))

        def pullback(self, theta, sensitivities):
            return 2.0 * kind.pullback(self, 2.0 * np.asarray(theta), sensitivities)

        def pushforward(self, theta, direction):
            return kind.pushforward(self, 2.0 * np.asarray(theta), 2.0 * np.asarray(direction))

    heir = copy.copy(problem)
    object.__setattr__(heir, "__class__", Twice)
    wanted = 2.0 * tb.hypergradient(problem, 2.0 * theta).gradient
    size = np.abs(wanted).max()
    for accuracy in (None, tb.Enclosed()):
        found = tb.hypergradient(heir, theta, accuracy=accuracy)
        np.testing.assert_allclose(found.gradient, wanted, atol=1e-12 * size)
        assert found.accuracy.gradient.max() < 1e-9 * size
    limits = [tb.lower_limit(*each).policy for each in ((problem, 2.0 * theta), (heir, theta))]
    np.testing.assert_allclose(limits[1], 4.0 * limits[0], atol=1e-9 * limits[0].max())


class Scaled:
    """Somebody's problem, which may change, or be closed."""

    scale, inner = 1.0, tb.problems.garnet(n_states=3, n_actions=2, n_parameters=2)

    def model(self, theta):
        return self.inner.model(self.scale * theta)

    def pullback(self, theta, sensitivities):
        if not self.scale:
            raise RuntimeError("closed")
        return self.scale * self.inner.pullback(self.scale * theta, sensitivities)


@pytest.mark.parametrize("accuracy", [tb.Bounded(), tb.Estimated()])
def test_parts_of_a_problem_that_has_changed_are_refused(accuracy):
    problem, theta = Scaled(), np.full(2, 0.1)
    known, found = (tb.hypergradient(problem, theta, accuracy=accuracy) for _ in range(2))
    direct = known.direct
    problem.scale = 1.0 + 1e-6
    for part in ("direct", "indirect"):
        with pytest.raises(ValueError, match=r"^the problem is another by now: gradient\[0\] was "):
            getattr(found, part)
    problem.scale = 0.0
    with pytest.raises(RuntimeError, match=r"^closed$"):
        _ = found.direct
    np.testing.assert_array_equal(known.direct, direct)  # it was there
    problem.scale = 1.0
    np.testing.assert_array_equal(found.direct, direct)
    np.testing.assert_allclose(found.direct + found.indirect, found.gradient, rtol=1e-9)


def test_an_inherited_bound_is_not_of_another_pullback():
    class Large(tb.FeatureProblem):
        def model(self, theta):
            return super().model(2.0**30 * np.asarray(theta))

        def pullback(self, theta, sensitivities):
            return 2.0**30 * super().pullback(2.0**30 * np.asarray(theta), sensitivities)

        def pushforward(self, theta, direction):
            return super().pushforward(theta, 2.0**30 * np.asarray(direction))

    problem = tb.problems.bandit()
    heir = copy.copy(problem)
    object.__setattr__(heir, "__class__", Large)
    theta = np.array([0.1, 0.2])
    bound = tb.hypergradient(problem, theta).accuracy.gradient
    larger = tb.hypergradient(heir, theta / 2.0**30).accuracy.gradient
    assert (larger > 2.0**29 * bound).all()
