"""What every estimator is, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arrays import FloatArray, read_only, restore_read_only, unchecked
from tabular_bilevel._base.display import displayed
from tabular_bilevel._base.renamed import method_renamed
from tabular_bilevel.certify.accuracy import Estimated
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.kinds import AnyModel, AnyResponse, AnySensitivities
from tabular_bilevel.lq.trajectories import Trajectories as TrajectoriesOfStates
from tabular_bilevel.problem import AnyProblem, BilevelProblem, pulled_back
from tabular_bilevel.sampling.experience import FOLLOWER_VALUE, NOTHING, Experience, Memory
from tabular_bilevel.sampling.trajectories import Trajectories


@displayed
@dataclass(frozen=True, eq=False)
class Parts:
    """A gradient's two parts: measures, which the problem as it then is pulls back when asked.

    Attributes
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : ndarray, shape (d,)
        Where the gradient is taken.
    direct_measures, indirect_measures : Sensitivities
        Sensitivities with the follower's policy held fixed, and through it.
    """

    problem: AnyProblem = field(repr=False)
    theta: FloatArray = field(repr=False)
    direct_measures: Any
    indirect_measures: Any

    def pulled_back(self) -> FloatArray:
        """Pull their sum back, shape (d,)."""
        whole = self.direct_measures + self.indirect_measures
        return read_only(pulled_back(self.problem, self.theta, whole))

    @cached_property
    def direct(self) -> FloatArray:
        """The part with the follower's policy held fixed, shape (d,)."""
        return read_only(pulled_back(self.problem, self.theta, self.direct_measures))

    @cached_property
    def indirect(self) -> FloatArray:
        """The part through the follower's policy, shape (d,)."""
        return read_only(pulled_back(self.problem, self.theta, self.indirect_measures))


@dataclass(frozen=True, eq=False)
class Estimate:
    """An estimated hypergradient.

    Attributes
    ----------
    gradient : ndarray, shape (d,)
        The estimate.
    model : Model or None
        The follower's model at theta; None of an estimate that somebody else's code made.
    response : Response or None
        The follower's response to it, likewise.
    memory : mapping of str to ndarray
        To be given to the next call, at a theta nearby.
    n_trajectories, n_steps : int
        Size of the sample behind it; 0 for an estimate from the model.
    parts : Parts or None
        The direct and the indirect part, for a method that estimates them apart.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> method = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(50, steps=1)))
    >>> estimate = method(tb.problems.bandit(), [0.0, 0.0], rng=0)
    >>> estimate.n_trajectories, estimate.n_steps, sorted(estimate.memory)
    (50, 50, ['follower_value', 'leader_action_value'])
    >>> parts = estimate.parts
    >>> bool(abs(parts.direct + parts.indirect - estimate.gradient).max() < 1e-12)
    True
    """

    gradient: FloatArray
    model: AnyModel | None = field(default=None, repr=False)
    response: AnyResponse | None = field(default=None, repr=False)
    memory: Memory = field(default_factory=dict, repr=False)
    n_trajectories: int = 0
    n_steps: int = 0
    parts: Parts | None = field(default=None, repr=False)

    __setstate__ = restore_read_only

    @classmethod
    def traced(
        cls, experience: Experience, direct: AnySensitivities, indirect: AnySensitivities
    ) -> Estimate:
        """Make an estimate of both parts' measures that some experience gave.

        Of a law, it is what estimates come to.
        """
        parts = unchecked(
            Parts,
            problem=experience.problem,
            theta=experience.theta,
            direct_measures=direct,
            indirect_measures=indirect,
        )
        seen = experience.seen
        counts = (0, 0)
        if isinstance(seen, Trajectories):
            counts = seen.count, seen.pairs.size
        elif isinstance(seen, TrajectoriesOfStates):
            counts = seen.count, seen.n_steps
        return unchecked(
            cls,
            gradient=parts.pulled_back(),
            model=experience.planned,
            response=experience.response,
            memory=experience.memory,
            n_trajectories=counts[0],
            n_steps=counts[1],
            parts=parts,
        )

    sampled = classmethod(method_renamed("sampled", "traced"))

    @classmethod
    def modelled(cls, parts: Parts, model: AnyModel, response: AnyResponse) -> Estimate:
        """Make an estimate of parts that come from the model, not from a sample."""
        return cls(
            gradient=parts.pulled_back(),
            model=model,
            response=response,
            memory={FOLLOWER_VALUE: response.value},
            parts=parts,
        )

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Be the gradient where numpy needs an array."""
        return np.array(self.gradient, dtype=dtype, copy=copy)

    def __str__(self) -> str:
        source = (
            f"from {self.n_trajectories} trajectories of {self.n_steps} steps in all"
            if self.n_trajectories
            else "from the model"
        )
        norm = np.linalg.norm(self.gradient)
        return f"Estimate: {self.gradient.size} parameters, norm {norm:.6g}, {source}"


class Estimator(Protocol):
    """A method for the hypergradient; its settings are its fields.

    Examples
    --------
    One of your own, which averages another's estimates:

    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> class Averaged:
    ...     def __init__(self, method, times):
    ...         self.method, self.times = method, times
    ...     def __call__(self, problem, theta, *, rng, memory={}):
    ...         rng = np.random.default_rng(rng)
    ...         found = [self.method(problem, theta, rng=rng).gradient for _ in range(self.times)]
    ...         return tb.Estimate(np.mean(found, axis=0))
    ...     def target(self, problem, theta):
    ...         return self.method.target(problem, theta)
    >>> method = Averaged(tb.ZeroOrder(radius=0.01), 5)
    >>> method(tb.problems.bandit(), [0.0, 0.0], rng=0).gradient.shape
    (2,)
    >>> method.target(tb.problems.bandit(), [0.0, 0.0]).round(4)
    array([-0.25,  0.25])
    """

    def __call__(
        self,
        problem: BilevelProblem,
        theta: npt.ArrayLike,
        *,
        rng: np.random.Generator | int,
        memory: Memory = NOTHING,
    ) -> Estimate:
        """Estimate the gradient at theta.

        What goes on from call to call, such as a critic's table, starts from `memory`, that of an
        estimate before.

        Parameters
        ----------
        problem : BilevelProblem
            The leader's problem.
        theta : array_like, shape (d,)
            The leader's parameter.
        rng : numpy.random.Generator or int
            Source of randomness (it advances), or a seed.
        memory : mapping of str to ndarray
            What an earlier estimate left, at a theta nearby.

        Returns
        -------
        Estimate
            The estimate; its `memory` is for the next call.
        """
        ...

    def target(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute what the estimates' mean comes to with infinite data.

        Parameters
        ----------
        problem : BilevelProblem
            The leader's problem.
        theta : array_like, shape (d,)
            The leader's parameter.

        Returns
        -------
        ndarray, shape (d,)
            The mean.
        """
        ...


def bias_of(self: Estimator, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
    """Compute what no amount of data cures: the target less the exact hypergradient.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.

    Returns
    -------
    ndarray, shape (d,)
        The bias.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> walks = tb.Interaction(tb.Episodes(1, 20))
    >>> bias = tb.BoltzmannCovariance(walks).bias(tb.problems.two_state(), [0.2, -0.3])
    >>> bias.round(4)
    array([0.0472, 0.0074])
    """
    exact = hypergradient(problem, theta, accuracy=Estimated()).gradient
    return np.asarray(self.target(problem, theta) - exact)
