"""BC-HG: the Boltzmann covariance hypergradient, by eligibility traces.

Kudo, Tanabe, Wachi, Akimoto, "Sample-Efficient Hypergradient Estimation for Decentralized Bi-Level
Reinforcement Learning", ICAPS 2026, arXiv:2603.14867; as traces, theory.md section 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tabular_bilevel._arrays import FloatArray, read_only
from tabular_bilevel._validation import as_generator, as_theta, positive_integer
from tabular_bilevel.critics import Critic, ExactCritic
from tabular_bilevel.estimators.estimate import Estimate
from tabular_bilevel.follower import Response, solve_follower
from tabular_bilevel.hypergradient import pulled_back
from tabular_bilevel.model import Model
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.sensitivities import Sensitivities
from tabular_bilevel.trajectories import Trajectories, row_blocks, sample_trajectories

__all__ = ["BoltzmannCovariance", "Experience", "negligible_horizon", "sampled_sensitivities"]

# What a truncated trajectory leaves out, relative to the whole; below every sampling error.
NEGLIGIBLE = 1e-8


@dataclass(frozen=True, eq=False)
class Experience:
    """What an estimator has in hand after acting: a response, trajectories and a critic's values.

    Attributes
    ----------
    model : Model
        The follower's model at theta.
    response : Response
        The follower's response.
    trajectories : Trajectories
        Sampled under it.
    leader_action_value : ndarray, shape (S, A)
        The critic's Q_L.
    """

    model: Model
    response: Response
    trajectories: Trajectories
    leader_action_value: FloatArray


@dataclass(frozen=True, kw_only=True)
class BoltzmannCovariance:
    """The BC-HG estimator, for reward, kernel, initial and leader-policy parameters.

    With eligibility e_t = gamma_F e_{t-1} + gamma_L^t A_L(s_t, a_t) / temperature, each step of an
    on-policy trajectory contributes::

        dJ/dr_F(s_t, a_t)            e_t
        dJ/dr_L(s_t, a_t)            gamma_L^t
        dJ/dlog P(s_{t+1}|s_t,a_t)   gamma_F e_t V_F(s_{t+1}) + gamma_L^{t+1} V_L(s_{t+1})
        dJ/dlog rho(s_0)             V_L(s_0)

    and the problem pulls the mean over trajectories back to theta. A leader's policy is part of the
    kernel here, with V_L(s, b) in the place of the published Q_L(s, b, a): the same mean, less
    variance.

    Assumes: the follower plays its soft-optimal policy, and its value V_F is known (it enters
    kernel parameters only). Bias: none with an exact critic, but for what truncation leaves out,
    of order max(gamma_F, gamma_L)^horizon; with a learned critic, its error.

    Attributes
    ----------
    n_trajectories : int
        Trajectories per call, all held at once: about 13 bytes a step.
    horizon : int, optional
        Steps after which a trajectory is cut: not the `horizon` of `hypergradient`, which changes
        the objective, but one that leaves a bias. By default so many that what is left out is below
        a part in 10^8: ln(1e-8) / ln(max discount), 1,833 for a discount of 0.99.
    critic : Critic
        Where Q_L comes from.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem = tb.problems.bandit(leader_reward=[0.0, 1.0, 0.5])
    >>> estimator = tb.BoltzmannCovariance(n_trajectories=10_000)
    >>> estimate = estimator(problem, [0.0, 0.0, 0.0], rng=0)
    >>> exact = tb.hypergradient(problem, [0.0, 0.0, 0.0])
    >>> bool(abs(estimate.gradient - exact.gradient).max() < 0.02)
    True
    """

    n_trajectories: int = 1000
    horizon: int | None = None
    critic: Critic = field(default_factory=ExactCritic)

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_integer("n_trajectories", self.n_trajectories)
        if self.horizon is not None:
            positive_integer("horizon", self.horizon)
        if not callable(getattr(self.critic, "action_value", None)):
            raise ValueError(f"critic is {self.critic!r}, which has no method action_value")

    def __call__(
        self, problem: BilevelProblem, theta: npt.ArrayLike, *, rng: np.random.Generator | int
    ) -> Estimate:
        """Solve the follower, sample, and estimate.

        Parameters
        ----------
        problem : BilevelProblem
            The leader's problem.
        theta : array_like, shape (d,)
            The leader's parameter.
        rng : numpy.random.Generator or int
            Source of randomness (it advances), or a seed.

        Returns
        -------
        Estimate
            The sampled gradient and its parts.
        """
        theta = as_theta(theta)
        experience = self.experience(problem, theta, rng=rng)
        direct, indirect = sampled_sensitivities(experience)
        return Estimate(
            direct=read_only(pulled_back(problem, theta, direct)),
            indirect=read_only(pulled_back(problem, theta, indirect)),
            n_trajectories=experience.trajectories.count,
            n_steps=int(experience.trajectories.lengths.sum()),
        )

    def experience(
        self, problem: BilevelProblem, theta: FloatArray, *, rng: np.random.Generator | int
    ) -> Experience:
        """Solve the follower, sample trajectories and ask the critic.

        Parameters
        ----------
        problem : BilevelProblem
            The leader's problem.
        theta : ndarray, shape (d,)
            The leader's parameter.
        rng : numpy.random.Generator or int
            Source of randomness (it advances), or a seed.

        Returns
        -------
        Experience
            What `sampled_sensitivities` starts from.
        """
        generator = as_generator(rng)
        model = problem.model(theta)
        response = solve_follower(model)
        trajectories = sample_trajectories(
            model,
            response.policy,
            count=self.n_trajectories,
            horizon=negligible_horizon(model) if self.horizon is None else self.horizon,
            rng=generator,
        )
        values = self.critic.action_value(model, response, trajectories, generator)
        return Experience(model, response, trajectories, values)


def negligible_horizon(model: Model) -> int:
    """Count the steps after which both discounted sums lack less than a part in 10^8."""
    discount = max(model.follower_discount, model.leader_discount)
    return 1 if discount == 0.0 else max(1, math.ceil(math.log(NEGLIGIBLE) / math.log(discount)))


def sampled_sensitivities(
    experience: Experience,
    *,
    follower_discount: float | None = None,
    leader_discount: float | None = None,
) -> tuple[Sensitivities, Sensitivities]:
    """Estimate the direct and the indirect sensitivities from trajectories, in one pass.

    Parameters
    ----------
    experience : Experience
        Model, response, trajectories and critic.
    follower_discount, leader_discount : float, optional
        Discounts of the traces; the model's, unless a fault is wanted.

    Returns
    -------
    direct, indirect : Sensitivities
        Means over trajectories.
    """
    from tabular_bilevel import _kernels

    model, response = experience.model, experience.response
    sample, action_value = experience.trajectories, experience.leader_action_value
    leader_value = (response.policy * action_value).sum(axis=1)
    # Rows that cannot terminate sum to one at every theta: what is subtracted there has mean zero.
    steady = model.termination == 0.0
    follower_ahead = np.where(steady, response.action_value - model.follower_reward, 0.0)
    leader_ahead = np.where(steady, action_value - model.leader_reward, 0.0)
    scaled_advantage = (action_value - leader_value[:, None]) / model.temperature
    follower_next = model.follower_discount * response.value
    leader_next = model.leader_discount * leader_value
    first_value = leader_value - model.initial @ leader_value
    shape, kernel = action_value.shape, model.transition
    influence, occupancy = np.zeros(shape), np.zeros(shape)
    direct_transition, indirect_transition = np.zeros(kernel.nnz), np.zeros(kernel.nnz)
    direct_initial = np.zeros(model.n_states)
    for block in row_blocks(*sample.states.shape):
        _kernels.eligibility_traces(
            sample.states[block],
            sample.actions[block],
            sample.next_states[block],
            sample.lengths[block],
            kernel.indptr,
            kernel.indices,
            kernel.data,
            model.initial,
            model.follower_discount if follower_discount is None else follower_discount,
            model.leader_discount if leader_discount is None else leader_discount,
            scaled_advantage,
            follower_next,
            leader_next,
            follower_ahead,
            leader_ahead,
            first_value,
            influence,
            occupancy,
            direct_transition,
            indirect_transition,
            direct_initial,
        )
    count = sample.count
    direct = Sensitivities.of(
        model,
        leader_reward=occupancy / count,
        transition=direct_transition / count,
        initial=direct_initial / count,
    )
    indirect = Sensitivities.of(
        model,
        follower_reward=influence / count,
        transition=indirect_transition / count,
    )
    return direct, indirect
