"""A task that is taught one photo more: a new version, to which no channel points yet."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import StringConstraints
from pydantic.json_schema import SkipJsonSchema
from starlette.responses import JSONResponse

from edge_qprompt.backbone import Backbone
from edge_qprompt.errors import ConflictError
from edge_qprompt.learn import Encoded, Relearned, teach_encoded
from edge_qprompt.learn import State as LearnedFrom
from edge_qprompt.learn import undo as take_back
from server.access import Publisher, described
from server.attendance import attended
from server.body import body_of
from server.client import client_of
from server.problem import HTTPProblem
from server.routes import answers
from server.routes.names import LIMITS, StrictRoute, TaskName
from server.routes.photos import Photo, image_body, photos_of
from server.routes.tasks import try_out
from server.state import State, state_of
from server.states import Change, Kept
from server.teacher import Learned, Make
from server.tokens import Holder, Scope

TRIES = 5  # where other processes teach the same task
NEW: answers.Responses = {201: {"model": answers.Taught, "description": "A new version."}}

Label = Annotated[
    Annotated[str, StringConstraints(max_length=LIMITS.label_chars)] | SkipJsonSchema[None],  # a query has no null
    Query(description="What the photo shows: a class of the task, or a new one.", examples=["rose"]),
]

router = APIRouter(prefix="/v1/tasks", tags=["tasks"], route_class=StrictRoute)


@router.post(
    "/{task}/teach",
    status_code=201,
    responses=answers.given(answers.Taught, *answers.BODY, 401, 403, 404, 409, 507) | NEW,
    openapi_extra=described(Scope.PUBLISH) | {"requestBody": image_body(1)},
)
async def teach(
    request: Request,
    who: Publisher,
    task: TaskName,
    label: Label = None,
    none: Annotated[bool, Query(description="The photo shows none of the classes, in place of `label`.")] = False,
) -> Response:
    """Publish what would have been learned with this photo too, as the task's next version. 200: it is known so already.

    It goes on from the state that came last with a version (`edge-qprompt push --state`). The photo is not kept, its feature and
    SHA-256 are. No channel moves: promote the version when it is right.
    """
    state, client = state_of(request), client_of(request, who)
    if not state.ready.is_set():
        raise HTTPProblem(503, "the encoders are still being loaded: try again", state.settings.limits.retry_seconds)
    if (label is None) != none:
        raise HTTPProblem(422, "say what the photo shows with label=, or that it is none of the classes with none=true")
    _only_without_gate(state)
    async with body_of(request, client, state.settings.limits.body_bytes) as body:
        (photo,) = await photos_of(body, 1)
        work = _teach(state, who, client, task, photo, label)
        return await attended(request, work, state.settings.limits.answer_seconds)


@router.post(
    "/{task}/undo",
    status_code=201,
    responses=answers.given(answers.Taught, 401, 403, 404, 409, 507) | NEW,
    openapi_extra=described(Scope.PUBLISH),
)
async def undo(request: Request, who: Publisher, task: TaskName) -> Response:
    """Take back what was taught last, as far as it was taught here. 200: the version is the one before it."""
    state, client = state_of(request), client_of(request, who)
    _only_without_gate(state)
    work = _change(state, who, client, task, take_back, "undone")
    return await attended(request, work, state.settings.limits.answer_seconds)


async def _teach(state: State, who: Holder, client: str, task: str, photo: Photo, label: str | None) -> Response:
    await state.database.run(state.catalogue.state, task)  # no photo is decoded for nothing
    name = photo.name or "the photo"
    with state.encoder.places(client, 1):
        # alone, so that no other photo in a batch can change its last bits, and with them the pack
        feature = await state.encoder.encode_with(state.backbone, client, photo.data, name)
    encoded = Encoded(name, hashlib.sha256(photo.data).digest(), feature[None])  # (1, D)

    def make(backbone: Backbone, learned: LearnedFrom) -> Relearned:
        return teach_encoded(backbone, learned, [(encoded, label)])

    shown = "none of the classes" if label is None else repr(label)
    return await _change(state, who, client, task, make, f"taught a photo of {shown}", encoded.digest)


async def _change(
    state: State, who: Holder, client: str, task: str, make: Make, said: str, digest: bytes | None = None
) -> Response:
    """Publish what comes of a change; from the start where another process was faster. Without a `digest` it always changes."""
    left = TRIES
    async with state.teacher.turn(client):
        while True:
            base = await state.database.run(state.catalogue.state, task)
            learned = await state.teacher.learn(base.data, make)
            if digest and learned.same:
                return JSONResponse(_facts(task, base.version, learned.before.pack_id, base, learned, digest))
            pack, change = learned.result.pack, Change(learned.data, base, "teach", f"{said}, from version {base.version}")
            await try_out(state, client, pack)
            try:
                done = await state.database.run(state.catalogue.publish, task, pack, learned.report, who.name, change)
            except ConflictError:
                left -= 1
                if not left:
                    raise
            else:
                facts = _facts(task, done.version, done.pack, base, learned, digest)
                return JSONResponse(facts, 201 if done.created else 200)


def _facts(task: str, version: int, pack: str, base: Kept, learned: Learned, digest: bytes | None) -> dict[str, Any]:
    seen = learned.result.expected
    return {
        "task": task,
        "version": version,
        "pack": pack,
        "base": base.version,
        "before": learned.labels_before(digest) if digest else [],
        "expected_accuracy": seen.accuracy if seen else None,
        "expected_margin": seen.margin if seen else None,
        "notes": list(learned.result.notes),
    }


def _only_without_gate(state: State) -> None:
    if (least := state.settings.gate) is not None:
        raise HTTPProblem(
            422,
            f"this server takes packs of held-out accuracy {least:.3f} or more, and what is taught here has none: teach it where "
            "its photos are, and push it",
        )
