"""The catalogue on both databases: versions, channels, tokens, what several writers do at once, and migrations."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from packs import FINGERPRINT, quantized
from sqlalchemy import text

from edge_qprompt.errors import ConflictError, FingerprintError, NotFoundError, SignatureError, StoreError
from edge_qprompt.learn import METHODS
from edge_qprompt.pack.pack import Pack, Precision, names_section
from edge_qprompt.trust.keys import new_key_pair
from edge_qprompt.trust.statement import Envelope, Statement, sign
from server.catalogue import Catalogue
from server.database import FILE_NAME, Database
from server.schema import metadata
from server.targets import Targets
from server.tokens import PREFIX, Tokens

KEY, _ = new_key_pair()


@pytest.fixture
def catalogue(database: Database) -> Catalogue:
    return Catalogue(database)


def pack(seed: int = 0, fingerprint: bytes = FINGERPRINT) -> Pack:
    return Pack(
        fingerprint, METHODS["qcoop"].number, Precision.FP32, (quantized(1, (2, 5), seed),), (names_section(("cat", "dog")),)
    )


def signed(of: Pack, **other: object) -> Envelope:
    now = datetime.now(UTC).replace(microsecond=0)
    facts = {"task": "a", "channel": "stable", "serial": 1, "version": 1, "pack_id": of.pack_id, "size": of.size}
    facts |= {"backbone": of.fingerprint.hex(), "issued": now, "expires": now + timedelta(days=1)} | other
    return sign(Statement(**facts), KEY)


def test_versions_count_up_and_the_same_bytes_stay_one(catalogue: Catalogue) -> None:
    first = catalogue.publish("a", pack(1), {"held_out_accuracy": 0.75}, "me")
    second = catalogue.publish("a", pack(2), None, "me")
    again = catalogue.publish("a", pack(1), None, "me")
    elsewhere = catalogue.publish("b", pack(1), None, "me")
    assert [(p.version, p.created) for p in (first, second, again, elsewhere)] == [(1, True), (2, True), (1, False), (1, True)]
    assert catalogue.pack(pack(1).pack_id) == pack(1).encode()
    shown = catalogue.task("a", 10)
    assert [(v["version"], v["accuracy"]) for v in shown["versions"]] == [(2, None), (1, 0.75)]
    assert shown["versions"][1]["report"] == {"held_out_accuracy": 0.75}
    assert shown["versions"][0]["class_names"] == ["cat", "dog"]


def test_a_channel_moves_forward_and_back_and_its_serial_only_up(catalogue: Catalogue) -> None:
    for seed in (1, 2):
        catalogue.publish("a", pack(seed), None, "me")
    serials = [catalogue.promote("a", "stable", version, None, "me").serial for version in (1, 2, 1)]
    assert serials == [1, 2, 3]
    statement = Envelope.decode(catalogue.envelope("a", "stable")).statement
    assert (statement.version, statement.serial, statement.pack_id) == (1, 3, pack(1).pack_id)
    assert catalogue.targets("stable", FINGERPRINT.hex(), ["a"])[0].version == 1


def test_a_signed_statement_is_kept_as_it_was_sent(catalogue: Catalogue) -> None:
    catalogue.publish("a", pack(), None, "me")
    envelope = signed(pack())
    assert catalogue.promote("a", "stable", 1, envelope, "me").signed
    assert Envelope.decode(catalogue.envelope("a", "stable")) == envelope


@pytest.mark.parametrize(
    ("other", "error"),
    [
        ({"serial": 2}, ConflictError),
        ({"task": "b"}, SignatureError),
        ({"channel": "beta"}, SignatureError),
        ({"version": 2}, SignatureError),
        ({"pack_id": "0" * 64}, SignatureError),
        ({"size": 1}, SignatureError),
        ({"backbone": "f" * 16}, SignatureError),
    ],
)
def test_a_statement_that_says_something_else_is_refused(
    catalogue: Catalogue, other: dict[str, object], error: type[Exception]
) -> None:
    catalogue.publish("a", pack(), None, "me")
    with pytest.raises(error, match=next(iter(other))):
        catalogue.promote("a", "stable", 1, signed(pack(), **other), "me")
    with pytest.raises(NotFoundError):
        catalogue.envelope("a", "stable")


def test_an_envelope_without_signature_is_refused(catalogue: Catalogue) -> None:
    catalogue.publish("a", pack(), None, "me")
    with pytest.raises(SignatureError, match="no signature"):
        catalogue.promote("a", "stable", 1, Envelope(signed(pack()).payload, ()), "me")


def test_what_is_not_there_is_named(catalogue: Catalogue) -> None:
    catalogue.publish("a", pack(), None, "me")
    for ask in (
        lambda: catalogue.task("b", 10),
        lambda: catalogue.envelope("a", "stable"),
        lambda: catalogue.pack("0" * 64),
        lambda: catalogue.promote("a", "stable", 2, None, "me"),
        lambda: catalogue.promote("b", "stable", 1, None, "me"),
        lambda: catalogue.targets("stable", FINGERPRINT.hex(), ["a"]),
    ):
        with pytest.raises(NotFoundError):
            ask()
    catalogue.promote("a", "stable", 1, None, "me")
    with pytest.raises(FingerprintError, match="0123456789abcdef"):
        catalogue.targets("stable", "f" * 16, ["a"])
    assert catalogue.targets("stable", "f" * 16, None) == []


def test_pages_of_tasks(catalogue: Catalogue) -> None:
    for name in "cabed":
        catalogue.publish(name, pack(), None, "me")
    catalogue.promote("b", "beta", 1, None, "me")
    page = catalogue.tasks(2, "a")
    assert [task["name"] for task in page] == ["b", "c"]
    assert page[0]["channels"] == {"beta": {"version": 1, "serial": 1, "signed": False}}
    assert (page[0]["size"], page[0]["classes"], page[0]["bits"], page[0]["method"]) == (pack().size, 2, 1, "qcoop")
    assert catalogue.tasks(2, "e") == []


def test_a_thousand_targets_in_the_order_asked(catalogue: Catalogue) -> None:
    names = [f"t{i:04}" for i in range(1000)]
    for name in names[:3] + names[600:603]:
        catalogue.publish(name, pack(), None, "me")
        catalogue.promote(name, "stable", 1, None, "me")
    wanted = [names[602], names[0], names[601]]
    assert [target.task for target in catalogue.targets("stable", FINGERPRINT.hex(), wanted)] == wanted
    with pytest.raises(NotFoundError, match="t0003"):
        catalogue.targets("stable", FINGERPRINT.hex(), names)


def test_sqlite_tells_of_every_commit_and_of_nothing_else(tmp_path: Path) -> None:
    mine, other = Database(str(tmp_path)), Database(str(tmp_path))
    try:
        seen = [mine.version()]
        for database in (mine, other):  # as another process would
            Catalogue(database).publish("a", pack(len(seen)), None, "me")
            seen.append(mine.version())
            mine.ping()
            assert mine.version() == seen[-1]
        assert None not in seen
        assert len(set(seen)) == 3
    finally:
        mine.close()
        other.close()


def test_where_channels_point_is_asked_again_after_every_commit(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue, asked = Catalogue(database), []
    for i in range(2):
        catalogue.publish("a", pack(i), None, "me")
    read = catalogue.targets
    monkeypatch.setattr(catalogue, "targets", lambda *of: asked.append(of) or read(*of))
    targets = Targets(catalogue, FINGERPRINT.hex())

    def version() -> int:
        return asyncio.run(targets.find("stable", ["a"]))[0].version

    catalogue.promote("a", "stable", 1, None, "me")
    assert [version(), version()] == [1, 1]
    catalogue.promote("a", "stable", 2, None, "me")
    assert [version(), version()] == [2, 2]
    with pytest.raises(NotFoundError):
        asyncio.run(targets.find("stable", ["b"]))
    assert len(asked) == (3 if database.version() is not None else 5)  # PostgreSQL is asked each time


def test_writers_at_once_get_versions_and_serials_of_their_own(database: Database) -> None:
    catalogue, others = Catalogue(database), 8
    start = threading.Barrier(others)

    def publish(seed: int) -> int:
        start.wait()
        return catalogue.publish("a", pack(seed), None, "me").version

    def promote(version: int) -> int:
        start.wait()
        return catalogue.promote("a", "stable", version, None, "me").serial

    with ThreadPoolExecutor(others) as pool:
        assert sorted(pool.map(publish, range(others))) == list(range(1, others + 1))
        assert sorted(pool.map(promote, range(1, others + 1))) == list(range(1, others + 1))


def test_everything_that_changes_is_in_the_audit_log(catalogue: Catalogue) -> None:
    Tokens(catalogue.database).create("ci", ["publish"])
    catalogue.publish("a", pack(), None, "ci")
    catalogue.publish("a", pack(), None, "ci")  # changes nothing
    catalogue.promote("a", "stable", 1, None, "ci")
    entries = catalogue.audit(10, None)
    assert [(entry["actor"], entry["action"]) for entry in entries] == [
        ("ci", "promote"),
        ("ci", "publish"),
        ("command line", "token create"),
    ]
    assert len(catalogue.audit(10, "a")) == 2
    assert len(catalogue.audit(1, None)) == 1


def test_tokens(database: Database) -> None:
    tokens = Tokens(database)
    good = tokens.create("ci", ["publish", "read", "publish"])
    short = tokens.create("guest", ["read"], days=1)
    assert good.startswith(PREFIX)
    assert tokens.holder(good).scopes == {"publish", "read"}
    assert tokens.holder(good + "x") is None
    assert tokens.holder("x" * 10_000) is None
    with database.read() as db:
        assert good not in str(db.execute(text("SELECT * FROM tokens")).all())
    with database.write() as db:
        db.execute(text("UPDATE tokens SET expires = :then WHERE name = 'guest'"), {"then": datetime(2020, 1, 1)})
    assert tokens.holder(short) is None
    tokens.revoke(1)
    assert tokens.holder(good) is None
    assert [(row["name"], bool(row["revoked"])) for row in tokens.list()] == [("ci", True), ("guest", False)]
    with pytest.raises(StoreError, match="no token 1"):
        tokens.revoke(1)


def test_migrations_lead_to_the_schema(database: Database) -> None:
    with database.read() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []


def test_many_processes_may_open_a_new_store_at_once(store: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for opened in pool.map(Database, [store] * 4):
            opened.ping()
            opened.close()


def test_a_store_of_a_newer_version_is_left_alone(store: str, database: Database) -> None:
    with database.write() as db:
        db.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="newer version"):
        Database(store)


def test_sqlite_is_durable(tmp_path: Path) -> None:
    database = Database(str(tmp_path))
    with database.read() as db:
        assert db.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert db.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL
        assert db.execute(text("PRAGMA foreign_keys")).scalar() == 1
    database.close()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("mysql://x/y", "mysql"),
        ("://", "neither a folder nor a database URL"),
        ("postgresql://nobody@127.0.0.1:1/none", "cannot open the store"),
    ],
)
def test_stores_that_cannot_be_opened(given: str, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        Database(given)


def test_a_damaged_file_and_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / FILE_NAME).write_bytes(np.random.default_rng(0).bytes(9000))
    with pytest.raises(StoreError, match="cannot open the store"):
        Database(str(tmp_path / "store"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot make the folder"):
        Database(str(tmp_path / "file"))
