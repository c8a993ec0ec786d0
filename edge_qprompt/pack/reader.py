"""Reads a pack from bytes that nobody vouches for.

Order of the checks: size cap, magic, smallest size, version, reserved bytes, each tensor's record,
computed total against the real length, CRC; then values; then sections. Nothing is allocated for a
tensor before the whole is known to fit and to be undamaged.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from edge_qprompt.errors import PackError
from edge_qprompt.pack.layout import (
    CRC,
    HEAD,
    HEAD_ZEROS,
    MAGIC,
    MAX_BYTES,
    MAX_DIMS,
    MAX_SCALARS,
    MAX_SECTIONS,
    RAW_BITS,
    RECORD,
    SECTION,
    SMALLEST,
    VERSION,
)
from edge_qprompt.pack.section import Section
from edge_qprompt.pack.tensor import PackTensor, check_bits, check_shape, codebook_bytes, data_bytes, unpack_bits

DAMAGED = "the file is cut short or damaged, get it again"
MISMADE = "the checksum is right, so whoever made the pack has to make it again"


class PackReader:
    """A pack's bytes, checked up to the checksum.

    Attributes:
        fingerprint, method, precision: as in the head.

    Raises:
        PackError: whatever is wrong with the bytes.
    """

    def __init__(self, data: bytes) -> None:
        _check_start(data)
        _, version, precision, count, method, extension, fingerprint = HEAD.unpack_from(data)
        if version != VERSION:
            raise PackError(f"pack format version {version}, this program reads {VERSION}: upgrade edge-qprompt")
        if any(data[HEAD_ZEROS]):
            raise PackError(f"reserved bytes of the head are not zero: {DAMAGED}")
        self.fingerprint: bytes = fingerprint
        self.method: int = method
        self.precision: int = precision
        self._cursor = Cursor(data, len(data) - CRC.size, HEAD.size)
        self._spans = _spans(self._cursor, count)
        total = self._cursor.at + extension + CRC.size
        if total != len(data):
            raise PackError(f"the pack is {len(data)} bytes, its head says {total}: {DAMAGED}")
        self._check_crc()

    def tensors(self) -> tuple[PackTensor, ...]:
        """Decode the tensors and check their values."""
        tensors: list[PackTensor] = []
        for i, span in enumerate(self._spans):
            try:
                tensors.append(span.tensor(self._cursor.data))
            except PackError as error:
                raise PackError(f"tensor {i}: {error}: {MISMADE}") from error
        return tuple(tensors)

    def sections(self) -> tuple[Section, ...]:
        """Split what follows the tensors into sections and check them."""
        cursor = Cursor(self._cursor.data, self._cursor.end, self._cursor.at)
        sections: list[Section] = []
        while cursor.at < cursor.end:
            if len(sections) == MAX_SECTIONS:
                raise PackError(f"more than {MAX_SECTIONS} sections: {MISMADE}")
            tag, data = _section(cursor, len(sections))
            sections.append(Section(tag, data))
        return tuple(sections)

    def _check_crc(self) -> None:
        (wanted,) = CRC.unpack_from(self._cursor.data, self._cursor.end)
        got = zlib.crc32(memoryview(self._cursor.data)[: self._cursor.end])
        if got != wanted:
            raise PackError(f"the checksum is {got:08x}, the pack says {wanted:08x}: {DAMAGED}")


@dataclass
class Cursor:
    """A position in the pack that cannot leave it."""

    data: bytes
    end: int
    at: int

    def skip(self, count: int, what: str) -> int:
        """Step over `count` bytes; the offset of the first."""
        left = self.end - self.at
        if count > left:
            raise PackError(f"{what} needs {count} bytes at offset {self.at}, {left} are left")
        self.at += count
        return self.at - count

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        start = self.skip(count, what)
        return self.data[start : start + count]


@dataclass(frozen=True)
class Span:
    """Where a tensor lies; known to fit, not yet decoded.

    Attributes:
        role, bits, shape: from its record.
        codebook, data: offsets in the pack.
    """

    role: int
    bits: int
    shape: tuple[int, ...]
    codebook: int
    data: int

    def tensor(self, pack: bytes) -> PackTensor:
        """Decode, and check the values."""
        count = math.prod(self.shape)
        codebook = np.frombuffer(pack, "<f2", codebook_bytes(self.bits) // 2, self.codebook).astype(np.float16)
        if self.bits == RAW_BITS:
            raw = np.frombuffer(pack, "<f2", count, self.data).astype(np.float16)
            return PackTensor(self.role, self.bits, self.shape, codebook, raw)
        stream = memoryview(pack)[self.data : self.data + data_bytes(count, self.bits)]
        used = count * self.bits % 8  # bits of the last byte; 0 means all
        if used and stream[-1] >> used:
            raise PackError("the padding behind the indexes is not zero")
        return PackTensor(self.role, self.bits, self.shape, codebook, unpack_bits(stream, count, self.bits))


def _check_start(data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise PackError(f"this is larger than {MAX_BYTES} bytes, the most that a pack can have: it is not a pack")
    if not data:
        raise PackError("the file is empty: get it again")
    if not data.startswith(MAGIC[: len(data)]):
        raise PackError(f"not a pack: it starts with {data[:4]!r}, a pack with {MAGIC!r}; give the .qpk that `adapt` wrote")
    if len(data) < SMALLEST:
        raise PackError(f"the pack is {len(data)} bytes, the smallest has {SMALLEST}: {DAMAGED}")


def _spans(cursor: Cursor, count: int) -> tuple[Span, ...]:
    spans: list[Span] = []
    room = MAX_SCALARS
    for i in range(count):
        try:
            spans.append(_span(cursor, room))
        except PackError as error:
            raise PackError(f"tensor {i}: {error}: {DAMAGED}") from error
        room -= math.prod(spans[-1].shape)
    return tuple(spans)


def _span(cursor: Cursor, room: int) -> Span:
    """One tensor of at most `room` values."""
    record = cursor.take(RECORD.size, "its record")
    role, bits, dims = RECORD.unpack(record)
    check_bits(bits)
    if record[-1]:
        raise PackError(f"the reserved byte of its record is {record[-1]}, not zero")
    if dims > MAX_DIMS:  # before its shape is read
        raise PackError(f"it has {dims} dimensions, 1 to {MAX_DIMS} are possible")
    shape = struct.unpack(f"<{dims}H", cursor.take(2 * dims, "its shape"))
    check_shape(shape)
    count = math.prod(shape)
    if count > room:
        raise PackError(f"its shape is {shape}, all tensors together can have {MAX_SCALARS} values")
    codebook = cursor.skip(codebook_bytes(bits), "its codebook")
    return Span(role, bits, shape, codebook, cursor.skip(data_bytes(count, bits), f"its data of shape {shape}"))


def _section(cursor: Cursor, number: int) -> tuple[int, bytes]:
    try:
        tag, length = SECTION.unpack(cursor.take(SECTION.size, "its head"))
        return tag, cursor.take(length, f"its data (tag {tag})")
    except PackError as error:
        raise PackError(f"section {number}: {error}: {MISMADE}") from error
