"""What a certificate claims, computed anew from its tables: plain mpmath, no proof, no formulas.

Soft value iteration by Newton's method, J by a linear solve, and derivatives as central differences
of it at a step of 2^-STEP: of all tables, or of those that the leader's own part moves, with the
policy held fixed. Slow, and right to far more digits than float64 has.
"""

import json
import math
from fractions import Fraction

import mpmath
from mpmath import mpf

# Bits, the step of differences, 2^-STEP, and MORE of both (twice as
# many bits) for each bit that a table's number, 1 / temperature or 1 / (1 - discount) is above 1.
BITS, STEP, MORE = 1500, 500, 4

# What is left of the third order, and of rounding: relative to the number, and at 0.
TOLERANCE, NOISE = Fraction(1, 2**300), Fraction(1, 2**700)


PLAYERS = "follower", "leader"


class NoTruthError(Exception):
    """The tables have no such numbers."""


class Truths:
    """J, the gradient and its parts of certificates, remembered by their tables."""

    def __init__(self):
        self.known = {}

    def __call__(self, document):
        tables = {key: document[key] for key in document if key not in ("proof", "claims")}
        key = json.dumps(tables, sort_keys=True)
        if key not in self.known:
            self.known[key] = truth(tables)
        return self.known[key]

    def hold(self, document):
        """Say whether each claim holds its number, to one unit in the last place of each end."""
        for name, numbers in self(document).items():
            lower, upper = document["claims"][name]
            if name == "objective":
                lower, upper = [lower], [upper]
            for x, low, high in zip(numbers, lower, upper, strict=True):
                least, most = (
                    Fraction(end) + sign * Fraction(math.ulp(end))
                    for sign, end in ((-1, float.fromhex(low)), (1, float.fromhex(high)))
                )
                slack = TOLERANCE * abs(x) + (NOISE if x else 0)
                if not least - slack <= x <= most + slack:
                    return False
        return True


def number(text):
    return mpf(float.fromhex(text))


class Tables:
    """Tables that can be moved along a tangent."""

    def __init__(self, document):
        self.follower_discount, self.leader_discount, self.temperature = (
            number(document[name])
            for name in ("follower_discount", "leader_discount", "temperature")
        )
        self.initial = [number(x) for x in document["initial"]]
        self.state = [pair["state"] for pair in document["pairs"]]
        self.follower_reward = [number(pair["follower_reward"]) for pair in document["pairs"]]
        self.leader_reward = [number(pair["leader_reward"]) for pair in document["pairs"]]
        self.rows = [[target for target, _ in pair["successors"]] for pair in document["pairs"]]
        self.transition = [number(p) for pair in document["pairs"] for _, p in pair["successors"]]
        self.tangents = document["tangents"]
        self.alive = self.reached()

    def reached(self):
        reached = {s for s, x in enumerate(self.initial) if x}
        for tangent in self.tangents:
            reached |= {s for s, _ in tangent["initial"]}
        while True:
            more = {
                t for s, row in zip(self.state, self.rows, strict=True) if s in reached for t in row
            }
            if more <= reached:
                return sorted(reached)
            reached |= more

    def moved(self, tangent, step, names):
        """Move some tables along a tangent."""
        other = object.__new__(Tables)
        other.__dict__.update(self.__dict__)
        for name in names:
            if name == "temperature":
                other.temperature = self.temperature + sum(
                    step * number(x) for _, x in tangent["temperature"]
                )
                continue
            table = list(getattr(self, name))
            for k, x in tangent[name]:
                table[k] += step * number(x)
            setattr(other, name, table)
        return other

    def next_values(self, value):
        entries = iter(self.transition)
        return [sum((next(entries) * value[t] for t in row), mpf(0)) for row in self.rows]

    def chain(self, policy):
        """P_pi on the states that count."""
        place = {s: i for i, s in enumerate(self.alive)}
        matrix = mpmath.zeros(len(place))
        entries = iter(self.transition)
        for k, row in enumerate(self.rows):
            for target in row:
                p = next(entries)
                if self.state[k] in place:
                    matrix[place[self.state[k]], place[target]] += policy[k] * p
        return matrix

    def solved(self, discount, policy, rewards):
        """Solve V = r_pi + discount P_pi V."""
        means = [
            sum((policy[k] * r for k, r in enumerate(rewards) if self.state[k] == s), mpf(0))
            for s in self.alive
        ]
        system = mpmath.eye(len(means)) - discount * self.chain(policy)
        solution = mpmath.lu_solve(system, mpmath.matrix(means))
        value = [mpf(0)] * len(self.initial)
        for s, v in zip(self.alive, solution, strict=True):
            value[s] = v
        return value

    def policy(self):
        """Solve the soft Bellman equation by policy iteration."""
        value = [mpf(0)] * len(self.initial)
        for _ in range(300):
            q = [
                r + self.follower_discount * x
                for r, x in zip(self.follower_reward, self.next_values(value), strict=True)
            ]
            best, total = {}, {}
            for s, x in zip(self.state, q, strict=True):
                best[s] = max(x, best.get(s, x))
            logits = [(x - best[s]) / self.temperature for s, x in zip(self.state, q, strict=True)]
            weights = [mpmath.exp(logit) for logit in logits]
            for s, weight in zip(self.state, weights, strict=True):
                total[s] = total.get(s, mpf(0)) + weight
            policy = [weight / total[s] for s, weight in zip(self.state, weights, strict=True)]
            rewards = [
                r - self.temperature * (logit - mpmath.log(total[s]))
                for r, logit, s in zip(self.follower_reward, logits, self.state, strict=True)
            ]
            last, value = value, self.solved(self.follower_discount, policy, rewards)
            change = max(abs(x - y) for x, y in zip(value, last, strict=True))
            if change <= max(1, *map(abs, value)) * mpf(2) ** (100 - mpmath.mp.prec):
                return policy
        raise NoTruthError("the follower's values do not settle")

    def objective(self, policy):
        value = self.solved(self.leader_discount, policy, self.leader_reward)
        return sum((x * v for x, v in zip(self.initial, value, strict=True)), mpf(0))


def extent(document):
    """Count the bits by which numbers are away from 1."""
    numbers = [float.fromhex(document["temperature"])]
    numbers += [1.0 - float.fromhex(document[f"{player}_discount"]) for player in PLAYERS]
    for pair in document["pairs"]:
        numbers += [float.fromhex(pair[f"{player}_reward"]) for player in PLAYERS]
        numbers += [float.fromhex(p) for _, p in pair["successors"]]
    for tangent in document["tangents"]:
        numbers += [float.fromhex(x) for entries in tangent.values() for _, x in entries]
    return max(abs(math.frexp(x)[1]) for x in numbers)


def truth(document):
    """Compute J, the gradient and its parts, as fractions."""
    more = MORE * extent(document)
    with mpmath.workprec(BITS + 2 * more):
        found = differences(document, mpf(2) ** -(STEP + more))
        return {name: [fraction(x) for x in numbers] for name, numbers in found.items()}


def differences(document, step):
    tables = Tables(document)
    masses = [sum(number(p) for _, p in pair["successors"]) for pair in document["pairs"]]
    if tables.follower_discount * max(masses) >= 1 or min(tables.transition, default=0) < 0:
        raise NoTruthError("the follower's problem is no contraction")
    policy = tables.policy()
    steps = tables.solved(tables.leader_discount, policy, [mpf(1)] * len(policy))
    if any(steps[s] <= 0 for s in tables.alive):
        raise NoTruthError("play has no end")
    found = {"objective": [tables.objective(policy)], "direct": [], "indirect": [], "gradient": []}
    own = ("leader_reward", "transition", "initial")
    through = ("follower_reward", "transition", "temperature")
    for tangent in document["tangents"]:
        ends = []
        for sign in (1, -1):
            response = tables.moved(tangent, sign * step, through).policy()
            ends.append(
                (
                    tables.moved(tangent, sign * step, own).objective(policy),
                    tables.objective(response),
                    tables.moved(tangent, sign * step, own).objective(response),
                )
            )
        for name, up, down in zip(("direct", "indirect", "gradient"), *ends, strict=True):
            found[name].append((up - down) / (2 * step))
    return found


def fraction(x):
    sign, mantissa, exponent, _ = x._mpf_
    return (-1) ** sign * int(mantissa) * Fraction(2) ** exponent
