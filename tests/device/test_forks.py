"""Commands that tests fork: as long as they are told to live, and no longer."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from common import DEMO
from forks import Forks


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    out.touch()
    err.touch()
    forks = Forks()
    assert forks.run(("--help",), os.environ, tmp_path, out, err, 60) == 0
    assert "edge-qprompt adapt" in out.read_text()
    endless = ("adapt", str(DEMO), "--epochs", "1000000", "--out", str(tmp_path / "never.qpk"))
    with pytest.raises(AssertionError, match="takes longer than 1 s"):
        forks.run(endless, os.environ, tmp_path, out, err, 1)
    end = time.monotonic() + 10  # until whoever inherits them has noticed that they are dead
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(forks._process.pid, 0)
            time.sleep(0.05)
