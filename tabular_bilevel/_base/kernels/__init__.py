"""All compiled code: plain arrays in, outputs filled, no checks.

Everything a kernel needs is an argument, in its file, or in that of a kernel that it calls, so that
the cache, which looks at these files, is never stale. Each has a slow, readable twin in
tests/reference/twins.py. Kernels of a model take its transitions as ``indptr, indices, data`` of a
CSR matrix with row s * A + a.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # numba is imported when a kernel is asked for
    from tabular_bilevel._base.kernels.chain import *  # noqa: F403
    from tabular_bilevel._base.kernels.doubled import *  # noqa: F403
    from tabular_bilevel._base.kernels.policies import *  # noqa: F403
    from tabular_bilevel._base.kernels.pullback import *  # noqa: F403
    from tabular_bilevel._base.kernels.residuals import *  # noqa: F403
    from tabular_bilevel._base.kernels.sample import *  # noqa: F403
    from tabular_bilevel._base.kernels.solve import *  # noqa: F403
    from tabular_bilevel._base.kernels.spread import *  # noqa: F403

FILES = ("chain", "doubled", "policies", "pullback", "residuals", "sample", "solve", "spread")


def __getattr__(name: str) -> Any:
    """Import the kernels when one is asked for, or their names."""
    if name == "__all__" or not name.startswith("__"):
        found: dict[str, Any] = {}
        for file in FILES:
            part = importlib.import_module(f"{__name__}.{file}")
            found |= {kernel: getattr(part, kernel) for kernel in part.__all__}
        globals().update(found, __all__=sorted(found))
    if name not in globals():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]
