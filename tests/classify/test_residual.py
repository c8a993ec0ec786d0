"""Class residuals: what they do to class features, how their factor is chosen, and what they are worth on real photos."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import numpy as np
import pytest

import edge_qprompt
from edge_qprompt import Backbone, Classifier, Tasks
from edge_qprompt.arrays import normalised
from edge_qprompt.classify.residual import bias_section, class_means
from edge_qprompt.classify.scores import Scores
from edge_qprompt.codebook import Clustering, ClusterSettings
from edge_qprompt.errors import PackError
from edge_qprompt.learn import METHODS
from edge_qprompt.learn.adapt import adapt
from edge_qprompt.learn.methods.calibration import ALPHAS, choose
from edge_qprompt.learn.settings import AdaptSettings, LoopSettings, MethodSettings
from edge_qprompt.learn.shots import Shots
from edge_qprompt.pack.pack import Pack, PackTensor, Precision, Role, Section, names_section
from edge_qprompt.pack.section import RESIDUAL_BIAS, TEMPLATE
from edge_qprompt.photos.dataset import Dataset, load_dataset
from edge_qprompt.photos.features import extract

PHOTOS = Path(edge_qprompt.__file__).parent / "data" / "fashion_mnist"
NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.open("nano")


@pytest.fixture(scope="module")
def clothes() -> Dataset:
    return load_dataset(PHOTOS)


def residual_pack(backbone: Backbone, values: np.ndarray, names: tuple[str, ...] = NAMES, bias: float | None = 0.125) -> Pack:
    tensor = PackTensor.quantized(Role.RESIDUAL, Clustering.fit(values, ClusterSettings(bits=4)).quantize(values))
    sections = (
        Section(TEMPLATE.tag, b"a photo of a {}."),
        *(() if bias is None else (bias_section(bias),)),
        names_section(names),
    )
    pack = Pack(backbone.manifest.short_fingerprint, METHODS["qres"].number, Precision.FP32, (tensor,), sections)
    return Pack.decode(pack.encode())


def draws(shape: tuple[int, ...], size: float = 0.05) -> np.ndarray:
    return (size * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def test_class_features_move_by_what_is_stored(backbone: Backbone) -> None:
    pack = residual_pack(backbone, draws((3, backbone.manifest.embed_dim)))
    text = backbone.text.from_template(NAMES)
    wanted = text + pack.tensor(Role.RESIDUAL).values()
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(Classifier(backbone, pack).class_features, wanted, atol=1e-6)


def test_names_find_their_rows_in_any_order_and_others_keep_their_text(backbone: Backbone) -> None:
    pack = residual_pack(backbone, draws((3, backbone.manifest.embed_dim)))
    own = Classifier(backbone, pack)
    mixed = Classifier(backbone, pack, ("fox", "owl", "cat"))
    np.testing.assert_allclose(mixed.class_features[0], backbone.text.from_template(["fox"])[0], atol=1e-6)
    np.testing.assert_allclose(mixed.class_features[1:], own.class_features[[2, 0]], atol=1e-6)
    assert own.head.offsets.tolist() == [0, 0, 0]
    assert mixed.head.offsets.tolist() == [0, -0.125, -0.125]
    assert Classifier(backbone, pack, ("owl", "dog")).head.offsets.tolist() == [0, 0]
    unbiased = residual_pack(backbone, draws((3, 256)), bias=None)
    assert Classifier(backbone, unbiased, ("fox", "owl")).head.offsets.tolist() == [0, 0]


def test_offsets_lower_the_cosine(backbone: Backbone) -> None:
    pack = residual_pack(backbone, draws((3, backbone.manifest.embed_dim)))
    mixed = Classifier(backbone, pack, ("fox", "owl"))
    feature = normalised(draws((1, backbone.manifest.embed_dim)))
    cosines = feature @ mixed.class_features.T
    scale = backbone.manifest.logit_scale
    np.testing.assert_allclose(mixed.logits(feature)[0] / scale, cosines[0] - [0, 0.125], atol=1e-6)


def test_many_tasks_answer_as_each_alone(backbone: Backbone) -> None:
    values = draws((3, backbone.manifest.embed_dim))
    mixed = Classifier(backbone, residual_pack(backbone, values), ("fox", "owl"))
    plain = Classifier(backbone, residual_pack(backbone, values))
    tasks = Tasks(backbone)
    tasks.add("mixed", mixed)
    tasks.add("plain", plain)
    for count in (1, 5):
        features = normalised(draws((count, backbone.manifest.embed_dim)))
        found = tasks.probabilities(features)
        np.testing.assert_allclose(found["mixed"], mixed.probabilities(features), atol=1e-6)
        np.testing.assert_allclose(found["plain"], plain.probabilities(features), atol=1e-6)


def test_equal_names_are_told_apart_by_their_order(backbone: Backbone) -> None:
    values = draws((2, backbone.manifest.embed_dim))
    features = Classifier(backbone, residual_pack(backbone, values, ("bat", "bat"))).class_features
    assert np.abs(features[0] - features[1]).max() > 0.01


@pytest.mark.parametrize(("shape", "names"), [((2, 256), NAMES), ((3, 255), NAMES), ((4, 256), NAMES)])
def test_residuals_that_do_not_fit_are_refused(backbone: Backbone, shape: tuple[int, int], names: tuple[str, ...]) -> None:
    with pytest.raises(PackError, match="class residuals"):
        Classifier(backbone, residual_pack(backbone, draws(shape), names))


@pytest.mark.parametrize("data", [b"", b"\0\0\0", struct.pack("<f", float("nan")), struct.pack("<f", float("inf")), bytes(5)])
def test_a_bias_is_one_finite_number(data: bytes) -> None:
    with pytest.raises(PackError, match="residual bias"):
        Section(RESIDUAL_BIAS.tag, data)


def synthetic(spread: float, off: float) -> Shots:
    """Photos (80, 1, 64) of 8 classes around true directions, and text features `off` these."""
    rng = np.random.default_rng(1)
    truth = normalised(rng.standard_normal((8, 64)))
    labels = np.repeat(np.arange(8), 10)
    photos = normalised(truth[labels] + spread * rng.standard_normal((80, 64)))[:, None]
    return Shots(photos, labels, normalised(truth + off * rng.standard_normal((8, 64))), 30.0)


def test_text_that_is_right_gets_small_residuals_and_text_that_is_wrong_large_ones() -> None:
    settings = ClusterSettings(bits=4)
    right = choose(synthetic(spread=0.5, off=0.02), settings)[0]
    wrong = choose(synthetic(spread=0.1, off=5.0), settings)[0]
    assert right < wrong
    assert {right, wrong} <= set(ALPHAS)


def test_over_a_learned_prompt_residuals_go_no_further_than_to_the_means() -> None:
    settings, shots = ClusterSettings(bits=4), synthetic(spread=0.7, off=5.0)
    truth = synthetic(spread=0.7, off=0.0).by_hand
    assert choose(shots, settings)[0] > 1
    assert choose(shots, settings, truth)[0] < 1  # the prompt is right, the photos are all over
    near = synthetic(spread=0.1, off=5.0)
    assert choose(near, settings, near.by_hand)[0] == 1  # the prompt is wrong, the photos are not


def test_one_photo_a_class_leaves_nothing_to_choose_with() -> None:
    assert choose(synthetic(0.1, 1.0).of(np.arange(0, 80, 10)), ClusterSettings(bits=2)) == (1.0, 0.0)


def test_a_class_with_one_photo_among_others_costs_the_choice_nothing() -> None:
    shots = synthetic(0.1, 5.0)
    fewer = np.delete(np.arange(80), np.arange(31, 40))  # class 3 keeps one
    alpha, bias = choose(shots.of(fewer), ClusterSettings(bits=4))
    whole = choose(shots, ClusterSettings(bits=4))
    assert alpha == whole[0]
    assert bias == pytest.approx(whole[1], abs=0.1)
    assert bias > 0.1


def test_means_are_directions() -> None:
    shots = synthetic(0.3, 0.0)
    means = class_means(shots.centre, shots.labels, 8)
    np.testing.assert_allclose(means[3], normalised(shots.centre[30:40].sum(axis=0, keepdims=True))[0], atol=1e-6)


@pytest.mark.parametrize("method", ["qres", "learned-qres", "qcoop+qres"])
def test_on_real_photos_they_beat_the_prompt_below_them(backbone: Backbone, clothes: Dataset, method: str) -> None:
    settings = AdaptSettings(method=method, loop=LoopSettings(epochs=40))
    result = adapt(backbone, clothes, settings)
    plain = adapt(backbone, clothes, dataclasses.replace(settings, method="zero-shot" if method == "qres" else "qcoop"))
    assert result.held_out.pack > plain.held_out.pack + 0.05
    assert result.run.steps == (0 if method == "qres" else 40)
    assert sum(tensor.payload_bytes for tensor in result.pack.tensors) < 1000
    assert (result.pack.tensor(Role.CTX) is not None) == (method == "qcoop+qres")
    assert adapt(backbone, clothes, settings).pack == result.pack


def test_photos_of_classes_without_residuals_keep_their_chance(backbone: Backbone, clothes: Dataset) -> None:
    """Half of the classes learned, all of them asked for: the bias gives the others a better harmonic mean than none."""
    half = clothes.select("base")
    pack = adapt(backbone, half, AdaptSettings(method="qres", method_settings=MethodSettings(options={"residual_bits": 2}))).pack
    features, labels = extract(backbone, clothes.test.paths).values[:, 0], np.array(clothes.test.labels)
    mixed, seen = Classifier(backbone, pack, clothes.names), labels < len(half.names)

    def harmonic() -> float:
        right = mixed.probabilities(features).argmax(axis=1) == labels
        a, b = right[seen].mean(), right[~seen].mean()
        return 2 * a * b / max(a + b, 1e-9)

    held_back = harmonic()
    mixed.head = dataclasses.replace(mixed.head, offsets=np.zeros_like(mixed.head.offsets))
    assert held_back > harmonic()
    assert Scores.of(mixed.probabilities(features), labels).n == len(labels)
