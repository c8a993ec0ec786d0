"""The pack (`.qpk`): what is learned for one task, in a few hundred bytes.

    head      24 bytes   magic, version, precision, tensor count, method, extension length, fingerprint
    tensors              a record, a codebook and an index bit stream each
    sections             tag, length, data: class names, provenance, ...
    crc        4 bytes   CRC-32 of everything before it

Little-endian throughout; `docs/pack-format.md` is the specification. `decode` believes nothing
before it has checked it: any bytes at all give a Pack or a PackError. Symbols: N scalars in a
tensor, b bits, K = 2^b centres.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.errors import PackError
from edge_qprompt.files import write_whole
from edge_qprompt.quantizer import MAX_BITS, Quantized

MAGIC = b"\x89QPK"
VERSION = 1
HEAD = struct.Struct("<4sBBBBI8s4x")  # 4 reserved bytes, zero
RECORD = struct.Struct("<BBBx")  # role, bits, dimensions, reserved zero; then u16 a dimension
SECTION = struct.Struct("<BI")  # tag, length
CRC = struct.Struct("<I")
FINGERPRINT_BYTES = 8
MAX_BYTES = 32 << 20  # the largest thing anyone packs (QMaPLe at 16 bits is 7 MB) fits with room
MAX_DIMS = 4
MAX_DIM = 0xFFFF
RAW_BITS = 16


class Method(IntEnum):
    """How the pack was learned; a reader needs it only to show it."""

    ZERO_SHOT = 0
    COOP = 1
    QCOOP = 2


class Precision(IntEnum):
    """The image encoder whose features the pack was learned from."""

    FP32 = 0
    INT8 = 1


class Role(IntEnum):
    """What a tensor is for."""

    CTX = 1


class Tag(IntEnum):
    """What a section holds. Tags below 128 are essential: a reader that does not know one refuses."""

    TEMPLATE = 1
    CLASS_NAMES = 128
    NAMES_DIGEST = 129
    PROVENANCE = 130


ESSENTIAL_BELOW = 128


@dataclass(frozen=True)
class PackTensor:
    """One tensor: quantized (bits 1 to 8) or raw float16 (bits 16).

    Attributes:
        role: what it is for.
        bits: b.
        shape: up to 4 dimensions of 1 to 65535.
        codebook: (K,) float16, non-decreasing; empty for raw tensors.
        data: indexes (N,) uint8 below K, or values (N,) float16.
    """

    role: int
    bits: int
    shape: tuple[int, ...]
    codebook: NDArray[np.float16]
    data: NDArray[np.uint8] | NDArray[np.float16]

    @classmethod
    def raw(cls, role: int, values: NDArray[np.float32]) -> PackTensor:
        """Float16 as it is, for methods that do not quantize."""
        with np.errstate(over="ignore"):
            flat = np.asarray(values).astype("<f2").ravel()
        return checked(cls(role, RAW_BITS, np.shape(values), np.empty(0, "<f2"), flat))

    @classmethod
    def quantized(cls, role: int, tensor: Quantized) -> PackTensor:
        """Indexes and a codebook rounded to float16."""
        with np.errstate(over="ignore"):
            codebook = tensor.codebook.astype("<f2")
        return checked(cls(role, tensor.bits, tensor.indexes.shape, codebook, tensor.indexes.ravel()))

    def values(self) -> NDArray[np.float32]:
        """The tensor as float32, in its shape."""
        flat = self.data if self.bits == RAW_BITS else self.codebook[self.data]
        return flat.astype(np.float32).reshape(self.shape)

    @property
    def paper_bits(self) -> int:
        """Storage as the paper counts it: b N + 16 K, or 16 N for raw tensors."""
        return self.bits * self.data.size + 16 * self.codebook.size

    @property
    def payload_bytes(self) -> int:
        """Bytes of the codebook and the data on disk."""
        return 2 * self.codebook.size + index_bytes(self.data.size, self.bits)

    def encode(self) -> bytes:
        """Record, codebook and data."""
        record = RECORD.pack(self.role, self.bits, len(self.shape)) + struct.pack(f"<{len(self.shape)}H", *self.shape)
        data = self.data.tobytes() if self.bits == RAW_BITS else pack_bits(self.data, self.bits)
        return record + self.codebook.astype("<f2").tobytes() + data


@dataclass(frozen=True)
class Section:
    """One section after the tensors, kept byte for byte even where its tag is unknown."""

    tag: int
    data: bytes


@dataclass(frozen=True)
class Pack:
    """One task's learned prompt and what belongs to it.

    Attributes:
        fingerprint: first 8 bytes of the backbone's fingerprint.
        method: how it was learned; unknown numbers are kept.
        precision: image precision it was learned from.
        tensors: in file order.
        sections: in file order.
    """

    fingerprint: bytes
    method: int
    precision: int
    tensors: tuple[PackTensor, ...] = ()
    sections: tuple[Section, ...] = field(default=())

    def __post_init__(self) -> None:
        if len(self.fingerprint) != FINGERPRINT_BYTES:
            raise PackError(f"a pack carries {FINGERPRINT_BYTES} bytes of fingerprint, got {len(self.fingerprint)}")
        for what, number in (("method", self.method), ("precision", self.precision), ("tensor count", len(self.tensors))):
            if not 0 <= number <= 0xFF:
                raise PackError(f"{what} is {number}, it must fit one byte")

    @classmethod
    def open(cls, path: str | Path) -> Pack:
        """Read a pack from a file; reads at most MAX_BYTES + 1 bytes.

        Raises:
            PackError: the file cannot be read or is not a pack.
        """
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise PackError(f"cannot read pack {path}: {error.strerror}") from error
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

    def encode(self) -> bytes:
        """The file's bytes; `decode` of them gives an equal pack and the same bytes again.

        Raises:
            PackError: the pack would be larger than MAX_BYTES.
        """
        body = b"".join(tensor.encode() for tensor in self.tensors)
        extension = b"".join(SECTION.pack(s.tag, len(s.data)) + s.data for s in self.sections)
        head = HEAD.pack(MAGIC, VERSION, self.precision, len(self.tensors), self.method, len(extension), self.fingerprint)
        whole = head + body + extension
        if len(whole) + CRC.size > MAX_BYTES:
            raise PackError(f"the pack would be {len(whole) + CRC.size} bytes, the limit is {MAX_BYTES}")
        return whole + CRC.pack(zlib.crc32(whole))

    @classmethod
    def decode(cls, data: bytes) -> Pack:
        """Parse and check a pack.

        Raises:
            PackError: whatever is wrong with `data`.
        """
        from edge_qprompt.pack_reader import read_pack

        return read_pack(data)

    @property
    def pack_id(self) -> str:
        """Identity of the pack: hex SHA-256 of its bytes."""
        return hashlib.sha256(self.encode()).hexdigest()

    def tensor(self, role: int) -> PackTensor | None:
        """The first tensor of a role, if there is one."""
        return next((tensor for tensor in self.tensors if tensor.role == role), None)

    def section(self, tag: int) -> bytes | None:
        """Data of the first section with a tag, if there is one."""
        return next((section.data for section in self.sections if section.tag == tag), None)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Class names in the order of the labels, or None where the pack has none."""
        data = self.section(Tag.CLASS_NAMES)
        return None if data is None else tuple(data.decode().split("\n"))

    @property
    def template(self) -> str | None:
        """Hand-written prompt of a pack without a learned one."""
        data = self.section(Tag.TEMPLATE)
        return None if data is None else data.decode()


def names_section(names: tuple[str, ...]) -> Section:
    """Class names as a section: UTF-8, one a line.

    Raises:
        PackError: no names, or a name that is empty or has a line break.
    """
    bad = [name for name in names if not name.strip() or "\n" in name or "\r" in name]
    if bad or not names:
        raise PackError(f"class names cannot be empty or hold a line break: {bad[:3] or 'there are none'}")
    return Section(Tag.CLASS_NAMES, "\n".join(names).encode())


def names_digest_section(names: tuple[str, ...]) -> Section:
    """SHA-256 of what `names_section` holds, for names that are kept elsewhere."""
    return Section(Tag.NAMES_DIGEST, hashlib.sha256(names_section(names).data).digest())


def pack_bits(indexes: NDArray[np.uint8], bits: int) -> bytes:
    """Indexes (N,) as a little-endian bit stream: index i starts at bit i * b, zero padding."""
    planes = np.unpackbits(indexes[:, None], axis=1, count=bits, bitorder="little")  # (N, b)
    return np.packbits(planes.ravel(), bitorder="little").tobytes()


def unpack_bits(data: bytes, count: int, bits: int) -> NDArray[np.uint8]:
    """The inverse of `pack_bits`: (count,) uint8."""
    stream = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little")
    return np.packbits(stream.reshape(count, bits), axis=1, bitorder="little")[:, 0]  # (N,)


def index_bytes(count: int, bits: int) -> int:
    """Bytes that `count` values of `bits` bits take."""
    return math.ceil(count * bits / 8)


def checked(tensor: PackTensor) -> PackTensor:
    """The one set of rules that writer and reader share."""
    if tensor.bits != RAW_BITS and not 1 <= tensor.bits <= MAX_BITS:
        raise PackError(f"a tensor of {tensor.bits} bits: 1 to {MAX_BITS} or {RAW_BITS} exist")
    if not 1 <= len(tensor.shape) <= MAX_DIMS or not all(1 <= n <= MAX_DIM for n in tensor.shape):
        raise PackError(f"a tensor of shape {tensor.shape}: 1 to {MAX_DIMS} dimensions of 1 to {MAX_DIM} are possible")
    values = tensor.data if tensor.bits == RAW_BITS else tensor.codebook
    if not np.isfinite(values).all():
        raise PackError("a tensor holds values that are not finite in float16: the learning diverged, lower --lr")
    if (np.diff(tensor.codebook.astype(np.float32)) < 0).any():
        raise PackError("a codebook does not rise: the pack is damaged")
    return tensor
