"""Continuous integration ends by itself: a step that hangs is killed with its children, and so is a test."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from common import ROOT

STUBBORN = 'trap "" TERM INT; (trap "" TERM INT; echo $BASHPID; exec sleep 60) & sleep 60; sleep 60'
HANGS = """
import threading, time

def test_before(): pass

def test_that_waits(): threading.Event().wait()

def test_after(): pass
"""


def step(seconds: float, command: str) -> subprocess.CompletedProcess[str]:
    words = [str(ROOT / ".ci" / "step"), str(seconds), "bash", "-c", command]
    return subprocess.run(words, env={"PATH": "/usr/bin:/bin", "STEP_GRACE": "1"}, capture_output=True, text=True, timeout=30)


def test_a_step_ends_that_ignores_every_polite_signal() -> None:
    began = time.monotonic()
    done = step(1, STUBBORN)
    assert time.monotonic() - began < 20
    assert done.returncode == 124
    assert "not done within 1 s: bash -c" in done.stderr
    assert is_gone(int(done.stdout))


def test_nobody_outlives_a_step_that_ends() -> None:
    done = step(20, '(trap "" TERM; echo $BASHPID; exec sleep 60 > /dev/null 2>&1) & sleep 0.5; exit 3')
    assert (done.returncode, done.stderr) == (3, "")
    assert is_gone(int(done.stdout))


def is_gone(pid: int) -> bool:
    """A killed process is no more, or waits to be collected; which takes a moment."""
    for _ in range(100):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def run_pytest(folder: Path, tests: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Under this project's settings."""
    (folder / "test_hangs.py").write_text(tests)
    settings = ("-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", "--timeout", "1", *options)
    command = [sys.executable, "-m", "pytest", *settings, str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_a_test_that_waits_for_ever_fails_and_the_next_one_runs(tmp_path: Path, workers: tuple[str, ...]) -> None:
    done = run_pytest(tmp_path, HANGS, *workers)
    assert done.returncode == 1
    assert "Failed: Timeout (>1.0s) from pytest-timeout." in done.stdout
    assert "1 failed, 2 passed" in done.stdout


def test_a_test_that_cannot_be_interrupted_ends_its_process_and_the_next_one_runs(tmp_path: Path) -> None:
    deaf = HANGS.replace("def test_that_waits(): ", "def test_that_waits(): signal.pthread_sigmask(0, [signal.SIGALRM]); ")
    done = run_pytest(tmp_path, "import signal" + deaf, "-n", "1", "-o", "faulthandler_timeout=3")
    assert done.returncode == 1
    assert "crashed while running" in done.stdout
    assert "1 failed, 2 passed" in done.stdout
    assert "in test_that_waits" in done.stderr  # the stack
