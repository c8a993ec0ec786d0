"""image.int8.onnx: the image encoder in 8 bits, as much of it as passes the parity gate, by the faster of the ways there are.

First every product is quantized, in each way. If none of them passes the gate, the products are ranked by what each one alone
does to the features, and the worst eighth, quarter ... half of them stay in float. If that fails too,
there is no int8 encoder. Symbols: B photos, S pixels a side, D dimensions of a feature.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone import PrecisionRecord, Product, Session, image_onnx, median_seconds

FLOAT_SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2)  # beyond a half, fp32 is as fast and exact
RANKING_PHOTOS = 8  # each product costs one run over these
ROUNDS = 5  # of the race
INT8 = "int8"

Array = NDArray[np.float32]


class Way(Protocol):
    """One way of quantizing a graph."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the products that may be quantized."""

    def write(self, path: Path, nodes: Collection[str]) -> tuple[Product, ...]:
        """Write the graph with these of `self.nodes` quantized; what is known of all its products, or nothing."""


@dataclass(frozen=True)
class Int8Result:
    """What became of the int8 encoder.

    Attributes:
        record: of the encoder that was written, or of the best attempt.
        written: whether image.int8.onnx is in the folder.
        in_float: number of products that were left in float in that attempt.
        nodes: number of products that could be quantized.
        products: what is known of them.
    """

    record: PrecisionRecord
    written: bool
    in_float: int
    nodes: int
    products: tuple[Product, ...]


@dataclass(frozen=True)
class Attempt:
    """A way, what it wrote and where."""

    way: Way
    result: Int8Result
    path: Path


def write_int8(
    folder: Path,
    ways: Sequence[Way],
    pixels: Array,
    measure: Callable[[], PrecisionRecord],
    accept: Callable[[PrecisionRecord], bool],
    report: Callable[[str], None],
) -> Int8Result:
    """Quantize `folder/image.fp32.onnx`; `folder/image.int8.onnx` is left only if it is accepted.

    Args:
        folder: holds the float encoder.
        ways: of its graph.
        pixels: (B, 3, S, S) float32 photos.
        measure: measures the encoder that lies in the folder.
        accept: the gate.
        report: takes lines of progress.
    """
    path = folder / image_onnx(INT8)

    def attempt(way: Way, in_float: Collection[str]) -> Int8Result:
        products = way.write(path, [name for name in way.nodes if name not in in_float])
        record = measure()
        return Int8Result(record, accept(record), len(in_float), len(way.nodes), products)

    with tempfile.TemporaryDirectory() as scratch:
        attempts = []
        for i, way in enumerate(ways):
            attempts.append(Attempt(way, attempt(way, ()), Path(scratch) / f"{i}.onnx"))
            shutil.move(path, attempts[-1].path)
        if passed := [each for each in attempts if each.result.written]:
            best = fastest(passed, pixels[:1])
            shutil.move(best.path, path)
            return best.result
    best = max(attempts, key=lambda each: each.result.record.cosine)
    report(f"int8: cosine {best.result.record.cosine:.4f} with all layers, looking which of the {best.result.nodes} cost most")
    worst = rank(best.way, folder / image_onnx("fp32"), pixels[:: max(1, len(pixels) // RANKING_PHOTOS)][:RANKING_PHOTOS])
    results = [best.result]
    for share in FLOAT_SHARES:
        results.append(attempt(best.way, worst[: round(share * len(worst))]))
        if results[-1].written:
            return results[-1]
    path.unlink()
    return max(results, key=lambda result: result.record.cosine)


def fastest(attempts: Sequence[Attempt], pixels: Array) -> Attempt:
    """The one that encodes (1, 3, S, S) in the least time."""
    if len(attempts) == 1:
        return attempts[0]
    sessions = [Session(each.path, stored_low=False) for each in attempts]
    seconds = median_seconds([partial(session.run, {"pixels": pixels}) for session in sessions], ROUNDS)
    return attempts[int(np.argmin(seconds))]


def rank(way: Way, reference: Path, pixels: Array) -> list[str]:
    """Names of the products, the one first that alone turns the features of `pixels` furthest away."""
    wanted = Session(reference, stored_low=True).run({"pixels": pixels})  # (B, D)
    damage: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "one.onnx"
        for name in way.nodes:
            way.write(path, [name])
            got = Session(path, stored_low=False).run({"pixels": pixels})
            damage[name] = 1 - float((got * wanted).sum(axis=1).mean())
    return sorted(damage, key=lambda name: -damage[name])
