"""Adapters need their library, and nobody else does."""

import importlib
import subprocess
import sys

import pytest

ADAPTERS = {"jax": "JAX", "torch": "PyTorch"}


@pytest.mark.parametrize(("name", "library"), ADAPTERS.items())
def test_an_adapter_without_its_library_names_the_extra(name, library, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"tabular_bilevel.adapters.{name}", raising=False)
    message = rf"needs {library}: pip install 'tabular-bilevel\[{name}\]'"
    with pytest.raises(ImportError, match=message):
        importlib.import_module(f"tabular_bilevel.adapters.{name}")


def test_the_package_imports_none_of_them():
    code = (
        "import sys, tabular_bilevel, tabular_bilevel.adapters; "
        f"sys.exit(bool({set(ADAPTERS)} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
