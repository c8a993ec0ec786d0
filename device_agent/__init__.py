"""The command `edge-qprompt`, and what devices and publishers need of a server: what runs on a laptop or a Jetson.

`Updater` keeps a pack up to date, `Client` speaks with a server, `Signer` holds a private key; they need the extra `fleet`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from device_agent.client import Client, ClientLimits
    from device_agent.signer import Signer
    from device_agent.updater import Pulled, Updater

WHERE = {"Client": "client", "ClientLimits": "client", "Signer": "signer", "Pulled": "updater", "Updater": "updater"}
__all__ = ["Client", "ClientLimits", "Pulled", "Signer", "Updater"]


def __getattr__(name: str) -> Any:
    """A name whose module needs the extra, when it is asked for."""
    if name not in WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{WHERE[name]}"), name)
