"""Bodies of requests, never believed: counted while they arrive, with a deadline, and never too many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message

from server.problem import HTTPProblem
from server.state import state_of

MULTIPART = "multipart/form-data"
UTF_8 = (b"utf-8", b"utf8")
PLAIN = ("", "identity")  # content codings


class Body:
    """The body of one request.

    Args:
        request: whose.
        client: who has to answer for its bytes, see `client.client_of`.
        most: bytes, at most.

    Raises:
        HTTPProblem: 413 it says that it is too large; 415 it is compressed.
    """

    def __init__(self, request: Request, client: str, most: int) -> None:
        self._state, self._client, self._most = state_of(request), client, most
        self._received = self._held = 0
        self._receive = request.receive
        self._deadline = asyncio.get_running_loop().time() + self._state.settings.limits.body_seconds
        self._request = Request(request.scope, self._next)
        self.media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if (coding := request.headers.get("content-encoding", "").strip().lower()) not in PLAIN:
            raise HTTPProblem(
                415, f"a body in the coding {coding[:20]!r} is not taken: send it as it is, without Content-Encoding"
            )
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > most:
            raise self._too_large()

    async def read(self) -> bytes:
        """All of it.

        Raises:
            HTTPProblem: 413 too large; 408 too slow; 429 and 503 no room now; 400 the sender went away.
        """
        try:
            return await self._request.body()
        except ClientDisconnect as error:
            raise HTTPProblem(400, "the connection ended before the body did") from error

    @asynccontextmanager
    async def form(self, files: int, fields: int) -> AsyncIterator[FormData]:
        """It as a form, whose files are removed at the end.

        Raises:
            HTTPProblem: as `read`; 415 it is in another character set; 422 it is no form, or has too many parts.
        """
        if self._charset() not in UTF_8:
            raise HTTPProblem(415, "a form is read as UTF-8: leave its charset out")
        try:
            form = await self._request.form(max_files=files, max_fields=fields, max_part_size=self._most)
        except HTTPProblem:
            raise
        except (HTTPException, KeyError, ValueError) as error:  # the first is what starlette makes of its parser's errors
            reason = str(getattr(error, "detail", "it is damaged")).rstrip(".")
            said = f"the form cannot be read ({reason}): send at most {files} files and {fields} fields as curl -F does"
            raise HTTPProblem(422, said) from error
        except ClientDisconnect as error:
            raise HTTPProblem(400, "the connection ended before the body did") from error
        try:
            yield form
        finally:
            await form.close()

    def release(self) -> None:
        """Give its room back."""
        self._state.bodies.give(self._client, self._held)
        self._held = 0

    def _charset(self) -> bytes:
        """Of a form's names and texts. Others than UTF-8 would do, but Python's punycode takes hours for a megabyte."""
        _, options = parse_options_header(self._request.headers.get("content-type"))
        return options.get(b"charset", UTF_8[0]).lower()

    async def _next(self) -> Message:
        limits = self._state.settings.limits
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPProblem(
                408, f"the body took longer than {limits.body_seconds:g} s: send it faster, or a smaller one"
            ) from error
        size = len(message.get("body", b""))
        self._received += size
        if self._received > self._most:
            raise self._too_large()
        self._state.bodies.take(self._client, size)
        self._held += size
        return message

    def _too_large(self) -> HTTPProblem:
        return HTTPProblem(
            413, f"the body is larger than {self._most} bytes, the limit: send less", headers={"Connection": "close"}
        )


@asynccontextmanager
async def body_of(request: Request, client: str, most: int) -> AsyncIterator[Body]:
    """A request's body, as of `Body`, whose room is given back at the end."""
    body = Body(request, client, most)
    try:
        yield body
    finally:
        body.release()
