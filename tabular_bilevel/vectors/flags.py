"""Flags: features of a vector that some mistake gets wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np

from tabular_bilevel._base.arrays import quiet
from tabular_bilevel.certify.result import Enclosure
from tabular_bilevel.vectors.stored import MOVED

#: What mistake each flag aims at.
NOTES: Mapping[str, str] = MappingProxyType(
    {
        "closed-form": "anything: a formula has the answer, which can be worked out by hand",
        "unequal-discounts": "one player's discount in the place of the other's",
        "zero-discount": "division by a discount",
        "undiscounted-leader": "division by 1 - discount, and sums that are cut early",
        "near-one-discount": "iterations that stop early: values still change after thousands",
        "temperature-not-one": "the factor 1/temperature of the part through the follower missing, "
        "or there twice",
        "small-temperature": "exponentials that overflow: exp(Q / temperature) without subtracting "
        "the largest first",
        "tied-actions": "a hard maximum in the place of the soft one",
        "kernel-parameters": "the kernel's derivative forgotten, in one of the parts or in both",
        "temperature-parameters": "the temperature's derivative forgotten, in the follower's "
        "values or in its policy",
        "initial-parameters": "the initial distribution's derivative forgotten",
        "follower-reward-parameters": "the policy taken as fixed: no part through the follower",
        "leader-reward-parameters": "the leader's own reward taken as fixed",
        "both-rewards": "one reward's derivative in the place of the other's",
        "follower-reward-only": "the direct part alone, which is 0 here",
        "leader-reward-only": "a part through the follower where there is none",
        "leader-policy": "the leader's own policy in a game: it moves kernel, rewards or initial "
        "distribution all at once, for whoever uses this state's and for whoever comes later",
        "masked-actions": "averages and maxima over actions that are unavailable",
        "termination": "values after the end of an episode, rows that are normalised to 1",
        "absorbing": "a state that is never left: values of 1 / (1 - discount), no mixing",
        "unreachable-states": "division by visits that never come",
        "deterministic": "division by what never varies",
        "one-state": "shapes of length 1",
        "one-action": "a follower that has no choice: nothing goes through it",
        "one-parameter": "a gradient of length 1",
        "large-rewards": "absolute tolerances that are never met, and cancellation",
        "small-rewards": "absolute tolerances that are met at once",
        "beyond-float64": "float64 itself: its rounding changes three digits or more of the "
        "gradient",
    }
)

# exp() of more overflows in float64.
LARGEST_EXPONENT = 709.0

# From here on the first thousand sweeps of value iteration leave visible errors.
NEAR_ONE = 0.99

LARGE, SMALL = 1e4, 1e-4

# Share of the gradient that rounding may reach before float64 is no use.
USELESS = 1e-3


@quiet
def table_flags(proof: Enclosure, noise: float) -> tuple[str, ...]:
    """Find the flags in `NOTES`, in their order, that tables and answer show.

    The noise is what float64 may be off by in the gradient.
    """
    found = set(_scalar_flags(proof)) | set(_parameter_flags(proof)) | set(_kernel_flags(proof))
    size = np.max(np.abs(proof.gradient.centre), initial=0.0)
    if noise > USELESS * size > 0.0:
        found.add("beyond-float64")
    return tuple(name for name in NOTES if name in found)


def _scalar_flags(proof: Enclosure) -> Iterator[str]:
    model = proof.model
    discounts = model.follower_discount, model.leader_discount
    if discounts[0] != discounts[1]:
        yield "unequal-discounts"
    if min(discounts) == 0.0:
        yield "zero-discount"
    if model.leader_discount == 1.0:
        yield "undiscounted-leader"
    if max(discounts) >= NEAR_ONE:
        yield "near-one-discount"
    if model.temperature != 1.0:
        yield "temperature-not-one"
    if np.abs(proof.value.centre).max() > LARGEST_EXPONENT * model.temperature:
        yield "small-temperature"
    largest = [np.abs(table).max() for table in (model.follower_reward, model.leader_reward)]
    if max(largest) >= LARGE:
        yield "large-rewards"
    if 0.0 < min(largest) <= SMALL:
        yield "small-rewards"


def _parameter_flags(proof: Enclosure) -> Iterator[str]:
    moved = {name for name in MOVED if getattr(proof.tangents, name).count_nonzero()}
    yield from (
        flag
        for flag, name in (
            ("kernel-parameters", "transition"),
            ("temperature-parameters", "temperature"),
            ("initial-parameters", "initial"),
            ("follower-reward-parameters", "follower_reward"),
            ("leader-reward-parameters", "leader_reward"),
        )
        if name in moved
    )
    if {"follower_reward", "leader_reward"} <= moved:
        yield "both-rewards"
    if moved == {"follower_reward"}:
        yield "follower-reward-only"
    if moved == {"leader_reward"}:
        yield "leader-reward-only"
    if len(proof.tangents) == 1:
        yield "one-parameter"


def _kernel_flags(proof: Enclosure) -> Iterator[str]:
    model = proof.model
    available, kernel = (
        model.available,
        model.transition.toarray().reshape(*model.available.shape, -1),
    )
    if not available.all():
        yield "masked-actions"
    if model.termination[available].any():
        yield "termination"
    stays = kernel[np.arange(model.n_states), :, np.arange(model.n_states)] == 1.0
    if (stays | ~available).all(axis=1).any():
        yield "absorbing"
    if np.isin(kernel[available], (0.0, 1.0)).all():
        yield "deterministic"
    if model.n_states == 1:
        yield "one-state"
    if (available.sum(axis=1) == 1).all():
        yield "one-action"
    leads = (kernel > 0.0).any(axis=1)
    reached = model.initial > 0.0
    for _ in range(model.n_states):
        reached = reached | reached @ leads
    if not reached.all():
        yield "unreachable-states"
