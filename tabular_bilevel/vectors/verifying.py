"""Verifying: whether files are what they should be, and implementations right on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tabular_bilevel._arrays import FloatArray
from tabular_bilevel._validation import as_positive, as_real, real_array
from tabular_bilevel.enclosure import Interval, enclose
from tabular_bilevel.errors import ConvergenceError
from tabular_bilevel.vectors.flags import NOTES
from tabular_bilevel.vectors.load_vectors import ANSWERS, SCHEMA_VERSION, Vector, load_vector
from tabular_bilevel.vectors.mistakes import wrong_gradients
from tabular_bilevel.vectors.stored import StoredProblem, reference_gradient
from tabular_bilevel.vectors.writing import FORMAT, MANIFEST

__all__ = [
    "ImplementationReport",
    "Outcome",
    "VectorCheck",
    "check_implementation",
    "check_vectors",
    "outcome",
]

# What a right float64 implementation keeps to, on top of its noise: iterations that stop at 1e-8
# pass, and any of the mistakes shows.
TOLERANCE = 1e-6

# Noise is an order of magnitude: `tb.hypergradient` was off by less than it on 1,100 vectors.
NOISE_FACTOR = 16.0

# Bounds are certified to 1e-12, those of the parts relative to what cancels between them; the rest
# is rounding outward.
WIDEST = 2e-12

# Share of the vectors where it shows that a mistake has to explain to be named.
EXPLAINED = 0.9


@dataclass(frozen=True)
class VectorCheck:
    """What was found out about one file.

    Attributes
    ----------
    file : str
        Which.
    trouble : str
        What is wrong with it; empty if nothing is.
    proven_again : bool
        Whether its answer was enclosed again.
    """

    file: str
    trouble: str = ""
    proven_again: bool = False


def check_vectors(folder: str | Path) -> Iterator[VectorCheck]:
    """Check a folder's files: checksums, tables, bounds.

    Each vector's tables have to be a model's, the bounds of its parts to add up to those of its
    gradient, and `tb.hypergradient` to be within them but for float64's noise. With python-flint
    installed, the first vector of each family is enclosed again, and the bounds have to overlap.

    Parameters
    ----------
    folder : str or Path
        What ``tabular-bilevel vectors`` wrote.

    Yields
    ------
    VectorCheck
        One a file.

    Raises
    ------
    ValueError
        If there is no manifest, it is of another format, or lists nothing, something twice, or
        what is not in the folder.
    """
    place = Path(folder)
    manifest = _manifest(place)
    seen: set[str] = set()
    for entry in manifest["vectors"]:
        again = entry["family"] not in seen
        seen.add(entry["family"])
        try:
            vector = load_vector(place / entry["file"], sha256=entry["sha256"])
            _require_known(entry, vector, manifest["notes"])
            proven = _check_one(vector, again)
        except (ValueError, OSError, ConvergenceError) as error:
            yield VectorCheck(entry["file"], str(error))
        else:
            yield VectorCheck(entry["file"], proven_again=proven)


def _manifest(place: Path) -> Any:
    path = place / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{place} has no {MANIFEST}: no vectors, or unfinished ones") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    words = {"format": FORMAT, "schema_version": SCHEMA_VERSION}
    for name, wanted in words.items():
        found = manifest.get(name) if isinstance(manifest, dict) else None
        if found != wanted:
            raise ValueError(f"{path}: {name} is {found!r}, not {wanted!r}")
    kinds = {"licence": str, "provenance": dict, "notes": dict, "vectors": list}
    for name, kind in kinds.items():
        if not isinstance(manifest.get(name), kind):
            raise ValueError(f"{path} has no {name}")
    seen: set[str] = set()
    for i, entry in enumerate(manifest["vectors"]):
        for name in ("file", "sha256", "family", "name"):
            if not isinstance(entry, dict) or not isinstance(entry.get(name), str):
                raise ValueError(f"{path}: vectors[{i}] has no {name}")
        if Path(entry["file"]).name != entry["file"]:
            raise ValueError(f"{path}: vectors[{i}] is {entry['file']!r}, not in the folder")
        if entry["file"] in seen:
            raise ValueError(f"{path}: vectors has {entry['file']!r} twice")
        seen.add(entry["file"])
    if not seen:
        raise ValueError(f"{path}: vectors is empty")
    return manifest


def _require_known(entry: dict[str, Any], vector: Vector, notes: dict[str, str]) -> None:
    n_states, n_actions = vector.available.shape
    holds = {
        "name": vector.name,
        "family": vector.family,
        "flags": list(vector.flags),
        "n_states": n_states,
        "n_actions": n_actions,
        "n_parameters": vector.theta.size,
    }
    for key, held in holds.items():
        if entry.get(key) != held:
            raise ValueError(f"its {key} is {held!r}, and the manifest says {entry.get(key)!r}")
    for flag in vector.flags:
        if flag not in notes:
            raise ValueError(f"flag {flag!r} has no note")


def _check_one(vector: Vector, again: bool) -> bool:
    problem = StoredProblem.of(vector)
    bounds = {name: Interval(*getattr(vector, f"{name}_bounds")) for name in ANSWERS}
    sizes = {name: _size(interval.centre) for name, interval in bounds.items()}
    sizes |= dict.fromkeys(ANSWERS[2:], max(sizes[name] for name in ANSWERS[2:]))
    for name, interval in bounds.items():
        if not np.all(interval.lower <= interval.upper):
            raise ValueError(f"{name}_bounds: the lower ones are not below the upper ones")
        if not _size(interval.radius) <= WIDEST * sizes[name] + 5e-324:
            raise ValueError(f"{name}_bounds are wider than {WIDEST} of it")
    for name in ANSWERS[:2]:
        noise = getattr(vector, f"{name}_noise")
        if not 0.0 <= noise < np.inf:
            raise ValueError(f"{name}_noise is {noise}, not a finite number of at least 0")
    direct, indirect = bounds["direct"], bounds["indirect"]
    reach = Interval(
        np.nextafter(direct.lower + indirect.lower, -np.inf),
        np.nextafter(direct.upper + indirect.upper, np.inf),
    )
    if not reach.overlaps(bounds["gradient"]):
        raise ValueError("the bounds of its parts do not add up to those of the gradient")
    found = outcome(vector, reference_gradient, TOLERANCE, name_mistakes=False)
    if not found.passed:
        raise ValueError(f"tb.hypergradient disagrees: {found.trouble}")
    return again and _proven_again(problem, vector, bounds)


def _proven_again(problem: StoredProblem, vector: Vector, bounds: dict[str, Interval]) -> bool:
    try:
        proof = enclose(problem, vector.theta)
    except ImportError:
        return False
    for name, interval in bounds.items():
        if not interval.overlaps(getattr(proof, name)):
            raise ValueError(f"{name}_bounds do not hold what tb.enclose proves")
    return True


@dataclass(frozen=True)
class Outcome:
    """What an implementation made of one vector.

    Attributes
    ----------
    vector : Vector
        Which.
    trouble : str
        What is wrong; empty if it is right.
    showing : tuple of str
        Mistakes that would show here; of wrong answers only those that were looked at.
    agreeing : tuple of str
        Those whose gradient it returned.
    """

    vector: Vector = field(repr=False)
    trouble: str
    showing: tuple[str, ...] = ()
    agreeing: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it is right."""
        return not self.trouble


def outcome(
    vector: Vector,
    implementation: Callable[[Vector], Any],
    tolerance: float = TOLERANCE,
    *,
    name_mistakes: bool = True,
) -> Outcome:
    """Compare an implementation with a vector, and with what mistakes come to.

    Parameters
    ----------
    vector : Vector
        What the loader made.
    implementation : callable
        Takes the vector, and returns the gradient, shape (d,), or J and the gradient.
    tolerance : float
        Of each entry, relative to the largest; 16 times the vector's noise comes on top.
    name_mistakes : bool
        Whether to compare with mistakes.

    Returns
    -------
    Outcome
        The comparison.
    """
    allowed = tolerance * _size(vector.gradient) + NOISE_FACTOR * vector.gradient_noise
    objective, gradient, trouble = None, None, ""
    try:
        objective, gradient = _answer(implementation(vector), vector.theta.size)
    except (Exception, SystemExit) as error:  # somebody's code may end with anything
        trouble = f"{type(error).__name__}: {error}".partition("\n")[0][:LONGEST]
    if gradient is not None:
        off = _distance(gradient, vector.gradient_bounds)
        if not off <= allowed:
            trouble = f"gradient off by {off:.3g}, {allowed:.2g} is allowed"
        elif objective is not None:
            given = np.array([objective])
            off = _distance(given, vector.objective_bounds[:, None])
            most = tolerance * abs(vector.objective) + NOISE_FACTOR * vector.objective_noise
            if not off <= most:
                trouble = f"objective off by {off:.3g}, {most:.2g} is allowed"
    if not name_mistakes:
        return Outcome(vector, trouble)
    showing, agreeing = [], []
    for mistake, wrong in wrong_gradients(vector):
        if _distance(wrong, vector.gradient_bounds) <= 2.0 * allowed:
            continue  # no mistake here
        showing.append(mistake.name)
        near = tolerance * _size(wrong) + NOISE_FACTOR * vector.gradient_noise
        if gradient is not None and _alike(gradient, wrong, near):
            agreeing.append(mistake.name)
    return Outcome(vector, trouble, tuple(showing), tuple(agreeing))


def _answer(returned: Any, n_parameters: int) -> tuple[float | None, FloatArray]:
    """Take apart what somebody's function returned."""
    objective = None
    if isinstance(returned, tuple) and len(returned) == 2 and np.ndim(returned[1]) > 0:
        objective, returned = as_real("the objective", returned[0]), returned[1]
    return objective, real_array("the gradient", returned, (n_parameters,))


def _size(numbers: FloatArray) -> float:
    return float(np.max(np.abs(numbers), initial=0.0))


def _distance(given: FloatArray, bounds: FloatArray) -> float:
    """Measure how far outside the bounds the worst entry is; NaN for what is no number."""
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.max(np.maximum(bounds[0] - given, given - bounds[1]), initial=0.0))


def _alike(given: FloatArray, wrong: FloatArray, allowed: float) -> bool:
    """Compare with a mistake's gradient; what overflows is alike, as infinity or NaN."""
    if not np.isfinite(wrong).all():
        return not np.isfinite(given).all()
    return _distance(given, np.array([wrong, wrong])) <= allowed


@dataclass(frozen=True)
class ImplementationReport:
    """How an implementation did on test vectors.

    Attributes
    ----------
    outcomes : tuple of Outcome
        One a vector.
    """

    outcomes: tuple[Outcome, ...] = field(repr=False)

    @property
    def wrong(self) -> tuple[Outcome, ...]:
        """What it got wrong."""
        return tuple(outcome for outcome in self.outcomes if not outcome.passed)

    @property
    def passed(self) -> bool:
        """Whether everything is right."""
        return not self.wrong

    @property
    def mistakes(self) -> dict[str, tuple[int, int]]:
        """Each mistake it agrees with somewhere: on how many vectors, of how many where it shows.

        The likeliest come first: those that explain most of what is wrong, and contradict nothing.
        """
        agreed, shows = _counts((o.agreeing, o.showing) for o in self.outcomes)
        explained = {name: n for name, n in agreed.items() if n}
        order = sorted(explained, key=lambda name: (-agreed[name] / shows[name], -agreed[name]))
        return {name: (agreed[name], shows[name]) for name in order}

    @property
    def named(self) -> tuple[str, ...]:
        """Mistakes that it seems to make: nine in ten of the vectors where they show agree."""
        return tuple(
            name for name, (agreed, shows) in self.mistakes.items() if agreed >= EXPLAINED * shows
        )

    @property
    def flags(self) -> dict[str, tuple[int, int]]:
        """Each flag: how many of its vectors are wrong, of how many; the worst first."""
        wrong, all_of_them = _counts(
            (() if o.passed else o.vector.flags, o.vector.flags) for o in self.outcomes
        )
        found = {flag: (wrong.get(flag, 0), n) for flag, n in all_of_them.items()}
        return dict(sorted(found.items(), key=lambda item: (-item[1][0] / item[1][1], -item[1][1])))

    @property
    def telling_flags(self) -> tuple[str, ...]:
        """Flags of which nine in ten vectors are wrong, and nine in ten of the others right."""
        n, n_wrong, found = len(self.outcomes), len(self.wrong), []
        for flag, (wrong, with_it) in self.flags.items():
            others_right = n - with_it - (n_wrong - wrong)
            if wrong >= max(1.0, EXPLAINED * with_it) and others_right >= EXPLAINED * (n - with_it):
                found.append(flag)
        return tuple(found)

    def __str__(self) -> str:
        n, wrong = len(self.outcomes), self.wrong
        lines = [
            f"Vectors: {'all right' if self.passed else 'WRONG'}, "
            f"{n - len(wrong)} of {n} answers right"
        ]
        if self.passed:
            return lines[0]
        lines += [f"  {o.vector.name}: {o.trouble}" for o in wrong[:SHOWN]]
        if len(wrong) > SHOWN:
            lines.append(f"  and {len(wrong) - SHOWN} more")
        lines.append("  wrong / all  flag of those that are wrong more often, which aims at")
        for flag, (bad, with_it) in self.flags.items():
            if bad * n > len(wrong) * with_it:
                lines.append(f"  {bad:5d} / {with_it:3d}  {flag}: {NOTES.get(flag, '')}")
        if self.telling_flags:
            lines.append(f"  wrong where there is: {', '.join(self.telling_flags)}")
        for name in self.named:
            agreed, shows = self.mistakes[name]
            others = f"; {len(wrong) - agreed} others are wrong" if agreed < len(wrong) else ""
            lines.append(
                f"  agrees with {name!r} on {agreed} of {shows} vectors where it shows{others}"
            )
        if not self.named:
            lines.append("  agrees with none of the mistakes considered")
        return "\n".join(lines)


# Wrong answers that are listed one by one, and characters of what somebody's code ended with.
SHOWN, LONGEST = 5, 200


def _counts(
    pairs: Iterable[tuple[Sequence[str], Sequence[str]]],
) -> tuple[dict[str, int], dict[str, int]]:
    counts: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for pair in pairs:
        for count, names in zip(counts, pair, strict=True):
            for name in names:
                count[name] = count.get(name, 0) + 1
    return counts


def check_implementation(
    vectors: Iterable[Vector],
    implementation: Callable[[Vector], Any],
    *,
    tolerance: float = TOLERANCE,
) -> ImplementationReport:
    """Check an implementation on vectors, and say what it seems to get wrong.

    Parameters
    ----------
    vectors : iterable of Vector
        What `load_vectors` returns.
    implementation : callable
        Takes a vector, and returns the gradient, shape (d,), or J and the gradient.
    tolerance : float
        Of each entry, relative to the largest; 16 times the vector's noise comes on top.

    Returns
    -------
    ImplementationReport
        What is right, what is wrong, and which mistakes explain it.

    Raises
    ------
    ValueError
        If the tolerance is not positive.
    """
    allowed = as_positive("tolerance", tolerance)
    return ImplementationReport(tuple(outcome(v, implementation, allowed) for v in vectors))
