"""The application: routes, what surrounds them, and the life of what they share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI

from edge_qprompt import __version__
from edge_qprompt.backbone import Backbone
from server import cors, pages, problem
from server.access import open_to_all
from server.database import Database
from server.description import DescribedApp
from server.failures import Failures
from server.log import set_up
from server.methods import Heads
from server.metrics import Metrics
from server.observed import Observed
from server.routes import classify, operations, packs, tasks, teach
from server.settings import ServerSettings
from server.state import State

SETTINGS_VARIABLE = "EDGE_QPROMPT_SERVER"  # how `serve` hands settings to worker processes


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

    app = DescribedApp(
        title="edge-qprompt",
        version=__version__,
        description="Packs of a few hundred bytes for devices, and labels for photos.",
        lifespan=life,
        redirect_slashes=False,  # to whatever the header Host says
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
    )
    app.open_to_all = open_to_all(settings)
    for part in (packs, classify, tasks, teach, operations):  # what is asked for most comes first
        app.router.routes.extend(part.router.routes)
    pages.add(app)
    problem.add_handlers(app)
    app.add_middleware(Heads)
    cors.allow(app, settings.cors_origins)
    app.add_middleware(Observed, metrics=metrics)
    return app


def from_environment() -> FastAPI:
    """The app of a worker process that `serve` has started."""
    set_up()
    return create_app(ServerSettings.from_json(os.environ[SETTINGS_VARIABLE]))
