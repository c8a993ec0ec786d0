"""What a pack holds behind its tensors: class names and other sections, and the rules for their text.

A section checks itself, so the writer cannot make one that the reader refuses.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from edge_qprompt.errors import PackError
from edge_qprompt.pack.layout import ESSENTIAL_BELOW, MAX_NAMES, MAX_TEMPLATES, SECTION

SHA256_BYTES = 32
FLOAT = struct.Struct("<f")
# what would break a line, a terminal or a C string; surrogates (file names that are not UTF-8) have no UTF-8
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Tag(IntEnum):
    """What a section holds. Tags below 128 are essential: a reader that does not know one refuses."""

    TEMPLATE = 1
    RESIDUAL_BIAS = 2
    TEMPLATES = 3
    SHARED_ADAPTER = 4
    CLASS_NAMES = 128
    NAMES_DIGEST = 129
    PROVENANCE = 130


KNOWN = frozenset(Tag)


@dataclass(frozen=True)
class Section:
    """One section, kept byte for byte where its tag is unknown and optional.

    Attributes:
        tag: 0 to 255.
        data: what belongs to the tag.

    Raises:
        PackError: an unknown essential tag, or data that break the rules of a known one.
    """

    tag: int
    data: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.tag <= 0xFF:
            raise PackError(f"a section of tag {self.tag}: it must fit one byte")
        if self.tag in KNOWN:
            _check_known(Tag(self.tag), self.data)
        elif self.tag < ESSENTIAL_BELOW:
            raise PackError(f"the pack needs feature {self.tag}, which this program does not know: upgrade edge-qprompt")

    @property
    def size(self) -> int:
        """Length of `encode` in bytes."""
        return SECTION.size + len(self.data)

    def encode(self) -> bytes:
        """Tag, length and data."""
        return SECTION.pack(self.tag, len(self.data)) + self.data


def names_section(names: Sequence[str]) -> Section:
    """Class names, in the order of the labels, as a section: UTF-8, one a line.

    Raises:
        PackError: none or more than MAX_NAMES of them, or a name that is blank or holds a line break or a control character.
    """
    if not names:
        raise PackError("there are no class names: give at least one")
    for name in names:
        _check_name(name)  # before the join, which would hide a line break
    return Section(Tag.CLASS_NAMES, "\n".join(names).encode())


def names_digest_section(names: Sequence[str]) -> Section:
    """SHA-256 of what `names_section` holds, for names that are kept elsewhere."""
    return Section(Tag.NAMES_DIGEST, hashlib.sha256(names_section(names).data).digest())


def templates_section(templates: Sequence[str]) -> Section:
    """One or more hand-written prompts.

    Raises:
        PackError: there are none or too many, or one does not hold {} once, or holds a line break or a control character.
    """
    for template in templates:
        _check_template(template, "template")  # before the join, which would hide a line break
    return Section(Tag.TEMPLATE if len(templates) == 1 else Tag.TEMPLATES, "\n".join(templates).encode())


def _check_known(tag: Tag, data: bytes) -> None:
    kind = tag.name.lower()
    if tag in (Tag.NAMES_DIGEST, Tag.SHARED_ADAPTER):
        if len(data) != SHA256_BYTES:
            raise PackError(f"section {kind} has {len(data)} bytes, a SHA-256 has {SHA256_BYTES}")
        return
    if tag == Tag.RESIDUAL_BIAS:
        if len(data) != FLOAT.size or not math.isfinite(FLOAT.unpack(data)[0]):
            raise PackError(f"section {kind} must be one finite float32")
        return
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise PackError(f"section {kind} is not UTF-8: {error.reason} at byte {error.start}") from error
    if tag == Tag.CLASS_NAMES:
        _check_names(text)
    elif tag == Tag.TEMPLATES:
        _check_templates(text)
    elif tag == Tag.TEMPLATE:
        _check_template(text, kind)
    else:
        _check_printable(text, kind)


def _check_printable(text: str, kind: str) -> None:
    if found := UNPRINTABLE.search(text):
        raise PackError(f"section {kind} holds {found[0]!r}, a line break or a control character")


def _check_template(text: str, kind: str) -> None:
    _check_printable(text, kind)
    if text.count("{}") != 1:
        raise PackError(f"section {kind} is {text[:80]!r}, it must hold {{}} once, where the class name goes")


def _check_templates(text: str) -> None:
    count = text.count("\n") + 1
    if not 2 <= count <= MAX_TEMPLATES:
        raise PackError(f"section templates holds {count} templates, 2 to {MAX_TEMPLATES} are possible")
    for template in text.split("\n"):
        _check_template(template, "templates")


def _check_names(text: str) -> None:
    count = text.count("\n") + 1
    if count > MAX_NAMES:  # counted before they are split, which takes 50 bytes a name
        raise PackError(f"{count} class names, at most {MAX_NAMES} are possible")
    for name in text.split("\n"):
        _check_name(name)


def _check_name(name: str) -> None:
    if not name.strip():
        raise PackError(f"a class name is blank ({name[:40]!r}): give every class a name")
    if found := UNPRINTABLE.search(name):
        raise PackError(f"class name {name[:40]!r} holds {found[0]!r}, a line break or a control character: rename the class")
