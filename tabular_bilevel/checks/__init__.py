"""Comparing two ways to the same number."""

from tabular_bilevel._base.display import display_all
from tabular_bilevel.checks.diagnosis import Diagnosis, Guess
from tabular_bilevel.checks.distinction import Distinction, tell_apart
from tabular_bilevel.checks.enumeration import EnumerationReport, check_by_enumeration
from tabular_bilevel.checks.estimator import check_estimates, check_estimator
from tabular_bilevel.checks.gradient import GradientReport, RouteComparison, check_gradient
from tabular_bilevel.checks.localising import Factor, Localisation
from tabular_bilevel.checks.report import EstimatorReport
from tabular_bilevel.checks.suite import SuiteCase, SuiteReport, check_suite, standard_suite
from tabular_bilevel.checks.verdict import Verdict

__all__ = [
    "Diagnosis", "Distinction", "EnumerationReport", "EstimatorReport", "Factor",
    "GradientReport", "Guess", "Localisation", "RouteComparison", "SuiteCase", "SuiteReport",
    "Verdict", "check_by_enumeration", "check_estimates", "check_estimator", "check_gradient",
    "check_suite", "standard_suite", "tell_apart",
]  # fmt: skip

display_all(globals())
