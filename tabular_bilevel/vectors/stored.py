"""A vector's tables as a problem, so that all of the package can be used on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base.arguments import as_entries
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.exact.hypergradient import hypergradient
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.vectors.load_vectors import TABLES, Vector

#: What has a derivative in each parameter.
MOVED = (*TABLES, "temperature")


@dataclass(frozen=True, eq=False)
class StoredProblem:
    """Tables at one theta, with their derivatives there; a `ForwardProblem` at that theta alone.

    Attributes
    ----------
    tables : Model
        The model.
    follower_reward, leader_reward : ndarray, shape (d, S, A)
        Derivatives of the rewards.
    transition : ndarray, shape (d, nnz)
        Derivatives of the kernel's entries.
    initial : ndarray, shape (d, S)
        Derivatives of the initial distribution.
    temperature : ndarray, shape (d,)
        Derivatives of the temperature.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from tabular_bilevel import vectors
    >>> with TemporaryDirectory() as folder:
    ...     recipes = list(vectors.write_vectors(folder, vectors.Plan(("closed-form",), count=1)))
    ...     loaded = vectors.load_vectors(folder)
    >>> import tabular_bilevel as tb
    >>> problem, theta = vectors.StoredProblem.of(loaded[0]), loaded[0].theta
    >>> problem.n_parameters == theta.size, tb.check_gradient(problem, theta).comparisons[0].passed
    (True, True)
    """

    tables: Model
    follower_reward: FloatArray = field(repr=False)
    leader_reward: FloatArray = field(repr=False)
    transition: FloatArray = field(repr=False)
    initial: FloatArray = field(repr=False)
    temperature: FloatArray = field(repr=False)

    @classmethod
    def of(cls, vector: Vector) -> StoredProblem:
        """Take a vector's tables.

        Parameters
        ----------
        vector : Vector
            What the loader made; entries of the kernel in any order.

        Returns
        -------
        StoredProblem
            A problem at that theta alone.

        Raises
        ------
        ValueError
            If its tables are no model's, or its derivatives do not fit them.
        """
        n_states, n_actions = vector.follower_reward.shape
        parts = vector.transition_data, vector.transition_indices, vector.transition_indptr
        kernel = sp.csr_array(parts, shape=(n_states * n_actions, n_states))
        _, (rows, columns) = as_entries("transition", kernel)
        order = np.lexsort((columns, rows))  # the model's, which the derivatives follow
        twice = (np.diff(rows[order]) == 0) & (np.diff(columns[order]) == 0)
        if twice.any():
            k = order[int(np.argmax(twice))]
            raise ValueError(f"transition has column {columns[k]} of row {rows[k]} twice")
        tables = Model.from_tables(
            transition=kernel,
            follower_reward=vector.follower_reward,
            leader_reward=vector.leader_reward,
            initial=vector.initial,
            termination=vector.termination,
            available=vector.available,
            follower_discount=vector.follower_discount,
            leader_discount=vector.leader_discount,
            temperature=vector.temperature,
        )
        shapes: dict[str, Any] = {
            "follower_reward": (n_states, n_actions),
            "leader_reward": (n_states, n_actions),
            "transition": tables.transition.data.shape,
            "initial": (n_states,),
            "temperature": (),
        }
        changes = {name: getattr(vector, f"tangent_{name}") for name in shapes}
        for name, change in changes.items():
            wanted = (vector.theta.size, *shapes[name])
            if change.shape != wanted or not np.isfinite(change).all():
                raise ValueError(f"tangent_{name} is no finite table of shape {wanted}")
        changes["transition"] = changes["transition"][:, order]
        return cls(tables, **changes)

    @property
    def n_parameters(self) -> int:
        """Length of theta."""
        return len(self.initial)

    def model(self, theta: FloatArray) -> Model:
        """Return the tables, whatever theta is."""
        return self.tables

    def pullback(self, theta: FloatArray, sensitivities: Sensitivities) -> FloatArray:
        """Sum sensitivity times derivative over the tables, shape (d,)."""
        return np.asarray(
            np.tensordot(self.follower_reward, sensitivities.follower_reward, 2)
            + np.tensordot(self.leader_reward, sensitivities.leader_reward, 2)
            + self.transition @ sensitivities.transition
            + self.initial @ sensitivities.initial
            + self.temperature * sensitivities.temperature
        )

    def pushforward(self, theta: FloatArray, direction: FloatArray) -> Tangent:
        """Differentiate the tables along a direction."""
        tables = {name: np.tensordot(direction, getattr(self, name), 1) for name in TABLES}
        return Tangent(**tables, temperature=float(direction @ self.temperature))


def reference_gradient(vector: Vector) -> tuple[float, FloatArray]:
    """Compute a vector's objective and gradient in float64, with `tb.hypergradient`.

    Parameters
    ----------
    vector : Vector
        What the loader made.

    Returns
    -------
    objective : float
        J.
    gradient : ndarray, shape (d,)
        dJ/dtheta.

    Raises
    ------
    ValueError
        If its tables are no model's.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from tabular_bilevel import vectors
    >>> with TemporaryDirectory() as folder:
    ...     recipes = list(vectors.write_vectors(folder, vectors.Plan(("closed-form",), count=1)))
    ...     loaded = vectors.load_vectors(folder)
    >>> objective, gradient = vectors.reference_gradient(loaded[0])
    >>> bool(abs(gradient - loaded[0].gradient).max() < 1e-9)
    True
    """
    result = hypergradient(StoredProblem.of(vector), vector.theta)
    return result.objective, result.gradient
