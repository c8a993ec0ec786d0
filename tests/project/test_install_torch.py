"""Where `make` gets torch from, by what an index does."""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest
from common import ROOT
from servers import free_port

SCRIPT = ROOT / "deploy" / "install_torch.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_torch", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Lists(BaseHTTPRequestHandler):
    """An index that has torch, and nothing else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/torch/" else 404)
        self.end_headers()
        self.wfile.write(b"<!doctype html>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Lists) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


def test_an_index_that_answers_is_taken(script: ModuleType, index: str) -> None:
    assert script.answers(index, 5)
    assert not script.answers(f"{index}/elsewhere", 5)


def test_an_index_that_is_silent_or_away_is_left_within_seconds(script: ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        assert not script.answers(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.5)
        assert not script.answers(f"http://127.0.0.1:{free_port()}", 5)
        assert time.monotonic() - began < 5


def test_without_the_index_pips_own_places_are_used(script: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    """torch is installed here already, so pip has nothing to do; and this one brings no CUDA."""
    assert script.install("torch==2.13.0", index=f"http://127.0.0.1:{free_port()}") == 0
    assert capfd.readouterr().err.splitlines() == [script.FALLBACK]


@pytest.mark.parametrize(("needed", "cuda"), [("nvidia-cudnn-cu13==9.20; platform_system == 'Linux'", True), ("sympy", False)])
def test_cuda_is_known_by_what_a_wheel_needs(script: ModuleType, tmp_path: Path, needed: str, cuda: bool) -> None:
    wheel = make_wheel(tmp_path, needed)
    assert script.brings_cuda(str(wheel)) is cuda


def make_wheel(folder: Path, needed: str) -> Path:
    """A package `eq-big` without any code."""
    path, info = folder / "eq_big-1.0-py3-none-any.whl", "eq_big-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: eq-big\nVersion: 1.0\nRequires-Dist: {needed}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path
