"""Check a certificate that `Enclosure.save_certificate` wrote: python check_certificate.py FILE ...

One file, Python's standard library alone, no code shared with what made the certificate, and
another arithmetic: intervals whose ends are integers times 2^-bits, rounded outward, with an
exponential of their own. What is checked, for the tables in the file, read as exact numbers, on
the states that play can reach:

- T V_upper <= V_upper and T V_lower >= V_lower, T the soft Bellman operator, with discount times
  row sums below 1: then V_lower <= V_F <= V_upper. Without logarithms: T V <= V in a state if the
  sum over actions of exp((Q - V) / temperature) is at most 1.
- The policy exp((Q_F - V_F) / temperature) follows, and its logarithm.
- V_L, d_L and the flow n of influence solve linear systems. The residuals r of the file's numbers
  bound their errors, |r| / (1 - discount * row sum): in the largest entry for V_L, in the sum of
  entries for d_L and n. Where the leader's discount times a row sum is 1 or more, steps z >= 0
  with (I - discount P) z >= least > 0 show that the leader's inverse is not negative, nor larger
  than max z / least; `least` then stands for 1 - discount * row sum, z / max z for 1.
- J, the gradient and its parts follow, and have to lie within the bounds that are claimed, to one
  unit in the last place of the largest (of gradient and parts), or 2^-1074.
"""

from __future__ import annotations

import json
import math
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

__all__ = ["RejectedError", "check_certificate"]

FORMAT = "tabular-bilevel certificate 2"

# Exponents beyond those of float64 products would exhaust the memory.
LARGEST_EXPONENT = 100_000

# Bits are doubled from the first number to the last, until the claims are shown or refuted.
BITS = (256, 512, 1024, 2048, 4096, 8192)

Pair = tuple[int, int]  # lower and upper end, in units of 2^-bits


class RejectedError(Exception):
    """The certificate does not prove what it claims."""


class _CoarseError(Exception):
    """More bits may help; `width` is that of the interval in question, infinite if no number."""

    def __init__(self, message: str, width: float | Fraction = math.inf) -> None:
        super().__init__(message)
        self.width = width


class _Arithmetic:
    """Intervals of fixed-point numbers."""

    def __init__(self, bits: int) -> None:
        self.bits, self.one = bits, 1 << bits

    def of(self, number: Fraction) -> Pair:
        scaled = number.numerator << self.bits
        return scaled // number.denominator, -(-scaled // number.denominator)

    def times(self, x: Pair, y: Pair) -> Pair:
        products = (x[0] * y[0], x[0] * y[1], x[1] * y[0], x[1] * y[1])
        return min(products) >> self.bits, -(-max(products) >> self.bits)

    def scaled(self, x: Pair, factor: Fraction) -> Pair:
        low, high = sorted((x[0] * factor.numerator, x[1] * factor.numerator))
        return low // factor.denominator, -(-high // factor.denominator)

    def exp(self, x: Pair) -> Pair:
        return self._exp(x[0])[0], self._exp(x[1])[1]

    def _exp(self, x: int) -> Pair:
        """Enclose exp of x: by its series at x / 2^halvings, which is squared as often."""
        if x == 0:
            return self.one, self.one
        if x < -self.bits * self.one:
            return 0, 1  # for exp(-bits) < 2^-bits
        if x > self.one:
            raise _CoarseError("a probability")  # for they are at most 1
        halvings = self.bits.bit_length() + 8
        fine = _Arithmetic(self.bits + 2 * halvings)
        y = x << halvings  # in the finer units, x / 2^halvings: at most 2^-8
        term, total, n = fine.one, fine.one, 0
        while term not in (0, -1):
            n += 1
            term = (term * y >> fine.bits) // n
            total += term
        # each term is off by at most two units, and the rest of the series is below one
        low, high = total - 2 * n - 2, total + 2 * n + 2
        for _ in range(halvings):
            low, high = low * low >> fine.bits, -(-high * high >> fine.bits)
        shift = 2 * halvings
        return low >> shift, -(-high >> shift)


def check_certificate(document: dict[str, Any]) -> int:
    """Check a certificate.

    Parameters
    ----------
    document : dict
        What `json.load` makes of the file.

    Returns
    -------
    int
        The bits that it took.

    Raises
    ------
    RejectedError
        If the certificate does not prove its claims; the message says where.
    """
    try:
        if document["format"] != FORMAT:
            raise RejectedError(f"the format is {document['format']!r}, not {FORMAT!r}")
        instance = _Instance(document)
        width: float | Fraction = math.inf
        for bits in BITS:
            try:
                _check(instance, document["claims"], _Arithmetic(bits))
            except _CoarseError as error:
                doubt = f"{error} is not shown with {bits} bits"
                if math.inf > error.width > width / 2:
                    break  # it is the file's numbers that are coarse
                width = error.width
            else:
                return bits
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RejectedError(f"the file is damaged: {error!r}") from error
    raise RejectedError(doubt)


class _Instance:
    """The tables and the proof, as fractions, on the states that play can reach."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.follower_discount = _number(document["follower_discount"])
        self.leader_discount = _number(document["leader_discount"])
        self.temperature = _number(document["temperature"])
        self.initial = [_number(x) for x in document["initial"]]
        self.tangents = [
            {name: {k: _number(x) for k, x in table} for name, table in tangent.items()}
            for tangent in document["tangents"]
        ]
        if any(set(tangent["temperature"]) - {0} for tangent in self.tangents):
            raise RejectedError("there is one temperature, number 0")
        self.pairs: list[tuple[int, Fraction, Fraction, list[tuple[int, int, Fraction]]]] = []
        leads: dict[int, set[int]] = {}
        entry = 0
        for pair in document["pairs"]:
            successors = []
            for target, probability in pair["successors"]:
                successors.append((entry, target, _number(probability)))
                entry += 1
            state = pair["state"]
            leads.setdefault(state, set()).update(target for _, target, _ in successors)
            rewards = _number(pair["follower_reward"]), _number(pair["leader_reward"])
            self.pairs.append((state, *rewards, successors))
        starts = {s for s, probability in enumerate(self.initial) if probability}
        for tangent in self.tangents:
            starts.update(tangent["initial"])
        self.states: set[int] = set()
        while starts:
            state = starts.pop()
            self.states.add(state)
            starts |= leads[state] - self.states
        self.actions: dict[int, list[int]] = {s: [] for s in self.states}
        for k, (state, *_) in enumerate(self.pairs):
            if state in self.states:
                self.actions[state].append(k)
        self.proof = {
            name: [_number(x) for x in numbers] for name, numbers in document["proof"].items()
        }
        rows = [[p for _, _, p in pair[3]] for pair in self.pairs]
        if min(p for row in [*rows, self.initial] for p in row) < 0:
            raise RejectedError("a probability is negative")
        if not self.temperature > 0 or min(self.follower_discount, self.leader_discount) < 0:
            raise RejectedError("the temperature is not positive or a discount is negative")
        largest = max(sum(row, Fraction(0)) for row in rows)
        self.follower_rest = 1 - self.follower_discount * largest
        self.leader_rest = 1 - self.leader_discount * largest
        if self.follower_rest <= 0:
            raise RejectedError("the follower's discount times a row sum is not below 1")


def _check(instance: _Instance, claims: dict[str, Any], fixed: _Arithmetic) -> None:
    states, pairs, actions = sorted(instance.states), instance.pairs, instance.actions
    follower, leader, beta = (
        instance.follower_discount,
        instance.leader_discount,
        instance.temperature,
    )
    initial = {s: fixed.of(instance.initial[s]) for s in states}

    def known(name: str) -> dict[int, Pair]:
        return {s: fixed.of(instance.proof[name][s]) for s in states}

    def ahead(k: int, value: dict[int, Pair], discount: Fraction) -> Pair:
        parts = [fixed.scaled(value[t], p) for _, t, p in pairs[k][3]]
        return fixed.scaled(_sum(parts), discount)

    def arrivals(flow: dict[int, Pair], discount: Fraction) -> dict[int, Pair]:
        parts: dict[int, list[Pair]] = {s: [] for s in states}
        for k, weight in flow.items():
            for _, t, p in pairs[k][3]:
                parts[t].append(fixed.scaled(fixed.scaled(weight, p), discount))
        return {s: _sum(parts[s]) for s in states}

    def shown_rest() -> Fraction:
        """Bound from below 1 over the norm of the leader's inverse."""
        steps = known("steps")
        if min(steps[s][0] for s in states) < 0:
            raise RejectedError("a number of steps is negative")
        least: int | None = None
        for s in states:
            mean = _sum([fixed.times(policy[k], ahead(k, steps, leader)) for k in actions[s]])
            low, high = _minus(steps[s], mean)
            if high <= 0:
                raise RejectedError(f"the steps do not show that play from state {s} ends")
            least = low if least is None else min(least, low)
        if least is None or least <= 0:
            raise _CoarseError("that play ends")
        return Fraction(least, max(steps[s][1] for s in states))

    # V_F and the policy
    low, high = known("value_lower"), known("value_upper")
    value = {s: (low[s][0], high[s][1]) for s in states}
    policy: dict[int, Pair] = {}
    log_policy: dict[int, Pair] = {}
    for s in states:
        weights: list[list[Pair]] = [[], []]
        for k in actions[s]:
            reward = fixed.of(pairs[k][1])
            for bound, weight in zip((low, high), weights, strict=True):
                gap = _minus(_sum([reward, ahead(k, bound, follower)]), bound[s])
                weight.append(
                    gap if len(actions[s]) == 1 else fixed.exp(fixed.scaled(gap, 1 / beta))
                )
            gap = _minus(_sum([reward, ahead(k, value, follower)]), value[s])
            if len(actions[s]) == 1:
                policy[k], log_policy[k] = (fixed.one, fixed.one), (0, 0)
            else:
                logit = fixed.scaled(gap, 1 / beta)
                likely = fixed.exp(logit)
                policy[k] = likely[0], min(likely[1], fixed.one)
                log_policy[k] = logit[0], min(logit[1], 0)
        target = 0 if len(actions[s]) == 1 else fixed.one
        below, above = _sum(weights[0]), _sum(weights[1])
        if below[1] < target:
            raise RejectedError(f"value_lower[{s}] is no lower bound")
        if above[0] > target:
            raise RejectedError(f"value_upper[{s}] is no upper bound")
        if below[0] < target or above[1] > target:
            raise _CoarseError(f"the bounds of the follower's value in state {s}")

    # V_L and d_L
    leader_rest = instance.leader_rest
    if leader_rest <= 0:
        leader_rest = shown_rest()
    guess = known("leader_value")
    worst = 0
    for s in states:
        q = {k: _sum([fixed.of(pairs[k][2]), ahead(k, guess, leader)]) for k in actions[s]}
        residual = _sum([fixed.times(policy[k], _minus(q[k], guess[s])) for k in q])
        worst = max(worst, _size(residual))
    error = _error(worst, leader_rest)
    leader_value = {s: (guess[s][0] - error, guess[s][1] + error) for s in states}

    guess = known("occupancy")
    flow = {k: fixed.times(guess[s], policy[k]) for s in states for k in actions[s]}
    came = arrivals(flow, leader)
    left = sum(_size(_minus(_sum([initial[s], came[s]]), guess[s])) for s in states)
    error = _error(left, leader_rest)
    occupancy = {s: (max(guess[s][0] - error, 0), guess[s][1] + error) for s in states}
    flow = {k: fixed.times(occupancy[s], policy[k]) for s in states for k in actions[s]}

    # the influence mu = w + pi n
    source = {}
    for s in states:
        q = {k: _sum([fixed.of(pairs[k][2]), ahead(k, leader_value, leader)]) for k in actions[s]}
        for k in q:
            better = [fixed.times(policy[j], _minus(q[k], q[j])) for j in q if j != k]
            source[k] = fixed.scaled(fixed.times(flow[k], _sum(better)), 1 / beta)
    guess = known("arrivals")
    mixed = {k: fixed.times(guess[s], policy[k]) for s in states for k in actions[s]}
    came = arrivals({k: _sum([source[k], mixed[k]]) for k in source}, follower)
    left = sum(_size(_minus(came[s], guess[s])) for s in states)
    error = _error(left, instance.follower_rest)
    around = {s: (guess[s][0] - error, guess[s][1] + error) for s in states}
    influence = {
        k: _sum([source[k], fixed.times(around[s], policy[k])]) for s in states for k in actions[s]
    }

    # J and the gradient
    own: dict[int, Pair] = {}
    through: dict[int, Pair] = {}
    for k in influence:
        for entry, target, _ in pairs[k][3]:
            own[entry] = fixed.scaled(fixed.times(flow[k], leader_value[target]), leader)
            through[entry] = fixed.scaled(fixed.times(influence[k], value[target]), follower)

    heat = _minus((0, 0), _sum([fixed.times(influence[k], log_policy[k]) for k in influence]))

    def slope(table: dict[int, Fraction], measure: dict[int, Pair]) -> Pair:
        return _sum([fixed.scaled(measure[k], x) for k, x in table.items() if k in measure])

    found: dict[str, list[Pair]] = {"direct": [], "indirect": [], "gradient": []}
    for tangent in instance.tangents:
        direct = _sum(
            [
                slope(tangent["leader_reward"], flow),
                slope(tangent["transition"], own),
                slope(tangent["initial"], leader_value),
            ]
        )
        indirect = _sum(
            [
                slope(tangent["follower_reward"], influence),
                slope(tangent["transition"], through),
                slope(tangent["temperature"], {0: heat}),
            ]
        )
        found["direct"].append(direct)
        found["indirect"].append(indirect)
        found["gradient"].append(_sum([direct, indirect]))
    objective = _sum([fixed.times(initial[s], leader_value[s]) for s in states])
    _compare({"objective": [objective]}, {"objective": [[x] for x in claims["objective"]]}, fixed)
    _compare(found, {name: claims[name] for name in found}, fixed)


def _compare(
    found: dict[str, list[Pair]], claims: dict[str, list[list[str]]], fixed: _Arithmetic
) -> None:
    """Compare numbers of one scale with their claims."""
    bounds = {
        name: ([_number(x) for x in lower], [_number(x) for x in upper])
        for name, (lower, upper) in claims.items()
    }
    sizes = [abs(x) for pair in bounds.values() for ends in pair for x in ends]
    unit = max(max(sizes, default=Fraction(0)) / 2**52, Fraction(5e-324))
    for name, numbers in found.items():
        _compare_one(name, numbers, *bounds[name], unit, fixed)


def _compare_one(
    name: str,
    numbers: list[Pair],
    lower: list[Fraction],
    upper: list[Fraction],
    unit: Fraction,
    fixed: _Arithmetic,
) -> None:
    if not len(numbers) == len(lower) == len(upper):
        raise RejectedError(f"{name} has {len(lower)} and {len(upper)} bounds, not {len(numbers)}")
    for i, number in enumerate(numbers):
        low, high = fixed.of(lower[i] - unit)[1], fixed.of(upper[i] + unit)[0]
        if number[1] < low or number[0] > high:
            raise RejectedError(f"{name}[{i}] is not within the bounds that are claimed")
        if number[0] < low or number[1] > high:
            raise _CoarseError(f"{name}[{i}]", Fraction(number[1] - number[0], fixed.one))


def _number(text: str) -> Fraction:
    """Read a hexadecimal number of any length: -0x1.8p+3, 0x1af3p-12."""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    mantissa, exponent = digits.removeprefix("0x").split("p")
    whole, _, part = mantissa.partition(".")
    scale = int(exponent) - 4 * len(part)
    if abs(scale) > LARGEST_EXPONENT:
        raise RejectedError(f"the exponent of {text[:20]}... is too large")
    return sign * int(whole + part, 16) * Fraction(2) ** scale


def _sum(parts: list[Pair]) -> Pair:
    return sum(x[0] for x in parts), sum(x[1] for x in parts)


def _minus(x: Pair, y: Pair) -> Pair:
    return x[0] - y[1], x[1] - y[0]


def _size(x: Pair) -> int:
    return max(abs(x[0]), abs(x[1]))


def _error(residual: int, rest: Fraction) -> int:
    return math.ceil(residual / rest)


def main(arguments: list[str]) -> int:
    """Check files; return 1 if one of them is rejected."""
    status = 0
    for name in arguments:
        try:
            bits = check_certificate(json.loads(Path(name).read_text(encoding="utf-8")))
        except (RejectedError, ValueError) as error:
            status = 1
            sys.stdout.write(f"{name}: REJECTED, {error}\n")
        else:
            sys.stdout.write(f"{name}: proven, with {bits} bits\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
