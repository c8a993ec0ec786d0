"""The description of the API: what FastAPI finds in the routes, and beside it who may ask, and what errors look like."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI

from server.access import SCHEME
from server.routes.answers import PROBLEM, Problem
from server.tokens import Scope

BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token that `edge-qprompt token create` has made. The scope that a route needs stands beside it.",
}


class DescribedApp(FastAPI):
    """FastAPI, whose description is complete.

    Attributes:
        open_to_all: scopes that need no token.
    """

    open_to_all: Collection[Scope] = ()

    def openapi(self) -> dict[str, Any]:
        """As of FastAPI, which makes it once."""
        found = super().openapi()
        components = found.setdefault("components", {})
        if "securitySchemes" not in components:
            components["securitySchemes"] = {SCHEME: BEARER}
            components.setdefault("schemas", {})[PROBLEM] = Problem.model_json_schema()
            for path in found["paths"].values():
                for operation in path.values():
                    self._open(operation)
        return found

    def _open(self, operation: dict[str, Any]) -> None:
        """Say that an operation needs no token, where it needs none here."""
        needed = {scope for each in operation.get("security", ()) for scope in each[SCHEME]}
        if needed and needed <= set(self.open_to_all):
            operation["security"] = [{}, *operation["security"]]
