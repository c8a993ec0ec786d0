"""Errors as RFC 9457 problem details: every answer that is no success says what was wrong and what to do."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from edge_qprompt.errors import (
    ConflictError,
    EdgeQPromptError,
    FingerprintError,
    NotFoundError,
    PackError,
    PhotoError,
    PromptError,
    SignatureError,
    StateError,
)
from server import request_id
from server.failures import AWAY, FAULTS, kind_of
from server.methods import allowed

MEDIA_TYPE = "application/problem+json"
AWAY_SECONDS = 5
LEFT = 499  # nginx's number for a client that closed the connection
log = structlog.get_logger("edge_qprompt.server")
FAILED = "the server failed at this: its log says more"
GONE = "the database does not answer: nothing was changed, try again in a moment"
FULL = "the server's disk is full: nothing was changed; whoever runs the server has to free some space"
BROKEN = "the database cannot be used: nothing was changed; whoever runs the server finds the cause in its log"
UNUSABLE = {
    "slow": "the database does not answer in time: look whether anything was changed before you try again",
    "damaged": BROKEN,
    "io": BROKEN,
    "moved": BROKEN,
    "read_only": BROKEN,
}
STATUS: dict[type[EdgeQPromptError], int] = {
    NotFoundError: 404,
    ConflictError: 409,
    FingerprintError: 422,
    PackError: 422,
    PhotoError: 422,
    PromptError: 422,
    SignatureError: 422,
    StateError: 422,
}


class HTTPProblem(HTTPException):
    """An answer that is an error.

    Args:
        status: of HTTP.
        detail: one sentence: what, got, wanted, what to do.
        retry_seconds: when to try again, for 429 and 503.
    """

    def __init__(self, status: int, detail: str, retry_seconds: int | None = None, headers: dict[str, str] | None = None) -> None:
        more = {} if retry_seconds is None else {"Retry-After": str(retry_seconds)}
        super().__init__(status, detail, {**more, **(headers or {})})


class ClientLeft(Exception):  # noqa: N818  no error of anybody's
    """Nobody waits for the answer any more."""


def response(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer."""
    body: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if (called := request_id.current()) is not None:
        body[request_id.FIELD] = called
    return JSONResponse(body, status, headers, MEDIA_TYPE)


class Refusal:
    """One and the same answer to every request, as an app of its own, for what is refused before the real one sees it.

    Args:
        status, detail, headers: as of `response`.
    """

    def __init__(self, status: int, detail: str, headers: dict[str, str]) -> None:
        self._status, self._detail, self._headers = status, detail, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        called = request_id.of(scope["headers"])
        request_id.begin(called)
        await response(self._status, self._detail, {**self._headers, request_id.HEADER: called})(scope, receive, send)


def add_handlers(app: FastAPI) -> None:
    """Turn every error of an app into a problem."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(EdgeQPromptError, _refused)
    app.add_exception_handler(ClientLeft, _left)
    app.add_exception_handler(Exception, _failed)
    for away in AWAY:
        app.add_exception_handler(away, _away)
    for fault in FAULTS:  # they are DatabaseErrors too, which the database would not be to blame for
        app.add_exception_handler(fault, _refused)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers) if error.headers else {}
    if error.status_code == 405 and (route := request.scope.get("route")) is not None:
        headers["Allow"] = allowed(request.app.routes, route.path)
    detail = error.detail if isinstance(error, HTTPProblem) else _plain(request, error)
    return response(error.status_code, detail, headers)


def _plain(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return "there is nothing under this path: /docs lists what there is"
    if error.status_code == 405:
        return f"this path does not take {request.method}: /docs lists what it takes"
    return str(error.detail)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found: list[Any] = list(error.errors())
    first = found[0] if found else {"loc": ("request",), "msg": "is not valid"}
    where = ".".join(str(part) for part in first["loc"])
    return response(422, f"{where}: {first['msg']}: /docs describes the request")


async def _refused(request: Request, error: Exception) -> JSONResponse:
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    if status == 500:
        log.error("failed", path=request.url.path, exc_info=error)
    return response(status, str(error) if status < 500 else FAILED)


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=LEFT)  # for the log: nobody reads it


async def _failed(request: Request, error: Exception) -> JSONResponse:
    # outside of what sets the headers of every answer
    called = {request_id.HEADER: request_id.current() or "", "X-Content-Type-Options": "nosniff"}
    return response(500, FAILED, called)


async def _away(request: Request, error: Exception) -> JSONResponse:
    """The database has failed; it has logged the cause itself."""
    kind = kind_of(error)
    if kind == "full":
        return response(507, FULL)
    return response(503, UNUSABLE.get(kind, GONE), {"Retry-After": str(AWAY_SECONDS)})
