"""Whether this process can do its work: the store reads and writes, decoders answer. Found out by doing it, not too often."""

from __future__ import annotations

import asyncio
import time

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.database import Database
from server.encoder import PhotoEncoder
from server.failures import NoAnswerError, kind_of
from server.rarely import Rarely

WRITE_SECONDS = 5.0  # between two probes that write, so that nobody wears the disk out by asking
WAIT_SECONDS = 5.0  # for a probe; it goes on for those who ask next
log = structlog.get_logger("edge_qprompt.server")


class Health:
    """Probes of a database and of decoders, one at a time; belongs to one event loop.

    Args:
        database, encoder: that are probed.
    """

    def __init__(self, database: Database, encoder: PhotoEncoder) -> None:
        self._database, self._encoder = database, encoder
        self._running: asyncio.Task[str | None] | None = None
        self._written = -WRITE_SECONDS  # when a probe last wrote
        self._failures = 0  # of the database, by then
        self._rarely = Rarely()

    async def ill(self) -> str | None:
        """Why this process cannot do its work now; None where it can. The answer comes in WAIT_SECONDS."""
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._probe())
        done, _ = await asyncio.wait((self._running,), timeout=WAIT_SECONDS)
        reason = self._running.result() if done else f"neither database nor decoders have answered for {WAIT_SECONDS:g} s"
        if reason is not None and (kept := self._rarely.due(reason)) is not None:
            log.error("not ready", reason=reason, kept_back=kept)
        return reason

    async def _probe(self) -> str | None:
        try:
            await self._store()
        except (SQLAlchemyError, NoAnswerError) as error:
            return f"the database does not work ({kind_of(error)})"  # it has logged the cause
        try:
            await asyncio.wait_for(self._encoder.check(), WAIT_SECONDS)
        except Exception as error:  # whatever it is, there is no decoding then
            return f"photos cannot be decoded ({type(error).__name__}: {error})"
        return None

    async def _store(self) -> None:
        now, failures = time.monotonic(), self._database.failures.seen
        write = now - self._written >= WRITE_SECONDS or failures != self._failures
        await self._database.run(self._database.probe, write=write)
        if write:
            self._written, self._failures = now, failures
