"""The published experiments: what was run, and what came out.

Kudo, Tanabe, Wachi, Akimoto, ICAPS 2026, arXiv:2603.14867 (four rooms after Thoma et al., NeurIPS
2024, arXiv:2406.01575, and their published code). Settings are those of the configurations in the
repository akimotolab/BC-HG at commit 9c9d42c. Numbers are those of its figures (figures.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import tabular_bilevel as tb
from tabular_bilevel.ascent.published import first_theta
from tabular_bilevel.ascent.training import Run
from tabular_bilevel.estimators.register import METHODS, Setting

RATES = (0.5, 0.1, 0.05, 0.01)
CRITIC_STEPS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)

#: Environments that share the steps of an iteration; with suboptimal followers always two.
N_ENVS = {100: 1, 200: 1, 400: 2, 1000: 5}
ABLATION_N_ENVS = 2

ORACLE_STEPS, TIME_LIMIT = 10_000, 200

#: What the planner thinks of a move's chance to slip, and what the simulator does.
PLANNER_SLIP, SIMULATOR_SLIP = 4 * 0.33 / 3, 0.33

ROOMS_METHODS = ("bchg", "hpgd-oracle", "hpgd-mc", "hpgd-sarsa", "sobirl", "naive")
TOY_METHODS = ("bchg-game", "naive", "bi-ac")

#: With all steps of earlier iterations, as the published Bi-AC has it, and one of two naive ones.
REPLAYED = ("naive, replayed", "bi-ac, replayed")

#: In the published repository, and not in its comparison.
VARIANTS = ("sobirl-modified", "hpgd-uniform")

#: Methods whose critic learns, so that its step size matters; the naive gradient of rewards has
#: no use for a critic.
LEARNING = ("bchg", "hpgd-sarsa", "bchg-game", "bi-ac")

# By problem, temperature or reward, steps an iteration, and method.
FIGURES = {
    (problem, float(knob), int(steps), method): numbers
    for key, numbers in json.loads(
        Path(__file__).with_name("figures.json").read_text(encoding="utf-8")
    ).items()
    if " | " in key
    for problem, knob, steps, method in [key.split(" | ")]
}

#: Final objectives and their standard errors over ten seeds.
PUBLISHED = {setting: (numbers[0], numbers[1]) for setting, numbers in FIGURES.items()}

#: The curves on four rooms that rise, at some iterations.
CURVE_ITERATIONS = (0, 500, 1000, 2000, 5000)
PUBLISHED_CURVES = {
    setting: tuple(numbers[2:])
    for setting, numbers in FIGURES.items()
    if setting[3] in ("bchg", "hpgd-oracle")
}


@dataclass(frozen=True)
class Cell:
    """One setting of one method: what the seeds are averaged over.

    Attributes
    ----------
    problem : str
        "four rooms" or "discrete toy".
    knob : float
        Its temperature, or reward.
    steps : int
        Of data, an iteration.
    method : str
        A name of METHODS; with ", replayed" it sees all earlier iterations, too.
    rate, critic_step : float
        Of the ascent, and of the critic.
    slip : str
        Who is right about it on four rooms: "published" (each its own), "planner" or "simulator".
    iterations : int
        Of the ascent.
    stop : int, optional
        Steps after which the follower stops thinking; it answers as well as it can by default.
    carried : bool
        Whether a follower that stops goes on from its last table, or has a new one each time.
    """

    problem: str
    knob: float
    steps: int
    method: str
    rate: float
    critic_step: float
    slip: str
    iterations: int
    stop: int | None = None
    carried: bool = True

    @property
    def name(self) -> str:
        """A name for files."""
        words = (self.problem.replace(" ", "-"), self.knob, self.steps, self.method, self.rate)
        slip = f"-{self.slip}" if self.problem == "four rooms" else ""
        name = "-".join(map(str, words)).replace(", ", "-")
        return f"{name}-{self.critic_step}{slip}-{self.iterations}{self.tail}"

    @property
    def tail(self) -> str:
        """How the follower stops, for the name; nothing if it does not."""
        if self.stop is None:
            return ""
        return f"-{'carried' if self.carried else 'reset'}-{self.stop}"

    @property
    def kind(self) -> tuple[object, ...]:
        """What cells share that differ in rate and critic's step only."""
        return *self.figure, self.stop, self.carried

    @property
    def figure(self) -> tuple[str, float, int, str]:
        """Where it is in the published figures, if it is there."""
        return self.problem, self.knob, self.steps, self.method

    @property
    def horizon(self) -> int | None:
        """Steps of the leader's that the reported objective counts."""
        return None if self.problem == "four rooms" else 150

    def build(self) -> tuple[tb.BilevelProblem, tb.BilevelProblem | None]:
        """Make the problem that the follower plans with, and the simulator if it differs."""
        if self.problem == "discrete toy":
            return tb.problems.discrete_toy(self.knob), None
        slips = {
            "published": (PLANNER_SLIP, SIMULATOR_SLIP),
            "planner": (PLANNER_SLIP, PLANNER_SLIP),
            "simulator": (SIMULATOR_SLIP, SIMULATOR_SLIP),
        }
        planner, simulator = (
            tb.problems.four_rooms(self.knob, 5.0, slip=slip) for slip in slips[self.slip]
        )
        return planner, simulator if self.slip == "published" else None

    def runs(self, seeds: int, folder: Path) -> Iterator[Run]:
        """Plan one run a seed."""
        problem, simulator = self.build()
        toy = self.problem == "discrete toy"
        n_envs = ABLATION_N_ENVS if self.stop else N_ENVS.get(self.steps, 1)
        setting = Setting(
            tb.Episodes(3, 150) if toy else tb.StepBudget(self.steps, TIME_LIMIT, n_envs),
            step_size=self.critic_step,
            oracle=tb.StepBudget(ORACLE_STEPS, TIME_LIMIT, n_envs),
            simulator=simulator,
        )
        if self.stop:
            setting = replace(setting, follower=self.follower())
        name, _, replayed = self.method.partition(", ")
        method = METHODS[name](replace(setting, replay=self.iterations if replayed else None))
        for seed in range(seeds):
            label = f"{self.name}-seed-{seed}"
            yield Run(
                label=label,
                problem=problem,
                theta=first_theta(seed, problem.n_parameters),
                method=method,
                optimiser=tb.GradientAscent(self.rate, 1.0),
                seed=seed,
                n_iterations=self.iterations,
                every=max(1, self.iterations // (50 if toy else 200)),
                horizon=self.horizon,
                path=folder / f"{label}.npz",
            )

    def follower(self) -> tb.StoppedPolicyIteration:
        """Make the follower that stops: on the toy it sweeps, from 0 if its table is carried."""
        toy = self.problem == "discrete toy"
        return tb.StoppedPolicyIteration(
            steps=self.stop or 1,
            evaluations=1 if toy else 5,
            initial_spread=0.0 if toy and self.carried else 1.0,
            warm_start=self.carried,
        )


@dataclass(frozen=True)
class Scale:
    """How much is run.

    Attributes
    ----------
    rooms : tuple of (temperature, steps)
        Settings of four rooms.
    rooms_iterations, seeds : int
        Length and number of its curves.
    toy_rewards : tuple of float
        Settings of the discrete toy; its 500 iterations and 10 seeds are short.
    chosen : mapping of str to a pair of tuples of float
        Rates and critic's steps, by method, or by "ablation " and method; the whole published grid
        where there are none.
    starts : tuple of float
        Of the search for better optima: multiples of the unit normal that each is drawn from.
    noisy_steps : int
        Of each noisy ascent in that search.
    ablation_methods : tuple of str
        Methods of four rooms that are run with followers that stop.
    ablation_seeds : int
        Number of curves there.
    stops, toy_stops : tuple of int
        Steps after which those followers stop.
    """

    rooms: tuple[tuple[float, int], ...]
    rooms_iterations: int
    seeds: int
    toy_rewards: tuple[float, ...]
    chosen: dict[str, tuple[tuple[float, ...], tuple[float, ...]]]
    starts: tuple[float, ...] = (0.0, *(1.0, 3.0, 6.0) * 4)
    noisy_steps: int = 2000
    ablation_methods: tuple[str, ...] = ROOMS_METHODS
    ablation_seeds: int = 20
    stops: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    toy_stops: tuple[int, ...] = (1, 2, 5, 10, 50, 100)

    def cells(self, slip: str, experiment: str = "curves") -> Iterator[Cell]:
        """List what is run: "curves", "variants" or "ablation"."""
        if experiment == "ablation":
            yield from self.ablation(slip)
            return
        methods = ROOMS_METHODS if experiment == "curves" else VARIANTS
        for (temperature, steps), method in product(self.rooms, methods):
            yield from self.of_rooms(temperature, steps, method, slip)
        if experiment == "curves":
            for reward, method in product(self.toy_rewards, TOY_METHODS):
                yield from self.of_toy(reward, method, slip)
            for method in REPLAYED:
                yield from self.of_toy(1.0, method, slip)

    def ablation(self, slip: str) -> Iterator[Cell]:
        """List what is run with followers that stop."""
        ways = True, False
        for carried, method, stop in product(ways, self.ablation_methods, self.stops):
            for cell in self.of_rooms(0.003, 100, method, slip, "ablation "):
                yield replace(cell, stop=stop, carried=carried)
        for carried, method, stop in product(ways, TOY_METHODS, self.toy_stops):
            for cell in self.of_toy(1.0, method, slip):
                yield replace(cell, stop=stop, carried=carried)

    def of_rooms(
        self, temperature: float, steps: int, method: str, slip: str, of: str = ""
    ) -> Iterator[Cell]:
        """List the rates and critic's steps of a method on four rooms."""
        for rate, critic_step in self.grid(of + method if of + method in self.chosen else method):
            yield Cell(
                "four rooms", temperature, steps, method, rate, critic_step, slip,
                self.rooms_iterations,
            )  # fmt: skip

    def of_toy(self, reward: float, method: str, slip: str) -> Iterator[Cell]:
        """List the rates and critic's steps of a method on the toy."""
        for rate, critic_step in self.grid(f"toy {method}"):
            yield Cell("discrete toy", reward, 450, method, rate, critic_step, slip, 500)

    def grid(self, method: str) -> Iterator[tuple[float, float]]:
        """List the rates and critic's steps tried with a method."""
        method = method.removesuffix(", replayed")
        learns = method.removeprefix("toy ") in LEARNING or method == "toy naive"
        rates, steps = self.chosen.get(method, (RATES, CRITIC_STEPS if learns else (0.5,)))
        return product(rates, steps)


SCALES = {
    "tiny": Scale(
        rooms=((0.001, 100),),
        rooms_iterations=20,
        seeds=2,
        toy_rewards=(1.0,),
        chosen={
            **dict.fromkeys((*ROOMS_METHODS, *VARIANTS), ((0.1,), (0.5,))),
            **{f"toy {method}": ((0.01,), (0.5,)) for method in TOY_METHODS},
        },
        starts=(0.0,),
        noisy_steps=10,
        ablation_methods=("bchg",),
        ablation_seeds=2,
        stops=(1, 5),
        toy_stops=(5,),
    ),
    "small": Scale(
        rooms=((0.001, 100), (0.001, 400), (0.001, 1000)),
        rooms_iterations=10_000,
        seeds=3,
        toy_rewards=(1.0, 2.0),
        # near the best of a coarse search at this scale
        chosen={
            **dict.fromkeys((*ROOMS_METHODS, *VARIANTS), ((0.1,), (0.5,))),
            **dict.fromkeys(("hpgd-sarsa", "sobirl", "naive"), ((0.5, 0.1), (0.5,))),
            "bchg": ((0.5, 0.1), (0.5, 1.0)),
            **dict.fromkeys(("ablation bchg", "ablation naive"), ((0.1,), (0.5,))),
            "toy bchg-game": ((0.05, 0.01), (0.1, 0.5)),
            "toy naive": ((0.5, 0.1), (0.1, 0.5)),
            "toy bi-ac": ((0.5, 0.1), (0.1, 0.5)),
        },
        ablation_methods=("bchg", "hpgd-mc", "naive"),
        ablation_seeds=3,
        stops=(1, 5, 50),
        toy_stops=(1, 5, 100),
    ),
    "full": Scale(
        rooms=tuple(product((0.001, 0.003, 0.005), (100, 200, 400, 1000))),
        rooms_iterations=10_000,
        seeds=10,
        toy_rewards=(1.0, 2.0),
        chosen={},
    ),
}  # fmt: skip
