"""What goes wrong after the input was found good."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

__all__ = ["CheckFailedError", "ConvergenceError"]


class ConvergenceError(RuntimeError):
    """An iteration ended before it reached its tolerance.

    Attributes
    ----------
    residual : float
        How far the last iterate is from a solution, in the units of the equation.
    iterations : int
        How many iterations were made.
    """

    def __init__(self, message: str, *, residual: float, iterations: int) -> None:
        super().__init__(message)
        self.residual = residual
        self.iterations = iterations

    def __reduce__(self) -> tuple[Callable[[], ConvergenceError], tuple[()]]:
        """Survive the way back from a worker process."""
        remake = partial(
            ConvergenceError, str(self), residual=self.residual, iterations=self.iterations
        )
        return remake, ()


class CheckFailedError(AssertionError):
    """A report that did not pass was asked to raise; the message is the report."""
