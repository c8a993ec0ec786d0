"""A client of a server, over HTTP: the one place where this package speaks with a network.

    with Client("https://packs.example.org", token) as client:
        envelope = client.envelope("flowers", "stable")

What comes back is bounded in bytes and seconds, and believed by others: see `edge_qprompt.trust.update`.
Redirects are not followed and nothing is decompressed. One deadline covers an exchange from the
connection to the last byte, so that a slow drip, in the head or in the body, cannot hold a device.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import httpx

import edge_qprompt
from edge_qprompt.errors import ServerError
from edge_qprompt.trust import MAX_ENVELOPE_BYTES, NAME, Envelope

PACK_TYPE = "application/vnd.edge-qprompt.pack"
STATE_TYPE = "application/octet-stream"
JSON_TYPE = "application/json"
PAGE = 100  # tasks a request
VERSIONS = 10  # versions a request: each comes with its report
SHOWN = 300  # characters of what a server says, in an error
NOT_OURS = "is this a server of edge-qprompt?"

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class ClientLimits:
    """What one exchange with a server may cost.

    Attributes:
        connect_seconds: until there is a connection.
        seconds: until the last byte of the answer is there, the connection included.
        envelope_bytes: of a channel statement.
        json_bytes: of other JSON, e.g. a page of tasks.
        task_bytes: of a page of a task's versions with their reports; older servers send all of them at once.
        problem_bytes: of what an error says; more is not read.
        pages: of tasks, or of a task's versions.
    """

    connect_seconds: float = 10.0
    seconds: float = 60.0
    envelope_bytes: int = MAX_ENVELOPE_BYTES
    json_bytes: int = 4 << 20
    task_bytes: int = 64 << 20
    problem_bytes: int = 16 << 10
    pages: int = 100


DEFAULT_LIMITS = ClientLimits()


@dataclass(frozen=True)
class Answer:
    """What a server sent; `body` is one byte longer than its limit if there was more."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def media_type(self) -> str:
        """Without parameters, in lower case."""
        return str(self.headers.get("content-type", "")).partition(";")[0].strip().lower()


class Published(NamedTuple):
    """A pack on a server: its version, of known bytes the one they have, and what the server warns of."""

    version: int
    warnings: tuple[str, ...]


class Client:
    """Asks a server over HTTP. A context manager, since it keeps its connection; every call may raise a ServerError.

    Args:
        server: its address; a path in it is kept.
        token: bearer token; None asks without one.
        limits: of each exchange.
        transport: what carries requests instead of the network.
    """

    def __init__(
        self,
        server: str,
        token: str | None = None,
        limits: ClientLimits = DEFAULT_LIMITS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        url = _address(server)
        self.name = f"{url.scheme}://{url.netloc.decode()}"  # netloc has no user and password
        self.limits = limits
        headers = {"User-Agent": f"edge-qprompt/{edge_qprompt.__version__}", "Accept-Encoding": "identity"}
        if token:
            headers["Authorization"] = f"Bearer {_checked(token)}"
        timeout = httpx.Timeout(limits.seconds, connect=limits.connect_seconds)
        self._client = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=timeout, transport=transport, follow_redirects=False
        )
        self._runner = asyncio.Runner()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._runner.run(self._client.aclose())
        finally:
            self._runner.close()

    def tasks(self) -> Iterator[dict[str, Any]]:
        """Summaries of all tasks, by name."""
        after = ""
        for _ in range(self.limits.pages):
            page = self._json("GET", "v1/tasks", self.limits.json_bytes, params={"limit": PAGE, "after": after})
            for row in _field(page, "tasks", list):
                if not NAME.fullmatch(_field(row, "name", str)):
                    raise ServerError(f"{self.name} lists the task {printable(repr(row['name']))}: {NOT_OURS}")
                yield row
            if page.get("next") is None:
                return
            if (following := _field(page, "next", str)) <= after:
                raise ServerError(f"{self.name} lists tasks in circles, {printable(following)} after {after}: {NOT_OURS}")
            after = following
        raise ServerError(f"{self.name} lists tasks on more than {self.limits.pages} pages: {NOT_OURS}")

    def versions(self, task: str, before: int | None = None) -> Iterator[tuple[int, str]]:
        """Versions of a task with the ids of their packs, newest first; pages are asked for as they are needed.

        Args:
            task: its name.
            before: only versions that are older than this one.
        """
        for _ in range(self.limits.pages):
            params = {"limit": VERSIONS} | ({} if before is None else {"before": before})
            page = self._json("GET", f"v1/tasks/{task}", self.limits.task_bytes, params=params)
            for row in _field(page, "versions", list):
                number, pack_id = _field(row, "version", int), _field(row, "pack", str)
                if before is None or number < before:  # older servers know no pages, and send all
                    yield number, pack_id
            if page.get("next") is None:
                return
            following = _field(page, "next", int)
            if before is not None and following >= before:
                raise ServerError(f"{self.name} lists versions in circles, {following} after {before}: {NOT_OURS}")
            before = following
        raise ServerError(f"{self.name} lists versions of {task} on more than {self.limits.pages} pages: {NOT_OURS}")

    def envelope(self, task: str, channel: str) -> bytes:
        """A channel's newest statement as it came; status 404 if the channel points nowhere yet."""
        return self._ask("GET", f"v1/tasks/{task}/channels/{channel}", self.limits.envelope_bytes, JSON_TYPE)

    def newest(self, task: str, channel: str) -> Envelope | None:
        """The same, parsed but not verified, for who is about to replace it; None if the channel points nowhere yet.

        Raises:
            SignatureError: it is no envelope.
        """
        try:
            return Envelope.decode(self.envelope(task, channel))
        except ServerError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return None

    def pack(self, pack_id: str, size: int) -> bytes:
        """A pack's bytes, at most `size` of them."""
        return self._ask("GET", f"v1/packs/{pack_id}", size)

    def publish(self, task: str, pack: bytes, report: str | None = None, state: bytes | None = None) -> Published:
        """Publish a pack.

        Args:
            task: whose next version it is.
            pack: its bytes.
            report: a JSON object about how it was learned.
            state: what it was learned from, as of `State.encode`; the server can then be taught one photo more.
        """
        files = {"pack": ("pack.qpk", pack, PACK_TYPE)}
        if state is not None:
            files["state"] = ("pack.qpk.state", state, STATE_TYPE)
        if report is None and state is None:
            content: dict[str, Any] = {"content": pack, "headers": {"Content-Type": PACK_TYPE}}
        else:
            content = {"files": files, "data": {} if report is None else {"report": report}}
        facts = self._json("POST", f"v1/tasks/{task}/versions", self.limits.json_bytes, **content)
        said = _field(facts, "warnings", list) if "warnings" in facts else []  # older servers have none
        return Published(_field(facts, "version", int), tuple(printable(str(line)) for line in said))

    def promote(self, task: str, channel: str, version: int, envelope: Envelope) -> None:
        """Point a channel at a version; status 409 if the statement's serial is not the next one."""
        content = {"version": version, "envelope": json.loads(envelope.encode())}
        self._json("PUT", f"v1/tasks/{task}/channels/{channel}", self.limits.json_bytes, json=content)

    def _json(self, method: str, path: str, most: int, **content: Any) -> dict[str, Any]:
        """An answer that is a JSON object."""
        data = self._ask(method, path, most, JSON_TYPE, **content)
        try:
            found = json.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise ServerError(f"{self.name} sends JSON that is damaged ({error}): {NOT_OURS}") from error
        if not isinstance(found, dict):
            raise ServerError(f"{self.name} sends {printable(repr(found))}, wanted a JSON object: {NOT_OURS}")
        return found

    def _ask(self, method: str, path: str, most: int, media_type: str | None = None, **content: Any) -> bytes:
        """The body of a successful answer of at most `most` bytes."""
        try:
            answer = self._runner.run(self._exchange(method, path, most, **content))
        except (TimeoutError, httpx.TimeoutException) as error:
            waited = f"{self.limits.seconds:g} s in all, {self.limits.connect_seconds:g} s to connect"
            raise ServerError(f"{self.name} is too slow ({waited}): try again, or with a longer --timeout") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # ValueError: a host that no DNS could hold
            reason = printable(str(error) or type(error).__name__)
            raise ServerError(f"cannot get an answer from {self.name} ({reason}): is it up, and the address right?") from error
        if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            raise ServerError(f"{self.name} answers {_refusal(answer)}", answer.status)
        if media_type and answer.media_type != media_type:
            raise ServerError(f"{self.name} sends {printable(answer.media_type)}, wanted {media_type}: {NOT_OURS}")
        if len(answer.body) > most:
            raise ServerError(f"{self.name} sends more than the {most} bytes that this may have: nothing of it was used")
        return answer.body

    async def _exchange(self, method: str, path: str, most: int, **content: Any) -> Answer:
        """A request and its answer, under the deadline; stops reading behind the limit."""
        async with asyncio.timeout(self.limits.seconds), self._client.stream(method, path, **content) as response:
            if not response.is_success:
                most = self.limits.problem_bytes
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > most:
                    break
            return Answer(response.status_code, response.headers, bytes(body[: most + 1]))


def _refusal(answer: Answer) -> str:
    """What an answer that is no success says, and what to do about it."""
    if 300 <= answer.status < 400:
        target = printable(answer.headers.get("location", "somewhere else"))
        return f"{answer.status}, go to {target}, which is not followed: give the right address as --server"
    try:
        problem = json.loads(answer.body.decode())
        said = f"{_field(problem, 'title', str)}: {_field(problem, 'detail', str)}"
    except (ValueError, RecursionError, ServerError):  # no problem+json, so not from an edge-qprompt server
        said = f"without saying why: {NOT_OURS}"
    later = answer.headers.get("retry-after", "")
    return f"{answer.status} {printable(said)}" + (f" (try again in {later} s)" if later.isdecimal() else "")


def _field(facts: Any, name: str, kind: type[Kind]) -> Kind:
    """A field of an answer, of its kind."""
    value = facts.get(name) if isinstance(facts, dict) else None
    if not isinstance(value, kind):
        raise ServerError(f"the server's answer has no {name} of type {kind.__name__}: {NOT_OURS}")
    return value


def _address(server: str) -> httpx.URL:
    try:
        url = httpx.URL(server)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        shown = server.rpartition("@")[2]  # what stands before it may be a password
        raise ServerError(f"--server is {printable(shown)!r}, wanted an address like https://packs.example.org")
    return url


def _checked(token: str) -> str:
    """A token that fits a header; an error of the HTTP library about it would print it."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ServerError("the token holds characters that none of a server's tokens has: copy it again (it is not shown here)")
    return token


def printable(text: str) -> str:
    """What a server says, on one line of a terminal: cut, and without control characters."""
    return "".join(char if char.isprintable() else " " for char in text[:SHOWN])
