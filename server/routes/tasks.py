"""Tasks, their versions and channels."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse

from edge_qprompt.classify import check_adapter
from edge_qprompt.errors import NotFoundError, PackError, SignatureError
from edge_qprompt.pack import MAX_BYTES, Pack, is_adapter
from edge_qprompt.trust import MAX_ENVELOPE_BYTES, Envelope
from server.access import Promoter, Publisher, Reader, described
from server.attendance import attended
from server.body import MULTIPART, Body, body_of
from server.client import client_of
from server.problem import HTTPProblem
from server.residents import Key
from server.routes import answers
from server.routes.names import ChannelName, StrictRoute, TaskName, only
from server.rows import accuracy_of
from server.settings import Limits
from server.state import State, state_of
from server.states import Change
from server.tokens import Scope

FORM_BYTES = 64 << 10  # for boundaries and headers of a form's parts
FIELDS = ("pack", "report", "state")
REPORT_LEVELS = 16  # of nested JSON; those of `adapt` have four
PACK_TYPES = ("", "application/octet-stream", "application/vnd.edge-qprompt.pack", "application/x-www-form-urlencoded")

PACK_BODY = {
    "required": True,
    "content": {
        "application/vnd.edge-qprompt.pack": {"schema": {"type": "string", "format": "binary"}},
        MULTIPART: {
            "schema": {
                "type": "object",
                "required": ["pack"],
                "additionalProperties": False,
                "properties": {
                    "pack": {"type": "string", "format": "binary"},
                    "report": {"type": "string", "description": "The JSON object that `adapt --json` prints."},
                    "state": {
                        "type": "string",
                        "format": "binary",
                        "description": "The state beside the pack; then `teach` can go on from it.",
                    },
                },
            },
            "encoding": {"pack": {"contentType": "application/vnd.edge-qprompt.pack"}},
        },
    },
}

router = APIRouter(prefix="/v1/tasks", tags=["tasks"], route_class=StrictRoute)


@router.get("", responses=answers.given(answers.TaskPage, 401, 403), openapi_extra=described(Scope.READ))
async def tasks(
    request: Request,
    who: Reader,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """All tasks by name, a page at a time; `next` is what to give as `after`, null on the last page."""
    state = state_of(request)
    found = await state.database.run(state.catalogue.tasks, limit, after, who.tasks)
    return JSONResponse({"tasks": found, "next": found[-1]["name"] if len(found) == limit else None})


@router.get("/{task}", responses=answers.given(answers.VersionPage, 401, 403, 404), openapi_extra=described(Scope.READ))
async def task(
    request: Request,
    who: Reader,
    task: TaskName,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    before: Annotated[int | None, Query(ge=1, lt=1 << 31, description="A version: only older ones.")] = None,
) -> Response:
    """One task: its channels, and its versions with their reports, newest first, a page at a time.

    `next` is what to give as `before`, null on the last page.
    """
    state = state_of(request)
    return JSONResponse(await state.database.run(state.catalogue.task, task, limit, before))


@router.post(
    "/{task}/versions",
    status_code=201,
    responses=answers.given(answers.Published, *answers.BODY, 401, 403, 507)
    | {201: {"model": answers.Published, "description": "A new version."}},
    openapi_extra=described(Scope.PUBLISH) | {"requestBody": PACK_BODY},
)
async def publish(request: Request, who: Publisher, task: TaskName) -> Response:
    """Publish a pack as the task's next version. The same bytes again give the version that they have, and 200.

    A pack with nothing but an adapter is for others to refer to, and must be here before them; no channel can point at it.
    `warnings` says where it loses accuracy on this server, and whether photos that were taught here are lost: a state that comes
    with a pack takes the place of the task's.
    """
    state, client = state_of(request), client_of(request, who)
    limits = state.settings.limits
    async with body_of(request, client, MAX_BYTES + limits.report_bytes + limits.state_bytes + FORM_BYTES) as body:
        data, report, learned = await _upload(body, limits)
    pack = Pack.decode(data)
    if not is_adapter(pack):
        _gate(state, report)
    await attended(request, try_out(state, client, pack), limits.answer_seconds)
    change, lost = None, ""
    if learned is not None:
        change, lost = await attended(request, _change(state, client, task, pack, learned), limits.answer_seconds)
    done = await state.database.run(state.catalogue.publish, task, pack, report, who.name, change)
    facts = {"task": done.task, "version": done.version, "pack": done.pack, "size": done.size}
    facts["warnings"] = [said for said in (state.residents.mismatch(task, pack), lost) if said]
    return JSONResponse(facts, 201 if done.created else 200)


async def _change(state: State, client: str, task: str, pack: Pack, learned: bytes) -> tuple[Change, str]:
    """A state that came with a pack, as it is kept, and a warning where it lacks photos that were taught here."""
    try:
        old = (await state.database.run(state.catalogue.state, task)).data
    except NotFoundError:
        old = None
    tried = await state.teacher.tried(client, pack, learned, old)
    said = f"{tried.lost} photos that {task} was taught here are not in the state that came: they are learned no more"
    return Change(tried.data), said if tried.lost else ""


async def try_out(state: State, client: str, pack: Pack) -> None:
    """Make sure that a pack runs on this backbone, and does not take others' time."""
    if is_adapter(pack):
        check_adapter(state.backbone, pack)
        return
    if pack.class_names is None:
        raise PackError("the pack holds no class names, so nobody could use it here: adapt again with this version")
    limits, prompts = state.settings.limits, max(1, len(pack.templates or ()))
    names, chars = len(pack.class_names) * prompts, sum(map(len, pack.class_names)) * prompts
    if names > limits.names or chars > limits.name_chars:
        most = f"{limits.names} names and {limits.name_chars} characters"
        raise PackError(f"the pack has {names} class names times templates with {chars} characters, at most {most} are taken")
    async with state.publications.hold(client):
        await state.residents.classifier(Key(pack.pack_id), pack)


async def _upload(body: Body, limits: Limits) -> tuple[bytes, dict[str, Any] | None, bytes | None]:
    """Bytes of the pack, the report if there is one, and bytes of the state if there is one."""
    if body.media_type != MULTIPART:
        if body.media_type not in PACK_TYPES:
            raise HTTPProblem(415, f"a pack is not {body.media_type}: send application/octet-stream or {MULTIPART}")
        return await body.read(), None, None
    async with body.form(files=2, fields=1) as form:
        only(form, FIELDS, "file or field")
        pack, text, state = form.get("pack"), form.get("report"), form.get("state")
        if not isinstance(pack, UploadFile) or isinstance(text, UploadFile) or isinstance(state, str):
            raise HTTPProblem(422, "the form must have a file `pack`, and may have a text `report` and a file `state`")
        report = None if text is None else _report(text, limits.report_bytes)
        return await pack.read(MAX_BYTES + 1), report, None if state is None else await _state(state, limits.state_bytes)


async def _state(part: UploadFile, most: int) -> bytes:
    data = await part.read(most + 1)
    if len(data) > most:
        raise HTTPProblem(413, f"the state is larger than {most} bytes, the limit: push without it, or learn from fewer photos")
    return data


def _report(text: str, most: int) -> dict[str, Any]:
    if len(text) > most:
        raise HTTPProblem(413, f"the report is larger than {most} bytes, the limit: leave the pictures out")
    try:
        report = json.loads(text)
        json.dumps(report, ensure_ascii=False, allow_nan=False).encode()  # neither NaN nor half a character can be answered
    except (ValueError, RecursionError) as error:
        raise HTTPProblem(422, "the report is not JSON: send what `adapt --json` printed") from error
    if not isinstance(report, dict) or not _is_flat(report, REPORT_LEVELS) or "\\u0000" in text:  # PostgreSQL takes no NUL
        raise HTTPProblem(422, "the report is not a JSON object that can be kept: send what `adapt --json` printed")
    return report


def _is_flat(value: Any, levels: int) -> bool:
    """Whether JSON is nested in at most so many levels."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_flat(each, levels - 1) for each in inner)


def _gate(state: State, report: dict[str, Any] | None) -> None:
    gate, accuracy = state.settings.gate, accuracy_of(report)
    if gate is not None and (accuracy is None or accuracy < gate):
        said = "none" if accuracy is None else f"{accuracy:.3f}"
        raise HTTPProblem(
            422, f"this server takes packs of held-out accuracy {gate:.3f} or more, the report says {said}: learn more"
        )


def _whole(number: Any) -> Any:
    """2 for 2.0, which is the same number in JSON."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


class Promotion(BaseModel):
    """What a channel should point at."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"version": 2, "envelope": None}]})

    version: Annotated[int, BeforeValidator(_whole)] = Field(ge=1, lt=1 << 31)
    envelope: dict[str, Any] | None = Field(
        None, description="DSSE envelope of the statement; null: unsigned, devices refuse it."
    )

    @classmethod
    def described(cls) -> dict[str, Any]:
        """The JSON Schema, which says of an envelope what it is; here it is an object, since `Envelope.decode` checks it."""
        schema = cls.model_json_schema()
        schema["properties"]["envelope"]["anyOf"] = [{"$ref": "#/components/schemas/Envelope"}, {"type": "null"}]
        return schema


@router.put(
    "/{task}/channels/{channel}",
    responses=answers.given(answers.Promoted, *answers.BODY, 401, 403, 404, 409, 507),
    openapi_extra=described(Scope.PROMOTE)
    | {"requestBody": {"required": True, "content": {"application/json": {"schema": Promotion.described()}}}},
)
async def promote(request: Request, who: Promoter, task: TaskName, channel: ChannelName) -> Response:
    """Point a channel at a version, forward or back. 409: the statement's serial is not the next one."""
    async with body_of(request, client_of(request, who), 2 * MAX_ENVELOPE_BYTES) as body:
        promotion = _promotion(await body.read())
    try:
        given = promotion.envelope
        envelope = None if given is None else Envelope.decode(json.dumps(given).encode())
    except SignatureError as error:
        raise HTTPProblem(422, f"the envelope cannot be read ({error}): use this version's edge-qprompt push") from error
    state = state_of(request)
    done = await state.database.run(state.catalogue.promote, task, channel, promotion.version, envelope, who.name)
    facts = {"task": done.task, "channel": done.channel, "version": done.version}
    return JSONResponse(facts | {"serial": done.serial, "signed": done.signed})


def _promotion(data: bytes) -> Promotion:
    try:
        return Promotion.model_validate_json(data)
    except ValueError as error:
        raise HTTPProblem(422, 'the body must be JSON like {"version": 2, "envelope": null}') from error


@router.get(
    "/{task}/channels/{channel}",
    responses=answers.given(answers.Envelope, 401, 403, 404) | answers.UNCHANGED,
    openapi_extra=described(Scope.READ),
)
async def channel(request: Request, who: Reader, task: TaskName, channel: ChannelName) -> Response:
    """A channel's signed statement, in the envelope as it was promoted."""
    state = state_of(request)
    envelope = await state.database.run(state.catalogue.envelope, task, channel)
    etag = f'"{hashlib.sha256(envelope).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if etag in request.headers.get("if-none-match", ""):  # W/ before it, or others beside it, change nothing
        return Response(status_code=304, headers=headers)
    return Response(envelope, headers=headers, media_type="application/json")
