"""What is sampled of a follower's answer, and what critics make of it."""

from tabular_bilevel._base.display import display_all
from tabular_bilevel.sampling.all_trajectories import count_trajectories
from tabular_bilevel.sampling.critics import (
    Critic,
    ExactCritic,
    GivenCritic,
    LeaderValues,
    MonteCarloCritic,
    SarsaCritic,
    TemporalDifferenceCritic,
)
from tabular_bilevel.sampling.experience import Experience, Interaction
from tabular_bilevel.sampling.quadratic_critic import QuadraticCritic
from tabular_bilevel.sampling.samplers import Episodes, Sampler, StepBudget, Survivors
from tabular_bilevel.sampling.trajectories import Trajectories, sample_trajectories
from tabular_bilevel.sampling.view import Batch, LeaderView

__all__ = [
    "Batch", "Critic", "Episodes", "ExactCritic", "Experience", "GivenCritic", "Interaction",
    "LeaderValues", "LeaderView", "MonteCarloCritic", "QuadraticCritic", "Sampler",
    "SarsaCritic", "StepBudget", "Survivors", "TemporalDifferenceCritic", "Trajectories",
    "count_trajectories", "sample_trajectories",
]  # fmt: skip

display_all(globals())
