"""`edge-qprompt doctor` as a user runs it: in the terminal, as JSON, and as a page."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest
from common import DEMO, Command, MakePhotos, fails


@pytest.fixture
def sick(photos: MakePhotos) -> Path:
    """Three classes of eight photos, one photo in the wrong class and in its own, one twice, one unreadable."""
    root = photos("bag", "sandal", "trouser", each=8)
    shutil.copy(root / "bag" / "1.png", root / "sandal" / "<i>bag & $x$.png")
    shutil.copy(root / "trouser" / "2.png", root / "trouser" / "12.png")
    (root / "trouser" / "13.png").write_bytes(b"no photo")
    return root


def test_the_terminal_names_the_worst_first(edge_qprompt_command: Command, sick: Path) -> None:
    done = edge_qprompt_command("doctor", sick)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("photos             26 of 3 classes; of those left out in turn, ")
    titles = [line.split("  ")[0] for line in lines if not line.startswith(" ")]
    assert titles == ["photos", "unreadable", "in two classes", "mislabelled", "there twice", "more photos"]
    assert "    trouser/13.png is not an image" in done.out
    assert "    bag/1.png = sandal/<i>bag & $x$.png\n" in done.out
    assert "sandal/<i>bag & $x$.png: sandal, or rather bag?" in done.out
    assert "    trouser/2.png = trouser/12.png\n" in done.out
    assert "with twice as many about " in done.out


def test_json_has_every_photo_with_its_digest(edge_qprompt_command: Command, sick: Path) -> None:
    told = edge_qprompt_command("doctor", sick, "--json").json
    assert (told["photos"], told["class_names"]) == (26, ["bag", "sandal", "trouser"])
    assert [Path(each["path"]).name for each in told["unreadable"]] == ["13.png"]
    both = told["twins"][0]
    digest = hashlib.sha256((sick / "bag" / "1.png").read_bytes()).hexdigest()
    assert (both["exact"], both["harm"]) == (True, "two classes")
    assert [photo["sha256"] for photo in both["photos"]] == [digest, digest]
    wrong = told["mislabelled"][0]
    assert (Path(wrong["path"]).name, wrong["class"], wrong["likely"]) == ("<i>bag & $x$.png", "sandal", "bag")
    assert wrong["probability"] > 0.5
    curve = told["growth"]["curve"]
    assert curve[0]["photos"] == 1
    assert curve[0]["accuracy"] <= curve[-1]["accuracy"]
    assert {gain["class"] for gain in told["growth"]["gains"]} == {"bag", "sandal", "trouser"}


def test_the_page_has_pictures_inside_and_no_script(edge_qprompt_command: Command, sick: Path, tmp_path: Path) -> None:
    done = edge_qprompt_command("doctor", sick, "--report", tmp_path / "page")
    assert done.code == 0, done.err
    page = (tmp_path / "page" / "report.html").read_text()
    for title in (
        "Unreadable: 1 photo",
        "In two classes: 1 photo",
        "Mislabelled: ",
        "There twice: 1 photo",
        "more photos",
    ):
        assert title in page
    wrong = int(re.findall(r"Mislabelled: (\d+) photo", page)[0])
    assert page.count("<img") == 4 + wrong  # two twins of two, and those that are mislabelled
    assert page.count("<svg") in (1, 2)  # the curve; classes, where one has gained
    assert "<script" not in page
    assert "<i>bag" not in page
    assert "&lt;i&gt;bag &amp; $x$" in page
    assert re.findall(r'(?:src|href)="(?!data:|#)([^"]+)', page) == []


def test_what_cannot_be_known_is_said(edge_qprompt_command: Command, photos: MakePhotos) -> None:
    done = edge_qprompt_command("doctor", photos("bag", "coat", each=1))
    assert done.code == 0, done.err
    assert "nothing is wrong that could be told" in done.out
    assert "not known          each class has one photo" in done.out


def test_a_csv_and_many_of_a_kind(edge_qprompt_command: Command, tmp_path: Path) -> None:
    rows = [f"{DEMO}/train/{name}/{i}.png,{name}" for name in ("bag", "coat") for i in range(7)]
    (tmp_path / "photos.csv").write_text("path,label\n" + "\n".join([*rows, *rows]))
    short = edge_qprompt_command("doctor", tmp_path / "photos.csv").out
    assert "there twice        14 photos: " in short
    assert "    and 9 more (--all)" in short
    assert edge_qprompt_command("doctor", tmp_path / "photos.csv", "--all").out.count(" = ") == 14


def test_a_name_of_any_bytes_stays_on_its_line(edge_qprompt_command: Command, photos: MakePhotos) -> None:
    root = photos("bag", "coat")
    shutil.copy(root / "bag" / "1.png", os.fsencode(root) + b"/coat/\xff odd\n\x1b[31m.png")
    done = edge_qprompt_command("doctor", root, "--report", root.parent / "page")
    assert done.code == 0, done.err
    assert "    bag/1.png = coat/\\udcff odd\\n\\x1b[31m.png\n" in done.out
    assert "odd" in (root.parent / "page" / "report.html").read_text()
    assert edge_qprompt_command("doctor", root, "--json").json["twins"][0]["photos"][1]["path"].endswith("odd\n\x1b[31m.png")


def test_wrong_use_is_one_line(edge_qprompt_command: Command, sick: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fails(edge_qprompt_command("doctor", tmp_path / "none"), "does not exist")
    fails(edge_qprompt_command("doctor", sick, "--report", tmp_path / "file" / "in"), "--report", "choose another")
    fails(edge_qprompt_command("doctor", sick, "--template", "no braces"), "{}")
