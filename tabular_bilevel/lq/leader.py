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
from tabular_bilevel.lq.follower import GaussianPolicy, Response, closed_loop, require_answer
from tabular_bilevel.lq.linear import is_stable, lyapunov, spectral_radius, symmetric
from tabular_bilevel.lq.model import LinearQuadraticModel
from tabular_bilevel.lq.rewards import QuadraticReward, StateLaws, by_state

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
    require_answer(model, response)
    steps = counted_steps(model, horizon)
    gain, covariance = response.gain, response.covariance
    closed, noise = closed_loop(model, gain), moved_noise(model, covariance)
    reward, discount, mean = model.leader_reward, model.leader_discount, model.initial_mean
    if isinstance(reward, QuadraticReward):
        start = model.initial_covariance + np.outer(mean, mean)
        earned = by_state(vars(reward), gain)
        given = closed, noise, earned, start, discount
        sums = _all_summed(*given) if steps is None else summed(*given, steps)
        moment, total, value, flow, spreading = sums
        laws, weights = average_law(moment, total)
        slopes = reward.slopes(laws, weights, gain, covariance)
        first = [2.0 * value @ mean, value]
    else:
        weights = step_weights(closed, discount, steps)
        laws = state_laws(model, response, len(weights))
        slopes = reward.slopes(laws, weights, gain, covariance)
        flow, spreading, *first = _back(closed, laws, slopes.means, slopes.covariances)
    found = (np.asarray(slopes.total), flow, spreading, *first, *slopes.reward.values())
    if not all(np.isfinite(array).all() for array in found):
        raise ValueError(
            "the leader's objective or its derivative is not finite: its numbers overflow float64"
        )
    B = model.control
    return Evaluation(
        objective=slopes.total,
        closed_loop=read_only(flow),
        noise=read_only(spreading),
        gain=read_only(slopes.gain - B.T @ flow),
        covariance=read_only(slopes.covariance + symmetric(B.T @ spreading @ B)),
        initial_mean=read_only(first[0]),
        initial_covariance=read_only(first[1]),
        leader_reward={name: read_only(slope) for name, slope in slopes.reward.items()},
        horizon=steps,
    )


def average_law(moment: Any, total: float) -> tuple[StateLaws, FloatArray]:
    """Make one law, around 0, of the sum of the means of x x', with the weight of all steps.

    A quadratic's mean is linear in the moments, so that this is as good as the laws one by one.
    """
    return StateLaws(np.zeros((1, len(moment))), moment[None] / total), np.array([total])


def moment_of_all(closed: Any, noise: Any, start: Any, discount: float) -> Any:
    """Add up the means of x x' over all steps, discounted; complex numbers are welcome."""
    source = start + discount / (1.0 - discount) * noise
    return lyapunov(np.sqrt(discount) * closed, source)


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
        If `n_steps` is not a positive whole number, there are too many numbers, or they overflow;
        or if the response is not one to such a model.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.bilevel_lqr().model([0.0, 0.0])
    >>> laws = tb.lq.state_laws(model, tb.solve_follower(model), 2)
    >>> laws.means.round(6)[:, 0]
    array([1., 0.])
    """
    require_answer(model, response)
    count = positive_integer("n_steps", n_steps)
    _require_few(count, model.n_states)
    closed = closed_loop(model, response.gain)
    noise = moved_noise(model, response.covariance)
    means, covariances = np.empty((count, len(closed))), np.empty((count, *closed.shape))
    means[0], covariances[0] = model.initial_mean, model.initial_covariance
    done, power = 1, closed
    while done < count:  # a stack of twice as many, by what that many steps do
        more = min(done, count - done)
        later = slice(done, done + more)
        means[later] = means[:more] @ power.T
        np.matmul(power @ covariances[:more], power.T, out=covariances[later])
        covariances[later] += noise
        done, noise, power = done + more, noise + power @ noise @ power.T, power @ power
    if not (np.isfinite(means[-1]).all() and np.isfinite(covariances[-1]).all()):
        raise ValueError(
            f"the law of the state overflows float64 within {count:,} steps: the closed loop has "
            f"the spectral radius {spectral_radius(closed):.6g}"
        )
    return StateLaws(read_only(means), read_only(symmetric(covariances)))


def _require_few(count: int, n: int) -> None:
    if count * n * n > MOST_NUMBERS:
        raise ValueError(
            f"the laws of {n} states over {count:,} steps are more than {MOST_NUMBERS:,} numbers; "
            "a smaller horizon, or a leader_horizon, would do"
        )


# The sum of the means of x x' and that of the weights, the matrix of the leader's value, and the
# derivatives of the objective in closed loop and noise.
_Sums = tuple[FloatArray, float, FloatArray, FloatArray, FloatArray]


def _all_summed(
    closed: FloatArray,
    noise: FloatArray,
    earned: FloatArray,
    start: FloatArray,
    discount: float,
) -> _Sums:
    """Add up x' earned x over all steps."""
    root, total = np.sqrt(discount), 1.0 / (1.0 - discount)
    try:
        moment = moment_of_all(closed, noise, start, discount)
    except ConvergenceError as error:
        raise ValueError(
            "the leader's discounted sum over all steps diverges: the root of its discount times "
            f"the spectral radius of the closed loop is {root * spectral_radius(closed):.6g}, not "
            "below 1; give a leader_horizon"
        ) from error
    value = lyapunov(root * closed.T, earned)
    return moment, total, value, 2.0 * discount * value @ closed @ moment, discount * total * value


@dataclass(frozen=True)
class _Span:
    """Some steps in a row: what they do to the state and what they earn, discounted.

    With k steps, ``power`` is C^k times the root of ``weight``, the discount's k-th power;
    ``value`` the sum of what x earns in them, and ``noise``, times the weight, what gathers.
    """

    weight: Any
    power: Any
    value: Any
    noise: Any

    def then(self, later: _Span) -> _Span:
        """Let others follow."""
        return _Span(
            weight=self.weight * later.weight,
            power=later.power @ self.power,
            value=self.value + self.power.T @ later.value @ self.power,
            noise=self.weight * later.noise + later.power @ self.noise @ later.power.T,
        )

    def parts(self, later: _Span, whole: _Span) -> tuple[_Span, _Span]:
        """Take the derivatives in both in a row back to each.

        Those in `weight` stand for what is earned in each step whatever x is.
        """
        mine = _Span(
            weight=whole.weight,
            power=2.0 * later.value @ self.power @ whole.value + later.power.T @ whole.power,
            value=whole.value,
            noise=later.power.T @ whole.noise @ later.power + whole.weight * later.value,
        )
        others = _Span(
            weight=self.weight * whole.weight,
            power=2.0 * whole.noise @ later.power @ self.noise + whole.power @ self.power.T,
            value=self.power @ whole.value @ self.power.T + whole.weight * self.noise,
            noise=self.weight * whole.noise,
        )
        return mine, others

    def __add__(self, other: _Span) -> _Span:
        return _Span(
            self.weight + other.weight,
            self.power + other.power,
            self.value + other.value,
            self.noise + other.noise,
        )


def summed(
    closed: Any, noise: Any, earned: Any, start: Any, discount: Any, steps: int, root: Any = None
) -> Any:
    """Add up x' earned x over some steps, by doubling, and go back for the derivatives.

    Whatever can be added up and multiplied will do; a discount that is no number has its root.
    """
    root = math.sqrt(discount) if root is None else root
    nothing, none = 0.0 * closed, 0.0 * discount
    one = _Span(discount, root * closed, earned, discount * noise)
    spans, rows = one, []
    for digit in f"{steps:b}"[1:]:
        for later in (None, one)[: 1 + int(digit)]:
            rows.append((spans, later))
            spans = spans.then(later or spans)
    slopes, of_one = (
        _Span(1.0 + none, nothing, start, nothing),
        _Span(none, nothing, nothing, nothing),
    )
    for before, later in reversed(rows):
        slopes, others = before.parts(later or before, slopes)
        if later:
            of_one = of_one + others
        else:
            slopes = slopes + others
    of_one = of_one + slopes
    return (
        0.5 * (of_one.value + of_one.value.T),
        of_one.weight,
        0.5 * (spans.value + spans.value.T),
        root * of_one.power,
        discount * (0.5 * (of_one.noise + of_one.noise.T)),
    )


def _back(
    closed: FloatArray, laws: StateLaws, means: FloatArray, covariances: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Take derivatives in the laws of all steps back to closed loop, noise and start."""
    mean, covariance = means[-1], covariances[-1]
    flow, noise = np.zeros_like(closed), np.zeros_like(closed)
    for t in range(len(means) - 2, -1, -1):
        noise += covariance
        flow += np.outer(mean, laws.means[t])
        moved = covariance @ closed
        flow += 2.0 * moved @ laws.covariances[t]
        mean, covariance = means[t] + mean @ closed, covariances[t] + closed.T @ moved
    return flow, symmetric(noise), mean, symmetric(covariance)


def step_weights(closed: FloatArray, discount: float, steps: int | None) -> FloatArray:
    """Weigh steps by the discount; the last one stands for all after it, whose laws are alike.

    That is so where powers of the closed loop have fallen to nothing. Raises ValueError if all
    steps count, and they do not fall.
    """
    stable = is_stable(closed)
    if steps is None and not stable:
        raise ValueError(
            "a bump over all steps needs a state that does not run away: the spectral radius of "
            f"the closed loop is {spectral_radius(closed):.6g}, not below 1; give a leader_horizon"
        )
    count = rounding_horizon(discount) if steps is None else steps
    if stable or discount == 0.0:
        count = min(count, rounding_horizon(discount))
    settled, power = count, closed
    if stable:
        settled = 1
        while settled < count and np.linalg.norm(power) > NEGLIGIBLE:
            settled, power = 2 * settled, power @ power
    apart = min(count, settled + 1)
    _require_few(apart, len(closed))
    weights = np.asarray(discount ** np.arange(apart), dtype=np.float64)
    if apart < count:
        weights[-1] *= -math.expm1((count - settled) * math.log(discount)) / (1.0 - discount)
    return weights


def rounding_horizon(discount: float) -> int:
    """Count the steps after which all rewards together are negligible."""
    if discount == 0.0:
        return 1
    return max(1, math.ceil(math.log(NEGLIGIBLE * (1.0 - discount)) / math.log(discount)))
