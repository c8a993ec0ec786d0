"""The pages: the one for people at /, the description of the API at /docs, and the files of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.types import Scope

PAGE = Path(__file__).parent / "page"
DOCS = Path(__file__).parent / "docs"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # with its ETag, so that what has not changed is not sent again
}
METHODS = "GET, HEAD"


def add(app: FastAPI) -> None:
    """Add the pages to an app. Their files have names relative to them, so that they work under any root path."""

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(DOCS / "index.html", headers=PAGE_HEADERS)

    app.mount("/static", Static(directory=PAGE), "static")
    app.mount("/docs", Static(directory=DOCS / "files"), "docs-files")


class Static(StaticFiles):
    """The pages' files, which a browser asks for again each time: after an upgrade they must fit together."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """As of StaticFiles."""
        if scope["method"] not in METHODS.split(", "):
            raise HTTPException(405, headers={"Allow": METHODS})
        return await super().get_response(path, scope)

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """As of StaticFiles."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(PAGE_HEADERS)
        return response
