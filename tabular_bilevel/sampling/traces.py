"""What a step is credited with, and how the credit travels (theory.md section 6).

Every estimator that goes along trajectories credits each step with something, follows the credit
down the trajectory, and adds up the four measures that the problem pulls back. They differ in their
`TraceRule`, which makes the same of a sample and of the law that samples are drawn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from tabular_bilevel._base import factors, kernels
from tabular_bilevel._base.arrays import (
    FloatArray,
    changed,
    grouped_sums,
    quiet,
    ratio,
    read_only,
    read_only_view,
    unchecked,
)
from tabular_bilevel._base.display import displayed
from tabular_bilevel.finite.adjoint import temperature_slope
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.sampling.baselines import Baseline, mean_baseline, no_baseline
from tabular_bilevel.sampling.experience import Experience
from tabular_bilevel.sampling.trajectories import Law, Trajectories


class Worth(NamedTuple):
    """What the score of an arrival is multiplied by, with the leader's weight or a step's credit.

    Attributes
    ----------
    leader : ndarray, shape (S,)
        Discounted worth of a state that is arrived at,
    leader_off : ndarray, shape (S, A)
        less what is taken off by the pair that is left.
    leader_start : ndarray, shape (S,)
        Worth of a start.
    follower, follower_off, follower_start : ndarray
        The same to the follower, which goes with the credit.
    """

    leader: FloatArray
    leader_off: FloatArray
    leader_start: FloatArray
    follower: FloatArray
    follower_off: FloatArray
    follower_start: FloatArray

    def of_transitions(self, model: Model) -> tuple[FloatArray, FloatArray]:
        """Value each stored transition, for the leader and for the follower, shape (nnz,)."""
        arrival, row = model.transition.indices, model.entry_row
        return (
            self.leader[arrival] - self.leader_off.ravel()[row],
            self.follower[arrival] - self.follower_off.ravel()[row],
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

    Raises
    ------
    ValueError
        On construction, if a baseline is of another problem's shape.
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

    def __post_init__(self) -> None:
        off, shape = self.baseline, self.credit.shape
        if isinstance(off, Baseline) and off.leader.shape != shape:
            raise ValueError(
                f"baseline is of a problem with tables of shape {off.leader.shape}, not {shape}"
            )

    times = factors.times
    plain = property(factors.plain)

    def measures(self, experience: Experience) -> tuple[Sensitivities, Sensitivities]:
        """Add up both parts' sensitivities along trajectories, or compute their mean over the law.

        Of a sample, the direct ones per start, the indirect ones per complete trajectory, in one
        pass whatever the number of parameters; of a law, step by step.
        """
        seen, model = experience.seen, experience.world
        sums = (
            self._of_law(experience, seen)
            if isinstance(seen, Law)
            else self._of_sample(experience, seen)
        )
        known = changed(experience, seen=None)  # without the sample, which is large
        arrivals = _Arrivals(self, model, known, sums)
        direct = unchecked(
            Sensitivities,
            model=model,
            follower_reward=model._nothing,
            leader_reward=read_only(sums.occupancy),
            later_transition=lambda: arrivals.weighed.gone,
            later_initial=lambda: arrivals.weighed.starts,
            _temperature=0.0,
        )
        indirect = self._indirect(experience, arrivals)
        return direct.times(self.direct_tables), indirect.times(self.indirect_tables)

    def _of_sample(self, experience: Experience, sample: Trajectories) -> _Sums:
        model = sample.model
        occupancy, influence = np.zeros(self.credit.shape), np.zeros(self.credit.shape)
        gone, carried = np.zeros(model.transition.data.size), np.zeros(model.transition.data.size)
        starts, credited_starts = np.zeros(model.n_states), np.zeros(model.n_states)
        shares = self.direct / sample.count, self.indirect / max(1, sample.complete)
        passes = [(self.trace_discount, *shares)]
        if self.late:  # less what each step's own credit does to it alone
            passes.append((0.0, 0.0, -shares[1]))
        leader_discount = self.leader_discount / sample.survival
        credit_discount = self.credit_discount / sample.survival
        credit = read_only_view(self.credit.ravel())
        for trace_discount, direct_share, indirect_share in passes:
            for pairs, entries, lengths in sample.blocks():
                kernels.eligibility_traces(
                    pairs,
                    entries,
                    lengths,
                    model.n_actions,
                    credit,
                    leader_discount,
                    trace_discount / sample.survival,
                    credit_discount,
                    direct_share,
                    indirect_share,
                    occupancy.ravel(),
                    gone,
                    starts,
                    influence.ravel(),
                    carried,
                )
        sums = _Sums(occupancy, gone, starts, influence, carried, credited_starts)
        if not self.own_action:
            return sums

        def answers(
            worth: FloatArray, discount: float, share: float
        ) -> tuple[FloatArray, FloatArray]:
            """Add up what the actions on arrival, and the first ones, are worth."""
            entries = np.zeros(model.transition.nnz)
            for block in sample.blocks():
                kernels.answers(*block, worth, discount, share, entries)
            first = sample.pairs[sample.ends - sample.lengths]
            begun = share * worth[first]
            return entries, grouped_sums(first // model.n_actions, begun, model.n_states)

        advantage = answers(experience.values.advantage.ravel(), leader_discount, shares[0])
        if not self.late:
            sums.credit(model.follower_discount, *answers(credit, credit_discount, shares[1]))
        return replace(sums, answers=advantage)

    @quiet
    def _of_law(self, experience: Experience, law: Law) -> _Sums:
        world, policy, onward = law.made_in, experience.response.policy, law.made_in.transition
        influence, occupancy, answered, credited = law.sums(
            self.credit,
            trace_discount=self.trace_discount,
            leader_discount=self.leader_discount,
            credit_discount=self.credit_discount,
            late=self.late,
        )

        def through(pairs: FloatArray) -> FloatArray:
            """Follow pairs through the entries of the kernel."""
            return np.asarray(pairs.ravel()[world.entry_row] * onward.data)

        direct, indirect = self.direct * occupancy, self.indirect * influence
        starts, none = self.direct * world.initial, np.zeros(world.n_states)
        sums = _Sums(direct, through(direct), starts.copy(), indirect, through(indirect), none)
        if not self.own_action:
            return sums
        gain = np.vecdot(policy, experience.values.advantage)
        if not self.late:
            credit = self.indirect * np.vecdot(policy, self.credit)
            entries = through(credited) * credit[onward.indices]
            sums.credit(law.model.follower_discount, entries, world.initial * credit)
        entries = through(self.direct * answered) * gain[onward.indices]
        return replace(sums, answers=(entries, starts * gain))

    def worth(self, experience: Experience) -> Worth:
        """Value what is arrived at, and what is started with."""
        response, values, off = experience.response, experience.values, self.baseline
        if not isinstance(off, Baseline):
            off = (mean_baseline if off else no_baseline)(experience)
        return Worth(
            self.leader_discount * (values.value - off.leader_arrival),
            off.leader,
            values.value - off.leader_start,
            experience.world.follower_discount * (response.value - off.follower_arrival),
            off.follower,
            response.value - off.follower_start,
        )

    def _indirect(self, experience: Experience, arrivals: _Arrivals) -> Sensitivities:
        """Make sensitivities of an influence and what goes with it."""
        model, response = experience.world, experience.response
        influence = arrivals.sums.influence
        if self.centred:
            mean = response.policy * influence.sum(axis=1, keepdims=True)
            return Sensitivities.of(model, follower_reward=influence - mean)
        return unchecked(
            Sensitivities,
            model=model,
            follower_reward=read_only(influence),
            leader_reward=model._nothing,
            later_transition=lambda: arrivals.weighed.carried,
            later_initial=lambda: arrivals.weighed.credited_starts,
            _temperature=partial(temperature_slope, experience.planned, response, influence),
        )


@dataclass(eq=False)
class _Sums:
    """What pairs, entries of the kernel and starts are seen with, for both parts of the gradient.

    The direct part has the leader's weights, the other one the credit that is carried along.
    """

    occupancy: FloatArray
    gone: FloatArray
    starts: FloatArray
    influence: FloatArray
    carried: FloatArray
    credited_starts: FloatArray
    answers: tuple[FloatArray, FloatArray] | None = None  # actions' to entries, and to starts

    def credit(self, discount: float, entries: FloatArray, starts: FloatArray) -> None:
        """Add the credit of actions on arrival, which later steps share at this discount."""
        self.credited_starts[:] += starts
        if discount > 0.0:
            self.carried[:] += entries / discount


@dataclass(eq=False)
class _Arrivals:
    """Sums along trajectories, and the same with arrivals weighed by their worth, if asked for."""

    rule: TraceRule
    world: Model
    known: Experience
    sums: _Sums

    @cached_property
    @quiet
    def weighed(self) -> _Sums:
        sums, model = self.sums, self.world
        law = unchecked(Law, model=model, policy=self.known.response.policy, horizon=0)
        worth = self.rule.worth(changed(self.known, seen=law))
        kernel = model.transition
        kernels.weigh_arrivals(
            kernel.indptr,
            kernel.indices,
            kernel.data,
            model.initial,
            worth.leader,
            read_only_view(worth.leader_off.ravel()),
            worth.leader_start,
            worth.follower,
            read_only_view(worth.follower_off.ravel()),
            worth.follower_start,
            sums.gone,
            sums.starts,
            sums.carried,
            sums.credited_starts,
        )
        if sums.answers is not None:
            sums.gone[:] += ratio(sums.answers[0], kernel.data)
            sums.starts[:] += ratio(sums.answers[1], model.initial)
        return sums
