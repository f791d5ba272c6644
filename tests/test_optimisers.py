"""Optimisers against textbook loops, and what they refuse."""

import math

import numpy as np
import pytest
from small import refusal

import tabular_bilevel as tb

# A few hundred additions of numbers of the size of 1.
ROUNDING = 1e-12


def gradients(count=200, d=4):
    """Gradients of very different sizes, some entries of which are 0."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(count, d)) * np.exp(rng.normal(size=(count, 1), scale=2.0))
    return np.where(rng.random((count, d)) < 0.1, 0.0, drawn)


def run(optimiser, steps):
    theta, memory = np.linspace(-1.0, 1.0, steps.shape[1]), {}
    for gradient in steps:
        theta, memory = optimiser.step(theta, gradient, memory)
    return theta, memory


def plain_adam(steps, *, rate=0.01, first_decay=0.9, second_decay=0.999, epsilon=1e-8):
    """Algorithm 1 of Kingma and Ba, entry by entry, with the step's sign turned: it climbs."""
    theta = [float(x) for x in np.linspace(-1.0, 1.0, steps.shape[1])]
    first, second = [0.0] * len(theta), [0.0] * len(theta)
    for t, gradient in enumerate(steps, start=1):
        for i, g in enumerate(map(float, gradient)):
            first[i] = first_decay * first[i] + (1.0 - first_decay) * g
            second[i] = second_decay * second[i] + (1.0 - second_decay) * g * g
            mean = first[i] / (1.0 - first_decay**t)
            square = second[i] / (1.0 - second_decay**t)
            theta[i] += rate * mean / (math.sqrt(square) + epsilon)
    return np.array(theta)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rate": 0.3},
        {"first_decay": 0.0, "second_decay": 0.0},
        {"first_decay": 0.5, "second_decay": 0.9, "epsilon": 0.1},
    ],
)
def test_adam_is_its_textbook_loop(settings):
    steps = gradients()
    theta, _ = run(tb.Adam(**settings), steps)
    np.testing.assert_allclose(theta, plain_adam(steps, **settings), rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize(
    "other",
    [{"rate": 0.011}, {"first_decay": 0.89}, {"second_decay": 0.998}, {"epsilon": 1e-3}],
    ids=str,
)
def test_adam_with_another_setting_is_told_apart(other):
    steps = gradients()
    theta, _ = run(tb.Adam(), steps)
    assert np.abs(theta - plain_adam(steps, **other)).max() > 1e6 * ROUNDING


def test_the_first_step_of_adam_is_as_long_as_the_rate():
    # the bias corrections cancel: mean / spread is the gradient's sign
    moved, memory = tb.Adam(rate=0.25).step(np.zeros(3), np.array([1e-3, -7.0, 0.0]), {})
    np.testing.assert_allclose(moved, [0.25, -0.25, 0.0], rtol=1e-4)  # but for epsilon
    assert memory["count"] == 1.0


def test_gradient_ascent_climbs_by_the_rate():
    moved, memory = tb.GradientAscent(0.5).step(np.array([1.0, 2.0]), np.array([4.0, -2.0]), {})
    np.testing.assert_array_equal(moved, [3.0, 1.0])
    assert dict(memory) == {}


@pytest.mark.parametrize(
    ("largest_norm", "moved"),
    [
        (5.0, [3.0, 4.0]),  # of norm 5: as long as allowed
        (6.0, [3.0, 4.0]),
        (np.inf, [3.0, 4.0]),
        (2.5, [1.5, 2.0]),
        (1, [0.6, 0.8]),
        (1e-300, [0.0, 0.0]),
    ],
)
def test_long_gradients_are_shortened_and_keep_their_direction(largest_norm, moved):
    ascent = tb.GradientAscent(1.0, largest_norm)
    found, _ = ascent.step(np.zeros(2), np.array([3.0, 4.0]), {})
    np.testing.assert_allclose(found, moved, rtol=1e-15, atol=1e-290)


def test_clipping_is_the_textbook_loop():
    steps = gradients()
    theta, wanted = np.linspace(-1.0, 1.0, 4), np.linspace(-1.0, 1.0, 4)
    lengths = np.sqrt((steps**2).sum(axis=1))
    assert 20 < (lengths > 2.0).sum() < 180  # both happen
    for gradient, length in zip(steps, lengths, strict=True):
        theta, _ = tb.GradientAscent(0.1, 2.0).step(theta, gradient, {})
        wanted = wanted + 0.1 * gradient * min(1.0, 2.0 / length)
    np.testing.assert_allclose(theta, wanted, rtol=ROUNDING)
    assert np.abs(run(tb.GradientAscent(0.1), steps)[0] - wanted).max() > 1.0


@pytest.mark.parametrize("optimiser", [tb.Adam(), tb.GradientAscent(0.1, 1.0)])
def test_no_argument_is_changed_and_a_gradient_of_zero_moves_nothing(optimiser):
    theta, gradient = np.array([1.0, -1.0]), np.array([3.0, 4.0])
    _, memory = optimiser.step(theta, gradient, {})
    held = {name: array.copy() for name, array in memory.items()}
    optimiser.step(theta, gradient, memory)
    np.testing.assert_array_equal(theta, [1.0, -1.0])
    np.testing.assert_array_equal(gradient, [3.0, 4.0])
    assert memory.keys() == held.keys()
    for name, array in held.items():
        np.testing.assert_array_equal(memory[name], array)
    still, _ = optimiser.step(theta, np.zeros(2), {})
    np.testing.assert_array_equal(still, theta)


def test_bad_settings_are_refused_by_name_and_number():
    for kind, settings, message in (
        (tb.GradientAscent, {"rate": 0.0}, "rate is 0.0, not a positive finite number"),
        (tb.GradientAscent, {"rate": np.inf}, "rate is inf, not a positive finite number"),
        (tb.GradientAscent, {"largest_norm": 0.0}, "largest_norm is 0.0, not positive"),
        (tb.GradientAscent, {"largest_norm": -2.0}, "largest_norm is -2.0, not positive"),
        (tb.GradientAscent, {"largest_norm": np.nan}, "largest_norm is nan, not positive"),
        (tb.Adam, {"rate": -0.1}, "rate is -0.1, not a positive finite number"),
        (tb.Adam, {"epsilon": 0.0}, "epsilon is 0.0, not a positive finite number"),
        (tb.Adam, {"first_decay": 1.0}, "first_decay is 1.0, not in [0, 1)"),
        (tb.Adam, {"first_decay": -0.1}, "first_decay is -0.1, not in [0, 1)"),
        (tb.Adam, {"second_decay": np.nan}, "second_decay is nan, not in [0, 1)"),
        (tb.Adam, {"second_decay": 1.5}, "second_decay is 1.5, not in [0, 1)"),
        (tb.Adam, {"rate": "0.1"}, "rate has dtype <U3; real numbers are needed"),
    ):
        assert refusal(kind, **{"rate": 1.0} | settings) == message
