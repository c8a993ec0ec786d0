"""What surrounds every request: its id, its line in the log, its part of the metrics, and the headers of every answer."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import request_id
from server.log import access_log
from server.metrics import Metrics
from server.problem import response

NO_SNIFFING = (b"x-content-type-options", b"nosniff")
ID_HEADER = request_id.HEADER.lower().encode()
METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))  # anyone can invent more
WITH_BODY = frozenset(("PATCH", "POST", "PUT"))
QUIET = ("/healthz", "/readyz", "/metrics")  # asked every few seconds
STOPPING = "the server is being stopped: look whether anything was changed before you try again"
WHO = "edge_qprompt.who"  # where `access` leaves the name of a token that was taken


class Observed:
    """Counts, times and logs each request, and sets the headers that every answer has."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics, self._log = app, metrics, access_log()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        request_id.begin(exchange.id)
        start = time.perf_counter()
        try:
            await self._app(scope, exchange.receive if scope["method"] in WITH_BODY else receive, exchange.send)
        except asyncio.CancelledError:  # the server stops, and has waited for long enough; who asked shall ask another one
            if exchange.begun:
                raise
            await response(503, STOPPING, {"Retry-After": "5"})(scope, receive, exchange.send)
        finally:
            self._tell(scope, exchange, time.perf_counter() - start)

    def _tell(self, scope: Scope, exchange: _Exchange, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")  # the pattern, so that labels stay few
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.answered(method, route, exchange.status, seconds)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in QUIET:
            return
        facts: dict[str, Any] = {"method": scope["method"], "path": path, "status": exchange.status}
        facts |= {"ms": round(1000 * seconds, 1), "in": exchange.received, "out": exchange.sent}
        if (who := scope.get(WHO)) is not None:
            facts["who"] = who
        self._log.info("request", request_id=exchange.id, **facts)


class _Exchange:
    """One request and its answer, as they pass by: bytes of both bodies, and the status."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.id = request_id.of(scope["headers"])
        self._receive, self._send = receive, send
        self._headers = ((ID_HEADER, self.id.encode()), NO_SNIFFING)
        self.status, self.received, self.sent, self.begun = 500, 0, 0, False

    async def receive(self) -> Message:
        message = await self._receive()
        self.received += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.begun = message["status"], True
            message["headers"] = [*message.get("headers", ()), *self._headers]
        else:
            self.sent += len(message.get("body", b""))
        await self._send(message)
