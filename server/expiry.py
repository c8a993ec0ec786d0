"""When signed channels expire: asked of the database once a minute, for the metrics."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from server.database import Database
from server.failures import NoAnswerError
from server.metrics import Metrics
from server.schema import channels

KNOWN_SECONDS = 60.0
WAIT_SECONDS = 1.0  # that metrics wait for an answer; then they show what was known before
SOON = timedelta(days=14)


@dataclass(frozen=True)
class _Known:
    first: float  # seconds since 1970; infinite where no channel is signed, NaN where nobody knows
    soon: float
    until: float  # of time.monotonic()


class Expiry:
    """When signed channels expire, asked of the database once a minute; belongs to one event loop.

    Args:
        database: of the channels.
        metrics: to be told.
    """

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database, self._metrics = database, metrics
        self._known = _Known(math.nan, math.nan, -math.inf)
        self._asking: asyncio.Task[None] | None = None

    async def tell(self) -> None:
        """Set the metrics; nothing is raised."""
        if time.monotonic() >= self._known.until:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.get_running_loop().create_task(self._ask())
            await asyncio.wait((self._asking,), timeout=WAIT_SECONDS)
        self._metrics.expiry.set(self._known.first - time.time())
        self._metrics.expiring.set(self._known.soon)

    async def _ask(self) -> None:
        try:
            self._known = await self._database.run(self._read)
        except (SQLAlchemyError, NoAnswerError):  # the database has logged it
            self._known = _Known(math.nan, math.nan, time.monotonic() + KNOWN_SECONDS / 12)

    def _read(self) -> _Known:
        expires = channels.c.expires
        with self._database.read() as db:
            first = db.execute(select(func.min(expires))).scalar()
            soon = db.execute(select(func.count()).where(expires <= datetime.now(UTC) + SOON)).scalar() or 0
        if first is not None and first.tzinfo is None:
            first = first.replace(tzinfo=UTC)  # SQLite gives times without a zone
        return _Known(math.inf if first is None else first.timestamp(), soon, time.monotonic() + KNOWN_SECONDS)
