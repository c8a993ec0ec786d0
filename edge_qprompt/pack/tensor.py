"""A tensor of a pack: a codebook and indexes of b bits each, or raw float16.

numpy only. Symbols: N scalars in the tensor, b bits, K = 2^b centres.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.codebook import MAX_BITS, Quantized
from edge_qprompt.errors import PackError
from edge_qprompt.pack.layout import MAX_DIM, MAX_DIMS, RAW_BITS, RECORD

Halves = NDArray[np.float16]
Indexes = NDArray[np.uint8]


class Role(IntEnum):
    """What a tensor is for.

    Symbols: W and U widths of text and image tower, D dimensions of a feature, h inner width, r rank. Weights are
    (outputs, inputs), an inner layer has its bias as last column, and between the two layers of a net stands a ReLU.
    """

    CTX = 1  # (n, W)
    RESIDUAL = 2  # (C, D)
    META_IN = 3  # CoCoOp's net from a photo's feature to what is added to each learned token: (h, D + 1)
    META_OUT = 4  # (W, h + 1)
    ADAPTER_IN = 5  # a net whose output is added to a photo's feature: (h, D + 1)
    ADAPTER_OUT = 6  # (D, h + 1), the mixing ratio folded in
    DEEP_CTX = 7  # learned tokens of text layers 1, 2, ...: (depth - 1, n, W)
    VISUAL_CTX = 8  # learned tokens of image layers 0, 1, ...: (depth, n, U)
    LORA_TEXT_IN = 9  # q, k, v of each text layer: (layers, 3, r, W)
    LORA_TEXT_OUT = 10  # (layers, 3, W, r), the scale folded in
    LORA_IMAGE_IN = 11  # (layers, 3, r, U)
    LORA_IMAGE_OUT = 12  # (layers, 3, U, r)
    DISCRIMINANT = 13  # (C, D), in units of each row's scale
    DISCRIMINANT_ROWS = 14  # (2, C): scales, offsets
    FEATURE_MEAN = 15  # (D,), of the photos learned from


@dataclass(frozen=True, eq=False)
class PackTensor:
    """One tensor: quantized (bits 1 to 8) or raw float16 (bits 16). Equal if its bytes on disk are.

    Attributes:
        role: what it is for; unknown numbers up to 255 are kept.
        bits: b.
        shape: 1 to 4 dimensions of 1 to 65535.
        codebook: (K,) float16, finite, non-decreasing; (0,) for raw tensors.
        data: indexes (N,) uint8 below K, or finite values (N,) float16.

    Raises:
        PackError: one of these rules is broken.
    """

    role: int
    bits: int
    shape: tuple[int, ...]
    codebook: Halves
    data: Indexes | Halves

    def __post_init__(self) -> None:
        if not 0 <= self.role <= 0xFF:
            raise PackError(f"a tensor of role {self.role}: it must fit one byte")
        check_bits(self.bits)
        check_shape(self.shape)
        self._check_arrays()
        if not np.isfinite(self.data if self.bits == RAW_BITS else self.codebook).all():
            raise PackError("a value is not finite")
        if (np.diff(self.codebook.astype(np.float32)) < 0).any():
            raise PackError("the codebook does not rise")

    def _check_arrays(self) -> None:
        """Types, lengths, and no index behind the end of the codebook."""
        raw = self.bits == RAW_BITS
        half, byte, centres, count = np.dtype(np.float16), np.dtype(np.uint8), 0 if raw else 2**self.bits, math.prod(self.shape)
        wanted = ((half, (centres,)), (half if raw else byte, (count,)))
        got = ((self.codebook.dtype, self.codebook.shape), (self.data.dtype, self.data.shape))
        if got != wanted:
            raise PackError(f"a tensor of {self.bits} bits and shape {self.shape} holds arrays of {got}, wanted {wanted}")
        if not raw and int(self.data.max()) >= centres:
            raise PackError(f"a tensor of {self.bits} bits holds index {self.data.max()}, the codebook has {centres} values")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackTensor) and self.encode() == other.encode()

    def __hash__(self) -> int:
        return hash(self.encode())

    @classmethod
    def raw(cls, role: int, values: NDArray[np.float32]) -> PackTensor:
        """Float16 as it is, for methods that do not quantize.

        Raises:
            PackError: a value that float16 cannot hold, or an impossible shape.
        """
        return cls(role, RAW_BITS, np.shape(values), np.empty(0, np.float16), _halves(np.ravel(values)))

    @classmethod
    def quantized(cls, role: int, tensor: Quantized) -> PackTensor:
        """Indexes, and a codebook rounded to float16.

        Raises:
            PackError: a centre that float16 cannot hold, or an impossible shape.
        """
        return cls(role, tensor.bits, tensor.indexes.shape, _halves(tensor.codebook), tensor.indexes.ravel())

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
        return codebook_bytes(self.bits) + data_bytes(self.data.size, self.bits)

    @property
    def size(self) -> int:
        """Length of `encode` in bytes."""
        return RECORD.size + 2 * len(self.shape) + self.payload_bytes

    def encode(self) -> bytes:
        """Record, codebook and data."""
        record = RECORD.pack(self.role, self.bits, len(self.shape)) + struct.pack(f"<{len(self.shape)}H", *self.shape)
        data = (
            self.data.astype("<f2").tobytes() if self.bits == RAW_BITS else pack_bits(np.asarray(self.data, np.uint8), self.bits)
        )
        return record + self.codebook.astype("<f2").tobytes() + data


def check_bits(bits: int) -> None:
    """Raise PackError unless tensors of `bits` bits exist."""
    if bits != RAW_BITS and not 1 <= bits <= MAX_BITS:
        raise PackError(f"a tensor of {bits} bits: 1 to {MAX_BITS} or {RAW_BITS} exist")


def check_shape(shape: tuple[int, ...]) -> None:
    """Raise PackError unless a tensor can have this shape."""
    if not 1 <= len(shape) <= MAX_DIMS or not all(1 <= n <= MAX_DIM for n in shape):
        raise PackError(f"a tensor of shape {shape}: 1 to {MAX_DIMS} dimensions of 1 to {MAX_DIM} are possible")


def codebook_bytes(bits: int) -> int:
    """Bytes of the codebook on disk."""
    return 0 if bits == RAW_BITS else 2 * 2**bits


def data_bytes(count: int, bits: int) -> int:
    """Bytes on disk of `count` indexes or values."""
    return (count * bits + 7) // 8


def pack_bits(indexes: Indexes, bits: int) -> bytes:
    """Indexes (N,) as a little-endian bit stream: index i starts at bit i * b, zero padding."""
    planes = np.unpackbits(indexes[:, None], axis=1, count=bits, bitorder="little")  # (N, b)
    return np.packbits(planes.ravel(), bitorder="little").tobytes()


def unpack_bits(data: bytes | memoryview, count: int, bits: int) -> Indexes:
    """The inverse of `pack_bits`: (count,) uint8. The padding is ignored."""
    stream = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little")
    return np.packbits(stream.reshape(count, bits), axis=1, bitorder="little")[:, 0]  # (N,)


def _halves(values: NDArray[np.floating]) -> Halves:
    """Learned values, (n,) any float type, rounded to float16."""
    with np.errstate(over="ignore", under="ignore"):
        halves = np.asarray(values).astype(np.float16)
    if not np.isfinite(halves).all():
        raise PackError("learned values are not finite in float16 (beyond 65504): the learning diverged, lower --lr")
    return halves
