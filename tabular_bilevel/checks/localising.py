"""Where an estimator is wrong, and by how much: its mean as a sum of the gradient's exact parts.

Theory.md section 11 has the regression.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from types import MappingProxyType

import numpy as np

from tabular_bilevel._base.arrays import FloatArray, binary_scale, quiet
from tabular_bilevel._base.display import displayed
from tabular_bilevel.certify.result import Hypergradient
from tabular_bilevel.checks.quantiles import fisher, student
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.kinds import by_kind, direct_sensitivities, indirect_sensitivities
from tabular_bilevel.problem import BilevelProblem, pulled_back

#: Names of the gradient's two parts, of tables, and what is said of them.
DIRECT, THROUGH = "direct", "through_follower"
TABLES = ("follower_reward", "leader_reward", "transition", "initial", "temperature")
SPOKEN: Mapping[str, str] = MappingProxyType(
    {
        DIRECT: "direct part",
        THROUGH: "part through the follower",
        "follower_reward": "follower's reward",
        "leader_reward": "leader's reward",
        "transition": "kernel",
        "direct_transition": "kernel in the direct part",
        "through_follower_transition": "kernel in the part through the follower",
        "initial": "initial distribution",
        "temperature": "temperature",
        "leader_policy": "leader's policy",
    }
)

# Of a factor's interval.
CONFIDENCE = 0.99

# A mean is outside what parts can make if chance does that so seldom.
MISFIT_RATE = 1e-3

# Replicates for each direction in which the noise is known to go together.
REPLICATES_A_DIRECTION = 5

# Gaps below this, relative to the largest entry, are what long trajectories leave out.
LEFT_OUT = 1e-7

# A part smaller than this, relative to the largest, is 0; one whose share outside the others' span
# is, relative to itself, cannot be told from them.
NOTHING, TOLD_APART = 1e-10, 1e-6


@displayed
@dataclass(frozen=True)
class Factor:
    """By what a part of the gradient is multiplied in an estimator's mean; 1 where it is right.

    Attributes
    ----------
    value : float
        The estimate; where the problem cannot tell, the one nearest to 1 that explains the mean.
    low, high : float
        Ends of an interval at 99 %; infinite where the problem cannot tell.
    """

    value: float = 1.0
    low: float = -math.inf
    high: float = math.inf

    @property
    def known(self) -> bool:
        """Whether the problem tells it."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def wrong(self) -> bool:
        """Whether it is not 1."""
        return not self.low <= 1.0 <= self.high

    def __str__(self) -> str:
        if not self.known:
            return "unknown"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


UNKNOWN = Factor()


@displayed
@dataclass(frozen=True)
class Localisation:
    """Where an estimator's mean and the exact gradient part.

    Attributes
    ----------
    factors : mapping of str to Factor
        Of the gradient's two parts, `direct` and `through_follower`, and of the shares of tables.
    scale : Factor
        Of the whole gradient.
    residual : float
        What of the mean is in the span of no part, relative to the gradient's norm; what the noise
        makes of it on average is taken off. Infinite where nothing is known.
    directions : int
        In how many directions the parts point: with one, a single number is visible.
    untold : tuple of str
        Parts and tables of the gradient whose factors this problem does not tell.
    scaled, summed : bool
        Whether the mean is a multiple of the gradient, or a sum of multiples of its parts, but for
        chance.
    """

    factors: Mapping[str, Factor] = field(
        default_factory=lambda: MappingProxyType({DIRECT: UNKNOWN, THROUGH: UNKNOWN})
    )
    scale: Factor = UNKNOWN
    residual: float = math.inf
    directions: int = 0
    untold: tuple[str, ...] = ()
    scaled: bool = False
    summed: bool = False

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if math.isinf(self.residual):
            return
        if self.directions <= 1:
            yield f"one number is visible on this problem: the gradient times {self.scale}"
            return
        if self.scaled:
            yield f"the gradient times {self.scale}"
        elif self.scale.known:
            yield f"no multiple of the gradient; the nearest is times {self.scale}"
        known = {name: each for name, each in self.factors.items() if each.known}
        told = [
            f"{SPOKEN[name]} times {known[name]}" for name in (DIRECT, THROUGH) if name in known
        ]
        if told:
            yield ", ".join(told)
        tables = [
            f"{SPOKEN[name]} times {each}"
            for name, each in known.items()
            if name not in (DIRECT, THROUGH, "leader_policy") and each.wrong
        ]
        if tables:
            yield ", ".join(tables)
        if self.untold:
            names = ", ".join(SPOKEN[name] for name in self.untold)
            yield f"by what these are multiplied cannot be told on this problem: {names}"
        if not self.summed:
            yield f"outside what the parts can make: {self.residual:.3g} of the gradient's norm"


# What reports show of their localisation.
FACTORS = property(
    attrgetter("localisation.factors"),
    doc="By what the gradient's parts are multiplied in the mean; see `Localisation`.",
)
SCALE = property(attrgetter("localisation.scale"), doc="By what the whole gradient is.")
RESIDUAL = property(
    attrgetter("localisation.residual"),
    doc="Size of what no part can make, relative to the gradient's norm.",
)

Parts = Mapping[tuple[str, str], FloatArray]


@quiet
def parts_of(
    problem: BilevelProblem, theta: FloatArray, exact: Hypergradient | None = None
) -> Parts:
    """Take the exact gradient apart, by its two parts and the tables that theta moves, if not 0."""
    found = hypergradient(problem, theta) if exact is None else exact
    stations = found.model, found.response, found.evaluation
    measures = direct_sensitivities(*stations), indirect_sensitivities(*stations)
    return parts_from(problem, theta, *measures)


@quiet
def parts_from(
    problem: BilevelProblem, theta: FloatArray, direct: Sensitivities, indirect: Sensitivities
) -> Parts:
    """Take two measures apart, by the tables that theta moves; as `parts_of`."""
    shares = {
        (part, table): share
        for part, measures in ((DIRECT, direct), (THROUGH, indirect))
        for table, share in by_table(problem, theta, measures)
    }
    largest = max((float(np.abs(share).max()) for share in shares.values()), default=0.0)
    return {
        name: share for name, share in shares.items() if np.abs(share).max() > NOTHING * largest
    }


def by_table(
    problem: BilevelProblem, theta: FloatArray, measures: Sensitivities
) -> Iterator[tuple[str, FloatArray]]:
    """Pull back the measures of one table after the other, where they are not 0."""
    for table in TABLES:
        others = {name: 0.0 for name in TABLES if name != table}
        if _there(measures.model, measures, table, others):
            yield table, pulled_back(problem, theta, measures.times(others))


# A linear-quadratic model has several tables of a kind.
_there = by_kind(
    lambda _, measures, table, others: np.any(getattr(measures, table)),
    lambda _, measures, table, others: measures.times(others).size > 0.0,
)


@quiet
def localise(
    rows: FloatArray,
    parts: Parts,
    gradient: FloatArray,
    *,
    rounding: float,
    is_game: bool = False,
) -> Localisation:
    """Regress the mean of estimates, a row each, on the gradient's exact parts, as of `parts_of`.

    One row is an expectation that is known exactly. Gaps below `rounding`, relative to the largest
    entry, are rounding.
    """
    shares = {name: share for name, share in parts.items() if share.any()}
    if not shares or not np.isfinite(rows).all():
        return Localisation()
    unit = binary_scale(rows, gradient, *shares.values())
    sample = _Sample(rows / unit, rounding)
    atoms = {name: share / unit for name, share in shares.items()}
    whole, names = gradient / unit, list(atoms)
    of_part = {part: [name for name in names if name[0] == part] for part in (DIRECT, THROUGH)}
    of_table = {table: [name for name in names if name[1] == table] for table in TABLES}

    def fit(groups: Sequence[Sequence[tuple[str, str]]]) -> _Fit:
        columns = [sum((atoms[name] for name in group), np.zeros_like(whole)) for group in groups]
        return sample.fit(np.array(columns).T)

    singles = fit([[name] for name in names])
    halves = fit([group for group in of_part.values() if group])
    factors = {DIRECT: UNKNOWN, THROUGH: UNKNOWN}
    places = [part for part, group in of_part.items() if group]
    for place, part in enumerate(places):
        own, others = of_part[part], [[name] for name in names if name[0] != part]
        models = [(halves, place)]
        if len(others) > 1:
            models.append((fit([own, *others]), 0))
        spread = [singles.factor(names.index(name)) for name in own]
        factors[part] = _first_that_fits(models, spread)
    for table, group in of_table.items():
        if not group:
            continue
        rest = [[name] for name in names if name not in group]
        together = fit([group, *rest])
        spread = [singles.factor(names.index(name)) for name in group]
        factors[table] = spread[0]
        if len(group) > 1:
            # that its shares have one factor is a guess, unless something would contradict it
            tested = together.axes.shape[1] < singles.axes.shape[1]
            factors[table] = _first_that_fits([(together, 0)], spread) if tested else UNKNOWN
            for (part, _), factor in zip(group, spread, strict=True):
                factors[f"{part}_{table}"] = factor
    scaled = sample.fit(whole[:, None])
    scale = scaled.factor(0) if whole.any() else UNKNOWN
    there = [*places, *(table for table, group in of_table.items() if group)]
    untold = tuple(name for name in there if not factors[name].known)
    if is_game:
        factors["leader_policy"] = scale
    return Localisation(
        factors=MappingProxyType(factors),
        scale=scale,
        residual=sample.outside(singles.axes, whole),
        directions=singles.axes.shape[1],
        untold=untold,
        scaled=scaled.fits,
        summed=singles.fits,
    )


def _first_that_fits(models: Sequence[tuple[_Fit, int]], spread: Sequence[Factor]) -> Factor:
    """Take a factor from the smallest model that fits; else span what its shares have."""
    for model, place in models:
        if model.fits:
            return model.factor(place)
    found = models[0][0].factor(models[0][1])
    known = [found, *(each for each in spread if each.known)]
    low, high = min(each.low for each in known), max(each.high for each in known)
    return Factor(found.value, low, high)


class _Sample:
    """Replicates, in a unit in which squares stay finite."""

    def __init__(self, rows: FloatArray, rounding: float) -> None:
        self.rows, self.count, self.mean = rows, len(rows), rows.mean(axis=0)
        self.noise = rows - self.mean
        self.rounding = max(rounding, LEFT_OUT)

    def fit(self, columns: FloatArray) -> _Fit:
        """Explain the mean by columns, shape (d, k), by generalised least squares.

        With few coordinates that is least squares, and what the noise in the residual directions,
        whose mean is known to be 0, tells of the noise in the factors is taken off.
        """
        size = np.linalg.norm(columns, axis=0)
        usable = size > 0.0
        scaled = columns / np.where(usable, size, 1.0)
        turned, sizes, _ = np.linalg.svd(scaled, full_matrices=False)
        rank = int((sizes > TOLD_APART * sizes.max(initial=0.0)).sum())
        axes = turned[:, :rank]
        floor = self.rounding * max(float(np.abs(self.mean).max()), float(np.abs(columns).max()))
        few = len(axes) - rank <= max(0, self.count // REPLICATES_A_DIRECTION - rank)
        if self.count == 1:
            off = np.abs(self.mean - axes @ (axes.T @ self.mean)).max()
            return self._told(columns, axes, np.ones(len(self.mean)), floor, bool(off <= floor))
        if not few:
            weight = 1.0 / np.hypot(self.noise.std(axis=0), floor * math.sqrt(self.count) + 1e-300)
            weight /= weight.max()
            basis = np.linalg.qr(weight[:, None] * axes)[0]
            rest = weight * self.rows
            rest = rest - rest @ basis @ basis.T
            limit = student(MISFIT_RATE, max(1, self.count // 2 - 1))
            fits = far_off(rest, floor) <= limit
            return self._told(columns, axes, weight if fits else np.ones_like(weight), floor, fits)
        sideways = np.linalg.svd(scaled, full_matrices=True)[0][:, rank:]
        others = self.rows @ sideways
        fits, moving = _is_zero(others, floor)
        if fits and moving.shape[1]:
            return self._told(columns, axes, np.ones(len(self.mean)), floor, True, others @ moving)
        return self._told(columns, axes, np.ones(len(self.mean)), floor, fits)

    def _told(
        self,
        columns: FloatArray,
        axes: FloatArray,
        weight: FloatArray,
        floor: float,
        fits: bool,
        controls: FloatArray | None = None,
    ) -> _Fit:
        """Estimate the factors, and their errors, replicate by replicate."""
        weighted = weight[:, None] * columns
        size = np.linalg.norm(weighted, axis=0)
        size = np.where(size > 0.0, size, 1.0)
        inverse = np.linalg.pinv(weighted / size, rcond=TOLD_APART) / size[:, None]
        inverse = inverse * weight
        seen = inverse @ columns  # the identity, where all factors can be told
        apart = np.abs(seen - np.eye(len(seen))).max(axis=1) <= math.sqrt(TOLD_APART)
        right = columns.sum(axis=1)
        found = (self.rows - right) @ inverse.T + 1.0
        value, free, spread = found.mean(axis=0), self.count - 1, 1.0 / self.count
        noise = found - value
        if controls is not None:
            middle = controls.mean(axis=0)
            own = controls - middle
            slope = np.linalg.lstsq(own, noise, rcond=None)[0]
            value, noise = value - middle @ slope, noise - own @ slope
            free -= own.shape[1]
            spread += float(middle @ np.linalg.pinv(own.T @ own) @ middle)
        rounded = floor * np.abs(inverse).sum(axis=1)
        if free < 1:
            half = rounded
        else:
            variance = (noise**2).sum(axis=0) / free
            half = np.sqrt(variance * spread) * self._quantile(noise, free) + rounded
        return _Fit(value, half, apart, axes, fits)

    def _quantile(self, noise: FloatArray, free: int) -> FloatArray:
        """Student's quantile, and what skewness adds to it (theory.md section 7)."""
        plain = student((1.0 - CONFIDENCE) / 2.0, max(1, free))
        deviation = noise.std(axis=0)
        skew = (noise**3).mean(axis=0) / np.where(deviation > 0.0, deviation, 1.0) ** 3
        return np.asarray(
            plain + (2.0 * plain**2 + 1.0) / 6.0 * np.abs(skew) / math.sqrt(self.count)
        )

    def outside(self, axes: FloatArray, gradient: FloatArray) -> float:
        """Size of what is outside the axes' span, relative to the gradient's."""
        rest = self.mean - axes @ (axes.T @ self.mean)
        square = float(rest @ rest)
        if self.count > 1:
            noise = self.noise - self.noise @ axes @ axes.T
            square -= float((noise**2).sum()) / (self.count * (self.count - 1))
        size = float(np.linalg.norm(gradient)) or float(np.linalg.norm(self.mean))
        floor = self.rounding * max(size, float(np.linalg.norm(self.mean)))
        found = math.sqrt(max(square, 0.0))
        return found / size if found > floor and size > 0.0 else 0.0


@dataclass(frozen=True, eq=False)
class _Fit:
    """Factors of some columns with half the widths of their intervals, and which can be told apart.

    The columns span `axes`; the mean `fits` if it is in that, but for chance.
    """

    value: FloatArray  # shape (k,), as the next two
    half: FloatArray
    apart: FloatArray
    axes: FloatArray  # shape (d, r)
    fits: bool

    def factor(self, place: int) -> Factor:
        value, half = float(self.value[place]), float(self.half[place])
        if not self.apart[place] or not math.isfinite(half):
            return Factor(value)
        return Factor(value, value - half, value + half)


def _is_zero(rows: FloatArray, floor: float) -> tuple[bool, FloatArray]:
    """Whether the mean of rows is 0 but for chance, and the directions in which they vary."""
    count, width = rows.shape
    if width == 0:
        return True, np.zeros((0, 0))
    mean = rows.mean(axis=0)
    error = np.sqrt(((rows - mean) ** 2).sum(axis=0) / (count * (count - 1)))
    scale = np.where(error > floor, error, 1.0)
    covariance = np.cov(rows.T / scale[:, None], ddof=1).reshape(width, width) / count
    variance, turned = np.linalg.eigh(covariance)
    varies = variance > np.maximum(1e-10, (floor / scale.min()) ** 2)
    directions = (turned / scale[:, None])[:, varies]
    still = (turned / scale[:, None])[:, ~varies]
    lengths = np.linalg.norm(still, axis=0)
    if still.size and (np.abs(mean @ still) > 10.0 * floor * lengths * math.sqrt(width)).any():
        return False, directions
    rank = int(varies.sum())
    if rank == 0:
        return True, directions
    square = float(((mean @ directions) ** 2 / variance[varies]).sum())
    unit = rank * (count - 1) / (count - rank)
    return square <= unit * fisher(MISFIT_RATE, rank, count - rank), directions


def far_off(rest: FloatArray, floor: float) -> float:
    """How far the mean of replicates is from 0, in the direction in which it is by every other one.

    Student's t of the others, since that direction knows nothing of their noise.
    """
    direction = rest[::2].mean(axis=0)
    along = rest[1::2] @ direction
    error = np.hypot(along.std(ddof=1) / np.sqrt(along.size), floor * np.abs(direction).sum())
    return float(along.mean() / error) if error > 0.0 else 0.0
