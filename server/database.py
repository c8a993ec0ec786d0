"""The seam to the database: SQLite in a folder, or PostgreSQL by URL, brought up to date when it is opened.

SQLite runs in WAL mode with full synchronisation, so what is committed survives kill -9 and a power cut;
writers take the write lock when they begin, so that what they read is still true when they write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError

from edge_qprompt.errors import MissingExtraError, StoreError

FILE_NAME = "catalogue.sqlite3"
MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 30
POSTGRES_LOCK = 0x65717001  # any number that nobody else locks
READ = {"begin": "BEGIN"}
WRITE = {"begin": "BEGIN IMMEDIATE"}


class Database:
    """An open database; may be used from many threads.

    Args:
        store: a folder, made if need be, or a database URL (postgresql://user@host/name).

    Raises:
        StoreError: it cannot be opened, or was written by a newer version.
    """

    def __init__(self, store: str) -> None:
        self.engine = _engine(store)
        self._watcher: sqlite3.Connection | None = None
        try:
            self._migrate()
        except CommandError as error:
            self.close()
            raise StoreError(f"{store} was written by a newer version ({error}): upgrade edge-qprompt") from error
        except (DBAPIError, OSError) as error:
            self.close()
            reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
            raise StoreError(f"cannot open the store {store} ({reason}): check the path or URL, and its permissions") from error
        if self.engine.dialect.name == "sqlite":
            self._watcher = sqlite3.connect(str(self.engine.url.database), timeout=0, check_same_thread=False)

    def version(self) -> int | None:
        """A number that changes with every commit, of any process; microseconds.

        None where the database has no such number (PostgreSQL), or is too busy to tell.
        """
        try:
            return None if self._watcher is None else int(self._watcher.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            return None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self.engine.connect().execution_options(**READ) as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: all of it or nothing."""
        with self.engine.connect().execution_options(**WRITE) as connection, connection.begin():
            yield connection

    def ping(self) -> None:
        """Raise sqlalchemy's OperationalError when the database does not answer."""
        with self.read() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        if self._watcher is not None:
            self._watcher.close()

    def _migrate(self) -> None:
        """Bring the schema up to date; of several processes that start at once, one does it."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self.write() as connection:
            if self.engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": POSTGRES_LOCK})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _engine(store: str) -> Engine:
    if "://" not in store:
        folder = Path(store)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the folder {store} ({error.strerror}): choose another --store") from error
        return _sqlite(folder / FILE_NAME)
    try:
        url = make_url(store)
    except ArgumentError as error:
        raise StoreError(f"--store {store!r} is neither a folder nor a database URL") from error
    if url.get_backend_name() != "postgresql":
        raise StoreError(f"--store {url.get_backend_name()}:// is not supported: give a folder, or postgresql://user@host/name")
    try:
        return create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=16,
            max_overflow=8,
            pool_timeout=5,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 3},
        )
    except ImportError as error:
        raise MissingExtraError("psycopg", "postgres") from error


def _sqlite(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_SECONDS}, pool_size=16, max_overflow=8)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # the driver begins no transactions of its own
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

    return engine
