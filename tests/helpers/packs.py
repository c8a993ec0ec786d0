"""Packs for the tests: valid ones, forged ones with a right checksum, and a strategy that makes any."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from hypothesis import strategies as st

from edge_qprompt.codebook import Quantized
from edge_qprompt.learn import METHODS
from edge_qprompt.pack.pack import Pack, PackTensor, Precision, Role, Section, names_digest_section, names_section
from edge_qprompt.pack.section import DECISION, PROVENANCE, RESIDUAL_BIAS, SHARED_ADAPTER, TEMPLATE, TEMPLATES, Decision

FINGERPRINT = bytes.fromhex("0123456789abcdef")


def quantized(bits: int, shape: tuple[int, ...], seed: int = 0) -> PackTensor:
    rng = np.random.default_rng(seed)
    indexes = rng.integers(0, 2**bits, shape, np.uint8)
    return PackTensor.quantized(Role.CTX, Quantized(np.sort(rng.normal(size=2**bits)), indexes, bits))


def qcoop(*tensors: PackTensor, sections: tuple[Section, ...] = ()) -> Pack:
    return Pack(FINGERPRINT, METHODS["qcoop"].number, Precision.FP32, tensors, sections)


SMALL = qcoop(quantized(1, (2, 5)), sections=(names_section(("cat", "dog")), Section(200, b"\x00\xff")))


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def head(tensors: int = 0, extension: int = 0, *, magic: bytes = b"\x89QPK", version: int = 1, zeros: bytes = bytes(4)) -> bytes:
    return magic + bytes([version, 0, tensors, 2]) + struct.pack("<I", extension) + FINGERPRINT + zeros


def record(bits: int, *shape: int, dims: int | None = None, zero: int = 0) -> bytes:
    return bytes([1, bits, len(shape) if dims is None else dims, zero]) + struct.pack(f"<{len(shape)}H", *shape)


def with_tensor(tensor: bytes) -> bytes:
    return sealed(head(tensors=1) + tensor)


def with_section(tag: int, data: bytes, length: int | None = None) -> bytes:
    section = struct.pack("<BI", tag, len(data) if length is None else length) + data
    return sealed(head(extension=len(section)) + section)


def halves(*values: float) -> bytes:
    return np.array(values, "<f2").tobytes()


def sealed_sections(sections: list[tuple[int, bytes]]) -> bytes:
    body = b"".join(struct.pack("<BI", tag, len(data)) + data for tag, data in sections)
    return sealed(head(extension=len(body)) + body)


FINITE = st.floats(width=16, allow_nan=False, allow_infinity=False)
ABOVE = st.floats(min_value=2**-24, max_value=65504, width=16)
NAME_CHARS = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])
NAMES = st.lists(st.text(NAME_CHARS, min_size=1, max_size=12).filter(str.strip), min_size=1, max_size=5)
TEXT = st.text(NAME_CHARS, max_size=20)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@st.composite
def tensors(draw: st.DrawFn) -> PackTensor:
    bits, shape, role = draw(st.sampled_from([*range(1, 9), 16])), draw(SHAPES), draw(st.integers(0, 255))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = int(np.prod(shape))
    if bits == 16:
        values = draw(st.lists(FINITE, min_size=count, max_size=count)) if count <= 10 else rng.normal(size=count)
        return PackTensor(role, bits, shape, np.empty(0, np.float16), np.array(values, np.float16))
    centres = draw(st.lists(FINITE, min_size=2**bits, max_size=2**bits)) if bits <= 3 else rng.normal(size=2**bits)
    codebook = np.sort(np.array(centres, np.float16))
    return PackTensor(role, bits, shape, codebook, rng.integers(0, 2**bits, count, np.uint8))


@st.composite
def section_lists(draw: st.DrawFn) -> tuple[Section, ...]:
    known = [
        names_section(draw(NAMES)),
        names_digest_section(draw(NAMES)),
        Section(PROVENANCE.tag, draw(TEXT).encode()),
        Section(RESIDUAL_BIAS.tag, struct.pack("<f", draw(st.floats(width=32, allow_nan=False, allow_infinity=False)))),
        DECISION.section(Decision(*draw(st.tuples(ABOVE, ABOVE, FINITE, FINITE, FINITE, FINITE)))),
        Section(SHARED_ADAPTER.tag, draw(st.binary(min_size=32, max_size=32))),
        Section(TEMPLATES.tag, "\n".join("{}" + draw(TEXT).replace("}", "") for _ in range(draw(st.integers(2, 4)))).encode()),
        Section(TEMPLATE.tag, (draw(TEXT).replace("{", "") + "{}" + draw(TEXT).replace("}", "")).encode()),
    ]
    unknown = draw(st.lists(st.builds(Section, st.integers(131, 255), st.binary(max_size=20)), max_size=4))
    chosen = draw(st.lists(st.sampled_from(range(len(known))), unique=True))
    return tuple(draw(st.permutations([*(known[i] for i in chosen), *unknown])))


BYTE = st.integers(0, 255)
PACKS = st.builds(
    Pack, st.binary(min_size=8, max_size=8), BYTE, BYTE, st.lists(tensors(), max_size=3).map(tuple), section_lists()
)
