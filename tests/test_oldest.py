"""The script that installs the oldest libraries reads their versions from pyproject.toml."""

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "validation" / "oldest.py"


def test_floors_are_the_versions_to_install():
    oldest = runpy.run_path(str(SCRIPT))
    project = {
        "dependencies": ["numpy>=2.0", "scipy>=1.15"],
        "optional-dependencies": {"rigor": ["python-flint>=0.8"], "all": ["mine[rigor]"]},
    }
    assert oldest["floors"](project) == ["numpy==2.0", "python-flint==0.8", "scipy==1.15"]
    assert all((SCRIPT.parents[1] / f"tests/test_{part}.py").exists() for part in oldest["CORE"])
