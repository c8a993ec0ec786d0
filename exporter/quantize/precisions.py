"""Encoders of a backbone in fewer bits: image.PRECISION.onnx, text.PRECISION.onnx and what was done, quantization.PRECISION.json.

int8 has to pass the parity gate; w4a8 and w4a4 lose accuracy, which is measured and recorded, and which `adapt --method p4q`
gives back (P4Q, arXiv 2409.17634). Symbols: N photos, C class names, T tokens of a prompt, W width of the text tower.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_qprompt.backbone import (
    MANIFEST,
    MIN_AGREEMENT,
    TEXT_ONNX,
    Backbone,
    FileRecord,
    Manifest,
    PrecisionRecord,
    Product,
    Quantization,
    Session,
    TextEncoder,
    image_onnx,
    quantization_json,
    text_onnx,
)
from edge_qprompt.errors import ExportError
from edge_qprompt.files import sha256_of
from exporter import gates
from exporter.folder import versions
from exporter.gates import Sample
from exporter.graphs import write_vision_graph
from exporter.quantize.equalize import Feeds
from exporter.quantize.int8 import INT8, Int8Result, Way, write_int8
from exporter.quantize.int8_graph import DynamicGraph
from exporter.quantize.rewrite import Calibrated, Recipe, calibrate, folded, quantize

RECIPES: Mapping[str, Recipe] = {INT8: Recipe(8, 8, 8), "w4a8": Recipe(4, 8, 8, integers=True), "w4a4": Recipe(4, 4, 8)}
CALIBRATION_PHOTOS = 32
PHOTOS_A_RUN = 1  # bounds the memory of the captured activations
MIN_COSINE_TEXT = 0.99  # of text.int8.onnx; without it the text tower stays in float
TEMPLATES = ("a photo of a {}.", "a {}.", "a picture of the {}.", "a blurry photo of a {}.", "a {}, seen from above.")

Report = Callable[[str], None]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Static:
    """A graph with ranges of activations that are known beforehand; a `Way` for int8."""

    calibrated: Calibrated
    recipe: Recipe

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the products that may be quantized."""
        return tuple(node.name for node in self.calibrated.products)

    def write(self, path: Path, nodes: Collection[str]) -> tuple[Product, ...]:
        """Write the graph with these of `self.nodes` quantized, and say what was done to each."""
        model, products = quantize(self.calibrated, self.recipe, set(self.nodes) - set(nodes))
        onnx.save(model, path)
        return products


@dataclass(frozen=True)
class QuantizedEncoders:
    """What became of a precision.

    Attributes:
        record: of its image encoder, written or not.
        written: whether the folder has it now.
        in_float: products of the image encoder that were left in float, of `nodes`.
        text_cosine: the smallest one of a class feature to the float tower's; None where the text tower was not quantized.
        quantization: product by product.
    """

    record: PrecisionRecord
    written: bool
    in_float: int
    nodes: int
    text_cosine: float | None
    quantization: Quantization


def add_precisions(
    folder: Path, manifest: Manifest, precisions: Sequence[str], sample: Sample, names: Sequence[str], report: Report
) -> tuple[Manifest, dict[str, QuantizedEncoders]]:
    """Write encoders into a backbone folder.

    Args:
        folder: being made; holds the float encoders.
        manifest: of the folder as it is.
        precisions: keys of RECIPES.
        sample: photos to calibrate and to measure on, with the features of the float encoder.
        names: class names; the text tower is calibrated with them in TEMPLATES; none leave it in float.
        report: takes lines of progress.

    Returns:
        The manifest with what was written, which is in the folder too, and what became of each precision.
    """
    batches = _batches(sample.pixels)
    image = calibrate(_image_graph(folder, manifest), batches)
    text, texts = _calibrated_text(folder, manifest, names) if names else (None, None)
    done = {}
    for precision in precisions:
        report(f"{precision} image encoder")
        found = _image(folder, precision, image, batches, sample, report)
        cosine: float | None = None
        products: tuple[Product, ...] = ()
        if found.written and text and texts is not None:
            report(f"{precision} text encoder")
            cosine, products = _text(folder, manifest, precision, text, texts, names)
        quantization = Quantization(found.products, products)
        if found.written and (found.products or products):
            (folder / quantization_json(precision)).write_text(quantization.to_json())
        done[precision] = QuantizedEncoders(found.record, found.written, found.in_float, found.nodes, cosine, quantization)
    records = {name: each.record for name, each in done.items() if each.written}
    return _listed(folder, manifest, records), done


def tell(name: str, precision: QuantizedEncoders, report: Report, warn: Report) -> None:
    """Say in a line what became of a precision."""
    float_part = f"; {precision.in_float} of {precision.nodes} layers left in float" if precision.in_float else ""
    figures = f"{gates.describe(precision.record)}{float_part}"
    if precision.written:
        report(f"{name} image encoder: {figures}")
        if precision.text_cosine is not None and not precision.quantization.text:
            warn(f"no {name} text encoder was written: smallest cosine {precision.text_cosine:.4f}, wanted {MIN_COSINE_TEXT}")
        return
    warn(
        f"no {name} image encoder was written, the best had: {figures} "
        f"(wanted {gates.MIN_COSINE_INT8} and {MIN_AGREEMENT:.0%}). The backbone works in fp32"
    )


def sample_of(backbone: Backbone, pixels: Array, names: Sequence[str]) -> Sample:
    """What the float encoders of a backbone say of photos (N, 3, S, S) and of class names."""
    features = np.concatenate([backbone.encode_images(pixels[i : i + PHOTOS_A_RUN]) for i in range(0, len(pixels), PHOTOS_A_RUN)])
    return Sample(pixels, features, backbone.text.from_template(names))


def _batches(pixels: Array) -> list[Feeds]:
    chosen = pixels[np.unique(np.linspace(0, len(pixels) - 1, CALIBRATION_PHOTOS).round().astype(int))]
    return [{"pixels": chosen[i : i + PHOTOS_A_RUN]} for i in range(0, len(chosen), PHOTOS_A_RUN)]


def _image_graph(folder: Path, manifest: Manifest) -> onnx.ModelProto:
    """The float image graph: of a vision transformer our own, whose products have a known order."""
    if manifest.vision is None:
        return folded(folder / image_onnx("fp32"))
    path = folder / "image.plain.onnx"
    try:
        write_vision_graph(folder, manifest.vision, manifest.preprocess.size, manifest.embed_dim, plain=path.name)
        return folded(path)
    finally:
        path.unlink(missing_ok=True)


def _image(
    folder: Path, precision: str, calibrated: Calibrated, batches: Sequence[Feeds], sample: Sample, report: Report
) -> Int8Result:
    static = Static(calibrated, RECIPES[precision])

    def measure() -> PrecisionRecord:
        return gates.measure(folder, precision, sample)

    if precision != INT8:
        products = static.write(folder / image_onnx(precision), static.nodes)
        return Int8Result(measure(), True, 0, len(products), products)
    ways: list[Way] = [static]
    if all(node.op_type == "MatMul" for node in calibrated.products):
        weighted = [name for name in static.nodes if name in calibrated.weights]
        ways.append(DynamicGraph.of(calibrated.model, weighted, batches))
    return write_int8(folder, ways, sample.pixels, measure, gates.accepts_int8, report)


class _Recorder(Session):
    """Keeps what it is given."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, stored_low=True)
        self.seen: list[Feeds] = []

    def run(self, feeds: Feeds) -> Array:
        """As a session does."""
        self.seen.append(feeds)
        return super().run(feeds)


def _calibrated_text(folder: Path, manifest: Manifest, names: Sequence[str]) -> tuple[Calibrated, Array]:
    """The text graph calibrated, and the class features (C, D) of the float one."""
    backbone = Backbone(folder, manifest, "fp32")
    recorder = _Recorder(folder / TEXT_ONNX)
    encoder = TextEncoder(backbone.tokenizer, backbone.text_weights, recorder)
    wanted = encoder.from_templates(names, TEMPLATES)
    return calibrate(folded(folder / TEXT_ONNX), recorder.seen), wanted


def _text(
    folder: Path, manifest: Manifest, precision: str, calibrated: Calibrated, wanted: Array, names: Sequence[str]
) -> tuple[float | None, tuple[Product, ...]]:
    """Write text.PRECISION.onnx; the smallest cosine of its class features to the float ones, and its products."""
    path = folder / text_onnx(precision)
    # run once a pack, but learned through: closer to what `learn` computes rather than faster
    static = Static(calibrated, replace(RECIPES[precision], integers=False))
    products = static.write(path, static.nodes)
    backbone = Backbone(folder, manifest, "fp32")
    encoder = TextEncoder(backbone.tokenizer, backbone.text_weights, Session(path, stored_low=False))
    cosine = float((encoder.from_templates(names, TEMPLATES) * wanted).sum(axis=1).min())
    if precision == INT8 and cosine < MIN_COSINE_TEXT:
        path.unlink()
        return cosine, ()
    return cosine, products


def _listed(folder: Path, manifest: Manifest, records: Mapping[str, PrecisionRecord]) -> Manifest:
    """The manifest with more precisions and files, written."""
    made = [name(precision) for precision in records for name in (image_onnx, text_onnx, quantization_json)]
    files = {
        name: FileRecord((folder / name).stat().st_size, sha256_of(folder / name)) for name in made if (folder / name).exists()
    }
    tools = {**manifest.tools, **versions()}
    both = replace(manifest, files={**manifest.files, **files}, precisions={**manifest.precisions, **records}, tools=tools)
    (folder / MANIFEST).write_text(both.to_json())
    return both


def check_precisions(wanted: Sequence[str], manifest: Manifest) -> None:
    """Whether these precisions can be added.

    Raises:
        ExportError: one of them is unknown, or there already.
    """
    if unknown := [name for name in wanted if name not in RECIPES]:
        raise ExportError(f"unknown precision {unknown[0]!r}, there are {', '.join(RECIPES)}")
    if there := [name for name in wanted if name in manifest.precisions]:
        raise ExportError(f"backbone {manifest.name} has {there[0]} already: leave it out, or export it anew with --no-int8")
    if not wanted:
        raise ExportError(f"backbone {manifest.name} has all precisions already: {', '.join(manifest.precisions)}")
