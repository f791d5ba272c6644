"""Hypothesis strategies: random models, problems, games, instances, parameters and policies.

Numbers are readable and shrink well: probabilities are small whole numbers over their sum, rewards
multiples of 1/8, discounts 1 - 2^-k, temperatures powers of two. Needs hypothesis, which
``import tabular_bilevel`` does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.errors import needed

with needed("tabular_bilevel.strategies", "hypothesis", extra="test"):
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp
    from hypothesis.strategies import DrawFn, SearchStrategy

from tabular_bilevel._base.arguments import as_discount, as_positive, as_real, positive_integer
from tabular_bilevel._base.arrays import BoolArray, FloatArray
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problems import zoo
from tabular_bilevel.problems.features import FeatureProblem
from tabular_bilevel.problems.markov_game import MarkovGame

__all__ = ["games", "instances", "models", "policies", "problems", "thetas"]

# Weights of outcomes: large enough for lopsided distributions, small enough to be read.
LARGEST_WEIGHT = 4

# Rewards and parameters are multiples of these, so that sums of a few of them are exact.
REWARD_STEP = 1 / 8
THETA_STEP = 1 / 4

# Discounts are 1 - 2^-k with k up to this, where they fit the range asked for.
LARGEST_EXPONENT = 20

# Features are whole numbers up to this.
LARGEST_FEATURE = 2


class Parametrised(Protocol):
    """Anything with a number of parameters."""

    @property
    def n_parameters(self) -> int:
        """Length of theta."""
        ...


def models(
    *,
    min_states: int = 1,
    max_states: int = 5,
    min_actions: int = 1,
    max_actions: int = 3,
    min_discount: float = 0.0,
    max_discount: float = 0.99,
    min_temperature: float = 1 / 16,
    max_temperature: float = 4.0,
    max_reward: float = 2.0,
    allow_unavailable: bool = True,
    allow_termination: bool = True,
) -> SearchStrategy[Model]:
    """Make models of any shape: sparse or dense, with unreachable states and deterministic rows.

    Transitions of probability 0 may be stored. Shrinks towards few states and actions, state 0,
    rewards and discounts of 0, and the temperature nearest to 1.

    Parameters
    ----------
    min_states, max_states, min_actions, max_actions : int
        Range of the sizes.
    min_discount, max_discount : float
        Range of both discounts, which are drawn independently; in [0, 1).
    min_temperature, max_temperature : float
        Range of the temperature; positive.
    max_reward : float
        Largest size of a reward.
    allow_unavailable : bool
        Whether states may lack actions, by ``available`` or by a reward of ``-inf``.
    allow_termination : bool
        Whether episodes may end.

    Returns
    -------
    SearchStrategy of Model
        The strategy.

    Raises
    ------
    ValueError
        If a range is empty or a number outside of what a model may have.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.strategies import models
    >>> @settings(derandomize=True, deadline=None, max_examples=5)
    ... @given(models(max_states=3))
    ... def policies_are_distributions(model):
    ...     assert abs(tb.solve_follower(model).policy.sum(axis=1) - 1.0).max() < 1e-12
    >>> policies_are_distributions()
    """
    sizes = _sizes("states", min_states, max_states)
    action_counts = _sizes("actions", min_actions, max_actions)
    scalars = _scalars(min_discount, max_discount, min_temperature, max_temperature)
    rewards = _rewards(max_reward)

    @st.composite
    def drawn(draw: DrawFn) -> Model:
        shape = draw(sizes), draw(action_counts)
        follower_reward = draw(rewards(shape))
        available = draw(_masks(shape, allow_unavailable))
        forbid = not available.all() and draw(st.booleans())
        if forbid:
            follower_reward = np.where(available, follower_reward, -np.inf)
        transition, termination = draw(_kernels(shape, allow_termination))
        return Model.from_tables(
            transition=transition,
            follower_reward=follower_reward,
            leader_reward=draw(rewards(shape)),
            initial=draw(_distributions(shape[0])),
            available=None if forbid else available,
            termination=termination,
            **draw(scalars),
        )

    return drawn()


def problems(
    *,
    bases: SearchStrategy[Model] | None = None,
    min_parameters: int = 1,
    max_parameters: int = 3,
    allow_rewards: bool = True,
    allow_transition: bool = True,
    allow_initial: bool = True,
) -> SearchStrategy[FeatureProblem]:
    """Make problems whose rewards, kernel and initial distribution may depend on theta.

    Features are whole numbers from -2 to 2. Each table may be left without.

    Parameters
    ----------
    bases : SearchStrategy of Model, optional
        The models at theta = 0; ``models()`` by default.
    min_parameters, max_parameters : int
        Range of the number of parameters.
    allow_rewards, allow_transition, allow_initial : bool
        Which tables may depend on theta; at least one.

    Returns
    -------
    SearchStrategy of FeatureProblem
        The strategy.

    Raises
    ------
    ValueError
        If a range is empty or no table may depend on theta.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> from tabular_bilevel.strategies import problems
    >>> @settings(derandomize=True, deadline=None, max_examples=5)
    ... @given(problems(max_parameters=2))
    ... def sizes_are_as_asked_for(problem):
    ...     assert 1 <= problem.n_parameters <= 2
    >>> sizes_are_as_asked_for()
    """
    allowed = {
        "follower_reward": allow_rewards,
        "leader_reward": allow_rewards,
        "transition": allow_transition,
        "initial": allow_initial,
    }
    tables = [name for name, may in allowed.items() if may]
    if not tables:
        raise ValueError("no table may depend on theta: allow rewards, transition or initial")
    models_at_zero = models() if bases is None else bases
    parameter_counts = _sizes("parameters", min_parameters, max_parameters)
    values = st.integers(-LARGEST_FEATURE, LARGEST_FEATURE)

    @st.composite
    def drawn(draw: DrawFn) -> FeatureProblem:
        base, n_parameters = draw(models_at_zero), draw(parameter_counts)
        n_rows = {
            "follower_reward": base.follower_reward.size,
            "leader_reward": base.leader_reward.size,
            "transition": base.transition.nnz,
            "initial": base.n_states,
        }
        chosen = draw(st.lists(st.sampled_from(tables), min_size=1, unique=True))
        features: dict[str, Any] = {}
        for name in chosen:
            shape = n_rows[name], n_parameters
            features[name] = draw(hnp.arrays(np.int64, shape, elements=values, fill=st.nothing()))
        return FeatureProblem(base, **features)

    return drawn()


def games(
    *,
    min_states: int = 1,
    max_states: int = 3,
    min_leader_actions: int = 1,
    max_leader_actions: int = 2,
    min_actions: int = 1,
    max_actions: int = 3,
    min_discount: float = 0.0,
    max_discount: float = 0.99,
    min_temperature: float = 1 / 16,
    max_temperature: float = 4.0,
    max_reward: float = 2.0,
    allow_observed: bool = True,
    allow_hidden: bool = True,
    allow_unavailable: bool = True,
    allow_termination: bool = True,
) -> SearchStrategy[MarkovGame]:
    """Make two-player Markov games, of both kinds.

    Shrinks as `models` does, and towards a follower that observes the leader.

    Parameters
    ----------
    min_states, max_states, min_leader_actions, max_leader_actions, min_actions, max_actions : int
        Range of the sizes.
    min_discount, max_discount, min_temperature, max_temperature, max_reward
        As for `models`.
    allow_observed, allow_hidden : bool
        Whether the follower may, and may not, observe the leader's action; at least one.
    allow_unavailable : bool
        Whether the follower may be forbidden actions.
    allow_termination : bool
        Whether games may end.

    Returns
    -------
    SearchStrategy of MarkovGame
        The strategy.

    Raises
    ------
    ValueError
        If a range is empty, a number outside of what a game may have, or no kind is allowed.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> from tabular_bilevel.strategies import games
    >>> @settings(derandomize=True, deadline=None, max_examples=5)
    ... @given(games(allow_hidden=False))
    ... def followers_observe_the_leader(game):
    ...     assert game.follower_observes_leader
    >>> followers_observe_the_leader()
    """
    kinds = [
        kind for kind, may in ((True, bool(allow_observed)), (False, bool(allow_hidden))) if may
    ]
    if not kinds:
        raise ValueError("no kind of game is left: allow observed or hidden ones")
    sizes = _sizes("states", min_states, max_states)
    leader_action_counts = _sizes("leader_actions", min_leader_actions, max_leader_actions)
    action_counts = _sizes("actions", min_actions, max_actions)
    scalars = _scalars(min_discount, max_discount, min_temperature, max_temperature)
    rewards = _rewards(max_reward)

    @st.composite
    def drawn(draw: DrawFn) -> MarkovGame:
        observed = draw(st.sampled_from(kinds))
        n_states, n_leader, n_actions = shape = (
            draw(sizes),
            draw(leader_action_counts),
            draw(action_counts),
        )
        # what the follower may do depends on the leader's action only if it can see that
        seen = (n_states, n_leader if observed else 1, n_actions)
        available = draw(_masks(seen, allow_unavailable))
        transition, termination = draw(_kernels(shape, allow_termination))
        return MarkovGame(
            transition=transition,
            follower_reward=np.where(available, draw(rewards(shape)), -np.inf),
            leader_reward=draw(rewards(shape)),
            initial=draw(_distributions(n_states)),
            termination=termination,
            follower_observes_leader=observed,
            **draw(scalars),
        )

    return drawn()


def instances(
    *, families: Sequence[str] = ("wild", "wild-game", "patchy", "tied"), max_states: int = 8
) -> SearchStrategy[zoo.Instance]:
    """Make instances of the zoo, which are harder than `problems` and `games`.

    They are drawn by a seed, so that they do not shrink, but towards the first family.

    Parameters
    ----------
    families : sequence of str
        Names in `zoo.FAMILIES`.
    max_states : int
        Of a model, at most.

    Returns
    -------
    SearchStrategy of Instance
        The strategy.

    Raises
    ------
    ValueError
        If there are no families, one is not in the zoo, or none of its instances is so small.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.strategies import instances
    >>> @settings(derandomize=True, deadline=None, max_examples=5)
    ... @given(instances())
    ... def gradients_have_bounds(instance):
    ...     assert tb.hypergradient(*instance.at).accuracy.proven
    >>> gradients_have_bounds()
    """
    if not families:
        raise ValueError("families is empty")
    for name in families:  # checks now rather than at the first draw
        zoo.draw(name, 0, max_states=max_states)
    return st.builds(
        zoo.draw,
        st.sampled_from(families),
        st.integers(0, 2**32 - 1),
        number=st.integers(0, 29),
        max_states=st.just(max_states),
    )


def thetas(problem: Parametrised, *, max_size: float = 1.0) -> SearchStrategy[FloatArray]:
    """Make parameters of a problem, multiples of 1/4.

    Parameters
    ----------
    problem : FeatureProblem, MarkovGame, or anything with n_parameters
        Whose parameters.
    max_size : float
        Largest size of an entry.

    Returns
    -------
    SearchStrategy of ndarray, shape (d,)
        The strategy.

    Raises
    ------
    ValueError
        If `max_size` is negative.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.strategies import thetas
    >>> @settings(derandomize=True, deadline=None, max_examples=5)
    ... @given(thetas(tb.problems.two_state()))
    ... def gradients_are_finite(theta):
    ...     tb.hypergradient(tb.problems.two_state(), theta)
    >>> gradients_are_finite()
    """
    return _multiples("max_size", max_size, THETA_STEP, (problem.n_parameters,))


def policies(model: Model) -> SearchStrategy[FloatArray]:
    """Make the follower's policies in a model, not only optimal ones.

    Parameters
    ----------
    model : Model
        The model to act in.

    Returns
    -------
    SearchStrategy of ndarray, shape (S, A)
        Distributions over the available actions; shrink to the first one.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.strategies import policies
    >>> model = tb.problems.two_state().base
    >>> @settings(derandomize=True, deadline=None, max_examples=5)
    ... @given(policies(model))
    ... def forbidden_actions_are_not_taken(policy):
    ...     assert policy[1, 1] == 0.0
    >>> forbidden_actions_are_not_taken()
    """

    @st.composite
    def drawn(draw: DrawFn) -> FloatArray:
        table = np.zeros(model.available.shape)
        for s, mask in enumerate(model.available):
            table[s, mask] = draw(_distributions(int(mask.sum())))
        return table

    return drawn()


@st.composite
def _masks(draw: DrawFn, shape: tuple[int, ...], allow_unavailable: bool) -> BoolArray:
    """Which actions there are; one at least, in the last axis."""
    mask = np.ones(shape, dtype=bool)
    if allow_unavailable and draw(st.booleans()):
        for row in mask.reshape(-1, shape[-1]):
            taken = draw(st.sets(st.integers(0, shape[-1] - 1), max_size=shape[-1] - 1))
            row[list(taken)] = False
    return mask


@st.composite
def _kernels(
    draw: DrawFn, leading: tuple[int, ...], allow_termination: bool
) -> tuple[sp.csr_array, FloatArray]:
    """Transitions, one row for each entry of the leading axes, and terminations of those axes."""
    n_states, n_rows = leading[0], math.prod(leading)
    ending = n_states  # one more outcome than there are states
    ends = allow_termination and draw(st.booleans())
    row = _dense_rows(n_states, ends) if draw(st.booleans()) else _sparse_rows(n_states, ends)
    rows, columns, data, termination = [], [], [], np.zeros(n_rows)
    for k in range(n_rows):
        weights = draw(row)
        total = sum(weights.values())
        termination[k] = weights.pop(ending, 0) / total
        rows += [k] * len(weights)
        columns += list(weights)
        data += [weight / total for weight in weights.values()]
    places = np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64)
    kernel = sp.csr_array((np.array(data, dtype=np.float64), places), shape=(n_rows, n_states))
    return kernel, termination.reshape(leading)


def _sparse_rows(n_states: int, ends: bool) -> SearchStrategy[dict[int, int]]:
    """Weights of a few outcomes; the first one's is positive, the others may be a stored 0."""
    outcomes = st.lists(
        st.tuples(st.integers(0, n_states - 1 + ends), st.integers(0, LARGEST_WEIGHT)),
        min_size=1,
        max_size=n_states + ends,
        unique_by=lambda pair: pair[0],
    )
    return outcomes.map(
        lambda pairs: {state: weight + (k == 0) for k, (state, weight) in enumerate(pairs)}
    )


def _dense_rows(n_states: int, ends: bool) -> SearchStrategy[dict[int, int]]:
    """Positive weights of all states, and any weight of the end."""
    weights = [st.integers(1, LARGEST_WEIGHT)] * n_states + [st.integers(0, LARGEST_WEIGHT)] * ends
    return st.tuples(*weights).map(lambda drawn: dict(enumerate(drawn)))


@st.composite
def _distributions(draw: DrawFn, size: int) -> FloatArray:
    certain = draw(st.integers(0, size - 1))
    weights = draw(hnp.arrays(np.int64, size, elements=st.integers(0, LARGEST_WEIGHT)))
    weights[certain] += 1
    return np.asarray(weights / weights.sum())


def _rewards(largest: float) -> Callable[[tuple[int, ...]], SearchStrategy[FloatArray]]:
    """Make tables of multiples of `REWARD_STEP`, of the shape that is asked for."""
    made = partial(_multiples, "max_reward", largest, REWARD_STEP)
    made((1,))  # checks now rather than at the first draw
    return made


def _multiples(
    name: str, largest: float, step: float, shape: tuple[int, ...]
) -> SearchStrategy[FloatArray]:
    number = as_real(name, largest)
    if not (math.isfinite(number) and number >= 0.0):
        raise ValueError(f"{name} is {number}, not a finite number of at least 0")
    count = math.floor(number / step)
    whole = hnp.arrays(np.int64, shape, elements=st.integers(-count, count), fill=st.nothing())
    return whole.map(lambda table: table * step)


def _sizes(name: str, smallest: int, largest: int) -> SearchStrategy[int]:
    low = positive_integer(f"min_{name}", smallest)
    high = positive_integer(f"max_{name}", largest)
    _require_range(name, low, high)
    return st.integers(low, high)


def _scalars(
    min_discount: float, max_discount: float, min_temperature: float, max_temperature: float
) -> SearchStrategy[dict[str, Any]]:
    """Discounts and temperature: round numbers of the ranges, and the ranges' ends."""
    least = as_discount("min_discount", min_discount)
    most = as_discount("max_discount", max_discount)
    coldest = as_positive("min_temperature", min_temperature)
    hottest = as_positive("max_temperature", max_temperature)
    _require_range("discount", least, most)
    _require_range("temperature", coldest, hottest)
    between = [1.0 - 2.0**-k for k in range(LARGEST_EXPONENT) if least < 1.0 - 2.0**-k < most]
    discounts = st.sampled_from(sorted({least, *between, most}))
    exponents = range(math.ceil(math.log2(coldest)), math.floor(math.log2(hottest)) + 1)
    temperatures = {coldest, *(2.0**k for k in exponents), hottest}
    return st.fixed_dictionaries(
        {
            "follower_discount": discounts,
            "leader_discount": discounts,
            "temperature": st.sampled_from(sorted(temperatures, key=lambda t: abs(math.log(t)))),
        }
    )


def _require_range(name: str, low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"min_{name} is {low}, larger than max_{name}, {high}")
