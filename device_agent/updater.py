"""An updater: keeps a pack on this device at what a publisher has signed, whatever the server says.

with Updater("https://packs.example.org", "fleet.pub", "nano") as updater:
    if updater.pull("flowers", "flowers.qpk").changed:
        classifier = Classifier(backbone, Pack.open("flowers.qpk"))
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from device_agent.client import DEFAULT_LIMITS, Client, ClientLimits
from edge_qprompt.backbone import Manifest, find_backbone
from edge_qprompt.errors import DataError, SignatureError
from edge_qprompt.files import write_whole
from edge_qprompt.pack import MAX_BYTES, Pack, beside
from edge_qprompt.trust import MAX_ENVELOPE_BYTES, Envelope, Statement, accept, check_adapter, check_pack, read_public_key

STABLE = "stable"
KEPT = ".channel.json"  # beside the pack: the envelope that was accepted last


@dataclass(frozen=True)
class Pulled:
    """What is on this device now.

    Attributes:
        path: of the pack.
        statement: what was signed about it.
        changed: whether the pack is a new one.
        adapter: the pack with the adapter that it needs, beside it, and its bytes; None where it needs none.
    """

    path: Path
    statement: Statement
    changed: bool
    adapter: tuple[Path, int] | None = None


class Updater:
    """Fetches packs from a server that need not be trusted: a publisher's key decides. A context manager.

    Args:
        server: its address.
        trust: file of the public key, which `edge-qprompt keygen` wrote.
        backbone: of this device, by name or folder.
        token: bearer token; None asks without one.
        limits: of each answer.

    Raises:
        SignatureError: there is no usable key.
        BackboneError: there is no such backbone.
        ServerError: the address is none.
    """

    def __init__(
        self,
        server: str,
        trust: str | Path,
        backbone: str | Path = "nano",
        token: str | None = None,
        limits: ClientLimits = DEFAULT_LIMITS,
    ) -> None:
        self._key = read_public_key(Path(trust))
        self._fingerprint = Manifest.read(find_backbone(backbone)).short_fingerprint
        self.client = Client(server, token, limits)

    def __enter__(self) -> Updater:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.client.__exit__(kind, error, trace)

    def pull(self, task: str, out: str | Path | None = None, channel: str = STABLE) -> Pulled:
        """The newest pack of a task: asked for, checked, and only then written.

        The statement about it must be signed by the trusted key, be about this task and channel, not be older than
        the last one, and not have expired; the pack must be the bytes that it names, of this device's backbone.

        Args:
            task: its name on the server.
            out: the pack's file, written or renewed; TASK.qpk here, if it is not given. What was accepted last is kept beside
                it, as P.qpk.channel.json.
            channel: which pointer of the task.

        Raises:
            SignatureError, PackError, FingerprintError: something of that is not so; the file stays as it was.
            ServerError: there is no answer, or none that can be used; likewise.
        """
        path = Path(f"{task}.qpk" if out is None else out)
        if not path.parent.is_dir():
            raise DataError(f"the folder {path.parent} of --out does not exist: create it first")
        return self._pull(task, path, channel)

    def _pull(self, task: str, path: Path, channel: str) -> Pulled:
        kept = path.with_name(path.name + KEPT)
        last = _last(kept)
        envelope = self.client.envelope(task, channel)
        statement = accept(envelope, self._key, task, channel, last, datetime.now(UTC))
        here = _held(path, statement.pack_id, statement.size)
        data = self.client.pack(statement.pack_id, statement.size) if here is None else here
        adapter = self._adapter(path, check_pack(data, statement, self._fingerprint))
        if here is None:
            write_whole(path, data)  # before the statement about it
        if statement != last:
            write_whole(kept, envelope)
        return Pulled(path, statement, here is None, adapter)

    def _adapter(self, path: Path, pack: Pack) -> tuple[Path, int] | None:
        """Fetch what a pack refers to, unless it is beside already; before the pack, which is of no use without it."""
        if pack.shared_adapter is None:
            return None
        place = beside(path, pack.shared_adapter)
        if (data := _held(place, pack.shared_adapter, MAX_BYTES)) is None:
            data = self.client.pack(pack.shared_adapter, MAX_BYTES)
            check_adapter(data, pack)
            write_whole(place, data)
        return place, len(data)


def _last(kept: Path) -> Statement | None:
    """The statement that was accepted last; an updater wrote it, so it is not verified again."""
    if not kept.exists():
        return None
    try:
        with kept.open("rb") as file:
            return Envelope.decode(file.read(MAX_ENVELOPE_BYTES + 1)).statement
    except SignatureError as error:
        raise SignatureError(f"{kept}: {error}; remove it to start anew, which forgets what was accepted before") from error


def _held(path: Path, pack_id: str, size: int) -> bytes | None:
    """A pack of at most `size` bytes, if that is what the file holds already."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        data = file.read(size + 1)
    return data if hashlib.sha256(data).hexdigest() == pack_id else None
