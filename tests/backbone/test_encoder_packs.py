"""Packs that change the encoders, in use: whose features are whose, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from common import make_photos
from encoder_changes import (
    LAYERS,
    NAMES,
    TEXT_LAYERS,
    TEXT_WIDTH,
    WIDTH,
    Array,
    Exported,
    draw,
    hooked,
    lora,
    maple,
    pack_of,
    photos,
    pixels,
    reference_image,
    reference_text,
)

from device_agent.commands.evaluate import command as evaluate_command
from edge_qprompt.backbone.backbone import Backbone
from edge_qprompt.classify.classifier import Classifier
from edge_qprompt.errors import BackboneError, PackError
from edge_qprompt.pack.pack import Role
from edge_qprompt.photos.features import extract


def test_a_plain_pack_keeps_the_backbone(exported: Exported) -> None:
    plain, own = exported.backbone, pack_of(exported.backbone, maple(2, 2))
    by_hand = pack_of(plain, {}, template=True)
    assert plain.adapted(by_hand) is plain
    batch = pixels(plain)
    back = plain.adapted(own).adapted(by_hand)
    assert np.array_equal(back.encode_images(batch), plain.encode_images(batch))
    assert back.feature_kind == plain.feature_kind


def test_each_pack_has_features_of_its_own_in_the_cache(exported: Exported, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("EDGE_QPROMPT_CACHE", str(tmp_path))
    plain = exported.backbone
    backbones = [plain, *(plain.adapted(pack_of(plain, maple(2, 2, seed))) for seed in (0, 1))]
    first = [extract(backbone, photos()) for backbone in backbones]
    again = [extract(backbone, photos()) for backbone in backbones]
    assert [found.from_cache for found in first] == [0, 0, 0]
    assert [found.from_cache for found in again] == [len(photos())] * 3
    for i, one in enumerate(again):
        assert np.array_equal(one.values, first[i].values)
        assert all(np.abs(one.values - other.values).max() > 0.01 for other in again[:i])


def test_classify_looks_through_the_packs_own_encoder(exported: Exported) -> None:
    tensors, plain = maple(3, 2), exported.backbone
    classifier = Classifier(plain, pack_of(plain, tensors))
    with hooked(exported.model, tensors):
        image, text = reference_image(exported.model, pixels(plain)[:1]), reference_text(exported.model, "x x ")
    logits = plain.manifest.logit_scale * (image @ text.T)[0]
    wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    got = {found.label: found.probability for found in classifier.classify(photos()[0])}
    assert [got[name] for name in NAMES] == pytest.approx(wanted, abs=1e-4)


def test_evaluate_measures_each_prompt_through_its_encoder(exported: Exported, tmp_path: Path) -> None:
    plain = exported.backbone
    pack = pack_of(plain, maple(3, 2))
    pack.save(tmp_path / "own.qpk")
    root = make_photos(tmp_path, "bag", "ankle_boot", "sandal", each=8)
    arguments = [str(tmp_path / "own.qpk"), str(root), "--backbone", str(plain.folder), "--json"]
    found = json.loads(CliRunner().invoke(evaluate_command, arguments, catch_exceptions=False).stdout)
    names = ("ankle boot", "bag", "sandal")
    paths, labels = sorted(root.rglob("*.png")), np.repeat(np.arange(3), 8)
    own = Classifier(plain, pack, names)
    by_hand = Classifier(plain, pack_of(plain, {}), names)
    for classifier, key in ((own, "accuracy"), (by_hand, "zero_shot_accuracy")):
        features = extract(classifier.backbone, paths).values[:, 0]
        assert found[key] == pytest.approx((classifier.logits(features).argmax(axis=1) == labels).mean())


# what does not fit


def damaged(change: dict[Role, Array | None]) -> dict[Role, Array]:
    tensors: dict[Role, Array | None] = {**maple(2, 2), **lora(2), **change}
    return {role: values for role, values in tensors.items() if values is not None}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {Role.VISUAL_CTX: draw(0, LAYERS + 1, 2, WIDTH)},
            r"image layers have shape \(4, 2, 64\), .* at most \(3, 77\) of width 64",
        ),
        ({Role.VISUAL_CTX: draw(0, 2, 78, WIDTH)}, r"shape \(2, 78, 64\)"),
        ({Role.VISUAL_CTX: draw(0, 2, 2, WIDTH + 1)}, r"shape \(2, 2, 65\)"),
        ({Role.VISUAL_CTX: draw(0, 2, WIDTH)}, r"shape \(2, 64\), wanted \(depth, n, width\)"),
        ({Role.DEEP_CTX: draw(0, TEXT_LAYERS, 2, TEXT_WIDTH)}, r"text layers have shapes \(2, 64\) and \(2, 2, 64\)"),
        ({Role.DEEP_CTX: draw(0, 1, 3, TEXT_WIDTH)}, r"shapes \(2, 64\) and \(1, 3, 64\)"),
        ({Role.CTX: None}, r"shapes None and \(1, 2, 64\)"),
        ({Role.LORA_TEXT_OUT: None}, r"shapes \(2, 3, 2, 64\) and \(\)"),
        ({Role.LORA_IMAGE_IN: None}, r"shapes \(\) and \(3, 3, 64, 2\)"),
        ({Role.LORA_IMAGE_IN: draw(0, LAYERS, 3, 1, WIDTH)}, r"shapes \(3, 3, 1, 64\) and \(3, 3, 64, 2\)"),
        ({Role.LORA_IMAGE_IN: draw(0, 3, 2, WIDTH)}, r"shapes \(3, 2, 64\)"),
        ({Role.LORA_TEXT_IN: draw(0, 1, 3, 2, TEXT_WIDTH)}, r"wanted \(2, 3, r, 64\) and \(2, 3, 64, r\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(exported: Exported, change: dict[Role, Array | None], reason: str) -> None:
    with pytest.raises(PackError, match=reason):
        exported.backbone.adapted(pack_of(exported.backbone, damaged(change)))


def test_weights_out_of_range_are_refused(exported: Exported) -> None:
    inner, outer = (np.full(shape, 60000, np.float32) for shape in ((2, 3, 1, TEXT_WIDTH), (2, 3, TEXT_WIDTH, 1)))
    pack = pack_of(exported.backbone, {Role.LORA_TEXT_IN: inner, Role.LORA_TEXT_OUT: outer}, template=True)
    if exported.stored == "float32":  # which holds the product of any two halves
        assert np.isfinite(Classifier(exported.backbone, pack).class_features).all()
    else:
        with pytest.raises(PackError, match=r"resblocks.0.attn.in_proj_weight is beyond what the tower can hold"):
            Classifier(exported.backbone, pack)


def test_a_backbone_without_a_vision_transformer_says_so(nano: Backbone) -> None:
    assert nano.manifest.vision is None
    with pytest.raises(BackboneError, match=r"backbone nano cannot take.*export it again"):
        Classifier(nano, pack_of(nano, {Role.VISUAL_CTX: draw(0, 1, 2, WIDTH)}, template=True))
    with pytest.raises(BackboneError, match=r"image tower of backbone nano is no vision transformer.*edge-qprompt export"):
        _ = nano.vision_weights
