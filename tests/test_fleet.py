"""A fleet of one: the real commands against a real server on loopback, which tries what attackers try.

The attacks are those that python-tuf is tested against. After each, the pack that was there before is
still there, byte for byte, with what was accepted about it and nothing beside them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import DEMO, Command, Done, Learned
from fleet import DAY, JSON, KEY, OTHER_KEY, TOKEN, Fleet, Handler, Misbehaviour, about
from packs import SMALL

from device_agent.catalogue import Catalogue, Limits
from device_agent.main import main
from device_agent.signer import Signer, promote
from edge_qprompt import Backbone, Pack
from edge_qprompt.errors import ServerError
from edge_qprompt.pack import names_section
from edge_qprompt.statement import Envelope, Statement, read_public_key, sign, verify, write_key_pair

VERBS = ("keygen", "pull", "push", "rollback", "tasks")
CHANNEL = "/v1/tasks/flowers/channels/stable"


def command(*args: str | Path) -> Done:
    """`edge-qprompt ARGS` in this process: its own entry point, its own exit code."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["edge-qprompt", *map(str, args)])
        patch.setattr(warnings, "showwarning", warnings.showwarning)  # main sets its own
        with pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return Done(ended.value.code, out.getvalue(), err.getvalue())


def fails(done: Done, *parts: str) -> None:
    """One error, one line of it, nothing on stdout, and no secret."""
    assert (done.code, done.out) == (1, ""), done
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert TOKEN not in done.err
    for part in parts:
        assert part in done.err


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with Fleet() as running:
        yield running


@pytest.fixture
def key(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    path = tmp_path / "keys" / "fleet"
    write_key_pair(path, KEY)
    return path


def pack_of(backbone: Backbone, *names: str) -> Pack:
    return dataclasses.replace(SMALL, fingerprint=backbone.manifest.short_fingerprint, sections=(names_section(names),))


@dataclass(frozen=True)
class Device:
    """A machine that pulls flowers."""

    folder: Path
    trust: Path
    url: str

    @property
    def pack(self) -> Path:
        return self.folder / "flowers.qpk"

    def pull(self, *more: str | Path, task: str = "flowers") -> Done:
        return command("pull", task, "--server", self.url, "--trust", self.trust, "--out", self.pack, *more)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


@pytest.fixture
def empty(fleet: Fleet, key: Path, tmp_path: Path) -> Device:
    (tmp_path / "device").mkdir()
    return Device(tmp_path / "device", key.with_name("fleet.pub"), fleet.url)


@pytest.fixture
def first(nano: Backbone) -> Pack:
    return pack_of(nano, "cat", "dog")


@pytest.fixture
def second(nano: Backbone) -> Pack:
    return pack_of(nano, "fox", "owl")  # as many bytes as the first


@pytest.fixture
def device(fleet: Fleet, empty: Device, first: Pack) -> Device:
    """A device that has accepted serial 5."""
    fleet.offer(first, about(first, 5))
    assert empty.pull().code == 0
    fleet.seen.clear()
    return empty


# the good way


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


# attacks: whatever is answered instead, the device keeps what it has


def envelope(said: Statement, key: Any = KEY, **changes: Any) -> Misbehaviour:
    """Answer with a statement, some fields of whose envelope were changed."""
    facts = json.loads(sign(said, key).encode()) | changes
    return lambda handler: handler.json(facts)


def signed_and_changed(said: Statement, **changes: Any) -> Misbehaviour:
    return envelope(said, payload=json.loads(sign(dataclasses.replace(said, **changes), KEY).encode())["payload"])


def test_arbitrary_install(fleet: Fleet, device: Device, first: Pack, second: Pack) -> None:
    before = device.files()
    new = about(second, 6, version=2)
    fleet.offer(second, new)
    fleet.instead[CHANNEL] = envelope(new, OTHER_KEY)
    fails(device.pull(), "not signed by the trusted key 21fe31dfa154a261", f"{device.pack} stays as it was")
    fleet.instead[CHANNEL] = envelope(new, signatures=[])
    fails(device.pull(), "not signed by the trusted key")
    claimed = [{"keyid": "21fe31dfa154a261", "sig": json.loads(sign(new, OTHER_KEY).encode())["signatures"][0]["sig"]}]
    fleet.instead[CHANNEL] = envelope(new, signatures=claimed)
    fails(device.pull(), "not signed by the trusted key")
    fleet.instead[CHANNEL] = signed_and_changed(about(first, 6), pack_id=second.pack_id)
    fails(device.pull(), "not signed by the trusted key")
    fleet.instead[CHANNEL] = envelope(new, payloadType="application/json")
    fails(device.pull(), "the envelope holds 'application/json'")
    assert device.files() == before


def test_arbitrary_bytes_of_a_pack(fleet: Fleet, device: Device, second: Pack) -> None:
    before = device.files()
    fleet.offer(second, about(second, 6))
    whole = second.encode()
    for data in (whole[:-1] + b"\0", bytes(len(whole)), whole[:-1], b""):
        fleet.instead[f"/v1/packs/{second.pack_id}"] = lambda handler, data=data: handler.send(200, "application/x", data)  # type: ignore[misc]
        fails(device.pull(), "exchanged", f"{device.pack} stays as it was")
        assert device.files() == before


def test_rollback(fleet: Fleet, device: Device, first: Pack, second: Pack) -> None:
    old = fleet.channels["flowers", "stable"]
    fleet.offer(second, about(second, 6, version=2))
    assert device.pull().code == 0
    before = device.files()
    fleet.channels["flowers", "stable"] = old  # the replay of a statement that was good
    fails(device.pull(), "has serial 5, 6 was accepted here before: somebody offers an old state")
    fleet.offer(first, about(first, 6))
    fails(device.pull(), "two statements of serial 6")
    assert device.files() == before


def test_freeze(fleet: Fleet, device: Device, first: Pack) -> None:
    before = device.files()
    past = about(first).issued - 91 * DAY
    fleet.offer(first, about(first, 6, issued=past, expires=past + 90 * DAY))
    fails(device.pull(), "the statement expired ", "or somebody keeps newer statements back")
    assert device.files() == before


def test_freeze_by_a_clock_that_was_set_back(fleet: Fleet, device: Device, first: Pack) -> None:
    kept = device.folder / "flowers.qpk.channel.json"
    later = about(first).issued + DAY
    kept.write_bytes(sign(about(first, 5, issued=later, expires=later + DAY), KEY).encode())
    before = device.files()
    fleet.offer(first, about(first, 6))
    fails(device.pull(), "this device's clock says ", "set the clock here")
    assert device.files() == before


def test_mix_and_match(fleet: Fleet, device: Device, second: Pack) -> None:
    before = device.files()
    for changes, said in (({"task": "birds"}, "about birds stable"), ({"channel": "beta"}, "about flowers beta")):
        fleet.instead[CHANNEL] = envelope(about(second, 6, **changes))
        fails(device.pull(), f"{said}, wanted flowers stable: the server mixes its answers up")
    fleet.instead.clear()
    new = about(second, 6)
    other = dataclasses.replace(second, sections=(names_section(("hen", "rat")),))
    assert other.size == second.size
    fleet.offer(second, new)
    fleet.instead[f"/v1/packs/{second.pack_id}"] = lambda handler: handler.send(200, "application/x", other.encode())
    fails(device.pull(), f"has SHA-256 {other.pack_id}, the statement says {second.pack_id}")
    assert device.files() == before


def test_wrong_software(fleet: Fleet, device: Device, second: Pack) -> None:
    before = device.files()
    foreign = dataclasses.replace(second, fingerprint=bytes(8))
    fleet.offer(foreign, about(foreign, 6))
    fails(device.pull(), "learned on backbone 0000000000000000", f"this device has {second.fingerprint.hex()}", "--backbone")
    fleet.offer(foreign, about(foreign, 6, backbone=second.fingerprint.hex()))
    fails(device.pull(), "learned on backbone 0000000000000000", f"its statement says {second.fingerprint.hex()}")
    assert device.files() == before


def test_one_file_is_one_channel(fleet: Fleet, device: Device, second: Pack) -> None:
    before = device.files()
    fleet.offer(second, about(second, 9, task="birds"))
    fails(device.pull(task="birds"), "accepted here before is flowers stable, now wanted birds stable: give each its own --out")
    fleet.offer(second, about(second, 9, channel="beta"))
    fails(device.pull("--channel", "beta"), "accepted here before is flowers stable, now wanted flowers beta")
    assert device.files() == before


def test_what_was_accepted_is_not_forgotten_because_it_is_damaged(fleet: Fleet, device: Device, second: Pack) -> None:
    (device.folder / "flowers.qpk.channel.json").write_bytes(b"")
    before = device.files()
    fleet.offer(second, about(second, 1))
    fails(device.pull(), "flowers.qpk.channel.json: the envelope is not JSON", "remove it to start anew, which forgets")
    assert device.files() == before


# attacks on patience and memory


def start(handler: Handler, *lines: str) -> None:
    """A head written by hand; the connection ends with the answer."""
    handler.close_connection = True
    handler.wfile.write("\r\n".join(("HTTP/1.1 200 OK", f"Content-Type: {JSON}", *lines, "", "")).encode())


def endless(handler: Handler) -> None:
    start(handler)
    while True:
        handler.wfile.write(b" " * 65536)


def drip_body(handler: Handler) -> None:
    start(handler, "Content-Length: 500")
    drip(handler, b" ")


def drip_head(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    drip(handler, b"x")


def drip_continue(handler: Handler) -> None:
    drip(handler, b"HTTP/1.1 102 Processing\r\n\r\n")


def drip(handler: Handler, piece: bytes) -> None:
    """A piece every 50 ms, for a minute."""
    handler.close_connection = True
    for _ in range(1200):
        handler.wfile.write(piece)
        time.sleep(0.05)


def silent(handler: Handler) -> None:
    handler.close_connection = True
    time.sleep(3)


def says_longer(handler: Handler) -> None:
    start(handler, "Content-Length: 999999999")
    handler.wfile.write(b"{}")


def says_shorter(handler: Handler) -> None:
    start(handler, "Content-Length: 10")
    handler.wfile.write(b" " * 500)


def interrupted(handler: Handler) -> None:
    start(handler, "Transfer-Encoding: chunked")
    handler.wfile.write(b'5\r\n{"pay')


def hangs_up(handler: Handler) -> None:
    handler.close_connection = True


def no_http(handler: Handler) -> None:
    handler.close_connection = True
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")


def bomb(handler: Handler) -> None:
    handler.send(200, JSON, gzip.compress(bytes(10_000_000)), Content_Encoding="gzip")


def bomb_of_brackets(handler: Handler) -> None:
    handler.send(200, JSON, b"[" * 8000)


def html(handler: Handler) -> None:
    handler.send(200, "text/html", b"<html>log in</html>")


def redirect(handler: Handler) -> None:
    handler.send(302, "text/html", b"", Location="http://elsewhere/")


def failed(handler: Handler) -> None:
    handler.send(500, "text/html", b"<h1>Oops</h1>")


def failed_at_length(handler: Handler) -> None:
    handler.send(500, JSON, b"[" * 99_999)


def full(handler: Handler) -> None:
    handler.problem(503, "full", Retry_After="7")


def clears_the_screen(handler: Handler) -> None:
    handler.problem(404, "\x1b[2Jgone\r\n")


def chatty(handler: Handler) -> None:
    handler.problem(401, "x" * 9999)


SLOW = "is too slow (0.5 s in all, 10 s to connect): try again, or with a longer --timeout"
AWAY = "cannot get an answer from http://127.0.0.1:"
LONG = "sends more than the {most} bytes that this may have"
HOSTILE: dict[Misbehaviour, tuple[str, str]] = {  # what is said of a statement, and of a pack
    endless: (LONG, LONG),
    drip_body: (SLOW, SLOW),
    drip_head: (SLOW, SLOW),
    drip_continue: (SLOW, SLOW),
    silent: (SLOW, SLOW),
    says_longer: (AWAY, AWAY),
    says_shorter: ("the envelope is not JSON", "it was cut short"),
    interrupted: (AWAY, AWAY),
    hangs_up: (AWAY, AWAY),
    no_http: (AWAY, AWAY),
    bomb: (LONG, LONG),
    bomb_of_brackets: ("the envelope is not JSON", LONG),
    html: ("sends text/html, wanted application/json", "it was cut short"),
    redirect: ("302, go to http://elsewhere/, which is not followed",) * 2,
    failed: ("answers 500 without saying why",) * 2,
    failed_at_length: ("answers 500 without saying why",) * 2,
    full: ("answers 503 Trouble: full (try again in 7 s)",) * 2,
    clears_the_screen: ("answers 404 Trouble:  [2Jgone",) * 2,
    chatty: ("answers 401 Trouble: xxx",) * 2,
}


@pytest.mark.parametrize("misbehaviour", HOSTILE, ids=lambda each: each.__name__)
@pytest.mark.parametrize("at", ["statement", "pack"])
def test_a_hostile_answer(fleet: Fleet, device: Device, second: Pack, misbehaviour: Misbehaviour, at: str) -> None:
    before = device.files()
    fleet.offer(second, about(second, 6))
    fleet.instead[CHANNEL if at == "statement" else f"/v1/packs/{second.pack_id}"] = misbehaviour
    began = time.monotonic()
    done = device.pull("--timeout", "0.5", "--token", TOKEN)
    assert time.monotonic() - began < 10  # the drips last a minute
    fails(
        done,
        HOSTILE[misbehaviour][at == "pack"].format(most=8192 if at == "statement" else second.size),
        f"; {device.pack} stays as it was",
    )
    assert len(done.err) < 700
    assert device.files() == before
    fleet.instead.clear()
    assert device.pull("--json").json["changed"]  # and the next time all is well


def test_an_interrupted_user(fleet: Fleet, device: Device, second: Pack) -> None:
    before = device.files()
    fleet.offer(second, about(second, 6))
    fleet.instead[f"/v1/packs/{second.pack_id}"] = drip_body
    words = ("pull", "flowers", "--server", fleet.url, "--trust", device.trust, "--out", device.pack)
    running = subprocess.Popen(
        [sys.executable, "-m", "device_agent", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background would inherit "ignore"
    )
    while len(fleet.seen) < 2:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=30)[1].strip() == "interrupted"
    assert running.returncode == 130
    assert device.files() == before


def test_a_server_that_is_away(fleet: Fleet, device: Device, empty: Device) -> None:
    before = device.files()
    fleet.http.server_close()
    fails(device.pull(), AWAY, "is it up, and the address right?", f"{device.pack} stays as it was")
    assert device.files() == before
    done = command("pull", "flowers", "--server", fleet.url, "--trust", device.trust, "--out", device.folder / "new.qpk")
    fails(done, AWAY, "nothing was written")
    assert device.files() == before


def test_a_classification_does_not_notice(
    edge_qprompt_command: Command, fleet: Fleet, empty: Device, learned: Learned, second: Pack
) -> None:
    fleet.offer(Pack.open(learned.path), about(Pack.open(learned.path), 5))
    assert empty.pull().code == 0
    classify = ("classify", empty.pack, DEMO / "test" / "bag" / "3.png", "--json")
    before = edge_qprompt_command(*classify).json
    fleet.offer(second, about(second, 6), OTHER_KEY)
    fails(edge_qprompt_command("pull", "flowers", "--server", fleet.url, "--trust", empty.trust, "--out", empty.pack))
    assert edge_qprompt_command(*classify).json == before


@pytest.mark.parametrize(
    "server",
    [
        "",
        "nonsense",
        "http://",
        "ftp://example.org",
        "http://[::1",
        "http://a..b",
        f"http://{'x' * 70}.org",
        "http://h:99999",
        "http://a b",
    ],
)
def test_addresses_that_are_none(device: Device, server: str) -> None:
    before = device.files()
    done = command("pull", "flowers", "--server", server, "--trust", device.trust, "--out", device.pack)
    fails(done, f"{device.pack} stays as it was")
    assert ("wanted an address like https://packs.example.org" in done.err) or ("cannot get an answer from" in done.err)
    assert device.files() == before


@pytest.mark.parametrize("token", [f"{TOKEN}\r\nX: y", f"{TOKEN} ", f"{TOKEN}é"])
def test_a_token_that_is_none_is_not_shown(fleet: Fleet, device: Device, token: str) -> None:
    fails(device.pull("--token", token), "the token holds characters", "it is not shown here")
    assert fleet.seen == []


def test_passwords_in_an_address_are_not_shown(fleet: Fleet, device: Device) -> None:
    fleet.instead[CHANNEL] = hangs_up
    for server in (fleet.url.replace("//", "//me:hidden@"), "me:hidden@example.org"):
        done = command("pull", "flowers", "--server", server, "--trust", device.trust, "--out", device.pack)
        fails(done)
        assert "hidden" not in done.err


def test_pull_needs_its_folder_and_its_key(device: Device) -> None:
    fails(device.pull("--out", device.folder / "no" / "a.qpk"), "of --out does not exist: create it first")
    fails(device.pull("--trust", device.pack), "is not an Ed25519 public key in PEM")
    fails(device.pull("--trust", device.folder / "gone.pub"), "cannot read the key")
    fails(device.pull("--backbone", "ViT-B-16"), "no backbone 'ViT-B-16'")
    done = device.pull(task="Flowers")
    assert (done.code, "'Flowers' is no name" in done.err) == (2, True)


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


# push and rollback


@dataclass(frozen=True)
class Publisher:
    """A machine that pushes flowers."""

    folder: Path
    key: Path
    url: str

    def push(self, pack: Pack, *more: str | Path) -> Done:
        pack.save(self.folder / "p.qpk")
        return command("push", self.folder / "p.qpk", "--task", "flowers", "--key", self.key, *self.where, *more)

    def rollback(self, *more: str | Path) -> Done:
        return command("rollback", "flowers", "--key", self.key, *self.where, *more)

    @property
    def where(self) -> tuple[str, ...]:
        return ("--server", self.url, "--token", TOKEN)


@pytest.fixture
def publisher(fleet: Fleet, key: Path, tmp_path: Path) -> Publisher:
    return Publisher(tmp_path, key, fleet.url)


def newest(fleet: Fleet, channel: str = "stable") -> Statement:
    return verify(Envelope.decode(fleet.channels["flowers", channel]), KEY.public_key())


def test_push_says_what_it_did_and_nothing_twice(fleet: Fleet, publisher: Publisher, first: Pack, second: Pack) -> None:
    done = publisher.push(first)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == f"flowers version 1  {first.size} bytes, pack {first.pack_id[:16]} on {fleet.url}"
    assert done.out.splitlines()[1].startswith("stable is now version 1, serial 1, signed until 20")
    said = newest(fleet)
    assert (said.version, said.serial, said.pack_id, said.backbone) == (1, 1, first.pack_id, first.fingerprint.hex())
    again = publisher.push(first)
    assert "stable is already, nothing changes: version 1, serial 1" in again.out
    assert newest(fleet) == said
    assert publisher.push(second, "--expires", "7", "--json").json["serial"] == 2
    assert (newest(fleet).version, newest(fleet).expires - newest(fleet).issued) == (2, 7 * DAY)
    assert len(fleet.packs["flowers"]) == 2


@pytest.mark.parametrize(("left", "serial"), [(46, 1), (44, 2)])
def test_push_signs_again_when_half_of_the_time_is_gone(
    fleet: Fleet, publisher: Publisher, first: Pack, left: int, serial: int
) -> None:
    now = about(first).issued
    fleet.offer(first, about(first, 1, issued=now - (90 - left) * DAY, expires=now + left * DAY))
    assert publisher.push(first, "--json").json["serial"] == serial
    assert newest(fleet).serial == serial


@pytest.mark.parametrize("current", [Envelope(b""), None])
def test_push_signs_over_what_its_key_has_not_signed(
    fleet: Fleet, publisher: Publisher, first: Pack, current: Envelope | None
) -> None:
    fleet.offer(first, about(first, 4), OTHER_KEY)
    if current is not None:
        fleet.channels["flowers", "stable"] = Envelope(about(first, 4).encode()).encode()
    assert publisher.push(first, "--json").json["serial"] == 5
    assert newest(fleet).serial == 5


def test_push_to_a_channel_of_its_own_or_to_none(fleet: Fleet, publisher: Publisher, first: Pack) -> None:
    result = publisher.push(first, "--no-promote", "--json").json
    assert result == {"server": fleet.url, "task": "flowers", "pack_id": first.pack_id, "size": first.size, "version": 1}
    assert "no channel was moved" in publisher.push(first, "--no-promote").out
    assert fleet.channels == {}
    assert publisher.push(first, "--channel", "beta").code == 0
    assert list(fleet.channels) == [("flowers", "beta")]


def test_push_gives_way_and_tries_again(fleet: Fleet, publisher: Publisher, first: Pack, second: Pack) -> None:
    def rival() -> None:
        current = fleet.channels.get(("flowers", "stable"))
        fleet.offer(second, about(second, 1 + (newest(fleet).serial if current else 0), version=2))

    fleet.rivals += [rival, rival]
    assert publisher.push(first, "--json").json["serial"] == 3
    assert newest(fleet).pack_id == first.pack_id
    fleet.rivals += [rival] * 9
    fails(publisher.push(second.__class__.decode(first.encode()), "--expires", "3650"), "answers 409", "(tried 5 times")


def test_push_brings_a_report(fleet: Fleet, publisher: Publisher, first: Pack, second: Pack, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text('{"held_out_accuracy": 0.5, "losses": [[1, 2.5]]}')
    assert publisher.push(first, "--report", report).code == 0
    assert publisher.push(second).code == 0
    assert fleet.reports["flowers"] == [{"held_out_accuracy": 0.5, "losses": [[1, 2.5]]}, None]
    for text, said in (
        ("[]", "it is no JSON object"),
        ("{", "Expecting"),
        ('"' + "x" * (256 << 10) + '"', "it is larger than 262144 bytes"),
    ):
        report.write_text(text)
        fails(publisher.push(first, "--report", report), f"--report {report} cannot be used ({said}", "or leave it out")
    fails(publisher.push(first, "--report", tmp_path / "gone"), "gone cannot be used", "No such file")


def test_push_that_cannot_be(fleet: Fleet, publisher: Publisher, first: Pack) -> None:
    done = publisher.push(first, "--token", "eqp_other")
    fails(done, f"{fleet.url} answers 401 Trouble: this needs a token with another scope")
    assert "eqp_other" not in done.err
    fails(publisher.push(first, "--key", publisher.folder / "gone"), "cannot read the key")
    fails(publisher.push(first, "--key", publisher.key.with_name("fleet.pub")), "is not an Ed25519 private key")
    (publisher.folder / "p.qpk").write_bytes(b"PK")
    bad = command("push", publisher.folder / "p.qpk", "--task", "flowers", "--key", publisher.key, *publisher.where)
    fails(bad, "p.qpk: not a pack")
    assert fleet.packs == {}
    usage = command("push", publisher.folder / "p.qpk", "--task", "flowers", *publisher.where)
    assert (usage.code, "--key is needed to sign" in usage.err) == (2, True)


def test_rollback_and_forward(fleet: Fleet, publisher: Publisher, empty: Device, first: Pack, second: Pack) -> None:
    for pack in (first, second):
        assert publisher.push(pack).code == 0
    assert empty.pull().code == 0
    back = publisher.rollback("--json").json
    assert (back["version"], back["serial"], back["changed"], back["pack_id"]) == (1, 3, True, first.pack_id)
    assert empty.pull("--json").json["version"] == 1
    assert empty.pack.read_bytes() == first.encode()
    fails(publisher.rollback(), "stable of flowers is version 1, and there is none before it: choose with --to from 1, 2")
    assert publisher.rollback("--to", "2", "--json").json["serial"] == 4
    assert empty.pull("--json").json["version"] == 2
    assert "already, nothing changes" in publisher.rollback("--to", "2").out
    fails(publisher.rollback("--to", "3"), "flowers has no version 3 on", "it has 1, 2")
    fails(publisher.rollback("--channel", "beta"), "channel beta of flowers points nowhere yet")


def test_rollback_signs_nothing_on_a_servers_word(fleet: Fleet, publisher: Publisher, first: Pack, second: Pack) -> None:
    """A server that has been taken over names its own pack as the version before."""
    for pack in (first, second):
        assert publisher.push(pack).code == 0
    before = dict(fleet.channels)
    evil = dataclasses.replace(first, sections=(names_section(("evil", "pack")),))
    fleet.packs["flowers"][0] = evil.encode()
    fails(
        publisher.rollback(),
        f"does not show that this key has signed version 1 of flowers, pack '{evil.pack_id}'",
        "push it again",
    )
    log = publisher.key.with_name("fleet.log")
    with log.open("ab") as file:  # nor on that of who can only write to the log
        file.write(b"damage\n" + sign(about(evil), OTHER_KEY).encode() + b"\n" + Envelope(about(evil).encode()).encode() + b"\n")
    fails(publisher.rollback(), "does not show that this key has signed version 1")
    assert fleet.channels == before
    log.unlink()
    fails(publisher.rollback("--to", "2"), "does not show")


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
    with Catalogue(f"{fleet.url}/", TOKEN) as catalogue:
        assert catalogue.publish("flowers", first.encode()) == 1
        assert catalogue.pack(first.pack_id, first.size) == first.encode()
    (_, _, headers), (_, path, _) = fleet.seen
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Content-Type"] == "application/vnd.edge-qprompt.pack"
    assert path == f"/v1/packs/{first.pack_id}"


def test_the_transport_is_a_seam_and_a_path_of_the_server_is_kept() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        page = {"tasks": [{"name": request.url.path.strip("/").replace("/", ".")}], "next": None}
        return httpx.Response(200, headers={"Content-Type": JSON}, stream=httpx.ByteStream(json.dumps(page).encode()))

    with Catalogue("https://example.org/packs", transport=httpx.MockTransport(handle)) as catalogue:
        assert [row["name"] for row in catalogue.tasks()] == ["packs.v1.tasks"]


def test_limits_are_those_that_are_given(fleet: Fleet, publisher: Publisher, first: Pack) -> None:
    assert publisher.push(first).code == 0
    with Catalogue(fleet.url, limits=Limits(envelope_bytes=100)) as catalogue, pytest.raises(ServerError, match="100 bytes"):
        catalogue.envelope("flowers", "stable")


def test_promote_returns_what_holds(fleet: Fleet, key: Path, first: Pack) -> None:
    fleet.packs["flowers"] = [first.encode()]
    wanted = about(first, 77)
    with Catalogue(fleet.url, TOKEN) as catalogue:
        assert promote(catalogue, Signer(key), wanted) == (dataclasses.replace(wanted, serial=1), True)
        assert promote(catalogue, Signer(key), wanted) == (dataclasses.replace(wanted, serial=1), False)


# start-up


@pytest.mark.parametrize("verb", [*VERBS, "classify"])
def test_no_verb_loads_network_or_keys_before_it_needs_them(verb: str) -> None:
    code = (
        "import sys\nfrom device_agent.main import cli\n"
        f"try: cli.main(['{verb}', '--help'], standalone_mode=False)\n"
        "finally: assert not {'httpx', 'cryptography', 'asyncio', 'onnxruntime', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
