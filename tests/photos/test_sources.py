"""Photos in every form: paths, bytes, PIL images, arrays, lists of pairs, and features with labels."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import DEMO
from PIL import Image

from edge_qprompt import Backbone, Classifier, Tasks, adapt, encode_photos, evaluate
from edge_qprompt.errors import DataError, PhotoError
from edge_qprompt.learn import AdaptSettings, LoopSettings
from edge_qprompt.photos import dataset_of, source_of

CLASSES = ("bag", "coat")
FILES = [(path, name) for name in CLASSES for path in sorted((DEMO / "train" / name).iterdir())[:4]]
QRES = AdaptSettings(method="qres")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


FORMS = {
    "paths": Path,
    "strings": str,
    "bytes": Path.read_bytes,
    "images": Image.open,
    "arrays": pixels,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_photo_is_the_same_in_every_form(nano: Backbone, form: str) -> None:
    pack = adapt(nano, [(FORMS[form](path), label) for path, label in FILES], QRES).pack
    assert pack == adapt(nano, FILES, QRES).pack
    assert pack.class_names == CLASSES
    photo = FORMS[form](FILES[0][0])
    for classifier in (Classifier(nano, pack), tasks_of(nano, pack)):
        assert classifier.classify(photo) == classifier.classify(FILES[0][0])
    features = encode_photos(nano, [photo])
    assert features.shape == (1, nano.manifest.embed_dim)
    assert np.array_equal(features, encode_photos(nano, [FILES[0][0]]))


def tasks_of(nano: Backbone, pack: Any) -> Tasks:
    tasks = Tasks(nano)
    tasks.add("clothes", pack)
    return tasks


def test_a_list_is_what_the_folder_is(nano: Backbone, tmp_path: Path) -> None:
    for path, label in FILES:
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / path.name).write_bytes(path.read_bytes())
    assert adapt(nano, tmp_path, QRES).pack == adapt(nano, FILES, QRES).pack


@pytest.mark.parametrize("method", ["qres", "qcoop", "learned-qres", "clip-adapter"])
def test_features_with_labels_are_learned_as_their_photos_are(nano: Backbone, method: str) -> None:
    settings = AdaptSettings(method=method, loop=LoopSettings(epochs=2))
    wanted = adapt(nano, FILES, settings)
    features = encode_photos(nano, [path for path, _ in FILES])
    names = [label for _, label in FILES]
    numbers = np.array([CLASSES.index(name) for name in names])
    for labels, given in ((names, None), (numbers, CLASSES), (np.array(names), None)):
        found = adapt(nano, (features, labels), settings, names=given)
        assert found.pack == wanted.pack
        assert found.train == wanted.train
    assert evaluate(nano, wanted.pack, (features, numbers), names=CLASSES).pack == evaluate(nano, wanted.pack, FILES).pack


def test_an_image_is_turned_and_keeps_its_pixels() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 3, 3), dtype=np.uint8))
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(file, "PNG", exif=exif)
    turned = source_of(Image.open(file))
    assert np.array_equal(pixels_in(turned.data), np.rot90(np.asarray(image), -1))
    for mode in ("L", "RGBA", "P", "CMYK", "F", "1", "HSV"):
        with Image.open(io.BytesIO(source_of(image.convert(mode)).data)) as back:
            assert back.size == image.size


def pixels_in(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


BAD_PHOTOS = {
    "floats": (np.zeros((4, 4, 3)), "photo is an array (4, 4, 3) of float64, wanted (H, W, 3) or (H, W) of uint8"),
    "planes first": (np.zeros((3, 8, 8), np.uint8), "photo is an array (3, 8, 8) of uint8, wanted (H, W, 3)"),
    "no photo": (7, "photo is a int, wanted a path, the bytes of an image file, a PIL image or an array"),
}


@pytest.mark.parametrize("case", BAD_PHOTOS)
def test_what_is_no_photo_is_refused(nano: Backbone, case: str) -> None:
    photo, said = BAD_PHOTOS[case]
    with pytest.raises(PhotoError, match=re.escape(said)):
        source_of(photo)
    with pytest.raises(PhotoError, match=re.escape(said.replace("photo", "photo 0", 1))):
        encode_photos(nano, [photo])


@pytest.mark.parametrize("data", [b"", b"no photo"])
def test_a_photo_in_memory_that_cannot_be_read_is_skipped_by_name(nano: Backbone, data: bytes) -> None:
    found = adapt(nano, [*FILES, (data, "coat")], QRES)
    ((photo, reason),) = found.skipped
    assert (str(photo), reason.split(" is ")[0]) == (f"photo {len(FILES)}", f"photo {len(FILES)}")
    with pytest.raises(PhotoError, match="photo 0 is"):
        encode_photos(nano, [data])


def test_an_opened_image_that_turns_out_damaged_is_refused(nano: Backbone) -> None:
    whole = FILES[0][0].read_bytes()
    with pytest.raises(PhotoError, match="photo 0 is damaged or cut short"):
        encode_photos(nano, [Image.open(io.BytesIO(whole[: len(whole) // 2]))])


def test_numbers_of_numpy_are_positions() -> None:
    pairs = [(path, np.int64(CLASSES.index(label))) for path, label in FILES]
    assert dataset_of(pairs, CLASSES) == dataset_of(FILES)


UNIT = np.eye(4, 256, dtype=np.float32)
BAD_DATA = {
    "no pairs": (["a.jpg", "b.jpg"], None, "number 0 of the photos is str, wanted (photo, label); give a folder, a list of"),
    "nothing": ([], None, "there are no photos: give a folder"),
    "one class": (FILES[:3], None, "there is only one class (bag)"),
    "too few labels": ((UNIT, ["a", "b"]), None, "X has 4 rows and y has 2"),
    "not of length 1": (
        (2 * UNIT, ["a", "b"] * 2),
        None,
        "a row of X is no feature of length 1: take what `encode_photos` gives",
    ),
    "not a number": ((UNIT * np.nan, ["a", "b"] * 2), None, "a row of X is no feature of length 1"),
    "numbers without names": ((UNIT, [0, 1, 0, 1]), None, "give names=[...] with a name for each number"),
    "a number too large": ((UNIT, [0, 1, 0, 2]), ["a", "b"], "give names=[...] with a name for each number"),
    "a label that no name is": ((UNIT, ["a", "b", "c", "a"]), ["a", "b"], "names do not have the labels ['c']"),
    "a name twice": ((UNIT, [0, 1, 0, 1]), ["a", "a"], "two classes have the same name 'a'"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_what_is_no_data_is_refused(case: str) -> None:
    data, names, said = BAD_DATA[case]
    with pytest.raises(DataError, match=re.escape(said)):
        dataset_of(data, names)


def test_features_of_another_encoder_or_for_methods_that_want_photos_are_refused(nano: Backbone) -> None:
    narrow = (np.eye(4, 8, dtype=np.float32), ["a", "b"] * 2)
    with pytest.raises(DataError, match="the features have 8 dimensions, nano has 256: encode the photos with this backbone"):
        adapt(nano, narrow, QRES)
    with pytest.raises(DataError, match="the method maple learns from the photos themselves"):
        adapt(nano, (UNIT, ["a", "b"] * 2), AdaptSettings(method="maple"))
    with pytest.raises(DataError, match="2 views of each photo cannot be had from features"):
        adapt(nano, (UNIT, ["a", "b"] * 2), AdaptSettings(method="qres", views=2))


def test_things_tell_what_they_are(nano: Backbone) -> None:
    found = adapt(nano, FILES, QRES)
    shown = {
        "nano .*256": nano,
        "2 classes from 8 photos by qres: .* accuracy": found,
        "bytes, 2 classes": found.pack,
        "bag, coat": Classifier(nano, found.pack),
        "1 on nano": tasks_of(nano, found.pack),
        "on 8 photos": evaluate(nano, found.pack, FILES),
    }
    for said, thing in shown.items():
        assert re.search(said, repr(thing)), repr(thing)
        assert len(repr(thing)) < 200


def test_a_notebook_shows_bars_and_a_script_none(tmp_path: Path) -> None:
    code = (
        "import sys; from edge_qprompt import Backbone, AdaptSettings, adapt; "
        f"adapt(Backbone.open('nano'), {str(DEMO)!r}, AdaptSettings(method='qres', shots=2))"
    )
    for first, bars in (("", False), ("import sys; sys.modules['ipykernel'] = sys; ", True)):
        done = subprocess.run([sys.executable, "-c", first + code], capture_output=True, text=True, check=True, timeout=110)
        assert ("encode photos" in done.stderr) == bars
