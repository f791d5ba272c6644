"""Ground truth for bilevel reinforcement learning on finite MDPs and Markov games."""

import importlib
from typing import Any

from tabular_bilevel import problems
from tabular_bilevel._base.display import display_all, displayed
from tabular_bilevel._base.errors import CheckFailedError, ConvergenceError
from tabular_bilevel._base.renamed import found_by_old_name
from tabular_bilevel.ascent.ascent import AscentState, Iteration, ascend, resume
from tabular_bilevel.ascent.optimisers import Adam, GradientAscent, Optimiser
from tabular_bilevel.ascent.published import Recipe, published
from tabular_bilevel.certify.accuracy import Bounded, Enclosed, Estimated, Level
from tabular_bilevel.certify.bounds import error_bounds
from tabular_bilevel.certify.enclosure import enclose
from tabular_bilevel.certify.result import (
    Accuracy,
    CertificationError,
    Enclosure,
    ErrorBounds,
    Hypergradient,
    Interval,
)
from tabular_bilevel.checks.diagnosis import Diagnosis, Guess
from tabular_bilevel.checks.distinction import Distinction, tell_apart
from tabular_bilevel.checks.enumeration import EnumerationReport, check_by_enumeration
from tabular_bilevel.checks.estimator import check_estimates, check_estimator
from tabular_bilevel.checks.gradient import GradientReport, RouteComparison, check_gradient
from tabular_bilevel.checks.localising import Factor, Localisation
from tabular_bilevel.checks.report import EstimatorReport
from tabular_bilevel.checks.suite import SuiteCase, SuiteReport, check_suite, standard_suite
from tabular_bilevel.checks.verdict import Verdict
from tabular_bilevel.estimators import (
    AdaptiveModelDesign,
    BiLevelActorCritic,
    BoltzmannCovariance,
    Estimate,
    Estimator,
    ExactGradient,
    HyperPolicyGradient,
    NaivePolicyGradient,
    SoBiRL,
    TruncatedNeumann,
    ValueGapPenalty,
    ZeroOrder,
)
from tabular_bilevel.estimators.contract import BatchEstimator, SamplingEstimator
from tabular_bilevel.estimators.register import Setting
from tabular_bilevel.exact.hypergradient import hypergradient, objective
from tabular_bilevel.exact.routes import (
    DifferenceGradient,
    complex_step_gradient,
    difference_gradient,
    forward_gradient,
)
from tabular_bilevel.finite.adjoint import sensitivities
from tabular_bilevel.finite.follower import (
    CompiledPolicyIteration,
    FollowerSolver,
    PolicyIteration,
    Response,
    StoppedValueIteration,
    ValueIteration,
    solve_follower,
)
from tabular_bilevel.finite.leader import Evaluation, evaluate_leader
from tabular_bilevel.finite.model import Model, Tangent, normalised
from tabular_bilevel.finite.sensitivities import Sensitivities, SensitivityBounds
from tabular_bilevel.mistakes.controls import Control, controls
from tabular_bilevel.optimum import Optimum, Shake, polish, search
from tabular_bilevel.problem import BilevelProblem, ForwardProblem
from tabular_bilevel.problems.features import FeatureProblem
from tabular_bilevel.problems.markov_game import MarkovGame
from tabular_bilevel.problems.reparametrised import Box, Budget, Reparametrised, Transform, along
from tabular_bilevel.sampling.all_trajectories import count_trajectories
from tabular_bilevel.sampling.critics import (
    Critic,
    ExactCritic,
    LeaderValues,
    MonteCarloCritic,
    SarsaCritic,
    TemporalDifferenceCritic,
)
from tabular_bilevel.sampling.experience import Experience, Interaction
from tabular_bilevel.sampling.samplers import Episodes, Sampler, StepBudget, Survivors
from tabular_bilevel.sampling.trajectories import Trajectories, sample_trajectories
from tabular_bilevel.sampling.view import Batch, Jacobian, LeaderView

__version__ = "0.1.0"

__all__ = [
    "Accuracy",
    "Adam",
    "AdaptiveModelDesign",
    "AscentState",
    "Batch",
    "BatchEstimator",
    "BiLevelActorCritic",
    "BilevelProblem",
    "BoltzmannCovariance",
    "Bounded",
    "Box",
    "Budget",
    "CertificationError",
    "CheckFailedError",
    "CompiledPolicyIteration",
    "Control",
    "ConvergenceError",
    "Critic",
    "Diagnosis",
    "DifferenceGradient",
    "Distinction",
    "Enclosed",
    "Enclosure",
    "EnumerationReport",
    "Episodes",
    "ErrorBounds",
    "Estimate",
    "Estimated",
    "Estimator",
    "EstimatorReport",
    "Evaluation",
    "ExactCritic",
    "ExactGradient",
    "Experience",
    "FeatureProblem",
    "FollowerSolver",
    "ForwardProblem",
    "GradientAscent",
    "GradientReport",
    "HyperPolicyGradient",
    "Hypergradient",
    "Interaction",
    "Interval",
    "Iteration",
    "LeaderValues",
    "LeaderView",
    "Level",
    "MarkovGame",
    "Model",
    "MonteCarloCritic",
    "NaivePolicyGradient",
    "Optimiser",
    "Optimum",
    "PolicyIteration",
    "Recipe",
    "Reparametrised",
    "Response",
    "Sampler",
    "SamplingEstimator",
    "SarsaCritic",
    "Sensitivities",
    "Setting",
    "Shake",
    "SoBiRL",
    "StepBudget",
    "StoppedValueIteration",
    "SuiteCase",
    "SuiteReport",
    "Survivors",
    "Tangent",
    "TemporalDifferenceCritic",
    "Trajectories",
    "Transform",
    "TruncatedNeumann",
    "ValueGapPenalty",
    "ValueIteration",
    "Verdict",
    "ZeroOrder",
    "along",
    "ascend",
    "check_by_enumeration",
    "check_estimates",
    "check_estimator",
    "check_gradient",
    "check_suite",
    "complex_step_gradient",
    "controls",
    "count_trajectories",
    "difference_gradient",
    "enclose",
    "error_bounds",
    "evaluate_leader",
    "forward_gradient",
    "hypergradient",
    "normalised",
    "objective",
    "polish",
    "problems",
    "published",
    "resume",
    "sample_trajectories",
    "search",
    "sensitivities",
    "solve_follower",
    "standard_suite",
    "tell_apart",
]

display_all(globals())
for _part in (
    Factor,
    Guess,
    Jacobian,
    Localisation,
    RouteComparison,
    SensitivityBounds,
):  # of public objects
    displayed(_part)


def __getattr__(name: str) -> Any:
    """Import `plots` when it is asked for: matplotlib is an extra, and takes a second."""
    if name == "plots":
        return importlib.import_module("tabular_bilevel.plots")
    return found_by_old_name(__name__, name, {"Step": Iteration, "Steps": StepBudget})
