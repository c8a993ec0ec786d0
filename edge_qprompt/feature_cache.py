"""Where image features are kept between runs: one SQLite file a backbone and precision.

SQLite gives whole writes, safe use by several processes, and one file to delete. A cache that
cannot be opened or written is a slower run, never a failed one.
"""

from __future__ import annotations

import sqlite3
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.files import cache_folder

BUSY_SECONDS = 30.0
FORMAT = "v1"  # part of the path: raise it when a feature would come out differently

Array = NDArray[np.float32]


class FeatureCache:
    """Features by key; a context manager.

    Args:
        fingerprint: of the backbone, hex.
        precision: of the image encoder.
        dim: D, to recognise a damaged row.
    """

    def __init__(self, fingerprint: str, precision: str, dim: int) -> None:
        self._path = cache_folder() / "features" / f"{fingerprint[:16]}-{precision}-{FORMAT}.sqlite"
        self._bytes = 4 * dim
        self._lock = threading.Lock()  # decoding threads look up through the one connection
        self._db = self._open(self._path)

    def get(self, key: bytes) -> Array | None:
        """The feature (D,) float32, or None."""
        try:
            with self._lock:
                row = self._db.execute("SELECT vector FROM features WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            return self._warn(error)
        return np.frombuffer(row[0], "<f4") if row and len(row[0]) == self._bytes else None

    def put(self, keys: Sequence[bytes], vectors: Array) -> None:
        """Keep features, (len(keys), D) float32."""
        rows = [(key, vector.astype("<f4").tobytes()) for key, vector in zip(keys, vectors, strict=True)]
        try:
            with self._lock, self._db:
                self._db.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            self._warn(error)

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._db.close()

    def _open(self, path: Path) -> sqlite3.Connection:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return self._connect(str(path))
        except sqlite3.DatabaseError as error:
            self._warn(error)
            path.unlink(missing_ok=True)  # damaged; all of it can be computed again
        except OSError as error:
            self._warn(error)
        try:
            return self._connect(str(path))
        except sqlite3.Error:
            return self._connect(":memory:")

    def _connect(self, where: str) -> sqlite3.Connection:
        db = sqlite3.connect(where, timeout=BUSY_SECONDS, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
        return db

    def _warn(self, error: Exception) -> None:
        warnings.warn(f"feature cache {self._path}: {error}; features are computed anew", stacklevel=3)
