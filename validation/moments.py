"""Exact moments of the methods against samples, on random problems.

Run ``python validation/moments.py`` with the package installed: 10^6 trajectories of each method on
54 problems take nine minutes of two cores. ``--problems N``, ``--batches N``, ``--trajectories N``
(of a batch) and ``--workers N`` set the sizes. With ``--results FOLDER`` each problem's lines are
kept there, and a run goes on where one stopped.

Each line is a method on a problem. Of each coordinate the mean of all trajectories is compared with
the exact one, and the mean square of the batches' deviations from that with the exact variance.
Printed is the largest chance that a deviation as large can have, if the moments are right. With
probability 99.9 % none is below 0.1 % of their number (Bonferroni): the samples are within
simultaneous intervals. The exit status is 1 if one is not, or if the control is never seen to be
wrong: variances that are a quarter too large.

Chances have to hold where actions are rare. What one trajectory in 10^7 brings may be most of the
variance, and a million say little of it, where normal intervals would say much. So deviations are
bounded by Bernstein's inequality, with the exact variance and the most that a trajectory can bring;
those of squares with exact fourth moments. What products of two trajectories of a batch add to the
squares is taken for normal, with the variance that it has. Fourth moments and what a trajectory can
bring are computed here from what a step does; second ones made so have to be the package's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr

import tabular_bilevel as tb
from tabular_bilevel.moments.scored import ScoredMoments
from tabular_bilevel.moments.traced import TracedMoments
from tabular_bilevel.problems import zoo
from tabular_bilevel.sampling.traces import TraceRule

CONFIDENCE = 0.999

FAMILIES = ("garnet", "masks", "termination", "game-observed", "game-simultaneous", "temperature")
STATES = 6

# Steps after which trajectories are cut, where a method is to be cut.
STEPS = 12

# Controls a problem; they take turns.
CONTROLS = 4

# Relative; variances by two roads.
ROUNDING = 1e-8


def methods(k: int, n: int) -> Iterator[tuple[str, Any, np.ndarray, Any]]:
    """List methods on n trajectories, and what for: the k-th problem, or one that is like it."""
    family = FAMILIES[k % len(FAMILIES)]
    instance, rng = zoo.draw(family, rng=k, max_states=STATES), np.random.default_rng(k)
    problem, theta = instance.problem, np.asarray(instance.theta)
    model = problem.model(theta)
    cut = tb.Interaction(tb.Episodes(n, STEPS))
    usual = tb.BoltzmannCovariance(cut)
    lasting = tb.Survivors(n, max(0.9, model.follower_discount, model.leader_discount))
    exact = tb.Interaction().limit(problem, theta).values.action_value
    wrong = np.where(np.isfinite(exact), exact, 0.0) + rng.normal(size=exact.shape)
    given = tb.Interaction(tb.Episodes(n, STEPS), tb.GivenCritic(wrong))
    found = {
        "BC-HG": usual,
        "no baseline": replace(usual, baseline=False),
        "own action": replace(usual, own_action=True),
        "given critic": tb.BoltzmannCovariance(given),
        "best baseline": tb.best_baseline(problem, theta, usual),
        "survivors": tb.BoltzmannCovariance(tb.Interaction(lasting)),
        "score function": tb.ScoreFunction(cut, baseline=bool(k % 2)),
        "naive": tb.NaivePolicyGradient(cut),
    }
    for name, method in found.items():
        yield f"{family}: {name}", problem, theta, method
    rewards = {
        name: rng.normal(size=(exact.size, 3)) for name in ("follower_reward", "leader_reward")
    }
    paid = tb.FeatureProblem(model, **rewards), 0.3 * rng.normal(size=3)
    yield f"{family}, rewards only: SoBiRL", *paid, tb.SoBiRL(cut)
    game = zoo.draw("game-observed", rng=k, max_states=STATES)
    played = game.problem, np.asarray(game.theta)
    yield "game-observed: Bi-AC", *played, tb.BiLevelActorCritic(tb.Episodes(n, STEPS))
    controls = list(tb.controls(n_trajectories=n).items())
    for name, method in (controls[CONTROLS * k :] + controls[: CONTROLS * k])[:CONTROLS]:
        yield f"{family}: control: {name}", problem, theta, method


@dataclass(frozen=True, eq=False)
class Walk:
    """The law of a gradient's coordinates: what a step does to a vector z, of which its last is it.

    Attributes
    ----------
    state, arrival : ndarray of int, shape (n,)
        Of each outcome of a step; S for an end.
    chance : ndarray, shape (n,)
        Given the state.
    step : ndarray, shape (d, n, m, m)
        What z is multiplied by, for each coordinate.
    start, initial : ndarray, shapes (d, S, m) and (S,)
        What z is at first, and how often.
    n_steps : int
        At most.
    """

    state: np.ndarray
    arrival: np.ndarray
    chance: np.ndarray
    step: np.ndarray
    start: np.ndarray
    initial: np.ndarray
    n_steps: int

    @classmethod
    def of(cls, rule: Any, limit: Any, n_steps: int) -> Walk:
        """Make it of a method's rule."""
        if not isinstance(rule, TraceRule):
            return cls._of_scores(ScoredMoments(rule, limit, n_steps), n_steps)
        found = TracedMoments(rule, limit, n_steps)
        seen, answers, size = found.outcomes, found.answers, found.decays.size
        (n_states, _), which, q = seen.shape, np.arange(seen.pair.size), found.law.survival
        step = np.zeros((found.n_parameters, which.size, *[size + len(answers) + 1] * 2))
        start = np.zeros((found.n_parameters, n_states, size + len(answers) + 1))
        step[:, :, -1, -1], start[:, :, 1:size] = 1.0, 1.0
        start[:, :, -1] = found.start.toarray().T
        for j, decay in enumerate(found.decays / q):  # the eligibility, and weights
            step[:, :, j, j] = decay
            step[:, :, -1, j] = found.slopes[j].toarray()[found.row].T
            step[:, :, 0, j] = found.decays[0] / q * found.credits[j, found.row]
        for j, answer in enumerate(answers, start=size):  # what waits for the next action
            step[:, :, -1, j] = answer.worth.ravel()[seen.pair]
            step[:, :, j, answer.weight] = (
                found.decays[answer.weight] / q * answer.slopes.toarray().T
            )
            start[:, :, j] = answer.start.toarray().T
        stops = which[seen.arrival < n_states] if q < 1.0 else which[:0]
        chance = np.where(seen.arrival < n_states, q, 1.0) * seen.chance
        return cls(
            state=np.append(seen.state, seen.state[stops]),
            arrival=np.append(seen.arrival, np.full(stops.size, n_states)),
            chance=np.append(chance, (1.0 - q) * seen.chance[stops]),
            step=np.concatenate((step, step[:, stops]), axis=1),
            start=start,
            initial=found.law.made_in.initial,
            n_steps=n_steps,
        )

    @classmethod
    def _of_scores(cls, found: ScoredMoments, n_steps: int) -> Walk:
        found = found._some(slice(None))  # all parameters
        score, discount = found._score.T, found._discount
        step = np.zeros((*score.shape, 3, 3))  # of the sum of scores, weighted, the weight, and G
        step[:, :, 0, 0] = step[:, :, 1, 1] = discount
        step[:, :, 0, 1] = discount * score
        step[:, :, 2] = found._reward[:, None]
        step[:, :, 2, 1] *= score
        step[:, :, 2, 1] += found._added.T
        step[:, :, 2, 2] = 1.0
        start = np.zeros((len(score), found._initial.size, 3))
        start[:, :, 1], start[:, :, 2] = 1.0, found._start.T
        return cls(
            found._state, found._arrival, found._chance, step, start, found._initial, n_steps
        )

    def less(self, mean: np.ndarray) -> Walk:
        """Take the mean off the gradient."""
        start = self.start.copy()
        start[:, :, -1] -= mean[:, None]
        return replace(self, start=start)

    def most(self) -> np.ndarray:
        """Bound |G|, shape (d,)."""
        n_states, found = self.initial.size, []
        for step, start in zip(np.abs(self.step), np.abs(self.start), strict=True):
            ahead = np.zeros((n_states + 1, start.shape[1]))
            ahead[:, -1] = 1.0
            for _ in range(self.n_steps):
                led_to = np.einsum("oij,oi->oj", step, ahead[self.arrival])
                ahead[:-1] = 0.0
                np.maximum.at(ahead, self.state, led_to)
            found.append(np.vecdot(ahead[:-1], start)[self.initial > 0.0].max())
        return np.array(found)

    def moment(self, order: int) -> np.ndarray:
        """Compute E G^order, shape (d,): a form of degree `order` in z, stepped back."""
        n_states, found = self.initial.size, []
        over = np.zeros((n_states, self.state.size))
        over[self.state, np.arange(self.state.size)] = self.chance
        for step, start in zip(self.step, self.start, strict=True):
            ahead = np.zeros((n_states + 1, *[start.shape[1]] * order))
            ahead[(slice(None), *[-1] * order)] = 1.0
            for _ in range(self.n_steps):
                form = ahead[self.arrival]
                for _ in range(order):
                    form = np.moveaxis(_contracted(step, form), 1, -1)
                ahead[:-1] = (over @ form.reshape(self.state.size, -1)).reshape(ahead[:-1].shape)
            form = ahead[:-1]
            for _ in range(order):
                form = _contracted(start[:, :, None], form)[:, 0]
            found.append(self.initial @ form)
        return np.array(found)


def _contracted(step: np.ndarray, form: np.ndarray) -> np.ndarray:
    """Put a step, (n, m, l), into the first place of forms, (n, m, ...)."""
    flat = np.swapaxes(step, 1, 2) @ form.reshape(*form.shape[:2], -1)
    return flat.reshape(len(form), step.shape[2], *form.shape[2:])


def bernstein(off: np.ndarray, square: np.ndarray, most: np.ndarray, n: int) -> np.ndarray:
    """Bound the chance that a mean of n is as far off: of a mean square, and the most there is."""
    spread = 2.0 * square + most * off * (2.0 / 3.0)
    return 2.0 * np.exp(-n * off**2 / np.where(spread > 0.0, spread, np.inf))


def chances(
    problem: Any, theta: np.ndarray, method: Any, n_batches: int, n: int, seed: int
) -> tuple[float, float, float, float, int]:
    """Find the least chances: of means, squares, squares with a quarter more, all if normal."""
    steps = None  # methods say it themselves, controls but for what they cut
    if isinstance(method, tb.Control):
        steps = min(STEPS, method.limit(problem, theta).law.horizon)
    moments = tb.estimator_moments(problem, theta, method, horizon=steps)
    ready, rng = method.enumerable(problem, theta), np.random.default_rng(seed)
    law = replace(ready.limit.law, horizon=moments.horizon or ready.limit.law.horizon)
    rule, limit = method.rule_at(problem, theta)
    walk = Walk.of(rule, limit, law.horizon).less(moments.mean)
    variance, fourth, most = moments.variance, walk.moment(4), walk.most()
    tiny = 1e-9 * np.abs(moments.mean).max() + 1e-300  # of what does not vary
    if (np.abs(walk.moment(2) - variance) > ROUNDING * variance + tiny**2).any():
        return 0.0, 0.0, 0.0, 0.0, theta.size
    rows = np.array([ready.estimate(law.sample(n, rng=rng)) for _ in range(n_batches)])
    off = np.maximum(np.abs(rows.mean(axis=0) - moments.mean) - tiny, 0.0)
    found, shares = n * ((rows - moments.mean) ** 2).mean(axis=0), np.linspace(0.01, 0.99, 99)
    spread = np.sqrt(2.0 / n_batches) * variance

    def of_squares(times: float) -> float:
        off = np.maximum(np.abs(found / times - variance) - tiny**2, 0.0)
        squares = bernstein(np.multiply.outer(shares, off), fourth, most**2, n * n_batches)
        rest = normal(np.multiply.outer(1.0 - shares, off), spread)
        return float((squares + rest).min())

    all_normal = normal(off, np.sqrt(variance / (n * n_batches))), normal(found - variance, spread)
    return (
        float(bernstein(off, variance, most, n * n_batches).min()),
        of_squares(1.0),
        of_squares(1.25),
        float(np.min(all_normal)),
        theta.size,
    )


def normal(off: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Compute the chance that a normal number is as far off."""
    return 2.0 * ndtr(-np.abs(off) / np.where(spread > 0.0, spread, np.inf))


def compared(k: int, n_batches: int, n: int) -> list[tuple[Any, ...]]:
    """Compare each method that the k-th problem has moments of."""
    lines = []
    for what, problem, theta, method in methods(k, n):
        try:
            lines.append((what, *chances(problem, theta, method, n_batches, n, k)))
        except ValueError as error:  # a problem that the method is not made for, or no rule
            if not any(word in str(error) for word in (" defined for ", "take sampling")):
                raise
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = {"problems": 54, "batches": 2500, "trajectories": 400, "workers": 2}
    for name, number in usual.items():
        parser.add_argument(f"--{name}", type=int, default=number, metavar="N")
    parser.add_argument("--results", type=Path, metavar="FOLDER")
    options = parser.parse_args(arguments)
    sizes = options.batches, options.trajectories
    tasks = [
        (f"{k} of {sizes[0]} x {sizes[1]}", partial(compared, k, *sizes))
        for k in range(options.problems)
    ]
    lines = []
    for name, found in tb.sweep(tasks, folder=options.results, workers=options.workers):
        for line in found:
            told = (f"{min(1.0, chance):9.1e}" for chance in line[1:4])
            print(f"{name.split()[0]:<4}{line[0]:<80}", *told, flush=True)
        lines += [(f"{line[0]} ({name})", *line[1:]) for line in found]
    n_tests = sum(2 * line[-1] for line in lines)
    least = (1.0 - CONFIDENCE) / n_tests
    wrong = [line[0] for line in lines if min(line[1:3]) < least]
    seen, by_normal = (sum(line[k] < least for line in lines) for k in (3, 4))
    for name in wrong:
        print("outside:", name)
    print(
        f"{len(lines)} methods on {len(tasks)} problems, {n_tests} chances of at least "
        f"{least:.1e}, {len(wrong)} below; a quarter more is seen in {seen}; "
        f"normal intervals would be left by {by_normal}"
    )
    return 1 if wrong or not seen else 0


if __name__ == "__main__":
    sys.exit(main())
