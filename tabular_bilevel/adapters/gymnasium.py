"""Gymnasium: models of toy_text environments, and the follower's side of a problem as one.

Needs gymnasium, which the extra `gymnasium` installs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tabular_bilevel._base.errors import needed

with needed("tabular_bilevel.adapters.gymnasium", "gymnasium", extra="gymnasium"):
    import gymnasium

from tabular_bilevel._base.arguments import (
    as_finite,
    as_theta,
    distribution_tolerance,
    positive_integer,
)
from tabular_bilevel._base.display import displayed
from tabular_bilevel.adapters._environment import (
    AvailableActions,
    available_action,
    draw,
    draw_next_state,
)
from tabular_bilevel.finite.model import Model, Origin, made_of
from tabular_bilevel.problem import BilevelProblem, require_tables

__all__ = ["FollowerEnv", "Outcome", "from_gymnasium", "to_gymnasium"]

#: An entry of ``P[state][action]``: probability, next state, reward, and whether the episode ends.
Outcome = tuple[float, int, float, bool]


def from_gymnasium(
    env: gymnasium.Env[Any, Any] | Mapping[int, Mapping[int, Sequence[Outcome]]],
    *,
    leader_reward: npt.ArrayLike,
    follower_discount: float,
    leader_discount: float,
    temperature: float,
    initial: npt.ArrayLike | None = None,
    available: npt.ArrayLike | None = None,
) -> Model:
    """Make a model of an environment that publishes its transitions, as those of toy_text do.

    ``env.unwrapped.P[state][action]`` lists (probability, next state, reward, terminated). Entries
    with the same next state are added up, the follower's reward is the expected one, and what
    terminates does not go on, whatever the row of the state it names. A state lacks the actions
    that are not in its row of P.

    P is all that is read. Wrappers are not in it: neither `TimeLimit` (for the leader, there is the
    argument `horizon` of `hypergradient`), nor any that change rewards or actions.

    Parameters
    ----------
    env : gymnasium.Env or mapping
        The environment, wrapped or not, or its P alone.
    leader_reward : array_like, shape (S, A)
        What the leader earns when the follower acts; the environment knows no leader.
    follower_discount, leader_discount : float
        In [0, 1); the leader's may be 1 as in `Model.from_tables`.
    temperature : float
        Temperature of the follower; positive, in units of the environment's reward.
    initial : array_like, shape (S,), optional
        Distribution of the first state; by default the environment's `initial_state_distrib`.
    available : array_like of bool, shape (S, A), optional
        Which actions of P the follower may take, say those of Taxi's `action_mask`; all by default.

    Returns
    -------
    Model
        The follower's MDP; `FeatureProblem` makes a leader's problem of it.

    Raises
    ------
    ValueError
        If the environment has no P (Blackjack), does not follow it (a Taxi whose passenger is
        fickle) or does not say where it starts; if P is malformed or a row of it does not sum to
        1; and as `Model.from_tables`.

    Examples
    --------
    A leader that loses 1 a step as long as somebody is on the lake, and may pay for steps to the
    right:

    >>> import gymnasium
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.adapters.gymnasium import from_gymnasium
    >>> model = from_gymnasium(
    ...     gymnasium.make("FrozenLake-v1"),
    ...     leader_reward=-np.ones((16, 4)),
    ...     follower_discount=0.9,
    ...     leader_discount=0.99,
    ...     temperature=0.1,
    ... )
    >>> right = np.tile([0, 0, 1, 0], 16)[:, None]
    >>> problem = tb.FeatureProblem(model, follower_reward=right, leader_reward=-right)
    >>> exact = tb.hypergradient(problem, [0.0])
    >>> print(f"J = {exact.objective:.4f}, dJ/dtheta = {exact.gradient[0]:.4f}")
    J = -13.7250, dJ/dtheta = 2.9773
    """
    if isinstance(env, Mapping):
        P, start, n_actions, known = env, None, None, Origin()
    else:
        P, start, n_actions, known = _published(env)
    if initial is None:
        if start is None:
            raise ValueError("nothing says where episodes start; give initial, a distribution")
        initial = start
    tables, origin = _tables(P, n_actions, known)
    return made_of(
        origin,
        **tables,
        leader_reward=leader_reward,
        initial=initial,
        follower_discount=follower_discount,
        leader_discount=leader_discount,
        temperature=temperature,
        available=available,
    )


def to_gymnasium(
    problem: BilevelProblem, theta: npt.ArrayLike, *, max_steps: int | None = None
) -> gymnasium.Env[int, int]:
    """Make an environment of the follower's MDP at theta, for the follower to learn in.

    Observations are the model's states (of a game whose follower observes the leader,
    ``s * B + b``), actions its columns, rewards the follower's, without the entropy bonus. An
    episode terminates by the model's probabilities; the observation is then the state before, as
    the model has none for the end.

    ``info["leader_reward"]`` is what the leader earned with a step, and ``info["action_mask"]`` the
    actions of the state observed. An action that the state lacks is an error: whatever else
    happened, the follower would learn another MDP. ``env.action_space.sample()`` knows the state
    and draws from its actions; a learner that knows no masks needs a problem without unavailable
    actions.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    max_steps : int, optional
        Truncate episodes after this many steps, by `gymnasium.wrappers.TimeLimit`.

    Returns
    -------
    gymnasium.Env
        A `FollowerEnv`, in a `TimeLimit` if `max_steps` is given.

    Raises
    ------
    ValueError
        If theta is not a finite vector or `max_steps` not a positive whole number; and as
        ``problem.model(theta)``.

    Notes
    -----
    `gymnasium.utils.env_checker.check_env` draws an action before it resets. Where possible first
    states have no action in common, it can therefore meet the error above.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.adapters.gymnasium import to_gymnasium
    >>> env = to_gymnasium(tb.problems.four_rooms(), [0.0] * 105, max_steps=100)
    >>> observation, info = env.reset(seed=1)
    >>> observation, reward, terminated, truncated, info = env.step(0)
    >>> info["leader_reward"], info["action_mask"]
    (0.0, array([1, 1, 1, 1], dtype=int8))
    """
    limit = None if max_steps is None else positive_integer("max_steps", max_steps)
    env = FollowerEnv(problem.model(as_theta(theta)))
    return env if limit is None else gymnasium.wrappers.TimeLimit(env, limit)


@displayed
class FollowerEnv(gymnasium.Env[int, int]):
    """A model as the follower meets it; `to_gymnasium` says how.

    Attributes
    ----------
    model : Model
        The tables, for comparison; a learner has no business with them.
    P : dict
        The transitions in toy_text's form, without rows for unavailable actions.
    initial_state_distrib : ndarray, shape (S,)
        Distribution of the first state, by toy_text's name.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.adapters.gymnasium import FollowerEnv
    >>> env = FollowerEnv(tb.problems.two_state().model([0.0, 0.0]))
    >>> observation, info = env.reset(seed=0)
    >>> observation, info["action_mask"], env.P[1][0]
    (0, array([1, 1], dtype=int8), [(0.5, 0, 0.5, False), (0.5, 1, 0.5, False)])
    >>> env.step(1)[:4]  # to work
    (1, 0.0, False, False)
    """

    def __init__(self, model: Model) -> None:
        require_tables(model, name="model")
        self.model = model
        self.initial_state_distrib = model.initial
        self._masks = model.available.astype(np.int8)
        self._state: int | None = None
        self.observation_space = gymnasium.spaces.Discrete(model.n_states)
        self._actions = AvailableActions(model.n_actions)
        common = model.available[model.initial > 0.0].all(axis=0)
        if common.any():
            self._actions.first = np.asarray(common, dtype=np.int8)
        self.action_space = self._actions

    @cached_property
    def P(self) -> dict[int, dict[int, list[Outcome]]]:  # noqa: N802 - toy_text's name
        """List the outcomes of each available action; an end stays where it is."""
        model, kernel = self.model, self.model.transition
        table: dict[int, dict[int, list[Outcome]]] = {s: {} for s in range(model.n_states)}
        for s, a in np.argwhere(model.available).tolist():
            row, reward = s * model.n_actions + a, float(model.follower_reward[s, a])
            stored = slice(kernel.indptr[row], kernel.indptr[row + 1])
            table[s][a] = [
                (chance, following, reward, False)
                for chance, following in zip(
                    kernel.data[stored].tolist(), kernel.indices[stored].tolist(), strict=True
                )
            ]
            if model.termination[s, a] > 0.0:
                table[s][a].append((float(model.termination[s, a]), s, reward, True))
        return table

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Draw a first state; parameters and what is returned as of `gymnasium.Env.reset`."""
        super().reset(seed=seed)
        state = draw(self.np_random, self.model.initial)
        return state, self._arrive(state)

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Take an action that the state has, as of `gymnasium.Env.step`; never truncated.

        Where the episode ends, the state before is observed. ``info`` has `leader_reward` and
        `action_mask`. Raises ValueError if the state lacks the action, and ResetNeeded if there is
        no episode.
        """
        state, model = self._state, self.model
        if state is None:
            raise gymnasium.error.ResetNeeded("there is no episode, or it has ended: call reset")
        a = available_action(action, self._masks[state], f"state {state}")
        pair = state, a
        row = state * model.n_actions + a
        following = draw_next_state(self.np_random, model.transition, row, model.termination[pair])
        info = self._arrive(state if following is None else following)
        info["leader_reward"] = float(model.leader_reward[pair])
        reward = float(model.follower_reward[pair])
        if following is None:
            self._state = None
            return state, reward, True, False, info
        return following, reward, False, False, info

    def __str__(self) -> str:
        return f"FollowerEnv of a {self.model}"

    def _arrive(self, state: int) -> dict[str, Any]:
        self._state = state
        self._actions.now = self._masks[state]
        return {"action_mask": self._masks[state].copy()}


def _published(
    env: gymnasium.Env[Any, Any],
) -> tuple[Any, npt.ArrayLike | None, int | None, Origin]:
    """Read P, the first state's law, the number of actions, and of one of ours its sums."""
    inner = getattr(env, "unwrapped", env)
    name = type(inner).__name__
    P = getattr(inner, "P", None)
    if not isinstance(P, Mapping):
        raise ValueError(f"{name} has no dictionary P of its transitions")
    if getattr(inner, "fickle_passenger", False):
        raise ValueError(f"{name} has a fickle passenger, whose changes of mind are not in its P")
    size = getattr(getattr(inner, "action_space", None), "n", None)
    start = getattr(inner, "initial_state_distrib", None)
    origin = inner.model.origin if isinstance(inner, FollowerEnv) else Origin()
    return P, start, None if size is None else int(size), origin


def _tables(
    published: Mapping[int, Mapping[int, Sequence[Outcome]]], n_actions: int | None, known: Origin
) -> tuple[dict[str, Any], Origin]:
    """Check P and make the model's tables of it; a reward of ``-inf`` marks what it lacks."""
    n_states = len(published)
    for s in range(n_states):
        if not isinstance(published.get(s), Mapping):
            raise ValueError(f"P has {n_states} states, but P[{s}] is no dictionary of actions")
    if n_actions is None:
        n_actions = len({a for row in published.values() for a in row})
    follower_reward = np.full((n_states, n_actions), -np.inf)
    termination = np.zeros((n_states, n_actions))
    data, rows, columns = [], [], []
    off = 0.0
    for s in range(n_states):
        for a, outcomes in published[s].items():
            name = f"P[{s}][{a}]"
            if not _is_index(a, n_actions):
                raise ValueError(f"{name} is not for one of the actions 0, ..., {n_actions - 1}")
            total = mean = tolerance = 0.0
            for outcome in outcomes:
                chance, following, reward, terminated = _checked(name, outcome, n_states)
                total += chance
                mean += chance * reward
                coarse = distribution_tolerance(np.asarray(outcome[0]).dtype, known.transition)
                tolerance = max(tolerance, coarse)
                if terminated:
                    termination[s, a] += chance
                else:
                    data.append(chance)
                    rows.append(s * n_actions + a)
                    columns.append(following)
            off = max(off, abs(total - 1.0))
            if not abs(total - 1.0) <= tolerance:
                raise ValueError(f"the probabilities in {name} sum to {total:.12g}, not 1")
            follower_reward[s, a] = mean
    tables = {
        "transition": sp.coo_array(  # duplicates are added up on the way to CSR
            (np.array(data, dtype=np.float64), (np.array(rows, int), np.array(columns, int))),
            shape=(n_states * n_actions, n_states),
        ),
        "follower_reward": follower_reward,
        "termination": np.minimum(termination, 1.0),  # a sum may be off by a rounding
    }
    return tables, Origin(transition=off, initial=known.initial)


def _checked(name: str, outcome: Outcome, n_states: int) -> Outcome:
    try:
        chance, following, reward, terminated = outcome
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} holds {outcome!r}, not (probability, next state, reward, terminated)"
        ) from None
    chance = as_finite(f"a probability in {name}", chance)
    if chance < 0.0:
        raise ValueError(f"a probability in {name} is {chance}")
    if not _is_index(following, n_states):
        raise ValueError(f"{name} leads to {following!r}, not to one of {n_states} states")
    if not isinstance(terminated, (bool, np.bool_)):
        raise ValueError(f"{name} holds terminated = {terminated!r}, not True or False")
    return chance, following, as_finite(f"a reward in {name}", reward), bool(terminated)


def _is_index(value: object, size: int) -> bool:
    return isinstance(value, (int, np.integer)) and bool(0 <= value < size)
