"""Names in paths, queries and forms."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query as QueryInfo
from fastapi.routing import APIRoute

from edge_qprompt.trust import statement
from server.problem import HTTPProblem
from server.settings import Limits

NAME = f"^{statement.NAME.pattern}$"
SHA256 = f"^{statement.PACK_ID.pattern}$"
CHARACTERS = "At most 64 lower-case letters, digits, . _ -"
SHOWN_CHARS = 40  # of a name that is none
LIMITS = Limits()  # those of names have no option
NONE: list[str] = []  # the default of several names; pydantic looks a factory's signature up with every request

TaskName = Annotated[str, Path(pattern=NAME, description=CHARACTERS, examples=["flowers"])]
ChannelName = Annotated[str, Path(pattern=NAME, description=CHARACTERS, examples=["stable"])]
PackId = Annotated[str, Path(pattern=SHA256, description="Hex SHA-256 of the pack's bytes.")]
TaskNames = Annotated[
    list[Annotated[str, Query(pattern=NAME)]],
    Query(
        description=f"Without any: all tasks of the channel. At most {LIMITS.tasks}.",
        examples=[["flowers", "birds"]],
        json_schema_extra={"maxItems": LIMITS.tasks},
    ),
]
ClassNames = Annotated[
    list[str],
    Query(
        description=f"Class names to add to every task's, with commas. At most {LIMITS.labels} of {LIMITS.label_chars} "
        f"characters that can be printed; {LIMITS.added} over all tasks.",
        json_schema_extra={"items": {"type": "string", "format": "class-names"}},
    ),
]


class StrictRoute(APIRoute):
    """A route that refuses parameters of a query that it does not know, where others ignore what was misspelt."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As of APIRoute."""
        handle = super().get_route_handler()
        known = tuple(field.alias for field in get_flat_params(self.dependant) if isinstance(field.field_info, QueryInfo))

        async def strict(request: Request) -> Response:
            if request.scope["query_string"]:
                only(request.query_params, known, "parameter")
            return await handle(request)

        return strict


def only(given: Iterable[str], known: Collection[str], what: str) -> None:
    """Raise a HTTPProblem (422) that names the nearest of the known names, where a given one is none of them.

    Args:
        given: names of a request's parameters or fields.
        known: those that are taken.
        what: they are, in the singular.
    """
    for name in given:
        if name not in known:
            shown = name[:SHOWN_CHARS]
            raise HTTPProblem(422, f"no {what} {shown!r} is taken here: {_instead(shown, known)}")


def _instead(name: str, known: Collection[str]) -> str:
    if near := difflib.get_close_matches(name, known, 1):
        return f"did you mean {near[0]!r}?"
    return f"there is {', '.join(map(repr, known))}" if known else "leave it out"
