"""What the tests share: private caches, the embedded backbone, small folders of photos, the real command."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from forks import Forks

import edge_qprompt
from edge_qprompt import Backbone

ROOT = Path(__file__).parent.parent
DEMO = Path(edge_qprompt.__file__).parent / "data" / "fashion_mnist"
SHARED = Path(__file__).parent.parent.parent / "shared" / "datasets"
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


# The files that take longest, in order: `make test` hands out whole files in two processes, and what is long must not come last.
LONGEST = (
    "test_real_size.py",
    "test_server_durable.py",
    "test_tower.py",
    "test_bench.py",
    "test_learn.py",
    "test_vit_mini.py",
    "test_page_task.py",
    "test_exporter.py",
    "test_page.py",
    "test_store_failures.py",
    "test_server_hostile.py",
    "test_commands.py",
    "test_image_methods.py",
    "test_openapi.py",
    "test_server_slow.py",
    "test_decoder.py",
    "test_serve_command.py",
)

# a fifth of a second an example is too little beside busy processes; each test has pytest's limit
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

Command = Callable[..., Done]
MakePhotos = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, each whole and in its own order; the rest as they were."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session", autouse=True)
def private_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's own cache and backbones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(tmp_path_factory.mktemp("cache")))
        patch.setenv("EDGE_QPROMPT_BACKBONES", str(tmp_path_factory.mktemp("backbones")))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two spinning torch threads on a busy machine are slower than one: docs/adr/0005-threads.md."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def nano() -> Backbone:
    return Backbone.open("nano")


@pytest.fixture
def photos(tmp_path: Path) -> MakePhotos:
    return lambda *classes, **more: make_photos(tmp_path, *classes, **more)


def make_photos(base: Path, *classes: str, each: int = 4, into: str = "photos", split: str = "train") -> Path:
    """The folder `base/into` with the first demo photos of each class; "cat=bag" puts bags into cat/."""
    root = base / into
    for given in classes or ("bag", "coat", "sandal"):
        folder, _, source = given.partition("=")
        (root / folder).mkdir(parents=True)
        for i in range(each):
            shutil.copy(DEMO / split / (source or folder) / f"{i}.png", root / folder)
    return root


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"the shared data sets are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def edge_qprompt_command() -> Command:
    return run_command


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


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Three classes of four photos each; too little to be good, enough to be real."""
    base = tmp_path_factory.mktemp("learned")
    root = make_photos(base, "bag", "ankle_boot", "t-shirt")
    command = ("adapt", str(root), "--epochs", "3", "--shots", "3", "--json")
    done = run_command(*command, "--out", base / "clothes.qpk")
    assert done.code == 0, done.err
    return Learned(base / "clothes.qpk", root, command, done)


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
