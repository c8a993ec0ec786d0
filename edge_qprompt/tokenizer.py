"""Text to token ids, with the backbone's own tokenizer (Hugging Face `tokenizers` format)."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as HfTokenizer

from edge_qprompt.errors import BackboneError, PromptError
from edge_qprompt.manifest import TextConfig

MAX_NAME_CHARS = 1000  # far beyond any context; bounds the tokenizer's work


class Tokenizer:
    """OpenAI-type BPE: lower-cased, white space folded, without special tokens."""

    def __init__(self, path: Path, config: TextConfig) -> None:
        try:
            self._bpe = HfTokenizer.from_file(str(path))
        except Exception as error:  # the Rust binding raises bare Exception
            raise BackboneError(f"{path} is not a tokenizer file ({error}): export the backbone again") from error
        self.config = config

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` without SOT and EOT.

        Raises:
            PromptError: the text is empty or absurdly long.
        """
        cleaned = html.unescape(html.unescape(text)).strip()
        if not cleaned or len(cleaned) > MAX_NAME_CHARS:
            raise PromptError(f"a name must have 1 to {MAX_NAME_CHARS} characters, got {len(cleaned)}: {text[:40]!r}")
        ids: list[int] = self._bpe.encode(cleaned, add_special_tokens=False).ids
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
        room = self.config.context_length - reserved
        rows = [self.encode(text) for text in texts]
        if long := [f"{text!r} ({len(row)} tokens)" for text, row in zip(texts, rows, strict=True) if len(row) > room]:
            raise PromptError(
                f"too long for the context of {self.config.context_length} tokens, of which {room} are left for a name: "
                f"{', '.join(long[:5])}{' ...' if len(long) > 5 else ''}; give shorter names with --names, or lower --ctx"
            )
        return rows
