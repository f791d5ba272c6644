"""Linear-quadratic games: the leader's parameter is its own policy (theory.md section 15)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_flag, as_theta, finite_array
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only, restore_read_only
from tabular_bilevel.lq.arguments import as_not_negative, as_symmetric, sizes
from tabular_bilevel.lq.linear import symmetric
from tabular_bilevel.lq.model import LinearQuadraticModel, Tangent
from tabular_bilevel.lq.rewards import GaussianBump, QuadraticReward
from tabular_bilevel.lq.sensitivities import Sensitivities


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearQuadraticGame:
    """A game in which the leader plays b ~ N(k x, leader_noise): theta is k, row by row.

    The state x moves to ``dynamics x + control u + leader_control b + w``. A follower that observes
    the leader's action answers to the state (x, b); one that does not answers to x, and b is
    averaged over. Either way what follows is a `LinearQuadraticModel`.

    Attributes
    ----------
    base : LinearQuadraticModel
        The game without b, in n states: what the follower's input does and costs, the noise, the
        first state, discounts, temperature, the leader's reward in x and u, its horizon. It is the
        game at theta = 0 but for the leader's spread, and must be sound by itself.
    leader_control : ndarray, shape (n, k)
        What the leader's action does to the state.
    leader_noise : ndarray, shape (k, k), or None
        Covariance of b around k x. None: it is diagonal, and the logarithms of the variances
        follow k in theta.
    leader_action_reward : ndarray, shape (k, k)
        b' leader_action_reward b is added to a quadratic reward; 0 by default.
    follower_observes_leader : bool
        Whether the follower sees b before it acts.

    Raises
    ------
    ValueError
        On construction, if a table is bad; the message names it.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> game = tb.problems.bilevel_lqr()
    >>> game.n_parameters, str(game.model([0.0, 0.0])).split(", follower")[0]
    (2, 'LinearQuadraticModel: 3 states, 1 input')
    >>> game.n_leader_actions, game.parameter_names
    (1, ('k[0, 0]', 'k[0, 1]'))
    >>> hidden = game.replace(follower_observes_leader=False, leader_noise=None)
    >>> hidden.n_parameters, hidden.model([0.0, 0.0, -3.0]).n_states
    (3, 2)
    >>> tb.check_gradient(hidden, [0.5, 0.0, -3.0]).passed
    True
    """

    base: LinearQuadraticModel = field(repr=False)
    leader_control: FloatArray
    leader_noise: Any
    leader_action_reward: Any = None
    follower_observes_leader: bool = True

    __setstate__ = restore_read_only

    @quiet
    def __post_init__(self) -> None:
        """Check everything, and copy it."""
        if not isinstance(self.base, LinearQuadraticModel):
            raise ValueError(
                f"base is of type {type(self.base).__name__}, not a LinearQuadraticModel"
            )
        as_flag("follower_observes_leader", self.follower_observes_leader)
        acts = finite_array("leader_control", self.leader_control, (self.base.n_states, None))
        size = acts.shape[1]
        paid, noise = self.leader_action_reward, self.leader_noise
        if paid is None:
            paid = np.zeros((size, size))
        if np.any(paid) and isinstance(self.base.leader_reward, GaussianBump):
            raise ValueError("leader_action_reward is added to a QuadraticReward, not to a bump")
        if noise is not None:
            noise = as_not_negative("leader_noise", noise, size)
        for name, table in (
            ("leader_control", read_only(acts)),
            ("leader_action_reward", as_symmetric("leader_action_reward", paid, size)),
            ("leader_noise", noise),
        ):
            object.__setattr__(self, name, table)

    def replace(self, **changes: Any) -> LinearQuadraticGame:
        """Copy the game with some attributes changed, as of `MarkovGame`; all are checked again."""
        return replace(self, **changes)

    @property
    def n_leader_actions(self) -> int:
        """Length of the leader's action, k."""
        return int(self.leader_control.shape[1])

    @property
    def n_parameters(self) -> int:
        """Length of theta: k n, and k more if the spread is learned."""
        per_action = self.base.n_states + (self.leader_noise is None)
        return self.n_leader_actions * per_action

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """What reports call the entries of theta."""
        rows, columns = range(self.n_leader_actions), range(self.base.n_states)
        names = [f"k[{i}, {j}]" for i in rows for j in columns]
        if self.leader_noise is None:
            names += [f"log variance[{i}]" for i in rows]
        return tuple(names)

    def leader_policy(self, theta: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Read the leader's policy b ~ N(k x, covariance) from theta.

        Parameters
        ----------
        theta : array_like, shape (d,)
            The leader's parameter.

        Returns
        -------
        gain : ndarray, shape (k, n)
            k, with a plus sign.
        covariance : ndarray, shape (k, k)
            Of b around k x.

        Raises
        ------
        ValueError
            If theta has the wrong length or an entry that is not finite.

        Examples
        --------
        >>> import tabular_bilevel as tb
        >>> tb.problems.bilevel_lqr().leader_policy([-0.8, 0.0])
        (array([[-0.8,  0. ]]), array([[1.e-06]]))
        """
        vector = as_theta(theta, self.n_parameters)
        size = self.leader_control.shape[::-1]
        gain = vector[: size[0] * size[1]].reshape(size)
        if self.leader_noise is not None:
            return gain, self.leader_noise
        return gain, np.diag(np.exp(vector[gain.size :]))

    @quiet
    def model(self, theta: npt.ArrayLike) -> LinearQuadraticModel:
        """Build the follower's model at theta, in the states (x, b), or x."""
        gain, spread = self.leader_policy(theta)
        base, acts, paid = self.base, self.leader_control, self.leader_action_reward
        reward = base.leader_reward
        if not self.follower_observes_leader:
            if isinstance(reward, QuadraticReward):
                reward = replace(
                    reward,
                    state=reward.state + symmetric(gain.T @ paid @ gain),
                    constant=reward.constant + np.vdot(paid, spread),
                )
            return base.replace(
                dynamics=base.dynamics + acts @ gain,
                noise=base.noise + symmetric(acts @ spread @ acts.T),
                leader_reward=reward,
            )
        lift, n = self._lift(gain), base.n_states
        if isinstance(reward, QuadraticReward):
            state, cross = _padded(reward.state, lift), np.zeros((len(lift), base.n_controls))
            state[n:, n:], cross[:n] = paid, reward.cross
            reward = replace(reward, state=state, cross=cross)
        else:
            centre = np.append(reward.centre, np.zeros(len(gain)))
            reward = replace(reward, centre=centre, precision=_padded(reward.precision, lift))
        return base.replace(
            dynamics=lift @ np.hstack((base.dynamics, acts)),
            control=lift @ base.control,
            state_cost=_padded(base.state_cost, lift),
            noise=self._spread(symmetric(lift @ base.noise @ lift.T), spread),
            initial_mean=lift @ base.initial_mean,
            initial_covariance=self._spread(
                symmetric(lift @ base.initial_covariance @ lift.T), spread
            ),
            leader_reward=reward,
        )

    @quiet
    def pullback(self, theta: npt.ArrayLike, sensitivities: Sensitivities) -> FloatArray:
        """Pull sensitivities back to k, and to the logarithms of the variances."""
        gain, spread = self.leader_policy(theta)
        base, acts, paid = self.base, self.leader_control, self.leader_action_reward
        if self.follower_observes_leader:
            lift, n = self._lift(gain), base.n_states
            to_lift = (
                sensitivities.dynamics @ np.hstack((base.dynamics, acts)).T
                + sensitivities.control @ base.control.T
                + 2.0 * sensitivities.noise @ lift @ base.noise
                + np.outer(sensitivities.initial_mean, base.initial_mean)
                + 2.0 * sensitivities.initial_covariance @ lift @ base.initial_covariance
            )
            to_gain = to_lift[n:]
            to_spread = (sensitivities.noise + sensitivities.initial_covariance)[n:, n:]
        else:
            to_gain = acts.T @ sensitivities.dynamics
            to_spread = acts.T @ sensitivities.noise @ acts
            if isinstance(base.leader_reward, QuadraticReward):
                slopes = sensitivities.leader_reward
                to_gain = to_gain + 2.0 * paid @ gain @ slopes["state"]
                to_spread = to_spread + slopes["constant"] * paid
        if self.leader_noise is not None:
            return to_gain.ravel()
        return np.append(to_gain, np.diag(spread) * np.diag(to_spread))

    @quiet
    def pushforward(self, theta: npt.ArrayLike, direction: npt.ArrayLike) -> Tangent:
        """Differentiate the tables along a direction, as `ForwardProblem` says."""
        gain, spread = self.leader_policy(theta)
        way = as_theta(direction, self.n_parameters, name="direction")
        base, acts, paid = self.base, self.leader_control, self.leader_action_reward
        turn = way[: gain.size].reshape(gain.shape)
        wider = np.zeros_like(spread)
        if self.leader_noise is None:
            wider = np.diag(way[gain.size :] * np.diag(spread))
        if not self.follower_observes_leader:
            reward = {}
            if isinstance(base.leader_reward, QuadraticReward):
                reward = {
                    "state": 2.0 * symmetric(gain.T @ paid @ turn),
                    "constant": np.vdot(paid, wider),
                }
            return Tangent(
                dynamics=acts @ turn,
                noise=symmetric(acts @ wider @ acts.T),
                leader_reward=reward,
            )
        lift = self._lift(gain)
        move = np.vstack((np.zeros_like(base.dynamics), turn))
        return Tangent(
            dynamics=move @ np.hstack((base.dynamics, acts)),
            control=move @ base.control,
            noise=self._spread(2.0 * symmetric(move @ base.noise @ lift.T), wider),
            initial_mean=move @ base.initial_mean,
            initial_covariance=self._spread(
                2.0 * symmetric(move @ base.initial_covariance @ lift.T), wider
            ),
        )

    def _lift(self, gain: FloatArray) -> FloatArray:
        """Make (x, k x) of x."""
        return np.vstack((np.eye(self.base.n_states), gain))

    def _spread(self, table: FloatArray, spread: FloatArray) -> FloatArray:
        """Add the spread of b to a covariance of (x, b)."""
        n = self.base.n_states
        table[n:, n:] += spread
        return table

    def __str__(self) -> str:
        count = self.n_leader_actions
        actions = f"{count} action{'s' * (count > 1)}"
        sight = "observes" if self.follower_observes_leader else "does not observe"
        return (
            f"LinearQuadraticGame: {sizes(self.base.n_states, self.base.n_controls)}, "
            f"{actions} of the leader, which the follower {sight}"
        )


def _padded(table: FloatArray, lift: FloatArray) -> FloatArray:
    """Put a table of x into one of (x, b)."""
    wide = np.zeros((len(lift), len(lift)))
    wide[: len(table), : len(table)] = table
    return wide
