"""`edge-qprompt serve` as a process: where it listens, what it says when it cannot, and which pages may ask it."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

SECONDS = 60.0  # for a server to start, or to end
REFUSAL_SECONDS = 20.0
ELSEWHERE = "192.0.2.1"  # of nobody: RFC 5737
SITE = "https://shop.example"
T = TypeVar("T")
UNDER_WAY = re.compile(r"Uvicorn running on (\S+?://\S+:(\d+)|unix socket \S+) ")


def arguments(folder: Path, *options: str | Path) -> list[str]:
    return [sys.executable, "-m", "device_agent", "serve", "--store", str(folder / "store"), *map(str, options)]


def refused(folder: Path, *options: str | Path) -> str:
    """The one line that is said, before anything was loaded or made."""
    done = subprocess.run(arguments(folder, *options), capture_output=True, text=True, timeout=REFUSAL_SECONDS)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert re.fullmatch(r"error: .+\n", done.stderr), done.stderr
    assert not (folder / "store").exists()
    return done.stderr


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


class Running:
    """A server that says itself where it listens."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    def address(self) -> str:
        """As its log says."""

        def said() -> str | None:
            found = UNDER_WAY.search(self.log.read_text())
            return None if found is None else found[1]

        return self._until(said)

    def get(self, path: str, uds: Path | None = None, url: str = "http://server") -> httpx.Response:
        """An answer, as soon as there is one of 200."""

        def ask() -> httpx.Response | None:
            if uds is not None and not listens(uds):
                return None  # httpx leaks what it cannot connect
            try:
                with httpx.Client(transport=httpx.HTTPTransport(uds=None if uds is None else str(uds)), timeout=5) as client:
                    answer = client.get(url + path)
            except httpx.TransportError:
                return None
            return answer if answer.status_code == 200 else None

        return self._until(ask)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(timeout=SECONDS)

    def _until(self, ask: Callable[[], T | None]) -> T:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            if found := ask():
                return found
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())


@contextmanager
def running(folder: Path, *options: str | Path, umask: int = 0o077) -> Iterator[Running]:
    log = folder / f"log-{time.monotonic_ns()}"
    with log.open("wb") as out:
        process = subprocess.Popen(arguments(folder, *options), stdout=out, stderr=out, umask=umask)
    try:
        yield Running(process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=SECONDS)


# --- ports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_busy_port_is_one_line(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(tmp_path, "--port", str(port), "--workers", workers)
    assert (
        said
        == f"error: port {port} of 127.0.0.1 is in use: stop what listens there, or choose another --port (0 takes a free one)\n"
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_address_of_another_machine_is_one_line(tmp_path: Path, workers: str) -> None:
    said = refused(tmp_path, "--host", ELSEWHERE, "--port", "0", "--workers", workers)
    assert f"this machine has no address {ELSEWHERE}: choose another --host" in said


def test_a_name_of_nobody_is_one_line(tmp_path: Path) -> None:
    assert "--host 'no.such.host.invalid' is not known" in refused(tmp_path, "--host", "no.such.host.invalid")
    assert "no name can be like that" in refused(tmp_path, "--host", "a" * 80 + ".example")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_port_0_is_a_free_one_that_the_log_names(tmp_path: Path, workers: str) -> None:
    with running(tmp_path, "--port", "0", "--workers", workers) as server:
        url = server.address()
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d+", url)
        assert server.get("/readyz", url=url).status_code == 200
        second = tmp_path / "second"  # the port is held from now on, by whatever number of processes
        assert "is in use" in refused(second, "--port", url.rpartition(":")[2])
        assert server.stop() == 0
    events = [json.loads(line)["event"] for line in server.log.read_text().splitlines()]  # every line is JSON
    assert sum("Uvicorn running on" in event for event in events) == 1


def test_a_port_is_held_before_anything_is_loaded(tmp_path: Path) -> None:
    """Of many that start at once with one port, one serves, and the others say so."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    folders = [tmp_path / str(i) for i in range(3)]
    for folder in folders:
        folder.mkdir()
    started = [
        subprocess.Popen(arguments(folder, "--port", port), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for folder in folders
    ]
    try:
        end = time.monotonic() + SECONDS
        while sum(each.poll() is None for each in started) > 1 and time.monotonic() < end:
            time.sleep(0.05)
        alive = [each for each in started if each.poll() is None]
        assert len(alive) == 1
        for each in started:
            if each not in alive:
                said = each.communicate(timeout=REFUSAL_SECONDS)[1].decode()
                assert each.returncode == 1
                assert re.fullmatch(rf"error: port {port} of 127\.0\.0\.1 is in use: .+\n", said)
    finally:
        for each in started:
            each.terminate()
            each.communicate(timeout=SECONDS)


def test_a_name_with_several_addresses_has_one_port_on_all(tmp_path: Path) -> None:
    found = {address[0] for *_, address in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    with running(tmp_path, "--host", "localhost", "--port", "0") as server:
        port = int(server.address().rpartition(":")[2])
        for address in found:
            host = f"[{address}]" if ":" in address else str(address)
            assert server.get("/healthz", url=f"http://{host}:{port}").status_code == 200


# --- Unix sockets ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "umask"), [("1", 0o077), ("1", 0o000), ("2", 0o077)])
def test_a_unix_socket_is_for_owner_and_group_and_goes_at_the_end(tmp_path: Path, workers: str, umask: int) -> None:
    path = tmp_path / "http"
    with running(tmp_path, "--uds", path, "--trusted-proxy", "*", "--workers", workers, umask=umask) as server:
        assert server.get("/readyz", path).status_code == 200
        mode = path.lstat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o660)
        assert server.address() == f"unix socket {path}"
        assert server.stop() == 0
    assert not path.exists()


def test_the_socket_of_a_server_that_was_killed_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "http"
    for how in (signal.SIGKILL, signal.SIGTERM):
        with running(tmp_path, "--uds", path) as server:
            assert server.get("/healthz", path).status_code == 200
            server.stop(how)
        assert path.exists() == (how == signal.SIGKILL)


def test_the_socket_of_a_server_that_lives_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "http"
    with running(tmp_path, "--uds", path) as server:
        server.get("/healthz", path)
        said = refused(tmp_path / "second", "--uds", path)
        assert f"somebody listens on --uds {path} already: stop that server, or choose another path" in said
        assert server.get("/healthz", path).status_code == 200


def test_a_server_removes_no_socket_but_its_own(tmp_path: Path) -> None:
    path = tmp_path / "http"
    with running(tmp_path, "--uds", path) as server:
        server.get("/healthz", path)
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            other.listen()
            assert server.stop() == 0
            assert path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    assert f"--uds {path} is there and is no socket: remove it, or choose another path" in refused(tmp_path, "--uds", path)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone")
    assert "is no socket" in refused(tmp_path, "--uds", link)
    assert (path.read_text(), link.is_symlink()) == ("mine", True)


@pytest.mark.parametrize("path", ["gone/http", "a" * 120])
def test_a_path_where_no_socket_can_be_is_one_line(tmp_path: Path, path: str) -> None:
    assert f"cannot listen on --uds {tmp_path / path} (" in refused(tmp_path, "--uds", tmp_path / path)


@pytest.mark.parametrize("other", [("--host", "127.0.0.1"), ("--port", "8000")])  # their defaults are excluded too
def test_a_unix_socket_has_neither_host_nor_port(tmp_path: Path, other: tuple[str, str]) -> None:
    done = subprocess.run(
        arguments(tmp_path, "--uds", tmp_path / "http", *other), capture_output=True, text=True, timeout=REFUSAL_SECONDS
    )
    assert done.returncode == 2
    assert "--uds stands in place of --host and --port" in done.stderr
