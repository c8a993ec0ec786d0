"""What a pack holds behind its tensors: class names and other sections.

A kind of section is one entry below: its number, how a value becomes bytes, and how bytes become a value, which checks them.
A section reads itself, so the writer cannot make one that the reader refuses.

    names = CLASS_NAMES.section(("cat", "dog"))
    pack.get(CLASS_NAMES)                          ("cat", "dog"), or None where the pack has none
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from edge_qprompt.errors import PackError
from edge_qprompt.pack.layout import ESSENTIAL_BELOW, MAX_NAMES, MAX_TEMPLATES, SECTION

T = TypeVar("T")
FLOAT = struct.Struct("<f")
DECISION_NUMBERS = struct.Struct("<6e")
# what would break a line, a terminal or a C string; surrogates (file names that are not UTF-8) have no UTF-8
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Section:
    """One section, kept byte for byte where its tag is unknown and optional.

    Attributes:
        tag: 0 to 255; below 128 it is essential: a reader that does not know it refuses.
        data: what belongs to the tag.

    Raises:
        PackError: an unknown essential tag, or data that break the rules of a known one.
    """

    tag: int
    data: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.tag <= 0xFF:
            raise PackError(f"a section of tag {self.tag}: it must fit one byte")
        if kind := KINDS.get(self.tag):
            kind.read(self.data)
        elif self.tag < ESSENTIAL_BELOW:
            raise PackError(f"the pack needs feature {self.tag}, which this program does not know: upgrade edge-qprompt")

    @property
    def size(self) -> int:
        """Length of `encode` in bytes."""
        return SECTION.size + len(self.data)

    def encode(self) -> bytes:
        """Tag, length and data."""
        return SECTION.pack(self.tag, len(self.data)) + self.data


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A kind of section; made by `kind`.

    Attributes:
        tag: as of `Section`; a pack has at most one of each kind.
        name: for people.
        write: a value as bytes; may raise a PackError about a value that would read as another one.
        read: bytes as a value; raises a PackError about all that are none.
    """

    tag: int
    name: str
    write: Callable[[Any], bytes]
    read: Callable[[bytes], T]

    def section(self, value: T) -> Section:
        """A value as a section.

        Raises:
            PackError: a value that cannot be one.
        """
        return Section(self.tag, self.write(value))


class Decision(NamedTuple):
    """The numbers of a discriminant that belong to no class; docs/pack-format.md has the formulas. All fit float16.

    Attributes:
        spread: logits that are one standard deviation of the classes' scores.
        distance: mean distance of a photo's feature from the mean feature.
        unknown: familiarity below which a photo shows none of the classes.
        text: weight of the cosine with a class's name.
        seen_text: weight of the names in the choice between classes with photos and classes without.
        seen: where that choice lies.
    """

    spread: float
    distance: float
    unknown: float
    text: float
    seen_text: float
    seen: float


KINDS: dict[int, Kind[Any]] = {}  # by tag


def kind(tag: int, name: str, write: Callable[[Any], bytes], read: Callable[[str, bytes], T]) -> Kind[T]:
    """One more kind, known to every reader and writer from now on.

    Args:
        tag, name, write: as of `Kind`.
        read: as of `Kind`, given the name too, for its errors.
    """
    made = Kind(tag, name, write, lambda data: read(name, data))
    if KINDS.setdefault(tag, made) is not made:
        raise PackError(f"the sections {KINDS[tag].name} and {name} have the tag {tag}: change one")
    return made


def names_section(names: Sequence[str]) -> Section:
    """Class names, in the order of the labels.

    Raises:
        PackError: none or more than MAX_NAMES of them, or a name that is blank or holds a line break or a control character.
    """
    return CLASS_NAMES.section(tuple(names))


def names_digest_section(names: Sequence[str]) -> Section:
    """SHA-256 of what `names_section` holds, for names that are kept elsewhere."""
    return NAMES_DIGEST.section(hashlib.sha256(names_section(names).data).digest())


def templates_section(templates: Sequence[str]) -> Section:
    """One or more hand-written prompts.

    Raises:
        PackError: there are none or too many, or one does not hold {} once, or holds a line break or a control character.
    """
    return TEMPLATE.section(templates[0]) if len(templates) == 1 else TEMPLATES.section(tuple(templates))


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PackError(f"section {name} is not UTF-8: {error.reason} at byte {error.start}") from error


def _printable(name: str, text: str) -> str:
    if found := UNPRINTABLE.search(text):
        raise PackError(f"section {name} holds {found[0]!r}, a line break or a control character")
    return text


def _template(name: str, text: str) -> str:
    if _printable(name, text).count("{}") != 1:
        raise PackError(f"section {name} is {text[:80]!r}, it must hold {{}} once, where the class name goes")
    return text


def _templates(name: str, data: bytes) -> tuple[str, ...]:
    lines = tuple(_text(name, data).split("\n"))
    if not 2 <= len(lines) <= MAX_TEMPLATES:
        raise PackError(f"section {name} holds {len(lines)} templates, 2 to {MAX_TEMPLATES} are possible")
    return tuple(_template(name, line) for line in lines)


def _names(name: str, data: bytes) -> tuple[str, ...]:
    count = data.count(b"\n") + 1
    if count > MAX_NAMES:  # counted before they are split, which takes 50 bytes a name
        raise PackError(f"{count} class names, at most {MAX_NAMES} are possible")
    names = tuple(_text(name, data).split("\n"))
    for each in names:
        _check_name(each)
    return names


def _check_name(name: str) -> None:
    if not name.strip():
        raise PackError(f"a class name is blank ({name[:40]!r}): give every class a name")
    if found := UNPRINTABLE.search(name):
        raise PackError(f"class name {name[:40]!r} holds {found[0]!r}, a line break or a control character: rename the class")


def _write_names(names: Sequence[str]) -> bytes:
    if not names:
        raise PackError("there are no class names: give at least one")
    for name in names:
        _check_name(name)  # before the join, which would hide a line break
    return "\n".join(names).encode()


def _write_templates(templates: Sequence[str]) -> bytes:
    return "\n".join(_template("template", template) for template in templates).encode()


def _finite(name: str, data: bytes) -> float:
    if len(data) != FLOAT.size or not math.isfinite(value := float(FLOAT.unpack(data)[0])):
        raise PackError(f"section {name} must be one finite float32")
    return value


def _write_decision(decision: Decision) -> bytes:
    try:
        return DECISION_NUMBERS.pack(*decision)
    except (OverflowError, struct.error) as error:
        raise PackError(f"a number of {decision} does not fit float16: learn it again") from error


def _decision(name: str, data: bytes) -> Decision:
    if len(data) != DECISION_NUMBERS.size:
        raise PackError(f"section {name} has {len(data)} bytes, wanted {DECISION_NUMBERS.size}")
    decision = Decision(*DECISION_NUMBERS.unpack(data))
    if not all(map(math.isfinite, decision)) or min(decision.spread, decision.distance) <= 0:
        raise PackError(f"section {name} holds {decision}: numbers must be finite, spread and distance above 0")
    return decision


def _sha256(name: str, data: bytes) -> bytes:
    if len(data) != (most := hashlib.sha256().digest_size):
        raise PackError(f"section {name} has {len(data)} bytes, a SHA-256 has {most}")
    return data


TEMPLATE = kind(1, "template", lambda text: _write_templates((text,)), lambda name, data: _template(name, _text(name, data)))
RESIDUAL_BIAS = kind(2, "residual bias", FLOAT.pack, _finite)
TEMPLATES = kind(3, "templates", _write_templates, _templates)
SHARED_ADAPTER = kind(4, "shared adapter", bytes.fromhex, lambda name, data: _sha256(name, data).hex())
DECISION = kind(5, "decision", _write_decision, _decision)
CLASS_NAMES = kind(128, "class names", _write_names, _names)
NAMES_DIGEST = kind(129, "names digest", bytes, _sha256)
PROVENANCE = kind(
    130,
    "provenance",
    lambda text: _printable("provenance", text).encode(),
    lambda name, data: _printable(name, _text(name, data)),
)
