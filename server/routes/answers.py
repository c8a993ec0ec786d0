"""What each route answers, as OpenAPI describes it. What is sent is not checked against these models: the tests do that."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel, Field

from edge_qprompt.trust import statement
from server import problem
from server.request_id import GIVEN, HEADER
from server.routes.names import SHA256

PROBLEM = "Problem"  # what the model is called in the description
BACKBONE = f"^{statement.BACKBONE.pattern}$"
Backbone = Field(pattern=BACKBONE, description="Short fingerprint of the frozen model, hex.")
PackId = Field(pattern=SHA256, description="Hex SHA-256 of the pack's bytes.")
Accuracy = Field(ge=0, le=1, description="On photos that were not learned from; null: the pack came without a report.")
Method = Field(description="How it was learned.")
Bits = Field(ge=1, description="Of an index of the context; null: the pack has no quantized context.")
TIME = "UTC, like 2026-11-21T14:00:00Z"


class Problem(BaseModel):
    """What was wrong and what to do (RFC 9457)."""

    type: Literal["about:blank"]
    title: str = Field(description="Of the status.")
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="One sentence: what, got, wanted, what to do.")
    request_id: str = Field(pattern=f"^{GIVEN.pattern.decode()}$", description=f"As in the header {HEADER}, and in the log.")


class Status(BaseModel):
    """That the process runs, or takes requests."""

    status: Literal["ok", "ready"]


class Label(BaseModel):
    """A class name, and how much speaks for it."""

    label: str
    probability: float = Field(ge=0, le=1)


class TaskLabels(BaseModel):
    """What one task says about a photo."""

    version: int = Field(ge=1, description="Of the task, that answered.")
    labels: list[Label] = Field(description="Best first.")
    unknown: bool | None = Field(
        description="Whether the photo seems to show none of the task's classes: `labels` are then the nearest. null: not told, "
        "since the pack cannot tell (it has no discriminant, or `labels` adds names), or since unknown=false."
    )
    familiarity: float | None = Field(
        description="How much the photo looks like those of the task, whatever their class; without a unit, the higher the more. "
        "Below the pack's threshold, or that of the request, it is unknown. null: as `unknown`."
    )


class PhotoLabels(BaseModel):
    """What all tasks that were asked say about a photo."""

    name: str | None = Field(description="Of the file; null where the request gives none.")
    tasks: dict[str, TaskLabels]
    embedding: list[float] = Field(default=[], description="Of length 1; only where it was asked for.")


class Labels(BaseModel):
    """Photos in the order of the request."""

    backbone: str
    precision: str = Field(description="Of the image encoder.")
    images: list[PhotoLabels]


class Pointer(BaseModel):
    """Where a channel points."""

    version: int = Field(ge=1)
    serial: int = Field(ge=1, description="Rises by one with every promotion.")
    signed: bool


class DatedPointer(Pointer):
    """Where a channel points, and since when."""

    moved: str = Field(description=TIME)


class TaskSummary(BaseModel):
    """A task, with the facts of its version on stable, else of its newest."""

    name: str
    versions: int = Field(ge=1, description="How many there are.")
    channels: dict[str, Pointer]
    size: int = Field(ge=1, description="Of the pack in bytes.")
    accuracy: float | None = Accuracy
    classes: int = Field(ge=0, description="How many names the pack has.")
    backbone: str = Backbone
    method: str = Method
    bits: int | None = Bits
    updated: str = Field(description=TIME)


class TaskPage(BaseModel):
    """Tasks by name."""

    tasks: list[TaskSummary]
    next: str | None = Field(description="What to give as `after` for the next page; null on the last one.")


class Version(BaseModel):
    """A version of a task."""

    version: int = Field(ge=1)
    pack: str = PackId
    size: int = Field(ge=1, description="Of the pack in bytes.")
    method: str = Method
    bits: int | None = Bits
    backbone: str = Backbone
    class_names: list[str]
    accuracy: float | None = Accuracy
    publisher: str = Field(description="Name of the token.")
    published: str = Field(description=TIME)
    report: dict[str, Any] | None = Field(description="As it came with the pack.")


class VersionPage(BaseModel):
    """A task: versions, the newest first, and all its channels."""

    name: str
    versions: list[Version]
    channels: dict[str, DatedPointer]
    state: int | None = Field(
        description="The version whose state the server has, from which `teach` goes on; null: none came with its state."
    )
    next: int | None = Field(default=None, description="Where the next page of versions begins; null on the last one.")


class Published(BaseModel):
    """The version that a pack is."""

    task: str
    version: int = Field(ge=1)
    pack: str = PackId
    size: int = Field(ge=1, description="In bytes.")
    warnings: list[str] = Field(description="Where it loses accuracy on this server.")


class Taught(BaseModel):
    """The version that knows a photo, or that does not know it any more."""

    task: str
    version: int = Field(ge=1, description="No channel points at it yet.")
    pack: str = PackId
    base: int = Field(ge=1, description="The version that was gone on from.")
    before: list[str | None] = Field(
        description="Labels that the photo was learned under before, none where it is new; null is none of the classes."
    )
    expected_accuracy: float | None = Field(
        ge=0, le=1, description="On new photos, by those that were left out in turn; null: no class has a second photo."
    )
    expected_margin: float | None = Field(ge=0, description="Half of its 95 % interval.")
    notes: list[str] = Field(description="What was done otherwise than asked, or besides.")


class Promoted(Pointer):
    """Where a channel points now."""

    task: str
    channel: str


class Signature(BaseModel):
    """One key's signature."""

    keyid: str
    sig: str = Field(description="Base64.")


class Envelope(BaseModel):
    """A DSSE envelope of a channel's statement."""

    payload: str = Field(description="The statement, canonical JSON in base64.")
    payloadType: Literal["application/vnd.edge-qprompt.channel+json"]  # noqa: N815  the name is DSSE's
    signatures: list[Signature] = Field(max_length=statement.MAX_SIGNATURES, description="None of an unsigned one.")


class Resident(BaseModel):
    """A pack whose class features are in memory."""

    pack: str = PackId
    labels: int = Field(ge=0, description="How many it has.")
    bytes: int = Field(ge=0)
    uses: int = Field(ge=0)


class Residents(BaseModel):
    """Class features in memory, the most recently used first."""

    backbone: str
    precision: str
    bytes: int = Field(ge=0)
    limit_bytes: int = Field(ge=0)
    residents: list[Resident]


class Entry(BaseModel):
    """One line of the audit log."""

    at: str = Field(description=TIME)
    actor: str = Field(description="Name of the token.")
    action: str
    task: str | None
    detail: str


class Log(BaseModel):
    """The audit log, newest first."""

    entries: list[Entry]


Responses = dict[int | str, dict[str, Any]]
WHY = {
    400: "the connection ended before the body did",
    401: "this needs a token: send Authorization: Bearer",
    403: "this token lacks the scope",
    404: "there is no such task",
    408: "the body took longer than 20 s: send it faster, or a smaller one",
    409: "what the request was made from is no longer so: read it again",
    413: "the body is larger than the limit",
    415: "this is not a media type that is taken here",
    422: "there is no parameter tasks: did you mean task?",
    429: "too much of yours is waiting: try again later",
    503: "the server is full: try again later",
    507: "the server's disk is full: nothing was changed",
}
LATER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
CHALLENGE = {"WWW-Authenticate": {"description": "That a bearer token is asked for.", "schema": {"type": "string"}}}
HEADERS = {401: CHALLENGE, 429: LATER, 503: LATER}
EVERYWHERE = (422, 429, 503)  # an unknown parameter; too many connections of one client, of all
BODY = (400, 408, 413, 415)  # of a request that has one
ETAG = {"ETag": {"description": "For If-None-Match.", "schema": {"type": "string"}}}
UNCHANGED: Responses = {304: {"description": "It is what If-None-Match names.", "headers": ETAG}}


def given(model: type[BaseModel], *problems: int, example: Any = None) -> Responses:
    """The responses of a route that answers a model.

    Args:
        model: of the answer.
        problems: statuses of the errors that it may give, beside those that every route may.
        example: of the answer.
    """
    content = {"application/json": {} if example is None else {"example": example}}
    return {200: {"model": model, "description": _first_line(model), "content": content}} | refused(*problems)


def given_bytes(media_type: str, what: str, *problems: int) -> Responses:
    """The same for a route whose answer is no JSON; its text is decoded where the media type is one of text."""
    schema = {"type": "string"} if media_type.startswith("text/") else {"type": "string", "format": "binary"}
    return {200: {"description": what, "content": {media_type: {"schema": schema}}}} | refused(*problems)


def refused(*problems: int) -> Responses:
    """What OpenAPI says about the errors of a route, those that every route may give included."""
    return {status: _problem(status) for status in sorted({*problems, *EVERYWHERE})}


def _problem(status: int) -> dict[str, Any]:
    title = HTTPStatus(status).phrase
    example = {"type": "about:blank", "title": title, "status": status, "detail": WHY[status], "request_id": "4bf92f3577b34da6"}
    content = {problem.MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{PROBLEM}"}, "example": example}}
    return {"description": title, "content": content} | ({"headers": HEADERS[status]} if status in HEADERS else {})


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").partition("\n")[0]
