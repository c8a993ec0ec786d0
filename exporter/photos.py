"""Photos to measure an export on: which files of a folder, and the class names that go with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import edge_qprompt
from edge_qprompt.errors import ExportError
from edge_qprompt.prompts import readable

DEMO = Path(edge_qprompt.__file__).parent / "data" / "fashion_mnist" / "test"
MAX_PHOTOS = 64
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
# stands in where the folder has no classes: things of daily life, as different as photos are
EVERYDAY = (
    "person", "dog", "cat", "bird", "horse", "flower", "tree", "car", "bicycle", "train", "boat", "house",
    "street", "mountain", "beach", "meal", "fruit", "chair", "book", "telephone", "shoe", "shirt", "sign", "drawing",
)  # fmt: skip


@dataclass(frozen=True)
class PhotoSet:
    """Photos and class names.

    Attributes:
        paths: of the photos, at most MAX_PHOTOS.
        names: as a prompt wants them; at least two.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]


def find_photos(folder: Path, limit: int = MAX_PHOTOS) -> PhotoSet:
    """Photos of a folder and all folders in it, evenly spread over the sorted paths.

    Args:
        folder: one folder a class, or photos only.
        limit: how many at most.

    Raises:
        ExportError: no photos there.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ExportError(f"no photos in {folder}: give a folder with at least a few of them with --photos DIR")
    step = max(1.0, len(found) / limit)
    paths = tuple(found[int(i * step)] for i in range(min(limit, len(found))))
    names = tuple(sorted({readable(path.parent.name) for path in paths if path.parent != folder}))
    return PhotoSet(paths, names if len(names) > 1 else EVERYDAY)
