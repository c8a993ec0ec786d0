"""Metrics against scikit-learn, and calibration against a loop that anybody can check."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, recall_score

from edge_qprompt.classify.scores import ECE_BINS, Scores, calibration_error, harmonic_mean


def probabilities(n: int, classes: int, seed: int) -> NDArray[np.float32]:
    logits = np.random.default_rng(seed).normal(0, 3, (n, classes))
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def slow_ece(confidence: list[float], right: list[bool]) -> float:
    """Guo et al. 2017, equation 3, as it is written."""
    total = 0.0
    for m in range(ECE_BINS):
        last = m == ECE_BINS - 1
        inside = [i for i, p in enumerate(confidence) if m / ECE_BINS <= p < (m + 1) / ECE_BINS or (last and p == 1)]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            average = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - average)
    return total


@given(st.integers(1, 60), st.integers(2, 8), st.integers(0, 10_000))
def test_accuracy_and_recall_are_those_of_scikit_learn(n: int, classes: int, seed: int) -> None:
    shares = probabilities(n, classes, seed)
    truth = np.random.default_rng(seed + 1).integers(0, classes, n)
    scores, guess = Scores.of(shares, truth), shares.argmax(axis=1)
    assert scores.n == n
    assert scores.accuracy == pytest.approx(accuracy_score(truth, guess))
    recalls = recall_score(truth, guess, labels=range(classes), average=None, zero_division=0)
    assert len(scores.per_class) == classes
    for c, recall in enumerate(recalls):
        assert scores.per_class[c] == (pytest.approx(recall) if c in truth else None)


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=80))
def test_calibration_error_is_that_of_the_slow_loop(photos: list[tuple[float, bool]]) -> None:
    confidence, right = [p for p, _ in photos], [r for _, r in photos]
    assume(all(p in (0, 1) or abs(p * ECE_BINS - round(p * ECE_BINS)) > 1e-5 for p in confidence))  # which bin is rounding
    got = calibration_error(np.array(confidence, np.float32), np.array(right))
    assert got == pytest.approx(slow_ece(confidence, right), abs=1e-7)


def test_scores_take_the_confidence_of_the_top_label() -> None:
    shares, truth = probabilities(50, 4, 7), np.arange(50) % 4
    right = shares.argmax(axis=1) == truth
    assert Scores.of(shares, truth).ece == pytest.approx(slow_ece(shares.max(axis=1).tolist(), right.tolist()), abs=1e-7)


def test_known_calibrations() -> None:
    sure = np.ones(4, np.float32)
    assert calibration_error(sure, np.array([True] * 4)) == 0
    assert calibration_error(sure, np.array([False] * 4)) == 1
    assert calibration_error(sure / 2, np.array([True, False, True, False])) == 0
    assert calibration_error(np.array([0.9, 0.9, 0.6, 0.6], np.float32), np.array([True, True, False, True])) == pytest.approx(
        0.1
    )


def test_harmonic_mean() -> None:
    assert harmonic_mean(0.8, 0.4) == pytest.approx(1.6 * 0.4 / 1.2)
    assert harmonic_mean(0.7, 0.7) == pytest.approx(0.7)
    assert harmonic_mean(0, 0) == harmonic_mean(0.5, 0) == 0
