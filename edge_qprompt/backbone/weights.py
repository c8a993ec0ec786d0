"""Weights of a tower, read from `text.safetensors` or `image.safetensors` one tensor at a time, memory-mapped.

Names are open_clip's. A tensor may be stored three ways, and is always handed out as float32:
    X                  float32, or float16 where that lost nothing at export
    X and X.scale      int8 rows times a scale a row
    token_embedding.weight (vocab, E) and token_embedding.up (W, E)   a factorised token table
Plain float32 is handed out as it lies in the file, mapped into memory: a tower of 150 MB costs no copy.
Symbols: W width of the tower, E inner width of the factorised table.
"""

from __future__ import annotations

import json
import mmap
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
DTYPES = {"F32": "<f4", "F16": "<f2", "I8": "i1"}

Array = NDArray[np.float32]


class Weights:
    """An open `text.safetensors` or `image.safetensors`.

    Raises:
        BackboneError: it is no such file, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        opener: Any = safe_open  # its stubs are incomplete
        try:
            with opener(str(path), framework="np"):  # checks the header; its own reading would copy
                pass
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._file = np.frombuffer(self._map, np.uint8)
        except (SafetensorError, OSError) as error:
            raise BackboneError(f"{path} cannot be read as safetensors ({error}): export the backbone again") from error
        self._data = 8 + int.from_bytes(self._file[:8].tobytes(), "little")
        self._header: dict[str, Any] = json.loads(self._file[8 : self._data].tobytes())

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors that `tensor` knows."""
        return tuple(name for name in self._header if name != "__metadata__" and not name.endswith(SCALE))

    def tensor(self, name: str) -> Array:
        """One tensor as float32; not to be written to.

        Raises:
            BackboneError: the file has no such tensor.
        """
        return self._rows(name, slice(None))

    def as_stored(self, name: str, values: Array) -> NDArray[np.floating]:
        """Other values for a tensor, rounded to the type in which the file holds it: float32 or float16."""
        return np.asarray(values, self._stored(name).dtype)

    def token_vectors(self, ids: Sequence[int]) -> Array:
        """Rows of the token table, (len(ids), W) float32; the rest of the table is never read."""
        rows = self._rows(TOKEN_TABLE, np.asarray(ids, np.int64))  # (n, W) or (n, E)
        if TOKEN_UP in self._header:
            return np.asarray(rows @ self.tensor(TOKEN_UP).T, np.float32)  # (n, W)
        return rows

    def forget(self, name: str) -> None:
        """Take a tensor out of this process's memory, where the system can; who reads it again reads the file again."""
        if not hasattr(mmap, "MADV_DONTNEED") or self._header[name]["dtype"] != "F32":
            return  # what is stored otherwise was copied when it was handed out
        start, end = (self._data + offset for offset in self._header[name]["data_offsets"])
        first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:  # whole pages: the tensors beside it stay
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _rows(self, name: str, rows: slice | NDArray[np.int64]) -> Array:
        values = np.asarray(self._stored(name)[rows], np.float32)
        if name + SCALE in self._header:
            values = values * np.asarray(self._stored(name + SCALE)[rows], np.float32)[:, None]
        return values

    def _stored(self, name: str) -> NDArray[Any]:
        """A tensor as it lies in the file."""
        if (entry := self._header.get(name)) is None:
            raise BackboneError(f"{self._name} has no tensor {name}: export the backbone again")
        if entry["dtype"] not in DTYPES:
            raise BackboneError(f"tensor {name} of {self._name} is stored as {entry['dtype']}: export the backbone again")
        start, end = (self._data + offset for offset in entry["data_offsets"])
        return self._file[start:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"]).view(np.ndarray)
