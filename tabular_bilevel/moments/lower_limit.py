"""How little variance is left to those who have to learn tables (theory.md section 16)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tabular_bilevel._base.arguments import all_finite, as_checked_theta, finite_array
from tabular_bilevel._base.arrays import (
    FloatArray,
    IntArray,
    quiet,
    ratio,
    read_only,
    restore_read_only,
)
from tabular_bilevel.derivatives import tangents_at
from tabular_bilevel.finite.linear import policy_system
from tabular_bilevel.finite.tangents import summing
from tabular_bilevel.moments.scored import follower_slopes
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
    kernel, row, arrival = model.transition, model.entry_row, model.transition.indices
    pairs, beta, gamma = (*policy.shape, len(tangents)), model.temperature, model.leader_discount
    follower, leader = (
        policy_system(model, policy, discount) for discount in (model.follower_discount, gamma)
    )
    # named as in the theory; the last axis is of the parameters
    d_q, d_v = follower_slopes(limit)
    alpha, q = np.where(model.available, (values.advantage / beta, values.action_value), 0.0)
    d = leader.solve_transposed(model.initial)
    gone, w = d[:, None] * policy, d[:, None] * policy * alpha
    n = follower.solve_transposed(model.follower_discount * model.arrivals(w))
    moved = gamma * tangents.transition
    paid = summing(row, policy.size) @ sp.diags_array(values.value[arrival]) @ moved
    eta = alpha[:, :, None] * d_q + (tangents.leader_reward + paid).toarray().reshape(pairs)
    m = leader.solve(np.einsum("sa,sad->sd", policy, eta))
    eta += gamma * (kernel @ m).reshape(pairs)
    k = gone[:, :, None] * d_q / beta
    going = summing(arrival, model.n_states) @ sp.diags_array(gone.ravel()[row]) @ moved
    source = gamma * (kernel.T @ k.reshape(-1, pairs[2])) - k.sum(axis=1)
    mixed = leader.solve_transposed(source + (going + tangents.initial).toarray())[:, None]
    kappa = k + policy[:, :, None] * mixed

    psi = d[:, None, None] * eta + n[:, None, None] * d_q + mixed * q[:, :, None]
    psi -= (d[:, None] * alpha)[:, :, None] * tangents.temperature.toarray()
    seen, flat = limit.law.visits(1.0)[0], (policy.size, pairs[2])
    state = np.repeat(np.arange(model.n_states), model.n_actions)
    transition = initial = None
    if not (tangents.transition.nnz or tangents.initial.nnz):
        mu = (w + policy * n[:, None]).ravel()
        phi = gamma * gone.ravel()[row, None] * m[arrival]
        phi += model.follower_discount * mu[row, None] * d_v[arrival]
        phi += gamma * values.value[arrival, None] * kappa.reshape(flat)[row]
        transition = _left(phi, kernel.data, row, seen.ravel(), model.termination.ravel())
        initial = _left(m, model.initial, np.zeros_like(state[: model.n_states]), np.ones(1))
    noisy = np.sqrt(np.broadcast_to(noise, policy.shape))[:, :, None] * kappa
    everything = np.arange(policy.size)
    return LowerLimit(
        policy=_left(psi.reshape(flat), policy.ravel(), state, seen.sum(axis=1)),
        transition=transition,
        initial=initial,
        leader_reward=_left(noisy.reshape(flat), None, everything, seen.ravel()),
    )


def _left(
    derivative: FloatArray,
    chance: FloatArray | None,
    group: IntArray,
    seen: FloatArray,
    ends: FloatArray | float = 0.0,
) -> FloatArray:
    """Add up groups' covariances of derivatives, each over how often the group is seen.

    `ends` has the chance of one entry more, with a derivative of 0; without chances, rows are noise
    of variance 1.
    """
    mean = np.zeros((seen.size, derivative.shape[1]))
    if chance is None:
        chance = np.ones(group.size)
    else:
        mean = summing(group, seen.size) @ (chance[:, None] * derivative)
    off = derivative - mean[group]
    varies = (np.abs(off) > ROUNDED * np.abs(derivative).max(initial=0.0)).any(axis=1)
    missing = varies & (chance > 0.0) & ~(seen[group] > 0.0)
    if missing.any():
        raise ValueError(
            "trajectories are cut before they show all that the gradient depends on: no estimator "
            "is unbiased"
        )
    root = np.sqrt(seen)[:, None]  # 1 / seen may overflow where nothing counts
    off, mean = ratio(off, root[group]), ratio(mean, root)
    found = (off * chance[:, None]).T @ off + (mean * np.reshape(ends, (-1, 1))).T @ mean
    if not all_finite(found):
        raise ValueError(
            "the limit overflows float64: its temperature is too low, or its noise large"
        )
    return read_only(np.asarray(found))
