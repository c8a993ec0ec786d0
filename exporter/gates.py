"""Parity gates: is what was exported the model that it came from? Measured on real photos and names.

Symbols: N photos, C class names, S pixels a side, D dimensions of a feature.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_qprompt.backbone import (
    IMAGE_PROMPTED,
    MIN_AGREEMENT,
    TEXT_ONNX,
    TEXT_PROMPTED,
    TEXT_WEIGHTS,
    PrecisionRecord,
    Session,
    TextEncoder,
    Tokenizer,
    VisionConfig,
    Weights,
    image_onnx,
)
from edge_qprompt.errors import ExportError, PhotoError
from edge_qprompt.photos import decode_photo, read_photo, to_pixels
from edge_qprompt.prompts import DEFAULT_TEMPLATE
from exporter.source import Source

MIN_COSINE = 0.9999
MIN_COSINE_INT8 = 0.99
BATCHES = (1, 2, 7)  # a batch that was baked in at export fails at the second
# what class names may look like, beside those of the photos
HARD_NAMES = ("T-shirt/top", "café au lait", "3 men's 100% cotton", "don't", "two   spaces", "Ångström", "日本語", "a.b,c;d")

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """What exported encoders are measured on.

    Attributes:
        pixels: (N, 3, S, S), of this project's own preprocessing.
        features: (N, D), the source's for the same photos through its own preprocessing.
        classes: (C, D), the source's for the class names.
    """

    pixels: Array
    features: Array
    classes: Array


def take_sample(source: Source, photos: Sequence[Path], names: Sequence[str], warn: Callable[[str], None]) -> Sample:
    """Run the source on photos and class names.

    Raises:
        ExportError: none of the photos can be read.
    """
    found = readable(photos, warn)
    ours = np.stack([to_pixels(photo, source.preprocess) for photo in found])
    theirs = np.stack([source.reference.pixels(photo) for photo in found])
    texts = [DEFAULT_TEMPLATE.replace("{}", name) for name in names]
    return Sample(ours, source.reference.image_features(theirs), source.reference.text_features(texts))


def readable(paths: Sequence[Path], warn: Callable[[str], None]) -> list[Image.Image]:
    """Those photos that can be read; the others are counted.

    Raises:
        ExportError: none of the photos can be read.
    """
    found, unread = [], []
    for path in paths:
        try:
            found.append(decode_photo(read_photo(path), str(path)))
        except PhotoError as error:
            unread.append(str(error))
    if not found:
        raise ExportError(f"none of the {len(unread)} photos can be read, the first: {unread[0]}: give others with --photos")
    if unread:
        warn(f"{len(unread)} of {len(paths)} photos cannot be read and are left out, the first: {unread[0]}")
    return found


def measure(folder: Path, precision: str, sample: Sample) -> PrecisionRecord:
    """Compare the image encoder in `folder` with the source."""
    return _compare(Session(folder / image_onnx(precision), stored_low=precision == "fp32"), sample)


def _compare(session: Session, sample: Sample) -> PrecisionRecord:
    features, sizes, start = [], itertools.cycle(BATCHES), 0
    while start < len(sample.pixels):
        size = next(sizes)
        features.append(session.run({"pixels": sample.pixels[start : start + size]}))
        start += size
    got = np.concatenate(features)  # (N, D)
    same = (got @ sample.classes.T).argmax(axis=1) == (sample.features @ sample.classes.T).argmax(axis=1)
    return PrecisionRecord(_cosine(got, sample.features), float(same.mean()), len(got))


def check_image(record: PrecisionRecord) -> None:
    """The gate of image.fp32.onnx and image.prompted.onnx.

    Raises:
        ExportError: it is not the source's image encoder; gives the figures.
    """
    if not (record.cosine >= MIN_COSINE and record.top1_agreement == 1):  # so that NaN fails
        raise ExportError(
            f"the exported image encoder is not the source's: {describe(record)}, wanted at least {MIN_COSINE} and 100%; "
            "nothing was written. Try another version of torch, and please report the model"
        )


def accepts_int8(record: PrecisionRecord) -> bool:
    """The gate of image.int8.onnx."""
    return record.cosine >= MIN_COSINE_INT8 and record.top1_agreement >= MIN_AGREEMENT


def check_text(folder: Path, source: Source, names: Sequence[str]) -> float:
    """The gate of tokenizer.json, text.safetensors and text.onnx.

    Returns:
        The smallest cosine between a class feature and the source's.

    Raises:
        ExportError: names the text that is tokenized otherwise, or gives the figure.
    """
    tokenizer = Tokenizer(folder, source.text)
    texts = [DEFAULT_TEMPLATE.replace("{}", name) for name in (*names, *HARD_NAMES)]
    for text in texts:
        got, wanted = tokenizer.encode(text), source.reference.tokens(text)
        if got != wanted:
            raise ExportError(f"the exported tokenizer makes {got} of {text!r}, open_clip {wanted}: please report this")
    return _compare_text(Session(folder / TEXT_ONNX, stored_low=True), folder, source, names)


def check_prompted(folder: Path, vision: VisionConfig, sample: Sample, source: Source, names: Sequence[str]) -> None:
    """The gate of image.prompted.onnx and text.prompted.onnx: without prompts they are the source's encoders.

    Raises:
        ExportError: one of them is not; gives the figures.
    """
    no_prompts = {"prompts": np.zeros((0, 0, vision.width), np.float32)}
    check_image(_compare(Session(folder / IMAGE_PROMPTED, stored_low=True, fixed=no_prompts), sample))
    no_prompts = {"deep": np.zeros((0, 0, source.text.width), np.float32)}
    _compare_text(Session(folder / TEXT_PROMPTED, stored_low=True, fixed=no_prompts), folder, source, names)


def _compare_text(session: Session, folder: Path, source: Source, names: Sequence[str]) -> float:
    encoder = TextEncoder(Tokenizer(folder, source.text), Weights(folder / TEXT_WEIGHTS), session)
    texts = [DEFAULT_TEMPLATE.replace("{}", name) for name in (*names, *HARD_NAMES)]
    cosine = _cosine(encoder.from_template((*names, *HARD_NAMES)), source.reference.text_features(texts))
    if not cosine >= MIN_COSINE:
        raise ExportError(
            f"the exported text encoder is not the source's: smallest cosine {cosine:.6f} over {len(texts)} texts, "
            f"wanted at least {MIN_COSINE}; nothing was written. Please report the model"
        )
    return cosine


def describe(record: PrecisionRecord) -> str:
    """The figures in words."""
    return f"smallest cosine {record.cosine:.6f}, same label for {record.top1_agreement:.1%} of {record.photos} photos"


def _cosine(got: Array, wanted: Array) -> float:
    """The smallest cosine between rows; both (N, D), unit length or near it."""
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(((got * wanted).sum(axis=1) / lengths).min())
