"""Servers for the tests: the real command in a process of its own, and PostgreSQL where it is installed."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from common import run_command

START_SECONDS = 60.0


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = START_SECONDS) -> None:
    """Until a GET of the URL gives 200."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError(f"the server has ended: {log.read_text()}")
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"the server is not ready: {log.read_text()}")


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something; fails if it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@dataclass
class LiveServer:
    """`edge-qprompt serve` on a port of its own."""

    url: str
    store: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, store: Path | str, folder: Path, *options: str, ready: bool = True) -> LiveServer:
        port = free_port()
        log = folder / f"server-{port}.log"
        command = [sys.executable, "-m", "device_agent", "serve", "--store", str(store), "--port", str(port), *options]
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out)
        server = cls(f"http://127.0.0.1:{port}", str(store), process, log)
        wait_until(f"{server.url}/{'readyz' if ready else 'healthz'}", process, log)
        return server

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def memory_mb(self, what: str = "VmRSS") -> float:
        """Resident size of the process in 10^6 bytes; VmHWM is its peak."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{what}:\s*(\d+) kB", status)
        assert found, status
        return int(found[1]) * 1024 / 1e6

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=60)


def token(store: Path | str, *scopes: str) -> str:
    """Made by the command, as an operator would."""
    parts = [part for scope in scopes for part in ("--scope", scope)]
    done = run_command("token", "create", "--store", store, *parts)
    assert done.code == 0, done.err
    return done.out.strip()


class Postgres:
    """A PostgreSQL server of its own, from Debian's package, on a socket in a temporary folder and a loopback port."""

    def __init__(self, bin_folder: Path, folder: Path) -> None:
        self._bin, self._folder = bin_folder, folder
        self._port = free_port()
        # the server refuses to run as root
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as:
            shutil.chown(folder, "postgres")
        self._call("initdb", "-D", folder / "data", "-U", "test", "-A", "trust", "--no-sync")

    @property
    def url(self) -> str:
        return f"postgresql://test@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1"
        self._call("pg_ctl", "-D", self._folder / "data", "-l", self._folder / "log", "-w", "-o", options, "start")

    def stop(self) -> None:
        self._call("pg_ctl", "-D", self._folder / "data", "-m", "immediate", "-w", "stop")

    def database(self, name: str) -> str:
        """A new database; its URL."""
        self._call("createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "test", name)
        return f"postgresql://test@127.0.0.1:{self._port}/{name}"

    def _call(self, program: str, *arguments: str | Path) -> None:
        command = [*self._as, str(self._bin / program), *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", timeout=100)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Started, and stopped at the end; skips the test where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    if os.geteuid() == 0 and "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    with tempfile.TemporaryDirectory(prefix="eq-postgres-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = Postgres(found[-1].parent, Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
