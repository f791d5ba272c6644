"""Two BC-HG estimators that were written from theory.md alone: their mean is the hypergradient."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tabular_bilevel as tb

LESSONS = Path(__file__).parents[1] / "validation" / "lessons"

# Sums of a few hundred float64 numbers.
ROUNDING = 1e-10


@pytest.fixture(params=["jax", "torch"])
def bchg(request):
    pytest.importorskip(request.param)
    return runpy.run_path(str(LESSONS / f"bchg_{request.param}.py"))["bchg"]


def view_of(problem, theta):
    """What an estimator may look at, by hand."""
    exact = tb.hypergradient(problem, theta)
    model, response, evaluation = exact.model, exact.response, exact.evaluation
    tangents = [problem.pushforward(theta, row) for row in np.eye(len(theta))]

    def jacobian(name, table=None):
        columns = np.stack([getattr(tangent, name) for tangent in tangents], axis=-1)
        if table is None:
            return columns
        return np.divide(
            columns, table[:, None], out=np.zeros_like(columns), where=table[:, None] > 0
        )

    return SimpleNamespace(
        theta=theta,
        follower_reward=model.follower_reward,
        leader_reward=model.leader_reward,
        follower_discount=model.follower_discount,
        leader_discount=model.leader_discount,
        temperature=model.temperature,
        available=model.available,
        follower_value=response.value,
        leader_value=evaluation.value,
        leader_advantage=evaluation.advantage,
        jacobian=SimpleNamespace(
            follower_reward=jacobian("follower_reward"),
            leader_reward=jacobian("leader_reward"),
            log_transition=jacobian("transition", model.transition.data),
            log_initial=jacobian("initial", model.initial),
        ),
    )


def batch_of(model, states, actions, next_states, lengths, survival=1.0):
    """Trajectories with the transition entry of each step, by hand."""
    keys = model.entry_row * model.n_states + model.transition.indices
    wanted = (states * model.n_actions + actions) * model.n_states + next_states
    entries = np.where(next_states < 0, -1, np.searchsorted(keys, wanted))
    mask = np.arange(states.shape[1]) < lengths[:, None]
    return SimpleNamespace(
        states=states,
        actions=actions,
        next_states=next_states,
        lengths=lengths,
        mask=mask,
        entries=np.where(mask, entries, -1),
        survival=survival,
    )


def every_trajectory(model, policy):
    """All trajectories of a layered problem, padded, and their probabilities."""
    kernel = model.transition.toarray().reshape(*policy.shape, -1)
    done, ways = [], [(model.initial[s], [], s) for s in np.flatnonzero(model.initial)]
    while ways:
        chance, path, s = ways.pop()
        for a in np.flatnonzero(policy[s]):
            p = chance * policy[s, a]
            if model.termination[s, a]:
                done.append((p * model.termination[s, a], [*path, (s, a, -1)]))
            for after in np.flatnonzero(kernel[s, a]):
                ways.append((p * kernel[s, a, after], [*path, (s, a, after)], after))
    lengths = np.array([len(path) for _, path in done])
    steps = np.full((len(done), lengths.max(), 3), -1)
    for row, (_, path) in zip(steps, done, strict=True):
        row[: len(path)] = path
    return np.array([p for p, _ in done]), batch_of(model, *np.moveaxis(steps, 2, 0), lengths)


def ends_early(rng):
    """A layered problem in which every step may be the last."""
    problem = tb.problems.layered(depth=3, width=2, n_parameters=3, rng=rng)
    base = problem.base
    end = np.where(base.termination == 1.0, 1.0, 0.3)
    data = base.transition.data * (1.0 - end.ravel())[base.entry_row]
    return tb.FeatureProblem(
        base.replace(transition=base.like_transition(data), termination=end),
        follower_reward=problem.follower_reward,
        leader_reward=problem.leader_reward,
        transition=problem.transition,
        initial=problem.initial,
    )


LAYERED = {
    "three layers": tb.problems.layered(depth=3, width=2, n_parameters=3, rng=1),
    "one layer": tb.problems.layered(depth=1, width=3, n_parameters=3, rng=2),
    "swapped discounts": tb.problems.layered(
        depth=4, width=2, n_parameters=3, follower_discount=0.99, leader_discount=0.5, rng=3
    ),
    "early ends": ends_early(4),
}
THETA = np.array([0.3, -0.2, 0.1])


def expectation(bchg, problem, **changes):
    """Average over all trajectories, with a view that may be wrong; and what it should be."""
    exact = tb.hypergradient(problem, THETA)
    chances, batch = every_trajectory(exact.model, exact.response.policy)
    np.testing.assert_allclose(chances.sum(), 1.0)
    view = SimpleNamespace(**{**vars(view_of(problem, THETA)), **changes})
    return chances @ np.asarray(bchg(view, batch)), exact.gradient


@pytest.mark.parametrize("name", LAYERED)
def test_its_expectation_is_the_hypergradient(bchg, name):
    mean, exact = expectation(bchg, LAYERED[name])
    np.testing.assert_allclose(mean, exact, atol=ROUNDING * np.abs(exact).max())


@pytest.mark.parametrize(
    "fault", [{"follower_discount": 0.5}, {"leader_discount": 0.9}, {"temperature": 1.0}]
)
def test_a_wrong_view_moves_its_expectation(bchg, fault):
    mean, exact = expectation(bchg, LAYERED["three layers"], **fault)
    assert np.abs(mean - exact).max() > 1e-3 * np.abs(exact).max()


SAMPLED = {
    "garnet": (
        tb.problems.garnet(n_states=5, n_parameters=3, temperature=0.5, rng=5),
        THETA,
    ),
    "game": (
        tb.problems.random_game(n_states=3, rng=6),
        np.array([0.3, -0.2, 0.1, 0.0, 0.5, -0.4]),
    ),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_its_mean_over_trajectories_cut_by_chance(bchg, name):
    problem, theta = SAMPLED[name]
    exact = tb.hypergradient(problem, theta)
    sample = tb.Survivors(4000).sample(
        exact.model, exact.response.policy, rng=np.random.default_rng(7)
    )
    batch = batch_of(
        exact.model,
        sample.states,
        sample.actions,
        sample.next_states,
        sample.lengths,
        sample.survival,
    )
    estimates = np.asarray(bchg(view_of(problem, theta), batch))
    deviation = (estimates.mean(axis=0) - exact.gradient) / (
        estimates.std(axis=0) / np.sqrt(len(estimates))
    )
    # the seed is fixed; 4 standard errors happen once in 16,000 coordinates
    assert np.abs(deviation).max() < 4.0
    assert np.abs(estimates.mean(axis=0)).max() > 0.0


@pytest.mark.parametrize("name", SAMPLED)
def test_trace_and_tails_are_the_same_sum(name):
    for library in ("jax", "torch"):
        pytest.importorskip(library)
    problem, theta = SAMPLED[name]
    exact = tb.hypergradient(problem, theta)
    sample = tb.sample_trajectories(exact.model, exact.response.policy, count=50, horizon=60, rng=8)
    batch = batch_of(exact.model, sample.states, sample.actions, sample.next_states, sample.lengths)
    view = view_of(problem, theta)
    trace, tails = (
        np.asarray(runpy.run_path(str(LESSONS / f"bchg_{library}.py"))["bchg"](view, batch))
        for library in ("jax", "torch")
    )
    np.testing.assert_allclose(trace, tails, atol=ROUNDING * np.abs(trace).max())
