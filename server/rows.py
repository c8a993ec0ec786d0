"""What the catalogue's rows look like in answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, Select, and_, func, select

from edge_qprompt.trust import stamp as utc
from server.schema import channels, packs, versions


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


def shown_rows(task_ids: Sequence[int], channel: str) -> Select[Any]:
    """Of each task the version that a channel points at, else the newest, and how many it has.

    Neither reports nor class names are read, and no version but these.
    """
    per_task = select(versions.c.task_id, func.max(versions.c.number).label("newest"), func.count().label("known"))
    counts = per_task.where(versions.c.task_id.in_(task_ids)).group_by(versions.c.task_id).subquery()
    here = and_(channels.c.task_id == versions.c.task_id, channels.c.name == channel)
    facts = (packs.c.size, packs.c.backbone, packs.c.method, packs.c.bits)
    classes = func.json_array_length(packs.c.class_names).label("classes")
    return (
        select(versions.c.task_id, versions.c.accuracy, versions.c.published, counts.c.known, *facts, classes)
        .join(packs, packs.c.id == versions.c.pack_id)
        .join(counts, counts.c.task_id == versions.c.task_id)
        .outerjoin(channels, here)
        .where(versions.c.number == func.coalesce(channels.c.version, counts.c.newest))
    )


def pointer_rows() -> Select[Any]:
    """Channels without their statements."""
    known = (channels.c.task_id, channels.c.name, channels.c.version, channels.c.serial, channels.c.signed, channels.c.moved)
    return select(*known)


def pointer(row: Row[Any]) -> dict[str, Any]:
    """Where a channel points."""
    return {"version": row.version, "serial": row.serial, "signed": row.signed}


def summary(row: Row[Any]) -> dict[str, Any]:
    """Of a task: what `shown_rows` gives of it."""
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
