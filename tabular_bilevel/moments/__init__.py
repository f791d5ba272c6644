"""How good an estimator is, exactly: mean and covariance of its gradients, without sampling."""

from tabular_bilevel._base.display import display_all
from tabular_bilevel.moments.estimator import Moments, estimator_moments

__all__ = ["Moments", "estimator_moments"]

display_all(globals())
