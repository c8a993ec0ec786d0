"""Ranges of activations: the least error of those that are tried, and integers as ONNX makes them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_qprompt.backbone.fixed_point import Range

ranges = pytest.importorskip("exporter.quantize.ranges", reason="needs the export extra")


def sampler(*batches: np.ndarray) -> ranges.Sampler:
    found = ranges.Sampler(len(batches))
    rng = np.random.default_rng(0)
    for batch in batches:
        found.add(batch.astype(np.float32), rng)
    return found


def test_few_large_values_are_clipped_and_many_are_not() -> None:
    values = np.random.default_rng(1).normal(size=10_000)
    few = sampler(values, np.append(values[1:], 40.0)).fit(4)
    assert few.range.scale * 15 < 20  # 43 wide at first: an outlier in 20,000 values is given up
    many = sampler(values, np.append(values[1000:], np.full(1000, 40.0))).fit(4)
    assert many.range.scale * 15 > 40


@pytest.mark.parametrize("bits", [4, 8])
def test_no_range_that_is_tried_has_less_error(bits: int) -> None:
    values = np.random.default_rng(2).gamma(1.0, size=5000).astype(np.float32) - 1
    found = sampler(values)
    best = found.fit(bits)
    low, high = min(0.0, float(values.min())), float(values.max())
    for share in np.arange(0.1, 1.001, 0.01):
        scale = float(np.float32(share * (high - low) / ((1 << bits) - 1)))
        tried = Range(bits, scale, round(-share * low / scale))
        sampled = np.concatenate(found.values)
        error = np.square(ranges.rounded(sampled, tried) - sampled).sum() / np.square(sampled).sum()
        assert best.error <= error * (1 + 1e-5)


def test_zero_is_exact_and_a_tensor_of_zeros_has_a_range() -> None:
    found = sampler(np.array([3.0, 5.0, 9.0])).fit(8).range
    assert ranges.rounded(np.zeros(1, np.float32), found) == 0
    nothing = sampler(np.zeros(4)).fit(8)
    assert ranges.rounded(np.zeros(4, np.float32), nothing.range).tolist() == [0, 0, 0, 0]


def test_rounding_is_that_of_onnx() -> None:
    to = Range(8, 0.1, 100)
    values = np.append(np.random.default_rng(3).normal(0, 8, 4000), (np.arange(-110, 170) + 0.5) * 0.1).astype(np.float32)
    given = [numpy_helper.from_array(np.float32(to.scale), "scale"), numpy_helper.from_array(np.uint8(to.zero), "zero")]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "xy"]
    graph = helper.make_graph(nodes, "round", ends[:1], ends[1:], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    (wanted,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": values})
    np.testing.assert_allclose(ranges.rounded(values, to), wanted, atol=1e-5)
