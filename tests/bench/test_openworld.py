"""OpenworldAUC against its definition, what tells base from new photos, and when new names are above chance."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from common import DEMO
from hypothesis import given
from hypothesis import strategies as st

from edge_qprompt import Backbone, Classifier
from edge_qprompt.bench.measure import measure
from edge_qprompt.bench.openworld import above_chance, lead, openworld_auc
from edge_qprompt.classify import zero_shot
from edge_qprompt.classify.discriminant import Split
from edge_qprompt.learn import AdaptSettings, adapt
from edge_qprompt.pack import Pack
from edge_qprompt.photos import features_of, load_dataset

Photo = tuple[int, bool]  # how much it looks like a base photo, whether it is labelled right


def by_pairs(base: list[Photo], new: list[Photo]) -> float:
    """As it is defined: over all pairs; a tie is a half."""
    pairs = [(one, other) for one, other in product(base, new) if one[1] and other[1]]
    return sum(1.0 if one[0] > other[0] else 0.5 * (one[0] == other[0]) for one, other in pairs) / (len(base) * len(new))


def columns(photos: list[Photo]) -> tuple[np.ndarray, np.ndarray]:
    scores, right = zip(*photos, strict=True)
    return np.array(scores, np.float32), np.array(right)


some_photos = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=30)


@given(base=some_photos, new=some_photos)
def test_openworld_auc_is_that_of_all_pairs(base: list[Photo], new: list[Photo]) -> None:
    (r_base, base_right), (r_new, new_right) = columns(base), columns(new)
    assert openworld_auc(r_base, r_new, base_right, new_right) == pytest.approx(by_pairs(base, new))


def test_openworld_auc_where_the_choice_never_errs_is_the_product_of_the_accuracies() -> None:
    base_right, new_right = np.array([True, True, False]), np.array([True, False, False, False])
    high, low = np.ones(3), np.zeros(4)
    assert openworld_auc(high, low, base_right, new_right) == pytest.approx(2 / 3 * 1 / 4)
    assert openworld_auc(low[:3], high[[0, 0, 0, 0]], base_right, new_right) == 0
    assert openworld_auc(low[:3], low, base_right, new_right) == pytest.approx(2 / 3 * 1 / 4 / 2)


def halves(method: str) -> tuple[Backbone, Pack, tuple[str, ...], tuple[str, ...]]:
    """A pack of the first half of the embedded classes, and the names of both."""
    backbone, data = Backbone.open("nano"), load_dataset(DEMO)
    pack = adapt(backbone, data.select("base"), AdaptSettings(method=method)).pack
    return backbone, pack, data.select("base").names, data.select("new").names


@pytest.mark.parametrize("method", ["zero-shot", "qres", "qgda"])
def test_what_tells_base_from_new_is_the_choice_of_the_joint_answer(method: str) -> None:
    backbone, pack, base, new = halves(method)
    photos = load_dataset(DEMO).test
    assert photos
    both = Classifier(backbone, pack, (*base, *new))
    features = features_of(backbone, photos).values[:, 0]
    logits, found = both.logits(features), lead(both.logits(features), len(base))
    np.testing.assert_array_equal(found > 0, logits.argmax(axis=1) < len(base))
    assert 0.1 < (found > 0).mean() < 0.9
    if isinstance(both.head, Split):  # the discriminant's own choice, not the largest probability of its rows
        head = both.head
        among, text = features @ head.rows.T + head.offsets, features @ head.text.T
        decision = head.familiar.decision
        names = text[:, head.seen].max(axis=1) - text[:, ~head.seen].max(axis=1)
        own = head.familiar.familiarity(features, head.scale * among, 1.0) + decision.seen_text * names - decision.seen
        np.testing.assert_allclose(found, decision.spread * own, rtol=1e-3, atol=1e-3)
    else:
        probabilities = both.probabilities(features)
        ratio = np.log(probabilities[:, : len(base)].max(axis=1) / probabilities[:, len(base) :].max(axis=1))
        np.testing.assert_allclose(found, ratio, rtol=1e-3, atol=1e-3)


def test_measuring_a_pack_gives_its_openworld_auc_by_pairs() -> None:
    backbone, pack, base, new = halves("qres")
    data = load_dataset(DEMO)
    found = measure(lambda names: Classifier(backbone, pack, names), "base", {"clothes": data}, set())
    both, sides = Classifier(backbone, pack, (*base, *new)), []
    for part, names in (("base", base), ("new", new)):
        photos = data.select(part).test
        assert photos
        features = features_of(backbone, photos).values[:, 0]
        right = Classifier(backbone, pack, names).logits(features).argmax(axis=1) == np.array(photos.labels)
        logits = both.logits(features)
        scores = logits[:, : len(base)].max(axis=1) - logits[:, len(base) :].max(axis=1)
        sides.append(list(zip(scores.tolist(), right.tolist(), strict=True)))
        assert found[part] == pytest.approx(right.mean())
    assert found["openworld"] == pytest.approx(by_pairs(*sides))
    assert 0 < found["openworld"] < found["base"] * found["new"]


def test_what_knows_no_new_names_has_a_base_accuracy_alone() -> None:
    backbone, data = Backbone.open("nano"), load_dataset(DEMO)
    base = data.select("base").names
    known = zero_shot(backbone, base)
    found = measure(lambda names: known if names == base else None, "base", {"clothes": data}, set())
    assert found.keys() == {"base"}
    assert 0.2 < found["base"] < 0.9


@pytest.mark.parametrize(
    ("accuracy", "photos", "classes", "above"),
    [
        (0.26, 100, 5, False),  # 0.2 and 1.645 x 0.04
        (0.27, 100, 5, True),
        (0.26, 300, 5, True),  # more photos, less chance
        (0.0, 100, 5, False),
        (0.02 + 1.645 * 0.0059, 600, 51, True),
        (float("nan"), 0, 5, False),  # no photo can be read
    ],
)
def test_names_above_chance_are_so_by_more_than_it_errs(accuracy: float, photos: int, classes: int, above: bool) -> None:
    assert above_chance(accuracy, photos, classes) is above
