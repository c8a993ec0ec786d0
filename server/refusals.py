"""Tokens that were not taken: counted, and written to the audit log, without the secret and not without end."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

import structlog
from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError

from server.catalogue import note
from server.database import Database
from server.failures import NoAnswerError
from server.metrics import Metrics
from server.rarely import MINUTE
from server.schema import audit
from server.tokens import Refusal

ACTION = "token refused"
UNKNOWN = "unknown"
LINES = 10  # a minute, each with its route; what comes beyond is summed up in one more
KEPT = 10_000  # lines of this kind in the audit log; older ones make room
OURS = audit.c.action == ACTION
log = structlog.get_logger("edge_qprompt.server")


class Refusals:
    """The refused tokens of one process; belongs to one event loop.

    Args:
        database: whose audit log.
        metrics: to be told.
        seconds: of a minute.
    """

    def __init__(self, database: Database, metrics: Metrics, seconds: float = MINUTE) -> None:
        self._database, self._metrics, self._seconds = database, metrics, seconds
        self._written = 0  # in this minute
        self._more: Counter[str] = Counter()
        self._end: asyncio.TimerHandle | None = None
        self._summing: set[asyncio.Task[None]] = set()

    async def note(self, why: Refusal, asked: str, name: str | None, task: str | None) -> None:
        """One token was refused.

        Args:
            why: it was.
            asked: method and pattern of the path; no client's text, so that nobody writes into the log.
            name: of the token, where it has one.
            task: that was asked for, where the path names one.
        """
        self._metrics.refused.labels(why).inc()
        if self._end is None:
            self._end = asyncio.get_running_loop().call_later(self._seconds, self._sum_up)
        if self._written >= LINES:
            self._more[why] += 1
            return
        self._written += 1
        log.warning(ACTION, reason=why, asked=asked, who=name or UNKNOWN)
        await self._write(name or UNKNOWN, f"{why}: {asked}", task)

    def close(self) -> None:
        """Write what is still to be summed up."""
        if self._end is not None:
            self._end.cancel()
        if self._more:
            with suppress(SQLAlchemyError):
                self._insert(UNKNOWN, self._sum())

    def _sum_up(self) -> None:
        self._end, self._written = None, 0
        if self._more:
            task = asyncio.get_running_loop().create_task(self._write(UNKNOWN, self._sum()))
            self._summing.add(task)
            task.add_done_callback(self._summing.discard)

    def _sum(self) -> str:
        """What the last minute had beyond its lines."""
        parts = ", ".join(f"{number} {why}" for why, number in self._more.most_common())
        text = f"{self._more.total()} more within {self._seconds:g} s: {parts}"
        self._more.clear()
        return text

    async def _write(self, who: str, detail: str, task: str | None = None) -> None:
        with suppress(SQLAlchemyError, NoAnswerError):  # the database has logged it; the client is refused all the same
            await self._database.run(self._insert, who, detail, task)

    def _insert(self, who: str, detail: str, task: str | None = None) -> None:
        with self._database.write() as db:
            note(db, who, ACTION, task, detail)
            oldest = select(audit.c.id).where(OURS).order_by(audit.c.id.desc()).offset(KEPT).limit(1).scalar_subquery()
            db.execute(delete(audit).where(OURS, audit.c.id <= oldest))
