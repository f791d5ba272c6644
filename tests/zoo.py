"""Small problems that several test files need, and where in them they look."""

import numpy as np

import tabular_bilevel as tb


def somewhere(problem, *, seed=1):
    """Draw a theta near zero."""
    return 0.3 * np.random.default_rng(seed).normal(size=problem.n_parameters)


def at_some_theta(problem):
    return problem.model(np.random.default_rng(1).normal(size=problem.n_parameters))


def put(array, index, number):
    """Copy with an entry (or a row) replaced."""
    copy = np.array(array, dtype=np.float64)
    copy[index] = number
    return copy


def patchy(rng=5, *, n_states=5, likeliest_end=0.6, **garnet):
    """States that lack actions, and pairs that may end the episode."""
    rng, shape = np.random.default_rng(rng), (n_states, 3)
    settings = {"n_states": n_states, "n_actions": 3, "temperature": 0.5, "rng": rng, **garnet}
    base = tb.problems.garnet(**settings).base
    available = rng.random(shape) < 0.6
    available[:, 1] |= ~available.any(axis=1)
    ends = np.where(rng.random(shape) < 0.5, 0.0, rng.uniform(0.0, likeliest_end, shape))
    kernel = base.transition.toarray().reshape(*shape, n_states) * (1.0 - ends)[..., None]
    return base.replace(transition=kernel, termination=ends, available=available)


def patchy_problem(**scalars):
    """The same kind, and three parameters of all tables."""
    rng = np.random.default_rng(7)
    reward = rng.normal(size=(5, 3))
    reward[1, 2] = reward[3, 0] = -np.inf
    termination = rng.uniform(0.0, 0.3, size=(5, 3)) * (rng.random((5, 3)) < 0.5)
    base = tb.Model.from_tables(
        transition=rng.dirichlet(np.ones(5), size=(5, 3)) * (1.0 - termination)[..., None],
        follower_reward=reward,
        leader_reward=rng.normal(size=(5, 3)),
        initial=rng.dirichlet(np.ones(5)),
        termination=termination,
        **scalars,
    )
    return tb.FeatureProblem(
        base,
        follower_reward=rng.normal(size=(15, 3)),
        leader_reward=rng.normal(size=(15, 3)),
        transition=rng.normal(size=(base.transition.nnz, 3)),
        initial=rng.normal(size=(5, 3)),
    )


def masked(seed=11):
    """Layers of states that lack actions, and of pairs that may end the episode early."""
    rng = np.random.default_rng(seed)
    whole = tb.problems.layered(depth=4, n_actions=3, temperature=0.5, rng=rng)
    shape = whole.base.follower_reward.shape
    available = rng.random(shape) < 0.7
    available[:, 1] |= ~available.any(axis=1)
    available[-1] = True  # where an index of -1 leads
    early = np.where(rng.random(shape) < 0.5, rng.uniform(0.1, 0.6, shape), 0.0)
    termination = np.where(whole.base.termination > 0.0, 1.0, early)
    kernel = whole.base.transition.toarray() * (1.0 - early).reshape(-1, 1)
    base = whole.base.replace(
        available=available, termination=termination, transition=kernel.reshape(*shape, -1)
    )
    return tb.FeatureProblem(
        base,
        follower_reward=whole.follower_reward,
        leader_reward=whole.leader_reward,
        transition=rng.normal(size=(base.transition.nnz, 4)),
        initial=whole.initial,
    )


# What of a garnet, a layered problem, a game, and the like is met at random.
MODELS = {
    "garnet": at_some_theta(tb.problems.garnet(n_states=5, temperature=1.0, rng=2)),
    "layered": at_some_theta(tb.problems.layered(temperature=1.0, rng=3)),
    "game": at_some_theta(tb.problems.random_game(n_states=3, rng=4)),
    "patchy": patchy(branching=3),
    "two-state": at_some_theta(tb.problems.two_state()),
}
