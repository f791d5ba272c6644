"""One test vector: an instance, its proven answer, and what float64 may be off by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

import numpy as np

from tabular_bilevel._base.arrays import FloatArray, quiet
from tabular_bilevel._base.display import displayed
from tabular_bilevel.certify.accuracy import Estimated
from tabular_bilevel.certify.enclosure import enclose
from tabular_bilevel.certify.result import CertificationError, Enclosure, Hypergradient, Interval
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.finite.linear import policy_system
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problems import zoo
from tabular_bilevel.vectors.flags import NOTES, table_flags
from tabular_bilevel.vectors.load_vectors import ANSWERS, NUMBERS
from tabular_bilevel.vectors.stored import MOVED, StoredProblem

#: Of the zoo, those that vectors are drawn from, in the order of their turns.
FAMILIES: Mapping[str, zoo.Family] = MappingProxyType(
    {
        name: zoo.FAMILIES[name]
        for name in (
            "closed-form", "garnet", "one-table", "tied", "corners", "masks", "termination",
            "undiscounted", "temperature", "four-rooms", "discrete-toy", "game-observed",
            "game-simultaneous",
        )
    }
)  # fmt: skip

# Rounding that each table entry is exposed to in float64, relative: a sum of a few products.
ROUNDING = 2.0**-50

# Of such tables: errors of one may cancel. For a bound of the noise, too few must not.
DRAWS, MANY_DRAWS = 2, 8

# Noise is an order of magnitude: `tb.hypergradient` was off by less than it on 1,100 vectors, and
# implementations may be off by this many times as much.
NOISE_FACTOR = 16.0

# Two estimates of the noise may differ by this.
NOISE_SLACK = 64.0

# Its next power of 2 is a number, and so are sums of a few.
LARGEST_NOISE = 2.0**1000

# Draws of an instance: one in 300 is nothing but noise in float64.
TRIES = 20


@displayed
@dataclass(frozen=True)
class VectorRecipe:
    """What a vector is made from; its numbers depend on nothing else.

    The family has its name in `FAMILIES`, the number counts from 0 there, and the seed is of the
    whole set.
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


@quiet
def made(recipe: VectorRecipe) -> dict[str, Any]:
    """Make the content of a vector's file, as of `Vector`: strings, a tuple of flags, arrays.

    Raises CertificationError if the answer cannot be proven, and ImportError without python-flint.
    """
    rng = np.random.default_rng([recipe.seed, *recipe.family.encode(), recipe.number])
    for _ in range(TRIES):
        instance = FAMILIES[recipe.family].draw(rng, recipe.number, recipe.max_states)
        proof = enclose(instance.problem, instance.theta)
        columns = list(proof.tangents)
        tables = {name: np.array([getattr(t, name) for t in columns]) for name in MOVED}
        stored = StoredProblem(proof.model, **tables)
        sizes = _noise(stored, _Answer.of(proof), _proven, DRAWS, rng)
        noise = dict(zip(ANSWERS[:2], sizes, strict=True))
        if is_telling(proof.gradient.centre, noise["gradient"]):
            break
    else:
        raise CertificationError(
            f"{TRIES} draws of {recipe.name} are nothing but noise in float64", best=proof
        )
    model = proof.model
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
    for name in (*NUMBERS, "follower_reward", "leader_reward", "initial", "termination"):
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


def is_telling(gradient: FloatArray, noise: float) -> bool:
    """Say whether a gradient of zeros would be found wrong, and not taken for noise."""
    size = float(np.max(np.abs(gradient), initial=0.0))
    return size == 0.0 or 2.0 * NOISE_FACTOR * noise < size


@quiet
def most_noise(
    stored: StoredProblem, result: Hypergradient, rng: np.random.Generator
) -> dict[str, float]:
    """Say how large the noise of J and of the gradient may be said to be, without a proof.

    The noise that `made` notes is estimated anew, from `tb.hypergradient` of the vector's tables
    and more draws, so that it is seldom far too small; `NOISE_SLACK` times that is allowed.
    Returned by "objective" and "gradient". Raises ConvergenceError if the follower cannot be
    solved, and ValueError if the answer, or a term of it, is beyond float64.
    """
    found = _noise(stored, _Answer.in_float64(result), _computed, MANY_DRAWS, rng)
    return {name: NOISE_SLACK * size for name, size in zip(ANSWERS[:2], found, strict=True)}


@dataclass(frozen=True, eq=False)
class _Answer:
    """An answer, proven or not, and what its terms are made of."""

    objective: float
    gradient: FloatArray
    value: FloatArray
    leader_value: FloatArray
    policy: FloatArray
    occupancy: FloatArray

    @classmethod
    def of(cls, proof: Enclosure) -> _Answer:
        """Take the middle of what is proven."""
        return cls(**{f.name: getattr(proof, f.name).centre for f in fields(cls)})

    @classmethod
    def in_float64(cls, result: Hypergradient) -> _Answer:
        """Take what was computed."""
        return cls(
            objective=result.objective,
            gradient=result.gradient,
            value=result.response.value,
            leader_value=result.evaluation.value,
            policy=result.response.policy,
            occupancy=result.evaluation.occupancy,
        )


def _proven(problem: StoredProblem) -> _Answer:
    return _Answer.of(enclose(problem, np.zeros(problem.n_parameters)))


def _computed(problem: StoredProblem) -> _Answer:
    theta = np.zeros(problem.n_parameters)
    return _Answer.in_float64(hypergradient(problem, theta, accuracy=Estimated()))


def _noise(
    stored: StoredProblem,
    right: _Answer,
    answer: Callable[[StoredProblem], _Answer],
    draws: int,
    rng: np.random.Generator,
) -> Iterator[float]:
    """Say what float64 may be off by in J, and in the gradient's largest entry.

    The answer at tables whose entries are off by rounding, at random: for rewards that is the
    rounding of the sums that they are a part of. At least the rounding of the largest terms that
    the answer is a sum of. A power of 2, so that no rounding of this number shows.
    """
    ahead = _term_tables(stored.tables, right)
    changes = {name: getattr(stored, name) for name in MOVED}
    others = [
        answer(StoredProblem(_rounded(stored.tables, ahead, rng), **changes)) for _ in range(draws)
    ]
    for name, least in zip(ANSWERS[:2], _term_sizes(stored, right, ahead[1]), strict=True):
        moved = [np.abs(getattr(other, name) - getattr(right, name)) for other in others]
        size = float(np.max([ROUNDING * least, *(np.max(gaps, initial=0.0) for gaps in moved)]))
        if not size < LARGEST_NOISE:  # or NaN
            raise ValueError(f"terms of the {name} are beyond float64")
        yield 2.0 ** math.ceil(math.log2(size)) if size > 0.0 else 0.0


def _term_tables(model: Model, right: _Answer) -> tuple[FloatArray, FloatArray]:
    """Add up the sizes of what is added up in both players' action values."""
    return (
        np.abs(model.follower_reward)
        + model.follower_discount * model.next_value(np.abs(right.value)),
        np.abs(model.leader_reward)
        + model.leader_discount * model.next_value(np.abs(right.leader_value)),
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


def _term_sizes(stored: StoredProblem, right: _Answer, ahead: FloatArray) -> tuple[float, float]:
    """Add up J's backups and the gradient without signs, action values in place of advantages."""
    model = stored.tables
    policy, pairs = right.policy, right.occupancy[:, None] * right.policy
    influence = _accumulated(model, policy, pairs * ahead / model.temperature)
    sizes = np.abs(right.value), np.abs(right.leader_value)
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
