"""What one request is called: in its answer, in the log, and by the proxies before this server."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars

HEADER = "X-Request-ID"
FIELD = "request_id"
GIVEN = re.compile(rb"[A-Za-z0-9._-]{1,128}")
TRACE_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
RANDOM_BYTES = 16


def of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id that a request brings, else a new one.

    Args:
        headers: of the request: X-Request-ID where it is one, else the trace id of traceparent (W3C Trace Context).
    """
    trace = None
    for name, value in headers:
        if name == b"x-request-id" and GIVEN.fullmatch(value):
            return value.decode("ascii")
        if name == b"traceparent" and (found := TRACE_PARENT.fullmatch(value)):
            trace = found[1].decode("ascii")
    return trace or secrets.token_hex(RANDOM_BYTES)


def begin(request_id: str) -> None:
    """From now on this is the request of this task and of the threads that it asks; every line of the log says so."""
    clear_contextvars()
    bind_contextvars(**{FIELD: request_id})


def current() -> str | None:
    """Of the request that is answered now."""
    found = get_contextvars().get(FIELD)
    return None if found is None else str(found)
