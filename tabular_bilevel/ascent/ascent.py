"""Ascent: climb a leader's objective with any method's gradients, step by step."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import (
    as_generator,
    as_theta,
    finite_array,
    positive_integer,
    require_method,
)
from tabular_bilevel._base.arrays import FloatArray, binary_scale, quiet, read_only, unchecked
from tabular_bilevel._base.files import LIMIT, brief, read_arrays, shown, write_file
from tabular_bilevel._base.generators import (
    generator_at,
    plain,
    require_generator_state,
    require_whole,
    state_of,
)
from tabular_bilevel._base.renamed import keywords_renamed
from tabular_bilevel.ascent.measures import divergence, guidance, relative_gap
from tabular_bilevel.ascent.optimisers import Optimiser
from tabular_bilevel.estimators.contract import Taken, as_estimator, as_memory
from tabular_bilevel.estimators.estimate import Estimate
from tabular_bilevel.finite.follower import Response, log_policy
from tabular_bilevel.finite.leader import Evaluation
from tabular_bilevel.finite.model import Model
from tabular_bilevel.kinds import AnyModel, evaluate_leader, road, solve_follower
from tabular_bilevel.problem import AnyProblem, pulled_back
from tabular_bilevel.sampling.experience import NOTHING, Memory

# Prefixes of names in a saved state.
METHOD, OPTIMISER, MORE = "method.", "optimiser.", "more."

# Steps of the longest ascent: anything more is a mistake.
MOST_STEPS = 2**53 - 1


@dataclass(frozen=True, eq=False)
class AscentState:
    """Where an ascent stands: all that it takes to go on as if it had never stopped.

    Attributes
    ----------
    iteration : int
        Steps made.
    theta : ndarray, shape (d,)
        The parameter that the next step starts from.
    memory : mapping of str to ndarray
        The method's memory.
    optimiser_memory : mapping of str to ndarray
        The optimiser's memory.
    rng : dict
        State of the generator's bit generator, and of the seed sequence that it spawns from.

    Raises
    ------
    ValueError
        On construction, if an entry is bad; the message names it.

    Examples
    --------
    >>> import tempfile
    >>> import tabular_bilevel as tb
    >>> problem, method, optimiser = tb.problems.bandit(), tb.ExactGradient(), tb.Adam(0.1)
    >>> start = tb.AscentState.start([0.0, 0.0], rng=0)
    >>> *_, last = tb.resume(problem, start, method, optimiser, n_iterations=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     last.state.save(f"{folder}/state.npz", note=[1.0])
    ...     state, more = tb.AscentState.load(f"{folder}/state.npz")
    >>> state.iteration, bool((state.theta == last.next_theta).all()), more["note"]
    (3, True, array([1.]))
    """

    iteration: int
    theta: FloatArray
    memory: Memory = field(repr=False)
    optimiser_memory: Mapping[str, FloatArray] = field(repr=False)
    rng: Mapping[str, Any] = field(repr=False)

    def __post_init__(self) -> None:
        """Check everything: a bad generator's state would be read outside of its memory."""
        require_whole("iteration", self.iteration, 0, MOST_STEPS)
        if not isinstance(self.theta, np.ndarray) or self.theta.dtype != np.float64:
            raise ValueError("theta is no array of float64")
        as_theta(self.theta)
        for name, prefix in (("memory", METHOD), ("optimiser_memory", OPTIMISER)):
            memory = as_memory(getattr(self, name), name=prefix.removesuffix("."))
            object.__setattr__(self, name, memory)
        require_generator_state(self.rng)

    @classmethod
    def start(cls, theta: npt.ArrayLike, *, rng: np.random.Generator | int) -> AscentState:
        """Stand at the start of an ascent from theta, as `ascend` does.

        Parameters
        ----------
        theta : array_like, shape (d,)
            Where it starts.
        rng : numpy.random.Generator or int
            Source of randomness, which is copied, or a seed.

        Returns
        -------
        AscentState
            Of no step made.

        Raises
        ------
        ValueError
            If theta is not a finite vector, or `rng` is neither a generator nor a seed.
        """
        return cls(
            iteration=0,
            theta=read_only(as_theta(theta)),
            memory=NOTHING,
            optimiser_memory=NOTHING,
            rng=state_of(as_generator(rng)),
        )

    def save(self, path: str | PathLike[str], **more: npt.ArrayLike) -> None:
        """Write to a file, whole or not at all.

        Parameters
        ----------
        path : str or path
            An npz archive of plain arrays, whatever its name ends in.
        **more : array_like
            Arrays to keep beside the state, under names of their own.
        """
        tables: dict[str, Any] = {
            "iteration": self.iteration,
            "theta": self.theta,
            "rng": json.dumps(plain(self.rng)),
            **{METHOD + name: array for name, array in self.memory.items()},
            **{OPTIMISER + name: array for name, array in self.optimiser_memory.items()},
            **{MORE + name: np.asarray(array) for name, array in more.items()},
        }
        archive = io.BytesIO()
        np.savez(archive, allow_pickle=False, **tables)
        write_file(path, archive.getvalue())

    @classmethod
    def load(
        cls, path: str | PathLike[str], *, limit: int = LIMIT
    ) -> tuple[AscentState, dict[str, FloatArray]]:
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or path
            The file.
        limit : int
            Bytes that it, and its arrays together, may have; by default 256 MiB.

        Returns
        -------
        state : AscentState
            The state.
        more : dict of str to ndarray
            What was kept beside it.

        Raises
        ------
        ValueError
            If the file holds no state, is no regular file, or larger than the limit.
        OSError
            If it cannot be read.
        """
        tables = read_arrays(path, limit)
        try:
            parts = {prefix: part_of(tables, prefix) for prefix in (METHOD, OPTIMISER, MORE)}
            single = {name for name in tables if not name.startswith(tuple(parts))}
            if single != {"iteration", "theta", "rng"}:
                raise ValueError(f"it has {', '.join(sorted(single))}, not iteration, theta, rng")
            iteration, words = tables["iteration"], tables["rng"]
            if iteration.shape != () or iteration.dtype.kind not in "iu":
                raise ValueError("iteration is no whole number")
            if words.shape != () or words.dtype.kind != "U":
                raise ValueError("rng is no string")
            state = cls(
                iteration=int(iteration),
                theta=read_only(tables["theta"]),
                memory=parts[METHOD],
                optimiser_memory=parts[OPTIMISER],
                rng=json.loads(str(words)),
            )
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{shown(path)} holds no state of an ascent: {brief(error)}"
            ) from error
        return state, parts[MORE]


@dataclass(frozen=True, eq=False)
class Iteration:
    """One step of an ascent; what is expensive is computed when asked for.

    Attributes
    ----------
    iteration : int
        From 0.
    problem : BilevelProblem
        The leader's problem.
    theta : ndarray, shape (d,)
        Where the step starts.
    estimate : Estimate
        The method's estimate there.
    next_theta : ndarray, shape (d,)
        Where the step ends.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> method, optimiser = tb.ExactGradient(), tb.GradientAscent(0.1)
    >>> climb = tb.ascend(tb.problems.bandit(), [0.0, 0.0], method, optimiser, rng=0)
    >>> first = next(climb)
    >>> first.objective, first.objective_over(1), first.gradient, first.exact_gradient
    (0.5, 0.5, array([-0.25,  0.25]), array([-0.25,  0.25]))
    >>> first.next_theta, round(first.cosine, 12), first.state.iteration
    (array([-0.025,  0.025]), 1.0, 1)
    >>> round(first.guidance_effect, 12), first.follower_gap, first.follower_divergence
    (1.0, 0.0, 0.0)
    """

    iteration: int
    problem: AnyProblem = field(repr=False)
    theta: FloatArray = field(repr=False)
    estimate: Estimate = field(repr=False)
    next_theta: FloatArray = field(repr=False)
    _after: tuple[Mapping[str, FloatArray], Mapping[str, Any]] = field(repr=False)

    @property
    def gradient(self) -> FloatArray:
        """The method's gradient, shape (d,)."""
        return self.estimate.gradient

    @cached_property
    def _model(self) -> AnyModel:
        known = self.estimate.model
        return self.problem.model(self.theta) if known is None else known

    @cached_property
    def _stations(self) -> tuple[Any, Any, Any, Any]:
        """The exact response and what follows from it, whatever follower the method has."""
        known = self.estimate.response
        start = None if known is None else known.value
        response = solve_follower(self._model, start=start)
        return response, *road(self._model, response)

    @property
    def objective(self) -> float:
        """J at the step's start with an optimal follower, whatever follower the method has.

        An ESTIMATE, in float64, as is `exact_gradient`: an ascent has no time for bounds.
        """
        return float(self._stations[1].objective)

    def objective_over(self, horizon: int | None) -> float:
        """Compute J at the step's start, counting this many of the leader's steps.

        Parameters
        ----------
        horizon : int or None
            How many; all if None.

        Returns
        -------
        float
            J.
        """
        if horizon is None:
            return self.objective
        return float(evaluate_leader(self._model, self._stations[0], horizon=horizon).objective)

    @cached_property
    def exact_gradient(self) -> FloatArray:
        """The gradient at the step's start, exact but for rounding: an ESTIMATE, shape (d,)."""
        _, _, direct, indirect = self._stations
        return read_only(pulled_back(self.problem, self.theta, direct + indirect))

    @property
    @quiet
    def cosine(self) -> float:
        """Cosine of the angle between the gradient and the exact one; 0 if one of them is 0."""
        vectors = self.gradient, self.exact_gradient
        if not all(vector.any() for vector in vectors):
            return 0.0
        # squares of what is tiny or huge would be 0 or infinite
        mine, exact = (vector / binary_scale(vector) for vector in vectors)
        norms = np.linalg.norm(mine) * np.linalg.norm(exact)
        return float(np.clip(mine @ exact / norms, -1.0, 1.0))

    @cached_property
    def guidance_effect(self) -> float:
        """How well the step guides the follower: a correlation, in [-1, 1].

        That of the leader's advantage with how much likelier, in logarithms, the step makes an
        action, over the leader's discounted visits at the step's start. The papers sample it; here
        follower and advantage are exact.

        Raises
        ------
        ValueError
            If the model is not made of tables.
        """
        model, best, evaluation = self._of_tables
        moved: Any = self.problem.model(self.next_theta)
        then = solve_follower(moved, start=best.value)
        return guidance(model, best, evaluation, log_policy(moved, then.action_value))

    @property
    def follower_gap(self) -> float:
        """By what share of the best the method's follower earns less, its randomness paid for.

        Raises
        ------
        ValueError
            If the method does not say how its follower answers, or as `guidance_effect`.
        """
        model, best, _ = self._of_tables
        return relative_gap(model, self._answer, best)

    @property
    def follower_divergence(self) -> float:
        """KL(pi || pi*) of the method's follower and the best one, averaged over all states.

        Raises
        ------
        ValueError
            As `follower_gap`.
        """
        model, best, _ = self._of_tables
        return divergence(model, self._answer, best)

    @property
    def _of_tables(self) -> tuple[Model, Response, Evaluation]:
        if not isinstance(self._model, Model):
            raise ValueError("this measure is for models made of tables")
        response, evaluation, _, _ = self._stations
        return self._model, response, evaluation

    @property
    def _answer(self) -> Any:
        if self.estimate.response is None:
            raise ValueError("the method does not say how its follower answers")
        return self.estimate.response

    @property
    def state(self) -> AscentState:
        """Where the ascent stands after this step, to be saved."""
        memory, rng = self._after
        return AscentState(
            iteration=self.iteration + 1,
            theta=self.next_theta,
            memory=self.estimate.memory,
            optimiser_memory=memory,
            rng=rng,
        )

    def __str__(self) -> str:
        return (
            f"Iteration {self.iteration}: objective {self.objective:.6g}, gradient norm "
            f"{np.linalg.norm(self.gradient):.3g}"
        )


@keywords_renamed(n_steps="n_iterations")
def ascend(
    problem: AnyProblem,
    theta: npt.ArrayLike,
    method: Any,
    optimiser: Optimiser,
    *,
    rng: np.random.Generator | int,
    n_iterations: int | None = None,
    progress: bool = False,
) -> Iterator[Iteration]:
    """Climb J from theta, one step at a time.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        Where to start.
    method : Estimator or callable
        Where gradients come from: whatever `check_estimator` takes, so that what was checked can be
        climbed with. What it remembers from step to step is saved with a state.
    optimiser : Optimiser
        How theta moves along them.
    rng : numpy.random.Generator or int
        Source of randomness, or a seed. A generator is copied: what else draws from it does not
        change the ascent, and the ascent does not advance it.
    n_iterations : int, optional
        When to stop; without it the ascent goes on for as long as it is asked to.
    progress : bool
        Whether to show a bar.

    Yields
    ------
    Iteration
        Gradient, and on request the exact objective and gradient; `Iteration.state` can be saved,
        and `resume` goes on from it.

    Raises
    ------
    ValueError
        If theta is not a finite vector that fits the problem, the method cannot be called or is not
        defined for it, or a gradient, its memory or the next theta is not finite; a note has the
        iteration.
    Exception
        What the method raises, with such a note. The last step's state is there to go on from.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem = tb.problems.two_state()
    >>> exact, optimiser = tb.ExactGradient(), tb.Adam(0.1)
    >>> climb = tb.ascend(problem, [0.0, 0.0], exact, optimiser, rng=0, n_iterations=50)
    >>> objectives = [step.objective for step in climb]
    >>> objectives[-1] > objectives[0]
    True

    A function climbs, too, and keeps what it gives back as its memory:

    >>> def averaged(problem, theta, rng, memory):
    ...     exact = tb.hypergradient(problem, theta).gradient
    ...     mean = 0.9 * memory.get("mean", exact) + 0.1 * exact
    ...     return mean, {"mean": mean}
    >>> *_, last = tb.ascend(problem, [0.0, 0.0], averaged, optimiser, rng=0, n_iterations=3)
    >>> list(last.state.memory)
    ['mean']
    """
    start = AscentState.start(theta, rng=rng)
    return resume(problem, start, method, optimiser, n_iterations=n_iterations, progress=progress)


@keywords_renamed(n_steps="n_iterations")
def resume(
    problem: AnyProblem,
    state: AscentState,
    method: Any,
    optimiser: Optimiser,
    *,
    n_iterations: int | None = None,
    progress: bool = False,
) -> Iterator[Iteration]:
    """Go on with an ascent; with the same arguments as before it makes the same steps.

    Parameters
    ----------
    problem : BilevelProblem
        As for `ascend`, like the method and the optimiser.
    state : AscentState
        The state after the last step made.
    method : Estimator or callable
        Where gradients come from.
    optimiser : Optimiser
        How theta moves along them.
    n_iterations : int, optional
        When to stop, counted from the ascent's start.
    progress : bool
        Whether to show a bar.

    Yields
    ------
    Iteration
        The same records as `ascend`.

    Raises
    ------
    ValueError
        As `ascend`.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, method, optimiser = tb.problems.bandit(), tb.ExactGradient(), tb.Adam(0.1)
    >>> *_, whole = tb.ascend(problem, [0.0, 0.0], method, optimiser, rng=0, n_iterations=6)
    >>> *_, half = tb.ascend(problem, [0.0, 0.0], method, optimiser, rng=0, n_iterations=3)
    >>> *_, rest = tb.resume(problem, half.state, method, optimiser, n_iterations=6)
    >>> bool((rest.next_theta == whole.next_theta).all())
    True
    """
    taken = as_estimator(method, name="method")
    require_method("optimiser", optimiser, "step")
    last = None if n_iterations is None else positive_integer("n_iterations", n_iterations)
    steps = climb(problem, state, taken, optimiser, last)
    if not progress:
        return steps
    from tqdm.auto import tqdm

    bar: Iterator[Iteration] = iter(tqdm(steps, total=last, initial=state.iteration))
    return bar


def climb(
    problem: AnyProblem,
    state: AscentState,
    method: Taken,
    optimiser: Optimiser,
    last: int | None,
) -> Iterator[Iteration]:
    """Make the steps of `resume`."""
    generator = generator_at(state.rng)
    theta, memory, optimiser_memory = state.theta, state.memory, state.optimiser_memory
    iteration = state.iteration
    while last is None or iteration < last:
        try:
            estimate = method.at(problem, theta)(generator, memory)
            moved, optimiser_memory = optimiser.step(theta, estimate.gradient, optimiser_memory)
            moved = read_only(finite_array("next theta", moved, theta.shape))
        except Exception as error:
            error.add_note(f"in iteration {iteration}")
            raise
        yield unchecked(
            Iteration,
            iteration=iteration,
            problem=problem,
            theta=theta,
            estimate=estimate,
            next_theta=moved,
            _after=(optimiser_memory, state_of(generator)),
        )
        theta, memory = moved, estimate.memory
        iteration += 1


def part_of(tables: Mapping[str, FloatArray], prefix: str) -> dict[str, FloatArray]:
    """Pick the arrays whose names start with a prefix."""
    return {
        name.removeprefix(prefix): read_only(array)
        for name, array in tables.items()
        if name.startswith(prefix)
    }
