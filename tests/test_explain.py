"""The command that says what a gradient is made of."""

import re
import sys

import numpy as np
import pytest
from references.strangers import Plain
from small import at

import tabular_bilevel as tb
from tabular_bilevel.cli import explain, main
from tabular_bilevel.cli._common import NAMED

SIZES = {"warehouse"}  # takes seconds


def test_the_second_lesson_s_gradient_in_words(capsys):
    assert main(["explain", "rounds"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rounds: J = 12"
    assert lines[1] == "the exact gradient, BOUNDED within 1e-13"
    assert lines[2:] == [
        "play never ends; it lasts 3 discounted steps",
        "uphill, J gains 3.484 for each unit of theta: +1.852 with the follower's policy held "
        "fixed, +1.632 through the follower",
        "what matters most, 2 of 2 parameters with 100 % of the gradient's squared length:",
        "theta[0] (dock): -3.455 = direct -2, through the follower -1.455",
        "  -2  the leader's own reward changes; in dock (visits 2, influence -1.45)",
        "  -1.455  the follower is paid otherwise, and changes its mind; in dock (visits 2, "
        "influence -1.45)",
        "theta[1] (aisle): +0.4545 = direct -1, through the follower +1.455",
        "  +1.455  the follower is paid otherwise, and changes its mind; in aisle (visits 1, "
        "influence +1.45)",
        "  -1  the leader's own reward changes; in aisle (visits 1, influence +1.45)",
    ]


def parameters(problem, theta):
    """Read what is told of each parameter: its gradient, and the numbers of its causes."""
    told = {}
    for line in explain.explained("problem", problem, theta):
        if found := re.match(r"theta\[(\d+)\].*?: (\S+) = direct (\S+), .* (\S+)$", line):
            causes = told[int(found[1])] = (*map(float, found.groups()[1:]), [])
        elif line.startswith("  "):
            causes[-1].append(float(line.split()[0]))
    return told


@pytest.mark.parametrize("name", sorted({*NAMED} - SIZES))
def test_causes_add_up_to_the_gradient(name):
    problem, theta = at(NAMED[name]())
    exact = tb.hypergradient(problem, theta)
    told = parameters(problem, theta)
    assert adds_up(told)
    for k, (*numbers, _) in told.items():
        right = exact.gradient[k], exact.direct[k], exact.indirect[k]
        assert numbers == pytest.approx(right, rel=1e-3)  # four digits
    least = min(abs(total) for total, *_ in told.values())
    left_out = np.delete(exact.gradient, [*told])
    assert np.abs(left_out).max(initial=0.0) <= 1.001 * least


def adds_up(told):
    """Say whether causes add up, but for what is small and left out."""
    return all(
        abs(sum(causes) - total) < 6 * explain.SMALL * abs(total)
        for total, *_, causes in told.values()
    )


def test_a_cause_that_is_forgotten_would_be_seen(monkeypatch):
    right = explain.parts_of

    def forgetful(problem, theta, exact):
        shares = dict(right(problem, theta, exact))
        del shares["through_follower", "follower_reward"]
        return shares

    monkeypatch.setattr(explain, "parts_of", forgetful)
    assert not adds_up(parameters(tb.problems.rounds(), np.zeros(2)))


def test_the_largest_share_is_where_the_derivative_is():
    problem, theta = at(tb.problems.garnet(rng=1))
    exact = tb.hypergradient(problem, theta)
    tangent = problem.pushforward(theta, np.eye(theta.size)[0])
    shares = (exact.sensitivities.follower_reward * tangent.follower_reward).sum(axis=1)
    places = explain._places(problem, theta, exact, [0])
    told = places[0, "through_follower", "follower_reward"]
    where = np.abs(shares).argmax()
    assert f"the largest share, {shares[where]:+.4g}, in state {where} (" in told
    assert f"visits {exact.visits[where]:.3g}, influence {exact.influence[where]:+.3g}" in told


def test_without_a_pushforward_there_is_no_place():
    problem, theta = tb.problems.two_state(), np.zeros(2)
    lines = list(explain.explained("mine", Plain(problem), theta))
    assert not any("visits" in line for line in lines)
    assert parameters(Plain(problem), theta) == parameters(problem, theta)


def test_a_place_on_a_map_is_a_cell():
    problem = tb.problems.CATALOGUE["grid-world"]()
    theta = np.zeros(problem.n_parameters)
    found = tb.hypergradient(problem, theta)
    row, column = problem.cells[1]
    assert explain._name(problem, found, 1).startswith(f"cell ({row}, {column}) (visits ")


def of_length(problem):
    return list(explain.explained("problem", problem, np.zeros(problem.n_parameters)))[2]


def test_a_continuous_state_settles():
    line = of_length(tb.problems.building_thermal_control())
    assert line == "play never ends; in the end a step leaves 0.9785 of the state's mean"


def test_how_long_play_lasts():
    text = "type octile\nheight 6\nwidth 6\nmap\n" + 6 * "......\n"
    seeks, wanders = (
        tb.problems.grid_world(text, temperature=temperature) for temperature in (0.002, 1.0)
    )
    assert "of at most 100" in of_length(seeks)
    assert "hardly ever ends" not in of_length(seeks)
    assert of_length(wanders).endswith("of at most 100; it hardly ever ends")
    # always over after its one step, and the leader looks no further than that
    assert of_length(tb.problems.fork()) == "play lasts 1 discounted steps, of at most 1"
    ends = tb.problems.layered()
    undiscounted = tb.FeatureProblem(
        ends.base.replace(leader_discount=1.0), follower_reward=ends.follower_reward
    )
    assert re.fullmatch(r"play lasts \S+ steps", of_length(undiscounted))


def test_a_gradient_of_0_is_told():
    base = tb.problems.two_state().base
    idle = tb.FeatureProblem(base, follower_reward=np.zeros((4, 1)))
    *_, last = explain.explained("idle", idle, np.zeros(1))
    assert last == "the gradient is 0: no parameter matters here, to first order"


def test_theta_comes_from_a_file(tmp_path, capsys):
    theta = np.array([0.3, -0.2])
    np.save(tmp_path / "theta.npy", theta)
    assert main(["explain", "rounds", "--theta", str(tmp_path / "theta.npy")]) == 0
    assert f"J = {tb.objective(tb.problems.rounds(), theta):.6g}" in capsys.readouterr().out
    assert main(["explain", "rounds", "--theta", str(tmp_path / "none.npy")]) == 2
    assert "--theta: " in capsys.readouterr().err


@pytest.mark.parametrize(("problem", "kind"), [("grid-world", "png"), ("rounds", "svg")])
def test_influence_is_drawn(problem, kind, tmp_path, capsys):
    file = tmp_path / f"picture.{kind}"
    assert main(["explain", problem, "--plot", str(file)]) == 0
    assert capsys.readouterr().out.endswith(f"influence is drawn in {file}\n")
    assert {"png": b"\x89PNG", "svg": b"<svg"}[kind] in file.read_bytes()[:1000]


def test_what_cannot_be_drawn_is_told(tmp_path, monkeypatch, capsys):
    for place, message in (
        (tmp_path / "picture.odd", "picture.odd ends in none of svg, png, pdf\n"),
        (tmp_path / "none" / "picture.svg", "No such file or directory"),
        (tmp_path, "is no regular file"),
    ):
        assert main(["explain", "rounds", "--plot", str(place)]) == 2
        told = capsys.readouterr()
        assert (told.out, told.err.count("\n")) == ("", 1)  # before the work
        assert message in told.err
    assert main(["explain", "garnet", "--plot", str(tmp_path / "picture.svg")]) == 2
    assert "--plot: the model has 20 states" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tabular_bilevel.plots", None)
    assert main(["explain", "rounds", "--plot", str(tmp_path / "picture.svg")]) == 2
    assert "--plot: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
