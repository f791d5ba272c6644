"""Quick cases, which always run, and full ones, which are marked slow."""

import pytest


def sizes(names, quick, slow):
    """Parametrise a test: what slow cases protect, quick ones of the same kind protect, too."""
    several = isinstance(names, tuple)
    marked = [pytest.param(*(case if several else [case]), marks=pytest.mark.slow) for case in slow]
    return pytest.mark.parametrize(names, [*quick, *marked])


def pairs(first, second):
    """Make all pairs of two lists: a ninth at the least, which has everyone of both; the others."""
    quick, slow = [], []
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            (slow if (i + j) % min(9, len(first), len(second)) else quick).append((one, other))
    return quick, slow
