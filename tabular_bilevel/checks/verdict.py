"""What a check of an estimator concludes."""

from __future__ import annotations

import enum


class Verdict(enum.Enum):
    """What a check of an estimator concludes.

    - `UNBIASED`: no test failed, and the smallest visible bias is below the target itself.
    - `BIASED`: a test failed that a correct estimator fails with the false-alarm rate only.
    - `INCONCLUSIVE`: nothing is decided, and the report says why and what to do: the noise would
      have hidden a bias of the target's size, the mean is off but a tail that was not seen could
      explain it, replicates are fewer than 100, calls depend on each other, or replicates are all
      the same and off.
    - `BROKEN`: it raised, returned what is no gradient of theta's length, or repeats itself.

    Examples
    --------
    >>> import numpy as np
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.bandit(), [0.0, 0.0]
    >>> noise = 0.1 * np.random.default_rng(0).normal(size=(200, 2))
    >>> rows = tb.hypergradient(problem, theta).gradient + noise
    >>> tb.check_estimates(rows, problem, theta).verdict is tb.Verdict.UNBIASED
    True
    >>> tb.check_estimates(rows + [0.2, 0.0], problem, theta).verdict.value
    'BIASED'
    """

    UNBIASED = "no bias seen"
    BIASED = "BIASED"
    INCONCLUSIVE = "INCONCLUSIVE"
    BROKEN = "BROKEN"
