"""Packs that are damaged, each in one way, and what is said of them."""

from __future__ import annotations

import numpy as np
from packs import SMALL, halves, head, record, sealed, sealed_sections, with_section, with_tensor

from edge_qprompt.pack.layout import MAX_NAMES, MAX_SECTIONS

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
    "decision of ten bytes": (with_section(5, bytes(10)), "section decision has 10 bytes, wanted 12"),
    "decision not finite": (with_section(5, halves(1, 1, 0, np.nan, 0, 0)), "section decision holds Decision("),
    "decision without a spread": (with_section(5, halves(0, 1, 0, 0, 0, 0)), "spread and distance above 0"),
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
