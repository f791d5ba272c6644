"""Changes of a problem that change its answers by a known amount, or not at all.

An instance is made of dyadic numbers, so that each change is exact in float64: the proven bounds of
the answers before and after must overlap, number by number. Where a logarithm of 2 has to be
rounded, what that does to the answers is added to them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

import tabular_bilevel as tb

DISCOUNTS = (0.0, 0.25, 0.4375, 0.5, 0.75, 0.96875, 1.0 - 2.0**-10)
CONSTANTS = (0.125, -3.0, 2026.0, 1e6, 2.0**40)
OF_PAIRS = ("follower_reward", "leader_reward", "termination")
MASS_OFF = 2.0**-30  # 9.3e-10: what a distribution may be off by


@dataclass(frozen=True, eq=False)
class Tables:
    """A `FeatureProblem`, dense: features have the axes of their table, and one of parameters."""

    kernel: np.ndarray
    stored: np.ndarray
    follower_reward: np.ndarray
    leader_reward: np.ndarray
    initial: np.ndarray
    available: np.ndarray
    termination: np.ndarray
    follower_discount: float
    leader_discount: float
    temperature: float
    follower_features: np.ndarray
    leader_features: np.ndarray
    kernel_features: np.ndarray
    initial_features: np.ndarray
    temperature_features: np.ndarray

    @property
    def n_parameters(self):
        return self.temperature_features.size

    @property
    def base(self):
        return tb.Model.from_tables(transition=self._sparse(), **self.scalars, **self.rewards)

    @property
    def scalars(self):
        return {
            name: getattr(self, name)
            for name in ("follower_discount", "leader_discount", "temperature")
        }

    @property
    def rewards(self):
        return {
            name: getattr(self, name)
            for name in ("follower_reward", "leader_reward", "initial", "available", "termination")
        }

    def _sparse(self):
        rows, columns = np.nonzero(self.stored.reshape(-1, self.initial.size))
        data = self.kernel[self.stored]
        return sp.csr_array(
            (data, (rows, columns)), shape=(self.follower_reward.size, len(self.initial))
        )

    @property
    def features(self):
        d = self.n_parameters
        return {
            "follower_reward": self.follower_features.reshape(-1, d),
            "leader_reward": self.leader_features.reshape(-1, d),
            "transition": self.kernel_features[self.stored],
            "initial": self.initial_features,
            "temperature": self.temperature_features,
        }

    def problem(self):
        return tb.FeatureProblem(self.base, **self.features)

    def rooted(self, theta):
        """Make theta the origin, so that what follows need not keep the order of sums."""
        model = self.problem().model(theta)
        kernel = np.zeros_like(self.kernel)
        kernel[self.stored] = model.transition.data
        return dataclasses.replace(
            self,
            kernel=kernel,
            follower_reward=model.follower_reward,
            leader_reward=model.leader_reward,
            initial=model.initial,
            temperature=model.temperature,
        ), np.zeros_like(theta)


@dataclass(frozen=True, eq=False)
class Game:
    """A `MarkovGame`, dense."""

    kernel: np.ndarray
    follower_reward: np.ndarray
    leader_reward: np.ndarray
    initial: np.ndarray
    termination: np.ndarray
    follower_discount: float
    leader_discount: float
    temperature: float
    follower_observes_leader: bool
    stored: np.ndarray

    def problem(self):
        tables = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        rows, columns = np.nonzero(tables.pop("stored").reshape(-1, self.initial.size))
        tables["transition"] = sp.csr_array(
            (tables.pop("kernel")[self.stored], (rows, columns)),
            shape=(self.follower_reward.size, self.initial.size),
        )
        return tb.MarkovGame(**tables)


@dataclass(frozen=True, eq=False)
class Pair:
    """An instance, the same after a change, and how the answers have to change back.

    J = scale J', gradient = scale * `parameters` @ gradient', V = value_scale V'[states] +
    value_shift, V_L = scale V_L'[states] + leader_shift, pi = pi'[states, actions]. `off` is what
    the rounding of the change's input may do to J and to the gradient.
    """

    before: tuple
    after: tuple
    scale: float = 1.0
    parameters: np.ndarray | None = None
    states: np.ndarray | None = None
    actions: np.ndarray | None = None
    value_scale: float = 1.0
    value_shift: np.ndarray | float | None = 0.0
    leader_shift: np.ndarray | float = 0.0
    objective_shift: float = 0.0
    off: tuple = (0.0, 0.0)
    enclosable: bool = True


def dyadic(rng, shape, bits=3, most=24):
    """Draw multiples of 2^-bits."""
    return rng.integers(-most, most + 1, size=shape) / 2.0**bits


def distribution(rng, shape):
    """Draw distributions of sixteenths along the last axis, some with zeros."""
    n = shape[-1]
    flat = np.zeros((int(np.prod(shape[:-1], dtype=int)), n))
    for row in flat:
        some = rng.choice(n, int(rng.integers(1, min(n, 4) + 1)), replace=False)
        cuts = np.sort(rng.choice(np.arange(1, 16), some.size - 1, replace=False))
        row[some] = np.diff(np.concatenate(([0], cuts, [16]))) / 16.0
    return flat.reshape(shape)


def heavier(rng, table):
    """Let some distributions sum to 1 +- 2^-30: more, or less, of their largest entry."""
    flat = table.reshape(-1, table.shape[-1])
    sign = rng.choice([-1.0, 0.0, 1.0], size=len(flat))
    flat[np.arange(len(flat)), flat.argmax(axis=1)] += sign * MASS_OFF * (flat.max(axis=1) > 0.0)


def scalars(rng):
    return {
        "follower_discount": float(rng.choice(DISCOUNTS)),
        "leader_discount": float(rng.choice(DISCOUNTS)),
        "temperature": float(2.0 ** rng.integers(-4, 3)),
    }


def draw_tables(rng):
    """Draw an instance of 1 to 4 states and 1 to 3 actions, with 1 to 3 parameters."""
    S, A, d = (int(rng.integers(1, n)) for n in (5, 4, 4))
    kernel, initial = distribution(rng, (S, A, S)), distribution(rng, (S,))
    ends = np.zeros((S, A))
    if rng.random() < 0.4:
        ends = rng.choice([0.0, 0.5, 0.75, 1.0], size=(S, A))
        kernel = kernel * (1.0 - ends)[..., None]
    if rng.random() < 0.6:
        heavier(rng, kernel)
        heavier(rng, initial)
    available = rng.random((S, A)) < rng.choice([0.6, 1.0, 1.0])
    available[np.arange(S), rng.integers(A, size=S)] = True
    moves = rng.random(5) < 0.7
    size = 2.0 ** rng.choice([-20, 0, 0, 0, 10])
    return Tables(
        kernel=kernel,
        stored=kernel > 0.0,
        follower_reward=dyadic(rng, (S, A)) * size,
        leader_reward=dyadic(rng, (S, A)),
        initial=initial,
        available=available,
        termination=ends,
        **scalars(rng),
        follower_features=dyadic(rng, (S, A, d)) * (moves[0] or not moves.any()),
        leader_features=dyadic(rng, (S, A, d)) * moves[1],
        kernel_features=dyadic(rng, (S, A, S, d)) * moves[2],
        initial_features=dyadic(rng, (S, d)) * moves[3],
        temperature_features=dyadic(rng, d, 3, 6) * moves[4],
    ), dyadic(rng, d, 3, 12) * (rng.random() < 0.8)


def draw_game(rng):
    S, B, A = (int(rng.integers(1, 4)) for _ in range(3))
    kernel, initial = distribution(rng, (S, B, A, S)), distribution(rng, (S,))
    ends = np.zeros((S, B, A))
    if rng.random() < 0.4:
        ends = rng.choice([0.0, 0.5, 1.0], size=(S, B, A))
        kernel = kernel * (1.0 - ends)[..., None]
    if rng.random() < 0.5:
        heavier(rng, initial)
        heavier(rng, kernel)
    return Game(
        kernel=kernel,
        stored=kernel > 0.0,
        follower_reward=dyadic(rng, (S, B, A)),
        leader_reward=dyadic(rng, (S, B, A)),
        initial=initial,
        termination=ends,
        **scalars(rng),
        follower_observes_leader=bool(rng.random() < 0.5),
    ), dyadic(rng, S * B, 3, 24) * rng.choice([1.0, 16.0])


def change(before, origin, /, **maps):
    """Make a pair of an instance and its tables with some replaced."""
    names = {f.name for f in dataclasses.fields(Pair)}
    pair = {name: maps.pop(name) for name in list(maps) if name in names}
    moved = maps.pop("theta", origin)
    return Pair((before, origin), (dataclasses.replace(before, **maps), moved), **pair)


def picked(before, names, index):
    """Take some entries of each of the tables named."""
    return {name: getattr(before, name)[index] for name in names}


def constants(rng, t, theta):
    """Constants in the log-features of each distribution."""
    c = rng.choice(CONSTANTS)
    rows = c * rng.integers(-1, 2, size=(*t.available.shape, 1, t.n_parameters))
    return change(
        t,
        theta,
        kernel_features=t.kernel_features + rows,
        initial_features=t.initial_features + c * rng.integers(-1, 2, size=t.n_parameters),
    )


def relabelled(rng, t, theta):
    """Other numbers for states, actions and parameters."""
    t, theta = t.rooted(theta)
    S, A = t.available.shape
    states = rng.permutation(S)
    actions = np.array([rng.permutation(A) for _ in range(S)])
    order = rng.permutation(t.n_parameters)
    pairs = states[:, None], actions[states]
    new_of_state, new_of_action = np.argsort(states), np.argsort(actions, axis=1)
    return change(
        t,
        theta,
        **picked(t, (*OF_PAIRS, "available"), pairs),
        kernel=t.kernel[pairs][..., states],
        stored=t.stored[pairs][..., states],
        initial=t.initial[states],
        follower_features=t.follower_features[pairs][..., order],
        leader_features=t.leader_features[pairs][..., order],
        kernel_features=t.kernel_features[pairs][:, :, states][..., order],
        initial_features=t.initial_features[states][:, order],
        temperature_features=t.temperature_features[order],
        parameters=np.eye(order.size)[:, order],
        states=new_of_state,
        actions=new_of_action,
    )


def split_state(rng, t, theta):
    """A state in two halves, which nobody can tell apart."""
    t, theta = t.rooted(theta)
    S = t.initial.size
    k = int(rng.integers(S))
    twice = np.append(np.arange(S), k)
    share = np.where(twice == k, 0.5, 1.0)
    features = ("follower_features", "leader_features", "initial_features")
    return change(
        t,
        theta,
        **picked(t, (*OF_PAIRS, "available", *features), twice),
        kernel=t.kernel[twice][..., twice] * share,
        stored=t.stored[twice][..., twice],
        kernel_features=t.kernel_features[twice][:, :, twice],
        initial=t.initial[twice] * share,
        states=np.arange(S),
    )


def another_state(rng, t, theta):
    """A state that nothing leads to."""
    S, A = t.available.shape
    d = t.n_parameters

    def grown(table, row):
        return np.concatenate((table, np.broadcast_to(row, (1, *table.shape[1:]))))

    def wider(table, what):
        return np.concatenate(
            (table, np.full((*table.shape[:2], 1, *table.shape[3:]), what)), axis=2
        )

    row = distribution(rng, (1, A, S + 1))
    return change(
        t,
        theta,
        kernel=np.concatenate((wider(t.kernel, 0.0), row)),
        stored=np.concatenate((wider(t.stored, rng.random() < 0.3), row > 0.0)),
        kernel_features=grown(wider(t.kernel_features, 7.0), dyadic(rng, (A, S + 1, d))),
        follower_reward=grown(t.follower_reward, dyadic(rng, A)),
        leader_reward=grown(t.leader_reward, dyadic(rng, A)),
        available=grown(t.available, True),
        termination=grown(t.termination, 0.0),
        follower_features=grown(t.follower_features, dyadic(rng, (A, d))),
        leader_features=grown(t.leader_features, dyadic(rng, (A, d))),
        initial=np.append(t.initial, 0.0),
        initial_features=grown(t.initial_features, dyadic(rng, d)),
        states=np.arange(S),
    )


def another_action(rng, t, theta):
    """An action that no state has, whatever its tables hold."""
    S, A = t.available.shape
    d = t.n_parameters

    def grown(table, row):
        return np.concatenate((table, row), axis=1)

    return change(
        t,
        theta,
        kernel=grown(t.kernel, distribution(rng, (S, 1, S))),
        stored=grown(t.stored, np.ones((S, 1, S), dtype=bool)),
        kernel_features=grown(t.kernel_features, dyadic(rng, (S, 1, S, d))),
        follower_reward=grown(t.follower_reward, rng.choice([np.nan, 1e300, -np.inf], (S, 1))),
        leader_reward=grown(t.leader_reward, rng.choice([np.nan, np.inf, -8.0], (S, 1))),
        available=grown(t.available, np.zeros((S, 1), dtype=bool)),
        termination=grown(t.termination, rng.choice([0.0, 0.25], (S, 1))),
        follower_features=grown(t.follower_features, dyadic(rng, (S, 1, d))),
        leader_features=grown(t.leader_features, dyadic(rng, (S, 1, d))),
        actions=np.tile(np.arange(A), (S, 1)),
    )


def shaped(rng, t, theta):
    """Potential shaping of both rewards, of a model whose distributions stay."""
    t = dataclasses.replace(
        t, kernel_features=0.0 * t.kernel_features, initial_features=0.0 * t.initial_features
    )
    follower, leader = dyadic(rng, (2, t.initial.size), 1, 8)
    return change(
        t,
        theta,
        follower_reward=t.follower_reward
        + t.follower_discount * (t.kernel @ follower)
        - follower[:, None],
        leader_reward=t.leader_reward + t.leader_discount * (t.kernel @ leader) - leader[:, None],
        value_shift=follower,
        leader_shift=leader,
        objective_shift=float(t.initial @ leader),
    )


def other_units(rng, t, theta):
    """The follower's rewards and the temperature in another unit."""
    unit = 2.0 ** int(rng.integers(-60, 60))
    return change(
        t,
        theta,
        follower_reward=unit * t.follower_reward,
        temperature=unit * t.temperature,
        follower_features=unit * t.follower_features,
        value_scale=1.0 / unit,
    )


def other_leader_units(rng, t, theta):
    """The leader's rewards in another unit."""
    unit = 2.0 ** int(rng.integers(-60, 60))
    return change(
        t,
        theta,
        leader_reward=unit * t.leader_reward,
        leader_features=unit * t.leader_features,
        scale=1.0 / unit,
    )


def stored_zeros(rng, t, theta):
    """Entries of probability 0 that are stored, with features of their own."""
    more = rng.random(t.stored.shape) < 0.5
    features = np.where(
        t.stored[..., None], t.kernel_features, dyadic(rng, t.kernel_features.shape, 3, 800)
    )
    return change(t, theta, stored=t.stored | more, kernel_features=features)


@dataclass(frozen=True, eq=False)
class Scattered(Tables):
    """Sparse tables as COO, shuffled, each entry in two halves, and with zeros."""

    seed: int = 0

    def _scatter(self, matrix):
        rng = np.random.default_rng(self.seed)
        dense = sp.coo_array(matrix)
        (rows, columns), data = dense.coords, dense.data
        zero = rng.integers(0, max(1, rows.size), 2 * (rows.size > 0))
        rows, columns = (np.concatenate((x, x, x[zero])) for x in (rows, columns))
        data = np.concatenate((data / 2.0, data / 2.0, np.zeros(zero.size)))
        order = rng.permutation(data.size)
        return sp.coo_array((data[order], (rows[order], columns[order])), shape=matrix.shape)

    def problem(self):
        base = tb.Model.from_tables(
            transition=self._scatter(self._sparse()), **self.scalars, **self.rewards
        )
        features = {
            name: self._scatter(np.atleast_2d(matrix)) for name, matrix in self.features.items()
        }
        return tb.FeatureProblem(base, **features)


def scattered(rng, t, theta):
    """Sparse tables in a form that is not canonical."""
    fields = {f.name: getattr(t, f.name) for f in dataclasses.fields(t)}
    return Pair((t, theta), (Scattered(**fields, seed=int(rng.integers(2**31))), theta))


def other_parameters(rng, t, theta):
    """Parameters that are scaled, and each one in two parts."""
    factor = 2.0 ** int(rng.integers(-30, 30))
    part = dyadic(rng, theta.size)
    features = {
        field.name: factor * np.concatenate(2 * [getattr(t, field.name)], axis=-1)
        for field in dataclasses.fields(t)
        if field.name.endswith("_features")
    }
    side = int(rng.integers(2))
    pick = np.eye(2 * theta.size)[side * theta.size : (side + 1) * theta.size]
    return change(
        t,
        theta,
        **features,
        theta=np.concatenate((part, theta - part)) / factor,
        parameters=pick / factor,
    )


def ending(rng, t, theta):
    """A chance of one half to end in place of half the discount."""
    if max(t.follower_discount, t.leader_discount) >= 0.5:
        return None
    return change(
        t,
        theta,
        kernel=t.kernel / 2.0,
        termination=1.0 - (1.0 - t.termination) / 2.0,
        follower_discount=2.0 * t.follower_discount,
        leader_discount=2.0 * t.leader_discount,
    )


def shifted(rng, t, theta):
    """A constant in all of the follower's rewards, where play never ends and the kernel stays."""
    if t.termination[t.available].any() or (t.kernel.sum(axis=2) != 1.0)[t.available].any():
        return None
    t = dataclasses.replace(t, kernel_features=0.0 * t.kernel_features)
    constant = float(dyadic(rng, ()))
    return change(t, theta, follower_reward=t.follower_reward + constant, value_shift=None)


def earlier(rng, t, theta):
    """A first state whose only step leads on as the initial distribution says."""
    if t.leader_discount not in (0.25, 0.5):  # powers of 2, so that J is exact
        return None
    S, A = t.available.shape
    d = t.n_parameters

    def grown(table, row=0.0):
        return np.concatenate((np.broadcast_to(row, (1, *table.shape[1:])), table))

    def before(table):
        return np.concatenate(
            (np.zeros((*table.shape[:2], 1, *table.shape[3:]), table.dtype), table), axis=2
        )

    only = np.arange(A) == 0
    first = np.zeros((A, S + 1))
    first[0, 1:] = t.initial
    steps = np.zeros((A, S + 1, d))
    steps[0, 1:] = t.initial_features
    return change(
        t,
        theta,
        kernel=grown(before(t.kernel), first),
        stored=grown(before(t.stored), first > 0.0),
        kernel_features=grown(before(t.kernel_features), steps),
        follower_reward=grown(t.follower_reward),
        leader_reward=grown(t.leader_reward),
        available=grown(t.available, only),
        termination=grown(t.termination),
        follower_features=grown(t.follower_features),
        leader_features=grown(t.leader_features),
        initial=np.eye(S + 1)[0],
        initial_features=np.zeros((S + 1, d)),
        scale=1.0 / t.leader_discount,
        objective_shift=None,
        states=np.arange(1, S + 1),
    )


def doubled_action(rng, t, theta):
    """An action twice, each copy worth temperature log 2 less: rounding of that is counted."""
    t, theta = t.rooted(theta)
    t = dataclasses.replace(t, temperature_features=0.0 * t.temperature_features)
    A = t.available.shape[1]
    a = int(rng.integers(A))
    twice = np.append(np.arange(A), a)
    less = np.where(twice == a, t.temperature * np.log(2.0), 0.0)
    names = (
        "kernel", "stored", "leader_reward", "available", "termination",
        "follower_features", "leader_features", "kernel_features",
    )  # fmt: skip
    reward = t.follower_reward[:, twice] - less
    pair = change(
        t,
        theta,
        **picked(t, names, np.s_[:, twice]),
        follower_reward=reward,
        value_shift=None,
    )
    return dataclasses.replace(pair, off=rounding_of_rewards(pair.after, np.abs(reward) + less))


def rounding_of_rewards(instance, size):
    """Estimate, generously, what rounding the follower's rewards does to J and to the gradient."""
    tables, theta = instance
    step = 2.0**-16 * tables.temperature

    def answers(reward):
        moved = dataclasses.replace(tables, follower_reward=reward).problem()
        found = tb.hypergradient(moved, theta, accuracy=tb.Estimated())
        return np.append(found.objective, found.gradient)

    here = answers(tables.follower_reward)
    off = np.zeros_like(here)
    for s, a in np.argwhere(tables.available):
        reward = tables.follower_reward.copy()
        reward[s, a] += step
        slope = np.abs(answers(reward) - here) + 1e-9 * np.abs(here)
        off += slope / step * 2.0**-51 * size[s, a]
    return off[0], off[1:]


TABLE_CHANGES = (
    constants, relabelled, split_state, another_state, another_action, shaped, other_units,
    other_leader_units, stored_zeros, scattered, other_parameters, ending, shifted, earlier,
    doubled_action,
)  # fmt: skip


# Of games: the parameters are the leader's logits, (S, B).


def game_constants(rng, g, theta):
    """Constants in the logits of each state."""
    S, B, _ = g.follower_reward.shape
    shift = rng.choice(CONSTANTS) * rng.integers(-1, 2, size=S)
    return change(g, theta, theta=theta + np.repeat(shift, B))


def game_relabelled(rng, g, theta):
    """Other numbers for states and the follower's actions, and the leader's where it has two."""
    S, B, A = g.follower_reward.shape
    states, actions = rng.permutation(S), rng.permutation(A)
    moves = rng.permutation(B) if B == 2 else np.arange(B)  # the order of a sum of two is free
    index = np.ix_(states, moves, actions)
    logits = np.arange(S * B).reshape(S, B)[np.ix_(states, moves)].ravel()
    return change(
        g,
        theta,
        **picked(g, OF_PAIRS, index),
        kernel=g.kernel[index][..., states],
        stored=g.stored[index][..., states],
        initial=g.initial[states],
        theta=theta[logits],
        parameters=np.eye(S * B)[:, logits],
        states=game_states(g, np.argsort(states), np.argsort(moves)),
        actions=np.argsort(actions),
    )


def game_states(g, states, moves):
    """Number the model's states, given those of the game's."""
    if not g.follower_observes_leader:
        return states
    B = g.follower_reward.shape[1]
    return (states[:, None] * B + moves).ravel()


def game_split_state(rng, g, theta):
    """A state in two halves."""
    S, B, _ = g.follower_reward.shape
    k = int(rng.integers(S))
    twice = np.append(np.arange(S), k)
    share = np.where(twice == k, 0.5, 1.0)
    logits = np.arange(S * B).reshape(S, B)[twice].ravel()
    return change(
        g,
        theta,
        **picked(g, OF_PAIRS, twice),
        kernel=g.kernel[twice][..., twice] * share,
        stored=g.stored[twice][..., twice],
        initial=g.initial[twice] * share,
        theta=theta[logits],
        parameters=np.eye(S * B)[:, logits],
        states=game_states(g, np.arange(S), np.arange(B)),
    )


def game_another_state(rng, g, theta):
    """A state that nothing leads to."""
    S, B, A = g.follower_reward.shape

    def wider(table, what):
        return np.concatenate((table, np.full((*table.shape[:3], 1), what)), axis=3)

    row = distribution(rng, (1, B, A, S + 1))
    tables = {
        name: np.concatenate((getattr(g, name), dyadic(rng, (1, B, A))))
        for name in ("follower_reward", "leader_reward")
    }
    return change(
        g,
        theta,
        **tables,
        kernel=np.concatenate((wider(g.kernel, 0.0), row)),
        stored=np.concatenate((wider(g.stored, False), row > 0.0)),
        termination=np.concatenate((g.termination, np.zeros((1, B, A)))),
        initial=np.append(g.initial, 0.0),
        theta=np.append(theta, dyadic(rng, B)),
        parameters=np.eye(S * B, (S + 1) * B),
        states=game_states(g, np.arange(S), np.arange(B)),
    )


def game_units(rng, g, theta):
    """The follower's rewards and the temperature in another unit, the leader's in its own."""
    unit, leader = 2.0 ** rng.integers(-60, 60, size=2)
    return change(
        g,
        theta,
        follower_reward=unit * g.follower_reward,
        temperature=float(unit * g.temperature),
        leader_reward=leader * g.leader_reward,
        value_scale=1.0 / unit,
        scale=1.0 / leader,
    )


def game_ending(rng, g, theta):
    """A chance of one half to end in place of half the discount."""
    return ending(rng, g, theta)


def game_zeros(rng, g, theta):
    """Entries of probability 0 that are stored."""
    return change(g, theta, stored=g.stored | (rng.random(g.stored.shape) < 0.5))


GAME_CHANGES = (
    game_constants, game_relabelled, game_split_state, game_another_state, game_units, game_ending,
    game_zeros,
)  # fmt: skip


@dataclass(frozen=True)
class Scaling:
    """x = factor * theta."""

    factor: float
    n_parameters: int

    def forward(self, theta):
        return self.factor * np.asarray(theta)

    def pullback(self, theta, gradient):
        return self.factor * gradient

    def pushforward(self, theta, direction):
        return self.factor * direction

    def pullback_bound(self, theta, gradient, bound):
        return abs(self.factor) * bound


@dataclass(frozen=True, eq=False)
class Wrapped:
    """An instance in a problem of another class, given its problem."""

    tables: object
    wrap: object

    def problem(self):
        return self.wrap(self.tables)


def rescaled(rng, t, theta):
    """The same in other units of theta, by `Reparametrised`."""
    factor = -(2.0 ** int(rng.integers(-20, 20)))

    def wrap(t):
        problem = t.problem()
        return tb.Reparametrised(problem, Scaling(factor, problem.n_parameters))

    after = Wrapped(t, wrap), theta / factor
    return Pair((t, theta), after, parameters=np.eye(theta.size) / factor)


def budgeted(rng, t, theta):
    """A budget over the parameters, its logits shifted, and one of its tables' changes within."""
    logits = dyadic(rng, t.n_parameters + 1, 3, 60) * rng.choice([1.0, 16.0])
    total = float(dyadic(rng, ()))
    budget = tb.Budget(total=total, n_parameters=logits.size)
    inner = _kept(rng, t, budget.forward(logits))

    def wrap(t):
        return tb.Reparametrised(t.problem(), budget)

    (before, _), (after, _) = inner.before, inner.after
    return dataclasses.replace(
        inner,
        before=(Wrapped(before, wrap), logits),
        after=(Wrapped(after, wrap), logits + rng.choice(CONSTANTS[:4])),
    )


def _kept(rng, t, theta):
    """Change the tables in a way that leaves theta alone, exactly, whatever theta is."""
    way = (other_units, other_leader_units, another_action, stored_zeros)[int(rng.integers(4))]
    return way(rng, t, theta)


def in_jax(rng, t, theta):
    """The same tables written in JAX, before and after."""
    way = (constants, other_units, other_leader_units)[int(rng.integers(3))]
    pair = way(rng, t, theta)
    while not pair.enclosable:
        pair = way(rng, t, theta)
    (before, _), (after, _) = pair.before, pair.after
    return dataclasses.replace(
        pair,
        before=(Wrapped(before, jax_problem), theta),
        after=(Wrapped(after, jax_problem), theta),
    )


def jax_problem(t):
    """Write an instance's tables in JAX."""
    import jax.numpy as jnp

    from tabular_bilevel.adapters.jax import JaxProblem

    base, features = t.base, t.features
    shape = base.follower_reward.shape
    row = base.entry_row

    def tilted(base, logits, row, mass):
        top = jnp.full(mass.shape, -jnp.inf).at[row].max(jnp.where(base > 0, logits, -jnp.inf))
        weights = jnp.where(base > 0, base * jnp.exp(jnp.minimum(logits - top[row], 0.0)), 0.0)
        total = jnp.zeros(mass.shape).at[row].add(weights)
        return weights * (mass / jnp.where(total > 0, total, 1.0))[row]

    def tables(theta):
        return {
            "follower_reward": base.follower_reward
            + (features["follower_reward"] @ theta).reshape(shape),
            "leader_reward": base.leader_reward
            + (features["leader_reward"] @ theta).reshape(shape),
            "transition": tilted(
                base.transition.data, features["transition"] @ theta, row, base.row_mass.ravel()
            ),
            "initial": tilted(
                base.initial,
                features["initial"] @ theta,
                np.zeros(shape[0], dtype=int),
                np.array([base.initial.sum()]),
            ),
            "temperature": base.temperature * jnp.exp(features["temperature"] @ theta),
        }

    return JaxProblem(base, tables, t.n_parameters)


def from_outcomes(rng, t, theta):
    """The base as an environment's outcomes: shuffled, in parts, the ends among them."""
    from tabular_bilevel.adapters.gymnasium import from_gymnasium

    mass = t.kernel.sum(axis=2) + t.termination
    if (mass != 1.0)[t.available].any():  # rewards are expected ones
        return None
    S, A = t.available.shape
    t = dataclasses.replace(t, stored=t.kernel > 0.0)

    def outcomes(s, a):
        found = []
        for j in np.flatnonzero(t.kernel[s, a]):
            found += 2 * [(t.kernel[s, a, j] / 2.0, int(j), t.follower_reward[s, a], False)]
        if t.termination[s, a] > 0.0:
            found.append((t.termination[s, a], int(rng.integers(S)), t.follower_reward[s, a], True))
        return [found[k] for k in rng.permutation(len(found))]

    P = {
        s: {a: outcomes(s, a) for a in range(A) if t.available[s, a]} for s in range(S)
    }  # fmt: skip
    if not t.available.any(axis=0).all():  # P alone does not tell of actions that no state has
        return None

    def wrap(t):
        base = from_gymnasium(P, leader_reward=t.leader_reward, initial=t.initial, **t.scalars)
        features = dict(t.features)
        kept = (t.stored & t.available[..., None])[t.stored]
        features["transition"] = features["transition"][kept]
        if base.transition.nnz != kept.sum():
            raise AssertionError("outcomes and entries differ")
        return tb.FeatureProblem(base, **features)

    return Pair((t, theta), (Wrapped(t, wrap), theta))


WRAPPED = (rescaled, budgeted, from_outcomes)


CHANGES = {
    **{way.__name__: (draw_tables, way) for way in (*TABLE_CHANGES, *WRAPPED)},
    **{way.__name__: (draw_game, way) for way in GAME_CHANGES},
    "in_jax": (draw_tables, in_jax),
}


def draw_pair(rng, name):
    """Draw an instance that the change of this name applies to, changed."""
    draw, way = CHANGES[name]
    pair = None
    while pair is None:
        pair = way(rng, *draw(rng))
    return pair


@dataclass(frozen=True, eq=False)
class Answers:
    """What is known of an instance: numbers and radii, by name."""

    problem: object
    theta: np.ndarray
    accuracy: object = None

    @cached_property
    def result(self):
        return tb.hypergradient(self.problem, self.theta, accuracy=tb.Bounded())

    @cached_property
    def bounded(self):
        result = self.result
        return _answers(result, result.accuracy.bounds)

    @cached_property
    def plain(self):
        result = tb.hypergradient(self.problem, self.theta, accuracy=tb.Estimated())
        return _answers(result, tb.error_bounds(self.problem, self.theta, result))

    @cached_property
    def enclosed(self):
        found = tb.enclose(self.problem, self.theta)
        names = ("objective", "gradient", "value", "leader_value", "policy")
        return {name: (getattr(found, name).centre, getattr(found, name).radius) for name in names}


def _answers(result, bounds):
    response, evaluation = result.response, result.evaluation
    return {
        "objective": (result.objective, bounds.objective),
        "gradient": (result.gradient, bounds.gradient),
        "value": (response.value, bounds.value),
        "leader_value": (evaluation.value, bounds.leader_value),
        "policy": (response.policy, bounds.policy),
    }


def apart(pair, before, after, *, more=None):
    """List where answers before and after are further apart than their radii: (what, gap, room).

    `more` has radii that are added: what the tables' derivatives, which an enclosure takes as
    stored, are rounded by.
    """
    found = []
    (J, J_room), (J_after, J_room_after) = before["objective"], after["objective"]
    n_states = before["value"][0].size
    states = np.arange(n_states) if pair.states is None else pair.states

    def compare(what, x, room, y, room_after, scale, shift=0.0, off=0.0):
        y, shift = np.asarray(scale * y, dtype=float), np.asarray(shift)
        gap = np.abs(np.asarray(x) - (y + shift))
        # of the comparison itself
        rounding = 2.0**-51 * (np.abs(y) + np.abs(shift)) * np.any(shift != 0.0)
        room = np.asarray(room + np.abs(scale) * room_after + off + rounding)
        if more is not None and what in more:
            room = room + more[what]
        bad = ~(gap * (1.0 - 2.0**-50) <= room)
        if bad.any():
            k = int(np.argmax(np.where(bad, gap, -1.0)))
            found.append((what, float(gap.flat[k]), float(room.flat[k])))

    shift = 0.0 if pair.objective_shift is None else pair.objective_shift
    compare("objective", J, J_room, J_after, J_room_after, pair.scale, shift, pair.off[0])
    gradient, room = before["gradient"]
    moved, room_after = after["gradient"]
    back = np.eye(gradient.size) if pair.parameters is None else pair.parameters
    compare(
        "gradient", gradient, room, back @ moved, np.abs(back) @ room_after, pair.scale, 0.0,
        pair.off[1],
    )  # fmt: skip
    (V, V_room), (W, W_room) = before["value"], after["value"]
    if pair.value_shift is not None:
        compare("value", V, V_room, W[states], W_room[states], pair.value_scale, pair.value_shift)
    if not np.any(pair.off[0]):
        (V, V_room), (W, W_room) = before["leader_value"], after["leader_value"]
        scale = 1.0 if pair.objective_shift is None else pair.scale
        compare("leader value", V, V_room, W[states], W_room[states], scale, pair.leader_shift)
        (x, x_room), (y, y_room) = before["policy"], after["policy"]
        actions = np.arange(x.shape[1]) if pair.actions is None else pair.actions
        index = states[:, None], actions
        compare("policy", x, x_room, y[index], y_room[index], 1.0)
    return found


def examine(pair, *, enclose=True):
    """List what does not overlap: bounded and enclosed, before and after, and with each other."""
    before, after = (Answers(t.problem(), theta) for t, theta in (pair.before, pair.after))
    found = [("bounded", *x) for x in apart(pair, before.bounded, after.bounded)]
    found += [("plain", *x) for x in apart(pair, before.plain, after.plain)]
    if enclose and pair.enclosable:
        same = Pair(pair.before, pair.before)
        # enclosures are of tangents as rounded, which is within what a pullback may be off by
        room = {"gradient": before.bounded["gradient"][1]}
        found += [
            ("enclosed, bounded", *x)
            for x in apart(same, before.enclosed, before.bounded, more=room)
        ]
        back = np.eye(pair.before[1].size) if pair.parameters is None else pair.parameters
        moved = abs(pair.scale) * np.abs(back) @ after.bounded["gradient"][1]
        room = {"gradient": room["gradient"] + moved}
        found += [("enclosed", *x) for x in apart(pair, before.enclosed, after.enclosed, more=room)]
    return found
