"""Mistakes of strangers that are not in the register, each with what it comes to.

They were written after the diagnosis, to see whether it says that it does not know them.
``validation/checker.py --part names`` plants them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel.mistakes.knowledge import right_limit
from tabular_bilevel.mistakes.register import RIGHT
from tabular_bilevel.sampling.critics import LeaderValues
from tabular_bilevel.sampling.experience import Experience
from tabular_bilevel.sampling.traces import TraceRule

__all__ = ["BLIND", "UNKNOWN", "Setting"]


@dataclass(frozen=True, eq=False)
class Setting:
    """What a mistake is made with."""

    problem: tb.BilevelProblem
    theta: np.ndarray
    exact: tb.Hypergradient
    right: Experience

    @classmethod
    def at(cls, problem: tb.BilevelProblem, theta: np.ndarray) -> Setting:
        """Compute what a mistake may need there."""
        return cls(problem, theta, tb.hypergradient(problem, theta), right_limit(problem, theta))

    @property
    def gradient(self) -> np.ndarray:
        """The exact one, shape (d,)."""
        return self.exact.gradient

    def elsewhere(self, theta: np.ndarray) -> np.ndarray:
        """Compute the exact one at another theta."""
        return tb.hypergradient(self.problem, theta).gradient

    def ruled(self, change: Callable[[TraceRule, Experience], TraceRule]) -> np.ndarray:
        """Make another rule of what is known."""
        rule = change(RIGHT.rule(self.right), self.right)
        return tb.Estimate.traced(self.right, *rule.measures(self.right)).gradient

    def planned(self, **tables: object) -> np.ndarray:
        """Let the follower plan with other tables, and all else be right."""
        other = tb.solve_follower(self.exact.model.replace(**tables))
        law = replace(self.right.law, policy=other.policy)
        known = replace(self.right, response=other, seen=law)
        return RIGHT.estimate(known).gradient


Mean = Callable[[Setting], np.ndarray]


def credited(change: Callable[[np.ndarray, Experience], np.ndarray]) -> Mean:
    return lambda at: at.ruled(lambda r, e: replace(r, credit=change(r.credit, e)))


def valued(change: Callable[[Experience], LeaderValues]) -> Mean:
    return lambda at: RIGHT.estimate(replace(at.right, values=change(at.right))).gradient


def rolled(at: Setting) -> np.ndarray:
    return np.roll(at.gradient, 1)


def one_sign(at: Setting) -> np.ndarray:
    wrong = at.gradient.copy()
    wrong[np.argmax(np.abs(wrong))] *= -1.0
    return wrong


def one_missing(at: Setting) -> np.ndarray:
    wrong = at.gradient.copy()
    wrong[np.argmax(np.abs(wrong))] = 0.0
    return wrong


def clipped(at: Setting) -> np.ndarray:
    size = 0.6 * np.abs(at.gradient).max()
    return np.clip(at.gradient, -size, size)


def noisy_follower(at: Setting) -> np.ndarray:
    """Follow a policy that is random in one step of ten, all else as if it were not."""
    available = at.exact.model.available
    anything = available / available.sum(axis=1, keepdims=True)
    law = at.right.law
    mixed = replace(law, policy=0.7 * law.policy + 0.3 * anything)
    return RIGHT.estimate(replace(at.right, seen=mixed)).gradient


def noisy_start(at: Setting) -> np.ndarray:
    """Start anywhere."""
    law = at.right.law
    even = np.full(law.model.n_states, 1.0 / law.model.n_states)
    return RIGHT.estimate(
        replace(at.right, seen=replace(law, source=law.model.replace(initial=even)))
    ).gradient


def _unknown() -> Iterator[tuple[str, Mean]]:
    yield "coordinates rolled by one", rolled
    yield "the largest coordinate's sign", one_sign
    yield "the largest coordinate missing", one_missing
    yield "clipped to 0.6 of the largest", clipped
    yield "plus a constant", lambda at: at.gradient + 0.7 * np.abs(at.gradient).max()
    yield "signs only", lambda at: np.sign(at.gradient) * np.abs(at.gradient).mean()
    yield "squared", lambda at: at.gradient * np.abs(at.gradient) / np.abs(at.gradient).max()
    yield "weight decay", lambda at: at.gradient - 0.5 * at.theta * np.abs(at.gradient).max()
    yield "stale theta", lambda at: at.elsewhere(at.theta - 1.0)
    yield "theta of another run", lambda at: at.elsewhere(-2.0 * at.theta + 0.5)
    yield "1.37 times", lambda at: 1.37 * at.gradient
    yield "0.0072 times", lambda at: 0.0072 * at.gradient
    yield "direct term 1.4 times", lambda at: at.gradient + 0.4 * at.exact.direct
    yield "through-follower term 2.14 times", lambda at: at.gradient + 1.14 * at.exact.indirect
    yield "parts weighted 0.7 and 0.3", lambda at: 0.7 * at.exact.direct + 0.3 * at.exact.indirect
    yield "advantage's size", credited(lambda credit, e: np.abs(credit))
    yield "advantage squared", credited(lambda credit, e: credit * np.abs(credit))
    yield "advantage's positive side", credited(lambda credit, e: np.maximum(credit, 0.0))
    yield "advantage's sign", credited(lambda credit, e: np.sign(credit) * np.abs(credit).mean())
    yield (
        "credit by the square root of discount**t",
        lambda at: at.ruled(lambda r, e: replace(r, credit_discount=r.credit_discount**0.5)),
    )
    yield (
        "influence decays at half the discount",
        lambda at: at.ruled(lambda r, e: replace(r, trace_discount=0.5 * r.trace_discount)),
    )
    yield (
        "follower plans at a higher temperature",
        lambda at: at.planned(temperature=1.5 * at.exact.model.temperature),
    )
    yield (
        "follower plans at a smaller discount",
        lambda at: at.planned(follower_discount=0.6 * at.exact.model.follower_discount),
    )
    yield (
        "follower plans for the leader",
        lambda at: at.planned(follower_reward=at.exact.model.leader_reward),
    )
    yield (
        "follower counts half the reward",
        lambda at: at.planned(follower_reward=0.5 * at.exact.model.follower_reward),
    )
    yield "follower plays at random in three steps of ten", noisy_follower
    yield "starts anywhere", noisy_start
    yield (
        "leader's values shrunk towards their mean",
        valued(
            lambda e: LeaderValues(
                0.6 * e.values.action_value + 0.4 * e.values.value.mean(),
                0.6 * e.values.value + 0.4 * e.values.value.mean(),
            )
        ),
    )
    yield (
        "states' values of their neighbours in memory",
        valued(lambda e: LeaderValues(e.values.action_value, np.roll(e.values.value, 1))),
    )


def loops_forgotten(at: Setting) -> np.ndarray:
    """Leave the derivatives of a state's transitions to itself out."""
    direct, indirect = RIGHT.rule(at.right).measures(at.right)
    kernel, world = at.right.world.transition, at.right.world
    moves = kernel.indices != world.entry_row // world.leader_reward.shape[1]
    parts = (replace(part, transition=part.transition * moves) for part in (direct, indirect))
    return tb.Estimate.traced(at.right, *parts).gradient


def likeliest_only(at: Setting) -> np.ndarray:
    """Let only steps count, through the follower, in which it takes its likeliest action."""
    direct, indirect = RIGHT.rule(at.right).measures(at.right)
    policy = at.right.response.policy
    kept = indirect.follower_reward * (policy == policy.max(axis=1, keepdims=True))
    changed = replace(indirect, follower_reward=kept)
    return tb.Estimate.traced(at.right, direct, changed).gradient


def paid(change: Callable[[np.ndarray], np.ndarray]) -> Mean:
    """Let the critic learn from other rewards of the leader."""

    def values(known: Experience) -> LeaderValues:
        other = known.world.replace(leader_reward=change(known.world.leader_reward))
        found = tb.evaluate_leader(other, known.response)
        return LeaderValues(found.action_value, found.value)

    return valued(values)


def flattened(at: Setting) -> np.ndarray:
    """Draw actions by the square root of their probability."""
    roots = np.sqrt(at.right.law.policy)
    law = replace(at.right.law, policy=roots / roots.sum(axis=1, keepdims=True))
    return RIGHT.estimate(replace(at.right, seen=law)).gradient


def first_half(at: Setting) -> np.ndarray:
    wrong = at.gradient.copy()
    wrong[(wrong.size + 1) // 2 :] = 0.0
    return wrong


def _blind() -> Iterator[tuple[str, Mean]]:
    """List those that were written after the diagnosis was final, and run once."""
    yield "transitions to the same state forgotten", loops_forgotten
    yield "steps of the likeliest action only", likeliest_only
    yield "critic of squared rewards", paid(np.square)
    yield "critic of rewards' signs", paid(lambda reward: np.sign(reward - reward.mean()))
    yield "actions drawn too evenly", flattened
    yield "the first half of the coordinates alone", first_half
    yield (
        "mean with the gradient at another theta",
        lambda at: 0.5 * (at.gradient + at.elsewhere(at.theta + 0.7)),
    )
    yield (
        "influence decays at the square of the discount",
        lambda at: at.ruled(lambda r, e: replace(r, trace_discount=r.trace_discount**2)),
    )
    yield (
        "advantage divided by its largest in each state",
        credited(lambda credit, e: credit / (np.abs(credit).max(axis=1, keepdims=True) + 1e-300)),
    )
    yield (
        "one baseline for all states",
        credited(
            lambda credit, e: (
                (e.values.action_value - e.world.initial @ e.values.value) / e.planned.temperature
            )
        ),
    )


#: Names of the second list.
BLIND = frozenset(name for name, _ in _blind())

#: What each comes to, by name.
UNKNOWN: Mapping[str, Mean] = {**dict(_unknown()), **dict(_blind())}
