"""Photos to pixels: Pillow and numpy, the same numbers as open_clip's torchvision transform.

Antialiased bicubic matters: resizing a tensor instead of an image costs 0.06 of cosine. What
open_clip does not do: EXIF rotation, and 16-bit photos scaled instead of clipped. Symbols: S
pixels a side.
"""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edge_qprompt.errors import PhotoError
from edge_qprompt.manifest import Preprocess

MAX_PHOTO_BYTES = 256 << 20
MAX_PHOTO_PIXELS = 200_000_000  # 0.6 GB decoded; the largest phone sensors have 200 megapixels
MIN_SIDE = 2
MAX_ASPECT = 16

CROP_AREA = (0.08, 1.0)  # share of the photo's area, torchvision's RandomResizedCrop
CROP_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Pixels = NDArray[np.float32]


def read_photo(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        PhotoError: unreadable, empty or larger than MAX_PHOTO_BYTES.
    """
    try:
        size = path.stat().st_size
        if size > MAX_PHOTO_BYTES:
            raise PhotoError(f"{path} has {size >> 20} MB, the limit is {MAX_PHOTO_BYTES >> 20}: shrink the photo")
        data = path.read_bytes()
    except OSError as error:
        raise PhotoError(f"cannot read {path}: {error.strerror}") from error
    if not data:
        raise PhotoError(f"{path} is empty")
    return data


def decode_photo(data: bytes, name: str = "photo") -> Image.Image:
    """Decode any common image file to upright RGB.

    Args:
        data: a whole image file.
        name: what to call it in an error.

    Raises:
        PhotoError: not an image, cut short, or with more than MAX_PHOTO_PIXELS pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # bombs are judged by size below, odd EXIF does not matter
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                if width * height > MAX_PHOTO_PIXELS:
                    raise PhotoError(f"{name} has {width} x {height} pixels, the limit is {MAX_PHOTO_PIXELS}: shrink the photo")
                if min(width, height) < MIN_SIDE:
                    raise PhotoError(f"{name} has {width} x {height} pixels, that is no photo")
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise PhotoError(f"{name} is not an image that can be decoded") from error
    except PhotoError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever their format brings to mind
        raise PhotoError(f"{name} is damaged or cut short: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits a channel: scale, Pillow would clip
        values = np.asarray(image, np.float64)
        top = 255.0 if values.max(initial=0) <= 255 else 65535.0
        image = Image.fromarray((values.clip(0, top) * (255.0 / top)).round().astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def to_pixels(image: Image.Image, settings: Preprocess) -> Pixels:
    """The view that inference uses: resize, centre crop, normalise.

    Returns:
        (3, S, S) float32.
    """
    size, mode = settings.size, FILTERS[settings.interpolation]
    if settings.resize_mode == "squash":
        return _normalise(image.resize((size, size), mode), settings)
    if settings.resize_mode == "longest":
        scale = size / max(image.size)
        fitted = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), mode)
        return _normalise(_crop_or_pad(fitted, size, settings.fill), settings)
    image = _shorten(image)
    target = settings.resize
    other = int(target * max(image.size) / min(image.size))  # torchvision truncates
    shape = (target, other) if image.width <= image.height else (other, target)
    return _normalise(_crop_or_pad(image.resize(shape, mode), size, settings.fill), settings)


def _shorten(image: Image.Image) -> Image.Image:
    """The middle of a strip: only that is seen, and the whole one would be enlarged to gigabytes."""
    long, limit = max(image.size), MAX_ASPECT * min(image.size)
    if long <= limit:
        return image
    cut = (long - limit) // 2
    wide = image.width > image.height
    return image.crop((cut, 0, cut + limit, image.height) if wide else (0, cut, image.width, cut + limit))


def _crop_or_pad(image: Image.Image, size: int, fill: int) -> Image.Image:
    if min(image.size) < size:
        padded = Image.new("RGB", (max(size, image.width), max(size, image.height)), (fill, fill, fill))
        padded.paste(image, ((padded.width - image.width) // 2, (padded.height - image.height) // 2))
        image = padded
    left, top = round((image.width - size) / 2.0), round((image.height - size) / 2.0)
    return image.crop((left, top, left + size, top + size))


def random_view(image: Image.Image, settings: Preprocess, rng: np.random.Generator) -> Pixels:
    """A random resized crop, flipped half of the time: the reference's training augmentation.

    Args:
        image: RGB.
        settings: of the backbone; only size, filter, mean and std are used.
        rng: the only source of randomness.

    Returns:
        (3, S, S) float32.
    """
    box = _random_box(image.width, image.height, rng)
    view = image.resize((settings.size, settings.size), FILTERS[settings.interpolation], box=box)
    if rng.random() < 0.5:
        view = ImageOps.mirror(view)
    return _normalise(view, settings)


def _random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    low, high = (math.log(r) for r in CROP_RATIO)
    for _ in range(CROP_TRIES):
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    side = min(width, height)  # a very long photo: the middle of it
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _normalise(image: Image.Image, settings: Preprocess) -> Pixels:
    values = np.asarray(image, np.float32) / np.float32(255)  # (S, S, 3)
    values = (values - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))  # (3, S, S)
