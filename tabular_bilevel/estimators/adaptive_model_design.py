"""AMD: adaptive model design, by forward sweeps.

Chen, Yang, Li, Wang, Yang, Wang, "Adaptive Model Design for Markov Decision Process", ICML 2022;
theory.md section 9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tabular_bilevel._base.arguments import (
    as_generator,
    as_theta,
    finite_array,
    positive_integer,
    require_room,
)
from tabular_bilevel._base.arrays import FloatArray, blocks, centred, quiet, read_only
from tabular_bilevel.derivatives import tangents_at
from tabular_bilevel.estimators.estimate import Estimate, bias_of
from tabular_bilevel.finite.follower import Response, log_policy, soft_backup
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.tangents import Tangents
from tabular_bilevel.problem import BilevelProblem, modelled
from tabular_bilevel.sampling.experience import NOTHING, Memory, require_memory


class _Tables(NamedTuple):
    """What is swept: values, and their derivatives in some parameters."""

    follower_value: FloatArray  # shape (S,)
    leader_action_value: FloatArray  # shape (S, A)
    follower_value_slope: FloatArray  # shape (S, c), as the next
    leader_value_slope: FloatArray

    @classmethod
    def of(cls, memory: Memory, model: Model, n_parameters: int) -> _Tables:
        """Take them from a memory; those that it does not have are 0, and take none."""
        slopes = (model.n_states, n_parameters)
        shapes = ((model.n_states,), model.follower_reward.shape, slopes, slopes)
        parts = zip(cls._fields, shapes, strict=True)
        return cls(*(_kept(memory, name, shape) for name, shape in parts))

    def of_parameters(self, columns: slice) -> _Tables:
        """Leave the other parameters out."""
        return _Tables(*self[:2], *(slopes[:, columns] for slopes in self[2:]))

    def leader_value(self, policy: FloatArray) -> FloatArray:
        """Average the leader's action value, shape (S,)."""
        return np.asarray((policy * self.leader_action_value).sum(axis=1))


def _kept(memory: Memory, name: str, shape: tuple[int, ...]) -> FloatArray:
    if name not in memory:
        return np.broadcast_to(0.0, shape)
    return finite_array(name, memory[name], shape)


class _Moving:
    """A model whose tables move with some parameters."""

    def __init__(self, model: Model, tangents: Tangents, columns: slice) -> None:
        self._model, starts = model, np.arange(0, model.follower_reward.size + 1, model.n_actions)
        parts = (np.empty(starts[-1]), np.arange(starts[-1]), starts)
        self._sums = sp.csr_array(parts, shape=model.transition.shape[::-1])
        self._follower, self._leader, self._temperature = (
            table[:, columns].toarray()
            for table in (tangents.follower_reward, tangents.leader_reward, tangents.temperature)
        )
        self._kernel = tangents.transition[:, columns] if tangents.transition.nnz else None
        self._heated = bool(self._temperature.any())

    def swept(self, now: _Tables) -> _Tables:
        """Make all tables of those there are."""
        model = self._model
        action_value, follower_value, policy = soft_backup(model, now.follower_value)
        slope = model.follower_discount * self._ahead(now.follower_value, now.follower_value_slope)
        slope += self._follower
        if self._heated:
            slope -= log_policy(model, action_value).reshape(-1, 1) * self._temperature
        leader_value = now.leader_value(policy)
        leader_action_value = model.leader_reward + model.leader_discount * model.next_value(
            leader_value
        )
        direct = model.leader_discount * self._ahead(leader_value, now.leader_value_slope)
        direct += self._leader
        # how the policy moves with an action's value, times what that is worth
        worth = policy * centred(leader_action_value, policy) / model.temperature
        return _Tables(
            follower_value,
            leader_action_value,
            self._summed(policy, slope),
            self._summed(policy, direct) + self._summed(worth, slope),
        )

    def _ahead(self, value: FloatArray, slope: FloatArray) -> FloatArray:
        """Differentiate a value of what comes next, P V: dP V + P dV, shape (S*A, c)."""
        kernel = self._model.transition
        ahead = np.asarray(kernel @ slope)
        if self._kernel is not None:
            entries = (value[kernel.indices], np.arange(kernel.nnz), kernel.indptr)
            rows = sp.csr_array(entries, shape=(kernel.shape[0], kernel.nnz))
            ahead += (rows @ self._kernel).toarray()
        return ahead

    def _summed(self, weights: FloatArray, slope: FloatArray) -> FloatArray:
        """Add up a state's rows, weighted, shape (S, c)."""
        self._sums.data = weights.ravel()
        return np.asarray(self._sums @ slope)


@dataclass(frozen=True)
class AdaptiveModelDesign:
    """The AMD method: every table, and its derivative, is swept once an inner iteration.

    Source: Chen et al. (ICML 2022); theory.md section 9.

    With pi the softmax of Q_F / temperature and V, dV means under it (V_F the soft maximum)::

        Q_F  <- r_F + gamma_F P V_F        dQ_F <- dr_F + gamma_F ( dP V_F + P dV_F )
        Q_L  <- r_L + gamma_L P V_L        dV_L <- E_pi [ dr_L + gamma_L ( dP V_L + P dV_L )
                                                          + (dQ_F - dV_F) Q_L / temperature ]

    where dr_F has -log pi added for a change of the temperature,
    and the gradient is drho.V_L + rho.dV_L. The tables go on from call to call.

    Assumes: the model is known, and its Jacobian, which takes a call of `pushforward` for each
    parameter, or of `pullback` for each table entry where there is none. Memory: two tables of S d
    numbers, which go on to the next call; `target` does without. Bias: of order
    max(gamma_F, gamma_L)^sweeps, counting the sweeps at thetas nearby; it vanishes as their number
    grows.

    Attributes
    ----------
    sweeps : int
        Inner iterations.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.two_state(), [0.0, 0.0]
    >>> exact = tb.hypergradient(problem, theta).gradient
    >>> few, many = (tb.AdaptiveModelDesign(sweeps=k).target(problem, theta) for k in (20, 200))
    >>> bool(abs(few - exact).max() > 0.01), bool(abs(many - exact).max() < 1e-6)
    (True, True)
    """

    sweeps: int = 20

    def __post_init__(self) -> None:
        positive_integer("sweeps", self.sweeps)

    @quiet
    def __call__(
        self,
        problem: BilevelProblem,
        theta: npt.ArrayLike,
        *,
        rng: np.random.Generator | int,
        memory: Memory = NOTHING,
    ) -> Estimate:
        """Sweep; as of `Estimator`, and no randomness."""
        require_memory(memory)
        as_generator(rng)  # what is none is refused all the same
        theta = read_only(as_theta(theta))
        model = modelled(problem, theta)
        require_room("a table of derivatives, which AMD keeps,", model.n_states, theta.size)
        tangents = tangents_at(problem, theta, model)
        slopes = np.empty((model.n_states, theta.size)), np.empty((model.n_states, theta.size))
        gradient = np.empty(theta.size)
        for columns, after in self._swept(model, tangents, memory):
            gradient[columns] = after.leader_value_slope.T @ model.initial
            slopes[0][:, columns], slopes[1][:, columns] = after[2:]
        action_value, improved, policy = soft_backup(model, after.follower_value)
        gradient += tangents.initial.T @ after.leader_value(policy)
        residual = float(np.abs(improved - after.follower_value).max())
        response = Response(
            value=read_only(after.follower_value),
            action_value=read_only(action_value),
            policy=read_only(policy),
            residual=residual,
            error_bound=residual / (1.0 - model.follower_discount * model.largest_mass),
            iterations=self.sweeps,
        )
        tables = zip(_Tables._fields, (*after[:2], *slopes), strict=True)
        return Estimate(
            gradient=read_only(gradient),
            model=model,
            response=response,
            memory={name: read_only(table) for name, table in tables},
        )

    @quiet
    def target(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute the same from tables of zeros, shape (d,): there is no data, and none is kept.

        Raises
        ------
        ValueError
            If theta does not fit the problem.
        """
        theta = read_only(as_theta(theta))
        model = modelled(problem, theta)
        tangents, gradient = tangents_at(problem, theta, model), np.empty(theta.size)
        for columns, after in self._swept(model, tangents, NOTHING):
            gradient[columns] = after.leader_value_slope.T @ model.initial
        _, _, policy = soft_backup(model, after.follower_value)
        return read_only(gradient + tangents.initial.T @ after.leader_value(policy))

    def _swept(
        self, model: Model, tangents: Tangents, memory: Memory
    ) -> Iterator[tuple[slice, _Tables]]:
        """Sweep, for some parameters at a time: the derivatives in one do without the others."""
        before = _Tables.of(memory, model, len(tangents))
        for columns in blocks(len(tangents), model.follower_reward.size):
            moving, after = _Moving(model, tangents, columns), before.of_parameters(columns)
            for _ in range(self.sweeps):
                after = moving.swept(after)
            yield columns, after

    bias = bias_of
