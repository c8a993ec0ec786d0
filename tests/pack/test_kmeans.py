"""1-D k-means against known constants, an exhaustive dynamic programme and scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from edge_qprompt.codebook import START_ENDS, ClusterSettings, distortion, kmeans_1d, nearest

Floats = NDArray[np.float64]
Rng = np.random.Generator


def normal(size: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=size)


SHAPES_OF_DATA: dict[str, Callable[[Rng, int], Floats]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "uniform": lambda rng, n: rng.uniform(size=n),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "student": lambda rng, n: rng.standard_t(3, size=n),
    "outliers": lambda rng, n: rng.normal(size=n) * np.where(rng.random(n) < 0.01, 10, 1),
    "few values": lambda rng, n: rng.poisson(2, size=n).astype(float),
}


@pytest.mark.parametrize(
    ("bits", "centres", "error"),
    [
        (1, [-0.7979, 0.7979], 0.3634),  # Max, Quantizing for Minimum Distortion, IRE Trans. IT-6, 1960, table I
        (2, [-1.5104, -0.4528, 0.4528, 1.5104], 0.1175),
        (3, [-2.1519, -1.3439, -0.7560, -0.2451, 0.2451, 0.7560, 1.3439, 2.1519], 0.03454),
    ],
)
def test_centres_of_a_normal_distribution(bits: int, centres: list[float], error: float) -> None:
    values = normal(400_000)
    got = kmeans_1d(values, bits)
    np.testing.assert_allclose(got, centres, atol=0.015)
    assert distortion(values, got) == pytest.approx(error, rel=0.01)


def test_distortion_of_a_normal_distribution_at_4_bits() -> None:
    values = normal(400_000)
    assert distortion(values, kmeans_1d(values, 4)) == pytest.approx(0.009497, rel=0.01)


def least_distortion(values: Floats, clusters: int) -> float:
    """The least mean squared error of all partitions into runs: dynamic programming without a shortcut, O(K N^2)."""
    ordered = np.sort(values)
    errors = [_errors_of_first(ordered[i:]) for i in range(len(ordered))]
    least = np.array([math.inf] * len(ordered) + [0.0])  # least[i] is of the values from i on
    for _ in range(clusters):
        least = np.array([(errors[i] + least[i + 1 :]).min() for i in range(len(ordered))] + [0.0])
    return float(least[0]) / len(ordered)


def _errors_of_first(values: Floats) -> Floats:
    """Squared error of the first 1, 2, ... values around their mean (Welford)."""
    errors, mean, error = [], 0.0, 0.0
    for n, x in enumerate(values.tolist(), 1):
        delta = x - mean
        mean += delta / n
        error += delta * (x - mean)
        errors.append(error)
    return np.array(errors)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", SHAPES_OF_DATA)
def test_small_inputs_get_the_least_possible_distortion(kind: str, bits: int) -> None:
    values = SHAPES_OF_DATA[kind](np.random.default_rng(bits), 150)
    assert distortion(values, kmeans_1d(values, bits)) <= least_distortion(values, 2**bits) * (1 + 1e-9) + 1e-12


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=12), st.integers(1, 3))
def test_tiny_inputs_get_the_least_possible_distortion(values: list[int], bits: int) -> None:
    data = np.array(values, float)
    assert distortion(data, kmeans_1d(data, bits)) <= least_distortion(data, 2**bits) + 1e-12


@pytest.mark.parametrize("kind", ["normal", "student", "outliers"])
def test_large_inputs_come_close_to_the_least_distortion(kind: str) -> None:
    values = SHAPES_OF_DATA[kind](np.random.default_rng(0), 2 * START_ENDS)
    assert distortion(values, kmeans_1d(values, 4)) <= 1.005 * least_distortion(values, 16)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("kind", SHAPES_OF_DATA)
def test_not_worse_than_scikit_learn(kind: str, bits: int) -> None:
    values = SHAPES_OF_DATA[kind](np.random.default_rng(7), 2048)
    distinct = len(np.unique(values))
    other = KMeans(min(2**bits, distinct), n_init=3, random_state=0).fit(values[:, None])
    assert distortion(values, kmeans_1d(values, bits)) <= 1.002 * other.inertia_ / values.size + 1e-12


@pytest.mark.parametrize("bits", range(1, 9))
def test_each_bit_more_divides_the_distortion_by_three_or_more(bits: int) -> None:
    values = normal(2048)
    before = distortion(values, kmeans_1d(values, bits - 1)) if bits > 1 else values.var()
    assert distortion(values, kmeans_1d(values, bits)) < before / 2.7


FINITE = st.floats(-1e6, 1e6)
VALUES = arrays(np.float64, st.integers(1, 40), elements=FINITE)


@given(VALUES, st.integers(1, 8))
def test_centres_rise_within_the_values_and_are_the_means_of_theirs(values: Floats, bits: int) -> None:
    centres = kmeans_1d(values, bits)
    scale = np.ptp(values) + np.abs(values).max()
    assert centres.shape == (2**bits,)
    assert (np.diff(centres) >= 0).all()
    assert values.min() - 1e-9 * scale <= centres[0]
    assert centres[-1] <= values.max() + 1e-9 * scale
    indexes = nearest(values, centres)
    for k in np.unique(indexes):
        assert centres[k] == pytest.approx(values[indexes == k].mean(), abs=1e-9 * scale)


@pytest.mark.parametrize("values", [[5.0], [3.0, 1.0, 2.0], [0.0, 0.0, 1e-3, 7.0], [-1e6, 1e-6, 1e6]])
def test_fewer_values_than_centres_are_kept_exactly(values: list[float]) -> None:
    data = np.array(values)
    centres = kmeans_1d(data, 3)
    np.testing.assert_allclose(centres[nearest(data, centres)], data, rtol=1e-12, atol=1e-9)
    assert set(np.round(centres, 6)) == set(np.round(values, 6))


def test_values_far_from_zero() -> None:
    values = normal(300)
    np.testing.assert_allclose(kmeans_1d(values + 1e7, 2) - 1e7, kmeans_1d(values, 2), atol=1e-7)


def test_any_shape_and_float32() -> None:
    values = normal(60).astype(np.float32)
    wanted = kmeans_1d(values.astype(np.float64), 2)
    np.testing.assert_array_equal(kmeans_1d(values.reshape(3, 20), 2), wanted)
    assert kmeans_1d(values[::-1], 2).tolist() == wanted.tolist()


@pytest.mark.parametrize("values", [[], [0.0, math.nan], [math.inf, 0.0]])
def test_what_cannot_be_clustered(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one value, and finite ones only"):
        kmeans_1d(np.array(values), 1)


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_bits_out_of_range(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits is {bits}, it can be 1 to 8"):
        kmeans_1d(np.ones(3), bits)
    with pytest.raises(ValueError, match=f"bits is {bits}, it can be 1 to 8"):
        ClusterSettings(bits)


# --- nearest --------------------------------------------------------------------------------------


@given(VALUES, arrays(np.float64, st.sampled_from([2, 4, 8, 256]), elements=FINITE).map(np.sort))
def test_nearest_is_nearest(values: Floats, centres: Floats) -> None:
    indexes = nearest(values, centres)
    assert indexes.dtype == np.uint8
    distances = np.abs(values[:, None] - centres)  # (N, K)
    np.testing.assert_allclose(np.abs(values - centres[indexes]), distances.min(axis=1), rtol=0, atol=1e-9)


def test_nearest_keeps_the_shape_and_gives_a_tie_to_the_lower_centre() -> None:
    values = np.array([[-9, 0.9, 1], [1.1, 3, 99]])
    assert nearest(values, np.array([0.0, 2, 4, 4])).tolist() == [[0, 0, 0], [1, 1, 2 + 1]]


def test_distortion_is_the_mean_squared_error() -> None:
    assert distortion(np.array([0.0, 1, 5]), np.array([0.0, 4])) == pytest.approx((0 + 1 + 1) / 3)
