"""What a step is credited with, and how the credit travels (theory.md section 6).

Every estimator that goes along trajectories credits each step with something, follows the credit
down the trajectory, and adds up the four measures that the problem pulls back. They differ in their
`TraceRule`, which makes the same of a sample and of the law that samples are drawn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from tabular_bilevel._base import kernels
from tabular_bilevel._base.arrays import FloatArray, quiet
from tabular_bilevel._base.display import displayed
from tabular_bilevel.finite.adjoint import temperature_slope
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.sampling.baselines import Baseline, mean_baseline, no_baseline
from tabular_bilevel.sampling.experience import Experience
from tabular_bilevel.sampling.trajectories import Law, Trajectories, row_blocks

__all__ = ["TraceRule", "Worth"]

NOTHING_ELSE: Mapping[str, float] = MappingProxyType({})


class Worth(NamedTuple):
    """What the score of an arrival is multiplied by, with the follower's credit or the leader's.

    Attributes
    ----------
    follower, leader : ndarray, shape (S,)
        Discounted worth of a state that is arrived at,
    follower_off, leader_off : ndarray, shape (S, A)
        less what is taken off by the pair that is left.
    follower_start, leader_start : ndarray, shape (S,)
        Worth of a start.
    """

    follower: FloatArray
    leader: FloatArray
    follower_off: FloatArray
    leader_off: FloatArray
    follower_start: FloatArray
    leader_start: FloatArray

    def of_transitions(self, model: Model) -> tuple[FloatArray, FloatArray]:
        """Value each stored transition, for the follower and for the leader, shape (nnz,)."""
        arrival, row = model.transition.indices, model.entry_row
        return (
            self.follower[arrival] - self.follower_off.ravel()[row],
            self.leader[arrival] - self.leader_off.ravel()[row],
        )


@displayed
@dataclass(frozen=True, eq=False, kw_only=True)
class TraceRule:
    """How an estimator credits the steps of a trajectory.

    Attributes
    ----------
    credit : ndarray, shape (S, A)
        Step t gets credit_discount^t times the entry of its pair. Later steps share that credit,
        discounted at `trace_discount`. All is divided by the probability of being seen.
    credit_discount : float
        Discount of a step's credit, by the time of the step. With the probability of survival as
        the discount, all steps that are seen count alike.
    trace_discount : float
        Discount of the credit as it is carried along.
    leader_discount : float
        Discount of the leader's rewards.
    direct, indirect : float
        Factors of the two parts of the gradient: with the follower's policy held fixed, and through
        it.
    late : bool
        Whether a step's credit counts from the step after it on.
    centred : bool
        Whether a step counts, through the follower, by how much its reward's derivative is above
        the policy's mean in its state, and by nothing else: for parameters of rewards.
    baseline : bool or Baseline
        What is taken off what arriving is worth, where that changes no expectation: its mean, or
        nothing, or numbers that are given.
    own_action : bool
        Whether the action on arrival counts towards what arriving is worth.
    direct_tables, indirect_tables : mapping of str to float
        Factors of some tables' shares of the two parts, by their names in `Sensitivities`.
    """

    credit: FloatArray = field(repr=False)
    credit_discount: float
    trace_discount: float
    leader_discount: float
    direct: float = 1.0
    indirect: float = 1.0
    late: bool = False
    centred: bool = False
    baseline: bool | Baseline = True
    own_action: bool = False
    direct_tables: Mapping[str, float] = field(default_factory=dict)
    indirect_tables: Mapping[str, float] = field(default_factory=dict)

    def times(
        self,
        *,
        direct: float = 1.0,
        indirect: float = 1.0,
        direct_tables: Mapping[str, float] = NOTHING_ELSE,
        indirect_tables: Mapping[str, float] = NOTHING_ELSE,
    ) -> TraceRule:
        """Multiply factors of the parts, and of tables within them, by others."""

        def both(own: Mapping[str, float], other: Mapping[str, float]) -> Mapping[str, float]:
            return {
                name: own.get(name, 1.0) * other.get(name, 1.0)
                for name in own.keys() | other.keys()
            }

        return replace(
            self,
            direct=self.direct * direct,
            indirect=self.indirect * indirect,
            direct_tables=both(self.direct_tables, direct_tables),
            indirect_tables=both(self.indirect_tables, indirect_tables),
        )

    @property
    def plain(self) -> TraceRule:
        """The same without factors."""
        return replace(self, direct=1.0, indirect=1.0, direct_tables={}, indirect_tables={})

    def measures(self, experience: Experience) -> tuple[Sensitivities, Sensitivities]:
        """Add up sensitivities along trajectories, or compute the mean of that over their law.

        Parameters
        ----------
        experience : Experience
            What was seen, a sample or a law; response and critic.

        Returns
        -------
        direct, indirect : Sensitivities
            Of a sample, the direct ones per start, the indirect ones per complete trajectory, in
            one pass whatever the number of parameters; of a law, their means, step by step.
        """
        seen = experience.seen
        direct, indirect = (
            self._expected(experience, seen)
            if isinstance(seen, Law)
            else self._added_up(experience, seen)
        )
        return direct.times(self.direct_tables), indirect.times(self.indirect_tables)

    def _added_up(
        self, experience: Experience, sample: Trajectories
    ) -> tuple[Sensitivities, Sensitivities]:
        model, kernel, worth = sample.model, sample.model.transition, self.worth(experience)
        influence, occupancy = np.zeros((2, *self.credit.shape))
        direct_entries, indirect_entries = np.zeros((2, kernel.nnz))
        direct_initial, indirect_initial = np.zeros((2, model.n_states))
        passes = [(self.trace_discount, self.direct, self.indirect)]
        if self.late:  # less what each step's own credit does to it alone
            passes.append((0.0, 0.0, -self.indirect))
        for trace_discount, direct_factor, indirect_factor in passes:
            for block in row_blocks(*sample.states.shape):
                kernels.eligibility_traces(
                    sample.states[block],
                    sample.actions[block],
                    sample.next_states[block],
                    sample.lengths[block],
                    kernel.indptr,
                    kernel.indices,
                    kernel.data,
                    model.initial,
                    *worth,
                    experience.values.advantage,
                    model.follower_discount,
                    self.leader_discount,
                    trace_discount,
                    self.credit_discount,
                    sample.survival,
                    self.credit,
                    self.own_action,
                    direct_factor / sample.count,
                    indirect_factor / max(1, sample.complete),
                    influence,
                    occupancy,
                    direct_entries,
                    indirect_entries,
                    direct_initial,
                    indirect_initial,
                )
        direct = Sensitivities.of(
            model, leader_reward=occupancy, transition=direct_entries, initial=direct_initial
        )
        return direct, self._indirect(experience, influence, indirect_entries, indirect_initial)

    @quiet
    def _expected(self, experience: Experience, law: Law) -> tuple[Sensitivities, Sensitivities]:
        model, values, policy = law.model, experience.values, experience.response.policy
        kernel, row = model.transition, model.entry_row
        influence, occupancy, answered, credited = law.sums(
            self.credit,
            trace_discount=self.trace_discount,
            leader_discount=self.leader_discount,
            credit_discount=self.credit_discount,
            late=self.late,
        )
        # how often a transition is made, per unit of its probability in the model
        ratio = law.made_in.transition.data / np.where(kernel.data > 0.0, kernel.data, 1.0)
        started = law.made_in.initial / np.where(model.initial > 0.0, model.initial, 1.0)
        worth = self.worth(experience)
        follower, leader = worth.of_transitions(model)
        entries = occupancy.ravel()[row] * ratio * leader
        indirect_entries = influence.ravel()[row] * ratio * follower
        start = worth.leader_start
        indirect_start = np.zeros(model.n_states)
        if self.own_action:
            gain = (policy * values.action_value).sum(axis=1) - values.value
            entries += answered.ravel()[row] * ratio * gain[kernel.indices]
            start = start + gain
            if not self.late:
                gain = (policy * self.credit).sum(axis=1)
                indirect_start = started * gain * worth.follower_start
                if model.follower_discount > 0.0:
                    gain = gain / model.follower_discount
                    again = credited.ravel()[row] * ratio * gain[kernel.indices]
                    indirect_entries += again * follower
        direct = Sensitivities.of(
            model,
            leader_reward=self.direct * occupancy,
            transition=self.direct * entries,
            initial=self.direct * started * start,
        )
        return direct, self._indirect(
            experience,
            self.indirect * influence,
            self.indirect * indirect_entries,
            self.indirect * indirect_start,
        )

    def worth(self, experience: Experience) -> Worth:
        """Value what is arrived at, and what is started with."""
        response, values, off = experience.response, experience.values, self.baseline
        if not isinstance(off, Baseline):
            off = (mean_baseline if off else no_baseline)(experience)
        return Worth(
            experience.world.follower_discount * (response.value - off.follower_arrival),
            self.leader_discount * (values.value - off.leader_arrival),
            off.follower,
            off.leader,
            response.value - off.follower_start,
            values.value - off.leader_start,
        )

    def _indirect(
        self,
        experience: Experience,
        influence: FloatArray,
        entries: FloatArray,
        initial: FloatArray,
    ) -> Sensitivities:
        """Make sensitivities of an influence and what goes with it."""
        model, response = experience.world, experience.response
        if self.centred:
            mean = response.policy * influence.sum(axis=1, keepdims=True)
            return Sensitivities.of(model, follower_reward=influence - mean)
        return Sensitivities.of(
            model,
            follower_reward=influence,
            transition=entries,
            initial=initial,
            temperature=partial(temperature_slope, experience.planned, response, influence),
        )
