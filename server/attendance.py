"""Work that somebody waits for: called off when the client leaves, or when it has waited long enough."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from server.problem import ClientLeft, HTTPProblem

T = TypeVar("T")


async def attended(request: Request, work: Coroutine[Any, Any, T], seconds: float) -> T:
    """The result of some work, which is called off where nobody needs it any more.

    Args:
        request: whose body has been read to its end.
        work: what to do.
        seconds: for all of it.

    Raises:
        ClientLeft: the connection was closed.
        HTTPProblem: 503 it took too long.
    """
    loop = asyncio.get_running_loop()
    doing, leaving = loop.create_task(work), loop.create_task(_left(request))
    try:
        await asyncio.wait((doing, leaving), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        if leaving.done():
            raise ClientLeft
        raise HTTPProblem(503, f"the answer was not ready within {seconds:g} s: try again, or ask for less", 1)
    finally:
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)  # what it held is given back now


async def _left(request: Request) -> None:
    """Wait until the connection is closed."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
