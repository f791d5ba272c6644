"""Small problems in words: states and actions by name, an arrow for each action."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tabular_bilevel._base.arguments import DISTRIBUTION_TOLERANCE, as_finite, as_real
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel._base.files import brief
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problems.features import FeatureProblem

#: Where an arrow leads: to a state, to several with these probabilities, or None to the end.
Destination: TypeAlias = str | Mapping[str | None, float] | None

#: Where a coin lies: at a state, or at one of its actions.
Place: TypeAlias = str | tuple[str, str]


@dataclass(frozen=True)
class Arrow:
    """What an action does: where it leads, and what both players get for it.

    Attributes
    ----------
    to : str, None, or mapping of these to float
        The next state; None ends the episode. Or a probability for each of several.
    follower_reward, leader_reward : float
        What the follower and the leader get when the action is taken.

    Examples
    --------
    >>> from tabular_bilevel.problems import Arrow
    >>> Arrow("gate").probabilities, Arrow({"gate": 0.9, None: 0.1}).probabilities[None]
    ({'gate': 1.0}, 0.1)
    """

    to: Destination
    follower_reward: float = 0.0
    leader_reward: float = 0.0

    def __post_init__(self) -> None:
        """Keep probabilities that the caller cannot change."""
        if isinstance(self.to, Mapping):
            object.__setattr__(self, "to", dict(self.to))

    @property
    def probabilities(self) -> Mapping[str | None, float]:
        """Probability of each destination; None is the end."""
        return self.to if isinstance(self.to, Mapping) else {self.to: 1.0}


def from_arrows(
    arrows: Mapping[str, Mapping[str, Arrow | Destination]],
    *,
    coins: Sequence[Place],
    follower_discount: float,
    leader_discount: float,
    temperature: float,
    initial: str | Mapping[str, float] | None = None,
) -> FeatureProblem:
    """Make a small problem whose states and actions have names, and whose leader pays coins.

    Parameters
    ----------
    arrows : mapping of mappings
        For each state the `Arrow` of each of its actions, all by name. An arrow without rewards
        may be written as its destination alone.
    coins : sequence of str or (str, str)
        Where the leader may put coins, theta_0 of them at the first place, and so on; below 0 they
        are a fee. The follower gets the coins of a state whenever it acts there, those of a pair
        (state, action) when it takes that action; each time the leader pays them.
    follower_discount, leader_discount : float
        As in `Model.from_tables`.
    temperature : float
        Temperature of the follower; positive.
    initial : str or mapping of str to float, optional
        The first state, or the probability of each; by default the state that is named first.

    Returns
    -------
    FeatureProblem
        With one parameter a coin. Its names are ``problem.base.state_names``,
        ``problem.base.action_names`` and ``problem.parameter_names``; pictures and reports use
        them.

    Raises
    ------
    ValueError
        If a state has no arrow, an arrow or a coin is where nothing is, probabilities do not add up
        to 1, or a number is not finite. The message names the state and the arrow.

    Examples
    --------
    A gate that a robot may try, at which a coin can be put; its try fails one time in ten:

    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.problems import Arrow
    >>> problem = tb.problems.from_arrows(
    ...     {
    ...         "street": {"wait": "street", "try": {"gate": 0.9, "street": 0.1}},
    ...         "gate": {"enter": Arrow(None, follower_reward=1.0, leader_reward=5.0)},
    ...     },
    ...     coins=["gate", ("street", "try")],
    ...     follower_discount=0.5,
    ...     leader_discount=0.9,
    ...     temperature=1.0,
    ... )
    >>> problem.parameter_names
    ('gate', 'street/try')
    >>> tb.hypergradient(problem, [0.0, 0.0]).gradient.round(3)
    array([-0.654, -0.671])
    """
    rows = {state: _arrows_of(state, row) for state, row in _named("arrows", arrows).items()}
    number = {state: s for s, state in enumerate(rows)}
    n_states, n_actions = len(rows), max(map(len, rows.values()))
    shape = n_states, n_actions
    transition = np.zeros((*shape, n_states))
    available = np.zeros(shape, dtype=np.bool_)
    termination, follower_reward, leader_reward = np.zeros((3, *shape))
    for state, row in rows.items():
        for a, (action, arrow) in enumerate(row.items()):
            pair, what = (number[state], a), _arrow(state, action)
            law = _law(what, arrow.probabilities, number, may_end=True)
            transition[pair], termination[pair] = law[:-1], law[-1]
            available[pair] = True
            follower_reward[pair] = as_finite(f"follower_reward of {what}", arrow.follower_reward)
            leader_reward[pair] = as_finite(f"leader_reward of {what}", arrow.leader_reward)
    if initial is None:
        initial = next(iter(rows))
    if not isinstance(initial, (str, Mapping)):
        raise ValueError(
            f"initial is {brief(repr(initial))}: give a state's name, or a probability for each"
        )
    start: Mapping[Any, float] = initial if isinstance(initial, Mapping) else {initial: 1.0}
    base = Model.from_tables(
        transition=transition,
        follower_reward=follower_reward,
        leader_reward=leader_reward,
        initial=_law("initial", start, number, may_end=False)[:-1],
        follower_discount=follower_discount,
        leader_discount=leader_discount,
        temperature=temperature,
        available=available,
        termination=termination,
        state_names=tuple(rows),
        action_names=tuple((*row, *[""] * (n_actions - len(row))) for row in rows.values()),
    )
    pairs: dict[Place, list[int]] = {}  # rows of the tables where a coin at each place counts
    for s, (state, row) in enumerate(rows.items()):
        pairs[state] = [s * n_actions + a for a in range(len(row))]
        pairs |= {(state, action): [pairs[state][a]] for a, action in enumerate(row)}
    places = _chosen(coins, pairs)
    paid = np.zeros((n_states * n_actions, len(places)))
    for k, place in enumerate(places):
        paid[pairs[place], k] = 1.0
    return FeatureProblem(
        base,
        follower_reward=paid,
        leader_reward=-paid,
        parameter_names=[place if isinstance(place, str) else "/".join(place) for place in places],
    )


def _named(what: str, given: object) -> Mapping[str, object]:
    """Check that it is a mapping from names, and not empty."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} is {brief(repr(given))}, not a mapping from names")
    for name in given:
        if not (isinstance(name, str) and name):
            raise ValueError(f"{what} has the name {brief(repr(name))}, not a word")
    if not given:
        raise ValueError(f"{what} is empty")
    return given


def _arrow(state: str, action: str) -> str:
    return f"arrow {action!r} of state {state!r}"


def _arrows_of(state: str, row: object) -> dict[str, Arrow]:
    arrows = {}
    for action, given in _named(f"state {state!r} of arrows", row).items():
        arrow = given if isinstance(given, Arrow) else Arrow(given)  # type: ignore[arg-type]
        if not (arrow.to is None or isinstance(arrow.to, (str, Mapping))):
            raise ValueError(
                f"{_arrow(state, action)} leads to {brief(repr(arrow.to))}: give a state's name, "
                "None for the end, or a probability for each of several"
            )
        arrows[action] = arrow
    return arrows


def _law(
    what: str,
    probabilities: Mapping[str | None, float],
    number: Mapping[str, int],
    *,
    may_end: bool,
) -> FloatArray:
    """Lay out probabilities by the number of the state, the end last."""
    law = np.zeros(len(number) + 1)
    for to, given in probabilities.items():
        if to not in number and not (to is None and may_end):
            raise ValueError(
                f"{what} leads to {brief(repr(to))}, which is no state; there are {_listed(number)}"
            )
        p = as_real(f"probability of {to!r} in {what}", given)
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"{what} leads to {to!r} with {p}, not a probability")
        law[-1 if to is None else number[to]] = p
    if abs(law.sum() - 1.0) > DISTRIBUTION_TOLERANCE:
        raise ValueError(f"probabilities of {what} sum to {law.sum():.12g}, not 1")
    return law


def _chosen(coins: Sequence[Place], pairs: Mapping[Place, list[int]]) -> list[Place]:
    """Check that coins lie where they can, no two at the same place."""
    if isinstance(coins, str) or not isinstance(coins, Iterable):
        raise ValueError(f"coins is {brief(repr(coins))}, not a list of places")
    chosen: list[Place] = []
    for k, place in enumerate(coins):
        if place not in list(pairs):  # a list, as what cannot be hashed is named, too
            raise ValueError(
                f"coins[{k}] is {brief(repr(place))}, neither a state nor a pair of a state and "
                f"its action; there are {_listed(pairs)}"
            )
        if place in chosen:
            raise ValueError(f"coins[{k}] is {place!r}, where one is already")
        chosen.append(place)
    if not chosen:
        raise ValueError("coins is empty")
    return chosen


def _listed(names: Iterable[Place]) -> str:
    return brief(", ".join(map(repr, names)))
