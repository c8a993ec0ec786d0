"""Who may do what: asked anew for every request, whatever is cached."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from server.problem import Problem
from server.state import state_of
from server.tokens import Holder, Scope

ANONYMOUS = "anonymous"
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="edge-qprompt"'}


def needs(scope: Scope) -> Callable[[Request], Awaitable[Holder]]:
    """A dependency that lets only those in who have a scope.

    A token that is sent is checked even where none is needed: a wrong one is better known than ignored.
    """

    async def check(request: Request) -> Holder:
        state = state_of(request)
        header = request.headers.get("authorization")
        open_to_all = {Scope.READ: state.settings.anonymous_read, Scope.CLASSIFY: state.settings.anonymous_classify}
        anyone = open_to_all.get(scope, False)
        if header is None:
            if anyone:
                return Holder(ANONYMOUS, frozenset())
            raise Problem(401, f"this needs a token with the scope {scope}: send Authorization: Bearer", headers=CHALLENGE)
        kind, _, token = header.partition(" ")
        holder = await run_in_threadpool(state.tokens.holder, token.strip()) if kind.lower() == "bearer" else None
        if holder is None:
            raise Problem(401, "this token is unknown, revoked or expired: ask for a new one", headers=CHALLENGE)
        if not anyone and scope not in holder.scopes:
            raise Problem(403, f"this token lacks the scope {scope}: `edge-qprompt token create --scope {scope}` makes one")
        return holder

    return check


Reader = Annotated[Holder, Depends(needs(Scope.READ))]
Asker = Annotated[Holder, Depends(needs(Scope.CLASSIFY))]
Publisher = Annotated[Holder, Depends(needs(Scope.PUBLISH))]
Promoter = Annotated[Holder, Depends(needs(Scope.PROMOTE))]
