"""The two continuous tasks as they were published, made again: building, and bilevel LQR.

After akimotolab/BC-HG at commit 9c9d42c. Building (configurable_mdp/train_bilevel_lqr_*.py): 100
episodes of 100 steps an estimate; the score of each step is clipped to length 1 in the direct part,
of insulations and airflows apart, and no mean is taken off. The leader's values are exact here, and
networks there.

Bilevel LQR (markov_game/config/LQREnv-v4, src/algos/bchg_opt.py): each iteration the follower
answers, 4 episodes of 100 steps are sampled, a network learns 5 times from 64 steps of them, and
theta moves 10 times along an estimate from 64 of them. In the first 11 iterations the leader's
actions are drawn from N(0, 1). Fewer inputs are drawn than there for the averages that are taken
off: that adds noise, and no bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel.ascent.training import Curve

# ---------------------------------------------------------------- building

BUILDING = tb.problems.building_thermal_control()

# What is clipped, each by itself: insulations, and airflows.
GROUPS = {"insulations": slice(0, 4), "airflows": slice(4, 8)}


@dataclass(frozen=True)
class Clipped:
    """A gradient of the building as the published code makes it, but for its networks.

    Attributes
    ----------
    through_follower : bool
        Whether the part through the follower is added: BC-HG, not naive.
    sampler : Episodes
        How much data.
    longest : float
        To what length scores are clipped.
    """

    through_follower: bool
    sampler: tb.Episodes = tb.Episodes(100, 100)
    longest: float = 1.0

    def __call__(self, problem: Any, theta: Any, rng: np.random.Generator | int) -> np.ndarray:
        """Add the parts up, and clip."""
        direct, noise, through = self.parts(problem, theta, rng)
        return clipped(direct + noise + self.through_follower * through, 1.0)

    def parts(self, problem: Any, theta: Any, rng: Any) -> tuple[np.ndarray, ...]:
        """Make the direct part as if means were taken off, what they bring, and the other part."""
        known: Any = tb.Interaction(self.sampler).gather(problem, theta, rng=rng)
        model, sample = known.planned, known.seen
        x, after = sample.states[:, :-1], sample.states[:, 1:]
        ahead = x @ model.dynamics.T + sample.controls @ model.control.T
        turns = [problem.pushforward(theta, axis).dynamics for axis in np.eye(theta.size)]
        score = np.einsum(
            "nti,kij,ntj->ntk", (after - ahead) @ np.linalg.inv(model.noise), np.array(turns), x
        )
        weights = model.leader_discount ** np.arange(1.0, x.shape[1] + 1.0) / sample.count
        usual = known.values.smoothed(model.noise).at(ahead, first=1)
        brought = [
            np.tensordot(weights * worth, clipped(score, self.longest), axes=2)
            for worth in (known.values.at(after, first=1) - usual, usual)
        ]
        rule = tb.BoltzmannCovariance(baseline=False).rule(known)
        paid, through = rule.times(direct_tables={"transition": 0.0}).measures(known)
        return (
            brought[0] + problem.pullback(theta, paid),
            brought[1],
            problem.pullback(theta, through),
        )


def clipped(vectors: np.ndarray, longest: float) -> np.ndarray:
    """Shorten to a length what is longer, insulations and airflows apart."""
    groups = [vectors[..., group] for group in GROUPS.values()]
    lengths = [np.linalg.norm(group, axis=-1, keepdims=True) for group in groups]
    shorter = zip(groups, lengths, strict=True)
    return np.concatenate([g / np.maximum(size / longest, 1.0) for g, size in shorter], axis=-1)


# ---------------------------------------------------------------- bilevel LQR

GAME = tb.problems.bilevel_lqr()

# The published curve adds up rewards without discounting them.
COUNTED = replace(GAME, base=GAME.base.replace(leader_discount=1.0 - 1e-12))

EPISODES, STEPS, BATCH, EXPLORED = 4, 100, 64, 11
LEARNED, MOVED, LAG, RATE = 5, 10, 0.01, 0.1
ADAM = tb.Adam(RATE)
INPUTS = {"leader": 4, "follower": 16}

# How much the objective changes in the last 20 iterations of an ascent that stands still.
STILL = 1e-6


@dataclass(frozen=True)
class Settings:
    """What differs between the published methods.

    Attributes
    ----------
    through_follower : bool
        Whether the part through the follower is added: BC-HG, not naive.
    longest : float
        To what length a gradient is clipped before Adam sees it.
    """

    through_follower: bool
    longest: float


def network(rng: np.random.Generator) -> list[np.ndarray]:
    """Draw weights: 64 and 64 rectified units."""
    sizes = (4, 64, 64, 1)
    made: list[np.ndarray] = []
    for m, n in pairwise(sizes):
        made += [rng.normal(0.0, np.sqrt(2.0 / (m + n)), (m, n)), np.zeros(n)]
    return made


def layers(weights: list[np.ndarray], rows: np.ndarray) -> list[np.ndarray]:
    """Go through the network."""
    first = np.maximum(rows @ weights[0] + weights[1], 0.0)
    second = np.maximum(first @ weights[2] + weights[3], 0.0)
    return [rows, first, second, second @ weights[4] + weights[5]]


def slopes(weights: list[np.ndarray], rows: np.ndarray, aim: np.ndarray) -> list[np.ndarray]:
    """Differentiate the mean square of what the network is off."""
    seen = layers(weights, rows)
    back = 2.0 * (seen[3] - aim[:, None]) / len(rows)
    found: list[np.ndarray] = []
    for k in (2, 1, 0):
        found = [seen[k].T @ back, back.sum(axis=0), *found]
        back = back @ weights[2 * k].T * (seen[k] > 0.0)
    return found


def climb(settings: Settings, seed: int, n_iterations: int = 500, every: int = 10) -> Curve:
    """Make one ascent; the objective is what the leader earns in 100 steps, not discounted."""
    rng, theta = np.random.default_rng([seed, 3]), np.random.default_rng([seed, 1]).normal(size=2)
    late_theta, weights = theta.copy(), network(rng)
    late: list[np.ndarray] = [w.copy() for w in weights]
    critic: list[Any] = [{} for _ in weights]
    leader: Any = {}
    noted, heights = [0], [tb.objective(COUNTED, theta)]
    for iteration in range(1, n_iterations + 1):
        answer = tb.solve_follower(GAME.model(theta))
        x, b, u = episodes(theta, answer, rng, explored=iteration <= EXPLORED)
        flat = x[:, :-1].reshape(-1, 2), u.ravel(), b.ravel()
        after = x[:, 1:].reshape(-1, 2)
        earned = GAME.base.leader_reward.at(x[:, :-1], u[:, :, None]).ravel()
        for _ in range(LEARNED):
            rows = rng.choice(EPISODES * STEPS, BATCH)
            aim = after[rows]
            played = aim @ late_theta
            answered = -np.c_[aim, played] @ answer.policy.gain[0]
            worth = layers(late, np.c_[aim, answered, played])[3][:, 0]
            seen = np.column_stack(flat)[rows]
            aims = earned[rows] + GAME.base.leader_discount * worth
            each = zip(weights, slopes(weights, seen, aims), critic, strict=True)
            moved = [ADAM.step(w.ravel(), -down.ravel(), memory) for w, down, memory in each]
            pairs = zip(moved, weights, strict=True)
            weights, critic = [new.reshape(w.shape) for (new, _), w in pairs], [m for _, m in moved]
        for _ in range(MOVED):
            found = estimate(settings, theta, answer, flat, weights, rng)
            found = found / max(1.0, float(np.linalg.norm(found)) / settings.longest)
            theta, leader = ADAM.step(theta, found, leader)
        late = [(1.0 - LAG) * old + LAG * new for old, new in zip(late, weights, strict=True)]
        late_theta = (1.0 - LAG) * late_theta + LAG * theta
        if iteration % every == 0 or iteration == n_iterations:
            noted.append(iteration)
            heights.append(tb.objective(COUNTED, theta))
    return Curve(np.array(noted), np.array(heights), theta)


def episodes(
    theta: np.ndarray, answer: Any, rng: np.random.Generator, *, explored: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample states, shape (4, 101, 2), the leader's actions and the follower's."""
    x, (b, u) = np.zeros((EPISODES, STEPS + 1, 2)), rng.normal(size=(2, EPISODES, STEPS))
    u *= np.sqrt(answer.policy.covariance[0, 0])
    x[:, 0] = GAME.base.initial_mean
    for t in range(STEPS):
        if not explored:
            b[:, t] = x[:, t] @ theta + np.sqrt(GAME.leader_noise[0, 0]) * b[:, t]
        u[:, t] -= np.c_[x[:, t], b[:, t]] @ answer.policy.gain[0]
        x[:, t + 1] = x[:, t] @ GAME.base.dynamics.T + np.outer(u[:, t], GAME.base.control)
        x[:, t + 1] += np.outer(b[:, t], GAME.leader_control)
    return x, b, u


def estimate(
    settings: Settings,
    theta: np.ndarray,
    answer: Any,
    flat: tuple[np.ndarray, np.ndarray, np.ndarray],
    weights: list[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Estimate the gradient as it is published, from steps that an earlier theta may have made."""
    if not layers(weights, np.column_stack(flat))[2].any():
        return np.zeros(2)  # no unit of the second layer is active: all inputs are worth the same
    times = np.tile(np.arange(STEPS), EPISODES)
    chances = GAME.base.leader_discount**times
    rows = rng.choice(len(times), BATCH, p=chances / chances.sum())
    x, u, b = (part[rows] for part in flat)
    noise = GAME.leader_noise[0, 0]
    score = ((flat[2] - flat[0] @ theta) / noise)[:, None] * flat[0]

    def valued(u: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Value each row's state with several inputs."""
        u, b = np.broadcast_arrays(u, b)
        wide = np.broadcast_to(x[:, None], (*u.shape, 2))
        return np.asarray(layers(weights, np.stack([*np.moveaxis(wide, 2, 0), u, b], axis=2))[3])

    here = valued(u[:, None], b[:, None])[:, 0, 0]
    others = rng.normal((x @ theta)[:, None], np.sqrt(noise), (BATCH, INPUTS["leader"]))
    advantage = here - valued(u[:, None], others)[:, :, 0].mean(axis=1)
    found = (score[rows] * advantage[:, None]).mean(axis=0)
    if not settings.through_follower:
        return np.asarray(found)
    both = np.c_[flat[0], flat[2]]
    worth = -np.einsum("ri,ij,rj->r", both, answer.value_matrix, both) - answer.value_constant
    follows = (score * worth[:, None]).reshape(EPISODES, STEPS, 2)
    for t in range(STEPS - 2, -1, -1):
        follows[:, t] += GAME.base.follower_discount * follows[:, t + 1]
    mean = (-np.c_[x, b] @ answer.policy.gain[0])[:, None]
    spread = np.sqrt(answer.policy.covariance[0, 0])
    others = rng.normal(mean, spread, (BATCH, INPUTS["follower"]))
    benefit = here - valued(others, b[:, None])[:, :, 0].mean(axis=1)
    through = (benefit[:, None] * follows.reshape(-1, 2)[rows]).mean(axis=0)
    return np.asarray(found + through / GAME.base.temperature)


# ---------------------------------------------------------------- what is measured

PLACES = (0.0, 1.0, 2.0)

RUNS = {
    "BC-HG, gradients clipped to length 1 (as published)": Settings(True, 1.0),
    "naive, not clipped (as published)": Settings(False, np.inf),
    "naive, clipped to length 1": Settings(False, 1.0),
}

ITERATIONS = 500


@cache
def parts_at(place: float, longest: float, n: int) -> tuple[np.ndarray, ...]:
    """Make parts of independent estimates where all logits are the same."""
    method, theta = Clipped(True, longest=longest), np.full(8, place)
    rngs = np.random.default_rng(0).spawn(n)
    found = zip(*(method.parts(BUILDING, theta, rng) for rng in rngs), strict=True)
    return tuple(np.array(part) for part in found)


def share(place: float, longest: float, n: int) -> np.ndarray:
    """Project direct parts on the exact one, and divide by that."""
    exact = tb.hypergradient(BUILDING, np.full(8, place)).direct
    return np.asarray(parts_at(place, longest, n)[0] @ exact / (exact @ exact))


def size(part: int, place: float, n: int) -> np.ndarray:
    """Measure a part in norms of the gradient."""
    exact = tb.hypergradient(BUILDING, np.full(8, place)).gradient
    lengths = np.linalg.norm(parts_at(place, 1.0, n)[part], axis=1)
    return np.asarray(lengths / np.linalg.norm(exact))


def step(through: bool, group: str, n: int) -> np.ndarray:
    """Add up the entries of a group in one clipped step, with all logits 0.

    What means bring may as well have the other sign: both are looked at, for less noise.
    """
    direct, noise, other = parts_at(0.0, 1.0, n)
    pair = [clipped(direct + sign * noise + through * other, 1.0) for sign in (1.0, -1.0)]
    return np.asarray(sum(pair)[:, GROUPS[group]].sum(axis=1) / 2.0)


@cache
def curves(name: str, seeds: int, n_iterations: int) -> list[Curve]:
    """Climb bilevel LQR."""
    return [climb(RUNS[name], seed, n_iterations) for seed in range(seeds)]


def samples(
    estimates: int, seeds: int, iterations: float
) -> Iterator[tuple[tuple[str, str, str], Callable[[], Any]]]:
    """List what is measured: table, row and column, and independent numbers to be averaged."""
    n = estimates
    for place in PLACES:
        column = f"logits {place:g}"
        for row, longest in (("scores clipped", 1.0), ("not clipped", np.inf)):
            yield ("building, direct part", row, column), partial(share, place, longest, n)
        for row, part in (("mean not taken off", 1), ("part through the follower", 2)):
            yield ("building, noise", row, column), partial(size, part, place, n)
    for group in GROUPS:
        for row, through in (("naive", False), ("BC-HG", True)):
            yield ("building, one step", row, group), partial(step, through, group, n)
    starts = [np.random.default_rng([seed, 1]).normal(size=2) for seed in range(200)]
    for row, game in (("added up", COUNTED), ("discounted", GAME)):
        at = partial(lambda game: [tb.objective(game, theta) for theta in starts], game)
        yield ("bilevel LQR, starts", row, "what the leader earns"), at
    length = max(2, round(ITERATIONS * iterations))
    for name in RUNS:
        made = partial(curves, name, seeds, length)
        yield (
            ("ascents of bilevel LQR", name, "earned late"),
            partial(lambda made: [curve.final() for curve in made()], made),
        )
        yield (
            ("ascents of bilevel LQR", name, "stand still"),
            partial(lambda made: [float(np.ptp(c.objective[-3:]) < STILL) for c in made()], made),
        )
