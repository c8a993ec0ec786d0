"""Bearer tokens: random, shown once, kept as a digest, each with scopes.

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

from edge_qprompt.errors import StoreError
from server.catalogue import note
from server.database import Database
from server.rows import stamp
from server.schema import tokens

PREFIX = "eqp_"  # so that scanners for leaked secrets know it
RANDOM_BYTES = 32
MAX_CHARS = 128


class Scope(StrEnum):
    """What a token is good for."""

    READ = "read"
    CLASSIFY = "classify"
    PUBLISH = "publish"
    PROMOTE = "promote"


@dataclass(frozen=True)
class Holder:
    """Who asks."""

    name: str
    scopes: frozenset[str]


class Tokens:
    """The tokens of a database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(self, name: str, scopes: Sequence[str], days: int | None = None) -> str:
        """A new token for some scopes; the only time that it can be seen."""
        token = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
        now = datetime.now(UTC)
        row = {"name": name, "digest": _digest(token), "scopes": " ".join(dict.fromkeys(scopes)), "created": now}
        with self.database.write() as db:
            db.execute(insert(tokens).values(**row, expires=now + timedelta(days=days) if days else None))
            note(db, "command line", "token create", None, f"{name}: {row['scopes']}")
        return token

    def holder(self, token: str) -> Holder | None:
        """Whose token this is; None where it is unknown, revoked or expired."""
        if len(token) > MAX_CHARS:
            return None
        with self.database.read() as db:
            row = db.execute(select(tokens).where(tokens.c.digest == _digest(token))).one_or_none()
        if row is None or row.revoked or (row.expires and stamp(row.expires) <= stamp(datetime.now(UTC))):
            return None
        return Holder(row.name, frozenset(row.scopes.split()))

    def list(self) -> list[dict[str, Any]]:
        """All tokens, without what would let anybody use them."""
        with self.database.read() as db:
            return [
                {"id": row.id, "name": row.name, "scopes": row.scopes.split(), "created": stamp(row.created)}
                | {"expires": row.expires and stamp(row.expires), "revoked": row.revoked and stamp(row.revoked)}
                for row in db.execute(select(tokens).order_by(tokens.c.id))
            ]

    def revoke(self, token_id: int) -> None:
        """Make a token useless, at once and for ever.

        Raises:
            StoreError: there is no such token.
        """
        with self.database.write() as db:
            found = db.execute(
                update(tokens).where(tokens.c.id == token_id, tokens.c.revoked.is_(None)).values(revoked=datetime.now(UTC))
            )
            if not found.rowcount:
                raise StoreError(f"there is no token {token_id} that could be revoked: `edge-qprompt token list` shows them")
            note(db, "command line", "token revoke", None, str(token_id))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
