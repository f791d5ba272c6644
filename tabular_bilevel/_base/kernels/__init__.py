"""All compiled code: plain arrays in, outputs filled, no checks.

Everything a kernel needs is an argument, in its file, or in that of a kernel that it calls, so that
the cache, which looks at these files, is never stale. Each has a slow, readable twin in
tests/reference/twins.py. Kernels of a model take its transitions as ``indptr, indices, data`` of a
CSR matrix with row s * A + a.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # numba is imported when a kernel is asked for
    from tabular_bilevel._base.kernels.chain import (
        centre,
        least_patience,
        lost,
        shown_patience,
    )
    from tabular_bilevel._base.kernels.doubled import (
        action_reach,
        advantages,
        evaluate,
        flow_residual,
        influence_sources,
        measure_sources,
        moved_flow,
        moved_gaps,
        outward,
        pair_measures,
        policy_errors,
        pullback_errors,
        slope_errors,
        soft_policy,
        softmax_errors,
        stray_residuals,
        value_gaps,
    )
    from tabular_bilevel._base.kernels.sample import (
        answers,
        eligibility_traces,
        expected_traces,
        is_policy,
        mark_followed,
        monte_carlo,
        pad,
        sample_trajectories,
        sarsa,
        temporal_differences,
        visits,
        weigh_arrivals,
    )
    from tabular_bilevel._base.kernels.solve import (
        invert_band,
        leader_measures,
        linear_sweeps,
        look_ahead,
        soft_gap,
        soft_policy_iteration,
        soft_value_iteration,
        sparse_product,
    )
    from tabular_bilevel._base.kernels.spread import local_variances

__all__ = [
    "action_reach",
    "advantages",
    "answers",
    "centre",
    "eligibility_traces",
    "evaluate",
    "expected_traces",
    "flow_residual",
    "influence_sources",
    "invert_band",
    "is_policy",
    "leader_measures",
    "least_patience",
    "linear_sweeps",
    "local_variances",
    "look_ahead",
    "lost",
    "mark_followed",
    "measure_sources",
    "monte_carlo",
    "moved_flow",
    "moved_gaps",
    "outward",
    "pad",
    "pair_measures",
    "policy_errors",
    "pullback_errors",
    "sample_trajectories",
    "sarsa",
    "shown_patience",
    "slope_errors",
    "soft_gap",
    "soft_policy",
    "soft_policy_iteration",
    "soft_value_iteration",
    "softmax_errors",
    "sparse_product",
    "stray_residuals",
    "temporal_differences",
    "value_gaps",
    "visits",
    "weigh_arrivals",
]


def __getattr__(name: str) -> Any:
    """Import the kernels when one is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for file in ("chain", "doubled", "sample", "solve", "spread"):
        part = importlib.import_module(f"{__name__}.{file}")
        globals().update({kernel: getattr(part, kernel) for kernel in part.__all__})
    return globals()[name]
