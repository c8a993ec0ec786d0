"""Reading packs that nobody vouches for: a table of damages, files of other kinds, a fuzzer, and memory."""

from __future__ import annotations

import re
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import PACKS, SMALL, halves, head, qcoop, quantized, record, sealed, sealed_sections, with_section, with_tensor

from edge_qprompt.errors import PackError
from edge_qprompt.pack.layout import MAX_BYTES, MAX_NAMES, MAX_SCALARS, MAX_SECTIONS
from edge_qprompt.pack.pack import Pack

# --- damages --------------------------------------------------------------------------------------

VALID = SMALL.encode()
ONE_BIT = record(1, 2) + halves(-1, 1)
DAMAGES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty: get it again"),
    "half a magic": (b"\x89Q", "the pack is 2 bytes, the smallest has 28: the file is cut short or damaged"),
    "text": (
        b"photos,labels\n" * 9,
        "not a pack: it starts with b'phot', a pack with b'\\x89QPK'; give the .qpk that `adapt` wrote",
    ),
    "zip": (b"PK\x03\x04" + bytes(99), "not a pack: it starts with b'PK\\x03\\x04'"),
    "magic of a newer family": (sealed(head(magic=b"\x89QPL")), "not a pack: it starts with b'\\x89QPL'"),
    "head cut short": (VALID[:27], "the pack is 27 bytes, the smallest has 28"),
    "version 0": (sealed(head(version=0)), "pack format version 0, this program reads 1: upgrade edge-qprompt"),
    "version 2": (sealed(head(version=2)), "pack format version 2, this program reads 1: upgrade edge-qprompt"),
    "reserved bytes of the head": (sealed(head(zeros=b"\0\0\0\1")), "reserved bytes of the head are not zero"),
    "more tensors than there are": (sealed(head(tensors=1)), "tensor 0: its record needs 4 bytes at offset 24, 0 are left"),
    "0 bits": (with_tensor(record(0, 2)), "tensor 0: a tensor of 0 bits: 1 to 8 or 16 exist"),
    "9 bits": (with_tensor(record(9, 2)), "tensor 0: a tensor of 9 bits: 1 to 8 or 16 exist"),
    "17 bits": (with_tensor(record(17, 2)), "tensor 0: a tensor of 17 bits: 1 to 8 or 16 exist"),
    "no dimensions": (with_tensor(record(1)), "tensor 0: a tensor of shape (): 1 to 4 dimensions"),
    "5 dimensions": (with_tensor(record(16, 1, 1, 1, 1, 1) + halves(1)), "tensor 0: it has 5 dimensions, 1 to 4 are possible"),
    "reserved byte of a record": (with_tensor(record(1, 2, zero=3)), "tensor 0: the reserved byte of its record is 3, not zero"),
    "shape cut short": (with_tensor(record(1, 2, dims=3)), "tensor 0: its shape needs 6 bytes at offset 28, 2 are left"),
    "an empty dimension": (with_tensor(record(1, 2, 0)), "tensor 0: a tensor of shape (2, 0): 1 to 4 dimensions of 1 to 65535"),
    "codebook cut short": (
        with_tensor(record(2, 1) + halves(1)),
        "tensor 0: its codebook needs 8 bytes at offset 30, 2 are left",
    ),
    "data cut short": (
        with_tensor(record(8, 600) + bytes(600)),
        "tensor 0: its data of shape (600,) needs 600 bytes at offset 542",
    ),
    "data cut short, raw": (
        with_tensor(record(16, 3) + halves(1)),
        "its data of shape (3,) needs 6 bytes at offset 30, 2 are left",
    ),
    "second tensor": (sealed(head(tensors=2) + ONE_BIT + b"\0"), "tensor 1: its record needs 4 bytes at offset 35, 0 are left"),
    "enormous shape": (
        with_tensor(record(1, *[65535] * 4)),
        "its shape is (65535, 65535, 65535, 65535), all tensors together can have",
    ),
    "a byte too many": (VALID + b"\0", f"the pack is {len(VALID) + 1} bytes, its head says {len(VALID)}: the file is cut short"),
    "a byte too few": (VALID[:-1], f"the pack is {len(VALID) - 1} bytes, its head says {len(VALID)}: the file is cut short"),
    "extension of 4 GiB": (sealed(head(extension=0xFFFFFFFF)), "the pack is 28 bytes, its head says 4294967323"),
    "checksum": (VALID[:-4] + bytes(4), "the checksum is "),
    "contents": (VALID.replace(b"cat", b"cut"), "the file is cut short or damaged, get it again"),
    "padding": (
        with_tensor(ONE_BIT + b"\x04"),
        "tensor 0: the padding behind the indexes is not zero: the checksum is right, so",
    ),
    "infinite centre": (
        with_tensor(record(1, 2) + halves(0, np.inf) + b"\0"),
        "tensor 0: a value is not finite: the checksum is right",
    ),
    "NaN centre": (with_tensor(record(1, 2) + halves(np.nan, 0) + b"\0"), "tensor 0: a value is not finite"),
    "NaN value": (with_tensor(record(16, 2) + halves(0, np.nan)), "tensor 0: a value is not finite"),
    "falling codebook": (with_tensor(record(1, 2) + halves(1, -1) + b"\0"), "tensor 0: the codebook does not rise"),
    "section head cut short": (
        sealed(head(extension=4) + bytes(4)),
        "section 0: its head needs 5 bytes at offset 24, 4 are left",
    ),
    "section cut short": (with_section(200, b"abc", 4), "section 0: its data (tag 200) needs 4 bytes at offset 29, 3 are left"),
    "section of 4 GiB": (with_section(200, b"", 0xFFFFFFFF), "section 0: its data (tag 200) needs 4294967295 bytes"),
    "unknown essential section": (
        with_section(127, b""),
        "the pack needs feature 127, which this program does not know: upgrade",
    ),
    "residual bias of 3 bytes": (with_section(2, bytes(3)), "section residual bias must be one finite float32"),
    "residual bias not finite": (with_section(2, b"\0\0\xc0\x7f"), "section residual bias must be one finite float32"),
    "names twice": (sealed_sections([(128, b"a"), (128, b"b")]), "the pack has more than one section class names"),
    "no names": (with_section(128, b""), "a class name is blank"),
    "names ending in a line feed": (with_section(128, b"a\nb\n"), "a class name is blank"),
    "names in Latin-1": (with_section(128, b"caf\xe9"), "section class names is not UTF-8: unexpected end of data at byte 3"),
    "overlong UTF-8": (with_section(128, b"a\xc0\x80"), "section class names is not UTF-8"),
    "names of Windows": (with_section(128, b"a\r\nb"), "class name 'a\\r' holds '\\r', a line break or a control character"),
    "names of C": (with_section(128, b"a\0b"), "class name 'a\\x00b' holds '\\x00'"),
    "short digest": (with_section(129, bytes(31)), "section names digest has 31 bytes, a SHA-256 has 32"),
    "template without a place": (with_section(1, b"a photo"), "section template is 'a photo', it must hold {} once"),
    "template with two places": (with_section(1, b"{} {}"), "section template is '{} {}', it must hold {} once"),
    "template of two lines": (with_section(1, b"a\n{}"), "section template holds '\\n'"),
    "provenance that steers the terminal": (with_section(130, b"\x1b[2J"), "section provenance holds '\\x1b'"),
    "too many sections": (sealed_sections([(200, b"")] * (MAX_SECTIONS + 1)), "more than 255 sections"),
    "too many names": (with_section(128, b"\n".join([b"a"] * (MAX_NAMES + 1))), "65536 class names, at most 65535 are possible"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage(damage: str) -> None:
    data, text = DAMAGES[damage]
    with pytest.raises(PackError, match=re.escape(text)):
        Pack.decode(data)


def test_limits_can_be_reached() -> None:
    assert len(Pack.decode(sealed_sections([(200, b"")] * MAX_SECTIONS)).sections) == MAX_SECTIONS
    names = Pack.decode(with_section(128, b"\n".join([b"a"] * MAX_NAMES))).class_names
    assert names == ("a",) * MAX_NAMES
    (tensor,) = Pack.decode(with_tensor(record(1, 4096, 4096) + halves(-1, 1) + b"\xff" * (MAX_SCALARS // 8))).tensors
    assert tensor.data.size == MAX_SCALARS
    assert tensor.data.all()


# --- files ----------------------------------------------------------------------------------------


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.write(b"\x89QPK")
        file.truncate(size)


def test_files_that_are_not_packs(tmp_path: Path) -> None:
    (tmp_path / "empty.qpk").touch()
    (tmp_path / "garbage.qpk").write_bytes(np.random.default_rng(0).bytes(10_000_000))
    (tmp_path / "text.qpk").write_text("# Flowers\n")
    with zipfile.ZipFile(tmp_path / "zip.qpk", "w") as archive:
        archive.writestr("a", "b")
    sparse(tmp_path / "huge.qpk", MAX_BYTES + 1)
    sparse(tmp_path / "large.qpk", MAX_BYTES)
    wanted = {
        "": "Is a directory): give the .qpk file that `adapt` wrote",
        "nowhere.qpk": "No such file or directory): give the .qpk file",
        "a\0b": "embedded null byte): give the .qpk file",
        "/proc/self/mem": "Input/output error): give the .qpk file",
        "empty.qpk": "the file is empty: get it again",
        "garbage.qpk": "not a pack: it starts with ",
        "text.qpk": "not a pack: it starts with b'# Fl'",
        "zip.qpk": "not a pack: it starts with b'PK\\x03\\x04'",
        "huge.qpk": "this is larger than 33554432 bytes, the most that a pack can have: it is not a pack",
        "large.qpk": "pack format version 0",
    }
    for name, text in wanted.items():
        with pytest.raises(PackError) as caught:
            Pack.open(tmp_path / name)
        assert text in str(caught.value)
        assert (ascii(name)[1:-1] or tmp_path.name) in str(caught.value)


# --- fuzz -----------------------------------------------------------------------------------------

REFERENCES = {
    "small": VALID,
    "3 bits": qcoop(quantized(3, (5,))).encode(),
    "qcoop": qcoop(quantized(1, (4, 512))).encode(),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_every_truncation_and_every_flipped_bit_is_an_error(name: str) -> None:
    data = REFERENCES[name]
    for length in range(len(data)):
        with pytest.raises(PackError):
            Pack.decode(data[:length])
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PackError):
            Pack.decode(bytes(flipped))


def pack_or_error(data: bytes) -> bool:
    """Whether it is a pack; then its bytes must come back, for there is one way to write it."""
    try:
        pack = Pack.decode(data)
    except PackError as error:
        assert str(error)
        return False
    assert pack.encode() == data
    return True


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda tail: head()[:5] + tail)))
def test_arbitrary_bytes(data: bytes) -> None:
    assert not pack_or_error(data)  # the chance of a right checksum is one in 2^32


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A valid pack's bytes with some replaced, taken out or put in, and the checksum made right again."""
    body = bytearray(draw(PACKS).encode()[:-4])
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        cut = draw(st.sampled_from([0, 1, 1, 1, 4]))
        body[at : at + cut] = draw(st.binary(min_size=cut, max_size=cut) if draw(st.booleans()) else st.binary(max_size=3))
    return sealed(bytes(body))


@settings(max_examples=300)
@given(mutations())
def test_mutations_with_a_right_checksum(data: bytes) -> None:
    pack_or_error(data)


LIKELY = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 16, 0x3C, 0x61, 127, 128, 129, 130, 200, 255])


@settings(max_examples=300)
@given(st.integers(0, 3), st.lists(LIKELY, max_size=60).map(bytes), st.integers(0, 20))
def test_a_right_head_before_likely_bytes(count: int, body: bytes, extension: int) -> None:
    pack_or_error(sealed(head(count, min(extension, len(body))) + body))


def test_a_changed_byte_under_a_right_checksum_is_sometimes_a_pack() -> None:
    found = {True: 0, False: 0}
    for at in range(len(VALID) - 4):
        for change in (0x01, 0x10, 0x80, 0xFF):
            body = bytearray(VALID[:-4])
            body[at] ^= change
            found[pack_or_error(sealed(bytes(body)))] += 1
    # free: precision, method, fingerprint, role, indexes, both centres in part, letters, an optional tag and its data
    assert found[True] > 50
    assert found[False] > 50


FULL = record(1, 4096, 4096) + halves(-1, 1) + b"\xff" * (MAX_SCALARS // 8)
HOSTILE = {
    "four dimensions of 65535": with_tensor(record(8, *[65535] * 4)),
    "all that is allowed, raw": with_tensor(record(16, 4096, 4096)),
    "255 tensors of all that is allowed": sealed(head(255) + record(8, 4096, 4096)),
    "a section of 4 GiB": with_section(200, b"", 0xFFFFFFFF),
    "an extension of 4 GiB": sealed(head(extension=0xFFFFFFFF)),
    "1 bit a value, one row too many": with_tensor(record(1, 4096, 4097) + halves(-1, 1) + bytes(4096 * 4097 // 8)),
    "one value too many in the second tensor": sealed(head(2) + FULL + record(1, 1) + halves(-1, 1) + b"\0"),
    "a wrong checksum": sealed(head(1) + FULL)[:-4] + bytes(4),
    "1e6 sections": sealed_sections([(200, b"")] * 1_000_000),
    "1e6 names": with_section(128, b"\n".join([b"a"] * 1_000_000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_claims_cost_no_memory(name: str) -> None:
    data = HOSTILE[name]
    tracemalloc.start()
    try:
        with pytest.raises(PackError):
            Pack.decode(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000 + (2 * len(data) if name == "1e6 names" else 0)  # its text is in memory once, as bytes and as str
