"""What an estimator can get wrong before it makes anything of what it knows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arrays import FloatArray, ratio, read_only
from tabular_bilevel._base.errors import ConvergenceError
from tabular_bilevel.estimators.boltzmann_covariance import BoltzmannCovariance
from tabular_bilevel.estimators.estimate import Estimate
from tabular_bilevel.finite.follower import (
    Response,
    StoppedValueIteration,
    soft_maximum,
)
from tabular_bilevel.finite.linear import discounted_system
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.problem import BilevelProblem
from tabular_bilevel.problems.markov_game import MarkovGame
from tabular_bilevel.sampling.critics import LeaderValues, SarsaCritic, exact_values
from tabular_bilevel.sampling.experience import Experience, Interaction, seen_of
from tabular_bilevel.sampling.samplers import Episodes, negligible_horizon
from tabular_bilevel.sampling.trajectories import Law


def right_limit(
    problem: BilevelProblem,
    theta: npt.ArrayLike,
    *,
    horizon: int | None = None,
    count: int | None = None,
) -> Experience:
    """Know all that is right; by default trajectories are not cut where it matters."""
    interaction = Interaction(Episodes(steps=horizon))
    known = interaction.limit(problem, theta)
    return replace(known, seen=replace(known.law, count=count))


def answered_by(known: Experience, response: Response) -> Experience:
    """Change the follower, with a critic that knows what it does."""
    law = replace(known.law, policy=response.policy)
    values = exact_values(law.made_in, response)
    return replace(known, response=response, seen=law, values=values)


def cut(known: Experience, horizon: int) -> Experience:
    """Cut trajectories after so many steps."""
    return replace(known, seen=replace(known.law, horizon=horizon))


def last_step_missing(known: Experience) -> Experience | None:
    """Cut the last step of the longest trajectory."""
    length = sum(1 for _ in known.law.steps())
    return cut(known, length - 1) if length > 1 else None


def stale(known: Experience, *, sweeps: int) -> Experience:
    """Let the follower stop early."""
    follower = StoppedValueIteration(sweeps=sweeps, warm_start=False)
    return answered_by(known, follower.solve(known.planned))


def uniform_critic(known: Experience) -> Experience:
    """Evaluate another follower, which chooses at random."""
    available = known.planned.available
    chances = available / available.sum(axis=1, keepdims=True)
    other = replace(known.response, policy=chances)
    return replace(known, values=exact_values(known.law.made_in, other))


def modal_critic(known: Experience) -> Experience:
    """Evaluate a follower that always takes its likeliest action."""
    policy = known.response.policy
    modal = replace(known.response, policy=np.eye(policy.shape[1])[policy.argmax(axis=1)])
    return replace(known, values=exact_values(known.law.made_in, modal))


def modal_critic_of_both(known: Experience) -> Experience | None:
    """Value what comes next as if both players took their likeliest actions."""
    game, model, policy = known.problem, known.world, known.response.policy
    if not isinstance(game, MarkovGame) or not game.follower_observes_leader:
        return None
    chosen = game.leader_policy(known.theta).argmax(axis=1)
    first = np.arange(game.n_states) * game.n_leader_actions
    state = np.repeat(first + chosen, game.n_leader_actions)  # that (s, b) stands for
    rows = state * model.n_actions + policy.argmax(axis=1)[state]
    system = discounted_system(model, model.transition[rows], model.leader_discount)
    value = system.solve(model.leader_reward.ravel()[rows])
    action_value = model.leader_reward + model.leader_discount * model.next_value(value)
    return replace(known, values=LeaderValues.under(policy, action_value))


def critic_of_followers_discount(known: Experience) -> Experience:
    """Evaluate the leader at the follower's discount."""
    world = known.law.made_in
    other = world.replace(leader_discount=world.follower_discount)
    return replace(known, values=exact_values(other, known.response))


def cut_taken_for_end(known: Experience, *, steps: int) -> Experience | None:
    """Cut trajectories after so many steps; the critic takes that for an episode's end."""
    if steps >= known.law.horizon:
        return None
    critic = SarsaCritic(cut_is_end=True)
    values = critic.limit(known.law.made_in, known.response, Episodes(steps=steps))
    return replace(cut(known, steps), values=values)


def value_without_entropy(known: Experience) -> Experience:
    """Let the follower forget its bonus for randomness where a state's value is asked for."""
    response, available = known.response, known.planned.available
    value = (response.policy * np.where(available, response.action_value, 0.0)).sum(axis=1)
    return replace(known, response=replace(response, value=read_only(value)))


def leader_value_for_followers(known: Experience) -> Experience:
    """Take the leader's value of a state for the follower's."""
    return replace(known, response=replace(known.response, value=known.values.value))


def centred_by_follower_action(known: Experience) -> Experience | None:
    """Take Q_L's mean over the leader's actions off at each of the follower's actions."""
    game = known.problem
    if not isinstance(game, MarkovGame) or not game.follower_observes_leader:
        return None
    leader, policy = game.leader_policy(known.theta), known.response.policy
    available = known.planned.available
    action_value = np.where(available, known.values.action_value, 0.0)
    shape = (*leader.shape, policy.shape[1])
    taken_off = np.einsum("sb,sba->sa", leader, action_value.reshape(shape))
    shift = np.einsum("sba,sa->sb", policy.reshape(shape), taken_off).ravel()
    values = known.values
    centred = LeaderValues(
        read_only(values.action_value - shift[:, None]), read_only(values.value - shift)
    )
    return replace(known, values=centred)


@dataclass(frozen=True)
class InProbabilities:
    """A game whose derivatives are in the leader's probabilities: each score lacks its factor."""

    game: MarkovGame

    @property
    def n_parameters(self) -> int:
        """Number of logits."""
        return self.game.n_parameters

    def model(self, theta: npt.ArrayLike) -> Model:
        """Make the game's model."""
        return self.game.model(theta)

    def pullback(self, theta: npt.ArrayLike, sensitivities: Sensitivities) -> FloatArray:
        """Divide the gradient in the logits by the probabilities."""
        found = self.game.pullback(theta, sensitivities)
        return ratio(found, self.game.leader_policy(theta).ravel())


def in_probabilities(known: Experience) -> Experience | None:
    """Forget that the leader's probabilities are a softmax."""
    game = known.problem
    return replace(known, problem=InProbabilities(game)) if isinstance(game, MarkovGame) else None


def stale_theta(known: Experience, *, rate: float | None) -> Experience | None:
    """Know all that was right at another theta: before a step of ascent, or 0."""
    if known.again is None:
        return None
    before = np.zeros_like(known.theta)
    if rate is not None:
        rule = BoltzmannCovariance().rule(known)
        before = known.theta - rate * Estimate.traced(known, *rule.measures(known)).gradient
    try:
        there = known.again(before)
    except ValueError:  # theta may be anything, and a problem may not be defined there
        return None
    law = known.law
    seen = replace(there.law, horizon=min(law.horizon, there.law.horizon), count=law.count)
    return replace(there, seen=seen)


def replayed(known: Experience, *, rate: float | None) -> Experience | None:
    """See what was done at another theta, as `stale_theta` has it; all else is of now."""
    before = stale_theta(known, rate=rate)
    return None if before is None else seen_of(known, before)


def follower_advantage(known: Experience) -> FloatArray:
    """Q_F - V_F, with the follower's bonus for randomness in V_F."""
    response = known.response
    gap = response.action_value - response.value[:, None]
    return np.asarray(np.where(known.planned.available, gap, 0.0))


def from_next_step(known: Experience) -> FloatArray:
    """Leader's advantage without the reward that is earned at once."""
    return known.values.advantage - at_once(known)


def at_once(known: Experience) -> FloatArray:
    """Leader's reward, less its mean over the follower's actions."""
    reward = np.where(known.planned.available, known.world.leader_reward, 0.0)
    return np.asarray(reward - np.vecdot(known.response.policy, reward)[:, None])


def value_stays(known: Experience) -> FloatArray:
    """r_L + gamma_L V_L(s) - V_L(s)."""
    world, value = known.world, known.values.value[:, None]
    found = world.leader_reward + (world.leader_discount - 1.0) * value
    return np.asarray(np.where(known.planned.available, found, 0.0))


def standardised(known: Experience) -> FloatArray:
    """Leader's advantage, less its mean over all steps, divided by its standard deviation."""
    counts, _ = known.seen.visits(1.0)
    share = counts / max(counts.sum(), 1.0)
    advantage = known.values.advantage
    advantage = advantage - np.vdot(share, advantage)
    deviation = float(np.sqrt(np.vdot(share, advantage**2)))
    return np.asarray(advantage / (deviation or 1.0))


def ended(known: Experience) -> float:
    """Share of the trajectories that end by themselves, not by a cut."""
    seen = known.seen
    if not isinstance(seen, Law):
        return float(seen.terminated.mean())
    if seen.restarts:
        return 0.0
    ends = np.where(seen.model.available, seen.made_in.termination, 0.0)
    return float(np.vdot(seen.visits(1.0)[1], ends))


def never_ending(known: Experience) -> Experience | None:
    """Leave as it is what is cut after one number of steps, whatever happens."""
    return known if known.law.survival == 1.0 and ended(known) == 0.0 else None


def restarting(known: Experience) -> Experience | None:
    """Let the next episode count as the continuation of the one before, if one can end."""
    law = known.law
    ends = any(np.vdot(pairs, law.made_in.termination) > 0.0 for pairs in law.steps())
    return replace(known, seen=replace(law, restarts=True)) if ends else None


def slipping(known: Experience, *, share: float) -> Experience | None:
    """Mix each row with the mean of its state's rows, on what the row can reach.

    On a grid that is a change of the slip.
    """
    model = known.world
    kernel = model.transition
    chances = model.available / model.available.sum(axis=1, keepdims=True)
    n_rows, n_states = kernel.shape
    _, pair = np.unique(model.entry_state * n_states + kernel.indices, return_inverse=True)
    reached = np.bincount(pair, chances.ravel()[model.entry_row] * kernel.data)[pair]
    data = np.where(kernel.data > 0.0, (1.0 - share) * kernel.data + share * reached, 0.0)
    sums = np.bincount(model.entry_row, data, minlength=n_rows)
    if data.min(initial=0.0) < 0.0 or np.allclose(data, kernel.data, atol=1e-12):
        return None
    scale = model.row_mass.ravel() / np.where(sums > 0.0, sums, 1.0)
    source = model.replace(transition=model.like_transition(data * scale[model.entry_row]))
    elsewhere = replace(known, seen=replace(known.law, source=source))
    return answered_by(elsewhere, known.response)


def averaged_follower(known: Experience) -> Experience | None:
    """Back up the soft maximum of the leader's average, and act on each leader action apart."""
    game, model = known.problem, known.planned
    if not isinstance(game, MarkovGame) or not game.follower_observes_leader:
        return None
    if (game.available != game.available[:, :1]).any():
        return None
    policy, beta = game.leader_policy(known.theta), game.temperature
    value = np.zeros(game.n_states)
    rounds = 2 * negligible_horizon(model)
    for _ in range(rounds):
        ahead = np.asarray(game.transition @ value).reshape(game.follower_reward.shape)
        action_value = np.where(
            game.available, game.follower_reward + game.follower_discount * ahead, -np.inf
        )
        averaged = np.where(
            game.available[:, 0],
            np.einsum("sb,sba->sa", policy, np.where(game.available, action_value, 0.0)),
            -np.inf,
        )
        improved, _ = soft_maximum(averaged, beta)
        change = float(np.abs(improved - value).max())
        value = improved
        if change <= 1e-12 * max(1.0, float(np.abs(value).max())):
            break
    else:
        raise ConvergenceError(
            f"the averaged follower's values still change by {change:.3g}",
            residual=change,
            iterations=rounds,
        )
    answers = action_value.reshape(model.follower_reward.shape)
    value, chances = soft_maximum(answers, beta)
    response = replace(
        known.response,
        value=read_only(value),
        action_value=read_only(answers),
        policy=read_only(chances),
    )
    return answered_by(known, response)
