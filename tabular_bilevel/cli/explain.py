"""``explain``: what J gains by, and through whom, in words."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

import tabular_bilevel as tb
from tabular_bilevel._base.arrays import ROUNDOFF, FloatArray
from tabular_bilevel.checks.localising import parts_of
from tabular_bilevel.checks.report import of_target
from tabular_bilevel.cli._common import (
    add_plot,
    add_problem,
    add_theta,
    problem_of,
    require_files,
    say,
    theta_of,
    write_picture,
)
from tabular_bilevel.derivatives import axes, has_pushforward, tangents_along
from tabular_bilevel.finite.adjoint import direct_sensitivities, indirect_sensitivities
from tabular_bilevel.lq.follower import closed_loop
from tabular_bilevel.lq.linear import spectral_radius
from tabular_bilevel.problem import with_names
from tabular_bilevel.problems.grid_map import grid_map

# How many parameters are explained, and below which share of a gradient's entry a cause is not.
SHOWN, SMALL = 5, 0.01

# Play hardly ever ends whose later steps weigh this share of what they would if it never did.
HARDLY_ENDS = 0.99

WHY = {
    ("direct", "leader_reward"): "the leader's own reward changes",
    ("direct", "transition"): "play goes elsewhere, with the same policy",
    ("direct", "initial"): "play starts elsewhere",
    ("through_follower", "follower_reward"): "the follower is paid otherwise, and changes its mind",
    (
        "through_follower",
        "transition",
    ): "the follower foresees where play goes, and changes its mind",
    ("through_follower", "temperature"): "the follower chooses more evenly, or less",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_problem(parser)
    add_theta(parser)
    add_plot(parser, "draw influence on a grid, or on a small problem's arrows")


def run(options: argparse.Namespace) -> int:
    """Explain the gradient at a theta, and draw where it comes from."""
    problem = problem_of(options.problem)
    require_files(options)
    theta = theta_of(options, problem)
    for line in explained(options.problem, problem, theta):
        say(line)
    write_picture(options, "influence is", lambda plots: _axes(plots, problem, theta))
    return 0


def explained(name: str, problem: Any, theta: FloatArray) -> Iterator[str]:
    """Tell what J's gradient is made of, line by line."""
    found = tb.hypergradient(problem, theta)
    gradient, model = found.gradient, found.model
    yield f"{name}: J = {found.objective:.6g}"
    yield of_target(found.accuracy, gradient)
    yield _length(model, found)
    slope = float(np.linalg.norm(gradient))
    if slope == 0.0:
        yield "the gradient is 0: no parameter matters here, to first order"
        return
    direct, through = (float(part @ gradient) / slope for part in (found.direct, found.indirect))
    yield (
        f"uphill, J gains {slope:.4g} for each unit of theta: {direct:+.4g} with the follower's "
        f"policy held fixed, {through:+.4g} through the follower"
    )
    if direct < 0.0:
        yield "the direct part alone leads downhill"
    size, known = np.abs(gradient), found.accuracy.gradient
    there = size > np.where(np.isfinite(known), known, 0.0)  # not 0, as far as one can tell
    largest = [k for k in np.argsort(-size, kind="stable")[:SHOWN].tolist() if there[k]]
    share = float(np.sum((gradient[largest] / slope) ** 2))
    yield (
        f"what matters most, {len(largest)} of {theta.size} parameters with {100.0 * share:.3g} % "
        "of the gradient's squared length:"
    )
    causes, places = parts_of(problem, theta, found), _places(problem, theta, found, largest)
    for k in largest:
        yield with_names(problem, f"theta[{k}]") + (
            f": {gradient[k]:+.4g} = direct {found.direct[k]:+.4g}, "
            f"through the follower {found.indirect[k]:+.4g}"
        )
        shares = {cause: share[k] for cause, share in causes.items()}
        for cause in sorted(shares, key=lambda cause: -abs(shares[cause])):
            if abs(shares[cause]) > SMALL * abs(gradient[k]):
                yield f"  {shares[cause]:+.4g}  {WHY[cause]}{places.get((k, *cause), '')}"


def _places(
    problem: Any, theta: FloatArray, found: tb.Hypergradient, largest: list[int]
) -> dict[tuple[int, str, str], str]:
    """Say in which state most of each cause is, where the problem can be differentiated forward."""
    if not (has_pushforward(problem) and isinstance(found.model, tb.Model)):
        return {}
    model, tangents = tangents_along(problem, theta, axes(theta.size, largest))
    stations = found.model, found.response, found.evaluation
    measures = {
        "direct": direct_sensitivities(*stations),
        "through_follower": indirect_sensitivities(*stations),
    }
    places = {}
    for k, tangent in zip(largest, tangents, strict=True):
        for part, table in WHY:
            if table == "temperature":
                continue
            products = np.ravel(getattr(measures[part], table) * getattr(tangent, table))
            if table == "transition":
                state = model.entry_row // model.n_actions
            else:
                state = np.arange(products.size) // (products.size // model.n_states)
            by_state = np.bincount(state, products, model.n_states)
            where = int(np.argmax(np.abs(by_state)))
            rest = np.abs(np.delete(by_state, where)).max(initial=0.0)
            alone = rest <= SMALL * abs(by_state[where])
            most = "" if alone else f"the largest share, {by_state[where]:+.4g}, "
            places[k, part, table] = f"; {most}in {_name(problem, found, where)}"
    return places


def _length(model: Any, found: tb.Hypergradient) -> str:
    """Say how long play lasts, and whether the follower puts its end off; or if a state settles."""
    if isinstance(model, tb.LinearQuadraticModel):
        radius = spectral_radius(closed_loop(model, found.response.gain))
        return f"play never ends; in the end a step leaves {radius:.4g} of the state's mean"
    length = float(found.visits.sum())
    if not (model.termination[model.available] > ROUNDOFF).any():
        return f"play never ends; it lasts {length:.4g} discounted steps"
    if model.leader_discount == 1.0:
        return f"play lasts {length:.4g} steps"
    most = 1.0 / (1.0 - model.leader_discount)
    # the first step is always made: where the discount is 0, it is all there is
    hardly = "; it hardly ever ends" if length - 1.0 > HARDLY_ENDS * (most - 1.0) else ""
    return f"play lasts {length:.4g} discounted steps, of at most {most:.4g}{hardly}"


def _name(problem: Any, found: tb.Hypergradient, state: int) -> str:
    """Name a state, and say what it is like."""
    try:
        row, column = grid_map(problem).cells[state]
        name = f"cell ({row}, {column})"
    except ValueError:
        names = found.model.state_names
        name = names[state] if names else f"state {state}"
    return f"{name} (visits {found.visits[state]:.3g}, influence {found.influence[state]:+.3g})"


def _axes(plots: Any, problem: Any, theta: FloatArray) -> Any:
    """Draw on a map, if there is one."""
    try:
        grid_map(problem)
    except ValueError:
        return plots.influence_graph(problem, theta)
    return plots.influence(problem, theta)
