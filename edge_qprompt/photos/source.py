"""Photos as people have them: a path, the bytes of an image file, a PIL image, or an array of pixels.

Symbols: H height, W width.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edge_qprompt.errors import PhotoError
from edge_qprompt.photos.photo import read_photo

AnyPhoto = str | Path | bytes | Image.Image | NDArray[Any]
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
FAST = 1  # of zlib: it is only read once more


@dataclass(frozen=True)
class InMemory:
    """A photo that is no file.

    Attributes:
        data: the bytes of an image file.
        name: what to call it in an error.
    """

    data: bytes
    name: str

    def __str__(self) -> str:
        return self.name


Source = Path | InMemory


def source_of(photo: AnyPhoto, name: str = "photo") -> Source:
    """A photo as what can be read again and again.

    Args:
        photo: a path, bytes, a PIL image, or an array (H, W, 3) or (H, W) of uint8.
        name: what to call it, if it is no file.

    Raises:
        PhotoError: something else, an array of another kind, or an image whose file is damaged.
    """
    if isinstance(photo, str | Path):
        return Path(photo)
    if isinstance(photo, bytes | bytearray | memoryview):
        return InMemory(bytes(photo), name)
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim not in (2, 3) or (photo.ndim == 3 and photo.shape[2] != 3):
            wanted = "wanted (H, W, 3) or (H, W) of uint8, 0 to 255"
            raise PhotoError(f"{name} is an array {photo.shape} of {photo.dtype}, {wanted}")
        return InMemory(_png(Image.fromarray(np.ascontiguousarray(photo))), name)
    if isinstance(photo, Image.Image):
        try:
            return InMemory(_png(ImageOps.exif_transpose(photo)), name)
        except Exception as error:  # Pillow reads an opened file only now, and its decoders raise what they like
            raise PhotoError(f"{name} is damaged or cut short: {error}") from error
    raise PhotoError(f"{name} is a {type(photo).__name__}, wanted a path, the bytes of an image file, a PIL image or an array")


def read(source: Source) -> bytes:
    """The bytes of an image file.

    Raises:
        PhotoError: as of `photo.read_photo`.
    """
    if isinstance(source, Path):
        return read_photo(source)
    if not source.data:
        raise PhotoError(f"{source} is empty")
    return source.data


def _png(image: Image.Image) -> bytes:
    """Without loss."""
    with io.BytesIO() as file:
        (image if image.mode in PNG_MODES else image.convert("RGB")).save(file, "PNG", compress_level=FAST)
        return file.getvalue()
