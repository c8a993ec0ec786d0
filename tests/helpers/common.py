"""What all tests share that is no fixture: places, the real command, small folders of photos, how an error looks."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from forks import Forks

import edge_qprompt

ROOT = Path(__file__).parent.parent.parent
DEMO = Path(edge_qprompt.__file__).parent / "data" / "fashion_mnist"
SHARED = ROOT.parent / "shared" / "datasets"
CACHE = "EDGE_QPROMPT_CACHE"
COMMAND_SECONDS = 300


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout; fails on anything beside it, stderr included in the report."""
        assert self.code == 0, self.err
        found = json.loads(self.out)
        assert isinstance(found, dict)
        assert self.out.count("\n") == 1
        return found


Command = Callable[..., Done]
MakePhotos = Callable[..., Path]


def make_photos(base: Path, *classes: str, each: int = 4, into: str = "photos", split: str = "train") -> Path:
    """The folder `base/into` with the first demo photos of each class; "cat=bag" puts bags into cat/."""
    root = base / into
    for given in classes or ("bag", "coat", "sandal"):
        folder, _, source = given.partition("=")
        (root / folder).mkdir(parents=True)
        for i in range(each):
            shutil.copy(DEMO / split / (source or folder) / f"{i}.png", root / folder)
    return root


def run_command(*args: str | Path, env: Mapping[str, str] | None = None, **more: Any) -> Done:
    """Run `edge-qprompt ARGS` as a process of its own; `more` goes to subprocess.run.

    Where it asks for nothing special it is a fork of one that has imported everything: see `forks`.
    """
    if not more and not any(name != CACHE and os.environ.get(name) != value for name, value in (env or {}).items()):
        return _fork(tuple(map(str, args)), env or {})
    command = [sys.executable, "-m", "device_agent", *map(str, args)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=COMMAND_SECONDS, env={**os.environ, **(env or {})}, **more
    )
    return Done(done.returncode, done.stdout, done.stderr)


@cache
def _forks() -> Forks:
    forks = Forks()
    atexit.register(forks.close)
    return forks


def _fork(args: tuple[str, ...], env: Mapping[str, str]) -> Done:
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        out.touch()
        err.touch()
        try:
            code = _forks().run(args, {**os.environ, **env}, Path.cwd(), out, err, COMMAND_SECONDS)
        except (AssertionError, OSError):
            _forks.cache_clear()  # it has been ended, and the next test takes another one
            raise
        return Done(code, out.read_text(), err.read_text())


@dataclass(frozen=True)
class Learned:
    """A pack that the command has made."""

    path: Path
    photos: Path
    command: tuple[str, ...]
    done: Done


def fails(done: Done, *parts: str, code: int = 1) -> None:
    """One error on stderr, nothing on stdout, no traceback."""
    assert (done.code, done.out) == (code, ""), done
    assert "Traceback" not in done.err
    if code == 1:
        error = done.err.splitlines()[-1]
        assert error.startswith("error: ")
        assert done.err.count("error: ") == 1
    for part in parts:
        assert part in done.err
