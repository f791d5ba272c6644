"""What an estimator may see: a batch of trajectories, and the leader's side of the problem."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import (
    as_finite,
    as_generator,
    as_theta,
    finite_array,
    require_method,
    require_room,
)
from tabular_bilevel._base.arrays import BoolArray, FloatArray, IntArray, read_only
from tabular_bilevel._base.display import displayed
from tabular_bilevel.derivatives import tangents_at
from tabular_bilevel.finite.follower import Response, solve_follower
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.finite.tangents import MOVED
from tabular_bilevel.problem import BilevelProblem, modelled, pulled_back
from tabular_bilevel.sampling.critics import LeaderValues, exact_values
from tabular_bilevel.sampling.samplers import Episodes, Sampler
from tabular_bilevel.sampling.trajectories import Trajectories


@dataclass(frozen=True, eq=False)
class Batch:
    """Trajectories as plain arrays, one a row, padded to the longest; the reader may write to them.

    Attributes
    ----------
    states, actions : ndarray of int, shape (n, T)
        s_t and a_t; -1 beyond a trajectory's length. In a Markov game whose follower observes the
        leader, a state is z = s * B + b, with b the leader's action.
    next_states : ndarray of int, shape (n, T)
        s_{t+1}; -1 where the episode ended with this step, and beyond.
    entries : ndarray of int, shape (n, T)
        Which row of `Jacobian.log_transition` the step's transition has; -1 where `next_states` is.
    lengths : ndarray of int, shape (n,)
        Number of steps of each.
    mask : ndarray of bool, shape (n, T)
        Which entries are steps.
    follower_reward, leader_reward : ndarray, shape (n, T)
        What each step paid; 0 beyond.
    survival : float
        Probability with which a step was followed by another if the episode went on; what is summed
        over steps t is to be divided by survival^t. 1 unless trajectories are cut by chance.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> view = tb.LeaderView(tb.problems.layered(depth=2, width=1), [0.0] * 4)
    >>> batch = view.sample(3, steps=5, rng=0)
    >>> batch.states.tolist(), batch.next_states.tolist(), batch.lengths
    ([[0, 1], [0, 1], [0, 1]], [[1, -1], [1, -1], [1, -1]], array([2, 2, 2]))
    """

    states: IntArray
    actions: IntArray
    next_states: IntArray
    entries: IntArray
    lengths: IntArray
    mask: BoolArray
    follower_reward: FloatArray
    leader_reward: FloatArray
    survival: float

    @classmethod
    def of(cls, sample: Trajectories) -> Batch:
        """Copy trajectories."""
        return cls(
            states=sample.states.astype(np.int64),
            actions=sample.actions.astype(np.int64),
            next_states=sample.next_states.astype(np.int64),
            entries=sample.entry_table.astype(np.int64),
            lengths=np.array(sample.lengths, dtype=np.int64),
            mask=sample.mask,
            follower_reward=sample.follower_reward.copy(),
            leader_reward=sample.leader_reward.copy(),
            survival=sample.survival,
        )


@displayed
@dataclass(frozen=True, eq=False)
class Jacobian:
    """Derivatives of a model's tables with respect to theta, which a leader knows.

    Attributes
    ----------
    follower_reward, leader_reward : ndarray, shape (S, A, d)
        Of the rewards; 0 where an action is unavailable.
    log_transition : ndarray, shape (nnz, d)
        Of log P(s'|s,a), a row a stored transition; 0 where P is 0. In a Markov game whose follower
        observes the leader, this is grad log f(b'|s') of the leader's next action.
    log_initial : ndarray, shape (S, d)
        Of log rho(s); 0 where rho is 0.
    temperature : ndarray, shape (d,)
        Of the temperature; it counts as -log pi(a|s) times that of the follower's reward.
    """

    follower_reward: FloatArray
    leader_reward: FloatArray
    log_transition: FloatArray
    log_initial: FloatArray
    temperature: FloatArray

    @classmethod
    def of(cls, problem: BilevelProblem, theta: FloatArray, model: Model) -> Jacobian:
        """Differentiate the tables: forward where the problem can, else entry by entry.

        Raises ValueError if these tables, which are dense, are too large.
        """
        shape = (*model.follower_reward.shape, theta.size)
        require_room("jacobian.follower_reward", *shape)
        require_room("jacobian.log_transition", model.transition.nnz, theta.size)
        tangents = tangents_at(problem, theta, model)
        follower, leader, kernel, initial, temperature = (
            getattr(tangents, name).toarray() for name in MOVED
        )
        available = model.available[:, :, None]  # other rewards are 0 whatever a problem says
        return cls(
            follower_reward=read_only(follower.reshape(shape) * available),
            leader_reward=read_only(leader.reshape(shape) * available),
            log_transition=_per_probability(kernel, model.transition.data),
            log_initial=_per_probability(initial, model.initial),
            temperature=read_only(temperature[0]),
        )


class LeaderView:
    """What a leader may see of its problem at one theta.

    It may also ask for what a decentralised leader does not have: the follower's policy and values,
    and its own exact values. `asked` keeps account of that.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    response : Response, optional
        The follower's; its best one by default.

    Attributes
    ----------
    theta : ndarray, shape (d,)
        The leader's parameter.
    n_states, n_actions : int
        S and A.
    available : ndarray of bool, shape (S, A)
        Which actions a state has.
    follower_reward, leader_reward : ndarray, shape (S, A)
        Reward per step.
    follower_discount, leader_discount, temperature : float
        As in `Model`.

    Raises
    ------
    ValueError
        On construction, if theta is not a finite vector that fits the problem.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> view = tb.LeaderView(tb.problems.bandit(), [0.0, 0.0])
    >>> view.jacobian.follower_reward.shape, view.sample(4, rng=0).actions.shape, view.asked
    ((1, 2, 2), (4, 1), ())
    >>> view.pullback(follower_reward=[[3.0, 5.0]])
    array([3., 5.])
    >>> view.follower_policy, view.follower_value.round(4), view.follower_action_value
    (array([[0.5, 0.5]]), array([0.6931]), array([[0., 0.]]))
    >>> view.leader_value, view.leader_action_value, view.leader_advantage
    (array([0.5]), array([[0., 1.]]), array([[-0.5,  0.5]]))
    >>> print(view.asked[:2], len(view.asked))
    ('follower_action_value', 'follower_policy') 6
    >>> view.draw(tb.Episodes(2, steps=1), np.random.default_rng(0)).lengths
    array([1, 1])
    """

    def __init__(
        self, problem: BilevelProblem, theta: npt.ArrayLike, *, response: Response | None = None
    ) -> None:
        self.theta = read_only(as_theta(theta))
        self._problem = problem
        self._model = modelled(problem, self.theta)
        self._response = solve_follower(self._model) if response is None else response
        self._asked: set[str] = set()
        model = self._model
        self.n_states, self.n_actions = model.n_states, model.n_actions
        self.available = model.available
        self.follower_reward, self.leader_reward = model.follower_reward, model.leader_reward
        self.follower_discount, self.leader_discount = (
            model.follower_discount,
            model.leader_discount,
        )
        self.temperature = model.temperature

    @property
    def asked(self) -> tuple[str, ...]:
        """What was asked for that a decentralised leader does not have, sorted."""
        return tuple(sorted(self._asked))

    @cached_property
    def jacobian(self) -> Jacobian:
        """Derivatives of the tables with respect to theta."""
        return Jacobian.of(self._problem, self.theta, self._model)

    def pullback(
        self,
        *,
        follower_reward: npt.ArrayLike | None = None,
        leader_reward: npt.ArrayLike | None = None,
        log_transition: npt.ArrayLike | None = None,
        log_initial: npt.ArrayLike | None = None,
        temperature: float = 0.0,
    ) -> FloatArray:
        """Pull weights of table entries back to theta: their sum, times `jacobian`.

        Parameters
        ----------
        follower_reward, leader_reward : array_like, shape (S, A), optional
            Weights of the rewards.
        log_transition : array_like, shape (nnz,), optional
            Weights of log P(s'|s,a), in the order of `Batch.entries`.
        log_initial : array_like, shape (S,), optional
            Weights of log rho(s).
        temperature : float
            Weight of the temperature.

        Returns
        -------
        ndarray, shape (d,)
            A gradient.

        Raises
        ------
        ValueError
            If a table of weights has the wrong shape, or is not finite.
        """
        model = self._model

        def weights(name: str, given: npt.ArrayLike | None, table: FloatArray) -> FloatArray:
            if given is None:
                return np.zeros_like(table)
            return finite_array(name, as_numpy(given), table.shape)

        follower = weights("follower_reward", follower_reward, model.follower_reward)
        leader = weights("leader_reward", leader_reward, model.leader_reward)
        kernel = weights("log_transition", log_transition, model.transition.data)
        initial = weights("log_initial", log_initial, model.initial)
        return pulled_back(
            self._problem,
            self.theta,
            Sensitivities.of(
                model,
                follower_reward=follower * model.available,
                leader_reward=leader * model.available,
                transition=_per_probability(kernel, model.transition.data),
                initial=_per_probability(initial, model.initial),
                temperature=as_finite("temperature", temperature),
            ),
        )

    def sample(
        self,
        n_trajectories: int,
        *,
        steps: int | None = None,
        rng: np.random.Generator | int,
    ) -> Batch:
        """Let the follower act.

        Parameters
        ----------
        n_trajectories : int
            Each from a fresh start.
        steps : int, optional
            Steps after which one is cut; by default so many that it makes no difference.
        rng : numpy.random.Generator or int
            Source of randomness (it advances), or a seed.

        Returns
        -------
        Batch
            The trajectories.

        Raises
        ------
        ValueError
            If a number is not positive, or `rng` is neither a generator nor a seed.
        """
        return self.draw(Episodes(n_trajectories, steps), rng)

    def draw(self, sampler: Sampler, rng: np.random.Generator | int) -> Batch:
        """Let the follower act as long as a sampler says; otherwise as `sample`."""
        require_method("sampler", sampler, "sample")
        policy = self._response.policy
        return Batch.of(sampler.sample(self._model, policy, rng=as_generator(rng)))

    @property
    def follower_policy(self) -> FloatArray:
        """pi(a|s), shape (S, A)."""
        return self._ask("follower_policy", self._response.policy)

    @property
    def follower_value(self) -> FloatArray:
        """V_F, shape (S,)."""
        return self._ask("follower_value", self._response.value)

    @property
    def follower_action_value(self) -> FloatArray:
        """Q_F, shape (S, A); -inf where an action is unavailable."""
        return self._ask("follower_action_value", self._response.action_value)

    @property
    def leader_value(self) -> FloatArray:
        """V_L, shape (S,)."""
        return self._ask("leader_value", self._values.value)

    @property
    def leader_action_value(self) -> FloatArray:
        """Q_L, shape (S, A)."""
        return self._ask("leader_action_value", self._values.action_value)

    @property
    def leader_advantage(self) -> FloatArray:
        """A_L = Q_L - V_L, shape (S, A)."""
        return self._ask("leader_advantage", self._values.advantage)

    def _ask(self, name: str, table: FloatArray) -> FloatArray:
        self._asked.add(name)
        return table

    @cached_property
    def _values(self) -> LeaderValues:
        return exact_values(self._model, self._response)

    def __str__(self) -> str:
        asked = ", ".join(self.asked) or "nothing that a decentralised leader lacks"
        return (
            f"LeaderView: {self.theta.size} parameters, {self.n_states} states, {self.n_actions} "
            f"actions; asked for {asked}"
        )


def as_numpy(numbers: Any) -> npt.NDArray[Any]:
    """View what NumPy, JAX or PyTorch made as an array, off its device and off its graph."""
    if type(numbers) is np.ndarray and numbers.dtype.kind == "f":
        return numbers
    bfloat16 = is_bfloat16(numbers)
    if hasattr(numbers, "detach"):  # a torch tensor
        numbers = numbers.detach().cpu()
        numbers = (numbers.double() if bfloat16 else numbers).numpy()
    if isinstance(numbers, np.ma.MaskedArray):
        return numbers  # a plain array would show what is masked
    # numpy has no bfloat16, float64 holds it
    return np.asarray(numbers, dtype=np.float64 if bfloat16 else None)


@displayed
class Precision:
    """The coarsest dtype that numbers came in so far, and the relative size of its last digit."""

    def __init__(self) -> None:
        self.dtype, self.unit = "float64", sys.float_info.epsilon

    def note(self, numbers: Any) -> None:
        """Look at what NumPy, JAX or PyTorch made; whole numbers are exact."""
        if type(numbers) is np.ndarray and numbers.dtype == np.float64:
            return
        name = "bfloat16"
        if not is_bfloat16(numbers):
            dtype = as_numpy(numbers).dtype
            if dtype.kind != "f":
                return
            name = dtype.name
        if unit_of(name) > self.unit:
            self.dtype, self.unit = name, unit_of(name)


def unit_of(dtype: str) -> float:
    """Find the relative size of the last digit of a dtype of this name."""
    return 2.0**-7 if dtype == "bfloat16" else float(np.finfo(dtype).eps)


def is_bfloat16(numbers: Any) -> bool:
    """Say whether numbers have that dtype, of whatever library."""
    return "bfloat16" in str(getattr(numbers, "dtype", ""))


def _per_probability(table: FloatArray, probability: FloatArray) -> FloatArray:
    """Divide rows by probabilities; 0 where the probability is 0."""
    divisor = probability.reshape(-1, *[1] * (table.ndim - 1))
    return read_only(np.divide(table, divisor, out=np.zeros_like(table), where=divisor > 0.0))
