"""Labels for photos: the classifier, its prompts and its names."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from common import DEMO, Learned

from edge_qprompt import Backbone, Classifier, Pack
from edge_qprompt.backbone.text import PROMPTS_A_RUN, name_tokens
from edge_qprompt.classify.classifier import zero_shot
from edge_qprompt.errors import FingerprintError, PackError, PhotoError, PromptError
from edge_qprompt.pack.pack import PackTensor, Role
from edge_qprompt.pack.section import CLASS_NAMES
from edge_qprompt.photos.features import extract
from edge_qprompt.prompts import check_template, readable

BAG = DEMO / "test" / "bag" / "3.png"


@pytest.fixture(scope="module")
def pack(learned: Learned) -> Pack:
    return Pack.open(learned.path)


@pytest.fixture(scope="module")
def classifier(nano: Backbone, pack: Pack) -> Classifier:
    return Classifier(nano, pack)


def with_context(pack: Pack, values: np.ndarray) -> Pack:
    return replace(pack, tensors=(PackTensor.raw(Role.CTX, values),))


def test_best_label_first_and_shares_of_one(classifier: Classifier) -> None:
    found = classifier.classify(BAG, top=10)
    assert {p.label for p in found} == {"ankle boot", "bag", "t shirt"}
    shares = [p.probability for p in found]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert classifier.classify(BAG, top=1) == found[:1]


def test_a_path_its_name_and_its_bytes_are_the_same_photo(classifier: Classifier) -> None:
    assert classifier.classify(BAG) == classifier.classify(str(BAG)) == classifier.classify(BAG.read_bytes())


def test_classify_and_probabilities_of_features_agree(classifier: Classifier, nano: Backbone) -> None:
    features = extract(nano, [BAG]).values[:, 0]
    logits = nano.manifest.logit_scale * features.astype(np.float64) @ classifier.class_features.T.astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(classifier.probabilities(features), expected, rtol=1e-4)
    for prediction in classifier.classify(BAG):
        at = classifier.labels.index(prediction.label)
        assert prediction.probability == pytest.approx(expected[0, at], rel=1e-3)


def test_probabilities_survive_any_logits(classifier: Classifier, nano: Backbone) -> None:
    features = np.full((2, nano.manifest.embed_dim), 1e4, np.float32)
    shares = classifier.probabilities(features)
    assert np.isfinite(shares).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)


def test_labels_stand_in_for_the_packs_names(nano: Backbone, pack: Pack, classifier: Classifier) -> None:
    other = Classifier(nano, pack, ["sock", "bag"])
    assert other.labels == ("sock", "bag")
    assert np.allclose(other.class_features[1], classifier.class_features[classifier.labels.index("bag")], atol=1e-6)
    assert {p.label for p in other.classify(BAG)} == {"sock", "bag"}


def test_the_learned_context_matters(nano: Backbone, pack: Pack, classifier: Classifier) -> None:
    by_hand = zero_shot(nano, classifier.labels)
    assert np.abs(by_hand.class_features - classifier.class_features).max() > 0.01
    ctx = pack.tensor(Role.CTX)
    assert ctx is not None
    noise = np.random.default_rng(0).normal(0, 0.5, (8, 256))
    moved = Classifier(nano, with_context(pack, ctx.values() + noise))
    assert np.abs(moved.class_features - classifier.class_features).max() > 0.01


def test_a_context_of_the_templates_words_is_the_template(nano: Backbone, pack: Pack) -> None:
    words = nano.text_weights.token_vectors(nano.tokenizer.encode("a photo of a"))
    names = ("bag", "ankle boot")
    by_context = nano.text.from_context(names, words)
    np.testing.assert_allclose(by_context, nano.text.from_template(names, "a photo of a {}."), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(by_context, axis=1), 1, atol=1e-5)


def test_prompts_do_not_depend_on_their_neighbours(nano: Backbone) -> None:
    names = [f"thing number {i} {'of many words ' * (i % 4)}" for i in range(PROMPTS_A_RUN + 3)]
    together = nano.text.from_template(names)
    assert together.shape == (len(names), nano.manifest.embed_dim)
    for i in (0, 3, PROMPTS_A_RUN + 2):
        np.testing.assert_allclose(nano.text.from_template([names[i]])[0], together[i], atol=1e-5)


def test_a_pack_of_another_backbone_is_refused_with_both_names(nano: Backbone, pack: Pack) -> None:
    foreign = replace(pack, fingerprint=bytes(8))
    mine = nano.manifest.short_fingerprint.hex()
    with pytest.raises(FingerprintError, match=rf"learned on backbone {bytes(8).hex()}, this is nano \({mine}\): .*--backbone"):
        Classifier(nano, foreign)


def test_a_pack_without_names_needs_labels(nano: Backbone, pack: Pack) -> None:
    bare = replace(pack, sections=tuple(s for s in pack.sections if s.tag != CLASS_NAMES.tag))
    with pytest.raises(PackError, match=r"holds no class names: .*--labels"):
        Classifier(nano, bare)
    assert Classifier(nano, bare, ["cat", "bag"]).classify(BAG, top=1)[0].label == "bag"


def test_a_context_of_another_width_is_refused(nano: Backbone, pack: Pack) -> None:
    for values in (np.zeros((4, 8), np.float32), np.zeros(256, np.float32), np.zeros((1, 4, 256), np.float32)):
        with pytest.raises(PromptError, match=r"takes \(n, 256\)|too long for the context"):
            Classifier(nano, with_context(pack, values))


def test_a_pack_of_an_unknown_method_is_refused(nano: Backbone, pack: Pack) -> None:
    strange = replace(pack, tensors=(PackTensor.raw(200, np.zeros((2, 2), np.float32)),))
    with pytest.raises(PackError, match=r"holds tensors of role 200, which this version cannot run: upgrade"):
        Classifier(nano, strange)


def test_names_that_do_not_fit_are_all_named(nano: Backbone) -> None:
    long, longer = "long " * 26, "even longer " * 20
    with pytest.raises(PromptError, match=r"too long for the context of 32 tokens, of which 26 are left") as caught:
        name_tokens(nano.tokenizer, ["bag", long, longer], 4)
    assert long in str(caught.value)
    assert longer in str(caught.value)
    assert "'bag" not in str(caught.value)
    assert len(name_tokens(nano.tokenizer, ["long " * 25], 4)[0]) == 26
    with pytest.raises(PromptError, match=r"of which 0 are left for a name: 'bag.' .* lower --ctx"):
        name_tokens(nano.tokenizer, ["bag"], 64)


def test_a_long_list_of_long_names_is_cut(nano: Backbone) -> None:
    with pytest.raises(PromptError) as caught:
        name_tokens(nano.tokenizer, [f"{'long ' * 40}{i}" for i in range(100)], 4)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "1 to 1000 characters, got 0"),
        (" \n", "got 0"),
        ("x" * 1001, "got 1001"),
        ("caf\udce9", "which is no text"),
        ("\u200b", None),
    ],
)
def test_names_that_are_no_text(nano: Backbone, name: str, message: str | None) -> None:
    if message is None:
        assert nano.tokenizer.encode(name)
    else:
        with pytest.raises(PromptError, match=message):
            nano.tokenizer.encode(name)


def test_text_is_cleaned_as_clip_does(nano: Backbone) -> None:
    encode = nano.tokenizer.encode
    assert encode("  Ankle   BOOT ") == encode("ankle boot")
    assert encode("Marks &amp;amp; Spencer") == encode("marks & spencer")
    assert encode("ankle boot") != encode("boot ankle")


def test_readable() -> None:
    assert readable("__T-shirt_ and--top") == "T shirt and top"


@pytest.mark.parametrize("template", ["a photo", "", "{} or {}", "{name}", "a \udce9 {}"])
def test_templates_hold_the_name_once(template: str) -> None:
    with pytest.raises(PromptError, match=r"it must hold {} once, where the class name goes|not UTF-8"):
        check_template(template)


def test_unreadable_photo(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"cannot read .*new\.jpg: No such file"):
        classifier.classify(tmp_path / "new.jpg")
    with pytest.raises(PhotoError, match="photo is not an image"):
        classifier.classify(b"text")


def test_labels_a_photo_from_python_without_torch(learned: Learned) -> None:
    code = f"""
import sys
from edge_qprompt import Backbone, Classifier, Pack
print(Classifier(Backbone.open("nano"), Pack.open({str(learned.path)!r})).classify({str(BAG)!r})[0].label)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, timeout=100)
    label, torch_is_there = done.stdout.split("\n")[:2]
    assert label in ("bag", "ankle boot", "t shirt")
    assert torch_is_there == "False"
