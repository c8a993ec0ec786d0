"""Failures of the database: their kinds, and what is said and counted of them."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from structlog.testing import capture_logs

from server.failures import KINDS, Failures, NoAnswerError, kind_of
from server.rarely import Rarely


def driver(name: str) -> OperationalError:
    cause = sqlite3.OperationalError("as the driver says\nand more")
    cause.sqlite_errorname = name
    return OperationalError("SELECT 'secret'", {}, cause)


class Answer(Exception):
    """An error of PostgreSQL's driver."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("connection to postgresql://eq:hunter2@db failed\nmore")
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (driver("SQLITE_FULL"), "full"),
        (driver("SQLITE_IOERR_WRITE"), "io"),
        (driver("SQLITE_CORRUPT_INDEX"), "damaged"),
        (driver("SQLITE_NOTADB"), "damaged"),
        (driver("SQLITE_READONLY_DBMOVED"), "moved"),
        (driver("SQLITE_READONLY_DIRECTORY"), "read_only"),
        (driver("SQLITE_BUSY_SNAPSHOT"), "busy"),
        (driver("SQLITE_CANTOPEN"), "away"),
        (driver("SQLITE_ERROR"), "other"),
        (OperationalError("", {}, Answer("53100")), "full"),
        (OperationalError("", {}, Answer("57014")), "busy"),
        (OperationalError("", {}, Answer("57P01")), "away"),
        (OperationalError("", {}, Answer(None)), "away"),
        (PoolTimeout(), "slow"),
        (NoAnswerError(), "slow"),
    ],
)
def test_kinds(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind
    assert kind in KINDS


def test_a_failure_is_logged_once_a_minute_without_secrets() -> None:
    counted: list[str] = []
    failures, now = Failures(counted.append, "hunter2"), [0.0]
    failures._rarely = Rarely(clock=lambda: now[0])
    with capture_logs() as lines:
        for second in range(61):
            now[0] = float(second)
            failures.note(OperationalError("SELECT 'token'", {}, Answer(None)))
        failures.note(driver("SQLITE_FULL"))  # another kind is not kept back
    assert [(line["kind"], line["kept_back"]) for line in lines] == [("away", 0), ("away", 59), ("full", 0)]
    assert lines[0]["cause"] == "connection to postgresql://eq:***@db failed"
    assert lines[2]["cause"] == "as the driver says"
    assert counted == ["away"] * 61 + ["full"]
    assert failures.seen == 62
