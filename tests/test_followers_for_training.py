"""Followers for training: the compiled solver, and one that stops early."""

import numpy as np
import pytest
from small import patchy, refusal

import tabular_bilevel as tb
from tabular_bilevel._base import kernels
from tabular_bilevel.finite.follower import WIDEST_BAND
from tabular_bilevel.problems import zoo

# Both solvers leave a residual of a few roundings; values and policies follow within 1 / (1 -
# discount) and 1 / temperature of that.
ROUNDING = 1e-9


def one_state(rng):
    return tb.problems.bandit(follower_discount=0.9).model(rng.normal(size=2))


def narrow(rng):
    """A corridor: states lead to their neighbours only."""
    grid = "type octile\nheight 1\nwidth 30\nmap\n" + "." * 30 + "\n"
    problem = tb.problems.grid_world(
        grid, slip=0.2, follower_discount=0.95, leader_discount=0.9, temperature=0.1
    )
    return problem.model(rng.normal(size=problem.n_parameters))


def random_garnet(rng):
    return tb.problems.garnet(
        n_states=int(rng.integers(2, 40)),
        n_actions=int(rng.integers(1, 5)),
        branching=2,
        follower_discount=float(rng.choice([0.0, 0.5, 0.9, 0.99])),
        temperature=float(np.exp(rng.uniform(-3.0, 1.0))),
        rng=rng,
    ).base


def wide(rng):
    """Every state leads to every other: the band is the whole matrix, too wide to pay."""
    return tb.problems.garnet(n_states=130, n_actions=2, branching=130, rng=rng).base


FAMILIES = {
    "patchy": lambda rng: patchy(rng, n_states=7),
    "one state": one_state,
    "narrow": narrow,
    "garnet": random_garnet,
    "four rooms": lambda rng: tb.problems.four_rooms(temperature=0.05).model(rng.normal(size=105)),
    "game": lambda rng: tb.problems.random_game(rng=rng).model(rng.normal(size=12)),
    "wide": wide,
}

each_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)


def agree(one, other, model):
    scale = max(1.0, np.abs(other.value).max())
    assert np.abs(one.value - other.value).max() <= ROUNDING * scale
    assert np.abs(one.policy - other.policy).max() <= ROUNDING / min(1.0, model.temperature)
    available = model.available
    gap = one.action_value[available] - other.action_value[available]
    assert np.abs(gap).max() <= ROUNDING * scale
    assert (one.action_value[~available] == -np.inf).all()
    assert (one.policy[~available] == 0.0).all()


# ---------------------------------------------------------------- compiled policy iteration


@each_family
@pytest.mark.parametrize("seed", range(5))
def test_the_compiled_solver_is_policy_iteration(make, seed):
    model = make(np.random.default_rng(seed))
    compiled = tb.CompiledPolicyIteration().solve(model)
    agree(compiled, tb.PolicyIteration().solve(model), model)
    assert compiled.residual <= 2e-13 * max(1.0, np.abs(compiled.value).max(), model.temperature)
    assert compiled.error_bound >= compiled.residual
    for array in (compiled.value, compiled.action_value, compiled.policy):
        assert not array.flags.writeable
    # the control: at a slightly different temperature both are elsewhere
    warmer = tb.CompiledPolicyIteration().solve(
        model.replace(temperature=1.001 * model.temperature)
    )
    assert model.n_actions == 1 or np.abs(warmer.value - compiled.value).max() > 1e-6


@each_family
def test_a_start_changes_the_way_and_not_the_answer(make):
    model = make(np.random.default_rng(7))
    solver = tb.CompiledPolicyIteration()
    cold = solver.solve(model)
    far = np.random.default_rng(8).normal(size=model.n_states)
    held = far.copy()
    agree(solver.solve(model, start=far), cold, model)
    np.testing.assert_array_equal(far, held)
    warm = solver.solve(model, start=cold.value)
    assert warm.iterations <= 1 < max(2, cold.iterations)
    agree(warm, cold, model)


def random_graph(n_states):
    return tb.problems.garnet(n_states=n_states).model(np.zeros(6))


def test_a_wide_band_is_left_to_policy_iteration(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("compiled")

    monkeypatch.setattr(kernels, "soft_policy_iteration", refuse)
    model = random_graph(400)
    assert model.n_states * model.band[1] ** 2 > WIDEST_BAND
    found = tb.CompiledPolicyIteration().solve(model)
    np.testing.assert_array_equal(found.value, tb.PolicyIteration().solve(model).value)
    with pytest.raises(AssertionError, match="compiled"):
        tb.CompiledPolicyIteration().solve(narrow(np.random.default_rng(0)))


@each_family
def test_no_numbering_is_narrower_than_the_quick_look_says(make):
    model = make(np.random.default_rng(1))
    assert model.least_band <= model.band[1]


def test_where_the_quick_look_is_enough_no_numbering_is_looked_for(monkeypatch):
    def refuse(links):
        raise AssertionError("numbered")

    monkeypatch.setattr("tabular_bilevel.finite.model.narrowing", refuse)
    assert tb.solve_follower(random_graph(6000)).method == "policy iteration by sweeps"
    with pytest.raises(AssertionError, match="numbered"):
        tb.solve_follower(random_graph(30))


@pytest.mark.parametrize("make", [narrow, wide])
@pytest.mark.parametrize("limit", [1, 2])
def test_a_solver_that_is_stopped_says_so(make, limit):
    model = make(np.random.default_rng(0)).replace(temperature=0.01)
    with pytest.raises(tb.ConvergenceError, match=f"PolicyIteration made {limit} iterations") as e:
        tb.CompiledPolicyIteration(max_iterations=limit).solve(model)
    assert e.value.iterations == limit
    assert e.value.residual > 1e-10
    assert "Allow more iterations" in str(e.value)


def test_a_solver_that_just_makes_it_does_not_complain():
    model = narrow(np.random.default_rng(0))
    needed = tb.CompiledPolicyIteration().solve(model).iterations
    assert tb.CompiledPolicyIteration(max_iterations=needed).solve(model).iterations == needed
    with pytest.raises(tb.ConvergenceError, match=r"^CompiledPolicyIteration made"):
        tb.CompiledPolicyIteration(max_iterations=needed - 1).solve(model)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_values_that_overflow_do_not_converge():
    model = narrow(np.random.default_rng(0))
    huge = model.with_rewards(np.full_like(model.follower_reward, 1e308), model.leader_reward)
    for solver in (tb.CompiledPolicyIteration(), tb.PolicyIteration()):
        with pytest.raises(tb.ConvergenceError, match=r"has residual (nan|inf)"):
            solver.solve(huge)


def test_bad_settings_are_refused():
    for settings, message in (
        ({"max_iterations": 0}, "max_iterations is 0, not a positive whole number"),
        ({"tolerance": 0.0}, "tolerance is 0.0, not a positive finite number"),
        ({"tolerance": np.nan}, "tolerance is nan, not a positive finite number"),
    ):
        assert refusal(tb.CompiledPolicyIteration, **settings) == message


# ---------------------------------------------------------------- a few sweeps


def swept(model, value, sweeps):
    """V <- beta log sum_a exp((r + gamma P V) / beta), plainly; also exp((Q - T V) / beta)."""
    beta, gamma = model.temperature, model.follower_discount
    kernel = model.transition.toarray().reshape(*model.follower_reward.shape, model.n_states)
    value = np.array(value, dtype=float)
    for sweep in range(sweeps + 1):
        scaled = np.full(model.follower_reward.shape, -np.inf)
        for s, a in zip(*np.nonzero(model.available), strict=True):
            scaled[s, a] = (model.follower_reward[s, a] + gamma * kernel[s, a] @ value) / beta
        improved = beta * np.logaddexp.reduce(scaled, axis=1)
        if sweep < sweeps:
            value = improved
    return value, np.exp(scaled - improved[:, None] / beta), np.abs(improved - value).max()


@each_family
@pytest.mark.parametrize("sweeps", [1, 2, 7])
def test_a_stopped_follower_makes_its_sweeps_and_no_more(make, sweeps):
    model = make(np.random.default_rng(3))
    found = tb.StoppedValueIteration(sweeps=sweeps).solve(model)
    value, policy, residual = swept(model, np.zeros(model.n_states), sweeps)
    scale = max(1.0, np.abs(value).max())
    assert np.abs(found.value - value).max() <= 1e-12 * scale
    assert np.abs(found.policy - policy).max() <= ROUNDING / min(1.0, model.temperature)
    assert found.residual == pytest.approx(residual, abs=1e-12 * scale)
    assert found.iterations == sweeps
    off = np.abs(found.value - tb.solve_follower(model).value).max()
    assert off <= found.error_bound + ROUNDING * scale
    other, _, _ = swept(model, np.zeros(model.n_states), sweeps + 1)
    if residual > ROUNDING:
        assert np.abs(found.value - other).max() > 0.5 * residual


@each_family
def test_a_stopped_follower_goes_on_if_it_may(make):
    model = make(np.random.default_rng(3))
    start = np.random.default_rng(4).normal(size=model.n_states)
    held = start.copy()
    warm = tb.StoppedValueIteration(sweeps=3).solve(model, start=start)
    anew = tb.StoppedValueIteration(sweeps=3, warm_start=False).solve(model, start=start)
    np.testing.assert_array_equal(start, held)
    scale = max(1.0, np.abs(warm.value).max())
    assert np.abs(warm.value - swept(model, start, 3)[0]).max() <= 1e-12 * scale
    cold = tb.StoppedValueIteration(sweeps=3).solve(model)
    np.testing.assert_array_equal(anew.value, cold.value)
    if model.follower_discount > 0.0:
        assert np.abs(warm.value - cold.value).max() > 1e-6
    # three and three make six
    on = tb.StoppedValueIteration(sweeps=3).solve(model, start=cold.value)
    six = tb.StoppedValueIteration(sweeps=6).solve(model)
    np.testing.assert_array_equal(on.value, six.value)


def test_many_sweeps_are_the_best_response():
    model = FAMILIES["patchy"](3)
    found = tb.StoppedValueIteration(sweeps=400).solve(model)  # 0.9^400 is 5e-19
    agree(found, tb.solve_follower(model), model)


def test_bad_settings_of_steps_and_sweeps_are_refused():
    for sweeps in (0, -1, 2.5, True, None):
        found = refusal(tb.StoppedValueIteration, sweeps=sweeps)
        assert found == f"sweeps is {sweeps}, not a positive whole number"
    for settings, message in (
        ({"steps": 0}, "steps is 0, not a positive whole number"),
        ({"steps": 1, "evaluations": 0.5}, "evaluations is 0.5, not a positive whole number"),
        ({"steps": 1, "initial_spread": -1.0}, "initial_spread is -1.0, below 0"),
        ({"steps": 1, "initial_spread": np.nan}, "initial_spread is nan, not a finite number"),
    ):
        assert refusal(tb.StoppedPolicyIteration, **settings) == message


# ---------------------------------------------------------------- a few steps of policy iteration


def half_evaluated(model, table, steps, evaluations):
    """Plainly: pi = softmax(Q / beta); V = sum pi Q + beta H(pi); Q = r + gamma P V, repeated."""
    beta, gamma = model.temperature, model.follower_discount
    kernel = model.transition.toarray().reshape(*model.follower_reward.shape, model.n_states)
    table = np.where(model.available, table, -np.inf)
    for _ in range(steps):
        policy = np.exp(table / beta - np.logaddexp.reduce(table / beta, axis=1)[:, None])
        for _ in range(evaluations):
            value = np.zeros(model.n_states)
            for s in range(model.n_states):
                likely = policy[s] > 0.0
                p, q = policy[s, likely], table[s, likely]
                value[s] = p @ q - beta * p @ np.log(p)
            ahead = model.follower_reward + gamma * kernel @ value
            table = np.where(model.available, ahead, -np.inf)
    return table


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("evaluations", [1, 2, 5])
@pytest.mark.parametrize("name", ["patchy", "narrow", "game"])
def test_a_half_evaluated_follower_is_what_it_says(name, steps, evaluations):
    model = FAMILIES[name](np.random.default_rng(3))
    start = np.random.default_rng(4).normal(size=model.follower_reward.shape)
    follower = tb.StoppedPolicyIteration(steps=steps, evaluations=evaluations)
    found = follower.solve(model, start=start)
    table = half_evaluated(model, start, steps, evaluations)
    scale, seen = max(1.0, np.abs(found.value).max()), model.available
    assert np.abs(found.action_value[seen] - table[seen]).max() <= 1e-12 * scale
    assert (found.action_value[~seen] == -np.inf).all()
    assert found.iterations == steps * evaluations
    best = tb.solve_follower(model)
    assert np.abs(found.value - best.value).max() <= found.error_bound + ROUNDING * scale
    # a control: one evaluation more is another table
    other = half_evaluated(model, start, steps, evaluations + 1)
    assert np.abs(found.action_value[seen] - other[seen]).max() > 1e-6


def test_with_one_evaluation_it_is_value_iteration():
    model = FAMILIES["patchy"](np.random.default_rng(3))
    value = np.random.default_rng(4).normal(size=model.n_states)
    follower = tb.StoppedPolicyIteration(steps=3, evaluations=1)
    # a value is a table by one look ahead, so that the first sweep gives the value's own backup
    sweeps = tb.StoppedValueIteration(sweeps=3)
    agree(follower.solve(model, start=value), sweeps.solve(model, start=value), model)


def test_many_steps_are_the_best_response():
    model = FAMILIES["patchy"](np.random.default_rng(3))
    agree(tb.StoppedPolicyIteration(steps=100).solve(model), tb.solve_follower(model), model)


@pytest.mark.parametrize("warm_start", [True, False])
def test_its_table_is_kept_from_answer_to_answer_or_drawn_anew(warm_start):
    problem, theta = tb.problems.garnet(), np.zeros(6)
    follower = tb.StoppedPolicyIteration(steps=1, evaluations=2, warm_start=warm_start)
    interaction = tb.Interaction(tb.Episodes(3, 5), follower=follower)
    first = interaction.gather(problem, theta, rng=0)
    rng = np.random.default_rng(0)
    model = problem.model(theta)
    drawn = rng.standard_normal(model.follower_reward.shape)
    np.testing.assert_array_equal(
        first.response.action_value, follower.solve(model, start=drawn).action_value
    )
    second = interaction.gather(problem, theta, rng=0, memory=first.memory)
    table = first.response.action_value if warm_start else drawn
    expected = follower.solve(model, start=table).action_value
    np.testing.assert_array_equal(second.response.action_value, expected)
    assert (second.response.action_value == first.response.action_value).all() != warm_start
    limit = interaction.limit(problem, theta, memory=first.memory).response
    expected = follower.solve(model, start=first.response.action_value).action_value
    np.testing.assert_array_equal(limit.action_value, expected)


def test_a_table_without_spread_is_zero_and_masks_are_kept_finite():
    problem = zoo.draw("patchy", 3).problem
    follower = tb.StoppedPolicyIteration(steps=1, initial_spread=0.0)
    theta = np.zeros(problem.n_parameters)
    model = problem.model(theta)
    assert not model.available.all()
    known = tb.Interaction(tb.Episodes(3, 5), follower=follower).gather(problem, theta, rng=0)
    np.testing.assert_array_equal(known.response.action_value, follower.solve(model).action_value)
    assert np.isfinite(known.memory["follower_action_value"]).all()


def test_a_table_that_does_not_fit_is_refused():
    for start, message in (
        (np.zeros((7, 1)), "start has shape (7, 1), not (7, 3)"),
        (np.zeros(6), "start has shape (6,), not (7,)"),
        (np.full((7, 3), np.inf), "start[0, 0] is inf, not a finite number"),
    ):
        solve = tb.StoppedPolicyIteration(steps=1).solve
        assert refusal(solve, FAMILIES["patchy"](0), start=start) == message


# ---------------------------------------------------------------- solve_follower's start


COLD = [tb.PolicyIteration(), tb.ValueIteration(), tb.CompiledPolicyIteration()]


@pytest.mark.parametrize("solver", [*COLD, tb.StoppedValueIteration(sweeps=1)], ids=repr)
def test_a_start_is_checked(solver):
    # compiled code would read and write beyond its end
    model = FAMILIES["patchy"](0)
    for start, message in (
        (np.zeros(6), "start has shape (6,), not (7,)"),
        (np.zeros((7, 1)), "start has shape (7, 1), not (7,)"),
        (0.0, "start has shape (), not (7,)"),
        ([0.0, 0.0, np.nan, 0.0, 0.0, 0.0, 0.0], "start[2] is nan, not a finite number"),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -np.inf], "start[6] is -inf, not a finite number"),
        (["0"] * 7, "start has dtype <U1; real numbers are needed"),
    ):
        assert refusal(tb.solve_follower, model, solver=solver, start=start) == message
        assert refusal(solver.solve, model, start=start) == message


@pytest.mark.parametrize("solver", [None, *COLD[1:]], ids=repr)
def test_a_start_may_be_a_list_and_saves_iterations(solver):
    model = FAMILIES["patchy"](0)
    cold = tb.solve_follower(model, solver=solver)
    warm = tb.solve_follower(model, solver=solver, start=cold.value.tolist())
    assert warm.iterations < cold.iterations
    agree(warm, cold, model)
