"""Quantized graphs: the numbers that `learn` computes with, real integers, and files of the size that the bits promise."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from small_models import RESNET, VIT, build, save

from edge_qprompt import Backbone
from edge_qprompt.backbone.fixed_point import quantization_json, quantized_weight
from edge_qprompt.learn.towers.image import VisionTower
from edge_qprompt.learn.towers.towers import Towers
from exporter.commands.export import command as export
from exporter.graphs.image import write_vision_graph
from exporter.graphs.traced import write_image_graph
from exporter.quantize.precisions import RECIPES, add_precisions, sample_of
from exporter.quantize.rewrite import Recipe, calibrate, folded, quantize

NAMES = ("cat", "very large dog", "eiffel tower", "bag")


def photos(size: int, count: int = 24, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, 3, 1, 1)) + rng.normal(size=(count, 3, size, size)).cumsum(-1) / 5).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision transformer in all precisions."""
    work = tmp_path_factory.mktemp("vit")
    model = build(VIT)
    done = CliRunner().invoke(export, [*save(work, VIT, model), "--no-int8", "--out", str(work / "b")], catch_exceptions=False)
    assert done.exit_code == 0
    backbone = Backbone.open(work / "b")
    add_precisions(work / "b", backbone.manifest, list(RECIPES), sample_of(backbone, photos(32), NAMES), NAMES, print)
    return work / "b"


@pytest.mark.parametrize("precision", RECIPES)
def test_graphs_compute_what_is_learned_through(folder: Path, precision: str) -> None:
    backbone, full = Backbone.open(folder, precision), Backbone.open(folder)
    towers = Towers(backbone, NAMES)
    assert backbone.quantization is not None
    written = towers.written("a photo of a {}.")
    cosines = (towers.text(written.ctx, written.suffixes).numpy() * backbone.text.from_template(NAMES)).sum(axis=1)
    assert cosines.min() > 0.999
    assert (full.text.from_template(NAMES) * backbone.text.from_template(NAMES)).sum(axis=1).min() < 0.9999
    pixels = photos(32, 8, seed=1)
    got = backbone.encode_images(pixels)
    if backbone.quantization.image:  # int8 may be the dynamic kind, which has no ranges to know
        assert (towers.vision(torch.from_numpy(pixels)).numpy() * got).sum(axis=1).min() > 0.999
    assert (full.encode_images(pixels) * got).sum(axis=1).min() < 0.99999


def test_static_int8_is_the_reference_too(folder: Path, tmp_path: Path) -> None:
    """Whichever way `int8` took on this machine."""
    backbone, pixels = Backbone.open(folder), photos(32, 8, seed=1)
    calibrated = calibrate(folded(_plain(backbone, tmp_path)), [{"pixels": photos(32, 4)}])
    model, products = quantize(calibrated, RECIPES["int8"])
    (got,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"pixels": pixels})
    tower = VisionTower(backbone.vision_weights, backbone.vision, products)
    assert (tower(torch.from_numpy(pixels)).numpy() * got).sum(axis=1).min() > 0.999


def _plain(backbone: Backbone, work: Path) -> Path:
    shutil.copy(backbone.folder / "image.safetensors", work)
    write_vision_graph(work, backbone.vision, 32, backbone.manifest.embed_dim, plain="image.plain.onnx")
    return work / "image.plain.onnx"


def test_bits_decide_the_size(folder: Path) -> None:
    sizes = {p: (folder / f"image.{p}.onnx").stat().st_size for p in ("fp32", *RECIPES)}
    weights = sum(
        np.prod(tensor.dims) for tensor in onnx.load(folder / "image.fp32.onnx").graph.initializer if len(tensor.dims) == 2
    )
    assert sizes["fp32"] - sizes["int8"] > 2 * weights
    assert sizes["int8"] - sizes["w4a8"] > 0.4 * weights - 40_000  # names of nodes weigh something in a model this small
    record = Backbone.open(folder).manifest.files
    assert {quantization_json(p) for p in RECIPES} | {f"text.{p}.onnx" for p in RECIPES} <= record.keys()
    Backbone.open(folder).verify()


def product(weight: np.ndarray, scale: float = 1.0) -> onnx.ModelProto:
    """pixels (B, K) times a matrix twice, of which the first is quantized."""
    k, n = weight.shape
    nodes = [
        helper.make_node("Mul", ["pixels", "one"], ["x"], name="start"),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="first"),
        helper.make_node("MatMul", ["y", "eye"], ["features"], name="last"),
    ]
    constants = {"w": weight, "eye": np.eye(n, dtype=np.float32), "one": np.float32(scale)}
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", size]) for name, size in (("pixels", k), ("features", n))
    ]
    graph = helper.make_graph(
        nodes, "product", ends[:1], ends[1:], [numpy_helper.from_array(v, name) for name, v in constants.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"pixels": x})[0]


def test_integer_sums_do_not_overflow() -> None:
    """The largest weights and activations at once, which 16 bits cannot add."""
    k = 512
    x, weight = np.full((3, k), 4.0, np.float32), np.ones((k, 5), np.float32)
    weight[:, 1::2] = -1
    calibrated = calibrate(product(weight), [{"pixels": x}])
    model, (record,) = quantize(calibrated, Recipe(8, 8, 8))
    assert record.inputs[0] is not None
    np.testing.assert_allclose(run(model, x), x @ weight, rtol=1e-4)


@pytest.mark.parametrize("k", [64, 96, 50], ids=["blocks of 64", "blocks of 32", "no blocks"])
def test_weights_of_four_bits_are_stored_as_such(k: int) -> None:
    rng = np.random.default_rng(k)
    x, weight = rng.normal(size=(6, k)).astype(np.float32), rng.normal(size=(k, 33)).astype(np.float32)
    model, (record,) = quantize(calibrate(product(weight), [{"pixels": x}]), Recipe(4, 8, 8))
    integers, scale = quantized_weight(np.ascontiguousarray(weight.T), 4)
    assert (np.abs(integers).max(axis=1) == 7).all()
    (to,) = record.inputs
    assert to is not None
    rounded = to.scale * (np.clip(np.round(x / np.float32(to.scale)) + to.zero, 0, 255) - to.zero)
    np.testing.assert_allclose(run(model, x), rounded @ (integers * scale[:, None]).T, atol=2e-4)
    stored = {t.name: len(t.raw_data) for t in model.graph.initializer}
    assert stored["first.weight"] == -(-k * 33 // 2)


def test_convolutions_compute_in_integers(tmp_path: Path) -> None:
    write_image_graph(tmp_path, build(RESNET).visual, 64, 32)
    model, products = quantize(calibrate(folded(tmp_path / "image.fp32.onnx"), [{"pixels": photos(64, 8)}]), RECIPES["int8"])
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    convs = [each for each in products if each.output]
    assert kinds["QLinearConv"] == len(convs) > 10


@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-7, 0.0])
def test_a_channel_whose_kernel_is_all_but_zero_keeps_its_bias(size: float) -> None:
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(4, 3, 3, 3)).astype(np.float32), np.array([0.7, -3.0, 0.2, 0.0], np.float32)
    kernel[:2] *= np.float32(size)
    nodes = [
        helper.make_node("Relu", ["pixels"], ["x"], name="start"),
        helper.make_node("Conv", ["x", "w", "b"], ["y"], name="first"),
        helper.make_node("Conv", ["y", "eye"], ["features"], name="last"),
    ]
    constants = {"w": kernel, "b": bias, "eye": np.eye(4, dtype=np.float32)[:, :, None, None]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in ("pixels", "features")]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "maps", ends[:1], ends[1:], stored)
    x = photos(9, 4)
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model, _ = quantize(calibrate(source, [{"pixels": x}]), Recipe(8, 8, 8))
    wanted, got = (run(each, x).mean(axis=(0, 2, 3)) for each in (source, model))
    np.testing.assert_allclose(got, wanted, atol=0.02 * np.abs(run(source, x)).max())
