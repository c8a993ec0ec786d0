"""The sockets that a server listens on, taken before anything is loaded: a port that is not to be had costs a line."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_qprompt.errors import ListenError

WAITING = 2048  # connections that may wait to be accepted, as of uvicorn
UNIX_MODE = 0o660  # a proxy in the group of the file may connect
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
ANSWER_SECONDS = 1.0  # for a server that listens on a Unix socket already
IS_FREE = "stop what listens there, or choose another --port (0 takes a free one)"


@contextmanager
def tcp(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Sockets on every address of a host; they accept connections, which wait until somebody serves them.

    Args:
        host: a name or an address of this machine; empty for all addresses.
        port: 0 takes a free one, the same on all addresses.

    Raises:
        ListenError: the port is taken, or this machine has no such address.
    """
    held: list[socket.socket] = []
    try:
        _bind_all(held, _addresses(host, port), port)
        yield held
    finally:
        for each in held:
            each.close()


@contextmanager
def unix(path: Path) -> Iterator[list[socket.socket]]:
    """A Unix socket, for its owner and group; the file of a server that has ended is replaced, and ours is removed at the end.

    Raises:
        ListenError: somebody listens there, or the file is no socket, or cannot be made.
    """
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made = None
    try:
        try:
            _remove_stale(path)
            held.bind(str(path))
            made = _identity(path)
            path.chmod(UNIX_MODE)  # nobody can connect before it listens
            held.listen(WAITING)
        except OSError as error:
            raise ListenError(f"cannot listen on --uds {path} ({error.strerror or error}): choose another path") from error
        yield [held]
    finally:
        held.close()
        with suppress(OSError):
            if made is not None and _identity(path) == made:  # else it is somebody else's by now
                path.unlink()


def shown(sockets: list[socket.socket]) -> str:
    """Where they listen, for people: http://127.0.0.1:8000, or the path of a Unix socket."""
    name = sockets[0].getsockname()
    if sockets[0].family == socket.AF_UNIX:
        return f"unix socket {name}"
    host = f"[{name[0]}]" if sockets[0].family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"


def _addresses(host: str, port: int) -> list[tuple[int, str]]:
    """Families and addresses that a host stands for, each once."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no name can be like that"
        raise ListenError(
            f"--host {host!r} is not known ({reason}): give an address of this machine, or 0.0.0.0 for all"
        ) from error
    return list(dict.fromkeys((int(family), str(address[0])) for family, _, _, _, address in found))


def _bind_all(held: list[socket.socket], addresses: list[tuple[int, str]], port: int) -> None:
    absent = None
    for family, address in addresses:
        try:
            held.append(_bound(family, address, held[0].getsockname()[1] if held else port))
        except OSError as error:
            refused = _refused(error, address, port)
            if error.errno not in ABSENT:
                raise refused from error
            absent = absent or refused
    if absent is not None and not held:  # else it is ::1 of localhost, on a machine without IPv6
        raise absent


def _bound(family: int, address: str, port: int) -> socket.socket:
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections do not hold the port
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # or :: would take the port of 0.0.0.0 too
        held.bind((address, port))
        held.listen(WAITING)  # until then another server could take the same port
    except OSError:
        held.close()
        raise
    return held


def _refused(error: OSError, address: str, port: int) -> ListenError:
    if error.errno == errno.EADDRINUSE:
        return ListenError(f"port {port} of {address} is in use: {IS_FREE}")
    if error.errno in ABSENT:
        return ListenError(f"this machine has no address {address}: choose another --host (0.0.0.0 for all)")
    if error.errno == errno.EACCES:
        return ListenError(f"port {port} may not be used by this user: choose a --port above 1023, and let a proxy have that one")
    return ListenError(f"cannot listen on port {port} of {address} ({error.strerror}): choose another --host or --port")


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"--uds {path} is there and is no socket: remove it, or choose another path")
    if _is_live(path):
        raise ListenError(f"somebody listens on --uds {path} already: stop that server, or choose another path")
    path.unlink(missing_ok=True)


def _is_live(path: Path) -> bool:
    """Whether somebody listens; what cannot be told counts as somebody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ANSWER_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _identity(path: Path) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino
