"""Mean and covariance of what a rule makes of one trajectory of a linear-quadratic model.

As in `traced` a gradient is affine in its past (theory.md section 16). Here each step is a linear
map of standard normal numbers: of those that its state is made of, and of its own noise. All that
is added is a form in them, of degree 6 at most, and Hermite polynomials are orthogonal.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arrays import FloatArray, IntArray, quiet
from tabular_bilevel.lq.arguments import sizes
from tabular_bilevel.lq.linear import symmetric
from tabular_bilevel.lq.model import MOVED, SYMMETRIC
from tabular_bilevel.lq.rewards import QuadraticReward
from tabular_bilevel.lq.sensitivities import Sensitivities
from tabular_bilevel.lq.traces import TraceRule, pseudo_inverse
from tabular_bilevel.lq.trajectories import root
from tabular_bilevel.moments.traced import Spread
from tabular_bilevel.problem import pulled_back

# Coefficients of all parameters' forms: 128 MB, and a few of these are in memory at a time.
MOST_NUMBERS = 2**24

# What all forms share counts as those of so many parameters at least: some 600 MB at most.
SHARED = 32


class _Forms:
    """Forms of degree 2, 4 and 6 in 1 and k standard normal numbers z, of which some are a state's.

    One of degree 2 is also a matrix Q, of z~' Q z~ with z~ = (1, z). Else there is a number for
    each product of coordinates of z~, in the order of `itertools`.
    """

    def __init__(self, n_numbers: int, n_states: int) -> None:
        self.size, self.state_size = n_numbers + 1, n_states + 1
        two, four, six = (self._products(degree) for degree in (2, 4, 6))
        self._upper = two.T[0], two.T[1]
        self._twice = np.where(two[:, 0] == two[:, 1], 1.0, 2.0)
        self._after = {
            len(one): self._places(one, two, whole) for one, whole in ((two, four), (four, six))
        }
        exponents = (six[:, :, None] == np.arange(self.size)).sum(axis=1)
        lowered, unit = self._lowering(six, exponents), sp.eye_array(len(six), format="csr")
        # half the second derivatives, as often as one can: the exponential of that
        self._expansion = unit + lowered @ (unit + lowered @ (unit + lowered / 3.0) / 2.0)
        factorials = np.array([math.factorial(k) for k in range(7)], dtype=np.float64)
        self.norms = np.sqrt(factorials[exponents[:, 1:]].prod(axis=1))
        self.of_noise = np.flatnonzero(exponents[:, n_states + 1 :].any(axis=1))
        low = np.flatnonzero((six[:, 3] == 0) & (six[:, 5] <= n_states))  # quadratics of the state
        self._quadratics, self._entries = low, six[low][:, 4:].T

    def _products(self, degree: int) -> IntArray:
        rows = itertools.combinations_with_replacement(range(self.size), degree)
        return np.array(list(rows), dtype=np.int64)

    def _places(self, one: IntArray, other: IntArray, whole: IntArray) -> IntArray:
        """Find each product among those of the degree of both together."""
        pairs = np.concatenate(
            (np.repeat(one, len(other), axis=0), np.tile(other, (len(one), 1))), axis=1
        )
        return self._found(np.sort(pairs, axis=1), whole).reshape(len(one), len(other))

    def _found(self, rows: IntArray, whole: IntArray) -> IntArray:
        base = self.size ** np.arange(whole.shape[1] - 1, -1, -1)
        return np.asarray(np.searchsorted(whole @ base, rows @ base))

    def _lowering(self, whole: IntArray, exponents: IntArray) -> sp.csr_array:
        """Make the matrix of half the second derivatives: z_i z_i becomes 1."""
        parts = []
        for i in range(1, self.size):
            rows = np.flatnonzero(exponents[:, i] > 1)
            lower = whole[rows].copy()
            count = exponents[rows, i]
            last = (lower == i).cumsum(axis=1)
            lower[(lower == i) & (last <= 2)] = 0
            place = self._found(np.sort(lower, axis=1), whole)
            parts.append((count * (count - 1) / 2.0, place, rows))
        numbers, rows, columns = (np.concatenate(each) for each in zip(*parts, strict=True))
        return sp.csr_array((numbers, (rows, columns)), shape=(len(whole), len(whole)))

    def numbers(self, forms: FloatArray) -> FloatArray:
        """Read the numbers of forms of degree 2 off their matrices, the last axes."""
        return np.asarray(symmetric(forms)[..., *self._upper] * self._twice)

    def times(self, forms: FloatArray, quadratic: FloatArray) -> FloatArray:
        """Multiply forms, matrices or their numbers in rows, with one of degree 2, a matrix."""
        if forms.ndim == 3:
            forms = self.numbers(forms)
        count = forms.shape[1]
        places, factor = self._after[count], self.numbers(quadratic)
        starts = np.arange(0, places.size + 1, factor.size)
        shape = (int(places[-1, -1]) + 1, count)
        product = sp.csc_array((np.tile(factor, count), places.ravel(), starts), shape=shape)
        return np.asarray((product @ forms.T).T)

    def lifted(self, forms: FloatArray) -> FloatArray:
        """Raise the degree by 2, times 1."""
        if forms.ndim == 3:
            forms = self.numbers(forms)
        places = self._after[forms.shape[1]]
        found = np.zeros((len(forms), int(places[-1, -1]) + 1))
        found[:, places[:, 0]] = forms
        return found

    def hermite(self, forms: FloatArray) -> FloatArray:
        """Expand forms of degree 6 in Hermite polynomials, products of one for each number."""
        return np.asarray((self._expansion @ forms.T).T)

    def of_state(self, expanded: FloatArray) -> FloatArray:
        """Average over the noise: forms of degree 2 of the state's numbers alone."""
        shape, (i, j) = (len(expanded), self.state_size, self.state_size), self._entries
        found = np.zeros(shape)
        numbers = expanded[:, self._quadratics]
        found[:, i, j] = numbers
        found[:, 0, 0] -= numbers[:, (i == j) & (i > 0)].sum(axis=1)  # of z^2 - 1
        return symmetric(found)


_forms = lru_cache(maxsize=2)(_Forms)


@dataclass(frozen=True, eq=False)
class _Step:
    """A step as linear maps of z~: state, input, where that leads to without noise and with it.

    And of z, the numbers of the next state. With them the forms of the eligibility's mean, given
    the state that it is carried to, and of its variance.
    """

    state: FloatArray
    control: FloatArray
    ahead: FloatArray
    after: FloatArray
    onward: FloatArray
    carried: FloatArray
    variance: FloatArray


class GaussianMoments:
    """The moments of one trajectory's gradient, as `TracedMoments`, of a linear-quadratic model.

    Parameters
    ----------
    rule : lq.TraceRule
        How steps are credited.
    experience : Experience
        Of the law that trajectories obey.
    horizon : int, optional
        Steps after which a trajectory is cut, if not where the law cuts it.
    slopes : mapping of str to ndarray, shape (d, ...), optional
        Derivatives of the tables; by default those of the problem.

    Raises
    ------
    ValueError
        If the leader's reward is a bump, or there are too many numbers.
    """

    @quiet
    def __init__(
        self, rule: TraceRule, experience: Any, horizon: int | None = None, slopes: Any = None
    ) -> None:
        world = experience.world
        if not isinstance(world.leader_reward, QuadraticReward):
            raise ValueError(
                "leader_reward is a GaussianBump: a value is a sum of bumps, one for each step to "
                "come, and moments would be sums over all pairs of steps, which are not computed: "
                "they are for a QuadraticReward; else sample"
            )
        self.rule, self.experience = rule, experience
        self.horizon = experience.seen.horizon if horizon is None else horizon
        self.slopes = _slopes(experience) if slopes is None else slopes
        self.n_parameters = len(self.slopes["temperature"])
        n, m = world.n_states, world.n_controls
        numbers = math.comb(2 * n + m + 6, 6) * max(self.n_parameters, SHARED)
        if numbers > MOST_NUMBERS:
            raise ValueError(
                f"the moments of {sizes(n, m)} and {self.n_parameters} parameters take "
                f"{numbers:,} numbers of forms, more than {MOST_NUMBERS:,}: sample"
            )
        self.forms = _forms(2 * n + m, n)
        self.unit = np.zeros((self.forms.size, self.forms.size))  # the form that is 1
        self.unit[0, 0] = 1.0
        self.steps = list(self._forward())

    def variances(self) -> Spread:
        """Compute the mean and the variance of each coordinate."""
        mean, covariance, of_starts = self.covariance()
        return Spread(mean, np.diag(covariance), np.diag(of_starts))

    @quiet
    def covariance(self) -> Spread:
        """Compute the mean and the whole covariance, from the last step back."""
        forms, rule = self.forms, self.rule
        covariance = np.zeros(())
        of_e = of_one = np.zeros((self.n_parameters, forms.state_size, forms.state_size))
        for t in range(self.horizon - 1, -1, -1):
            step = self.steps[t]
            across = _above(step.onward)
            of_e, of_one = (across.T @ coming @ across for coming in (of_e, of_one))
            through, by_itself = self._added(t, step)
            carried = rule.trace_discount * forms.lifted(of_e)
            times_e = through + carried
            credited = carried if rule.late else times_e
            plain = by_itself + forms.lifted(of_one)
            expanded = forms.hermite(forms.lifted(times_e))
            at_once = forms.times(credited, self._credit(t, step)) + forms.lifted(plain)
            of_e, of_one = forms.of_state(expanded), forms.of_state(forms.hermite(at_once))
            off = forms.hermite(at_once + forms.times(times_e, step.carried))
            wide = forms.hermite(forms.times(times_e, step.variance))
            covariance = covariance + self._product(off, off) + self._product(wide, expanded)
        begun = self._begun() + forms.lifted(self._of_state(of_one))
        begun = forms.hermite(forms.lifted(begun))
        of_starts = (begun[:, 1:] * forms.norms[1:] ** 2) @ begun[:, 1:].T
        return Spread(begun[:, 0].copy(), symmetric(covariance) + of_starts, of_starts)

    def _product(self, one: FloatArray, other: FloatArray) -> FloatArray:
        """Average over all states the covariances, given the state, of two expansions."""
        which = self.forms.of_noise
        return np.asarray((one[:, which] * self.forms.norms[which] ** 2) @ other[:, which].T)

    def _forward(self) -> Iterator[_Step]:
        """Follow the state, by a root of its covariance, and what its eligibility is given it."""
        world, (gain, spread) = self.experience.world, self.experience.seen.policy
        n, m, size = world.n_states, world.n_controls, self.forms.size
        mean, width = world.initial_mean, root(world.initial_covariance)
        acting, moving = np.zeros((m, size)), np.zeros((n, size))
        acting[:, n + 1 : n + m + 1], moving[:, n + m + 1 :] = root(spread), root(world.noise)
        carried, variance = np.zeros_like(self.unit), np.zeros_like(self.unit)
        for t in range(self.horizon):
            state = np.zeros((n, size))
            state[:, 0], state[:, 1 : n + 1] = mean, width
            control = acting - gain @ state
            ahead = world.dynamics @ state + world.control @ control
            after = ahead + moving
            onward, lower = np.linalg.qr(after[:, 1:].T)
            mean, width = after[:, 0], lower.T
            step = _Step(state, control, ahead, after, onward.T, carried, variance)
            yield step
            credited, decay = carried + self._credit(t, step), self.rule.trace_discount
            wider = _given(variance, step.onward) + _spread(credited, step.onward)
            carried = decay * self._of_state(_given(credited, step.onward))
            variance = decay**2 * self._of_state(wider)

    def _of_state(self, form: FloatArray) -> FloatArray:
        """Put a form of the state's numbers among those of all."""
        size = form.shape[-1]
        found = np.zeros((*form.shape[:-2], *self.unit.shape))
        found[..., :size, :size] = form
        return found

    def _credit(self, t: int, step: _Step) -> FloatArray:
        """Form what step t is credited with; in each state its mean is 0."""
        rule, world, ahead = self.rule, self.experience.world, step.ahead
        values, reward = self.experience.values, world.leader_reward
        gained = values.discount * ahead.T @ self._value(t + 1)[0] @ ahead
        if self._counts(t):
            gained = gained + step.control.T @ reward.control @ step.control
            gained = gained + 2.0 * symmetric(step.state.T @ reward.cross @ step.control)
        kept = np.eye(world.n_states, self.forms.size - 1)
        mean = self._of_state(_given(gained, kept))
        return np.asarray(rule.credit * rule.credit_discount**t * (gained - mean))

    def _value(self, t: int) -> tuple[FloatArray, float]:
        values = self.experience.values
        k = min(t, len(values.matrices) - 1)
        return values.matrices[k], float(values.constants[k])

    def _counts(self, t: int) -> bool:
        horizon = self.experience.world.leader_horizon
        return horizon is None or t < horizon

    def _factors(self, part: str) -> dict[str, float]:
        groups, tables = Sensitivities.groups, getattr(self.rule, f"{part}_tables")
        return {name: getattr(self.rule, part) * tables.get(name, 1.0) for name in groups}

    def _added(self, t: int, step: _Step) -> tuple[FloatArray, FloatArray]:
        """Form what a step adds to the gradient times its eligibility, and what by itself."""
        rule, known, slopes, one = self.rule, self.experience, self.slopes, self.unit
        world, policy, forms = known.world, known.seen.policy, self.forms
        direct, indirect = self._factors("direct"), self._factors("indirect")
        x, u, ahead, after = step.state, step.control, step.ahead, step.after
        scores = self._scores(after - ahead, world.noise, slopes["noise"])
        pushed = slopes["dynamics"] @ x + slopes["control"] @ u
        scores = scores + (pseudo_inverse(world.noise) @ (after - ahead)).T @ pushed
        P, (V, constant) = known.response.value_matrix, self._value(t + 1)
        follower = -after.T @ P @ after - known.response.value_constant * one
        leader = after.T @ V @ after + constant * one
        if rule.baseline:
            follower = ahead.T @ P @ ahead - after.T @ P @ after
            follower = follower + np.vdot(P, known.planned.noise) * one
            leader = after.T @ V @ after - ahead.T @ V @ ahead - np.vdot(V, world.noise) * one
        cost = x.T @ slopes["state_cost"] @ x + u.T @ slopes["control_cost"] @ u
        heat = self._scores(u + policy.gain @ x, policy.covariance, policy.covariance[None])
        warmer = slopes["temperature"][:, None, None] * heat
        through = indirect["temperature"] * warmer - indirect["follower_reward"] * cost
        by_itself = np.zeros_like(through)
        if self._counts(t):
            paid = known.world.leader_reward.moved
            state, control, base, cross = (slopes[f"leader_reward.{name}"] for name in paid)
            by_itself = x.T @ state @ x + u.T @ control @ u + 2.0 * x.T @ cross @ u
            by_itself = by_itself + base[:, None, None] * one
        by_itself = direct["leader_reward"] * rule.leader_discount**t * by_itself
        later = indirect["transition"] * known.planned.follower_discount
        weight = direct["transition"] * rule.leader_discount ** (t + 1)
        return (
            forms.lifted(through) + later * forms.times(scores, follower),
            forms.lifted(by_itself) + weight * forms.times(scores, leader),
        )

    def _scores(self, gap: FloatArray, covariance: FloatArray, slopes: FloatArray) -> FloatArray:
        """Form the derivatives of the log-density of a gap in its covariance."""
        back = pseudo_inverse(covariance)
        score, size = back @ gap, np.tensordot(slopes, back, axes=2)
        return np.asarray((score.T @ slopes @ score - size[:, None, None] * self.unit) / 2.0)

    def _begun(self) -> FloatArray:
        """Form what the first state adds."""
        world, (V, constant) = self.experience.world, self._value(0)
        x, wide = self.steps[0].state, world.initial_covariance
        gap = x - np.outer(world.initial_mean, self.unit[0])
        begun = x.T @ V @ x + constant * self.unit
        if self.rule.baseline:
            mean = world.initial_mean
            begun = x.T @ V @ x - (mean @ V @ mean + np.vdot(V, wide)) * self.unit
        scores = self._scores(gap, wide, self.slopes["initial_covariance"])
        first = self.slopes["initial_mean"] @ pseudo_inverse(wide) @ gap
        scores = scores + symmetric(self.unit[0][:, None] * first[:, None, :])
        return self._factors("direct")["initial"] * self.forms.times(scores, begun)


def _above(onward: FloatArray) -> FloatArray:
    """Make the map of (1, z) of one of z."""
    found = np.zeros((len(onward) + 1, onward.shape[1] + 1))
    found[0, 0], found[1:, 1:] = 1.0, onward
    return found


def _given(form: FloatArray, onward: FloatArray) -> FloatArray:
    """Average a form of degree 2, given the numbers onward z; its rows are orthonormal."""
    above = _above(onward)
    found = above @ form @ above.T
    found[0, 0] += np.trace(form[1:, 1:]) - np.trace(found[1:, 1:])
    return np.asarray(symmetric(found))


def _spread(form: FloatArray, onward: FloatArray) -> FloatArray:
    """Form the variance of a form of degree 2, given the numbers onward z."""
    form, above = symmetric(form), _above(onward)
    others = np.eye(len(form) - 1) - onward.T @ onward
    moved = form[1:] @ above.T  # half the slopes, in all numbers
    free = others @ form[1:, 1:]
    found = 4.0 * moved.T @ others @ moved
    found[0, 0] += 2.0 * np.vdot(free.T, free)
    return np.asarray(found)


def _slopes(experience: Any) -> dict[str, FloatArray]:
    """Differentiate the tables: pull back the measure of one entry each."""
    model, reward = experience.world, experience.world.leader_reward

    def pulled(table: Any, even: bool, made: Any) -> FloatArray:
        rows, shape = [], np.shape(table)
        for place in np.ndindex(*shape):
            unit = np.zeros(shape)
            unit[place] = 1.0
            measures = Sensitivities.of(model, **made(symmetric(unit) if even else unit))
            rows.append(pulled_back(experience.problem, experience.theta, measures))
        return np.array(rows).T.reshape(-1, *shape)

    found = {
        name: pulled(getattr(model, name), name in SYMMETRIC, lambda unit, name=name: {name: unit})
        for name in MOVED
    }
    return found | {
        f"leader_reward.{name}": pulled(
            getattr(reward, name),
            name in reward.symmetric,
            lambda unit, name=name: {"leader_reward": {name: unit}},
        )
        for name in reward.moved
    }


def returns(experience: Any) -> Spread:
    """Compute mean and variance of a trajectory's return: the gradient in the reward's size."""
    model, reward = experience.world, experience.world.leader_reward
    slopes = {name: np.zeros((1, *np.shape(getattr(model, name)))) for name in MOVED}
    own = {f"leader_reward.{name}": np.array([getattr(reward, name)]) for name in reward.moved}
    rule = TraceRule(
        credit=0.0,
        credit_discount=0.0,
        trace_discount=0.0,
        leader_discount=model.leader_discount,
        indirect=0.0,
    )
    return GaussianMoments(rule, experience, slopes=slopes | own).variances()
