"""Where image features are kept between runs: one SQLite file a backbone and precision.

SQLite gives whole writes, safe use by several processes, and one file to delete. A cache that is
damaged is begun anew, one that cannot be opened or written is a slower run, never a failed one.
"""

from __future__ import annotations

import sqlite3
import threading
import warnings
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.files import cache_folder

BUSY_SECONDS = 30.0
FORGET_SECONDS = 5.0
FORMAT = "v1"  # part of the path: raise it when a feature would come out differently
UNIT_TOLERANCE = 1e-3  # features have length 1; a row that has not was damaged
MEMORY = ":memory:"

PREFIX = 16  # bytes that the keys of all views of a photo have in common
FOLDER = "features"

Array = NDArray[np.float32]


class FeatureCache:
    """Features by key; a context manager.

    Args:
        fingerprint: of the backbone, hex.
        precision: of the image encoder.
        dim: D, to recognise a damaged row.
    """

    def __init__(self, fingerprint: str, precision: str, dim: int) -> None:
        self._path = cache_folder() / FOLDER / f"{fingerprint[:16]}-{precision}-{FORMAT}.sqlite"
        self._bytes = 4 * dim
        self._lock = threading.Lock()  # decoding threads look up through the one connection
        self._db = self._open()

    def get(self, key: bytes) -> Array | None:
        """The feature (D,) float32, or None."""
        with self._lock:
            try:
                row = self._db.execute("SELECT vector FROM features WHERE key = ?", (key,)).fetchone()
            except sqlite3.Error as error:
                self._recover(error)
                return None
        return self._checked(row[0]) if row else None

    def put(self, keys: Sequence[bytes], vectors: Array) -> None:
        """Keep features, (len(keys), D) float32."""
        rows = [(key, vector.astype("<f4").tobytes()) for key, vector in zip(keys, vectors, strict=True)]
        with self._lock:
            try:
                with self._db:
                    self._db.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", rows)
            except sqlite3.Error as error:
                self._recover(error)

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._db.close()

    def _checked(self, stored: object) -> Array | None:
        if not isinstance(stored, bytes) or len(stored) != self._bytes:
            return None
        vector: Array = np.frombuffer(stored, "<f4")
        return vector if abs(float(vector @ vector) - 1) < UNIT_TOLERANCE else None

    def _open(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return _connect(str(self._path))
        except (OSError, sqlite3.OperationalError) as error:  # no right, no space, in use: nothing that could be mended
            self._warn(error)
        except sqlite3.DatabaseError as error:
            self._warn(error)
            return self._renew()
        return _connect(MEMORY)

    def _recover(self, error: sqlite3.Error) -> None:
        """Go on after a failed look-up or write; a damaged file is replaced."""
        self._warn(error)
        if not isinstance(error, sqlite3.OperationalError):
            self._db.close()
            self._db = self._renew()

    def _renew(self) -> sqlite3.Connection:
        """An empty cache; all that was in the old one can be computed again."""
        try:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            return _connect(str(self._path))
        except (OSError, sqlite3.Error):
            return _connect(MEMORY)

    def _warn(self, error: Exception) -> None:
        warnings.warn(f"feature cache {self._path}: {error}; features are computed anew", stacklevel=3)


def _connect(where: str) -> sqlite3.Connection:
    db = sqlite3.connect(where, timeout=BUSY_SECONDS, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
    except sqlite3.Error:
        db.close()
        raise
    return db


def cache_files() -> list[Path]:
    """All caches there are: of every backbone and precision."""
    return sorted((cache_folder() / FOLDER).glob("*.sqlite"))


def forget_in(path: Path, prefixes: Sequence[bytes]) -> str:
    """Take features out of a cache by the beginning of their keys, and overwrite the bytes that they had in the file.

    Returns:
        What is left, and what to do; empty where nothing is.
    """
    try:
        with closing(sqlite3.connect(path, timeout=FORGET_SECONDS)) as db:
            db.execute("PRAGMA secure_delete = ON")
            with db:
                ranges = [(prefix, prefix + b"\xff" * PREFIX) for prefix in prefixes]  # of keys of 2 * PREFIX bytes, by the index
                db.executemany("DELETE FROM features WHERE key BETWEEN ? AND ?", ranges)
            busy, *_ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()  # the log has them too
    except sqlite3.Error as error:
        return f"features may still be in the cache {path} ({error}): delete that file"
    return f"features may still be in the cache {path}, which another program uses: run this again, or delete it" if busy else ""
