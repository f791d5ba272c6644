"""How little variance is left to those who have to learn tables (theory.md section 16)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tabular_bilevel._base.arguments import all_finite, as_checked_theta, finite_array, require_room
from tabular_bilevel._base.arrays import (
    FloatArray,
    IntArray,
    blocks,
    quiet,
    ratio,
    read_only,
    restore_read_only,
)
from tabular_bilevel.derivatives import tangents_at
from tabular_bilevel.finite.linear import policy_system
from tabular_bilevel.finite.tangents import summing
from tabular_bilevel.moments.scored import FollowerSlopes
from tabular_bilevel.problem import BilevelProblem, require_tables
from tabular_bilevel.sampling.experience import Interaction
from tabular_bilevel.sampling.samplers import Episodes, Sampler

# Relative to the largest: derivatives that differ by less are the same, but for rounding.
ROUNDED = 1e-12


@dataclass(frozen=True, eq=False)
class LowerLimit:
    """Least covariance that not knowing a table leaves to a gradient from one trajectory.

    From n trajectories it is n times smaller. The parts add up: those of the tables that a method
    does not know make its limit. Each has shape (d, d), and its trace is the total variance.

    Attributes
    ----------
    policy : ndarray
        Of the follower's policy: any distribution in each state, not known to be soft-optimal.
    transition, initial : ndarray or None
        Of the kernel, and of where trajectories start: any distributions with the support that
        they have. None where theta moves one of them, as what it moves is taken to be known.
    leader_reward : ndarray
        Of the leader's mean rewards, if each reward that is seen has noise.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> print(tb.lower_limit(tb.problems.layered(), [0.0] * 4, reward_variance=0.1))
    Least total variance of an unbiased gradient from one trajectory, as a sum over unknown tables
      policy 25.5, leader_reward 13.7
    """

    policy: FloatArray
    transition: FloatArray | None
    initial: FloatArray | None
    leader_reward: FloatArray

    __setstate__ = restore_read_only

    def __str__(self) -> str:
        parts = [
            f"{name} {np.trace(part):.3g}" for name, part in vars(self).items() if part is not None
        ]
        return (
            "Least total variance of an unbiased gradient from one trajectory, as a sum over "
            f"unknown tables\n  {', '.join(parts)}"
        )


@quiet
def lower_limit(
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    sampler: Sampler | None = None,
    *,
    reward_variance: npt.ArrayLike = 0.0,
) -> LowerLimit:
    """Compute the least covariance of a gradient made by who has to learn what exact critics know.

    What is estimated is the formula of the gradient, of the policy, kernel, start and rewards that
    trajectories show. It is the Cramer-Rao bound for unbiased estimators, however many the
    trajectories, and for all regular ones in the limit of many; the formula, of the frequencies
    that were seen, attains it there.

    Known are discounts and temperature, the derivatives of the rewards and of what else theta
    moves, and there the follower's value, too. Longer trajectories show more, even of a time when
    discounted rewards no longer count. A method with an exact critic is outside of this: it is told
    the leader's values, which nobody has to learn from the sample, but it makes no use of what
    other visits to a state show. So its variance may be above the limit, or below it.

    Who knows the follower's rewards, its kernel and that it is soft-optimal, knows the policy, too:
    nothing is left to learn. What there is between, rewards with some unknowns, has no bound here.

    Source: theory.md section 16.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    sampler : Sampler, optional
        Where trajectories are cut, by default as `Episodes` does; how many does not matter.
    reward_variance : array_like, shape () or (S, A)
        Variance of the noise of the leader's rewards that are seen; 0 if these are known.

    Returns
    -------
    LowerLimit
        Of one trajectory.

    Raises
    ------
    ValueError
        If a state that matters cannot be reached before trajectories are cut, so that no estimator
        is unbiased; if theta does not fit the problem, or a variance is negative.

    Examples
    --------
    What the follower's policy costs to learn from trajectories of 50 steps, and what BC-HG makes of
    them with the exact critic:

    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> problem, theta, sampler = tb.problems.garnet(), np.full(6, 0.1), tb.Episodes(1, 50)
    >>> print(f"{np.trace(tb.lower_limit(problem, theta, sampler).policy):.4g}")
    351.8
    >>> method = tb.BoltzmannCovariance(tb.Interaction(sampler))
    >>> print(f"{tb.estimator_moments(problem, theta, method).total_variance:.4g}")
    2671
    """
    theta = read_only(as_checked_theta(theta))
    limit = Interaction(Episodes() if sampler is None else sampler).limit(problem, theta)
    model = require_tables(limit.world, what="lower_limit")
    policy, values = limit.response.policy, limit.values
    shape = policy.shape if np.ndim(reward_variance) else ()
    noise = finite_array("reward_variance", reward_variance, shape)
    if noise.min() < 0.0:
        raise ValueError(f"reward_variance is {noise.min()}, which is negative")
    tangents = tangents_at(limit.problem, theta, model)
    n_states, n_actions = policy.shape
    require_room("a table of the limit", theta.size, theta.size)
    require_room("a table of derivatives", n_states, theta.size)
    kernel, row, arrival = model.transition, model.entry_row, model.transition.indices
    beta, gamma = model.temperature, model.leader_discount
    follower, leader = (
        policy_system(model, policy, discount) for discount in (model.follower_discount, gamma)
    )
    # named as in the theory; the last axis is of the parameters
    alpha, q = np.where(model.available, (values.advantage / beta, values.action_value), 0.0)
    d = leader.solve_transposed(model.initial)
    gone, w = d[:, None] * policy, d[:, None] * policy * alpha
    n = follower.solve_transposed(model.follower_discount * model.arrivals(w))
    mu = w + policy * n[:, None]
    moved = gamma * tangents.transition
    paid = summing(row, policy.size) @ sp.diags_array(values.value[arrival]) @ moved
    going = summing(arrival, n_states) @ sp.diags_array(gone.ravel()[row]) @ moved
    direct, begun = sp.csr_array(tangents.leader_reward + paid), going + tangents.initial
    # what states have is made for some parameters at a time, ...
    slopes = FollowerSlopes(limit)
    d_v, m, mixed = np.empty((3, n_states, theta.size))
    for columns in blocks(theta.size, policy.size):
        d_v[:, columns] = slopes.of_values(columns)
        d_q = slopes.of_action_values(d_v[:, columns], columns=columns)
        eta = alpha[:, :, None] * d_q + direct[:, columns].toarray().reshape(d_q.shape)
        m[:, columns] = leader.solve(np.einsum("sa,sad->sd", policy, eta))
        k = gone[:, :, None] * d_q / beta
        source = gamma * (kernel.T @ k.reshape(policy.size, -1)) - k.sum(axis=1)
        mixed[:, columns] = leader.solve_transposed(source + begun[:, columns].toarray())

    # ... and what pairs and transitions have for some states
    seen = limit.law.visits(1.0)[0]
    at_policy, at_kernel, at_initial, at_reward = (_Left(theta.size) for _ in range(4))
    kernel_known = bool(tangents.transition.nnz or tangents.initial.nnz)
    wide, mean_m = max(policy.size, kernel.nnz) / n_states, (model.initial @ m)[None]
    for states in blocks(n_states, wide * theta.size):
        pairs = slice(states.start * n_actions, states.stop * n_actions)
        d_q = slopes.of_action_values(d_v, states)
        k = gone[states, :, None] * d_q / beta
        kappa = k + policy[states, :, None] * mixed[states, None]
        ahead = direct[pairs].toarray() + gamma * (kernel[pairs] @ m)
        eta = alpha[states, :, None] * d_q + ahead.reshape(d_q.shape)
        psi = d[states, None, None] * eta + n[states, None, None] * d_q
        psi += mixed[states, None] * q[states, :, None]
        psi -= (d[states, None] * alpha[states])[:, :, None] * tangents.temperature.toarray()
        state = np.repeat(np.arange(len(psi)), n_actions)
        psi, kappa = psi.reshape(len(state), -1), kappa.reshape(len(state), -1)
        at_policy.add(psi, policy[states].ravel(), state, seen[states].sum(axis=1))
        root = np.sqrt(np.broadcast_to(noise, policy.shape)[states]).reshape(-1, 1)
        alone, everything = np.ones(len(state)), np.arange(len(state))
        nothing = np.zeros((len(state), theta.size))
        at_reward.add(root * kappa, alone, everything, seen[states].ravel(), mean=nothing)
        if kernel_known:
            continue
        entries = slice(kernel.indptr[pairs.start], kernel.indptr[pairs.stop])
        own, to = row[entries] - pairs.start, arrival[entries]
        phi = gamma * gone.ravel()[row[entries], None] * m[to]
        phi += model.follower_discount * mu.ravel()[row[entries], None] * d_v[to]
        phi += gamma * values.value[to, None] * kappa[own]
        chance, ends = kernel.data[entries], model.termination[states].ravel()
        at_kernel.add(phi, chance, own, seen[states].ravel(), ends=ends)
        start = np.zeros(len(psi) // n_actions, dtype=np.int64)
        at_initial.add(m[states], model.initial[states], start, np.ones(1), mean=mean_m)
    return LowerLimit(
        policy=at_policy.found(),
        transition=None if kernel_known else at_kernel.found(),
        initial=None if kernel_known else at_initial.found(),
        leader_reward=at_reward.found(),
    )


class _Left:
    """Groups' covariances of derivatives, each over how often the group is seen, added up."""

    def __init__(self, n_parameters: int) -> None:
        self._total = np.zeros((n_parameters, n_parameters))
        self._largest = self._unseen = 0.0

    def add(
        self,
        derivative: FloatArray,
        chance: FloatArray,
        group: IntArray,
        seen: FloatArray,
        *,
        mean: FloatArray | None = None,
        ends: FloatArray | None = None,
    ) -> None:
        """Add groups, with their means if more of them is to come.

        `ends` has the chance of one entry more, with a derivative of 0.
        """
        if mean is None:
            mean = summing(group, seen.size) @ (chance[:, None] * derivative)
        off, unseen = derivative - mean[group], (chance > 0.0) & ~(seen[group] > 0.0)
        for name, table in (("_largest", derivative), ("_unseen", off[unseen])):
            largest = np.abs(table).max(initial=0.0)
            setattr(self, name, float(np.maximum(getattr(self, name), largest)))
        root = np.sqrt(seen)[:, None]  # 1 / seen may overflow where nothing counts
        off = ratio(off, root[group])
        self._total += (off * chance[:, None]).T @ off
        if ends is not None:
            mean = ratio(mean, root)
            self._total += (mean * ends[:, None]).T @ mean

    def found(self) -> FloatArray:
        """Return the sum, if it is one."""
        if self._unseen > ROUNDED * self._largest:
            raise ValueError(
                "trajectories are cut before they show all that the gradient depends on: no "
                "estimator is unbiased"
            )
        if not all_finite(self._total):
            raise ValueError(
                "the limit overflows float64: its temperature is too low, or its noise large"
            )
        return read_only(self._total)
