"""Origins of web pages, as browsers send them (RFC 6454, section 6.2)."""

from __future__ import annotations

import re

ANY = "*"
ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
PORTS = {"http": 80, "https": 443}  # browsers leave these out


def origin(text: str) -> str:
    """An origin as browsers send it, or *.

    Raises:
        ValueError: it is none.
    """
    found = ORIGIN.fullmatch(text.lower())
    if text == ANY:
        return ANY
    if found is None or not 0 < int(found[3] or 1) < 1 << 16:
        raise ValueError(f"{text!r} is no origin: give scheme://host or scheme://host:port without a path, or * for all")
    port = int(found[3] or 0)
    return f"{found[1]}://{found[2]}" + (f":{port}" if port and port != PORTS.get(found[1]) else "")
