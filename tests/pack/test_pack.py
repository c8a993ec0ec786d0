"""The pack format, written and read back: golden bytes, sizes, round trips, names, and what the writer refuses."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from common import ROOT
from hypothesis import given
from packs import FINGERPRINT, PACKS, SMALL, qcoop, quantized

from edge_qprompt.codebook import Quantized
from edge_qprompt.errors import PackError
from edge_qprompt.learn import METHODS
from edge_qprompt.pack import pack as pack_module
from edge_qprompt.pack.layout import MAX_BYTES
from edge_qprompt.pack.pack import Pack, PackTensor, Precision, Role, Section, names_section
from edge_qprompt.pack.section import TEMPLATE

FORMAT = ROOT / "docs" / "pack-format.md"


# --- golden bytes ---------------------------------------------------------------------------------

HEAD_OF_ONE = "8951504b0100010200000000" + "0123456789abcdef" + "00000000"
GOLDEN = {
    "template only": (
        Pack(FINGERPRINT, METHODS["zero-shot"].number, Precision.INT8, (), (Section(TEMPLATE.tag, b"a {}."),)),
        "8951504b01010000" + "0a000000" + "0123456789abcdef" + "00000000" + "01" + "05000000" + "61207b7d2e" + "30ea4c61",
    ),
    "3 bits across bytes": (
        qcoop(PackTensor.quantized(1, Quantized(np.arange(8.0), np.array([1, 2, 3, 4, 5], np.uint8), 3))),
        HEAD_OF_ONE + "01030100" + "0500" + "0000003c004000420044004500460047" + "d158" + "d1a2c07a",
    ),
    "raw": (
        qcoop(PackTensor.raw(1, np.array([[1, -2]], np.float32))),
        HEAD_OF_ONE + "01100200" + "01000200" + "003c00c0" + "12a2c6c7",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes(name: str) -> None:
    pack, wanted = GOLDEN[name]
    assert pack.encode().hex() == wanted
    assert Pack.decode(bytes.fromhex(wanted)) == pack


@pytest.mark.parametrize(
    ("bits", "width", "payload", "size"),
    [
        (1, 512, 260, 296),
        (2, 512, 520, 556),
        (4, 512, 1056, 1092),
        (16, 512, 4096, 4132),
        (1, 256, 132, 168),
        (2, 256, 264, 300),
        (4, 256, 544, 580),
        (16, 256, 2048, 2084),
    ],
)
def test_sizes(bits: int, width: int, payload: int, size: int) -> None:
    tensor = PackTensor.raw(1, np.ones((4, width), np.float32)) if bits == 16 else quantized(bits, (4, width))
    pack = qcoop(tensor)
    assert (tensor.payload_bytes, tensor.paper_bits) == (payload, 8 * payload)
    assert (pack.size, len(pack.encode())) == (size, size)


def test_sizes_in_the_specification() -> None:
    rows = {
        line.split("|")[1].strip(): re.findall(r"\d+(?= \|)", line) for line in FORMAT.read_text().splitlines() if "4 x " in line
    }
    wanted = {width: [quantized(b, (4, width)) for b in (1, 2, 4)] for width in (512, 256)}
    raw = {width: PackTensor.raw(1, np.ones((4, width), np.float32)) for width in (512, 256)}
    tensors = {width: [*wanted[width], raw[width]] for width in (512, 256)}
    assert rows == {
        "codebook and data, 4 x 512 (the paper's b N + 16 K bits)": [str(t.payload_bytes) for t in tensors[512]],
        "pack, 4 x 512, without names": [str(qcoop(t).size) for t in tensors[512]],
        "pack, 4 x 256, without names": [str(qcoop(t).size) for t in tensors[256]],
    }


def test_hex_dump_in_the_specification() -> None:
    text = FORMAT.read_text()
    lines = re.search(r"```hexdump\n(.*?)```", text, re.S)[1].splitlines()
    wanted = json.loads(re.search(r"```json\n(.*?)```", text, re.S)[1])
    data = b""
    for line in lines:
        offset, rest = line[:4], line[6:].split("  ")[0]
        assert int(offset, 16) == len(data), line
        data += bytes.fromhex(rest)
    pack = Pack.decode(data)
    (tensor,) = pack.tensors
    assert wanted == {
        "size": len(data),
        "pack_id": hashlib.sha256(data).hexdigest(),
        "precision": pack.precision,
        "method": pack.method,
        "fingerprint": pack.fingerprint.hex(),
        "role": tensor.role,
        "bits": tensor.bits,
        "codebook": tensor.codebook.tolist(),
        "indexes": tensor.data.reshape(tensor.shape).tolist(),
        "values": tensor.values().tolist(),
        "class_names": list(pack.class_names or ()),
    }
    assert pack.encode() == data
    assert pack.pack_id == wanted["pack_id"]


def test_public_names() -> None:
    assert [name for name in pack_module.__all__ if not hasattr(pack_module, name)] == []
    assert pack_module.SECTION.size == 5


# --- round trips ----------------------------------------------------------------------------------


@given(PACKS)
def test_round_trip(pack: Pack) -> None:
    data = pack.encode()
    again = Pack.decode(data)
    assert len(data) == pack.size
    assert again == pack
    assert hash(again) == hash(pack)
    assert again.encode() == data
    assert [s.data for s in again.sections] == [s.data for s in pack.sections]
    for tensor, wanted in zip(again.tensors, pack.tensors, strict=True):
        np.testing.assert_array_equal(tensor.data, wanted.data)
        np.testing.assert_array_equal(tensor.values(), wanted.values())


@pytest.mark.parametrize("bits", [*range(1, 9), 16])
@pytest.mark.parametrize("shape", [(65535,), (3, 7), (2, 3, 5), (1, 1, 1, 1)])
def test_every_number_of_bits_in_every_number_of_dimensions(bits: int, shape: tuple[int, ...]) -> None:
    if bits == 16:
        values = np.random.default_rng(0).normal(size=shape).astype(np.float16).astype(np.float32)
        tensor = PackTensor.raw(Role.CTX, values)
    else:
        tensor = quantized(bits, shape)
        values = tensor.codebook.astype(np.float32)[tensor.data].reshape(shape)
    again = Pack.decode(qcoop(tensor).encode()).tensor(Role.CTX)
    assert again is not None
    assert again.values().dtype == np.float32
    np.testing.assert_array_equal(again.values(), values)


def test_the_bit_stream_is_the_one_of_the_c_code_in_the_specification() -> None:
    for bits in range(1, 9):
        tensor = quantized(bits, (37,))
        stream = tensor.encode()[-((37 * bits + 7) // 8) :]
        number = int.from_bytes(stream, "little")
        assert [number >> (i * bits) & (2**bits - 1) for i in range(37)] == tensor.data.tolist()


def test_unknown_numbers_and_optional_sections_are_kept() -> None:
    tensor = PackTensor(77, 16, (1,), np.empty(0, np.float16), np.ones(1, np.float16))
    pack = Pack(FINGERPRINT, 99, 98, (tensor,), (Section(131, b"\x00\xff"), Section(255, b""), Section(131, b"again")))
    again = Pack.decode(pack.encode())
    assert (again.method, again.precision, again.tensors[0].role) == (99, 98, 77)
    assert [(s.tag, s.data) for s in again.sections] == [(131, b"\x00\xff"), (255, b""), (131, b"again")]
    assert (again.class_names, again.template, again.tensor(Role.CTX)) == (None, None, None)


def test_packs_that_differ_are_not_equal() -> None:
    others = [
        Pack(FINGERPRINT, METHODS["coop"].number, Precision.FP32, SMALL.tensors, SMALL.sections),
        Pack(FINGERPRINT, METHODS["qcoop"].number, Precision.INT8, SMALL.tensors, SMALL.sections),
        Pack(bytes(8), METHODS["qcoop"].number, Precision.FP32, SMALL.tensors, SMALL.sections),
        qcoop(quantized(1, (2, 5), seed=1), sections=SMALL.sections),
        qcoop(quantized(1, (5, 2)), sections=SMALL.sections),
        qcoop(*SMALL.tensors, sections=SMALL.sections[::-1]),
        qcoop(sections=SMALL.sections),
    ]
    assert len({SMALL.pack_id, *(other.pack_id for other in others)}) == len(others) + 1
    assert SMALL not in others
    assert SMALL.tensors[0] != SMALL.sections[0]


def test_identity_is_the_sha256_of_the_file(tmp_path: Path) -> None:
    SMALL.save(tmp_path / "small.qpk")
    data = (tmp_path / "small.qpk").read_bytes()
    assert hashlib.sha256(data).hexdigest() == SMALL.pack_id == Pack.open(tmp_path / "small.qpk").pack_id


# --- what the writer refuses ----------------------------------------------------------------------


def tensor_of(bits: int, shape: tuple[int, ...], codebook: object, data: object) -> PackTensor:
    return PackTensor(1, bits, shape, np.asarray(codebook), np.asarray(data))


HALF, BYTES = np.float16, np.uint8
REFUSED = {
    "short fingerprint": (lambda: Pack(b"1234567", 0, 0), "a pack carries 8 bytes of fingerprint, got 7"),
    "method of two bytes": (lambda: Pack(FINGERPRINT, 256, 0), "method is 256, it must fit one byte"),
    "negative precision": (lambda: Pack(FINGERPRINT, 0, -1), "precision is -1, it must fit one byte"),
    "256 tensors": (lambda: qcoop(*[quantized(1, (1,))] * 256), "the pack would have 256 tensors, at most 255 are possible"),
    "256 sections": (lambda: qcoop(sections=(Section(200, b""),) * 256), "the pack would have 256 sections, at most 255"),
    "too many values": (lambda: qcoop(*[quantized(1, (60000, 99))] * 3), "17820000 values in its tensors, at most 16777216"),
    "too many bytes": (
        lambda: qcoop(sections=(Section(200, bytes(MAX_BYTES - 32)),)),
        "would have 33554433 bytes, at most 33554432",
    ),
    "names twice": (lambda: qcoop(sections=(names_section("a"), names_section("b"))), "more than one section class names"),
    "unknown essential section": (lambda: Section(127, b""), "the pack needs feature 127"),
    "tag of two bytes": (lambda: Section(256, b""), "a section of tag 256"),
    "role of two bytes": (lambda: PackTensor.raw(256, np.ones(1, np.float32)), "a tensor of role 256"),
    "0 dimensions": (lambda: PackTensor.raw(1, np.float32(1)), "a tensor of shape (): 1 to 4 dimensions"),
    "5 dimensions": (lambda: quantized(1, (1, 1, 1, 1, 1)), "a tensor of shape (1, 1, 1, 1, 1): 1 to 4 dimensions"),
    "an empty tensor": (lambda: PackTensor.raw(1, np.ones((2, 0), np.float32)), "a tensor of shape (2, 0)"),
    "a long tensor": (lambda: quantized(1, (65536,)), "a tensor of shape (65536,): 1 to 4 dimensions of 1 to 65535"),
    "9 bits": (lambda: tensor_of(9, (1,), np.zeros(512, HALF), np.zeros(1, BYTES)), "a tensor of 9 bits"),
    "too large a value": (lambda: PackTensor.raw(1, np.array([7e4], np.float32)), "the learning diverged, lower --lr"),
    "NaN": (lambda: PackTensor.raw(1, np.array([np.nan], np.float32)), "the learning diverged, lower --lr"),
    "too large a centre": (
        lambda: PackTensor.quantized(1, Quantized(np.array([0, 7e4]), np.zeros(1, BYTES), 1)),
        "the learning diverged, lower --lr",
    ),
    "codebook of another length": (lambda: tensor_of(2, (1,), np.zeros(2, HALF), np.zeros(1, BYTES)), "holds arrays of"),
    "data of another length": (lambda: tensor_of(1, (2,), np.zeros(2, HALF), np.zeros(1, BYTES)), "holds arrays of"),
    "data of another type": (lambda: tensor_of(1, (1,), np.zeros(2, HALF), np.zeros(1, np.int64)), "holds arrays of"),
    "codebook of another type": (lambda: tensor_of(1, (1,), np.zeros(2), np.zeros(1, BYTES)), "holds arrays of"),
    "index behind the codebook": (
        lambda: tensor_of(1, (1,), np.zeros(2, HALF), np.full(1, 2, BYTES)),
        "holds index 2, the codebook has 2",
    ),
    "falling codebook": (lambda: tensor_of(1, (1,), np.array([1, 0], HALF), np.zeros(1, BYTES)), "the codebook does not rise"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_writer_refuses_what_the_reader_would(what: str) -> None:
    make, text = REFUSED[what]
    with pytest.raises(PackError, match=re.escape(text)):
        make()
