"""Published estimators of the hypergradient, one a file."""

from tabular_bilevel.estimators.boltzmann_covariance import BoltzmannCovariance
from tabular_bilevel.estimators.estimate import Estimate, Estimator

__all__ = ["BoltzmannCovariance", "Estimate", "Estimator"]
