"""Whether the parts of a state that was read fit each other. Who pushes one to a server may have written anything into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_qprompt.learn.candidates import AUTO
from edge_qprompt.learn.methods.registry import METHODS
from edge_qprompt.prompts import check_template

if TYPE_CHECKING:
    from edge_qprompt.learn.state import Change, State

DIGEST_BYTES = 32
OTHER = -1  # label of photos of none of the classes
UNIT_TOLERANCE = 1e-2  # of a feature in float16


def check(state: State) -> None:
    """Raise a ValueError or TypeError about the first thing that cannot be."""
    _check_rows(state)
    words = [state.fingerprint, state.precision, state.encoder, state.pack_id, state.before, *state.names]
    if not all(isinstance(word, str) for word in words) or len(set(state.names)) < len(state.names):
        raise ValueError("its names are none")
    settings = state.settings
    if settings.method not in (AUTO, *METHODS) or not settings.n_ctx or settings.n_ctx < 1:
        raise ValueError(f"it was learned by {settings.method!r} with {settings.n_ctx} tokens")
    for template in settings.method_settings.templates:
        check_template(template)
    if settings.wanted_views.count != state.views:
        raise ValueError(f"it has {state.views} views a photo")
    for change in state.history:
        _check_change(change)


def _check_rows(state: State) -> None:
    features, count = state.features, len(state.labels)
    if features.ndim != 3 or min(features.shape) < 1 or features.dtype != np.float16:
        raise ValueError(f"it has features {features.shape} of {features.dtype}")
    if state.digests.shape != (count, DIGEST_BYTES) or len(features) != count or state.digests.dtype != np.uint8:
        raise ValueError("its rows do not fit each other")
    labels = set(state.labels.tolist()) - {OTHER}
    if state.labels.dtype != np.int64 or labels != set(range(len(state.names))) or len(labels) < 2:
        raise ValueError("its labels do not fit its names")
    if not (np.abs(np.linalg.norm(features.astype(np.float32), axis=2) - 1) < UNIT_TOLERANCE).all():
        raise ValueError("a feature is not of length 1")


def _check_change(change: Change) -> None:
    if change.renamed is not None and not (isinstance(change.renamed, tuple) and len(change.renamed) == 2):
        raise ValueError("its history is damaged")
    names = [*change.names, *(change.renamed or ())]
    for digest, labels in change.photos:
        names += [label for label in labels if label is not None]
        if len(bytes.fromhex(digest)) != DIGEST_BYTES:
            raise ValueError("a digest of its history is none")
    if not all(isinstance(name, str) for name in names):
        raise ValueError("its history is damaged")
