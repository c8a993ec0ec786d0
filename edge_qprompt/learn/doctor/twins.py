"""Photos that are there twice: the same file, or nearly the same picture.

Two photos are near twins when their features are alike, and their small pictures as well, one of them mirrored perhaps. Other
colours and sizes change the features more, a border that was cut off the picture. One alone is not enough: of tiles of the sea
all features are alike, and of shoes on a black ground all small pictures. `benchmarks/swapped_labels.py --copies` measures both.

numpy only. Symbols: N photos, D dimensions of a feature, T pixels a side of a small picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.photos import Glance

Array = NDArray[np.float32]

ALIKE, SAME_PICTURE = 0.6, 0.98  # cosine of the features, and correlation of the small pictures: the picture is the same
SAME_FEATURE, LIKE_PICTURE = 0.95, 0.9  # or nearly what it shows
ALIKE_ALONE = 0.98  # cosine where there are no pictures
FLAT = 4.0  # grey levels: a small picture that varies by less says nothing
BLOCK = 1024  # photos that are compared with all others at once


def exact(digests: Sequence[bytes]) -> list[list[int]]:
    """Groups of photos with the same bytes, each group from its first photo."""
    groups: dict[bytes, list[int]] = {}
    for i, digest in enumerate(digests):
        groups.setdefault(digest, []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def near(features: Array, seen: Sequence[Glance | None]) -> list[list[int]]:
    """Groups of photos that look the same: each is joined with the earlier one that is most like it.

    Args:
        features: (N, D), unit length.
        seen: (N,) at a glance; None of a photo that was not looked at, which is judged by its feature alone.
    """
    pictures, mirrored, usable = _pictures(seen)
    unseen = np.array([each is None for each in seen])
    root = np.arange(len(features))
    for start in range(0, len(features), BLOCK):
        rows, earlier = slice(start, start + BLOCK), slice(start + BLOCK)
        alike = features[rows] @ features[earlier].T  # (B, photos up to the end of this block)
        same = np.maximum(pictures[rows] @ pictures[earlier].T, pictures[rows] @ mirrored[earlier].T)
        twins = ((alike >= ALIKE) & (same >= SAME_PICTURE)) | ((alike >= SAME_FEATURE) & (same >= LIKE_PICTURE))
        twins &= usable[rows, None] & usable[earlier]
        twins |= (alike >= ALIKE_ALONE) & (unseen[rows, None] | unseen[earlier])
        twins &= np.arange(alike.shape[1]) < np.arange(start, start + len(alike))[:, None]
        for i in np.flatnonzero(twins.any(axis=1)):
            root[start + i] = root[int(np.where(twins[i], alike[i], -2).argmax())]
    groups: dict[int, list[int]] = {}
    for twin, first in enumerate(root.tolist()):
        groups.setdefault(first, []).append(twin)
    return [group for group in groups.values() if len(group) > 1]


def _pictures(seen: Sequence[Glance | None]) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Small pictures (N, T T) of mean 0 and length 1, the same mirrored, and which of them vary enough to be compared (N,)."""
    side = next((len(each.picture) for each in seen if each), 1)
    blank = np.zeros((side, side), np.uint8)
    pictures = np.array([each.picture if each else blank for each in seen], np.float32).reshape(-1, side, side)
    pictures -= pictures.mean(axis=(1, 2), keepdims=True)
    spread = pictures.std(axis=(1, 2))
    pictures /= np.maximum(spread, 1)[:, None, None] * side
    return pictures.reshape(len(seen), -1), pictures[:, :, ::-1].reshape(len(seen), -1), spread > FLAT
