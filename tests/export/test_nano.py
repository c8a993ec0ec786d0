"""The embedded backbone: whole, small, and as good as the towers that it was made from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from common import ROOT, MakePhotos
from nano_fidelity import accuracy, float_image_features, float_text_features

from edge_qprompt import Backbone
from edge_qprompt.photos.dataset import load_dataset
from edge_qprompt.photos.features import extract
from recipes.nano import build, image_tower, text_tensors

NANO = ROOT.parent / "shared" / "nano"
MAX_MB = 15


@pytest.fixture(scope="module")
def weights() -> Path:
    if not NANO.is_dir():
        pytest.skip("../shared/nano is not here: the weights that the embedded backbone was made from")
    return NANO / "nano-v0.npz"


def test_folder_is_whole_and_small() -> None:
    backbone = Backbone.open("nano")
    backbone.verify()
    assert sum(path.stat().st_size for path in backbone.folder.iterdir()) / 1e6 <= MAX_MB
    assert "Princeton" in (backbone.folder / "NOTICE").read_text()
    assert backbone.manifest.precisions["fp32"].cosine >= 0.9999


def test_zero_shot_accuracy_is_the_recorded_one(weights: Path, shared: Path) -> None:
    recorded = json.loads(weights.with_suffix(".json").read_text())["measured"]["sets"]
    source = dict(np.load(weights))
    backbone, tower, tensors = Backbone.open("nano"), image_tower(source), text_tensors(source)
    data = load_dataset(shared / "eurosat")
    wanted, labels = recorded["eurosat"]["zero_shot"], data.test.labels
    floats = float_image_features(tower, backbone, data.test)
    assert accuracy(floats, float_text_features(tensors, backbone, data.names), labels) == pytest.approx(wanted, abs=0.5)
    stored = extract(backbone, data.test.paths).values[:, 0]
    two_photos = 200 / len(labels)  # the folder stores weights in fewer bits: docs/adr/0004-nano-storage.md
    assert accuracy(stored, backbone.text.from_template(data.names), labels) == pytest.approx(wanted, abs=two_photos)


def test_the_committed_folder_is_what_the_script_builds(
    weights: Path, tmp_path: Path, photos: MakePhotos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.nano.PHOTOS", photos())  # what the stored encoder is compared on: a few are enough
    manifest = build(weights, weights.with_suffix(".json"), tmp_path / "nano")
    committed = Backbone.open("nano")
    # not the fingerprint: the head is a product of matrices, whose last bits differ between processors
    for name in ("text.safetensors", "tokenizer.json", "NOTICE"):
        assert manifest.files[name] == committed.manifest.files[name]
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 3, 224, 224)).astype(np.float32)
    rebuilt = Backbone.open(tmp_path / "nano").encode_images(pixels)
    assert (rebuilt * committed.encode_images(pixels)).sum(axis=1).min() > 0.99999
