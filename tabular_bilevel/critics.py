"""Critics: where an estimator's leader values come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tabular_bilevel._arrays import FloatArray
from tabular_bilevel._validation import as_real, positive_integer
from tabular_bilevel.follower import Response
from tabular_bilevel.leader import evaluate_leader
from tabular_bilevel.model import Model
from tabular_bilevel.trajectories import Trajectories

__all__ = ["Critic", "ExactCritic", "SarsaCritic"]


class Critic(Protocol):
    """Anything that gives the leader's action values Q_L, shape (S, A)."""

    def action_value(
        self,
        model: Model,
        response: Response,
        trajectories: Trajectories,
        rng: np.random.Generator,
    ) -> FloatArray:
        """Compute or estimate Q_L under the follower's policy."""
        ...


@dataclass(frozen=True)
class ExactCritic:
    """The true Q_L, from the model."""

    def action_value(
        self,
        model: Model,
        response: Response,
        trajectories: Trajectories,
        rng: np.random.Generator,
    ) -> FloatArray:
        """Evaluate the leader exactly; the trajectories are not used."""
        return evaluate_leader(model, response).action_value


@dataclass(frozen=True, kw_only=True)
class SarsaCritic:
    """Q_L by SARSA on the estimator's own trajectories, from a table of zeros.

    Each sweep updates once for every step, in random order; an episode's last step has no
    bootstrap, and a truncated trajectory's last step is passed over.

    Attributes
    ----------
    step_size : float
        In (0, 1].
    sweeps : int
        Passes over the data.
    """

    step_size: float = 0.1
    sweeps: int = 10

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_integer("sweeps", self.sweeps)
        if not 0.0 < as_real("step_size", self.step_size) <= 1.0:
            raise ValueError(f"step_size is {self.step_size}, not in (0, 1]")

    def action_value(
        self,
        model: Model,
        response: Response,
        trajectories: Trajectories,
        rng: np.random.Generator,
    ) -> FloatArray:
        """Learn Q_L from the trajectories."""
        from tabular_bilevel import _kernels

        table = np.zeros(model.leader_reward.shape)
        steps = np.flatnonzero(trajectories.mask)
        for _ in range(self.sweeps):
            _kernels.sarsa(
                rng.permutation(steps),
                trajectories.states,
                trajectories.actions,
                trajectories.next_states,
                trajectories.lengths,
                model.leader_reward,
                model.leader_discount,
                self.step_size,
                table,
            )
        return table
