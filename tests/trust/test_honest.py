"""What an honest server and a device make of each other: the same on the fleet's stand-in and on the real server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from apis import make_pack
from fleet import OTHER_KEY, TOKEN, Fleet, command, fails
from servers import LiveServer, token

from device_agent import Client, Signer, Updater
from device_agent.signer import from_now, promote
from edge_qprompt import Backbone, Pack
from edge_qprompt.errors import ServerError, SignatureError
from edge_qprompt.trust import Statement, write_key_pair


@dataclass(frozen=True)
class Place:
    """A server, and a token that may publish and promote."""

    url: str
    token: str


@pytest.fixture(scope="module", params=["stand-in", "server"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if request.param == "stand-in":
        with Fleet() as running:
            yield Place(running.url, TOKEN)
        return
    folder = tmp_path_factory.mktemp("honest")
    server = LiveServer.start(folder / "store", folder)
    try:
        yield Place(server.url, token(folder / "store", "publish", "promote"))
    finally:
        server.stop()


@pytest.fixture
def first(nano: Backbone) -> Pack:
    """One that this backbone can use, which the server makes sure of."""
    return make_pack(nano.manifest.text.width, 1)


@pytest.fixture
def second(nano: Backbone) -> Pack:
    return make_pack(nano.manifest.text.width, 2)


@pytest.fixture
def task(request: pytest.FixtureRequest) -> str:
    """One of its own for each test: the server is shared."""
    return request.node.originalname.removeprefix("test_").replace("_", "-")[:60]


def push(place: Place, key: Path, task: str, pack: Pack) -> Statement:
    """As `edge-qprompt push` does, in Python."""
    with Client(place.url, place.token) as client:
        version, _ = client.publish(task, pack.encode())
        backbone = pack.fingerprint.hex()
        wanted = Statement(task, "stable", 1, version, pack.pack_id, pack.size, backbone, *from_now(9))
        return promote(client, Signer(key), wanted)[0]


def updater(place: Place, key: Path) -> Updater:
    return Updater(place.url, key.with_name("fleet.pub"), "nano")


def test_a_device_follows_its_publisher(place: Place, key: Path, task: str, first: Pack, second: Pack, tmp_path: Path) -> None:
    out = tmp_path / "here.qpk"
    with updater(place, key) as device:
        for pack, serial in ((first, 1), (second, 2), (first, 3)):
            said = push(place, key, task, pack)
            assert said.serial == serial
            for changed in (True, False):
                found = device.pull(task, out)
                assert (found.path, found.statement, found.changed, found.adapter) == (out, said, changed, None)
            assert Pack.open(out) == pack


def test_without_a_file_it_is_the_tasks_own(
    place: Place, key: Path, task: str, first: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    push(place, key, task, first)
    with updater(place, key) as device:
        assert device.pull(task).path == Path(f"{task}.qpk")
    assert Pack.open(tmp_path / f"{task}.qpk") == first


def test_a_task_that_is_not_there(place: Place, key: Path, task: str, tmp_path: Path) -> None:
    with updater(place, key) as device, pytest.raises(ServerError, match="404"):
        device.pull(task, tmp_path / "here.qpk")
    assert not (tmp_path / "here.qpk").exists()


def test_what_nobody_signed_is_not_taken(place: Place, key: Path, task: str, first: Pack, tmp_path: Path) -> None:
    with Client(place.url, place.token) as client:
        client.publish(task, first.encode())
    with updater(place, key) as device, pytest.raises(ServerError, match="404"):
        device.pull(task, tmp_path / "here.qpk")


def test_another_key_is_not_believed(place: Place, key: Path, task: str, first: Pack, tmp_path: Path) -> None:
    write_key_pair(tmp_path / "other", OTHER_KEY)
    push(place, key, task, first)
    with Updater(place.url, tmp_path / "other.pub", "nano") as device, pytest.raises(SignatureError):
        device.pull(task, tmp_path / "here.qpk")


def test_the_commands_do_the_same(place: Place, key: Path, task: str, first: Pack, tmp_path: Path) -> None:
    first.save(tmp_path / "first.qpk")
    where = ("--server", place.url, "--token", place.token)
    pushed = command("push", tmp_path / "first.qpk", *where, "--task", task, "--key", key, "--json").json
    assert (pushed["version"], pushed["serial"], pushed["changed"]) == (1, 1, True)
    pull = ("pull", task, "--server", place.url, "--trust", key.with_name("fleet.pub"), "--out", tmp_path / "here.qpk")
    assert command(*pull, "--json").json["changed"]
    assert Pack.open(tmp_path / "here.qpk") == first
    fails(command("rollback", task, *where, "--key", key), "there is none before it")
    assert task in [row["name"] for row in command("tasks", "--server", place.url, "--json").json["tasks"]]
