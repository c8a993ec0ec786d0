"""What operators and load balancers ask."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import JSONResponse

from server import metrics
from server.access import Publisher, Reader, described, for_all_tasks, only_for
from server.problem import HTTPProblem
from server.routes import answers
from server.routes.names import NAME, StrictRoute
from server.state import state_of
from server.tokens import Scope

router = APIRouter(tags=["operations"], route_class=StrictRoute)


@router.get("/healthz", responses=answers.given(answers.Status))
async def healthz() -> Response:
    """The process runs; restart it when this does not answer."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", responses=answers.given(answers.Status))
async def readyz(request: Request) -> Response:
    """Send requests here: encoders are loaded, the database reads and writes, and photos can be decoded."""
    state = state_of(request)
    if not state.ready.is_set():
        raise HTTPProblem(503, "the encoders are not loaded", state.settings.limits.retry_seconds)
    if (reason := await state.health.ill()) is not None:
        raise HTTPProblem(503, reason, state.settings.limits.retry_seconds)
    return JSONResponse({"status": "ready"})


@router.get("/metrics", response_class=Response, responses=answers.given_bytes("text/plain", "One line a value."))
async def prometheus(request: Request) -> Response:
    """Metrics in Prometheus's format."""
    state = state_of(request)
    await state.expiry.tell()
    return Response(state.metrics.text(), media_type=metrics.MEDIA_TYPE)


@router.get("/v1/residents", responses=answers.given(answers.Residents, 401, 403), openapi_extra=described(Scope.READ))
async def residents(request: Request, who: Reader) -> Response:
    """Packs whose class features are in memory, the most recently used first."""
    state = state_of(request)
    await for_all_tasks(request, who, "this lists packs of all tasks")
    kept = state.residents.kept
    rows = [
        {"pack": key.pack, "labels": len(entry.value.labels), "bytes": entry.size, "uses": entry.uses}
        for key, entry in kept.items()
    ]
    facts = {"backbone": state.backbone.manifest.name, "precision": state.backbone.precision}
    return JSONResponse(facts | {"bytes": kept.size, "limit_bytes": kept.limit, "residents": rows[::-1]})


@router.get("/v1/audit", responses=answers.given(answers.Log, 401, 403), openapi_extra=described(Scope.PUBLISH))
async def audit(
    request: Request,
    who: Publisher,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    task: Annotated[str | None, Query(pattern=NAME)] = None,
) -> Response:
    """Who did what, newest first."""
    if task is None:
        await for_all_tasks(request, who, "without ?task= this is the log of all tasks")
    else:
        await only_for(request, who, [task])
    state = state_of(request)
    return JSONResponse({"entries": await state.database.run(state.catalogue.audit, limit, task)})
