"""What several test files need."""

import os
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


# Few examples in quick runs, the same each time; many with --hypothesis-profile=thorough.
settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=250)
settings.load_profile("quick")

# Ignored in what a shell runs in the background, and so in processes that tests start to interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def maps() -> Path:
    """Folder of MovingAI maps, where the environment names one."""
    folder = os.environ.get("MOVINGAI_MAPS")
    if not folder:
        pytest.skip("MOVINGAI_MAPS names no folder of maps")
    return Path(folder)
