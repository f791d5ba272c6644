"""What several test files need."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def maps() -> Path:
    """Folder of MovingAI maps, where the environment names one."""
    folder = os.environ.get("MOVINGAI_MAPS")
    if not folder:
        pytest.skip("MOVINGAI_MAPS names no folder of maps")
    return Path(folder)
