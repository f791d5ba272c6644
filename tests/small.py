"""Small models that several test files need, many from the package's zoo, and where they look."""

import re
from pathlib import Path

import numpy as np
import pytest

import tabular_bilevel as tb
from tabular_bilevel.problems import zoo


def somewhere(problem, *, seed=1):
    """Draw a theta near zero."""
    return 0.3 * np.random.default_rng(seed).normal(size=problem.n_parameters)


def at(problem):
    """Give a problem, and a theta near zero."""
    return problem, somewhere(problem)


def at_some_theta(problem):
    return problem.model(np.random.default_rng(1).normal(size=problem.n_parameters))


def moving_rewards(problem, base=None):
    """Make the problem whose theta moves the rewards alone: of another model, if one is given."""
    features = {name: getattr(problem, name) for name in ("follower_reward", "leader_reward")}
    return tb.FeatureProblem(problem.base if base is None else base, **features)


def put(array, index, number):
    """Copy with an entry (or a row) replaced."""
    copy = np.array(array, dtype=np.float64)
    copy[index] = number
    return copy


def refusal(call, *arguments, **settings):
    """Return the message with which a call is refused."""
    with pytest.raises(ValueError, match=r".") as caught:
        call(*arguments, **settings)
    return str(caught.value)


def each_refused(*cases):
    """Make each call, which is refused in words that match."""
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()


def features(base, rng, width, *names):
    """Draw features of some tables, or of all of them and the temperature."""
    n_pairs = base.follower_reward.size
    rows = {"follower_reward": n_pairs, "leader_reward": n_pairs, "transition": base.transition.nnz}
    rows |= {"initial": base.n_states, "temperature": 1}
    return {name: rng.normal(size=(rows[name], width)) for name in names or rows}


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def assert_refused(message, call, *arguments, **settings):
    """See that a call is refused, and that a pattern is found in what it says."""
    assert re.search(message, refusal(call, *arguments, **settings))


def patchy(rng=6, *, n_states=5):
    """States that lack actions, and pairs that may end the episode."""
    return zoo.draw("patchy", rng, max_states=n_states).problem.base


def tables(**changes):
    """Two states, two actions."""
    return tb.Model.from_tables(
        **{
            "transition": [[[0.75, 0.25], [0.25, 0.75]], [[0.5, 0.5], [0.125, 0.875]]],
            "follower_reward": [[0.0, 0.3], [0.1, -0.2]],
            "leader_reward": [[1.0, 0.0], [0.0, 2.0]],
            "initial": [0.5, 0.5],
            "follower_discount": 0.9,
            "leader_discount": 0.8,
            "temperature": 0.5,
            **changes,
        }
    )


# Of each class of problem.
ORDINARY = {name: zoo.named(name).at for name in zoo.ORDINARY}

# What of a garnet, a layered problem, a game, and the like is met at random.
MODELS = {
    "garnet": at_some_theta(tb.problems.garnet(n_states=5, temperature=1.0, rng=2)),
    "layered": at_some_theta(tb.problems.layered(temperature=1.0, rng=3)),
    "game": at_some_theta(tb.problems.random_game(n_states=3, rng=4)),
    "patchy": patchy(),
    "two-state": at_some_theta(tb.problems.two_state()),
}

FORBIDDEN = tb.Model.from_tables(
    transition=[[[1.0, 0.0], [0.5, 0.5]], [[0.3, 0.7], [0.0, 0.0]]],
    follower_reward=[[0.0, 0.2], [1.0, -np.inf]],
    leader_reward=[[0.0, 1.0], [0.5, 0.0]],
    initial=[1.0, 0.0],
    follower_discount=0.9,
    leader_discount=0.8,
    temperature=0.5,
)


# What a manifest of vectors says, and what of one of them.
MANIFEST = {
    "format": "tabular-bilevel test vectors", "schema_version": 1, "licence": "", "provenance": {},
    "notes": {}, "vectors": [],
}  # fmt: skip
ENTRY = {
    "file": "a.npz", "sha256": "", "family": "garnet", "name": "a", "flags": [], "n_states": 1,
    "n_actions": 1, "n_parameters": 1,
}  # fmt: skip


class Counted:
    """A problem that counts its models."""

    def __init__(self, problem):
        self.problem, self.models = problem, 0

    def model(self, theta):
        self.models += 1
        return self.problem.model(theta)

    def pullback(self, theta, sensitivities):
        return self.problem.pullback(theta, sensitivities)
