"""What goes wrong after the input was found good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ConvergenceError(RuntimeError):
    """An iteration ended before it reached its tolerance.

    Attributes
    ----------
    residual : float
        How far the last iterate is from a solution, in the units of the equation.
    iterations : int
        How many iterations were made.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.problems.two_state().model([0.0, 0.0])
    >>> try:
    ...     tb.ValueIteration(max_iterations=10).solve(model)
    ... except tb.ConvergenceError as error:
    ...     print(error.iterations, error.residual > 0.1)
    10 True
    """

    def __init__(self, message: str, *, residual: float, iterations: int) -> None:
        super().__init__(message)
        self.residual = residual
        self.iterations = iterations

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the way back from a worker process, with notes."""
        return RuntimeError.__new__, (type(self), *self.args), self.__dict__


class CheckFailedError(AssertionError):
    """A report that did not pass was asked to raise; the message is the report.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.bandit(), [0.0, 0.0]
    >>> report = tb.check_by_enumeration(tb.NaivePolicyGradient(), problem, theta, horizon=1)
    >>> try:
    ...     report.raise_if_failed()
    ... except tb.CheckFailedError as error:
    ...     print(str(error).splitlines()[0])
    Enumeration check: BIASED
    """


def raise_if_failed(self: Any) -> None:
    """Raise `CheckFailedError`, with the report as its message, unless the check passed.

    Raises
    ------
    CheckFailedError
        With the report as its message.
    """
    if not self.passed:
        raise CheckFailedError(str(self))


@contextmanager
def needed(what: str, library: str, *, extra: str) -> Iterator[None]:
    """Say which extra installs a library that is imported within, if it is not there."""
    try:
        yield
    except ImportError as error:
        told = f"{what} needs {library}: pip install 'tabular-bilevel[{extra}]'"
        raise ImportError(told) from error
