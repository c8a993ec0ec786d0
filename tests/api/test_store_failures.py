"""A store that fails while the server runs: full, overwritten, deleted, replaced, locked, or silent."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest
from apis import Api, start
from common import Command, fails
from servers import LiveServer, Postgres, token
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from edge_qprompt.pack.pack import Pack
from server import database as seam
from server.database import FILE_NAME, Database
from server.failures import kind_of
from server.tokens import Tokens

IN_TIME = 10.0  # seconds: what operate.md promises of a database that hangs


@pytest.fixture
def running(tmp_path: Path, packs: list[Pack]) -> Iterator[Api]:
    for api in start(tmp_path / "store"):
        api.publish("one", packs[0])
        yield api


def file_of(api: Api) -> Path:
    return api.store / FILE_NAME


def reason(api: Api) -> str:
    """Why the server is not ready; empty where it is."""
    answer = api.client.get("/readyz")
    assert answer.status_code in (200, 503), answer.text
    return "" if answer.status_code == 200 else str(answer.json()["detail"])


def errors(api: Api, kind: str) -> float:
    found = [line for line in api.client.get("/metrics").text.splitlines() if f'database_errors_total{{kind="{kind}"}}' in line]
    return float(found[0].split()[1]) if found else 0.0


def overwrite(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))  # the same file


def truncate(path: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


@pytest.mark.parametrize(
    ("damage", "kind"), [(overwrite, "damaged"), (truncate, "damaged"), (delete, "moved"), (replace, "moved")]
)
def test_a_file_that_is_no_longer_the_store_is_noticed(running: Api, damage: object, kind: str) -> None:
    assert reason(running) == ""
    damage(file_of(running))  # type: ignore[operator]
    with capture_logs() as lines:
        assert reason(running) == f"the database does not work ({kind})"
        assert reason(running) != ""
    (line,) = [line for line in lines if line["event"] == "the database failed"]
    assert (line["kind"], str(file_of(running)) in line["cause"], line["log_level"]) == (kind, True, "error")
    assert errors(running, kind) == 2


@pytest.mark.parametrize("damage", [delete, replace])
def test_nothing_is_acknowledged_that_a_lost_file_would_lose(running: Api, packs: list[Pack], damage: object) -> None:
    damage(file_of(running))  # type: ignore[operator]
    answer = running.call("POST", "/v1/tasks/two/versions", "publish", content=packs[1].encode())
    assert (answer.status_code, "nothing was changed" in answer.json()["detail"]) == (503, True), answer.text
    assert int(answer.headers["Retry-After"]) > 0
    if damage is delete:
        assert not file_of(running).exists()  # SQLite would have made a new, empty one


def test_a_damaged_database_is_no_fault_of_the_request(running: Api, packs: list[Pack]) -> None:
    database = running.client.app.state.server.database  # type: ignore[attr-defined]
    for path in running.store.glob(FILE_NAME + "*"):
        if not path.name.endswith("-shm"):
            overwrite(path)
    database.engine.dispose()  # what connections keep in memory would go on answering
    for ask in (
        lambda: running.call("GET", "/v1/tasks"),
        lambda: running.call("GET", "/v1/tasks", "read"),  # the token is looked up
        lambda: running.call("POST", "/v1/tasks/two/versions", "publish", content=packs[1].encode()),
    ):
        answer = ask()
        assert answer.status_code == 503, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "nothing was changed" in answer.json()["detail"]
    assert errors(running, "damaged") >= 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    with (folder / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(bytes(4096))
    return folder / "filler"


def test_a_full_disk(small_disk: Path, packs: list[Pack], edge_qprompt_command: Command) -> None:
    for api in start(small_disk):
        api.publish("one", packs[0])
        assert reason(api) == ""
        filler = fill(small_disk)
        with capture_logs() as lines:
            answer = api.call("POST", "/v1/tasks/two/versions", "publish", content=packs[1].encode())
            assert (answer.status_code, "disk is full: nothing was changed" in answer.json()["detail"]) == (507, True)
            assert reason(api) == "the database does not work (full)"
        (line,) = [line for line in lines if line["event"] == "the database failed"]
        assert (line["kind"], "full" in line["cause"], line["kept_back"]) == ("full", True, 0)
        assert api.call("GET", "/v1/tasks/one").status_code == 200  # reading goes on
        create = ("token", "create", "--store", small_disk, "--scope", "read")
        fails(edge_qprompt_command(*create), f"the store {small_disk}")  # it can be opened or not
        filler.unlink()
        assert reason(api) == ""
        assert api.call("GET", "/v1/tasks/two").status_code == 404
        assert api.publish("two", packs[1])["version"] == 1


def test_a_disk_that_fills_up_is_noticed_without_a_request(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.health.WRITE_SECONDS", 0.2)
    for api in start(small_disk):
        assert reason(api) == ""
        with (small_disk / "filler").open("wb") as file:  # leaves less than the log beside the database grows to
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - (1 << 20))
        time.sleep(0.3)
        assert reason(api) == "the database does not work (full)"


def test_probes_leave_the_locks_alone(tmp_path: Path) -> None:
    """To close any descriptor of the file drops them; the next process would then remove the log that this one writes to."""
    store = tmp_path / "store"
    tokens = Tokens(Database(str(store)))
    first = tokens.create("first", ["read", "publish"])
    tokens.database.close()
    servers = [LiveServer.start(store, tmp_path, "--no-anonymous-read") for _ in range(2)]  # each has been probed by now
    try:
        headers, path = {"Authorization": f"Bearer {first}"}, "/v1/tasks"
        for server in servers:
            assert httpx.get(server.url + path, headers={"Authorization": "Bearer eqp_x"}, timeout=60).status_code == 401
        time.sleep(1)  # each writes to the audit log
        for server in servers:
            entries = httpx.get(server.url + "/v1/audit", headers=headers, timeout=60).json()["entries"]
            assert [entry["action"] for entry in entries].count("token refused") == 2
    finally:
        for server in servers:
            server.stop()


def test_probes_do_not_wear_the_disk_out(running: Api) -> None:
    assert reason(running) == ""
    database = running.client.app.state.server.database  # type: ignore[attr-defined]
    before, begun = database.version(), time.monotonic()
    for _ in range(50):
        assert reason(running) == ""
    writes = database.version() - before
    assert writes <= 1 + (time.monotonic() - begun) / 5
    with database.read() as db:
        assert db.execute(text("SELECT count(*) FROM health")).scalar() == 0


def test_a_locked_database_holds_one_thread_of_the_probes(running: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.health.WRITE_SECONDS", 0)
    monkeypatch.setattr("server.health.WAIT_SECONDS", 1.0)
    with sqlite3.connect(file_of(running), isolation_level=None) as other, ThreadPoolExecutor(12) as pool:
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        reasons = [each.result() for each in [pool.submit(reason, running) for _ in range(12)]]
        assert time.monotonic() - begun < 4
        assert set(reasons) == {"neither database nor decoders have answered for 1 s"}
        health = running.client.app.state.server.health  # type: ignore[attr-defined]
        assert not health._running.done()  # still the same
        assert running.call("GET", "/v1/tasks").status_code == 200  # readers wait for no writer
        other.execute("ROLLBACK")
    end = time.monotonic() + 10
    while reason(running) and time.monotonic() < end:
        time.sleep(0.1)
    assert reason(running) == ""


def test_a_writer_waits_for_a_lock_for_seconds_only(running: Api, packs: list[Pack]) -> None:
    with sqlite3.connect(file_of(running), isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        answer = running.call("POST", "/v1/tasks/two/versions", "publish", content=packs[1].encode())
        assert (answer.status_code, "nothing was changed" in answer.json()["detail"]) == (503, True)
        assert 4 < time.monotonic() - begun < IN_TIME
        other.execute("ROLLBACK")
    assert errors(running, "busy") == 1
    assert running.publish("two", packs[1])["version"] == 1


def test_calls_that_hang_end_in_time_and_hold_few_threads(running: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seam, "ANSWER_SECONDS", 0.5)
    go_on = threading.Event()
    catalogue = running.client.app.state.server.catalogue  # type: ignore[attr-defined]
    monkeypatch.setattr(catalogue, "task", lambda *_: go_on.wait(30))
    with ThreadPoolExecutor(40) as pool:
        begun = time.monotonic()
        answers = [each.result() for each in [pool.submit(running.call, "GET", "/v1/tasks/one") for _ in range(40)]]
        assert time.monotonic() - begun < 5
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("database")]
        assert len(threads) <= seam.THREADS
    go_on.set()
    assert {answer.status_code for answer in answers} == {503}
    assert "look whether anything was changed" in answers[0].json()["detail"]  # nobody knows
    assert errors(running, "slow") == 40


def test_a_connection_lost_while_it_commits_promises_nothing(running: Api, packs: list[Pack]) -> None:
    database = running.client.app.state.server.database  # type: ignore[attr-defined]

    def lose(connection: Connection) -> None:
        if connection.get_execution_options()["begin"] == "BEGIN IMMEDIATE":  # not the look-up of the token
            raise OperationalError("COMMIT", {}, psycopg.OperationalError("lost"))

    event.listen(database.engine, "commit", lose)
    answer = running.call("POST", "/v1/tasks/two/versions", "publish", content=packs[1].encode())
    assert (answer.status_code, "look whether anything was changed" in answer.json()["detail"]) == (503, True)
    event.remove(database.engine, "commit", lose)
    assert running.publish("two", packs[1])["version"] == 1


# --- PostgreSQL that is there and says nothing


def processes(engine: Postgres) -> list[int]:
    """The server's own process and all that it has started."""
    main = int((engine._folder / "data" / "postmaster.pid").read_text().split()[0])
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(main)], capture_output=True, text=True, check=False).stdout
    return [main, *map(int, listed.split())]


def test_a_database_that_hangs_holds_nobody(engine: Postgres, tmp_path: Path, packs: list[Pack]) -> None:
    server = LiveServer.start(engine.database("hangs"), tmp_path)
    try:
        secret = token(server.store, "publish", "read")
        headers = {"Authorization": f"Bearer {secret}"}
        url = f"{server.url}/v1/tasks/one/versions"

        def publish() -> tuple[int, float]:
            begun = time.monotonic()
            answer = httpx.post(url, content=packs[0].encode(), headers=headers, timeout=60)
            return answer.status_code, time.monotonic() - begun

        assert publish()[0] == 201
        stopped = processes(engine)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert httpx.get(server.url + "/healthz").status_code == 200
            with ThreadPoolExecutor(40) as pool:
                answers = [each.result() for each in [pool.submit(publish) for _ in range(40)]]
                assert {status for status, _ in answers} == {503}
                assert max(seconds for _, seconds in answers) < IN_TIME + 2
            begun = time.monotonic()
            assert httpx.get(server.url + "/readyz", timeout=60).status_code == 503
            assert httpx.get(server.url + "/metrics", timeout=60).status_code == 200
            assert time.monotonic() - begun < IN_TIME
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        end = time.monotonic() + 20
        while httpx.get(server.url + "/readyz", timeout=60).status_code != 200 and time.monotonic() < end:
            time.sleep(0.1)
        assert publish()[0] == 200  # the pack is there already
        log = server.log.read_text()
        assert "the database failed" in log
        assert "Traceback" not in log
        assert secret not in log
    finally:
        server.stop()


def test_a_lock_in_postgresql_is_waited_for_shortly(engine: Postgres) -> None:
    mine, other = Database(engine.database("locks")), None
    try:
        other = Database(mine.engine.url.render_as_string(hide_password=False).replace("+psycopg", ""))
        with mine.write() as holding:
            holding.execute(text("LOCK TABLE health"))
            begun = time.monotonic()
            with pytest.raises(OperationalError) as raised:
                other.probe(write=True)
            assert time.monotonic() - begun < 5
            assert kind_of(raised.value) == "busy"
        other.probe(write=True)
    finally:
        for each in (mine, other):
            if each is not None:
                each.close()
