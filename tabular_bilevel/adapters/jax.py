"""JAX: the leader's objective as a function that JAX differentiates, and tables written in JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_theta, positive_integer
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel._base.display import displayed
from tabular_bilevel._base.errors import needed
from tabular_bilevel.adapters._tables import (
    cotangents,
    float64_tables,
    model_of,
    named_tables,
    objective_and_slopes,
    tangent_of,
)
from tabular_bilevel.certify.accuracy import Estimated
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.exact.hypergradient import objective as plain_objective
from tabular_bilevel.kinds import AnyModel, AnySensitivities
from tabular_bilevel.problem import BilevelProblem

with needed("tabular_bilevel.adapters.jax", "JAX", extra="jax"):
    import jax
    import jax.numpy as jnp

__all__ = ["JaxProblem", "objective"]


def objective(problem: BilevelProblem, theta: Any, *, horizon: int | None = None) -> jax.Array:
    """Compute the leader's objective J(theta), differentiable by JAX.

    Its derivative is the hypergradient, an ESTIMATE (exact but for rounding). Works in forward and
    reverse mode, under `jax.jit` and `jax.vmap` (one theta after the other). Objective and gradient
    cost one solve of the follower, in float64 in numpy, whatever dtype JAX uses. There are no
    second derivatives. Double precision should come from ``jax_enable_x64``: JAX runs callbacks in
    threads of its own, where the context manager `jax.enable_x64` does not reach.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem. A `JaxProblem` is differentiated by JAX from theta to the tables, for
        which double precision must be on. No other problem should call JAX: it would do so inside
        a callback, where JAX may hang.
    theta : array_like, shape (d,)
        The leader's parameter.
    horizon : int, optional
        Count the leader's rewards of this many steps only.

    Returns
    -------
    jax.Array, shape ()
        J(theta), in the dtype of theta.

    Raises
    ------
    ValueError
        If theta is not a vector or `horizon` not a positive whole number; for a `JaxProblem`, also
        if theta's length is wrong or JAX's double precision is off.
    jax.errors.JaxRuntimeError
        If the problem refuses theta, which shows only when the callback runs; the last line of the
        message is the error of this package.
    NotImplementedError
        If the gradient is differentiated again.

    Examples
    --------
    >>> import jax
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.adapters.jax import objective
    >>> problem = tb.problems.bandit()
    >>> value, gradient = jax.value_and_grad(objective, argnums=1)(problem, jax.numpy.zeros(2))
    >>> print(value, gradient)
    0.5 [-0.25  0.25]
    """
    theta = jnp.asarray(theta)
    theta = theta.astype(jnp.result_type(theta, float))
    if theta.ndim != 1:
        raise ValueError(f"theta has shape {theta.shape}, not that of a vector")
    if horizon is not None:
        positive_integer("horizon", horizon)
    if isinstance(problem, JaxProblem):
        return problem._objective(theta, horizon).astype(theta.dtype)

    def with_gradient(theta: FloatArray) -> tuple[float, FloatArray]:
        exact = hypergradient(problem, theta, accuracy=Estimated(), horizon=horizon)
        return exact.objective, exact.gradient

    return _differentiable(
        lambda theta: plain_objective(problem, theta, horizon=horizon), with_gradient, theta
    )


@displayed
@dataclass(frozen=True, eq=False)
class JaxProblem:
    """A problem whose tables are written in JAX, and differentiated by JAX.

    `tables` is compiled by `jax.jit`, so it must be a pure function, and called with a float64
    theta, whatever JAX is configured to use elsewhere. Constants that it uses are best numpy
    arrays: a JAX array made outside has single precision unless ``jax_enable_x64`` is on.

    Attributes
    ----------
    base : Model or LinearQuadraticModel
        What `tables` leaves out: discounts, which actions are available, and tables that do not
        depend on theta.
    tables : callable
        Called as ``tables(theta)``; returns a dictionary of any of ``transition``, shape (S, A, S),
        or (nnz,) for the entries that the base stores; ``follower_reward`` and ``leader_reward``,
        shape (S, A); ``initial``, shape (S,); ``temperature``, shape (). What they hold at
        unavailable actions is ignored. Of a linear-quadratic base any of its tables, such as
        ``dynamics``, and of its leader's reward, such as ``leader_reward.constant``.
    n_parameters : int
        Length of theta.

    Raises
    ------
    ValueError
        On construction, if `n_parameters` is not positive.

    Examples
    --------
    A leader who pays a worker at home, and sends workers home with a probability:

    >>> import jax, jax.numpy as jnp
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.adapters.jax import JaxProblem
    >>> def tables(theta):
    ...     pay = jnp.zeros((2, 2)).at[0, 0].set(theta[0])
    ...     home = jax.nn.sigmoid(theta[1])
    ...     work = jnp.array([[home, 1 - home], [0, 0]])
    ...     return {
    ...         "transition": jnp.stack([jnp.eye(2), work]),
    ...         "follower_reward": jnp.array([[0.0, 0.0], [0.5, 0.0]]) + pay,
    ...         "leader_reward": jnp.array([[0.0, 0.0], [1.0, 0.0]]) - pay,
    ...     }
    >>> problem = JaxProblem(tb.problems.two_state().base, tables, 2)
    >>> tb.check_gradient(problem, [0.2, -0.3]).passed
    True
    """

    base: AnyModel = field(repr=False)
    tables: Callable[[Any], Mapping[str, Any]]
    n_parameters: int

    def __post_init__(self) -> None:
        positive_integer("n_parameters", self.n_parameters)

    def model(self, theta: npt.ArrayLike) -> Any:
        """Build the model at theta, as of `BilevelProblem`.

        A ValueError names a table that is not float64, has the wrong shape or is refused by
        `Model.from_tables`.
        """
        theta = as_theta(theta, self.n_parameters)
        with _float64():
            return model_of(self.base, _tables(self, theta))

    def pullback(self, theta: npt.ArrayLike, sensitivities: AnySensitivities) -> FloatArray:
        """Pull back by JAX's vector-Jacobian product, as of `BilevelProblem`."""
        theta = as_theta(theta, self.n_parameters)
        with _float64():
            slopes = cotangents(sensitivities, _tables.eval_shape(self, theta))
            return np.asarray(_pulled_back(self, theta, slopes))

    def pushforward(self, theta: npt.ArrayLike, direction: npt.ArrayLike) -> Any:
        """Push forward by JAX's Jacobian-vector product, as of `ForwardProblem`.

        Raises NotImplementedError if the tables use `jax.custom_vjp`, which has no forward mode.
        """
        theta = as_theta(theta, self.n_parameters)
        direction = as_theta(direction, self.n_parameters, name="direction")
        with _float64():
            try:
                changes = _pushed_forward(self, theta, direction)
            except TypeError as error:
                if "custom_vjp" not in str(error):
                    raise
                raise NotImplementedError("tables(theta) has a derivative backward only") from error
            return tangent_of(self.base, changes)

    def _objective(self, theta: jax.Array, horizon: int | None) -> jax.Array:
        if jnp.result_type(float) != np.float64:
            raise ValueError(
                "the objective of a JaxProblem needs double precision: "
                "jax.config.update('jax_enable_x64', True)"
            )
        if theta.size != self.n_parameters:
            raise ValueError(
                f"theta has shape {theta.shape}, not that of a vector of length {self.n_parameters}"
            )

        def with_slopes(tables: dict[str, FloatArray]) -> tuple[float, dict[str, FloatArray]]:
            return objective_and_slopes(self.base, tables, horizon=horizon)

        tables = _tables(self, theta.astype(np.float64))
        return _differentiable(lambda tables: with_slopes(tables)[0], with_slopes, tables)


def _traced_tables(problem: JaxProblem, theta: jax.Array) -> dict[str, jax.Array]:
    tables = named_tables(problem.base, problem.tables(theta))
    arrays = {name: jnp.asarray(table) for name, table in tables.items()}
    return float64_tables(arrays, np.float64)


# Compiled once a problem: operation by operation JAX takes ten times as long.
_tables = jax.jit(_traced_tables, static_argnums=0)
_pulled_back = jax.jit(
    lambda problem, theta, slopes: jax.vjp(partial(_traced_tables, problem), theta)[1](slopes)[0],
    static_argnums=0,
)
_pushed_forward = jax.jit(
    lambda problem, theta, direction: jax.jvp(
        partial(_traced_tables, problem), (theta,), (direction,)
    )[1],
    static_argnums=0,
)


def _float64() -> Any:
    """Switch JAX to float64 in a with-statement; the name moved out of jax.experimental."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64()


def _differentiable(
    value: Callable[[Any], float], with_gradient: Callable[[Any], tuple[float, Any]], x: Any
) -> jax.Array:
    """Call numpy for J at x, a tree of arrays of one dtype, and for J with its gradient at x.

    The rule is one of forward mode; reverse mode is its transpose, which JAX works out.
    """
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), x)
    number = jax.ShapeDtypeStruct((), jax.tree.leaves(like)[0].dtype)
    function = jax.custom_jvp(lambda x: _numpy(value, number, x))
    slopes = jax.custom_jvp(lambda x: _numpy(with_gradient, (number, like), x))

    def rule(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
        objective, gradient = slopes(*primals)
        moved = jax.tree.map(jnp.vdot, gradient, tangents[0])
        return objective, sum(jax.tree.leaves(moved))

    def refuse(primals: Any, tangents: Any) -> None:
        raise NotImplementedError(
            "objective has no second derivatives: the hypergradient cannot be differentiated"
        )

    function.defjvp(rule)
    slopes.defjvp(refuse)
    return function(x)


def _numpy(function: Callable[[Any], Any], like: Any, x: Any) -> Any:
    def call(x: Any) -> Any:
        result = function(jax.tree.map(np.asarray, x))
        return jax.tree.map(lambda leaf, want: np.asarray(leaf, want.dtype), result, like)

    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), x)
    return jax.pure_callback(call, like, wide, vmap_method="sequential")
