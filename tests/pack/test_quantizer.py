"""The quantizer: what normalisation buys, KL of histograms, and when it clusters again. k-means is in test_kmeans."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edge_qprompt.codebook import Clustering, ClusterSettings, Moments, distortion, kl_divergence, kmeans_1d, nearest

Floats = NDArray[np.float64]


def normal(size: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=size)


# --- normalisation --------------------------------------------------------------------------------


def test_moments_are_those_of_all_scalars() -> None:
    moments = Moments.of(np.array([[1.0, 2], [3, 6]]))
    assert (moments.mean, moments.std) == (3.0, math.sqrt((4 + 1 + 0 + 9) / 4))
    assert moments.restore(moments.normalise(np.array([5.0]))) == pytest.approx([5])


SEED, SCALE, SHIFT = st.integers(0, 2**32), st.floats(1e-3, 1e3), st.floats(-100, 100)


@given(SEED, SCALE, SHIFT, st.sampled_from([1, 2, 4]))
def test_scale_and_shift_of_the_weights_change_nothing_but_the_codebook(seed: int, scale: float, shift: float, bits: int) -> None:
    weights = normal(100, seed)
    moved = scale * weights + shift
    before = Clustering.fit(weights, ClusterSettings(bits))
    np.testing.assert_allclose(Clustering.fit(moved, ClusterSettings(bits)).centres, before.centres, atol=1e-6)
    one, two = before.quantize(weights), before.quantize(moved)  # with the old centres
    np.testing.assert_array_equal(one.indexes, two.indexes)
    np.testing.assert_allclose(two.codebook, scale * one.codebook + shift, atol=1e-6 * (scale + abs(shift)))


def test_without_normalisation_the_centres_stay_where_they_are() -> None:
    weights = normal(100)
    fitted = Clustering.fit(weights, ClusterSettings(2, normalise=False))
    moved = fitted.quantize(weights + 100)
    np.testing.assert_array_equal(fitted.centres, kmeans_1d(weights, 2))
    np.testing.assert_array_equal(moved.codebook, fitted.centres)
    assert (moved.indexes == 3).all()


@pytest.mark.parametrize("constant", [0.0, 0.1, -3e4])
@pytest.mark.parametrize("bits", [1, 4])
def test_a_constant_prompt(constant: float, bits: int) -> None:
    weights = np.full((3, 7), constant)
    fitted = Clustering.fit(weights, ClusterSettings(bits))
    assert fitted.error == pytest.approx(0, abs=1e-20)
    np.testing.assert_allclose(fitted.quantize(weights).values(), weights.astype(np.float32), rtol=1e-6)
    assert fitted.look(weights) is fitted


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_quantize_folds_mean_and_deviation_of_the_current_weights_in(bits: int) -> None:
    fitted = Clustering.fit(normal(256).reshape(4, 64), ClusterSettings(bits))
    weights = (0.02 * np.random.default_rng(1).laplace(size=(4, 64)) + 5).astype(np.float32)
    exact = weights.astype(np.float64)
    mu, sigma = exact.mean(), exact.std()
    normalised = (exact - mu) / sigma
    wanted = sigma * fitted.centres[np.abs(normalised[..., None] - fitted.centres).argmin(axis=-1)] + mu
    got = fitted.quantize(weights)
    assert got.bits == bits
    assert got.values().dtype == np.float32
    np.testing.assert_allclose(got.codebook, sigma * fitted.centres + mu, rtol=1e-12)
    np.testing.assert_allclose(got.values(), wanted, rtol=1e-6)


# --- when to cluster again ------------------------------------------------------------------------


def test_kl_of_known_histograms() -> None:
    zeros, ones, mixed = np.zeros(4, np.uint8), np.ones(4, np.uint8), np.array([[0, 0], [0, 1]], np.uint8)
    assert kl_divergence(mixed, mixed.T.copy(), 1) == 0
    assert kl_divergence(zeros, ones, 1) == pytest.approx(0.9 * math.log(9) + 0.1 * math.log(1 / 9))  # 4.5 and 0.5 of 5
    assert kl_divergence(mixed, zeros, 1) == pytest.approx(0.7 * math.log(0.7 / 0.9) + 0.3 * math.log(0.3 / 0.1))


INDEXES = arrays(np.uint8, st.integers(1, 30), elements=st.integers(0, 15))


@given(INDEXES, INDEXES)
def test_kl_is_finite_and_not_negative(current: NDArray[np.uint8], old: NDArray[np.uint8]) -> None:
    kl = kl_divergence(current, old, 4)
    assert math.isfinite(kl)
    assert kl >= -1e-12
    assert kl_divergence(np.repeat(current, 2), np.tile(current, 2), 4) == 0


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_kl_between_fresh_samples_is_about_k_minus_1_over_n(bits: int) -> None:
    size, rng = 2048, np.random.default_rng(0)
    centres = kmeans_1d(rng.normal(size=100_000), bits)
    pairs = [[nearest(rng.normal(size=size), centres) for _ in range(2)] for _ in range(500)]
    mean = np.mean([kl_divergence(one, two, bits) for one, two in pairs])
    assert mean == pytest.approx((2**bits - 1) / size, rel=0.2)


@pytest.mark.parametrize("field", ["interval", "threshold"])
def test_settings_that_make_no_sense(field: str) -> None:
    with pytest.raises(ValueError, match="cannot be negative"):
        replace(ClusterSettings(), **{field: -1})


def looked(start: Floats, later: Floats, bits: int, threshold: float = 1.0) -> tuple[Clustering, Clustering, bool, bool]:
    """Before and after a look, and which of its two conditions were met, worked out by hand."""
    before = Clustering.fit(start, ClusterSettings(bits, threshold=threshold))
    flat = (later - later.mean()) / later.std()
    k = np.abs(flat[:, None] - before.centres).argmin(axis=1).astype(np.uint8)
    drifted = kl_divergence(k, before.indexes, bits) > threshold * (2**bits - 1) / later.size
    worse = float(np.mean((flat - before.centres[k]) ** 2)) > before.error
    return before, before.look(later), drifted, worse


def balanced(half: Floats) -> Floats:
    return np.concatenate([half, -half])


def test_drifted_and_worse_clusters_again() -> None:
    later = balanced(np.random.default_rng(1).laplace(size=1024))
    before, after, *conditions = looked(normal(2048), later, 2)
    assert conditions == [True, True]
    wanted = Clustering.fit(later, before.settings)
    assert (before.fired, after.fired) == (0, 1)
    np.testing.assert_array_equal(after.centres, wanted.centres)
    np.testing.assert_array_equal(after.indexes, wanted.indexes)
    assert after.error == wanted.error < distortion(later / later.std(), before.centres)
    assert after.look(later) is after  # nothing has happened since
    assert after.look(normal(2048) ** 3).fired == 2


def test_drifted_but_not_worse_stays() -> None:
    inner, outer = 0.4528, 1.5104  # where the centres are, in shares that keep the deviation at 1
    share = (1 - inner**2) / (outer**2 - inner**2)
    count = round(1024 * share)
    before, after, *conditions = looked(normal(2048), balanced(np.repeat([outer, inner], [count, 1024 - count])), 2)
    assert conditions == [True, False]
    assert after is before


def test_worse_but_not_drifted_stays() -> None:
    heavy = np.random.default_rng(1).laplace(size=1024)
    before, after, *conditions = looked(balanced(normal(1024)), balanced(heavy), 1)
    assert conditions == [False, True]
    assert after is before


def test_the_threshold_counts() -> None:
    later = balanced(np.random.default_rng(1).laplace(size=1024))
    before, after, *conditions = looked(normal(2048), later, 2, threshold=1000)
    assert conditions == [False, True]
    assert after is before


def test_unconstrained_clusters_at_every_look() -> None:
    weights = normal(500)
    clustering = Clustering.fit(weights, ClusterSettings(2, constrained=False))
    for fired in (1, 2, 3):
        again = clustering.look(weights)
        assert again is not clustering
        assert again.fired == fired
        np.testing.assert_array_equal(again.centres, clustering.centres)
        clustering = again
