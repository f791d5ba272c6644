"""The command for slow tests chooses them, and ends as pytest does."""

import subprocess
from types import SimpleNamespace

import slow

NOTHING_COLLECTED = 5


def test_what_is_quick_is_left_out(capfd):
    assert slow.main(["-n", "0", "tests/test_slow.py"]) == NOTHING_COLLECTED
    assert "2 deselected" in capfd.readouterr().out


def test_a_failure_is_passed_on_and_the_time_is_said(monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=1))
    assert slow.main([]) == 1
    assert capsys.readouterr().out == "0.0 minutes\n"
