"""The application: routes, what surrounds them, and the life of what they share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.responses import FileResponse, Response

from edge_qprompt import __version__
from edge_qprompt.backbone import Backbone
from server import cors, problem
from server.database import Database
from server.failures import Failures
from server.log import set_up
from server.metrics import Metrics
from server.observed import Observed
from server.routes import classify, operations, packs, tasks
from server.settings import ServerSettings
from server.state import State

PAGE = Path(__file__).parent / "page"
SETTINGS_VARIABLE = "EDGE_QPROMPT_SERVER"  # how `serve` hands settings to worker processes
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # with its ETag, so that what has not changed is not sent again
}


def create_app(settings: ServerSettings) -> FastAPI:
    """The app of one process.

    Raises:
        StoreError: the database cannot be opened.
        BackboneError: there is no such backbone.
    """
    metrics = Metrics()
    database = Database(settings.store, Failures(lambda kind: metrics.database_errors.labels(kind).inc()))
    backbone = Backbone.open(settings.backbone, settings.precision, settings.threads, settings.providers)
    metrics.built(backbone.manifest.name)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        state = app.state.server = State.start(settings, database, backbone, metrics)
        loading = asyncio.create_task(state.load())  # meanwhile /healthz answers, and /readyz says no
        yield
        loading.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await loading
        await asyncio.to_thread(state.close)

    app = FastAPI(
        title="edge-qprompt",
        version=__version__,
        description="Packs of a few hundred bytes for devices, and labels for photos.",
        lifespan=life,
    )
    for part in (packs, classify, tasks, operations):  # what is asked for most comes first
        app.router.routes.extend(part.router.routes)
    app.mount("/static", Static(directory=PAGE), "static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)

    problem.add_handlers(app)
    cors.allow(app, settings.cors_origins)
    app.add_middleware(Observed, metrics=metrics)
    return app


class Static(StaticFiles):
    """The page's files, which a browser asks for again each time: after an upgrade they must fit together."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """As of StaticFiles."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(PAGE_HEADERS)
        return response


def from_environment() -> FastAPI:
    """The app of a worker process that `serve` has started."""
    set_up()
    return create_app(ServerSettings.from_json(os.environ[SETTINGS_VARIABLE]))
