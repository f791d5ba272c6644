"""Exact bias and variance of a method's gradients (theory.md section 16)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import (
    all_finite,
    as_checked_theta,
    keeps_up,
    positive_integer,
    require_room,
)
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only, restore_read_only
from tabular_bilevel.certify.accuracy import Estimated
from tabular_bilevel.estimators.adaptive_model_design import AdaptiveModelDesign
from tabular_bilevel.estimators.exact import ExactGradient
from tabular_bilevel.estimators.naive import direct_rule
from tabular_bilevel.estimators.neumann import TruncatedNeumann
from tabular_bilevel.estimators.penalty import ValueGapPenalty
from tabular_bilevel.estimators.score_function import ScoreRule
from tabular_bilevel.estimators.zero_order import ZeroOrder
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.kinds import by_kind
from tabular_bilevel.lq.traces import TraceRule as TraceRuleOfStates
from tabular_bilevel.lq.trajectories import Law as LawOfStates
from tabular_bilevel.moments.gaussian import GaussianMoments, returns
from tabular_bilevel.moments.scored import ScoredMoments
from tabular_bilevel.moments.traced import TracedMoments
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.problems.features import FeatureProblem
from tabular_bilevel.sampling.experience import Experience, Interaction
from tabular_bilevel.sampling.samplers import NEGLIGIBLE, Episodes
from tabular_bilevel.sampling.traces import TraceRule

# A cut that leaves out as little as samplers do by default; their logarithms round.
CUT_THAT_SHOWS = NEGLIGIBLE * (1.0 + 1e-9)


# A bias as small as this, relative to the gradient, is rounding of linear systems.
ROUNDED = 1e-10


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of the gradient that a method makes of one trajectory.

    The mean of n independent ones has the same mean, and a covariance n times smaller. Starts that
    are stratified, as many in each state as the initial distribution says, save `start_variance`.

    Attributes
    ----------
    mean : ndarray, shape (d,)
        Mean.
    exact : ndarray, shape (d,)
        The exact hypergradient.
    variance : ndarray, shape (d,)
        Variance of each coordinate.
    start_variance : float
        The part of the total variance that is due to where trajectories start.
    n_steps : float
        Steps that a trajectory takes, on average; 0 of a method that draws none.
    horizon : int or None
        Steps after which a trajectory is cut; None where a cut leaves out too little to show.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.bandit(leader_reward=[0.0, 1.0, 0.2]), [0.0, 0.0, 0.0]
    >>> moments = tb.estimator_moments(problem, theta, tb.BoltzmannCovariance())
    >>> print(moments)
    Moments of a gradient from one trajectory, of 1 steps on average
      no bias beyond rounding; standard deviation 1.41 times the exact gradient's norm
      0 % of the variance is due to where trajectories start
    >>> moments.bias.shape, round(moments.total_variance, 4), moments.covariance.shape
    ((3,), 0.1244, (3, 3))
    """

    mean: FloatArray
    exact: FloatArray
    variance: FloatArray
    start_variance: float
    n_steps: float
    horizon: int | None
    _covariance: Callable[[], FloatArray] = field(repr=False)

    __setstate__ = restore_read_only

    @property
    def bias(self) -> FloatArray:
        """Mean less the exact hypergradient, shape (d,)."""
        return self.mean - self.exact

    @property
    def total_variance(self) -> float:
        """Sum of the coordinates' variances, the mean of |gradient - mean|^2."""
        return float(self.variance.sum())

    @cached_property
    def covariance(self) -> FloatArray:
        """The whole covariance, shape (d, d), computed when first asked for.

        Raises ValueError if that is too large; `variance` is not.
        """
        return read_only(self._covariance())

    def __str__(self) -> str:
        norm = float(np.linalg.norm(self.exact))
        unit, times = (norm, " times the exact gradient's norm") if norm > 0.0 else (1.0, "")
        bias = float(np.linalg.norm(self.bias)) / unit
        told = f"bias {bias:.3g}{times}" if bias > ROUNDED else "no bias beyond rounding"
        deviation = math.sqrt(self.total_variance)
        share = self.start_variance / self.total_variance if deviation > 0.0 else 0.0
        return (
            f"Moments of a gradient from one trajectory, of {self.n_steps:.4g} steps on average\n"
            f"  {told}; standard deviation {deviation / unit:.3g}{times}\n"
            f"  {100.0 * share:.0f} % of the variance is due to where trajectories start"
        )


@quiet
def estimator_moments(
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    method: Any,
    *,
    horizon: float | None = None,
) -> Moments:
    """Compute the exact mean and covariance of the gradient a method makes of one trajectory.

    Nothing is sampled: both solve linear equations (theory.md section 16), at a cost of two solves
    for each parameter.

    That takes a method whose credits do not depend on the sample: BC-HG, SoBiRL, the naive policy
    gradient and Bi-AC, with a critic that is exact or given, the score-function form, and those
    `controls` that are wrong on each trajectory by itself. Zero-order gradients count one random
    direction, and are exact to the leading order in the radius. Methods that compute from the model
    have no variance.

    Others average over visits, or learn from the sample: what they make of it is a ratio. Their
    moments take enumeration, by `check_by_enumeration`, or sampling.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    method : Estimator
        The method; how many trajectories it draws does not matter.
    horizon : int or math.inf, optional
        Steps after which a trajectory is cut; ``math.inf`` for no cut. By default what the method's
        sampler says, but that a cut which leaves out less than a part in 10^8 counts as none.

    Returns
    -------
    Moments
        Of one trajectory.

    Raises
    ------
    ValueError
        If the method's moments are not known so, or are infinite; if theta does not fit the
        problem, or the horizon is neither a positive whole number nor infinite.

    Examples
    --------
    What taking the mean off arrivals' values saves, and what an error of the critic costs:

    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.garnet(), np.full(6, 0.1)
    >>> for method in (tb.BoltzmannCovariance(), tb.BoltzmannCovariance(baseline=False)):
    ...     print(f"{tb.estimator_moments(problem, theta, method).total_variance:.4g}")
    2776
    8.505e+04
    >>> exact = tb.Interaction().limit(problem, theta).values.action_value
    >>> wrong = tb.Interaction(critic=tb.GivenCritic(exact + np.eye(*exact.shape)))
    >>> moments = tb.estimator_moments(problem, theta, tb.BoltzmannCovariance(wrong))
    >>> print(f"{np.linalg.norm(moments.bias):.4g} {moments.total_variance:.4g}")
    1.823 2942
    """
    theta = read_only(as_checked_theta(theta))
    uncut = isinstance(horizon, float) and horizon == math.inf
    steps = None if horizon is None or uncut else positive_integer("horizon", horizon)
    if isinstance(method, type):
        raise ValueError(f"method is the class {method.__name__}, not an instance of it")
    # an heir may estimate otherwise
    if hasattr(method, "rule_at") and keeps_up(method, "rule_at", "estimate", "__call__"):
        rule, limit = method.rule_at(problem, theta)
        return _traced(problem, theta, rule, limit, steps, uncut=uncut)
    if is_plain(method, ZeroOrder, "target"):
        return _zero_order(problem, theta, method, steps)
    drawn = getattr(method, "sampler", None)
    if drawn is None and any(is_plain(method, kind, "target") for kind in FROM_THE_MODEL):
        return _from_the_model(problem, theta, method.target(problem, theta))
    raise ValueError(
        f"method is {type(method).__name__}, which averages over visits, learns from the sample, "
        "or is not a method of this package: its moments take enumeration, by "
        "check_by_enumeration, or sampling"
    )


FROM_THE_MODEL = (ExactGradient, AdaptiveModelDesign, TruncatedNeumann, ValueGapPenalty)


def is_plain(method: Any, kind: type, *names: str) -> bool:
    """Say whether a method is of a kind, or its heir, and is called and estimates as that does."""
    names = ("__call__", "estimate", *names)
    return isinstance(method, kind) and all(
        getattr(type(method), name, None) is getattr(kind, name, None) for name in names
    )


def _exact(problem: BilevelProblem, theta: FloatArray) -> FloatArray:
    return hypergradient(problem, theta, accuracy=Estimated()).gradient


def _traced(
    problem: BilevelProblem,
    theta: FloatArray,
    rule: TraceRule | ScoreRule,
    limit: Experience,
    steps: int | None,
    *,
    uncut: bool,
) -> Moments:
    law: Any = limit.seen
    if steps is not None:
        law = replace(law, horizon=steps)
    elif isinstance(law, LawOfStates):
        if uncut:
            raise ValueError(
                "horizon is infinite, and trajectories of a linear-quadratic model do not end: "
                "give a number of steps"
            )
        steps = law.horizon
    elif law.survival == 1.0 and not uncut:
        decay = limit.world.leader_discount
        if isinstance(rule, TraceRule):
            decay = max(rule.leader_discount, rule.credit_discount, rule.trace_discount)
        steps = law.horizon if decay**law.horizon > CUT_THAT_SHOWS else None
    moments = _moments(rule, limit, steps)
    found = moments.variances()
    if not (all_finite(found.mean) and all_finite(found.covariance)):
        raise ValueError("the moments overflow float64")
    return Moments(
        mean=read_only(found.mean),
        exact=_exact(problem, theta),
        variance=read_only(found.covariance),
        start_variance=float(found.of_starts.sum()),
        n_steps=moments.n_steps if uncut else law.n_steps,
        horizon=steps,
        _covariance=partial(_whole, rule, limit, steps),
    )


def _moments(
    rule: TraceRule | ScoreRule, limit: Experience, steps: int | None
) -> TracedMoments | ScoredMoments:
    if isinstance(rule, ScoreRule):
        return ScoredMoments(rule, limit, steps)
    if isinstance(rule, TraceRuleOfStates):
        return GaussianMoments(rule, limit, steps)
    return TracedMoments(rule, limit, steps)


def _whole(rule: TraceRule | ScoreRule, limit: Experience, steps: int | None) -> FloatArray:
    require_room("the covariance", limit.theta.size, limit.theta.size)
    return _moments(rule, limit, steps).covariance().covariance


def _from_the_model(problem: BilevelProblem, theta: FloatArray, mean: FloatArray) -> Moments:
    return Moments(
        mean=read_only(np.array(mean)),
        exact=_exact(problem, theta),
        variance=read_only(np.zeros_like(mean)),
        start_variance=0.0,
        n_steps=0.0,
        horizon=None,
        _covariance=partial(np.zeros, (mean.size, mean.size)),
    )


def _zero_order(
    problem: BilevelProblem, theta: FloatArray, method: ZeroOrder, steps: int | None
) -> Moments:
    """Add up what a random direction brings, and what J's noise does, if it is sampled.

    With z standard normal, the covariance of (g.z) z is |g|^2 I + g g^T, and noise of variance v in
    each J adds v / (2 u^2) I two-sided, 2 v / u^2 I one-sided.
    """
    if method.sampler is not None and steps is not None:
        method = replace(method, sampler=Episodes(1, steps))
    mean, noise, n_steps, cut = method.target(problem, theta), 0.0, 0.0, None
    if method.sampler is not None:
        limit = Interaction(method.sampler, follower=method.follower).limit(problem, theta)
        noise, steps_of_one, cut = _returns(limit.planned, limit)
        n_steps = 2.0 * steps_of_one
        noise *= (0.5 if method.two_sided else 2.0) / method.radius**2
    aside = float(mean @ mean) + noise
    return Moments(
        mean=mean,
        exact=_exact(problem, theta),
        variance=read_only(aside + mean**2),
        start_variance=0.0,
        n_steps=n_steps,
        horizon=cut,
        _covariance=partial(_normal, mean, aside),
    )


def _normal(mean: FloatArray, aside: float) -> FloatArray:
    return aside * np.eye(mean.size) + np.outer(mean, mean)


def _of_tables(_: object, limit: Experience) -> tuple[float, float, int | None]:
    """Compute the variance of a trajectory's return, its steps and where it is cut.

    The return is the gradient in the size of the leader's reward.
    """
    model = limit.world
    size = FeatureProblem(model, leader_reward=model.leader_reward.reshape(-1, 1))
    sized = replace(limit, problem=size, theta=np.zeros(1))
    found = _traced(size, sized.theta, direct_rule(sized), sized, None, uncut=False)
    return found.total_variance, found.n_steps, found.horizon


def _of_states(_: object, limit: Any) -> tuple[float, float, int | None]:
    law = limit.seen
    return float(returns(limit).covariance.sum()), law.n_steps, law.horizon


_returns = by_kind(_of_tables, _of_states)
