"""How good an estimator is, exactly: mean and covariance of its gradients, without sampling."""

from tabular_bilevel._base.display import display_all
from tabular_bilevel.moments.best_baseline import best_baseline
from tabular_bilevel.moments.budget import ErrorCurve, error_curve, required_samples
from tabular_bilevel.moments.estimator import Moments, estimator_moments

__all__ = [
    "ErrorCurve",
    "Moments",
    "best_baseline",
    "error_curve",
    "estimator_moments",
    "required_samples",
]

display_all(globals())
