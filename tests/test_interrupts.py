"""Ctrl-C ends whatever is under way, at once, with one line, and leaves nothing half-written."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from numba.core import caching
from sizes import sizes

from tabular_bilevel._base import jit

# Within a second is what is promised of an idle machine; tests may run on a busy one. None of what
# is interrupted would end by itself.
PATIENCE = 30.0

# Seconds of work before the interrupt.
UNDER_WAY = 0.5

# What comes before work is under way, and the work. All is imported and compiled before:
# - llvmlite loses an interrupt that comes while it calls back ("Exception ignored on calling ctypes
#   callback");
# - after one that comes in `exec`, as while a dataclass is imported, Python gives a script that
#   caught it the status -2, unless it ends by `sys.exit`, as commands do.
ROOMS = """
problem, theta = tb.problems.four_rooms(), np.zeros(105)
model = problem.model(theta)
tb.hypergradient(problem, theta)
tb.CompiledPolicyIteration().solve(model)
"""
WIDE = """
problem = tb.problems.garnet(n_states=20_000)
tb.ValueIteration().solve(tb.problems.garnet().model(np.zeros(6)))
theta = np.zeros(problem.n_parameters)
model = problem.model(theta).replace(follower_discount=1.0 - 1e-9)
"""
SAMPLED = f"""
{ROOMS}
response = tb.solve_follower(model)
sample = tb.sample_trajectories(model, response.policy, count=100_000, horizon=50, rng=0)
"""
SAMPLE = f"""
{SAMPLED}
for critic in (tb.SarsaCritic(sweeps=1), tb.TemporalDifferenceCritic(sweeps=1)):
    critic.values(response, sample, rng=np.random.default_rng(0))
"""
LONG = {
    "value iteration": (
        WIDE,
        "tb.ValueIteration(tolerance=1e-300, max_iterations=10**12).solve(model)",
    ),
    "compiled policy iteration": (
        ROOMS,
        "tb.CompiledPolicyIteration(tolerance=1e-300, max_iterations=10**12).solve(model)",
    ),
    "gradients of a large model": (
        f"{WIDE}tb.hypergradient(problem, theta)",
        "while True: tb.hypergradient(problem, theta)",
    ),
    "sampling": (
        SAMPLED,
        "while True: tb.sample_trajectories("
        "model, response.policy, count=1_000_000, horizon=100, rng=0)",
    ),
    "SARSA": (
        SAMPLE,
        "tb.SarsaCritic(sweeps=10**9).values(response, sample, rng=np.random.default_rng(0))",
    ),
    "temporal differences": (
        SAMPLE,
        "tb.TemporalDifferenceCritic(sweeps=10**9).values("
        "response, sample, rng=np.random.default_rng(0))",
    ),
    "a check of an estimator": (
        f"{ROOMS}tb.check_estimator(tb.BoltzmannCovariance(), problem, theta, rng=0)",
        "while True: tb.check_estimator(tb.BoltzmannCovariance(), problem, theta, rng=0)",
    ),
    "an enclosure": (
        "problem = tb.problems.garnet(n_states=300); theta = np.zeros(problem.n_parameters)\n"
        "tb.enclose(problem, theta)",
        "while True: tb.enclose(problem, theta)",
    ),
}

SCRIPT = """
import numpy as np
import tabular_bilevel as tb
{preparation}
print("under way", flush=True)
try:
    {work}
except KeyboardInterrupt:
    print("interrupted")
{afterwards}
"""

PRECISION = 'import flint; print("at", flint.ctx.prec, "bits")'


def interrupted(command, started, **settings):
    """Send Ctrl-C to a process that has printed the line `started`; return what it did then."""
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        **settings,
    ) as process:  # fmt: skip
        try:
            while started not in (line := process.stdout.readline()):
                assert line
            time.sleep(UNDER_WAY)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            output, error = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    return process.returncode, output, error


QUICK = ["sampling"]


@sizes("name", QUICK, [name for name in LONG if name not in QUICK])
def test_long_work_is_interrupted(name):
    (preparation, work), afterwards = LONG[name], ""
    if "enclose" in work:
        pytest.importorskip("flint")
        afterwards = PRECISION
    code = SCRIPT.format(preparation=preparation, work=work, afterwards=afterwards)
    status, output, error = interrupted(["-c", code], "under way")
    assert (status, error) == (0, "")
    assert output == ("interrupted\nat 53 bits\n" if afterwards else "interrupted\n")


def test_an_interrupt_while_code_is_read_from_the_cache_is_not_lost(monkeypatch):
    loaded = []

    def callback(cache, types, context):
        """Do as llvmlite does: what is raised within it is lost."""
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
            loaded.append(types)

    monkeypatch.setattr(caching.FunctionCache, "load_overload", callback)
    with pytest.raises(KeyboardInterrupt):
        jit.kernel(lambda x: x)(1.0)
    assert loaded


@pytest.mark.slow
def test_a_compiled_loop_that_never_returns_is_not_interrupted(monkeypatch):
    """The control: what compiled code does without coming back, Ctrl-C does not end."""
    monkeypatch.setattr(f"{__name__}.PATIENCE", 2.0)
    loop = "import numba\n@numba.njit\ndef loop(n):\n    x = 0.1\n"
    loop += "    while x > 0.0:\n        x = 0.5 * x + 0.5 / n\n    return x\n"
    code = SCRIPT.format(preparation=f"{loop}loop(-1.0)", work="loop(1.0)", afterwards="")
    with pytest.raises(subprocess.TimeoutExpired):
        interrupted(["-c", code], "under way")


@pytest.mark.slow  # in one process in test_cli.py
def test_an_interrupted_verify_says_so_in_one_line_and_leaves_no_file(tmp_path):
    command = ["-m", "tabular_bilevel", "verify", "--json", str(tmp_path / "report.json")]
    status, _, error = interrupted(command, "gradient: distance")  # then numpy alone
    assert status == 130
    assert "Traceback" not in error
    assert error.splitlines()[-1] == "tabular-bilevel: interrupted"
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_an_interrupted_check_leaves_no_half_written_report(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "def slow(problem, theta, rng):\n"
        "    print('called', flush=True)\n"
        "    time.sleep(0.05)\n"
        "    return rng.normal(size=theta.size)\n",
        encoding="utf-8",
    )
    command = ["-m", "tabular_bilevel", "check", "slow:slow", "--problem", "garnet"]
    status, _, error = interrupted(
        [*command, "--replicates", "100000", "--report", "reports"], "called", cwd=tmp_path
    )
    assert (status, error) == (130, "tabular-bilevel: interrupted\n")
    assert list((tmp_path / "reports").iterdir()) == []
