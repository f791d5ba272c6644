"""Ground truth for bilevel reinforcement learning on finite MDPs and Markov games."""

import importlib
from typing import TYPE_CHECKING, Any

from tabular_bilevel import problems
from tabular_bilevel._base.display import display_all, displayed
from tabular_bilevel._base.errors import CheckFailedError, ConvergenceError
from tabular_bilevel._base.renamed import found_by_old_name
from tabular_bilevel.ascent.ascent import AscentState, Iteration, ascend, resume
from tabular_bilevel.ascent.optimisers import Adam, GradientAscent, Optimiser
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
from tabular_bilevel.problem import BilevelProblem, ForwardProblem
from tabular_bilevel.problems.features import FeatureProblem
from tabular_bilevel.problems.markov_game import MarkovGame
from tabular_bilevel.problems.reparametrised import Budget, Reparametrised, Transform
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

if TYPE_CHECKING:  # checks take a third of this import: they wait until one is asked for
    from tabular_bilevel.checks import (
        Diagnosis,
        EnumerationReport,
        EstimatorReport,
        GradientReport,
        SuiteCase,
        SuiteReport,
        Verdict,
        check_by_enumeration,
        check_estimates,
        check_estimator,
        check_gradient,
        check_suite,
        standard_suite,
    )
    from tabular_bilevel.mistakes import Control, controls

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
    "Budget",
    "CertificationError",
    "CheckFailedError",
    "CompiledPolicyIteration",
    "Control",
    "ConvergenceError",
    "Critic",
    "Diagnosis",
    "DifferenceGradient",
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
    "PolicyIteration",
    "Reparametrised",
    "Response",
    "Sampler",
    "SamplingEstimator",
    "SarsaCritic",
    "Sensitivities",
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
    "problems",
    "resume",
    "sample_trajectories",
    "sensitivities",
    "solve_follower",
    "standard_suite",
]

display_all(globals())
for _part in (Jacobian, SensitivityBounds):  # of public objects
    displayed(_part)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "plots"})


def __getattr__(name: str) -> Any:
    """Import what takes time when it is asked for; `plots` also takes matplotlib, an extra."""
    if name in ("checks", "mistakes", "plots"):
        return importlib.import_module(f"tabular_bilevel.{name}")
    old = {"Step": Iteration, "Steps": StepBudget}
    if not (name in old or name.startswith("_")):
        for folder in ("mistakes", "checks"):
            part = importlib.import_module(f"tabular_bilevel.{folder}")
            if name in part.__all__:
                return getattr(part, name)
    return found_by_old_name(__name__, name, old)
