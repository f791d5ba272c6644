"""Quick cases, which always run, and full ones, which are marked slow."""

import pytest


def sizes(names, quick, slow):
    """Parametrise a test: what slow cases protect, quick ones of the same kind protect, too."""
    return pytest.mark.parametrize(
        names, [*quick, *(pytest.param(case, marks=pytest.mark.slow) for case in slow)]
    )
