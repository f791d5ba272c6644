"""The leader's return under the follower's answer (theory.md section 15)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tabular_bilevel._base.arguments import positive_integer
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only, restore_read_only
from tabular_bilevel._base.errors import ConvergenceError
from tabular_bilevel.lq.follower import GaussianPolicy, Response, closed_loop
from tabular_bilevel.lq.linear import is_stable, lyapunov, powers, spectral_radius, symmetric
from tabular_bilevel.lq.model import LinearQuadraticModel
from tabular_bilevel.lq.rewards import QuadraticReward, StateLaws

__all__ = [
    "Evaluation",
    "average_law",
    "counted_steps",
    "evaluate_leader",
    "moved_noise",
    "rounding_horizon",
    "state_laws",
]

# A bump's rewards after the last counted step are together smaller than this part of its height.
NEGLIGIBLE = 1e-20

# Numbers of the laws of all counted steps: 1 GB.
MOST_NUMBERS = 2**27


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The leader's objective, and its derivatives with the follower's policy a table of its own.

    theory.md section 15 has the formulas. Derivatives in symmetric matrices are paired with
    symmetric changes by the trace.

    Attributes
    ----------
    objective : float
        J, the leader's expected discounted return from the initial law.
    closed_loop : ndarray, shape (n, n)
        dJ/dC, in C = A - B K.
    noise : ndarray, shape (n, n)
        dJ/dV, in the covariance V = W + B (input's covariance) B' of a step.
    gain : ndarray, shape (m, n)
        dJ/dK: which way the leader would want the follower to change its mind.
    covariance : ndarray, shape (m, m)
        dJ/d(the input's covariance).
    initial_mean, initial_covariance : ndarray, shape (n,) and (n, n)
        dJ/d(those of the first state). The latter is the matrix of the leader's value if its
        reward is quadratic.
    leader_reward : mapping of str to ndarray
        dJ/d(each number of the reward). A quadratic's ``"state"`` is the discounted sum of the
        mean of x x', the occupancy of this kind of model.
    horizon : int or None
        Number of steps that count; all if None.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.building_thermal_control().model([0.0] * 8)
    >>> evaluation = tb.evaluate_leader(model, tb.solve_follower(model))
    >>> round(evaluation.objective, 6), evaluation.horizon
    (-261.963014, 100)
    """

    objective: float
    closed_loop: FloatArray
    noise: FloatArray
    gain: FloatArray
    covariance: FloatArray
    initial_mean: FloatArray
    initial_covariance: FloatArray
    leader_reward: Mapping[str, FloatArray]
    horizon: int | None

    __setstate__ = restore_read_only

    def __str__(self) -> str:
        steps = "all steps" if self.horizon is None else f"{self.horizon} steps"
        return f"Evaluation: objective {self.objective:.10g} over {steps}"


@quiet
def evaluate_leader(
    model: LinearQuadraticModel, response: Response, *, horizon: int | None = None
) -> Evaluation:
    """Evaluate J and its derivatives, the follower's policy held fixed.

    A horizon is that of the model, if none is given. Raises ValueError if all steps count and their
    discounted sum diverges, or under a bump the state does.
    """
    steps = counted_steps(model, horizon)
    gain, covariance = response.gain, response.covariance
    closed, noise = closed_loop(model, gain), moved_noise(model, covariance)
    reward, discount = model.leader_reward, model.leader_discount
    if steps is None and isinstance(reward, QuadraticReward):
        root = np.sqrt(discount)
        try:
            laws, weights = average_law(
                closed, noise, model.initial_mean, model.initial_covariance, discount
            )
        except ConvergenceError as error:
            raise ValueError(
                "the leader's discounted sum over all steps diverges: the root of its discount "
                "times the spectral radius of the closed loop is "
                f"{root * spectral_radius(closed):.6g}, not below 1; give a leader_horizon"
            ) from error
        slopes = reward.slopes(laws, weights, gain, covariance)
        value = lyapunov(root * closed.T, slopes.covariances[0] / weights[0])
        flow = 2.0 * discount * value @ closed @ slopes.reward["state"]
        spreading = discount * weights[0] * value
        start = [2.0 * value @ model.initial_mean, value]
    else:
        if steps is None and not is_stable(closed):
            raise ValueError(
                "a bump over all steps needs a state that does not run away: the spectral radius "
                f"of the closed loop is {spectral_radius(closed):.6g}, not below 1; give a "
                "leader_horizon"
            )
        count = rounding_horizon(discount) if steps is None else steps
        laws = state_laws(model, response, count)
        weights = np.asarray(discount ** np.arange(count), dtype=np.float64)
        slopes = reward.slopes(laws, weights, gain, covariance)
        flow, spreading, *start = _back(closed, laws, slopes.means, slopes.covariances)
    objective = float(reward.expected(vars(reward), laws, weights, gain, covariance))
    if not math.isfinite(objective):
        raise ValueError("the leader's objective is not finite: its numbers overflow float64")
    B = model.control
    return Evaluation(
        objective=objective,
        closed_loop=read_only(flow),
        noise=read_only(spreading),
        gain=read_only(slopes.gain - B.T @ flow),
        covariance=read_only(slopes.covariance + symmetric(B.T @ spreading @ B)),
        initial_mean=read_only(start[0]),
        initial_covariance=read_only(start[1]),
        leader_reward={name: read_only(slope) for name, slope in slopes.reward.items()},
        horizon=steps,
    )


def average_law(
    closed: Any, noise: Any, mean: Any, covariance: Any, discount: float
) -> tuple[StateLaws, FloatArray]:
    """Average the laws of all steps, discounted, around 0, with the weight of them all.

    A quadratic's mean is linear in the moments, so that this is as good as the laws one by one.
    Complex numbers are welcome.
    """
    total = 1.0 / (1.0 - discount)
    source = covariance + np.outer(mean, mean) + discount * total * noise
    moment = lyapunov(np.sqrt(discount) * closed, source)
    return StateLaws(np.zeros((1, len(mean))), moment[None] / total), np.array([total])


def counted_steps(model: LinearQuadraticModel, horizon: int | None) -> int | None:
    """Choose the horizon that was asked for, or else the model's."""
    return model.leader_horizon if horizon is None else positive_integer("horizon", horizon)


def moved_noise(model: LinearQuadraticModel, covariance: FloatArray) -> FloatArray:
    """Add what the input's spread does to a step to the noise."""
    return np.asarray(model.noise + symmetric(model.control @ covariance @ model.control.T))


@quiet
def state_laws(
    model: LinearQuadraticModel, response: Response | GaussianPolicy, n_steps: int
) -> StateLaws:
    """Follow the Gaussian law of the state under the follower's answer.

    Parameters
    ----------
    model : LinearQuadraticModel
        The model.
    response : Response or GaussianPolicy
        The follower's answer to it.
    n_steps : int
        How many steps, the first state included.

    Returns
    -------
    StateLaws
        Mean and covariance at each.

    Raises
    ------
    ValueError
        If `n_steps` is not a positive whole number, there are too many numbers, or they overflow.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.bilevel_lqr().model([0.0, 0.0])
    >>> laws = tb.lq.state_laws(model, tb.solve_follower(model), 2)
    >>> laws.means.round(6)[:, 0]
    array([1., 0.])
    """
    count = positive_integer("n_steps", n_steps)
    n = model.n_states
    if count * n * n > MOST_NUMBERS:
        raise ValueError(
            f"the laws of {n} states over {count:,} steps are more than {MOST_NUMBERS:,} numbers; "
            "a smaller horizon, or a leader_horizon, would do"
        )
    closed = closed_loop(model, response.gain)
    noise = moved_noise(model, response.covariance)
    moved = powers(closed, count)
    means, back = moved @ model.initial_mean, moved.swapaxes(1, 2)
    covariances = moved @ model.initial_covariance @ back
    covariances[1:] += (moved @ noise @ back)[:-1].cumsum(axis=0)
    if not (np.isfinite(means[-1]).all() and np.isfinite(covariances[-1]).all()):
        raise ValueError(
            f"the law of the state overflows float64 within {count:,} steps: the closed loop has "
            f"the spectral radius {spectral_radius(closed):.6g}"
        )
    return StateLaws(read_only(means), read_only(symmetric(covariances)))


def _back(
    closed: FloatArray, laws: StateLaws, means: FloatArray, covariances: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Take derivatives in the laws of all steps back to closed loop, noise and start."""
    means, covariances, across = means.copy(), covariances.copy(), closed.T.copy()
    for t in range(len(means) - 2, -1, -1):
        means[t] += across @ means[t + 1]
        covariances[t] += across @ covariances[t + 1] @ closed
    flow = means[1:].T @ laws.means[:-1]
    flow += 2.0 * np.tensordot(covariances[1:] @ closed, laws.covariances[:-1], ((0, 2), (0, 1)))
    return flow, symmetric(covariances[1:].sum(axis=0)), means[0], symmetric(covariances[0])


def rounding_horizon(discount: float) -> int:
    """Count the steps after which all rewards together are negligible."""
    if discount == 0.0:
        return 1
    return max(1, math.ceil(math.log(NEGLIGIBLE * (1.0 - discount)) / math.log(discount)))
