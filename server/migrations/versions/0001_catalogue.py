"""Packs, tasks, versions, channels, tokens, audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "packs",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("backbone", sa.String(16), nullable=False),
        sa.Column("method", sa.String(32), nullable=False),
        sa.Column("bits", sa.Integer),
        sa.Column("class_names", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_packs"),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.UniqueConstraint("name", name="uq_tasks_name"),
    )
    op.create_table(
        "versions",
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("pack_id", sa.String(64), nullable=False),
        sa.Column("publisher", sa.String(64), nullable=False),
        sa.Column("published", TIME, nullable=False),
        sa.Column("accuracy", sa.Float),
        sa.Column("report", sa.JSON),
        sa.PrimaryKeyConstraint("task_id", "number", name="pk_versions"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_versions_task_id"),
        sa.ForeignKeyConstraint(["pack_id"], ["packs.id"], name="fk_versions_pack_id"),
        sa.UniqueConstraint("task_id", "pack_id", name="uq_versions_task_id_pack_id"),
    )
    op.create_table(
        "channels",
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("serial", sa.Integer, nullable=False),
        sa.Column("signed", sa.Boolean, nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.Column("moved", TIME, nullable=False),
        sa.PrimaryKeyConstraint("task_id", "name", name="pk_channels"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_channels_task_id"),
        sa.ForeignKeyConstraint(
            ["task_id", "version"], ["versions.task_id", "versions.number"], name="fk_channels_task_id_version"
        ),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("scopes", sa.String(128), nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("expires", TIME),
        sa.Column("revoked", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("task", sa.String(64)),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_task_id", "audit", ["task", "id"])
