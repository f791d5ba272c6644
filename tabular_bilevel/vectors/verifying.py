"""Verifying: whether files are what they should be, and implementations right on them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tabular_bilevel._base.arguments import (
    as_generator,
    as_positive,
    as_real,
    positive_integer,
    real_array,
)
from tabular_bilevel._base.arrays import FloatArray, quiet
from tabular_bilevel._base.errors import ConvergenceError
from tabular_bilevel._base.files import LIMIT, brief, read_json, shown
from tabular_bilevel.certify.enclosure import enclose
from tabular_bilevel.certify.result import CertificationError, Hypergradient, Interval
from tabular_bilevel.estimators.contract import require_something
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.mistakes.register import MISTAKES, Mistake
from tabular_bilevel.vectors.flags import NOTES, table_flags
from tabular_bilevel.vectors.load_vectors import ANSWERS, Vector, load_vector
from tabular_bilevel.vectors.making import NOISE_FACTOR, is_telling, most_noise
from tabular_bilevel.vectors.stored import MOVED, StoredProblem
from tabular_bilevel.vectors.writing import (
    ANSWERS_SCHEMA,
    MANIFEST,
    SCHEMA,
    UNFINISHED,
    entry_of,
    same_schema,
    shipped,
)

# The name that answers have in the README; in the vectors' folder they are no vector.
GIVEN_ANSWERS = "answers.json"

# What a right float64 implementation keeps to, on top of its noise: iterations that stop at 1e-8
# pass, and any of the mistakes shows.
TOLERANCE = 1e-6

# Bounds are certified to 1e-12, those of the parts relative to what cancels between them; the rest
# is rounding outward.
WIDEST = 2e-12

#: Vectors of each family that are proven again unless told otherwise.
SAMPLE = 10

#: Bytes of memory that checking a vector may take unless told otherwise: 1 GiB.
MEMORY = 2**30

# Of them, for each pair of states and each derivative, measured and rounded up; copies of tables.
PAIR, CHANGE, COPIES = 1024, 512, 4

# Flags that say how a vector was drawn, or depend on how its noise was.
NOT_IN_TABLES = {"closed-form", "tied-actions", "leader-policy", "beyond-float64"}

# Share of the vectors where it shows that a mistake has to explain to be named.
EXPLAINED = 0.9

# Multiples of the gradient that have a word.
MULTIPLES = {-1.0: "the gradient's negative", 0.5: "half the gradient", 2.0: "twice the gradient"}


@dataclass(frozen=True)
class VectorCheck:
    """What was found out about one file.

    Attributes
    ----------
    file : str
        Name of the file.
    trouble : str
        What is wrong with it; empty if nothing is.
    proven_again : bool
        Whether its answer was enclosed again.

    Examples
    --------
    >>> from tabular_bilevel.vectors import VectorCheck
    >>> VectorCheck("garnet-00000.npz", trouble="its checksum is not the manifest's").trouble
    "its checksum is not the manifest's"
    """

    file: str
    trouble: str = ""
    proven_again: bool = False


def check_vectors(
    folder: str | Path,
    *,
    sample: int | None = SAMPLE,
    rng: np.random.Generator | int | None = None,
    limit: int = MEMORY,
) -> Iterator[VectorCheck]:
    """Check a folder's files: checksums, tables, bounds, noise.

    Each vector's tables have to be a model's, its bounds as narrow as they are proven, those of its
    parts to add up to those of its gradient, and `tb.hypergradient` to be within them but for
    float64's noise. The noise has to be less than 64 times what it comes to here, and too small to
    hide the gradient. With python-flint installed, some vectors of each family, whatever families
    the files name, are enclosed again: the bounds have to overlap, and the flags to be those that
    the tables show. Files that could be taken for vectors, and are not in the manifest, are wrong.

    Parameters
    ----------
    folder : str or Path
        What ``tabular-bilevel vectors write`` wrote.
    sample : int, optional
        How many of each family are enclosed again, drawn at random; with None, all.
    rng : numpy.random.Generator or int, optional
        Source of randomness, or a seed; fresh by default, so that nobody knows the sample before.
    limit : int
        Bytes of memory that a vector may take with its proof, by default 1 GiB: four times its
        tables, 1,024 for each pair of states, and 512 for each derivative that is not 0.

    Yields
    ------
    VectorCheck
        One check for each file.

    Raises
    ------
    ValueError
        If there is no manifest, it is of another format, or lists nothing, something twice, or
        what is not in the folder.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from tabular_bilevel import vectors
    >>> with TemporaryDirectory() as folder:
    ...     recipes = list(vectors.write_vectors(folder, vectors.Plan(("closed-form",), count=1)))
    ...     found = list(vectors.check_vectors(folder))
    >>> found
    [VectorCheck(file='closed-form-00000.npz', trouble='', proven_again=True)]
    """
    place = Path(folder)
    n_again = None if sample is None else positive_integer("sample", sample)
    generator = np.random.default_rng() if rng is None else as_generator(rng)
    manifest = _manifest(place, limit // COPIES)
    entries = manifest["vectors"]
    again = _sampled([entry["family"] for entry in entries], n_again, generator)
    for k, entry in enumerate(entries):
        try:
            vector = load_vector(
                place / entry["file"], sha256=entry["sha256"], limit=limit // COPIES
            )
            _require_known(entry, vector, manifest["notes"])
            _require_small(vector, limit)
            problem, bounds = _checked(vector, generator)
            proven = k in again and _proven_again(problem, vector, bounds)
        except (ValueError, OSError, ConvergenceError, CertificationError) as error:
            yield VectorCheck(entry["file"], str(error))
        else:
            yield VectorCheck(entry["file"], proven_again=proven)
    yield from _besides(place, {entry["file"] for entry in entries})


def _manifest(place: Path, limit: int) -> Any:
    path = place / MANIFEST
    try:
        manifest = read_json(path, limit)
    except FileNotFoundError as error:
        raise ValueError(
            f"{shown(place)} has no {MANIFEST}: no vectors, or unfinished ones"
        ) from error
    _require_conform(path, manifest)
    seen: set[str] = set()
    for file in (entry["file"] for entry in manifest["vectors"]):
        if file in seen:
            raise ValueError(f"{shown(path)}: vectors has {file!r} twice")
        seen.add(file)
    return manifest


def _require_conform(path: Path, document: Any, name: str = "manifest-schema.json") -> None:
    """Raise ValueError with the first place where a document is not as its schema says."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    strict = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, n: type(n) is int)
    schema = json.loads(shipped(name))
    validator = extend(Draft202012Validator, type_checker=strict)(schema)
    error = next(validator.iter_errors(document), None)
    if error is None:
        return
    place, kind, wanted = error.json_path.lstrip("$."), error.validator, repr(error.validator_value)
    if kind == "required":
        trouble = error.message
    else:
        words = wanted if kind == "const" else f"{kind} {wanted}"
        trouble = f"is {brief(repr(error.instance))}, not {words}"
    raise ValueError(f"{shown(path)}: {brief(place or 'it')} {shown(trouble)}")


def _sampled(families: list[str], sample: int | None, rng: np.random.Generator) -> set[int]:
    """Draw so many of each family, whatever names there are."""
    members: dict[str, list[int]] = {}
    for k, family in enumerate(families):
        members.setdefault(family, []).append(k)
    return {
        int(k)
        for of_it in members.values()
        for k in rng.choice(
            of_it, len(of_it) if sample is None else min(sample, len(of_it)), replace=False
        )
    }


def _besides(place: Path, listed: set[str]) -> Iterator[VectorCheck]:
    """Find what could be taken for a vector, and what says otherwise what vectors are."""
    for path in sorted(place.iterdir()):
        if path.name == SCHEMA:
            if not same_schema(path):
                yield VectorCheck(path.name, "it is not this version's schema")
        elif path.suffix.lower() in (".npz", ".json") and path.name not in {
            *listed, MANIFEST, UNFINISHED, ANSWERS_SCHEMA, GIVEN_ANSWERS,
        }:  # fmt: skip
            yield VectorCheck(path.name, "it is not in the manifest")


def _require_known(entry: dict[str, Any], vector: Vector, notes: dict[str, str]) -> None:
    for key, held in entry_of(vector).items():
        said = entry.get(key)
        if type(said) is not type(held) or said != held:
            raise ValueError(f"its {key} is {held!r}, and the manifest says {brief(repr(said))}")
    for flag in vector.flags:
        if flag not in notes:
            raise ValueError(f"flag {flag!r} has no note")


def _require_small(vector: Vector, limit: int) -> None:
    changes = sum(np.count_nonzero(getattr(vector, f"tangent_{name}")) for name in MOVED)
    size = PAIR * vector.initial.size**2 + CHANGE * changes
    if size > limit:
        raise ValueError(
            f"its {vector.initial.size:,} states and {changes:,} derivatives take {size:,} bytes "
            f"to prove, above the limit of {limit:,}"
        )


@quiet
def _checked(vector: Vector, rng: np.random.Generator) -> tuple[StoredProblem, dict[str, Interval]]:
    """Check all that needs no proof."""
    problem = StoredProblem.of(vector)
    bounds = {name: Interval(*getattr(vector, f"{name}_bounds")) for name in ANSWERS}
    sizes = {name: _size(interval.centre) for name, interval in bounds.items()}
    sizes |= dict.fromkeys(ANSWERS[2:], max(sizes[name] for name in ANSWERS[2:]))
    _require_narrow(bounds, sizes)
    result = hypergradient(problem, vector.theta)
    _require_sound_noise(vector, problem, result, rng)
    trouble = _trouble(vector, result.objective, result.gradient, TOLERANCE)
    for name in ANSWERS[2:]:
        off = _distance(getattr(result, name), getattr(vector, f"{name}_bounds"))
        allowed = TOLERANCE * sizes[name] + NOISE_FACTOR * vector.gradient_noise
        if not trouble and not off <= allowed:
            trouble = f"{name} part off by {off:.3g}, {allowed:.2g} is allowed"
    if trouble:
        raise ValueError(f"tb.hypergradient disagrees: {trouble}")
    return problem, bounds


def _require_narrow(bounds: dict[str, Interval], sizes: dict[str, float]) -> None:
    """Refuse bounds wider than they are proven, or of parts that do not add up to the gradient."""
    for name, interval in bounds.items():
        if not np.all(interval.lower <= interval.upper):
            raise ValueError(f"{name}_bounds: the lower ones are not below the upper ones")
        if not _size(interval.radius) <= WIDEST * sizes[name] + 5e-324:
            raise ValueError(f"{name}_bounds are wider than {WIDEST} of it")
    direct, indirect = bounds["direct"], bounds["indirect"]
    reach = Interval(
        np.nextafter(direct.lower + indirect.lower, -np.inf),
        np.nextafter(direct.upper + indirect.upper, np.inf),
    )
    if not reach.overlaps(bounds["gradient"]):
        raise ValueError("the bounds of its parts do not add up to those of the gradient")


def _require_sound_noise(
    vector: Vector, problem: StoredProblem, result: Hypergradient, rng: np.random.Generator
) -> None:
    """Refuse a noise that would make wrong answers right."""
    for name, most in most_noise(problem, result, rng).items():
        noise = getattr(vector, f"{name}_noise")
        if not 0.0 <= noise <= most:
            raise ValueError(f"{name}_noise is {noise:.3g}, not between 0 and {most:.3g}")
    if not is_telling(vector.gradient, vector.gradient_noise):
        raise ValueError(
            f"gradient_noise is {vector.gradient_noise:.3g}, which hides a gradient of "
            f"{_size(vector.gradient):.3g}"
        )


def _proven_again(problem: StoredProblem, vector: Vector, bounds: dict[str, Interval]) -> bool:
    try:
        proof = enclose(problem, vector.theta)
    except ImportError:
        return False
    for name, interval in bounds.items():
        if not interval.overlaps(getattr(proof, name)):
            raise ValueError(f"{name}_bounds do not hold what tb.enclose proves")
    known = NOTES.keys() - NOT_IN_TABLES
    shows = known & set(table_flags(proof, 0.0))
    if known & set(vector.flags) != shows:
        raise ValueError(f"its flags are not those of its tables: {', '.join(sorted(shows))}")
    return True


@dataclass(frozen=True)
class Outcome:
    """What an implementation made of one vector.

    Attributes
    ----------
    vector : Vector
        The vector.
    trouble : str
        What is wrong; empty if it is right.
    showing : tuple of str
        Mistakes that would show here; of wrong answers only those that were looked at.
    agreeing : tuple of str
        Mistakes whose gradient it returned.
    finite : bool
        Whether all that it returned were finite numbers.
    multiple : tuple of two floats, or None
        Of a wrong answer that is a multiple of the gradient: by what, at least and at most.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from tabular_bilevel import vectors
    >>> with TemporaryDirectory() as folder:
    ...     recipes = list(vectors.write_vectors(folder, vectors.Plan(("closed-form",), count=1)))
    ...     loaded = vectors.load_vectors(folder)
    >>> broken = vectors.outcome(loaded[0], lambda vector: 1 / 0)
    >>> broken.passed, broken.trouble
    (False, 'ZeroDivisionError: division by zero')
    """

    vector: Vector = field(repr=False)
    trouble: str
    showing: tuple[str, ...] = ()
    agreeing: tuple[str, ...] = ()
    finite: bool = True
    multiple: tuple[float, float] | None = None

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
        Largest error of an entry, relative to the largest entry; 16 times the vector's noise is
        added to it.
    name_mistakes : bool
        Whether to compare with mistakes.

    Returns
    -------
    Outcome
        The comparison.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from tabular_bilevel import vectors
    >>> with TemporaryDirectory() as folder:
    ...     recipes = list(vectors.write_vectors(folder, vectors.Plan(("closed-form",), count=1)))
    ...     loaded = vectors.load_vectors(folder)
    >>> right = vectors.outcome(loaded[0], vectors.reference_gradient)
    >>> half = vectors.outcome(loaded[0], lambda vector: 0.5 * vector.gradient)
    >>> right.passed, half.passed, [round(factor, 4) for factor in half.multiple]
    (True, False, [0.5, 0.5])
    """
    answer = None
    try:
        answer = _answer(implementation(vector), vector.theta.size)
    except (Exception, SystemExit) as error:  # somebody's code may end with anything
        trouble = f"{type(error).__name__}: {error}".partition("\n")[0][:LONGEST]
    else:
        trouble = _trouble(vector, *answer, tolerance)
    if not name_mistakes:
        return Outcome(vector, trouble)
    allowed = _allowed(vector, vector.gradient, tolerance)
    showing, agreeing = [], []
    for mistake, wrong in wrong_gradients(vector):
        if _distance(wrong, vector.gradient_bounds) <= 2.0 * allowed:
            continue  # no mistake here
        showing.append(mistake.name)
        if answer is not None and _alike(answer[1], wrong, _allowed(vector, wrong, tolerance)):
            agreeing.append(mistake.name)
    finite = answer is None or bool(np.isfinite(answer[1]).all())
    multiple = None
    if trouble and answer is not None and finite:
        multiple = _multiple(answer[1], vector, tolerance)
    return Outcome(vector, trouble, tuple(showing), tuple(agreeing), finite, multiple)


@quiet
def _multiple(given: FloatArray, vector: Vector, tolerance: float) -> tuple[float, float] | None:
    """Find by what the gradient was multiplied, if it was, to what it may be off by."""
    size = _size(vector.gradient)
    if size == 0.0:
        return None
    unit = vector.gradient / size
    factor = float(given / size @ unit / (unit @ unit))
    allowed = _allowed(vector, vector.gradient, tolerance) * max(1.0, abs(factor))
    if not np.abs(given - factor * vector.gradient).max() <= allowed:
        return None
    return factor - 2.0 * allowed / size, factor + 2.0 * allowed / size


def _allowed(vector: Vector, gradient: FloatArray, tolerance: float) -> float:
    """Find what a gradient may be off by."""
    return tolerance * _size(gradient) + NOISE_FACTOR * vector.gradient_noise


def _trouble(
    vector: Vector, objective: float | None, gradient: FloatArray, tolerance: float
) -> str:
    """Say what is further from its bounds than is allowed, if anything is."""
    if not np.isfinite(gradient).all():
        index = int(np.argmax(~np.isfinite(gradient)))
        return f"gradient[{index}] is {gradient[index]}, not a finite number"
    off = _distance(gradient, vector.gradient_bounds)
    allowed = _allowed(vector, vector.gradient, tolerance)
    if not off <= allowed:
        return f"gradient off by {off:.3g}, {allowed:.2g} is allowed"
    if objective is None:
        return ""
    off = _distance(np.array([objective]), vector.objective_bounds[:, None])
    allowed = tolerance * abs(vector.objective) + NOISE_FACTOR * vector.objective_noise
    return "" if off <= allowed else f"objective off by {off:.3g}, {allowed:.2g} is allowed"


def wrong_gradients(vector: Vector) -> Iterator[tuple[Mistake, FloatArray]]:
    """Compute what each mistake defined on a vector comes to in float64; NaN if it overflows."""
    problem = StoredProblem.of(vector)
    for mistake in MISTAKES.values():
        try:
            with np.errstate(all="ignore"):
                gradient = mistake.gradient(problem, np.zeros(problem.n_parameters))
        except (ValueError, ConvergenceError, np.linalg.LinAlgError):
            continue  # its follower's problem is none
        if gradient is not None:
            yield mistake, gradient


def _answer(returned: Any, n_parameters: int) -> tuple[float | None, FloatArray]:
    """Take apart what somebody's function returned."""
    objective = None
    require_something(returned)
    if isinstance(returned, tuple) and len(returned) == 2 and np.ndim(returned[1]) > 0:
        objective, returned = as_real("the objective", returned[0]), returned[1]
    return objective, real_array("the gradient", returned, (n_parameters,))


def _size(numbers: FloatArray) -> float:
    return float(np.max(np.abs(numbers), initial=0.0))


@quiet
def _distance(given: FloatArray, bounds: FloatArray) -> float:
    """Measure how far outside the bounds the worst entry is; NaN for what is no number."""
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
        One outcome for each vector.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from tabular_bilevel import vectors
    >>> with TemporaryDirectory() as folder:
    ...     recipes = list(vectors.write_vectors(folder, vectors.Plan(("closed-form",), count=2)))
    ...     loaded = vectors.load_vectors(folder)
    >>> report = vectors.check_implementation(loaded, lambda vector: -vector.gradient)
    >>> report.passed, len(report.wrong), report.named, report.multiples
    (False, 2, ('through-follower term sign-flipped',), ("the gradient's negative",))
    >>> report.mistakes
    {'through-follower term sign-flipped': (1, 1)}
    >>> report.flags["closed-form"], report.telling_flags[0]
    ((2, 2), 'closed-form')
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
        """Mistakes that it seems to make: nine in ten of the vectors where they show agree.

        If there are none, what the gradient seems to be multiplied by.
        """
        broken = [o for o in self.outcomes if not o.finite]
        named = []
        for name, (agreed, shows) in self.mistakes.items():
            overflows = sum(name in o.agreeing for o in broken)
            # what is NaN everywhere is so on the vectors, too, where a mistake makes it so
            if agreed >= EXPLAINED * shows and not 0 < overflows < EXPLAINED * len(broken):
                named.append(name)
        return tuple(named) or self.multiples

    @property
    def multiples(self) -> tuple[str, ...]:
        """What the gradient seems to be multiplied by: on nine in ten of the vectors the same."""
        found = [o.multiple for o in self.outcomes if o.multiple is not None]
        n_telling = sum(bool(o.vector.gradient.any()) for o in self.outcomes)
        if not found:
            return ()
        factor = float(np.median([(low + high) / 2.0 for low, high in found]))
        words = min(MULTIPLES, key=lambda known: abs(known - factor))
        if sum(low <= words <= high for low, high in found) >= EXPLAINED * n_telling:
            return (MULTIPLES[words],)
        if sum(low <= factor <= high for low, high in found) >= EXPLAINED * n_telling:
            return (f"the gradient times {factor:.6g}",)
        return ()

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
        often = [
            f"  {bad:5d} / {with_it:3d}  {flag}: {NOTES.get(flag, '')}"
            for flag, (bad, with_it) in self.flags.items()
            if bad * n > len(wrong) * with_it
        ]
        if often:
            lines += [
                "  wrong / all  flag of those that are wrong more often, which aims at",
                *often,
            ]
        if self.telling_flags:
            lines.append(f"  wrong where there is: {', '.join(self.telling_flags)}")
        for name in self.named:
            if name not in self.mistakes:
                lines.append(f"  it is {name}")
                continue
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


@dataclass(frozen=True)
class Answers:
    """Answers that were computed elsewhere, in any language; to be given to `check_implementation`.

    Attributes
    ----------
    answers : mapping of str to pair
        By the name of the vector, J, or None, and the gradient.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from tabular_bilevel import vectors
    >>> with TemporaryDirectory() as folder:
    ...     recipes = list(vectors.write_vectors(folder, vectors.Plan(("closed-form",), count=1)))
    ...     loaded = vectors.load_vectors(folder)
    >>> answers = vectors.Answers({vector.name: (None, vector.gradient) for vector in loaded})
    >>> answers.require_known(loaded)
    >>> vectors.check_implementation(loaded, answers).passed
    True
    """

    answers: Mapping[str, tuple[float | None, FloatArray]] = field(repr=False)

    def __call__(self, vector: Vector) -> Any:
        """Return the answer to a vector; ValueError if there is none.

        Parameters
        ----------
        vector : Vector
            What the loader made.

        Returns
        -------
        ndarray, shape (d,), or pair of float and that
            The gradient, or J and the gradient.

        Raises
        ------
        ValueError
            If there is no answer to it.
        """
        if vector.name not in self.answers:
            raise ValueError("there is no answer to it")
        objective, gradient = self.answers[vector.name]
        return gradient if objective is None else (objective, gradient)

    def require_known(self, vectors: Iterable[Vector]) -> None:
        """Raise ValueError if there is an answer to what is no vector.

        Parameters
        ----------
        vectors : iterable of Vector
            What there is.

        Raises
        ------
        ValueError
            If there is one; the message names it.
        """
        unknown = self.answers.keys() - {vector.name for vector in vectors}
        if unknown:
            raise ValueError(
                f"there is an answer to {brief(repr(min(unknown)))}, which is no vector"
            )


def load_answers(path: str | Path, *, limit: int = LIMIT) -> Answers:
    """Load answers from a JSON file.

    Parameters
    ----------
    path : str or Path
        The file; ``answers-schema.json``, which comes with JSON vectors, describes it.
    limit : int
        Bytes of memory that it may take, by default 256 MiB.

    Returns
    -------
    Answers
        What it says; null, and what float64 cannot hold, is NaN or infinite.

    Raises
    ------
    ValueError
        If the file is no regular one, too large, or not as its schema says.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from pathlib import Path
    >>> from tabular_bilevel.vectors import load_answers
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "answers.json"
    ...     count = file.write_bytes(b'{"garnet-00000": {"gradient": [0.5, null]}}')
    ...     load_answers(file).answers
    {'garnet-00000': (None, array([0.5, nan]))}
    """
    document = read_json(path, limit)
    _require_conform(Path(path), document, ANSWERS_SCHEMA)
    return Answers(
        {
            name: (
                _number(answer["objective"]) if "objective" in answer else None,
                np.array([_number(x) for x in answer["gradient"]], dtype=np.float64),
            )
            for name, answer in document.items()
        }
    )


def _number(spelled: float | str | None) -> float:
    if spelled is None:
        return math.nan
    try:
        return float.fromhex(spelled) if isinstance(spelled, str) else float(spelled)
    except OverflowError:
        return math.inf


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
        Largest error of an entry, relative to the largest entry; 16 times the vector's noise is
        added to it.

    Returns
    -------
    ImplementationReport
        What is right, what is wrong, and which mistakes explain it.

    Raises
    ------
    ValueError
        If the tolerance is not positive.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from tabular_bilevel import vectors
    >>> with TemporaryDirectory() as folder:
    ...     recipes = list(vectors.write_vectors(folder, vectors.Plan(("closed-form",), count=1)))
    ...     loaded = vectors.load_vectors(folder)
    >>> vectors.check_implementation(loaded, vectors.reference_gradient).passed
    True
    """
    allowed = as_positive("tolerance", tolerance)
    return ImplementationReport(tuple(outcome(v, implementation, allowed) for v in vectors))
