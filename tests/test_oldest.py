"""The script that installs the oldest libraries reads their versions from pyproject.toml."""

from pathlib import Path

import oldest


def test_floors_are_the_versions_to_install():
    project = {
        "dependencies": ["numpy>=2.0", "scipy>=1.15"],
        "optional-dependencies": {"rigor": ["python-flint>=0.8"], "all": ["mine[rigor]"]},
    }
    assert oldest.floors(project) == ["numpy==2.0", "python-flint==0.8", "scipy==1.15"]
    assert all(Path(__file__).with_name(f"test_{part}.py").exists() for part in oldest.CORE)
