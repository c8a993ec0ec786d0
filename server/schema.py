"""Tables of the catalogue; `migrations/` brings a database to this state."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

packs = Table(
    "packs",
    metadata,
    Column("id", String(64), primary_key=True),  # hex SHA-256 of data
    Column("data", LargeBinary, nullable=False),
    Column("size", Integer, nullable=False),
    Column("backbone", String(16), nullable=False),  # short fingerprint
    Column("method", String(32), nullable=False),
    Column("bits", Integer),
    Column("class_names", JSON, nullable=False),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("created", DateTime(timezone=True), nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("task_id", ForeignKey("tasks.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("pack_id", ForeignKey("packs.id"), nullable=False),
    Column("publisher", String(64), nullable=False),
    Column("published", DateTime(timezone=True), nullable=False),
    Column("accuracy", Float),
    Column("report", JSON(none_as_null=True)),
    UniqueConstraint("task_id", "pack_id"),  # the same bytes again are the same version
)

states = Table(
    "states",
    metadata,
    Column("task_id", ForeignKey("tasks.id"), primary_key=True),  # a task has one at most
    Column("number", Integer, nullable=False),  # of the version whose pack was learned from it
    Column("serial", Integer, nullable=False),  # rises with every change of the row
    Column("data", LargeBinary, nullable=False),
    ForeignKeyConstraint(["task_id", "number"], ["versions.task_id", "versions.number"]),
)

channels = Table(
    "channels",
    metadata,
    Column("task_id", ForeignKey("tasks.id"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("serial", Integer, nullable=False),
    Column("signed", Boolean, nullable=False),
    Column("envelope", Text, nullable=False),
    Column("moved", DateTime(timezone=True), nullable=False),
    Column("expires", DateTime(timezone=True), index=True),  # of its statement; null where nobody signed that
    ForeignKeyConstraint(["task_id", "version"], ["versions.task_id", "versions.number"]),
)

NOT_REVOKED = text("revoked IS NULL")

tokens = Table(
    "tokens",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),  # hex SHA-256: 256 random bits need no slow hash
    Column("scopes", String(128), nullable=False),  # with spaces between
    Column("created", DateTime(timezone=True), nullable=False),
    Column("expires", DateTime(timezone=True)),
    Column("revoked", DateTime(timezone=True)),
    Column("tasks", Text),  # patterns with spaces between; null: all tasks
    # a name may be used again when its token is revoked
    Index("uq_tokens_name", "name", unique=True, sqlite_where=NOT_REVOKED, postgresql_where=NOT_REVOKED),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("task", String(64)),
    Column("detail", Text, nullable=False),
    Index(None, "task", "id"),
)

health = Table(
    "health",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "at", DateTime(timezone=True), nullable=False
    ),  # rows are written and deleted in one transaction, to prove that it works
)
