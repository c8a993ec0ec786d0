"""Views of unlabelled photos, and what nano says of them: what `vit_mini` learns from.

    python -m recipes.vit_mini_views --photos ../shared/datasets --drawings openclipart/ --out views/

A view is a random crop of a photo, flipped half of the time, with its colours shifted. nano's image tower ends in a map of
7 x 7 vectors, their mean, and a linear head; since the head is linear, each vector has a feature of its own, and
the photo's feature is their mean. All 49 are kept: a teacher for every patch. Only train folders are read.

Symbols: V views, S pixels a side, G x G places of nano's last map, D dimensions of a feature.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper
from PIL import Image, ImageEnhance

from edge_qprompt import Backbone
from edge_qprompt.backbone import image_onnx
from edge_qprompt.errors import PhotoError
from edge_qprompt.photos import decode_photo, list_photos, read_photo

SIZE, TEACHER_SIZE, GRID = 160, 224, 7
SCALE, RATIO, JITTER = (0.25, 1.0), (3 / 4, 4 / 3), 0.3
PART = 64  # files between two lines of progress
PIXELS, FEATURES = "pixels.npy", "features.npy"


def teacher(backbone: Backbone) -> ort.InferenceSession:
    """nano with a second output: the feature of each place of its last map, (B, D, G, G), not normalised."""
    model = onnx.load(backbone.folder / image_onnx("fp32"))
    graph = model.graph
    pool = next(node for node in graph.node if node.op_type == "ReduceMean")
    head = next(node for node in graph.node if node.op_type == "Gemm")
    weight, bias = head.input[1:]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 3]), "places.axes"))
    graph.node.extend(
        [
            helper.make_node("Unsqueeze", [weight, "places.axes"], ["places.weight"]),  # (D, 1280, 1, 1)
            helper.make_node("Conv", [pool.input[0], "places.weight", bias], ["places"]),
        ]
    )
    graph.output.append(helper.make_tensor_value_info("places", onnx.TensorProto.FLOAT, ["B", "D", GRID, GRID]))
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def view(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random view of TEACHER_SIZE pixels a side."""
    width, height = image.size
    area = rng.uniform(*SCALE) * width * height
    ratio = np.exp(rng.uniform(*np.log(RATIO)))
    w, h = min(width, round((area * ratio) ** 0.5)), min(height, round((area / ratio) ** 0.5))
    left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
    image = image.resize((TEACHER_SIZE, TEACHER_SIZE), Image.Resampling.BICUBIC, (left, top, left + w, top + h))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for shift in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = shift(image).enhance(rng.uniform(1 - JITTER, 1 + JITTER))
    return image


def views_of(path: Path, count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Views of one photo: pixels for nano (count, 3, 224, 224), and (count, S, S, 3); none of a file that is no photo."""
    rng = np.random.default_rng(seed)
    try:
        image = decode_photo(read_photo(path), path.name)
    except PhotoError:
        return np.zeros((0, 3, TEACHER_SIZE, TEACHER_SIZE), np.float32), np.zeros((0, SIZE, SIZE, 3), np.uint8)
    views = [view(image, rng) for _ in range(count)]
    large = np.stack([np.asarray(each, np.float32) for each in views]) / 127.5 - 1
    small = np.stack([np.asarray(each.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for each in views])
    return np.ascontiguousarray(large.transpose(0, 3, 1, 2)), small


def sources(photos: Path, drawings: Path | None, views: int, most: int) -> list[tuple[Path, int]]:
    """Files, and how many views of each: `views` of a photo of a train folder, one of a drawing, of which there are `most`."""
    found = [(path, views) for path in list_photos(photos) if "train" in path.relative_to(photos).parts]
    drawn = list_photos(drawings) if drawings else []
    return found + [(path, 1) for path in drawn[:: max(1, len(drawn) // most)]]


def make(wanted: Sequence[tuple[Path, int]], out: Path, jobs: int) -> int:
    """Write PIXELS (V, S, S, 3) uint8 and FEATURES (V, G, G, D) float16 and say how many there are.

    Rows at the end stay zero where files could not be read.
    """
    session = teacher(Backbone.open("nano"))
    out.mkdir(parents=True, exist_ok=True)
    total = sum(count for _, count in wanted)
    order = np.random.default_rng(0).permutation(len(wanted)).tolist()
    pixels = np.lib.format.open_memmap(out / PIXELS, "w+", np.uint8, (total, SIZE, SIZE, 3))
    features = np.lib.format.open_memmap(out / FEATURES, "w+", np.float16, (total, GRID, GRID, 256))
    done = 0
    with ProcessPoolExecutor(jobs) as pool:
        for start in range(0, len(order), PART):
            some = order[start : start + PART]
            for large, small in pool.map(views_of, [wanted[i][0] for i in some], [wanted[i][1] for i in some], some):
                if not len(large):
                    continue
                _, places = session.run(None, {"pixels": large})
                rows = slice(done, done + len(large))
                pixels[rows], features[rows] = small, places.transpose(0, 2, 3, 1)
                done = rows.stop
            print(f"{done} of {total} views", flush=True)
    return done


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="data sets with train folders")
    parser.add_argument("--drawings", type=Path, help="any folder of pictures, e.g. of Debian's openclipart-png")
    parser.add_argument("--views", type=int, default=12, help="of each photo")
    parser.add_argument("--most", type=int, default=4000, help="drawings, about")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    print(make(sources(args.photos, args.drawings, args.views, args.most), args.out, args.jobs), "views")


if __name__ == "__main__":
    main()
