"""Failures of the database: sorted into a few kinds, counted, and logged once a minute with their cause."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, InterfaceError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from server.rarely import Rarely

CAUSE_CHARS = 300
SQLITE = {  # by the beginning of SQLite's name of the error
    "SQLITE_FULL": "full",
    "SQLITE_NOTADB": "damaged",
    "SQLITE_CORRUPT": "damaged",
    "SQLITE_READONLY_DBMOVED": "moved",
    "SQLITE_READONLY": "read_only",
    "SQLITE_IOERR": "io",
    "SQLITE_CANTOPEN": "away",
    "SQLITE_BUSY": "busy",
    "SQLITE_LOCKED": "busy",
}
POSTGRES = {  # by the beginning of the SQLSTATE, or what stands in its place
    "silent": "slow",
    "53100": "full",
    "25006": "read_only",
    "55P03": "busy",  # lock_timeout
    "57014": "busy",  # statement_timeout
    "25P03": "away",  # idle_in_transaction_session_timeout
    "53": "away",
    "57": "away",
    "08": "away",
    "58": "io",
    "XX": "damaged",
}
KINDS = ("away", "busy", "damaged", "full", "io", "moved", "other", "read_only", "slow")
log = structlog.get_logger("edge_qprompt.server")


class NoAnswerError(TimeoutError):
    """The database has not answered in time; whether it will still do what it was asked for is not known."""


AWAY = (DatabaseError, InterfaceError, PoolTimeout, NoAnswerError)  # what a failing database raises,
FAULTS = (IntegrityError, ProgrammingError, DataError, NotSupportedError)  # but these: a fault of this program


def kind_of(error: BaseException) -> str:
    """One of KINDS."""
    if isinstance(error, PoolTimeout | TimeoutError):
        return "slow"
    driver = getattr(error, "orig", None) or error
    if name := getattr(driver, "sqlite_errorname", None):
        return _first(SQLITE, name)
    if hasattr(driver, "sqlstate"):
        return _first(POSTGRES, driver.sqlstate) if driver.sqlstate else "away"  # the connection itself failed
    return "other"


def cause_of(error: BaseException) -> str:
    """The first line of what the driver says."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0][:CAUSE_CHARS] if lines else type(error).__name__


class Failures:
    """The failures of one database, from all threads.

    Args:
        count: is told the kind of each.
        secret: the database's password, which no line shows.

    Attributes:
        seen: how many there were.
    """

    def __init__(self, count: Callable[[str], None] = lambda kind: None, secret: str | None = None) -> None:
        self._count, self.secret = count, secret
        self._rarely = Rarely()
        self.seen = 0

    def note(self, error: BaseException) -> None:
        """Count a failure; log it, if none of its kind was logged in the last minute."""
        kind = kind_of(error)
        self.seen += 1
        self._count(kind)
        kept = self._rarely.due(kind)
        if kept is None:
            return
        cause = cause_of(error)
        if self.secret:
            cause = cause.replace(self.secret, "***")
        log.error("the database failed", kind=kind, cause=cause, kept_back=kept)


def _first(kinds: dict[str, str], code: str) -> str:
    return next((kind for start, kind in kinds.items() if code.startswith(start)), "other")
