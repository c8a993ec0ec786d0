"""Whether a photo shows none of a task's classes: the same from one pack, from many, and from the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from common import Command, Learned, fails
from telling import OWN, STRANGE, noise, telling_pack

from edge_qprompt import Backbone, Classifier, Pack, Tasks
from edge_qprompt.classify import Answer, zero_shot
from edge_qprompt.errors import PackError
from edge_qprompt.pack import DECISION, PackTensor, Role
from edge_qprompt.photos import encode_photos


@pytest.fixture
def tasks(nano: Backbone) -> Tasks:
    """Three that can tell, of different numbers of classes, between two that cannot."""
    pack, tasks = telling_pack(), Tasks(nano)
    names = pack.class_names or ()
    tasks.add("names", zero_shot(nano, ("cat", "dog")))
    tasks.add("clothes", pack)
    tasks.add("two", Classifier(nano, pack, names[:2]))
    tasks.add("more", Classifier(nano, pack, (*names, "sock")))
    tasks.add("one", Classifier(nano, pack, names[1:2]))
    return tasks


def feature_of(nano: Backbone, photo: Path) -> np.ndarray:
    return encode_photos(nano, [photo])[0]


@pytest.mark.parametrize("photo", [OWN, STRANGE])
def test_many_tasks_say_what_each_says_alone(nano: Backbone, tasks: Tasks, photo: Path) -> None:
    feature, pack = feature_of(nano, photo), telling_pack()
    names = pack.class_names or ()
    found = tasks.answer(feature, 2)
    assert list(found) == ["names", "clothes", "two", "more", "one"]
    for name, labels in {"clothes": names, "two": names[:2], "one": names[1:2]}.items():
        alone = Classifier(nano, pack, labels)
        assert found[name].familiarity == pytest.approx(alone.familiarity(feature[None])[0], abs=1e-5)
        assert found[name].unknown is not bool(alone.knows(feature[None])[0])
        answer = alone.answer(feature, 2)
        assert (answer.unknown, [p.label for p in answer.labels]) == (
            found[name].unknown,
            [p.label for p in found[name].labels],
        )
    for name in ("names", "more"):
        assert (found[name].unknown, found[name].familiarity) == (None, None)
    assert found["clothes"].unknown is (photo is STRANGE)
    assert {name: answer.labels for name, answer in found.items()} == tasks.rank(feature, 2)


def test_what_was_not_learned_is_unknown(nano: Backbone, tasks: Tasks) -> None:
    photos = (OWN, STRANGE, noise())
    assert [tasks.look(photo)["clothes"].unknown for photo in photos] == [False, True, True]
    alone = Classifier(nano, telling_pack())
    assert [alone.look(photo).unknown for photo in photos] == [False, True, True]
    assert alone.look(OWN).labels == alone.classify(OWN)


def test_a_photo_at_the_threshold_is_known(nano: Backbone, tasks: Tasks) -> None:
    feature = feature_of(nano, OWN)
    at = {name: answer.familiarity for name, answer in tasks.answer(feature).items()}
    least = at["clothes"]
    assert least is not None
    assert tasks.answer(feature, threshold=least)["clothes"].unknown is False
    assert tasks.answer(feature, threshold=float(np.nextafter(least, 1)))["clothes"].unknown is True
    alone = Classifier(nano, telling_pack())
    for threshold, unknown in ((-1e300, False), (1e300, True)):
        assert alone.answer(feature, threshold=threshold).unknown is unknown
        found = tasks.answer(feature, threshold=threshold)
        assert [answer.unknown for answer in found.values()] == [None, unknown, unknown, None, unknown]
        assert {name: answer.familiarity for name, answer in found.items()} == at


def test_a_threshold_without_anybody_who_can_tell_is_refused(nano: Backbone, tasks: Tasks) -> None:
    feature = feature_of(nano, OWN)
    for threshold in (float("nan"), float("inf")):
        with pytest.raises(PackError, match=rf"the threshold is {threshold}, it must be a finite number"):
            tasks.answer(feature, threshold=threshold)
    for name in ("clothes", "two", "one"):
        tasks.remove(name)
    with pytest.raises(PackError, match=r"no pack here can tell .* learn one with the method qgda, add no class names"):
        tasks.answer(feature, threshold=-1.5)
    assert tasks.answer(feature)["names"] == Answer(tasks.rank(feature)["names"], None, None)


def test_a_photo_at_the_very_mean_of_a_forged_pack_is_finite(nano: Backbone) -> None:
    pack, feature = telling_pack(), feature_of(nano, OWN)
    decision = pack.get(DECISION)
    assert decision
    tensors = [PackTensor.raw(Role.FEATURE_MEAN, feature) if t.role == Role.FEATURE_MEAN else t for t in pack.tensors]
    forged = DECISION.section(decision._replace(spread=6e-8, distance=65504.0))
    pack = replace(pack, tensors=tuple(tensors), sections=(forged, *(s for s in pack.sections if s.tag != DECISION.tag)))
    tasks = Tasks(nano)
    tasks.add("forged", Pack.decode(pack.encode()))
    found = tasks.answer(feature)["forged"].familiarity
    json.dumps(found, allow_nan=False)
    assert found is not None


@pytest.fixture(scope="module")
def folder(learned: Learned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unknown")
    telling_pack().save(folder / "clothes.qpk")
    Pack.open(learned.path).save(folder / "prompt.qpk")
    for name, photo in {"own.png": OWN.read_bytes(), "strange.png": STRANGE.read_bytes(), "noise.png": noise()}.items():
        (folder / name).write_bytes(photo)
    return folder


PHOTOS = ("own.png", "strange.png", "noise.png")


def test_the_command_tells_who_is_unknown_and_how_familiar(edge_qprompt_command: Command, folder: Path) -> None:
    found = edge_qprompt_command("classify", "clothes.qpk", *PHOTOS, "--json", cwd=folder).json["images"]
    assert [row["unknown"] for row in found] == [False, True, True]
    familiar = [row["familiarity"] for row in found]
    assert familiar[0] > max(familiar[1:])
    threshold = edge_qprompt_command("inspect", "clothes.qpk", "--json", cwd=folder).json["threshold"]
    decision = telling_pack().get(DECISION)
    assert decision
    assert threshold == decision.unknown
    assert [value < threshold for value in familiar] == [False, True, True]
    shown = edge_qprompt_command("inspect", "clothes.qpk", cwd=folder).out
    assert f"threshold  familiarity {threshold:.3f}: a photo below it shows none of the classes" in shown.splitlines()


def test_the_commands_threshold_moves_it(edge_qprompt_command: Command, folder: Path) -> None:
    found = edge_qprompt_command("classify", "clothes.qpk", *PHOTOS, "--json", cwd=folder).json["images"]
    own, strange, _ = (row["familiarity"] for row in found)
    for threshold, unknown in ((own, [False, True, True]), (own + 1e-4, [True, True, True]), (-100, [False, False, False])):
        moved = edge_qprompt_command("classify", "clothes.qpk", *PHOTOS, "--threshold", str(threshold), "--json", cwd=folder)
        assert [row["unknown"] for row in moved.json["images"]] == unknown
    shown = edge_qprompt_command("classify", "clothes.qpk", "own.png", "--threshold", "-0.1", cwd=folder).out
    assert "unknown (nearest: trouser" in shown
    shown = edge_qprompt_command("classify", "clothes.qpk", "strange.png", "--threshold", str(strange), cwd=folder).out
    assert "unknown" not in shown


def test_what_cannot_tell_claims_nothing(edge_qprompt_command: Command, folder: Path) -> None:
    both = edge_qprompt_command("classify", "clothes.qpk", "prompt.qpk", "noise.png", "--threshold", "-1", "--json", cwd=folder)
    seen = both.json["images"][0]["tasks"]
    assert (seen["clothes"]["unknown"], seen["prompt"]["unknown"], seen["prompt"]["familiarity"]) == (True, None, None)
    for words in (("--no-unknown",), ("--labels", "+sock")):
        (row,) = edge_qprompt_command("classify", "clothes.qpk", "noise.png", *words, "--json", cwd=folder).json["images"]
        assert (row["unknown"], row["familiarity"], len(row["labels"])) == (None, None, 3)
        shown = edge_qprompt_command("classify", "clothes.qpk", "noise.png", *words, cwd=folder)
        assert (shown.code, "unknown" in shown.out) == (0, False)
    shown = edge_qprompt_command("inspect", "prompt.qpk", "--json", cwd=folder).json
    assert shown["threshold"] is None


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("clothes.qpk", "own.png", "--threshold", "nan"), 1, "the threshold is nan, it must be a finite number"),
        (("clothes.qpk", "own.png", "--threshold", "inf"), 1, "the threshold is inf"),
        (("clothes.qpk", "own.png", "--threshold", "high"), 2, "'high' is not a valid float"),
        (("clothes.qpk", "own.png", "--threshold", "-1", "--no-unknown"), 2, "leave one of them out"),
        (("clothes.qpk", "own.png", "--threshold", "-1", "--labels", "+sock"), 1, "add no class names"),
        (("prompt.qpk", "own.png", "--threshold", "-1"), 1, "no pack here can tell"),
    ],
)
def test_thresholds_that_mean_nothing(
    edge_qprompt_command: Command, folder: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    fails(edge_qprompt_command("classify", *words, cwd=folder), said, code=code)
