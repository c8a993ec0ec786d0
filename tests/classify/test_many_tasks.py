"""Many packs on one photo: the same answers as one classifier a pack, from one encoding."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from common import DEMO, Command, Learned

from edge_qprompt import Backbone, Classifier, Pack, Tasks
from edge_qprompt.classify.classifier import class_features
from edge_qprompt.errors import FingerprintError, PackError, PhotoError
from edge_qprompt.pack.pack import PackTensor, Role, names_section
from edge_qprompt.pack.section import CLASS_NAMES

BAG = DEMO / "test" / "bag" / "3.png"
CLASSES = {  # of different numbers, one of them a single class
    "clothes": ("ankle boot", "bag", "t shirt"),
    "pet": ("cat",),
    "flowers": ("rose", "tulip", "daisy", "orchid", "lily", "iris", "poppy"),
    "either": ("bag", "no bag"),
}


@pytest.fixture(scope="module")
def packs(learned: Learned) -> dict[str, Pack]:
    """A pack a task, each with a context of its own."""
    pack = Pack.open(learned.path)
    rng = np.random.default_rng(0)
    return {
        name: replace(
            pack,
            tensors=(PackTensor.raw(Role.CTX, rng.normal(0, 0.05, (4, 256)).astype(np.float32)),),
            sections=(names_section(names),),
        )
        for name, names in CLASSES.items()
    }


@pytest.fixture
def tasks(nano: Backbone, packs: dict[str, Pack]) -> Tasks:
    tasks = Tasks(nano)
    for name, pack in packs.items():
        tasks.add(name, pack)
    return tasks


@pytest.fixture
def encodings(nano: Backbone, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Photos in each run of the image encoder."""
    counts: list[int] = []
    encode = nano.encode_images

    def counted(pixels: np.ndarray) -> np.ndarray:
        counts.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(nano, "encode_images", counted)
    yield counts


def unit(rows: int, backbone: Backbone) -> np.ndarray:
    values = np.random.default_rng(rows).normal(size=(rows, backbone.manifest.embed_dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_probabilities_are_those_of_one_classifier_a_pack(nano: Backbone, packs: dict[str, Pack], tasks: Tasks) -> None:
    features = unit(5, nano)
    found = tasks.probabilities(features)
    assert list(found) == list(CLASSES)
    for name, pack in packs.items():
        expected = Classifier(nano, pack).probabilities(features)
        assert found[name].shape == expected.shape == (5, len(CLASSES[name]))
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected, atol=1e-6)
    np.testing.assert_array_equal(found["pet"], 1)


@pytest.mark.parametrize("top", [1, 3, 100])
def test_labels_are_those_of_one_classifier_a_pack(nano: Backbone, packs: dict[str, Pack], tasks: Tasks, top: int) -> None:
    found = tasks.classify(BAG, top)
    assert list(found) == list(CLASSES)
    for name, pack in packs.items():
        expected = Classifier(nano, pack).classify(BAG, top)
        assert [p.label for p in found[name]] == [p.label for p in expected]
        assert len(found[name]) == min(top, len(CLASSES[name]))
        assert [p.probability for p in found[name]] == pytest.approx([p.probability for p in expected], abs=1e-6)


def test_equal_classes_keep_the_order_of_the_labels(
    nano: Backbone, tasks: Tasks, packs: dict[str, Pack], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = np.zeros((1, nano.manifest.embed_dim), np.float32)  # no class is nearer than another
    monkeypatch.setattr(nano, "encode_images", lambda pixels: nothing)
    for name, found in tasks.classify(BAG, 5).items():
        assert [p.label for p in found] == list(CLASSES[name][:5])
        assert found == Classifier(nano, packs[name]).classify(BAG, 5)


def test_probabilities_survive_any_logits_of_any_task(nano: Backbone, tasks: Tasks) -> None:
    features = np.full((2, nano.manifest.embed_dim), 1e4, np.float32)
    features[1] *= -1
    for shares in tasks.probabilities(features).values():
        assert np.isfinite(shares).all()
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)


def test_a_photo_is_encoded_once(tasks: Tasks, encodings: list[int]) -> None:
    tasks.classify(BAG)
    assert encodings == [1]
    tasks.classify(BAG.read_bytes())
    assert encodings == [1, 1]


def test_adding_a_task_computes_no_others_class_features(
    nano: Backbone, packs: dict[str, Pack], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[tuple[str, ...]] = []

    def counted(backbone: Backbone, pack: Pack, names: tuple[str, ...]) -> np.ndarray:
        computed.append(tuple(names))
        return class_features(backbone, pack, names)

    monkeypatch.setattr("edge_qprompt.classify.classifier.class_features", counted)
    tasks = Tasks(nano)
    for name, pack in packs.items():
        tasks.add(name, pack)
        tasks.classify(BAG)
    tasks.remove("pet")
    tasks.classify(BAG)
    assert computed == list(CLASSES.values())


def test_tasks_come_and_go(nano: Backbone, packs: dict[str, Pack], tasks: Tasks) -> None:
    before = tasks.classify(BAG, 100)
    tasks.remove("clothes")
    assert (len(tasks), "clothes" in tasks, list(tasks)) == (3, False, ["pet", "flowers", "either"])
    assert list(tasks.classify(BAG)) == ["pet", "flowers", "either"]
    tasks.add("clothes", Classifier(nano, packs["clothes"]))
    after = tasks.classify(BAG, 100)
    assert list(after) == ["pet", "flowers", "either", "clothes"]
    for name, found in before.items():
        assert dict(after[name]) == pytest.approx(dict(found), abs=1e-6)


def test_no_tasks_no_answers(nano: Backbone, tmp_path: Path) -> None:
    tasks = Tasks(nano)
    assert tasks.classify(BAG) == {}
    assert tasks.probabilities(unit(2, nano)) == {}
    with pytest.raises(PhotoError, match="No such file"):
        tasks.classify(tmp_path / "gone.png")


def test_names_of_tasks_are_their_own(nano: Backbone, packs: dict[str, Pack], tasks: Tasks) -> None:
    with pytest.raises(PackError, match=r"there is a task 'pet' already: give this one another name"):
        tasks.add("pet", packs["flowers"])
    with pytest.raises(PackError, match=r"there is no task 'birds', there are 4 others"):
        tasks.remove("birds")
    assert [p.label for p in tasks.classify(BAG)["pet"]] == ["cat"]


def test_a_pack_of_another_backbone_is_refused(nano: Backbone, packs: dict[str, Pack], tasks: Tasks) -> None:
    foreign = replace(packs["pet"], fingerprint=bytes(8))
    with pytest.raises(FingerprintError, match=rf"learned on backbone {bytes(8).hex()}, this is nano"):
        tasks.add("foreign", foreign)
    with pytest.raises(FingerprintError, match=r"task 'foreign' is on backbone other, the others are on nano"):
        tasks.add("foreign", Classifier(another(nano), packs["pet"], ["cat"]))
    assert "foreign" not in tasks


def another(nano: Backbone) -> Backbone:
    """nano under a fingerprint that starts as nano's does and ends otherwise."""
    ending = "0" if nano.manifest.fingerprint[-1] != "0" else "1"
    manifest = replace(nano.manifest, name="other", fingerprint=nano.manifest.fingerprint[:-1] + ending)
    return Backbone(nano.folder, manifest, nano.precision)


def test_a_pack_without_names_comes_with_labels(nano: Backbone, packs: dict[str, Pack], tasks: Tasks) -> None:
    bare = replace(packs["pet"], sections=tuple(s for s in packs["pet"].sections if s.tag != CLASS_NAMES.tag))
    with pytest.raises(PackError, match="holds no class names"):
        tasks.add("bare", bare)
    tasks.add("bare", Classifier(nano, bare, ["cat", "bag"]))
    assert {p.label for p in tasks.classify(BAG)["bare"]} == {"cat", "bag"}


@pytest.fixture(scope="module")
def files(packs: dict[str, Pack], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs")
    for name, pack in packs.items():
        pack.save(folder / f"{name}.qpk")
    for i in (3, 11):
        shutil.copy(DEMO / "test" / "bag" / f"{i}.png", folder)
    return folder


def test_the_command_takes_several_packs(edge_qprompt_command: Command, files: Path) -> None:
    one = {
        name: edge_qprompt_command("classify", f"{name}.qpk", "3.png", "11.png", "--json", cwd=files).json
        for name in ("pet", "flowers")
    }
    both = edge_qprompt_command("classify", "pet.qpk", "flowers.qpk", "3.png", "11.png", "--json", cwd=files).json
    assert both["packs"] == {"pet": "pet.qpk", "flowers": "flowers.qpk"}
    assert (both["backbone"], both["precision"], both["skipped"]) == ("nano", "fp32", 0)
    assert [row["image"] for row in both["images"]] == ["3.png", "11.png"]
    for i, row in enumerate(both["images"]):
        assert list(row["tasks"]) == ["pet", "flowers"]
        for name, seen in row["tasks"].items():
            labels, alone = seen["labels"], one[name]["images"][i]["labels"]
            assert seen["unknown"] is one[name]["images"][i]["unknown"] is None  # prompts cannot tell
            assert [p["label"] for p in labels] == [p["label"] for p in alone]
            assert [p["probability"] for p in labels] == pytest.approx([p["probability"] for p in alone], abs=1e-6)


def test_the_command_for_people(edge_qprompt_command: Command, files: Path) -> None:
    done = edge_qprompt_command("classify", "pet.qpk", "3.png", "flowers.qpk", "11.png", "--top", "1", cwd=files)
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert [line[:2] for line in lines] == [[photo, task] for photo in ("3.png", "11.png") for task in ("pet", "flowers")]
    assert lines[0] == ["3.png", "pet", "cat", "100.0", "%"]


def test_the_command_refuses_two_packs_of_one_name(edge_qprompt_command: Command, files: Path, tmp_path: Path) -> None:
    shutil.copy(files / "flowers.qpk", tmp_path / "pet.qpk")
    done = edge_qprompt_command("classify", "pet.qpk", tmp_path / "pet.qpk", "3.png", cwd=files)
    assert (done.code, done.out) == (1, "")
    assert f"pet.qpk and {tmp_path / 'pet.qpk'} would both be task 'pet'" in done.err


def test_the_command_needs_photos_beside_packs(edge_qprompt_command: Command, files: Path) -> None:
    done = edge_qprompt_command("classify", "pet.qpk", "flowers.qpk", cwd=files)
    assert done.code == 2
    assert "there are only packs: give photos behind them" in done.err


def test_labels_hold_for_every_pack(edge_qprompt_command: Command, files: Path) -> None:
    found = edge_qprompt_command("classify", "pet.qpk", "either.qpk", "3.png", "--labels", "+fox", "--json", cwd=files).json
    labels = {name: {p["label"] for p in row["labels"]} for name, row in found["images"][0]["tasks"].items()}
    assert labels == {"pet": {"cat", "fox"}, "either": {"bag", "no bag", "fox"}}
