"""The seam to the file system: whole writes, digests, and where things are kept."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import hashlib
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

CHUNK_BYTES = 1 << 20


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part.

    A temporary file beside the target is written, synced and renamed over it, then the
    folder is synced so that the rename survives a power cut.

    Raises:
        OSError: the folder is missing, not writable or full, or `path` is a device; what was there is untouched.
    """
    if path.exists() and not path.is_file():  # replacing /dev/null by a file would be a bad surprise
        raise FileExistsError(errno.EEXIST, "this is not a regular file, and is left as it is", str(path))
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    file = part.open("xb")
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Run a block while no other process runs one for this folder; waits for it. For who reads a file to write it anew."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where recomputable things are kept (features); safe to delete at any time."""
    return _home("EDGE_QPROMPT_CACHE") or platformdirs.user_cache_path("edge-qprompt")


def backbones_folder() -> Path:
    """Where `export` puts a backbone when no `--out` is given, and where names are looked up."""
    return _home("EDGE_QPROMPT_BACKBONES") or platformdirs.user_data_path("edge-qprompt") / "backbones"


def _home(variable: str) -> Path | None:
    """The one place where environment variables are read; without them a user with no home has neither folder."""
    value = os.environ.get(variable)
    return Path(value).expanduser() if value else None


def give_memory_back() -> None:
    """Hand freed memory back to the system, where the C library keeps it: glibc holds on to 500 MB of a closed ViT-B/32."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
