"""The catalogue: tasks, their immutable versions, and the channels that point at them.

A pack is kept once under its SHA-256. Publishing the same bytes for a task again gives the version that they have, so
a client that lost the answer may simply ask again. What is written comes with an entry in the audit log, in the
same transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, select, update

from edge_qprompt.errors import ConflictError, FingerprintError, NotFoundError, PackError, SignatureError
from edge_qprompt.learn import METHODS
from edge_qprompt.pack import Pack, Role
from edge_qprompt.trust import Envelope, Statement
from server.database import Database
from server.patterns import like
from server.rows import accuracy_of, pointer, pointer_rows, shown_rows, stamp, summary, version, version_rows
from server.schema import audit, channels, packs, tasks, versions
from server.states import Change, Kept, check_base, keep, kept, version_of

STABLE = "stable"
UNSIGNED_FOR = timedelta(days=90)
CHUNK = 500  # names a query: databases limit the number of parameters


@dataclass(frozen=True)
class Published:
    """A version; `created` is False where the same bytes were there already."""

    task: str
    version: int
    pack: str
    size: int
    created: bool


@dataclass(frozen=True)
class ChannelState:
    """Where a channel points."""

    task: str
    channel: str
    version: int
    serial: int
    signed: bool


@dataclass(frozen=True)
class Target:
    """What a channel gives: a version of a task and its pack."""

    task: str
    version: int
    pack: str


class Catalogue:
    """Operations on a database; each is one transaction.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def publish(
        self, task: str, pack: Pack, report: dict[str, Any] | None, actor: str, change: Change | None = None
    ) -> Published:
        """Add a version to a task, which is made if need be.

        Args:
            task, pack, report, actor: what to publish, and who asks.
            change: the state that the pack was learned from, which takes the place of the task's; None leaves that.

        Raises:
            ConflictError: the task's state is no longer the one that the change was made from.
        """
        with self.database.write() as db:
            task_id = self._task_id(db, task, create=True)
            if change is not None and change.base is not None:
                check_base(db, task_id, change.base)
            _store(db, pack)
            same = select(versions.c.number).where(versions.c.task_id == task_id, versions.c.pack_id == pack.pack_id)
            known = db.execute(same).scalar()
            number = known or self._add(db, task_id, pack, report, actor)
            if change is not None:
                keep(db, task_id, number, change.data)
            if known is None or change is not None:
                action, more = ("publish", "") if change is None else (change.action, f", {change.detail}")
                note(db, actor, action, task, f"version {number}, pack {pack.pack_id}, {pack.size} bytes{more}")
            return Published(task, number, pack.pack_id, pack.size, created=known is None)

    @staticmethod
    def _add(db: Connection, task_id: int, pack: Pack, report: dict[str, Any] | None, actor: str) -> int:
        """The number of a new version."""
        newest = db.execute(select(func.max(versions.c.number)).where(versions.c.task_id == task_id)).scalar()
        number = int(newest or 0) + 1
        row = {"task_id": task_id, "number": number, "pack_id": pack.pack_id, "publisher": actor, "published": _now()}
        db.execute(insert(versions).values(**row, accuracy=accuracy_of(report), report=report))
        return number

    def state(self, task: str) -> Kept:
        """What a task was learned from.

        Raises:
            NotFoundError: there is no task, or nobody has sent its state.
        """
        with self.database.read() as db:
            found = kept(db, self._task_id(db, task))
        if found is None:
            raise NotFoundError(
                f"nobody knows here what {task} was learned from: `edge-qprompt push --state` sends the state beside its pack"
            )
        return found

    def promote(self, task: str, channel: str, version: int, envelope: Envelope | None, actor: str) -> ChannelState:
        """Point a channel at a version.

        Args:
            task, channel, version: what to point where.
            envelope: the signed statement that says so; None writes an unsigned one, which devices refuse.
            actor: who asks.

        Raises:
            NotFoundError: no such version.
            PackError: it is an adapter, which classifies nothing by itself.
            ConflictError: the statement's serial is not the next one.
            SignatureError: the statement says something else.
        """
        with self.database.write() as db:
            task_id = self._task_id(db, task)
            row = db.execute(
                select(packs.c.id, packs.c.size, packs.c.backbone, packs.c.class_names)
                .join(versions, versions.c.pack_id == packs.c.id)
                .where(versions.c.task_id == task_id, versions.c.number == version)
            ).one_or_none()
            if row is None:
                raise NotFoundError(f"task {task} has no version {version}: publish it first")
            if not row.class_names:
                raise PackError(f"version {version} of {task} is an adapter for other packs, not to be run: promote one of those")
            here = and_(channels.c.task_id == task_id, channels.c.name == channel)
            serial = 1 + (db.execute(select(channels.c.serial).where(here)).scalar() or 0)
            facts = {"task": task, "channel": channel, "serial": serial, "version": version}
            facts |= {"pack_id": row.id, "size": row.size, "backbone": row.backbone}
            text = _unsigned(facts) if envelope is None else _checked(envelope, facts)
            values = {"version": version, "serial": serial, "signed": envelope is not None, "envelope": text, "moved": _now()}
            values["expires"] = None if envelope is None else envelope.statement.expires
            if serial == 1:
                db.execute(insert(channels).values(task_id=task_id, name=channel, **values))
            else:
                db.execute(update(channels).where(here).values(**values))
            signed = "signed" if envelope is not None else "unsigned"
            note(db, actor, "promote", task, f"{channel} to version {version}, serial {serial}, {signed}")
            return ChannelState(task, channel, version, serial, envelope is not None)

    def tasks(self, limit: int, after: str, only: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Summaries of tasks by name, from the first after `after` on; of those alone that match one of the patterns `only`."""
        with self.database.read() as db:
            page = select(tasks.c.id, tasks.c.name).where(tasks.c.name > after).order_by(tasks.c.name).limit(limit)
            page = page.where(like(only, tasks.c.name)) if only else page
            names = {row.id: row.name for row in db.execute(page)}
            pointers: dict[int, dict[str, Any]] = {task_id: {} for task_id in names}
            for row in db.execute(pointer_rows().where(channels.c.task_id.in_(names))):
                pointers[row.task_id][row.name] = pointer(row)
            facts = {row.task_id: row for row in db.execute(shown_rows(list(names), STABLE))}
            return [
                {"name": name, "versions": facts[i].known, "channels": pointers[i]} | summary(facts[i])
                for i, name in names.items()
                if i in facts
            ]

    def task(self, name: str, limit: int, before: int | None = None) -> dict[str, Any]:
        """Versions of a task, the newest first, and all its channels.

        Args:
            name: of the task.
            limit: versions, at most; `next` is what to give as `before` to get those that follow, None where none does.
            before: only versions that are older than this one; None for all.

        Raises:
            NotFoundError: there is none.
        """
        with self.database.read() as db:
            task_id = self._task_id(db, name)
            page = version_rows().where(versions.c.task_id == task_id).order_by(versions.c.number.desc())
            page = page if before is None else page.where(versions.c.number < before)
            rows = db.execute(page.limit(limit + 1)).all()  # one more, to know whether another page follows
            pointers = db.execute(pointer_rows().where(channels.c.task_id == task_id).order_by(channels.c.name))
            return {
                "name": name,
                "versions": [version(row) for row in rows[:limit]],
                "next": rows[limit - 1].number if len(rows) > limit else None,
                "state": version_of(db, task_id),
                "channels": {row.name: pointer(row) | {"moved": stamp(row.moved)} for row in pointers},
            }

    def envelope(self, task: str, channel: str) -> bytes:
        """A channel's statement in its envelope, as it was promoted.

        Raises:
            NotFoundError: there is none.
        """
        with self.database.read() as db:
            here = and_(channels.c.task_id == self._task_id(db, task), channels.c.name == channel)
            text = db.execute(select(channels.c.envelope).where(here)).scalar()
        if text is None:
            raise NotFoundError(f"task {task} has no channel {channel}: promote a version to it")
        return str(text).encode()

    def pack(self, pack_id: str) -> bytes:
        """A pack's bytes.

        Raises:
            NotFoundError: there is none.
        """
        with self.database.read() as db:
            data = db.execute(select(packs.c.data).where(packs.c.id == pack_id)).scalar()
        if data is None:
            raise NotFoundError(f"there is no pack {pack_id}: GET v1/tasks/TASK names those of a task")
        return bytes(data)

    def targets(self, channel: str, backbone: str, wanted: Sequence[str] | None) -> list[Target]:
        """Where a channel of many tasks points, read in one transaction, so that they fit together.

        Args:
            channel: its name.
            backbone: short fingerprint that packs must have.
            wanted: tasks, in the order of the answer; None for all of this backbone, by name.

        Raises:
            NotFoundError: a wanted task that is not there.
            FingerprintError: a task of another backbone.
        """
        query = (
            select(tasks.c.name, channels.c.version, packs.c.id, packs.c.backbone)
            .join(channels, and_(channels.c.task_id == tasks.c.id, channels.c.name == channel))
            .join(versions, and_(versions.c.task_id == tasks.c.id, versions.c.number == channels.c.version))
            .join(packs, packs.c.id == versions.c.pack_id)
        )
        with self.database.read() as db:
            if wanted is None:
                rows: Iterable[Row[Any]] = db.execute(query.where(packs.c.backbone == backbone).order_by(tasks.c.name))
                return [Target(row.name, row.version, row.id) for row in rows]
            parts = (wanted[i : i + CHUNK] for i in range(0, len(wanted), CHUNK))
            found = {row.name: row for part in parts for row in db.execute(query.where(tasks.c.name.in_(part)))}
        for name in wanted:
            if name not in found:
                raise NotFoundError(f"there is no task {name} with a channel {channel}: GET v1/tasks lists what there is")
            if found[name].backbone != backbone:
                raise FingerprintError(f"task {name} is on backbone {found[name].backbone}, this server runs {backbone}")
        return [Target(name, found[name].version, found[name].id) for name in wanted]

    def audit(self, limit: int, task: str | None) -> list[dict[str, Any]]:
        """The newest entries of the audit log, newest first."""
        query = select(audit).order_by(audit.c.id.desc()).limit(limit)
        if task is not None:
            query = query.where(audit.c.task == task)
        with self.database.read() as db:
            return [
                {"at": stamp(row.at), "actor": row.actor, "action": row.action, "task": row.task, "detail": row.detail}
                for row in db.execute(query)
            ]

    @staticmethod
    def _task_id(db: Connection, name: str, *, create: bool = False) -> int:
        query = select(tasks.c.id).where(tasks.c.name == name)
        if create:
            if db.dialect.name == "postgresql":  # SQLite has its one writer; here the task's row is the lock
                from sqlalchemy.dialects.postgresql import insert as insert_or_not

                db.execute(insert_or_not(tasks).values(name=name, created=_now()).on_conflict_do_nothing())
            elif db.execute(query).scalar() is None:
                db.execute(insert(tasks).values(name=name, created=_now()))
        found = db.execute(query.with_for_update()).scalar()  # SQLite ignores the lock
        if found is None:
            raise NotFoundError(f"there is no task {name}: GET v1/tasks lists what there is")
        return int(found)


def note(db: Connection, actor: str, action: str, task: str | None, detail: str) -> None:
    """Write to the audit log."""
    db.execute(insert(audit).values(at=_now(), actor=actor, action=action, task=task, detail=detail))


def _now() -> datetime:
    return datetime.now(UTC)


def _store(db: Connection, pack: Pack) -> None:
    if db.execute(select(packs.c.id).where(packs.c.id == pack.pack_id)).scalar() is not None:
        return
    ctx = pack.tensor(Role.CTX)
    row = {
        "id": pack.pack_id,
        "data": pack.encode(),
        "size": pack.size,
        "backbone": pack.fingerprint.hex(),
        "method": METHODS.name(pack.method) or str(pack.method),
        "bits": None if ctx is None else ctx.bits,
        "class_names": list(pack.class_names or ()),
    }
    if db.dialect.name == "postgresql":  # another task may be publishing the same bytes now
        from sqlalchemy.dialects.postgresql import insert as insert_or_not

        db.execute(insert_or_not(packs).values(**row).on_conflict_do_nothing())
    else:
        db.execute(insert(packs).values(**row))


def _unsigned(facts: dict[str, Any]) -> str:
    """An envelope without a signature, which no device trusts."""
    now = _now().replace(microsecond=0)
    statement = Statement(**facts, issued=now, expires=now + UNSIGNED_FOR)
    return Envelope(statement.encode(), ()).encode().decode()


def _checked(envelope: Envelope, facts: dict[str, Any]) -> str:
    """The envelope's text, if its statement says what is asked for."""
    if not envelope.signatures:
        raise SignatureError("the envelope holds no signature: sign it, or send none")
    try:
        statement = envelope.statement
    except SignatureError as error:
        raise SignatureError(f"the statement cannot be read ({error}): use this version's edge-qprompt push") from error
    for field, wanted in facts.items():
        if (said := getattr(statement, field)) != wanted:
            kind = ConflictError if field == "serial" else SignatureError
            raise kind(f"the statement's {field} is {said}, it must be {wanted}: read the channel and sign again")
    return envelope.encode().decode()
