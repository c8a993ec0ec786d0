"""Packs that see more in a photo than its feature's nearness to fixed classes: nets, and image encoders of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from common import DEMO
from numpy.typing import NDArray
from servers import LiveServer, token
from small_models import VIT, build, save

from edge_qprompt import Backbone, Classifier, Pack, Tasks
from edge_qprompt.classify.residual import bias_section
from edge_qprompt.errors import PackError
from edge_qprompt.learn import METHODS
from edge_qprompt.pack.pack import PackTensor, Precision, Role, Section, names_section, templates_section
from edge_qprompt.photos.features import extract
from exporter.commands.export import command

PHOTOS = [DEMO / "test" / "bag" / f"{i}.png" for i in (3, 11, 5)]
NAMES = ("bag", "ankle boot", "sandal")
TEMPLATES = ("a {}.", "art of the {}.", "a photo of the large {}.")
HIDDEN = 3
DIMS, WIDTH = 48, 64  # of VIT and its two towers

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A small vision transformer, whose image tower can be prompted."""
    work = tmp_path_factory.mktemp("vit")
    arguments = save(work, VIT, build(VIT))
    CliRunner().invoke(command, [*arguments, "--no-int8", "--out", str(work / "b")], catch_exceptions=False)
    return Backbone.open(work / "b")


def draw(seed: int, *shape: int, scale: float = 0.5) -> PackTensor:
    return PackTensor.raw(seed, np.random.default_rng(seed).normal(scale=scale, size=shape).astype(np.float32))


CTX = draw(Role.CTX, 4, WIDTH)
META = draw(Role.META_IN, HIDDEN, DIMS + 1), draw(Role.META_OUT, WIDTH, HIDDEN + 1)
ADAPTER = draw(Role.ADAPTER_IN, HIDDEN, DIMS + 1), draw(Role.ADAPTER_OUT, DIMS, HIDDEN + 1, scale=0.1)
VISUAL = draw(Role.VISUAL_CTX, 2, 4, WIDTH)
RESIDUAL = draw(Role.RESIDUAL, len(NAMES), DIMS, scale=0.1)


def pack_of(backbone: Backbone, *tensors: PackTensor, sections: tuple[Section, ...] = ()) -> Pack:
    every = (*sections, names_section(NAMES))
    return Pack(backbone.manifest.short_fingerprint, METHODS["cocoop"].number, Precision.FP32, tensors, every)


@pytest.fixture(scope="module")
def packs(vit: Backbone) -> dict[str, Pack]:
    """Every kind, none of them beside its like."""
    return {
        "cocoop": pack_of(vit, CTX, *META),
        "plain": pack_of(vit, CTX),
        "adapter": pack_of(vit, *ADAPTER, sections=(templates_section(TEMPLATES[:1]),)),
        "maple": pack_of(vit, CTX, VISUAL),
        "residual": pack_of(vit, CTX, RESIDUAL, sections=(bias_section(0.1),)),
        "ensemble": pack_of(vit, sections=(templates_section(TEMPLATES),)),
        "both": pack_of(vit, CTX, *META, *ADAPTER),
        "maple and adapter": pack_of(vit, CTX, VISUAL, *ADAPTER),
        "cocoop and residual": pack_of(vit, CTX, *META, RESIDUAL, sections=(bias_section(0.1),)),
    }


@pytest.fixture(scope="module")
def features(vit: Backbone) -> Array:
    return extract(vit, PHOTOS).values[:, 0]


def by_hand(tensors: tuple[PackTensor, PackTensor], feature: Array) -> Array:
    """The net, a unit at a time."""
    inner, outer = (tensor.values().astype(np.float64) for tensor in tensors)
    hidden = [max(0.0, float(row[:-1] @ feature + row[-1])) for row in inner]
    return np.array([row[:-1] @ hidden + row[-1] for row in outer])


def shares(backbone: Backbone, cosines: Array) -> Array:
    logits = np.exp(backbone.manifest.logit_scale * (cosines - cosines.max()))
    return logits / logits.sum()


def test_an_adapter_moves_the_photos_feature(vit: Backbone, packs: dict[str, Pack], features: Array) -> None:
    classifier, text = Classifier(vit, packs["adapter"]), vit.text.from_template(NAMES, TEMPLATES[0])
    for feature, got in zip(features, classifier.probabilities(features), strict=True):
        moved = feature + by_hand(ADAPTER, feature)
        np.testing.assert_allclose(got, shares(vit, text @ moved / np.linalg.norm(moved)), rtol=1e-3)


def test_a_meta_net_moves_every_token_for_each_photo(vit: Backbone, packs: dict[str, Pack], features: Array) -> None:
    found = Classifier(vit, packs["cocoop"]).probabilities(features)
    for feature, got in zip(features, found, strict=True):
        ctx = CTX.values() + by_hand(META, feature).astype(np.float32)[None]
        np.testing.assert_allclose(got, shares(vit, vit.text.from_context(NAMES, ctx) @ feature), rtol=1e-3)
    assert np.abs(found - Classifier(vit, packs["plain"]).probabilities(features)).max() > 1e-3


def test_an_ensemble_is_the_direction_of_the_mean(vit: Backbone, packs: dict[str, Pack]) -> None:
    total = sum(vit.text.from_template(NAMES, template) for template in TEMPLATES)
    wanted = total / np.linalg.norm(total, axis=1, keepdims=True)
    np.testing.assert_allclose(Classifier(vit, packs["ensemble"]).class_features, wanted, atol=1e-6)


def test_residuals_and_their_offsets_stand_behind_a_net_too(vit: Backbone, packs: dict[str, Pack], features: Array) -> None:
    labels = (*NAMES, "cat")
    own = pack_of(vit, CTX, *META)
    still = replace(META[1], data=np.zeros_like(META[1].data))  # a net that moves nothing
    calm = replace(packs["cocoop and residual"], tensors=(CTX, META[0], still, RESIDUAL))
    np.testing.assert_allclose(
        Classifier(vit, calm, labels).probabilities(features),
        Classifier(vit, packs["residual"], labels).probabilities(features),
        rtol=1e-4,
    )
    assert np.abs(Classifier(vit, own, labels).logits(features) - Classifier(vit, calm, labels).logits(features)).max() > 0.01


def test_many_kinds_of_tasks_answer_as_each_alone(vit: Backbone, packs: dict[str, Pack], features: Array) -> None:
    tasks = Tasks(vit)
    for name, pack in packs.items():
        tasks.add(name, pack)
    own = {encoder: extract(encoder, PHOTOS).values[:, 0] for encoder in tasks.encoders}
    found, ranked = tasks.probabilities(features, own), tasks.classify(PHOTOS[0])
    assert list(found) == list(ranked) == list(packs)
    assert len(own) == 2
    for name, pack in packs.items():
        alone = Classifier(vit, pack)
        theirs = extract(alone.backbone, PHOTOS).values[:, 0]
        np.testing.assert_allclose(found[name], alone.probabilities(theirs), atol=1e-5)
        assert [p.label for p in ranked[name]] == [p.label for p in alone.classify(PHOTOS[0])]
        assert [p.probability for p in ranked[name]] == pytest.approx(
            [p.probability for p in alone.classify(PHOTOS[0])], abs=1e-5
        )
    with pytest.raises(PackError, match="task 'maple' has an image encoder of its own: give the features"):
        tasks.probabilities(features)
    assert not tasks.quick
    for name in ("cocoop", "both", "cocoop and residual"):
        tasks.remove(name)
    assert tasks.quick


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ((CTX, META[0]), r"META_IN and META_OUT have shapes \(3, 49\) and None, wanted \(h, 49\) and \(64, h \+ 1\)"),
        ((CTX, META[1]), "shapes None and"),
        ((CTX, draw(Role.META_IN, 2, DIMS + 1), META[1]), "learn it again"),
        (META, "changes learned tokens by the photo, but has none"),
        ((draw(Role.ADAPTER_IN, 3, DIMS), ADAPTER[1]), r"wanted \(h, 49\) and \(48, h \+ 1\)"),
        ((ADAPTER[0], draw(Role.ADAPTER_OUT, DIMS * 4)), "learn it again"),
    ],
)
def test_nets_that_do_not_fit(vit: Backbone, tensors: tuple[PackTensor, ...], message: str) -> None:
    with pytest.raises(PackError, match=message):
        Classifier(vit, pack_of(vit, *tensors))


def test_a_server_answers_as_the_library(vit: Backbone, packs: dict[str, Pack], tmp_path: Path) -> None:
    store = tmp_path / "store"
    server = LiveServer.start(store, tmp_path, "--backbone", str(vit.folder))
    try:
        bearer = {"Authorization": f"Bearer {token(store, 'publish', 'promote')}"}
        names = {name.replace(" ", "-"): pack for name, pack in packs.items()}
        with httpx.Client(base_url=server.url, headers=bearer, timeout=60) as client:
            for name, pack in names.items():
                assert client.post(f"/v1/tasks/{name}/versions", content=pack.encode()).status_code == 201
                assert client.put(f"/v1/tasks/{name}/channels/stable", json={"version": 1}).status_code == 200
            wanted = [("task", name) for name in names]
            form = [("image", (path.name, path.read_bytes())) for path in PHOTOS]
            done = client.post("/v1/classify", params=[*wanted, ("labels", "cat")], files=form)
        assert done.status_code == 200, done.text
        for path, image in zip(PHOTOS, done.json()["images"], strict=True):
            assert list(image["tasks"]) == list(names)
            for name, pack in names.items():
                expected = Classifier(vit, pack, (*NAMES, "cat")).classify(path)
                got = {each["label"]: each["probability"] for each in image["tasks"][name]["labels"]}
                assert got == pytest.approx(dict(expected), abs=1e-4)
    finally:
        server.stop()
