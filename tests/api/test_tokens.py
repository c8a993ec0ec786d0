"""Tokens: unique names, tasks that they are for, and commands that make no store by mistake."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from apis import PHOTO, Api, make_pack, start
from common import Command, fails
from servers import Postgres
from sqlalchemy import text

from edge_qprompt.errors import StoreError
from edge_qprompt.pack.pack import Pack
from server.database import FILE_NAME, Database
from server.patterns import MAX_PATTERNS, checked, matches
from server.tokens import Holder, Tokens


def test_a_name_belongs_to_one_token_until_that_is_revoked(database: Database) -> None:
    tokens = Tokens(database)
    first = tokens.create("ci", ["read"])
    with pytest.raises(StoreError, match=r"a token with the name ci already: choose another name, or revoke that one first"):
        tokens.create("ci", ["publish"])
    assert tokens.revoke("ci") == "ci"
    assert tokens.holder(first) is None
    second = tokens.create("ci", ["publish"])
    assert tokens.holder(second) == Holder("ci", frozenset(["publish"]))
    ids = [row["id"] for row in tokens.list()]
    with pytest.raises(StoreError, match=f"no token {ids[0]} that"):
        tokens.revoke(ids[0])
    assert tokens.revoke(ids[1]) == "ci"
    assert [bool(row["revoked"]) for row in tokens.list()] == [True, True]
    with pytest.raises(StoreError, match="no token ci that"):
        tokens.revoke("ci")


def test_of_many_who_want_one_name_one_gets_it(database: Database) -> None:
    def create(_: int) -> bool:
        try:
            return bool(Tokens(database).create("ci", ["read"]))
        except StoreError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(create, range(8))) == [False] * 7 + [True]
    assert len(Tokens(database).list()) == 1


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "12"])
def test_names_that_are_none(database: Database, name: str) -> None:
    with pytest.raises(StoreError, match="choose another"):
        Tokens(database).create(name, ["read"])


def test_names_of_an_older_store_are_made_unique(database: Database) -> None:
    old = "DROP INDEX uq_tokens_name; DROP INDEX ix_channels_expires; DROP TABLE health; DROP TABLE states"
    old += "; ALTER TABLE tokens DROP COLUMN tasks; ALTER TABLE channels DROP COLUMN expires"
    old += "; UPDATE alembic_version SET version_num = '0001'"
    names = ["token", "token", "token-2", "x" * 64, "x" * 64, "token", "old", "old"]
    with database.write() as db:
        for statement in old.split(";"):
            db.execute(text(statement))
        for number, name in enumerate(names):
            revoked = "CURRENT_TIMESTAMP" if number == 6 else "NULL"
            values = f"(:name, :digest, 'read', CURRENT_TIMESTAMP, {revoked})"
            insert = f"INSERT INTO tokens (name, digest, scopes, created, revoked) VALUES {values}"
            db.execute(text(insert), {"name": name, "digest": str(number)})
    again = Database(
        database.engine.url.render_as_string(hide_password=False)
        .replace("+psycopg", "")
        .replace("sqlite:///", "")
        .removesuffix("/" + FILE_NAME)
    )
    try:
        rows = Tokens(again).list()
        assert [row["name"] for row in rows] == [
            "token", "token-3", "token-2", "x" * 64, "x" * 62 + "-2", "token-4", "old", "old",
        ]  # fmt: skip
        assert {tuple(row["tasks"]) for row in rows} == {("*",)}
    finally:
        again.close()


# --- patterns


@pytest.mark.parametrize(
    ("pattern", "task", "wanted"),
    [
        ("flowers", "flowers", True),
        ("flowers", "flowers-2", False),
        ("flowers", "my-flowers", False),
        ("flowers-*", "flowers-red", True),
        ("flowers-*", "flowers-", True),
        ("flowers-*", "flowers", False),
        ("*", "anything", True),
        ("a*b*c", "a.b.c", True),
        ("a*b*c", "acb", False),
        ("a.c", "abc", False),
        ("a_c", "abc", False),
    ],
)
def test_patterns_in_python_and_in_the_database(database: Database, pattern: str, task: str, wanted: bool) -> None:
    from server.catalogue import Catalogue

    catalogue = Catalogue(database)
    catalogue.publish(task, make_pack(256), None, "me")
    assert matches([pattern], task) is wanted
    assert matches(["zz", pattern], task) is wanted
    assert [row["name"] for row in catalogue.tasks(10, "", ["zz", pattern])] == ([task] if wanted else [])


@pytest.mark.parametrize("pattern", ["", "Flowers", "a b", "a/b", "a%", "[a-z]", "?", "****", "x" * 65])
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(StoreError, match="no task name or pattern"):
        checked([pattern])


def test_patterns_are_few() -> None:
    assert checked(["a", "b", "a"]) == ("a", "b")
    with pytest.raises(StoreError, match="may have 32"):
        checked([f"t{i}" for i in range(MAX_PATTERNS + 1)])


# --- what a token for some tasks may do


@pytest.fixture
def closed(tmp_path: Path, packs: list[Pack]) -> Iterator[Api]:
    for api in start(tmp_path / "store", anonymous_read=False, anonymous_classify=False):
        for task, pack in zip(("flowers-red", "flowers-blue", "birds"), packs, strict=True):
            api.publish(task, pack)
        yield api


def bearer(api: Api, *tasks: str) -> dict[str, str]:
    database = Database(str(api.store))
    made = Tokens(database).create("gardener", ["read", "classify", "publish", "promote"], tasks=tasks)
    database.close()
    return {"Authorization": f"Bearer {made}"}


def test_a_token_for_some_tasks(closed: Api, packs: list[Pack]) -> None:
    headers = bearer(closed, "flowers-*")

    def call(method: str, path: str, **more: Any) -> httpx.Response:
        return closed.client.request(method, path, headers=headers, **more)

    new = make_pack(256, 9).encode()
    for task, wanted in (("flowers-red", (201, 200, 200, 200)), ("flowers-new", (201, 200, 200, 200)), ("birds", (403,) * 4)):
        got = (
            call("POST", f"/v1/tasks/{task}/versions", content=new),
            call("PUT", f"/v1/tasks/{task}/channels/beta", json={"version": 1}),
            call("GET", f"/v1/tasks/{task}"),
            call("GET", f"/v1/tasks/{task}/channels/beta"),
        )
        assert tuple(answer.status_code for answer in got) == wanted
        if task == "birds":
            for answer in got:
                assert answer.json()["detail"].startswith("this token is for the tasks flowers-*: ")
    listed = call("GET", "/v1/tasks").json()
    assert [row["name"] for row in listed["tasks"]] == ["flowers-blue", "flowers-new", "flowers-red"]
    page = call("GET", "/v1/tasks?limit=1").json()
    assert ([row["name"] for row in page["tasks"]], page["next"]) == (["flowers-blue"], "flowers-blue")
    mine, other = (f"/v1/packs/{packs[i].pack_id}" for i in (0, 2))
    assert (call("GET", mine).content, call("GET", other).status_code) == (packs[0].encode(), 404)
    answer = call("POST", "/v1/classify", content=PHOTO).json()
    assert set(answer["images"][0]["tasks"]) == {"flowers-blue", "flowers-red"}  # -new has no stable channel
    assert call("POST", "/v1/classify?task=flowers-red", content=PHOTO).status_code == 200
    assert call("POST", "/v1/classify?task=flowers-red&task=birds", content=PHOTO).status_code == 403
    assert call("GET", "/v1/residents").status_code == 403
    assert call("GET", "/v1/audit").status_code == 403
    assert call("GET", "/v1/audit?task=birds").status_code == 403
    assert {entry["task"] for entry in call("GET", "/v1/audit?task=flowers-red").json()["entries"]} == {"flowers-red"}
    assert closed.call("GET", "/v1/tasks", "read").json()["tasks"][0]["name"] == "birds"  # one for all sees all


def test_a_token_for_one_task_writes_that_alone_where_reading_is_open(api: Api, packs: list[Pack]) -> None:
    headers = bearer(api, "three")
    assert api.client.post("/v1/tasks/three/versions", headers=headers, content=packs[2].encode()).status_code == 201
    assert api.client.post("/v1/tasks/one/versions", headers=headers, content=packs[2].encode()).status_code == 403
    assert api.client.put("/v1/tasks/one/channels/stable", headers=headers, json={"version": 1}).status_code == 403
    assert api.client.get("/v1/tasks/one", headers=headers).status_code == 200
    assert api.client.post("/v1/classify?task=one", headers=headers, content=PHOTO).status_code == 200
    assert len(api.client.get("/v1/tasks", headers=headers).json()["tasks"]) == 3


# --- the commands


def test_the_commands_make_no_store_by_mistake(edge_qprompt_command: Command, tmp_path: Path) -> None:
    typo = tmp_path / "typo"
    for more in (("create", "--scope", "read"), ("list",), ("revoke", "1")):
        fails(edge_qprompt_command("token", more[0], "--store", typo, *more[1:]), f"there is no store at {typo}", "--new")
    assert not typo.exists()
    typo.mkdir()
    fails(edge_qprompt_command("token", "list", "--store", typo), "there is no store at")
    assert list(typo.iterdir()) == []


def test_the_commands_make_no_tables_by_mistake(engine: Postgres) -> None:
    url = engine.database("empty")
    with pytest.raises(StoreError, match="there is no store at postgresql"):
        Database(url, new=False)
    Database(url).close()
    Database(url, new=False).close()


def test_tokens_by_command(edge_qprompt_command: Command, tmp_path: Path) -> None:
    where = ("--store", tmp_path / "store")
    create = ("token", "create", *where, "--scope", "publish")
    assert edge_qprompt_command(*create, "--new").out.startswith("eqp_")
    fails(edge_qprompt_command(*create), "there is a token with the name token already", "revoke")
    assert edge_qprompt_command(*create, "--name", "g", "--task", "flowers-*", "--task", "birds").code == 0
    fails(edge_qprompt_command(*create, "--name", "h", "--task", "BIRDS"), "--task 'BIRDS' is no task name or pattern")
    rows = edge_qprompt_command("token", "list", *where, "--json").json["tokens"]
    assert [(row["name"], row["tasks"]) for row in rows] == [("token", ["*"]), ("g", ["flowers-*", "birds"])]
    assert "flowers-*,birds" in edge_qprompt_command("token", "list", *where).out
    assert edge_qprompt_command("token", "revoke", *where, "g").out == "token g is revoked\n"
    assert edge_qprompt_command("token", "revoke", *where, "1").out == "token 1 (token) is revoked\n"
    fails(edge_qprompt_command("token", "revoke", *where, "g"), "there is no token g that could be revoked")
    assert edge_qprompt_command(*create).code == 0
    with sqlite3.connect(tmp_path / "store" / FILE_NAME) as db:
        entries = [row[0] for row in db.execute("SELECT detail FROM audit ORDER BY id")]
    assert entries[1] == "g: publish, tasks flowers-* birds"
    assert json.dumps(entries).count("eqp_") == 0
