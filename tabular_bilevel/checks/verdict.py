"""What a check of an estimator concludes."""

from __future__ import annotations

import enum

__all__ = ["Verdict"]


class Verdict(enum.Enum):
    """What a check of an estimator concludes.

    - UNBIASED: no test failed, and the smallest visible bias is below the target itself.
    - BIASED: a test failed that a correct estimator fails with the false-alarm rate only.
    - INCONCLUSIVE: nothing is decided, and the report says why and what to do: the noise would have
      hidden a bias of the target's size, the mean is off but a tail that was not seen could explain
      it, replicates are fewer than 100, calls depend on each other, or replicates are all the same
      and off.
    - BROKEN: it raised, returned what is no gradient of theta's length, or repeats itself.
    """

    UNBIASED = "no bias seen"
    BIASED = "BIASED"
    INCONCLUSIVE = "INCONCLUSIVE"
    BROKEN = "BROKEN"
