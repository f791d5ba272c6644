"""What a leader's parameter does: theta to a model, and sensitivities back to theta.

`BilevelProblem` is what a newcomer writes: two methods. The folder `problems` has some.
"""

from __future__ import annotations

import re
from typing import Any, Protocol, TypeAlias, TypeGuard, TypeVar, runtime_checkable

import numpy as np

from tabular_bilevel._base.arguments import finite_array
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel._base.files import brief
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.kinds import AnyModel, AnySensitivities
from tabular_bilevel.lq.model import LinearQuadraticModel
from tabular_bilevel.lq.sensitivities import Sensitivities as LinearQuadraticSensitivities

T = TypeVar("T")


class BilevelProblem(Protocol):
    """A leader's problem: tables that depend on theta.

    `pullback` is the vector-Jacobian product of theta -> tables, linear in the sensitivities. It is
    the only thing that both exact and sampled gradients need to know of the parametrisation.

    Bounds of a gradient need the sizes of the derivatives, too. They come from `pullback`, called
    for each table entry, or from `pushforward`, called for each parameter. Where that is too much,
    a problem may have a method ``pullback_bound(theta, sensitivities, bounds)``: it bounds by how
    much `pullback` of sensitivities is off that are off by `bounds`, rounding included, shape (d,).

    Where it has an attribute `parameter_names`, a list or tuple of d strings, reports use them.

    Examples
    --------
    A leader that pays theta[0] for the second of two actions, which earns it 1:

    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> class Bonus:
    ...     base = tb.problems.bandit().base
    ...     def model(self, theta):
    ...         return self.base.with_rewards([[0.0, theta[0]]], [[0.0, 1.0 - theta[0]]])
    ...     def pullback(self, theta, sensitivities):
    ...         follower, leader = sensitivities.follower_reward, sensitivities.leader_reward
    ...         return np.array([follower[0, 1] - leader[0, 1]])
    >>> tb.hypergradient(Bonus(), [0.0]).gradient
    array([-0.25])
    >>> tb.check_gradient(Bonus(), [0.0]).passed
    True
    """

    def model(self, theta: FloatArray) -> Model:
        """Build the follower's model at theta.

        Parameters
        ----------
        theta : ndarray, shape (d,)
            The leader's parameter.

        Returns
        -------
        Model
            The follower's decision process.
        """
        ...

    def pullback(self, theta: FloatArray, sensitivities: Sensitivities) -> FloatArray:
        """Sum over the tables of sensitivity times d(entry)/d(theta).

        Parameters
        ----------
        theta : ndarray, shape (d,)
            The leader's parameter.
        sensitivities : Sensitivities
            Of the model at theta, or of anything linear in its tables.

        Returns
        -------
        ndarray, shape (d,)
            The derivative in theta.
        """
        ...


@runtime_checkable
class ForwardProblem(BilevelProblem, Protocol):
    """A problem that can also move its tables along a direction of theta.

    `pushforward` is the Jacobian-vector product of theta -> tables. It is needed only by the
    independent routes that `check_gradient` compares: forward mode and the complex step.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem = tb.problems.two_state()
    >>> isinstance(problem, tb.ForwardProblem)
    True
    >>> tangent = problem.pushforward([0.0, 0.0], [1.0, 0.0])  # pay more for staying home
    >>> tangent.follower_reward, tangent.leader_reward
    (array([[1., 0.],
           [0., 0.]]), array([[-1.,  0.],
           [ 0.,  0.]]))
    """

    def pushforward(self, theta: FloatArray, direction: FloatArray) -> Tangent:
        """Differentiate the tables along a direction.

        Parameters
        ----------
        theta, direction : ndarray, shape (d,)
            Where, and which way.

        Returns
        -------
        Tangent
            The change of each table.
        """
        ...


class LinearQuadraticProblem(Protocol):
    """A leader's problem with a linear-quadratic follower: two methods, as of `BilevelProblem`.

    What they return and are given is of the other kind. A third method, ``pushforward(theta,
    direction)``, which returns an `lq.Tangent`, is for the independent routes, as in
    `ForwardProblem`.

    Examples
    --------
    A landlord who insulates, at a price; a tenant heats one room that loses heat to the winter:

    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> class Insulation:
    ...     def model(self, theta):
    ...         return tb.LinearQuadraticModel(
    ...             dynamics=[[1.1 - theta[0]]],
    ...             control=[[0.5]],
    ...             state_cost=[[1.0]],
    ...             control_cost=[[0.1]],
    ...             noise=[[0.01]],
    ...             initial_mean=[5.0],
    ...             initial_covariance=[[0.0]],
    ...             follower_discount=0.9,
    ...             leader_discount=0.9,
    ...             temperature=0.1,
    ...             leader_reward=tb.QuadraticReward(
    ...                 state=[[0.0]], control=[[-1.0]], constant=-(theta[0] ** 2)
    ...             ),
    ...         )
    ...     def pullback(self, theta, sensitivities):
    ...         price = -2.0 * theta[0] * sensitivities.leader_reward["constant"]
    ...         return np.array([price - sensitivities.dynamics[0, 0]])
    >>> tb.hypergradient(Insulation(), [0.1]).gradient.round(4)
    array([136.5791])
    >>> tb.check_gradient(Insulation(), [0.1]).passed
    True
    """

    def model(self, theta: FloatArray) -> LinearQuadraticModel:
        """Build the follower's model at theta, shape (d,), as of `BilevelProblem`."""
        ...

    def pullback(
        self, theta: FloatArray, sensitivities: LinearQuadraticSensitivities
    ) -> FloatArray:
        """Pull sensitivities back to theta, as of `BilevelProblem`."""
        ...


#: A leader's problem of either kind.
AnyProblem: TypeAlias = BilevelProblem | LinearQuadraticProblem


def require_problem(problem: object, *, name: str = "problem") -> None:
    """Raise unless it is a leader's problem; the message says what to give instead."""
    if isinstance(problem, type):
        raise ValueError(f"{name} is the class {problem.__name__}, not an instance of it")
    missing = [m for m in ("model", "pullback") if not callable(getattr(problem, m, None))]
    if not missing:
        return
    lacks = f"{name} is {brief(repr(problem))}, which has no method {' and no '.join(missing)}"
    if callable(problem):
        lacks += ": it looks like an estimator, or like a function that makes a problem"
    raise ValueError(lacks)


def model_at(problem: AnyProblem, theta: FloatArray, *, name: str = "problem") -> AnyModel:
    """Build the model at theta, and check that there is a problem, and that it is a model."""
    require_problem(problem, name=name)
    found = problem.model(theta)
    if not isinstance(found, (Model, LinearQuadraticModel)):
        raise ValueError(
            f"{name}.model(theta) is of type {type(found).__name__}, not a Model: make one of "
            "tables by tb.Model.from_tables"
        )
    return found


def modelled(problem: BilevelProblem, theta: FloatArray, *, name: str = "problem") -> Model:
    """Build a model of tables, as `model_at` does."""
    return require_tables(model_at(problem, theta, name=name), name=f"{name}.model(theta)")


def moves_as(problem: object, kind: type[T]) -> TypeGuard[T]:
    """Say whether a problem is of a kind, and none whose methods are others: an heir's may be."""
    methods = ("model", "pullback", "pullback_bound", "pushforward")
    return type(problem) is kind or (
        isinstance(problem, kind)
        and all(getattr(type(problem), name, None) is getattr(kind, name, None) for name in methods)
    )


class TablesOnlyError(ValueError):
    """A linear-quadratic model was given to what is for tables; no fault of an estimator's."""


def require_tables(
    model: AnyModel, *, name: str = "problem.model(theta)", what: str = "this"
) -> Model:
    """Raise unless the model is one of tables."""
    if isinstance(model, Model):
        return model
    raise TablesOnlyError(f"{name} is a {type(model).__name__}: {what} is for tables only")


def pulled_back(
    problem: AnyProblem, theta: FloatArray, sensitivities: AnySensitivities
) -> FloatArray:
    """Pull back and check what came: a finite vector as long as theta."""
    pullback: Any = problem.pullback  # of the sensitivities' kind
    found = pullback(theta, sensitivities)
    if found is None:
        raise ValueError("pullback(...) is None: is its return statement missing?")
    return finite_array("pullback(...)", found, theta.shape)


def with_names(problem: AnyProblem, text: str) -> str:
    """Say behind each ``gradient[k]`` or ``theta[k]`` in a text what the problem calls it."""
    given = getattr(problem, "parameter_names", None)
    names = given if isinstance(given, (list, tuple)) else ()  # not a method, say

    def told(found: re.Match[str]) -> str:
        k = int(found[1])
        return f"{found[0]} ({names[k]})" if k < len(names) else found[0]

    return re.sub(r"(?:gradient|theta)\[(\d+)\]", told, text)


def require_reward_parameters(
    method: str, problem: BilevelProblem, theta: FloatArray, model: Model
) -> None:
    """Raise unless theta moves rewards only, so that nothing is pulled back from the kernel."""
    require_tables(model, what=method)
    probe = np.random.default_rng(0)
    measures = Sensitivities.of(
        model,
        transition=probe.standard_normal(model.transition.nnz),
        initial=probe.standard_normal(model.n_states),
        temperature=1.0,
    )
    if np.any(problem.pullback(theta, measures)):
        raise ValueError(
            f"{method} is defined for parameters of rewards only, and theta moves transitions, "
            "the initial distribution or the temperature"
        )
