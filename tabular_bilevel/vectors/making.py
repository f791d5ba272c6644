"""One test vector: an instance, its proven answer, and what float64 may be off by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tabular_bilevel._arrays import FloatArray
from tabular_bilevel.enclosure import Enclosure, Interval, enclose
from tabular_bilevel.linear import policy_system
from tabular_bilevel.model import Model
from tabular_bilevel.vectors.families import FAMILIES
from tabular_bilevel.vectors.flags import NOTES, table_flags
from tabular_bilevel.vectors.load_vectors import ANSWERS
from tabular_bilevel.vectors.stored import MOVED, StoredProblem

__all__ = ["Recipe", "made"]

# Rounding that each table entry is exposed to in float64, relative: a sum of a few products.
ROUNDING = 2.0**-50

# Of such tables: errors of one may cancel.
DRAWS = 2


@dataclass(frozen=True)
class Recipe:
    """What a vector is made from; its numbers depend on nothing else.

    Attributes
    ----------
    family : str
        A name in `FAMILIES`.
    number : int
        Which of the family, from 0.
    seed : int
        Of the whole set.
    max_states : int
        States at most.
    """

    family: str
    number: int
    seed: int
    max_states: int

    @property
    def name(self) -> str:
        """What the vector, and its file, is called."""
        return f"{self.family}-{self.number:05d}"

    @property
    def origin(self) -> str:
        """The recipe in words, which the file keeps."""
        return f"number {self.number}, seed {self.seed}, at most {self.max_states} states"


def made(recipe: Recipe) -> dict[str, Any]:
    """Make the content of a vector's file: strings, a tuple of flags, arrays.

    Parameters
    ----------
    recipe : Recipe
        What to make.

    Returns
    -------
    dict
        The fields of `Vector`.

    Raises
    ------
    CertificationError
        If the answer cannot be proven.
    ImportError
        Without python-flint.
    """
    rng = np.random.default_rng([recipe.seed, *recipe.family.encode(), recipe.number])
    instance = FAMILIES[recipe.family].draw(rng, recipe.number, recipe.max_states)
    proof = enclose(instance.problem, instance.theta)
    model = proof.model
    stored = StoredProblem(
        model,
        **{
            name: np.array([getattr(tangent, name) for tangent in proof.tangents]) for name in MOVED
        },
    )
    noise = dict(zip(ANSWERS, _noise(stored, instance.theta, proof, rng), strict=False))
    flags = set(table_flags(proof, noise["gradient"])) | set(instance.flags)
    content: dict[str, Any] = {
        "name": recipe.name,
        "family": recipe.family,
        "origin": recipe.origin,
        "flags": tuple(name for name in NOTES if name in flags),
        "theta": instance.theta,
        "available": model.available,
        "transition_data": model.transition.data,
        "transition_indices": model.transition.indices,
        "transition_indptr": model.transition.indptr,
        **{f"tangent_{name}": getattr(stored, name) for name in MOVED},
        **{f"{name}_bounds": _bounds(getattr(proof, name)) for name in ANSWERS},
        **{f"{name}_noise": number for name, number in noise.items()},
    }
    for name in (
        "follower_discount", "leader_discount", "temperature", "follower_reward", "leader_reward",
        "initial", "termination",
    ):  # fmt: skip
        content[name] = getattr(model, name)
    return {name: _canonical(value) for name, value in content.items()}


def _bounds(interval: Interval) -> FloatArray:
    return np.array([interval.lower, interval.upper])


def _canonical(value: Any) -> Any:
    """Make arrays of numbers: int64, bool, or float64 without -0.0, little-endian."""
    if isinstance(value, str | tuple):
        return value
    array = np.asarray(value)
    if array.dtype.kind == "f":
        return (array + 0.0).astype("<f8")
    return array if array.dtype.kind == "b" else array.astype("<i8")


def _noise(
    stored: StoredProblem, theta: FloatArray, proof: Enclosure, rng: np.random.Generator
) -> Iterator[float]:
    """Say what float64 may be off by in J, and in the gradient's largest entry.

    The answer at tables whose entries are off by rounding, at random: for rewards that is the
    rounding of the sums that they are a part of. At least the rounding of the largest terms that
    the answer is a sum of. A power of 2, so that no rounding of this number shows.
    """
    ahead = _term_tables(stored.tables, proof)
    changes = {name: getattr(stored, name) for name in MOVED}
    others = [
        enclose(StoredProblem(_rounded(stored.tables, ahead, rng), **changes), theta)
        for _ in range(DRAWS)
    ]
    for name, least in zip(ANSWERS[:2], _term_sizes(stored, proof, ahead[1]), strict=True):
        right = getattr(proof, name).centre
        moved = [np.abs(getattr(other, name).centre - right) for other in others]
        size = max(float(np.max(moved, initial=0.0)), ROUNDING * least)
        yield 2.0 ** math.ceil(math.log2(size)) if size > 0.0 else 0.0


def _term_tables(model: Model, proof: Enclosure) -> tuple[FloatArray, FloatArray]:
    """Add up the sizes of what is added up in both players' action values."""
    return (
        np.abs(model.follower_reward)
        + model.follower_discount * model.next_value(np.abs(proof.value.centre)),
        np.abs(model.leader_reward)
        + model.leader_discount * model.next_value(np.abs(proof.leader_value.centre)),
    )


def _rounded(model: Model, ahead: tuple[FloatArray, FloatArray], rng: np.random.Generator) -> Model:
    kernel = model.transition.data
    return model.replace(
        transition=model.like_transition(kernel * (1.0 + ROUNDING * rng.normal(size=kernel.shape))),
        follower_reward=model.follower_reward
        + ROUNDING * ahead[0] * rng.normal(size=ahead[0].shape),
        leader_reward=model.leader_reward + ROUNDING * ahead[1] * rng.normal(size=ahead[1].shape),
        temperature=model.temperature * (1.0 + ROUNDING * rng.normal()),
    )


def _term_sizes(stored: StoredProblem, proof: Enclosure, ahead: FloatArray) -> tuple[float, float]:
    """Add up J's backups and the gradient without signs, action values in place of advantages."""
    model = stored.tables
    policy, occupancy = proof.policy.centre, proof.occupancy.centre
    pairs = occupancy[:, None] * policy
    influence = _accumulated(model, policy, pairs * ahead / model.temperature)
    sizes = np.abs(proof.value.centre), np.abs(proof.leader_value.centre)
    row, target = model.entry_row, model.transition.indices
    entries = (
        model.leader_discount * pairs.ravel()[row] * sizes[1][target]
        + model.follower_discount * influence.ravel()[row] * sizes[0][target]
    )
    terms = (
        np.tensordot(np.abs(stored.follower_reward), influence, 2)
        + np.tensordot(np.abs(stored.leader_reward), pairs, 2)
        + np.abs(stored.transition) @ entries
        + np.abs(stored.initial) @ sizes[1]
        + np.abs(stored.temperature) * np.vdot(influence, _log_size(policy))
    )
    return float(np.vdot(pairs, ahead)), float(np.max(terms, initial=0.0))


def _log_size(policy: FloatArray) -> FloatArray:
    """Compute |log pi|, which counts where pi is not 0."""
    return np.abs(np.log(np.maximum(policy, np.finfo(np.float64).tiny)))


def _accumulated(model: Model, policy: FloatArray, source: FloatArray) -> FloatArray:
    """Compute mu = w + pi n of a source w of the influence (theory.md section 4)."""
    discount = model.follower_discount
    system = policy_system(model, policy, discount)
    arrivals = system.solve_transposed(discount * model.arrivals(source))
    return np.asarray(source + policy * arrivals[:, None])
