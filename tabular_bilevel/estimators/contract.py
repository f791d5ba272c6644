"""The contract of estimators: whatever form somebody wrote one in, it is made to fit here.

Three forms are told apart by the names of their parameters, of a function or of an object's
``__call__``; the fourth is an object with two attributes and no ``__call__``::

    estimator(problem, theta, rng)    sees everything, draws its own data
    estimator(view, rng)              sees what a leader may, draws data by view.sample
    estimator(view, batch)            sees what a leader may, and maps data to a gradient
    estimator.estimate(experience)    of what its estimator.interaction gathers

They return d numbers, of NumPy, JAX or PyTorch, or what has them as its ``gradient``, such as an
`Estimate`. The third may also return one gradient a trajectory, shape (n, d), whose mean is the
estimate; that is the form that can be enumerated fast.

What goes on from call to call, such as a critic's table, is a memory: names and arrays of finite
numbers. A form with one parameter more, ``memory``, is given what the call before gave back (at
first an empty mapping; it may only be read), and returns ``(gradient, memory)``, or an `Estimate`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import (
    all_finite,
    as_array,
    as_generator,
    as_theta,
    entry,
    finite_array,
    first,
    keeps_up,
    require_method,
    require_real_dtype,
)
from tabular_bilevel._base.arrays import FloatArray, changed, read_only
from tabular_bilevel._base.display import displayed
from tabular_bilevel._base.files import brief
from tabular_bilevel._base.frames import defined_at
from tabular_bilevel.estimators.estimate import Estimate
from tabular_bilevel.estimators.given_trajectories import GivenTrajectories
from tabular_bilevel.finite.follower import solve_follower
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problem import BilevelProblem, modelled
from tabular_bilevel.sampling.experience import NOTHING, Memory, require_memory
from tabular_bilevel.sampling.samplers import Episodes, Sampler
from tabular_bilevel.sampling.trajectories import Trajectories
from tabular_bilevel.sampling.view import Batch, LeaderView, Precision, as_numpy, is_bfloat16

FORMS = "(problem, theta, rng), (view, rng) or (view, batch)"

# Names in a memory are written to files: so many at most, of so many characters.
MOST_NAMES, LONGEST_NAME = 500, 200


class Enumerable(Protocol):
    """An estimator at one theta, made ready to be given trajectories."""

    @property
    def model(self) -> Model:
        """What trajectories come from."""
        ...

    @property
    def policy(self) -> FloatArray:
        """What the follower does in it, shape (S, A)."""
        ...

    @property
    def asked(self) -> tuple[str, ...] | None:
        """What it asked of its view; None if it does not go by one."""
        ...

    def estimate(self, sample: Trajectories) -> Any:
        """Estimate: d numbers, or one gradient a trajectory."""
        ...


@displayed
class AtTheta:
    """An estimator at one theta, to be called often: what all calls share is made once.

    Its `view` is None if it sees everything; `precision` is that of what it returned so far.
    """

    def __init__(
        self,
        given: Any,
        theta: FloatArray,
        call: Callable[[np.random.Generator, Memory], Estimate],
        *,
        view: LeaderView | None = None,
    ) -> None:
        self.view, self.precision = view, Precision()
        self._given, self._theta, self._call = given, theta, call

    def __call__(self, rng: np.random.Generator, memory: Memory = NOTHING) -> Estimate:
        """Make one call, and check what it returns; what it raises has a note that says where."""
        try:
            found = self._call(rng, MappingProxyType(memory))
            gradient, memory = self._read(found.gradient), as_memory(found.memory)
            return changed(found, gradient=gradient, memory=memory)
        except Exception as error:
            error.add_note(f"in {self._where()}")
            raise

    def _read(self, gradient: Any) -> FloatArray:
        if is_frozen(gradient) and gradient.shape == self._theta.shape:
            return gradient  # type: ignore[no-any-return]
        require_something(gradient)
        self.precision.note(gradient)
        numbers = as_numpy(gradient)
        require_real_dtype("estimate", numbers.dtype)
        return read_only(finite_array("estimate", numbers, self._theta.shape))

    @property
    def place(self) -> str:
        """Where somebody's code of it begins: file and line; nothing of the package's own."""
        return defined_at(self._given)

    def _where(self) -> str:
        name = getattr(self._given, "__qualname__", type(self._given).__qualname__)
        theta = np.array2string(self._theta, threshold=8, max_line_width=10_000)
        return f"a call of {brief(name)} at theta = {theta}"


def _at_once(
    self: Any,
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    *,
    rng: np.random.Generator | int,
    memory: Memory = NOTHING,
) -> Estimate:
    """Estimate, as of `Estimator`."""
    ready: AtTheta = self.at(problem, theta)
    return ready(as_generator(rng), as_memory(memory))


@dataclass(frozen=True)
class BatchEstimator:
    """An estimator made of a function that maps data to a gradient.

    Attributes
    ----------
    function : callable
        Called as ``function(view, batch)``; returns d numbers, or one gradient a trajectory. With a
        parameter ``memory`` it is given that, too, and returns a pair ``(gradient, memory)``.
    sampler : Sampler
        How much data, and where trajectories are cut. Not one that cuts by chance, unless the
        function divides by ``batch.survival ** t``.

    Raises
    ------
    ValueError
        If the function cannot be called so: on construction.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> def direct_term(view, batch):
    ...     weight = view.leader_discount ** np.arange(batch.states.shape[1]) * batch.mask
    ...     slope = view.jacobian.leader_reward[batch.states, batch.actions]
    ...     return (weight[..., None] * slope).sum(axis=1)  # a gradient a trajectory
    >>> problem, theta = tb.problems.four_rooms(), [0.0] * 105
    >>> tb.BatchEstimator(direct_term, tb.Episodes(20))(problem, theta, rng=0).gradient.shape
    (105,)
    """

    function: Callable[..., Any]
    sampler: Sampler = Episodes(100)

    def __post_init__(self) -> None:
        _Function.taking("function", self.function, "(view, batch)")
        require_method("sampler", self.sampler, "sample")

    __call__ = _at_once

    def at(self, problem: Any, theta: npt.ArrayLike) -> AtTheta:
        """Make it ready to be called at one theta."""
        view, function = LeaderView(problem, theta), _Function.of(self.function)

        def call(rng: np.random.Generator, memory: Memory) -> Estimate:
            batch = view.draw(self.sampler, rng)
            found = function(view, batch, memory=memory)
            return replace(
                found,
                gradient=_mean(found.gradient, batch.lengths.size),
                n_trajectories=batch.lengths.size,
                n_steps=int(batch.lengths.sum()),
            )

        return AtTheta(self.function, view.theta, call, view=view)

    def enumerable(self, problem: BilevelProblem, theta: npt.ArrayLike) -> Enumerable:
        """Make it ready to be given trajectories, not those of its sampler."""
        return _OfView(self.function, problem, as_theta(theta))


@dataclass(frozen=True)
class SamplingEstimator:
    """An estimator made of a function that draws its own data by `LeaderView.sample`.

    Attributes
    ----------
    function : callable
        Called as ``function(view, rng)``; returns d numbers. With a parameter ``memory`` it is
        given that, too, and returns a pair ``(gradient, memory)``.

    Raises
    ------
    ValueError
        If the function cannot be called so: on construction.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> def direct_part(view, rng):
    ...     batch = view.sample(50, steps=1, rng=rng)
    ...     slope = view.jacobian.leader_reward[batch.states[:, 0], batch.actions[:, 0]]
    ...     return slope.mean(axis=0)
    >>> tb.SamplingEstimator(direct_part)(tb.problems.two_state(), [0.0, 0.0], rng=0).gradient.shape
    (2,)
    """

    function: Callable[..., Any]

    def __post_init__(self) -> None:
        _Function.taking("function", self.function, "(view, rng)")

    __call__ = _at_once

    def at(self, problem: Any, theta: npt.ArrayLike) -> AtTheta:
        """Make it ready to be called at one theta."""
        view, function = LeaderView(problem, theta), _Function.of(self.function)

        def call(rng: np.random.Generator, memory: Memory) -> Estimate:
            return function(view, rng, memory=memory)

        return AtTheta(self.function, view.theta, call, view=view)


@displayed
@dataclass(frozen=True)
class Whole:
    """An estimator that sees everything: a method of this package, or what is called like one.

    Called as ``function(problem, theta, rng=rng)``.
    """

    function: _Function

    @property
    def sampler(self) -> Any:
        """Its sampler, if it has one."""
        return getattr(self.function.function, "sampler", None)

    def at(self, problem: Any, theta: npt.ArrayLike) -> AtTheta:
        """Make it ready to be called at one theta."""
        theta = read_only(as_theta(theta))

        def call(rng: np.random.Generator, memory: Memory) -> Estimate:
            return self.function(problem, theta, rng=rng, memory=memory)

        return AtTheta(self.function.function, theta, call)


Taken = BatchEstimator | SamplingEstimator | Whole


def as_estimator(estimator: Any, *, name: str = "estimator") -> Taken:
    """Take an estimator in any form, and give it a method ``at(problem, theta)``.

    All that call one begin here. Messages call it `name`. Raises ValueError if it is a class,
    cannot be called, or its parameters have other names.
    """
    if isinstance(estimator, type):
        raise ValueError(f"{name} is the class {estimator.__name__}, not an instance of it")
    made = isinstance(estimator, (BatchEstimator, SamplingEstimator))
    if made and keeps_up(estimator, "at", "__call__"):  # an heir may be called otherwise
        return estimator  # type: ignore[no-any-return]
    if not callable(estimator):
        if not _is_for_experience(estimator):
            what = "is a problem" if hasattr(estimator, "pullback") else "cannot be called"
            raise ValueError(f"{name} is {brief(repr(estimator))}, which {what}")
        return Whole(_Function.of(_OfExperience(estimator)))
    try:
        names = tuple(inspect.signature(estimator).parameters)
    except (TypeError, ValueError) as error:  # some that are compiled do not tell
        raise ValueError(f"{name} is {estimator!r}, whose parameters are not known") from error
    if names[:2] == ("view", "batch"):
        _Function.taking(name, estimator, FORMS)
        return BatchEstimator(estimator)
    if names[:2] == ("view", "rng"):
        _Function.taking(name, estimator, FORMS)
        return SamplingEstimator(estimator)
    if names[:2] == ("problem", "theta"):
        return Whole(_Function.taking(name, estimator, FORMS, "rng"))
    raise _misfit(name, names, FORMS)


def as_enumerable(estimator: Any, problem: BilevelProblem, theta: npt.ArrayLike) -> Enumerable:
    """Take an estimator that can be given trajectories, and make it ready for them at theta.

    It has a method ``enumerable(problem, theta)``, as the package's, is a function ``(view,
    batch)``, or estimates from experience. Raises ValueError as `as_estimator`, or if it draws its
    own data.
    """
    taken = as_estimator(estimator)
    if isinstance(taken, BatchEstimator):
        return taken.enumerable(problem, theta)
    kind = type(estimator)
    way = "enumerable" if hasattr(kind, "enumerable") else "estimate"
    if hasattr(kind, way) and not keeps_up(estimator, way, "__call__"):
        raise ValueError(
            f"estimator is {brief(repr(estimator))}, whose __call__ is newer than its {way}: to be "
            "run on all trajectories it needs both"
        )
    if callable(getattr(estimator, "enumerable", None)):
        found: Enumerable = estimator.enumerable(problem, theta)
        return found
    if _is_for_experience(estimator):
        return _OfExperience(estimator).enumerable(problem, theta)
    raise ValueError(
        f"estimator is {estimator!r}, which draws its own data; to be run on all trajectories "
        "it must take them: a function (view, batch)"
    )


def as_memory(memory: Any, *, name: str = "memory") -> dict[str, npt.NDArray[Any]]:
    """Copy a memory as read-only arrays of the same dtypes, which can be saved.

    Raises ValueError unless it holds arrays of finite numbers, of NumPy, JAX or PyTorch, by names.
    """
    require_memory(memory, name=name)
    if len(memory) > MOST_NAMES:
        raise ValueError(f"{name} has {len(memory):,} names, more than {MOST_NAMES}")
    checked = {}
    for key, value in memory.items():
        if not (isinstance(key, str) and key.isprintable() and 0 < len(key) <= LONGEST_NAME):
            raise ValueError(
                f"{name} has the name {brief(repr(key))}, not a string of 1 to {LONGEST_NAME} "
                "printable characters"
            )
        checked[key] = value if is_frozen(value) else _remembered(f"{name}.{key}", value)
    return checked


def is_frozen(value: Any) -> bool:
    """Say whether it is an array of finite float64 that nobody can write to, nor need copy."""
    if type(value) is not np.ndarray or value.dtype != np.float64:
        return False
    flags = value.flags
    return flags.owndata and not flags.writeable and flags.c_contiguous and all_finite(value)


def _remembered(name: str, value: Any) -> npt.NDArray[Any]:
    array = as_array(name, as_numpy(value))
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(f"{name} is no array of real numbers, but of dtype {array.dtype}")
    bad = ~np.isfinite(array)
    if bad.any():
        index = first(bad)
        raise ValueError(f"{entry(name, index)} is {array[index]}, not a finite number")
    return read_only(np.array(array, order="C"))


@dataclass(frozen=True)
class _Function:
    """Somebody's function, or an object that can be called, and how it takes a memory.

    With a parameter of this name it `remembers`, and returns a pair. What takes whatever it is
    given by name `passes_on`: what gave a memory back may have it again.
    """

    function: Callable[..., Any]
    remembers: bool
    passes_on: bool

    @classmethod
    def of(cls, function: Callable[..., Any]) -> _Function:
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):  # some that are compiled do not tell
            return cls(function, remembers=False, passes_on=False)
        kinds = {parameter.kind for parameter in parameters.values()}
        return cls(
            function,
            remembers="memory" in parameters,
            passes_on=inspect.Parameter.VAR_KEYWORD in kinds,
        )

    @classmethod
    def taking(cls, name: str, function: Any, forms: str, *keywords: str) -> _Function:
        """Make one of what takes two arguments, those by name, and perhaps a memory."""
        if isinstance(function, type) or not callable(function):
            raise ValueError(f"{name} is {brief(repr(function))}, which cannot be called")
        found = cls.of(function)
        if found.remembers:
            keywords = (*keywords, "memory")
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            return found
        try:
            signature.bind(0, 1, **dict.fromkeys(keywords))
        except TypeError as error:
            raise _misfit(name, tuple(signature.parameters), forms) from error
        return found

    def __call__(self, *given: Any, memory: Memory, **named: Any) -> Estimate:
        """Call it, and take apart what it returns; that is not looked at here."""
        if self.remembers or (self.passes_on and memory):
            named["memory"] = memory
        found = self.function(*given, **named)
        if isinstance(found, Estimate):
            return found
        if hasattr(found, "gradient"):
            return Estimate(found.gradient, memory=getattr(found, "memory", NOTHING))
        if not self.remembers:
            return Estimate(found)
        require_something(found)
        if not (isinstance(found, tuple) and len(found) == 2):
            raise ValueError(
                f"estimate is of type {type(found).__name__}, not a pair (gradient, memory), which "
                "an estimator with a parameter 'memory' returns"
            )
        return Estimate(found[0], memory=found[1])


def _misfit(name: str, parameters: tuple[str, ...], forms: str) -> ValueError:
    return ValueError(
        f"{name} has the parameters ({', '.join(parameters)}), not {forms}; one more, memory, is "
        "for what goes on from call to call"
    )


def require_something(returned: Any) -> None:
    """Raise if a function returned None, as one does that ends without a return statement."""
    if returned is None:
        raise ValueError("it returned None, not a gradient: is its return statement missing?")


def _mean(found: Any, n_trajectories: int) -> Any:
    """Of one gradient a trajectory, the mean."""
    require_something(found)
    rows = as_numpy(found)
    if rows.ndim != 2:
        return found
    if len(rows) != n_trajectories:
        raise ValueError(
            f"estimate has shape {rows.shape}, but there are {n_trajectories} trajectories"
        )
    return found.mean(axis=0) if is_bfloat16(found) else rows.mean(axis=0)


class _OfView:
    """A function of a view and a batch, to be given trajectories; its memory is empty."""

    def __init__(
        self, function: Callable[..., Any], problem: BilevelProblem, theta: FloatArray
    ) -> None:
        self.model = modelled(problem, theta)
        response = solve_follower(self.model)
        self.policy = response.policy
        self._function = _Function.of(function)
        self._view = LeaderView(problem, theta, response=response)

    @property
    def asked(self) -> tuple[str, ...]:
        return self._view.asked

    def estimate(self, sample: Trajectories) -> Any:
        found = self._function(self._view, Batch.of(sample), memory=NOTHING)
        require_something(found.gradient)
        as_memory(found.memory)
        return found.gradient


# ---------------------------------------------------------------- from experience


def _is_for_experience(estimator: Any) -> bool:
    return callable(getattr(estimator, "estimate", None)) and hasattr(estimator, "interaction")


@dataclass(frozen=True)
class _OfExperience:
    """What estimates from the experience that its own interaction gathers."""

    given: Any

    @property
    def sampler(self) -> Any:
        return self.given.interaction.sampler

    def __call__(
        self,
        problem: BilevelProblem,
        theta: FloatArray,
        *,
        rng: np.random.Generator,
        memory: Memory,
    ) -> Any:
        experience = self.given.interaction.gather(problem, theta, rng=rng, memory=memory)
        found = self.given.estimate(experience)
        return found if hasattr(found, "gradient") else (found, experience.memory)

    def enumerable(self, problem: BilevelProblem, theta: npt.ArrayLike) -> Enumerable:
        estimate = _Function(self.given.estimate, remembers=False, passes_on=False)
        return GivenTrajectories.of(
            self.given.interaction.limit(problem, theta),
            self.given.interaction.critic,
            lambda experience: estimate(experience, memory=NOTHING),
        )
