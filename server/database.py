"""The seam to the database: SQLite in a folder, or PostgreSQL by URL, brought up to date when it is opened.

SQLite runs in WAL mode with full synchronisation, so what is committed survives kill -9 and a power cut;
writers take the write lock when they begin, so that what they read is still true when they write.
"""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, delete, insert, inspect, literal, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError

from edge_qprompt.errors import MissingExtraError, StoreError
from server.failures import AWAY, FAULTS, Failures, NoAnswerError, cause_of, kind_of
from server.schema import health, metadata
from server.sqlite import MIGRATION_SECONDS, SqliteFile

FILE_NAME = "catalogue.sqlite3"
MIGRATIONS = Path(__file__).parent / "migrations"
POSTGRES_LOCK = 0x65717001  # any number that nobody else locks
READ = {"begin": "BEGIN"}
WRITE = {"begin": "BEGIN IMMEDIATE"}
THREADS = 16  # as many as connections that are kept open
ANSWER_SECONDS = 10.0  # for all that one call asks; a place, a connection and an answer have shorter limits of their own

P = ParamSpec("P")
R = TypeVar("R")


class Database:
    """An open database; may be used from many threads, `run` from one event loop.

    Args:
        store: a folder, or a database URL (postgresql://user@host/name).
        failures: is told of each failure.
        new: make the folder and the tables where there are none.

    Raises:
        StoreError: it cannot be opened, was written by a newer version, or is not there.
    """

    def __init__(self, store: str, failures: Failures | None = None, *, new: bool = True) -> None:
        self.failures = failures or Failures()
        self._file = None if "://" in store else SqliteFile(_folder(store, new) / FILE_NAME)
        self.engine, self._fresh, patient = _engines(self._file, store)
        self.failures.secret = self.failures.secret or self.engine.url.password
        self._watcher: sqlite3.Connection | None = None
        self._threads = ThreadPoolExecutor(THREADS, "database")
        self._free = asyncio.Semaphore(THREADS)
        try:
            _migrate(patient, store, new)
            self._watch()
        except CommandError as error:
            self.close()
            raise StoreError(f"{store} was written by a newer version ({error}): upgrade edge-qprompt") from error
        except (DBAPIError, sqlite3.Error, OSError) as error:
            self.close()
            raise StoreError(
                f"cannot open the store {store} ({cause_of(error)}): check the path or URL, and its permissions"
            ) from error
        except StoreError:
            self.close()
            raise
        finally:
            patient.dispose()

    def version(self) -> int | None:
        """A number that changes with every commit, of any process; microseconds.

        None where the database has no such number (PostgreSQL), or is too busy to tell.
        """
        try:
            return None if self._watcher is None else int(self._watcher.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as error:
            self.failures.note(error)
            return None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self._transaction(self.engine, READ) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: all of it or nothing."""
        with self._transaction(self.engine, WRITE) as connection:
            if self._file is not None:
                self._file.check()
            yield connection

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """A call that uses this database, on one of a few threads of its own.

        Raises:
            NoAnswerError: it takes longer than ANSWER_SECONDS; its thread goes on, and is not given to anybody else.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._free.acquire()
                asked = self._threads.submit(contextvars.copy_context().run, partial(call, *args, **kwargs))
                asked.add_done_callback(lambda _: self._release(loop))
                return await asyncio.wrap_future(asked)
        except TimeoutError as error:
            late = NoAnswerError(f"the database has not answered for {ANSWER_SECONDS:g} s")
            self.failures.note(late)
            raise late from error

    def ping(self) -> None:
        """Raise sqlalchemy's OperationalError when the database does not answer."""
        with self.read() as connection:
            connection.execute(text("SELECT 1"))

    def probe(self, *, write: bool) -> None:
        """Prove that every table can be read, and that what is written reaches the disk.

        For SQLite on a connection of its own, since those that are kept have pages in memory.

        Raises:
            DatabaseError: one that says what is wrong.
        """
        with self._noted():
            if self._file is not None:
                self._file.check()
                self._file.check_head()
                if write:
                    self._file.check_room()
        with self._transaction(self._fresh, WRITE if write else READ) as connection:
            for table in metadata.sorted_tables:
                connection.execute(select(literal(1)).select_from(table).limit(1))
            if write:
                connection.execute(insert(health).values(at=datetime.now(UTC)))
                connection.execute(delete(health))

    def close(self) -> None:
        """Close all connections; calls that hang are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._fresh.dispose()
        self.engine.dispose()
        if self._watcher is not None:
            self._watcher.close()

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody waits for a thread any more
            loop.call_soon_threadsafe(self._free.release)

    @contextmanager
    def _transaction(self, engine: Engine, options: dict[str, str]) -> Iterator[Connection]:
        committing = False
        try:
            with self._noted(), engine.connect().execution_options(**options) as connection, connection.begin():
                yield connection
                committing = True
        except AWAY as error:
            if committing and options is WRITE and kind_of(error) == "away":
                raise NoAnswerError("the database went away while it committed: it may have, or not") from error
            raise

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except AWAY as error:
            if not isinstance(error, FAULTS):
                self.failures.note(error)
            raise

    def _watch(self) -> None:
        if self._file is not None:
            self._file.remember()
            self._watcher = sqlite3.connect(str(self._file.path), timeout=0, check_same_thread=False)
            self._watcher.execute(
                "PRAGMA data_version"
            ).fetchone()  # from now on another connection is never the last: that writes all back


def _folder(store: str, new: bool) -> Path:
    folder = Path(store)
    if not new:
        if not (folder / FILE_NAME).is_file():
            raise _missing(store)
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {store} ({error.strerror}): choose another --store") from error
    return folder


def _missing(store: str) -> StoreError:
    return StoreError(f"there is no store at {store}: check --store; `serve` or `token create --new` makes a new one")


def _engines(file: SqliteFile | None, store: str) -> tuple[Engine, Engine, Engine]:
    """For requests, for probes, and for bringing the schema up to date."""
    if file is not None:
        pooled = file.engine(pooled=True)
        return pooled, file.engine(pooled=False), file.engine(pooled=False, busy_seconds=MIGRATION_SECONDS)
    try:
        url = make_url(store)
    except ArgumentError as error:
        raise StoreError(f"--store {store!r} is neither a folder nor a database URL") from error
    if url.get_backend_name() != "postgresql":
        raise StoreError(f"--store {url.get_backend_name()}:// is not supported: give a folder, or postgresql://user@host/name")
    try:
        from server import postgres

        pooled = postgres.engine(url, patient=False)
        return pooled, pooled, postgres.engine(url, patient=True)
    except ImportError as error:
        raise MissingExtraError("psycopg") from error


def _migrate(engine: Engine, store: str, new: bool) -> None:
    """Bring the schema up to date; of several processes that start at once, one does it."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.connect().execution_options(**WRITE) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": POSTGRES_LOCK})
        if not new and not inspect(connection).has_table("alembic_version"):
            raise _missing(engine.url.render_as_string(hide_password=True) if "://" in store else store)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
