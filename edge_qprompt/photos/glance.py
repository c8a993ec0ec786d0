"""Photos at a glance: size, how much their pixels vary, and a picture of 16 x 16, at a fraction of what decoding costs.

Symbols: N photos, T pixels a side of the small picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_qprompt.backbone import Preprocess
from edge_qprompt.errors import PhotoError
from edge_qprompt.photos.decoder import Decoders, Job
from edge_qprompt.photos.features import DECODERS
from edge_qprompt.photos.photo import decode_photo, is_common
from edge_qprompt.photos.source import Source, read

SIDE = 16  # T
ENOUGH = 128  # pixels a side that a JPEG is asked for, which it can decode at a half to an eighth of its size
SEEN = Preprocess(ENOUGH, ENOUGH, "squash", "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0)


@dataclass(frozen=True, eq=False)
class Glance:
    """A photo at a glance.

    Attributes:
        size: width and height in pixels; None of a rare format, which is decoded in a process of its own.
        spread: standard deviation of its grey levels, 0 to 127.5.
        picture: (T, T) uint8, grey levels of the whole photo, squashed.
    """

    size: tuple[int, int] | None
    spread: float
    picture: NDArray[np.uint8]


def glances(photos: Sequence[Source], progress: Callable[[int, int], None] = lambda *_: None) -> list[Glance | None]:
    """N photos at a glance; None of one that cannot be read.

    Args:
        photos: files, or photos in memory.
        progress: called with photos done and photos in all.
    """

    def load(photo: Source) -> Glance | None:
        try:
            return _glance(read(photo), str(photo), decoders)
        except PhotoError:
            return None

    found: list[Glance | None] = []
    with Decoders() as decoders, ThreadPoolExecutor(DECODERS) as pool:
        try:
            for each in pool.map(load, photos):
                found.append(each)
                progress(len(found), len(photos))
        finally:
            pool.shutdown(cancel_futures=True)
    return found


def _glance(data: bytes, name: str, decoders: Decoders) -> Glance:
    sizes: list[tuple[int, int]] = []

    def opened(image: Image.Image) -> None:
        sizes.append(image.size)
        image.draft("L", (ENOUGH, ENOUGH))

    if is_common(data):
        grey = decode_photo(data, name, grey=True, opened=opened).convert("L")
    else:
        grey = Image.fromarray(np.moveaxis(decoders.views(data, Job(name, SEEN))[0], 0, -1)).convert("L")
    counts, levels = np.array(grey.histogram(), np.float64), np.arange(256)
    mean = counts @ levels / counts.sum()
    spread = float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum()))
    picture = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))
    return Glance(sizes[0] if sizes else None, spread, picture)
