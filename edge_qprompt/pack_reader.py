"""Reads a pack from bytes that nobody vouches for.

Order of the checks: size cap, magic, version, ranges, computed total against the real length,
CRC, values, sections. Nothing is allocated for a tensor before its bytes are known to be there.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from edge_qprompt import pack as fmt
from edge_qprompt.errors import PackError
from edge_qprompt.quantizer import MAX_BITS

DAMAGED = "the file is cut short or damaged, get it again"
SMALLEST = fmt.HEAD.size + fmt.CRC.size


@dataclass
class Cursor:
    """A position in the pack that cannot leave it."""

    data: bytes
    end: int
    at: int = 0

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        if count > self.end - self.at:
            raise PackError(f"{what} needs {count} bytes at offset {self.at}, {self.end - self.at} are left: {DAMAGED}")
        self.at += count
        return self.data[self.at - count : self.at]


def read_pack(data: bytes) -> fmt.Pack:
    """Parse and check a pack; see `Pack.decode`."""
    if len(data) > fmt.MAX_BYTES:
        raise PackError(f"a pack has at most {fmt.MAX_BYTES} bytes, this is larger: it is not a pack")
    if data[:4] != fmt.MAGIC:
        raise PackError(f"not a pack: it starts with {data[:4]!r}, a pack with {fmt.MAGIC!r}")
    if len(data) < SMALLEST:
        raise PackError(f"the pack is {len(data)} bytes, the smallest has {SMALLEST}: {DAMAGED}")
    _, version, precision, count, method, extension, fingerprint = fmt.HEAD.unpack_from(data)
    if version != fmt.VERSION:
        raise PackError(f"pack format version {version}, this program reads {fmt.VERSION}: upgrade edge-qprompt")
    if any(data[fmt.HEAD.size - 4 : fmt.HEAD.size]):
        raise PackError(f"reserved bytes of the head are not zero: {DAMAGED}")
    cursor = Cursor(data, len(data) - fmt.CRC.size, fmt.HEAD.size)
    spans = [_span(cursor) for _ in range(count)]
    total = cursor.at + extension + fmt.CRC.size
    if total != len(data):
        raise PackError(f"the pack is {len(data)} bytes, its head says {total}: {DAMAGED}")
    (crc,) = fmt.CRC.unpack_from(data, cursor.end)
    if zlib.crc32(data[: cursor.end]) != crc:
        raise PackError(f"the checksum does not match: {DAMAGED}")
    tensors = tuple(span.tensor() for span in spans)
    return fmt.Pack(fingerprint, method, precision, tensors, _sections(cursor))


@dataclass(frozen=True)
class Span:
    """A tensor that is known to fit, not yet decoded."""

    role: int
    bits: int
    shape: tuple[int, ...]
    codebook: bytes
    data: bytes

    def tensor(self) -> fmt.PackTensor:
        """Decode and check the values."""
        codebook = np.frombuffer(self.codebook, "<f2")
        if self.bits == fmt.RAW_BITS:
            return fmt.checked(fmt.PackTensor(self.role, self.bits, self.shape, codebook, np.frombuffer(self.data, "<f2")))
        indexes = fmt.unpack_bits(self.data, math.prod(self.shape), self.bits)
        if fmt.pack_bits(indexes, self.bits) != self.data:
            raise PackError(f"the padding behind the indexes is not zero: {DAMAGED}")
        return fmt.checked(fmt.PackTensor(self.role, self.bits, self.shape, codebook, indexes))


def _span(cursor: Cursor) -> Span:
    role, bits, dims = fmt.RECORD.unpack(cursor.take(fmt.RECORD.size, "a tensor record"))
    if bits != fmt.RAW_BITS and not 1 <= bits <= MAX_BITS:
        raise PackError(f"a tensor of {bits} bits: 1 to {MAX_BITS} or {fmt.RAW_BITS} exist: {DAMAGED}")
    if not 1 <= dims <= fmt.MAX_DIMS:
        raise PackError(f"a tensor of {dims} dimensions: 1 to {fmt.MAX_DIMS} are possible: {DAMAGED}")
    if cursor.data[cursor.at - 1]:
        raise PackError(f"the reserved byte of a tensor record is not zero: {DAMAGED}")
    shape = struct.unpack(f"<{dims}H", cursor.take(2 * dims, "a tensor's shape"))
    if not all(shape):
        raise PackError(f"a tensor of shape {shape}: {DAMAGED}")
    codebook = cursor.take(0 if bits == fmt.RAW_BITS else 2 * 2**bits, "a codebook")
    data = cursor.take(fmt.index_bytes(math.prod(shape), bits), "a tensor")
    return Span(role, bits, shape, codebook, data)


def _sections(cursor: Cursor) -> tuple[fmt.Section, ...]:
    sections = []
    while cursor.at < cursor.end:
        tag, length = fmt.SECTION.unpack(cursor.take(fmt.SECTION.size, "a section head"))
        data = cursor.take(length, f"section {tag}")
        if tag in set(fmt.Tag):
            _check_section(tag, data, {section.tag for section in sections})
        elif tag < fmt.ESSENTIAL_BELOW:
            raise PackError(f"the pack needs feature {tag}, which this program does not know: upgrade edge-qprompt")
        sections.append(fmt.Section(tag, data))
    return tuple(sections)


def _check_section(tag: int, data: bytes, seen: set[int]) -> None:
    name = fmt.Tag(tag).name.lower()
    if tag in seen:
        raise PackError(f"two sections of kind {name}: {DAMAGED}")
    if tag == fmt.Tag.NAMES_DIGEST:
        if len(data) != 32:
            raise PackError(f"section {name} has {len(data)} bytes, a SHA-256 has 32: {DAMAGED}")
        return
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise PackError(f"section {name} is not UTF-8: {DAMAGED}") from error
    if tag == fmt.Tag.CLASS_NAMES and not all(line.strip() for line in text.split("\n")):
        raise PackError(f"section {name} holds an empty name: {DAMAGED}")
    if tag == fmt.Tag.TEMPLATE and text.count("{}") != 1:
        raise PackError(f"section {name} is {text!r}, it must hold {{}} once: {DAMAGED}")
