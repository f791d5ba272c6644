"""The register of mistakes: whatever an implementation or an estimator can get wrong, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel._base.display import displayed
from tabular_bilevel.estimators.boltzmann_covariance import BoltzmannCovariance
from tabular_bilevel.estimators.estimate import Estimate
from tabular_bilevel.finite.linear import LinearSystem
from tabular_bilevel.finite.model import Model
from tabular_bilevel.mistakes import knowledge as known
from tabular_bilevel.mistakes import measured
from tabular_bilevel.mistakes import road as on
from tabular_bilevel.mistakes.measured import Measures
from tabular_bilevel.mistakes.road import Road
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.sampling.experience import Experience
from tabular_bilevel.sampling.traces import TraceRule

# Episodes that end less often than this never do, as far as one sees.
SELDOM = 1e-6

# What is right but for the mistake; with an experience of its own, which knows all that is right.
RIGHT = BoltzmannCovariance()


@displayed
@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong: in the exact computation, in an estimator, or in either.

    Attributes
    ----------
    name : str
        What it is, with its number if it has one.
    instead : str
        What an estimator that has it converges to: completes "your estimator converges to ...".
    kind : str
        What it is, without its number.
    flags : tuple of str
        Test vectors with any of these flags show it.
    road : callable, optional
        Changes the exact computation; returns None where it is not defined.
    knowledge : callable, optional
        Changes what an estimator knows: follower, critic, and what is seen. Likewise.
    rule : callable, optional
        Changes what the estimator makes of that.
    measures : callable, optional
        Adds up what the rule says, before factors.
    together : bool
        Whether it depends on all trajectories of an estimate together, so that no single one shows
        it.
    anywhere : bool
        Whether any kind of model has it, not those of tables alone.
    """

    name: str
    instead: str = ""
    kind: str = ""
    flags: tuple[str, ...] = ()
    road: Callable[[Road], Road | None] | None = field(default=None, repr=False)
    knowledge: Callable[[Experience], Experience | None] | None = field(default=None, repr=False)
    rule: Callable[[TraceRule, Experience], TraceRule] | None = field(default=None, repr=False)
    measures: Measures | None = field(default=None, repr=False)
    together: bool = False
    anywhere: bool = False

    def gradient(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray | None:
        """Compute what the exact computation comes to with it, shape (d,).

        None where the mistake is not defined, or is none of exact computations.
        """
        changed = None if self.road is None else self.road(Road.at(problem, theta))
        return None if changed is None else changed.gradient()

    def known(self, right: Experience) -> Experience | None:
        """Change what an estimator knows; None where the mistake is not defined."""
        if not (self.anywhere or isinstance(right.planned, Model)):
            return None
        return right if self.knowledge is None else self.knowledge(right)

    def credited(self, experience: Experience) -> TraceRule:
        """Change how steps are credited."""
        rule = RIGHT.rule(experience)
        return rule if self.rule is None else self.rule(rule, experience)

    def estimate(self, experience: Experience) -> Estimate:
        """Estimate wrongly from what is known, a sample or a law."""
        rule = self.credited(experience)
        if self.measures is None:
            return Estimate.traced(experience, *rule.measures(experience))
        return Estimate.traced(experience, *self.measures(rule, experience))

    def target(self, right: Experience) -> FloatArray | None:
        """Compute what an estimator with it converges to, shape (d,); None if not defined."""
        experience = self.known(right)
        return None if experience is None else self.estimate(experience).gradient


# One that any kind of model has.
_anywhere = partial(Mistake, anywhere=True)


def cut_after(steps: int) -> Mistake:
    """Make the mistake of trajectories that are cut too early."""
    return _anywhere(
        f"cut after {steps} steps",
        f"what trajectories of {steps} steps show",
        kind="trajectories cut",
        knowledge=lambda e: known.cut(e, steps) if steps < e.law.horizon else None,
    )


_FOLLOWER, _LEADER = "follower_discount", "leader_discount"

# Flags of vectors on which the part through the follower shows.
_THROUGH = ("follower-reward-parameters", "kernel-parameters")


def _transposed(system: LinearSystem) -> Callable[[FloatArray], FloatArray]:
    return system.solve


def _mistakes() -> Iterator[Mistake]:
    yield _anywhere(
        "no discount**t in the covariance",
        "a gradient whose steps all count alike in the part through the follower, without "
        "leader_discount**t",
        rule=lambda r, e: replace(r, credit_discount=1.0),
    )
    yield _anywhere(
        "no discount**t anywhere",
        "a gradient whose steps all count alike, without leader_discount**t",
        rule=lambda r, e: replace(r, credit_discount=1.0, leader_discount=1.0),
    )
    yield _anywhere(
        "discounts swapped",
        "a gradient with follower_discount and leader_discount swapped",
        flags=("unequal-discounts",),
        road=on.with_discounts(_LEADER, _FOLLOWER),
        rule=lambda r, e: replace(
            r,
            credit_discount=r.trace_discount,
            leader_discount=r.trace_discount,
            trace_discount=r.leader_discount,
        ),
    )
    yield _anywhere(
        "follower's discount for the leader's",
        "a gradient that weighs step t by follower_discount**t, not leader_discount**t",
        flags=("unequal-discounts",),
        road=on.with_discounts(_FOLLOWER, _FOLLOWER),
        rule=lambda r, e: replace(
            r, credit_discount=r.trace_discount, leader_discount=r.trace_discount
        ),
    )
    yield _anywhere(
        "leader's discount for the follower's",
        "a gradient whose influence decays at leader_discount, not follower_discount",
        flags=("unequal-discounts",),
        road=on.with_discounts(_LEADER, _LEADER),
        rule=lambda r, e: replace(r, trace_discount=r.leader_discount),
    )
    yield _anywhere(
        "through-follower term dropped",
        "the direct part alone (the naive policy gradient)",
        flags=_THROUGH,
        road=lambda road: replace(road, indirect=0.0),
        rule=lambda r, e: r.times(indirect=0.0),
    )
    yield _anywhere(
        "direct term dropped",
        "the part through the follower alone",
        flags=("leader-reward-parameters", "kernel-parameters", "initial-parameters"),
        road=lambda road: replace(road, direct=0.0),
        rule=lambda r, e: r.times(direct=0.0),
    )
    yield _anywhere(
        "through-follower term sign-flipped",
        "the direct part minus the part through the follower",
        flags=_THROUGH,
        road=lambda road: replace(road, indirect=-1.0),
        rule=lambda r, e: r.times(indirect=-1.0),
    )
    yield _anywhere(
        "sign flipped",
        "minus the gradient",
        rule=lambda r, e: r.times(direct=-1.0, indirect=-1.0),
    )
    yield _anywhere(
        "no 1/temperature",
        "a gradient whose part through the follower lacks the factor 1/temperature",
        flags=("temperature-not-one",),
        road=lambda road: replace(road, indirect=road.model.temperature),
        rule=lambda r, e: r.times(indirect=e.planned.temperature),
    )
    yield _anywhere(
        "1/temperature squared",
        "a gradient whose part through the follower is divided by the temperature twice",
        flags=("temperature-not-one",),
        road=lambda road: replace(road, indirect=1.0 / road.model.temperature),
        rule=lambda r, e: r.times(indirect=1.0 / e.planned.temperature),
    )
    yield _anywhere(
        "kernel's derivative dropped",
        "a gradient without the kernel's derivative",
        flags=("kernel-parameters",),
        road=lambda road: road.without("transition"),
        rule=lambda r, e: r.times(
            direct_tables={"transition": 0.0}, indirect_tables={"transition": 0.0}
        ),
    )
    yield _anywhere(
        "kernel's derivative dropped in the direct term",
        "a gradient without the kernel's derivative in the direct part",
        flags=("kernel-parameters",),
        road=lambda road: replace(road, no_direct=("transition",)),
        rule=lambda r, e: r.times(direct_tables={"transition": 0.0}),
    )
    yield _anywhere(
        "kernel's derivative dropped in the through-follower term",
        "a gradient without the kernel's derivative in the part through the follower",
        flags=("kernel-parameters",),
        road=lambda road: replace(road, no_indirect=("transition",)),
        rule=lambda r, e: r.times(indirect_tables={"transition": 0.0}),
    )
    yield _anywhere(
        "temperature's derivative dropped",
        "a gradient without the temperature's derivative",
        flags=("temperature-parameters",),
        road=lambda road: road.without("temperature"),
        rule=lambda r, e: r.times(indirect_tables={"temperature": 0.0}),
    )
    yield _anywhere(
        "initial distribution's derivative dropped",
        "a gradient without the initial distribution's derivative",
        flags=("initial-parameters",),
        road=lambda road: road.without("initial"),
        rule=lambda r, e: r.times(direct_tables={"initial": 0.0}, indirect_tables={"initial": 0.0}),
    )
    yield _anywhere(
        "leader reward's derivative dropped",
        "a gradient without the derivative of the leader's reward",
        flags=("leader-reward-parameters",),
        road=lambda road: road.without("leader_reward"),
        rule=lambda r, e: r.times(direct_tables={"leader_reward": 0.0}),
    )
    yield _anywhere(
        "follower reward's derivative dropped",
        "a gradient without the derivative of the follower's reward",
        flags=("follower-reward-parameters",),
        road=lambda road: road.without("follower_reward"),
        rule=lambda r, e: r.times(indirect_tables={"follower_reward": 0.0}),
    )
    yield _anywhere(
        "last step missing",
        "the gradient of one step less",
        knowledge=known.last_step_missing,
    )
    yield from map(cut_after, (1, 2, 5, 10, 20, 50, 100))
    yield _anywhere(
        "undiscounted influence",
        "a gradient whose influence does not decay by follower_discount",
        rule=lambda r, e: replace(r, trace_discount=1.0),
    )
    yield _anywhere(
        "only the first decision counts",
        "a gradient whose part through the follower is that of the first decision, undiscounted "
        "(as in SoBiRL)",
        rule=lambda r, e: replace(r, credit_discount=0.0, trace_discount=0.0),
    )
    yield _anywhere(
        "no eligibility",
        "a gradient in which a step influences its own decision only, not the ones before it",
        flags=_THROUGH,
        road=lambda road: replace(road, arrivals=lambda system: np.zeros_like),
        rule=lambda r, e: replace(r, trace_discount=0.0),
    )
    yield Mistake(
        "kernel transposed in the influence",
        flags=_THROUGH,
        road=lambda road: replace(road, arrivals=_transposed),
    )
    yield _anywhere(
        "influence one step late",
        "a gradient in which a decision's influence begins with the step after it",
        rule=lambda r, e: replace(r, late=True),
    )
    yield _anywhere(
        "influence one step early",
        "a gradient whose influence begins a step before the decision, and so is discounted once "
        "too often",
        rule=lambda r, e: r.times(indirect=e.world.follower_discount),
    )
    yield Mistake(
        "advantage of another policy",
        "a gradient with the advantage of a uniformly random follower",
        knowledge=known.uniform_critic,
    )
    yield Mistake(
        "action value for advantage",
        "a gradient with the leader's action value where its advantage should be",
        flags=_THROUGH,
        road=lambda road: replace(road, source=on.action_value_source),
        rule=lambda r, e: replace(r, credit=e.values.action_value / e.planned.temperature),
    )
    yield _anywhere(
        "normalised occupancy",
        "(1 - leader_discount) times the gradient",
        flags=("near-one-discount", "unequal-discounts"),
        road=lambda road: replace(
            road,
            direct=1.0 - road.model.leader_discount,
            indirect=1.0 - road.model.leader_discount,
        ),
        rule=lambda r, e: _scaled(r, 1.0 - r.leader_discount),
    )
    yield Mistake(
        "entropy bonus in the leader's objective", flags=_THROUGH, road=on.entropy_counted
    )
    yield Mistake("hard maximum for the soft one", flags=("tied-actions",), road=on.greedy)
    yield Mistake(
        "follower stopped after 100 sweeps",
        flags=("near-one-discount",),
        road=on.stopped_at(100),
    )
    yield Mistake("exponentials that overflow", flags=("small-temperature",), road=on.unshifted)
    yield Mistake(
        "unavailable actions taken", flags=("masked-actions",), road=on.everything_available
    )
    yield Mistake("rows normalised to 1", flags=("termination",), road=on.endless)
    yield Mistake(
        "next episode counted as this one",
        "a gradient whose episodes do not end: the termination mask is missing",
        flags=("termination",),
        road=on.restarted,
        knowledge=known.restarting,
    )
    yield from _of_scale()
    yield from _of_tables()
    yield from _of_critics()
    yield from _of_games()
    for share in (0.25, -0.355):
        yield Mistake(
            f"simulator slips {'more' if share > 0 else 'less'} than the planner",
            f"what a simulator shows whose moves are mixed with random ones by {share:+g}",
            kind="simulator and planner differ",
            knowledge=partial(known.slipping, share=share),
        )
    for sweeps in (1, 2, 5, 10, 20):
        yield Mistake(
            f"follower stopped after {sweeps} sweeps",
            f"the gradient at a follower that stopped after {sweeps} sweeps of value iteration",
            kind="stale follower",
            knowledge=partial(known.stale, sweeps=sweeps),
        )
    for rate in (0.1, 1.0):
        yield _anywhere(
            f"stale theta by a step of rate {rate:g}",
            f"the gradient where an ascent of rate {rate:g} was a step ago",
            kind="stale theta",
            knowledge=partial(known.stale_theta, rate=rate),
        )
    for whose, ago in (("a step of rate 1 ago", 1.0), ("theta = 0", None)):
        yield Mistake(
            f"replayed data of {whose}",
            f"a gradient whose steps, taken for those of now, are the ones of {whose}",
            kind="replay without importance weights",
            knowledge=partial(known.replayed, rate=ago),
        )
    yield _anywhere(
        "stale theta of 0",
        "the gradient at theta = 0",
        kind="stale theta",
        knowledge=partial(known.stale_theta, rate=None),
    )
    yield Mistake(
        "averaged follower",
        "the gradient at a follower that backs up the leader-averaged action value (as in the "
        "published code)",
        knowledge=known.averaged_follower,
    )


def _of_scale() -> Iterator[Mistake]:
    """Mistakes that multiply the gradient, or a part of it, by a number."""
    yield _anywhere("half", "half the gradient", rule=lambda r, e: _scaled(r, 0.5))
    yield _anywhere("twice", "twice the gradient", rule=lambda r, e: _scaled(r, 2.0))
    yield _anywhere(
        "sum for mean",
        "the sum over trajectories, not their mean",
        together=True,
        knowledge=lambda e: e if (e.law.count or 1) > 1 else None,
        rule=lambda r, e: _scaled(r, float(e.seen.count or 1)),
    )
    yield _anywhere(
        "mean per step",
        "the gradient, divided by the mean number of steps of a trajectory",
        together=True,
        rule=lambda r, e: _scaled(r, 1.0 / _length(e, 1.0)),
    )
    yield _anywhere(
        "divided by the sum of discount**t",
        "the gradient, divided by the sum of leader_discount**t over a trajectory's steps",
        together=True,
        rule=lambda r, e: _scaled(r, 1.0 / _length(e, e.world.leader_discount)),
    )
    yield Mistake(
        "divided by finished episodes",
        "the sum over trajectories, divided by the number of those that end by themselves",
        together=True,
        knowledge=lambda e: e if known.ended(e) > SELDOM else None,
        rule=lambda r, e: _scaled(r, 1.0 / (known.ended(e) or 1.0)),
    )
    yield _anywhere(
        "one discount too many",
        "the gradient times leader_discount",
        rule=lambda r, e: _scaled(r, r.leader_discount),
    )
    yield _anywhere(
        "one discount too many in the covariance",
        "a gradient whose part through the follower has one leader_discount too many",
        rule=lambda r, e: r.times(indirect=r.leader_discount),
    )
    yield _anywhere(
        "direct term sign-flipped",
        "the part through the follower minus the direct part",
        rule=lambda r, e: r.times(direct=-1.0),
    )
    yield _anywhere(
        "direct term twice",
        "a gradient with twice its direct part",
        rule=lambda r, e: r.times(direct=2.0),
    )
    yield _anywhere(
        "through-follower term twice",
        "a gradient with twice its part through the follower",
        rule=lambda r, e: r.times(indirect=2.0),
    )


def _scaled(rule: TraceRule, factor: float) -> TraceRule:
    return rule.times(direct=factor, indirect=factor)


def _length(experience: Experience, discount: float) -> float:
    """Add up discount^t over the steps of a trajectory, on average."""
    seen = experience.seen
    return float(seen.visits(discount)[1].sum()) / max(1, seen.complete)


def _of_tables() -> Iterator[Mistake]:
    """Mistakes in what a table's change is worth, and in how far its influence reaches."""
    yield _anywhere(
        "no follower_discount in the kernel's tail",
        "a gradient in which the follower's value of the next state is not discounted",
        knowledge=lambda e: e if e.world.follower_discount > 0.0 else None,
        rule=lambda r, e: r.times(
            indirect_tables={"transition": 1.0 / (e.world.follower_discount or 1.0)}
        ),
    )
    yield _anywhere(
        "no leader_discount in the kernel's direct term",
        "a gradient in which the leader's value of the next state is not discounted",
        knowledge=lambda e: e if e.world.leader_discount > 0.0 else None,
        rule=lambda r, e: r.times(
            direct_tables={"transition": 1.0 / (e.world.leader_discount or 1.0)}
        ),
    )
    yield _anywhere(
        "kernel's derivative sign-flipped",
        "a gradient with minus the kernel's derivative",
        rule=lambda r, e: r.times(
            direct_tables={"transition": -1.0}, indirect_tables={"transition": -1.0}
        ),
    )
    yield Mistake(
        "follower's value without its entropy",
        "a gradient whose follower counts rewards alone in the value of the next state",
        knowledge=known.value_without_entropy,
    )
    yield Mistake(
        "leader's value for the follower's in the kernel's tail",
        "a gradient in which the next state is worth to the follower what it is to the leader",
        knowledge=known.leader_value_for_followers,
    )
    yield _anywhere(
        "tails discounted by absolute time",
        "a gradient whose influence is discounted by follower_discount**t, t counted from the "
        "episode's start",
        rule=lambda r, e: replace(r, credit_discount=r.credit_discount * r.trace_discount),
    )
    yield Mistake(
        "rewards' derivative centred at each state",
        "a gradient in which a reward counts by how much its derivative is above the policy's mean",
        rule=lambda r, e: replace(r, centred=True),
    )
    yield Mistake(
        "reward features that ignore the action",
        "a gradient whose follower's reward has the same derivative for all actions of a state, "
        "their mean: the score of a decision by itself is 0",
        measures=measured.reward_without_action,
    )
    yield Mistake(
        "V(s) for V(s') in the kernel's tail",
        "a gradient in which a transition is worth to the follower what the state is that it "
        "leaves",
        measures=measured.value_of_the_state,
    )
    yield Mistake(
        "influence averaged, not summed",
        "a gradient in which what follows a decision is divided by the sum of follower_discount**k "
        "over the steps that are left (weighted_average in the published code)",
        knowledge=known.never_ending,
        measures=measured.averaged_tails,
    )
    yield Mistake(
        "influence clipped to 1",
        "a gradient whose mean influences at a visit are clipped to [-1, 1]",
        together=True,
        measures=measured.per_visit(measured.clipped),
    )
    yield Mistake(
        "influence standardised",
        "a gradient whose mean influences at a visit have their mean over all steps taken off, and "
        "are divided by their standard deviation",
        together=True,
        measures=measured.per_visit(measured.standardised),
    )


def _of_critics() -> Iterator[Mistake]:
    """Mistakes in what a decision is credited with."""
    yield Mistake(
        "follower's advantage for the leader's",
        "a gradient with the follower's advantage where the leader's should be",
        rule=lambda r, e: replace(r, credit=known.follower_advantage(e) / e.planned.temperature),
    )
    yield Mistake(
        "leader's reward-to-go one step late",
        "a gradient whose decisions are not credited with the reward that they earn at once",
        rule=lambda r, e: replace(r, credit=known.from_next_step(e) / e.planned.temperature),
    )
    yield Mistake(
        "leader's reward alone for its advantage",
        "a gradient whose decisions are credited with the reward that they earn at once, and no "
        "later one",
        rule=lambda r, e: replace(r, credit=known.at_once(e) / e.planned.temperature),
    )
    yield Mistake(
        "V(s) for V(s') in the critic",
        "a gradient whose action values have the leader's value of the state itself in the place "
        "of the next one's",
        rule=lambda r, e: replace(r, credit=known.value_stays(e) / e.planned.temperature),
    )
    yield Mistake(
        "one roll-out for both return and tail",
        "a gradient whose decisions are credited with the return of the very roll-out that they "
        "are followed down: it has the covariance of the two besides",
        measures=measured.one_roll_out,
    )
    yield Mistake(
        "modal actions in the critic",
        "a gradient with the advantage of a follower that always takes its likeliest action",
        knowledge=known.modal_critic,
    )
    yield _anywhere(
        "follower_discount in the critic",
        "a gradient with the leader's values discounted by follower_discount",
        knowledge=known.critic_of_followers_discount,
    )
    yield Mistake(
        "advantage clipped to 1",
        "a gradient whose advantages are clipped to [-1, 1]",
        rule=lambda r, e: replace(
            r, credit=np.clip(e.values.advantage, -1.0, 1.0) / e.planned.temperature
        ),
    )
    yield Mistake(
        "advantage standardised",
        "a gradient whose advantages have their mean over all steps taken off, and are divided by "
        "their standard deviation",
        together=True,
        rule=lambda r, e: replace(r, credit=known.standardised(e) / e.planned.temperature),
    )
    for steps in (5, 20, 100):
        yield Mistake(
            f"cut after {steps} steps taken for an end",
            f"what trajectories of {steps} steps show whose cut the critic takes for an end",
            kind="a cut taken for an episode's end",
            knowledge=partial(known.cut_taken_for_end, steps=steps),
        )


def _of_games() -> Iterator[Mistake]:
    """Mistakes with the leader's own policy."""
    yield Mistake(
        "centred by an average that depends on the action",
        "a gradient whose action values have their mean over the leader's actions taken off at the "
        "follower's action, which depends on the leader's",
        knowledge=known.centred_by_follower_action,
    )
    yield Mistake(
        "modal actions of both players in the critic",
        "a gradient with action values of a leader and a follower that always take their likeliest "
        "action from the next step on (without target_policy_smoothing in the published code)",
        knowledge=known.modal_critic_of_both,
    )
    yield Mistake(
        "gradient in the probabilities, not the logits",
        "the gradient in the leader's probabilities, not in their logits",
        knowledge=known.in_probabilities,
    )


#: All, by name.
MISTAKES: Mapping[str, Mistake] = MappingProxyType({each.name: each for each in _mistakes()})

#: Those that an estimator can have.
FAULTS: Mapping[str, Mistake] = MappingProxyType(
    {name: each for name, each in MISTAKES.items() if each.knowledge or each.rule or each.measures}
)
