"""What a task's packs are learned from, for those who teach it one photo more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "states",
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("serial", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("task_id", name="pk_states"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_states_task_id"),
        sa.ForeignKeyConstraint(["task_id", "number"], ["versions.task_id", "versions.number"], name="fk_states_task_id_number"),
    )
