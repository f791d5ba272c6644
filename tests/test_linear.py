"""Large models: sparse factors and iterations give what dense factors give."""

import numpy as np
import pytest
import scipy.sparse as sp
from sizes import sizes
from small import features, tables

import tabular_bilevel as tb
from tabular_bilevel.finite import linear

# Backward-stable solves of systems with condition number 2 / (1 - discount).
ROUNDING = 1e-11

DISCOUNT = 0.95


def moving(n_states, data, rows, columns, rng):
    """Two actions a state, with random rewards."""
    return tables(
        transition=sp.csr_array((data, (rows, columns)), shape=(2 * n_states, n_states)),
        follower_reward=rng.normal(size=(n_states, 2)),
        leader_reward=rng.normal(size=(n_states, 2)),
        initial=np.full(n_states, 1.0 / n_states),
        follower_discount=DISCOUNT,
        leader_discount=0.9,
        temperature=0.2,
    )


def corridor(n_states):
    """Build a random walk on a line: narrow."""
    ahead = np.minimum(np.arange(n_states) + 1, n_states - 1)
    back = np.maximum(np.arange(n_states) - 1, 0)
    rows = np.repeat(np.arange(2 * n_states), 2)
    columns = np.column_stack([ahead, back, ahead, back]).ravel()
    data = np.tile([0.8, 0.2, 0.3, 0.7], n_states)
    return moving(n_states, data, rows, columns, np.random.default_rng(0))


def random_graph(n_states):
    """Build a Garnet: wide."""
    return tb.problems.garnet(n_states=n_states, follower_discount=DISCOUNT).model(np.zeros(6))


def cliques(n_states):
    """Build groups of 20 states that are left rarely, for anywhere: wide, and mixes slowly."""
    rng = np.random.default_rng(0)
    near = np.arange(n_states)[:, None, None] // 20 * 20 + rng.integers(20, size=(n_states, 2, 3))
    columns = np.concatenate([near, rng.integers(n_states, size=(n_states, 2, 1))], axis=2)
    rows = np.repeat(np.arange(2 * n_states), 4)
    data = np.tile([0.4, 0.3, 0.299, 0.001], 2 * n_states)
    return moving(n_states, data, rows, columns.ravel(), rng)


MODELS = {
    "dense factors": random_graph(40),
    "sparse factors": corridor(600),
    "BiCGSTAB": cliques(600),
    "sweeps": random_graph(600),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_system_fits_the_models_shape_and_is_solved(kind):
    model = MODELS[kind]
    rng = np.random.default_rng(1)
    policy = rng.dirichlet(np.ones(model.n_actions), size=model.n_states)
    system = linear.policy_system(model, policy, DISCOUNT)
    kernel = np.einsum("sa,sat->st", policy, model.transition.toarray().reshape(*policy.shape, -1))
    matrix = np.eye(model.n_states) - DISCOUNT * kernel
    for b in (rng.normal(size=model.n_states), rng.normal(size=(model.n_states, 3))):
        for solve, of in ((system.solve, matrix), (system.solve_transposed, matrix.T)):
            np.testing.assert_allclose(solve(b), np.linalg.solve(of, b), atol=ROUNDING)
    assert system.method == kind


@pytest.mark.parametrize("kind", MODELS)
def test_both_solvers_agree_at_every_size(kind):
    model = MODELS[kind]
    fast = tb.solve_follower(model)
    plain = tb.solve_follower(model, solver=tb.ValueIteration())
    gap = np.abs(fast.value - plain.value).max()
    assert gap <= fast.error_bound + plain.error_bound + ROUNDING


@pytest.mark.parametrize("kind", ["BiCGSTAB", "sweeps"])
def test_an_iteration_that_does_not_get_there_gives_way_to_factors(kind, monkeypatch):
    policy = tb.solve_follower(MODELS[kind]).policy
    b = np.random.default_rng(2).normal(size=(600, 2))
    system = linear.policy_system(MODELS[kind], policy, 0.9)
    expected, transposed = system.solve(b), system.solve_transposed(b)
    monkeypatch.setattr(linear, "WORTH_A_ROUND", np.inf)  # no sweep does
    monkeypatch.setattr(linear._Sweeps, "_iterate", lambda *_: None)
    system = linear.policy_system(MODELS[kind], policy, 0.9)
    np.testing.assert_allclose(system.solve(b), expected, atol=ROUNDING)
    np.testing.assert_allclose(system.solve_transposed(b), transposed, atol=ROUNDING)
    assert system.method == "sparse factors"


def test_for_many_right_sides_a_narrow_model_is_factored():
    for kind, method in (("sparse factors", "sparse factors"), ("sweeps", "sweeps")):
        policy = tb.solve_follower(MODELS[kind]).policy
        assert linear.policy_system(MODELS[kind], policy, 0.5).method == "sweeps"
        assert linear.factored_system(MODELS[kind], policy, 0.5).method == method


def test_a_wide_graph_that_mixes_slowly_is_not_factored():
    model = cliques(2000)
    policy = np.full((2000, 2), 0.5)
    system = linear.policy_system(model, policy, 0.9999)
    b = np.random.default_rng(4).normal(size=2000)
    x = system.solve(b)
    residual = b - x + 0.9999 * (policy * model.next_value(x)).sum(axis=1)
    assert np.abs(residual).max() <= linear.ROUNDED * (np.abs(b).max() + np.abs(x).max())
    assert (model.narrow, system.method) == (False, "BiCGSTAB")


@pytest.mark.parametrize(("most", "method"), [(250, "BiCGSTAB"), (1, "sparse factors")])
def test_an_inexact_step_on_a_map_needs_no_factors_unless_it_takes_long(most, method, monkeypatch):
    monkeypatch.setattr(linear, "MOST_ITERATIONS", most)
    model, policy = MODELS["sparse factors"], np.full((600, 2), 0.5)
    system = linear.policy_system(model, policy, DISCOUNT)
    b = np.random.default_rng(5).normal(size=600)
    x = system.solve(b, accuracy=1e-3)
    residual = b - x + DISCOUNT * (policy * model.next_value(x)).sum(axis=1)
    assert np.abs(residual).max() <= 1.001e-3 * np.abs(b).max()
    assert system.method == method


def test_a_half_solved_step_is_not_cut_at_0(monkeypatch):
    system = linear.policy_system(MODELS["sweeps"], np.full((600, 4), 0.25), DISCOUNT)
    half = np.linspace(-1.0, 1.0, 600)
    monkeypatch.setattr(linear._Sweeps, "solve", lambda *_: half)
    np.testing.assert_array_equal(system.solve(np.ones(600), accuracy=0.1), half)
    np.testing.assert_array_equal(system.solve(np.ones(600)), np.maximum(half, 0.0))


def test_a_model_without_transitions_is_narrow():
    model = MODELS["sweeps"]
    ended = model.replace(transition=0.0 * model.transition, termination=np.ones((600, 4)))
    empty = ended.replace(transition=sp.csr_array(ended.transition.shape))
    for none in (ended, empty):
        system = linear.factored_system(none, np.full((600, 4), 0.25), DISCOUNT)
        np.testing.assert_array_equal(system.solve(np.arange(600.0)), np.arange(600.0))
    assert empty.narrow


@pytest.mark.parametrize(
    ("model", "more"),
    [
        (random_graph(600), 2),
        # where steps to a tenth only get nowhere
        (corridor(510).replace(follower_discount=0.99999, temperature=1.0), 10),
        (corridor(600).replace(follower_discount=0.99999, temperature=1.0), 10),
    ],
)
def test_inexact_steps_are_not_many_more(model, more, monkeypatch):
    solver = tb.PolicyIteration(max_iterations=100)
    inexact = solver.solve(model).iterations
    monkeypatch.setattr(linear, "DENSE_STATES", 600)
    assert inexact <= solver.solve(model).iterations + more


@pytest.mark.parametrize("kind", ["sparse factors", "BiCGSTAB", "sweeps"])
def test_a_small_right_side_is_solved_as_well_and_what_is_not_negative_stays_so(kind):
    system = linear.policy_system(MODELS[kind], tb.solve_follower(MODELS[kind]).policy, 0.9)
    b = np.zeros(600)
    b[7] = 1.0
    solved = system.solve_transposed(b)
    assert (solved >= 0.0).all()
    small = system.solve_transposed(1e-200 * b)
    np.testing.assert_allclose(small, 1e-200 * solved, rtol=0.0, atol=1e-200 * ROUNDING)


def chances_of_many_sizes(rng, size):
    data = 10.0 ** -rng.uniform(0.0, 12.0, size)
    return data / data.sum(axis=-1, keepdims=True)


def stalling(kind, n_states=210, n_links=4):
    """Build a wide graph in which sweeps gain little, or lead away."""
    rng = np.random.default_rng(0)
    here, size = np.arange(n_states)[:, None, None], (n_states, 2, n_links)
    columns, data = rng.integers(n_states, size=size), rng.dirichlet(np.ones(n_links), size[:2])
    if kind == "all lead upwards":
        columns = np.minimum(here + 1 + columns, n_states - 1)
    elif kind == "chances of many sizes":
        data = chances_of_many_sizes(rng, size)
    elif kind == "two halves, nearly":
        columns[..., 1:] = columns[..., 1:] % (n_states // 2) + here // (n_states // 2) * 105
        data[..., 0] = 1e-9
        data[..., 1] = 1.0 - data.sum(axis=2) + data[..., 1]
    elif kind == "a period of 7":
        columns = columns % 30 + (here // 30 + 1) % 7 * 30
    elif kind == "a star":
        columns[1:, :, 0], columns[1:, :, 1:] = 0, here[1:]
    elif kind == "most stay":
        columns[..., 0] = here[..., 0]
        data[..., 1:] *= 10.0 ** -rng.integers(9, size=(n_states, 1, 1))
        data[..., 0] = 1.0 - data[..., 1:].sum(axis=2)
    elif kind == "permutations":
        columns = np.stack([rng.permutation(n_states) for _ in range(2)], axis=1)[:, :, None]
        data = np.ones_like(columns, dtype=float)
    elif kind == "masses about 1":
        data *= 1.0 + rng.uniform(-9e-10, 9e-10, (n_states, 2, 1))
    rows = np.repeat(np.arange(2 * n_states), columns.shape[2])
    made = moving(n_states, data.ravel(), rows, columns.ravel(), rng)
    if kind == "some end":
        ends = np.where(rng.random((n_states, 2)) < 0.05, 0.5, 0.0)
        kept = sp.diags_array(1.0 - ends.ravel()) @ made.transition
        made = made.replace(transition=kept, termination=ends)
    return made.replace(follower_discount=0.9999, temperature=0.01)


@pytest.mark.parametrize(
    "kind",
    [
        "all lead upwards", "chances of many sizes", "two halves, nearly", "a period of 7",
        "a star", "most stay", "permutations", "masses about 1", "some end",
    ],
)  # fmt: skip
def test_where_sweeps_gain_nothing_or_lead_away_the_follower_is_solved_all_the_same(
    kind, monkeypatch
):
    model = stalling(kind)
    assert not model.narrow
    found = tb.solve_follower(model)
    at = linear.policy_system(model, found.policy, 0.9999)
    b = np.random.default_rng(1).normal(size=model.n_states)
    solved = at.solve(b), at.solve_transposed(b)
    monkeypatch.setattr(linear, "DENSE_STATES", model.n_states)
    dense = tb.solve_follower(model, solver=tb.PolicyIteration())
    assert found.iterations <= dense.iterations + 8
    gap = np.abs(found.value - dense.value).max()
    assert gap <= found.error_bound + dense.error_bound
    at = linear.policy_system(model, found.policy, 0.9999)
    for x, wanted in zip(solved, (at.solve(b), at.solve_transposed(b)), strict=True):
        far = 10.0 * ROUNDING * np.abs(wanted).max()  # nearer to discount 1
        np.testing.assert_allclose(x, wanted, rtol=0.0, atol=far)


def test_states_that_mostly_stay_need_no_factors():
    model = stalling("most stay").replace(follower_discount=0.999999)
    assert tb.solve_follower(model).method == "policy iteration by BiCGSTAB"


def featured(kind):
    base, names = MODELS[kind], ("follower_reward", "transition")
    return tb.FeatureProblem(base, **features(base, np.random.default_rng(3), 2, *names))


@sizes(
    ("kind", "horizon"),
    [("sparse factors", 12)],
    [("BiCGSTAB", None), ("sweeps", None), ("sweeps", 12)],
)
def test_large_models_have_checked_gradients(kind, horizon):
    assert tb.check_gradient(featured(kind), [0.1, -0.2], horizon=horizon).passed


def test_two_routes_agree_where_systems_are_solved_by_an_iteration():
    problem, theta = featured("sweeps"), [0.1, -0.2]
    exact = tb.hypergradient(problem, theta).gradient
    np.testing.assert_allclose(tb.forward_gradient(problem, theta), exact, rtol=ROUNDING)
