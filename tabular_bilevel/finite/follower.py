"""The follower's soft-optimal response (theory.md section 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base import kernels
from tabular_bilevel._base.arguments import (
    as_flag,
    as_generator,
    as_nonnegative,
    as_positive,
    finite_array,
    positive_integer,
    require_method,
)
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only, restore_read_only, unchecked
from tabular_bilevel._base.errors import ConvergenceError
from tabular_bilevel._base.renamed import without_use
from tabular_bilevel.finite.linear import DENSE_STATES, policy_system
from tabular_bilevel.finite.model import Model

# A residual of the soft Bellman equation is a difference of two numbers of the size of V, each a
# sum over the successors: a few hundred roundings.
RESIDUAL_TOLERANCE = 1e-13

# A residual of some roundings of its terms gets little smaller.
SMALLEST_RESIDUAL = 16.0 * np.finfo(np.float64).eps

# A Newton step is solved to the square of what the last one gained (Eisenstat and Walker, 1996,
# choice 2), and at least to this: the next one has another policy, and would not gain by more.
# After each step that gains nothing, the next ones are solved to a tenth of it.
LARGEST_FORCING = 0.1

# A step's linear residual is asked for no smaller than this, relative to the equation's terms.
NEWTON_ROUNDING = 2.0 * np.finfo(np.float64).eps

# Looks ahead from 0 before the first step, in wide graphs: it would follow what the rewards alone
# say, for the price of a solve.
LOOKS = 2

# States times the square of the band's half width, up to which the compiled elimination is used.
# Measured on open grids against SuperLU: 2 ms for 17 at 1e6, 32 for 66 at 2e7, 146 for 183 at 1e8.
# On a random graph sweeps are faster from `DENSE_STATES` states on.
WIDEST_BAND = 20_000_000


@dataclass(frozen=True, eq=False)
class Response:
    """The follower's answer to a model.

    Attributes
    ----------
    value : ndarray, shape (S,)
        V_F, the entropy-regularised optimal value.
    action_value : ndarray, shape (S, A)
        Q_F; ``-inf`` where an action is unavailable.
    policy : ndarray, shape (S, A)
        Probability of each action, exp((Q_F - V_F) / temperature).
    residual : float
        max |T V - V| of the returned value, T the soft Bellman operator.
    error_bound : float
        Bound on max |V - V*| that the contraction gives, residual / (1 - discount), up to rounding.
    iterations : int
        Sweeps or Newton steps made.
    method : str
        How it was computed, in words; empty if the solver does not say.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.bandit(temperature=1.0).model([0.0, 0.0])
    >>> answer = tb.solve_follower(model)
    >>> answer.policy, answer.value.round(4)  # variety is worth log 2
    (array([[0.5, 0.5]]), array([0.6931]))
    """

    value: FloatArray
    action_value: FloatArray
    policy: FloatArray
    residual: float
    error_bound: float
    iterations: int
    method: str = ""

    __setstate__ = restore_read_only

    def __str__(self) -> str:
        return (
            f"Response: {self.value.size} states, residual {self.residual:.2g}, value within "
            f"{self.error_bound:.2g}, {self.iterations} iterations"
        )


class FollowerSolver(Protocol):
    """Anything that computes the follower's response.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> class Counting:
    ...     solves = 0
    ...     def solve(self, model, *, start=None):
    ...         self.solves += 1
    ...         return tb.PolicyIteration().solve(model, start=start)
    >>> solver = Counting()
    >>> tb.hypergradient(tb.problems.bandit(), [0.0, 0.0], solver=solver).objective, solver.solves
    (0.5, 1)
    """

    def solve(self, model: Model, *, start: FloatArray | None = None) -> Response:
        """Solve the model.

        Raise `ConvergenceError` rather than stop short.

        Parameters
        ----------
        model : Model
            The follower's decision process.
        start : ndarray, shape (S,), optional
            A value to start from; 0 by default.

        Returns
        -------
        Response
            The follower's answer.
        """
        ...


@quiet
def solve_follower(
    model: Model, *, solver: FollowerSolver | None = None, start: npt.ArrayLike | None = None
) -> Response:
    """Solve as `tabular_bilevel.solve_follower` says."""
    if start is not None:
        start = finite_array("start", start, (model.n_states,))
    if solver is None:
        return BY_DEFAULT.solve(model, start=start)
    require_method("solver", solver, "solve")
    response = solver.solve(model, start=start)
    finite_array("value of the solver's response", response.value, (model.n_states,))
    return response


@without_use("to_rounding")
@dataclass(frozen=True, kw_only=True)
class PolicyIteration:
    """Soft policy iteration: Newton's method on T V - V = 0 (theory.md section 2).

    From the first step on the iterates rise to V*, in the end quadratically.

    Attributes
    ----------
    tolerance : float
        Largest residual, relative to the largest of |V|, the expected |reward| and the temperature.
    max_iterations : int
        Steps before giving up.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.two_state().model([0.0, 0.0])
    >>> answer = tb.solve_follower(model, solver=tb.PolicyIteration(tolerance=1e-6))
    >>> answer.iterations < 10, answer.residual < 1e-12
    (True, True)
    """

    tolerance: float = RESIDUAL_TOLERANCE
    max_iterations: int = 10_000

    def __post_init__(self) -> None:
        """Check the settings."""
        as_positive("tolerance", self.tolerance)
        positive_integer("max_iterations", self.max_iterations)

    @quiet
    def solve(self, model: Model, *, start: FloatArray | None = None) -> Response:
        """Solve the model, as `FollowerSolver` says."""
        kernel, shape = model.transition, model.follower_reward.shape
        value, gap = _first_value(model, start), np.empty(model.n_states)
        weights, before, forcing = np.empty(kernel.nnz), 0.0, LARGEST_FORCING
        reached: Response | None = None
        how = "one look ahead"
        looks = LOOKS if start is None and _is_wide(model) else 0
        action_value, policy = np.empty(shape), np.empty(shape)
        for iteration in range(self.max_iterations + 1):
            kernels.look_ahead(
                kernel.indptr,
                kernel.indices,
                kernel.data,
                model.follower_reward,
                model.available,
                model.follower_discount,
                model.temperature,
                value,
                action_value,
                policy,
            )
            residual, scale = kernels.soft_gap(
                kernel.indptr,
                kernel.data,
                model.follower_reward,
                model.temperature,
                value,
                action_value,
                np.exp(policy, out=policy),
                weights,
                gap,
            )
            if reached is not None and not residual < reached.residual / 2.0:
                return reached
            if residual <= self.tolerance * scale:
                method = f"policy iteration by {how}"
                reached = _response(model, value, action_value, policy, residual, iteration, method)
                if residual <= SMALLEST_RESIDUAL * scale:
                    return reached
                action_value, policy = np.empty(shape), policy.copy()
            if not math.isfinite(residual):
                break
            if iteration < looks:
                value = value + gap
                continue
            gained = residual / before if before > 0.0 else 1.0
            if before > 0.0 and gained >= 1.0:  # only exact steps are sure to converge
                forcing /= 10.0
            system = policy_system(model, policy, model.follower_discount, weights)
            enough = NEWTON_ROUNDING * scale / residual  # what is left is lost in rounding
            accuracy = max(min(forcing, gained**2), enough)
            value, before = value + system.solve(gap, accuracy=accuracy), residual
            how = system.method
        if reached is not None:
            return reached
        raise _not_converged("PolicyIteration", self.tolerance, residual, iteration)


@dataclass(frozen=True, kw_only=True)
class ValueIteration:
    """Soft value iteration, V <- T V, compiled (theory.md section 2).

    Converges like discount**k: the plain method, kept as an independent check of the fast one and
    for models whose linear systems are too large.

    Attributes
    ----------
    tolerance : float
        Largest residual, relative to the largest of |V|, the expected |reward| and the temperature.
        The value's error is up to 1 / (1 - discount) times as large.
    max_iterations : int
        Sweeps before giving up.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.two_state(follower_discount=0.9).model([0.0, 0.0])
    >>> slow = tb.solve_follower(model, solver=tb.ValueIteration())
    >>> slow.iterations > 100, bool(abs(slow.value - tb.solve_follower(model).value).max() < 1e-11)
    (True, True)
    """

    tolerance: float = RESIDUAL_TOLERANCE
    max_iterations: int = 10_000_000

    def __post_init__(self) -> None:
        """Check the settings."""
        as_positive("tolerance", self.tolerance)
        positive_integer("max_iterations", self.max_iterations)

    @quiet
    def solve(self, model: Model, *, start: FloatArray | None = None) -> Response:
        """Solve the model, as `FollowerSolver` says."""
        # Compiled loops cannot be interrupted: return to Python after about 0.1 s.
        chunk = max(1, 20_000_000 // (model.transition.nnz + 10 * model.follower_reward.size))
        value, other = _first_value(model, start), np.empty(model.n_states)
        scratch = np.empty(model.n_actions)
        done, residual = 0, np.inf
        kernel, policy = model.transition, soft_backup(model, value)[2]
        while done < self.max_iterations:
            sweeps, residual = kernels.soft_value_iteration(
                kernel.indptr,
                kernel.indices,
                kernel.data,
                model.follower_reward,
                model.available,
                model.follower_discount,
                model.temperature,
                self.tolerance * _scale(model, value, policy),
                min(chunk, self.max_iterations - done),
                other,
                scratch,
                value,
            )
            done += sweeps
            action_value, improved, policy = soft_backup(model, value)
            residual = _size(improved - value)
            if residual <= self.tolerance * _scale(model, value, policy):
                return _response(
                    model, value, action_value, policy, residual, done, "value iteration"
                )
            if not math.isfinite(residual):
                break
        raise _not_converged("ValueIteration", self.tolerance, residual, done)


@dataclass(frozen=True, kw_only=True)
class CompiledPolicyIteration:
    """`PolicyIteration` in one compiled loop: for small or narrow models solved many times.

    Banded elimination takes the place of LAPACK. The first call compiles; after that, a solve of
    four rooms that starts nearby takes a tenth of `PolicyIteration`'s time. Where the band is too
    wide for that to pay, `PolicyIteration` solves. As there, the last step leads to rounding.

    Attributes
    ----------
    tolerance : float
        Largest residual, relative to the largest of |V|, the expected |reward| and the temperature.
    max_iterations : int
        Steps before giving up.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.two_state().model([0.0, 0.0])
    >>> fast = tb.solve_follower(model, solver=tb.CompiledPolicyIteration())
    >>> bool(abs(fast.policy - tb.solve_follower(model).policy).max() < 1e-12)
    True
    """

    tolerance: float = RESIDUAL_TOLERANCE
    max_iterations: int = 10_000

    def __post_init__(self) -> None:
        """Check the settings."""
        as_positive("tolerance", self.tolerance)
        positive_integer("max_iterations", self.max_iterations)

    def solve(self, model: Model, *, start: FloatArray | None = None) -> Response:
        """Solve the model, as `FollowerSolver` says."""
        if not is_banded(model):
            plain = PolicyIteration(tolerance=self.tolerance, max_iterations=self.max_iterations)
            return plain.solve(model, start=start)
        place, width = model.band
        shape, kernel = model.follower_reward.shape, model.transition
        value = _first_value(model, start)
        action_value, policy = np.empty(shape), np.empty(shape)
        # Compiled loops cannot be interrupted: return to Python after about 0.1 s.
        work = kernel.data.size + 10 * model.follower_reward.size + model.n_states * width**2
        chunk = max(1, 20_000_000 // work)
        done, near = 0, False
        while done < self.max_iterations and not near:
            iterations, residual, _, near = kernels.soft_policy_iteration(
                kernel.indptr,
                kernel.indices,
                kernel.data,
                model.follower_reward,
                model.available,
                model.follower_discount,
                model.temperature,
                self.tolerance,
                SMALLEST_RESIDUAL,
                min(chunk, self.max_iterations - done),
                place,
                width,
                value,
                action_value,
                policy,
            )
            done += iterations
        if not (near and math.isfinite(residual)):  # NaN ends the loop, too
            raise _not_converged("CompiledPolicyIteration", self.tolerance, residual, done)
        method = f"compiled policy iteration by a band of {2 * width + 1}"
        return _response(model, value, action_value, policy, residual, done, method)


BY_DEFAULT = CompiledPolicyIteration()


@dataclass(frozen=True, kw_only=True)
class StoppedValueIteration:
    """A follower that is not optimal: it makes a few sweeps of soft value iteration and stops.

    It plays exp((Q - T V) / temperature), V the value that it got to; the response's residual and
    error bound say how far that is from optimal. For the published ablation with suboptimal
    followers.

    Attributes
    ----------
    sweeps : int
        Sweeps it makes, whatever the residual.
    warm_start : bool
        Whether they go on from the value of its last response, if there is one, or start anew.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.two_state().model([0.0, 0.0])
    >>> early, late = (tb.StoppedValueIteration(sweeps=k).solve(model) for k in (1, 9))
    >>> early.residual > late.residual > 0.1, late.iterations
    (True, 9)
    """

    sweeps: int
    warm_start: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_integer("sweeps", self.sweeps)
        as_flag("warm_start", self.warm_start)

    @quiet
    def solve(self, model: Model, *, start: FloatArray | None = None) -> Response:
        """Sweep, as of `FollowerSolver`, from the last value if `warm_start`."""
        value = _first_value(model, start if self.warm_start else None)
        for _ in range(self.sweeps):
            value = soft_backup(model, value)[1]
        return response_at(model, value, self.sweeps)


@dataclass(frozen=True, kw_only=True)
class StoppedPolicyIteration:
    """A follower that makes a few steps of policy iteration, each half evaluated, and stops.

    A step takes the soft policy of its table of action values and evaluates it by some sweeps, the
    entropy counted; with one evaluation a step is a sweep of value iteration. The table is what the
    follower keeps from answer to answer. So are the suboptimal followers of the papers.

    An `Interaction` asks it to `begin`, with a generator, and keeps the table; `solve` by itself
    starts from the table that it is given, or from 0.

    Source: Kudo et al. (ICAPS 2026, arXiv:2603.14867), where the bonus for randomness of the first
    evaluation is that of the step before: a difference of up to temperature * log(n_actions).

    Attributes
    ----------
    steps : int
        Steps it makes, whatever the residual.
    evaluations : int
        Sweeps of evaluation a step.
    initial_spread : float
        Standard deviation of a new table's normal entries; 0 for a table of zeros.
    warm_start : bool
        Whether the table of its last answer is gone on with, or each answer has a new one.

    Raises
    ------
    ValueError
        On construction, if a setting is out of range; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.two_state().model([0.0, 0.0])
    >>> early, late = (tb.StoppedPolicyIteration(steps=k).solve(model) for k in (1, 9))
    >>> early.residual > late.residual > 0.0, late.iterations
    (True, 45)
    >>> follower = tb.StoppedPolicyIteration(steps=1)
    >>> method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(10, 5), follower=follower))
    >>> estimate = method(tb.problems.two_state(), [0.0, 0.0], rng=0)
    >>> estimate.memory["follower_action_value"].shape
    (2, 2)
    >>> follower.begin(model, previous=None, rng=np.random.default_rng(0)).shape
    (2, 2)
    """

    steps: int
    evaluations: int = 5
    initial_spread: float = 1.0
    warm_start: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_integer("steps", self.steps)
        positive_integer("evaluations", self.evaluations)
        as_nonnegative("initial_spread", self.initial_spread)
        as_flag("warm_start", self.warm_start)

    def begin(
        self, model: Model, *, previous: FloatArray | None, rng: np.random.Generator
    ) -> FloatArray:
        """Go on with a table, or draw a new one.

        Parameters
        ----------
        model : Model
            The follower's MDP.
        previous : ndarray, shape (S, A), optional
            The table of its last answer; not looked at unless `warm_start`.
        rng : numpy.random.Generator
            Source of randomness; it advances if a table is drawn.

        Returns
        -------
        ndarray, shape (S, A)
            What `solve` starts from.

        Raises
        ------
        ValueError
            If `rng` is neither a generator nor a seed.
        """
        rng = as_generator(rng)
        if previous is not None and self.warm_start:
            return previous
        return self.initial_spread * rng.standard_normal(model.follower_reward.shape)

    @quiet
    def solve(self, model: Model, *, start: FloatArray | None = None) -> Response:
        """Make the steps, as of `FollowerSolver`; the answer's action values are the table.

        The start may be a table, shape (S, A), or a value, which one look ahead makes a table of.
        """
        available, shape = model.available, model.follower_reward.shape

        def ahead(value: FloatArray) -> FloatArray:
            """Look one step ahead; what is unavailable is never looked at."""
            table = model.follower_reward + model.follower_discount * model.next_value(value)
            return np.where(available, table, 0.0)

        if start is None:
            table = np.zeros(shape)
        elif np.ndim(start) == 2:
            table = np.where(available, finite_array("start", start, shape), 0.0)
        else:
            table = ahead(_first_value(model, start))
        for _ in range(self.steps):
            value, policy = soft_maximum(np.where(available, table, -np.inf), model.temperature)
            bonus = value - np.vecdot(policy, table)
            table = ahead(value)
            for _ in range(self.evaluations - 1):
                value = np.vecdot(policy, table) + bonus
                table = ahead(value)
        return response_at(model, value, self.steps * self.evaluations)


def is_banded(model: Model) -> bool:
    """Say whether elimination within the model's band is fast."""
    return not _is_wide(model) and model.n_states * model.band[1] ** 2 <= WIDEST_BAND


def _is_wide(model: Model) -> bool:
    """Say whether a model that is not small has long steps; a quick look comes first."""
    if model.n_states <= DENSE_STATES:
        return False
    return model.n_states * model.least_band**2 > WIDEST_BAND or not model.narrow


def _first_value(model: Model, start: FloatArray | None) -> FloatArray:
    """Copy the start and check its shape: compiled code would read beyond its end."""
    if start is None:
        return np.zeros(model.n_states)
    return finite_array("start", start, (model.n_states,))


def soft_backup(model: Model, value: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Apply the soft Bellman operator.

    Returns Q = r + discount P V, ``-inf`` where an action is unavailable; T V = temperature * log
    sum_a exp(Q / temperature); and the policy exp((Q - T V) / temperature).
    """
    ahead = model.follower_discount * model.next_value(value)
    action_value = np.where(model.available, model.follower_reward + ahead, -np.inf)
    improved, policy = soft_maximum(action_value, model.temperature)
    return action_value, improved, policy


def soft_maximum(action_value: FloatArray, temperature: float) -> tuple[FloatArray, FloatArray]:
    """Compute temperature * log sum_a exp(Q / temperature), (S,), and its softmax, (S, A)."""
    best = action_value.max(axis=1)
    weights = np.exp((action_value - best[:, None]) / temperature)
    total = weights.sum(axis=1)
    return best + temperature * np.log(total), weights / total[:, None]


def log_policy(model: Model, action_value: FloatArray) -> FloatArray:
    """Compute log pi from Q, however small pi, shape (S, A); 0 where an action is unavailable."""
    best = action_value.max(axis=1, keepdims=True)
    logits = (action_value - best) / model.temperature
    logits = np.maximum(logits, -np.finfo(np.float64).max)  # finite: 0 log 0 is 0
    total = np.exp(logits).sum(axis=1, keepdims=True)
    return np.where(model.available, logits - np.log(total), 0.0)


def response_at(model: Model, value: FloatArray, iterations: int) -> Response:
    """Make the response of a follower that takes this for its value."""
    action_value, improved, policy = soft_backup(model, value)
    residual, method = _size(improved - value), "one look ahead"
    return _response(model, value, action_value, policy, residual, iterations, method)


def _size(gap: FloatArray) -> float:
    return float(np.abs(gap).max())


def _scale(model: Model, value: FloatArray, policy: FloatArray) -> float:
    """Size of the terms of the soft Bellman equation; rewards count as far as they are earned."""
    earned = (policy * np.abs(model.follower_reward)).sum(axis=1)
    return max(_size(value), _size(earned), model.temperature)


def _response(
    model: Model,
    value: FloatArray,
    action_value: FloatArray,
    policy: FloatArray,
    residual: float,
    iterations: int,
    method: str,
) -> Response:
    contraction = model.follower_discount * model.largest_mass
    return unchecked(
        Response,
        value=read_only(value),
        action_value=read_only(action_value),
        policy=read_only(policy),
        residual=residual,
        error_bound=residual / (1.0 - contraction),
        iterations=iterations,
        method=method,
    )


def _not_converged(
    method: str, tolerance: float, residual: float, iterations: int
) -> ConvergenceError:
    return ConvergenceError(
        f"{method} made {iterations} iterations and has residual {residual:.3g}, above its "
        f"relative tolerance {tolerance:.3g}. Allow more iterations, or a larger tolerance if the "
        "rewards are large against their differences.",
        residual=residual,
        iterations=iterations,
    )
