"""Patterns of task names: `*` stands for any characters, everything else for itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, or_, select

from edge_qprompt.errors import StoreError
from server.database import Database
from server.schema import packs, tasks, versions

PATTERN = re.compile(r"[a-z0-9._*-]{1,64}")  # characters of a task's name
MAX_STARS = 3  # the time to match rises with a power of them
MAX_PATTERNS = 32


def checked(patterns: Iterable[str]) -> tuple[str, ...]:
    """The patterns, each once.

    Raises:
        StoreError: one is none, or there are too many.
    """
    found = tuple(dict.fromkeys(patterns))
    if len(found) > MAX_PATTERNS:
        raise StoreError(f"{len(found)} patterns of tasks, a token may have {MAX_PATTERNS}: use a * in some")
    for pattern in found:
        if not PATTERN.fullmatch(pattern) or pattern.count("*") > MAX_STARS:
            raise StoreError(
                f"--task {pattern!r} is no task name or pattern: lower-case letters, digits, . _ - and at most {MAX_STARS} *"
            )
    return found


def matches(patterns: Iterable[str], task: str) -> bool:
    """Whether one of the patterns stands for a task."""
    return any(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), task) for pattern in patterns)


def like(patterns: Sequence[str], column: ColumnElement[str]) -> ColumnElement[bool]:
    """The same as a condition of SQL."""
    return or_(*(column.like(pattern.replace("_", "\\_").replace("*", "%"), escape="\\") for pattern in patterns))


def covers(patterns: Sequence[str], pack_id: str, database: Database) -> bool:
    """Whether a task that matches has this pack, or the pack is an adapter, which any other pack may refer to."""
    of = select(versions.c.number).join(tasks, tasks.c.id == versions.c.task_id).where(versions.c.pack_id == pack_id)
    with database.read() as db:
        if db.execute(of.where(like(patterns, tasks.c.name)).limit(1)).first() is not None:
            return True
        return db.execute(select(packs.c.class_names).where(packs.c.id == pack_id)).scalar() == []
