"""What lists of tasks and versions read from a large store, on both databases, and how versions come in pages."""

from __future__ import annotations

import sqlite3
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from apis import Api
from packs import FINGERPRINT, quantized
from servers import Postgres
from sqlalchemy import event

from edge_qprompt.learn import METHODS
from edge_qprompt.pack.pack import Pack, Precision, names_section
from server.catalogue import Catalogue
from server.database import Database
from server.tokens import Tokens

VERSIONS = 40
REPORT = {"held_out_accuracy": 0.5, "note": "x" * 100_000}
PAYLOAD = ("data", "report", "class_names", "envelope")  # what may be large


def pack(seed: int, classes: int = 2) -> Pack:
    names = tuple(f"class {i}" for i in range(classes))
    return Pack(FINGERPRINT, METHODS["qcoop"].number, Precision.FP32, (quantized(1, (2, 5), seed),), (names_section(names),))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def catalogue(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """Task a has VERSIONS versions with large reports and stable on the third, task b one, and c two on another channel."""
    if request.param == "postgresql":
        engine: Postgres = request.getfixturevalue("engine")
        yield from _filled(engine.database("pages"))
    else:
        yield from _filled(str(tmp_path_factory.mktemp("store")))


def _filled(store: str) -> Iterator[Catalogue]:
    found = Catalogue(Database(store))
    for number in range(1, VERSIONS + 1):
        found.publish("a", pack(number, 1 + number), REPORT, "me")
    found.promote("a", "stable", 3, None, "me")
    found.publish("b", pack(1), None, "me")
    for number in (1, 2):
        found.publish("c", pack(number, 4 * number), None, "me")
    found.promote("c", "beta", 1, None, "me")
    yield found
    found.database.close()


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """What is sent to the database meanwhile."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def result_columns(statement: str) -> str:
    return statement.partition("FROM")[0]


def test_a_list_of_tasks_says_what_is_shown(catalogue: Catalogue) -> None:
    listed = {task["name"]: task for task in catalogue.tasks(10, "")}
    known = {name: (task["versions"], task["classes"], task["accuracy"]) for name, task in listed.items()}
    assert known == {"a": (VERSIONS, 4, 0.5), "b": (1, 2, None), "c": (2, 8, None)}  # stable, the only one, the newest
    assert listed["c"]["channels"] == {"beta": {"version": 1, "serial": 1, "signed": False}}
    assert [task["name"] for task in catalogue.tasks(10, "", ["b", "c*"])] == ["b", "c"]


def test_a_list_of_tasks_asks_for_nothing_large(catalogue: Catalogue) -> None:
    with statements(catalogue.database) as sent:
        assert len(catalogue.tasks(10, "")) == 3
    asked = [statement for statement in sent if "SELECT" in statement]
    assert any("packs" in statement for statement in asked)
    for statement in asked:
        columns = result_columns(statement).replace("json_array_length(packs.class_names)", "")
        assert not [name for name in PAYLOAD if f".{name}" in columns], statement


def test_a_page_of_versions_asks_for_no_bytes_of_packs(catalogue: Catalogue) -> None:
    with statements(catalogue.database) as sent:
        assert len(catalogue.task("a", 5)["versions"]) == 5
    assert any("packs.size" in statement for statement in sent)
    assert not [statement for statement in sent if "packs.data" in statement or ".envelope" in statement]


def test_a_list_of_tasks_takes_no_more_memory_with_many_versions(catalogue: Catalogue) -> None:
    catalogue.tasks(10, "")  # what is made once
    tracemalloc.start()
    try:
        catalogue.tasks(10, "")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 500_000  # reports of all versions have 4 MB


def test_sqlite_reads_no_large_column(tmp_path: Path) -> None:
    """By SQLite's own word, whatever the statement looks like."""
    for found in _filled(str(tmp_path / "store")):
        read: set[tuple[str, str]] = set()

        def allow(action: int, table: str | None, column: str | None, *_: Any, read: set[tuple[str, str]] = read) -> int:
            if action == sqlite3.SQLITE_READ:
                read.add((table or "", column or ""))
            return sqlite3.SQLITE_OK

        def watch(_connection: Any, cursor: Any, *_: Any) -> None:
            cursor.connection.set_authorizer(allow)

        event.listen(found.database.engine, "before_cursor_execute", watch)
        found.tasks(10, "")
        assert ("packs", "size") in read
        assert not read & {("packs", "data"), ("versions", "report"), ("channels", "envelope")}
        found.task("a", 5)
        assert ("versions", "report") in read
        assert not read & {("packs", "data"), ("channels", "envelope")}


# --- pages ----------------------------------------------------------------------------------------


def numbers(page: dict[str, Any]) -> list[int]:
    return [version["version"] for version in page["versions"]]


@pytest.mark.parametrize("limit", [1, 7, 20, VERSIONS - 1, VERSIONS, VERSIONS + 1])
def test_pages_hold_every_version_once(catalogue: Catalogue, limit: int) -> None:
    seen: list[int] = []
    before: int | None = None
    for _ in range(VERSIONS + 1):
        page = catalogue.task("a", limit, before)
        assert 0 < len(page["versions"]) <= limit
        assert page["channels"]["stable"]["version"] == 3  # on every page
        seen += numbers(page)
        if (before := page["next"]) is None:
            break
        assert before == seen[-1]
    assert seen == list(range(VERSIONS, 0, -1))


def test_a_page_before_a_version(catalogue: Catalogue) -> None:
    page = catalogue.task("a", 2, 5)
    assert (numbers(page), page["next"]) == ([4, 3], 3)
    assert page["versions"][1]["report"] == REPORT
    assert (numbers(catalogue.task("a", 2, 3)), catalogue.task("a", 2, 3)["next"]) == ([2, 1], None)
    assert (numbers(catalogue.task("a", 2, 1)), catalogue.task("a", 2, 1)["next"]) == ([], None)
    assert numbers(catalogue.task("a", 1, (1 << 31) - 1)) == [VERSIONS]


def test_pages_over_http(private: Api) -> None:
    tokens = Tokens(Database(private.store.as_posix()))
    found = Catalogue(tokens.database)
    for number in range(1, 60):
        found.publish("two", pack(number), None, "me")
    tokens.database.close()
    first = private.call("GET", "/v1/tasks/two", "read").json()
    assert (len(first["versions"]), numbers(first)[0], first["next"]) == (50, 59, 10)
    rest = private.call("GET", f"/v1/tasks/two?before={first['next']}", "read").json()
    assert (numbers(rest), rest["next"]) == (list(range(9, 0, -1)), None)
    assert numbers(private.call("GET", "/v1/tasks/two?before=8&limit=1", "read").json()) == [7]
    assert len(numbers(private.call("GET", "/v1/tasks/two?limit=100", "read").json())) == 59
    for query in ("limit=0", "limit=101", "before=0", f"before={1 << 31}", "before=x", "limit=1.5"):
        assert private.call("GET", f"/v1/tasks/two?{query}", "read").status_code == 422, query
