"""Text to token ids, with the backbone's own `tokenizer.json` (Hugging Face's format).

Read by onnxruntime-extensions, which gives the ids of Hugging Face's `tokenizers` (tested on many
scripts) and spares a device that library's 45 MB of downloaders: docs/adr/0002-libraries.md.
"""

from __future__ import annotations

import html
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_qprompt.backbone.manifest import TextConfig
from edge_qprompt.errors import BackboneError, PromptError

MAX_NAME_CHARS = 1000  # far beyond any context; bounds the tokenizer's work
FULL_WIDTH = range(0xFF01, 0xFF5F)
LIGATURES = range(0xFB00, 0xFB07)
# What open_clip's ftfy would change in clean UTF-8: curly quotes, ligatures, full-width letters.
PLAIN = {ord(curly): straight for curly, straight in zip("‘’‚‛“”„‟", "''''\"\"\"\"", strict=True)} | {
    code: unicodedata.normalize("NFKC", chr(code)) for code in (*FULL_WIDTH, *LIGATURES)
}


class Tokenizer:
    """OpenAI-type BPE: lower-cased, white space folded, without special tokens.

    Args:
        folder: of the backbone, with tokenizer.json and tokenizer_config.json.
        config: of its text tower.

    Raises:
        BackboneError: the files are missing or damaged.
    """

    def __init__(self, folder: Path, config: TextConfig) -> None:
        library = _library()
        try:
            self._bpe = library.Tokenizer(str(folder))
        except Exception as error:  # the binding raises bare exceptions
            raise BackboneError(f"{folder} has no tokenizer that can be read ({error}): export the backbone again") from error
        self.config = config

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` without SOT and EOT.

        Raises:
            PromptError: the text is empty, absurdly long or not printable Unicode.
        """
        cleaned = " ".join(html.unescape(html.unescape(text)).translate(PLAIN).split())
        if not cleaned or len(cleaned) > MAX_NAME_CHARS:
            raise PromptError(f"a name must have 1 to {MAX_NAME_CHARS} characters, got {len(cleaned)}: {text[:40]!r}")
        if bad := [char for char in cleaned if unicodedata.category(char) in ("Cc", "Cs")]:
            raise PromptError(f"the name {text[:40]!r} holds {bad[0]!r}, which is no text: give the class another name")
        ids = [int(token) for token in self._bpe.tokenize(cleaned)]
        if not ids:
            raise PromptError(f"the tokenizer makes nothing of {text[:40]!r}: give the class a name in letters")
        return ids

    def fit(self, texts: Sequence[str], reserved: int) -> list[list[int]]:
        """Token ids of all texts, checked against the context.

        Args:
            texts: what follows SOT and the learned tokens, e.g. "tabby cat.".
            reserved: tokens of the context that are taken: learned ones, SOT and EOT.

        Raises:
            PromptError: names every text that does not fit.
        """
        room = max(0, self.config.context_length - reserved)
        rows = [self.encode(text) for text in texts]
        if long := [f"{text!r} ({len(row)} tokens)" for text, row in zip(texts, rows, strict=True) if len(row) > room]:
            raise PromptError(
                f"too long for the context of {self.config.context_length} tokens, of which {room} are left for a name: "
                f"{', '.join(long[:5])}{' ...' if len(long) > 5 else ''}; give shorter names with --names, or lower --ctx"
            )
        return rows


def _library() -> Any:
    """onnxruntime-extensions, imported late for those who only read packs, and without its half that converts models.

    That half needs onnx, and where it finds onnx it imports torch, which takes seconds: so onnx is hidden meanwhile.
    """
    hidden = {} if "onnx" in sys.modules else {"onnx": None}
    sys.modules.update(hidden)  # type: ignore[arg-type]  # None makes an import fail
    try:
        from onnxruntime_extensions import pp_api
    finally:
        for name in hidden:
            del sys.modules[name]
    return pp_api
