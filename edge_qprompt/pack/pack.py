"""The pack (`.qpk`): what is learned for one task, in a few hundred bytes.

    head      24 bytes   magic, version, precision, tensor count, method, extension length, fingerprint
    tensors              a record, a codebook and an index bit stream each
    sections             tag, length, data: class names, provenance, ...
    crc        4 bytes   CRC-32 of everything before it

Little-endian throughout; `docs/pack-format.md` is the specification. Any bytes at all decode to a
Pack or raise a PackError, and a pack that can be made can be written and read back: tensors,
sections and the pack check themselves by the same rules in both directions.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from edge_qprompt.errors import PackError
from edge_qprompt.files import write_whole
from edge_qprompt.pack.layout import (
    CRC,
    FINGERPRINT_BYTES,
    HEAD,
    MAGIC,
    MAX_BYTES,
    MAX_SCALARS,
    MAX_SECTIONS,
    MAX_TENSORS,
    SECTION,
    SMALLEST,
    VERSION,
)
from edge_qprompt.pack.reader import PackReader
from edge_qprompt.pack.section import (
    CLASS_NAMES,
    KINDS,
    SHARED_ADAPTER,
    TEMPLATE,
    TEMPLATES,
    Kind,
    Section,
    T,
    names_digest_section,
    names_section,
    templates_section,
)
from edge_qprompt.pack.tensor import PackTensor, Role

__all__ = [
    "Pack",
    "PackTensor",
    "Precision",
    "Role",
    "SECTION",
    "Section",
    "ZERO_SHOT",
    "names_digest_section",
    "names_section",
    "templates_section",
]


ZERO_SHOT = 0  # `Pack.method` of a hand-written prompt, which every device can make


class Precision(IntEnum):
    """The encoders that the pack was learned with; the quantized ones are named by bits of weights and activations."""

    FP32 = 0
    INT8 = 1
    W4A8 = 2
    W4A4 = 3


@dataclass(frozen=True)
class Pack:
    """One task's learned prompt and what belongs to it.

    Attributes:
        fingerprint: first 8 bytes of the backbone's fingerprint.
        method: how it was learned; unknown numbers up to 255 are kept.
        precision: image precision it was learned from; unknown numbers up to 255 are kept.
        tensors: in file order.
        sections: in file order; a known tag at most once.

    Raises:
        PackError: one of these rules is broken, or the pack would be larger than MAX_BYTES.
    """

    fingerprint: bytes
    method: int
    precision: int
    tensors: tuple[PackTensor, ...] = ()
    sections: tuple[Section, ...] = ()

    def __post_init__(self) -> None:
        if len(self.fingerprint) != FINGERPRINT_BYTES:
            raise PackError(f"a pack carries {FINGERPRINT_BYTES} bytes of fingerprint, got {len(self.fingerprint)}")
        for what, number in (("method", self.method), ("precision", self.precision)):
            if not 0 <= number <= 0xFF:
                raise PackError(f"{what} is {number}, it must fit one byte")
        for what, count, most in (
            ("tensors", len(self.tensors), MAX_TENSORS),
            ("sections", len(self.sections), MAX_SECTIONS),
            ("values in its tensors", sum(tensor.data.size for tensor in self.tensors), MAX_SCALARS),
            ("bytes", self.size, MAX_BYTES),
        ):
            if count > most:
                raise PackError(f"the pack would have {count} {what}, at most {most} are possible")
        counts = Counter(section.tag for section in self.sections)
        if double := [KINDS[tag].name for tag in KINDS.keys() & counts.keys() if counts[tag] > 1]:
            raise PackError(f"the pack has more than one section {double[0]}, only one is possible")

    def __repr__(self) -> str:
        classes = "no class names" if (names := self.class_names) is None else f"{len(names)} classes"
        return f"<Pack {self.pack_id[:16]}: {self.size} bytes, {classes}, for backbone {self.fingerprint.hex()}>"

    @classmethod
    def open(cls, path: str | Path) -> Pack:
        """Read a pack from a file; reads at most MAX_BYTES + 1 bytes.

        Raises:
            PackError: the file cannot be read or is not a pack.
        """
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a path with NUL in it
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise PackError(f"cannot read pack {str(path)!r} ({reason}): give the .qpk file that `adapt` wrote") from error
        try:
            return cls.decode(data)
        except PackError as error:
            raise PackError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the pack whole, or not at all.

        Raises:
            OSError: as `files.write_whole`.
        """
        write_whole(Path(path), self.encode())

    @classmethod
    def decode(cls, data: bytes) -> Pack:
        """Parse and check a pack; its `encode` gives `data` again.

        Raises:
            PackError: whatever is wrong with `data`.
        """
        reader = PackReader(data)
        return cls(reader.fingerprint, reader.method, reader.precision, reader.tensors(), reader.sections())

    def encode(self) -> bytes:
        """The file's bytes; `decode` of them gives an equal pack."""
        body = b"".join(tensor.encode() for tensor in self.tensors)
        extension = b"".join(section.encode() for section in self.sections)
        head = HEAD.pack(MAGIC, VERSION, self.precision, len(self.tensors), self.method, len(extension), self.fingerprint)
        whole = head + body + extension
        return whole + CRC.pack(zlib.crc32(whole))

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return SMALLEST + sum(tensor.size for tensor in self.tensors) + sum(section.size for section in self.sections)

    @property
    def pack_id(self) -> str:
        """Identity of the pack: hex SHA-256 of its bytes."""
        return hashlib.sha256(self.encode()).hexdigest()

    def tensor(self, role: int) -> PackTensor | None:
        """The first tensor of a role, if there is one."""
        return next((tensor for tensor in self.tensors if tensor.role == role), None)

    def get(self, kind: Kind[T]) -> T | None:
        """The value of its section of a kind, e.g. `CLASS_NAMES`; None where it has none."""
        return next((kind.read(section.data) for section in self.sections if section.tag == kind.tag), None)

    @property
    def shared_adapter(self) -> str | None:
        """Hex SHA-256 of the pack that holds this one's adapter, see `edge_qprompt.pack.adapter`; None without such."""
        return self.get(SHARED_ADAPTER)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Class names in the order of the labels, or None where the pack has none."""
        return self.get(CLASS_NAMES)

    @property
    def template(self) -> str | None:
        """Hand-written prompt of a pack without a learned one."""
        return self.get(TEMPLATE)

    @property
    def templates(self) -> tuple[str, ...]:
        """Hand-written prompts, one or several; empty where there is none."""
        one = self.get(TEMPLATE)
        return self.get(TEMPLATES) or (() if one is None else (one,))
