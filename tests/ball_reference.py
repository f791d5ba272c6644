"""A slow reference in ball arithmetic (python-flint), from theory.md: nothing of the package's.

Newton's method on the soft Bellman equation and plain linear algebra, at some hundred bits, on
dense tables read exactly as stored. It returns balls, whose radii are far below any float64 error.
"""

from __future__ import annotations

import flint
import numpy as np
from flint import arb, arb_mat

BITS = 400


class Reference:
    """V, Q, pi, J, V_L, d_L, the sensitivities, and products with derivatives of the tables."""

    def __init__(self, model, guess, *, bits=BITS):
        self.bits = bits
        with flint.ctx.workprec(bits):
            self._solve(model, guess)

    def _solve(self, model, guess):
        n_states, n_actions = model.available.shape
        self.shape = n_states, n_actions
        kernel = model.transition.toarray()
        self.entries = [
            (int(row), int(column))
            for row, column in zip(model.entry_row, model.transition.indices, strict=True)
        ]
        P = [[arb(float(x)) for x in row] for row in kernel]
        r_F, r_L = (
            [[arb(float(x)) for x in row] for row in table]
            for table in (model.follower_reward, model.leader_reward)
        )
        beta, gamma, delta = (
            arb(float(x))
            for x in (model.temperature, model.follower_discount, model.leader_discount)
        )
        choices = [[a for a in range(n_actions) if model.available[s, a]] for s in range(n_states)]
        pairs = [(s, a) for s in range(n_states) for a in choices[s]]

        def ahead(s, a, value):
            row = P[s * n_actions + a]
            return sum((p * v for p, v in zip(row, value, strict=True) if p != 0), arb(0))

        def backup(value):
            Q = {(s, a): r_F[s][a] + gamma * ahead(s, a, value) for s, a in pairs}
            improved, policy = [], {}
            for s in range(n_states):
                best = max((Q[s, a] for a in choices[s]), key=lambda q: float(q.mid()))
                weights = {a: ((Q[s, a] - best) / beta).exp() for a in choices[s]}
                total = sum(weights.values(), arb(0))
                improved.append(best + beta * total.log())
                policy.update({(s, a): weights[a] / total for a in choices[s]})
            return Q, improved, policy

        def system(discount, policy):
            rows = [[arb(int(s == j)) for j in range(n_states)] for s in range(n_states)]
            for s, a in pairs:
                for j, p in enumerate(P[s * n_actions + a]):
                    if p != 0:
                        rows[s][j] -= discount * policy[s, a] * p
            return arb_mat(rows)

        def solve(matrix, b):
            x = matrix.solve(arb_mat([[y] for y in b]))
            return [x[s, 0] for s in range(n_states)]

        value = [arb(float(v)) for v in guess]
        smallest = None
        for _ in range(200):
            Q, improved, policy = backup(value)
            gap = [new - old for new, old in zip(improved, value, strict=True)]
            size = max(float(abs(g).mid()) for g in gap)
            if size == 0 or (smallest is not None and size < 1e-60 and not size < smallest / 2):
                break
            smallest = size
            step = solve(system(gamma, policy), gap)
            value = [(v + x).mid() for v, x in zip(value, step, strict=True)]
        # the ball that the contraction proves
        Q, improved, policy = backup(value)
        mass = max(float(row.sum()) for row in kernel) * (1 + 1e-12)
        top = max(abs(new - old).upper() for new, old in zip(improved, value, strict=True))
        radius = top / (1 - min(arb(1) - arb(2) ** -60, gamma * arb(mass), key=float))
        value = [arb(v, radius.upper()) for v in value]
        Q, _, policy = backup(value)
        self.value, self.action_value, self.policy = value, Q, policy

        chain = system(delta, policy)
        reward = [
            sum((policy[s, a] * r_L[s][a] for a in choices[s]), arb(0)) for s in range(n_states)
        ]
        V_L = solve(chain, reward)
        rho = [arb(float(x)) for x in model.initial]
        d = solve(chain.transpose(), rho)
        self.leader_value, self.occupancy = V_L, d
        self.objective = sum((x * v for x, v in zip(rho, V_L, strict=True)), arb(0))
        Q_L = {(s, a): r_L[s][a] + delta * ahead(s, a, V_L) for s, a in pairs}
        # Q_L - V_L as differences of actions, whose radii are small
        w = {
            (s, a): d[s]
            * policy[s, a]
            * sum((policy[s, b] * (Q_L[s, a] - Q_L[s, b]) for b in choices[s] if b != a), arb(0))
            / beta
            for s, a in pairs
        }
        arriving = [arb(0)] * n_states
        for s, a in pairs:
            for j, p in enumerate(P[s * n_actions + a]):
                if p != 0:
                    arriving[j] = arriving[j] + gamma * p * w[s, a]
        n = solve(system(gamma, policy).transpose(), arriving)
        self.influence = {(s, a): w[s, a] + policy[s, a] * n[s] for s, a in pairs}
        self.pairs = {(s, a): d[s] * policy[s, a] for s, a in pairs}
        self.heat = -sum((mu * policy[pair].log() for pair, mu in self.influence.items()), arb(0))
        self.slopes = []
        for row, j in self.entries:
            s, a = divmod(row, n_actions)
            if (s, a) in self.pairs:
                slope = delta * self.pairs[s, a] * V_L[j] + gamma * self.influence[s, a] * value[j]
            else:
                slope = arb(0)
            self.slopes.append(slope)

    def gradient(self, follower_reward, leader_reward, kernel, initial, temperature=None):
        """Multiply with derivatives of the tables, each (entries, d), of balls or floats."""
        with flint.ctx.workprec(self.bits):
            n_actions = self.shape[1]
            total = []
            for i in range(follower_reward.shape[1]):
                terms = [arb(0)]
                for (s, a), mu in self.influence.items():
                    row = s * n_actions + a
                    terms.append(mu * exact(follower_reward[row, i]))
                    terms.append(self.pairs[s, a] * exact(leader_reward[row, i]))
                terms += [x * exact(y) for x, y in zip(self.slopes, kernel[:, i], strict=True)]
                terms += [
                    x * exact(y) for x, y in zip(self.leader_value, initial[:, i], strict=True)
                ]
                if temperature is not None:
                    terms.append(self.heat * exact(temperature[0, i]))
                total.append(sum(terms, arb(0)))
            return total


def exact(number):
    """Convert exactly."""
    return number if isinstance(number, arb) else arb(float(number))


def tilts(probability, row, features, n_rows):
    """Derivatives p (f - mean of f in its row), as an object array of balls."""
    with flint.ctx.workprec(BITS):
        p = [arb(float(x)) for x in probability]
        out = np.empty(features.shape, dtype=object)
        for i in range(features.shape[1]):
            f = [arb(float(x)) for x in features[:, i]]
            mass, moment = [arb(0)] * n_rows, [arb(0)] * n_rows
            for k, r in enumerate(row):
                mass[r] = mass[r] + p[k]
                moment[r] = moment[r] + p[k] * f[k]
            for k, r in enumerate(row):
                out[k, i] = p[k] * (f[k] - moment[r] / mass[r]) if mass[r] > 0 else arb(0)
        return out


def off(stored, ball):
    """Bound |stored - truth| from below, as a float: what a valid bound must not be less than."""
    with flint.ctx.workprec(BITS):
        distance = abs(arb(float(stored)) - ball).lower()
        return float(distance) * (1 - 1e-15)


def derivatives(problem, model):
    """Exact derivatives of a `FeatureProblem`'s tables at theta = 0, one column a parameter."""
    return (
        problem.follower_reward.toarray(),
        problem.leader_reward.toarray(),
        tilts(
            model.transition.data,
            model.entry_row,
            problem.transition.toarray(),
            model.follower_reward.size,
        ),
        tilts(
            model.initial,
            np.zeros(model.n_states, dtype=int),
            problem.initial.toarray(),
            1,
        ),
        times(model.temperature, problem.temperature.toarray()),
    )


def times(number, features):
    """Multiply exactly, as an object array of balls."""
    with flint.ctx.workprec(BITS):
        return np.array([[exact(number) * exact(x) for x in row] for row in features], dtype=object)


def broken(result, bounds, reference, gradient):
    """List the bounds that are smaller than the error, as (what, error, bound)."""
    found = []

    def compare(what, stored, ball, bound):
        error = off(stored, ball)
        if not error <= bound:
            found.append((what, error, float(bound)))

    measures, errors = result.sensitivities, bounds.sensitivities
    for s in range(len(reference.value)):
        compare("value", result.response.value[s], reference.value[s], bounds.value[s])
        leader = reference.leader_value[s]
        compare("leader value", result.evaluation.value[s], leader, bounds.leader_value[s])
        start = errors.initial[s] + errors.initial_shift
        compare("dJ/drho", measures.initial[s], leader, start)
        lasting = reference.occupancy[s]
        compare("occupancy", result.evaluation.occupancy[s], lasting, bounds.occupancy[s])
    for pair, chance in reference.policy.items():
        action_value = result.response.action_value[pair]
        compare("Q", action_value, reference.action_value[pair], bounds.action_value[pair])
        compare("policy", result.response.policy[pair], chance, bounds.policy[pair])
        influence = measures.follower_reward[pair]
        compare("influence", influence, reference.influence[pair], errors.follower_reward[pair])
        flow = measures.leader_reward[pair]
        compare("pairs", flow, reference.pairs[pair], errors.leader_reward[pair])
    entries = errors.transition + errors.transition_shift.ravel()[result.model.entry_row]
    for k, slope in enumerate(reference.slopes):
        compare("dJ/dP", measures.transition[k], slope, entries[k])
    compare("dJ/d(temperature)", measures.temperature, reference.heat, errors.temperature)
    compare("J", result.objective, reference.objective, bounds.objective)
    for stored, ball, bound in zip(result.gradient, gradient, bounds.gradient, strict=True):
        compare("gradient", stored, ball, bound)
    return found
