"""A fine grid of states and inputs, solved as tables, comes to the linear-quadratic answer."""

import numpy as np
import scipy.sparse as sp
from sizes import sizes
from systems import of_one_state

import tabular_bilevel as tb

SCALARS = {"follower_discount": 0.9, "leader_discount": 0.9, "temperature": 0.2}
PULL, PUSH, SPREAD = 0.95, 0.5, 0.3
THETA = np.array([1.0, 0.4])  # what x^2 and u^2 cost the follower

# Some standard deviations more than where state and input ever are, and how many inputs there are.
WIDTH, REACH, INPUTS = 3.0, 5.0, 257

# Rounding, and what is beyond the grid's ends.
FLOOR = 1e-8

REWARDS = {
    "quadratic": (
        tb.QuadraticReward(state=[[-1.0]], control=[[-0.3]], constant=0.2, cross=[[0.1]]),
        lambda x, u: 0.2 - x**2 - 0.3 * u**2 + 0.2 * x * u,
    ),
    "bump": (
        tb.GaussianBump(centre=[0.3], precision=[[2.0]], height=1.5),
        lambda x, u: 1.5 * np.exp(-2.0 * (x - 0.3) ** 2) + 0.0 * u,
    ),
}


class Costs:
    """The continuous problem: theta is what state and input cost the follower."""

    def __init__(self, reward):
        self.reward = reward

    def model(self, theta):
        return of_one_state(
            dynamics=PULL,
            control=PUSH,
            state_cost=theta[0],
            control_cost=theta[1],
            noise=SPREAD**2,
            initial_mean=1.0,
            initial_covariance=0.0,
            leader_reward=self.reward,
            **SCALARS,
        )

    def pullback(self, theta, sensitivities):
        return np.array([sensitivities.state_cost[0, 0], sensitivities.control_cost[0, 0]])


def on_a_grid(reward, per_unit, *, push=PUSH):
    """Make it of tables.

    The noise takes seven values, with the moments of a Gaussian up to the thirteenth. Where it
    leads between two places of the grid, it leads to both with the weights of a straight line,
    which adds to a square a sixth of the step's square on average: so the error falls with that.
    """
    x = np.linspace(-WIDTH, WIDTH, int(2 * WIDTH * per_unit) + 1)
    u = np.linspace(-REACH, REACH, INPUTS)  # a sum of Gaussians over it is exact to rounding
    pairs_x, pairs_u = np.repeat(x, u.size), np.tile(u, x.size)
    kernel = sp.csr_array((x.size * u.size, x.size))
    values, masses = np.polynomial.hermite_e.hermegauss(7)
    for away, mass in zip(values, masses / masses.sum(), strict=True):
        ahead = PULL * pairs_x + push * pairs_u + SPREAD * away
        place = np.clip((ahead + WIDTH) * per_unit, 0.0, x.size - 1.0)
        left = np.minimum(place.astype(int), x.size - 2)
        share = place - left
        rows = np.arange(place.size)
        for columns, part in ((left, 1.0 - share), (left + 1, share)):
            kernel += sp.csr_array((mass * part, (rows, columns)), shape=kernel.shape)
    shape = (x.size, u.size)
    base = tb.Model.from_tables(
        transition=tb.normalised(kernel),
        follower_reward=np.zeros(shape),
        leader_reward=reward(pairs_x, pairs_u).reshape(shape),
        initial=(np.arange(x.size) == np.argmin(np.abs(x - 1.0))).astype(float),
        **SCALARS,
    )
    costs = np.stack([-(pairs_x**2), -(pairs_u**2)], axis=1)
    return tb.FeatureProblem(base, follower_reward=costs)


@sizes("name", [*REWARDS][1:], [*REWARDS][:1])
def test_a_fine_grid_comes_to_the_same_with_the_square_of_its_step(name):
    continuous, discrete = REWARDS[name]
    known = tb.hypergradient(Costs(continuous), THETA)
    errors = []
    for per_unit in (5, 10, 20):
        found = tb.hypergradient(on_a_grid(discrete, per_unit), THETA, accuracy=tb.Estimated())
        gaps = np.append(found.gradient - known.gradient, found.objective - known.objective)
        errors.append(np.abs(gaps))
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert (errors[-1] > FLOOR).all()
    assert np.all((ratios > 3.5) & (ratios < 4.5)), ratios
    extrapolated = (4.0 * errors[-1] - errors[-2]) / 3.0  # signs are alike
    size = np.abs(np.append(known.gradient, known.objective))
    assert (np.abs(extrapolated) < 1e-3 * size).all()


def test_the_grid_of_another_system_does_not():
    continuous, discrete = REWARDS["quadratic"]
    known = tb.objective(Costs(continuous), THETA)
    other = tb.objective(on_a_grid(discrete, 20, push=0.9 * PUSH), THETA)
    assert abs(other - known) > 1e-2 * abs(known)


def test_the_policy_on_the_grid_is_the_gaussian():
    continuous, discrete = REWARDS["quadratic"]
    answer = tb.solve_follower(Costs(continuous).model(THETA))
    tables = tb.solve_follower(on_a_grid(discrete, 20).model(THETA))
    x, u = np.linspace(-WIDTH, WIDTH, 121), np.linspace(-REACH, REACH, INPUTS)
    middle = np.abs(x) < 1.0
    mean = tables.policy @ u
    spread = tables.policy @ u**2 - mean**2
    np.testing.assert_allclose(mean[middle], -answer.gain[0, 0] * x[middle], atol=2e-3)
    np.testing.assert_allclose(spread[middle], answer.covariance[0, 0], rtol=5e-3)
