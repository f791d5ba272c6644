"""Credit along trajectories of a linear-quadratic model, by Gaussian scores (theory.md section 6).

The same in a sample and in the law that it is drawn from, as for tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tabular_bilevel._base import factors
from tabular_bilevel._base.arrays import FloatArray, quiet
from tabular_bilevel._base.display import displayed
from tabular_bilevel.lq.differences import credited_values
from tabular_bilevel.lq.leader import moved_noise, state_laws
from tabular_bilevel.lq.linear import symmetric
from tabular_bilevel.lq.model import LinearQuadraticModel
from tabular_bilevel.lq.rewards import GaussianBump, QuadraticReward, StateLaws
from tabular_bilevel.lq.sensitivities import Sensitivities
from tabular_bilevel.lq.trajectories import Law, Trajectories
from tabular_bilevel.lq.values import Values, quadratics

# A direction of the noise counts if its variance is above this part of the largest ...
SMALLEST_VARIANCE = 1e-12

# ... and theta moves others if a random pull-back of them is above this part of the whole.
UNMOVED = 1e-8


@displayed
@dataclass(frozen=True, eq=False, kw_only=True)
class TraceRule:
    """How an estimator credits the steps of a trajectory; as `sampling.traces.TraceRule`.

    But step t gets credit_discount^t times the number `credit` times the leader's advantage; and
    with `state_values`, from what follows a step its value in the step's state is taken off,
    learned by temporal differences: the dV_F of HPGD. The advantage does not go with it, so that
    the mean is the same but for the error of what is learned.
    """

    credit: float
    credit_discount: float
    trace_discount: float
    leader_discount: float
    direct: float = 1.0
    indirect: float = 1.0
    late: bool = False
    baseline: bool = True
    state_values: bool = False
    direct_tables: Mapping[str, float] = field(default_factory=dict)
    indirect_tables: Mapping[str, float] = field(default_factory=dict)

    times = factors.times
    plain = property(factors.plain)

    @quiet
    def measures(self, experience: Any) -> tuple[Sensitivities, Sensitivities]:
        """Add up sensitivities along trajectories, or compute their mean over the law: both parts.

        With e_t = trace_discount e_{t-1} + credit_discount^t credit A_L(x_t, u_t)::

            dJ/dQ  -e_t x_t x_t'      dJ/dR  -e_t u_t u_t'
            dJ/d(log density of x_{t+1})  gamma_F e_t V_F(x_{t+1}) + gamma_L^{t+1} V_L(x_{t+1})
        """
        seen = experience.seen
        made = self._of_law if isinstance(seen, Law) else self._of_sample
        direct, indirect = made(seen, experience.planned, experience.response, experience.values)
        return (
            direct.times(dict.fromkeys(direct.groups, self.direct)).times(self.direct_tables),
            indirect.times(dict.fromkeys(direct.groups, self.indirect)).times(self.indirect_tables),
        )

    def _of_sample(
        self, seen: Trajectories, planned: LinearQuadraticModel, response: Any, values: Values
    ) -> tuple[Sensitivities, Sensitivities]:
        world, policy, count = seen.model, response.policy, seen.count
        x, after, u = seen.states[:, :-1], seen.states[:, 1:], seen.controls
        steps, counted = u.shape[1], seen.counted_steps
        reward, times = world.leader_reward, np.arange(steps)
        ahead = x @ world.dynamics.T + u @ world.control.T
        arriving = values.smoothed(world.noise).at(ahead, first=1)
        expected = values.smoothed(moved_noise(world, policy.covariance))
        mean = -x @ policy.gain.T
        advantage = arriving - expected.at(x @ world.dynamics.T + mean @ world.control.T, first=1)
        advantage *= values.discount
        now = slice(counted)
        advantage[:, now] += reward.at(x[:, now], u[:, now]) - reward.at(x[:, now], mean[:, now])
        if isinstance(reward, QuadraticReward):
            advantage[:, now] -= np.vdot(reward.control, policy.covariance)
        credit = self.credit_discount**times * self.credit * advantage
        eligibility = np.empty_like(credit)
        carried = np.zeros(count)
        for t in times:
            carried = self.trace_discount * carried + credit[:, t]
            eligibility[:, t] = carried
        if self.late:
            eligibility -= credit
        if self.state_values:
            eligibility -= credited_values(seen.states, credit, self.trace_discount)
        worth = values.at(after, first=1) - (arriving if self.baseline else 0.0)
        gap, P = after - ahead, response.value_matrix
        follower = -quadratics(after, P) - response.value_constant
        if self.baseline:
            follower = np.vdot(P, planned.noise) - 2.0 * _dot(ahead @ P, gap) - quadratics(gap, P)
        inverse = pseudo_inverse(world.noise)
        score = gap @ inverse
        weights = self.leader_discount ** np.arange(steps + 1)
        spread = u - mean
        heat = (quadratics(spread, pseudo_inverse(policy.covariance)) - len(policy.gain)) / 2.0

        def arrivals(weight: FloatArray) -> dict[str, Any]:
            pulled = score * weight[:, :, None]
            noise = (_moment(pulled, score) - weight.sum() * inverse) / 2.0
            return {
                "dynamics": _moment(pulled, x) / count,
                "control": _moment(pulled, u) / count,
                "noise": noise / count,
            }

        first = x[:, 0] - world.initial_mean
        begun = values.at(x[:, :1])[:, 0]
        if self.baseline:
            usual = values.smoothed(world.initial_covariance).at(world.initial_mean[None, None])
            begun = begun - usual[0, 0]
        start = pseudo_inverse(world.initial_covariance)
        pulled = first @ start * begun[:, None]
        direct = Sensitivities.of(
            world,
            **arrivals(weights[1:] * worth),
            initial_mean=pulled.mean(axis=0),
            initial_covariance=(_moment(pulled, first @ start) - begun.sum() * start) / 2.0 / count,
            leader_reward={
                name: slope / count
                for name, slope in _reward_slopes(
                    reward, x[:, :counted], u[:, :counted], weights[:counted]
                ).items()
            },
        )
        indirect = Sensitivities.of(
            world,
            **arrivals(planned.follower_discount * eligibility * follower),
            state_cost=-_moment(x * eligibility[:, :, None], x) / count,
            control_cost=-_moment(u * eligibility[:, :, None], u) / count,
            temperature=(eligibility * heat).sum() / count,
        )
        return direct, indirect

    def _of_law(
        self, seen: Law, planned: LinearQuadraticModel, response: Any, values: Values
    ) -> tuple[Sensitivities, Sensitivities]:
        """Compute the mean of `_of_sample`: the moments of a Gaussian, and Stein's lemma."""
        world, (K, spread) = seen.model, seen.policy
        A, B, reward, steps = world.dynamics, world.control, world.leader_reward, seen.horizon
        C, P = A - B @ K, response.value_matrix
        laws = state_laws(world, seen.policy, steps + 1)
        counted = steps if world.leader_horizon is None else min(steps, world.leader_horizon)
        weights: FloatArray = np.asarray(self.leader_discount ** np.arange(steps + 1.0))
        earned = StateLaws(laws.means[:counted], laws.covariances[:counted])
        n, m = world.n_states, world.n_controls
        paid, crossed = np.zeros((m, m)), np.zeros((m, n))
        if isinstance(reward, QuadraticReward):
            paid, crossed = reward.control, np.transpose(reward.cross)
        flow, noise, moved = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, m))
        X = np.zeros((n, n))  # mean of x x' times the credit that is carried along
        total = {"xx": X.copy(), "ux": np.zeros((m, n)), "uu": np.zeros((m, m))}
        heat, inverse = 0.0, pseudo_inverse(spread)
        for t in range(steps):
            mean, around = laws.means[t], laws.covariances[t]
            gradient, bent = values.smoothed(laws.covariances[t + 1]).slopes(
                laws.means[t + 1], t + 1
            )
            arrival = np.outer(gradient, mean) + 2.0 * bent @ C @ around
            flow += weights[t + 1] * arrival
            noise += weights[t + 1] * bent
            moved += weights[t + 1] * (2.0 * bent @ B @ spread - arrival @ K.T)
            later = values.discount
            to_gain, to_covariance = -later * B.T @ arrival, later * B.T @ bent @ B
            if t < counted:
                second = around + np.outer(mean, mean)
                to_gain = to_gain + 2.0 * (paid @ K - crossed) @ second
                to_covariance = to_covariance + paid
            c = self.credit * self.credit_discount**t
            own_ux = -c * spread @ to_gain
            own_uu = 2.0 * c * (spread @ to_covariance @ spread + symmetric(spread @ to_gain @ K.T))
            ux, uu = own_ux - K @ X, own_uu + K @ X @ K.T
            shown = (X, ux, uu)
            if self.late:
                shown = (X, -K @ X, K @ X @ K.T)
            else:
                heat += c * float(np.vdot(spread @ to_covariance @ spread, inverse))
            for name, part in zip(total, shown, strict=True):
                total[name] += part
            side = B @ ux @ A.T
            X = self.trace_discount * symmetric(A @ X @ A.T + side + side.T + B @ uu @ B.T)
        xx, ux, uu = total.values()
        begun, bent = values.smoothed(world.initial_covariance).slopes(world.initial_mean, 0)
        later = 2.0 * planned.follower_discount * P
        direct = Sensitivities.of(
            world,
            dynamics=flow,
            control=moved,
            noise=noise,
            initial_mean=begun,
            initial_covariance=bent,
            leader_reward=reward.slopes(earned, weights[:counted], K, spread).reward,
        )
        indirect = Sensitivities.of(
            world,
            state_cost=-xx,
            control_cost=-symmetric(uu),
            dynamics=-later @ (A @ xx + B @ ux),
            control=-later @ (A @ ux.T + B @ uu),
            temperature=heat,
        )
        return direct, indirect


def require_noise(problem: Any, theta: FloatArray, model: LinearQuadraticModel) -> None:
    """Raise unless scores show all that theta does: where there is no noise, there is no score."""
    rng = np.random.default_rng(0)
    still = [_null(model.noise), _null(model.initial_covariance)]
    n, m = model.n_states, model.n_controls
    tables = {
        "dynamics": rng.normal(size=(n, n)),
        "control": rng.normal(size=(n, m)),
        "noise": symmetric(rng.normal(size=(n, n))),
        "initial_mean": rng.normal(size=n),
        "initial_covariance": symmetric(rng.normal(size=(n, n))),
    }
    hidden: dict[str, Any] = {}
    for k, (name, table) in enumerate(tables.items()):
        off = still[k > 2]
        hidden[name] = off @ table
        if name in ("noise", "initial_covariance"):
            seen = np.eye(n) - off
            hidden[name] = table - seen @ table @ seen
    pulled = [
        float(np.abs(problem.pullback(theta, Sensitivities.of(model, **tables))).max(initial=0.0))
        for tables in (hidden, tables)
    ]
    if pulled[0] > UNMOVED * pulled[1]:
        raise ValueError(
            "theta moves the next state, or the first one, in a direction in which there is no "
            "noise: the log-density of a step has no derivative there, and cannot be sampled; add "
            "noise, or use tb.ExactGradient or tb.ZeroOrder"
        )


def _reward_slopes(
    reward: QuadraticReward | GaussianBump,
    states: FloatArray,
    controls: FloatArray,
    weights: FloatArray,
) -> dict[str, FloatArray]:
    """Differentiate the weighted sum of what steps earn in the reward's own numbers."""
    if isinstance(reward, QuadraticReward):
        weighed = weights[:, None] * states
        return {
            "state": _moment(weighed, states),
            "control": _moment(weights[:, None] * controls, controls),
            "constant": np.asarray(len(states) * weights.sum()),
            "cross": 2.0 * _moment(weighed, controls),
        }
    gap, shape = states - reward.centre, replace(reward, height=1.0)
    size = weights * shape.at(states, controls)
    weighed = reward.height * size[:, :, None] * gap
    return {
        "centre": 2.0 * weighed.sum(axis=(0, 1)) @ reward.precision,
        "precision": -_moment(weighed, gap),
        "height": np.asarray(size.sum()),
    }


def _null(covariance: FloatArray) -> FloatArray:
    """Project on the directions without noise."""
    return np.asarray(np.eye(len(covariance)) - covariance @ pseudo_inverse(covariance))


def pseudo_inverse(covariance: FloatArray) -> FloatArray:
    """Invert where there is noise; 0 elsewhere."""
    return np.asarray(np.linalg.pinv(covariance, rcond=SMALLEST_VARIANCE, hermitian=True))


def _moment(rows: FloatArray, others: FloatArray) -> FloatArray:
    """Add up the outer products of rows, over trajectories and steps."""
    if rows.ndim == 2:
        return np.asarray(rows.T @ others)
    return np.asarray(np.tensordot(rows, others, axes=((0, 1), (0, 1))))


def _dot(rows: FloatArray, others: FloatArray) -> FloatArray:
    return np.asarray((rows * others).sum(axis=-1))
