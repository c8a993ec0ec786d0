"""Requests that nobody honest sends, as raw bytes: what httpx would refuse to write. All randomness comes in as an argument."""

from __future__ import annotations

import io
import json
import random
import re
import socket
import struct
import time
import zlib
from collections.abc import Iterable, Iterator

from common import DEMO
from PIL import Image

HOST = b"Host: hostile.example\r\n"
CLOSE = b"Connection: close\r\n"
PHOTO = DEMO / "test" / "bag" / "3.png"
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000")
NAMES = (
    "../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "/etc/passwd",
    "a\0.jpg",
    "\u202egpj.exe",  # shown from right to left
    "e\u0301.jpg",  # not in the composed form
    "\U0001f941.jpg",
    "\ufeff",
    "a" * 3000,
    "%2e%2e%2f",
    'a"; filename="b',
    "$(reboot)",
    "'; DROP TABLE packs; --",
    "CON",
    "\r\nX-Injected: yes",
)


def talk(port: int, pieces: Iterable[bytes], *, pause: float = 0.0, wait: float = 20.0, source: str = "127.0.0.1") -> bytes:
    """Send pieces as long as the server listens; all that it answers until it hangs up."""
    with socket.create_connection(("127.0.0.1", port), wait, (source, 0)) as link:
        try:
            for piece in pieces:
                link.sendall(piece)
                time.sleep(pause)
        except OSError:
            pass  # it has hung up, perhaps after an answer
        received = bytearray()
        try:
            while part := link.recv(1 << 16):
                received += part
        except ConnectionError:
            pass  # what it had not read is lost, and perhaps its answer
        return bytes(received)


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def request(method: str, target: str, body: bytes = b"", *headers: str) -> bytes:
    """A well-formed request, whatever its parts say."""
    lines = "".join(f"{header}\r\n" for header in headers).encode("latin-1", "replace")
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return (
        b"%s %s HTTP/1.1\r\n" % (method.encode(), target.encode("latin-1", "replace"))
        + HOST
        + CLOSE
        + lines
        + length
        + b"\r\n"
        + body
    )


def classify(body: bytes, media_type: str = "image/jpeg", query: str = "") -> bytes:
    return request("POST", "/v1/classify" + query, body, f"Content-Type: {media_type}")


def quoted(text: str) -> str:
    """Every byte with a percent sign; half characters as UTF-8 would have them, were they characters."""
    return "".join(f"%{byte:02x}" for byte in text.encode("utf-8", "surrogatepass"))


# --- photos


def photo(kind: str, size: tuple[int, int] = (80, 60)) -> bytes:
    """A real photo in some format."""
    with Image.open(PHOTO) as image, io.BytesIO() as file:
        image.convert("RGB").resize(size).save(file, kind)
        return file.getvalue()


def damaged(rng: random.Random, whole: bytes) -> bytes:
    """Cut short, some bytes changed, a piece missing or doubled."""
    data = bytearray(whole)
    at, length = rng.randrange(len(data)), rng.randrange(1, 64)
    match rng.randrange(4):
        case 0:
            return bytes(data[:at])
        case 1:
            for _ in range(rng.randrange(1, 20)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = data[at : at + length] * rng.randrange(1, 50)
    return bytes(data)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, rows: bytes = b"", extra: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bomb(rng: random.Random) -> bytes:
    """A head that claims far more pixels than are allowed, and hardly any data."""
    w, h = rng.randrange(20_000, 65_535), rng.randrange(20_000, 65_535)
    match rng.randrange(7):
        case 0:
            return png(w * rng.randrange(1, 30_000), h)
        case 1:
            return b"GIF89a" + struct.pack("<HHBBB", w, h, 0x80, 0, 0) + bytes(6) + b"," + struct.pack("<HHHHB", 0, 0, w, h, 0)
        case 2:
            tags = [(256, w), (257, h), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, h), (279, w * h)]
            entries = b"".join(struct.pack("<HHII", tag, 4, 1, value & 0xFFFFFFFF) for tag, value in tags)
            return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
        case 3:
            side = (16_383).to_bytes(3, "little")
            return riff(b"VP8X" + struct.pack("<I", 10) + bytes(4) + side + side)
        case 4:
            return riff(b"VP8L" + struct.pack("<I", 8) + b"\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(3))
        case 5:
            return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, w, h, 1, 24, 0, 0, 0, 0, 0, 0)
        case _:
            return b"P6 %d %d 255\n" % (w, h)


def riff(body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def many_scans(side: int, scans: int) -> bytes:
    """A JPEG whose last scan comes again and again: 45 bytes each, and each as much work as the whole photo."""
    with io.BytesIO() as file:
        Image.new("L", (side, side), 128).save(file, "JPEG", progressive=True)
        data = file.getvalue()
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:last] + data[last:end] * scans + data[end:]


def heavy(rng: random.Random, side: int) -> bytes:
    """Valid, small, and as much work and memory as the limit of pixels lets it be."""
    match rng.randrange(6):
        case 0:
            return png(side, side, depth=16, colour=0, rows=(b"\0" + bytes(2 * side)) * side)
        case 1:
            return png(side, side, colour=6, rows=(b"\0" + bytes(4 * side)) * side)
        case 2:
            return many_scans(side, 30_000)
        case 3:
            text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 20)))
            return png(8, 8, rows=(b"\0" + bytes(24)) * 8, extra=text * 200)
        case 4:
            with io.BytesIO() as file:
                frames = [Image.new("P", (64, 64), i % 2) for i in range(500)]
                frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
                return file.getvalue()
        case _:
            return b"P3 1000 1000 255\n" + b"1 " * (3 * 10**6 // 2)


# --- forms


def part(disposition: str, data: bytes, boundary: bytes = b"b") -> bytes:
    return (
        b"--"
        + boundary
        + b"\r\nContent-Disposition: "
        + disposition.encode("utf-8", "surrogatepass")
        + b"\r\n\r\n"
        + data
        + b"\r\n"
    )


def form(*parts: bytes, end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(parts) + end


def broken_form(rng: random.Random) -> tuple[str, bytes]:
    """A media type and a body that do not fit, or a form of more than anybody needs."""
    image = part('form-data; name="image"; filename="a.png"', PHOTO.read_bytes())
    name = rng.choice(NAMES)
    forms = {
        "no boundary": ("multipart/form-data", form(image)),
        "empty boundary": ("multipart/form-data; boundary=", form(image)),
        "boundary of 10 kB": ("multipart/form-data; boundary=" + "b" * 10_000, form(image)),
        "other boundary": ("multipart/form-data; boundary=c", form(image)),
        "no end": ("multipart/form-data; boundary=b", form(image, end=b"")),
        "nothing": ("multipart/form-data; boundary=b", b"--b--"),
        "cut short": ("multipart/form-data; boundary=b", form(image)[: rng.randrange(1, 200)]),
        "no name": ("multipart/form-data; boundary=b", form(part("form-data", b"x"))),
        "not a file": ("multipart/form-data; boundary=b", form(part('form-data; name="image"', b"x"))),
        "thousands of fields": ("multipart/form-data; boundary=b", form(*[part('form-data; name="x"', b"y")] * 5000)),
        "thousands of files": ("multipart/form-data; boundary=b", form(*[image] * 5000)),
        "17 photos": ("multipart/form-data; boundary=b", form(*[image] * 17)),
        "nested": ("multipart/form-data; boundary=b", form(part('form-data; name="image[a][b][]"; filename="x"', form(image)))),
        "odd file name": (
            "multipart/form-data; boundary=b",
            form(part(f'form-data; name="image"; filename="{name}"', PHOTO.read_bytes())),
        ),
        "odd field name": ("multipart/form-data; boundary=b", form(part(f'form-data; name="{name}"; filename="x"', b"x"))),
        "filename*": ("multipart/form-data; boundary=b", form(part("form-data; name=image; filename*=utf-8''%ff%00", b"x"))),
        "endless head": ("multipart/form-data; boundary=b", b"--b\r\n" + b"X: y\r\n" * 10_000),
        "long head": ("multipart/form-data; boundary=b", b"--b\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"),
        "punycode": ("multipart/form-data; boundary=b; charset=punycode", form(part('form-data; name="x"', b"a" * 2_000_000))),
        "no such charset": ("multipart/form-data; boundary=b; charset=a\\0b", form(image)),
        "undefined": ("multipart/form-data; boundary=b; charset=undefined", form(part('form-data; name="x"', b"a"))),
        "line ends": (
            "multipart/form-data; boundary=b",
            form(part('form-data; name="image"; filename="x"', b"\r\n--" * 100_000)),
        ),
        "mixed": ("multipart/mixed; boundary=b", form(image)),
        "damaged": ("multipart/form-data; boundary=b", damaged(rng, form(image, image))),
    }
    return forms[rng.choice(list(forms))]


# --- heads


def odd_head(rng: random.Random) -> bytes:
    """A head that is too large, or not as RFC 9112 has it."""
    body = b"Content-Type: image/png\r\nContent-Length: 1\r\n\r\nx"
    odd = rng.choice("\x00\x01\x7f\x80\xff \t\x0b\r")
    heads = [
        b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * rng.randrange(20_000, 2_000_000) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: y\r\n" % i for i in range(rng.randrange(2000, 50_000))) + b"\r\n",
        b"GET /" + b"a" * rng.randrange(17_000, 500_000) + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + CLOSE + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + HOST + CLOSE + b"\r\n",
        b"GET /healthz HTTP/9.9\r\n" + HOST + CLOSE + b"\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET  /healthz  HTTP/1.1\r\n" + HOST + b"\r\n",
        f"GET /healthz{odd}x HTTP/1.1\r\n".encode("latin-1") + HOST + b"\r\n",
        f"G{odd}T /healthz HTTP/1.1\r\n".encode("latin-1") + HOST + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + f"X{odd}: y\r\n\r\n".encode("latin-1"),
        b"GET /healthz HTTP/1.1\r\n" + HOST + f"X: a{odd}b\r\n".encode("latin-1") + CLOSE + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n X: folded\r\n" + HOST + b"\r\n",
        request(rng.choice(("BREW", "TRACE", "PROPFIND", "CONNECT", "M-SEARCH", "a", "GET" * 500)), "/v1/tasks"),
        request(
            rng.choice(("DELETE", "PATCH", "OPTIONS", "HEAD", "PUT")), rng.choice(("/", "/v1/classify", "/healthz", "/docs"))
        ),
        request("GET", rng.choice(("http://elsewhere.example/v1/tasks", "*", "//v1//tasks", "/../v1/tasks", "/?#", "/%"))),
        b"POST /v1/classify HTTP/1.1\r\n" + HOST + CLOSE + b"Expect: 100-continue\r\n" + body,
        b"POST /v1/classify HTTP/1.1\r\n" + HOST + CLOSE + b"Expect: miracles\r\n" + body,
        b"GET /v1/tasks HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500),  # TLS
        rng.randbytes(rng.randrange(1, 5000)) + b"\r\n\r\n",
        b"\r\n" * rng.randrange(1, 50_000),
    ]
    return rng.choice(heads)


def lying_length(rng: random.Random) -> bytes:
    """What two readers could take for different bodies, or that is no length at all."""
    start = b"POST /v1/classify HTTP/1.1\r\n" + HOST + b"Content-Type: image/png\r\n"
    smuggled = b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n"
    lengths = (b"-1", b"+5", b"0x10", b"1e3", b"", b" ", b"5, 6", b"9" * 5000, b"\xb2", b"5 5", b"nan", b"18446744073709551617")
    codings = (
        b"xchunked",
        b"chunked, identity",
        b"identity",
        b"gzip, chunked",
        b"\x0bchunked",
        b"chunked\r\nTransfer-Encoding: x",
    )
    shapes = [
        start + b"Content-Length: " + rng.choice(lengths) + b"\r\n\r\nhello" + smuggled,
        start + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + smuggled,
        start + b"Content-Length: 5\r\nContent-Length: 5\r\n" + CLOSE + b"\r\nhello",
        start + b"Transfer-Encoding: " + rng.choice(codings) + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + smuggled,
        start + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" + CLOSE + b"\r\n0\r\n\r\n" + smuggled,
        start + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + smuggled,
        start
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + rng.choice((b"-1", b"g", b"f" * 30, b"0x5", b" 5", b"5 ;"))
        + b"\r\nhello\r\n",
        start + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 100_000,
        start + b"Transfer-Encoding: chunked\r\n" + CLOSE + b"\r\n5\r\nhelloXX0\r\n\r\n",
        start + b"Transfer-Encoding: chunked\r\n" + CLOSE + b"\r\n0\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
        start + CLOSE + b"Content-Length: 3\r\n\r\nhello and more",
        start + CLOSE + b"Content-Length: 1000000000000\r\n\r\nhello",
    ]
    return rng.choice(shapes)


# --- JSON


def odd_promotion(rng: random.Random) -> bytes:
    values = ["NaN", "Infinity", "-1", "0", "1e400", "9" * 5000, "true", '"1"', "1.5", "null", "[]", "{}", str(2**31), str(2**63)]
    deep = rng.randrange(100, 2600)
    bodies = [
        '{"version":' + rng.choice(values) + "}",
        '{"version":1,"envelope":' + rng.choice([value for value in values if value != "null"]) + "}",
        '{"version":1,"envelope":' + '{"a":' * deep + "1" + "}" * deep + "}",
        "[" * 5 * deep,
        '{"version":1,"envelope":{"payload":"\\ud800","payloadType":"\\u0000","signatures":[]}}',
        '{"version":1,"version":2,"more":3}',
        "\ufeff{}",
        "{" * 3 + '"' + "\x00",
        "",
        "version=1",
    ]
    return rng.choice(bodies).encode("utf-8", "surrogatepass")


def odd_report(rng: random.Random) -> str:
    deep = rng.choice((17, 200, 400, 900, 5000, 100_000))
    inner = [
        "NaN",
        "-Infinity",
        "1e999",
        "9" * 4000,
        "9" * 5000,
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\u0000"',
        "[" * deep + "]" * deep,
        '{"a":' * deep + "1" + "}" * deep,
        "[" + "1," * 100_000 + "1]",
        '"' + "\U0001f941" * 100 + '"',
        "-0.0",
        "1e-400",
    ]
    texts = [
        '{"held_out_accuracy":' + rng.choice(inner) + "}",
        '{"a":' + rng.choice(inner) + "}",
        '{"\\ud800":1}',
        "[]",
        "7",
        "{",
        "",
    ]
    return rng.choice(texts[:2] * 4 + texts)


def json_of(received: bytes) -> dict[str, object]:
    """Body of the only answer."""
    found = json.loads(received.partition(b"\r\n\r\n")[2])
    assert isinstance(found, dict)
    return found


# --- senders that take their time


def endless(head: bytes, piece: bytes, most: int) -> Iterator[bytes]:
    """A head and pieces of a body, as many as anyone might believe to be endless."""
    yield head
    for _ in range(most):
        yield piece
