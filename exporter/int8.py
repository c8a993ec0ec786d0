"""image.int8.onnx: the image encoder in int8, as much of it as passes the parity gate.

First every node is quantized. If that fails the gate, the nodes are ranked by what each one alone
does to the features, and the worst eighth, quarter ... half of them stay in float. If that fails too,
there is no int8 encoder. Symbols: B photos, S pixels a side, D dimensions of a feature.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.manifest import PrecisionRecord, image_onnx
from edge_qprompt.session import Session
from exporter.int8_graph import Int8Graph, prepare

FLOAT_SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2)  # beyond a half, fp32 is as fast and exact
CALIBRATION_PHOTOS = 32
RANKING_PHOTOS = 8  # each node costs one run over these

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Int8Result:
    """What became of the int8 encoder.

    Attributes:
        record: of the encoder that was written, or of the best attempt.
        written: whether image.int8.onnx is in the folder.
        in_float: number of nodes that were left in float in that attempt.
        nodes: number of nodes that could be quantized.
    """

    record: PrecisionRecord
    written: bool
    in_float: int
    nodes: int


def write_int8(
    folder: Path,
    pixels: Array,
    measure: Callable[[], PrecisionRecord],
    accept: Callable[[PrecisionRecord], bool],
    report: Callable[[str], None],
) -> Int8Result:
    """Quantize `folder/image.fp32.onnx`; `folder/image.int8.onnx` is left only if it is accepted.

    Args:
        folder: holds the float encoder.
        pixels: (B, 3, S, S) float32 photos, of which CALIBRATION_PHOTOS calibrate.
        measure: measures the encoder that lies in the folder.
        accept: the gate.
        report: takes lines of progress.
    """
    path = folder / image_onnx("int8")
    graph = prepare(folder / image_onnx("fp32"), _spread(pixels, CALIBRATION_PHOTOS))
    results: list[Int8Result] = []
    worst: list[str] = []
    for share in (0.0, *FLOAT_SHARES):
        if share and not worst:
            cosine = results[0].record.cosine
            report(f"int8: cosine {cosine:.4f} with all layers, looking which of the {len(graph.nodes)} cost most")
            worst = rank(graph, folder / image_onnx("fp32"), _spread(pixels, RANKING_PHOTOS))
        in_float = round(share * len(graph.nodes))
        kept = set(worst[:in_float])
        graph.write(path, [name for name in graph.nodes if name not in kept])
        record = measure()
        results.append(Int8Result(record, accept(record), in_float, len(graph.nodes)))
        if results[-1].written:
            return results[-1]
    path.unlink()
    return max(results, key=lambda result: result.record.cosine)


def rank(graph: Int8Graph, reference: Path, pixels: Array) -> list[str]:
    """Names of the nodes, the one first that alone turns the features of `pixels` furthest away."""
    wanted = Session(reference, stored_low=True).run({"pixels": pixels})  # (B, D)
    damage: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "one.onnx"
        for name in graph.nodes:
            graph.write(path, [name])
            got = Session(path, stored_low=False).run({"pixels": pixels})
            damage[name] = 1 - float((got * wanted).sum(axis=1).mean())
    return sorted(damage, key=lambda name: -damage[name])


def _spread(pixels: Array, count: int) -> Array:
    """At most `count` photos, evenly spread over all."""
    chosen: Array = pixels[np.unique(np.linspace(0, len(pixels) - 1, count).round().astype(int))]
    return chosen
