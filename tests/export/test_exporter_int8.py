"""The int8 image encoder: what is quantized, and what keeps it close to the float one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_models import RESNET, VIT, build

from edge_qprompt.backbone.manifest import PrecisionRecord
from edge_qprompt.backbone.session import Session
from exporter.graphs.traced import write_image_graph
from exporter.quantize import equalize, int8, int8_graph
from exporter.quantize.int8_graph import DynamicGraph
from exporter.quantize.precisions import RECIPES, Static
from exporter.quantize.rewrite import calibrate, folded


def outlier_channels(model: Any, factor: float) -> None:
    """Make a few channels behind each LayerNorm large, without changing the function: what trained ViTs do."""
    for block in model.visual.transformer.resblocks:
        for norm, matrix in ((block.ln_1, block.attn.in_proj_weight), (block.ln_2, block.mlp.c_fc.weight)):
            norm.weight[:3] *= factor
            norm.bias[:3] *= factor
            matrix[:, :3] /= factor


def noise(size: int, count: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(count, 3, 1, 1)) + rng.normal(size=(count, 3, size, size)).cumsum(-1) / 5).astype(np.float32)


def cosine_of(path: Path, reference: Path, pixels: np.ndarray) -> float:
    got = Session(path, stored_low=False).run({"pixels": pixels})
    wanted = Session(reference, stored_low=True).run({"pixels": pixels})
    return float((got * wanted).sum(axis=1).min())


def batches_of(pixels: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [{"pixels": pixels[i : i + 4]} for i in range(0, len(pixels), 4)]


def ways_of(folder: Path, pixels: np.ndarray) -> tuple[Static, DynamicGraph]:
    """The two ways to an int8 encoder of a transformer."""
    batches = batches_of(pixels)
    calibrated = calibrate(folded(folder / "image.fp32.onnx"), batches)
    weighted = [node.name for node in calibrated.products if node.name in calibrated.weights]
    return Static(calibrated, RECIPES["int8"]), DynamicGraph.of(calibrated.model, weighted, batches)


def test_smoothing_saves_outlier_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels = build(VIT), noise(32)
    outlier_channels(model, 100)
    write_image_graph(tmp_path, model.visual, 32, 48)
    fp32, int8_ = tmp_path / "image.fp32.onnx", tmp_path / "image.int8.onnx"
    _, graph = ways_of(tmp_path, pixels)
    assert len(graph.nodes) == 12  # four matrices a block
    graph.write(int8_, graph.nodes)
    smoothed = cosine_of(int8_, fp32, pixels)
    onnx.save(graph.model, tmp_path / "smoothed.onnx")
    assert cosine_of(tmp_path / "smoothed.onnx", fp32, pixels) > 1 - 1e-5  # in float the function is the same
    monkeypatch.setattr(int8_graph, "smooth", lambda *_: 0)
    _, graph = ways_of(tmp_path, pixels)
    graph.write(int8_, graph.nodes)
    assert 1 - smoothed < 0.1 * (1 - cosine_of(int8_, fp32, pixels))


def test_the_layer_that_hurts_stays_in_float(tmp_path: Path) -> None:
    model, pixels = build(VIT), noise(32)
    block = model.visual.transformer.resblocks[1]
    block.mlp.c_fc.bias[0] = 3000  # one hidden unit dwarfs all others, and smoothing cannot reach it
    block.mlp.c_proj.weight[:, 0] /= 3000
    write_image_graph(tmp_path, model.visual, 32, 48)
    fp32, path = tmp_path / "image.fp32.onnx", tmp_path / "image.int8.onnx"
    lines: list[str] = []

    def measure() -> PrecisionRecord:
        return PrecisionRecord(cosine_of(path, fp32, pixels), 1.0, len(pixels))

    ways = ways_of(tmp_path, pixels)
    result = int8.write_int8(tmp_path, ways, pixels, measure, lambda record: record.cosine > 0.999, lines.append)
    assert result.written
    assert 0 < result.in_float < result.nodes / 2
    assert len(lines) == 1  # the first try failed, in both ways
    for way, bad in zip(ways, (11, 7), strict=True):  # c_proj is the last of a block's six products, four of them with weights
        assert way.nodes.index(int8.rank(way, fp32, pixels[:4])[0]) == bad


def test_the_faster_of_those_that_pass_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels = build(VIT), noise(32)
    write_image_graph(tmp_path, model.visual, 32, 48)
    fp32, path = tmp_path / "image.fp32.onnx", tmp_path / "image.int8.onnx"

    def measure() -> PrecisionRecord:
        return PrecisionRecord(cosine_of(path, fp32, pixels), 1.0, len(pixels))

    for seconds, known in (([1.0, 2.0], 18), ([2.0, 1.0], 0)):  # products of the static way; the dynamic one knows none
        monkeypatch.setattr(
            int8,
            "median_seconds",
            lambda jobs, rounds, seconds=seconds: [job() is None or s for job, s in zip(jobs, seconds, strict=True)],
        )
        result = int8.write_int8(tmp_path, ways_of(tmp_path, pixels), pixels, measure, lambda record: record.cosine > 0.99, print)
        assert (result.written, result.in_float, len(result.products)) == (True, 0, known)
        assert measure() == result.record


def test_bias_correction_takes_the_shift_back() -> None:
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(8, 1, 3, 3)).astype(np.float32), rng.normal(size=8).astype(np.float32)
    node = helper.make_node("Conv", ["pixels", "w", "b"], ["features"], name="conv", group=8, pads=[0, 0, 0, 0])
    shapes = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("pixels", "features")]
    graph = helper.make_graph(
        [node], "one", shapes[:1], shapes[1:], [numpy_helper.from_array(kernel, "w"), numpy_helper.from_array(bias, "b")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    pixels = (3 + rng.normal(size=(4, 8, 9, 9)) / 4).astype(np.float32)

    def mean_output(levels: int | None) -> np.ndarray:
        """Channel means of the output, with the kernel rounded to so many levels."""
        rounded = onnx.ModelProto()
        rounded.CopyFrom(model)
        if levels:
            scale = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True) / levels
            equalize.initializers(rounded)["w"].CopyFrom(numpy_helper.from_array(np.round(kernel / scale) * scale, "w"))
        session = ort.InferenceSession(rounded.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"pixels": pixels})[0].mean(axis=(0, 2, 3))

    wanted = mean_output(None)
    before = np.abs(mean_output(7) - wanted).max()
    equalize.correct_biases(model, ["conv"], {"conv": pixels.mean(axis=(0, 2, 3))}, 4)
    assert np.abs(mean_output(7) - wanted).max() < 0.1 * before


def test_what_stays_in_float(tmp_path: Path) -> None:
    write_image_graph(tmp_path, build(RESNET).visual, 64, 32)
    way = Static(calibrate(folded(tmp_path / "image.fp32.onnx"), batches_of(noise(64))), RECIPES["int8"])
    way.write(tmp_path / "image.int8.onnx", way.nodes)
    written = onnx.load(tmp_path / "image.int8.onnx")
    names = {tensor.name: tensor.data_type for tensor in written.graph.initializer}
    made = {output: node for node in written.graph.node for output in node.output}
    convs = [node for node in written.graph.node if node.op_type == "Conv"]
    quantized = [node for node in convs if made.get(node.input[1]) and made[node.input[1]].op_type == "DequantizeLinear"]
    assert len(quantized) > 10
    assert [node for node in convs if node not in quantized] == [node for node in convs if node.input[0] == "pixels"]
    last = [node for node in written.graph.node if node.op_type == "MatMul" and node.input[1] in names][-1]
    assert names[last.input[1]] == TensorProto.FLOAT
