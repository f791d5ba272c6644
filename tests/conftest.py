"""What several test files need."""

import os
from pathlib import Path

import pytest

# Workers share the cores already. BLAS reads this when numpy is imported, which is later.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")


@pytest.fixture
def maps() -> Path:
    """Folder of MovingAI maps, where the environment names one."""
    folder = os.environ.get("MOVINGAI_MAPS")
    if not folder:
        pytest.skip("MOVINGAI_MAPS names no folder of maps")
    return Path(folder)
