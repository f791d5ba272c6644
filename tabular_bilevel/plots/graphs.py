"""A small model as a graph: states, and the actions that lead from one to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch
from matplotlib.path import Path

from tabular_bilevel._base.arguments import as_action_names, as_names
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.certify.accuracy import Estimated
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.finite.model import Model
from tabular_bilevel.plots import style
from tabular_bilevel.plots.given import as_numbers, as_policy, as_sizes
from tabular_bilevel.problem import BilevelProblem, require_tables

# What a column has room for.
MOST_STATES, MOST_ACTIONS = 10, 16

# Radii of states, room for a name; the ring that they stand on has the radius 1.
LARGEST, SMALLEST = 0.3, 0.15

# Widths of arrows in points, of probability 0 and 1.
THIN, WIDE = 0.6, 3.6

# How far arrows bend, as a share of their length, and the angle between a state's loops; of many,
# that of all together.
BEND, FAN, WHEEL = 0.22, 75.0, 330.0

# Length of a loop, of an arrow to the end of the episode, and of a branch there.
LOOP, END, STUB = 0.75, 0.9, 0.35

# Least width and height of a picture, and what is added at each side.
SPAN, MARGIN = np.array([2.6, 1.0]), 0.12

# Along a curve, from 0 to 1.
T = np.linspace(0.0, 1.0, 101)[:, None]

# A number below this share of the largest is written as 0.
ROUNDING = 1e-12

PLAIN, PALE = "#555555", "#E8E8E8"
# Places of a name along its arrow, in order of preference; and its size: of a letter, of a line.
PLACES, LETTER, LINE = (0.5, 0.38, 0.62, 0.28, 0.72), 0.062, 0.15

LABEL = {"facecolor": "#FFFFFF", "edgecolor": "none", "pad": 0.8}
HALO = [patheffects.withStroke(linewidth=1.5, foreground=PALE)]


def graph(
    model: Model,
    *,
    policy: npt.ArrayLike | None = None,
    occupancy: npt.ArrayLike | None = None,
    measure: npt.ArrayLike | None = None,
    states: Sequence[str] | None = None,
    actions: Sequence[str] | Sequence[Sequence[str]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a small model as a graph: an arrow for each action, which splits at the action's name.

    A branch is as wide as its successor is likely, and one to a small square ends the episode.

    Parameters
    ----------
    model : Model
        At most 10 states and 16 actions in all.
    policy : array_like, shape (S, A), optional
        Probability of each action: the width of its arrow.
    occupancy : array_like, shape (S,), optional
        The area of a state is proportional to it, but there is always room for its name.
    measure : array_like, shape (S, A), optional
        A signed number for each action, such as ``sensitivities.follower_reward``: written beside
        its name; its arrows are orange below 0, blue above.
    states : sequence of str, length S, optional
        Names; by default the model's, or numbers.
    actions : sequence of str, length A, or one such sequence a state, optional
        Names; by default the model's, or numbers.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on new axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ValueError
        If the model is too large, or what is drawn on it does not fit it.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.two_state().model([0.0, 0.0])
    >>> ax = tb.plots.graph(model, states=["here", "there"])
    >>> sorted(text.get_text() for text in ax.texts)[-2:]
    ['here', 'there']
    """
    require_tables(model, name="model")
    n_states, n_actions = model.n_states, model.n_actions
    pairs = [(int(s), int(a)) for s, a in np.argwhere(model.available)]
    for what, n, most in (("states", n_states, MOST_STATES), ("actions", len(pairs), MOST_ACTIONS)):
        if n > most:
            raise ValueError(f"the model has {n} {what}; a graph has room for {most}")
    state_names = as_names("states", states, n_states) or model.state_names
    names = as_action_names("actions", actions, (n_states, n_actions)) or model.action_names
    probability, size, number = None, np.ones(n_states), None
    if policy is not None:
        probability = as_policy("policy", policy, (n_states, n_actions))
    if occupancy is not None:
        size = as_sizes("occupancy", occupancy, (n_states,))
    if measure is not None:
        number = as_numbers("measure", measure, (n_states, n_actions))
        number[np.abs(number) <= ROUNDING * np.abs(number).max()] = 0.0
    ax = style.axes(ax, 1.6 if n_states <= 2 else 2.6)
    area = size / (size.max(initial=0.0) or 1.0)
    radius = np.maximum(LARGEST * np.sqrt(area), SMALLEST)
    centre = _ring(n_states)
    ax.set_aspect("equal")
    ax.set_axis_off()
    successors = {pair: _successors(model, *pair) for pair in pairs}
    staying = Counter(s for (s, _), to in successors.items() if not _away(s, to))
    board = _Board(centre, radius, staying)
    for pair in pairs:
        chance = 1.0 if probability is None else float(probability[pair])
        words, colour = names[pair[0]][pair[1]] if names else str(pair[1]), PLAIN
        if number is not None:
            colour = {1.0: style.BLUE, -1.0: style.ORANGE}.get(np.sign(number[pair]), PLAIN)
            told = f"{number[pair]:+.3g}" if number[pair] else "0"
            words += f" ({told})".replace("-", "\u2212")
        trunk, hub, branches = board.route(pair[0], successors[pair], len(words))
        _arrow(ax, trunk, _width(chance), colour, head=False)
        for curve, share, ends in branches:
            _arrow(ax, curve, _width(chance * share), colour, head=True)
            if ends:
                ax.plot(*curve[-1], marker="s", ms=5, color=style.DARK)
        _text(ax, hub, words, bbox=LABEL)
    for state, name in enumerate(state_names or map(str, range(n_states))):
        ax.add_patch(
            Circle(centre[state], radius[state], facecolor=PALE, edgecolor=style.DARK, lw=1.0)
        )
        visits = "" if occupancy is None else f"\n{size[state]:.3g}"
        _text(ax, centre[state], name + visits, path_effects=HALO)
    board.fit(ax)
    return ax


def influence_graph(
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    *,
    states: Sequence[str] | None = None,
    actions: Sequence[str] | Sequence[Sequence[str]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a small problem at theta as a graph: policy, discounted visits, and influence.

    The number at an action is dJ/dr_F, what one more unit of the follower's reward for it would
    earn the leader through the follower's answer.

    Parameters
    ----------
    problem : BilevelProblem
        At most 10 states and 16 actions in all.
    theta : array_like, shape (d,)
        The leader's parameter.
    states, actions : sequence of str, optional
        Names, as for `graph`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on new axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ValueError
        As `graph`; if theta does not fit the problem.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> ax = tb.plots.influence_graph(tb.problems.two_state(), [0.0, 0.0], states=["home", "work"])
    >>> [text.get_text() for text in ax.texts][:2]
    ['0 (−1.45)', '1 (+0.551)']
    """
    found = hypergradient(problem, theta, accuracy=Estimated())
    require_tables(found.model)
    return graph(
        found.model,
        policy=found.response.policy,
        occupancy=found.visits,
        measure=found.sensitivities.follower_reward,
        states=states,
        actions=actions,
        ax=ax,
    )


def _width(share: float) -> float:
    return THIN + (WIDE - THIN) * share


def _successors(model: Model, state: int, action: int) -> list[tuple[int | None, float]]:
    """List where an action may lead, None for the end, and how likely."""
    row = state * model.n_actions + action
    entries = slice(model.transition.indptr[row], model.transition.indptr[row + 1])
    found: list[tuple[int | None, float]] = [
        (int(to), float(p))
        for to, p in zip(
            model.transition.indices[entries], model.transition.data[entries], strict=True
        )
        if p > 0.0
    ]
    end = float(model.termination[state, action])
    return [*found, (None, end)] if end > 0.0 else found


def _away(
    state: int, successors: Sequence[tuple[int | None, float]]
) -> list[tuple[int | None, float]]:
    """List the successors that are other states."""
    return [one for one in successors if one[0] not in (state, None)]


def _ring(n: int) -> FloatArray:
    """Places on a ring, from the left; a single one in the middle."""
    angle = np.pi - 2.0 * np.pi * np.arange(n) / n
    return np.column_stack([np.cos(angle), np.sin(angle)]) * (1.0 if n > 1 else 0.0)


class _Board:
    """Where states are, and which ways are taken: arrows of the same ends bend apart.

    So do those of a state that lead to no other; `staying` says how many there are.
    """

    def __init__(self, centre: FloatArray, radius: FloatArray, staying: Mapping[int, int]) -> None:
        self.centre, self.radius, self.staying = centre, radius, staying
        self._taken: Counter[tuple[int, int | None]] = Counter()
        self._words: list[tuple[FloatArray, float]] = []
        self._points: list[FloatArray] = [centre - radius[:, None], centre + radius[:, None]]

    def route(
        self, state: int, successors: Sequence[tuple[int | None, float]], letters: int
    ) -> tuple[FloatArray, FloatArray, list[tuple[FloatArray, float, bool]]]:
        """Lay the arrow of an action: its trunk, where it splits, and a branch a successor.

        The trunk and the branch to the likeliest other state are one curve; it splits at the name,
        where there is room for so many letters.
        """
        main = max(_away(state, successors) or successors, key=lambda one: one[1])
        whole = self._curve(state, main[0])
        middle = self._free(whole, letters * LETTER)
        hub = whole[middle]
        branches = []
        for to, share in successors:
            if to == main[0]:
                curve = whole[middle:]
            elif to is None:
                curve = _straight(hub, hub + STUB * _unit(self._outward(state)))
            else:
                bent = _bent(hub, self.centre[to], 0.25 if to == state else 0.1)
                curve = _outside(bent, self.centre[to], self.radius[to])
            branches.append((curve, share, to is None))
        self._points += [whole, *(curve for curve, _, _ in branches)]
        return whole[: middle + 1], hub, branches

    def fit(self, ax: Axes) -> None:
        """Set limits around everything, with room for words at the sides."""
        halves = np.array([[width / 2.0, 0.0] for _, width in self._words])
        words = np.array([place for place, _ in self._words])
        points = np.vstack([*self._points, words - halves, words + halves])
        low, high = points.min(axis=0), points.max(axis=0)
        room = np.maximum(SPAN - (high - low), 0.0) / 2.0 + MARGIN
        ax.set_xlim(low[0] - room[0], high[0] + room[0])
        ax.set_ylim(low[1] - room[1], high[1] + room[1])

    def _free(self, curve: FloatArray, width: float) -> int:
        """Find a point of a curve where a name hides no other, or the middle."""
        points = [int(share * (len(curve) - 1)) for share in PLACES]
        for point in points:
            away = (np.abs(curve[point] - place) for place, _ in self._words)
            sides = (np.array([(width + other) / 2.0, LINE]) for _, other in self._words)
            if all((gap > side).any() for gap, side in zip(away, sides, strict=True)):
                break
        else:
            point = points[0]
        self._words.append((curve[point], width))
        return point

    def _outward(self, state: int) -> float:
        """Find the angle away from the ring's middle; in the middle, to the right."""
        x, y = self.centre[state]
        return float(np.arctan2(y, x)) if x or y else 0.0

    def _curve(self, state: int, to: int | None) -> FloatArray:
        """Lead from a state's rim to another's, back to its own, or to the end."""
        here, radius = self.centre[state], self.radius[state]
        if to is None or to == state:
            before, count = self._taken[state, None], self.staying[state]
            self._taken[state, None] += 1
            turn = np.radians(min(FAN, WHEEL / count)) * ((count - 1) / 2.0 - before)
            way = self._outward(state) + turn
            if to is None:
                return _straight(here + radius * _unit(way), here + (radius + END) * _unit(way))
            spread = np.radians(28.0)
            length = (radius + LOOP) / (0.75 * np.cos(spread))
            one, two = (here + length * _unit(way + turn) for turn in (-spread, spread))
            loop = (T**3 + (1 - T) ** 3) * here + 3 * T * (1 - T) * ((1 - T) * one + T * two)
            return _outside(loop, here, radius)
        bend = BEND * (1.0 + 1.6 * self._taken[state, to])
        self._taken[state, to] += 1
        curve = _bent(here, self.centre[to], bend)
        return _outside(_outside(curve, here, radius), self.centre[to], self.radius[to])


def _unit(angle: float) -> FloatArray:
    return np.array([np.cos(angle), np.sin(angle)])


def _straight(here: FloatArray, there: FloatArray) -> FloatArray:
    return np.asarray(here + T * (there - here))


def _bent(here: FloatArray, there: FloatArray, bend: float) -> FloatArray:
    """Bend a line to its left by a share of its length."""
    along = there - here
    middle = (here + there) / 2.0 + bend * np.array([-along[1], along[0]])
    return np.asarray((1 - T) ** 2 * here + 2 * T * (1 - T) * middle + T**2 * there)


def _outside(curve: FloatArray, centre: FloatArray, radius: float) -> FloatArray:
    """Keep the points of a curve that are outside of a circle."""
    return np.asarray(curve[np.linalg.norm(curve - centre, axis=1) >= radius])


def _arrow(ax: Axes, curve: FloatArray, width: float, colour: str, *, head: bool) -> None:
    ax.add_patch(
        FancyArrowPatch(
            path=Path(curve),
            arrowstyle="-|>" if head else "-",
            mutation_scale=7.0 + 1.5 * width,
            shrinkA=0.0,
            shrinkB=0.0,
            lw=width,
            color=colour,
            joinstyle="miter",
            capstyle="butt",
        )
    )


def _text(ax: Axes, place: FloatArray, words: str, **settings: Any) -> None:
    ax.text(
        place[0],
        place[1],
        words,
        fontsize=style.FONT,
        color=style.DARK,
        ha="center",
        va="center",
        zorder=5,
        **settings,
    )
