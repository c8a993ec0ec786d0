"""What tasks were learned from: of each task one state at most, the last that came, with the version that it is of."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from edge_qprompt.errors import ConflictError
from server.schema import states


@dataclass(frozen=True)
class Kept:
    """A task's state.

    Attributes:
        version: whose pack was learned from it.
        serial: rises with every change.
        data: as of `State.encode`.
    """

    version: int
    serial: int
    data: bytes


@dataclass(frozen=True)
class Change:
    """A state that comes with a pack, and why.

    Attributes:
        data: as of `State.encode`.
        base: the one that it was made from; None where it came from outside.
        action, detail: for the audit log.
    """

    data: bytes
    base: Kept | None = None
    action: str = "publish"
    detail: str = "with its state"


def kept(db: Connection, task_id: int) -> Kept | None:
    """The state of a task; None where none came."""
    row = db.execute(select(states).where(states.c.task_id == task_id)).one_or_none()
    return None if row is None else Kept(row.number, row.serial, bytes(row.data))


def version_of(db: Connection, task_id: int) -> int | None:
    """The version that a task's state is of; None where none came."""
    return db.execute(select(states.c.number).where(states.c.task_id == task_id)).scalar()


def check_base(db: Connection, task_id: int, base: Kept) -> None:
    """Make sure that a task's state is the one that something was made from; whoever asks holds the task's lock.

    Raises:
        ConflictError: somebody was faster.
    """
    if db.execute(select(states.c.serial).where(states.c.task_id == task_id)).scalar() != base.serial:
        raise ConflictError("somebody else has changed this task meanwhile: send the photo again")


def keep(db: Connection, task_id: int, version: int, data: bytes) -> None:
    """Keep a state in place of the one that was there."""
    serial = db.execute(select(states.c.serial).where(states.c.task_id == task_id)).scalar()
    if serial is None:
        db.execute(insert(states).values(task_id=task_id, number=version, serial=1, data=data))
    else:
        values = {"number": version, "serial": serial + 1, "data": data}
        db.execute(update(states).where(states.c.task_id == task_id).values(**values))
