"""Photos, names and words that do not work: each ends in a sentence that helps, and the right exit code."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from common import DEMO, Command, Learned, MakePhotos, fails

QUICK = ("--epochs", "1")
BAG = DEMO / "test" / "bag" / "3.png"
JPEG_HEAD = b"\xff\xd8\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"


# photos and folders


def test_folders_that_cannot_be_learned_from(edge_qprompt_command: Command, photos: MakePhotos, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one = photos("bag", into="one", each=2)
    out = ("--out", tmp_path / "a.qpk")
    fails(edge_qprompt_command("adapt", tmp_path / "nowhere", *out), "nowhere does not exist", "photos/cat/1.jpg")
    fails(edge_qprompt_command("adapt", tmp_path / "empty", *out), "no photos in", "one folder per class")
    fails(edge_qprompt_command("adapt", one, *out), "only one class", "(bag)", "at least two classes")
    fails(edge_qprompt_command("adapt", BAG, *out), "is not a CSV file", "`path,label`")
    assert not (tmp_path / "a.qpk").exists()


def spoil(folder: Path) -> dict[str, str]:
    """Bad photos of every kind in a class folder; name to what is said of it."""
    whole = (folder / "0.png").read_bytes()
    size = (60_000).to_bytes(4, "big") * 2
    head = whole[12:16] + size + whole[24:29]  # IHDR, without its checksum
    bad = {
        "corrupt.png": (whole[:80] + bytes(60) + whole[140:], "is damaged or cut short"),
        "cut.png": (whole[: len(whole) // 2], "is damaged or cut short"),
        "empty.jpg": (b"", "is empty"),
        "head.jpg": (JPEG_HEAD, "or is damaged"),
        "text.jpg": (b"my holiday", "is not an image"),
        "huge.png": (whole[:12] + head + zlib.crc32(head).to_bytes(4, "big") + whole[33:], "more than 178956970 pixels"),
        "photo.heic": (b"\0\0\0\x18ftypheic", "convert it to JPEG"),
    }
    for name, (data, _) in bad.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.jpg")  # no regular file: not even listed
    return {name: reason for name, (_, reason) in bad.items()}


def test_bad_photos_are_skipped_counted_and_named(edge_qprompt_command: Command, photos: MakePhotos, tmp_path: Path) -> None:
    root = photos("bag", "coat", each=3)
    reasons = spoil(root / "bag")
    command = ("adapt", root, "--out", tmp_path / "a.qpk", *QUICK, "--json")
    done = edge_qprompt_command(*command)
    report = done.json
    assert (report["images_used"], report["images_skipped"]) == (6, len(reasons))
    assert {Path(row["path"]).name for row in report["skipped"]} == set(reasons)
    for row in report["skipped"]:
        assert reasons[Path(row["path"]).name] in row["reason"]
        assert row["path"] in row["reason"]
    assert f"warning: photos skipped in all: {len(reasons)} (--strict makes this an error)" in done.err
    assert done.err.count("warning: skipped: ") == 3  # the first ones; --json has them all
    (tmp_path / "a.qpk").unlink()
    fails(edge_qprompt_command(*command, "--strict"), "corrupt.png", "is damaged or cut short")
    assert not (tmp_path / "a.qpk").exists()


def test_a_class_whose_photos_are_all_unreadable(edge_qprompt_command: Command, photos: MakePhotos, tmp_path: Path) -> None:
    root = photos("bag", "coat", each=2)
    for path in (root / "coat").iterdir():
        path.write_text("no photo")
    done = edge_qprompt_command("adapt", root, "--out", tmp_path / "a.qpk", *QUICK)
    fails(done, "no readable training photo of coat: add some, or remove the class")


def test_nothing_to_classify(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.jpg").write_text("no photo")
    classify = ("classify", learned.path)
    fails(edge_qprompt_command(*classify, tmp_path / "gone.jpg"), "no such photo: ", "gone.jpg")
    fails(edge_qprompt_command(*classify, tmp_path / "*.png"), "no such photo: ", "*.png")
    fails(edge_qprompt_command(*classify, tmp_path / "empty"), "no photos in the folder", "empty")
    fails(edge_qprompt_command(*classify, tmp_path / "a.jpg"), "a.jpg is not an image", "none of the 1 photos can be read")
    fails(edge_qprompt_command(*classify, "x" * 300), "File name too long", "x" * 300)


# names


def test_names_that_make_no_prompt(edge_qprompt_command: Command, photos: MakePhotos, tmp_path: Path) -> None:
    long = "a very long name " * 10
    root = photos("bag", "coat", each=1)
    out = ("--out", tmp_path / "a.qpk", *QUICK)
    names = tmp_path / "names.tsv"
    names.write_text(f"0\tbag\t{long}\n1\tcoat\tcoat\n")
    done = edge_qprompt_command("adapt", root, *out, "--names", names)
    fails(done, "too long for the context of 32 tokens", long.strip(), "give shorter names with --names")
    names.write_text("0\tbag\tcoat\n1\tcoat\tcoat\n")
    fails(edge_qprompt_command("adapt", root, *out, "--names", names), "two classes have the same name 'coat'", "--names")
    names.write_text("0\tbag\tbag\n1 coat coat\n")
    fails(edge_qprompt_command("adapt", root, *out, "--names", names), f"line 2 of {names} is '1 coat coat'", "tabs")
    names.write_text("0\tbag\tbag\n")
    fails(edge_qprompt_command("adapt", root, *out, "--names", names), "does not list ['coat']", "add a line")
    names.write_text("0\tbag\tb\x07g\n1\tcoat\tcoat\n")
    fails(edge_qprompt_command("adapt", root, *out, "--names", names), "class name 'b\\x07g' holds '\\x07'", "rename the class")
    fails(edge_qprompt_command("adapt", root, *out, "--names", tmp_path / "gone"), "cannot read the class names in", "gone")
    assert not (tmp_path / "a.qpk").exists()


def test_labels_and_templates_that_make_no_prompt(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    for labels in ("", "+", "a,,b", "a, "):
        done = edge_qprompt_command("classify", learned.path, BAG, "--labels", labels)
        fails(done, "Invalid value for --labels: give names with commas between them", code=2)
    done = edge_qprompt_command("classify", learned.path, BAG, "--labels", "cat," + "dog " * 40)
    fails(done, "too long for the context", "dog dog")
    done = edge_qprompt_command("classify", learned.path, BAG, "--labels", os.fsdecode(b"caf\xe9,bag"))
    fails(done, "is no text", "give the class another name")
    for template in ("a photo", "{} {}"):
        done = edge_qprompt_command("adapt", learned.photos, "--out", tmp_path / "a.qpk", "--template", template)
        fails(done, f"the template is {template!r}, it must hold {{}} once")
        fails(edge_qprompt_command("evaluate", learned.path, learned.photos, "--template", template), "it must hold {} once")


# usage


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("adpat",), ("No such command 'adpat'",)),
        (("adapt", "x", "--out", "y", "--shot", "3"), ("No such option '--shot'", "--shots")),
        (("adapt", "x"), ("Missing option '--out'", "adapt --help")),
        (("adapt", "x", "--out", "y", "--method", "magic"), ("'magic' is not one of 'auto'", "'zero-shot'")),
        (("adapt", "x", "--out", "y", "--bits", "9"), ("9 is not in the range 1<=x<=8",)),
        (("adapt", "x", "--out", "y", "--lr", "nan"), ("--lr", "it must be a finite number")),
        (("adapt", "x", "--out", "y", "--lr", "inf"), ("--lr", "it must be a finite number")),
        (("adapt", "x", "--out", "y", "--classes", "old"), ("'all', 'base', 'new'",)),
        (("adapt", "x", "--out", "."), ("'.' is a directory",)),
        (("classify", "x.qpk"), ("Missing argument '[PACKS]... IMAGES...'",)),
        (("inspect",), ("Missing argument 'PACK'",)),
        (("inspect", "a", "b"), ("unexpected extra argument (b)",)),
    ],
)
def test_wrong_usage_exits_2(edge_qprompt_command: Command, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    done = edge_qprompt_command(*arguments)
    fails(done, "Usage: edge-qprompt", *parts, code=2)


def test_traceback_on_request(edge_qprompt_command: Command, tmp_path: Path) -> None:
    done = edge_qprompt_command("--traceback", "inspect", tmp_path / "gone.qpk")
    assert done.code == 1
    assert "Traceback" in done.err
    assert "PackError: cannot read pack" in done.err


def test_a_reader_that_has_seen_enough(learned: Learned) -> None:
    command = f"{sys.executable} -m device_agent inspect {learned.path} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=100)
    assert done.stderr == ""
