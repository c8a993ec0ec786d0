"""The discriminant: its formula, its rounding, what it does beside names without photos, and when it does not know."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from common import DEMO
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_qprompt import Backbone, Classifier, Tasks
from edge_qprompt.classify import zero_shot
from edge_qprompt.codebook import kmeans_1d, nearest
from edge_qprompt.errors import PackError, PromptError
from edge_qprompt.learn import METHODS, AdaptSettings, MethodSettings, adapt
from edge_qprompt.learn.methods.gaussian import Gaussian, spread_of
from edge_qprompt.learn.methods.qgda import QGDA
from edge_qprompt.learn.shots import Shots
from edge_qprompt.pack import DECISION, Decision, Pack, PackTensor, Precision, Role, Section, names_section
from edge_qprompt.photos import features_of, load_dataset

SCALE = 100.0


@cache
def clothes() -> tuple[Shots, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Shots of the embedded photos, features (N, D) and labels (N,) of their test split, and names."""
    backbone, data = Backbone.open("nano"), load_dataset(DEMO)
    assert data.test
    train, test = features_of(backbone, data.train), features_of(backbone, data.test)
    text = zero_shot(backbone, data.names).class_features
    shots = Shots(train.values, np.array(data.train.labels), text, backbone.manifest.logit_scale)
    return shots, test.values[:, 0], np.array(data.test.labels), data.names


def draws(counts: tuple[int, ...], dims: int = 24, seed: int = 0, spread: float = 0.3) -> Shots:
    """Photos around random class means, so many of each class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    values = rng.standard_normal((len(counts), dims))[labels] + spread * rng.standard_normal((len(labels), dims))
    text = rng.standard_normal((len(counts), dims))
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (values, text)]
    return Shots(unit[0][:, None].astype(np.float32), labels, unit[1].astype(np.float32), SCALE)


def packed(backbone: Backbone, shots: Shots, names: tuple[str, ...], bits: int = 2) -> Pack:
    tensors, sections = QGDA(shots, MethodSettings(options={"discriminant_bits": bits})).result()
    pack = Pack(backbone.manifest.short_fingerprint, QGDA.number, Precision.FP32, tensors, (*sections, names_section(names)))
    return Pack.decode(pack.encode())


def some(classes: list[int]) -> tuple[Shots, tuple[str, ...]]:
    shots, _, _, names = clothes()
    return shots.among(np.array(classes)), tuple(names[i] for i in classes)


def test_it_is_the_formula_of_the_paper() -> None:
    shots = draws((5,) * 4)
    x, y, (count, dims) = shots.centre.astype(np.float64), shots.labels, shots.by_hand.shape
    means = np.stack([x[y == c].mean(axis=0) for c in range(count)])
    within = sum(np.outer(each - means[c], each - means[c]) for each, c in zip(x, y, strict=True)) / (len(x) - count)
    precision = dims * np.linalg.pinv((len(x) - 1) * within + np.trace(within) * np.eye(dims))
    scores = x @ (means @ precision).T - np.einsum("cd,de,ce->c", means, precision, means) / 2
    found = Gaussian.fit(shots).scores(shots.centre)
    centred = [each - each.mean(axis=1, keepdims=True) for each in (found, scores)]
    np.testing.assert_allclose(*centred, rtol=1e-5, atol=1e-5 * np.abs(scores).max())


def test_a_class_with_few_photos_does_not_lose_for_that() -> None:
    counts = (3, 40, 40, 40)
    every = draws((340,) * 4, seed=1, spread=2.0)
    order = np.concatenate([np.flatnonzero(every.labels == c)[: counts[c]] for c in range(4)])
    few, new = every.of(order), every.of(np.setdiff1d(np.arange(len(every.labels)), order))
    taken = np.bincount(Gaussian.fit(few).scores(new.centre).argmax(axis=1), minlength=4) / len(new.labels)
    assert 0.15 < taken[0] < 0.35


@pytest.mark.parametrize("bits", [1, 2])
def test_rounding_with_feedback_errs_less_on_photos_than_the_nearest_centre(bits: int) -> None:
    shots, photos, _, _ = clothes()
    gaussian = Gaussian.of(shots)
    scores = gaussian.scores(photos)
    unit = gaussian.weights / gaussian.weights.std(axis=1, keepdims=True)
    centres = kmeans_1d(unit, bits)
    plain = gaussian.weights.std(axis=1, keepdims=True) * centres[nearest(unit, centres)]

    def error(found: np.ndarray) -> float:
        """Of the scores, but for what all photos have in common."""
        wrong = found - scores
        return float((wrong - wrong.mean(axis=0)).std())

    ours = error(gaussian.rows(bits).scores(photos))
    assert ours < 0.75 * error((photos - gaussian.mean.values()) @ plain.T + gaussian.offsets)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_pack_says_what_was_learned(nano: Backbone, bits: int) -> None:
    shots, photos, labels, names = clothes()
    pack = packed(nano, shots, names, bits)
    method = QGDA(shots, MethodSettings(options={"discriminant_bits": bits}))
    scores = Gaussian.of(shots).rows(bits).scores(photos)
    found = Classifier(nano, pack).logits(photos)
    decision = pack.get(DECISION)
    assert decision
    by_name = photos @ shots.by_hand.T
    by_name = by_name / spread_of(shots.centre @ shots.by_hand.T)
    wanted = (scores / Gaussian.of(shots).spread + method.text_weight * by_name) * decision.spread
    np.testing.assert_allclose(found, wanted, atol=0.01 * np.abs(wanted).max())
    assert sum(t.size for t in pack.tensors) + sum(s.size for s in pack.sections if s.tag < 128) == method.size
    assert (found.argmax(axis=1) == labels).mean() > 0.74


def test_it_is_better_than_residuals_and_level_with_logistic_regression(nano: Backbone) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    shots, photos, labels, names = clothes()
    ours = (Classifier(nano, packed(nano, shots, names)).logits(photos).argmax(axis=1) == labels).mean()
    models = [linear_model.LogisticRegression(C=c, max_iter=500).fit(shots.centre, shots.labels) for c in (10, 100, 1000)]
    assert ours > max(model.score(photos, labels) for model in models) - 0.02
    qres = METHODS["qres"](shots, MethodSettings())
    tensors, sections = qres.result()
    pack = Pack(nano.manifest.short_fingerprint, 7, Precision.FP32, tensors, (*sections, names_section(names)))
    assert ours > (Classifier(nano, pack).logits(photos).argmax(axis=1) == labels).mean() + 0.03


def test_probabilities_are_calibrated(nano: Backbone) -> None:
    shots, photos, labels, names = clothes()
    found = Classifier(nano, packed(nano, shots, names)).probabilities(photos)
    assert abs(found.max(axis=1).mean() - (found.argmax(axis=1) == labels).mean()) < 0.06


def test_photos_left_out_say_how_good_it_will_be() -> None:
    shots, photos, labels, _ = clothes()
    scores, wanted = QGDA(shots, MethodSettings()).left_out()
    assert len(wanted) == len(shots.labels)
    real = (Gaussian.of(shots).rows(2).scores(photos).argmax(axis=1) == labels).mean()
    assert abs((scores.argmax(axis=1) == wanted).mean() - real) < 0.08


def test_photos_of_other_things_are_unknown_and_its_own_are_not(nano: Backbone) -> None:
    shots, names = some([5, 6, 7, 8, 9])
    _, photos, labels, _ = clothes()
    task = Classifier(nano, packed(nano, shots, names))
    own = photos[labels >= 5]
    rng = np.random.default_rng(0)
    strange = rng.standard_normal((200, photos.shape[1])).astype(np.float32)
    strange /= np.linalg.norm(strange, axis=1, keepdims=True)
    assert task.knows(own).mean() > 0.9
    assert not task.knows(strange).any()
    assert task.knows(own, threshold=-1e9).all()
    assert not task.knows(own, threshold=1e9).any()
    familiar = task.familiarity(np.concatenate([own, photos[labels < 5]]))
    ahead = (familiar[: len(own), None] > familiar[len(own) :]).mean()  # the area under the curve
    assert ahead > 0.65


def test_what_cannot_tell_knows_everything(nano: Backbone) -> None:
    shots, names = some([0, 1, 2, 3])
    pack = packed(nano, shots, names)
    features = np.eye(3, shots.features.shape[2], dtype=np.float32)
    for task in (Classifier(nano, pack, (*names, "sock")), zero_shot(nano, names)):
        assert task.knows(features).all()
        with pytest.raises(PackError, match="cannot tell"):
            task.familiarity(features)


def test_names_without_photos_get_theirs_and_take_few(nano: Backbone) -> None:
    base = [0, 2, 4, 6, 8]
    shots, names = some(base)
    _, photos, labels, every = clothes()
    pack = packed(nano, shots, names)
    new = tuple(name for name in every if name not in names)
    both = Classifier(nano, pack, (*names, *new))
    found = np.array(both.labels, object)[both.logits(photos).argmax(axis=1)]
    truth = np.array(every, object)[labels]
    seen = np.isin(labels, base)
    assert (found[seen] == truth[seen]).mean() > 0.4
    assert np.isin(found[~seen], new).mean() > 0.4
    alone = Classifier(nano, pack, new)
    np.testing.assert_allclose(alone.logits(photos), zero_shot(nano, new).logits(photos), atol=1e-3)
    # whichever side wins, its best is the one that its own side would have
    for side, task in ((names, Classifier(nano, pack)), (new, alone)):
        mine = np.isin(found, side)
        assert (found[mine] == np.array(side, object)[task.logits(photos[mine]).argmax(axis=1)]).all()


def test_order_and_choice_of_labels_change_nothing_else(nano: Backbone) -> None:
    shots, _, _, names = clothes()
    _, photos, _, _ = clothes()
    pack = packed(nano, shots, names)
    whole, chosen = Classifier(nano, pack), Classifier(nano, pack, (names[7], names[2]))
    np.testing.assert_allclose(chosen.logits(photos), whole.logits(photos)[:, [7, 2]], atol=1e-3)


def test_many_tasks_say_the_same_and_who_does_not_know(nano: Backbone) -> None:
    shots, _, _, names = clothes()
    _, photos, _, _ = clothes()
    pack, tasks = packed(nano, shots, names), Tasks(nano)
    tasks.add("clothes", Classifier(nano, pack))
    tasks.add("again", Classifier(nano, pack, names[:3]))
    tasks.add("names", zero_shot(nano, ("cat", "dog")))
    strange = -photos[0]
    assert [p.label for p in tasks.rank(photos[0])["clothes"]] == [
        p.label for p in Classifier(nano, pack).rank(Classifier(nano, pack).probabilities(photos[:1])[0], 3)
    ]
    told = {name: answer.unknown for name, answer in tasks.answer(strange).items()}
    assert told == {"clothes": True, "again": True, "names": None}
    known = photos[np.flatnonzero(Classifier(nano, pack).knows(photos))[0]]
    assert tasks.answer(known)["clothes"].unknown is False


def test_the_same_photos_give_the_same_bytes(nano: Backbone) -> None:
    packs = [adapt(nano, load_dataset(DEMO), AdaptSettings(method="qgda")).pack for _ in range(2)]
    assert packs[0].encode() == packs[1].encode()


@cache
def opened() -> Backbone:
    """One for all examples."""
    return Backbone.open("nano")


@settings(max_examples=25)
@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    bits=st.integers(1, 8),
    views=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    same=st.booleans(),
)
def test_any_photos_give_a_pack_that_reads(counts: list[int], bits: int, views: int, seed: int, same: bool) -> None:
    nano = opened()
    shots = draws(tuple(counts), dims=nano.manifest.embed_dim, seed=seed)
    features = np.repeat(shots.features, views, axis=1)
    if same:  # a camera that never moved
        features = np.broadcast_to(features[:1], features.shape).copy()
    shots = replace(shots, features=features)
    names = tuple(f"class {i}" for i in range(len(counts)))
    pack = packed(nano, shots, names, bits)
    for labels in (names, (*names, "cat"), ("cat", "dog")):
        logits = Classifier(nano, pack, labels).logits(shots.centre)
        assert np.isfinite(logits).all()


def test_the_fewest_photos_are_labelled_right(nano: Backbone) -> None:
    shots = draws((1,) * 6, dims=nano.manifest.embed_dim)
    names = tuple("abcdef")
    task = Classifier(nano, packed(nano, shots, names))
    assert (task.logits(shots.centre).argmax(axis=1) == shots.labels).all()
    assert task.knows(shots.centre).all()


def test_photos_that_hardly_differ_fit_too(nano: Backbone) -> None:
    """A camera that never moved: scores are huge before they are scaled."""
    shots = draws((6, 6), dims=nano.manifest.embed_dim, spread=1e-5)
    method = QGDA(shots, MethodSettings())
    assert method.size > 0
    task = Classifier(nano, packed(nano, shots, ("on", "off")))
    assert (task.logits(shots.centre).argmax(axis=1) == shots.labels).all()


def test_what_was_computed_goes_with_the_photos() -> None:
    shots = draws((4, 4))
    assert Gaussian.of(shots) is Gaussian.of(shots)
    left = weakref.ref(Gaussian.of(shots))
    del shots
    gc.collect()
    assert left() is None


def damaged(pack: Pack, drop: int | None = None, section: bool = False, **changed: PackTensor) -> Pack:
    tensors = tuple(changed.get(Role(t.role).name, t) for t in pack.tensors if t.role != drop)
    return replace(pack, tensors=tensors, sections=tuple(s for s in pack.sections if not (section and s.tag == DECISION.tag)))


def test_a_pack_whose_parts_do_not_fit_is_refused(nano: Backbone) -> None:
    shots, names = some([0, 1, 2])
    pack = packed(nano, shots, names)
    mean = PackTensor.raw(Role.FEATURE_MEAN, np.zeros(7, np.float32))
    for wrong in (
        damaged(pack, drop=Role.DISCRIMINANT_ROWS),
        damaged(pack, drop=Role.FEATURE_MEAN),
        damaged(pack, section=True),
        damaged(pack, FEATURE_MEAN=mean),
        replace(pack, sections=(*(s for s in pack.sections if s.tag != 128), names_section(("one", "two")))),
    ):
        with pytest.raises(PackError, match="learn it again"):
            Classifier(nano, wrong)


@pytest.mark.parametrize("data", [b"", bytes(11), bytes(12), b"\x00\x7c" * 6, b"\x00\x3c" + bytes(10)])
def test_a_decision_that_cannot_be_is_refused(data: bytes) -> None:
    with pytest.raises(PackError, match="decision"):
        Section(DECISION.tag, data)


def test_a_decision_too_large_for_its_bytes_is_an_error() -> None:
    with pytest.raises(PackError, match="float16"):
        DECISION.section(Decision(1e6, 1, 0, 0, 0, 0))


def test_bits_that_cannot_be_are_refused() -> None:
    with pytest.raises(PromptError, match="1 to 8"):
        QGDA.read_options({"discriminant_bits": 9})


def test_learning_and_labelling_load_no_torch() -> None:
    program = f"""
import sys, edge_qprompt
backbone = edge_qprompt.Backbone.open("nano")
result = edge_qprompt.adapt(backbone, {str(DEMO)!r})
assert result.method == "qgda", result.method
edge_qprompt.Classifier(backbone, result.pack)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
