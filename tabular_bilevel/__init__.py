"""Ground truth for bilevel reinforcement learning on finite MDPs and Markov games."""

from tabular_bilevel import problems
from tabular_bilevel.checks.controls import PlantedFault, planted_faults
from tabular_bilevel.checks.estimator import EstimatorReport, Verdict, check_estimator
from tabular_bilevel.checks.gradient import GradientReport, check_gradient
from tabular_bilevel.critics import Critic, ExactCritic, SarsaCritic
from tabular_bilevel.errors import CheckFailedError, ConvergenceError
from tabular_bilevel.estimators import BoltzmannCovariance, Estimate, Estimator
from tabular_bilevel.follower import (
    FollowerSolver,
    PolicyIteration,
    Response,
    ValueIteration,
    solve_follower,
)
from tabular_bilevel.hypergradient import Hypergradient, hypergradient, objective
from tabular_bilevel.leader import Evaluation, evaluate_leader
from tabular_bilevel.markov_game import MarkovGame
from tabular_bilevel.model import Model, Tangent
from tabular_bilevel.problem import (
    BilevelProblem,
    Budget,
    FeatureProblem,
    ForwardProblem,
    Reparametrised,
    Transform,
)
from tabular_bilevel.routes import (
    DifferenceGradient,
    complex_step_gradient,
    difference_gradient,
    forward_gradient,
)
from tabular_bilevel.sensitivities import Sensitivities, sensitivities
from tabular_bilevel.trajectories import Trajectories, sample_trajectories

__version__ = "0.1.0"

__all__ = [
    "BilevelProblem",
    "BoltzmannCovariance",
    "Budget",
    "CheckFailedError",
    "ConvergenceError",
    "Critic",
    "DifferenceGradient",
    "Estimate",
    "Estimator",
    "EstimatorReport",
    "Evaluation",
    "ExactCritic",
    "FeatureProblem",
    "FollowerSolver",
    "ForwardProblem",
    "GradientReport",
    "Hypergradient",
    "MarkovGame",
    "Model",
    "PlantedFault",
    "PolicyIteration",
    "Reparametrised",
    "Response",
    "SarsaCritic",
    "Sensitivities",
    "Tangent",
    "Trajectories",
    "Transform",
    "ValueIteration",
    "Verdict",
    "check_estimator",
    "check_gradient",
    "complex_step_gradient",
    "difference_gradient",
    "evaluate_leader",
    "forward_gradient",
    "hypergradient",
    "objective",
    "planted_faults",
    "problems",
    "sample_trajectories",
    "sensitivities",
    "solve_follower",
]
