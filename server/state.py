"""What a running server holds, made when it starts and closed when it ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import structlog
from fastapi import Request

from edge_qprompt.backbone import Backbone
from server.catalogue import Catalogue
from server.database import Database
from server.encoder import PhotoEncoder
from server.expiry import Expiry
from server.health import Health
from server.metrics import Metrics
from server.refusals import Refusals
from server.residents import Residents
from server.settings import ServerSettings
from server.shares import Shares
from server.targets import Targets
from server.teacher import Teacher
from server.tokens import Tokens
from server.turns import Turns

log = structlog.get_logger("edge_qprompt.server")


@dataclass
class State:
    """Everything that requests share.

    Attributes:
        bodies: bytes of bodies that are held now.
        publications: places for packs that are tried out before they are published.
        ready: whether encoders are loaded, and decoders run.
    """

    settings: ServerSettings
    database: Database
    backbone: Backbone
    catalogue: Catalogue
    tokens: Tokens
    metrics: Metrics
    encoder: PhotoEncoder
    residents: Residents
    targets: Targets
    bodies: Shares
    publications: Turns
    teacher: Teacher
    refusals: Refusals
    expiry: Expiry
    health: Health
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def start(cls, settings: ServerSettings, database: Database, backbone: Backbone, metrics: Metrics) -> State:
        """Put everything together; encoders are loaded by `load`."""
        catalogue, limits = Catalogue(database), settings.limits
        encoder = PhotoEncoder(backbone, limits, metrics)
        each, retry = limits.client_bodies_bytes, limits.retry_seconds
        return cls(
            settings=settings,
            database=database,
            backbone=backbone,
            catalogue=catalogue,
            tokens=Tokens(database),
            metrics=metrics,
            encoder=encoder,
            residents=Residents(backbone, catalogue, limits, metrics),
            targets=Targets(catalogue, backbone.manifest.short_fingerprint.hex()),
            bodies=Shares("bytes of bodies", limits.bodies_bytes, each, retry),
            publications=Turns(limits.publications, limits.client_publications),
            teacher=Teacher(backbone, limits),
            refusals=Refusals(database, metrics),
            expiry=Expiry(database, metrics),
            health=Health(database, encoder),
        )

    async def load(self) -> None:
        """Load both encoders by using them once, and start the decoders; then the server is ready."""
        try:
            await asyncio.to_thread(self._warm)
            await self.encoder.decoders.start()
        except Exception as error:
            log.error("encoders or decoders cannot be started", error=str(error))  # readyz goes on saying so
            raise
        self.ready.set()
        chosen = {"note": self.backbone.note} if self.backbone.note else {}
        log.info("ready", backbone=self.backbone.manifest.name, precision=self.backbone.precision, **chosen)

    def _warm(self) -> None:
        size = self.backbone.manifest.preprocess.size
        self.backbone.encode_images(np.zeros((1, 3, size, size), np.float32), lane=True)
        self.backbone.text.from_template(["photo"], "a {}.")

    def close(self) -> None:
        """Let everything go; called when no request runs any more."""
        self.encoder.close()
        self.refusals.close()
        self.residents.close()
        self.teacher.close()
        self.database.close()


def state_of(request: Request) -> State:
    """The state of the app that a request came to."""
    state: State = request.app.state.server
    return state
