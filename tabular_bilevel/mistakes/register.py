"""The register of mistakes: whatever an implementation or an estimator can get wrong, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.estimators.boltzmann_covariance import BoltzmannCovariance
from tabular_bilevel.estimators.estimate import Estimate
from tabular_bilevel.finite.linear import LinearSystem
from tabular_bilevel.mistakes import knowledge as known
from tabular_bilevel.mistakes import road as on
from tabular_bilevel.mistakes.road import Road
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.sampling.experience import Experience
from tabular_bilevel.sampling.traces import TraceRule

__all__ = ["FAULTS", "MISTAKES", "Mistake", "cut_after"]

# What is right but for the mistake; with an experience of its own, which knows all that is right.
RIGHT = BoltzmannCovariance()


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
        Of test vectors that it shows on; any of them.
    road : callable, optional
        Changes the exact computation; returns None where it is not defined.
    knowledge : callable, optional
        Changes what an estimator knows: follower, critic, and what is seen. Likewise.
    rule : callable, optional
        Changes what the estimator makes of that.
    """

    name: str
    instead: str = ""
    kind: str = ""
    flags: tuple[str, ...] = ()
    road: Callable[[Road], Road | None] | None = field(default=None, repr=False)
    knowledge: Callable[[Experience], Experience | None] | None = field(default=None, repr=False)
    rule: Callable[[TraceRule, Experience], TraceRule] | None = field(default=None, repr=False)

    def gradient(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray | None:
        """Compute what the exact computation comes to with it, shape (d,).

        None where the mistake is not defined, or is none of exact computations.
        """
        changed = None if self.road is None else self.road(Road.at(problem, theta))
        return None if changed is None else changed.gradient()

    def known(self, right: Experience) -> Experience | None:
        """Change what an estimator knows; None where the mistake is not defined."""
        return right if self.knowledge is None else self.knowledge(right)

    def estimate(self, experience: Experience) -> Estimate:
        """Estimate wrongly from what is known, a sample or a law."""
        rule = RIGHT.rule(experience)
        if self.rule is not None:
            rule = self.rule(rule, experience)
        return Estimate.traced(experience, *rule.measures(experience))

    def target(self, right: Experience) -> FloatArray | None:
        """Compute what an estimator with it converges to, shape (d,); None if not defined."""
        experience = self.known(right)
        return None if experience is None else self.estimate(experience).gradient


def cut_after(steps: int) -> Mistake:
    """Make the mistake of trajectories that are cut too early."""
    return Mistake(
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
    yield Mistake(
        "no discount**t in the covariance",
        "a gradient whose steps all count alike in the part through the follower, without "
        "leader_discount**t",
        rule=lambda r, e: replace(r, credit_discount=1.0),
    )
    yield Mistake(
        "no discount**t anywhere",
        "a gradient whose steps all count alike, without leader_discount**t",
        rule=lambda r, e: replace(r, credit_discount=1.0, leader_discount=1.0),
    )
    yield Mistake(
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
    yield Mistake(
        "follower's discount for the leader's",
        "a gradient that weighs step t by follower_discount**t, not leader_discount**t",
        flags=("unequal-discounts",),
        road=on.with_discounts(_FOLLOWER, _FOLLOWER),
        rule=lambda r, e: replace(
            r, credit_discount=r.trace_discount, leader_discount=r.trace_discount
        ),
    )
    yield Mistake(
        "leader's discount for the follower's",
        "a gradient whose influence decays at leader_discount, not follower_discount",
        flags=("unequal-discounts",),
        road=on.with_discounts(_LEADER, _LEADER),
        rule=lambda r, e: replace(r, trace_discount=r.leader_discount),
    )
    yield Mistake(
        "through-follower term dropped",
        "the direct part alone (the naive policy gradient)",
        flags=_THROUGH,
        road=lambda road: replace(road, indirect=0.0),
        rule=lambda r, e: replace(r, indirect=0.0),
    )
    yield Mistake(
        "direct term dropped",
        "the part through the follower alone",
        flags=("leader-reward-parameters", "kernel-parameters", "initial-parameters"),
        road=lambda road: replace(road, direct=0.0),
        rule=lambda r, e: replace(r, direct=0.0),
    )
    yield Mistake(
        "through-follower term sign-flipped",
        "the direct part minus the part through the follower",
        flags=_THROUGH,
        road=lambda road: replace(road, indirect=-1.0),
        rule=lambda r, e: replace(r, indirect=-1.0),
    )
    yield Mistake(
        "sign flipped",
        "minus the gradient",
        rule=lambda r, e: replace(r, direct=-1.0, indirect=-1.0),
    )
    yield Mistake(
        "no 1/temperature",
        "a gradient whose part through the follower lacks the factor 1/temperature",
        flags=("temperature-not-one",),
        road=lambda road: replace(road, indirect=road.model.temperature),
        rule=lambda r, e: replace(r, credit=r.credit * e.planned.temperature),
    )
    yield Mistake(
        "1/temperature squared",
        "a gradient whose part through the follower is divided by the temperature twice",
        flags=("temperature-not-one",),
        road=lambda road: replace(road, indirect=1.0 / road.model.temperature),
        rule=lambda r, e: replace(r, credit=r.credit / e.planned.temperature),
    )
    yield Mistake(
        "kernel's derivative dropped",
        flags=("kernel-parameters",),
        road=lambda road: road.without("transition"),
    )
    yield Mistake(
        "kernel's derivative dropped in the direct term",
        flags=("kernel-parameters",),
        road=lambda road: replace(road, no_direct=("transition",)),
    )
    yield Mistake(
        "kernel's derivative dropped in the through-follower term",
        flags=("kernel-parameters",),
        road=lambda road: replace(road, no_indirect=("transition",)),
    )
    yield Mistake(
        "temperature's derivative dropped",
        flags=("temperature-parameters",),
        road=lambda road: road.without("_temperature"),
    )
    yield Mistake(
        "initial distribution's derivative dropped",
        flags=("initial-parameters",),
        road=lambda road: road.without("initial"),
    )
    yield Mistake(
        "leader reward's derivative dropped",
        flags=("leader-reward-parameters",),
        road=lambda road: road.without("leader_reward"),
    )
    yield Mistake(
        "follower reward's derivative dropped",
        flags=("follower-reward-parameters",),
        road=lambda road: road.without("follower_reward"),
    )
    yield Mistake(
        "last step missing", "the gradient of one step less", knowledge=known.last_step_missing
    )
    yield from map(cut_after, (1, 2, 5, 10, 20, 50, 100))
    yield Mistake(
        "undiscounted influence",
        "a gradient whose influence does not decay by follower_discount",
        rule=lambda r, e: replace(r, trace_discount=1.0),
    )
    yield Mistake(
        "only the first decision counts",
        "a gradient whose part through the follower is that of the first decision, undiscounted "
        "(as in SoBiRL)",
        rule=lambda r, e: replace(r, credit_discount=0.0, trace_discount=0.0),
    )
    yield Mistake(
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
    yield Mistake(
        "influence one step late",
        "a gradient in which a decision's influence begins with the step after it",
        rule=lambda r, e: replace(r, late=True),
    )
    yield Mistake(
        "influence one step early",
        "a gradient whose influence begins a step before the decision, and so is discounted once "
        "too often",
        rule=lambda r, e: replace(r, indirect=e.world.follower_discount),
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
    yield Mistake(
        "normalised occupancy",
        "(1 - leader_discount) times the gradient",
        flags=("near-one-discount", "unequal-discounts"),
        road=lambda road: replace(
            road,
            direct=1.0 - road.model.leader_discount,
            indirect=1.0 - road.model.leader_discount,
        ),
        rule=lambda r, e: replace(
            r, direct=1.0 - r.leader_discount, indirect=1.0 - r.leader_discount
        ),
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
    for share in (0.25, -0.355):
        yield Mistake(
            f"simulator slips {'more' if share > 0 else 'less'} than the planner",
            f"what a simulator shows whose moves are mixed with random ones by {share:+g}",
            kind="simulator and planner differ",
            knowledge=known.slipping(share),
        )
    for sweeps in (1, 2, 5, 10, 20):
        yield Mistake(
            f"follower stopped after {sweeps} sweeps",
            f"the gradient at a follower that stopped after {sweeps} sweeps of value iteration",
            kind="stale follower",
            knowledge=known.stale(sweeps),
        )
    yield Mistake(
        "averaged follower",
        "the gradient at a follower that backs up the leader-averaged action value (as in the "
        "published code)",
        knowledge=known.averaged_follower,
    )


#: All, by name.
MISTAKES: Mapping[str, Mistake] = MappingProxyType({each.name: each for each in _mistakes()})

#: Those that an estimator can have.
FAULTS: Mapping[str, Mistake] = MappingProxyType(
    {name: each for name, each in MISTAKES.items() if each.knowledge or each.rule}
)
