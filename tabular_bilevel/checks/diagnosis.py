"""What is wrong with a biased estimator: compare its mean with the targets of many mistakes.

Theory.md section 11 has the probabilities.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arrays import FloatArray, binary_scale, norm, quiet, ratio
from tabular_bilevel._base.display import displayed
from tabular_bilevel._base.errors import ConvergenceError
from tabular_bilevel.checks.localising import Parts, by_table, far_off
from tabular_bilevel.checks.quantiles import chi_squared, fisher, student
from tabular_bilevel.mistakes.knowledge import cut, right_limit
from tabular_bilevel.mistakes.measured import Measures
from tabular_bilevel.mistakes.register import FAULTS, RIGHT, Mistake, cut_after
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.problems import zoo
from tabular_bilevel.sampling.experience import Experience
from tabular_bilevel.sampling.traces import TraceRule

# Targets nearer to each other than this, relative to their size or the gradient's, are the same:
# nothing tells such mistakes apart on this problem.
SAME = 1e-6

# ... but for rounding, where the mean is known exactly.
EXACTLY_SAME = 1e-12

# With replicates nothing tells them apart if they are nearer than so many standard errors.
ALIKE = 1.0

# A mistake fits if its target is no further from the mean than this quantile of chance allows.
MISFIT_RATE = 1e-4

# Directions in which means are compared, for each of so many replicates.
REPLICATES_A_DIRECTION = 5

# Up to scale, by how much the mean of clipped estimates may be turned, relative to its length.
MOST_TURNED = 0.02

# Probability from which a mistake is named, and from which more replicates would change little.
NAMED, CLEAR = 0.5, 0.9

# An exact expectation fits a target up to this, relative to the target; targets leave out as much.
EXACT_FIT = 1e-8

# Where fewer of the targets than this share lie off the gradient's line, one number is visible.
FEW_OFF_THE_LINE = 0.11

# What is believed before any estimate is seen: of a single mistake, of two at once, and of none
# that is known.
PRIOR = {"single": 0.5, "pair": 0.2, "none": 0.3}

# Pairs whose targets are computed: those that would come nearest if what two mistakes do added up.
PAIRS = 120

# Of the standard suite, problems with many directions on which mistakes differ.
ELSEWHERE = ("a thousand parameters", "layered", "slippery grid", "game", "unequal discounts")

# Of a rule, what multiplies what is there.
FACTORS = ("direct", "indirect", "direct_tables", "indirect_tables")

# Relative to the gradient, by which targets differ visibly there.
VISIBLY = 0.05


@displayed
@dataclass(frozen=True)
class Guess:
    """A mistake, or two at once, and how well that explains the estimates.

    Attributes
    ----------
    names : tuple of str
        The mistake's name, or those of two that are combined.
    instead : tuple of str
        What an estimator with each of them converges to.
    alike : tuple of str
        Others that cannot be told from it here, two that are combined in one string.
    probability : float
        Of it or those alike.
    distance : float
        Distance of its target from the estimates' mean, in standard errors over all directions
        together; by enumeration, relative to the target.
    fits : bool
        Whether chance explains the distance.
    """

    names: tuple[str, ...]
    instead: tuple[str, ...]
    alike: tuple[str, ...]
    probability: float
    distance: float
    fits: bool

    @property
    def name(self) -> str:
        """The names in one string."""
        return " and ".join(self.names)


@dataclass(frozen=True)
class Diagnosis:
    """Mistakes that would explain a bias, the likeliest first.

    Attributes
    ----------
    guesses : tuple of Guess
        All that were considered, those that cannot be told apart as one.
    none_probability : float
        That it is none of them; with those of the guesses it adds up to 1.
    unit : str
        Unit of the distances.
    n_replicates : int
        Number of estimates behind it; 0 for an exact expectation.
    directions : int
        In how many directions means are compared. With one, a single number is visible.
    elsewhere : tuple of str
        Problems of the standard suite that tell apart what is not told apart here.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.layered(depth=2, width=2), [0.1] * 4
    >>> report = tb.check_by_enumeration(tb.NaivePolicyGradient(), problem, theta)
    >>> report.diagnosis.best.name, report.diagnosis.clear
    ('through-follower term dropped', True)
    """

    guesses: tuple[Guess, ...] = ()
    none_probability: float = 1.0
    unit: str = "standard errors"
    n_replicates: int = 0
    directions: int = 0
    elsewhere: tuple[str, ...] = ()

    @property
    def best(self) -> Guess | None:
        """The likeliest, if it fits and is likelier than all others together; else None.

        None, too, where the estimates' noise leaves a single number to go by.
        """
        first = next(iter(self.guesses), None)
        if first is None or not first.fits or first.probability <= NAMED:
            return None
        # of many mistakes, some come near any one number
        return first if self.directions > 1 or self.n_replicates == 0 else None

    @property
    def clear(self) -> bool:
        """Whether more replicates would change little."""
        first = next(iter(self.guesses), None)
        if first is None or self.none_probability >= CLEAR:
            return True
        # there are so many pairs that some come near by chance
        return first.fits and first.probability >= CLEAR and len(first.names) == 1

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if not self.guesses:
            return
        best, after = self.best, ""
        if self.n_replicates:
            after = f", after {self.n_replicates} replicates"
        if best is None:
            near = min(self.guesses, key=lambda guess: guess.distance)
            if self.directions == 1 and near.fits:
                yield f"diagnosis: only one number is visible here, and names no mistake{after}"
            else:
                why = "leads" if near.fits else "fits"
                yield (
                    f"diagnosis: no known mistake {why} (probability that it is none "
                    f"{self.none_probability:.2g}); nearest is {near.name}, {near.distance:.3g} "
                    f"{self.unit} away{after}"
                )
        else:
            verb = "converges" if self.clear else "seems to converge"
            yield f"your estimator {verb} to {'; to '.join(best.instead)}, instead of the gradient"
            same = f" (not told apart here: {', '.join(best.alike)})" if best.alike else ""
            yield (
                f"diagnosis: {best.name}{same}, probability {best.probability:.3g}, none of the "
                f"known {self.none_probability:.2g}, {best.distance:.3g} {self.unit} away{after}"
            )
        others = [guess for guess in self.guesses if guess.fits and guess is not best]
        if others:
            names = ", ".join(f"{guess.name} ({guess.probability:.2g})" for guess in others[:3])
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            yield f"not ruled out: {names}{more}"
        if self.elsewhere:
            yield f"problems of the suite that tell these apart: {', '.join(self.elsewhere)}"


def as_the_rule_says(rule: TraceRule, experience: Experience) -> Any:
    """Add up measures as a rule of either kind of model does."""
    return rule.measures(experience)


@dataclass(frozen=True, eq=False)
class _Core:
    """What is made of some knowledge by a rule, before factors: the target of many factors."""

    experience: Experience
    rule: TraceRule
    measures: Measures = as_the_rule_says

    @cached_property
    def shares(self) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
        """The two parts by table, without factors."""
        seen = self.experience
        direct, indirect = (
            dict(by_table(seen.problem, seen.theta, measures))
            for measures in self.measures(self.rule.plain, seen)
        )
        return direct, indirect

    @quiet
    def target(self, rule: TraceRule) -> FloatArray:
        """Pull back by tables, times the factors of a rule that differs in nothing else."""
        total = np.zeros(self.experience.theta.size)
        direct, indirect = self.shares
        for part, factor, tables in (
            (direct, rule.direct, rule.direct_tables),
            (indirect, rule.indirect, rule.indirect_tables),
        ):
            for table, share in part.items():
                weight = factor * tables.get(table, 1.0)
                if weight:
                    total += weight * share
        return total


class Candidates:
    """All mistakes that can be seen at theta, and what each comes to.

    With a horizon the cut is a mistake itself, and the other mistakes are made with it.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : ndarray, shape (d,)
        The leader's parameter.
    horizon : int, optional
        Steps after which trajectories are known to be cut.
    count : int, optional
        Trajectories of an estimate, where that is known.
    right : Experience, optional
        What the estimator is known to know, of a law; by default what is right, of so many
        trajectories.
    together : bool
        Whether single trajectories are known to be right, so that only how they are combined is in
        question.
    """

    @quiet
    def __init__(
        self,
        problem: BilevelProblem,
        theta: FloatArray,
        *,
        horizon: int | None = None,
        count: int | None = None,
        right: Experience | None = None,
        together: bool = False,
    ) -> None:
        if right is None:
            right = right_limit(problem, theta, count=count)
        uncut = right
        if horizon is not None:
            right = cut(uncut, min(horizon, uncut.law.horizon))
        self.exact, self._here = (RIGHT.estimate(known).gradient for known in (uncut, right))
        self.size = _size(self.exact)
        self._right = _Core(right, RIGHT.rule(right))
        self._cores: dict[Mistake, _Core] = {}
        self._factors: list[Mistake] = []
        self.known_cut: Mistake | None = None
        self.singles: dict[Mistake, FloatArray] = {}
        if not _same(self._here, self.exact, self.size):
            self.known_cut = cut_after(right.law.horizon)
            self.singles[self.known_cut] = self._here
        for fault in FAULTS.values():
            if together and not fault.together:
                continue
            core = self._core(self._right, fault)
            if core is None:
                continue
            target = core.target(core.rule)
            if _same(target, self._here, self.size):
                continue
            self.singles[fault] = target
            if core.experience is self._right.experience and _is_factor(core, self._right):
                self._factors.append(fault)
            else:
                self._cores[fault] = core

    def _core(self, base: _Core, fault: Mistake, before: Mistake | None = None) -> _Core | None:
        """Make a mistake on top of what is made, by the one before it if there is one.

        The same core again if it is only a factor. Where it changes what is known, rules are made
        anew.
        """
        try:
            known = fault.known(base.experience)
        except ConvergenceError:
            return None
        if known is None:
            return None
        rule = base.rule
        if known is not base.experience:
            rule = RIGHT.rule(known)
            if before is not None and before.rule is not None:
                rule = before.rule(rule, known)
        if fault.rule is not None:
            rule = fault.rule(rule, known)
        if fault.measures is not None and base.measures is not as_the_rule_says:
            return None
        made = _Core(known, rule, fault.measures or base.measures)
        if known is base.experience and _is_factor(made, base):
            made.__dict__["shares"] = base.shares  # cached: what factors multiply is the same
        return made

    @property
    def n_pairs(self) -> int:
        """Pairs that are possible."""
        return math.comb(len(self.singles), 2)

    def pairs(self, near: FloatArray, scale: FloatArray) -> dict[tuple[Mistake, ...], FloatArray]:
        """Compute the targets of pairs: those with a mere factor, and the others that come nearest.

        Nearest to `near`, in units of the standard errors `scale`. Left out is what comes to
        nothing, or to the same as one of the two alone.
        """
        found = dict(self._with_factors)
        rest = [
            pair
            for pair in itertools.combinations(self._cores, 2)
            if not pair[0].kind or pair[0].kind != pair[1].kind
        ]
        if rest:
            table = np.array([self.singles[a] + self.singles[b] for a, b in rest])
            distance = np.linalg.norm((table - self._here - near) / scale, axis=1)
            for k in np.argsort(distance, kind="stable")[:PAIRS]:
                fault, other = rest[k]
                # what changes the knowledge comes first
                if fault.knowledge is None:
                    fault, other = other, fault
                self._note(found, fault, self._cores[fault], other)
        return found

    @cached_property
    def _with_factors(self) -> dict[tuple[Mistake, ...], FloatArray]:
        """Targets of pairs of which one is a mere factor: nothing has to be computed anew."""
        found: dict[tuple[Mistake, ...], FloatArray] = {}
        bases = [(fault, self._core(self._right, fault)) for fault in self._factors]
        for place, (fault, core) in enumerate([*bases, *self._cores.items()]):
            for factor in self._factors[: place if place < len(bases) else None]:
                self._note(found, fault, core, factor)
        return found

    def _note(
        self,
        found: dict[tuple[Mistake, ...], FloatArray],
        fault: Mistake,
        core: _Core | None,
        other: Mistake,
    ) -> None:
        made = None if core is None else self._core(core, other, before=fault)
        if made is None:
            return
        target = made.target(made.rule)
        if not np.isfinite(target).all() or not target.any():
            return
        alone = (self._here, self.singles[fault], self.singles[other])
        if not any(_same(target, one, self.size) for one in alone):
            found[fault, other] = target

    @quiet
    def diagnose(
        self,
        rows: FloatArray,
        parts: Parts,
        *,
        rounding: float,
        exactly: bool = False,
        up_to_scale: bool = False,
    ) -> Diagnosis:
        """Compare the mean of estimates, a row each, with what all mistakes, and pairs, come to.

        With too few replicates for all coordinates, only the directions that the targets span are
        compared, and no mistake fits if the mean lies outside of them. Gaps below `rounding`,
        relative to the largest entry, are rounding. `exactly` tells that there is one row, an
        expectation; `up_to_scale`, that directions alone are compared. If no mistake can be seen
        here, "none" is all.
        """
        rounding = max(rounding, EXACT_FIT)
        if up_to_scale:
            mean = rows.mean(axis=0)
            if not mean.any():
                return Diagnosis(n_replicates=0 if exactly else len(rows))
            rows = rows / norm(mean) * norm(self.exact)
            rounding = max(rounding, _turned(rows))
        targets: dict[tuple[Mistake, ...], FloatArray] = {
            (fault,): target for fault, target in self.singles.items()
        }
        if up_to_scale:
            targets = self._directions(targets)
        if not targets:
            return Diagnosis(n_replicates=0 if exactly else len(rows))
        compared = _Comparison(rows, self, parts, rounding, up_to_scale=up_to_scale)
        n_singles = len(targets)
        table = compared.nearest(np.array(list(targets.values())))
        if compared.directions > 1 and not compared.fits(table).any():
            pairs = self.pairs(compared.mean, compared.spread)
            targets |= self._directions(pairs) if up_to_scale else pairs
        prior = np.full(len(targets), PRIOR["pair"] / max(1, self.n_pairs))
        prior[:n_singles] = PRIOR["single"] / n_singles
        if self.known_cut is not None and (self.known_cut,) in targets:
            # the cut is known to be there: it is as likely as all that would be a second mistake
            prior[:n_singles] = PRIOR["single"] / (2.0 * max(1, n_singles - 1))
            prior[list(targets).index((self.known_cut,))] = PRIOR["single"] / 2.0
        table = np.array(list(targets.values()))
        logs = compared.log_densities(table) + np.log(prior)
        none = compared.log_density_of_none() + math.log(PRIOR["none"])
        table = compared.nearest(table)
        fits = compared.fits(table)
        if compared.outside:
            logs = np.full(len(targets), -np.inf)
        top = max(float(logs.max()), none)
        weights, none_weight = np.exp(logs - top), math.exp(none - top)
        total = float(weights.sum()) + none_weight
        guesses = self._grouped(targets, table, weights / total, fits, compared)
        found = Diagnosis(
            guesses=guesses,
            none_probability=none_weight / total,
            unit="of its size" if exactly else "standard errors",
            n_replicates=0 if exactly else len(rows),
            directions=compared.directions,
        )
        return replace(found, elsewhere=_elsewhere(targets, found))

    def _directions(
        self, targets: Mapping[tuple[Mistake, ...], FloatArray]
    ) -> dict[tuple[Mistake, ...], FloatArray]:
        """Make targets as long as the right mean, without those that are multiples of it."""
        length = norm(self.exact)
        made = {
            names: target / norm(target) * length
            for names, target in targets.items()
            if target.any()
        }
        return {k: each for k, each in made.items() if not _same(each, self.exact, self.size)}

    def _grouped(
        self,
        targets: Mapping[tuple[Mistake, ...], FloatArray],
        table: FloatArray,
        probability: FloatArray,
        fits: FloatArray,
        compared: _Comparison,
    ) -> tuple[Guess, ...]:
        """Put the mistakes in order, those that cannot be told apart together."""
        made = list(targets)
        distance = compared.distances(table)
        left = np.ones(len(made), bool)
        guesses = []
        for k in np.lexsort((distance, -probability, np.logical_not(fits))):
            if not left[k]:
                continue
            same = np.zeros(len(made), bool)
            if fits[k]:
                gaps = np.abs(table - table[k]).max(axis=1)
                sizes = np.maximum(np.abs(table).max(axis=1), max(_size(table[k]), self.size))
                left_fitting = left & fits
                near = (gaps <= SAME * sizes) & left_fitting
                same = near | ((compared.between(table, table[k]) <= ALIKE) & left_fitting)
                # the first of the register, of those with one target: chance may not choose
                equal = near & (gaps <= compared.equal * sizes)
                k = int(np.argmax(equal))
                same[k] = False
            left[same] = left[k] = False
            alike = [
                " and ".join(each.name for each in made[other]) for other in np.flatnonzero(same)
            ]
            guesses.append(
                Guess(
                    names=tuple(each.name for each in made[k]),
                    instead=tuple(each.instead for each in made[k]),
                    alike=tuple(alike),
                    probability=float(probability[k] + probability[same].sum()),
                    distance=float(distance[k]),
                    fits=bool(fits[k]),
                )
            )
        return tuple(sorted(guesses, key=lambda guess: -guess.probability))


class _Comparison:
    """A mean and its standard error beside targets, in directions that can be compared.

    The mean may lie `outside` of them. Targets nearer to each other than `equal`, relative to their
    size, count as one: noise picks none.
    """

    def __init__(
        self,
        rows: FloatArray,
        candidates: Candidates,
        parts: Parts,
        rounding: float,
        *,
        up_to_scale: bool = False,
    ) -> None:
        self._free = up_to_scale
        table = np.array([*candidates.singles.values(), candidates.exact, *parts.values()])
        self._unit = binary_scale(rows, candidates.exact)
        scaled = rows / self._unit
        length = np.linalg.norm(table, axis=1, keepdims=True)
        table = table / np.where(length > 0.0, length, 1.0)
        self.mean, self._count = rows.mean(axis=0), len(rows)
        count, mean = self._count, scaled.mean(axis=0)
        exact = candidates.exact / self._unit
        self._floor = rounding * max(float(np.abs(mean).max()), float(np.abs(exact).max()))
        self._exactly = count == 1
        self.equal = EXACTLY_SAME if self._exactly else SAME
        most = max(1, count // REPLICATES_A_DIRECTION)
        _, size, axes = np.linalg.svd(table, full_matrices=False)
        axes = axes[size > SAME * size[0]]
        self.directions = len(axes)
        self.outside = False
        if self._exactly:  # all directions are known to the same rounding
            axes = sp.eye_array(mean.size, format="csr")
        elif mean.size > most:
            # directions that do not depend on the noise, or it would be largest along them
            rest = scaled - scaled @ axes.T @ axes
            limit = student(MISFIT_RATE, max(1, count // 2 - 1))
            self.outside = far_off(rest, self._floor) > limit
            axes = axes[:most]
        else:
            axes = np.eye(mean.size)
        # to standard errors, (d, r)
        self._whiten = axes / self._floor if self._exactly else self._whitened(scaled - mean, axes)
        self._middle = mean @ self._whiten
        self.spread = self._unit * np.hypot(
            scaled.std(axis=0) / math.sqrt(max(1, count - 1)), self._floor
        )
        self._right = candidates.exact / self._unit @ self._whiten
        self._parts = np.array(list(parts.values())).reshape(-1, mean.size) / self._unit
        self._halves = [
            sum((share / self._unit for (part, _), share in parts.items() if part == half), 0.0)
            for half in sorted({part for part, _ in parts})
        ]
        self._scale = float(np.linalg.norm(exact)) or float(np.linalg.norm(mean))
        self._exact = exact
        self._axes = axes
        if self._off_the_line(np.array(list(candidates.singles.values()))) < FEW_OFF_THE_LINE:
            self.directions = 1

    def _whitened(self, noise: FloatArray, axes: FloatArray) -> FloatArray:
        """Make the matrix that takes vectors to standard errors of noise along axes."""
        noise = noise @ axes.T
        times = self._count * (self._count - 1)
        error = np.hypot(np.sqrt((noise**2).sum(axis=0) / times), self._floor)
        noise = noise / error
        covariance = np.diag((self._floor / error) ** 2) + noise.T @ noise / times
        variance, turned = np.linalg.eigh(covariance)
        # what does not vary is still compared, to rounding
        variance = np.maximum(variance, 1e-10)
        self._rank = int((variance > 2e-10).sum())
        return np.asarray(axes.T / error @ turned / np.sqrt(variance))

    def _off_the_line(self, table: FloatArray) -> float:
        """Share of the targets that are no multiple of the gradient, as far as noise tells."""
        targets, length = table / self._unit @ self._whiten, float(np.linalg.norm(self._right))
        line = self._right / length if length > 0.0 else self._right
        rest = targets - np.outer(targets @ line, line)
        return float((np.linalg.norm(rest, axis=1) > ALIKE).mean())

    def _squares(self, table: FloatArray) -> FloatArray:
        gaps = np.atleast_2d(table) / self._unit @ self._whiten - self._middle
        return np.asarray((gaps**2).sum(axis=1))

    def _log_likelihood(self, squares: FloatArray) -> FloatArray:
        """Log of Hotelling's law of the mean, with the covariance known to n - 1 degrees."""
        if self._exactly:
            return -0.5 * squares
        return np.asarray(-self._count / 2.0 * np.log1p(squares / (self._count - 1)))

    def nearest(self, table: FloatArray) -> FloatArray:
        """Find the multiples of targets that are nearest to the mean; the targets, if to scale."""
        return table * self._multiples(table)[0][:, None] if self._free else table

    def _multiples(self, table: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Find by what targets are to be multiplied, and their lengths in standard errors."""
        whitened = table / self._unit @ self._whiten
        square = (whitened**2).sum(axis=1)
        along = np.maximum(whitened @ self._middle, 0.0)
        return ratio(along, square), np.sqrt(square)

    def log_densities(self, table: FloatArray) -> FloatArray:
        """Log densities of the mean, if a target is what it comes to, up to a constant.

        Up to scale, a target's multiple has Cauchy's law around 1, and is integrated.
        """
        found = self._log_likelihood(self._squares(self.nearest(table)))
        if not self._free:
            return found
        multiple, length = self._multiples(table)
        prior = -math.log(math.pi) - np.log1p((multiple - 1.0) ** 2)
        return np.asarray(found + prior + 0.5 * math.log(2.0 * math.pi) - np.log(length + 1e-300))

    def distances(self, table: FloatArray) -> FloatArray:
        """Distances of targets from the mean."""
        if not self._exactly:
            return np.sqrt(self._squares(table))
        sizes = np.maximum(np.abs(table).max(axis=1), np.abs(self.mean).max())
        sizes = np.maximum(sizes, self._unit * np.abs(self._exact).max())
        return np.asarray(np.abs(table - self.mean).max(axis=1) / sizes)

    def between(self, table: FloatArray, one: FloatArray) -> FloatArray:
        """Distances of targets from one, in standard errors."""
        return np.asarray(np.linalg.norm((table - one) / self._unit @ self._whiten, axis=1))

    def fits(self, table: FloatArray) -> FloatArray:
        """Which targets a test of the mean does not reject."""
        if self.outside:
            return np.zeros(len(table), bool)
        if self._exactly:
            allowed = chi_squared(MISFIT_RATE, self.mean.size)
        else:
            rank, count = max(1, self._rank), self._count
            left = max(count - rank, 1)
            allowed = fisher(MISFIT_RATE, rank, left) * rank * (count - 1) / left
        return np.asarray(self._squares(table) <= allowed)

    def log_density_of_none(self) -> float:
        """Log density of the mean if it is none of the targets, up to the same constant.

        Equally likely are: the gradient times a number, its two parts times numbers, the shares of
        tables times numbers, and anything; each differs from what is right by about the gradient's
        own size, with the heavy tails of Cauchy's law. By Laplace's approximation.
        """
        logs = []
        models: Sequence[FloatArray] = [
            self._exact[None],
            np.array(self._halves).reshape(-1, self._exact.size),
            self._parts,
        ]
        if self._free:  # the gradient times a number is right, or turned round
            models = models[1:]
        width = self._whiten.shape[1]
        known: set[int] = set()
        for columns in models:
            columns = columns[np.abs(columns).max(axis=1, initial=0.0) > 0.0]
            if not len(columns):
                continue
            basis = np.linalg.svd(columns, full_matrices=False)
            rank = int((basis[1] > 1e-9 * basis[1][0]).sum())
            if rank in known or rank >= min(width, self.directions + 1):
                continue
            known.add(rank)
            logs.append(self._of_plane(basis[2][:rank]))
        logs.append(self._of_plane(self._axes))
        top = max(logs)
        return top + math.log(sum(math.exp(each - top) for each in logs) / len(logs))

    def _of_plane(self, basis: Any) -> float:
        """Log density if the mean is anywhere in what orthonormal rows span."""
        gap = self._middle - self._right
        if self._exactly:
            along, singular = basis @ gap, np.full(basis.shape[0], 1.0 / self._floor)
        else:
            steep = basis @ self._whiten  # (k, r)
            turned, singular, _ = np.linalg.svd(steep.T, full_matrices=False)
            along = turned.T @ gap
        rest = max(float(gap @ gap - along @ along), 0.0)
        rank = len(singular)
        offset = float((along**2 / np.maximum(singular, 1e-300) ** 2).sum())
        size = self._scale / math.sqrt(rank)
        prior = (
            math.lgamma((1.0 + rank) / 2.0)
            - math.lgamma(0.5)
            - rank / 2.0 * math.log(math.pi)
            - rank * math.log(size)
            - (1.0 + rank) / 2.0 * math.log1p(offset / size**2)
        )
        peak = float(self._log_likelihood(np.array([rest]))[0])
        volume = rank / 2.0 * math.log(2.0 * math.pi) - float(np.log(singular).sum())
        return peak + volume + prior


def horizon_of(estimator: Any, problem: BilevelProblem, theta: FloatArray) -> int | None:
    """Look up after how many steps an estimator cuts trajectories, if it has a sampler."""
    sampler = getattr(estimator, "sampler", None)
    return None if sampler is None else int(sampler.horizon(problem.model(theta)))


def trajectories_of(estimator: Any) -> int | None:
    """Look up how many trajectories an estimate is made of, if it has a sampler that says so."""
    for owner in (getattr(estimator, "sampler", None), estimator):
        count = getattr(owner, "n_trajectories", None)
        if isinstance(count, int):
            return count
    return None


def _elsewhere(
    targets: Mapping[tuple[Mistake, ...], FloatArray], found: Diagnosis
) -> tuple[str, ...]:
    """List problems of the suite that tell apart what fits here, where one number is visible."""
    fitting = [guess for guess in found.guesses if guess.fits]
    names = {name for guess in fitting for name in (guess.name, *guess.alike)}
    made = [each for each in targets if len(each) == 1 and each[0].name in names][:6]
    if found.directions != 1 or len(made) < 2:
        return ()
    return tuple(name for name in ELSEWHERE if _tells_apart(zoo.named(name), made))


def _tells_apart(instance: zoo.Instance, made: Sequence[tuple[Mistake, ...]]) -> bool:
    """Whether the mistakes that are visible at all have targets there that differ."""
    right = right_limit(instance.problem, instance.theta)
    exact = RIGHT.estimate(right).gradient
    found = [each.target(right) for (each,) in made]
    some = [target for target in found if target is not None]
    apart = all(
        _distance(one, other, _size(exact)) > VISIBLY
        for one, other in itertools.combinations(some, 2)
    )
    return len(some) == len(made) and apart and instance.theta.size > 1


def _is_factor(made: _Core, base: _Core) -> bool:
    """Whether two rules differ in factors alone."""
    one, other = made.rule, base.rule
    same = one.credit is other.credit and made.measures is base.measures
    return same and all(
        getattr(one, each.name) == getattr(other, each.name)
        for each in fields(one)
        if each.name not in ("credit", *FACTORS)
    )


def _turned(rows: FloatArray) -> float:
    """Say by how much clipping may turn a mean, relative to it: at most by the noise's square."""
    mean = rows.mean(axis=0)
    square, noise = float(mean @ mean), float(((rows - mean) ** 2).sum()) / max(1, len(rows) - 1)
    return min(MOST_TURNED, noise / square) if square > 0.0 else MOST_TURNED


def _size(vector: FloatArray) -> float:
    return float(np.abs(vector).max())


def _distance(one: FloatArray, other: FloatArray, least: float) -> float:
    """Compare relative to the larger, or the gradient's size: what is 0 has rounding, too."""
    size = max(_size(one), _size(other), least)
    return _size(one - other) / size if size > 0.0 else 0.0


def _same(one: FloatArray, other: FloatArray, least: float) -> bool:
    return _distance(one, other, least) <= SAME
