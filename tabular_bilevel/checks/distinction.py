"""Which mistakes a problem can show: a passed check rules out no mistake that changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse.csgraph

from tabular_bilevel._base.arguments import as_checked_theta, as_positive
from tabular_bilevel._base.arrays import quiet
from tabular_bilevel.checks.diagnosis import SAME, Candidates
from tabular_bilevel.mistakes.register import FAULTS
from tabular_bilevel.problem import BilevelProblem, modelled


@dataclass(frozen=True)
class Distinction:
    """What a problem tells apart: every registered mistake of estimators is in one of the three.

    Attributes
    ----------
    hidden : tuple of str
        Mistakes that converge to the gradient itself here, or cannot be made here.
    alike : tuple of tuple of str
        Groups of mistakes that converge to the same wrong vector.
    told : tuple of str
        Mistakes that converge to a vector of their own.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> found = tb.tell_apart(tb.problems.bandit(), [0.3, -0.2])
    >>> "half" in found.told, "discounts swapped" in found.hidden
    (True, True)
    """

    hidden: tuple[str, ...]
    alike: tuple[tuple[str, ...], ...]
    told: tuple[str, ...]

    def __str__(self) -> str:
        grouped = sum(map(len, self.alike))
        total = len(self.hidden) + grouped + len(self.told)
        lines = [
            f"{total} mistakes: {len(self.told)} are told from all others, {grouped} are alike in "
            f"{len(self.alike)} groups, {len(self.hidden)} are hidden"
        ]
        lines += [f"alike: {'; '.join(group)}" for group in self.alike]
        lines += [f"hidden: {'; '.join(self.hidden)}"] * bool(self.hidden)
        return "\n".join(lines)


@quiet
def tell_apart(
    problem: BilevelProblem, theta: npt.ArrayLike, *, tolerance: float = SAME
) -> Distinction:
    """Find which mistakes of the register a problem cannot tell from each other, or from none.

    Each mistake is compared by what an estimator with it converges to. A good test problem hides
    little: unequal discounts, a temperature other than 1, and parameters of every table show most.

    Parameters
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : array_like, shape (d,)
        The leader's parameter.
    tolerance : float
        Vectors no further from each other than this, relative to the larger one or the gradient,
        are the same; below 1e-6 it counts as that.

    Returns
    -------
    Distinction
        What is hidden, what is alike, and what is told from all others.

    Raises
    ------
    ValueError
        If theta does not fit the problem, or the tolerance is not positive.

    Examples
    --------
    In a bandit play never changes its state, so that nothing can go wrong with later states:

    >>> import tabular_bilevel as tb
    >>> found = tb.tell_apart(tb.problems.bandit(), [0.3, -0.2])
    >>> {"no eligibility", "kernel's derivative dropped"} <= set(found.hidden)
    True
    >>> ("through-follower term sign-flipped", "sign flipped") in found.alike
    True

    A garnet, with parameters of all kinds, hides few mistakes:

    >>> found = tb.tell_apart(tb.problems.garnet(), [0.1] * 6)
    >>> len(found.told) > 4 * len(found.hidden)
    True
    """
    near = max(as_positive("tolerance", tolerance), SAME)
    theta = as_checked_theta(theta)
    modelled(problem, theta)
    seen = Candidates(problem, theta)
    table = np.array([*seen.singles.values(), seen.exact])
    sizes = np.abs(table).max(axis=1)
    gaps = np.abs(table[:, None] - table).max(axis=2)
    same = gaps <= near * np.maximum(np.maximum.outer(sizes, sizes), seen.size)
    _, group = scipy.sparse.csgraph.connected_components(same, directed=False)
    names = np.array([fault.name for fault in seen.singles])
    right, group = group[-1], group[:-1]
    groups = [tuple(names[group == k].tolist()) for k in dict.fromkeys(group) if k != right]
    shown = {name for each in groups for name in each}
    return Distinction(
        hidden=tuple(name for name in FAULTS if name not in shown),
        alike=tuple(each for each in groups if len(each) > 1),
        told=tuple(each[0] for each in groups if len(each) == 1),
    )
