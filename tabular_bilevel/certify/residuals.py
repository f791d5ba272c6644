"""Residuals with twice float64's digits, which move with a step instead of being computed again."""

from __future__ import annotations

import numpy as np

from tabular_bilevel._base import kernels
from tabular_bilevel._base.arrays import FloatArray, read_only_view
from tabular_bilevel.finite.model import Model

__all__ = ["Flow", "Gaps"]


class Gaps:
    """r + discount P v - v(s), shape (S, A), and what it is off by."""

    def __init__(
        self, model: Model, reward: FloatArray, discount: float, value: FloatArray
    ) -> None:
        self._model, self._discount = model, discount
        self.gap, self.error, self._rest = np.empty((3, *reward.shape))
        kernel = model.transition
        kernels.value_gaps(
            kernel.indptr,
            kernel.indices,
            kernel.data,
            reward,
            model.available,
            discount,
            read_only_view(value),
            self.gap,
            self._rest,
            self.error,
        )

    def move(self, correction: FloatArray) -> None:
        """Add a correction to v, once; then the error counts that the gaps are rounded."""
        kernel = self._model.transition
        kernels.moved_gaps(
            kernel.indptr,
            kernel.indices,
            kernel.data,
            self._model.available,
            self._discount,
            correction,
            self.gap,
            self._rest,
            self.error,
        )


class Flow:
    """source + discount P^T (flow + policy m) - m, shape (S,), and what it is off by."""

    def __init__(
        self,
        model: Model,
        source: FloatArray,
        flow: FloatArray,
        policy: FloatArray,
        discount: float,
        measure: FloatArray,
    ) -> None:
        self._model, self._policy, self._discount = model, policy, discount
        self._scratch = np.empty((3, model.n_states))
        self.residual, self.error, self._rest = np.empty((3, model.n_states))
        kernel = model.transition
        kernels.flow_residual(
            kernel.indptr,
            kernel.indices,
            kernel.data,
            read_only_view(source),
            flow,
            policy,
            discount,
            read_only_view(measure),
            self.residual,
            self._rest,
            self.error,
            self._scratch[0],
        )

    def move(self, step: FloatArray) -> None:
        """Add a step to m, once; then the error counts that the residual is rounded."""
        kernel = self._model.transition
        kernels.moved_flow(
            kernel.indptr,
            kernel.indices,
            kernel.data,
            self._policy,
            self._discount,
            step,
            self.residual,
            self._rest,
            self.error,
            self._scratch,
        )
