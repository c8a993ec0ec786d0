"""`teach` and `forget` as a user runs them, and `evaluate` that knows what was learned from."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from common import DEMO, Command, MakePhotos, fails

from edge_qprompt import Pack, State
from edge_qprompt.learn import state_path

SHOE, BAG = DEMO / "train" / "ankle_boot", DEMO / "train" / "bag"


@pytest.fixture
def pack(photos: MakePhotos, edge_qprompt_command: Command, tmp_path: Path) -> Path:
    """Of three photos of each of three classes."""
    root = tmp_path / "photos"
    for name in ("bag", "coat", "sandal"):
        (root / name).mkdir(parents=True)
        for file in sorted((DEMO / "train" / name).iterdir())[:3]:
            shutil.copy(file, root / name)
    path = tmp_path / "a.qpk"
    done = edge_qprompt_command("adapt", root, "--out", path, "--json")
    assert done.code == 0, done
    return path


def adapted(command: Command, pack: Path, root: Path) -> bytes:
    again = pack.with_name("again.qpk")
    assert command("adapt", root, "--out", again, "--no-state").code == 0
    assert not state_path(again).exists()
    return again.read_bytes()


def test_teach_is_adapt_on_all_photos(pack: Path, edge_qprompt_command: Command, tmp_path: Path) -> None:
    new = sorted(SHOE.iterdir())[:2]
    done = edge_qprompt_command("teach", pack, "--label", "ankle boot", *new, "--json")
    assert (done.code, done.err) == (0, "warning: ankle boot is a new class\n")
    assert done.json["per_class"] == {"ankle boot": 2, "bag": 3, "coat": 3, "sandal": 3}
    assert done.json["images_used"] == 11
    assert done.json["bytes"] == pack.stat().st_size
    (tmp_path / "photos" / "ankle_boot").mkdir()
    for file in new:
        shutil.copy(file, tmp_path / "photos" / "ankle_boot")
    assert pack.read_bytes() == adapted(edge_qprompt_command, pack, tmp_path / "photos")
    before = pack.read_bytes()
    renamed = edge_qprompt_command("teach", pack, "--rename", "coat", "long coat")
    assert "4 classes" in renamed.out
    assert "long coat" in Pack.open(pack).class_names
    edge_qprompt_command("teach", pack, "--undo")
    assert pack.read_bytes() == before
    done = edge_qprompt_command("forget", pack, *new)
    assert done.out.splitlines()[0].startswith(f"{pack}  ")
    shutil.rmtree(tmp_path / "photos" / "ankle_boot")
    assert pack.read_bytes() == adapted(edge_qprompt_command, pack, tmp_path / "photos")
    fails(edge_qprompt_command("teach", pack, "--undo"), "nothing to undo")
    fails(edge_qprompt_command("forget", pack, new[0]), "none of the 9 photos that the pack was learned from")


def test_photos_of_none_of_the_classes_can_be_taught(pack: Path, edge_qprompt_command: Command) -> None:
    before = pack.read_bytes()
    done = edge_qprompt_command("teach", pack, "--none", f"{DEMO}/train/t-shirt/1*.png", "--json")
    assert (done.code, done.json["images_used"]) == (0, 9)
    state = State.beside(pack)
    assert state
    assert len(state.labels) > 9
    edge_qprompt_command("teach", pack, "--undo")
    assert pack.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--label", "x"),
        ("photo.png",),
        ("--undo", "photo.png"),
        ("--undo", "--rename", "a", "b"),
        ("--none", "--label", "x", "y"),
    ],
)
def test_teach_wants_one_thing(pack: Path, edge_qprompt_command: Command, arguments: tuple[str, ...]) -> None:
    done = edge_qprompt_command("teach", pack, *arguments)
    assert (done.code, done.out) == (2, "")
    assert "give photos and their --label or --none, or --rename OLD NEW, or --undo" in done.err


def test_nothing_is_changed_without_a_state_that_fits(pack: Path, edge_qprompt_command: Command, tmp_path: Path) -> None:
    photo = next(SHOE.iterdir())
    other = tmp_path / "b.qpk"
    shutil.copy(pack, other)
    fails(edge_qprompt_command("teach", other, "--label", "boot", photo), "there is no b.qpk.state beside", "edge-qprompt adapt")
    edge_qprompt_command("teach", pack, "--label", "boot", photo)
    taught = pack.read_bytes()
    shutil.copy(other, pack)  # as `rollback` and `pull` would put another version there
    fails(edge_qprompt_command("teach", pack, "--undo"), "is of another pack", "somebody has replaced")
    pack.write_bytes(taught)
    data = state_path(pack).read_bytes()
    state_path(pack).write_bytes(data[:-1])
    fails(edge_qprompt_command("teach", pack, "--undo"), "is damaged", "edge-qprompt adapt")
    state_path(pack).unlink()
    os.mkfifo(state_path(pack))
    fails(edge_qprompt_command("teach", pack, "--undo"), "is no regular file")


@pytest.mark.parametrize("again", [("teach", "--undo"), ("forget", "--label", "sandal")])
def test_an_interrupted_change_is_finished_first(pack: Path, edge_qprompt_command: Command, again: tuple[str, ...]) -> None:
    before, photo = pack.read_bytes(), next(SHOE.iterdir())
    edge_qprompt_command("teach", pack, "--label", "boot", photo)
    taught, state = pack.read_bytes(), State.beside(pack)
    assert state
    assert state.before == ""
    pack.write_bytes(before)  # killed between the two
    replace(state, before=Pack.decode(before).pack_id).save(pack)
    part = pack.with_name(f".{state_path(pack).name}.0123abcd.part")
    part.write_bytes(b"features")
    fails(
        edge_qprompt_command("forget", pack, BAG / "9.png"),
        "warning: a change that was interrupted is finished now",
        "none of the 10 photos",
    )
    assert pack.read_bytes() == taught
    assert not part.exists()
    pack.write_bytes(before)
    replace(state, before=Pack.decode(before).pack_id).save(pack)
    evaluated = edge_qprompt_command("evaluate", pack, pack.parent / "photos", "--json")
    assert "was interrupted" in evaluated.err
    assert evaluated.json["learned_from"] is None
    done = edge_qprompt_command(again[0], pack, *again[1:])
    assert "interrupted is finished now" in done.err
    settled = State.beside(pack)
    assert settled
    assert settled.pack_id == Pack.open(pack).pack_id
    assert settled.before == ""
    assert (pack.read_bytes() == before) == (again[0] == "teach")


def test_a_state_behind_a_link_stays_there(pack: Path, edge_qprompt_command: Command, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    state_path(pack).rename(real)
    state_path(pack).symlink_to(real)
    photo = tmp_path / "photos" / "bag" / "0.png"
    digest = hashlib.sha256(photo.read_bytes()).digest()
    assert digest in real.read_bytes()
    assert edge_qprompt_command("forget", pack, photo).code == 0
    assert state_path(pack).is_symlink()
    assert digest not in real.read_bytes()


def test_forget_takes_what_was_learned_and_names_the_rest(pack: Path, edge_qprompt_command: Command) -> None:
    done = edge_qprompt_command("forget", pack, BAG / "0.png", BAG / "9.png")
    assert done.code == 0
    assert f"warning: {BAG / '9.png'} is none of the photos that the pack was learned from" in done.err
    assert "learned    from 8 photos" in done.out


def test_two_who_teach_at_once_both_count(pack: Path) -> None:
    command = (sys.executable, "-m", "device_agent", "teach", str(pack), "--label", "ankle boot")
    running = [subprocess.Popen([*command, str(photo)]) for photo in sorted(SHOE.iterdir())[:3]]
    assert [each.wait(200) for each in running] == [0, 0, 0]
    state = State.beside(pack)
    assert state
    assert state.counts["ankle boot"] == 3
    assert state.pack_id == Pack.open(pack).pack_id


def test_evaluate_never_calls_it_accuracy_on_photos_learned_from(
    pack: Path, edge_qprompt_command: Command, tmp_path: Path
) -> None:
    root = tmp_path / "photos"
    done = edge_qprompt_command("evaluate", pack, root, "--json")
    assert (done.json["accuracy"], done.json["learned_from"], done.json["split"]) == (None, 9, "photos learned from")
    assert done.json["accuracy_on_photos_learned_from"] > 0.5
    lines = edge_qprompt_command("evaluate", pack, root).out.splitlines()
    assert lines[0].startswith("accuracy on photos learned from ")
    assert lines[0].endswith("new photos have less")
    new = sorted(BAG.iterdir())[5:9]
    for file in new:
        shutil.copy(file, root / "bag" / f"new-{file.name}")
    done = edge_qprompt_command("evaluate", pack, root, "--json")
    assert (done.json["n"], done.json["learned_from"], done.json["accuracy_on_photos_learned_from"]) == (4, 9, None)
    assert "on 4 photos of 3 classes (all photos); 9 that it was learned from are left out" in (
        edge_qprompt_command("evaluate", pack, root).out
    )
    state_path(pack).write_bytes(b"")
    done = edge_qprompt_command("evaluate", pack, root, "--json")
    assert (done.json["n"], done.json["learned_from"]) == (13, None)
    assert "whether it was learned from them is not known" in edge_qprompt_command("evaluate", pack, root).out
    assert "is damaged" in done.err


def test_the_same_photo_twice_is_named_and_learned_from_once(edge_qprompt_command: Command, pack: Path, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    clean = pack.read_bytes()
    first = next((root / "bag").iterdir())
    shutil.copy(first, root / "bag" / "zz.png")
    done = edge_qprompt_command("adapt", root, "--out", pack, "--json")
    assert done.json["images_used"] == 9
    assert f"the same photo again is learned from once: {root}/bag/zz.png is {first}" in done.err
    assert pack.read_bytes() == clean
    shutil.move(root / "bag" / "zz.png", root / "coat" / "zz.png")
    done = edge_qprompt_command("adapt", root, "--out", pack, "--json")
    assert done.json["images_used"] == 10
    assert f"the same photo is in two classes, leave it in one: {root}/coat/zz.png in coat is in bag as {first}" in done.err
    done = edge_qprompt_command("adapt", root, "--out", pack, "--shots", "3", "--json")  # zz.png is beyond the shots
    assert "photos to measure with that are learned from too are left out" in done.err
    assert done.json["held_out_images"] == 0
    assert done.json["notes"]


def test_others_are_told_apart_and_drawn(edge_qprompt_command: Command, pack: Path, tmp_path: Path) -> None:
    curve, data = tmp_path / "curve.svg", DEMO
    done = edge_qprompt_command(
        "evaluate", pack, tmp_path / "photos", "--others", f"{data}/test/t-shirt/*.png", "--plot", curve, "--json"
    )
    others = done.json["others"]
    assert (others["n"], others["by"]) == (50, "familiarity")
    assert 0.5 < others["auroc"] <= 1
    assert len(others["accuracy"]) == len(others["coverage"]) == 20
    assert others["coverage"][0] == 1
    assert "of all photos that are answered" in curve.read_text()
    text = edge_qprompt_command("evaluate", pack, tmp_path / "photos", "--others", data / "test" / "t-shirt").out
    assert "50 photos of none of the classes: AUROC" in text
    assert text.count(" answered ") == 10
    fails(
        edge_qprompt_command("evaluate", pack, tmp_path / "photos", "--plot", curve),
        "--plot draws how photos of --others",
        code=2,
    )
    bad = ("evaluate", pack, tmp_path / "photos", "--others", data, "--plot")
    fails(edge_qprompt_command(*bad, tmp_path / "curve.txt"), "ends in none of .svg", code=2)
    fails(edge_qprompt_command(*bad, tmp_path / "no" / "curve.svg"), "does not exist")
    prompt = tmp_path / "p.qpk"
    edge_qprompt_command("adapt", tmp_path / "photos", "--out", prompt, "--epochs", "1")
    done = edge_qprompt_command("evaluate", prompt, tmp_path / "photos", "--others", data / "test" / "t-shirt")
    assert "by largest probability" in done.out
    assert "the pack cannot call a photo unknown" in done.out
