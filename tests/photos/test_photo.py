"""Photos to pixels: every kind of file, upright and in RGB, or an error that helps."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_qprompt.backbone.manifest import Preprocess
from edge_qprompt.errors import PhotoError
from edge_qprompt.photos import glances, photo
from edge_qprompt.photos.photo import decode_photo, random_view, read_photo, to_pixels
from exporter.source.torchvision_schemas import define_missing_schemas

SETTINGS = Preprocess(32, 40, "shortest", "bicubic", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), fill=10)
ORIENTATION = 0x0112  # EXIF tag
RED, BLUE = (255, 0, 0), (0, 0, 255)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_head(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


COLOUR = noise(60, 40)
GREY = COLOUR.convert("L")
GREY_VALUES = np.asarray(GREY)
OPAQUE = Image.new("L", COLOUR.size, 255)


def with_alpha(image: Image.Image) -> Image.Image:
    copy = image.copy()
    copy.putalpha(noise(60, 40, 1).convert("L"))
    return copy


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (GREY, "PNG", GREY),
        (with_alpha(GREY), "PNG", GREY),
        (with_alpha(COLOUR), "PNG", COLOUR),
        (COLOUR.convert("CMYK"), "TIFF", COLOUR),
        (COLOUR.quantize(16), "PNG", COLOUR.quantize(16)),
        (GREY.convert("1"), "PNG", GREY.convert("1")),
        (Image.fromarray(GREY_VALUES.astype(np.uint16) * 257), "PNG", GREY),
        (Image.fromarray(GREY_VALUES.astype(np.uint16) * 257), "TIFF", GREY),
        (Image.fromarray(GREY_VALUES.astype(np.int32) * 257), "TIFF", GREY),
        (Image.fromarray(GREY_VALUES.astype(np.int32)), "TIFF", GREY),
        (Image.fromarray(GREY_VALUES.astype(np.float32)), "TIFF", GREY),
        (Image.fromarray(GREY_VALUES.astype(np.float32) / 255), "TIFF", GREY),
        (Image.fromarray(GREY_VALUES.astype(np.float32) * 257), "TIFF", GREY),
    ],
    ids=[
        "grey",
        "LA",
        "RGBA",
        "CMYK",
        "palette",
        "bilevel",
        "16-bit-png",
        "16-bit-tiff",
        "32-bit",
        "8-in-32-bit",
        "float-255",
        "float-1",
        "float-65535",
    ],
)
def test_every_mode_becomes_the_same_rgb(image: Image.Image, kind: str, expected: Image.Image) -> None:
    decoded = decode_photo(encode(image, kind))
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), np.asarray(expected.convert("RGB")))


def test_palette_with_transparency_keeps_its_colours() -> None:
    image = COLOUR.quantize(16)
    data = encode(image, "PNG", transparency=bytes(range(0, 256, 16)))
    assert Image.open(io.BytesIO(data)).info["transparency"]
    assert np.array_equal(np.asarray(decode_photo(data)), np.asarray(image.convert("RGB")))


def test_float_photo_with_holes_is_black_there() -> None:
    values = GREY_VALUES.astype(np.float32) / 255
    values[:10] = np.nan
    decoded = np.asarray(decode_photo(encode(Image.fromarray(values), "TIFF")))
    assert not decoded[:10].any()
    assert np.array_equal(decoded[10:, :, 0], GREY_VALUES[10:])


STORED_AS = {  # EXIF orientation: how the camera turned the upright photo before it stored it
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED_AS)
def test_rotated_photo_gives_the_pixels_of_the_upright_one(orientation: int, kind: str) -> None:
    turn, exif = STORED_AS[orientation], Image.Exif()
    exif[ORIENTATION] = orientation
    stored = COLOUR if turn is None else COLOUR.transpose(turn)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    decoded = decode_photo(encode(stored, kind, exif=exif, **options))
    assert np.array_equal(np.asarray(decoded), np.asarray(COLOUR))
    assert np.array_equal(to_pixels(decoded, SETTINGS), to_pixels(COLOUR, SETTINGS))


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01"])
def test_damaged_exif_does_not_cost_the_photo(exif: bytes) -> None:
    assert decode_photo(encode(COLOUR, "JPEG", exif=exif)).size == COLOUR.size


JPEG, PNG = encode(noise(200, 150), "JPEG"), encode(noise(200, 150), "PNG")
DAMAGES = {
    "text": (b"this is no photo, whatever its name says", "x.jpg is not an image .*JPEG.*: convert it"),
    "half a jpeg": (JPEG[: len(JPEG) // 2], "x.jpg is damaged or cut short: .*truncated"),
    "half a png": (PNG[: len(PNG) // 2], "x.jpg is damaged or cut short: .*truncated"),
    "png without its data": (png_head(20, 20), "x.jpg is damaged or cut short"),
    "zeros in a png": (PNG[:500] + bytes(500) + PNG[1000:], "x.jpg is damaged or cut short"),
    "bomb": (png_head(50_000, 50_000), "more than 178956970 pixels, the limit: shrink"),
    "just too many pixels": (png_head(17_897, 10_000), "more than 178956970 pixels, the limit: shrink"),
    "one pixel": (encode(noise(1, 1), "PNG"), "has 1 x 1 pixels, that is no photo"),
    "a line": (encode(noise(500, 1), "PNG"), "has 500 x 1 pixels, that is no photo"),
    "EPS": (encode(noise(9, 9), "EPS"), "is not an image that can be decoded"),
    "nothing": (b"", "is not an image that can be decoded"),
}


@pytest.mark.parametrize(("data", "message"), DAMAGES.values(), ids=DAMAGES)
def test_what_is_no_photo_is_named_with_its_reason(data: bytes, message: str) -> None:
    with pytest.raises(PhotoError, match=message):
        decode_photo(data, "x.jpg")


def test_any_cut_of_a_jpeg_is_a_photo_error() -> None:
    small = encode(noise(20, 15), "JPEG")
    for end in range(1, len(small) - 2, 7):  # without its last two bytes it is complete but for the end marker
        with pytest.raises(PhotoError):
            decode_photo(small[:end])


def test_pillows_bomb_warning_and_limit_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # warns above, refuses twice as many
    assert decode_photo(encode(noise(40, 40), "PNG")).size == (40, 40)  # a warning would be an error here
    with pytest.raises(PhotoError, match=r"more than \d+ pixels"):
        decode_photo(encode(noise(50, 50), "PNG"))


def test_decoding_in_threads_leaves_the_warning_filters_alone() -> None:
    data, before = encode(noise(8, 8), "PNG"), list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(decode_photo, [data] * 400))) == 400
    assert list(warnings.filters) == before


def test_reads_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    assert read_photo(tmp_path / "a.jpg") == b"abc"


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "large.jpg").write_bytes(bytes(101))
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    monkeypatch.setattr(photo, "MAX_PHOTO_BYTES", 100)
    for name, message in {
        "missing.jpg": "cannot read .*missing.jpg: No such file",
        "empty.jpg": "empty.jpg is empty",
        "large.jpg": "large.jpg has 101 bytes, the limit is 100: shrink",
        "pipe.jpg": "pipe.jpg is not a file",
        ".": "is not a file",
        "nul\0.jpg": "cannot read .*nul.*null byte",
    }.items():
        with pytest.raises(PhotoError, match=message):
            read_photo(tmp_path / name)


@pytest.mark.parametrize("size", [(40, 40), (60, 40), (41, 77), (333, 500), (20, 30), (7, 100), (32, 4)])
@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_pixels_are_torchvisions(size: tuple[int, int], mode: str) -> None:
    define_missing_schemas()
    from torchvision import transforms

    settings, image = replace(SETTINGS, interpolation=mode), noise(*size)
    steps = [
        transforms.Resize(settings.resize, transforms.InterpolationMode(mode)),
        transforms.CenterCrop(settings.size),
        transforms.ToTensor(),
        transforms.Normalize(settings.mean, settings.std),
    ]
    pixels = to_pixels(image, settings)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels, transforms.Compose(steps)(image).numpy(), atol=2e-6)


@pytest.mark.parametrize("size", [(2, 20_000), (20_000, 2), (3, 100), (1000, 8)])
def test_long_thin_photos_show_their_middle(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, BLUE)
    third = [n // 3 if n == max(size) else 0 for n in size]
    image.paste(RED, (*third, size[0] - third[0], size[1] - third[1]))
    middle = to_pixels(Image.new("RGB", (50, 50), RED), SETTINGS)
    np.testing.assert_allclose(to_pixels(image, SETTINGS), middle, atol=1e-5)
    assert random_view(image, SETTINGS, np.random.default_rng(0)).shape == (3, 32, 32)


def test_longest_pads_with_the_fill_and_squash_shows_everything() -> None:
    image = Image.new("RGB", (100, 50), RED)
    padded = to_pixels(image, replace(SETTINGS, resize_mode="longest"))
    grey = to_pixels(Image.new("RGB", (9, 9), (10, 10, 10)), SETTINGS)
    assert np.array_equal(padded[:, :8], grey[:, :8])
    assert np.array_equal(padded[:, 24:], grey[:, 24:])
    assert (padded[0, 8:24] == (1 - np.float32(0.5)) / np.float32(0.2)).all()
    image.paste(BLUE, (50, 0, 100, 50))
    squashed = to_pixels(image, replace(SETTINGS, resize_mode="squash"))
    assert (squashed[2, :, -8:] > 0).all()
    assert (squashed[2, :, :8] < 0).all()


@given(st.integers(2, 300), st.integers(2, 300), st.sampled_from(("shortest", "squash", "longest")), st.integers(0, 2**32))
def test_a_grey_photo_in_one_channel_gives_the_pixels_that_three_do(width: int, height: int, mode: str, seed: int) -> None:
    data = encode(noise(width, height, seed).convert("L"), "PNG")
    one, three = decode_photo(data, grey=True), decode_photo(data)
    assert (one.mode, three.mode) == ("L", "RGB")
    settings = replace(SETTINGS, resize_mode=mode)
    assert np.array_equal(photo.centre_view(one, settings), photo.centre_view(three, settings))
    random = [random_view(image, SETTINGS, np.random.default_rng(seed)) for image in (one, three)]
    assert np.array_equal(*random)


@given(st.integers(2, 3000), st.integers(2, 3000), st.integers(0, 2**32))
def test_crops_keep_to_the_area_and_the_ratio(width: int, height: int, seed: int) -> None:
    left, top, right, bottom = photo._random_box(width, height, np.random.default_rng(seed))
    w, h, side = right - left, bottom - top, min(width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    if (left, top, w, h) == ((width - side) // 2, (height - side) // 2, side, side):
        return  # where no draw fits: the middle
    low, high = photo.CROP_AREA  # sides are rounded to whole pixels, so half a pixel either way
    assert (w - 0.5) * (h - 0.5) <= high * width * height
    assert (w + 0.5) * (h + 0.5) >= low * width * height
    assert (w - 0.5) / (h + 0.5) <= photo.CROP_RATIO[1]
    assert (w + 0.5) / (h - 0.5) >= photo.CROP_RATIO[0]


def test_crops_of_a_square_spread_over_area_and_place() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([photo._random_box(1000, 1000, rng) for _ in range(500)])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 1e6
    assert areas.min() < 0.15
    assert areas.max() > 0.85
    assert 0.45 < areas.mean() < 0.6  # uniform on 0.08 to 1, the largest fit less often
    centres = (boxes[:, 0] + boxes[:, 2]) / 2
    assert 480 < centres.mean() < 520


def test_random_views_depend_on_the_generator_alone_and_flip_half_of_the_time() -> None:
    image = Image.new("RGB", (64, 64), BLUE)
    image.paste(RED, (0, 0, 32, 64))
    views = [random_view(image, SETTINGS, np.random.default_rng(seed)) for seed in range(200)]
    again = [random_view(image, SETTINGS, np.random.default_rng(seed)) for seed in range(200)]
    assert np.array_equal(views, again)
    lean = np.array([view[0, :, :4].mean() - view[0, :, -4:].mean() for view in views])  # red on the left or on the right
    flipped = (lean < 0).sum() / (lean != 0).sum()
    assert 0.4 < flipped < 0.6


@pytest.mark.parametrize(("suffix", "size"), [("jpg", (600, 400)), ("png", (600, 400)), ("bmp", None)])
def test_a_glance_tells_size_spread_and_a_small_picture(tmp_path: Path, suffix: str, size: tuple[int, int] | None) -> None:
    left = np.zeros((400, 600, 3), np.uint8)
    left[:, :300] = 200
    Image.fromarray(left).save(tmp_path / f"half.{suffix}")
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    told: list[tuple[int, int]] = []
    found, broken = glances([tmp_path / f"half.{suffix}", tmp_path / "broken.jpg"], lambda *done: told.append(done))
    assert (broken, told) == (None, [(1, 2), (2, 2)])
    assert found
    assert found.size == size
    assert found.spread == pytest.approx(100, abs=2)
    assert found.picture.shape == (16, 16)
    assert found.picture[:, :7].min() > 190
    assert found.picture[:, 9:].max() < 10
