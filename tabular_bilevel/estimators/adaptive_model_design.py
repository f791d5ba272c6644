"""AMD: adaptive model design, by forward sweeps.

Chen, Yang, Li, Wang, Yang, Wang, "Adaptive Model Design for Markov Decision Process", ICML 2022;
theory.md section 9.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tabular_bilevel._base.arguments import as_generator, as_theta, finite_array, positive_integer
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only
from tabular_bilevel.derivatives import tangents_at
from tabular_bilevel.estimators.estimate import Estimate, bias_of
from tabular_bilevel.finite.follower import Response, log_policy, soft_backup
from tabular_bilevel.problem import BilevelProblem, modelled
from tabular_bilevel.sampling.experience import NOTHING, Memory, require_memory


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
    parameter, or of `pullback` for each table entry where there is none. Memory: S A d
    numbers. Bias: of order max(gamma_F, gamma_L)^sweeps, counting the sweeps at thetas nearby; it
    vanishes as their number grows.

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
        tangents = tangents_at(problem, theta, model)
        (n_states, n_actions), d, kernel = model.follower_reward.shape, theta.size, model.transition
        follower_slope, leader_slope = (
            table.toarray() for table in (tangents.follower_reward, tangents.leader_reward)
        )
        heating = tangents.temperature.toarray()[0]

        def moved(value: FloatArray) -> FloatArray | float:
            """Average over the change of the kernel: dP V, shape (S*A, d)."""
            if not tangents.transition.nnz:
                return 0.0
            weights = value[kernel.indices]
            rows = sp.csr_array(
                (weights, np.arange(kernel.nnz), kernel.indptr),
                shape=(n_states * n_actions, kernel.nnz),
            )
            return np.asarray((rows @ tangents.transition).toarray())

        zero = {
            "follower_value": (n_states,),
            "follower_value_slope": (n_states, d),
            "leader_action_value": (n_states, n_actions),
            "leader_value_slope": (n_states, d),
        }
        tables = [
            finite_array(name, memory[name], shape) if name in memory else np.zeros(shape)
            for name, shape in zero.items()
        ]
        follower_value, follower_value_slope, leader_action_value, leader_value_slope = tables
        for _ in range(self.sweeps):
            action_value, improved, policy = soft_backup(model, follower_value)
            ahead = moved(follower_value) + kernel @ follower_value_slope
            slope = follower_slope + model.follower_discount * ahead
            slope = slope.reshape(n_states, n_actions, d)
            if heating.any():
                slope = slope - log_policy(model, action_value)[:, :, None] * heating
            follower_value = improved
            follower_value_slope = np.einsum("sa,sad->sd", policy, slope)
            leader_value = (policy * leader_action_value).sum(axis=1)
            leader_action_value = model.leader_reward + model.leader_discount * model.next_value(
                leader_value
            )
            ahead = moved(leader_value) + kernel @ leader_value_slope
            direct = leader_slope + model.leader_discount * ahead
            reaction = slope - follower_value_slope[:, None]
            leader_value_slope = np.einsum(
                "sa,sad->sd",
                policy,
                direct.reshape(n_states, n_actions, d)
                + reaction * (leader_action_value / model.temperature)[:, :, None],
            )
        action_value, improved, policy = soft_backup(model, follower_value)
        leader_value = (policy * leader_action_value).sum(axis=1)
        residual = float(np.abs(improved - follower_value).max())
        response = Response(
            value=read_only(follower_value),
            action_value=read_only(action_value),
            policy=read_only(policy),
            residual=residual,
            error_bound=residual / (1.0 - model.follower_discount * model.largest_mass),
            iterations=self.sweeps,
        )
        gradient = tangents.initial.T @ leader_value + leader_value_slope.T @ model.initial
        tables = [follower_value, follower_value_slope, leader_action_value, leader_value_slope]
        return Estimate(
            gradient=read_only(gradient),
            model=model,
            response=response,
            memory={name: read_only(table) for name, table in zip(zero, tables, strict=True)},
        )

    @quiet
    def target(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute the same from tables of zeros, shape (d,): there is no data."""
        return self(problem, theta, rng=0).gradient

    bias = bias_of
