"""SQLite in a file: WAL mode with full synchronisation, and what shows that the file is still there and still a database."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError

BUSY_SECONDS = 5
MIGRATION_SECONDS = 30  # that a process waits for another one which brings the schema up to date
MAGIC = b"SQLite format 3\0"
_HEADS: dict[tuple[int, int], int] = {}  # descriptors of database files, by device and inode, never closed: see `check_head`
SPARE_BYTES = 4 << 20  # the log beside the file grows to 1,000 pages of 4 KiB before it is written back


class SqliteFile:
    """One database file.

    Args:
        path: of it; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None

    def engine(self, *, pooled: bool, busy_seconds: int = BUSY_SECONDS) -> Engine:
        """Connections to it, kept or opened anew each time."""
        pool: dict[str, Any] = {"pool_size": 16, "max_overflow": 8, "pool_timeout": 2} if pooled else {"poolclass": NullPool}
        engine = create_engine(f"sqlite:///{self.path}", connect_args={"timeout": busy_seconds}, hide_parameters=True, **pool)
        event.listen(engine, "do_connect", lambda *_: self.check())  # SQLite would make a new file
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin)
        return engine

    def remember(self) -> None:
        """From now on it must be this very file."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(descriptor)
        self._identity = found.st_dev, found.st_ino
        _HEADS.setdefault(self._identity, descriptor)  # a second one of this process is left open as well

    def check(self) -> None:
        """Raise OperationalError where the file was deleted or replaced since `remember`.

        SQLite itself would go on with the old file, which has no name any more: what it acknowledges would be lost.
        """
        if self._identity is None:
            return
        try:
            found = self.path.stat()
        except OSError as error:
            raise failure(f"{self.path} is gone ({error.strerror}): restore it and restart", "SQLITE_READONLY_DBMOVED") from error
        if (found.st_dev, found.st_ino) != self._identity:
            raise failure(f"{self.path} was replaced while the server runs: restart it", "SQLITE_READONLY_DBMOVED")

    def check_head(self) -> None:
        """Raise DatabaseError where the file does not begin as a database does; what the log beside it holds would hide that.

        Through a descriptor that is never closed: to close any descriptor of a file gives up all of the process's locks on it
        (POSIX), SQLite's among them. Another process would then take itself for the last one, and remove the log that this one
        goes on writing to.
        """
        if self._identity is None:
            return
        try:
            head = os.pread(_HEADS[self._identity], len(MAGIC), 0)
        except OSError as error:
            raise failure(f"{self.path} cannot be read ({error.strerror})", "SQLITE_IOERR_READ") from error
        if head != MAGIC:
            cause = sqlite3.DatabaseError(f"{self.path} is not a database any more: restore it and restart")
            cause.sqlite_errorname = "SQLITE_NOTADB"
            raise DatabaseError(None, None, cause)

    def check_room(self) -> None:
        """Raise OperationalError where the disk, a quota or a limit leaves no room for what is written next."""
        try:
            with tempfile.TemporaryFile(dir=self.path.parent) as file:  # has no name, so nothing is left behind
                os.posix_fallocate(file.fileno(), 0, SPARE_BYTES)
        except OSError as error:
            raise failure(
                f"{self.path.parent} has no room for {SPARE_BYTES >> 20} MiB ({error.strerror}): free some", "SQLITE_FULL"
            ) from error


def failure(text: str, name: str) -> OperationalError:
    """An error as SQLite's own driver would raise it."""
    cause = sqlite3.OperationalError(text)
    cause.sqlite_errorname = name
    return OperationalError(None, None, cause)


def _prepare(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
