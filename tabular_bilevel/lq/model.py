"""The follower's linear-quadratic decision process at a fixed theta (theory.md section 15)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_discount, as_positive, finite_array, positive_integer
from tabular_bilevel._base.arrays import FloatArray, quiet, read_only, restore_read_only
from tabular_bilevel.lq.arguments import as_change, as_not_negative, as_positive_definite, sizes
from tabular_bilevel.lq.linear import is_stable
from tabular_bilevel.lq.rewards import GaussianBump, QuadraticReward

#: The tables that theta may move, in the order of `Tangent`; the leader's reward has its own.
MOVED = (
    "dynamics",
    "control",
    "state_cost",
    "control_cost",
    "noise",
    "initial_mean",
    "initial_covariance",
    "temperature",
)

#: Those that are symmetric, and so are their derivatives.
SYMMETRIC = frozenset({"state_cost", "control_cost", "noise", "initial_covariance"})

# What moves a mode by less than this part of the largest does not move it in float64.
UNREACHED = 1e-10


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearQuadraticModel:
    """A follower that steers a linear system with Gaussian noise; frozen, its arrays read-only.

    The state x, n numbers, moves to ``dynamics x + control u + w`` with w ~ N(0, noise). The input
    u, m numbers, costs the follower ``x' state_cost x + u' control_cost u`` a step; its entropy
    earns it the temperature times as much, as for tables. theory.md section 15 has the symbols.

    Attributes
    ----------
    dynamics : ndarray, shape (n, n)
        A.
    control : ndarray, shape (n, m)
        B.
    state_cost : ndarray, shape (n, n)
        Q, symmetric, no eigenvalue below 0.
    control_cost : ndarray, shape (m, m)
        R, symmetric, all eigenvalues above 0.
    noise : ndarray, shape (n, n)
        W, the covariance of the noise.
    initial_mean : ndarray, shape (n,)
        Mean of the first state.
    initial_covariance : ndarray, shape (n, n)
        Its covariance.
    follower_discount, leader_discount : float
        Discounts per step, in [0, 1).
    temperature : float
        Weight of the follower's entropy bonus; positive.
    leader_reward : QuadraticReward or GaussianBump
        What the leader earns a step, in the state and the input before the move.
    leader_horizon : int or None
        How many steps the leader counts; all if None. The follower's horizon is infinite.

    Raises
    ------
    ValueError
        On construction, if a table has the wrong shape, is not finite, symmetric or positive where
        it must be; if the input cannot stabilise the discounted system; or if a mode that grows
        costs nothing. The message names the entry and the number.

    See Also
    --------
    LinearQuadraticGame : Both players act.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> model = tb.LinearQuadraticModel(
    ...     dynamics=[[0.9]],
    ...     control=[[0.5]],
    ...     state_cost=[[1.0]],
    ...     control_cost=[[0.1]],
    ...     noise=[[0.01]],
    ...     initial_mean=[1.0],
    ...     initial_covariance=[[0.0]],
    ...     follower_discount=0.9,
    ...     leader_discount=0.9,
    ...     temperature=0.1,
    ...     leader_reward=tb.QuadraticReward(state=[[-1.0]], control=[[-0.5]]),
    ... )
    >>> model.n_states, model.n_controls, str(model).split(", follower")[0]
    (1, 1, 'LinearQuadraticModel: 1 state, 1 input')
    >>> answer = tb.solve_follower(model)
    >>> answer.gain.round(4), answer.covariance.round(4)  # u ~ N(-1.3246 x, 0.132)
    (array([[1.3246]]), array([[0.132]]))
    >>> model.replace(temperature=1.0).temperature
    1.0
    """

    dynamics: FloatArray
    control: FloatArray
    state_cost: FloatArray
    control_cost: FloatArray
    noise: FloatArray
    initial_mean: FloatArray
    initial_covariance: FloatArray
    follower_discount: float
    leader_discount: float
    temperature: float
    leader_reward: QuadraticReward | GaussianBump
    leader_horizon: int | None = None

    __setstate__ = restore_read_only

    @quiet
    def __post_init__(self) -> None:
        """Check everything, and copy it."""
        A = finite_array("dynamics", self.dynamics, (None, None))
        n = A.shape[0]
        A = finite_array("dynamics", A, (n, n))
        B = finite_array("control", self.control, (n, None))
        m = B.shape[1]
        discount = as_discount("follower_discount", self.follower_discount)
        horizon = self.leader_horizon
        Q = as_not_negative("state_cost", self.state_cost, n)
        checked: dict[str, Any] = {
            "dynamics": read_only(A),
            "control": read_only(B),
            "state_cost": Q,
            "control_cost": as_positive_definite("control_cost", self.control_cost, m),
            "noise": as_not_negative("noise", self.noise, n),
            "initial_mean": read_only(finite_array("initial_mean", self.initial_mean, (n,))),
            "initial_covariance": as_not_negative("initial_covariance", self.initial_covariance, n),
            "follower_discount": discount,
            "leader_discount": as_discount("leader_discount", self.leader_discount),
            "temperature": as_positive("temperature", self.temperature),
            "leader_horizon": (
                None if horizon is None else positive_integer("leader_horizon", horizon)
            ),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if not isinstance(self.leader_reward, (QuadraticReward, GaussianBump)):
            raise ValueError(
                f"leader_reward is of type {type(self.leader_reward).__name__}, not a "
                "QuadraticReward or a GaussianBump"
            )
        self.leader_reward.require_shape(n, m)
        _require_solvable(A, B, Q, discount)

    @property
    def n_states(self) -> int:
        """Length of the state, n."""
        return int(self.control.shape[0])

    @property
    def n_controls(self) -> int:
        """Length of the follower's input, m."""
        return int(self.control.shape[1])

    def replace(self, **tables: Any) -> LinearQuadraticModel:
        """Copy the model with some tables changed, as of `Model`; all are checked again."""
        return dataclasses.replace(self, **tables)

    def __str__(self) -> str:
        return (
            f"LinearQuadraticModel: {sizes(self.n_states, self.n_controls)}, follower discount "
            f"{self.follower_discount:g}, leader discount {self.leader_discount:g}, temperature "
            f"{self.temperature:g}"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Tangent:
    """Derivative of a linear-quadratic model's tables in one direction of theta.

    A table that is left out, or None, does not move. Those of symmetric tables are symmetric.

    Attributes
    ----------
    dynamics, control, state_cost, control_cost, noise, initial_mean, initial_covariance : ndarray
        Change of each table, of its shape.
    temperature : float
        Change of the temperature.
    leader_reward : mapping of str to ndarray
        Change of the leader's reward, by the names of its attributes.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> warmer = tb.lq.Tangent(temperature=1.0, leader_reward={"constant": -0.2})
    >>> warmer.temperature, warmer.dynamics
    (1.0, None)
    """

    dynamics: Any = None
    control: Any = None
    state_cost: Any = None
    control_cost: Any = None
    noise: Any = None
    initial_mean: Any = None
    initial_covariance: Any = None
    temperature: float = 0.0
    leader_reward: Mapping[str, Any] = field(default_factory=dict)

    __setstate__ = restore_read_only


def checked_tangent(model: LinearQuadraticModel, tangent: Tangent) -> Tangent:
    """Check what a pushforward returned, and fill in what it left out."""
    reward = model.leader_reward
    changes = {name: getattr(tangent, name) for name in MOVED}
    tables = {name: getattr(model, name) for name in MOVED}
    of_reward = {name: getattr(reward, name) for name in reward.moved}
    return Tangent(
        **as_change("pushforward(...)", changes, tables, SYMMETRIC),
        leader_reward=as_change(
            "pushforward(...).leader_reward", tangent.leader_reward, of_reward, reward.symmetric
        ),
    )


def _require_solvable(
    dynamics: FloatArray, control: FloatArray, state_cost: FloatArray, discount: float
) -> None:
    """Raise unless each mode that grows is moved by the input, and costs something.

    That is, unless the discounted pair is stabilisable and detectable (Hautus's test): then the
    Riccati equation has one solution that is not negative, and it stabilises.
    """
    a = np.sqrt(discount) * dynamics
    if is_stable(a):
        return
    for mode in np.linalg.eigvals(a):
        if abs(mode) < 1.0:
            continue
        shifted = mode * np.eye(a.shape[0]) - a
        grows = f"a mode of dynamics grows, by {abs(mode):.6g} a step with the root of the discount"
        if _has_null(shifted, control):
            raise ValueError(f"{grows}, and control does not reach it: nothing stabilises it")
        if _has_null(shifted.T, state_cost):
            raise ValueError(f"{grows}, and state_cost does not see it: nothing tells what is best")


def _has_null(shifted: npt.NDArray[Any], beside: FloatArray) -> bool:
    """Say whether a row vector is nearly 0 times both matrices, each in its own units."""
    scale = [
        max(float(np.abs(part).max()), np.finfo(np.float64).tiny) for part in (shifted, beside)
    ]
    both = np.hstack((shifted / scale[0], beside / scale[1]))
    return bool(np.linalg.svd(both, compute_uv=False)[-1] <= UNREACHED)
