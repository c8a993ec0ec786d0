"""Packs and backbones that are damaged, changed or not there: each ends in a sentence that helps."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import DEMO, Command, Learned, fails

from edge_qprompt import Backbone
from edge_qprompt.errors import BackboneError

BAG = DEMO / "test" / "bag" / "3.png"


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
