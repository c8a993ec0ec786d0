"""Bearer tokens: random, shown once, kept as a digest, each with scopes and perhaps for some tasks alone.

The scopes are independent of each other; a token may have several.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from edge_qprompt.errors import StoreError
from server import patterns
from server.catalogue import note
from server.database import Database
from server.rows import stamp
from server.schema import tokens

PREFIX = "eqp_"  # so that scanners for leaked secrets know it
RANDOM_BYTES = 32
MAX_CHARS = 128
NAME_CHARS = 64


class Scope(StrEnum):
    """What a token is good for."""

    READ = "read"
    CLASSIFY = "classify"
    PUBLISH = "publish"
    PROMOTE = "promote"


class Refusal(StrEnum):
    """Why a token is not taken; the values are labels of a metric."""

    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    REVOKED = "revoked"
    EXPIRED = "expired"
    SCOPE = "scope"
    TASK = "task"


@dataclass(frozen=True)
class Holder:
    """Who asks.

    Attributes:
        name: of the token.
        scopes: it has.
        tasks: patterns of the tasks that it is for; none: all tasks.
    """

    name: str
    scopes: frozenset[str]
    tasks: tuple[str, ...] = ()

    def may(self, task: str) -> bool:
        """Whether the token is for this task."""
        return not self.tasks or patterns.matches(self.tasks, task)


@dataclass(frozen=True)
class Refused:
    """A token that is not taken: why, and its name where it has one."""

    why: Refusal
    name: str | None = None


class Tokens:
    """The tokens of a database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(self, name: str, scopes: Sequence[str], days: int | None = None, tasks: Sequence[str] = ()) -> str:
        """A new token; the only time that it can be seen.

        Args:
            name: whose it is; no other token that is not revoked may have it.
            scopes: what it is good for.
            days: until it expires; None: never.
            tasks: patterns of the tasks that it is for; none: all.

        Raises:
            StoreError: the name is no name, or taken; a pattern is none.
        """
        if not (name.isprintable() and 0 < len(name) <= NAME_CHARS) or name.isdecimal():
            raise StoreError(
                f"the name {name!r} is not text of 1 to {NAME_CHARS} characters, nor may it be a number: choose another"
            )
        token = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
        now = datetime.now(UTC)
        row = {"name": name, "digest": _digest(token), "scopes": " ".join(dict.fromkeys(scopes)), "created": now}
        row |= {"expires": now + timedelta(days=days) if days else None, "tasks": " ".join(patterns.checked(tasks)) or None}
        try:
            with self.database.write() as db:
                db.execute(insert(tokens).values(**row))
                only = f", tasks {row['tasks']}" if tasks else ""
                note(db, "command line", "token create", None, f"{name}: {row['scopes']}{only}")
        except IntegrityError as error:
            raise StoreError(
                f"there is a token with the name {name} already: choose another name, or revoke that one first"
            ) from error
        return token

    def find(self, token: str) -> Holder | Refused:
        """Whose token this is, or why it is not taken."""
        if not token.startswith(PREFIX) or len(token) > MAX_CHARS:
            return Refused(Refusal.MALFORMED)
        with self.database.read() as db:
            row = db.execute(select(tokens).where(tokens.c.digest == _digest(token))).one_or_none()
        if row is None:
            return Refused(Refusal.UNKNOWN)
        if row.revoked:
            return Refused(Refusal.REVOKED, row.name)
        if row.expires and stamp(row.expires) <= stamp(datetime.now(UTC)):
            return Refused(Refusal.EXPIRED, row.name)
        return Holder(row.name, frozenset(row.scopes.split()), tuple((row.tasks or "").split()))

    def holder(self, token: str) -> Holder | None:
        """Whose token this is; None where it is not taken."""
        found = self.find(token)
        return found if isinstance(found, Holder) else None

    def list(self) -> list[dict[str, Any]]:
        """All tokens, without what would let anybody use them."""
        with self.database.read() as db:
            return [
                {"id": row.id, "name": row.name, "scopes": row.scopes.split(), "tasks": (row.tasks or "*").split()}
                | {"created": stamp(row.created)}
                | {"expires": row.expires and stamp(row.expires), "revoked": row.revoked and stamp(row.revoked)}
                for row in db.execute(select(tokens).order_by(tokens.c.id))
            ]

    def revoke(self, which: int | str) -> str:
        """Make a token useless, at once and for ever; its name may then be used again.

        Args:
            which: its number or its name.

        Returns:
            Its name.

        Raises:
            StoreError: there is no such token.
        """
        chosen = tokens.c.id == which if isinstance(which, int) else tokens.c.name == which
        with self.database.write() as db:
            row = db.execute(select(tokens.c.id, tokens.c.name).where(chosen, tokens.c.revoked.is_(None))).one_or_none()
            if row is None:
                raise StoreError(f"there is no token {which} that could be revoked: `edge-qprompt token list` shows them")
            db.execute(update(tokens).where(tokens.c.id == row.id).values(revoked=datetime.now(UTC)))
            note(db, "command line", "token revoke", None, f"{row.id}: {row.name}")
            return str(row.name)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
