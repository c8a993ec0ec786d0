"""Token ids: ours, read by onnxruntime-extensions, against Hugging Face's library and open_clip."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer as HuggingFace

from edge_qprompt import Backbone
from edge_qprompt.errors import PromptError
from exporter.source.source import import_open_clip

ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "éèüößñçåøæœÀÉ абвгдеёжАБВ αβγδεΑΒΓ 日本語写真犬猫 ひらがなカタカナ 한국어 हिन्दी ไทยภาษา عربي עברית 😀🐶🇩🇪 ²³½Ⅷ①٣".replace(
        " ", ""
    ),
)


def strings(count: int) -> list[str]:
    rng = random.Random(0)
    pool = ALPHABETS[0] * 2 + ALPHABETS[1]
    made = (" ".join("".join(rng.choices(pool, k=rng.randint(1, 24))).split()) for _ in range(count))
    return [text for text in made if text]


def test_the_ids_of_hugging_face() -> None:
    ours = Backbone.open("nano").tokenizer
    theirs = HuggingFace.from_file(str(Backbone.open("nano").folder / "tokenizer.json"))
    texts = [text for text in strings(3000) if "&" not in text]  # & begins HTML entities, which we unescape first
    assert [ours.encode(text) for text in texts] == [theirs.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        "tabby cat.",
        "Men’s “shoes”",
        "ﬁsh &amp; chips",
        "ＦＵＬＬ width",
        "  two \t spaces\n",
        "don't",
        "café au lait",
        "T-shirt/top",
    ],
)
def test_the_ids_of_open_clip(text: str) -> None:
    assert Backbone.open("nano").tokenizer.encode(text) == import_open_clip().tokenizer.SimpleTokenizer().encode(text)


def test_special_tokens_in_a_name_are_plain_text() -> None:
    config = Backbone.open("nano").manifest.text
    for text in ("<end_of_text>", "<start_of_text> cat", "<|endoftext|>"):
        assert not {config.sot, config.eot} & set(Backbone.open("nano").tokenizer.encode(text))


@pytest.mark.parametrize("text", ["", "   ", "x" * 1001, "nul\0byte", "bell\a", "half \ud800 pair"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(PromptError, match="name"):
        Backbone.open("nano").tokenizer.encode(text)
