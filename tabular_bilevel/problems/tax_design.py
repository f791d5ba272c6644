"""Tax design: households that work and consume, a leader that sets four tax rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tabular_bilevel._base.arguments import as_positive, as_theta, finite_array, positive_integer
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.problems.contexts import Contexts
from tabular_bilevel.problems.reparametrised import Box, Reparametrised

# The published configuration's numbers; assets are kept within the range.
RANGE, NOISE, START_VARIANCE = 100.0, 5.0, 2.0
MOST_HOURS, MOST_CONSUMPTION, WAGE = 9 * 0.89, 5.0, 1.0
DISUTILITY, CONSUMPTION_SCALE, TAX_SCALE, SAVING = 0.1, 15.0, 5.0, 20.0
DISCOUNT, HIGHEST_RATE, PREFERENCES = 0.9, 2.0, ((0.6, 0.3, 0.1), (0.1, 0.7, 0.2))

# Standard deviations of the noise beyond which nothing is kept: a chance of 1e-15.
REACH = 8.0


def tax_design(
    temperature: float = 0.1,
    *,
    n_assets: int = 41,
    n_hours: int = 10,
    n_levels: int = 5,
    preferences: Sequence[Sequence[float]] = PREFERENCES,
) -> Reparametrised:
    r"""Build the tax design problem, its assets on a grid.

    A household with assets x works h hours and consumes c_i of three goods. It gets ::

        u(x) - 0.1 h^2 + prod_i ( c_i / (1 + tau_i) )^p_i,    u(x) = log(1 + x/20) for x > 0, else x

    and moves on to x + (1 - tau_0) h - sum c_i, within [-100, 100], plus normal noise of standard
    deviation 5, truncated to that range. It begins with normal assets of variance 2. Households
    with other tastes p are other followers: see `Contexts`. The leader sets the taxes tau_1, tau_2,
    tau_3 on goods and tau_0 on income, each 2 sigmoid(theta), for ::

        min(x, 0) + 15 mean_i( c_i / (1 + tau_i) ) / 5
            + 5 log( 1 + sum_i tau_i c_i / (1 + tau_i) + tau_0 h )

    Both discounts are 0.9. On the grid, values between two assets are read by linear interpolation,
    so what the grid changes falls with the square of its step. At rates of 0.3 and with all actions
    J is 29.154 with 41 assets, 28.846 with 81, and some 28.74 without a grid. The best rates that
    are known, by `polish` from several starts, are 0.618 on income and none on goods: J is 37.990
    with 41 assets. From an income tax of 1 on nobody works, and J is flat.

    Source: Thoma et al. (NeurIPS 2024, arXiv:2406.01575); numbers as in the configuration files of
    their code, which give the leader no share in assets, but all of a debt. There assets are no
    grid, episodes are cut after 200 steps, and the follower is a network that chooses hours and
    goods independently of each other.

    Parameters
    ----------
    temperature : float
        Temperature of the follower; published are 0.1, 0.2 and 0.3.
    n_assets : int
        Points of the grid, an odd number of at least 3; 41 are 5 apart.
    n_hours, n_levels : int
        Hours from 0 to 8.01 and consumptions from 0 to 5 that there are, as many as published by
        default: together 1250 actions. With 1 there is only 0.
    preferences : sequence of (float, float, float)
        A taste for each kind of household, all as likely; by default the two published ones.

    Returns
    -------
    Reparametrised
        With 4 parameters, of the goods' taxes and the income tax; theta = 0 are rates of 1.

    Raises
    ------
    ValueError
        If a setting is out of range or not finite.

    Examples
    --------
    A small one, with 32 actions, at rates of 0.3:

    >>> import tabular_bilevel as tb
    >>> problem = tb.problems.tax_design(n_assets=21, n_hours=4, n_levels=2)
    >>> theta = problem.transform.logits([0.3, 0.3, 0.3, 0.3])
    >>> result = tb.hypergradient(problem, theta)
    >>> print(round(result.objective, 4), result.gradient.round(4))
    24.3643 [-1.0086 -1.4462 -0.4252 10.1013]
    """
    n_points = positive_integer("n_assets", n_assets)
    if n_points < 3 or n_points % 2 == 0:
        raise ValueError(f"n_assets is {n_points}, not an odd number of at least 3")
    tastes = finite_array("preferences", preferences, (None, 3))
    if not (tastes > 0.0).all():
        raise ValueError(f"preferences are {tastes.tolist()}, not all above 0")
    hours = np.linspace(0.0, MOST_HOURS, positive_integer("n_hours", n_hours))
    levels = np.linspace(0.0, MOST_CONSUMPTION, positive_integer("n_levels", n_levels))
    actions = np.stack(np.meshgrid(hours, levels, levels, levels, indexing="ij"), -1).reshape(-1, 4)
    shared = n_points, read_only(actions), as_positive("temperature", temperature)
    households = [Household(*shared, read_only(taste)) for taste in tastes]
    names = [f"household {k}" for k in range(len(households))]
    rates = Box(np.zeros(4), np.full(4, HIGHEST_RATE))
    one = households[0] if len(households) == 1 else Contexts(households, names=names)
    return Reparametrised(one, rates)


@dataclass(frozen=True, eq=False)
class Household:
    """A household's problem in the four rates: three goods' and the income's."""

    n_assets: int  # points of the grid
    actions: FloatArray  # hours and three consumptions of each, shape (A, 4)
    temperature: float
    taste: FloatArray  # exponents of the goods, shape (3,)
    n_parameters: int = field(default=4, init=False)
    parameter_names: tuple[str, ...] = field(
        default=("tax on good 1", "tax on good 2", "tax on good 3", "income tax"), init=False
    )

    @quiet
    def model(self, theta: npt.ArrayLike) -> Model:
        """Build the model at rates theta, shape (4,)."""
        rates = as_theta(theta, 4)
        x, (kernel, _) = self._assets[:, None], self._moves(rates)
        saved = np.where(x > 0.0, np.log1p(np.maximum(x, 0.0) / SAVING), x)
        effort = DISUTILITY * self.actions[:, 0] ** 2
        return Model.from_tables(
            transition=kernel,
            follower_reward=saved - effort + self._enjoyed(rates),
            leader_reward=np.minimum(x, 0.0) + self._welfare(rates)[0],
            initial=_first_assets(self.n_assets),
            follower_discount=DISCOUNT,
            leader_discount=DISCOUNT,
            temperature=self.temperature,
            state_names=[f"{asset:g}" for asset in self._assets],
        )

    @quiet
    def pushforward(self, theta: npt.ArrayLike, direction: npt.ArrayLike) -> Tangent:
        """Differentiate the tables along a direction of the rates, shape (4,)."""
        rates, way = as_theta(theta, 4), as_theta(direction, 4, name="direction")
        shape = self.n_assets, len(self.actions)
        return Tangent(
            follower_reward=np.broadcast_to(self._tastes(rates) @ way, shape),
            leader_reward=np.broadcast_to(self._welfare(rates)[1] @ way, shape),
            transition=way[3] * self._moves(rates)[1],
            initial=np.zeros(self.n_assets),
        )

    @quiet
    def pullback(self, theta: npt.ArrayLike, sensitivities: Sensitivities) -> FloatArray:
        """Pull sensitivities back to the rates, shape (4,)."""
        rates = as_theta(theta, 4)
        found = sensitivities.follower_reward.sum(axis=0) @ self._tastes(rates)
        found += sensitivities.leader_reward.sum(axis=0) @ self._welfare(rates)[1]
        found[3] += sensitivities.transition @ self._moves(rates)[1]
        return np.asarray(found)

    @cached_property
    def _assets(self) -> FloatArray:
        return np.linspace(-RANGE, RANGE, self.n_assets)

    def _enjoyed(self, rates: FloatArray) -> FloatArray:
        """Value consumption as the household does, shape (A,)."""
        return np.asarray(((self.actions[:, 1:] / (1.0 + rates[:3])) ** self.taste).prod(axis=1))

    def _tastes(self, rates: FloatArray) -> FloatArray:
        """Differentiate that in the rates, shape (A, 4)."""
        slopes = np.append(-self.taste / (1.0 + rates[:3]), 0.0)
        return np.asarray(self._enjoyed(rates)[:, None] * slopes)

    def _welfare(self, rates: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Value actions as the leader does, shape (A,), and differentiate that, shape (A, 4)."""
        net = self.actions[:, 1:] / (1.0 + rates[:3])
        earned = WAGE * self.actions[:, 0]
        taxes = 1.0 + net @ rates[:3] + rates[3] * earned
        scale = CONSUMPTION_SCALE / (3.0 * MOST_CONSUMPTION)
        welfare = scale * net.sum(axis=1) + TAX_SCALE * np.log(taxes)
        by_goods = (TAX_SCALE / taxes[:, None] - scale) * net / (1.0 + rates[:3])
        return welfare, np.column_stack([by_goods, TAX_SCALE * earned / taxes])

    def _moves(self, rates: FloatArray) -> tuple[sp.csr_array, FloatArray]:
        """Kernel, and the derivative of its entries in the income tax."""
        return _moves(self.n_assets, self.actions.shape, self.actions.tobytes(), float(rates[3]))


@lru_cache(maxsize=1)
def _moves(
    n_assets: int, shape: tuple[int, int], actions: bytes, income_tax: float
) -> tuple[sp.csr_array, FloatArray]:
    """Move assets; remembered, as all households move alike."""
    table = np.frombuffer(actions).reshape(shape)
    earned, spent = WAGE * table[:, 0], table[:, 1:].sum(axis=1)
    # Few actions differ in what they do to assets.
    kinds, kind = np.unique(np.stack([earned, spent], axis=1), axis=0, return_inverse=True)
    drift = (1.0 - income_tax) * kinds[:, 0] - kinds[:, 1]
    aim = np.linspace(-RANGE, RANGE, n_assets)[:, None] + drift
    inside = np.abs(aim) < RANGE
    step = 2.0 * RANGE / (n_assets - 1)
    width = min(n_assets, 2 * math.ceil(REACH * NOISE / step) + 2)
    first, chance, slope = _hats(np.clip(aim, -RANGE, RANGE).ravel(), NOISE, n_assets, width)
    slope *= np.where(inside, -kinds[:, 0], 0.0).ravel()[:, None]
    rows = (np.arange(n_assets)[:, None] * len(kinds) + kind.ravel()).ravel()
    columns = first[rows, None] + np.arange(width)
    kernel = sp.csr_array(
        (chance[rows].ravel(), columns.ravel(), np.arange(len(rows) + 1) * width),
        shape=(len(rows), n_assets),
    )
    return kernel, read_only(slope[rows].ravel())


def _first_assets(n_assets: int) -> FloatArray:
    chance = _hats(np.zeros(1), math.sqrt(START_VARIANCE), n_assets, n_assets)[1]
    return np.asarray(chance[0])


def _hats(
    mean: FloatArray, deviation: float, n_points: int, width: int
) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray]:
    """Average the grid's hat functions under normal laws, truncated to the range.

    Hat i is 1 at point i, 0 at the others and linear between, so that these averages are the
    chances of a jump to the points by which linear interpolation is exact. Looked at are `width`
    points next to each mean. Returns the first of them, shape (n,), the averages and their
    derivatives in the mean, shape (n, width).
    """
    from scipy import special

    step = 2.0 * RANGE / (n_points - 1)
    nearest = np.floor((mean + RANGE) / step).astype(np.int64)
    first = np.clip(nearest - (width - 1) // 2, 0, n_points - width)
    place = first[:, None] + np.arange(-1, width + 1)
    z = (np.clip(place, 0, n_points - 1) * step - RANGE - mean[:, None]) / deviation
    below, above = place < 0, place >= n_points  # beyond the range
    # The law's second integral, whose second differences are the averages. It is taken from the
    # nearer tail, where it is small: no digits are lost.
    density = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    left, right = special.ndtr(z), special.ndtr(-z)
    from_left = deviation * (density + z * left) - step * left * below
    from_right = deviation * (density - z * right) - step * right * above
    left_slope = -left + step * density / deviation * below
    right_slope = right - step * density / deviation * above
    nearer = (z < 0.0) | (place == 0)
    a, b = (-RANGE - mean) / deviation, (RANGE - mean) / deviation
    mass = (special.ndtr(b) - special.ndtr(a))[:, None]
    ends = np.exp(-0.5 * np.stack([a, b]) ** 2) / math.sqrt(2.0 * math.pi)
    thinner = ((ends[0] - ends[1]) / deviation)[:, None] / mass

    def averages(from_left: FloatArray, from_right: FloatArray) -> FloatArray:
        differences = (x[:, 2:] - 2.0 * x[:, 1:-1] + x[:, :-2] for x in (from_left, from_right))
        return np.asarray(np.where(nearer[:, 1:-1], *differences) / (step * mass))

    chance = averages(from_left, from_right)
    return first, chance, averages(left_slope, right_slope) - chance * thinner
