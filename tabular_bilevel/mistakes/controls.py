"""Estimators that are wrong on purpose, each with the number that it is wrong by.

A checker that passes one of them is no checker. Each is BC-HG with one ingredient changed, and the
same change to the exact computation is what it converges to: so a stranger's biased estimator can
be compared with all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_generator, as_theta, positive_integer
from tabular_bilevel._base.arrays import FloatArray, read_only, softmax
from tabular_bilevel._base.errors import ConvergenceError
from tabular_bilevel.estimators.estimate import Parts
from tabular_bilevel.finite.adjoint import temperature_slope
from tabular_bilevel.finite.follower import Response, StoppedValueIteration, solve_follower
from tabular_bilevel.finite.model import Model
from tabular_bilevel.finite.sensitivities import Sensitivities
from tabular_bilevel.problem import BilevelProblem, pulled_back
from tabular_bilevel.problems.markov_game import MarkovGame
from tabular_bilevel.sampling.critics import LeaderValues, exact_values
from tabular_bilevel.sampling.experience import NOTHING, Experience
from tabular_bilevel.sampling.samplers import negligible_horizon
from tabular_bilevel.sampling.traces import sampled_traces
from tabular_bilevel.sampling.trajectories import Trajectories, draw

__all__ = ["FAULTS", "Control", "Fault", "Ingredients", "controls", "cut_after"]

# Probability of not having ended, below which all trajectories have.
ALL_ENDED = 1e-18


@dataclass(frozen=True, eq=False)
class Ingredients:
    """What BC-HG is made of at one theta (theory.md section 6); a fault changes something here.

    Attributes
    ----------
    problem : BilevelProblem
        The leader's problem.
    theta : ndarray, shape (d,)
        Where.
    model : Model
        What the follower plans with, and the leader differentiates.
    world : Model
        What trajectories come from; its transitions are stored like the model's.
    response : Response
        The follower's.
    values : LeaderValues
        The critic's.
    credit : ndarray, shape (S, A)
        What a decision is credited with, A_L / temperature.
    credit_discount, trace_discount, leader_discount : float
        Of a decision's credit, by when it is taken; of what follows it; of the leader's rewards.
    horizon : int
        Steps after which a trajectory is cut.
    direct, indirect : float
        Factors of the two parts.
    late : bool
        Whether a decision's influence begins with the step after it.
    restarts : bool
        Whether the next episode counts as the continuation of the one before.
    """

    problem: BilevelProblem
    theta: FloatArray
    model: Model
    world: Model
    response: Response
    values: LeaderValues
    credit: FloatArray
    credit_discount: float
    trace_discount: float
    leader_discount: float
    horizon: int
    direct: float = 1.0
    indirect: float = 1.0
    late: bool = False
    restarts: bool = False

    @classmethod
    def of(
        cls, problem: BilevelProblem, theta: npt.ArrayLike, *, horizon: int | None = None
    ) -> Ingredients:
        """Assemble the right ones; by default trajectories are not cut where it matters."""
        theta = read_only(as_theta(theta))
        model = problem.model(theta)
        response = solve_follower(model)
        values = exact_values(model, response)
        return cls(
            problem=problem,
            theta=theta,
            model=model,
            world=model,
            response=response,
            values=values,
            credit=values.advantage / model.temperature,
            credit_discount=model.leader_discount,
            trace_discount=model.follower_discount,
            leader_discount=model.leader_discount,
            horizon=negligible_horizon(model) if horizon is None else horizon,
        )

    def with_values(self, values: LeaderValues) -> Ingredients:
        """Change the critic."""
        return replace(self, values=values, credit=values.advantage / self.model.temperature)

    def with_response(self, response: Response) -> Ingredients:
        """Change the follower, with a critic that knows what it does."""
        changed = replace(self, response=response)
        return changed.with_values(exact_values(self.world, response))

    def laws(self) -> Iterator[FloatArray]:
        """Follow the law of the state, shape (S,), until trajectories are cut or all have ended."""
        law = self.world.initial
        for _ in range(self.horizon):
            if not law.sum() > ALL_ENDED:
                return
            yield law
            law = self._arrivals(self.response.policy * law[:, None])

    def expected(self) -> FloatArray:
        """Compute what the estimator made of these converges to, shape (d,)."""
        model, policy = self.model, self.response.policy
        influence, occupancy, trace = np.zeros((3, *policy.shape))
        weight = credit_weight = 1.0
        for law in self.laws():
            pairs = policy * law[:, None]
            own = credit_weight * pairs * self.credit
            carried = policy * self._arrivals(self.trace_discount * trace)[:, None]
            trace = carried + own
            influence += carried if self.late else trace
            occupancy += weight * pairs
            weight *= self.leader_discount
            credit_weight *= self.credit_discount
        # how often a transition is made, per unit of its probability in the model
        kernel, row = model.transition, model.entry_row
        ratio = self.world.transition.data / np.where(kernel.data > 0.0, kernel.data, 1.0)

        def worth(
            measure: FloatArray,
            discount: float,
            value: FloatArray,
            action_value: FloatArray,
            reward: FloatArray,
        ) -> FloatArray:
            ahead = np.where(model.available & (model.termination == 0), action_value - reward, 0.0)
            arriving = discount * value[kernel.indices] - ahead.ravel()[row]
            return np.asarray(measure.ravel()[row] * ratio * arriving)

        first = self.values.value  # of states where nothing starts no sample says anything
        direct = Sensitivities.of(
            model,
            leader_reward=occupancy,
            entries=worth(
                occupancy,
                self.leader_discount,
                self.values.value,
                self.values.action_value,
                model.leader_reward,
            ),
            initial=np.where(model.initial > 0.0, first - model.initial @ first, 0.0),
        )
        indirect = Sensitivities.of(
            model,
            follower_reward=influence,
            entries=worth(
                influence,
                model.follower_discount,
                self.response.value,
                self.response.action_value,
                model.follower_reward,
            ),
            temperature=partial(temperature_slope, model, self.response, influence),
        )
        return self._combined(direct, indirect)

    def sample(self, n_trajectories: int, rng: np.random.Generator) -> Trajectories:
        """Draw trajectories as the estimator would take them."""
        policy, horizon = self.response.policy, self.horizon
        if not self.restarts:
            return draw(self.world, policy, rows=n_trajectories, columns=horizon, rng=rng)
        rows = np.full((3, n_trajectories, horizon), -1, dtype=np.int32)
        for k in range(n_trajectories):
            episodes = draw(
                self.world, policy, rows=horizon, columns=horizon, rng=rng, n_steps=horizon
            )
            steps = (episodes.states, episodes.actions, episodes.next_states)
            rows[:, k] = [column[episodes.mask] for column in steps]
        states, actions, following = read_only(rows)
        return Trajectories(
            states=states,
            actions=actions,
            next_states=following,
            lengths=read_only(np.full(n_trajectories, horizon)),
            model=self.model,
            complete=n_trajectories,
        )

    def estimate(self, trajectories: Trajectories) -> FloatArray:
        """Estimate from trajectories, which are cut if they are too long, shape (d,)."""
        trajectories = replace(trajectories.cut(self.horizon), model=self.model)
        experience = Experience(
            problem=self.problem,
            theta=self.theta,
            model=self.model,
            response=self.response,
            trajectories=trajectories,
            values=self.values,
            memory=NOTHING,
        )

        def traces(discount: float) -> tuple[Sensitivities, Sensitivities]:
            return sampled_traces(
                experience,
                credit=self.credit,
                credit_discount=self.credit_discount,
                trace_discount=discount,
                leader_discount=self.leader_discount,
            )

        direct, indirect = traces(self.trace_discount)
        gradient = self._combined(direct, indirect)
        if self.late:
            nothing = Sensitivities.of(self.model)
            gradient = gradient - self._combined(nothing, traces(0.0)[1])
        return gradient

    def _combined(self, direct: Sensitivities, indirect: Sensitivities) -> FloatArray:
        if self.direct == self.indirect == 1.0:
            return Parts(self.problem, self.theta, direct, indirect).pulled_back()
        parts = (pulled_back(self.problem, self.theta, part) for part in (direct, indirect))
        one, other = parts
        return read_only(self.direct * one + self.indirect * other)

    def _arrivals(self, flow: FloatArray) -> FloatArray:
        arriving = self.world.arrivals(flow)
        if self.restarts:
            arriving = arriving + self.world.initial * np.vdot(flow, self.world.termination)
        return arriving


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes
    ----------
    name : str
        What it is, with its number if it has one.
    mistake : str
        What it is, without.
    instead : str
        What an estimator that has it converges to: completes "your estimator converges to ...".
    change : callable
        Changes ingredients; returns None where it is not defined.
    """

    name: str
    mistake: str
    instead: str
    change: Callable[[Ingredients], Ingredients | None] = field(repr=False)

    def target(self, right: Ingredients) -> FloatArray | None:
        """Compute what the mistake converges to, shape (d,); None where it is not defined."""
        wrong = self.change(right)
        return None if wrong is None else wrong.expected()


@dataclass(frozen=True)
class Control:
    """BC-HG with one thing wrong.

    Attributes
    ----------
    fault : Fault
        What.
    n_trajectories : int
        Of each estimate.
    """

    fault: Fault
    n_trajectories: int = 1000

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_integer("n_trajectories", self.n_trajectories)

    def __call__(
        self, problem: BilevelProblem, theta: npt.ArrayLike, *, rng: np.random.Generator | int
    ) -> FloatArray:
        """Sample, and estimate wrongly, shape (d,)."""
        wrong = self.ingredients(problem, theta)
        return wrong.estimate(wrong.sample(self.n_trajectories, as_generator(rng)))

    def target(self, problem: BilevelProblem, theta: npt.ArrayLike) -> FloatArray:
        """Compute what the estimates' mean comes to, shape (d,)."""
        return self.ingredients(problem, theta).expected()

    def ingredients(self, problem: BilevelProblem, theta: npt.ArrayLike) -> Ingredients:
        """Assemble what it is made of.

        Raises
        ------
        ValueError
            If the fault is not defined for the problem.
        """
        wrong = self.fault.change(Ingredients.of(problem, theta))
        if wrong is None:
            raise ValueError(f"{self.fault.name!r} is not defined for this problem")
        return wrong


def controls(*, n_trajectories: int = 1000) -> dict[str, Control]:
    """Make an estimator of each fault.

    Parameters
    ----------
    n_trajectories : int
        Of each estimate.

    Returns
    -------
    dict
        From the fault's name to the wrong estimator. A fault shows only where it changes anything:
        the temperature's not at temperature 1, the discounts' not where both are the same; an
        estimator raises ValueError where its fault is not defined.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.garnet(), [0.1] * 6
    >>> wrong = tb.controls(n_trajectories=200)["no 1/temperature"]
    >>> report = tb.check_estimator(wrong, problem, theta, rng=0)
    >>> report.passed, report.diagnosis.best.name
    (False, 'no 1/temperature')
    """
    return {name: Control(fault, n_trajectories) for name, fault in FAULTS.items()}


def _stale(sweeps: int) -> Callable[[Ingredients], Ingredients]:
    follower = StoppedValueIteration(sweeps=sweeps, warm_start=False)
    return lambda c: c.with_response(follower.solve(c.model))


def cut_after(steps: int) -> Fault:
    """Make the fault of trajectories that are cut too early."""
    return Fault(
        f"cut after {steps} steps",
        "trajectories cut",
        f"what trajectories of {steps} steps show",
        lambda c: replace(c, horizon=steps) if steps < c.horizon else None,
    )


def _last_step_missing(c: Ingredients) -> Ingredients | None:
    length = sum(1 for _ in c.laws())
    return replace(c, horizon=length - 1) if length > 1 else None


def _uniform_critic(c: Ingredients) -> Ingredients:
    chances = c.model.available / c.model.available.sum(axis=1, keepdims=True)
    return c.with_values(exact_values(c.world, replace(c.response, policy=chances)))


def _restarts(c: Ingredients) -> Ingredients | None:
    ends = any(
        np.vdot(c.response.policy * law[:, None], c.world.termination) > 0.0 for law in c.laws()
    )
    return replace(c, restarts=True) if ends else None


def _slipping(share: float) -> Callable[[Ingredients], Ingredients | None]:
    """Mix each row with the mean of its state's rows, on what the row can reach.

    On a grid that is a change of the slip.
    """

    def change(c: Ingredients) -> Ingredients | None:
        model, kernel = c.model, c.model.transition
        chances = model.available / model.available.sum(axis=1, keepdims=True)
        n_rows, n_states = kernel.shape
        mixed = np.zeros((model.n_states, n_states))
        np.add.at(
            mixed,
            (model.entry_state, kernel.indices),
            chances.ravel()[model.entry_row] * kernel.data,
        )
        reached = mixed[model.entry_state, kernel.indices]
        data = np.where(kernel.data > 0.0, (1.0 - share) * kernel.data + share * reached, 0.0)
        sums = np.bincount(model.entry_row, data, minlength=n_rows)
        if data.min(initial=0.0) < 0.0 or np.allclose(data, kernel.data, atol=1e-12):
            return None
        scale = model.row_mass.ravel() / np.where(sums > 0.0, sums, 1.0)
        world = model.replace(transition=model.like_transition(data * scale[model.entry_row]))
        changed = replace(c, world=world)
        return changed.with_values(exact_values(world, c.response))

    return change


def _averaged_follower(c: Ingredients) -> Ingredients | None:
    """Back up the soft maximum of the leader's average, and act on each leader action apart."""
    game = c.problem
    if not isinstance(game, MarkovGame) or not game.follower_observes_leader:
        return None
    if (game.available != game.available[:, :1]).any():
        return None
    policy, beta = game.leader_policy(c.theta), game.temperature
    value = np.zeros(game.n_states)
    for _ in range(2 * negligible_horizon(c.model)):
        ahead = np.asarray(game.transition @ value).reshape(game.follower_reward.shape)
        action_value = np.where(
            game.available, game.follower_reward + game.follower_discount * ahead, -np.inf
        )
        averaged = np.where(
            game.available[:, 0],
            np.einsum("sb,sba->sa", policy, np.where(game.available, action_value, 0.0)),
            -np.inf,
        )
        improved = _soft_maximum(averaged, beta)
        change = float(np.abs(improved - value).max())
        value = improved
        if change <= 1e-12 * max(1.0, float(np.abs(value).max())):
            break
    else:
        raise ConvergenceError(
            f"the averaged follower's values still change by {change:.3g}",
            residual=change,
            iterations=2 * negligible_horizon(c.model),
        )
    answers = action_value.reshape(c.model.follower_reward.shape)
    return c.with_response(
        replace(
            c.response,
            value=read_only(_soft_maximum(answers, beta)),
            action_value=read_only(answers),
            policy=read_only(softmax(answers / beta)),
        )
    )


def _soft_maximum(table: FloatArray, temperature: float) -> FloatArray:
    top = table.max(axis=1)
    total = np.exp((table - top[:, None]) / temperature).sum(axis=1)
    return np.asarray(top + temperature * np.log(total))


def _faults() -> Iterator[Fault]:
    def fault(
        name: str,
        instead: str,
        change: Callable[[Ingredients], Ingredients | None],
        mistake: str | None = None,
    ) -> Fault:
        return Fault(name, name if mistake is None else mistake, instead, change)

    yield fault(
        "no discount**t in the covariance",
        "a gradient whose steps all count alike in the part through the follower, without "
        "leader_discount**t",
        lambda c: replace(c, credit_discount=1.0),
    )
    yield fault(
        "no discount**t anywhere",
        "a gradient whose steps all count alike, without leader_discount**t",
        lambda c: replace(c, credit_discount=1.0, leader_discount=1.0),
    )
    yield fault(
        "discounts swapped",
        "a gradient with follower_discount and leader_discount swapped",
        lambda c: replace(
            c,
            credit_discount=c.trace_discount,
            leader_discount=c.trace_discount,
            trace_discount=c.leader_discount,
        ),
    )
    yield fault(
        "follower's discount for the leader's",
        "a gradient that weighs step t by follower_discount**t, not leader_discount**t",
        lambda c: replace(c, credit_discount=c.trace_discount, leader_discount=c.trace_discount),
    )
    yield fault(
        "leader's discount for the follower's",
        "a gradient whose influence decays at leader_discount, not follower_discount",
        lambda c: replace(c, trace_discount=c.leader_discount),
    )
    yield fault(
        "no 1/temperature",
        "a gradient whose part through the follower lacks the factor 1/temperature",
        lambda c: replace(c, credit=c.credit * c.model.temperature),
    )
    yield fault(
        "1/temperature squared",
        "a gradient whose part through the follower is divided by the temperature twice",
        lambda c: replace(c, credit=c.credit / c.model.temperature),
    )
    yield fault(
        "direct term dropped",
        "the part through the follower alone",
        lambda c: replace(c, direct=0.0),
    )
    yield fault(
        "through-follower term dropped",
        "the direct part alone (the naive policy gradient)",
        lambda c: replace(c, indirect=0.0),
    )
    yield fault(
        "through-follower term sign-flipped",
        "the direct part minus the part through the follower",
        lambda c: replace(c, indirect=-1.0),
    )
    yield fault(
        "sign flipped",
        "minus the gradient",
        lambda c: replace(c, direct=-1.0, indirect=-1.0),
    )
    yield fault(
        "normalised occupancy",
        "(1 - leader_discount) times the gradient",
        lambda c: replace(c, direct=1.0 - c.leader_discount, indirect=1.0 - c.leader_discount),
    )
    yield fault(
        "last step missing",
        "the gradient of one step less",
        _last_step_missing,
    )
    yield from map(cut_after, (1, 2, 5, 10, 20, 50, 100))
    yield fault(
        "undiscounted influence",
        "a gradient whose influence does not decay by follower_discount",
        lambda c: replace(c, trace_discount=1.0),
    )
    yield fault(
        "only the first decision counts",
        "a gradient whose part through the follower is that of the first decision, undiscounted "
        "(as in SoBiRL)",
        lambda c: replace(c, credit_discount=0.0, trace_discount=0.0),
    )
    yield fault(
        "no eligibility",
        "a gradient in which a step influences its own decision only, not the ones before it",
        lambda c: replace(c, trace_discount=0.0),
    )
    yield fault(
        "influence one step late",
        "a gradient in which a decision's influence begins with the step after it",
        lambda c: replace(c, late=True),
    )
    yield fault(
        "influence one step early",
        "a gradient whose influence begins a step before the decision, and so is discounted once "
        "too often",
        lambda c: replace(c, indirect=c.model.follower_discount),
    )
    yield fault(
        "advantage of another policy",
        "a gradient with the advantage of a uniformly random follower",
        _uniform_critic,
    )
    yield fault(
        "action value for advantage",
        "a gradient with the leader's action value where its advantage should be",
        lambda c: replace(c, credit=c.values.action_value / c.model.temperature),
    )
    yield fault(
        "next episode counted as this one",
        "a gradient whose episodes do not end: the termination mask is missing",
        _restarts,
    )
    for share in (0.25, -0.355):
        yield fault(
            f"simulator slips {'more' if share > 0 else 'less'} than the planner",
            f"what a simulator shows whose moves are mixed with random ones by {share:+g}",
            _slipping(share),
            "simulator and planner differ",
        )
    for sweeps in (1, 2, 5, 10, 20):
        yield fault(
            f"follower stopped after {sweeps} sweeps",
            f"the gradient at a follower that stopped after {sweeps} sweeps of value iteration",
            _stale(sweeps),
            "stale follower",
        )
    yield fault(
        "averaged follower",
        "the gradient at a follower that backs up the leader-averaged action value (as in the "
        "published code)",
        _averaged_follower,
    )


#: By name.
FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _faults()}
