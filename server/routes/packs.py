"""Packs by content: immutable, so any cache may keep them for ever."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from server.access import described, needs
from server.patterns import covers
from server.problem import HTTPProblem
from server.routes import answers
from server.routes.names import PackId, StrictRoute
from server.state import state_of
from server.tokens import Scope

MEDIA_TYPE = "application/vnd.edge-qprompt.pack"
FOR_EVER = "public, max-age=31536000, immutable"
FOR_ONE = "private, max-age=31536000, immutable"  # a shared cache would hand it to those without a token

router = APIRouter(prefix="/v1/packs", tags=["packs"], route_class=StrictRoute)
let_in = needs(Scope.READ)


@router.get(
    "/{pack_id}",
    response_class=Response,
    responses=answers.given_bytes(MEDIA_TYPE, "The pack.", 401, 403, 404) | answers.UNCHANGED,
    openapi_extra=described(Scope.READ),
)
async def pack(request: Request, pack_id: PackId) -> Response:
    """A pack's bytes."""
    who = await let_in(request)  # as a dependency it would cost more than everything else here
    state = state_of(request)
    if who.tasks and not await state.database.run(covers, who.tasks, pack_id, state.database):
        raise HTTPProblem(404, f"there is no pack {pack_id} in the tasks {', '.join(who.tasks)}, which this token is for")
    data = await state.residents.pack(pack_id)
    headers = {"ETag": f'"{pack_id}"', "Cache-Control": FOR_EVER if state.settings.anonymous_read else FOR_ONE}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=MEDIA_TYPE)
