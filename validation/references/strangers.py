"""Problems as strangers write them: no more methods than needed, some of them coarse or wrong."""

from __future__ import annotations

import dataclasses

import numpy as np

import tabular_bilevel as tb


class Plain:
    """The two methods of a problem, and no more; one that is given by name stands for its own."""

    def __init__(self, problem, **own):
        self.model, self.pullback = problem.model, problem.pullback
        self.n_parameters = problem.n_parameters
        vars(self).update(own)


class Pushing(Plain):
    """A third method, which differentiates forward."""

    def __init__(self, problem, **own):
        super().__init__(problem, **{"pushforward": problem.pushforward, **own})


class Single(Plain):
    """A pullback that computes in float32."""

    def __init__(self, problem):
        super().__init__(problem, pullback=self._coarse)
        self._problem = problem

    def _coarse(self, theta, measures):
        with np.errstate(all="ignore"):
            coarse = {
                name: getattr(measures, name).astype(np.float32).astype(float)
                for name in ("follower_reward", "leader_reward", "transition", "initial")
            }
            found = self._problem.pullback(theta, dataclasses.replace(measures, **coarse))
            return np.asarray(found).astype(np.float32).astype(float)


class Wrong(Plain):
    """A pullback of measures that a mistake has changed; `pushforward` is given on if `pushes`."""

    def __init__(self, problem, mistake, pushes=False):
        super().__init__(problem)
        self.pullback = lambda theta, measures: problem.pullback(theta, mistake(measures))
        if pushes:
            self.pushforward = problem.pushforward


def twice(measures):
    """A factor of 2."""
    return measures + measures


def negative(measures):
    """A wrong sign."""
    tables = ("follower_reward", "leader_reward", "transition", "initial")
    changed = {name: -getattr(measures, name) for name in tables}
    return dataclasses.replace(measures, **changed, _temperature=-measures.temperature)


def without(name):
    """Forget a table."""
    return lambda measures: dataclasses.replace(
        measures, **{name: np.zeros_like(getattr(measures, name))}
    )


def one_entry_off(measures):
    """The reward of a single pair counts twice."""
    table = measures.follower_reward.copy()
    table[0, 0] *= 2.0
    return dataclasses.replace(measures, follower_reward=table)


MISTAKES = {
    "factor 2": twice,
    "sign": negative,
    "one entry": one_entry_off,
    **{
        f"no {name}": without(name)
        for name in ("follower_reward", "leader_reward", "transition", "initial")
    },
}


def returned_by_pullback(problem, theta, model):
    """Derivatives as a problem's pullback returns them for one table entry each, read as stored."""

    def slopes(name, size, shape):
        units = np.eye(size).reshape(size, *shape)
        rows = [
            problem.pullback(theta, tb.Sensitivities.of(model, **{name: unit.copy()}))
            for unit in units
        ]
        return np.array(rows).reshape(size, len(theta))

    pairs = model.follower_reward.shape
    heat = problem.pullback(theta, tb.Sensitivities.of(model, temperature=1.0))
    return (
        slopes("follower_reward", model.follower_reward.size, pairs),
        slopes("leader_reward", model.follower_reward.size, pairs),
        slopes("transition", model.transition.nnz, (model.transition.nnz,)),
        slopes("initial", model.n_states, (model.n_states,)),
        np.reshape(heat, (1, -1)),
    )


def returned_by_pushforward(problem, theta, model):
    """Derivatives as a problem's pushforward returns them along the axes, read as stored."""
    tangents = [problem.pushforward(theta, axis) for axis in np.eye(len(theta))]
    names = ("follower_reward", "leader_reward", "transition", "initial", "temperature")
    return tuple(
        np.stack([np.ravel(getattr(tangent, name)) for tangent in tangents], axis=1)
        for name in names
    )
