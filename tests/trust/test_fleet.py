"""A fleet of one: the real commands against a real server on loopback, from key to label."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from common import DEMO, Command, Learned
from fleet import (
    CHANNEL,
    DAY,
    JSON,
    TOKEN,
    Device,
    Fleet,
    Publisher,
    about,
    command,
    fails,
)

from device_agent.client import Client, ClientLimits
from device_agent.signer import Signer, promote
from edge_qprompt import Pack
from edge_qprompt.errors import ServerError
from edge_qprompt.trust.statement import Envelope, read_public_key, verify

VERBS = ("keygen", "pull", "push", "rollback", "tasks")


def test_from_key_to_label(edge_qprompt_command: Command, fleet: Fleet, learned: Learned, tmp_path: Path) -> None:
    """Every step as a process of its own."""

    def run(*args: str | Path) -> dict[str, Any]:
        env = {"EDGE_QPROMPT_SERVER": fleet.url, "EDGE_QPROMPT_TOKEN": TOKEN}
        return edge_qprompt_command(*args, "--json", cwd=tmp_path, env=env).json

    made = run("keygen", "--out", "fleet")
    (tmp_path / "report.json").write_text(json.dumps(learned.done.json))
    pushed = run("push", learned.path, "--task", "clothes", "--key", "fleet", "--report", "report.json")
    assert (pushed["version"], pushed["serial"], pushed["changed"], pushed["channel"]) == (1, 1, True, "stable")
    [report] = fleet.reports["clothes"]
    assert report == {key: value for key, value in learned.done.json.items() if key not in ("pack", "skipped")}
    pulled = run("pull", "clothes", "--trust", "fleet.pub", "--out", "got.qpk")
    assert (pulled["pack"], pulled["version"], pulled["serial"], pulled["changed"]) == ("got.qpk", 1, 1, True)
    assert (tmp_path / "got.qpk").read_bytes() == learned.path.read_bytes()
    said = verify(Envelope.decode((tmp_path / "got.qpk.channel.json").read_bytes()), read_public_key(tmp_path / "fleet.pub"))
    assert (said.pack_id, said.expires - said.issued) == (learned.done.json["pack_id"], 90 * DAY)
    assert made["key_id"] in (tmp_path / "got.qpk.channel.json").read_text()
    photo = DEMO / "test" / "bag" / "3.png"
    assert run("classify", "got.qpk", photo)["images"] == run("classify", learned.path, photo)["images"]
    assert [row["name"] for row in run("tasks")["tasks"]] == ["clothes"]


def test_pull_takes_what_is_new_and_says_when_nothing_is(fleet: Fleet, device: Device, first: Pack, second: Pack) -> None:
    before = device.files()
    assert before["flowers.qpk"] == first.encode()
    assert before["flowers.qpk.channel.json"] == fleet.channels["flowers", "stable"]
    inode = device.pack.stat().st_ino
    done = device.pull()
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{device.pack} is still flowers version 1, {first.size} bytes\nstable of {fleet.url}, serial 5, ")
    assert (device.files(), device.pack.stat().st_ino) == (before, inode)
    assert [path for _, path, _ in fleet.seen] == [CHANNEL]
    fleet.offer(second, about(second, 6, version=2))
    done = device.pull()
    assert done.out.startswith(f"{device.pack} is now flowers version 2, {second.size} bytes\n")
    assert device.pack.read_bytes() == second.encode()
    fleet.offer(first, about(first, 7))  # back a version
    assert device.pull("--json").json["changed"]
    assert device.pack.read_bytes() == first.encode()


def test_a_statement_signed_anew_brings_no_pack(fleet: Fleet, device: Device, first: Pack) -> None:
    fleet.offer(first, about(first, 6))
    assert not device.pull("--json").json["changed"]
    assert device.files()["flowers.qpk.channel.json"] == fleet.channels["flowers", "stable"]
    assert [path for _, path, _ in fleet.seen] == [CHANNEL]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_pack_that_was_lost_or_damaged_is_fetched_again(device: Device, first: Pack, damage: Callable[[Path], object]) -> None:
    damage(device.pack)
    assert device.pull("--json").json["changed"]
    assert device.pack.read_bytes() == first.encode()


# keys


def test_keygen(tmp_path: Path) -> None:
    done = command("keygen", "--out", tmp_path / "fleet")
    assert (done.code, done.err) == (0, "")
    secret, public = done.out.splitlines()
    assert secret == f"{tmp_path / 'fleet'}  signs: keep it secret, and a copy of it safe"
    assert public.startswith(f"{tmp_path / 'fleet.pub'}  goes to the devices (key ")
    assert (tmp_path / "fleet").stat().st_mode & 0o777 == 0o600
    kept = (tmp_path / "fleet").read_bytes()
    fails(command("keygen", "--out", tmp_path / "fleet"), "fleet is there already and a key is never overwritten")
    assert (tmp_path / "fleet").read_bytes() == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet", "fleet.pub"]


# the client


def test_tasks_are_listed_page_by_page(fleet: Fleet, first: Pack) -> None:
    fleet.packs = {f"task-{i:03}": [first.encode()] for i in range(250)}
    where = ("--server", fleet.url)
    listed = command("tasks", *where, "--json").json
    assert [row["name"] for row in listed["tasks"]] == sorted(fleet.packs)
    assert len(fleet.seen) == 3
    assert command("tasks", *where).out.splitlines()[7] == "task-007  stable points nowhere, 9 bytes, 2 classes, None, 50.0 %"
    fleet.packs = {}
    assert command("tasks", *where).out == f"there are no tasks on {fleet.url}\n"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ([], "sends [], wanted a JSON object"),
        ({"tasks": {}}, "no tasks of type list"),
        ({"tasks": ["x"]}, "no name of type str"),
        ({"tasks": [{"name": "\x1b[2J"}]}, "lists the task '\\x1b[2J'"),
        ({"tasks": [], "next": 5}, "no next of type str"),
        ({"tasks": [], "next": ""}, "lists tasks in circles"),
    ],
)
def test_lists_that_are_none(fleet: Fleet, page: Any, said: str) -> None:
    fleet.instead["/v1/tasks"] = lambda handler: handler.json(page)
    fails(command("tasks", "--server", fleet.url), said, "is this a server of edge-qprompt?")


def test_an_endless_list_ends(fleet: Fleet) -> None:
    fleet.instead["/v1/tasks"] = lambda handler: handler.json({"tasks": [], "next": f"a{len(fleet.seen):09}"})
    fails(command("tasks", "--server", fleet.url), "lists tasks on more than 100 pages")
    assert len(fleet.seen) == 100


def test_facts_that_a_server_made_up_are_shown_on_one_line(fleet: Fleet) -> None:
    row = {
        "name": "a",
        "size": "\x1b[2J\n",
        "accuracy": "high",
        "channels": {"stable": {"version": [], "signed": "yes"}},
        "method": {},
    }
    fleet.instead["/v1/tasks"] = lambda handler: handler.json({"tasks": [row], "next": None})
    assert command("tasks", "--server", fleet.url).out == "a  stable version [] (not signed),  [2J  bytes, None classes, {}\n"


def test_what_is_sent(fleet: Fleet, first: Pack) -> None:
    with Client(f"{fleet.url}/", TOKEN) as client:
        assert client.publish("flowers", first.encode()) == (1, ())
        assert client.pack(first.pack_id, first.size) == first.encode()
    (_, _, headers), (_, path, _) = fleet.seen
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Content-Type"] == "application/vnd.edge-qprompt.pack"
    assert path == f"/v1/packs/{first.pack_id}"


def test_the_transport_is_a_seam_and_a_path_of_the_server_is_kept() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        page = {"tasks": [{"name": request.url.path.strip("/").replace("/", ".")}], "next": None}
        return httpx.Response(200, headers={"Content-Type": JSON}, stream=httpx.ByteStream(json.dumps(page).encode()))

    with Client("https://example.org/packs", transport=httpx.MockTransport(handle)) as client:
        assert [row["name"] for row in client.tasks()] == ["packs.v1.tasks"]


def test_limits_are_those_that_are_given(fleet: Fleet, publisher: Publisher, first: Pack) -> None:
    assert publisher.push(first).code == 0
    with Client(fleet.url, limits=ClientLimits(envelope_bytes=100)) as client, pytest.raises(ServerError, match="100 bytes"):
        client.envelope("flowers", "stable")


def test_promote_returns_what_holds(fleet: Fleet, key: Path, first: Pack) -> None:
    fleet.packs["flowers"] = [first.encode()]
    wanted = about(first, 77)
    with Client(fleet.url, TOKEN) as client:
        assert promote(client, Signer(key), wanted) == (dataclasses.replace(wanted, serial=1), True)
        assert promote(client, Signer(key), wanted) == (dataclasses.replace(wanted, serial=1), False)


# start-up


@pytest.mark.parametrize("verb", [*VERBS, "classify"])
def test_no_verb_loads_network_or_keys_before_it_needs_them(verb: str) -> None:
    code = (
        "import sys\nfrom device_agent.main import cli\n"
        f"try: cli.main(['{verb}', '--help'], standalone_mode=False)\n"
        "finally: assert not {'httpx', 'cryptography', 'asyncio', 'onnxruntime', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
