"""What several test files need."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Slow readable references of the tests' own, and the scripts of validation/, with what both share.
HERE = Path(__file__).parent
sys.path += [str(HERE / "reference"), str(HERE.parent / "validation")]

# Workers share the cores already. BLAS reads this when numpy is imported, which is later.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")


# Processes that tests start would compile the package's source anew, each of them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


# Few examples in quick runs, the same each time; many with --hypothesis-profile=thorough.
settings.register_profile("quick", max_examples=10, deadline=None, derandomize=True)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=150)
settings.load_profile("quick")

# Ignored in what a shell runs in the background, and so in processes that tests start to interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def once_a_problem():
    """Let checks compute once for a problem at a theta what depends on nothing else.

    For tests that check many estimators of one problem; with another object it is computed anew.
    """
    from tabular_bilevel.checks import diagnosis, enumeration, estimator

    known = {}

    def once(function):
        def call(problem, theta, **settings):
            key = (function, id(problem), bytes(theta), *settings.values())
            if key not in known:
                known[key] = problem, function(problem, theta, **settings)  # keeps its identity
            return known[key][1]

        return call

    note = diagnosis.Candidates._note

    def note_once(self, found, fault, core, other):
        noted = self.__dict__.setdefault("noted", {})
        if (fault, other) not in noted:
            note(self, noted.setdefault((fault, other), {}), fault, core, other)
        found.update(noted[fault, other])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosis.Candidates, "_note", note_once)
        for name in ("Candidates", "check_pullback", "hypergradient"):
            function = once(getattr(estimator, name))
            for module in (enumeration, estimator):
                patch.setattr(module, name, function)
        yield


@pytest.fixture(scope="module")
def state_home(tmp_path_factory):
    """Keep the writer's notes out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def maps() -> Path:
    """Folder of MovingAI maps, where the environment names one."""
    folder = os.environ.get("MOVINGAI_MAPS")
    if not folder:
        pytest.skip("MOVINGAI_MAPS names no folder of maps")
    return Path(folder)


@pytest.fixture(scope="session")
def chromium():
    """A browser without a window, where there is one with its driver."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="there is no selenium")
    browser, server = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or server is None:
        pytest.skip("there is no chromium with a chromedriver, which would show the page")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for switch in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1280,1000"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(server))
    yield driver
    driver.quit()
