"""The image encoder: onnxruntime against OpenVINO's own runtime, on the same ONNX files, in one process.

    python benchmarks/image_encoder.py                      exports a ViT-B/32 with random weights first (a minute)
    python benchmarks/image_encoder.py --backbone exports/b32 --json
    python benchmarks/image_encoder.py --batches 1 2 4 8 16 --engines onnxruntime        which batch is best
    python benchmarks/image_encoder.py --lanes              one call on every core against a call on each core
    python benchmarks/image_encoder.py --jpeg photos/       what Pillow's draft mode and reducing_gap cost

Engines take turns, each photo batch in each round, so that other work on the machine meets all of them;
figures are ratios of medians. onnxruntime does not spin and OpenVINO's threads get a pause to fall
asleep in, so that no engine is measured beside another's idle threads. OpenVINO is left out if it is
not installed (pip install openvino).
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from timing import publish
from vit_b_32 import random_vit_b_32

from edge_qprompt.backbone.backbone import Backbone
from edge_qprompt.backbone.manifest import Preprocess, image_onnx
from edge_qprompt.backbone.session import Session
from edge_qprompt.backbone.speed import median_seconds
from edge_qprompt.photos.photo import decode_photo, to_pixels

PAUSE_SECONDS = 0.02  # OpenVINO's threads spin for less than this after their work
ENGINES = ("onnxruntime", "openvino")
REFERENCE = "onnxruntime fp32"
CAMERA = (4000, 3000)  # pixels, a phone's photo
JPEG_PHOTOS = 16

Array = NDArray[np.float32]
Run = Callable[[Array], Array]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        backbone, engine: names; the engine with its precision.
        batch: photos a call.
        images_per_second: of the median call.
        ratio: to onnxruntime fp32 at the same batch; more is faster.
        cosine: the smallest to onnxruntime fp32's features.
        load_seconds: from the file to an engine that can run.
    """

    backbone: str
    engine: str
    batch: int
    images_per_second: float
    ratio: float
    cosine: float
    load_seconds: float


def engines(backbone: Backbone, wanted: Iterable[str], threads: int) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Names of engines and how to load them; the reference first."""
    for precision in backbone.manifest.precisions:
        path = backbone.folder / image_onnx(precision)
        if "onnxruntime" in wanted:
            yield f"onnxruntime {precision}", lambda path=path, p=precision: onnxruntime_engine(path, p, threads)
    if "openvino" not in wanted:
        return
    for precision in backbone.manifest.precisions:
        path = backbone.folder / image_onnx(precision)
        yield f"OpenVINO {precision}", lambda path=path: openvino_engine(path, "f32", threads)
        if precision == "fp32":
            yield "OpenVINO bf16", lambda path=path: openvino_engine(path, "bf16", threads)


def onnxruntime_engine(path: Path, precision: str, threads: int) -> Run:
    """As the product runs it."""
    session = Session(path, stored_low=precision == "fp32", threads=threads)
    return lambda pixels: session.run({"pixels": pixels})


def openvino_engine(path: Path, hint: str, threads: int) -> Run:
    """OpenVINO's runtime, with its latency settings."""
    import openvino as ov

    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # pinned threads lose against whatever else runs on their core
    }
    request = ov.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda pixels: np.array(next(iter(request.infer({"pixels": pixels}).values())))


def bf16_is_real() -> bool:
    """Whether this processor computes in bf16; OpenVINO takes the hint elsewhere too, and computes in float32."""
    import openvino as ov

    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def measure(backbone: Backbone, batches: list[int], rounds: int, wanted: list[str], threads: int) -> list[Row]:
    """All rows of one backbone."""
    size = backbone.manifest.preprocess.size
    pixels = np.random.default_rng(0).standard_normal((max(batches), 3, size, size)).astype(np.float32)
    runs: dict[str, Run] = {}
    load: dict[str, float] = {}
    for name, make in engines(backbone, wanted, threads):
        start = time.perf_counter()
        runs[name] = make()
        load[name] = time.perf_counter() - start
    # one photo at a time: dynamic int8 has one scale a batch
    features = {name: np.concatenate([run(photo[None]) for photo in pixels[:4]]) for name, run in runs.items()}
    pairs = [(name, batch) for batch in batches for name in runs]
    calls = [partial(runs[name], pixels[:batch]) for name, batch in pairs]
    pause = partial(time.sleep, PAUSE_SECONDS)
    medians = dict(zip(pairs, median_seconds([job for call in calls for job in (pause, call)], rounds)[1::2], strict=True))
    return [
        Row(
            backbone=backbone.manifest.name,
            engine=name,
            batch=batch,
            images_per_second=batch / median,
            ratio=medians[REFERENCE, batch] / median,
            cosine=float((features[name] * features[REFERENCE]).sum(axis=1).min()),
            load_seconds=load[name],
        )
        for (name, batch), median in medians.items()
    ]


def lanes(backbone: Backbone, batches: list[int], rounds: int) -> list[str]:
    """Markdown: photos a second of one call after the other on every core, and of a call on each core at once."""
    size = backbone.manifest.preprocess.size
    rates: dict[tuple[int, bool], list[float]] = {}
    with ThreadPoolExecutor(backbone.lanes) as pool:

        def rate(pixels: Array, lane: bool) -> float:
            """Of calls for about a second."""
            count, width = 0, backbone.lanes if lane else 1
            start = time.perf_counter()
            while (seconds := time.perf_counter() - start) < 1 or not count:
                calls = [pool.submit(backbone.encode_images, pixels, lane=lane) for _ in range(width)]
                count += sum(len(call.result()) for call in calls)
            return count / seconds

        for _ in range(rounds + 1):
            for batch in batches:
                pixels = np.zeros((batch, 3, size, size), np.float32)
                for lane in (False, True):
                    rates.setdefault((batch, lane), []).append(rate(pixels, lane))
    median = {key: statistics.median(values[1:]) for key, values in rates.items()}  # the first round warms up
    return [
        f"| {backbone.manifest.name} | {batch} | {median[batch, False]:.1f} | {median[batch, True]:.1f} "
        f"| **{median[batch, True] / median[batch, False]:.2f}x** |"
        for batch in batches
    ]


@dataclass(frozen=True)
class Shortcut:
    """One way from a large JPEG to pixels, beside the full one.

    Attributes:
        name: of the way.
        milliseconds: median, decode and resize.
        least_cosine, mean_cosine: of the features to those of the full decode.
    """

    name: str
    milliseconds: float
    least_cosine: float
    mean_cosine: float


def shortcuts(backbone: Backbone, folder: Path) -> list[Shortcut]:
    """Pillow's quicker ways to shrink a large JPEG, on photos of `folder` enlarged to a camera's size."""
    settings = backbone.manifest.preprocess
    found = sorted(folder.rglob("*.jpg"))
    ways: dict[str, Callable[[bytes], Array]] = {
        "full decode": lambda data: to_pixels(decode_photo(data), settings),
        "draft, at least 2x the target": lambda data: to_pixels(draft(data, settings, 2), settings),
        "draft, at least 4x the target": lambda data: to_pixels(draft(data, settings, 4), settings),
        "full decode, then reduce by whole pixels, at least 3x the target": lambda data: to_pixels(
            reduced(decode_photo(data), settings, 3), settings
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    features: dict[str, list[Array]] = {name: [] for name in ways}
    for path in found[:: max(1, len(found) // JPEG_PHOTOS)][:JPEG_PHOTOS]:
        data = camera_jpeg(decode_photo(path.read_bytes()))
        for name, way in ways.items():
            start = time.perf_counter()
            pixels = way(data)
            seconds[name].append(time.perf_counter() - start)
            features[name].append(backbone.encode_images(pixels[None])[0])
    full = np.array(features["full decode"])
    cosines = {name: (np.array(values) * full).sum(axis=1) for name, values in features.items()}
    return [
        Shortcut(name, 1000 * statistics.median(seconds[name]), float(cosines[name].min()), float(cosines[name].mean()))
        for name in ways
    ]


def camera_jpeg(photo: Image.Image) -> bytes:
    """The photo enlarged, as a JPEG."""
    file = io.BytesIO()
    size = CAMERA if photo.width >= photo.height else CAMERA[::-1]
    photo.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def draft(data: bytes, settings: Preprocess, scale: int) -> Image.Image:
    """Decoded by libjpeg at a fraction of its size: the shorter side has at least `scale` times the target."""
    image = Image.open(io.BytesIO(data))
    share = scale * settings.resize / min(image.size)
    image.draft("RGB", (-int(-image.width * share // 1), -int(-image.height * share // 1)))  # rounded up
    return image.convert("RGB")


def reduced(image: Image.Image, settings: Preprocess, scale: int) -> Image.Image:
    """Averaged over whole pixels, as Pillow's reducing_gap does."""
    return image.reduce(max(1, min(image.size) // (scale * settings.resize)))


def table(rows: list[Row], notes: list[str]) -> list[str]:
    """Markdown."""
    head = [
        "| backbone | batch | engine | images/s | to onnxruntime fp32 | least cosine | load |",
        "|---|---|---|---|---|---|---|",
    ]
    lines = [
        f"| {r.backbone} | {r.batch} | {r.engine} | {r.images_per_second:.1f} | {r.ratio:.2f}x "
        f"| {r.cosine:.6f} | {r.load_seconds:.1f} s |"
        for r in rows
    ]
    return [" ".join(notes), "", *head, *lines]


def main() -> None:
    """Measure both backbones, or the ways to shrink a photo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--backbone", type=Path, help="A ViT-B/32 as `export` wrote it; one with random weights if not given.")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--out", type=Path, help="Markdown file with marks for this table.")
    parser.add_argument("--lanes", action="store_true", help="Instead: a call on each core, nano and what --backbone gives.")
    parser.add_argument("--jpeg", type=Path, help="Instead: ways to shrink the photos of this folder, enlarged to a camera's.")
    args = parser.parse_args()
    if args.jpeg is not None:
        found = shortcuts(Backbone.open("nano"), args.jpeg)
        lines = [f"| {s.name} | {s.milliseconds:.0f} ms | {s.least_cosine:.6f} | {s.mean_cosine:.6f} |" for s in found]
        lines = ["| way | median | least cosine | mean cosine |", "|---|---|---|---|", *lines]
        print(json.dumps({"shortcuts": [asdict(s) for s in found]}) if args.json else "\n".join(lines))
        return
    if args.lanes:
        rows = [row for name in (args.backbone, "nano") if name for row in lanes(Backbone.open(name), args.batches, args.rounds)]
        head = "| backbone | batch | photos/s, a call on every core | photos/s, a call on each core | ratio |"
        publish("lanes", [head, "|---|---|---|---|---|", *rows], "onnxruntime", out=args.out)
        return
    wanted = list(dict.fromkeys(["onnxruntime", *args.engines]))
    notes, packages = [], ["onnxruntime"]
    if "openvino" in wanted and importlib.util.find_spec("openvino") is None:
        wanted.remove("openvino")
        notes.append("OpenVINO is not installed, and left out.")
    elif "openvino" in wanted:
        packages.append("openvino")
        if not bf16_is_real():
            notes.append("This processor has no bf16: OpenVINO takes the hint and computes in float32.")
    measured: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.backbone or random_vit_b_32(Path(scratch), int8=True)
        for backbone in (Backbone.open(folder), Backbone.open("nano")):
            measured += measure(backbone, args.batches, args.rounds, wanted, args.threads)
    notes.append(f"Threads: {args.threads}. Rounds: {args.rounds}.")
    if args.json:
        print(json.dumps({"notes": notes, "rows": [asdict(row) for row in measured]}))
    else:
        publish("image_encoder", table(measured, notes), *packages, out=args.out)


if __name__ == "__main__":
    main()
