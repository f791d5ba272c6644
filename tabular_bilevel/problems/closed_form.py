"""Problems small enough that objective and gradient are written by hand, beside each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tabular_bilevel._base.arguments import as_finite, as_theta, finite_array
from tabular_bilevel._base.arrays import FloatArray
from tabular_bilevel.finite.model import Model
from tabular_bilevel.problems.features import FeatureProblem


def bandit(
    *,
    leader_reward: Sequence[float] = (0.0, 1.0),
    temperature: float = 1.0,
    follower_discount: float = 0.0,
    leader_discount: float = 0.0,
) -> FeatureProblem:
    """Build one state whose actions pay the follower theta.

    Parameters
    ----------
    leader_reward : sequence of float, length A
        What the leader earns for each action.
    temperature : float
        Temperature of the follower; positive.
    follower_discount, leader_discount : float
        In [0, 1); the follower's changes nothing.

    Returns
    -------
    FeatureProblem
        With one parameter an action.

    Raises
    ------
    ValueError
        If a setting is out of range or not finite, as `Model.from_tables` says.

    See Also
    --------
    bandit_closed_form : The answer.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> tb.hypergradient(tb.problems.bandit(leader_reward=[0.0, 1.0]), [0.0, 0.0]).objective
    0.5
    """
    reward = finite_array("leader_reward", leader_reward, (None,))
    base = Model.from_tables(
        transition=np.ones((1, reward.size, 1)),
        follower_reward=np.zeros((1, reward.size)),
        leader_reward=reward[None, :],
        initial=[1.0],
        follower_discount=follower_discount,
        leader_discount=leader_discount,
        temperature=temperature,
    )
    return FeatureProblem(base, follower_reward=np.eye(reward.size))


def bandit_closed_form(
    theta: npt.ArrayLike,
    *,
    leader_reward: Sequence[float] = (0.0, 1.0),
    temperature: float = 1.0,
    leader_discount: float = 0.0,
) -> tuple[float, FloatArray]:
    """Objective and gradient of `bandit` (theory.md section 2): pi the softmax of theta / beta::

        J = pi.r_L / (1 - gamma_L),   dJ/dtheta_b = pi_b (r_L,b - pi.r_L) / (beta (1 - gamma_L))

    Parameters
    ----------
    theta : array_like, shape (A,)
        What the follower is paid.
    leader_reward, temperature, leader_discount
        As for `bandit`.

    Returns
    -------
    objective : float
        J.
    gradient : ndarray, shape (A,)
        dJ/dtheta.

    Raises
    ------
    ValueError
        If theta has the wrong length or an entry that is not finite.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> tb.problems.bandit_closed_form([0.0, 0.0])
    (0.5, array([-0.25,  0.25]))
    """  # noqa: D400
    reward = np.array(leader_reward, dtype=np.float64)
    logits = as_theta(theta, reward.size) / temperature
    weights = np.exp(logits - logits.max())
    policy = weights / weights.sum()
    mean = float(policy @ reward)
    remaining = 1.0 - leader_discount
    return mean / remaining, policy * (reward - mean) / (temperature * remaining)


def two_state(
    *,
    wage: float = 0.5,
    temperature: float = 0.5,
    follower_discount: float = 0.9,
    leader_discount: float = 0.8,
) -> FeatureProblem:
    """Build a home and a workplace: theta_0 pays for staying home, theta_1 sends workers home.

    At home (state 0) the follower stays, for theta_0 that the leader pays, or leaves for work. At
    work (state 1, a single action) it earns `wage` and the leader 1, and it is sent home with
    probability 1 / (1 + exp(-theta_1)). Play starts at home.

    Parameters
    ----------
    wage : float
        The follower's reward at work.
    temperature : float
        Temperature of the follower; positive.
    follower_discount, leader_discount : float
        In [0, 1).

    Returns
    -------
    FeatureProblem
        With two parameters, one of the rewards and one of the kernel.

    Raises
    ------
    ValueError
        If a setting is out of range or not finite, as `Model.from_tables` says.

    See Also
    --------
    two_state_closed_form : The answer.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> value, gradient = tb.problems.two_state_closed_form([0.2, -0.3])
    >>> bool(abs(tb.objective(tb.problems.two_state(), [0.2, -0.3]) - value) < 1e-12)
    True
    """
    # rows: home/stay, home/leave, work/work, work/(none); entries in reading order
    transition = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.0, 0.0]]])
    base = Model.from_tables(
        transition=transition,
        follower_reward=[[0.0, 0.0], [as_finite("wage", wage), -np.inf]],
        leader_reward=[[0.0, 0.0], [1.0, 0.0]],
        initial=[1.0, 0.0],
        follower_discount=follower_discount,
        leader_discount=leader_discount,
        temperature=temperature,
    )
    stay_pay = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    sent_home = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    return FeatureProblem(
        base, follower_reward=stay_pay, leader_reward=-stay_pay, transition=sent_home
    )


def two_state_closed_form(
    theta: npt.ArrayLike,
    *,
    wage: float = 0.5,
    temperature: float = 0.5,
    follower_discount: float = 0.9,
    leader_discount: float = 0.8,
) -> tuple[float, FloatArray]:
    """Objective and gradient of `two_state`, differentiated by hand from one scalar equation.

    With p the probability of being sent home, D = 1 - gamma_F (1 - p) and V the follower's value at
    home, its value at work is W = (wage + gamma_F p V) / D, and V is the root of
    V = beta log(exp((theta_0 + gamma_F V) / beta) + exp(gamma_F W / beta)). The leader's value at
    home is a quotient N / M (theory.md section 3), with E = 1 - gamma_L (1 - p) and pi the
    probability of staying::

        N = -pi theta_0 + (1 - pi) gamma_L / E,   M = 1 - gamma_L pi - (1 - pi) gamma_L^2 p / E

    Parameters
    ----------
    theta : array_like, shape (2,)
        Pay for staying, logit of being sent home.
    wage, temperature, follower_discount, leader_discount
        As for `two_state`.

    Returns
    -------
    objective : float
        J.
    gradient : ndarray, shape (2,)
        dJ/dtheta.

    Raises
    ------
    ValueError
        If theta has the wrong length or an entry that is not finite.

    Examples
    --------
    >>> import tabular_bilevel as tb
    >>> value, gradient = tb.problems.two_state_closed_form([0.2, -0.3])
    >>> exact = tb.hypergradient(tb.problems.two_state(), [0.2, -0.3])
    >>> bool(abs(exact.gradient - gradient).max() < 1e-12)
    True
    """
    from scipy import optimize, special

    pay, logit = as_theta(theta, 2)
    beta, gamma, delta = temperature, follower_discount, leader_discount
    p = special.expit(logit)
    D, E = 1.0 - gamma * (1.0 - p), 1.0 - delta * (1.0 - p)

    def exponents(value: float) -> tuple[float, float]:
        return (pay + gamma * value) / beta, gamma * (wage + gamma * p * value) / D / beta

    largest = (abs(pay) + abs(wage) + beta * np.log(2.0)) / (1.0 - gamma)
    V = optimize.brentq(
        lambda value: value - beta * np.logaddexp(*exponents(value)),
        -largest - 1.0,
        largest + 1.0,
        xtol=1e-15,
        rtol=4.0 * np.finfo(np.float64).eps,
    )
    stay, leave = exponents(V)
    pi = special.expit(stay - leave)

    # dW = k dV + c dp;  rows: derivatives with respect to theta_0 and theta_1
    k, c = gamma * p / D, gamma * (V * (1.0 - gamma) - wage) / D**2
    dpay, dp = np.array([1.0, 0.0]), np.array([0.0, p * (1.0 - p)])
    dV = (pi * dpay + (1.0 - pi) * gamma * c * dp) / (1.0 - gamma * (pi + (1.0 - pi) * k))
    dpi = pi * (1.0 - pi) / beta * (dpay + gamma * dV - gamma * (k * dV + c * dp))

    N = -pi * pay + (1.0 - pi) * delta / E
    M = 1.0 - delta * pi - (1.0 - pi) * delta**2 * p / E
    dN = -dpi * (pay + delta / E) - pi * dpay - (1.0 - pi) * (delta / E) ** 2 * dp
    dM = -delta * dpi * (1.0 - delta * p / E) - (1.0 - pi) * (delta / E) ** 2 * (1.0 - delta) * dp
    return float(N / M), np.asarray((dN - N / M * dM) / M)
