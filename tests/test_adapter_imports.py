"""Optional libraries are named where they are needed, and imported nowhere else."""

import importlib
import re
import subprocess
import sys

import pytest

ADAPTERS = {"gymnasium": "gymnasium", "jax": "JAX", "pettingzoo": "pettingzoo", "torch": "PyTorch"}
OPTIONAL = {*ADAPTERS, "flint", "hypothesis", "matplotlib"}


@pytest.mark.parametrize(("name", "library"), ADAPTERS.items())
def test_an_adapter_without_its_library_names_the_extra(name, library, monkeypatch):
    module = f"tabular_bilevel.adapters.{name}"
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, module, raising=False)
    message = re.escape(f"{module} needs {library}: pip install 'tabular-bilevel[{name}]'")
    with pytest.raises(ImportError, match=f"^{message}"):
        importlib.import_module(module)


def test_the_package_imports_none_of_them():
    code = (
        "import sys, tabular_bilevel, tabular_bilevel.adapters; "
        f"sys.exit(bool({OPTIONAL} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
