"""Two-player Markov games: the leader's parameter is its own policy (theory.md section 5)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tabular_bilevel._base.arguments import (
    as_distribution,
    as_flag,
    as_names,
    as_theta,
    finite_array,
    first,
    real_array,
)
from tabular_bilevel._base.arrays import (
    ROUNDOFF,
    BoolArray,
    FloatArray,
    IntArray,
    grouped_sums,
    quiet,
    read_only,
    restore_read_only,
    softmax,
)
from tabular_bilevel.finite.model import (
    MAX_ENTRIES,
    Model,
    Origin,
    Tangent,
    as_termination,
    as_transition,
    made_of,
    not_forbidden,
)
from tabular_bilevel.finite.sensitivities import Sensitivities, SensitivityBounds
from tabular_bilevel.finite.tangents import Tangents
from tabular_bilevel.problems.tilting import shares_pulled_back


@dataclass(frozen=True, eq=False, init=False)
class MarkovGame:
    """A two-player Markov game whose leader plays f(b|s), a softmax of theta.

    The follower best-responds to f. If it observes the leader's action before its own, its model
    has the states z = s * B + b; if not, the states are the game's and everything is averaged over
    f. Either way the game is a `BilevelProblem` with theta the (S*B,) logits, row by row.

    Parameters
    ----------
    transition : array_like, shape (S, B, A, S), or scipy.sparse, shape (S*B*A, S)
        Law of the next state; rows sum to ``1 - termination``.
    follower_reward : array_like, shape (S, B, A)
        ``-inf`` forbids the follower's action.
    leader_reward : array_like, shape (S, B, A)
        What the leader earns.
    initial : array_like, shape (S,)
        Distribution of the first state.
    follower_discount, leader_discount : float
        In [0, 1); the leader's may be 1 as in `Model.from_tables`.
    temperature : float
        Temperature of the follower; positive.
    follower_observes_leader : bool
        Whether the follower sees b before it acts.
    termination : array_like, shape (S, B, A), optional
        Probability that the game ends after the step; 0 by default.
    state_names : sequence of str, length S, optional
        What the states are called, no two alike; numbers by default. To a follower that observes
        the leader's action they are called "A/0", "A/1", and so on.

    Attributes
    ----------
    n_states, n_leader_actions, n_actions : int
        S, B and A.
    available : ndarray of bool, shape (S, B, A)
        Which actions the follower has.

    Raises
    ------
    ValueError
        As `Model.from_tables`; also if the follower does not observe the leader and an action is
        forbidden after some of the leader's actions only.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> game = tb.problems.discrete_toy(reward=1.0)
    >>> game.parameter_names[2:4]
    ('f(0|A)', 'f(1|A)')
    >>> game.n_parameters, str(game.model([0.0] * 6)).split(", follower")[0]
    (6, 'Model: 6 states, 3 actions, 36 transitions')
    """

    n_states: int
    n_leader_actions: int
    n_actions: int
    follower_discount: float
    leader_discount: float
    temperature: float
    follower_observes_leader: bool
    transition: sp.csr_array = field(repr=False)
    follower_reward: FloatArray = field(repr=False)
    leader_reward: FloatArray = field(repr=False)
    initial: FloatArray = field(repr=False)
    termination: FloatArray = field(repr=False)
    available: BoolArray = field(repr=False)
    state_names: tuple[str, ...] | None = field(repr=False)
    _form: _Form = field(repr=False)

    __setstate__ = restore_read_only

    def __init__(
        self,
        *,
        transition: npt.ArrayLike | sp.sparray | sp.spmatrix,
        follower_reward: npt.ArrayLike,
        leader_reward: npt.ArrayLike,
        initial: npt.ArrayLike,
        follower_discount: float,
        leader_discount: float,
        temperature: float,
        follower_observes_leader: bool = True,
        termination: npt.ArrayLike | None = None,
        state_names: Sequence[str] | None = None,
    ) -> None:
        self._set(
            Origin(),
            transition=transition,
            follower_reward=follower_reward,
            leader_reward=leader_reward,
            initial=initial,
            follower_discount=follower_discount,
            leader_discount=leader_discount,
            temperature=temperature,
            follower_observes_leader=follower_observes_leader,
            termination=termination,
            state_names=state_names,
        )

    @quiet
    def _set(
        self,
        origin: Origin,
        /,
        *,
        transition: npt.ArrayLike | sp.sparray | sp.spmatrix,
        follower_reward: npt.ArrayLike,
        leader_reward: npt.ArrayLike,
        initial: npt.ArrayLike,
        follower_observes_leader: bool,
        termination: npt.ArrayLike | None,
        state_names: Sequence[str] | None,
        **scalars: float,
    ) -> None:
        """Check the tables, which may be made of others, and keep them."""
        as_flag("follower_observes_leader", follower_observes_leader)
        follower = real_array("follower_reward", follower_reward, (None, None, None))
        shape = follower.shape
        mask = not_forbidden(follower)
        if not mask.any(axis=2).all():
            s, b = first(~mask.any(axis=2))
            raise ValueError(
                f"state {s} after the leader's action {b} has no available follower action"
            )
        if not follower_observes_leader and (mask != mask[:, :1]).any():
            s, b, a = first(mask != mask[:, :1])
            raise ValueError(
                f"action {a} of state {s} is available after one of the leader's actions 0 and {b} "
                "only, which a follower that does not observe the leader cannot know"
            )
        names = as_names("state_names", state_names, shape[0], distinct=True)
        ends = as_termination(termination, mask)
        start = as_distribution("initial", initial, shape[0], origin=origin.initial)
        fields = {
            "n_states": shape[0],
            "n_leader_actions": shape[1],
            "n_actions": shape[2],
            "transition": as_transition(
                "transition", transition, shape, shape[0], ends, mask, origin=origin
            ),
            "follower_reward": read_only(
                finite_array("follower_reward", follower, shape, where=mask)
            ),
            "leader_reward": read_only(
                finite_array("leader_reward", leader_reward, shape, where=mask)
            ),
            "initial": read_only(start),
            "termination": read_only(ends),
            "available": read_only(mask),
            "follower_observes_leader": follower_observes_leader,
            "state_names": names,
            **scalars,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        object.__setattr__(
            self, "_form", _Observed(self) if follower_observes_leader else _Hidden(self)
        )
        self.model(np.zeros(self.n_parameters))  # the scalars' checks are the model's

    def replace(self, **changes: Any) -> MarkovGame:
        """Copy the game with some of its tables, discounts or the like changed.

        Parameters
        ----------
        **changes
            Any argument of `MarkovGame`, checked as there.

        Returns
        -------
        MarkovGame
            A new game.

        Raises
        ------
        ValueError
            As `MarkovGame`.
        TypeError
            If a name is not an argument of `MarkovGame`.

        Examples
        --------
        >>> import tabular_bilevel as tb
        >>> tb.problems.discrete_toy().replace(temperature=0.1).temperature
        0.1
        """
        kept = {name: getattr(self, name) for name in inspect.signature(MarkovGame).parameters}
        # -inf forbids an action; here that is stored apart
        kept["follower_reward"] = np.where(self.available, self.follower_reward, -np.inf)
        unknown = sorted(changes.keys() - kept.keys())
        if unknown:
            raise TypeError(f"MarkovGame has no argument {unknown[0]!r}")
        game = object.__new__(MarkovGame)
        game._set(self._origin, **{**kept, **changes})
        return game

    @cached_property
    def _origin(self) -> Origin:
        return Origin.of(self.transition, self.initial, self.termination)

    @property
    def n_parameters(self) -> int:
        """Length of theta, S*B."""
        return self.n_states * self.n_leader_actions

    @property
    def parameter_names(self) -> tuple[str, ...] | None:
        """What the entries of theta are called, f(0|A) and so on, if the states have names."""
        if self.state_names is None:
            return None
        return tuple(f"f({b}|{s})" for s in self.state_names for b in range(self.n_leader_actions))

    @property
    def _states(self) -> Sequence[Any]:
        """Names of the states, or numbers."""
        return self.state_names or range(self.n_states)

    @quiet
    def logits(self, policy: Mapping[Any, npt.ArrayLike]) -> FloatArray:
        """Find theta at which the leader plays a policy: the logarithms of its probabilities.

        Parameters
        ----------
        policy : mapping of str to array_like, shape (B,)
            By the state's name, or its number if the states have no names: the probability of each
            of the leader's actions, all above 0. States that are not there get the uniform policy.

        Returns
        -------
        ndarray, shape (S*B,)
            Theta.

        Raises
        ------
        ValueError
            If there is no such state, or its numbers are no distribution or not all above 0; the
            message names the state and the number.

        Examples
        --------
        >>> import tabular_bilevel as tb
        >>> game = tb.problems.discrete_toy()
        >>> theta = game.logits({"A": [0.85, 0.15]})
        >>> game.leader_policy(theta)
        array([[0.5 , 0.5 ],
               [0.85, 0.15],
               [0.5 , 0.5 ]])
        """
        if not isinstance(policy, Mapping):
            raise ValueError(f"policy is {policy!r}, not a mapping from states to probabilities")
        number = {state: s for s, state in enumerate(self._states)}
        theta = np.zeros((self.n_states, self.n_leader_actions))
        for state, row in policy.items():
            if state not in number:
                known = ", ".join(map(str, number))
                raise ValueError(f"no state is called {state!r}; there are {known}")
            chances = as_distribution(f"f(.|{state})", row, self.n_leader_actions)
            if not chances.all():
                b = int(np.argmin(chances))
                raise ValueError(f"f({b}|{state}) is 0, which no finite logit gives")
            theta[number[state]] = np.log(chances)
        return theta.ravel()

    @quiet
    def leader_policy(self, theta: npt.ArrayLike) -> FloatArray:
        """Compute the leader's policy f(b|s), the softmax of theta row by row.

        Parameters
        ----------
        theta : array_like, shape (S*B,)
            Logits.

        Returns
        -------
        ndarray, shape (S, B)
            Probability of each leader action.

        Raises
        ------
        ValueError
            If theta has the wrong length or an entry that is not finite.

        Examples
        --------
        >>> import numpy as np
        >>> import tabular_bilevel as tb
        >>> tb.problems.discrete_toy().leader_policy([0.0, 0.0, np.log(3.0), 0.0, 0.0, 0.0])
        array([[0.5 , 0.5 ],
               [0.75, 0.25],
               [0.5 , 0.5 ]])
        """
        logits = as_theta(theta, self.n_parameters).reshape(self.n_states, self.n_leader_actions)
        return softmax(logits)

    @quiet
    def model(self, theta: npt.ArrayLike) -> Model:
        """Build the follower's model against the leader's policy, as of `BilevelProblem`.

        It has the states (s, b) if the follower observes the leader, else the game's.
        """
        tables = self._form.tables(self.leader_policy(theta))
        return made_of(
            self._origin,
            **tables,
            follower_discount=self.follower_discount,
            leader_discount=self.leader_discount,
            temperature=self.temperature,
        )

    @quiet
    def pullback(self, theta: npt.ArrayLike, sensitivities: Sensitivities) -> FloatArray:
        """Pull sensitivities back to the logits, as of `BilevelProblem`."""
        policy = self.leader_policy(theta)
        slope = self._policy_tangents.dot(sensitivities).reshape(policy.shape)
        return np.ravel(policy * (slope - (policy * slope).sum(axis=1, keepdims=True)))

    @quiet
    def pullback_bound(
        self, theta: npt.ArrayLike, sensitivities: Sensitivities, bounds: SensitivityBounds
    ) -> FloatArray:
        """Bound by how much the pullback of sensitivities is off, rounding included.

        The leader's policy is taken as computed.
        """
        policy, tangents = self.leader_policy(theta), self._policy_tangents
        # the changes of f(.|s) add up to 0 but for rounding
        leak = ROUNDOFF * (self.n_leader_actions + 3.0)
        shift = bounds.transition_shift.ravel()[sensitivities.model.entry_row]
        wider = replace(
            bounds,
            transition=bounds.transition + leak * shift,
            initial=bounds.initial + leak * bounds.initial_shift,
        )
        slopes, errors = tangents.bounded_dot(sensitivities, wider)
        roundings = 2.0 * self.n_leader_actions + 8.0
        return shares_pulled_back(policy, slopes, errors, roundings)[1]

    @quiet
    def pushforward(self, theta: npt.ArrayLike, direction: npt.ArrayLike) -> Tangent:
        """Differentiate along a direction of the logits, as of `ForwardProblem`."""
        policy = self.leader_policy(theta)
        along = as_theta(direction, self.n_parameters, name="direction").reshape(policy.shape)
        change = policy * (along - (policy * along).sum(axis=1, keepdims=True))
        return self._policy_tangents.along(change.ravel())

    @cached_property
    def _policy_tangents(self) -> Tangents:
        """Derivatives of the model's tables in each f(b|s); those of a state move together."""
        first = np.arange(self.n_parameters) // self.n_leader_actions * self.n_leader_actions
        model = self.model(np.zeros(self.n_parameters))
        return Tangents.of(model, self.n_parameters, block=first, **self._form.slopes())

    def __str__(self) -> str:
        sight = "observes" if self.follower_observes_leader else "does not observe"
        return (
            f"MarkovGame: {self.n_states} states, {self.n_leader_actions} leader actions, "
            f"{self.n_actions} follower actions; the follower {sight} the leader"
        )


class _Form(Protocol):
    """How the follower's model comes from the game and the leader's policy."""

    def tables(self, leader_policy: FloatArray) -> dict[str, Any]:
        """Make the model's tables."""
        ...

    def slopes(self) -> dict[str, sp.csr_array]:
        """Differentiate the tables with respect to each f(b|s), S*B columns."""
        ...


class _Observed:
    """The game on the states (s, b): every transition splits over the leader's next action."""

    def __init__(self, game: MarkovGame) -> None:
        self._game = game
        n_leader = game.n_leader_actions
        kernel = game.transition
        if max(kernel.nnz * n_leader, game.n_parameters) > MAX_ENTRIES:
            raise ValueError(
                f"transition has {kernel.nnz} entries, each of which splits over {n_leader} leader "
                f"actions; that is more than {MAX_ENTRIES}"
            )
        following = kernel.indices[:, None] * n_leader + np.arange(n_leader, dtype=np.int32)
        self._following: IntArray = following.ravel()
        self._indptr = kernel.indptr * np.int32(n_leader)
        self._arrival = np.repeat(kernel.data, n_leader)  # P(s'|s,b,a) for each of its entries
        names = game.state_names
        self._names = names and [f"{s}/{b}" for s in names for b in range(n_leader)]

    def tables(self, leader_policy: FloatArray) -> dict[str, Any]:
        game = self._game
        n_pairs, n_actions = game.n_states * game.n_leader_actions, game.n_actions
        data = self._arrival * leader_policy.ravel()[self._following]
        return {
            "transition": sp.csr_array(
                (data, self._following, self._indptr), shape=(n_pairs * n_actions, n_pairs)
            ),
            "follower_reward": game.follower_reward.reshape(n_pairs, n_actions),
            "leader_reward": game.leader_reward.reshape(n_pairs, n_actions),
            "initial": (game.initial[:, None] * leader_policy).ravel(),
            "termination": game.termination.reshape(n_pairs, n_actions),
            "available": game.available.reshape(n_pairs, n_actions),
            "state_names": self._names,
        }

    def slopes(self) -> dict[str, sp.csr_array]:
        """Differentiate an arrival's probability: a leader's action is drawn on each."""
        game, entries = self._game, np.arange(self._following.size)
        start = np.repeat(game.initial, game.n_leader_actions)
        return {
            "transition": _matrix(self._arrival, entries, self._following, game.n_parameters),
            "initial": sp.diags_array(start, format="csr"),
        }


class _Hidden:
    """The game on its own states, averaged over the leader's action."""

    def __init__(self, game: MarkovGame) -> None:
        self._game = game
        n_states, n_actions = game.n_states, game.n_actions
        rows = np.repeat(np.arange(game.transition.shape[0]), np.diff(game.transition.indptr))
        state, leader_action, action = np.unravel_index(rows, game.follower_reward.shape)
        # one stored entry of the model for each (s, a, s') that some leader action allows
        key = (state * n_actions + action) * n_states + game.transition.indices
        pattern, self._slot = np.unique(key, return_inverse=True)
        self._row, self._column = np.divmod(pattern, n_states)
        self._pair = state * game.n_leader_actions + leader_action

    def tables(self, leader_policy: FloatArray) -> dict[str, Any]:
        game = self._game
        weights = leader_policy.ravel()[self._pair]
        kernel = grouped_sums(self._slot, weights * game.transition.data, self._row.size)
        return {
            "transition": sp.csr_array(
                (kernel, (self._row, self._column)),
                shape=(game.n_states * game.n_actions, game.n_states),
            ),
            "follower_reward": _mixed(leader_policy, game.follower_reward),
            "leader_reward": _mixed(leader_policy, game.leader_reward),
            "initial": game.initial,
            "termination": np.minimum(_mixed(leader_policy, game.termination), 1.0),
            "available": game.available[:, 0],
            "state_names": game.state_names,
        }

    def slopes(self) -> dict[str, sp.csr_array]:
        """Weigh this state's rewards and laws."""
        game = self._game
        state, leader_action, action = np.indices(game.follower_reward.shape).reshape(3, -1)
        pair = state * game.n_actions + action
        choice = state * game.n_leader_actions + leader_action
        rewards = {
            name: _matrix(getattr(game, name).ravel(), pair, choice, game.n_parameters)
            for name in ("follower_reward", "leader_reward")
        }
        kernel = _matrix(game.transition.data, self._slot, self._pair, game.n_parameters)
        return {**rewards, "transition": kernel}


def _mixed(weights: FloatArray, table: FloatArray) -> FloatArray:
    """Average a game's table over the leader's actions: (S, B), (S, B, A) to (S, A)."""
    return np.asarray(np.einsum("sb,sba->sa", weights, table))


def _matrix(data: FloatArray, rows: IntArray, columns: IntArray, n_columns: int) -> sp.csr_array:
    shape = (int(rows.max(initial=-1)) + 1, n_columns)
    return sp.csr_array((data, (rows, columns)), shape=shape)
