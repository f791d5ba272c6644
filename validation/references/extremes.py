"""Random problems of numbers at the ends of float64: what underflows must not be taken for 0."""

from __future__ import annotations

import numpy as np

import tabular_bilevel as tb

DISCOUNTS = (0.0, 5e-324, 1e-300, 1e-160, 1e-20, 0.5, 0.99)
EXPONENTS = (-324, -320, -310, -300, -250, -160, -100, -20, -3, 0)


def extreme_tables(rng, shape, most=0):
    """Draw tables of numbers from 1e-324 to 10^most, some of them 0."""
    scale = 10.0 ** rng.choice([*EXPONENTS, 0, 0, most])
    table = rng.normal(size=shape) * scale
    if rng.random() < 0.3:  # of all sizes at once
        table = rng.normal(size=shape) * 10.0 ** rng.choice([*EXPONENTS, most], size=shape)
    return np.where(rng.random(shape) < 0.2, 0.0, table)


def tiny_distribution(rng, shape):
    """Draw distributions most of whose entries are tiny."""
    n = shape[-1]
    table = np.abs(extreme_tables(rng, shape)).clip(0.0, 1e-3).reshape(-1, n)
    table[np.arange(len(table)), rng.integers(n, size=len(table))] = 0.0
    place = table.argmin(axis=1)
    table[np.arange(len(table)), place] = 0.0
    table[np.arange(len(table)), place] = 1.0 - table.sum(axis=1)
    return table.reshape(shape)


def extreme_problem(seed):
    """Draw a problem of 1 to 4 states and 1 to 3 actions, and 2 parameters."""
    rng = np.random.default_rng([3, seed])
    S, A, d = int(rng.integers(1, 5)), int(rng.integers(1, 4)), 2
    kernel = tiny_distribution(rng, (S, A, S))
    if rng.random() < 0.3:
        kernel = rng.dirichlet(np.ones(S), size=(S, A))
    initial = tiny_distribution(rng, (S,)) if rng.random() < 0.6 else np.full(S, 1.0 / S)
    beta = float(10.0 ** rng.choice([-300, -100, -3, 0, 0, 0, 2, 100]))
    # logits of up to some hundreds
    reward = beta * rng.normal(size=(S, A)) * 10.0 ** rng.uniform(0, 3)
    if rng.random() < 0.4:
        reward = extreme_tables(rng, (S, A), 3)
    base = tb.Model.from_tables(
        transition=kernel,
        follower_reward=reward,
        leader_reward=extreme_tables(rng, (S, A), int(rng.choice([3, 100, 280]))),
        initial=initial,
        follower_discount=float(rng.choice(DISCOUNTS)),
        leader_discount=float(rng.choice(DISCOUNTS)),
        temperature=beta,
    )
    most = int(rng.choice([0, 3, 100]))
    features = {
        "follower_reward": extreme_tables(rng, (S * A, d), most),
        "leader_reward": extreme_tables(rng, (S * A, d), most),
        "transition": extreme_tables(rng, (base.transition.nnz, d), most),
        "initial": extreme_tables(rng, (S, d), most),
        "temperature": extreme_tables(rng, d, most),
    }
    some = {name: f for name, f in features.items() if rng.random() < 0.6} or features
    return tb.FeatureProblem(base, **some), np.zeros(d)


def extreme_game(seed):
    """Draw a game and logits that are hundreds apart."""
    rng = np.random.default_rng([4, seed])
    S, B, A = (int(rng.integers(1, 4)) for _ in range(3))
    initial = np.eye(S)[0] if rng.random() < 0.5 else tiny_distribution(rng, (S,))
    game = tb.MarkovGame(
        transition=tiny_distribution(rng, (S, B, A, S)),
        follower_reward=rng.normal(size=(S, B, A)),
        leader_reward=extreme_tables(rng, (S, B, A), int(rng.choice([3, 100]))),
        initial=initial,
        follower_discount=float(rng.choice(DISCOUNTS)),
        leader_discount=float(rng.choice(DISCOUNTS)),
        temperature=float(10.0 ** rng.choice([-3, 0, 2])),
        follower_observes_leader=bool(rng.random() < 0.5),
    )
    logits = rng.choice([0.0, -1.0, -100.0, -700.0, -740.0, -745.0, -800.0, -1e5], size=S * B)
    return game, logits + rng.normal(size=S * B)


def extreme_budget(seed):
    """Draw a budget with logits that are hundreds apart, over features of any size."""
    rng = np.random.default_rng([5, seed])
    inner, _ = extreme_problem(seed)
    total = float(rng.choice([1.0, -1.0])) * 10.0 ** float(rng.choice([-310, -100, -3, 0, 3]))
    logits = rng.choice([0.0, -1.0, -100.0, -700.0, -740.0, -745.0, -800.0, -1e5], size=3)
    return tb.Reparametrised(inner, tb.Budget(total, 3)), logits + rng.normal(size=3)
