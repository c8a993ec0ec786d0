"""Which methods a path takes: HEAD wherever GET is, and what an answer of 405 says."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Heads:
    """An app that answers HEAD as it answers GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def bare(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        scope["method"] = "GET"  # in place: those outside read what the router leaves in the scope
        try:
            await self._app(scope, receive, bare)
        finally:
            scope["method"] = "HEAD"


def allowed(routes: Iterable[BaseRoute], path: str) -> str:
    """All methods of a path's pattern, as the header Allow has them; a router knows those of its first route alone."""
    methods = {method for route in routes if isinstance(route, Route) and route.path == path for method in route.methods or ()}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
