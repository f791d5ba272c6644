"""Linear-quadratic systems: of one state, and random ones, with problems that move their tables."""

from dataclasses import dataclass, replace

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel.lq.follower import closed_loop, solve_follower
from tabular_bilevel.lq.linear import spectral_radius, symmetric
from tabular_bilevel.lq.model import MOVED, SYMMETRIC

# A leader that counts all steps needs discount times radius^2 below 1: not nearer than this.
MARGIN = 0.98


def of_one_state(*, leader_reward=None, **numbers):
    """One state and one input, by the numbers that are not a mild room's."""
    room = {
        "dynamics": 1.1, "control": 0.5, "state_cost": 1.0, "control_cost": 0.1, "noise": 0.1,
        "initial_mean": 0.5, "initial_covariance": 0.1, "follower_discount": 0.7,
        "leader_discount": 0.8, "temperature": 1.0,
    }  # fmt: skip
    tables = {
        name: [x] if name == "initial_mean" else [[x]] if name in MOVED[:-1] else x
        for name, x in (room | numbers).items()
    }
    usual = tb.QuadraticReward(state=[[-1.0]], control=[[-2.0]])
    return tb.LinearQuadraticModel(**tables, leader_reward=leader_reward or usual)


@dataclass(frozen=True)
class Room:
    """A room that leaks, which costs the leader rent, and a tariff on heating."""

    base: tb.LinearQuadraticModel = of_one_state()
    rent: float = 1.0
    parameter_names = ("leak", "tariff")

    def model(self, theta):
        (leak, tariff), base = theta, self.base
        paid = base.leader_reward
        reward = replace(
            paid, control=paid.control + tariff, constant=paid.constant - self.rent * leak**2
        )
        costs = base.control_cost + tariff
        return base.replace(dynamics=base.dynamics - leak, control_cost=costs, leader_reward=reward)

    def pullback(self, theta, sensitivities):
        paid = sensitivities.leader_reward
        rent = 2.0 * self.rent * theta[0] * paid["constant"]
        tariff = sensitivities.control_cost + paid["control"]
        return np.array([-sensitivities.dynamics[0, 0] - rent, tariff[0, 0]])


def covariance(rng, size, least=0.0):
    root = rng.normal(size=(size, size))
    return root @ root.T / size + least * np.eye(size)


def random_reward(rng, n, m, bump):
    if bump:
        precision = covariance(rng, n)
        return tb.GaussianBump(centre=rng.normal(size=n), precision=precision, height=2.0)
    return tb.QuadraticReward(
        state=symmetric(rng.normal(size=(n, n))),
        control=symmetric(rng.normal(size=(m, m))),
        constant=rng.normal(),
        cross=rng.normal(size=(n, m)),
    )


def random_system(seed, *, bump=False, horizon=None):
    """Draw one of up to 6 states and 3 inputs; a third of them grow without the follower.

    A bump over all steps, which is summed step by step, has few enough.
    """
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 7)), int(rng.integers(1, 4))
    model = tb.LinearQuadraticModel(
        dynamics=rng.normal(size=(n, n)) * rng.uniform(0.3, 1.5) / np.sqrt(n),
        control=rng.normal(size=(n, m)),
        state_cost=covariance(rng, n, 0.1),
        control_cost=covariance(rng, m, 0.1),
        noise=0.1 * covariance(rng, n),
        initial_mean=rng.normal(size=n),
        initial_covariance=covariance(rng, n),
        follower_discount=rng.choice([0.5, 0.9, 0.99]),
        leader_discount=rng.choice([0.5, 0.9, 0.97 if bump and horizon is None else 0.99]),
        temperature=10.0 ** rng.uniform(-2.0, 1.0),
        leader_reward=random_reward(rng, n, m, bump),
        leader_horizon=horizon,
    )
    radius = radius_of(model)
    while bump and horizon is None and radius > MARGIN:  # the state must not run away
        model = model.replace(dynamics=0.7 * model.dynamics)
        radius = radius_of(model)
    most = MARGIN / max(radius, 1e-3) ** 2
    return model.replace(leader_discount=min(model.leader_discount, most))


def radius_of(model):
    return spectral_radius(closed_loop(model, solve_follower(model).gain))


def random_tangent(rng, model):
    """Draw a change of every table, small enough for a step of 0.1 to leave a model."""

    def drawn(name, table, symmetric_ones):
        change = 0.1 * rng.normal(size=np.shape(table))
        if name in symmetric_ones:
            change = symmetric(change)
            if name != "state" and name != "control":  # moves along what is not negative
                return np.asarray(table) * rng.uniform(-0.3, 0.3)
        return change

    reward = model.leader_reward
    tables = {name: drawn(name, getattr(model, name), SYMMETRIC) for name in MOVED[:-1]}
    return tb.lq.Tangent(
        **tables,
        temperature=0.3 * model.temperature * rng.uniform(-1.0, 1.0),
        leader_reward={
            name: drawn(name, getattr(reward, name), reward.symmetric) for name in reward.moved
        },
    )


@dataclass(frozen=True)
class Moved:
    """A problem whose theta moves a model's tables along tangents."""

    base: tb.LinearQuadraticModel
    tangents: tuple[tb.lq.Tangent, ...]

    @classmethod
    def random(cls, seed, n_parameters=3, **kind):
        base = random_system(seed, **kind)
        rng = np.random.default_rng([seed, 1])
        return cls(base, tuple(random_tangent(rng, base) for _ in range(n_parameters)))

    def model(self, theta):
        change = self.pushforward(theta, theta)
        reward = self.base.leader_reward
        moved = {name: getattr(reward, name) + x for name, x in change.leader_reward.items()}
        return self.base.replace(
            **{name: getattr(self.base, name) + getattr(change, name) for name in MOVED},
            leader_reward=replace(reward, **moved),
        )

    def pullback(self, theta, sensitivities):
        return np.array([sensitivities.dot(tangent) for tangent in self.tangents])

    def pushforward(self, theta, direction):
        pairs = list(zip(direction, self.tangents, strict=True))
        names = self.base.leader_reward.moved
        return tb.lq.Tangent(
            **{name: sum(x * getattr(t, name) for x, t in pairs) for name in MOVED},
            leader_reward={
                name: sum(x * np.asarray(t.leader_reward[name]) for x, t in pairs) for name in names
            },
        )
