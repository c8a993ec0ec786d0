"""What the tests of signed channels share: keys, statements, a small server that can be told to misbehave, and who asks it."""

from __future__ import annotations

import contextlib
import dataclasses
import email
import hashlib
import io
import json
import re
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from common import Done
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from packs import SMALL

from device_agent.main import main
from edge_qprompt import Backbone
from edge_qprompt.pack.pack import Pack, names_section
from edge_qprompt.trust.statement import Envelope, Statement, sign, verify

KEY, OTHER_KEY = (  # RFC 8032, section 7.1, tests 1 and 2
    Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
    for seed in (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    )
)
NOW = datetime(2026, 11, 21, 14, tzinfo=UTC)
DAY = timedelta(days=1)
PLAIN = Statement("flowers", "stable", 3, 2, "ab" * 32, 296, "0123456789abcdef", NOW, NOW + 90 * DAY)
TOKEN = "eqp_secret"
JSON = "application/json"

Misbehaviour = Callable[["Handler"], None]


def statement(**changes: Any) -> Statement:
    """The one that the golden bytes hold, with some fields changed."""
    return replace(PLAIN, **changes)


def about(pack: Pack, serial: int = 1, **changes: Any) -> Statement:
    """A statement of today about a pack."""
    now = datetime.now(UTC).replace(microsecond=0)
    facts = {"pack_id": pack.pack_id, "size": pack.size, "backbone": pack.fingerprint.hex()}
    return statement(**{"serial": serial, "version": 1, "issued": now, "expires": now + 90 * DAY, **facts, **changes})


class Fleet:
    """A server with the routes that devices and publishers use, in memory, on a port of its own.

    Attributes:
        packs: bytes of each version, by task.
        reports: what came with the versions, by task.
        states: what came with the packs that came as forms.
        channels: envelopes, by task and channel.
        instead: what answers a path in place of the right answer.
        rivals: each is called once, just before a promotion is looked at.
        seen: method, path and headers of each request.
    """

    def __init__(self) -> None:
        self.packs: dict[str, list[bytes]] = {}
        self.reports: dict[str, list[Any]] = {}
        self.states: list[bytes | None] = []
        self.channels: dict[tuple[str, str], bytes] = {}
        self.instead: dict[str, Misbehaviour] = {}
        self.rivals: list[Callable[[], None]] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.http = Quiet(("127.0.0.1", 0), type("Bound", (Handler,), {"fleet": self}))
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> Fleet:
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.http.shutdown()
        self.http.server_close()

    def offer(self, pack: Pack, said: Statement, key: Ed25519PrivateKey = KEY) -> None:
        """A pack, and a statement on its channel."""
        self.packs.setdefault(said.task, []).append(pack.encode())
        self.channels[said.task, said.channel] = sign(said, key).encode()


class Quiet(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none, and must not disturb the stderr that tests look at."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    fleet: Fleet
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two small writes: 40 ms a request

    def do_GET(self) -> None:
        self.route()

    do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def route(self) -> None:
        url = urlsplit(self.path)
        self.fleet.seen.append((self.command, self.path, dict(self.headers)))
        self.body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            if instead := self.fleet.instead.get(url.path):
                instead(self)
            elif self.command != "GET" and self.headers["authorization"] != f"Bearer {TOKEN}":
                self.problem(401, "this needs a token with another scope")
            else:
                self.answer_to(url.path, {name: values[0] for name, values in parse_qs(url.query).items()})
        except ConnectionError:  # the client has seen enough
            self.close_connection = True

    def answer_to(self, path: str, query: dict[str, str]) -> None:
        for pattern, method, answer in (
            (r"/v1/tasks", "GET", self.tasks),
            (r"/v1/tasks/([^/]+)", "GET", self.task),
            (r"/v1/tasks/([^/]+)/versions", "POST", self.publish),
            (r"/v1/tasks/([^/]+)/channels/([^/]+)", "GET", self.channel),
            (r"/v1/tasks/([^/]+)/channels/([^/]+)", "PUT", self.promote),
            (r"/v1/packs/([^/]+)", "GET", self.pack),
        ):
            if method == self.command and (found := re.fullmatch(pattern, path)):
                answer(*found.groups(), **query)
                return
        self.problem(404, "there is nothing here")

    def send(self, status: int, kind: str, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def problem(self, status: int, detail: str, **headers: str) -> None:
        facts = {"type": "about:blank", "title": "Trouble", "status": status, "detail": detail}
        self.send(status, "application/problem+json", json.dumps(facts).encode(), **headers)

    def json(self, facts: Any, status: int = 200) -> None:
        self.send(status, JSON, json.dumps(facts).encode())

    def tasks(self, limit: str, after: str = "") -> None:
        names = sorted(name for name in self.fleet.packs if name > after)
        page = names[: int(limit)]
        rows = [{"name": name, "versions": 1, "channels": {}, "size": 9, "classes": 2, "accuracy": 0.5} for name in page]
        self.json({"tasks": rows, "next": page[-1] if len(names) > len(page) else None})

    def task(self, task: str, limit: str, before: str = "") -> None:
        packs = self.fleet.packs.get(task, [])
        rows = [{"version": i, "pack": hashlib.sha256(data).hexdigest()} for i, data in enumerate(packs, 1)]
        older = [row for row in rows[::-1] if not before or int(str(row["version"])) < int(before)]
        page = older[: int(limit)]
        following = page[-1]["version"] if len(older) > len(page) else None
        self.json({"name": task, "versions": page, "next": following, "channels": {}})

    def publish(self, task: str) -> None:
        data, report = self.body, None
        if self.headers.get_content_type() == "multipart/form-data":
            kind = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
            parts = {
                part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
                for part in email.message_from_bytes(kind + data).get_payload()  # type: ignore[union-attr]
            }
            data, report = parts["pack"], json.loads(parts.get("report") or "null")  # type: ignore[assignment,arg-type,union-attr]
            self.fleet.states.append(parts.get("state"))  # type: ignore[arg-type]
        packs = self.fleet.packs.setdefault(task, [])
        new = data not in packs
        if new:
            packs.append(data)
            self.fleet.reports.setdefault(task, []).append(report)
        facts = {"task": task, "version": packs.index(data) + 1, "pack": Pack.decode(data).pack_id, "size": len(data)}
        self.json(facts, 201 if new else 200)

    def channel(self, task: str, channel: str) -> None:
        if found := self.fleet.channels.get((task, channel)):
            self.send(200, JSON, found)
        else:
            self.problem(404, f"task {task} has no channel {channel}")

    def promote(self, task: str, channel: str) -> None:
        if self.fleet.rivals:
            self.fleet.rivals.pop()()
        facts = json.loads(self.body)
        envelope = Envelope.decode(json.dumps(facts["envelope"]).encode())
        current = self.fleet.channels.get((task, channel))
        serial = Envelope.decode(current).statement.serial if current else 0
        said = envelope.statement
        pack = Pack.decode(self.fleet.packs[task][facts["version"] - 1])
        assert (said.task, said.channel, said.version) == (task, channel, facts["version"])
        assert (said.pack_id, said.size, said.backbone) == (pack.pack_id, pack.size, pack.fingerprint.hex())
        if said.serial != serial + 1:
            self.problem(409, f"the serial is {said.serial}, the channel is at {serial}")
            return
        self.fleet.channels[task, channel] = envelope.encode()
        self.json({"task": task, "channel": channel, "version": said.version, "serial": said.serial, "signed": True})

    def pack(self, pack_id: str) -> None:
        held = {hashlib.sha256(data).hexdigest(): data for packs in self.fleet.packs.values() for data in packs}
        if data := held.get(pack_id):
            self.send(200, "application/vnd.edge-qprompt.pack", data)
        else:
            self.problem(404, "there is no such pack")


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


def newest(fleet: Fleet, channel: str = "stable") -> Statement:
    return verify(Envelope.decode(fleet.channels["flowers", channel]), KEY.public_key())
