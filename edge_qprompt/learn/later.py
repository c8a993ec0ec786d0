"""torch, loaded when something of it is first asked for: methods can be listed, and asked what they need, without it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edge_qprompt.errors import MissingExtraError

if TYPE_CHECKING:
    import torch as torch
    import torch.nn.functional as F
else:

    class _Later:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            try:
                return getattr(importlib.import_module(self._name), attribute)
            except ModuleNotFoundError as error:
                raise MissingExtraError("torch") from error

    torch, F = _Later("torch"), _Later("torch.nn.functional")

__all__ = ["F", "torch"]
