"""Weights of a text tower, read from `text.safetensors` one tensor at a time, memory-mapped.

Names are open_clip's. A tensor may be stored three ways, and is always handed out as float32:
    X                  float32, or float16 where that lost nothing at export
    X and X.scale      int8 rows times a scale a row
    token_embedding.weight (vocab, E) and token_embedding.up (W, E)   a factorised token table
Symbols: W width of the tower, E inner width of the factorised table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from edge_qprompt.errors import BackboneError

SCALE = ".scale"
TOKEN_TABLE = "token_embedding.weight"
TOKEN_UP = "token_embedding.up"

Array = NDArray[np.float32]


class TextWeights:
    """An open `text.safetensors`."""

    def __init__(self, path: Path) -> None:
        opener: Any = safe_open  # its stubs are incomplete
        try:
            self._file = opener(str(path), framework="np")
        except (SafetensorError, OSError) as error:
            raise BackboneError(f"{path} cannot be read as safetensors ({error}): export the backbone again") from error
        self._names = set(self._file.keys())

    def tensor(self, name: str) -> Array:
        """One tensor as float32.

        Raises:
            BackboneError: the file has no such tensor.
        """
        if name not in self._names:
            raise BackboneError(f"text.safetensors has no tensor {name}: export the backbone again")
        values = self._file.get_tensor(name).astype(np.float32, copy=False)
        if name + SCALE in self._names:
            values = values * self._file.get_tensor(name + SCALE).astype(np.float32)[:, None]
        return np.asarray(values, np.float32)

    def token_vectors(self, ids: Sequence[int]) -> Array:
        """Rows of the token table, (len(ids), W) float32; the rest of the table is never read."""
        rows = np.concatenate([self._row(TOKEN_TABLE, i) for i in ids])  # (n, W) or (n, E)
        if TOKEN_UP in self._names:
            return np.asarray(rows @ self.tensor(TOKEN_UP).T, np.float32)  # (n, W)
        return rows

    def _row(self, name: str, row: int) -> Array:
        values: Array = np.asarray(self._file.get_slice(name)[row : row + 1], np.float32)
        if name + SCALE in self._names:
            scale: Array = np.asarray(self._file.get_slice(name + SCALE)[row : row + 1], np.float32)
            values = (values * scale[:, None]).astype(np.float32)
        return values
