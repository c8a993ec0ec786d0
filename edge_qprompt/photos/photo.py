"""Photos to pixels: Pillow and numpy, the same numbers as open_clip's torchvision transform.

Antialiased bicubic matters: resizing a tensor instead of an image costs 0.06 of cosine. What
open_clip does not do: EXIF rotation, and 16-bit photos scaled instead of clipped. Symbols: S
pixels a side.
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL import features as pillow

from edge_qprompt.backbone import Preprocess
from edge_qprompt.errors import PhotoError

MAX_PHOTO_BYTES = 256 << 20
MAX_PHOTO_PIXELS = 178_956_970  # 0.5 GB decoded; where Pillow itself refuses
AVIF = ("AVIF",) if pillow.check("avif") else ()
HEIF = ("HEIF",) if importlib.util.find_spec("pillow_heif") else ()  # the extra `heic`
COMMON = ("JPEG", "PNG", "WEBP", "GIF", *AVIF, *HEIF)  # what cameras, phones and browsers send
FORMATS = (*COMMON, "BMP", "TIFF", "PPM", "JPEG2000")  # not EPS, which Pillow hands to Ghostscript
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1")  # of an ISO media file, ISO/IEC 23008-12
JPEG_HEAD, PNG_HEAD = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
OTHER_HEADS = {
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"%PDF": "PDF",
    b"<svg": "SVG",
} | {b"P%d" % kind: "PPM" for kind in range(1, 7)}
MAX_CHUNKS = 10_000  # of a PNG: each takes Pillow as long as thousands of pixels; a photo of 50 MB has 6,000
MAX_SEGMENTS = 1000  # of a JPEG, before its first scan: a photo with a large ICC profile and EXIF has dozens
MIN_SIDE = 2
MAX_ASPECT = 16
MAX_SCANS = 64  # of a JPEG; encoders write a dozen at most, and each takes as long as the whole photo, in 45 bytes
BLOCK_ROWS = 64  # of a photo of 16 bits that are scaled at once

CROP_AREA = (0.08, 1.0)  # share of the photo's area, torchvision's RandomResizedCrop
CROP_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10

JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # those before a length, and the end
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
BASE64 = re.compile(rb"[A-Za-z0-9+/_=\r\n-]{32,}")

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Pixels = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def read_photo(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        PhotoError: unreadable, no regular file, empty or larger than MAX_PHOTO_BYTES.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise PhotoError(f"{path} is not a file")
        if size > MAX_PHOTO_BYTES:
            raise PhotoError(f"{path} has {size} bytes, the limit is {MAX_PHOTO_BYTES}: shrink the photo")
        data = path.read_bytes()
    except OSError as error:
        raise PhotoError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise PhotoError(f"cannot read {str(path)!r}: {error}") from error
    if not data:
        raise PhotoError(f"{path} is empty")
    return data


def is_common(data: bytes) -> bool:
    """Whether a file is of a format in COMMON, by its first bytes, and no PNG of absurdly many chunks.

    What is not may cost far more than its size tells (`decoder`).
    """
    if data.startswith(PNG_HEAD):
        return _chunks(data) <= MAX_CHUNKS
    if data.startswith(JPEG_HEAD):
        return _segments(data) <= MAX_SEGMENTS
    return data.startswith((b"RIFF", b"GIF8")) or data[4:8] == b"ftyp"


def decode_photo(
    data: bytes,
    name: str = "photo",
    most_pixels: int = MAX_PHOTO_PIXELS,
    formats: tuple[str, ...] = FORMATS,
    sized: Callable[[int], None] = lambda _: None,
    grey: bool = False,
    opened: Callable[[Image.Image], object] = lambda _: None,
) -> Image.Image:
    """Decode any common image file to upright RGB; of an animation, its first frame.

    Args:
        data: a whole image file.
        name: what to call it in an error.
        most_pixels: width times height, at most; what is larger is refused before it is decoded.
        formats: Pillow's names of those that are taken.
        sized: called with the number of pixels before these are decoded.
        grey: leave a grey photo in its one channel, of which views are made in a third of the time.
        opened: called with the image before its pixels are decoded, to ask a JPEG for fewer of them (`Image.draft`).

    Raises:
        PhotoError: not an image, cut short, or with too many pixels.
    """
    if HEIF:
        _register_heif()
    try:
        with _quiet, Image.open(io.BytesIO(data), formats=formats) as image:
            width, height = image.size
            if width * height > min(most_pixels, MAX_PHOTO_PIXELS):
                raise Image.DecompressionBombError(f"{width} x {height}")
            if min(width, height) < MIN_SIDE:
                raise PhotoError(f"{name} has {width} x {height} pixels, that is no photo")
            if image.format in ("JPEG", "MPO") and _scans(data) > MAX_SCANS:
                raise PhotoError(f"{name} has more than {MAX_SCANS} scans, that is no photo: save it as an ordinary JPEG")
            sized(width * height)
            opened(image)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return image if grey and image.mode == "L" else _to_rgb(image)
    except UnidentifiedImageError as error:
        raise PhotoError(f"{name} {_unknown(data, formats)}") from error
    except Image.DecompressionBombError as error:
        raise PhotoError(f"{name} has more than {min(most_pixels, MAX_PHOTO_PIXELS)} pixels, the limit: shrink it") from error
    except PhotoError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever their format brings to mind
        raise PhotoError(f"{name} is damaged or cut short: {error}") from error


def _unknown(data: bytes, formats: tuple[str, ...]) -> str:
    """What is wrong with bytes that no format claims, and what to do."""
    if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS and "HEIF" not in formats:
        return "is a HEIC photo, which needs pillow-heif: pip install 'edge-qprompt[heic]', or convert it to JPEG"
    head = data[:64].lstrip()
    if head.startswith(b"data:") or BASE64.fullmatch(head):
        return "is text in base64, not the file itself: send its bytes (curl --data-binary @photo.jpg)"
    if head.startswith(b"\x1f\x8b"):
        return "is compressed by gzip: send the file as it is"
    if (kind := next((kind for start, kind in OTHER_HEADS.items() if head.startswith(start)), None)) and kind not in formats:
        return f"is a {kind}, which is not taken here ({', '.join(formats)} are): convert it to JPEG"
    return f"is not an image that can be decoded ({', '.join(formats)}), or is damaged: convert it to JPEG"


def _register_heif() -> None:
    """Teach Pillow HEIC, once; loaded late, since only few photos need it."""
    if "HEIF" not in Image.ID:
        import pillow_heif

        pillow_heif.options.DECODE_THREADS = 1
        pillow_heif.register_heif_opener(thumbnails=False)


class _QuietPillow:
    """Silences Pillow's warnings about odd EXIF and many pixels, which name no photo.

    Warning filters belong to the process, so the first thread in sets them and the last one out
    restores them; a `catch_warnings` in each thread would leave them changed for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(None, None, None)


_quiet = _QuietPillow()


def _scans(data: bytes) -> int:
    """Scans of a JPEG, or a few more than MAX_SCANS.

    Walks the markers as a decoder does: lengths are skipped, and so is what was coded, where 0xFF comes before a zero.
    """
    at, scans = 2, 0
    while scans <= MAX_SCANS and (found := JPEG_MARKER.search(data, at)) and found[0] != END_OF_IMAGE:
        scans += found[0] == START_OF_SCAN
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return scans


def _chunks(data: bytes) -> int:
    """Chunks of a PNG, or a few more than MAX_CHUNKS."""
    at, chunks = len(PNG_HEAD), 0
    while chunks <= MAX_CHUNKS and at < len(data):
        at += 12 + int.from_bytes(data[at : at + 4], "big")  # length, kind and CRC are 12 bytes
        chunks += 1
    return chunks


def _segments(data: bytes) -> int:
    """Segments of a JPEG before its first scan, or a few more than MAX_SEGMENTS; bytes that fill are counted too."""
    at, segments = 2, 0
    while segments <= MAX_SEGMENTS and data[at : at + 1] == b"\xff" and data[at : at + 2] != START_OF_SCAN:
        at += 1 if data[at + 1 : at + 2] == b"\xff" else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segments += 1
    return segments


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_bytes(np.asarray(image), image.mode))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_bytes(values: NDArray[Any], mode: str) -> NDArray[np.uint8]:
    """Grey levels (H, W) of 16 or 32 bits scaled to 8, where Pillow would clip; white is the first that bounds them."""
    blocks = [slice(start, start + BLOCK_ROWS) for start in range(0, len(values), BLOCK_ROWS)]  # in float64 they are large
    highest = max(np.nan_to_num(values[rows]).max() for rows in blocks)
    whites = (1, 255, 65535) if mode == "F" else (255, 65535)
    white = next((white for white in whites if highest <= white), whites[-1])
    scaled = np.empty(values.shape, np.uint8)
    for rows in blocks:
        levels = np.nan_to_num(values[rows].astype(np.float64)).clip(0, white)
        scaled[rows] = (levels * (255 / white)).round()
    return scaled


def view_of(image: Image.Image, key: bytes | None, settings: Preprocess) -> Bytes:
    """A view (3, S, S), not normalised: the centre crop, or where there is a key the random crop that it stands for."""
    return centre_view(image, settings) if key is None else random_view(image, settings, np.random.default_rng(list(key)))


def to_pixels(image: Image.Image, settings: Preprocess) -> Pixels:
    """The view that inference uses: resize, centre crop, normalise.

    Returns:
        (3, S, S) float32.
    """
    return normalise(centre_view(image, settings), settings)


def centre_view(image: Image.Image, settings: Preprocess) -> Bytes:
    """The same before it is normalised, (3, S, S), of RGB or of grey."""
    size, mode = settings.size, FILTERS[settings.interpolation]
    if settings.resize_mode == "squash":
        return _planes(image.resize((size, size), mode))
    if settings.resize_mode == "longest":
        scale = size / max(image.size)
        fitted = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), mode)
        return _planes(_crop_or_pad(fitted, size, settings.fill))
    image = _shorten(image)
    target = settings.resize
    other = int(target * max(image.size) / min(image.size))  # torchvision truncates
    shape = (target, other) if image.width <= image.height else (other, target)
    return _planes(_crop_or_pad(image.resize(shape, mode), size, settings.fill))


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
        colour = fill if image.mode == "L" else (fill, fill, fill)
        padded = Image.new(image.mode, (max(size, image.width), max(size, image.height)), colour)
        padded.paste(image, ((padded.width - image.width) // 2, (padded.height - image.height) // 2))
        image = padded
    left, top = round((image.width - size) / 2.0), round((image.height - size) / 2.0)
    return image.crop((left, top, left + size, top + size))


def random_view(image: Image.Image, settings: Preprocess, rng: np.random.Generator) -> Bytes:
    """A random resized crop, flipped half of the time: the reference's training augmentation.

    Args:
        image: RGB, or grey.
        settings: of the backbone; only size and filter are used.
        rng: the only source of randomness.

    Returns:
        (3, S, S), not normalised.
    """
    box = _random_box(image.width, image.height, rng)
    view = image.resize((settings.size, settings.size), FILTERS[settings.interpolation], box=box)
    if rng.random() < 0.5:
        view = ImageOps.mirror(view)
    return _planes(view)


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


def normalise(view: Bytes, settings: Preprocess) -> Pixels:
    """What the encoder takes, (..., 3, S, S) float32, of views (..., 3, S, S)."""
    values = view.astype(np.float32)
    mean, std = (np.array(each, np.float32)[:, None, None] for each in (settings.mean, settings.std))
    values /= np.float32(255)  # in place and plane by plane: ten times faster than pixel by pixel
    values -= mean
    values /= std
    return values


def _planes(image: Image.Image) -> Bytes:
    """(3, S, S) of an RGB or grey image; plane by plane from Pillow, which takes half the time of a transposed array."""
    data = 3 * image.tobytes() if image.mode == "L" else b"".join(image.tobytes("raw", band) for band in "RGB")
    return np.frombuffer(data, np.uint8).reshape(3, image.height, image.width)
