"""Class names and other text in a pack: what the writer and the reader agree to take."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packs import qcoop, sealed_sections, with_section

from edge_qprompt.errors import PackError
from edge_qprompt.pack.pack import Pack, Section, names_digest_section, names_section, templates_section
from edge_qprompt.pack.section import CLASS_NAMES, PROVENANCE, TEMPLATE, TEMPLATES


def test_names_and_their_digest() -> None:
    names = (" a cat", "Köter", "犬", "🐈‍⬛", "dog", "dog")
    section = names_section(names)
    assert qcoop(sections=(section,)).class_names == names
    assert names_digest_section(names).data == hashlib.sha256(section.data).digest()


BAD_CHARACTERS = "\0\t\n\r\x0b\x0c\x1b\x1c\x1f\x7f\x85\x9b\u2028\u2029\udcff"


@pytest.mark.parametrize("character", BAD_CHARACTERS, ids=ascii)
def test_a_character_that_no_name_can_hold(character: str) -> None:
    with pytest.raises(PackError, match="line break or a control character: rename the class"):
        names_section(("cat", f"d{character}g"))
    if character != "\n":  # which the reader sees as the end of a name
        with pytest.raises(PackError, match=r"rename the class|section class names is not UTF-8"):
            Pack.decode(with_section(CLASS_NAMES.tag, f"cat\nd{character}g".encode(errors="surrogatepass")))
        with pytest.raises(PackError, match=r"control character$|is not UTF-8"):
            Section(PROVENANCE.tag, f"a{character}b".encode(errors="surrogatepass"))


@pytest.mark.parametrize("blank", ["", " ", "\u00a0", "\u2003\u3000"], ids=ascii)
def test_blank_names(blank: str) -> None:
    with pytest.raises(PackError, match="a class name is blank"):
        names_section(("cat", blank))
    with pytest.raises(PackError, match="a class name is blank"):
        Pack.decode(with_section(CLASS_NAMES.tag, f"cat\n{blank}".encode()))


def test_no_names() -> None:
    with pytest.raises(PackError, match="there are no class names"):
        names_section(())


ANY_NAME = st.text(st.one_of(st.characters(exclude_characters="\n"), st.sampled_from("\0\r\x85\u2028 \udcff")), max_size=4)


@given(st.lists(ANY_NAME, min_size=1, max_size=3))
def test_writer_and_reader_agree_on_names(names: list[str]) -> None:
    try:
        written = qcoop(sections=(names_section(names),)).encode()
    except PackError:
        written = None
    forged = sealed_sections([(CLASS_NAMES.tag, "\n".join(names).encode(errors="surrogatepass"))])
    if written is None:
        with pytest.raises(PackError):
            Pack.decode(forged)
    else:
        assert forged == written
        assert Pack.decode(forged).class_names == tuple(names)


def test_one_template_or_several() -> None:
    one, several = ("a {}.",), ("a {}.", "art of the {}.")
    assert templates_section(one) == Section(TEMPLATE.tag, b"a {}.")
    assert templates_section(several).tag == TEMPLATES.tag
    assert [qcoop(sections=(templates_section(each),)).templates for each in (one, several)] == [one, several]
    assert qcoop().templates == ()


@pytest.mark.parametrize(
    "data", [b"a {}.", b"a {}.\nb", b"a {}\n", b"a {}\n{} {}", b"a {}\n\x07{}", b"{}\n" * 128 + b"{}", b"{}\n\xff{}"]
)
def test_templates_that_no_pack_can_hold(data: bytes) -> None:
    with pytest.raises(PackError, match="templates"):
        Pack.decode(with_section(TEMPLATES.tag, data))
    with pytest.raises(PackError, match="template"):
        templates_section(("a {}.", "b\n{}"))
