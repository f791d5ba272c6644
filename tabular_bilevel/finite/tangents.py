"""The derivative of a model's tables with respect to theta: sparse matrices, a column a parameter.

With J these matrices, a gradient is J^T measures, and errors of the measures reach |J|^T errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from tabular_bilevel._base import kernels
from tabular_bilevel._base.arrays import (
    ROUNDOFF,
    FloatArray,
    IntArray,
    quiet,
    read_only_matrix,
    read_only_view,
    restore_read_only,
)
from tabular_bilevel._base.display import displayed
from tabular_bilevel.finite.model import Model, Tangent
from tabular_bilevel.finite.sensitivities import Sensitivities, SensitivityBounds, both_rewards

#: The tables that theta may move, in the order of `Tangent`.
MOVED = ("follower_reward", "leader_reward", "transition", "initial", "temperature")

# Roundings of a pulled back number but for those of its sum: two of centring, three of the parts'.
PULLBACK_ROUNDINGS = 8.0


@displayed
@dataclass(frozen=True, eq=False)
class Tangents:
    """Derivatives of a model's tables in each of d parameters; iterating gives `Tangent` objects.

    Of each table a sparse matrix with a column a parameter: rewards (S*A, d), stored transitions
    (nnz, d), initial (S, d) and temperature (1, d). Where the parameters of a block move by changes
    that add up to 0, what its columns share drops out: `block` is for each column the first of its
    block. `given` says in words what the entries are trusted to be; empty if they follow from
    formulas.
    """

    model: Model = field(repr=False)
    follower_reward: sp.csr_array = field(repr=False)
    leader_reward: sp.csr_array = field(repr=False)
    transition: sp.csr_array = field(repr=False)
    initial: sp.csr_array = field(repr=False)
    temperature: sp.csr_array = field(repr=False)
    block: IntArray | None = field(default=None, repr=False)
    given: str = ""

    __setstate__ = restore_read_only

    @classmethod
    def of(cls, model: Model, n_parameters: int, **slots: Any) -> Tangents:
        """Make tangents of matrices that this object may own; those left out are 0."""
        sizes = (model.follower_reward.size,) * 2 + (model.transition.nnz, model.n_states, 1)
        for name, size in zip(MOVED, sizes, strict=True):
            given = slots.get(name)
            matrix = sp.csr_array((size, n_parameters)) if given is None else sp.csr_array(given)
            if not matrix.has_canonical_format:
                matrix = matrix.copy()
                matrix.sum_duplicates()
            slots[name] = read_only_matrix(matrix)
        return cls(model, **slots)

    @classmethod
    def stacked(
        cls, model: Model, n_parameters: int, columns: Iterable[Tangent], given: str
    ) -> Tangents:
        """Make tangents of one `Tangent` a parameter; no more than one is in memory as it is."""
        kept: dict[str, list[tuple[FloatArray, IntArray]]] = {name: [] for name in MOVED}
        for column in columns:
            for name, parts in kept.items():
                table = np.asarray(getattr(column, name)).reshape(-1)
                (places,) = table.nonzero()
                parts.append((table[places], places))
        tables = {}
        for name, parts in kept.items() if n_parameters else ():
            sizes = [places.size for _, places in parts]
            data, places = (np.concatenate(both) for both in zip(*parts, strict=True))
            columns_of = np.repeat(np.arange(n_parameters), sizes)
            tables[name] = sp.csr_array(
                (data, (places, columns_of)), shape=(np.size(getattr(column, name)), n_parameters)
            )
        return cls.of(model, n_parameters, **tables, given=given)

    def __len__(self) -> int:
        return int(self.initial.shape[1])

    def __iter__(self) -> Iterator[Tangent]:
        for k in range(len(self)):
            yield self._tangent(lambda name, k=k: getattr(self, name)[:, [k]].toarray())

    @quiet
    def dot(self, measures: Sensitivities) -> FloatArray:
        """Pull measures back to theta: J^T measures, shape (d,)."""
        gradient = np.zeros(len(self))
        for name, columns in self._columns.items():
            add_product(columns, _flat(measures, name), gradient)
        return gradient

    @quiet
    def size(self, measures: Sensitivities) -> FloatArray:
        """Add up the sizes of what `dot` adds up, shape (d,)."""
        size = np.zeros(len(self))
        for name, columns in self._columns.items():
            size += abs(columns) @ np.abs(_flat(measures, name))
        return size

    @quiet
    def along(self, direction: FloatArray) -> Tangent:
        """Differentiate the tables along a direction of theta, shape (d,): J direction."""
        return self._tangent(lambda name: product(getattr(self, name), direction))

    @quiet
    def bounded_dot(
        self, measures: Sensitivities, bounds: SensitivityBounds
    ) -> tuple[FloatArray, FloatArray]:
        """Compute `dot`, and how far it is off if measures are by at most `bounds`, both (d,).

        That is |J|^T bounds, in which what the entries of a distribution share counts with the
        change of the distribution's mass only, and the rounding of `dot`. The bound's own rounding
        is left to the caller.
        """
        pulled = np.zeros(len(self))
        reach = pulled.copy()
        for name, columns in self._columns.items():
            slopes, errors = _flat(measures, name), _flat(bounds, name)
            _add(columns, slopes, errors, PULLBACK_ROUNDINGS, pulled, reach)
        for name, mass in self._masses.items():
            shift = np.ravel(getattr(bounds, f"{name}_shift"))
            if shift.any():
                _add(mass, np.zeros(shift.size), shift, 0.0, pulled, reach)
        return pulled, reach

    def _tangent(self, read: Any) -> Tangent:
        shape = self.model.follower_reward.shape
        tables = {name: read(name).reshape(-1) for name in MOVED}
        return Tangent(
            follower_reward=tables["follower_reward"].reshape(shape),
            leader_reward=tables["leader_reward"].reshape(shape),
            transition=tables["transition"],
            initial=tables["initial"],
            temperature=float(tables["temperature"][0]),
        )

    @cached_property
    def _columns(self) -> dict[str, sp.csr_array]:
        """The transposed matrices that are not 0, one row a parameter; both rewards are one."""
        rewards = sp.vstack((self.follower_reward, self.leader_reward))
        tables = {"rewards": rewards} | {name: getattr(self, name) for name in MOVED[2:]}
        return {
            name: read_only_matrix(sp.csr_array(table.T))
            for name, table in tables.items()
            if table.nnz
        }

    @cached_property
    def _masses(self) -> dict[str, sp.csr_array]:
        """Bounds of the changes of each moving distribution's mass, one row a parameter."""
        model = self.model
        rows = np.zeros(model.n_states, dtype=np.int64)
        masses = {}
        for name, group, n_groups in (
            ("transition", model.entry_row, model.follower_reward.size),
            ("initial", rows, 1),
        ):
            if not getattr(self, name).nnz:
                continue
            matrix, sums = getattr(self, name), summing(group, n_groups)
            mass, size = sums @ matrix, sums @ abs(matrix)
            if self.block is not None:
                mass, size = mass - mass[:, self.block], size + size[:, self.block]
            terms = float(np.bincount(group, minlength=1).max(initial=0)) + 2.0
            bound = abs(mass) + ROUNDOFF * terms * size
            masses[name] = read_only_matrix(sp.csr_array(bound.T))
        return masses


def stored(change: Any, model: Model) -> Any:
    """Read a kernel's change at its stored entries: it may come as a whole table."""
    kernel = model.transition
    if sp.issparse(change) and change.shape == kernel.shape:
        change = sp.csr_array(change)[model.entry_row, kernel.indices]
    if sp.issparse(change):  # scipy reads entries as an array, or as a sparse vector
        change = change.toarray()
    if np.ndim(change) > 1 and np.size(change) == kernel.shape[0] * kernel.shape[1]:
        change = np.reshape(change, kernel.shape)[model.entry_row, kernel.indices]
    return change


def summing(group: IntArray, n_groups: int) -> sp.csr_array:
    """Make the matrix that adds up the rows of each group."""
    places = np.arange(group.size)
    return sp.csr_array((np.ones(group.size), (group, places)), shape=(n_groups, group.size))


def _flat(tables: Sensitivities | SensitivityBounds, name: str) -> FloatArray:
    """Read what a matrix of `_columns` is multiplied with."""
    if name == "rewards":
        return both_rewards(tables)
    return np.ravel(getattr(tables, name))


def _add(
    columns: sp.csr_array,
    slopes: FloatArray,
    errors: FloatArray,
    roundings: float,
    pulled: FloatArray,
    reach: FloatArray,
) -> None:
    """Add pulled back slopes, and their errors and those of the sum over them."""
    kernels.pull_back(
        columns.indptr,
        columns.indices,
        columns.data,
        read_only_view(slopes),
        read_only_view(errors),
        roundings,
        pulled,
        reach,
    )


def product(matrix: sp.csr_array, vector: FloatArray) -> FloatArray:
    """Multiply, at a third of what scipy's operator costs with a small matrix."""
    total = np.zeros(matrix.indptr.size - 1)
    add_product(matrix, vector, total)
    return total


def add_product(matrix: sp.csr_array, vector: FloatArray, total: FloatArray) -> None:
    """Add a product to what is there."""
    vector = read_only_view(vector)
    kernels.sparse_product(matrix.indptr, matrix.indices, matrix.data, vector, total)
