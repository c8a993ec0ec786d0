"""OpenAI's BPE as a `tokenizer.json` in Hugging Face's format."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from edge_qprompt.backbone import TOKENIZER, TOKENIZER_CONFIG

MERGES = 49152 - 256 - 2  # what CLIP reads of the file, the rest is unused
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
END = "</w>"
SOT, EOT = "<start_of_text>", "<end_of_text>"


def clip_tokenizer(merges_file: Path) -> bytes:
    """The tokenizer as JSON.

    Args:
        merges_file: OpenAI's bpe_simple_vocab_16e6.txt.gz.
    """
    lines = gzip.decompress(merges_file.read_bytes()).decode().split("\n")[1 : MERGES + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    letters = list(_byte_letters())
    tokens = letters + [letter + END for letter in letters] + ["".join(pair) for pair in merges] + [SOT, EOT]
    vocab = {token: i for i, token in enumerate(tokens)}
    bpe = BPE(vocab=vocab, merges=merges, continuing_subword_prefix="", end_of_word_suffix=END, fuse_unk=False)
    tokenizer = Tokenizer(bpe)
    fold = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), fold, normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    document = json.loads(tokenizer.to_str())
    document["model"]["merges"] = [" ".join(pair) for pair in merges]  # the older form, a tenth smaller
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def write_tokenizer(folder: Path, tokenizer: bytes) -> None:
    """Write tokenizer.json and the small file that names its kind to the reader on the device."""
    (folder / TOKENIZER).write_bytes(tokenizer)
    (folder / TOKENIZER_CONFIG).write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}) + "\n")


def _byte_letters() -> list[str]:
    """OpenAI's printable stand-ins for the 256 bytes, in the order of the vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(hidden))]
