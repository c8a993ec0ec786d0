"""Fixtures of tests that need a store: SQLite and PostgreSQL, both real."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Postgres, postgres

from server.database import Database


@pytest.fixture(scope="session")
def engine() -> Iterator[Postgres]:
    """A PostgreSQL server; each test takes a new database of it."""
    with postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty store is."""
    if request.param == "sqlite":
        return str(tmp_path / "store")
    running: Postgres = request.getfixturevalue("engine")
    return running.database(f"test_{uuid.uuid4().hex}")


@pytest.fixture
def database(store: str) -> Iterator[Database]:
    opened = Database(store)
    yield opened
    opened.close()
