"""Learned tokens inside the layers and low-rank weights, against open_clip's own modules."""

from __future__ import annotations

import numpy as np
import pytest
from encoder_changes import (
    TEXT_WIDTH,
    WIDTH,
    Exported,
    draw,
    hooked,
    lora,
    maple,
    merged,
    pack_of,
    pixels,
    reference_image,
    reference_text,
)

from edge_qprompt.backbone.session import Session
from edge_qprompt.classify.classifier import Classifier
from edge_qprompt.pack.pack import Role


@pytest.mark.parametrize(("depth", "n"), [(1, 1), (2, 3), (3, 2), (3, 77)])
def test_learned_tokens_stand_where_maple_has_them(exported: Exported, depth: int, n: int) -> None:
    tensors, plain = maple(depth, min(n, 70)), exported.backbone
    if n > 70:  # 77 are as many as a text holds, beside a name fewer fit
        tensors[Role.VISUAL_CTX] = draw(1, depth, n, WIDTH)
    classifier, batch = Classifier(plain, pack_of(plain, tensors)), pixels(plain)
    with hooked(exported.model, tensors):
        wanted = reference_image(exported.model, batch)
        wanted_text = reference_text(exported.model, "x " * len(tensors[Role.CTX]))
    got = classifier.backbone.encode_images(batch)
    assert np.abs(got - wanted).max() < 5e-6
    assert np.abs(classifier.class_features - wanted_text).max() < 5e-6
    assert np.abs(got - plain.encode_images(batch)).max() > 0.01
    assert np.abs(classifier.backbone.encode_images(batch[:1], lane=True) - wanted[:1]).max() < 5e-6


def test_deeper_text_tokens_matter(exported: Exported) -> None:
    tensors, plain = maple(2, 2), exported.backbone
    shallow = {role: values for role, values in tensors.items() if role != Role.DEEP_CTX}
    deep, flat = (Classifier(plain, pack_of(plain, given)).class_features for given in (tensors, shallow))
    assert np.abs(deep - flat).max() > 0.01


@pytest.mark.parametrize("rank", [1, 2, 16])
def test_low_rank_weights_are_merged(exported: Exported, rank: int) -> None:
    tensors, plain = lora(rank), exported.backbone
    classifier, batch = Classifier(plain, pack_of(plain, tensors, template=True)), pixels(plain)
    model = merged(exported.model, tensors)
    wanted = reference_image(model, batch)
    got = classifier.backbone.encode_images(batch)
    assert np.abs(got - wanted).max() < exported.tolerance
    assert np.abs(classifier.class_features - reference_text(model, "a ")).max() < exported.tolerance
    assert np.abs(got - plain.encode_images(batch)).max() > 20 * exported.tolerance
    assert np.abs(plain.encode_images(batch) - reference_image(exported.model, batch)).max() < 5e-6, "the folder is unchanged"


def test_tokens_and_weights_together(exported: Exported) -> None:
    tokens, weights, plain = maple(2, 2), lora(2), exported.backbone
    classifier = Classifier(plain, pack_of(plain, tokens | weights))
    model = merged(exported.model, weights)
    with hooked(model, tokens):
        assert (
            np.abs(classifier.backbone.encode_images(pixels(plain)) - reference_image(model, pixels(plain))).max()
            < exported.tolerance
        )
        assert np.abs(classifier.class_features - reference_text(model, "x x ")).max() < exported.tolerance


@pytest.mark.parametrize(("depth", "n"), [(0, 0), (0, 3), (2, 0)])
def test_without_tokens_the_graphs_are_the_plain_ones(exported: Exported, depth: int, n: int) -> None:
    backbone = exported.backbone
    image = Session(backbone.folder / "image.prompted.onnx", stored_low=True)
    got = image.run({"pixels": pixels(backbone), "prompts": np.zeros((depth, n, WIDTH), np.float32)})
    assert np.abs(got - backbone.encode_images(pixels(backbone))).max() < 2e-6
    text = Session(backbone.folder / "text.prompted.onnx", stored_low=True)
    feeds = {"prompts": draw(0, 2, 6, TEXT_WIDTH), "eot": np.array([5, 3])}
    got = text.run({**feeds, "deep": np.zeros((depth, n, TEXT_WIDTH), np.float32)})
    assert np.abs(got - backbone.text.session.run(feeds)).max() < 2e-6
