"""Reading packs that nobody vouches for: a table of damages, files of other kinds, a fuzzer, and memory."""

from __future__ import annotations

import re
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from damages import DAMAGES, VALID
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import PACKS, halves, head, qcoop, quantized, record, sealed, sealed_sections, with_section, with_tensor

from edge_qprompt.errors import PackError
from edge_qprompt.pack.layout import MAX_BYTES, MAX_NAMES, MAX_SCALARS, MAX_SECTIONS
from edge_qprompt.pack.pack import Pack

# --- damages --------------------------------------------------------------------------------------


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
