"""Enclosures of random instances, most of them in some corner, against what must agree with them.

Run ``python validation/enclosure_fuzz.py --count 1000`` with the package and its extra ``rigor``
installed (about 30 instances a second; ``--seed N`` starts elsewhere). Up to 8 states and 4
actions; discounts from 0 to 0.9999, each player its own; temperatures from 1e-6 to 1e6; rewards
from 1e-8 to 1e8; tied, forbidden and single actions; deterministic, absorbing, periodic and ending
play; states that nothing leads to; games. Of each instance:

- the enclosure is reached, and contains the numbers of twice its precision, solved from V = 0;
- the derivative in a random direction contains the central difference of J, both models enclosed
  as well, at a step so small that nothing of the third order is left;
- the certificate passes the independent checker, and with one of its claims moved by more than
  that claim's width and last places it does not;
- with the discounts swapped, or without the influence on the follower, the gradient is elsewhere,
  unless they make no difference.

The exit status is 1 if anything is violated, else 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from flint import arb

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from corners import undiscounted

import tabular_bilevel as tb
from tabular_bilevel.certify import balls
from tabular_bilevel.check_certificate import RejectedError, check_certificate

DISCOUNTS = (0.0, 0.3, 0.9, 0.99, 0.999, 0.9999)

# For the differences: the step, and what is left of the third order relative to the derivative,
# whose scale is 1 / (temperature (1 - discount)) < 1e18, where rewards are 1e8. 2^(2 * 60 - 800).
STEP_BITS, DIFFERENCE_BITS, THIRD_ORDER_BITS = 400, 1600, 500


def instance(rng: np.random.Generator) -> tuple[tb.BilevelProblem, np.ndarray]:
    """Draw a problem and its parameter."""
    scalars = {
        "follower_discount": rng.choice(DISCOUNTS),
        "leader_discount": rng.choice(DISCOUNTS),
        "temperature": 10.0 ** rng.uniform(-6, 6),
    }
    if rng.random() < 0.15:
        return _game(rng, scalars)
    shape = rng.integers(1, 9), rng.integers(1, 5)
    follower = _rewards(rng, shape)
    follower[
        (rng.random(shape) < rng.choice([0.0, 0.0, 0.3])) & (np.arange(shape[1]) > 0)
    ] = -np.inf
    kernel, ends = _kernel(rng, (*shape, shape[0]))
    if rng.random() < 0.3:  # ties, up to gaps of the temperature
        follower = np.where(np.isfinite(follower), follower[:, :1], follower)
        follower = follower + scalars["temperature"] * rng.choice([0.0, 1.0]) * rng.normal(
            size=shape
        )
        kernel[:, 1:] = kernel[:, :1] if rng.random() < 0.5 else kernel[:, 1:]
        ends = np.maximum(1.0 - kernel.sum(axis=2), 0.0)
    base = tb.Model.from_tables(
        transition=kernel,
        termination=ends,
        follower_reward=follower,
        leader_reward=_rewards(rng, shape) * rng.choice([0.0, 1.0], p=[0.05, 0.95]),
        initial=_initial(rng, shape[0]),
        **scalars,
    )
    if rng.random() < 0.3:
        base = undiscounted(rng, base)
    width = int(rng.integers(1, 4))
    features = {
        "follower_reward": rng.normal(size=(follower.size, width)),
        "leader_reward": rng.normal(size=(follower.size, width)),
        "transition": rng.normal(size=(base.transition.nnz, width)),
        "initial": rng.normal(size=(shape[0], width)),
        "temperature": rng.normal(size=width),
    }
    some = {name: f for name, f in features.items() if rng.random() < 0.6} or features
    return tb.FeatureProblem(base, **some), rng.normal(size=width) * rng.choice([0.0, 1.0])


def _game(
    rng: np.random.Generator, scalars: dict[str, float]
) -> tuple[tb.BilevelProblem, np.ndarray]:
    shape = rng.integers(1, 4), rng.integers(1, 4), rng.integers(1, 4)
    kernel, ends = _kernel(rng, (*shape, shape[0]))
    game = tb.MarkovGame(
        transition=kernel,
        termination=ends,
        follower_reward=_rewards(rng, shape),
        leader_reward=_rewards(rng, shape),
        initial=_initial(rng, shape[0]),
        follower_observes_leader=bool(rng.random() < 0.5),
        **scalars,
    )
    return game, rng.normal(size=game.n_parameters)


def _rewards(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    scale = 10.0 ** rng.choice([-8.0, -3.0, 0.0, 0.0, 3.0, 8.0])
    rewards = rng.normal(size=shape) * scale
    if rng.random() < 0.2:
        rewards = np.round(rewards)
    if rng.random() < 0.2:  # of all sizes at once
        rewards = rng.normal(size=shape) * 10.0 ** rng.choice([-8.0, 0.0, 8.0], size=shape)
    return rewards


def _kernel(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    kernel = rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])
    if rng.random() < 0.5:  # deterministic
        kernel = np.eye(shape[-1])[rng.integers(shape[-1], size=shape[:-1])]
    if rng.random() < 0.3:  # states that play does not leave
        states = np.flatnonzero(rng.random(shape[-1]) < 0.4)
        kernel[states] = 0.0
        for s in states:
            kernel[s, ..., s] = 1.0
    if rng.random() < 0.3 and shape[-1] > 1:  # a state that nothing leads to
        kernel[..., 0] = 0.0
        kernel[..., 1] += 1.0 - kernel.sum(axis=-1)
    kernel = np.clip(kernel, 0.0, 1.0)
    if rng.random() < 0.3:
        kernel = kernel * rng.choice([0.0, 0.5, 1.0, 1.0], size=(*shape[:-1], 1))
    return kernel, np.clip(1.0 - kernel.sum(axis=-1), 0.0, 1.0)


def _initial(rng: np.random.Generator, size: int) -> np.ndarray:
    if rng.random() < 0.5:
        return np.eye(size)[rng.integers(size)]
    return rng.dirichlet(np.ones(size))


def examine(
    problem: tb.BilevelProblem, theta: np.ndarray, rng: np.random.Generator, seen: Counter[str]
) -> list[str]:
    """List what is violated; count what could be looked at."""
    try:
        enclosure = tb.enclose(problem, theta)
    except (ValueError, tb.CertificationError):
        if not _ends_too_late(problem, theta):
            raise
        seen["endless, and refused"] += 1
        return []
    seen[f"{enclosure.precision} bits"] += 1
    seen["undiscounted"] += enclosure.model.leader_discount == 1.0
    seen["temperature moves"] += any(t.temperature != 0.0 for t in enclosure.tangents)
    failures = []
    tables = balls.Tables.of(enclosure.model, enclosure.tangents)
    zeros = [arb(0)] * enclosure.model.n_states
    with balls.precision(max(2 * enclosure.precision, 256)):
        finer = balls.travel(tables, zeros)
        available = enclosure.model.available
        for name in ("value", "leader_value", "occupancy", "direct", "indirect", "gradient"):
            interval = getattr(enclosure, name)
            if not _contains(interval.lower, interval.upper, getattr(finer, name)):
                failures.append(f"{name} is outside")
        for name in ("policy", "influence"):
            interval = getattr(enclosure, name)
            ends = interval.lower[available], interval.upper[available]
            if not _contains(*ends, getattr(finer, name)):
                failures.append(f"{name} is outside")
        ends = [enclosure.objective.lower], [enclosure.objective.upper]
        if not _contains(*ends, [finer.objective]):
            failures.append("objective is outside")

    direction = rng.integers(-3, 4, size=theta.size).astype(float)
    if not _difference_agrees(enclosure, tables, finer, direction):
        failures.append("the difference is outside")

    try:
        certificate = enclosure.certificate()
        seen[f"checked with {check_certificate(certificate)} bits"] += 1
    except (tb.CertificationError, RejectedError) as error:
        failures.append(f"the certificate is rejected: {error}")
    else:
        try:
            check_certificate(_with_a_wrong_claim(certificate, rng))
            failures.append("a wrong claim is not rejected")
        except RejectedError:
            seen["wrong claims rejected"] += 1

    swapped = dataclasses.replace(
        tables,
        follower_discount=tables.leader_discount,
        leader_discount=tables.follower_discount,
    )
    with balls.precision(max(2 * enclosure.precision, 256)):
        if enclosure.model.leader_discount < 1.0:  # the follower's has to be
            other = balls.travel(swapped, zeros).gradient
            seen["swapped discounts outside"] += not _overlap(other, finer.gradient)
        seen["without influence outside"] += not _overlap(finer.direct, finer.gradient)
    return failures


def _with_a_wrong_claim(certificate: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Move one claim by more than its width and the last places of its ends."""
    name = str(rng.choice(["objective", "gradient", "direct", "indirect"]))
    claims = certificate["claims"][name]
    lower, upper = ([float.fromhex(x) for x in np.ravel(end)] for end in claims)
    i = rng.integers(len(lower))
    step = 2.0 * (upper[i] - lower[i] + math.ulp(lower[i]) + math.ulp(upper[i]))
    lower[i], upper[i] = lower[i] + step, upper[i] + step
    moved = [[x.hex() for x in end] for end in (lower, upper)]
    wrong = [end[0] for end in moved] if name == "objective" else moved
    return {**certificate, "claims": {**certificate["claims"], name: wrong}}


def _ends_too_late(problem: tb.BilevelProblem, theta: np.ndarray) -> bool:
    """Say whether undiscounted play takes some 1e16 steps and more, or has rows above 1."""
    model = problem.model(theta)
    if model.leader_discount < 1.0:
        return False
    try:
        tb.evaluate_leader(model, tb.solve_follower(model))
    except ValueError:
        return True
    return False


def _contains(lower: np.ndarray, upper: np.ndarray, balls: list[arb]) -> bool:
    """Say whether numbers of a higher precision may lie within bounds."""
    return all(
        not (x.upper() < arb(float(low))) and not (x.lower() > arb(float(high))) and x.is_finite()
        for low, high, x in zip(lower, upper, balls, strict=True)
    )


def _overlap(x: list[arb], y: list[arb]) -> bool:
    return all(a.overlaps(b) for a, b in zip(x, y, strict=True))


def _difference_agrees(
    enclosure: tb.Enclosure, tables: balls.Tables, road: balls.Road, direction: np.ndarray
) -> bool:
    """Compare the derivative of J along a direction with a difference of enclosed J."""
    with balls.precision(DIFFERENCE_BITS):
        step = arb(2) ** -STEP_BITS
        ends = [
            balls.travel(_moved(tables, enclosure, direction, sign * step), road.middle).objective
            for sign in (1, -1)
        ]
        difference = (ends[0] - ends[1]) / (2 * step)
        derivative = sum(
            (float(d) * g for d, g in zip(direction, road.gradient, strict=True)), arb(0)
        )
        size = sum((abs(g).upper() for g in road.gradient), arb(0))
        return bool((difference - derivative).abs_lower() <= size * arb(2) ** -THIRD_ORDER_BITS)


def _moved(
    tables: balls.Tables, enclosure: tb.Enclosure, direction: np.ndarray, step: arb
) -> balls.Tables:
    """Move the tables along a direction of theta, exactly."""
    n_pairs = len(tables.kernel)
    n_entries = sum(map(len, tables.kernel))
    own = [arb(0)] * (n_pairs + n_entries + tables.n_states)
    through = [arb(0)] * (n_pairs + n_entries + 1)
    for weight, direct, indirect in zip(direction, tables.direct, tables.indirect, strict=True):
        for change, column in ((own, direct), (through, indirect)):
            for place, slope in zip(column.places, column.slopes, strict=True):
                change[place] += float(weight) * slope
    entries = iter(own[n_pairs:])

    def plus(numbers: list[arb], changes: list[arb]) -> list[arb]:
        return [x + step * y for x, y in zip(numbers, changes, strict=True)]

    return dataclasses.replace(
        tables,
        kernel=[[p + step * next(entries) for p in row] for row in tables.kernel],
        follower_reward=plus(tables.follower_reward, through[:n_pairs]),
        leader_reward=plus(tables.leader_reward, own[:n_pairs]),
        initial=plus(tables.initial, own[n_pairs + n_entries :]),
        temperature=tables.temperature + step * through[-1],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seen: Counter[str] = Counter()
    failed = 0
    started = time.monotonic()
    for k in range(arguments.count):
        rng = np.random.default_rng([arguments.seed, k])
        problem, theta = instance(rng)
        try:
            failures = examine(problem, theta, rng, seen)
        except tb.CertificationError as error:
            failures = [f"not certified: {error}"]
        failed += bool(failures)
        for failure in failures:
            print(f"instance [{arguments.seed}, {k}], {problem}: {failure}")
    print(f"{arguments.count} instances, {failed} violated, {time.monotonic() - started:.0f} s")
    for name, count in sorted(seen.items()):
        print(f"  {name}: {count}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
