"""What goes wrong where users are: each ends in a sentence that helps, the right exit code, and nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DEMO, Command, Done, Learned, MakePhotos

from edge_qprompt import Backbone
from edge_qprompt.errors import BackboneError
from edge_qprompt.files import write_whole

QUICK = ("--epochs", "1")
BAG = DEMO / "test" / "bag" / "3.png"
JPEG_HEAD = b"\xff\xd8\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"


def fails(done: Done, *parts: str, code: int = 1) -> None:
    """One error on stderr, nothing on stdout, no traceback."""
    assert (done.code, done.out) == (code, ""), done
    assert "Traceback" not in done.err
    if code == 1:
        error = done.err.splitlines()[-1]
        assert error.startswith("error: ")
        assert done.err.count("error: ") == 1
    for part in parts:
        assert part in done.err


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
        (("adapt", "x", "--out", "y", "--method", "magic"), ("'magic' is not one of 'qcoop'", "'zero-shot'")),
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
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""


# packs and backbones


def test_packs_that_cannot_be_used(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    whole = learned.path.read_bytes()
    foreign = bytearray(whole)
    foreign[12] ^= 1  # the fingerprint
    foreign[-4:] = zlib.crc32(foreign[:-4]).to_bytes(4, "little")
    files = {
        "foreign.qpk": bytes(foreign),
        "cut.qpk": whole[:100],
        "flipped.qpk": whole[:50] + b"\0\xff" + whole[52:],
        "no.qpk": b"PK",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for verb, data in (("classify", BAG), ("evaluate", learned.photos)):
        foreign_done, cut, gone = (
            edge_qprompt_command(verb, tmp_path / f"{name}.qpk", data) for name in ("foreign", "cut", "gone")
        )
        fails(foreign_done, "learned on backbone", bytes(foreign[12:20]).hex(), "this is nano", "--backbone")
        fails(cut, "cut.qpk: ", "get it again")
        fails(gone, "cannot read pack", "gone.qpk")
    fails(edge_qprompt_command("inspect", tmp_path / "flipped.qpk"), "flipped.qpk: ", "checksum")
    fails(edge_qprompt_command("inspect", tmp_path / "no.qpk"), "no.qpk: not a pack")
    fails(edge_qprompt_command("inspect", tmp_path), "cannot read pack")
    assert edge_qprompt_command("inspect", tmp_path / "foreign.qpk").code == 0  # needs no backbone


def test_backbones_and_precisions_that_are_not_there(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    done = edge_qprompt_command("classify", learned.path, BAG, "--backbone", "ViT-B-16")
    fails(done, "no backbone 'ViT-B-16'", "one of: nano", "edge-qprompt export")
    done = edge_qprompt_command("adapt", learned.photos, "--out", tmp_path / "a.qpk", "--precision", "int8")
    fails(done, "backbone nano has no int8 image encoder, it has fp32")


@pytest.fixture
def copy(nano: Backbone, tmp_path: Path) -> Path:
    """The embedded backbone as a folder that may be damaged; links save the copying."""
    folder = tmp_path / "backbones" / "copy"
    folder.mkdir(parents=True)
    for path in nano.folder.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def use_all(folder: Path) -> None:
    backbone = Backbone.open(folder)
    backbone.text.from_template(["cat"])
    size = backbone.manifest.preprocess.size
    backbone.encode_images(np.zeros((1, 3, size, size), np.float32))


def test_an_undamaged_copy_works(copy: Path) -> None:
    use_all(copy)


@pytest.mark.parametrize("name", ["image.fp32.onnx", "text.onnx", "text.safetensors", "tokenizer.json"])
def test_damaged_files_of_a_backbone(copy: Path, name: str) -> None:
    path, whole = copy / name, (copy / name).read_bytes()
    replace(path, whole[: len(whole) // 2])
    with pytest.raises(BackboneError, match=rf"{name} is {len(whole) // 2} bytes, the manifest says {len(whole)} bytes: export"):
        Backbone.open(copy)
    replace(path, b"\xa5" * len(whole))
    with pytest.raises(BackboneError, match=r"(cannot load|cannot be read|tokenizer).*export the backbone again"):
        use_all(copy)
    with pytest.raises(BackboneError, match=rf"{name} does not match its checksum: export or install again"):
        Backbone.open(copy).verify()
    path.unlink()
    with pytest.raises(BackboneError, match=f"{name} is missing, the manifest says"):
        Backbone.open(copy)


def change(manifest: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *parents, last = key.split("/")
    inner = manifest
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return manifest


RECORD = {"bytes": 1, "sha256": "0" * 64}
CHANGES = {
    "a later format": ("format", 2, "backbone format 2, this program reads 1: export it again or upgrade"),
    "format as text": ("format", "1", "damaged .*wanted int, got '1'"),
    "fingerprint": ("fingerprint", "xyz", "fingerprint 'xyz' is not a hex SHA-256"),
    "no preprocessing": ("preprocess", None, "damaged .*wanted an object"),
    "unknown resize": ("preprocess/resize_mode", "stretch", "unknown preprocessing stretch .*upgrade"),
    "size of zero": ("preprocess/size", 0, "preprocessing out of range"),
    "endless size": ("preprocess/resize", 10**9, "preprocessing out of range"),
    "two means": ("preprocess/mean", [0.5, 0.5], "preprocessing out of range"),
    "heads": ("text/heads", 3, "text tower out of range"),
    "activation": ("text/activation", "relu", "unknown activation relu"),
    "files as list": ("files", [], "damaged"),
    "one folder up": ("files/..\\u002fx", RECORD, r"leave the folder: \['\.\./x'\]"),
    "absolute": ("files/\\u002fetc\\u002fpasswd", RECORD, "leave the folder"),
    "hidden": ("files/.x", RECORD, "leave the folder"),
    "parent": ("files/..", RECORD, "leave the folder"),
}


@pytest.mark.parametrize(("key", "value", "message"), CHANGES.values(), ids=CHANGES)
def test_changed_manifests(copy: Path, key: str, value: Any, message: str) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    changed = json.dumps(change(manifest, key, value)).replace("\\\\u002f", "/")
    replace(copy / "manifest.json", changed.encode())
    with pytest.raises(BackboneError, match=message):
        Backbone.open(copy)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100_000, b" " * (1 << 20) + b"{}", b'{"format": NaN}']
)
def test_manifests_that_are_none(copy: Path, data: bytes) -> None:
    replace(copy / "manifest.json", data)
    with pytest.raises(BackboneError, match=r"manifest\.json is damaged \(.*\): export the backbone again"):
        Backbone.open(copy)


def test_a_damaged_backbone_does_not_hide_the_others(edge_qprompt_command: Command, copy: Path) -> None:
    env = {"EDGE_QPROMPT_BACKBONES": str(copy.parent)}
    listed = edge_qprompt_command("backbones", "--json", env=env).json["backbones"]
    assert [row["name"] for row in listed] == ["nano", "copy"]
    data = (copy / "text.onnx").read_bytes()
    replace(copy / "text.onnx", data[:-1] + bytes([data[-1] ^ 1]))
    fails(edge_qprompt_command("backbones", "--verify", env=env), "copy/text.onnx does not match its checksum")
    replace(copy / "manifest.json", b"{")
    done = edge_qprompt_command("backbones", "--json", env=env)
    assert [row["name"] for row in done.json["backbones"]] == ["nano"]
    assert "copy/manifest.json is damaged" in done.err
    fails(edge_qprompt_command("backbones", "--verify", env=env), "copy/manifest.json is damaged")


# where things are written


def test_the_out_folder_is_looked_at_before_the_work(edge_qprompt_command: Command, photos: MakePhotos, tmp_path: Path) -> None:
    root = photos("bag", "coat", each=1)
    done = edge_qprompt_command("adapt", root, "--out", tmp_path / "gone" / "a.qpk")
    fails(done, f"the folder {tmp_path / 'gone'} of --out does not exist: create it first")
    os.mkfifo(tmp_path / "pipe.qpk")
    fails(edge_qprompt_command("adapt", root, "--out", tmp_path / "pipe.qpk"), "pipe.qpk is not a regular file: choose another")


def test_write_whole_replaces_files_only(tmp_path: Path) -> None:
    target = tmp_path / "a.qpk"
    old_mask = os.umask(0o027)
    try:
        write_whole(target, b"one")
        write_whole(target, b"two")
    finally:
        os.umask(old_mask)
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o640  # as the umask says
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="not a regular file"):
        write_whole(tmp_path / "pipe", b"x")
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "gone" / "a", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.qpk", "pipe"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system without a free byte."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("this needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def adapt_again(command: Command, learned: Learned, target: Path, **more: Any) -> None:
    """Over a pack of other settings, which has to survive."""
    before = target.read_bytes()
    fails(
        command("adapt", learned.photos, "--out", target, *QUICK, "--bits", "4", **more),
        "the disk is full",
        "nothing was half-written: free some space and run it again",
    )
    assert target.read_bytes() == before


def test_a_full_disk_leaves_the_old_pack(edge_qprompt_command: Command, learned: Learned, full_disk: Path) -> None:
    target = Path(shutil.copy(learned.path, full_disk))
    with (full_disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(bytes(4096))
    adapt_again(edge_qprompt_command, learned, target)
    assert sorted(path.name for path in full_disk.iterdir()) == ["clothes.qpk", "filler"]


def test_a_write_that_fails_halfway_leaves_the_old_pack(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    target = Path(shutil.copy(learned.path, tmp_path))
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))  # noqa: E731  the pack has more bytes
    adapt_again(edge_qprompt_command, learned, target, preexec_fn=limit)  # Python itself ignores SIGXFSZ
    assert [path.name for path in tmp_path.iterdir()] == ["clothes.qpk"]


def test_a_cache_that_cannot_be_written_costs_only_time(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    evaluate = ("evaluate", learned.path, learned.photos, "--json")
    done = edge_qprompt_command(*evaluate, env={"EDGE_QPROMPT_CACHE": str(tmp_path / "file")})
    assert done.json == edge_qprompt_command(*evaluate).json
    (warning,) = done.err.splitlines()
    assert warning.startswith(f"warning: feature cache {tmp_path / 'file'}")
    assert warning.endswith("features are computed anew")


# interrupted


def start(learned: Learned, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "device_agent", "adapt", learned.photos, "--out", out, "--epochs", "1000000", *options]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background would inherit "ignore"
    )


def test_interrupted_and_resumed(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    out, checkpoint = tmp_path / "a.qpk", tmp_path / "a.qpk.checkpoint"
    process = start(learned, out)
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, ""), stderr
    assert "the same command with --resume goes on from the last checkpoint" in stderr
    assert stderr.splitlines()[-1] == "interrupted"
    assert [path.name for path in tmp_path.iterdir()] == ["a.qpk.checkpoint"]

    again = ("adapt", learned.photos, "--out", out, "--epochs", "1000000", "--resume")
    done = edge_qprompt_command(*again, "--seed", "2")
    fails(done, "a.qpk.checkpoint belongs to a run with other settings, photos or backbone", "without --resume")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    fails(edge_qprompt_command(*again), "the checkpoint", "a.qpk.checkpoint is damaged", "or delete")
    checkpoint.unlink()
    done = edge_qprompt_command("adapt", learned.photos, "--out", out, *QUICK, "--resume")
    assert done.code == 0
    assert "there is no a.qpk.checkpoint to resume from, starting at the beginning" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["a.qpk"]
