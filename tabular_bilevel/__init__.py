"""Ground truth for bilevel reinforcement learning on finite MDPs and Markov games.

A leader chooses theta, which sets the tables of a follower's decision process. The follower
answers with its best soft policy, and the leader's objective J counts what comes of it.
``tb.hypergradient`` computes dJ/dtheta exactly, the follower's change of mind included;
``tb.check_estimator`` tells whether somebody's estimate of it is right.

Public names by what you look for, the first to meet first. ``help(tb.NAME)`` says more of one.

Problems: what theta does
    problems                 ready-made problems, from two states to a warehouse
    BilevelProblem           what you write for one of your own: two methods
    ForwardProblem           a third method, for the independent routes
    LinearQuadraticProblem   the same two methods, for a state that is continuous
    FeatureProblem           tables that are linear in theta: incentives, fees, kernel parameters
    MarkovGame               both players act; theta are logits of the leader's policy
    LinearQuadraticGame      both act on a continuous state; theta is the leader's gain
    Reparametrised           a problem in other parameters: theta goes through a transform first
    Transform                what theta goes through; write your own
    Budget                   a transform: incentives that share a budget
    Box                      a transform: parameters within bounds
    Contexts                 several followers, met by chance, and one theta for all
    along                    a problem along a line: one parameter

Tables: the follower's decision process at one theta
    Model                    transitions, both rewards, discounts and temperature, checked
    Tangent                  the derivative of the tables along one direction of theta
    normalised               distributions scaled so that they sum to 1

Continuous states: linear dynamics, quadratic costs, everything in closed form
    LinearQuadraticModel     the follower's decision process at one theta, checked
    QuadraticReward          what the leader earns a step: a quadratic
    GaussianBump             ... or a hill around a place
    lq                       answer, evaluation and sensitivities of this kind of model

The follower's answer, and what it is worth to the leader
    solve_follower           the follower's best answer to a model
    Response                 its value, action value and policy
    PolicyIteration          the solver for exact numbers
    CompiledPolicyIteration  the same, fast for thousands of small solves
    ValueIteration           the plain solver, as an independent check
    StoppedValueIteration    a follower that has not finished thinking
    StoppedPolicyIteration   the same, with a table of its own, as in the papers
    FollowerSolver           what a solver of your own must have
    evaluate_leader          the leader's values under the answer
    Evaluation               its objective, values and occupancy

Gradients
    hypergradient            J, its exact gradient, and what they are off by at most
    Hypergradient            the gradient with its two parts, and all numbers on the way
    objective                J alone
    sensitivities            the derivative of J in each table entry, by the adjoint equations
    Sensitivities            that derivative: influence, occupancy, and so on
    forward_gradient         the same gradient by another road: forward mode
    complex_step_gradient    ... by a complex step
    difference_gradient      ... by differences of J
    DifferenceGradient       these with their errors

Trust: how far a number may be off
    Level                    enclosed, bounded, an estimate, or a statistical statement
    Accuracy                 what is known of a result's errors
    Estimated                ask for a number without bounds
    Bounded                  ask for bounds by float64 arithmetic
    Enclosed                 ask for an enclosure as narrow as you say
    error_bounds             the bounds of everything on the road
    ErrorBounds              those bounds
    enclose                  proven intervals by ball arithmetic
    Enclosure                those intervals, and a certificate for others to check
    Interval                 numbers between a lower and an upper bound
    CertificationError       raised where the accuracy asked for is not reached

Estimators: methods of the literature
    BoltzmannCovariance      BC-HG, by eligibility traces
    HyperPolicyGradient      HPGD, by differences of two values
    SoBiRL                   the score of the first action
    ScoreFunction            the score of each action, times the return that is seen
    ValueGapPenalty          PBRL, a penalty on the follower's shortfall
    RegularisedActorCritic   that in a single loop, its two policies still learning
    NaivePolicyGradient      the direct part alone
    BiLevelActorCritic       Bi-AC, a critic that trusts the leader to play its best
    ZeroOrder                differences in random directions
    AdaptiveModelDesign      AMD, by sweeps of forward mode
    TruncatedNeumann         implicit differentiation, its inverse cut short
    ExactGradient            the exact gradient as a method
    Estimator                what a method is
    Estimate                 what it returns
    BatchEstimator           an estimator made of your function of trajectories
    SamplingEstimator        an estimator made of your function that samples for itself

Sampling: what estimators see
    Interaction              how trajectories and the leader's values are got
    Experience               what an estimator has in hand after that
    Episodes                 so many trajectories, of so many steps at most
    StepBudget               so many steps in all
    Survivors                trajectories that are cut by chance
    Sampler                  what a sampler of your own must have
    sample_trajectories      trajectories of a model under a policy
    Trajectories             states, actions and next states, padded
    count_trajectories       how many trajectories there are
    ExactCritic              the leader's values from the model
    MonteCarloCritic         ... from averages of returns
    SarsaCritic              ... learned by SARSA
    TemporalDifferenceCritic ... learned by temporal differences
    QuadraticCritic          ... learned as a quadratic, of linear-quadratic models
    GivenCritic              ... given, right or wrong
    Critic                   what a critic of your own must have
    LeaderValues             what a critic returns
    LeaderView               what a leader may see of a problem
    Batch                    trajectories as an estimator of yours is given them

Efficiency: how good is it?
    estimator_moments        exact bias and variance of a method's gradients, without sampling
    error_curve              errors of methods against the budget of steps
    ErrorCurve               these errors, the best cuts, and where methods cross
    error_grid               the same over temperatures, discounts, horizons, sizes
    ErrorGrid                these curves as one table
    required_samples         trajectories for an error, or a cosine, with a probability
    best_baseline            BC-HG with the baseline that leaves the least variance
    lower_limit              least variance for those who learn what exact critics know
    LowerLimit               this, table by table
    Moments                  mean, variances, covariance, and what a trajectory costs

Checks: is it right?
    check_estimator          is an estimator's mean the gradient? With a false-alarm rate
    EstimatorReport          what was found, and the smallest bias that would have been
    check_estimates          the same for rows that you computed elsewhere
    check_by_enumeration     is its expectation the gradient? Exactly, over all trajectories
    EnumerationReport        what was found
    check_gradient           is a problem's pullback right? Several routes to one gradient
    GradientReport           what was found
    check_suite              an estimator on many problems, each aimed at a mistake
    standard_suite           those problems
    SuiteCase                one of them
    SuiteReport              what was found on each
    save_report              any of these reports as a page for a browser
    Verdict                  BIASED, no bias seen, inconclusive or broken
    Diagnosis                which known mistakes would explain a bias
    tell_apart               which mistakes a problem can show
    Distinction              what was found
    controls                 estimators that are wrong on purpose
    Control                  one of them

Ascent: climbing with gradients
    ascend                   from a theta upwards, one estimate at a time
    resume                   go on from a saved state
    Iteration                what one iteration did
    AscentState              what it takes to go on
    GradientAscent           a step along the gradient
    Adam                     Adam's step
    Optimiser                what an optimiser of your own must have
    published                an ascent as it was published
    Recipe                   such an ascent: with what, how, and how long
    Setting                  what the papers vary of a method
    polish                   to the top of a hill, with exact gradients
    search                   climb, polish, then shake and polish again
    Shake                    how a search leaves the basin that it is in
    Optimum                  what a search found

Many runs
    sweep                    tasks in several processes or machines, kept, gone on with

Errors
    ConvergenceError         an iteration ended before its tolerance
    CheckFailedError         a report was asked to raise, and had not passed

More modules, which you import by their full names
    tabular_bilevel.plots              pictures (extra `plot`)
    tabular_bilevel.optimum            better optima: more ways to look for them
    tabular_bilevel.vectors            test vectors with proven answers, for any language
    tabular_bilevel.adapters           Gymnasium, PettingZoo, JAX, PyTorch (extras of these names)
    tabular_bilevel.strategies         problems for tests with hypothesis
    tabular_bilevel.check_certificate  checks a certificate without the rest of the package
"""

import importlib
from typing import TYPE_CHECKING, Any

from tabular_bilevel import lq, problems
from tabular_bilevel._base import __version__ as __version__
from tabular_bilevel._base.display import display_all
from tabular_bilevel._base.errors import CheckFailedError, ConvergenceError
from tabular_bilevel._base.processes import sweep
from tabular_bilevel._base.renamed import found_by_old_name
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
from tabular_bilevel.exact.hypergradient import hypergradient, objective
from tabular_bilevel.exact.routes import (
    DifferenceGradient,
    complex_step_gradient,
    difference_gradient,
    forward_gradient,
)
from tabular_bilevel.finite.follower import (
    CompiledPolicyIteration,
    FollowerSolver,
    PolicyIteration,
    Response,
    StoppedPolicyIteration,
    StoppedValueIteration,
    ValueIteration,
)
from tabular_bilevel.finite.leader import Evaluation
from tabular_bilevel.finite.model import Model, Tangent, normalised
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.kinds import evaluate_leader, sensitivities, solve_follower
from tabular_bilevel.lq.model import LinearQuadraticModel
from tabular_bilevel.lq.rewards import GaussianBump, QuadraticReward
from tabular_bilevel.problem import BilevelProblem, ForwardProblem, LinearQuadraticProblem
from tabular_bilevel.problems.contexts import Contexts
from tabular_bilevel.problems.features import FeatureProblem
from tabular_bilevel.problems.linear_quadratic_game import LinearQuadraticGame
from tabular_bilevel.problems.markov_game import MarkovGame
from tabular_bilevel.problems.reparametrised import Box, Budget, Reparametrised, Transform, along

if TYPE_CHECKING:
    from tabular_bilevel.ascent import *
    from tabular_bilevel.checks import *
    from tabular_bilevel.estimators import *
    from tabular_bilevel.mistakes import *
    from tabular_bilevel.moments import *
    from tabular_bilevel.optimum import *
    from tabular_bilevel.pages import *
    from tabular_bilevel.sampling import *

# What the exact gradient does without takes most of this import: it waits until it is asked for.
LATER = (
    "sampling", "estimators", "ascent", "optimum", "moments", "mistakes", "checks", "pages",
)  # fmt: skip

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
    "Contexts",
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
    "ErrorCurve",
    "ErrorGrid",
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
    "GaussianBump",
    "GivenCritic",
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
    "LinearQuadraticGame",
    "LinearQuadraticModel",
    "LinearQuadraticProblem",
    "LowerLimit",
    "MarkovGame",
    "Model",
    "Moments",
    "MonteCarloCritic",
    "NaivePolicyGradient",
    "Optimiser",
    "Optimum",
    "PolicyIteration",
    "QuadraticCritic",
    "QuadraticReward",
    "Recipe",
    "RegularisedActorCritic",
    "Reparametrised",
    "Response",
    "Sampler",
    "SamplingEstimator",
    "SarsaCritic",
    "ScoreFunction",
    "Sensitivities",
    "Setting",
    "Shake",
    "SoBiRL",
    "StepBudget",
    "StoppedPolicyIteration",
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
    "best_baseline",
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
    "error_curve",
    "error_grid",
    "estimator_moments",
    "evaluate_leader",
    "forward_gradient",
    "hypergradient",
    "lower_limit",
    "lq",
    "normalised",
    "objective",
    "polish",
    "problems",
    "published",
    "required_samples",
    "resume",
    "sample_trajectories",
    "save_report",
    "search",
    "sensitivities",
    "solve_follower",
    "standard_suite",
    "sweep",
    "tell_apart",
]

display_all(globals())


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *LATER, "plots"})


def __getattr__(name: str) -> Any:
    """Import what takes time when it is asked for; `plots` also takes matplotlib, an extra."""
    if name in (*LATER, "plots"):
        return importlib.import_module(f"tabular_bilevel.{name}")
    old = {"Step": "Iteration", "Steps": "StepBudget"}
    wanted = old.get(name, name)
    for folder in () if name.startswith("_") else LATER:
        part = importlib.import_module(f"tabular_bilevel.{folder}")
        if wanted in part.__all__:
            found = globals()[wanted] = getattr(part, wanted)
            return found_by_old_name(__name__, name, {name: found}) if name in old else found
    return found_by_old_name(__name__, name, {})
