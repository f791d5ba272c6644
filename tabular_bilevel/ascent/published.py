"""The published ascents: where they start, what they climb with, how far they go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tabular_bilevel._base.arguments import positive_integer, require_method
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel._base.files import brief
from tabular_bilevel._base.generators import require_whole
from tabular_bilevel.ascent.ascent import Iteration, ascend
from tabular_bilevel.ascent.optimisers import GradientAscent, Optimiser
from tabular_bilevel.estimators.contract import as_estimator
from tabular_bilevel.estimators.register import METHODS, Setting
from tabular_bilevel.problem import AnyProblem

# Of the normal that the first theta is drawn from: the papers' start.
START_SPREAD = 0.01


def first_theta(seed: int, n_parameters: int) -> FloatArray:
    """Draw where a seed's ascent starts in the papers, near 0, shape (d,)."""
    return np.random.default_rng([seed, 1]).normal(0.0, START_SPREAD, n_parameters)


@dataclass(frozen=True)
class Recipe:
    """An ascent to be made on any problem: with what, how, and how long.

    Attributes
    ----------
    method : Estimator or callable
        Where gradients come from, in any form that `ascend` takes.
    optimiser : Optimiser
        How theta moves along them.
    n_iterations : int
        When to stop.

    Raises
    ------
    ValueError
        On construction, if the method cannot be called, or a setting is out of range.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> recipe = tb.Recipe(tb.ExactGradient(), tb.Adam(0.1), n_iterations=3)
    >>> problem = tb.problems.two_state()
    >>> steps = list(recipe.climb(problem, recipe.start(problem, seed=0), rng=0))
    >>> len(steps), steps[-1].objective > steps[0].objective
    (3, True)
    """

    method: Any
    optimiser: Optimiser
    n_iterations: int

    def __post_init__(self) -> None:
        as_estimator(self.method, name="method")
        require_method("optimiser", self.optimiser, "step")
        positive_integer("n_iterations", self.n_iterations)

    def start(self, problem: Any, seed: int) -> FloatArray:
        """Draw where this seed's ascent starts in the papers: near 0, shape (d,).

        Parameters
        ----------
        problem : BilevelProblem
            A problem that has `n_parameters`.
        seed : int
            At least 0.

        Returns
        -------
        ndarray, shape (d,)
            The start.

        Raises
        ------
        ValueError
            If the problem does not say how many parameters it has, or the seed is no whole number
            of 64 bits.
        """
        size = getattr(problem, "n_parameters", None)
        require_whole("seed", seed, 0, 2**64 - 1)
        return first_theta(seed, positive_integer("problem.n_parameters", size))

    def climb(
        self, problem: AnyProblem, theta: Any, *, rng: np.random.Generator | int
    ) -> Iterator[Iteration]:
        """Climb from theta with the recipe's settings, as `ascend` does."""
        return ascend(
            problem, theta, self.method, self.optimiser, rng=rng, n_iterations=self.n_iterations
        )


def published(name: str, setting: Setting | None = None) -> Recipe:
    """Make a method's ascent as it was published for four rooms.

    Each iteration sees 100 steps of data, of episodes of at most 200. Learned critics move by half
    of the difference. The gradient is shortened to length 1 where it is longer, and theta moves by
    a tenth of it, 10,000 times. The published simulator slips less than the planner thinks; here
    both agree, unless the setting names a simulator.

    Parameters
    ----------
    name : str
        The method: one of `tabular_bilevel.estimators.register.METHODS`, such as "bchg".
    setting : Setting, optional
        Other data, critic or simulator.

    Returns
    -------
    Recipe
        The ascent; `dataclasses.replace` changes its parts.

    Raises
    ------
    ValueError
        If no method has this name.

    Examples
    --------
    Five iterations on four rooms, from the start that seed 3 has in the papers:

    >>> import dataclasses
    >>> import tabular_bilevel as tb
    >>> problem, recipe = tb.problems.four_rooms(), tb.published("bchg")
    >>> short = dataclasses.replace(recipe, n_iterations=5)
    >>> *_, last = short.climb(problem, recipe.start(problem, seed=3), rng=3)
    >>> last.iteration, recipe.n_iterations
    (4, 10000)
    """
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"method is {name!r}, not one of {', '.join(METHODS)}")
    if not isinstance(setting, Setting | None):
        raise ValueError(f"setting is {brief(repr(setting))}, not a Setting")
    method = METHODS[name](setting or Setting())
    return Recipe(method, GradientAscent(0.1, 1.0), 10_000)
