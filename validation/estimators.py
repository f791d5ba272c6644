"""Biases of the methods: what each converges to, and whether its estimates do.

Run ``python validation/estimators.py`` with the package installed; it takes a few minutes.
``--problem NAME ...`` takes some of the problems, ``--trajectories N`` and ``--replicates N`` set
the sizes, and ``--json FILE`` writes the table to a file. Each line is a method with its settings
on a problem where it is defined:

- ``bias`` is |target - exact| / |exact|, and ``cosine`` the angle's, where the target is what the
  estimates' mean comes to with infinite data and exact is the hypergradient;
- ``deviation`` is the total standard deviation of one estimate, relative to |exact|;
- the verdict compares the mean of the replicates with the target, not with the exact gradient, at
  a false-alarm rate of 1e-4 a line.

Methods that average over visits have a bias of order 1 / visits, besides; two sizes are
extrapolated to take it off. Zero-order estimates are compared each with the exact gradients in its
own directions, dJ(theta + u z), which have the same mean and need no cubature: its error is of
order u^6, and u = 1 is far at these temperatures. The exit status is 1 if any verdict is BIASED,
else 0.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel.checks.judging import judge
from tabular_bilevel.problems import grid_map

FALSE_ALARM_RATE = 1e-4

# Directions, each with its opposite, to average the exact gradient over: the bias of a zero-order
# method is known to a few per cent of the gradient's spread.
SMOOTHING = 300

# Directions of each zero-order estimate.
DIRECTIONS = 10


def rewards_only() -> tb.FeatureProblem:
    """Make a garnet with one discount whose parameters move rewards only."""
    whole = tb.problems.garnet(follower_discount=0.9, leader_discount=0.9)
    return tb.FeatureProblem(
        whole.base, follower_reward=whole.follower_reward, leader_reward=whole.leader_reward
    )


def wandering() -> tb.FeatureProblem:
    """Make the catalogue's grid, so warm that the follower visits all of it."""
    grid = grid_map(tb.problems.CATALOGUE["grid-world"]())
    return tb.problems.grid_world(grid, temperature=0.05)


PROBLEMS = {
    "garnet": tb.problems.garnet,
    "layered": tb.problems.layered,
    "two-state": tb.problems.two_state,
    "rewards": rewards_only,
    "toy": tb.problems.discrete_toy,
    "game": tb.problems.random_game,
    "hidden": lambda: tb.problems.random_game(follower_observes_leader=False),
    "grid": wandering,
    "four rooms": tb.problems.four_rooms,
}


#: Trajectories of methods that average over visits, as a multiple of the others'. Followers at low
#: temperatures hardly ever visit some pairs that matter.
VISITS = {"grid": 4, "four rooms": 10}


def start(name: str, n_parameters: int) -> np.ndarray:
    """Choose where to look: near 0, but for the toy, which is flat there."""
    if name == "toy":
        return np.array([0.0, 0.0, 3.0, 0.0, 0.0, 0.0])
    return 0.1 * np.random.default_rng(3).standard_normal(n_parameters)


class Extrapolated:
    """A method that averages over visits, at two sizes: 2 estimate(2 n) - estimate(n).

    Its bias at n trajectories falls like 1 / n, which this takes off; its target stays.
    """

    def __init__(self, method: Callable[[int], tb.Estimator], n: int) -> None:
        self._once, self._twice = method(n), method(2 * n)

    def __call__(
        self, problem: tb.BilevelProblem, theta: np.ndarray, *, rng: np.random.Generator
    ) -> tb.Estimate:
        """Estimate at both sizes, and extrapolate."""
        once, twice = (method(problem, theta, rng=rng) for method in (self._once, self._twice))
        return dataclasses.replace(twice, gradient=2.0 * twice.gradient - once.gradient)

    def target(self, problem: tb.BilevelProblem, theta: np.ndarray) -> np.ndarray:
        """Compute the method's target."""
        return self._once.target(problem, theta)


@dataclasses.dataclass(frozen=True)
class Apart:
    """A sampler with a stream of its own, so that a zero-order method's directions are known."""

    sampler: tb.Sampler

    def sample(
        self, model: tb.Model, policy: np.ndarray, *, rng: np.random.Generator
    ) -> tb.Trajectories:
        """Draw from a child's stream, which does not advance the parent's."""
        return self.sampler.sample(model, policy, rng=rng.spawn(1)[0])

    def horizon(self, model: tb.Model) -> int:
        """Count the steps after which a trajectory is cut."""
        return self.sampler.horizon(model)

    def survival(self, model: tb.Model) -> float:
        """Return the probability with which a step is followed by another."""
        return self.sampler.survival(model)


def methods(n: int, visits: int) -> Iterator[tuple[str, tb.Estimator]]:
    """List the methods and their settings, on about `n` trajectories.

    Those that average over visits have `visits` times as many, and are extrapolated.
    """
    episodes, exact, mean = tb.Episodes(n), tb.ExactCritic(), tb.MonteCarloCritic()

    def seen(sampler: tb.Sampler, critic: tb.Critic = exact) -> tb.Interaction:
        return tb.Interaction(sampler, critic)

    bchg = tb.BoltzmannCovariance
    yield "exact", tb.ExactGradient()
    yield "BC-HG", bchg(seen(episodes))
    yield "BC-HG, no baseline", bchg(seen(episodes), baseline=False)
    yield "BC-HG, own action", bchg(seen(episodes), own_action=True)
    yield "BC-HG, survivors", bchg(seen(tb.Survivors(4 * n)))
    yield "BC-HG, restarted", bchg(seen(tb.StepBudget(200 * n, 200)))
    yield "BC-HG, 7 steps", bchg(seen(tb.Episodes(2 * n, 7)))
    yield "BC-HG, averaged tails", bchg(seen(tb.Episodes(4 * n, 20)), average_tails=True)
    yield (
        "BC-HG, Monte Carlo",
        Extrapolated(lambda k: bchg(seen(tb.Episodes(k), mean)), visits * n),
    )
    # with an exact critic the bias of 1 / visits is below the noise
    yield "HPGD", tb.HyperPolicyGradient(seen(tb.Episodes(2 * n)))
    yield "HPGD, survivors", tb.HyperPolicyGradient(seen(tb.Survivors(10 * n)))
    yield (
        "HPGD, Monte Carlo",
        Extrapolated(lambda k: tb.HyperPolicyGradient(seen(tb.Episodes(k), mean)), visits * n),
    )
    yield (
        "HPGD, oracle",
        Extrapolated(
            lambda k: tb.HyperPolicyGradient(seen(episodes, mean), oracle=tb.Episodes(k, 100)),
            4 * visits * n,
        ),
    )
    yield "SoBiRL", tb.SoBiRL(seen(tb.Episodes(2 * n, 30)))
    yield "SoBiRL, discounted", tb.SoBiRL(seen(episodes), discounted=True)
    yield "naive", tb.NaivePolicyGradient(seen(episodes))
    yield "Bi-AC", tb.BiLevelActorCritic(episodes)
    for terms in (1, 10, 100):
        yield f"Neumann, terms {terms}", tb.TruncatedNeumann(terms)
    for sweeps in (20, 200):
        yield f"AMD, sweeps {sweeps}", tb.AdaptiveModelDesign(sweeps)
    for weight in (1.0, 10.0, 100.0, 1000.0):
        yield f"penalty, weight {weight:g}", tb.ValueGapPenalty(weight)
    yield "penalty, weight 10, sampled", tb.ValueGapPenalty(10.0, sampler=episodes)
    yield "penalty, weight 10, 3 steps", tb.ValueGapPenalty(10.0, sampler=tb.Episodes(n, 3))
    for radius in (1.0, 0.1, 0.01):
        yield (
            f"zero-order, u = {radius:g}",
            tb.ZeroOrder(radius=radius, n_directions=DIRECTIONS),
        )
    yield (
        "zero-order, u = 0.1, one-sided",
        tb.ZeroOrder(radius=0.1, n_directions=DIRECTIONS, two_sided=False),
    )
    yield (
        "zero-order, u = 0.1, 3 steps",
        tb.ZeroOrder(radius=0.1, n_directions=DIRECTIONS, sampler=Apart(tb.Episodes(n, 3))),
    )


def smoothed(
    problem: tb.BilevelProblem,
    theta: np.ndarray,
    estimator: tb.ZeroOrder,
    directions: np.ndarray,
) -> np.ndarray:
    """Average the exact gradient over directions and their opposites."""
    steps = estimator.radius * np.concatenate((directions, -directions))
    sampler = estimator.sampler
    horizon = None if sampler is None else sampler.horizon(problem.model(theta))
    return np.mean(
        [tb.hypergradient(problem, theta + step, horizon=horizon).gradient for step in steps],
        axis=0,
    )


def measure(
    estimator: tb.Estimator, problem: tb.BilevelProblem, theta: np.ndarray, n_replicates: int
) -> dict[str, float | str]:
    """Compare one method's target with the exact gradient, and its estimates with the target."""
    exact = tb.hypergradient(problem, theta).gradient
    zero_order = isinstance(estimator, tb.ZeroOrder)
    if zero_order:
        directions = np.random.default_rng(1).standard_normal((SMOOTHING, theta.size))
        target = smoothed(problem, theta, estimator, directions)
    else:
        target = estimator.target(problem, theta)
    estimates, expected = [], []
    for stream in np.random.default_rng(5).spawn(n_replicates):
        own = copy.deepcopy(stream)
        estimates.append(estimator(problem, theta, rng=stream).gradient)
        if zero_order:
            shape = (estimator.n_directions, theta.size)
            expected.append(smoothed(problem, theta, estimator, own.standard_normal(shape)))
        else:
            expected.append(target)
    report = judge(
        np.array(estimates) - expected + target,
        target,
        false_alarm_rate=FALSE_ALARM_RATE,
        power=0.99,
    )
    norm, length = np.linalg.norm(exact), np.linalg.norm(target)
    return {
        "bias": float(np.linalg.norm(target - exact) / norm),
        "cosine": float(target @ exact / (length * norm)) if length > 0.0 else 0.0,
        "deviation": float(np.linalg.norm(np.std(estimates, axis=0, ddof=1)) / norm),
        "statistic": report.statistic,
        "critical_value": report.critical_value,
        "visible": report.smallest_visible_bias,
        "verdict": report.verdict.name,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--trajectories", type=int, default=500, metavar="N")
    parser.add_argument("--replicates", type=int, default=100, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args()
    rows: list[dict[str, float | str]] = []
    print(f"{'problem':<11}{'method':<32}{'bias':>9}{'cosine':>9}{'deviation':>11}  verdict")
    for name in options.problem:
        problem = PROBLEMS[name]()
        theta = start(name, problem.n_parameters)
        for method, estimator in methods(options.trajectories, VISITS.get(name, 2)):
            try:
                row = measure(estimator, problem, theta, options.replicates)
            except ValueError as error:  # raised for a problem that a method is not made for
                if " is defined for " not in str(error):
                    raise
                continue
            rows.append({"problem": name, "method": method, **row})
            print(
                f"{name:<11}{method:<32}{row['bias']:>9.1e}{row['cosine']:>9.4f}"
                f"{row['deviation']:>11.2e}  {row['verdict']}",
                flush=True,
            )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    biased = [row for row in rows if row["verdict"] == tb.Verdict.BIASED.name]
    print(f"{len(rows)} checks, {len(biased)} BIASED")
    return 1 if biased else 0


if __name__ == "__main__":
    sys.exit(main())
