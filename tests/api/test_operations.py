"""What an operator sees: metrics and their documentation, refused tokens, expiring channels, processes, readiness."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import onnxruntime
import pytest
from apis import Api, start
from common import ROOT
from prometheus_client.parser import text_string_to_metric_families
from servers import LiveServer
from sqlalchemy import text

from edge_qprompt import __version__
from edge_qprompt.pack.pack import Pack
from edge_qprompt.trust.keys import new_key_pair
from edge_qprompt.trust.statement import Statement, sign
from server.database import FILE_NAME, Database
from server.metrics import Metrics
from server.processes import Process, family
from server.tokens import Refusal, Tokens

OPERATE = ROOT / "docs" / "operate.md"
KEY, _ = new_key_pair()


@pytest.fixture
def fresh(tmp_path: Path, packs: list[Pack]) -> Iterator[Api]:
    for api in start(tmp_path / "store", anonymous_read=False):
        api.publish("one", packs[0])
        yield api


def values(text: str) -> dict[str, float]:
    """Samples of the exposition format, by name and labels."""
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for found in text_string_to_metric_families(text)
        for sample in found.samples
    }


def metrics(api: Api) -> dict[str, float]:
    return values(api.client.get("/metrics").text)


# --- the documentation


def documented() -> set[str]:
    """Names in the first column of the table of metrics, in full."""
    section = OPERATE.read_text().split("## Metrics")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    names = [re.sub(r"\{.*\}", "", name) for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    return {name if name.startswith("process_") else f"edge_qprompt_{name}" for name in names}


def existing() -> set[str]:
    """Metrics by the names that Prometheus shows."""
    return {found.name + ("_total" if found.type == "counter" else "") for found in Metrics().registry.collect()}


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    assert documented() == existing()


def test_labels_in_the_documentation_are_those_that_there_are() -> None:
    section = OPERATE.read_text().split("## Metrics")[1].split("\n## ")[0]
    said = dict(re.findall(r"`([a-z_]+)\{([a-z,]+)\}`", section))
    made = {
        name.removeprefix("edge_qprompt_"): ",".join(collector._labelnames)
        for collector, names in Metrics().registry._collector_to_names.items()
        for name in names
        if getattr(collector, "_labelnames", ()) and name in documented()
    }
    assert said == made


# --- what runs


def test_what_runs(fresh: Api) -> None:
    found = metrics(fresh)
    facts = {"version": __version__, "python": platform.python_version(), "onnxruntime": onnxruntime.__version__}
    build = "edge_qprompt_build_info" + "".join(f" {k}={v}" for k, v in sorted((facts | {"backbone": "nano"}).items()))
    assert found[build] == 1
    assert found["process_resident_memory_bytes"] > 50e6
    assert found["process_cpu_seconds_total"] > 0.1
    assert 0 < time.time() - found["process_start_time_seconds"] < 24 * 3600
    assert found["edge_qprompt_processes"] >= 1


def test_descendants_count_and_ended_ones_keep_their_time(tmp_path: Path) -> None:
    before = family(os.getpid())
    child = os.fork()
    if not child:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        time.sleep(30)
        os._exit(0)
    try:
        while Process.of(child).cpu < 0.25:  # type: ignore[union-attr]
            time.sleep(0.01)
        assert len(family(os.getpid())) == len(before) + 1
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    after = family(os.getpid())
    assert len(after) == len(before)
    assert sum(each.cpu for each in after) - sum(each.cpu for each in before) >= 0.25
    assert Process.of(child) is None
    assert family(child) == []


def test_metrics_of_two_workers(tmp_path: Path) -> None:
    server = LiveServer.start(tmp_path / "store", tmp_path, "--workers", "2", "--threads", "1")
    try:
        for _ in range(30):  # until both have loaded
            time.sleep(0.3)
            found = values(httpx.get(server.url + "/metrics").text)
            if found["edge_qprompt_processes"] >= 3 and found["process_resident_memory_bytes"] > 200e6:
                break
        builds = [value for name, value in found.items() if name.startswith("edge_qprompt_build_info")]
        assert builds == [1]
        assert found["edge_qprompt_processes"] >= 3  # `serve` and its two workers
        assert found["process_resident_memory_bytes"] / 1e6 > server.memory_mb() + 100
        assert found["edge_qprompt_next_channel_expiry_seconds"] == math.inf
        assert found["edge_qprompt_channels_expiring"] == 0
    finally:
        server.stop()


# --- channels that expire


def promote(api: Api, pack: Pack, channel: str, days: float, serial: int = 1) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    facts = {"task": "one", "channel": channel, "serial": serial, "version": 1, "pack_id": pack.pack_id, "size": pack.size}
    facts |= {"backbone": pack.fingerprint.hex(), "issued": now - timedelta(days=30), "expires": now + timedelta(days=days)}
    body = {"version": 1, "envelope": json.loads(sign(Statement(**facts), KEY).encode())}
    answer = api.call("PUT", f"/v1/tasks/one/channels/{channel}", "promote", json=body)
    assert answer.status_code == 200, answer.text


def expiry(api: Api) -> tuple[float, float]:
    found = metrics(api)
    return found["edge_qprompt_next_channel_expiry_seconds"], found["edge_qprompt_channels_expiring"]


def test_channels_that_expire(fresh: Api, packs: list[Pack], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.expiry.KNOWN_SECONDS", 0)
    assert expiry(fresh) == (math.inf, 0)  # stable is unsigned, which no device follows
    promote(fresh, packs[0], "a", 90)
    assert expiry(fresh) == (pytest.approx(90 * 86400, abs=60), 0)
    promote(fresh, packs[0], "b", 13)
    promote(fresh, packs[0], "c", -1)
    assert expiry(fresh) == (pytest.approx(-86400, abs=60), 2)
    promote(fresh, packs[0], "c", 90, serial=2)
    assert expiry(fresh) == (pytest.approx(13 * 86400, abs=60), 1)
    moved = fresh.call("PUT", "/v1/tasks/one/channels/b", "promote", json={"version": 1})  # unsigned
    assert (moved.status_code, expiry(fresh)[1]) == (200, 0)


def test_the_database_is_asked_once_a_minute(fresh: Api, packs: list[Pack]) -> None:
    assert expiry(fresh)[0] == math.inf
    promote(fresh, packs[0], "a", 1)
    assert expiry(fresh)[0] == math.inf


def test_channels_of_an_older_store_expire_too(fresh: Api, packs: list[Pack]) -> None:
    promote(fresh, packs[0], "a", 5)
    with closing(sqlite3.connect(fresh.store / FILE_NAME)) as db:
        wanted = db.execute("SELECT name, expires FROM channels ORDER BY name").fetchall()
        db.executescript(
            "DROP INDEX uq_tokens_name; DROP INDEX ix_channels_expires; DROP TABLE health; DROP TABLE states;"
            "ALTER TABLE tokens DROP COLUMN tasks; ALTER TABLE channels DROP COLUMN expires;"
            "UPDATE alembic_version SET version_num = '0001'"
        )
    Database(str(fresh.store)).close()
    with closing(sqlite3.connect(fresh.store / FILE_NAME)) as db:
        assert db.execute("SELECT name, expires FROM channels ORDER BY name").fetchall() == wanted
    assert [expires is None for _, expires in wanted] == [False, True]


def test_metrics_do_not_wait_for_a_database_that_fails(fresh: Api) -> None:
    (fresh.store / FILE_NAME).unlink()
    fresh.client.app.state.server.database.engine.dispose()  # type: ignore[attr-defined]
    found = metrics(fresh)
    assert math.isnan(found["edge_qprompt_next_channel_expiry_seconds"])
    assert found["edge_qprompt_database_errors_total kind=moved"] == 1


# --- refused tokens


def entries(api: Api) -> list[tuple[str, str, str | None]]:
    """Of refused tokens, oldest first: who, what, task."""
    found = api.call("GET", "/v1/audit?limit=1000", "publish").json()["entries"]
    return [(row["actor"], row["detail"], row["task"]) for row in found[::-1] if row["action"] == "token refused"]


def test_refused_tokens_are_counted_and_in_the_audit_log(fresh: Api) -> None:
    tokens = Tokens(Database(str(fresh.store)))
    secrets = {name: tokens.create(name, ["read"]) for name in ("gone", "late")}
    secrets["birds"] = tokens.create("birds", ["read"], tasks=["birds"])
    tokens.revoke("gone")
    with tokens.database.write() as db:
        db.execute(text("UPDATE tokens SET expires = :then WHERE name = 'late'"), {"then": "2020-01-01 00:00:00.000000"})
    tokens.database.close()
    asked = [
        ("eqp_" + "w" * 43, "unknown", "unknown", 401),
        (secrets["gone"], "revoked", "gone", 401),
        (secrets["late"], "expired", "late", 401),
        (fresh.tokens["classify"], "scope", "classify", 403),  # type: ignore[index]
        (secrets["birds"], "task", "birds", 403),
        ("no token at all", "malformed", "unknown", 401),
    ]
    for secret, _, _, status in asked:
        assert fresh.client.get("/v1/tasks/one", headers={"Authorization": f"Bearer {secret}"}).status_code == status
    assert entries(fresh) == [(name, f"{why}: GET /v1/tasks/{{task}}", "one") for _, why, name, _ in asked]
    found = metrics(fresh)
    assert {why: found[f"edge_qprompt_tokens_refused_total reason={why}"] for why in Refusal} == dict.fromkeys(Refusal, 1)
    for path in fresh.store.iterdir():
        assert not any(secret.encode() in path.read_bytes() for secret, *_ in asked)


def test_an_attacker_does_not_fill_the_audit_log(fresh: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = fresh.client.app.state.server.refusals  # type: ignore[attr-defined]
    refusals._seconds = 3.0
    monkeypatch.setattr("server.refusals.KEPT", 12)
    wrong = {"Authorization": "Bearer eqp_wrong"}
    for _ in range(30):
        assert fresh.client.get("/v1/tasks", headers=wrong).status_code == 401
    fresh.client.get("/v1/tasks", headers={"Authorization": "Basic x"})
    assert len(entries(fresh)) == 10
    end = time.monotonic() + 20
    while len(entries(fresh)) < 11 and time.monotonic() < end:
        time.sleep(0.1)
    assert entries(fresh)[-1] == ("unknown", "21 more within 3 s: 20 unknown, 1 malformed", None)
    assert metrics(fresh)["edge_qprompt_tokens_refused_total reason=unknown"] == 30
    for _ in range(4):  # the next minute
        fresh.client.get("/v1/tasks", headers=wrong)
    assert len(entries(fresh)) == 12  # the oldest made room


def test_what_is_to_be_summed_up_is_written_at_the_end(tmp_path: Path) -> None:
    for api in start(tmp_path):
        for _ in range(13):
            api.client.get("/v1/tasks", headers={"Authorization": "Bearer eqp_wrong"})
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        details = [row[0] for row in db.execute("SELECT detail FROM audit WHERE action = 'token refused' ORDER BY id")]
    assert (len(details), details[-1]) == (11, "3 more within 60 s: 3 unknown")


# --- readiness


def test_decoders_that_do_not_answer(fresh: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = fresh.client.app.state.server.encoder  # type: ignore[attr-defined]

    async def fail() -> None:
        raise RuntimeError("no decoder")

    monkeypatch.setattr(encoder, "check", fail)
    answer = fresh.client.get("/readyz")
    assert (answer.status_code, answer.json()["detail"]) == (503, "photos cannot be decoded (RuntimeError: no decoder)")
    monkeypatch.undo()
    assert fresh.client.get("/readyz").status_code == 200
