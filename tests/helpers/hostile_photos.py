"""Image files that cost more than they weigh, made here; each fits into the server's largest body.

python benchmarks/hostile_photos.py FOLDER        writes them as files, to look at one
"""

from __future__ import annotations

import io
import random
import struct
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

MOST = 16_000_000  # bytes
SIDE = 4900  # 24 megapixels, just below the server's limit


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"", interlace: int = 0) -> bytes:
    """A PNG of rows with a filter byte each."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def small_png(extra: bytes) -> bytes:
    """64 x 64 pixels, and something before them."""
    return png(64, 64, 8, 2, bytes(64 * (1 + 3 * 64)), extra)


def saved(kind: str, size: tuple[int, int], mode: str = "RGB", **options: Any) -> bytes:
    """A plain picture in some format."""
    with io.BytesIO() as file:
        Image.new(mode, size, 1).save(file, kind, **options)
        return file.getvalue()


def jpeg_with(segments: bytes) -> bytes:
    """A small JPEG with something behind its first marker."""
    data = saved("JPEG", (64, 64))
    return data[:2] + segments + data[2:]


def segment(marker: int, data: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def many_scans(scans: int, side: int = SIDE) -> bytes:
    """A progressive JPEG whose last scan comes again and again: 45 bytes each, and each the work of a whole photo."""
    data = saved("JPEG", (side, side), "L", progressive=True)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:last] + data[last:end] * scans + data[end:]


def tiff(entries: list[tuple[int, int, int, int | None]], tail: bytes) -> bytes:
    """A TIFF of one directory of (tag, type, count, value); None stands for the place of `tail`."""
    place = 8 + 2 + 12 * len(entries) + 4
    rows = b"".join(
        struct.pack("<HHI", tag, kind, count)
        + (
            struct.pack("<I", place)
            if value is None
            else struct.pack("<HH" if kind == 3 else "<I", *([value, 0][: 2 if kind == 3 else 1]))
        )
        for tag, kind, count, value in sorted(entries, key=lambda entry: entry[0])
    )
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows + bytes(4) + tail


@cache
def huge_tile() -> bytes:
    """A TIFF of 100 x 100 pixels in a tile of 26,000 x 26,000."""
    side = 26_000
    tile = zlib.compress(bytes(side * side * 3), 9)
    plain = [(256, 3, 1, 100), (257, 3, 1, 100), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 2), (277, 3, 1, 3)]
    return tiff([*plain, (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, None), (325, 4, 1, len(tile))], tile)


def overlapping_tags() -> bytes:
    """A TIFF with 1,500 tags that all point at the same megabyte."""
    blob = 1_000_000
    plain = [(256, 3, 1, 64), (257, 3, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    strips = [(273, 4, 1, None), (278, 3, 1, 64), (279, 4, 1, 4096)]
    return tiff([*plain, *strips, *((40_000 + i, 7, blob, None) for i in range(1500))], bytes(blob))


def exif_of_tags() -> bytes:
    """EXIF in a JPEG, whose tags all point at the same 60 kB."""
    entries = [(40_000 + i, 7, 50_000, 100) for i in range(800)]
    body = tiff([(274, 3, 1, 6), *entries], bytes(50_000))
    return jpeg_with(segment(0xE1, b"Exif\0\0" + body[:65_000]))


def runs_bmp() -> bytes:
    """A BMP of two million runs of one pixel."""
    runs = b"\x01\x05" * 1_990_000
    head = struct.pack("<IHHI", 54 + 1024 + len(runs), 0, 0, 54 + 1024)
    return b"BM" + head + struct.pack("<IiiHHIIiiII", 40, 2000, 1000, 1, 8, 1, len(runs), 0, 0, 256, 0) + bytes(1024) + runs


def gif(frames: int) -> bytes:
    """A GIF of many frames."""
    images = [Image.new("P", (400, 400), i % 7) for i in range(frames)]
    with io.BytesIO() as file:
        images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=10, optimize=False)
        return file.getvalue()


def animated_webp(frames: int) -> bytes:
    """A WebP of many frames on a large canvas."""
    images = [Image.new("RGB", (2000, 2000), (i % 256, 0, 0)) for i in range(frames)]
    with io.BytesIO() as file:
        images[0].save(file, "WEBP", save_all=True, append_images=images[1:], lossless=True, quality=0, method=0)
        return file.getvalue()


def noise(size: int) -> bytes:
    """Bytes that cannot be compressed."""
    return random.Random(1).randbytes(size)


KINDS: dict[str, Callable[[], bytes]] = {
    "comments.ppm": lambda: b"P3\n2000 1300\n255\n" + b"#\n1\n" * 80_000,
    "comments_6mb.ppm": lambda: b"P3\n2000 1300\n255\n" + b"#\n1\n" * 1_500_000,
    "maxval_254.ppm": lambda: b"P6\n2300 2300\n254\n" + bytes(2300 * 2300 * 3),
    "million_texts.png": lambda: small_png(b"".join(chunk(b"tEXt", b"a\0b") for _ in range(1_000_000))),
    "tile.tif": huge_tile,
    "overlapping_tags.tif": overlapping_tags,
    "runs.bmp": runs_bmp,
    "64_scans.jpg": lambda: many_scans(55),
    "30000_scans.jpg": lambda: many_scans(30_000),
    "four_million_markers.jpg": lambda: jpeg_with(segment(0xE5, b"") * 3_900_000),
    "comment_markers.jpg": lambda: jpeg_with(segment(0xFE, b"x" * 10) * 1_100_000),
    "fill_bytes.jpg": lambda: jpeg_with(b"\xff" * (MOST - 10_000)),
    "exif_tags.jpg": exif_of_tags,
    "quantization_tables.jpg": lambda: jpeg_with(segment(0xDB, b"\0" + bytes(range(1, 65))) * 230_000),
    "cmyk.jpg": lambda: saved("JPEG", (SIDE, SIDE), "CMYK"),
    "icc.jpg": lambda: jpeg_with(b"".join(segment(0xE2, b"ICC_PROFILE\0\x01\xff" + noise(65_000)) for _ in range(200))),
    "million_idat.png": lambda: small_png(b"")[:33] + chunk(b"IDAT", b"") * 1_300_000 + small_png(b"")[33:],
    "interlaced_16_bit.png": lambda: png(SIDE, SIDE, 16, 6, bytes(SIDE * (1 + 8 * SIDE) + 40 * SIDE), interlace=1),
    "text_bombs.png": lambda: small_png(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000), 9)) * 10_000),
    "icc_bomb.png": lambda: small_png(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(500_000_000), 9))),
    "xmp.png": lambda: small_png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b'tiff:Orientation="' * 800_000)),
    "strip.png": lambda: png(8_000_000, 3, 8, 2, bytes(3 * (1 + 3 * 8_000_000))),
    "column.png": lambda: png(3, 8_000_000, 8, 2, bytes(8_000_000 * (1 + 3 * 3))),
    "claims.png": lambda: png(60_000, 60_000, 8, 2, b""),
    "frames.gif": lambda: gif(2000),
    "canvas.gif": lambda: b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6) + b"," + bytes(12),
    "flat.webp": lambda: saved("WEBP", (SIDE, SIDE), lossless=True, quality=0, method=0),
    "frames.webp": lambda: animated_webp(60),
    "flat.avif": lambda: saved("AVIF", (SIDE, SIDE), speed=10),
    "noise.jpg": lambda: saved("JPEG", (64, 64))[:300] + noise(MOST - 1000),
    "noise.png": lambda: small_png(b"")[:40] + noise(MOST - 1000),
}


def main() -> None:
    """Write all of them."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in KINDS.items():
        (folder / name).write_bytes(make())
        print(f"{name:24} {(folder / name).stat().st_size:>10} bytes")


if __name__ == "__main__":
    main()
