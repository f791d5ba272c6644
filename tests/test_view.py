"""What an estimator may see: views, batches, Jacobians, and numbers of other libraries."""

import re
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from small import somewhere, tables

import tabular_bilevel as tb
from tabular_bilevel.sampling.view import Jacobian, Precision, as_numpy

# Tables are sums and products of a few numbers of the size of 1.
ROUNDING = 1e-12

# Central differences with steps of 1e-5: cube of the step, and rounding over the step.
DIFFERENCES = 1e-8

EPS = {name: np.finfo(name).eps for name in ("float16", "float32", "float64")}
EPS["bfloat16"] = 2.0**-7


class Door:
    """Two states; theta[0] is the chance that a door leads out, and that play starts outside.

    It has no pushforward. At theta[0] = 0 its tables store probabilities of 0 that theta moves.
    """

    def model(self, theta):
        opens, pay = theta
        entries = [1.0 - opens, opens, 0.5, 0.5, 0.3, 0.7, 0.0, 1.0]
        rows, columns = np.repeat(np.arange(4), 2), np.tile([0, 1], 4)
        return tables(
            transition=sp.coo_array((entries, (rows, columns)), shape=(4, 2)),
            follower_reward=[[pay, 0.3], [0.1, -0.4]],
            leader_reward=[[-pay, 0.2], [1.0, 0.5]],
            initial=[1.0 - opens, opens],
            follower_discount=0.7,
        )

    def pullback(self, theta, sensitivities):
        entries, initial = sensitivities.transition, sensitivities.initial
        opens = entries[1] - entries[0] + initial[1] - initial[0]
        return [opens, (sensitivities.follower_reward - sensitivities.leader_reward)[0, 0]]


class Bare:
    """A problem's two methods, without its pushforward."""

    def __init__(self, problem):
        self.model, self.pullback = problem.model, problem.pullback


MASKED = tb.problems.zoo.named("masked layers").problem
PROBLEMS = {
    "masked": MASKED,
    "garnet": tb.problems.garnet(n_states=4, n_actions=2, n_parameters=3, rng=2),
    "game, seen": tb.problems.random_game(n_states=3, n_actions=2, rng=3),
    "game, hidden": tb.problems.random_game(n_states=3, follower_observes_leader=False, rng=4),
    "one state": tb.problems.bandit(leader_discount=0.5),
    "budget": tb.problems.four_rooms(),
}
each_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def view_of(problem):
    return tb.LeaderView(problem, somewhere(problem))


def refused(message):
    return pytest.raises(ValueError, match=re.escape(message))


# ---------------------------------------------------------------- batches


PARTS = (
    "states", "actions", "next_states", "lengths", "mask", "follower_reward", "leader_reward",
)  # fmt: skip


@each_problem
def test_a_batch_has_what_the_trajectories_have(problem):
    view, model = view_of(problem), problem.model(somewhere(problem))
    batch = view.sample(40, steps=30, rng=9)
    sample = tb.Episodes(40, 30).sample(
        model, tb.solve_follower(model).policy, rng=np.random.default_rng(9)
    )
    for name in PARTS:
        np.testing.assert_array_equal(getattr(batch, name), getattr(sample, name), err_msg=name)
    assert batch.survival == 1.0
    beyond = ~batch.mask
    np.testing.assert_array_equal(batch.mask.sum(axis=1), batch.lengths)
    for name in ("states", "actions", "next_states", "entries"):
        assert (getattr(batch, name)[beyond] == -1).all()
    for name in ("follower_reward", "leader_reward"):
        assert (getattr(batch, name)[beyond] == 0.0).all()


def test_some_of_the_masked_batch_is_padding_and_some_ends_are_early():
    batch = view_of(MASKED).sample(40, rng=9)
    assert (~batch.mask).sum() > 0
    assert len(set(batch.lengths)) > 1
    last = batch.next_states[np.arange(40), batch.lengths - 1]
    assert (last == -1).all()  # each ended by itself
    assert MASKED.base.available[batch.states[batch.mask], batch.actions[batch.mask]].all()


@each_problem
def test_entries_point_at_the_transition_that_was_made(problem):
    model, batch = problem.model(somewhere(problem)), view_of(problem).sample(40, steps=30, rng=9)
    made = batch.next_states >= 0
    np.testing.assert_array_equal(batch.entries >= 0, made)
    entries = batch.entries[made]
    rows = batch.states[made] * model.n_actions + batch.actions[made]
    np.testing.assert_array_equal(model.entry_row[entries], rows)
    np.testing.assert_array_equal(model.transition.indices[entries], batch.next_states[made])


def test_batches_are_copies_that_may_be_written_to():
    view = view_of(MASKED)
    batch = view.sample(20, rng=1)
    for name in ("entries", *PARTS):
        getattr(batch, name)[...] = 7
    again = view.sample(20, rng=1)
    assert again.states.max() < MASKED.base.n_states
    assert (again.states[~again.mask] == -1).all()
    with pytest.raises(AttributeError):
        batch.states = again.states


def test_samples_come_again_with_their_seed_and_go_on_with_a_generator():
    view, rng = view_of(MASKED), np.random.default_rng(3)
    first, second, same = view.sample(20, rng=rng), view.sample(20, rng=rng), view.sample(20, rng=3)
    np.testing.assert_array_equal(first.states, same.states)
    assert first.states.shape != second.states.shape or (first.states != second.states).any()
    with refused("rng is None, not a numpy Generator or a seed of at least 0"):
        view.sample(20, rng=None)


def test_a_batch_that_was_cut_by_chance_knows_its_survival():
    view = view_of(PROBLEMS["garnet"])
    batch = view.draw(tb.Survivors(30), np.random.default_rng(0))
    assert batch.survival == max(view.follower_discount, view.leader_discount)
    assert (batch.next_states[batch.mask] >= 0).all()  # cut, not ended


# ---------------------------------------------------------------- Jacobians


def logarithms(problem, theta):
    """Rewards, and logarithms of probabilities."""
    model = problem.model(theta)
    with np.errstate(divide="ignore"):
        logs = np.log(model.transition.data), np.log(model.initial)
    parts = (model.follower_reward.ravel(), model.leader_reward.ravel(), *logs)
    return [np.where(np.isfinite(part), part, 0.0) for part in parts]


SMALL = {name: problem for name, problem in PROBLEMS.items() if name != "budget"}
each_small = pytest.mark.parametrize("problem", SMALL.values(), ids=SMALL)

FIELDS = ("follower_reward", "leader_reward", "log_transition", "log_initial")


def flat(jacobian):
    return [
        table.reshape(-1, table.shape[-1]) for table in (getattr(jacobian, name) for name in FIELDS)
    ]


@each_small
def test_jacobians_forward_and_by_pullbacks_are_those_of_differences(problem):
    theta = somewhere(problem)
    forward = tb.LeaderView(problem, theta).jacobian
    backward = Jacobian.of(Bare(problem), theta, problem.model(theta))
    step = 1e-5
    ups, downs = (
        [logarithms(problem, theta + sign * step * unit) for unit in np.eye(theta.size)]
        for sign in (1, -1)
    )
    for k, (one, other, name) in enumerate(zip(flat(forward), flat(backward), FIELDS, strict=True)):
        columns = [(up[k] - down[k]) / (2 * step) for up, down in zip(ups, downs, strict=True)]
        np.testing.assert_allclose(one, other, atol=ROUNDING, err_msg=name)
        np.testing.assert_allclose(one, np.stack(columns, axis=1), atol=DIFFERENCES, err_msg=name)
    assert not forward.log_transition.flags.writeable


@each_problem
def test_a_pullback_is_the_weights_times_the_jacobian(problem):
    view, rng = view_of(problem), np.random.default_rng(2)
    weights = {name: rng.normal(size=getattr(view.jacobian, name).shape[:-1]) for name in FIELDS}
    parts = {
        name: np.tensordot(given, getattr(view.jacobian, name), axes=given.ndim)
        for name, given in weights.items()
    }
    np.testing.assert_allclose(view.pullback(**weights), sum(parts.values()), atol=1e-11)
    for name, part in parts.items():
        np.testing.assert_allclose(view.pullback(**{name: weights[name]}), part, atol=1e-11)
    np.testing.assert_array_equal(view.pullback(), np.zeros(view.theta.size))


def test_weights_of_a_pullback_are_checked():
    view = view_of(PROBLEMS["garnet"])
    with refused("leader_reward has shape (2,), not (4, 2)"):
        view.pullback(leader_reward=[1.0, 2.0])
    with refused("log_initial[1] is nan, not a finite number"):
        view.pullback(log_initial=[0.0, np.nan, 0.0, 0.0])


def test_a_problem_without_pushforward_will_do():
    theta = [0.25, 0.4]
    assert tb.check_gradient(Door(), theta).passed
    jacobian = tb.LeaderView(Door(), theta).jacobian
    np.testing.assert_allclose(jacobian.log_transition[:2, 0], [-1 / 0.75, 1 / 0.25])
    np.testing.assert_allclose(jacobian.log_initial[:, 0], [-1 / 0.75, 1 / 0.25])
    np.testing.assert_array_equal(jacobian.follower_reward[..., 1], [[1, 0], [0, 0]])


def test_probabilities_of_zero_have_no_logarithm_and_no_sample_shows_their_derivatives():
    shut = [0.0, 0.4]
    view = tb.LeaderView(Door(), shut)
    np.testing.assert_array_equal(view.jacobian.log_transition[:2, 0], [-1.0, 0.0])
    np.testing.assert_array_equal(view.jacobian.log_initial[:, 0], [-1.0, 0.0])
    assert view.pullback(log_transition=np.ones(8))[0] == -1.0
    # so BC-HG is biased there, and so is its target
    cut = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(steps=4)))
    report = tb.check_by_enumeration(tb.BoltzmannCovariance(), Door(), shut, horizon=4)
    np.testing.assert_allclose(cut.target(Door(), shut), report.expectation, atol=ROUNDING)
    exact = tb.hypergradient(Door(), shut).gradient
    target = tb.BoltzmannCovariance().target(Door(), shut)
    assert abs(target - exact)[0] > 0.1
    np.testing.assert_allclose(target[1], exact[1], rtol=1e-7)


# ---------------------------------------------------------------- what was asked for

PRIVATE = (
    "follower_action_value", "follower_policy", "follower_value", "leader_action_value",
    "leader_advantage", "leader_value",
)  # fmt: skip


def test_what_a_leader_knows_is_not_asked_for():
    view = view_of(MASKED)
    model = MASKED.model(somewhere(MASKED))
    assert (view.n_states, view.n_actions) == model.follower_reward.shape
    for name in (
        "available", "follower_reward", "leader_reward", "follower_discount", "leader_discount",
        "temperature",
    ):  # fmt: skip
        np.testing.assert_array_equal(getattr(view, name), getattr(model, name))
    view.sample(3, rng=0)
    view.pullback(log_initial=np.ones(view.n_states))
    assert view.jacobian is view.jacobian
    assert view.asked == ()
    assert str(view).endswith("asked for nothing that a decentralised leader lacks")
    with pytest.raises(ValueError, match="read-only"):
        view.theta[0] = 1.0


@pytest.mark.parametrize("name", PRIVATE)
def test_what_is_asked_for_is_right_and_written_down(name):
    view = view_of(MASKED)
    exact = tb.hypergradient(MASKED, somewhere(MASKED))
    player, _, table = name.partition("_")
    if name == "leader_advantage":
        wanted = exact.evaluation.action_value - exact.evaluation.value[:, None]
    else:
        wanted = getattr(exact.response if player == "follower" else exact.evaluation, table)
    np.testing.assert_allclose(getattr(view, name), wanted, atol=ROUNDING)
    assert view.asked == (name,)
    assert str(view).endswith(f"asked for {name}")


def test_what_was_asked_for_is_listed_once_and_sorted():
    view = view_of(MASKED)
    for name in (*reversed(PRIVATE), "leader_value"):
        getattr(view, name)
    assert view.asked == PRIVATE


# ---------------------------------------------------------------- numbers of other libraries


def precision_of(numbers):
    precision = Precision()
    precision.note(numbers)
    return precision.dtype, precision.unit


@pytest.mark.parametrize(
    ("numbers", "dtype"),
    [
        (np.array([1.5, -2.0], dtype=np.float32), "float32"),
        (np.array([1.5, -2.0], dtype=np.float16), "float16"),
        (np.array([1.5, -2.0]), "float64"),
        ([1.5, -2.0], "float64"),
        ((np.float32(1.5), np.float32(-2.0)), "float32"),
        (np.array([1, -2]), "float64"),
        ([True, False], "float64"),
    ],
)
def test_numbers_keep_their_values_and_their_precision_is_known(numbers, dtype):
    np.testing.assert_array_equal(as_numpy(numbers), numbers)
    assert precision_of(numbers) == (dtype, EPS[dtype])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("on_graph", [True, False])
def test_tensors_of_torch_are_taken_off_their_graph(dtype, on_graph):
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([1.5, -2.0], dtype=getattr(torch, dtype), requires_grad=on_graph)
    found = 2.0 * tensor if on_graph else tensor
    np.testing.assert_array_equal(as_numpy(found), np.array([1.5, -2.0]) * (1.0 + on_graph))
    assert precision_of(found) == (dtype, EPS[dtype])
    assert precision_of(torch.tensor([1, 2])) == ("float64", EPS["float64"])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_arrays_of_jax_are_taken(dtype):
    jnp = pytest.importorskip("jax.numpy")
    numbers = jnp.array([1.5, -2.0], dtype=dtype)
    found = as_numpy(numbers)
    np.testing.assert_array_equal(found, [1.5, -2.0])
    assert found.dtype.kind == "f"
    assert precision_of(numbers) == (dtype, EPS[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("library", ["torch", "jax"])
def test_rows_of_other_libraries_are_averaged_and_their_dtype_is_noted(library, dtype):
    if library == "torch":
        torch = pytest.importorskip("torch")
        cast = partial(torch.tensor, dtype=getattr(torch, dtype), requires_grad=True)
    else:
        cast = partial(pytest.importorskip("jax.numpy").array, dtype=dtype)
    problem, theta = PROBLEMS["garnet"], np.zeros(3)

    def estimator(view, batch):
        return cast(batch.leader_reward[:, :1] * [1.0, 2.0, 3.0])

    batched = tb.BatchEstimator(estimator, tb.Episodes(16, 2))
    found = batched(problem, theta, rng=1)
    exact = tb.LeaderView(problem, theta).sample(16, steps=2, rng=1).leader_reward[:, 0].mean()
    np.testing.assert_allclose(found, exact * np.array([1, 2, 3]), atol=4 * EPS[dtype])
    report = tb.check_estimator(batched, problem, theta, n_replicates=30, rng=0)
    assert report.notes[0].startswith(f"estimates are {dtype}: gaps below")


def test_what_draws_nothing_is_refused():
    for asked, message in (
        (("often", 0), "sampler is 'often', which has no method sample"),
        ((tb.Episodes(2), "x"), "rng is 'x', not a numpy Generator or a seed of at least 0"),
    ):
        with refused(message):
            tb.LeaderView(tb.problems.bandit(), [0.0, 0.0]).draw(*asked)


def test_trajectories_are_cut_after_a_number_of_steps():
    model = tb.problems.bandit().model([0.0, 0.0])
    sample = tb.sample_trajectories(model, [[0.5, 0.5]], count=2, horizon=3, rng=0)
    with refused("steps is -1, not a positive whole number"):
        sample.cut(-1)
