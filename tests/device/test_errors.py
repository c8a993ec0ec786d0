"""The tree of errors is the one that `errors.py` draws."""

from __future__ import annotations

import inspect
import re

from edge_qprompt import errors


def test_the_drawing_is_the_tree() -> None:
    drawn: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([│ ├└─]*)(\w+Error)\b", line):
            path[len(found[1]) // 4 :] = [found[2]]
            drawn[found[2]] = path[-2] if len(path) > 1 else None
    real = {
        name: kind.__base__.__name__ if kind.__base__ is not Exception else None
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.EdgeQPromptError)
    }
    assert drawn == real
