"""Contexts: several followers, met by chance, and one theta for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_distribution, as_names, as_theta, finite_array
from tabular_bilevel._base.arrays import (
    ROUNDOFF,
    UNDERFLOW,
    FloatArray,
    quiet,
    read_only,
    restore_read_only,
)
from tabular_bilevel._base.files import brief
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.sensitivities import Sensitivities, SensitivityBounds
from tabular_bilevel.finite.tangents import stored
from tabular_bilevel.finite.union import places, side_by_side
from tabular_bilevel.problem import ForwardProblem, modelled, require_problem


@dataclass(frozen=True, eq=False, init=False)
class Contexts:
    """Several followers, each met with a probability, and one theta for all of them.

    The leader's objective is the mean over the contexts, J = sum_i weight_i J_i. The model is that
    of the contexts side by side: a state says in which context play is, and play begins in context
    i with probability weight_i. Nothing leads from one to another. So all that there is for a
    problem holds for contexts: exact gradients, bounds and enclosures, samples, checks.

    Discounts and temperature are those of all. A follower of a higher temperature is one of the
    common temperature with smaller rewards: only their ratio matters to it. Other discounts need
    a sum of objectives, which this is not.

    Source: Thoma et al. (NeurIPS 2024, arXiv:2406.01575), "contextual bilevel reinforcement
    learning"; theory.md section 3.

    Parameters
    ----------
    problems : sequence of BilevelProblem
        One a context, of the same theta. They may differ in all tables, numbers of states and
        actions included.
    weights : array_like, shape (k,), optional
        Probability of each; by default all alike.
    names : sequence of str, length k, optional
        What states are called by, in front of their own name.

    Attributes
    ----------
    n_parameters : int
        Length of theta, if the problems say so.
    parameter_names : tuple of str or None
        What the first problem calls the parameters.

    Raises
    ------
    ValueError
        If there is no problem, or they differ in their number of parameters; if the weights are no
        distribution, or two names are the same; at theta, if a discount or the temperature is not
        the same in all.

    Examples
    --------
    A driver in a hurry, for whom the quiet aisle costs more, every third time:

    >>> import tabular_bilevel as tb
    >>> calm, hurried = tb.problems.fork(), tb.problems.fork(cost=2.0)
    >>> problem = tb.Contexts([calm, hurried], weights=[2 / 3, 1 / 3], names=["calm", "hurried"])
    >>> both = tb.hypergradient(problem, [0.5])
    >>> alone = [tb.hypergradient(p, [0.5]).objective for p in (calm, hurried)]
    >>> print(round(both.objective, 9), round(2 / 3 * alone[0] + 1 / 3 * alone[1], 9))
    0.743123344 0.743123344
    >>> both.model.state_names, problem.n_parameters, problem.parameter_names
    (('calm: fork', 'hurried: fork'), 1, ('fork/quiet',))
    >>> tb.check_gradient(problem, [0.5]).passed
    True
    """

    problems: tuple[ForwardProblem, ...]
    weights: FloatArray
    names: tuple[str, ...] | None
    _last: tuple[bytes, list[Model]] | None = field(repr=False)

    __setstate__ = restore_read_only

    def __init__(
        self,
        problems: Sequence[Any],
        weights: npt.ArrayLike | None = None,
        *,
        names: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(problems, Iterable) or isinstance(problems, str):
            raise ValueError(f"problems is {brief(repr(problems))}, not a sequence of problems")
        each = tuple(problems)
        if not each:
            raise ValueError("problems is empty: there must be a context at least")
        for k, problem in enumerate(each):
            require_problem(problem, name=f"problems[{k}]")
        lengths = {k: getattr(problem, "n_parameters", None) for k, problem in enumerate(each)}
        known = {k: length for k, length in lengths.items() if length is not None}
        for k, length in known.items():
            first = min(known)
            if length != known[first]:
                raise ValueError(
                    f"problems[{k}] has {length} parameters, and problems[{first}] {known[first]}: "
                    "contexts share theta"
                )
        size = len(each)
        given = np.full(size, 1.0 / size) if weights is None else weights
        object.__setattr__(self, "problems", each)
        object.__setattr__(self, "weights", read_only(as_distribution("weights", given, size)))
        object.__setattr__(self, "_last", None)
        object.__setattr__(self, "names", as_names("names", names, size, distinct=True))

    @property
    def n_parameters(self) -> int:
        """Length of theta."""
        said = (getattr(problem, "n_parameters", None) for problem in self.problems)
        found = next((length for length in said if length is not None), None)
        if found is None:
            raise AttributeError("no context's problem has an n_parameters")
        return int(found)

    @property
    def parameter_names(self) -> Any:
        """What the first problem calls the parameters."""
        return getattr(self.problems[0], "parameter_names", None)

    @quiet
    def model(self, theta: npt.ArrayLike) -> Model:
        """Build the contexts' models side by side at theta, as of `BilevelProblem`.

        Raises ValueError also if a discount or the temperature is not the same in all.
        """
        at = as_theta(theta)
        models = self._fresh(at)
        object.__setattr__(self, "_last", (at.tobytes(), models))
        return side_by_side(models, self.weights, self.names)

    @quiet
    def pullback(self, theta: npt.ArrayLike, sensitivities: Sensitivities) -> FloatArray:
        """Add up what the contexts pull back, as of `BilevelProblem`."""
        at = as_theta(theta)
        pulled = [one.pullback(at, part) for one, part in shares(self, at, sensitivities)]
        return np.asarray(finite_array("pullback(...)", pulled, (len(pulled), at.size)).sum(axis=0))

    @quiet
    def pushforward(self, theta: npt.ArrayLike, direction: npt.ArrayLike) -> Tangent:
        """Differentiate the contexts' tables along a direction of theta, as of `ForwardProblem`.

        Raises ValueError if theta moves the temperature of one context otherwise than of the first.
        """
        at, way = as_theta(theta), as_theta(direction, name="direction")
        models = self._models_at(at)
        tangents = [problem.pushforward(at, way) for problem in self.problems]
        joint = Tangent.zero(side_by_side(models, self.weights))
        for k, (place, weight, tangent) in enumerate(
            zip(places(models), self.weights, tangents, strict=True)
        ):
            if tangent.temperature != tangents[0].temperature:
                raise ValueError(
                    f"problems[{k}] moves the temperature by {tangent.temperature:g}, and "
                    f"problems[0] by {tangents[0].temperature:g}: contexts share it"
                )
            joint.follower_reward[place.pairs] = tangent.follower_reward
            joint.leader_reward[place.pairs] = tangent.leader_reward
            joint.transition[place.entries] = stored(tangent.transition, models[k])
            joint.initial[place.states] = weight * tangent.initial
        return replace(joint, temperature=tangents[0].temperature)

    def _models_at(self, theta: FloatArray) -> list[Model]:
        """Return the contexts' own models; at the theta that `model` last built, those."""
        last = self._last
        return last[1] if last and last[0] == theta.tobytes() else self._fresh(theta)

    def _fresh(self, theta: FloatArray) -> list[Model]:
        return [
            modelled(problem, theta, name=f"problems[{k}]")
            for k, problem in enumerate(self.problems)
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def __str__(self) -> str:
        return f"Contexts: {len(self.problems)} followers, with weights {self.weights}"


def shares(
    contexts: Contexts, theta: FloatArray, measures: Sensitivities
) -> Iterator[tuple[ForwardProblem, Sensitivities]]:
    """Share out measures among the contexts; that of the common temperature is the first's."""
    models = contexts._models_at(theta)
    for k, (place, model) in enumerate(zip(places(models), models, strict=True)):
        part = Sensitivities.of(
            model,
            follower_reward=measures.follower_reward[place.pairs],
            leader_reward=measures.leader_reward[place.pairs],
            transition=measures.transition[place.entries],
            initial=contexts.weights[k] * measures.initial[place.states],
            temperature=0.0 if k else lambda: measures.temperature,
        )
        yield contexts.problems[k], part


def shares_of_bounds(
    contexts: Contexts, theta: FloatArray, measures: Sensitivities, bounds: SensitivityBounds
) -> Iterator[SensitivityBounds]:
    """Bound how far `shares` are off; a weight's product rounds."""
    weighted = 1.0 + 4.0 * ROUNDOFF
    for k, place in enumerate(places(contexts._models_at(theta))):
        weight, off = contexts.weights[k], bounds.initial[place.states]
        size = np.abs(measures.initial[place.states])
        yield SensitivityBounds(
            follower_reward=bounds.follower_reward[place.pairs],
            leader_reward=bounds.leader_reward[place.pairs],
            transition=bounds.transition[place.entries],
            transition_shift=bounds.transition_shift[place.pairs],
            initial=weight * (off * weighted + 4.0 * ROUNDOFF * size) + UNDERFLOW,
            initial_shift=float(weight * bounds.initial_shift * weighted) + UNDERFLOW,
            temperature=0.0 if k else bounds.temperature,
        )
