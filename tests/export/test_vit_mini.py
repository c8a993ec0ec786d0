"""The script that builds vit-mini, with a handful of views and steps: structure, not accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import edge_qprompt
from edge_qprompt import Backbone
from edge_qprompt.learn.adapt import adapt
from edge_qprompt.learn.settings import AdaptSettings, LoopSettings
from edge_qprompt.photos.dataset import load_dataset

vit_mini = pytest.importorskip("recipes.vit_mini", reason="needs the export extra")
from recipes.vit_mini_views import FEATURES, GRID, PIXELS, make, sources, teacher, views_of  # noqa: E402

DEMO = Path(edge_qprompt.__file__).parent / "data" / "fashion_mnist"


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two views of each of 8 photos, and two empty rows for a file that is none."""
    out = tmp_path_factory.mktemp("views")
    broken = out / "broken.png"
    broken.write_bytes(b"not a photo")
    wanted = sources(DEMO, None, 2, 1)[::20]
    assert all("train" in path.parts for path, _ in wanted)
    assert make([*wanted, (broken, 2)], out, jobs=1) == 16
    return out


def test_places_are_nanos_own_features(nano: Backbone) -> None:
    large, small = views_of(DEMO / "test" / "bag" / "3.png", 3, seed=1)
    features, places = teacher(nano).run(None, {"pixels": large})
    assert (large.shape, small.shape) == ((3, 3, 224, 224), (3, 160, 160, 3))
    np.testing.assert_allclose(features, nano.encode_images(large), atol=1e-5)
    whole = places.mean(axis=(2, 3))
    assert places.shape == (3, 256, GRID, GRID)
    np.testing.assert_allclose(whole / np.linalg.norm(whole, axis=1, keepdims=True), features, atol=1e-4)


def test_views_of_files_that_are_no_photos_stay_empty(views: Path) -> None:
    features, pixels = np.load(views / FEATURES), np.load(views / PIXELS)
    assert features.shape == (18, GRID, GRID, 256)
    assert np.count_nonzero(features[:, 0, 0, 0]) == 16
    assert pixels[:16].any(axis=(1, 2, 3)).all()


def test_growing_keeps_what_is_learned_about_places() -> None:
    """A value that rises down the rows, and one that rises along the columns, still do, over the same range."""
    small, large = vit_mini.tower(112), vit_mini.tower(160)
    state = small.state_dict()
    state["positional_embedding"][1:, 0] = torch.arange(7.0).repeat_interleave(7)
    state["positional_embedding"][1:, 1] = torch.arange(7.0).repeat(7)
    large.load_state_dict(vit_mini.grown(state, 160))
    assert torch.equal(large.positional_embedding[0], state["positional_embedding"][0])
    down, along = large.positional_embedding[1:, :2].detach().reshape(10, 10, 2).unbind(2)
    torch.testing.assert_close(down, along.T)
    assert (down.std(dim=1) < 1e-5).all()
    assert (down[:, 0].diff() > 0).all()
    assert down[[0, -1], 0].tolist() == pytest.approx([0, 6], abs=0.3)


@pytest.mark.timeout(600)
def test_a_tower_that_has_learned_becomes_a_backbone_that_takes_prompts(views: Path, tmp_path: Path) -> None:
    phases = [vit_mini.Phase(112, 3, 1e-3, batch=8, warmup=1), vit_mini.Phase(160, 1, 1e-4, batch=8, warmup=1)]
    first = vit_mini.tower(112)
    x, places = next(vit_mini.batches(np.load(views / PIXELS)[:16], np.load(views / FEATURES)[:16], phases[0], 0))
    before = sum(vit_mini.loss_of(first, x, places))
    vit_mini.train(first, views, vit_mini.Phase(112, 12, 1e-3, batch=8, warmup=1), 0)
    assert sum(vit_mini.loss_of(first, x, places)) < before - 0.1

    manifest = vit_mini.build(vit_mini.distil(views, phases, 0), tmp_path / "vit-mini")
    assert manifest.precisions["fp32"].cosine > 0.9999
    backbone = Backbone.open(tmp_path / "vit-mini")
    nano = Backbone.open("nano")
    names = ("cat", "quokka")
    np.testing.assert_allclose(backbone.text.from_template(names), nano.text.from_template(names), atol=1e-4)
    assert manifest.fingerprint != nano.manifest.fingerprint
    settings = AdaptSettings(method="maple", shots=1, loop=LoopSettings(epochs=1))
    assert adapt(backbone, load_dataset(DEMO).select("base"), settings).run.steps == 2
