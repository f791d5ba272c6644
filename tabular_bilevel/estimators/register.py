"""The register of methods: each by its name, and how it is made of settings.

The command line's choices follow from it, and all that goes through all methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tabular_bilevel._base.display import displayed
from tabular_bilevel.estimators.adaptive_model_design import AdaptiveModelDesign
from tabular_bilevel.estimators.bi_level_actor_critic import BiLevelActorCritic
from tabular_bilevel.estimators.boltzmann_covariance import BoltzmannCovariance
from tabular_bilevel.estimators.estimate import Estimator
from tabular_bilevel.estimators.exact import ExactGradient
from tabular_bilevel.estimators.hpgd import HyperPolicyGradient
from tabular_bilevel.estimators.naive import NaivePolicyGradient
from tabular_bilevel.estimators.neumann import TruncatedNeumann
from tabular_bilevel.estimators.penalty import ValueGapPenalty
from tabular_bilevel.estimators.regularised_actor_critic import RegularisedActorCritic
from tabular_bilevel.estimators.score_function import ScoreFunction
from tabular_bilevel.estimators.sobirl import SoBiRL
from tabular_bilevel.estimators.zero_order import ZeroOrder
from tabular_bilevel.finite.follower import CompiledPolicyIteration, FollowerSolver
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.sampling.critics import ExactCritic, MonteCarloCritic, SarsaCritic
from tabular_bilevel.sampling.experience import Interaction
from tabular_bilevel.sampling.samplers import Sampler, StepBudget

# An ascent on samples needs its follower less exact than a check: at temperature 0.001 its
# probabilities still have five digits. Recorded objectives are those of the exact follower.
FOLLOWER = CompiledPolicyIteration(tolerance=1e-8)


@displayed
@dataclass(frozen=True)
class Setting:
    """What the papers vary between runs of a method; each method takes of it what it knows.

    Attributes
    ----------
    sampler : Sampler
        How much data an iteration has.
    step_size : float
        Step size of learned critics, in (0, 1].
    oracle : Sampler
        Sampler of the separate sample of HPGD (oracle).
    simulator : BilevelProblem, optional
        Where trajectories come from, if not from the problem itself.
    follower : FollowerSolver
        How the follower answers, in methods that learn from trajectories.
    replay : int, optional
        How many earlier calls' trajectories methods with a learned critic see as well.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> from tabular_bilevel.ascent.training import METHODS, Setting
    >>> setting = Setting(tb.Episodes(20), step_size=0.1)
    >>> setting.learned().critic.step_size, setting.averaged().critic, setting.told().critic
    (0.1, MonteCarloCritic(), ExactCritic())
    >>> METHODS["naive"](setting).sampler
    Episodes(n_trajectories=20, steps=None)
    """

    sampler: Sampler = StepBudget(100, 200)
    step_size: float = 0.5
    oracle: Sampler = StepBudget(5_000, 200)
    simulator: BilevelProblem | None = None
    follower: FollowerSolver = FOLLOWER
    replay: int | None = None

    def learned(self) -> Interaction:
        """Experience with the papers' critic: SARSA, one sweep, from a normal table."""
        critic = SarsaCritic(
            step_size=self.step_size, sweeps=1, initial_spread=1.0, cut_is_end=True
        )
        return Interaction(self.sampler, critic, self.follower, self.simulator, self.replay)

    def averaged(self) -> Interaction:
        """Experience with averages of returns as the critic."""
        return Interaction(self.sampler, MonteCarloCritic(), self.follower, self.simulator)

    def told(self) -> Interaction:
        """Experience with the exact critic."""
        return Interaction(self.sampler, ExactCritic(), self.follower, self.simulator)


#: Methods by the names that the command line knows, in the form of the papers' comparisons.
METHODS: Mapping[str, Callable[[Setting], Estimator]] = MappingProxyType(
    {
        "bchg": lambda s: BoltzmannCovariance(s.learned(), average_tails=True),
        "bchg-game": lambda s: BoltzmannCovariance(s.learned(), own_action=True),
        "bchg-exact-critic": lambda s: BoltzmannCovariance(s.told()),
        "hpgd-mc": lambda s: HyperPolicyGradient(s.averaged()),
        "hpgd-sarsa": lambda s: HyperPolicyGradient(s.learned()),
        "hpgd-oracle": lambda s: HyperPolicyGradient(s.averaged(), oracle=s.oracle),
        "hpgd-uniform": lambda s: HyperPolicyGradient(s.averaged(), uniform=s.sampler),
        "sobirl": lambda s: SoBiRL(s.averaged()),
        "sobirl-discounted": lambda s: SoBiRL(s.averaged(), discounted=True),
        "sobirl-modified": lambda s: SoBiRL(s.averaged(), each_step=True),
        "score-function": lambda s: ScoreFunction(s.averaged()),
        "naive": lambda s: NaivePolicyGradient(s.learned()),
        "bi-ac": lambda s: BiLevelActorCritic(
            s.sampler, s.step_size, follower=s.follower, replay=s.replay
        ),
        "zero-order": lambda s: ZeroOrder(two_sided=False, decaying=True),
        "amd": lambda s: AdaptiveModelDesign(),
        "penalty": lambda s: ValueGapPenalty(),
        "regularised-ac": lambda s: RegularisedActorCritic(sampler=s.sampler),
        "neumann": lambda s: TruncatedNeumann(),
        "exact": lambda s: ExactGradient(),
    }
)
