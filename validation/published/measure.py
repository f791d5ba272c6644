"""Measure what published codes compute, with our own variants of their methods.

Run ``python validation/published/measure.py --scale full --out DIR`` with the package installed (an
hour on one core), or ``--scale small`` (half a minute); started again, it goes on where it stopped.
It writes the numbers into ``numbers.json`` beside this file, under the scale's name. The pages in
``validation/book/published`` show those of the full scale; ``tests/test_published.py`` makes the
small ones again, and compares them with both.

``four-rooms-thetas.npy`` has theta at the start of an ascent and after 600 and 1,500 iterations:
that of ``published("bchg")`` from the start of seed 0, with the published simulator.
``two-goals-thetas.npy`` has the same of HPGD with averages of returns, 10,000 steps in five
environments, and two goals.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel.ascent.published import first_theta
from tabular_bilevel.ascent.training import Run, train
from tabular_bilevel.estimators.estimate import Estimate
from tabular_bilevel.estimators.register import METHODS, Setting
from tabular_bilevel.mistakes.knowledge import cut, right_limit
from tabular_bilevel.mistakes.register import FAULTS, RIGHT
from tabular_bilevel.sampling.experience import LEADER_ACTION_VALUE, NOTHING, Experience
from tabular_bilevel.sampling.traces import TraceRule

FOLDER = Path(__file__).resolve().parent
STORED = FOLDER / "numbers.json"

# Numbers of the paper's experiments, which validation/paper/reproduce.py keeps.
OF_THE_PAPER = FOLDER.parent / "paper" / "numbers.json"

sys.path.append(str(FOLDER))
linear_quadratic: Any = importlib.import_module("linear_quadratic")

# Half the width of an interval, in standard errors: 99 % of a normal law.
HALF_WIDTH = 2.576

# What linear systems and sums of thousands of terms leave, relative to numbers of size 1.
ROUNDING = 1e-5

# Standard errors between two means that are the same: one in a million, of a normal law.
SURE = 5.0


class Number(NamedTuple):
    """A number and its standard error, 0 if it is exact."""

    value: float
    error: float = 0.0


def agree(one: Number, other: Number) -> bool:
    """Whether two numbers are the same: to rounding, or as far as their errors tell."""
    error = np.hypot(one.error, other.error)
    gap = abs(one.value - other.value)
    return bool(gap <= ROUNDING * max(1.0, abs(one.value)) + SURE * error)


@dataclass(frozen=True)
class Scale:
    """How much is sampled.

    Attributes
    ----------
    estimates : int
        Of each mean.
    seeds, iterations : int
        Of each ascent.
    """

    estimates: int
    seeds: int
    iterations: int


SCALES = {"small": Scale(20, 2, 50), "full": Scale(400, 5, 10_000)}

# Table, row and column of a number, and how it is made.
Cell = tuple[tuple[str, str, str], Callable[[], Number]]

# ---------------------------------------------------------------- four rooms

PLACES = ("start", "after 600", "after 1500")

HUNDRED, THOUSAND = tb.StepBudget(100, 200), tb.StepBudget(1000, 200, 5)
TEN_THOUSAND = tb.StepBudget(10_000, 200, 5)

# Goals of the HPGD paper; no goals are the one of the BC-HG paper.
Goals = tuple[tuple[int, int], ...]
ONE_GOAL, TWO_GOALS = (), ((1, 9), (11, 11))
FILES = {ONE_GOAL: "four-rooms-thetas.npy", TWO_GOALS: "two-goals-thetas.npy"}

# Batches that a critic's table sees, from a table of zeros, before an estimate is looked at.
WARM_UP = 30


@cache
def rooms(goals: Goals = ONE_GOAL) -> tuple[tb.BilevelProblem, tb.BilevelProblem]:
    """Make what the planner thinks, and what the published simulator does."""
    more: dict[str, Any] = {"goals": goals} if goals else {}
    return tb.problems.four_rooms(**more), tb.problems.four_rooms(slip=0.33, **more)


@cache
def gradient(place: str, goals: Goals = ONE_GOAL) -> tb.Hypergradient:
    """Compute the exact gradient at a place."""
    return tb.hypergradient(rooms(goals)[0], theta_at(place, goals))


def theta_at(place: str, goals: Goals = ONE_GOAL) -> np.ndarray:
    """Find theta at a place on the ascent."""
    return np.load(FOLDER / FILES[goals])[PLACES.index(place)]


def bchg(sampler: tb.Sampler, critic: tb.Critic, simulator: Any = None) -> tb.BoltzmannCovariance:
    """Make BC-HG as published for four rooms, but for its critic."""
    return tb.BoltzmannCovariance(
        tb.Interaction(sampler, critic, Setting().follower, simulator), average_tails=True
    )


def sarsa(**settings: Any) -> tb.SarsaCritic:
    """Make the published critic, but for what is told."""
    return tb.SarsaCritic(**{"step_size": 0.5, "sweeps": 1, "cut_is_end": True, **settings})


@dataclass(frozen=True)
class Lagged:
    """BC-HG that judges a batch by its critic's table from before that batch.

    Attributes
    ----------
    method : BoltzmannCovariance
        With a critic that learns.
    """

    method: tb.BoltzmannCovariance

    def __call__(self, problem: Any, theta: Any, *, rng: Any, memory: Any = NOTHING) -> Estimate:
        """Learn from a batch, and estimate with what was known before."""
        seen = self.method.interaction.gather(problem, theta, rng=rng, memory=memory)
        policy = seen.response.policy
        before = memory.get(LEADER_ACTION_VALUE, np.zeros(policy.shape))
        judged = replace(seen, values=tb.LeaderValues.under(policy, before))
        return replace(self.method.estimate(judged), memory=seen.memory)


@dataclass(frozen=True)
class Apart:
    """HPGD whose critic has a sample of its own; of pairs that are not in it, nothing is credited.

    Attributes
    ----------
    method : HyperPolicyGradient
        With averages of returns as its critic.
    """

    method: tb.HyperPolicyGradient

    def __call__(self, problem: Any, theta: Any, *, rng: Any, memory: Any = NOTHING) -> Estimate:
        """Draw two samples, and estimate."""
        seen, other = (
            self.method.interaction.gather(problem, theta, rng=rng, memory=memory) for _ in range(2)
        )
        values, counts = other.values, other.seen.visits(1.0)[0]
        known = np.where(counts > 0.0, values.action_value, values.value[:, None])
        judged = replace(seen, values=tb.LeaderValues(known, values.value))
        return self.method.estimate(judged)


def relative_bias(method: Any, place: str, goals: Goals = ONE_GOAL) -> Number:
    """Compute the norm of the bias in the limit of infinite data, as a share of the gradient's."""
    bias = method.bias(rooms(goals)[0], theta_at(place, goals))
    return Number(np.linalg.norm(bias) / np.linalg.norm(gradient(place, goals).gradient))


def mean(numbers: Any) -> Number:
    """Average independent numbers."""
    array = np.asarray(numbers, dtype=float)
    return Number(array.mean(), array.std(ddof=1) / np.sqrt(array.size))


def estimates(
    method: tb.Estimator, place: str, n: int, *, warm_up: int = 0, goals: Goals = ONE_GOAL
) -> Iterator[Estimate]:
    """Make independent estimates; of a critic that learns, after some batches."""
    problem, theta = rooms(goals)[0], theta_at(place, goals)
    for rng in np.random.default_rng(0).spawn(n):
        estimate = method(problem, theta, rng=rng)
        for _ in range(warm_up):
            estimate = method(problem, theta, rng=rng, memory=estimate.memory)
        yield estimate


def through(
    method: tb.Estimator, warm_up: int, place: str, n: int, goals: Goals = ONE_GOAL
) -> Number:
    """Estimate what the part through the follower is multiplied by, along the exact one."""
    exact = gradient(place, goals).indirect
    along = exact / (exact @ exact)
    found = estimates(method, place, n, warm_up=warm_up, goals=goals)
    return mean([estimate.parts.indirect @ along for estimate in found])


def direct(sampler: tb.Sampler, place: str, n: int) -> Number:
    """Estimate what the direct part is multiplied by, along the exact one."""
    exact = gradient(place).direct
    along = exact / (exact @ exact)
    found = estimates(bchg(sampler, tb.ExactCritic()), place, n)
    return mean([estimate.parts.direct @ along for estimate in found])


def size_of_first(method: tb.Estimator, place: str, n: int) -> Number:
    """Estimate the norm of a first estimate, in units of the gradient's."""
    unit = np.linalg.norm(gradient(place).gradient)
    found = estimates(method, place, n)
    return mean([np.linalg.norm(estimate.gradient) / unit for estimate in found])


def largest_through(method: tb.Estimator, place: str, n: int) -> Number:
    """Find the largest entry of any estimate's part through the follower, as a share; rounded."""
    unit = np.linalg.norm(gradient(place).gradient)
    found = estimates(method, place, n)
    largest = max(np.abs(estimate.parts.indirect).max() for estimate in found)
    return Number(round(largest / unit, 9) + 0.0)


LIMITS: dict[str, Callable[[], tb.Estimator]] = {
    "BC-HG": lambda: bchg(THOUSAND, sarsa(), rooms()[1]),
    "BC-HG, simulator as planned": lambda: bchg(THOUSAND, sarsa()),
    "HPGD (MC)": lambda: METHODS["hpgd-mc"](simulated(THOUSAND)),
    "HPGD (oracle)": lambda: METHODS["hpgd-oracle"](simulated(THOUSAND)),
    "SoBiRL": lambda: METHODS["sobirl"](simulated(THOUSAND)),
    "SoBiRL, modified": lambda: METHODS["sobirl-modified"](simulated(THOUSAND)),
    "naive": lambda: METHODS["naive"](simulated(THOUSAND)),
}


def simulated(sampler: tb.Sampler, goals: Goals = ONE_GOAL) -> Setting:
    """Set the published simulator."""
    return Setting(sampler, simulator=rooms(goals)[1])


def hpgd(n_steps: int, n_envs: int = 1) -> tb.HyperPolicyGradient:
    """Make HPGD with averages of returns."""
    return METHODS["hpgd-mc"](Setting(tb.StepBudget(n_steps, 200, n_envs)))


# With the batches before an estimate. Simulator and planner agree: one cause shows by itself.
THROUGH: dict[str, dict[str, tuple[tb.Estimator, int]]] = {
    "BC-HG, through the follower": {
        "exact critic, 100 steps": (bchg(HUNDRED, tb.ExactCritic()), 0),
        "exact critic, 1000 steps": (bchg(THOUSAND, tb.ExactCritic()), 0),
        "SARSA, 100 steps": (bchg(HUNDRED, sarsa()), WARM_UP),
        "SARSA past cuts, 100 steps": (bchg(HUNDRED, sarsa(cut_is_end=False)), WARM_UP),
        "SARSA, 1000 steps": (bchg(THOUSAND, sarsa()), WARM_UP),
        "SARSA past cuts, 1000 steps": (bchg(THOUSAND, sarsa(cut_is_end=False)), WARM_UP),
        "SARSA, 100 steps, table of before": (Lagged(bchg(HUNDRED, sarsa())), WARM_UP),
        "SARSA, 1000 steps, table of before": (Lagged(bchg(THOUSAND, sarsa())), WARM_UP),
    },
    "HPGD, through the follower": {
        "MC, 100 steps": (hpgd(100), 0),
        "MC, 1000 steps, five envs": (hpgd(1000, 5), 0),
        "MC, 10,000 steps, one env": (hpgd(10_000), 0),
        "MC, 10,000 steps, five envs": (hpgd(10_000, 5), 0),
        "MC of another sample, 10,000 steps": (Apart(hpgd(10_000, 5)), 0),
        "exact critic, 10,000 steps": (
            tb.HyperPolicyGradient(tb.Interaction(TEN_THOUSAND)),
            0,
        ),
        "oracle, 100 steps": (
            METHODS["hpgd-oracle"](Setting(HUNDRED, oracle=tb.StepBudget(10_000, 200))),
            0,
        ),
    },
}


# Of the same method on the problem of the HPGD paper.
LIMITS_OF_TWO: dict[str, Callable[[], tb.Estimator]] = {
    "HPGD (MC)": lambda: METHODS["hpgd-mc"](simulated(TEN_THOUSAND, TWO_GOALS)),
    "HPGD (MC), simulator as planned": lambda: hpgd(10_000, 5),
    "naive": lambda: METHODS["naive"](simulated(TEN_THOUSAND, TWO_GOALS)),
}


FIRST: dict[str, tb.Critic] = {
    "table of N(0, 1)": sarsa(initial_spread=1.0),
    "table of 0": sarsa(),
    "exact critic": tb.ExactCritic(),
}


def of_rooms(scale: Scale) -> Iterator[Cell]:
    """List the numbers of four rooms."""
    for place in PLACES:
        for name, make in LIMITS.items():
            yield ("limits", name, place), partial(relative_bias, make(), place)
        for name, make in LIMITS_OF_TWO.items():
            yield (
                ("two goals, limits", name, place),
                partial(relative_bias, make(), place, TWO_GOALS),
            )
        for name, method in (
            ("MC", hpgd(10_000, 5)),
            ("MC of another sample", Apart(hpgd(10_000, 5))),
            ("exact critic", tb.HyperPolicyGradient(tb.Interaction(TEN_THOUSAND))),
        ):
            yield (
                ("two goals, through the follower", name, place),
                partial(through, method, 0, place, scale.estimates, TWO_GOALS),
            )
        for table, methods in THROUGH.items():
            for name, (method, warm_up) in methods.items():
                yield (
                    (table, name, place),
                    partial(through, method, warm_up, place, scale.estimates),
                )
        for name, sampler in (("100", HUNDRED), ("1000", THOUSAND)):
            yield (
                ("direct part", f"{name} steps", place),
                partial(direct, sampler, place, scale.estimates),
            )
        for name, critic in FIRST.items():
            yield (
                ("BC-HG, first estimate", name, place),
                partial(size_of_first, bchg(THOUSAND, critic), place, scale.estimates),
            )
        for name, form in (("as published", "sobirl"), ("modified", "sobirl-modified")):
            yield (
                ("SoBiRL, largest entry through the follower", name, place),
                partial(largest_through, METHODS[form](Setting(THOUSAND)), place, 20),
            )


# ---------------------------------------------------------------- ascents of four rooms


def climbers() -> dict[str, tb.Estimator]:
    """List methods of 100 steps an iteration: as published, and with one cause gone."""
    simulator, first = rooms()[1], {"initial_spread": 1.0}
    return {
        "BC-HG": bchg(HUNDRED, sarsa(**first), simulator),
        "simulator as planned": bchg(HUNDRED, sarsa(**first)),
        "table from 0": bchg(HUNDRED, sarsa(), simulator),
        "past cuts": bchg(HUNDRED, sarsa(**first, cut_is_end=False), simulator),
        "table of before": Lagged(bchg(HUNDRED, sarsa(**first), simulator)),
        "exact critic": bchg(HUNDRED, tb.ExactCritic(), simulator),
        "SoBiRL": METHODS["sobirl"](simulated(HUNDRED)),
        "naive": METHODS["naive"](simulated(HUNDRED)),
    }


BY_DATA = {"100 steps": HUNDRED, "400 steps": tb.StepBudget(400, 200, 2), "1000 steps": THOUSAND}


def end_of_ascent(name: str, scale: Scale) -> Number:
    """Climb at rate 0.1 with one of the climbers."""
    return late(climbers()[name], 0.1, scale)


def end_by_data(data: str, rate: float, step: float, scale: Scale) -> Number:
    """Climb as published, with so much data an iteration."""
    critic = sarsa(initial_spread=1.0, step_size=step)
    return late(bchg(BY_DATA[data], critic, rooms()[1]), rate, scale)


def end_of_two_goals(rate: float, scale: Scale) -> Number:
    """Climb as in the HPGD paper."""
    method = METHODS["hpgd-mc"](simulated(TEN_THOUSAND, TWO_GOALS))
    return late(method, rate, scale, TWO_GOALS)


def late(method: Any, rate: float, scale: Scale, goals: Goals = ONE_GOAL) -> Number:
    """Climb with gradients clipped at 1, and average the objective late in the ascents."""
    problem, every = rooms(goals)[0], max(1, scale.iterations // 200)
    ends = []
    for seed in range(scale.seeds):
        start = first_theta(seed, problem.n_parameters)
        optimiser = tb.GradientAscent(rate, 1.0)
        run = Run("late", problem, start, method, optimiser, seed, scale.iterations, every)
        ends.append(train(run).final())
    return mean(ends)


def of_ascents(scale: Scale) -> Iterator[Cell]:
    """List the numbers of ascents."""
    for name in climbers():
        yield ("ascents", name, "J late in the ascent"), partial(end_of_ascent, name, scale)
    for rate, step, data in product((0.1, 0.5), (0.5, 1.0), BY_DATA):
        row = f"rate {rate:g}, critic's step {step:g}"
        yield ("ascents by data", row, data), partial(end_by_data, data, rate, step, scale)
    for rate in (0.1, 0.5):
        row = f"HPGD (MC), rate {rate:g}"
        yield (
            ("ascents with two goals", row, "J late in the ascent"),
            partial(end_of_two_goals, rate, scale),
        )


# ---------------------------------------------------------------- the toy game

MIXES = (0.7, 0.8, 0.9)

STEPS = 150

CAUSES = {
    "follower averages first": "averaged follower",
    "critic of modes": "modal actions of both players in the critic",
    "use_advantage": "centred by an average that depends on the action",
    "divided by the sum of weights": "divided by the sum of discount**t",
}

SWITCHES = {
    "use_advantage: true": "centred by an average that depends on the action",
    "target_policy_smoothing: false": "modal actions of both players in the critic",
    "grad_mode: weighted_average": "influence averaged, not summed",
    "lambda_coef_1: 2": "direct term twice",
    "lambda_coef_2: 2": "through-follower term twice",
    "lambda_coef_2: 0": "through-follower term dropped",
}


@cache
def toy() -> tb.MarkovGame:
    """Make the game with R = 1."""
    return tb.problems.discrete_toy()


def mixing(mix: float) -> np.ndarray:
    """Find theta where the leader plays its action 0 in A with this probability."""
    return toy().logits({"A": [mix, 1.0 - mix]})


@dataclass(frozen=True)
class Together:
    """BC-HG on the toy game with some mistakes at once, and the published cut.

    Attributes
    ----------
    causes : tuple of str
        Names of `CAUSES`.
    cut_short : bool
        Whether the first step of one in three episodes is followed by nothing, as the published
        buffer has it.
    steps : int or None
        Where trajectories are cut, if anywhere.
    count : int
        Episodes of an estimate.
    """

    causes: tuple[str, ...] = tuple(CAUSES)
    cut_short: bool = True
    steps: int | None = STEPS
    count: int = 3

    def __call__(self, problem: Any, theta: Any, *, rng: np.random.Generator | int) -> np.ndarray:
        """Sample, and estimate."""
        return self.rows(problem, theta, 1, rng=rng)[0]

    def rows(self, problem: Any, theta: Any, n: int, *, rng: Any = 0) -> np.ndarray:
        """Make independent estimates."""
        known, generator = self.known(problem, theta), np.random.default_rng(rng)
        samples = (known.law.sample(self.count, rng=generator) for _ in range(n))
        return np.array([self.made_of(known.seeing(sample)) for sample in samples])

    def target(self, problem: Any, theta: Any) -> np.ndarray:
        """Compute what the estimates' mean comes to."""
        return self.made_of(self.known(problem, theta))

    def known(self, problem: Any, theta: Any) -> Experience:
        """Know what it knows, of the law."""
        known = right_limit(problem, theta, count=self.count)
        known = known if self.steps is None else cut(known, self.steps)
        for name in self.causes:
            known = FAULTS[CAUSES[name]].known(known) or known
        return known

    def made_of(self, known: Experience) -> np.ndarray:
        """Estimate from what is seen."""
        rule = RIGHT.rule(known)
        for name in self.causes:
            change = FAULTS[CAUSES[name]].rule
            rule = rule if change is None else change(rule, known)
        found = Estimate.traced(known, *rule.measures(known)).gradient
        if self.cut_short:
            first = replace(rule, credit_discount=0.0)
            alone = replace(first, trace_discount=0.0)
            found = found - (through_of(first, known) - through_of(alone, known)) / 3.0
        return found


def through_of(rule: TraceRule, known: Experience) -> np.ndarray:
    """Make the part through the follower that a rule says."""
    return Estimate.traced(known, *rule.measures(known)).parts.indirect


RIGHT_BUT_CUT = Together((), cut_short=False)


def slope(gradient: np.ndarray) -> float:
    """Find the entry of f(0|A)'s logit; those of B and S are 0, and f(1|A)'s is its negative."""
    return float(gradient[2])


def ratio_of(method: Together, mix: float, *, to_exact: bool, times: float = 1.0) -> Number:
    """Divide a target by the exact gradient, or by what the cut leaves of it."""
    theta = mixing(mix)
    right = (
        tb.hypergradient(toy(), theta).gradient if to_exact else RIGHT_BUT_CUT.target(toy(), theta)
    )
    return Number(times * slope(method.target(toy(), theta)) / slope(right))


def switched(fault: str, mix: float) -> Number:
    """Divide the target with a mistake by that without, both cut."""
    known = cut(right_limit(toy(), mixing(mix)), STEPS)
    found = FAULTS[fault].target(known)
    if found is None:
        raise ValueError(f"{fault} is not defined for the toy game")
    return Number(slope(found) / slope(RIGHT.estimate(known).gradient))


def replayed_from(earlier: float, mix: float) -> Number:
    """Divide the naive target with the steps of a leader who mixed otherwise by that without."""
    then, walks = mixing(mix + earlier), tb.Interaction(tb.Episodes(steps=STEPS), replay=1)
    now, before = walks.replayed(toy(), mixing(mix), [then])
    naive = tb.NaivePolicyGradient()
    return Number(slope(naive.estimate(before).gradient) / slope(naive.estimate(now).gradient))


def without_baseline(mix: float) -> Number:
    """Divide the target without the follower's baseline by that with it, both cut."""
    known = cut(right_limit(toy(), mixing(mix)), STEPS)
    plain = tb.BoltzmannCovariance(baseline=False).estimate(known).gradient
    return Number(slope(plain) / slope(RIGHT.estimate(known).gradient))


def of_toy(scale: Scale) -> Iterator[Cell]:
    """List the numbers of the toy game, all of them exact."""
    weights = sum(toy().leader_discount ** t for t in range(STEPS))
    whole = Together(steps=None, causes=(), cut_short=False)
    for mix in MIXES:
        column = f"f(0|A) = {mix:g}"

        def cell(table: str, row: str, column: str = column, **more: Any) -> Any:
            return (table, row, column), partial(ratio_of, mix=more.pop("mix"), **more)

        yield cell("toy", "nothing wrong", mix=mix, method=whole, to_exact=True)
        yield cell("toy", "cut after 150 steps", mix=mix, method=RIGHT_BUT_CUT, to_exact=True)
        for name in CAUSES:
            method = replace(RIGHT_BUT_CUT, causes=(name,))
            yield cell("toy, on top of the cut", name, mix=mix, method=method, to_exact=False)
        method = replace(RIGHT_BUT_CUT, cut_short=True)
        yield cell("toy, on top of the cut", "pointer", mix=mix, method=method, to_exact=False)
        yield cell("toy", "all together", mix=mix, method=Together(), to_exact=True)
        yield cell(
            "toy", f"the same, times {weights:.1f}", mix=mix, method=Together(), to_exact=True,
            times=weights,
        )  # fmt: skip
        for name, fault in SWITCHES.items():
            yield ("switches", name, column), partial(switched, fault, mix)
        for earlier in (-0.01, -0.05):
            row = f"on_policy: false, f(0|A) was {-earlier:g} less"
            yield ("naive, replayed", row, column), partial(replayed_from, earlier, mix)
        yield (
            ("switches", "use_advantage_in_influence: false", column),
            partial(without_baseline, mix),
        )


# ---------------------------------------------------------------- continuous tasks


def of_continuous(scale: Scale) -> Iterator[Cell]:
    """List the numbers of the building and of bilevel LQR."""
    share = scale.iterations / SCALES["full"].iterations
    for key, sampled in linear_quadratic.samples(scale.estimates, scale.seeds, share):
        yield key, partial(lambda sampled: mean(sampled()), sampled)


# ---------------------------------------------------------------- all of it


def cells(scale: Scale) -> Iterator[Cell]:
    """List all numbers."""
    yield from of_toy(scale)
    yield from of_rooms(scale)
    yield from of_ascents(scale)
    yield from of_continuous(scale)


def measured(scale: Scale, folder: Path | None = None, workers: int = 1) -> dict[str, list[float]]:
    """Measure all numbers; those that are in the folder are not measured again."""
    keys, tasks = {}, []
    for key, measure in cells(scale):
        name = re.sub(r"[^\w .,=+()-]", "", " - ".join(key))  # of a file
        keys[name] = " | ".join(key)
        tasks.append((name, measure))
    found = dict(tb.sweep(tasks, folder=folder, workers=workers, progress=folder is not None))
    return {key: [float(x) for x in found[name]] for name, key in keys.items()}


def stored(scale: str = "full", file: Path | None = None) -> dict[str, Number]:
    """Read the numbers that a scale came to."""
    found = json.loads((file or STORED).read_text(encoding="utf-8"))[scale]
    return {key: Number(*number) for key, number in found.items()}


def show(table: str, form: str = "{:.3f}") -> None:
    """Print a table of the full scale, with half the width of 99 % intervals."""
    printed(stored(), table, form, HALF_WIDTH)


def show_paper(table: str, form: str = "{:.3f}", scale: str = "small") -> None:
    """Print a table of the paper's experiments, with standard errors."""
    printed(stored(scale, OF_THE_PAPER), table, form, 1.0)


def printed(kept: dict[str, Number], table: str, form: str, width_of: float) -> None:
    """Print a table, each number with so many of its standard errors."""
    split = {tuple(key.split(" | ")): number for key, number in kept.items()}
    words = {
        (row, column): form.format(value) + (f" +- {width_of * error:.2g}" if error else "")
        for (name, row, column), (value, error) in split.items()
        if name == table
    }
    rows, columns = (list(dict.fromkeys(key[k] for key in words)) for k in (0, 1))
    width = max(len(row) for row in rows)
    lines = [["", *columns], *([row, *(words.get((row, c), "-") for c in columns)] for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(1, len(columns) + 1)]
    for row, *entries in lines:
        print(
            row.ljust(width), *(e.rjust(w) for e, w in zip(entries, widths, strict=True)), sep="  "
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=sorted(SCALES), default="small")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to keep what is done")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    folder = options.out and options.out / options.scale
    numbers = measured(SCALES[options.scale], folder, options.workers)
    there = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    text = json.dumps({**there, options.scale: numbers}, indent=1)
    STORED.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
