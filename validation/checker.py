"""Is the checker right? Its false alarms, its power, and whether it names what is wrong.

Run ``python validation/checker.py`` with the package installed (about an hour on two cores), or one
part: ``--part alarms`` (``families``, ``planted``, ``replicates``, ``power``, ``names``,
``controls``). It ends with 1 if a number is off.

- alarms: 2,000 checks of right estimators on random problems, at a false-alarm rate of 1 %; the
  observed rate has to be inside the binomial 99.9 % interval.
- families: for each family of noise below, 1,000 checks of 400 replicates with the right mean at
  false-alarm rates of 5 % and 1 %; alarms have to be inside the binomial 99.9 % limit, and checks
  of tame noise conclusive as often as is listed. Rare spikes, which no test can know of, are
  counted but not judged.
- planted: the smallest visible bias of a report is planted in fresh noise of each family; where a
  finite one is claimed, it may pass no more often than the claimed power leaves.
- replicates: those that it takes to find a bias with power 0.95, compared with Hotelling's test of
  normal noise, which knows nothing of tails.
- power: the smallest visible bias that a report prints is planted in the built-in method's
  estimates, and has to be seen as often as the report says.
- names: mistakes of the register, alone and two at once, and those of ``unknown_mistakes.py`` on
  each problem of the standard suite, as their exact target and the noise of the built-in method.
  Of those that are BIASED, 85 % of the register's have to be named first, 85 % of the unknown have
  to be none of the known, and 3 % in all may be named wrongly with a probability above 0.5. Of
  parts that are multiplied by a number, 97 % of the factors have to be in their intervals, and 80 %
  of the intervals narrower than 0.5. Every confusion is printed.
- controls: each control itself, drawn by its own sampling, on problems of the suite where its bias
  is clear. None may pass, and 85 % have to be named.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import signal, special, stats
from unknown_mistakes import BLIND, UNKNOWN, Setting

import tabular_bilevel as tb
from tabular_bilevel.checks import estimator as checking
from tabular_bilevel.checks.diagnosis import Candidates, Guess
from tabular_bilevel.checks.localising import Parts, localise, parts_of
from tabular_bilevel.checks.suite import SuiteCase, standard_suite
from tabular_bilevel.mistakes.knowledge import right_limit
from tabular_bilevel.mistakes.register import FAULTS
from tabular_bilevel.problems import zoo

ALARM_RATE, LEVEL = 0.01, 0.999

# Standard errors of 400 replicates that a control has to be off by, to be expected to be caught:
# twice what a check of 1,000 coordinates at a false-alarm rate of 0.001 takes.
CLEAR = 10.0

# Of mistakes that are seen, those that have to be named right, or said to be unknown.
NAMED = 0.85


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=sorted(PARTS), help="this part only")
    parser.add_argument("--runs", type=int, default=2000, help="checks of right estimators")
    parser.add_argument("--checks", type=int, default=1000, help="checks of a family at a rate")
    known = [family.name for family in FAMILIES]
    parser.add_argument("--family", choices=known, metavar="NAME", help="of noise, this one only")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (all cores)")
    parser.add_argument("--plantings", type=int, default=400, help="checks of planted biases")
    parser.add_argument("--cases", type=int, help="problems of the suite to name faults on (all)")
    parser.add_argument("--seed", type=int, help="repeat a run")
    options = parser.parse_args(arguments)
    seed = options.seed
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    parts = PARTS if options.part is None else {options.part: PARTS[options.part]}
    good = True
    for name, part in parts.items():
        before = time.monotonic()
        right = part(options, np.random.default_rng(seed))
        print(f"{name}: {'ok' if right else 'OFF'}, {time.monotonic() - before:.0f} s", flush=True)
        good = good and right
    return 0 if good else 1


def alarms(options: argparse.Namespace, rng: np.random.Generator) -> bool:
    """Count how often right estimators fail."""
    verdicts: Counter[str] = Counter()
    explained, checking._explained = checking._explained, lambda found, *_, **__: found
    try:
        for _ in range(options.runs):
            problem, theta = zoo.draw("quick", rng).at
            sampler = (tb.Episodes, tb.Survivors)[rng.integers(2)](30)
            method = tb.BoltzmannCovariance(tb.Interaction(sampler))
            report = tb.check_estimator(
                method,
                problem,
                theta,
                n_replicates=100,
                false_alarm_rate=ALARM_RATE,
                rng=rng.spawn(1)[0],
            )
            verdicts[report.verdict.name] += 1
    finally:
        checking._explained = explained
    count = verdicts["BIASED"]
    low, high = stats.binom.interval(LEVEL, options.runs, ALARM_RATE)
    print(
        f"{dict(verdicts)}: {count} false alarms in {options.runs} checks at {ALARM_RATE:g}, "
        f"between {low:.0f} and {high:.0f} allowed"
    )
    return bool(low <= count <= high)


# ------------------------------------------------------------------------- families of noise

Draw = Callable[[np.random.Generator, int], np.ndarray]


@dataclass(frozen=True)
class Family:
    """Noise of mean 0, drawn as an array of shape (n, d); how often checks have to decide."""

    name: str
    draw: Draw
    conclusive: float = 0.0
    spikes: bool = False


def lognormal(sigma: float, width: int) -> Draw:
    return lambda rng, n: np.exp(sigma * rng.normal(size=(n, width)) - sigma**2 / 2) - 1.0


def gamma(shape: float, width: int) -> Draw:
    return lambda rng, n: rng.gamma(shape, size=(n, width)) / shape - 1.0


def student(freedom: float, width: int) -> Draw:
    return lambda rng, n: rng.standard_t(freedom, size=(n, width))


def normal(width: int) -> Draw:
    return lambda rng, n: rng.normal(size=(n, width))


def mixed(width: int, *, exponential: bool) -> Draw:
    """Three independent numbers in the place of many."""
    mix = np.random.default_rng(1).normal(size=(3, width))
    if exponential:
        return lambda rng, n: (rng.exponential(size=(n, 3)) - 1.0) @ mix
    return lambda rng, n: rng.normal(size=(n, 3)) @ mix


def autoregressive(memory: float, width: int) -> Draw:
    """Keep a share of the last replicate's noise."""

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        fresh = rng.normal(size=(n, width))
        fresh[1:] *= np.sqrt(1.0 - memory**2)
        return signal.lfilter([1.0], [1.0, -memory], fresh, axis=0)

    return draw


def cached(calls: int, width: int) -> Draw:
    """Give the same again in so many calls."""
    return lambda rng, n: np.repeat(rng.normal(size=(-(-n // calls), width)), calls, axis=0)[:n]


def spikes(rng: np.random.Generator, n: int) -> np.ndarray:
    rare = rng.random((n, 1)) < 0.02
    return rng.normal(size=(n, 1)) + 10.0 * rare - 0.2


FAMILIES = (
    *(Family(f"normal, {width}", normal(width), 0.95) for width in (1, 2, 10, 40, 120)),
    Family("normal of rank 3 in 10", mixed(10, exponential=False), 0.95),
    Family("normal of rank 3 in 120", mixed(120, exponential=False), 0.95),
    Family("normal, every other constant", lambda rng, n: rng.normal(size=(n, 6)) * ([0, 1] * 3)),
    Family(
        "normal, scales 1 to 1e9", lambda rng, n: rng.normal(size=(n, 10)) * 10.0 ** np.arange(10)
    ),
    Family("t3", student(3, 1)),
    Family("t5", student(5, 1), 0.85),
    Family("t5, 8", student(5, 8)),
    Family("exponential", gamma(1.0, 1), 0.85),
    Family("exponential, 2", gamma(1.0, 2), 0.85),
    Family("exponential, 40", gamma(1.0, 40)),
    Family("exponential, 120", gamma(1.0, 120)),
    Family("exponential of rank 3 in 10", mixed(10, exponential=True)),
    Family("gamma 4", gamma(4.0, 1), 0.85),
    Family("gamma 0.2", gamma(0.2, 1)),
    Family("lognormal 1", lognormal(1.0, 1)),
    Family("lognormal 1.5", lognormal(1.5, 1)),
    Family("lognormal 1.5, 2", lognormal(1.5, 2)),
    Family("lognormal 1.5, 8", lognormal(1.5, 8)),
    Family(
        "Weibull 0.6", lambda rng, n: rng.weibull(0.6, size=(n, 1)) - special.gamma(1.0 + 1.0 / 0.6)
    ),
    Family("Pareto 3", lambda rng, n: rng.pareto(3.0, size=(n, 1)) - 0.5),
    Family("Bernoulli 0.1", lambda rng, n: (rng.random((n, 1)) < 0.1) - 0.1),
    Family("lattice", lambda rng, n: rng.integers(-1, 3, size=(n, 2)) - 0.5),
    Family(
        "importance weights of 20 steps",
        lambda rng, n: np.exp((0.25 * rng.normal(size=(n, 1, 20)) - 0.25**2 / 2).sum(axis=2)) - 1.0,
    ),
    Family(
        "common exponential",
        lambda rng, n: rng.exponential(size=(n, 1)) - 1.0 + 0.1 * rng.normal(size=(n, 6)),
    ),
    *(
        Family(f"autoregressive {memory}", autoregressive(memory, 2))
        for memory in (0.1, 0.3, 0.6, 0.95)
    ),
    *(Family(f"cached for {calls} calls", cached(calls, 2)) for calls in (2, 10)),
    Family("spikes in 2 % of calls", spikes, spikes=True),
)

# Of the target's size; noise has about 1 in each coordinate.
SIZE = 3.0


def target_of(width: int) -> np.ndarray:
    goal = np.cos(1.7 * np.arange(width)) + 0.3
    return SIZE * goal / np.linalg.norm(goal)


def checked(name: str, rate: float, runs: int, seed: int) -> Counter[str]:
    """Check noise of a family with the right mean, in looks as `check_estimator` does."""
    family = next(family for family in FAMILIES if family.name == name)
    found: Counter[str] = Counter()
    for rng in np.random.default_rng(seed).spawn(runs):
        noise = family.draw(rng, 400)
        target = target_of(noise.shape[1])
        report = checking.judge_in_looks(
            lambda n, rows=target + noise: rows[:n],
            target,
            n_replicates=400,
            visible_bias=None,
            false_alarm_rate=rate,
            power=0.99,
        )
        found[report.verdict.name] += 1
    return found


def unseen(name: str, rate: float, runs: int, seed: int) -> Counter[str]:
    """Plant the visible bias of one sample in another, to either side, and judge that."""
    family = next(family for family in FAMILIES if family.name == name)
    found: Counter[str] = Counter()
    for rng in np.random.default_rng(seed).spawn(runs):
        noise = family.draw(rng, 400)
        target = target_of(noise.shape[1])
        # whatever size is visible, so that it is the test that does not pass it
        settings = {"false_alarm_rate": rate, "power": 0.99, "visible_bias": np.inf}
        visible = checking.judge(target + noise, target, **settings).smallest_visible_bias
        if not np.isfinite(visible):
            found["no claim"] += 1
            continue
        factor, fresh = 1.0 + rng.choice([-1.0, 1.0]) * visible, family.draw(rng, 400)
        found[checking.judge(factor * target + fresh, target, **settings).verdict.name] += 1
    return found


def families(options: argparse.Namespace, rng: np.random.Generator) -> bool:
    """Count false alarms of each family of noise."""
    good = True
    for family, rate, found in spread(checked, options, rng):
        allowed = int(stats.binom.ppf(LEVEL, options.checks, rate))
        count = found["BIASED"]
        decided = (found["BIASED"] + found["UNBIASED"]) / options.checks
        least = stats.binom.ppf(1.0 - LEVEL, options.checks, family.conclusive) / options.checks
        fine = family.spikes or (count <= allowed and decided >= least)
        good = good and fine
        print(
            f"{family.name:<32}{rate:<6g}{count:4d} false alarms, {allowed} allowed; "
            f"{decided:6.1%} conclusive{'' if fine else '  OFF'}"
        )
    return good


def planted(options: argparse.Namespace, rng: np.random.Generator) -> bool:
    """Count how often a bias of the claimed size passes, in each family of noise."""
    good = True
    for family, rate, found in spread(unseen, options, rng):
        claims = options.checks - found["no claim"]
        allowed = int(stats.binom.ppf(LEVEL, claims, 0.01)) if claims else 0
        fine = family.spikes or found["UNBIASED"] <= allowed
        good = good and fine
        print(
            f"{family.name:<32}{rate:<6g}{found['UNBIASED']:4d} of {claims} claims passed, "
            f"{allowed} allowed; {found['BIASED']} BIASED{'' if fine else '  OFF'}"
        )
    return good


def spread(
    work: Callable[[str, float, int, int], Counter[str]],
    options: argparse.Namespace,
    rng: np.random.Generator,
) -> Iterator[tuple[Family, float, Counter[str]]]:
    """Do the work for each family and rate; give it as it comes."""
    chosen = [family for family in FAMILIES if options.family in (None, family.name)]
    named = {
        f"{family.name} at {rate}": (family, rate) for family in chosen for rate in (0.05, 0.01)
    }
    calls = (
        (name, partial(work, family.name, rate, options.checks, int(seed)))
        for (name, (family, rate)), seed in zip(
            named.items(), rng.integers(2**63, size=len(named)), strict=True
        )
    )
    for name, found in tb.sweep(calls, workers=options.workers):
        yield *named[name], found


# Replicates that the test of tails may cost, where there are hardly any: tame noise, and what it is
# compared with, at the default false-alarm rate.
COSTS = (
    ("normal, 1", 1.1),
    ("normal, 2", 1.1),
    ("normal, 10", 1.1),
    ("t5", 1.3),
    ("gamma 4", 1.3),
)


def replicates(options: argparse.Namespace, rng: np.random.Generator) -> bool:
    """Compare with a test that takes all noise for normal, at the bias that it sees in 95 %."""
    good = True
    for name, allowed in COSTS:
        family = next(family for family in FAMILIES if family.name == name)
        for side in (1.0, -1.0):
            scale, low, high = family.draw(np.random.default_rng(0), 10_000).std(), 1.0, 10.0
            for _ in range(10):
                middle = (low + high) / 2.0
                seen = power_of(plain_test, family, side * middle * scale, 400, options.checks)
                low, high = (middle, high) if seen < 0.95 else (low, middle)
            bias = side * high * scale
            ours = power_of(
                lambda *given: (
                    checking.judge(*given, false_alarm_rate=1e-3, power=0.99).verdict
                    is tb.Verdict.BIASED
                ),
                family,
                bias,
                int(400 * allowed),
                options.checks,
            )
            # both are estimates of a share of 0.95
            slack = 3.1 * np.sqrt(2 * 0.05 * 0.95 / options.checks)
            fine = ours >= 0.95 - slack
            good = good and fine
            print(
                f"{name:<12} bias of {bias:+.2f} standard errors: 95 % with 400 replicates, "
                f"{ours:.1%} with {int(400 * allowed)}{'' if fine else '  OFF'}"
            )
    return good


def plain_test(estimates: np.ndarray, target: np.ndarray) -> bool:
    """Hotelling's test at a rate of 0.001, as of normal noise."""
    count, width = estimates.shape
    gap = estimates.mean(axis=0) - target
    square = count * gap @ np.linalg.solve(np.atleast_2d(np.cov(estimates.T)), gap)
    unit = width * (count - 1) / (count - width)
    return bool(square > unit * stats.f.isf(1e-3, width, count - width))


def power_of(
    test: Callable[[np.ndarray, np.ndarray], bool],
    family: Family,
    bias: float,
    count: int,
    runs: int,
) -> float:
    """Share of samples that a bias along the target, in standard errors of 400, is found in."""
    seen = 0
    for rng in np.random.default_rng(1).spawn(runs):
        noise = family.draw(rng, count)
        target = target_of(noise.shape[1])
        shift = bias / np.sqrt(400.0) * target / np.linalg.norm(target)
        seen += test(target + shift + noise, target)
    return seen / runs


# ------------------------------------------------------------------------- built-in methods


def power(options: argparse.Namespace, rng: np.random.Generator) -> bool:
    """Plant the smallest visible bias, and count how often it is seen."""
    good = True
    for _ in range(3):
        problem, theta = zoo.draw("quick", rng).at
        exact = tb.hypergradient(problem, theta).gradient
        method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(30)))
        settings = {"n_replicates": 100, "false_alarm_rate": 1e-3, "visible_bias": 1e-9}
        plain = [
            tb.check_estimator(method, problem, theta, rng=stream, **settings)
            for stream in rng.spawn(10)
        ]
        bias = float(np.median([report.smallest_visible_bias for report in plain]))
        wanted, seen = plain[0].power, 0
        runs = options.plantings // 3
        for stream in rng.spawn(runs):
            estimates = np.array(
                [method(problem, theta, rng=one).gradient for one in stream.spawn(100)]
            )
            report = checking.judge(
                estimates + bias * exact,
                exact,
                false_alarm_rate=1e-3,
                power=wanted,
                visible_bias=np.inf,
            )
            seen += not report.passed
        least = stats.binom.ppf(1.0 - LEVEL, runs, wanted)
        print(
            f"bias of {bias:.2%} planted: not passed {seen} of {runs} times, at least {least:.0f} "
            "wanted"
        )
        good = good and seen >= least
    return good


@dataclass(frozen=True, eq=False)
class Planted:
    """A mistake, and what it comes to; those that it must not be mixed up with to be seen."""

    kind: str
    name: str
    target: np.ndarray
    apart: tuple[np.ndarray, ...] = ()


def names(options: argparse.Namespace, rng: np.random.Generator) -> bool:
    """Plant mistakes and pairs of the register, strangers' mistakes, and factors."""
    found: Counter[tuple[str, str]] = Counter()
    confused: list[str] = []
    for case in standard_suite()[: options.cases]:
        candidates = Candidates(case.problem, case.theta)
        parts = parts_of(case.problem, case.theta)
        noise = noise_of(case, rng)
        for planted in plantings(case, candidates, rng):
            rows = noisy(planted.target, candidates.exact, noise, rng)
            count = replicates_to_see(rows, candidates.exact)
            same = any(count_apart(rows, one) for one in planted.apart)
            if count is None or same:
                continue
            diagnosis = candidates.diagnose(rows[:count], parts, rounding=1e-10)
            while not diagnosis.clear and count < len(rows):
                count *= 2
                diagnosis = candidates.diagnose(rows[:count], parts, rounding=1e-10)
            best = diagnosis.best
            if best is None:
                told = "none"
            elif planted.name in spelled(best) or is_same(planted, best, candidates):
                told = "named"
            else:
                told = "wrong"
                confused.append(
                    f"{case.name}: {planted.name} is called {best.name} ({best.probability:.2g})"
                )
            found[planted.kind, told] += 1
        for name, factor, rows in scaled_parts(candidates, parts, noise, rng):
            where = localise(rows, parts, candidates.exact, rounding=1e-10).factors[name]
            covered = where.low <= factor <= where.high
            found["factor", "right" if covered else "off"] += 1
            if not covered:
                confused.append(f"{case.name}: {name} times {factor} is told as times {where}")
            narrow = where.high - where.low < 0.5
            found["factor", "narrow" if narrow else "wide"] += 1
        print(f"{case.name}: {dict(found)}", flush=True)
    print("\n".join(confused))
    return judged(found)


def judged(found: Counter[tuple[str, str]]) -> bool:
    """Compare the counts with what is wanted."""

    def share(kinds: tuple[str, ...], wanted: str, all_: tuple[str, ...]) -> float:
        total = sum(found[kind, told] for kind in kinds for told in all_)
        print(f"{'/'.join(kinds)} {wanted}: {sum(found[k, wanted] for k in kinds)} of {total}")
        return sum(found[kind, wanted] for kind in kinds) / max(total, 1)

    told = ("named", "none", "wrong")
    known = ("single", "pair")
    right = [
        share(("single",), "named", told) >= NAMED,
        share(("pair",), "named", told) >= 0.0,
        share(known, "named", told) >= NAMED,
        share(("unknown",), "none", told) >= NAMED,
        share(("blind",), "none", told) >= NAMED,
        share((*known, "unknown", "blind"), "wrong", told) <= 0.03,
        share(("factor",), "right", ("right", "off")) >= 0.97,
        share(("factor",), "narrow", ("narrow", "wide")) >= 0.8,
    ]
    return all(right)


def noise_of(case: SuiteCase, rng: np.random.Generator) -> np.ndarray:
    """Draw the noise of the built-in method's estimates, one a row."""
    method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(200)))
    limit = method.interaction.limit(case.problem, case.theta)
    rows = np.array(
        [
            method.estimate(limit.seeing(limit.law.sample(200, rng=stream))).gradient
            for stream in rng.spawn(200)
        ]
    )
    return rows - rows.mean(axis=0)


def noisy(
    target: np.ndarray, exact: np.ndarray, noise: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Make 400 replicates; a smaller gradient has less noise."""
    share = min(1.0, float(np.linalg.norm(target) / np.linalg.norm(exact)))
    return target + share * noise[rng.integers(len(noise), size=400)]


def replicates_to_see(rows: np.ndarray, exact: np.ndarray) -> int | None:
    """Count the replicates after which a check is BIASED, at the rate of a suite; None if never."""
    for count in (100, 200, 400):
        report = checking.judge(rows[:count], exact, false_alarm_rate=5e-5, power=0.99)
        if report.verdict is tb.Verdict.BIASED:
            return count
    return None


def count_apart(rows: np.ndarray, other: np.ndarray) -> bool:
    """Whether replicates are not told from another target."""
    return (
        checking.judge(rows, other, false_alarm_rate=1e-3, power=0.99).verdict
        is not tb.Verdict.BIASED
    )


def plantings(
    case: SuiteCase, candidates: Candidates, rng: np.random.Generator, n_pairs: int = 8
) -> Iterator[Planted]:
    """List what is planted on a problem: all single mistakes, some pairs, the unknown."""
    singles = candidates.singles
    for fault, target in singles.items():
        yield Planted("single", fault.name, target)
    pairs = list(candidates.pairs(candidates.exact, np.abs(candidates.exact) + 1.0).items())
    for k in rng.permutation(len(pairs))[:n_pairs]:
        (one, other), target = pairs[k]
        yield Planted(
            "pair", f"{one.name} and {other.name}", target, (singles[one], singles[other])
        )
    setting = Setting.at(case.problem, case.theta)
    for name, mean in UNKNOWN.items():
        target = mean(setting)
        known = (*singles.values(), candidates.exact)
        if np.isfinite(target).all() and not any(
            np.abs(target - one).max() <= 1e-6 * np.abs(target).max() for one in known
        ):
            yield Planted("blind" if name in BLIND else "unknown", name, target)


def spelled(best: Guess) -> set[str]:
    """List all names of what is named, pairs in either order."""
    found = {best.name, *best.alike}
    return found | {" and ".join(name.split(" and ")[::-1]) for name in found}


def is_same(planted: Planted, best: Guess, candidates: Candidates) -> bool:
    """Whether another name has the very same target."""
    if len(best.names) > 1 or planted.kind not in ("single", "pair"):
        return False
    target = candidates.singles[FAULTS[best.name]]
    return bool(np.abs(target - planted.target).max() <= 1e-6 * np.abs(target).max())


def scaled_parts(
    candidates: Candidates, parts: Parts, noise: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[str, float, np.ndarray]]:
    """Multiply one part, or one table's share, by a number; where the problem tells it."""
    exact = sum(parts.values())
    plain = noisy(exact, exact, noise, rng)
    told = localise(plain, parts, exact, rounding=1e-10).factors
    for name, where in told.items():
        if not where.known or name.startswith(("direct_", "through_follower_", "leader_")):
            continue
        share = sum(each for key, each in parts.items() if name in key)
        for factor in (0.0, 0.5, 2.14, -1.0):
            yield name, factor, noisy(exact + (factor - 1.0) * share, exact, noise, rng)


def controls(options: argparse.Namespace, rng: np.random.Generator) -> bool:
    """Let the checker name controls that sample by themselves."""
    caught, missed, right = 0, 0, 0
    confused: list[str] = []
    for case in standard_suite()[: options.cases]:
        for name, control in clear_controls(case, rng):
            report = tb.check_estimator(
                control, case.problem, case.theta, visible_bias=0.01, rng=rng.spawn(1)[0]
            )
            if report.passed:
                missed += 1
                confused.append(f"{case.name}: {name} is not caught: {report}")
                continue
            caught += 1
            best = report.diagnosis.best
            if best is not None and name in spelled(best):
                right += 1
            else:
                told = "nothing" if best is None else f"{best.name} ({best.probability:.2g})"
                confused.append(f"{case.name}: {name} is called {told}")
        print(f"{case.name}: {right} of {caught} named right so far, {missed} missed", flush=True)
    print("\n".join(confused))
    print(f"{caught} caught, {missed} missed, {right} named right ({right / max(caught, 1):.1%})")
    return missed == 0 and right >= NAMED * caught


def clear_controls(case: SuiteCase, rng: np.random.Generator) -> Iterator[tuple[str, tb.Control]]:
    """List the controls whose bias a check of 400 replicates is sure to see."""
    exact = tb.hypergradient(case.problem, case.theta).gradient
    right = right_limit(case.problem, case.theta)
    made = tb.controls(n_trajectories=200)
    for name, fault in FAULTS.items():
        target = fault.target(right)
        if target is None:
            continue
        control = made[name]
        estimates = np.array(
            [control(case.problem, case.theta, rng=stream).gradient for stream in rng.spawn(50)]
        )
        # what Student's t would see in a coordinate, of 400 replicates
        error = estimates.std(axis=0, ddof=1) / np.sqrt(400.0)
        floor = 1e-9 * np.abs(exact).max()
        if (np.abs(target - exact) / np.hypot(error, floor)).max() > CLEAR:
            yield name, control


PARTS = {
    "alarms": alarms,
    "families": families,
    "planted": planted,
    "replicates": replicates,
    "power": power,
    "names": names,
    "controls": controls,
}

if __name__ == "__main__":
    sys.exit(main())
