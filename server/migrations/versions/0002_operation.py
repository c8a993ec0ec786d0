"""Unique names and task patterns of tokens, when channels expire, and a table to prove that the store can be written."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TIME = sa.DateTime(timezone=True)
NOT_REVOKED = sa.text("revoked IS NULL")
NAME_CHARS = 64

tokens = sa.table("tokens", sa.column("id", sa.Integer), sa.column("name", sa.String), sa.column("revoked", TIME))
channels = sa.table(
    "channels",
    sa.column("task_id", sa.Integer),
    sa.column("name", sa.String),
    sa.column("signed", sa.Boolean),
    sa.column("envelope", sa.Text),
    sa.column("expires", TIME),
)


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "health",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_health"),
    )
    op.add_column("tokens", sa.Column("tasks", sa.Text))
    _make_names_unique(op.get_bind())
    op.create_index("uq_tokens_name", "tokens", ["name"], unique=True, sqlite_where=NOT_REVOKED, postgresql_where=NOT_REVOKED)
    op.add_column("channels", sa.Column("expires", TIME))
    _note_expiry(op.get_bind())
    op.create_index("ix_channels_expires", "channels", ["expires"])


def _make_names_unique(db: sa.Connection) -> None:
    """The oldest token of a name keeps it; the others get -2, -3, ..."""
    rows = db.execute(sa.select(tokens.c.id, tokens.c.name).where(tokens.c.revoked.is_(None)).order_by(tokens.c.id)).all()
    taken = {row.name for row in rows}
    seen: set[str] = set()
    for row in rows:
        if row.name in seen:
            name = _free(row.name, taken)
            taken.add(name)
            db.execute(sa.update(tokens).where(tokens.c.id == row.id).values(name=name))
        seen.add(row.name)


def _free(name: str, taken: set[str]) -> str:
    number = 2
    while True:
        end = f"-{number}"
        if (found := name[: NAME_CHARS - len(end)] + end) not in taken:
            return found
        number += 1


def _note_expiry(db: sa.Connection) -> None:
    """As the signed statements say."""
    for row in db.execute(sa.select(channels).where(channels.c.signed)).all():
        here = sa.and_(channels.c.task_id == row.task_id, channels.c.name == row.name)
        statement = json.loads(base64.b64decode(json.loads(row.envelope)["payload"]))
        expires = datetime.fromisoformat(statement["expires"]).astimezone(UTC)
        db.execute(sa.update(channels).where(here).values(expires=expires))
