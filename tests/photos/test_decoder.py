"""Photos decoded in processes of their own: the same pixels, and what those cost that are no photos."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from common import DEMO
from hostile_photos import KINDS, chunk, small_png
from PIL import Image

from edge_qprompt import Backbone
from edge_qprompt.backbone.manifest import Preprocess
from edge_qprompt.classify.classifier import zero_shot
from edge_qprompt.errors import CostError, PhotoError
from edge_qprompt.photos.decoder import Decoder, Decoders, Job
from edge_qprompt.photos.features import extract
from edge_qprompt.photos.photo import COMMON, FORMATS, centre_view, decode_photo, is_common, random_view

PHOTO = DEMO / "test" / "bag" / "3.png"
SETTINGS = Preprocess(32, 32, "shortest", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0)
SAVED_AS = {"HEIF": {"quality": 90}, "JPEG": {"quality": 90}}


@pytest.fixture(scope="module")
def decoder():
    decoder = Decoder()
    yield decoder
    decoder.close()


def saved(kind: str, size: tuple[int, int] = (80, 60)) -> bytes:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif", reason="pip install 'edge-qprompt[heic]'").register_heif_opener()
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(size)
    with io.BytesIO() as file:
        image.save(file, kind, **SAVED_AS.get(kind, {}))
        return file.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_process_gives_the_pixels_that_this_one_would(decoder: Decoder, kind: str) -> None:
    data = saved(kind)
    views = decoder.views(data, Job("a", SETTINGS, (None, b"key")))
    image = decode_photo(data)
    assert np.array_equal(views[0], centre_view(image, SETTINGS))
    assert np.array_equal(views[1], random_view(image, SETTINGS, np.random.default_rng(list(b"key"))))


@pytest.mark.parametrize("kind", FORMATS)
def test_common_formats_are_known_by_their_first_bytes(kind: str) -> None:
    assert is_common(saved(kind)) == (kind in COMMON)


@pytest.mark.parametrize("name", ["million_idat.png", "million_texts.png", "four_million_markers.jpg", "fill_bytes.jpg"])
def test_files_of_absurdly_many_pieces_are_not_common(name: str) -> None:
    assert not is_common(KINDS[name]())


COSTLY = {
    "comments_6mb.ppm": "takes longer to decode",
    "maxval_254.ppm": "takes longer to decode",
    "three_million_texts.png": "takes longer to decode",
    "tile.tif": "damaged or cut short: decoder error -9|more memory",  # as libtiff calls a lack of memory
    "runs.bmp": "not enough image data|longer to decode",
    "text_bombs.png": "Too much memory",
}


def costly(name: str) -> bytes:
    """A million take some processors less than the two seconds that a small photo may."""
    return small_png(chunk(b"tEXt", b"a\0b") * 3_000_000) if name.startswith("three") else KINDS[name]()


@pytest.mark.parametrize("name", COSTLY)
def test_what_costs_more_than_it_weighs_is_refused(name: str) -> None:
    decoder, began = Decoder(), time.monotonic()
    try:
        with pytest.raises(PhotoError, match=COSTLY[name]):
            decoder.views(costly(name), Job(name, SETTINGS))
        assert time.monotonic() - began < 60  # half an hour, were it decoded
        assert decoder.views(PHOTO.read_bytes(), Job("after", SETTINGS)).shape == (1, 3, 32, 32)
    finally:
        decoder.close()


def test_memory_grows_with_the_photo_and_no_further(decoder: Decoder) -> None:
    decoder.views(PHOTO.read_bytes(), Job("first", SETTINGS))
    before = peak(decoder)
    with pytest.raises(PhotoError):
        decoder.views(KINDS["tile.tif"](), Job("tile.tif", SETTINGS))
    assert decoder.pid is None or peak(decoder) < before + 200  # MB; the tile has 2,028


def peak(decoder: Decoder) -> float:
    """Most memory that the process ever had, MB."""
    status = Path(f"/proc/{decoder.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def test_a_photo_that_is_ended_says_so_at_once_and_for_good() -> None:
    decoder = Decoder()
    decoder.start()
    timer = threading.Timer(0.5, decoder.kill)
    timer.start()
    began = time.monotonic()
    with pytest.raises(CostError, match="its time was up") as caught:
        decoder.views(KINDS["comments_6mb.ppm"](), Job("slow", SETTINGS))
    assert caught.value.reason == "ended"
    assert time.monotonic() - began < 2
    with pytest.raises(CostError):
        decoder.views(PHOTO.read_bytes(), Job("after", SETTINGS))
    assert decoder.pid is None


def test_a_process_that_dies_is_replaced(decoder: Decoder) -> None:
    decoder.start()
    assert decoder.pid
    timer = threading.Timer(0.3, os.kill, (decoder.pid, signal.SIGSEGV))
    timer.start()
    with pytest.raises(CostError, match="breaks the decoder") as caught:
        decoder.views(KINDS["comments_6mb.ppm"](), Job("unlucky", SETTINGS))
    assert caught.value.reason == "crash"
    assert decoder.views(PHOTO.read_bytes(), Job("after", SETTINGS)).shape == (1, 3, 32, 32)


def test_a_process_has_no_secrets_and_writes_no_files(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")
    fresh = Decoder()
    try:
        fresh.start()
        assert b"PGPASSWORD" not in Path(f"/proc/{fresh.pid}/environ").read_bytes()
        limits = Path(f"/proc/{fresh.pid}/limits").read_text().splitlines()
        assert next(line.split()[3] for line in limits if line.startswith("Max file size")) == "0"
    finally:
        fresh.close()


def test_no_process_is_left(tmp_path: Path, nano: Backbone) -> None:
    (tmp_path / "a.tif").write_bytes(saved("TIFF"))
    (tmp_path / "b.png").write_bytes(PHOTO.read_bytes())
    (tmp_path / "c.ppm").write_bytes(KINDS["comments.ppm"]())
    before = decoders()
    found = extract(nano, [tmp_path / "a.tif", tmp_path / "b.png", tmp_path / "c.ppm"])
    assert found.kept.tolist() == [0, 1]
    assert "c.ppm" in found.skipped[0][1]
    assert decoders() == before


def decoders() -> set[str]:
    """Ids of this process's children that decode."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and "decoder_process" in (entry / "cmdline").read_text():
                found.add(entry.name)
        except OSError:
            continue
    return found


def test_a_script_without_a_main_guard_decodes_too(tmp_path: Path) -> None:
    """multiprocessing would run it a second time."""
    (tmp_path / "a.tif").write_bytes(saved("TIFF"))
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from edge_qprompt import Backbone\n"
        "from edge_qprompt.photos import extract\n"
        "print(extract(Backbone.open('nano'), [Path('a.tif')]).values.shape)\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "(1, 1, 256)\n", done.stderr


def test_decoders_are_for_many_threads() -> None:
    data = saved("TIFF")
    with Decoders() as decoders, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: decoders.views(data, Job("a", SETTINGS)), range(20)))
    assert all(np.array_equal(each, found[0]) for each in found)


def test_classify_takes_an_uncommon_format(nano: Backbone) -> None:
    image = Image.open(PHOTO).convert("RGB")
    with io.BytesIO() as bmp, io.BytesIO() as png:
        image.save(bmp, "BMP")
        image.save(png, "PNG")
        task = zero_shot(nano, ["bag", "sneaker"])
        assert task.classify(bmp.getvalue()) == task.classify(png.getvalue())


SAID = {
    b"data:image/png;base64,iVBORw0KGgo": "base64",
    b"iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAAAAABXZoBIAAACBklEQVR4nGNgGPTA": "base64",
    b"\x1f\x8b\x08\x00" + bytes(100): "gzip",
    b"%PDF-1.7" + bytes(100): "is a PDF",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>": "is a SVG",
    b"hello": "not an image",
}


@pytest.mark.parametrize("data", SAID)
def test_what_is_no_image_is_called_by_its_name(data: bytes) -> None:
    with pytest.raises(PhotoError, match=SAID[data]):
        decode_photo(data, "x")


def test_a_heic_without_its_reader_says_what_to_install() -> None:
    data = saved("HEIF")
    with pytest.raises(PhotoError, match=r"pip install 'edge-qprompt\[heic\]'"):
        decode_photo(data, "x", formats=("JPEG", "PNG"))


def test_a_format_that_is_not_taken_is_named() -> None:
    with pytest.raises(PhotoError, match="is a TIFF, which is not taken here"):
        decode_photo(saved("TIFF"), "x", formats=COMMON)
