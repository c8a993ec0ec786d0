"""Pages of other origins: which may ask this server from a browser, and what they may see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

OPTIONS: dict[str, Any] = {
    "allow_methods": ("GET", "HEAD", "POST", "PUT"),
    "allow_headers": ("Authorization", "Content-Type", "X-Request-ID", "If-None-Match"),
    "expose_headers": ("ETag", "Retry-After", "X-Request-ID"),
}
Handler = Callable[[Request, Exception], Awaitable[Response]]


def allow(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of these origins use the app, without cookies; call it when the app has its handlers of errors.

    Args:
        app: what they may ask.
        origins: as of `origins.origin`; none changes nothing.
    """
    if not origins:
        return
    options = OPTIONS | {"allow_origins": tuple(origins)}
    app.add_middleware(CORSMiddleware, **options)
    failed = cast(Handler, app.exception_handlers[Exception])

    async def visible(request: Request, error: Exception) -> Response:
        # starlette sends this answer from outside of all middleware, and a page could not read it
        return cast(Response, CORSMiddleware(await failed(request, error), **options))

    app.add_exception_handler(Exception, visible)
