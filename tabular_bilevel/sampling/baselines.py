"""Baselines: what is taken off arrivals' values, which changes no mean (theory.md section 6)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tabular_bilevel._base.arrays import (
    FloatArray,
    IntArray,
    grouped_sums,
    read_only,
    restore_read_only,
)
from tabular_bilevel._base.display import displayed
from tabular_bilevel.problem import BilevelProblem, moves_as
from tabular_bilevel.problems.markov_game import MarkovGame
from tabular_bilevel.problems.reparametrised import Reparametrised
from tabular_bilevel.sampling.experience import Experience


@displayed
@dataclass(frozen=True, eq=False)
class Baseline:
    """Numbers that are taken off the values of arrivals, which a score multiplies.

    Where the score of an arrival has mean 0, they change no mean: over what follows a pair whose
    step cannot end the episode, or, where theta moves the leader's policy alone, over the leader's
    action on arrival in any state.

    Attributes
    ----------
    follower, leader : ndarray, shape (S, A)
        Taken off the discounted value of what follows a pair.
    follower_arrival, leader_arrival : ndarray, shape (S,), or float
        Taken off the value of a state that is arrived at.
    follower_start, leader_start : ndarray, shape (S,), or float
        Taken off the value of a start.
    """

    follower: FloatArray = field(repr=False)
    leader: FloatArray = field(repr=False)
    follower_arrival: FloatArray | float = field(default=0.0, repr=False)
    leader_arrival: FloatArray | float = field(default=0.0, repr=False)
    follower_start: FloatArray | float = field(default=0.0, repr=False)
    leader_start: FloatArray | float = field(default=0.0, repr=False)

    __setstate__ = restore_read_only

    @classmethod
    def by_pair(
        cls,
        experience: Experience,
        follower: FloatArray,
        leader: FloatArray,
        follower_start: float,
        leader_start: float,
    ) -> Baseline:
        """Take numbers off that belong to pairs, where their steps cannot end the episode."""
        lasting = experience.world.lasting
        return cls(
            read_only(np.where(lasting, follower, 0.0)),
            read_only(np.where(lasting, leader, 0.0)),
            follower_start=follower_start,
            leader_start=leader_start,
        )

    @classmethod
    def by_arrival(
        cls, experience: Experience, follower: FloatArray, leader: FloatArray
    ) -> Baseline:
        """Take numbers off that belong to the states arrived at, shape (S,)."""
        none = read_only(np.zeros(experience.world.available.shape))
        follower, leader = read_only(follower), read_only(leader)
        return cls(none, none, follower, leader, follower, leader)


def no_baseline(experience: Experience) -> Baseline:
    """Take nothing off."""
    none = read_only(np.zeros(experience.world.available.shape))
    return Baseline(none, none)


def mean_baseline(experience: Experience) -> Baseline:
    """Take off the mean value of what follows a pair, or of the leader's actions on arrival.

    The latter where theta moves the leader's policy alone: it leaves less variance.
    """
    model, response, values = experience.world, experience.response, experience.values
    grouped = arrival_groups(experience.problem, experience.theta)
    if grouped is not None:
        group, chance = grouped
        means = (
            grouped_sums(group, chance * value, 0)[group]
            for value in (response.value, values.value)
        )
        return Baseline.by_arrival(experience, *means)
    return Baseline.by_pair(
        experience,
        response.action_value - experience.planned.follower_reward,
        values.action_value - model.leader_reward,
        float(model.initial @ response.value),
        float(model.initial @ values.value),
    )


def arrival_groups(
    problem: BilevelProblem, theta: FloatArray
) -> tuple[IntArray, FloatArray] | None:
    """Find where theta moves the leader's policy alone: each state's group, and its chance there.

    A group are the leader's actions in one state of a game whose follower sees them; None of other
    problems.
    """
    within: object = problem
    while moves_as(within, Reparametrised):
        within = within.inner
    if not moves_as(within, MarkovGame) or not within.follower_observes_leader:
        return None
    while isinstance(problem, Reparametrised):
        theta, problem = problem.transform.forward(theta), problem.inner
    policy = within.leader_policy(theta)
    return np.repeat(np.arange(within.n_states), within.n_leader_actions), policy.ravel()
