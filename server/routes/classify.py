"""Photos in, labels out, for any number of tasks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic.json_schema import SkipJsonSchema
from starlette.responses import JSONResponse

from edge_qprompt.classify import Answer
from server.access import Asker, described, only_for
from server.attendance import attended
from server.body import body_of
from server.catalogue import STABLE, Target
from server.client import client_of
from server.problem import HTTPProblem
from server.routes import answers
from server.routes.names import CHARACTERS, LIMITS, NAME, NONE, ClassNames, StrictRoute, TaskNames
from server.routes.photos import Photo, image_body, photos_of
from server.state import State, state_of
from server.tokens import Holder, Scope

EXAMPLE = {
    "backbone": "nano",
    "precision": "fp32",
    "images": [
        {
            "name": "new.jpg",
            "tasks": {
                "flowers": {
                    "version": 2,
                    "labels": [{"label": "rose", "probability": 0.93}],
                    "unknown": False,
                    "familiarity": -1.37,
                }
            },
        }
    ],
}

Threshold = Annotated[
    float | SkipJsonSchema[None],  # a query has no null
    Query(
        allow_inf_nan=False,
        description="Familiarity below which a photo is unknown, for every task that can tell, in place of each pack's own. "
        "It has no unit: `familiarity` in the answers is on its scale. The higher, the more photos are unknown.",
        examples=[-1.8],
    ),
]

router = APIRouter(prefix="/v1", tags=["classify"], route_class=StrictRoute)


@router.post(
    "/classify",
    responses=answers.given(answers.Labels, *answers.BODY, 401, 403, 404, example=EXAMPLE),
    openapi_extra=described(Scope.CLASSIFY) | {"requestBody": image_body(LIMITS.images)},
)
async def classify(
    request: Request,
    who: Asker,
    task: TaskNames = NONE,
    labels: ClassNames = NONE,
    top: Annotated[int, Query(ge=1, description=f"Labels a task, best first; more than {LIMITS.top} are not given.")] = 3,
    channel: Annotated[str, Query(pattern=NAME, description=CHARACTERS)] = STABLE,
    embeddings: Annotated[bool, Query(description="Also give the photos' features.")] = False,
    unknown: Annotated[bool, Query(description="Also tell whether a photo shows none of a task's classes.")] = True,
    threshold: Threshold = None,
) -> Response:
    """Label photos for some tasks, or for all of them. A photo is encoded once, whatever the number of tasks."""
    state = state_of(request)
    if not state.ready.is_set():
        raise HTTPProblem(503, "the encoders are still being loaded: try again", state.settings.limits.retry_seconds)
    if threshold is not None and not unknown:
        raise HTTPProblem(422, "unknown=false asks for labels alone, which a threshold does not change: leave one of them out")
    added, top = _labels(state, labels), min(top, state.settings.limits.top)
    wanted = _wanted(state, task)
    await only_for(request, who, wanted or [])
    question = _Question(who, client_of(request, who), wanted, added, top, channel, embeddings, unknown, threshold)
    async with body_of(request, question.client, state.settings.limits.body_bytes) as body:
        photos = await photos_of(body, state.settings.limits.images)
        answer = await attended(request, _answer(state, question, photos), state.settings.limits.answer_seconds)
    return JSONResponse(answer)  # ready, since to check it again would cost


@dataclass(frozen=True)
class _Question:
    """What is asked of photos; see `classify`."""

    who: Holder
    client: str
    tasks: list[str] | None
    labels: tuple[str, ...]
    top: int
    channel: str
    embeddings: bool
    unknown: bool
    threshold: float | None


async def _answer(state: State, asked: _Question, photos: list[Photo]) -> dict[str, Any]:
    """Labels of photos, which are encoded while the packs are made ready; where one fails, the others are called off."""
    named = [(photo, photo.name or f"photo {i + 1}") for i, photo in enumerate(photos)]
    images = []
    with state.encoder.places(asked.client, len(photos)):
        async with _first_error() as group:
            features = [group.create_task(state.encoder.encode(asked.client, photo.data, name)) for photo, name in named]
            targets = await _targets(state, asked)
            tasks = await state.residents.tasks(targets, asked.labels)
            if asked.threshold is not None:
                tasks.check_threshold(asked.threshold)  # before anybody waits for the encoder
        versions = {target.task: target.version for target in targets}
        for (photo, name), feature in zip(named, features, strict=True):
            encode = partial(state.encoder.encode_with, client=asked.client, data=photo.data, name=name)
            own = {encoder: await encode(encoder) for encoder in tasks.encoders}
            found = await state.residents.answer(tasks, feature.result(), asked.top, asked.threshold, own)
            by_task = {task: {"version": versions[task], **_facts(answer, asked.unknown)} for task, answer in found.items()}
            more = {"embedding": feature.result().tolist()} if asked.embeddings else {}
            images.append({"name": photo.name, "tasks": by_task} | more)
    return {"backbone": state.backbone.manifest.name, "precision": state.backbone.precision, "images": images}


def _facts(answer: Answer, unknown: bool) -> dict[str, Any]:
    """One task's answer; whether it knows the photo only where that was asked for."""
    labels = [{"label": label, "probability": share} for label, share in answer.labels]  # `_asdict` takes several times as long
    if not unknown:
        return {"labels": labels, "unknown": None, "familiarity": None}
    return {"labels": labels, "unknown": answer.unknown, "familiarity": answer.familiarity}


async def _targets(state: State, asked: _Question) -> list[Target]:
    """Where the tasks' channel points."""
    targets = [target for target in await state.targets.find(asked.channel, asked.tasks) if asked.who.may(target.task)]
    if not targets:
        raise HTTPProblem(404, f"there is no task with a channel {asked.channel} for this backbone: push a pack first")
    if len(asked.labels) * len(targets) > (most := state.settings.limits.added):
        raise HTTPProblem(
            422, f"labels adds {len(asked.labels)} names to {len(targets)} tasks, more than {most}: name fewer tasks"
        )
    return targets


class _first_error(asyncio.TaskGroup):  # noqa: N801  a context manager
    """A task group that raises the first error itself, not a group of them."""

    async def __aexit__(self, *what: Any) -> None:
        try:
            await super().__aexit__(*what)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None


def _wanted(state: State, task: list[str]) -> list[str] | None:
    if not task:
        return None
    wanted = list(dict.fromkeys(task))
    if len(wanted) > (most := state.settings.limits.tasks):
        raise HTTPProblem(422, f"the request names {len(wanted)} tasks, at most {most} are possible: send several requests")
    return wanted


def _labels(state: State, labels: list[str]) -> tuple[str, ...]:
    limits = state.settings.limits
    given = [label.strip() for part in labels for label in part.split(",")]
    names = tuple(dict.fromkeys(label for label in given if label))
    if len(names) > limits.labels:
        raise HTTPProblem(422, f"labels names {len(names)} classes, at most {limits.labels} can be added: leave some out")
    for name in names:
        if len(name) > limits.label_chars or not name.isprintable():
            raise HTTPProblem(422, f"a class name in labels is not text of at most {limits.label_chars} characters: shorten it")
    return names
