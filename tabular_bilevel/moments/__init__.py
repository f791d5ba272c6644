"""How good an estimator is, exactly: mean and covariance of its gradients, without sampling."""

from tabular_bilevel._base.display import display_all
from tabular_bilevel.moments.best_baseline import best_baseline
from tabular_bilevel.moments.estimator import Moments, estimator_moments

__all__ = ["Moments", "best_baseline", "estimator_moments"]

display_all(globals())
