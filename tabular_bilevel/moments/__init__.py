"""How good an estimator is, exactly: mean and covariance of its gradients, without sampling."""

from tabular_bilevel._base.display import display_all
from tabular_bilevel.moments.best_baseline import best_baseline
from tabular_bilevel.moments.budget import ErrorCurve, error_curve, required_samples
from tabular_bilevel.moments.estimator import Moments, estimator_moments
from tabular_bilevel.moments.grid import ErrorGrid, error_grid
from tabular_bilevel.moments.lower_limit import LowerLimit, lower_limit

__all__ = [
    "ErrorCurve", "ErrorGrid", "LowerLimit", "Moments", "best_baseline", "error_curve",
    "error_grid", "estimator_moments", "lower_limit", "required_samples",
]  # fmt: skip

display_all(globals())
