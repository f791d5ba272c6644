"""Methods for the hypergradient, published ones and the exact one, one a file."""

from tabular_bilevel._base.display import display_all
from tabular_bilevel.estimators.adaptive_model_design import AdaptiveModelDesign
from tabular_bilevel.estimators.bi_level_actor_critic import BiLevelActorCritic
from tabular_bilevel.estimators.boltzmann_covariance import BoltzmannCovariance
from tabular_bilevel.estimators.contract import BatchEstimator, SamplingEstimator
from tabular_bilevel.estimators.estimate import Estimate, Estimator
from tabular_bilevel.estimators.exact import ExactGradient
from tabular_bilevel.estimators.hpgd import HyperPolicyGradient
from tabular_bilevel.estimators.naive import NaivePolicyGradient
from tabular_bilevel.estimators.neumann import TruncatedNeumann
from tabular_bilevel.estimators.penalty import ValueGapPenalty
from tabular_bilevel.estimators.register import Setting
from tabular_bilevel.estimators.regularised_actor_critic import RegularisedActorCritic
from tabular_bilevel.estimators.score_function import ScoreFunction
from tabular_bilevel.estimators.sobirl import SoBiRL
from tabular_bilevel.estimators.zero_order import ZeroOrder

__all__ = [
    "AdaptiveModelDesign", "BatchEstimator", "BiLevelActorCritic", "BoltzmannCovariance",
    "Estimate", "Estimator", "ExactGradient", "HyperPolicyGradient", "NaivePolicyGradient",
    "RegularisedActorCritic", "SamplingEstimator", "ScoreFunction", "Setting", "SoBiRL",
    "TruncatedNeumann", "ValueGapPenalty", "ZeroOrder",
]  # fmt: skip

display_all(globals())
