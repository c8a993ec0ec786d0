"""Who a request counts for: the token's name where it has one, else the address that it comes from."""

from __future__ import annotations

import ipaddress

from fastapi import Request

from server.tokens import Holder

UNKNOWN = "unknown"  # on a Unix socket
NETWORK_BITS = 64  # of an IPv6 address: who has one has all that begin so


def client_of(request: Request, who: Holder) -> str:
    """A name for what a client holds.

    Args:
        request: its address is the proxy's word for it, where the proxy is a trusted one.
        who: the holder of its token, or nobody.
    """
    if "authorization" in request.headers:  # checked before, or there would be no holder
        return f"token {who.name}"
    return network(request.client.host if request.client else UNKNOWN)


def network(address: str) -> str:
    """An IPv4 address as it is, the network of an IPv6 one."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> NETWORK_BITS << NETWORK_BITS, NETWORK_BITS)))
