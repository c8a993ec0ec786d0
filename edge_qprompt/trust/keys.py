"""Ed25519 keys: a private one that signs channel statements, and its public half that devices trust.

Both are PEM files, as OpenSSL reads and writes them: KEY (PKCS #8, readable by its owner alone) and
KEY.pub (SubjectPublicKeyInfo). `cryptography` is imported when a key is used: most verbs need none.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edge_qprompt.errors import SignatureError
from edge_qprompt.files import sync_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_KEY_BYTES = 4096  # the PEM of an Ed25519 key has about 120
OWNER_ONLY = 0o600
EVERYONE_READS = 0o644


def new_key_pair() -> tuple[Ed25519PrivateKey, Ed25519PublicKey]:
    """A new private key, from the system's source of randomness, and its public half."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private_key = Ed25519PrivateKey.generate()
    return private_key, private_key.public_key()


def key_id(public_key: Ed25519PublicKey) -> str:
    """First 16 hex digits of the SHA-256 of the 32 raw bytes; a name for people, proof of nothing."""
    return hashlib.sha256(public_key.public_bytes_raw()).hexdigest()[:16]


def public_path(path: Path) -> Path:
    """Where the public half of the key at `path` lies."""
    return path.with_name(path.name + ".pub")


def write_key_pair(path: Path, private_key: Ed25519PrivateKey) -> None:
    """Write KEY, with mode 0600 from its first byte on, and KEY.pub.

    Raises:
        SignatureError: one of them is there already; nothing was written.
        OSError: the folder is missing, not writable or full.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    secret = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write_new(path, secret, OWNER_ONLY)
    try:
        _write_new(public_path(path), public, EVERYONE_READS)
    except BaseException:
        path.unlink()
        raise
    sync_folder(path.parent)


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The key that `write_key_pair` wrote to `path`.

    Raises:
        SignatureError: it cannot be read, or is something else.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    wanted = "an Ed25519 private key in PEM, without a password: give the KEY that `edge-qprompt keygen` wrote"
    try:
        found = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
        raise SignatureError(f"{path} is not {wanted}") from error
    if not isinstance(found, Ed25519PrivateKey):
        raise SignatureError(f"{path} is not {wanted}")
    return found


def read_public_key(path: Path) -> Ed25519PublicKey:
    """The key that `write_key_pair` wrote to `public_path(path)`.

    Raises:
        SignatureError: it cannot be read, or is something else.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    wanted = "an Ed25519 public key in PEM: give the KEY.pub that `edge-qprompt keygen` wrote"
    try:
        found = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"{path} is not {wanted}") from error
    if not isinstance(found, Ed25519PublicKey):
        raise SignatureError(f"{path} is not {wanted}")
    return found


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise SignatureError(f"cannot read the key {path} ({error.strerror}): `edge-qprompt keygen` makes one") from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise SignatureError(f"{path} is there already and a key is never overwritten: choose another name") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
