"""Check certificates that `Enclosure.save_certificate` wrote: python check_certificate.py FILE ...

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
- J, the gradient and its parts follow, each an interval. A claim is proven if it contains the
  interval of its own number; each of its ends may be off by one unit in its own last place, which
  is 2^-1074 at 0.

Each file is answered in one line. The exit status is that of the worst: 0 if all are proven, 1 if
one does not prove what it claims, 2 if one is no certificate, or without files.
"""

from __future__ import annotations

import bisect
import json
import math
import os
import re
import stat
import sys
from fractions import Fraction
from typing import Any, NamedTuple

__all__ = ["NoCertificateError", "RejectedError", "UnprovenError", "check_certificate"]

FORMAT = "tabular-bilevel certificate 2"

# The keys of its objects: these and no other.
SCALARS = ("follower_discount", "leader_discount", "temperature")
DOCUMENT = ("format", *SCALARS, "initial", "pairs", "tangents", "proof", "claims")
ROW = ("state", "follower_reward", "leader_reward", "successors")
TABLES = ("follower_reward", "leader_reward", "transition", "initial", "temperature")
PARTS = ("direct", "indirect", "gradient")
PROOF = ("value_lower", "value_upper", "leader_value", "steps", "occupancy", "arrivals")

# A table's number or a claim is a float64 number, as C's %a and Python's `hex` spell it: one binary
# digit before the point, 52 behind it, and this exponent.
FLOAT64 = re.compile(r"-?0x[01](?:\.[0-9a-f]{1,13})?p([+-][0-9]{1,4})")
FLOAT64_EXPONENTS = range(-1022, 1024)

# A number of the proof may be longer: -0x1af3p-12. These digits are four times the largest number
# of BITS; products of two float64 numbers remain below 2^2048.
LONG = re.compile(r"(-?0x[0-9a-f]{1,8192})p([+-][0-9]{1,5})")
LONG_EXPONENTS = range(-(2**15), 2**11 + 1)
LARGEST_BIT = 2**11

# float64 numbers are whole numbers of 2^-1074.
FINEST = 1074

# Bits are doubled from the first number to the last, until the claims are shown or refuted.
BITS = (256, 512, 1024, 2048, 4096, 8192)

# Bits^2 times pairs, of which 64 entries take the time of one: about a minute and a half. A
# thousand states with four actions have 2048 bits.
LARGEST_WORK, ENTRIES_OF_A_PAIR = 2**36, 64

# Of a file, in bytes; what Python makes of it may take twenty times as much memory, and at 256 bits
# it takes some 20 seconds. A document that was read otherwise may be larger.
LARGEST_FILE = 2**24

# Lists that were all empty would take more. There are some, but on average a list or object has
# this number of bytes and more.
SOME_LISTS, SHORT_LIST = 1000, 8

# Digits of an index.
LONGEST_INTEGER = 9

Pair = tuple[int, int]  # lower and upper end, in units of 2^-bits
Slopes = list[tuple[int, float]]  # places and numbers


class RejectedError(Exception):
    """The certificate does not prove what it claims.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.check_certificate import RejectedError, check_certificate
    >>> document = tb.enclose(tb.problems.bandit(), [0.0, 0.0]).certificate()
    >>> document["claims"]["objective"] = 2 * ["0x1.8000000000000p-1"]  # 3/4, and it is 1/2
    >>> try:
    ...     check_certificate(document)
    ... except RejectedError as error:
    ...     print(error)
    objective[0] is not within the bounds that are claimed
    """


class UnprovenError(RejectedError):
    """The claims may be true, but the proof is too coarse to show them.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.check_certificate import UnprovenError, check_certificate
    >>> document = tb.enclose(tb.problems.bandit(), [0.0, 0.0]).certificate()
    >>> document["proof"]["leader_value"] = ["0x1p+0"]  # 1, and it is 1/2
    >>> try:
    ...     check_certificate(document)
    ... except UnprovenError as error:
    ...     print(error)
    objective[0] is not shown with 1024 bits
    """


class NoCertificateError(RejectedError):
    """The file or document is no certificate: it does not even claim anything.

    Examples
    --------
    >>> from tabular_bilevel.check_certificate import NoCertificateError, check_certificate
    >>> try:
    ...     check_certificate({"format": "another"})
    ... except NoCertificateError as error:
    ...     print(error)
    the document has no follower_discount
    """


class _CoarseError(Exception):
    """More bits may help, if the widths of the intervals in question fall with them."""

    def __init__(self, widths: dict[str, Fraction]) -> None:
        super().__init__(next(iter(widths)))
        self.widths = widths


class _Arithmetic:
    """Intervals of fixed-point numbers."""

    def __init__(self, bits: int) -> None:
        self.bits, self.one = bits, 1 << bits

    def of(self, number: float | Fraction) -> Pair:
        """Enclose a number whose denominator is a power of 2."""
        numerator, denominator = number.as_integer_ratio()
        return self.shifted(numerator, 1 - denominator.bit_length())

    def shifted(self, mantissa: int, exponent: int) -> Pair:
        """Enclose mantissa * 2^exponent."""
        shift = self.bits + exponent
        if shift >= 0:
            return mantissa << shift, mantissa << shift
        return mantissa >> -shift, -(-mantissa >> -shift)

    def times(self, x: Pair, y: Pair) -> Pair:
        products = (x[0] * y[0], x[0] * y[1], x[1] * y[0], x[1] * y[1])
        return min(products) >> self.bits, -(-max(products) >> self.bits)

    def scaled(self, x: Pair, factor: float) -> Pair:
        numerator, denominator = factor.as_integer_ratio()
        low, high = x[0] * numerator, x[1] * numerator
        if low > high:
            low, high = high, low
        shift = denominator.bit_length() - 1
        return low >> shift, -(-high >> shift)

    def divided(self, x: Pair, divisor: float) -> Pair:
        """Divide by a positive number."""
        numerator, denominator = divisor.as_integer_ratio()
        return x[0] * denominator // numerator, -(-x[1] * denominator // numerator)

    def exp(self, x: Pair) -> Pair:
        """Enclose exp of numbers that are at most 1."""
        return self._exp(x[0])[0], self._exp(x[1])[1]

    def _exp(self, x: int) -> Pair:
        """Enclose exp of x: by its series at x / 2^halvings, which is squared as often."""
        if x == 0:
            return self.one, self.one
        if x < -self.bits * self.one:
            return 0, 1  # for exp(-bits) < 2^-bits
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
        If the certificate does not prove its claims; the message says where. An `UnprovenError`
        says that they may be true, a `NoCertificateError` that the document is no certificate: an
        entry is missing, unknown or not what it should be.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.check_certificate import check_certificate
    >>> document = tb.enclose(tb.problems.bandit(), [0.0, 0.0]).certificate()
    >>> check_certificate(document)  # bits
    512
    """
    instance = _Instance(document)
    widths: dict[str, Fraction] = {}
    doubt = "nothing is shown yet"
    for bits in BITS:
        if instance.size * bits**2 > LARGEST_WORK:
            doubt += f", and {bits} bits take too long for so many pairs and entries"
            break
        try:
            _Checker(instance, _Arithmetic(bits)).compare()
        except _CoarseError as error:
            doubt = f"{error} is not shown with {bits} bits"
            if any(2 * width > widths.get(what, math.inf) for what, width in error.widths.items()):
                break  # it is the file's numbers that are coarse
            widths = error.widths
        else:
            return bits
    raise UnprovenError(doubt)


class _Row(NamedTuple):
    """A pair of a state and an action."""

    state: int
    follower_reward: float
    leader_reward: float
    successors: Slopes  # next states and probabilities
    first: int  # of its entries, which are numbered through all pairs


class _Instance:
    """The tables, the proof and the claims, and the states that play can reach."""

    def __init__(self, document: Any) -> None:
        read = _fields(document, "the document", DOCUMENT)
        if type(read["format"]) is not str or read["format"] != FORMAT:
            raise NoCertificateError(f"the format is {_shown(read['format'])}, not {FORMAT!r}")
        self.follower_discount, self.leader_discount, self.temperature = (
            _float64(read[name], name) for name in SCALARS
        )
        self.initial = _floats(read["initial"], "initial")
        self.rows = self._rows(read["pairs"])
        self.n_entries = sum(len(row.successors) for row in self.rows)
        self.size = len(self.rows) + self.n_entries // ENTRIES_OF_A_PAIR
        self.tangents = [
            self._tangent(tangent, f"tangents[{i}]")
            for i, tangent in enumerate(_items(read["tangents"], "tangents"))
        ]
        self.proof = {
            name: _longs(numbers, f"proof.{name}", len(self.initial))
            for name, numbers in _fields(read["proof"], "proof", PROOF).items()
        }
        self.claims = self._claims(read["claims"])
        self._require_sense()
        self.states = self._reached()
        self.actions: dict[int, list[int]] = {s: [] for s in self.states}
        for k, row in enumerate(self.rows):
            if row.state in self.actions:
                self.actions[row.state].append(k)

    def _rows(self, pairs: Any) -> list[_Row]:
        rows: list[_Row] = []
        entry, state = 0, -1
        for k, pair in enumerate(_items(pairs, "pairs")):
            name, last = f"pairs[{k}]", state
            read = _fields(pair, name, ROW)
            state = _index(read["state"], f"{name}.state", len(self.initial))
            if state not in (max(last, 0), last + 1):
                raise NoCertificateError(f"{name} is of state {state}, after one of state {last}")
            follower, leader = (_float64(read[x], f"{name}.{x}") for x in ROW[1:3])
            successors = _slopes(read["successors"], f"{name}.successors", len(self.initial))
            rows.append(_Row(state, follower, leader, successors, entry))
            entry += len(successors)
        if state != len(self.initial) - 1:
            raise NoCertificateError(f"pairs end with state {state}, not {len(self.initial) - 1}")
        return rows

    def _tangent(self, tangent: Any, name: str) -> dict[str, Slopes]:
        places = len(self.rows), len(self.rows), self.n_entries, len(self.initial), 1
        read = _fields(tangent, name, TABLES)
        return {
            table: _slopes(read[table], f"{name}.{table}", below)
            for table, below in zip(TABLES, places, strict=True)
        }

    def _claims(self, claims: Any) -> dict[str, list[tuple[float, float]]]:
        read = _fields(claims, "claims", ("objective", *PARTS))
        lower, upper = _floats(read["objective"], "claims.objective", 2)
        bounds = {"objective": [(lower, upper)]}
        for part in PARTS:
            name = f"claims.{part}"
            ends = [
                _floats(x, f"{name}[{i}]", len(self.tangents))
                for i, x in enumerate(_items(read[part], name, 2))
            ]
            bounds[part] = list(zip(*ends, strict=True))
        for part, intervals in bounds.items():
            for i, (lower, upper) in enumerate(intervals):
                if lower > upper:
                    raise RejectedError(f"{part}[{i}] has a lower bound above the upper one")
        return bounds

    def _require_sense(self) -> None:
        """Require what the proof takes for granted."""
        rows = [[p for _, p in row.successors] for row in self.rows]
        if any(min(row, default=0.0) < 0.0 for row in [*rows, self.initial]):
            raise RejectedError("a probability is negative")
        if not any(self.initial):
            raise RejectedError("play starts in no state")
        if not self.temperature > 0 or min(self.follower_discount, self.leader_discount) < 0:
            raise RejectedError("the temperature is not positive or a discount is negative")
        largest = max(map(_exact_sum, rows))
        self.follower_rest = 1 - Fraction(self.follower_discount) * largest
        self.leader_rest = 1 - Fraction(self.leader_discount) * largest
        if self.follower_rest <= 0:
            raise RejectedError("the follower's discount times a row sum is not below 1")

    def _reached(self) -> list[int]:
        """List the states that play, or a derivative of its start, can reach along any entry."""
        leads: list[set[int]] = [set() for _ in self.initial]
        for row in self.rows:
            leads[row.state].update(target for target, _ in row.successors)
        starts = {s for s, probability in enumerate(self.initial) if probability}
        for tangent in self.tangents:
            starts.update(s for s, _ in tangent["initial"])
        reached: set[int] = set()
        while starts:
            state = starts.pop()
            reached.add(state)
            starts |= leads[state] - reached
        return sorted(reached)


class _Checker:
    """The steps of the proof, each for all states that can be reached or their pairs."""

    def __init__(self, instance: _Instance, fixed: _Arithmetic) -> None:
        self.instance, self.fixed = instance, fixed
        self.states, self.actions, self.rows = instance.states, instance.actions, instance.rows
        self.initial = {s: fixed.of(instance.initial[s]) for s in self.states}

    def compare(self) -> None:
        """Go all steps, and compare with the claims."""
        value = self.follower_value()
        policy, log_policy = self.policy(value)
        leader_rest = self.instance.leader_rest
        if leader_rest <= 0:
            leader_rest = self.shown_rest(policy)
        leader_value = self.leader_value(policy, leader_rest)
        flow = self.flow(policy, leader_rest)
        influence = self.influence(policy, leader_value, flow)
        found = self.slopes(value, log_policy, leader_value, flow, influence)
        times = self.fixed.times
        found["objective"] = [_sum([times(self.initial[s], leader_value[s]) for s in self.states])]
        _compare(found, self.instance.claims, self.fixed)

    def known(self, name: str) -> dict[int, Pair]:
        """Take numbers from the file's proof."""
        numbers = self.instance.proof[name]
        return {s: self.fixed.shifted(*numbers[s]) for s in self.states}

    def ahead(self, k: int, value: dict[int, Pair], discount: float) -> Pair:
        """Average over the next state."""
        parts = [self.fixed.scaled(value[t], p) for t, p in self.rows[k].successors]
        return self.fixed.scaled(_sum(parts), discount)

    def arrivals(self, flow: dict[int, Pair], discount: float) -> dict[int, Pair]:
        """Push a measure on pairs one step on."""
        came = dict.fromkeys(self.states, (0, 0))
        for k, weight in flow.items():
            discounted = self.fixed.scaled(weight, discount)
            for t, p in self.rows[k].successors:
                came[t] = _sum([came[t], self.fixed.scaled(discounted, p)])
        return came

    def gap(self, k: int, value: dict[int, Pair]) -> Pair:
        """Compute Q - V of the follower."""
        row = self.rows[k]
        ahead = self.ahead(k, value, self.instance.follower_discount)
        return _minus(_sum([self.fixed.of(row.follower_reward), ahead]), value[row.state])

    def logit(self, k: int, value: dict[int, Pair]) -> Pair:
        """Compute (Q - V) / temperature, which is at most 0 for V_F and next to 0 for bounds."""
        logit = self.fixed.divided(self.gap(k, value), self.instance.temperature)
        if logit[1] > self.fixed.one:
            raise _CoarseError({f"the probability of pair {k}": self.width(logit[1])})
        return logit

    def leader_action_value(self, k: int, value: dict[int, Pair]) -> Pair:
        """Compute Q_L."""
        ahead = self.ahead(k, value, self.instance.leader_discount)
        return _sum([self.fixed.of(self.rows[k].leader_reward), ahead])

    def follower_value(self) -> dict[int, Pair]:
        """Show the bounds of V_F."""
        low, high = self.known("value_lower"), self.known("value_upper")
        for s in self.states:
            single = len(self.actions[s]) == 1
            target = 0 if single else self.fixed.one
            below, above = (
                _sum(
                    [
                        self.gap(k, bound) if single else self.fixed.exp(self.logit(k, bound))
                        for k in self.actions[s]
                    ]
                )
                for bound in (low, high)
            )
            if below[1] < target:
                raise RejectedError(f"value_lower[{s}] is no lower bound")
            if above[0] > target:
                raise RejectedError(f"value_upper[{s}] is no upper bound")
            if below[0] < target or above[1] > target:
                width = self.width(max(below[1] - below[0], above[1] - above[0]))
                raise _CoarseError({f"the bounds of the follower's value in state {s}": width})
        return {s: (low[s][0], high[s][1]) for s in self.states}

    def policy(self, value: dict[int, Pair]) -> tuple[dict[int, Pair], dict[int, Pair]]:
        """Enclose the policy and its logarithm."""
        policy: dict[int, Pair] = {}
        log_policy: dict[int, Pair] = {}
        for s in self.states:
            if len(self.actions[s]) == 1:
                (k,) = self.actions[s]
                policy[k], log_policy[k] = (self.fixed.one, self.fixed.one), (0, 0)
                continue
            for k in self.actions[s]:
                logit = self.logit(k, value)
                likely = self.fixed.exp(logit)
                policy[k] = likely[0], min(likely[1], self.fixed.one)
                log_policy[k] = logit[0], min(logit[1], 0)
        return policy, log_policy

    def shown_rest(self, policy: dict[int, Pair]) -> Fraction:
        """Bound from below 1 over the norm of the leader's inverse."""
        steps = self.known("steps")
        if min(steps[s][0] for s in self.states) < 0:
            raise RejectedError("a number of steps is negative")
        rests = []
        for s in self.states:
            mean = [
                self.fixed.times(policy[k], self.ahead(k, steps, self.instance.leader_discount))
                for k in self.actions[s]
            ]
            rests.append(_minus(steps[s], _sum(mean)))
            if rests[-1][1] <= 0:
                raise RejectedError(f"the steps do not show that play from state {s} ends")
        least = min(low for low, _ in rests)
        if least <= 0:
            raise _CoarseError({"that play ends": self.width(max(y - x for x, y in rests))})
        return Fraction(least, max(steps[s][1] for s in self.states))

    def leader_value(self, policy: dict[int, Pair], rest: Fraction) -> dict[int, Pair]:
        """Enclose V_L."""
        guess = self.known("leader_value")
        worst = 0
        for s in self.states:
            gaps = {
                k: _minus(self.leader_action_value(k, guess), guess[s]) for k in self.actions[s]
            }
            residual = _sum([self.fixed.times(policy[k], gap) for k, gap in gaps.items()])
            worst = max(worst, _size(residual))
        return _widened(guess, worst, rest)

    def flow(self, policy: dict[int, Pair], rest: Fraction) -> dict[int, Pair]:
        """Enclose d_L times the policy."""
        guess = self.known("occupancy")
        came = self.arrivals(self.spread(guess, policy), self.instance.leader_discount)
        left = sum(_size(_minus(_sum([self.initial[s], came[s]]), guess[s])) for s in self.states)
        lasting = _widened(guess, left, rest)
        return self.spread({s: (max(x, 0), y) for s, (x, y) in lasting.items()}, policy)

    def spread(self, measure: dict[int, Pair], policy: dict[int, Pair]) -> dict[int, Pair]:
        """Spread a measure on states over actions."""
        return {
            k: self.fixed.times(measure[s], policy[k]) for s in self.states for k in self.actions[s]
        }

    def influence(
        self, policy: dict[int, Pair], leader_value: dict[int, Pair], flow: dict[int, Pair]
    ) -> dict[int, Pair]:
        """Enclose mu = w + pi n."""
        source = {}
        for s in self.states:
            # against the likeliest action, whose advantage is small if it is nearly certain
            best = max(self.actions[s], key=lambda k: policy[k])
            usual = self.leader_action_value(best, leader_value)
            better = {
                k: _minus(self.leader_action_value(k, leader_value), usual) if k != best else (0, 0)
                for k in self.actions[s]
            }
            mean = _sum([self.fixed.times(policy[k], better[k]) for k in better])
            for k in better:
                advantage = _minus(better[k], mean)
                weighted = self.fixed.times(flow[k], advantage)
                source[k] = self.fixed.divided(weighted, self.instance.temperature)
        guess = self.known("arrivals")
        mixed = self.spread(guess, policy)
        total = {k: _sum([source[k], mixed[k]]) for k in source}
        came = self.arrivals(total, self.instance.follower_discount)
        left = sum(_size(_minus(came[s], guess[s])) for s in self.states)
        mixed = self.spread(_widened(guess, left, self.instance.follower_rest), policy)
        return {k: _sum([source[k], mixed[k]]) for k in source}

    def slopes(
        self,
        value: dict[int, Pair],
        log_policy: dict[int, Pair],
        leader_value: dict[int, Pair],
        flow: dict[int, Pair],
        influence: dict[int, Pair],
    ) -> dict[str, list[Pair]]:
        """Enclose the gradient and its parts."""
        fixed, instance = self.fixed, self.instance
        heat = _sum([fixed.times(influence[k], log_policy[k]) for k in influence])
        warm = {0: _minus((0, 0), heat)}

        def pulled(slopes: Slopes, measure: dict[int, Pair]) -> Pair:
            # what has no measure is not reached
            return _sum([fixed.scaled(measure[k], x) for k, x in slopes if k in measure])

        def moved(
            slopes: Slopes, measure: dict[int, Pair], value: dict[int, Pair], discount: float
        ) -> Pair:
            parts = []
            for entry, x in slopes:
                k = bisect.bisect_right(self.rows, entry, key=lambda row: row.first) - 1
                if k in measure:
                    target, _ = self.rows[k].successors[entry - self.rows[k].first]
                    parts.append(fixed.scaled(fixed.times(measure[k], value[target]), x))
            return fixed.scaled(_sum(parts), discount)

        found: dict[str, list[Pair]] = {part: [] for part in PARTS}
        for tangent in instance.tangents:
            kernel = tangent["transition"]
            direct = _sum(
                [
                    pulled(tangent["leader_reward"], flow),
                    moved(kernel, flow, leader_value, instance.leader_discount),
                    pulled(tangent["initial"], leader_value),
                ]
            )
            indirect = _sum(
                [
                    pulled(tangent["follower_reward"], influence),
                    moved(kernel, influence, value, instance.follower_discount),
                    pulled(tangent["temperature"], warm),
                ]
            )
            found["direct"].append(direct)
            found["indirect"].append(indirect)
            found["gradient"].append(_sum([direct, indirect]))
        return found

    def width(self, units: int) -> Fraction:
        return Fraction(units, self.fixed.one)


def _compare(
    found: dict[str, list[Pair]],
    claims: dict[str, list[tuple[float, float]]],
    fixed: _Arithmetic,
) -> None:
    """Require that claims contain the intervals found, to a unit in the last place of each end."""
    widths = {}
    for name, numbers in found.items():
        for i, ((x, y), (lower, upper)) in enumerate(zip(numbers, claims[name], strict=True)):
            low = fixed.of(Fraction(lower) - _unit(lower))[1]
            high = fixed.of(Fraction(upper) + _unit(upper))[0]
            if y < low or x > high:
                raise RejectedError(f"{name}[{i}] is not within the bounds that are claimed")
            if x < low or y > high:
                widths[f"{name}[{i}]"] = Fraction(y - x, fixed.one)
    if widths:
        raise _CoarseError(widths)


def _exact_sum(numbers: list[float]) -> Fraction:
    ratios = (x.as_integer_ratio() for x in numbers)
    return Fraction(sum(n << FINEST + 1 - d.bit_length() for n, d in ratios), 1 << FINEST)


def _unit(end: float) -> Fraction:
    """Return the unit in the last place of a bound."""
    return Fraction(math.ulp(end))


def _sum(parts: list[Pair]) -> Pair:
    return sum(x[0] for x in parts), sum(x[1] for x in parts)


def _minus(x: Pair, y: Pair) -> Pair:
    return x[0] - y[1], x[1] - y[0]


def _size(x: Pair) -> int:
    return max(abs(x[0]), abs(x[1]))


def _widened(guess: dict[int, Pair], residual: int, rest: Fraction) -> dict[int, Pair]:
    error = math.ceil(residual / rest)
    return {s: (x - error, y + error) for s, (x, y) in guess.items()}


# What the document is made of. Types are exact: True is no integer.


def _fields(value: Any, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """Read an object that has these keys and no other."""
    if type(value) is not dict:
        raise NoCertificateError(f"{name} is {_shown(value)}, not an object")
    for key in value:
        if type(key) is not str or key not in keys:
            raise NoCertificateError(f"{name} has the unknown key {_shown(key)}")
    for key in keys:
        if key not in value:
            raise NoCertificateError(f"{name} has no {key}")
    return {key: value[key] for key in keys}


def _items(value: Any, name: str, length: int | None = None) -> list[Any]:
    """Read an array."""
    if type(value) is not list:
        raise NoCertificateError(f"{name} is {_shown(value)}, not an array")
    if length is not None and len(value) != length:
        raise NoCertificateError(f"{name} has {len(value)} entries, not {length}")
    return value


def _index(value: Any, name: str, below: int) -> int:
    if type(value) is not int or not 0 <= value < below:
        raise NoCertificateError(f"{name} is {_shown(value)}, not an index below {below}")
    return value


def _slopes(value: Any, name: str, below: int) -> Slopes:
    """Read [index, number] entries whose indices rise."""
    slopes: Slopes = []
    last = -1
    for i, entry in enumerate(_items(value, name)):
        place, number = _items(entry, f"{name}[{i}]", 2)
        last, before = _index(place, f"{name}[{i}][0]", below), last
        if last <= before:
            raise NoCertificateError(f"{name}[{i}][0] is {last} after {before}: indices must rise")
        slopes.append((last, _float64(number, f"{name}[{i}][1]")))
    return slopes


def _floats(value: Any, name: str, length: int | None = None) -> list[float]:
    numbers = _items(value, name, length)
    return [_float64(number, f"{name}[{i}]") for i, number in enumerate(numbers)]


def _float64(value: Any, name: str) -> float:
    """Read a float64 number; nothing is rounded."""
    spelled = FLOAT64.fullmatch(value) if type(value) is str else None
    if spelled is None or int(spelled[1]) not in FLOAT64_EXPONENTS:
        raise NoCertificateError(f"{name} is {_shown(value)}, not a float64 number as '0x1.8p+0'")
    return float.fromhex(value)


def _longs(value: Any, name: str, length: int) -> list[tuple[int, int]]:
    """Read numbers of the proof, as mantissas and exponents."""
    return [_long(x, f"{name}[{i}]") for i, x in enumerate(_items(value, name, length))]


def _long(value: Any, name: str) -> tuple[int, int]:
    spelled = LONG.fullmatch(value) if type(value) is str else None
    if spelled is None:
        raise NoCertificateError(f"{name} is {_shown(value)}, not a number as '-0x1af3p-12'")
    mantissa, exponent = int(spelled[1], 16), int(spelled[2])
    if exponent not in LONG_EXPONENTS or mantissa.bit_length() + exponent > LARGEST_BIT:
        raise NoCertificateError(f"{name} is {_shown(value)}, which is too large or too fine")
    return mantissa, exponent


def _shown(value: Any) -> str:
    """Say what was found, in few characters that all terminals print."""
    if type(value) is str:
        return ascii(value if len(value) <= 30 else f"{value[:20]}...{value[-7:]}")
    if type(value) is int and abs(value) < 10**LONGEST_INTEGER:
        return str(value)
    return f"of type {type(value).__name__}"


def _read(name: str) -> Any:
    """Read a regular file of JSON; a pipe or device is not waited for."""
    try:
        _require_small(os.stat(name))
        with open(name, "rb", opener=_open_at_once) as file:
            text = file.read(_require_small(os.fstat(file.fileno()))).decode("ascii")
        if text.count("[") + text.count("{") > SOME_LISTS + len(text) // SHORT_LIST:
            raise NoCertificateError("it has brackets and hardly anything else")
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except OSError as error:
        raise NoCertificateError(f"it cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise NoCertificateError("it is nested too deeply") from error
    except ValueError as error:
        raise NoCertificateError(f"it is not JSON: {error}") from error


def _open_at_once(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def _require_small(found: os.stat_result) -> int:
    if not stat.S_ISREG(found.st_mode):
        raise NoCertificateError("it is no regular file")
    if found.st_size > LARGEST_FILE:
        raise NoCertificateError(f"it has {found.st_size} bytes, more than {LARGEST_FILE}")
    return found.st_size


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        raise NoCertificateError("an object has a key twice")
    return found


def _integer(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise NoCertificateError(f"an integer has more than {LONGEST_INTEGER} digits")
    return int(text)


def _no_number(text: str) -> None:
    raise NoCertificateError(f"{_shown(text)} is no integer")


def _printable(text: str) -> str:
    """Escape what a terminal might obey or not know."""
    return "".join(x if " " <= x <= "~" else ascii(x)[1:-1] for x in text)


def main(arguments: list[str]) -> int:
    """Check files; return 0, or 1 if one is rejected, or 2 if one is no certificate."""
    if not arguments:
        sys.stdout.write("usage: python -m tabular_bilevel.check_certificate FILE ...\n")
        return 2
    status = 0
    for name in arguments:
        try:
            answer = f"proven, with {check_certificate(_read(name))} bits"
        except NoCertificateError as error:
            status, answer = 2, f"NO CERTIFICATE, {error}"
        except RejectedError as error:
            status, answer = max(status, 1), f"REJECTED, {error}"
        sys.stdout.write(f"{_printable(f'{name}: {answer}')}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
