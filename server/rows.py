"""What the catalogue's rows look like in answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, Select, func, select

from edge_qprompt.statement import stamp as utc
from server.schema import packs, versions


def stamp(time: datetime) -> str:
    """2026-11-21T14:00:00Z; SQLite gives times without a zone, all of them are UTC."""
    return utc(time if time.tzinfo else time.replace(tzinfo=UTC))


def accuracy_of(report: dict[str, Any] | None) -> float | None:
    """Accuracy on photos that were not learned from, as `adapt` reports it."""
    value = (report or {}).get("held_out_accuracy")
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def version_rows() -> Select[Any]:
    """Versions with what is known of their packs, which is all but the bytes."""
    facts = (packs.c.size, packs.c.backbone, packs.c.method, packs.c.bits, packs.c.class_names)
    return select(versions, *facts).join(packs, packs.c.id == versions.c.pack_id)


def summary_rows() -> Select[Any]:
    """Versions with what the summary of a task says; neither reports nor class names are read."""
    facts = (packs.c.size, packs.c.backbone, packs.c.method, packs.c.bits)
    classes = func.json_array_length(packs.c.class_names).label("classes")
    said = (versions.c.task_id, versions.c.accuracy, versions.c.published)
    return select(*said, *facts, classes).join(packs, packs.c.id == versions.c.pack_id)


def summary(row: Row[Any]) -> dict[str, Any]:
    """Of a task: its version on stable, else its newest."""
    return {
        "size": row.size,
        "accuracy": row.accuracy,
        "classes": row.classes,
        "backbone": row.backbone,
        "method": row.method,
        "bits": row.bits,
        "updated": stamp(row.published),
    }


def version(row: Row[Any]) -> dict[str, Any]:
    """Everything about a version but its pack's bytes."""
    facts = {"version": row.number, "pack": row.pack_id, "size": row.size, "method": row.method, "bits": row.bits}
    facts |= {"backbone": row.backbone, "class_names": row.class_names, "accuracy": row.accuracy}
    return facts | {"publisher": row.publisher, "published": stamp(row.published), "report": row.report}
