"""PettingZoo: a Markov game as a parallel environment of the agents "leader" and "follower".

Needs pettingzoo, which the extra `pettingzoo` installs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tabular_bilevel._base.errors import needed

with needed("tabular_bilevel.adapters.pettingzoo", "pettingzoo", extra="pettingzoo"):
    from pettingzoo import ParallelEnv

from gymnasium.error import ResetNeeded
from gymnasium.spaces import Discrete, Space
from gymnasium.utils import seeding

from tabular_bilevel._base.arguments import positive_integer
from tabular_bilevel._base.display import displayed
from tabular_bilevel.adapters._environment import (
    AvailableActions,
    AvailableAnswers,
    available_action,
    draw,
    draw_next_state,
)
from tabular_bilevel.problems.markov_game import MarkovGame

__all__ = ["GameEnv", "to_pettingzoo"]


def to_pettingzoo(game: MarkovGame, *, max_steps: int | None = None) -> GameEnv:
    """Make a parallel environment of a game, for both players to learn in.

    Both agents observe the game's state, and each earns its own reward, the follower's without the
    entropy bonus; discounts are left to the learners. One step of the environment is one step of
    the game. When a game ends, the observation is the state before, as there is none for the end.

    In a parallel environment both submit at once. A follower that observes the leader's action
    before its own therefore submits its whole **answer**: one action for each of the leader's
    (`MultiDiscrete`), of which the environment plays the one that answers what the leader did. A
    pure strategy of the follower in one step is just such a map from b to a, so this is the same
    game, under the same discounts: to play pi(a|s,b), draw each entry from its own pi(.|s,b). The
    alternatives change the game: a leader that acts one environment step ahead of the follower
    doubles the steps and so squares the discounts, one that announces its action for the next state
    would have to choose it before it knows that state. A follower that does not observe the leader
    submits one action.

    After a step ``infos[agent]`` has "leader_action" and "follower_action", what was played.
    ``infos["follower"]["action_mask"]`` is what the state observed has: a mask, or for answers a
    tuple of masks, one for each leader action, as `sample` takes them. An action that is not
    available is an error, also in the part of an answer that is not played;
    ``env.action_space("follower").sample()`` knows the state and draws available ones.

    Parameters
    ----------
    game : MarkovGame
        The game.
    max_steps : int, optional
        Truncate episodes after this many steps.

    Returns
    -------
    GameEnv
        A `pettingzoo.ParallelEnv`.

    Raises
    ------
    ValueError
        If `game` is not a `MarkovGame` or `max_steps` is not a positive whole number.

    Examples
    --------
    The follower of discrete toy 4 answers 0 with its action 1, and 1 with its action 2:

    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.adapters.pettingzoo import to_pettingzoo
    >>> env = to_pettingzoo(tb.problems.discrete_toy(), max_steps=100)
    >>> observations, infos = env.reset(seed=1)
    >>> env.action_space("follower")
    MultiDiscrete([3 3])
    >>> steps = env.step({"leader": 0, "follower": [1, 2]})
    >>> observations, rewards, terminations, truncations, infos = steps
    >>> observations["leader"], rewards, infos["leader"]["follower_action"]
    (1, {'leader': 1.0, 'follower': 1.0}, 1)
    """
    if not isinstance(game, MarkovGame):
        raise ValueError(f"game is a {type(game).__name__}, not a MarkovGame")
    return GameEnv(game, None if max_steps is None else positive_integer("max_steps", max_steps))


@displayed
class GameEnv(ParallelEnv):
    """A game as its players meet it; `to_pettingzoo` says how.

    Attributes
    ----------
    game : MarkovGame
        The tables, for comparison; a learner has no business with them.
    max_steps : int or None
        Where episodes are truncated.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.adapters.pettingzoo import GameEnv
    >>> env = GameEnv(tb.problems.discrete_toy(), None)
    >>> observations, infos = env.reset(seed=0)
    >>> observations, env.observation_space("leader"), env.action_space("leader")
    ({'leader': 0, 'follower': 0}, Discrete(3), Discrete(2))
    >>> moves = {"leader": 0, "follower": [1, 1]}  # an answer to each of the leader's actions
    >>> observations, rewards, *_ = env.step(moves)
    >>> rewards
    {'leader': 1.0, 'follower': 1.0}
    """

    metadata = {"name": "tabular_bilevel_game_v0", "render_modes": []}  # noqa: RUF012 - pettingzoo's
    render_mode = None

    def __init__(self, game: MarkovGame, max_steps: int | None) -> None:
        self.game = game
        self.max_steps = max_steps
        self.possible_agents = ["leader", "follower"]
        self.agents: list[str] = []
        self.observation_spaces = {agent: Discrete(game.n_states) for agent in self.possible_agents}
        self._follower_actions: AvailableActions | AvailableAnswers
        if game.follower_observes_leader:
            self._follower_actions = AvailableAnswers([game.n_actions] * game.n_leader_actions)
        else:
            self._follower_actions = AvailableActions(game.n_actions)
        self.action_spaces: dict[str, Space[Any]] = {
            "leader": Discrete(game.n_leader_actions),
            "follower": self._follower_actions,
        }
        self._any = np.ones(game.n_leader_actions, dtype=np.int8)
        self._masks = game.available.astype(np.int8)
        self._state = self._elapsed = 0
        self.np_random: np.random.Generator | None = None

    def observation_space(self, agent: str) -> Space[Any]:
        """Return the agent's observations, the states, as of `pettingzoo.ParallelEnv`."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Space[Any]:
        """Return the agent's actions, or answers, as of `pettingzoo.ParallelEnv`."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
        """Draw a first state, as `pettingzoo.ParallelEnv.reset` does; without a seed, go on."""
        if seed is not None or self.np_random is None:
            self.np_random, _ = seeding.np_random(seed)
        self.agents = list(self.possible_agents)
        self._elapsed = 0
        return self._arrive(draw(self.np_random, self.game.initial))

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[
        dict[str, int],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Play an action of the leader and an action, or an answer, of the follower.

        Arguments and results by agent, as of `pettingzoo.ParallelEnv.step`. Raises ValueError if an
        agent's action is missing, or not available, and ResetNeeded if there is no episode.
        """
        game, state = self.game, self._state
        if self.np_random is None or not self.agents:
            raise ResetNeeded("there is no episode, or it has ended: call reset")
        for agent in self.agents:
            if agent not in actions:
                raise ValueError(f"actions has no entry {agent!r}")
        b = available_action(actions["leader"], self._any, f"state {state} for the leader")
        a = self._follower_action(actions["follower"], b)
        cell = state, b, a
        row = int(np.ravel_multi_index(cell, game.follower_reward.shape))
        following = draw_next_state(self.np_random, game.transition, row, game.termination[cell])
        self._elapsed += 1
        over = following is None
        cut = self._elapsed == self.max_steps
        observations, infos = self._arrive(state if following is None else following)
        for info in infos.values():
            info |= {"leader_action": b, "follower_action": a}
        rewards = {
            "leader": float(game.leader_reward[cell]),
            "follower": float(game.follower_reward[cell]),
        }
        terminations, truncations = dict.fromkeys(rewards, over), dict.fromkeys(rewards, cut)
        if over or cut:
            self.agents = []
        return observations, rewards, terminations, truncations, infos

    def __str__(self) -> str:
        return f"GameEnv of a {self.game}"

    def _follower_action(self, submitted: Any, b: int) -> int:
        """Check all that the follower submits, and pick what is played."""
        masks, state = self._masks[self._state], self._state
        if not self.game.follower_observes_leader:
            return available_action(submitted, masks[b], f"state {state} for the follower")
        if np.shape(submitted) != (len(masks),):
            raise ValueError(
                f"the follower's answer has shape {np.shape(submitted)}, not ({len(masks)},): it "
                "observes the leader, and answers each of its actions"
            )
        answer = [
            available_action(submitted[k], masks[k], f"state {state} after the leader's {k}")
            for k in range(len(masks))
        ]
        return answer[b]

    def _arrive(self, state: int) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
        self._state = state
        self._follower_actions.now = self._offered(state)
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.possible_agents}
        infos["follower"]["action_mask"] = self._offered(state)
        return dict.fromkeys(self.possible_agents, state), infos

    def _offered(self, state: int) -> Any:
        """Copy the follower's masks, as `sample` takes them."""
        masks = self._masks[state].copy()
        return tuple(masks) if self.game.follower_observes_leader else masks[0]
