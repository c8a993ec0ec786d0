"""Who may do what: asked anew for every request, whatever is cached."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Request

from edge_qprompt.trust import NAME
from server.observed import METHODS, WHO
from server.problem import HTTPProblem
from server.settings import ServerSettings
from server.state import state_of
from server.tokens import Holder, Refusal, Refused, Scope

ANONYMOUS = "anonymous"
SCHEME = "bearer"  # its name in the description of the API
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="edge-qprompt"'}


def needs(scope: Scope) -> Callable[[Request], Awaitable[Holder]]:
    """A dependency that lets only those in who have a scope, and whose token is for the task in the path.

    A token that is sent is checked even where none is needed: a wrong one is better known than ignored. Where none is
    needed, it is no worse than none: the holder is for all tasks then.
    """

    async def check(request: Request) -> Holder:
        state = state_of(request)
        header = request.headers.get("authorization")
        anyone = scope in open_to_all(state.settings)
        if header is None:
            if anyone:
                return Holder(ANONYMOUS, frozenset())
            raise HTTPProblem(401, f"this needs a token with the scope {scope}: send Authorization: Bearer", headers=CHALLENGE)
        holder = await _holder(request, header)
        request.scope[WHO] = holder.name
        if anyone:
            return dataclasses.replace(holder, tasks=())
        if scope not in holder.scopes:
            await _note(request, Refusal.SCOPE, holder.name)
            raise HTTPProblem(403, f"this token lacks the scope {scope}: `edge-qprompt token create --scope {scope}` makes one")
        if (task := request.path_params.get("task")) is not None:
            await only_for(request, holder, [task])
        return holder

    return check


async def only_for(request: Request, holder: Holder, tasks: list[str]) -> None:
    """Raise a HTTPProblem (403) where a token is not for all of these tasks."""
    for task in tasks:
        if not holder.may(task):
            await _note(request, Refusal.TASK, holder.name)
            mine = ", ".join(holder.tasks)
            raise HTTPProblem(
                403, f"this token is for the tasks {mine}: `edge-qprompt token create --task` makes one for another"
            )


async def for_all_tasks(request: Request, holder: Holder, what: str) -> None:
    """Raise a HTTPProblem (403) where a token is for some tasks alone, since the answer is of all of them."""
    if holder.tasks:
        await _note(request, Refusal.TASK, holder.name)
        raise HTTPProblem(403, f"{what}, and this token is for the tasks {', '.join(holder.tasks)}: ask with a token for all")


def described(scope: Scope) -> dict[str, Any]:
    """What OpenAPI says about a route that `needs` a scope, as its `openapi_extra`."""
    return {"security": [{SCHEME: [str(scope)]}]}


def open_to_all(settings: ServerSettings) -> set[Scope]:
    """What needs no token."""
    anonymous = {Scope.READ: settings.anonymous_read, Scope.CLASSIFY: settings.anonymous_classify}
    return {scope for scope, anyone in anonymous.items() if anyone}


async def _holder(request: Request, header: str) -> Holder:
    kind, _, token = header.partition(" ")
    state = state_of(request)
    found: Holder | Refused = Refused(Refusal.MALFORMED)
    if kind.lower() == "bearer":
        found = await state.database.run(state.tokens.find, token.strip())
    if isinstance(found, Holder):
        return found
    await _note(request, found.why, found.name)
    raise HTTPProblem(401, "this token is unknown, revoked or expired: ask for a new one", headers=CHALLENGE)


async def _note(request: Request, why: Refusal, name: str | None) -> None:
    route = getattr(request.scope.get("route"), "path", "other")
    method = request.method if request.method in METHODS else "other"
    task = request.path_params.get("task", "")
    known = task if NAME.fullmatch(task) else None
    await state_of(request).refusals.note(why, f"{method} {route}", name, known)


Reader = Annotated[Holder, Depends(needs(Scope.READ))]
Asker = Annotated[Holder, Depends(needs(Scope.CLASSIFY))]
Publisher = Annotated[Holder, Depends(needs(Scope.PUBLISH))]
Promoter = Annotated[Holder, Depends(needs(Scope.PROMOTE))]
