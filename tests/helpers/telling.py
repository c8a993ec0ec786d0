"""A pack that can tell what shows none of its classes, photos for it, and one of nothing."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from common import DEMO
from PIL import Image

from edge_qprompt import AdaptSettings, Backbone, Pack, adapt
from edge_qprompt.photos import load_dataset

OWN = DEMO / "test" / "trouser" / "0.png"
STRANGE = DEMO / "test" / "bag" / "0.png"  # of a class that it never saw


@cache
def telling_pack() -> Pack:
    """A discriminant of the first five of the embedded classes, learned in half a second."""
    return adapt(Backbone.open("nano"), load_dataset(DEMO).select("base"), AdaptSettings(method="qgda")).pack


@cache
def noise() -> bytes:
    """A photo of noise, as PNG."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(data := io.BytesIO(), "PNG")
    return data.getvalue()
