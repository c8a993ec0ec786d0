"""PostgreSQL by URL, with a limit on every wait: for a place, a connection, a lock, a statement, and for an answer at all.

The server's own limits do not help where the server itself hangs, and no TCP timeout strikes while its machine goes on
acknowledging; so the wait for an answer ends on this side as well.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import psycopg
from sqlalchemy import URL, Engine, NullPool, create_engine, event

PLACE_SECONDS = 2  # for one of the kept connections
CONNECT_SECONDS = 2  # the least that libpq takes
LIMITS_MS = {  # of the server itself
    "statement_timeout": 3500,
    "lock_timeout": 3500,
    "idle_in_transaction_session_timeout": 10_000,  # so that a process which is stopped keeps no lock
}
ANSWER_SECONDS = 4.0


class SilentError(psycopg.OperationalError):
    """A server that does not answer: whether it did what it was asked for is not known."""

    sqlstate = "silent"  # where the server's own errors have their code


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that gives up a server that does not answer."""

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        """As of psycopg, for ANSWER_SECONDS at most: then it is closed and SilentError raised."""
        return super().wait(self._in_time(gen), *args, **kwargs)

    def _in_time(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        end = time.monotonic() + ANSWER_SECONDS
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > end:
                    self.pgconn.finish()
                    raise SilentError(f"the server has not answered for {ANSWER_SECONDS:g} s")
                wanted = gen.send(ready)
        except StopIteration as done:
            return done.value


def engine(url: URL, *, patient: bool) -> Engine:
    """Connections to a server.

    Args:
        url: of the database.
        patient: for bringing the schema up to date, which may take long and is done once.
    """
    limits: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": int(1000 * ANSWER_SECONDS)}
    url = url.set(drivername="postgresql+psycopg")
    if patient:
        return create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=limits)
    made = create_engine(
        url,
        pool_size=16,
        max_overflow=8,
        pool_timeout=PLACE_SECONDS,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args=limits,
    )

    @event.listens_for(made, "do_connect")
    def connect(_: Any, __: Any, args: Any, options: Any) -> psycopg.Connection[Any]:
        return BoundedConnection.connect(*args, **options)

    @event.listens_for(made, "connect")
    def limit(connection: psycopg.Connection[Any], _: Any) -> None:
        before, connection.autocommit = connection.autocommit, True
        for what, most in LIMITS_MS.items():
            connection.execute(f"SET {what} = {most}")
        connection.autocommit = before

    return made
