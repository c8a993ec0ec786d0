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
    doing, leaving = asyncio.current_task(), asyncio.create_task(_left(request))
    assert doing
    over = False

    def leave(left: asyncio.Task[None]) -> None:
        if not (over or left.cancelled()):
            doing.cancel()

    leaving.add_done_callback(leave)
    try:
        async with asyncio.timeout(seconds) as limit:
            return await work
    except TimeoutError as error:
        if not limit.expired():
            raise
        said = f"the answer was not ready within {seconds:g} s: try again, or ask for less"
        raise HTTPProblem(503, said, 1) from error
    except asyncio.CancelledError:
        if leaving.done() and not doing.uncancel():  # else the server stops
            raise ClientLeft from None
        raise
    finally:
        over = True
        leaving.cancel()


async def _left(request: Request) -> None:
    """Wait until the connection is closed."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
