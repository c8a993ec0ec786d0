"""The commands as a user runs them: what comes out on stdout, and what is in it."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import shutil
from pathlib import Path

import pytest
from common import DEMO, Command, Learned, MakePhotos

from device_agent.outcome import curve
from edge_qprompt import Backbone, Pack
from edge_qprompt.pack.pack import SECTION

VERBS = (
    "adapt",
    "backbones",
    "classify",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "forget",
    "inspect",
    "keygen",
    "pull",
    "push",
    "rollback",
    "split",
    "tasks",
    "teach",
)
QUICK = ("--epochs", "1")
TEST_BAG = DEMO / "test" / "bag"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb_shows_an_example(edge_qprompt_command: Command, verb: str) -> None:
    done = edge_qprompt_command(verb, "--help")
    assert (done.code, done.err) == (0, "")
    usage, rest = done.out.split("\n", 1)
    assert usage.startswith(f"Usage: edge-qprompt {verb}")
    assert f"  edge-qprompt {verb}" in rest


def test_help_lists_the_verbs_and_version_is_the_packages(edge_qprompt_command: Command) -> None:
    done = edge_qprompt_command("--help")
    assert done.code == 0
    assert all(f"\n  {verb} " in done.out for verb in VERBS)
    assert edge_qprompt_command("--version").out == "edge-qprompt, version 0.1.0\n"


def test_adapt_reports_what_it_did(learned: Learned, nano: Backbone) -> None:
    report, data = learned.done.json, learned.path.read_bytes()
    assert report["pack"] == str(learned.path)
    assert report["pack_id"] == hashlib.sha256(data).hexdigest()
    assert report["bytes"] == len(data) <= 300 + len("ankle boot bag t shirt") + SECTION.size
    assert (report["classes"], report["class_names"]) == (3, ["ankle boot", "bag", "t shirt"])
    assert (report["images_used"], report["images_skipped"], report["skipped"]) == (9, 0, [])
    assert report["steps"] == 3  # nine photos are one batch
    assert len(report["loss_by_epoch"]) == 3
    assert report["losses"] == [[i + 1, loss] for i, loss in enumerate(report["loss_by_epoch"])]
    assert 0 <= report["reclusterings"] <= 3
    assert (report["held_out_images"], report["held_out_source"]) == (3, "unused training photos")
    for key in ("train_accuracy", "train_zero_shot_accuracy", "held_out_accuracy", "zero_shot_accuracy"):
        assert 0 <= report[key] <= 1
    assert report["held_out_accuracy"] * 3 == pytest.approx(round(report["held_out_accuracy"] * 3))
    assert set(report["seconds"]) == {"encode", "learn", "check"}
    assert all(0 <= seconds < 300 for seconds in report["seconds"].values())
    assert 50 < report["peak_memory_mb"] < 4000
    assert (report["backbone"], report["precision"], report["method"], report["seed"]) == ("nano", "fp32", "qcoop", 1)
    assert report["resumed_at_epoch"] is None
    assert Pack.open(learned.path).fingerprint == nano.manifest.short_fingerprint


@pytest.mark.parametrize("epochs", [0, 1, 2, 199, 200, 201, 1000])
def test_the_loss_curve_is_thinned_evenly(epochs: int) -> None:
    losses = [1 / (i + 1) for i in range(epochs)]
    found = curve(losses)
    assert len(found) == min(epochs, 200)
    assert all(loss == losses[epoch - 1] for epoch, loss in found)
    if epochs:
        assert (found[0][0], found[-1][0]) == (1, epochs)
    gaps = {after[0] - before[0] for before, after in itertools.pairwise(found)}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


def test_the_same_command_gives_the_same_pack(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    again = edge_qprompt_command(*learned.command, "--out", tmp_path / "again.qpk").json
    assert again["pack_id"] == learned.done.json["pack_id"]
    assert again["loss_by_epoch"] == learned.done.json["loss_by_epoch"]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "again.qpk", tmp_path / "again.qpk.state"]  # no checkpoint, no part is left


def test_adapt_for_people(edge_qprompt_command: Command, photos: MakePhotos, tmp_path: Path) -> None:
    root = photos("cat=bag", "dog=coat", each=2)
    shutil.copy(DEMO / "train" / "coat" / "9.png", root / "dog")
    (root / "cat" / "note.jpg").write_text("no photo")
    done = edge_qprompt_command("adapt", root, "--out", "a.qpk", *QUICK, "--shots", "3", cwd=tmp_path)
    assert done.code == 0
    first, accuracy, learned_from = done.out.splitlines()
    assert first.startswith(f"a.qpk  {(tmp_path / 'a.qpk').stat().st_size} bytes, 2 classes, qcoop on nano fp32")
    assert " before, " in accuracy
    assert "on the photos learned from: new ones have less" in accuracy
    assert learned_from.startswith("learned    from 5 photos in 1 steps, float32, 1 thread (encode ")
    warnings = done.err.splitlines()
    assert all(line.startswith("warning: ") for line in warnings)
    assert any("note.jpg is not an image" in line for line in warnings)


def test_few_photos_are_told_and_used(edge_qprompt_command: Command, photos: MakePhotos, tmp_path: Path) -> None:
    root = photos("cat=bag", each=1)
    photos("dog=coat", each=3)
    done = edge_qprompt_command("adapt", root, "--out", tmp_path / "a.qpk", *QUICK, "--shots", "2", "--json")
    assert "warning: 1 of 2 classes have fewer than 2 photos and use what they have: cat (1)" in done.err
    assert done.json["images_used"] == 3
    assert done.json["held_out_images"] == 1


def test_train_test_classes_txt_and_order(edge_qprompt_command: Command, photos: MakePhotos, tmp_path: Path) -> None:
    photos("my_bag=bag", "boots=ankle_boot", each=3, into="data/train")
    photos("my_bag=bag", "boots=ankle_boot", each=5, into="data/test", split="test")
    (tmp_path / "data" / "classes.txt").write_text("0\tmy_bag\thand bag\n1\tboots\tboot\n")
    pack = tmp_path / "a.qpk"
    report = edge_qprompt_command("adapt", tmp_path / "data", "--out", pack, *QUICK, "--json").json
    assert report["class_names"] == ["hand bag", "boot"]
    assert (report["images_used"], report["held_out_images"], report["held_out_source"]) == (6, 10, "test")
    scores = edge_qprompt_command("evaluate", pack, tmp_path / "data", "--json").json
    assert (scores["n"], scores["split"], list(scores["per_class"])) == (10, "test", ["hand bag", "boot"])
    assert scores["accuracy"] == report["held_out_accuracy"]
    assert scores["zero_shot_accuracy"] == report["zero_shot_accuracy"]
    assert scores["accuracy"] == pytest.approx(sum(scores["per_class"].values()) / 2)


def test_csv_and_names_file(edge_qprompt_command: Command, tmp_path: Path) -> None:
    rows = [f"{DEMO / 'train' / name / f'{i}.png'},{name}\n" for name in ("ankle_boot", "bag") for i in range(3)]
    (tmp_path / "data.csv").write_text("path,label\n" + "".join(rows) + "gone.png,bag\n")
    (tmp_path / "names.tsv").write_text("0\tbag\thandbag\n1\tankle_boot\tboot\n")
    done = edge_qprompt_command(
        "adapt", "data.csv", "--out", "a.qpk", "--names", "names.tsv", *QUICK, "--provenance", "--json", cwd=tmp_path
    )
    assert done.json["class_names"] == ["handbag", "boot"]
    assert (done.json["images_used"], done.json["images_skipped"]) == (6, 1)
    assert "warning: skipped: cannot read gone.png: No such file" in done.err
    facts = edge_qprompt_command("inspect", "a.qpk", "--json", cwd=tmp_path).json
    assert facts["provenance"] == "6 photos, 16 shots, 1 views, 1 epochs, batch all, lr 0.008, seed 1"


def test_base_and_new_classes(edge_qprompt_command: Command, photos: MakePhotos, tmp_path: Path) -> None:
    root = photos("bag", "coat", "dress", "sandal", "shirt", each=2)
    pack = tmp_path / "base.qpk"
    report = edge_qprompt_command("adapt", root, "--out", pack, *QUICK, "--classes", "base", "--json").json
    assert report["class_names"] == ["bag", "coat", "dress"]
    scores = edge_qprompt_command("evaluate", pack, root, "--classes", "new", "--json").json
    assert (list(scores["per_class"]), scores["n"], scores["split"]) == (["sandal", "shirt"], 4, "all photos")


def test_methods_and_views(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    def adapt(name: str, *options: str) -> dict[str, object]:
        done = edge_qprompt_command("adapt", learned.photos, "--out", tmp_path / name, *QUICK, *options, "--json")
        return edge_qprompt_command("inspect", tmp_path / name, "--json").json | {
            key: done.json[key] for key in ("steps", "losses")
        }

    coop = adapt("coop.qpk", "--method", "coop", "--views", "2", "--ctx", "2")
    assert (coop["method"], coop["steps"], coop["tensors"][0]["bits"], coop["tensors"][0]["shape"]) == ("coop", 1, 16, [2, 256])
    by_hand = adapt("hand.qpk", "--method", "zero-shot", "--template", "a drawing of a {}.")
    assert by_hand["losses"] == []
    assert (by_hand["method"], by_hand["steps"], by_hand["tensors"]) == ("zero-shot", 0, [])
    assert by_hand["template"] == "a drawing of a {}."
    scores = edge_qprompt_command(
        "evaluate", tmp_path / "hand.qpk", learned.photos, "--template", "a drawing of a {}.", "--json"
    ).json
    assert scores["accuracy"] == scores["zero_shot_accuracy"]


def test_evaluate_reports_accuracy_and_calibration(edge_qprompt_command: Command, learned: Learned) -> None:
    scores = edge_qprompt_command("evaluate", learned.path, learned.photos, "--json").json
    assert (scores["n"], scores["skipped"], scores["classes"], scores["split"]) == (3, 0, 3, "all photos")
    assert scores["learned_from"] == 9
    assert set(scores["per_class"]) == {"ankle boot", "bag", "t shirt"}
    assert 0 <= scores["ece"] <= 1
    assert scores["accuracy"] == pytest.approx(sum(scores["per_class"].values()) / 3)
    assert scores["accuracy"] * 3 == pytest.approx(round(scores["accuracy"] * 3))
    done = edge_qprompt_command("evaluate", learned.path, learned.photos)
    assert done.err == ""
    accuracy, by_hand, calibration = done.out.splitlines()
    measured = f"accuracy   {100 * scores['accuracy']:.1f} % on 3 photos of 3 classes (all photos)"
    assert accuracy == f"{measured}; 9 that it was learned from are left out"
    assert by_hand.startswith(f"zero-shot  {100 * scores['zero_shot_accuracy']:.1f} %")
    assert calibration.startswith(f"ECE        {scores['ece']:.3f}   weakest: ")


def test_inspect_adds_up(edge_qprompt_command: Command, learned: Learned) -> None:
    facts = edge_qprompt_command("inspect", learned.path, "--json").json
    parts = ("payload_bytes", "names_bytes", "section_bytes", "overhead_bytes")
    assert facts["bytes"] == sum(facts[part] for part in parts) == learned.path.stat().st_size
    assert facts["paper_bits"] == 8 * 256 + 2 * 16  # b N + 16 K
    assert facts["pack_id"] == learned.done.json["pack_id"]
    (tensor,) = facts["tensors"]
    assert (tensor["role"], tensor["bits"], tensor["shape"], tensor["float16_bytes"]) == ("ctx", 1, [8, 256], 4096)
    assert tensor["codebook"][0] < tensor["codebook"][1]
    assert facts["class_names"] == ["ankle boot", "bag", "t shirt"]
    assert (facts["method"], facts["precision"], facts["provenance"]) == ("qcoop", "fp32", None)
    done = edge_qprompt_command("inspect", learned.path)
    assert f"{facts['bytes']} bytes, qcoop learned from fp32 features" in done.out
    assert "classes    3: ankle boot, bag, t shirt" in done.out
    assert facts["pack_id"] in done.out


def test_backbones_are_listed_and_verified(edge_qprompt_command: Command, nano: Backbone) -> None:
    (row,) = edge_qprompt_command("backbones", "--verify", "--json").json["backbones"]
    manifest = nano.manifest
    assert (row["name"], row["fingerprint"], row["embed_dim"]) == ("nano", manifest.fingerprint, manifest.embed_dim)
    assert (row["precisions"], row["verified"], row["context_length"]) == (["fp32"], True, 32)
    assert row["bytes"] == sum(path.stat().st_size for path in nano.folder.iterdir() if path.name != "manifest.json")
    done = edge_qprompt_command("backbones")
    assert done.out.startswith("nano  ")
    assert manifest.fingerprint[:16] in done.out
    assert "verified" not in done.out


def test_classify_takes_files_folders_and_globs(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    for i in (2, 10, 11):
        shutil.copy(TEST_BAG / f"{i}.png", tmp_path)
    (tmp_path / "in").mkdir()
    shutil.copy(TEST_BAG / "0.png", tmp_path / "in" / "[odd] *.png")
    asked = ("2.png", "in", "1*.png", "**/*odd*.png", "in/[odd] *.png")
    found = edge_qprompt_command("classify", learned.path, *asked, "--json", cwd=tmp_path).json
    odd = "in/[odd] *.png"
    assert [row["image"] for row in found["images"]] == ["2.png", odd, "10.png", "11.png", odd, odd]
    assert (found["pack"], found["backbone"], found["precision"], found["skipped"]) == (str(learned.path), "nano", "fp32", 0)
    for row in found["images"]:
        shares = [label["probability"] for label in row["labels"]]
        assert len(shares) == 3
        assert math.isclose(sum(shares), 1, rel_tol=1e-5)
    assert edge_qprompt_command("classify", learned.path, ".", "--json", cwd=tmp_path).json["images"][0]["image"] == "2.png"


def test_classify_for_people(edge_qprompt_command: Command, learned: Learned) -> None:
    done = edge_qprompt_command("classify", learned.path, TEST_BAG / "3.png", TEST_BAG / "11.png", "--top", "1")
    assert done.err == ""
    lines = done.out.splitlines()
    assert len(lines) == 2
    for line, photo in zip(lines, ("3.png", "11.png"), strict=True):
        path, rest = line.split("  ", 1)
        assert path.strip() == str(TEST_BAG / photo)
        label, share = rest.strip().rsplit(" ", 2)[0], rest.strip().rsplit(" ", 2)[1]
        assert label in ("ankle boot", "bag", "t shirt")
        assert 33 < float(share) <= 100


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("sock, bag", {"sock", "bag"}),
        ("+sock,scarf", {"ankle boot", "bag", "t shirt", "sock", "scarf"}),
        ("+bag", {"ankle boot", "bag", "t shirt"}),
        ("big-bag", {"big-bag"}),
    ],
)
def test_labels_replace_and_extend(edge_qprompt_command: Command, learned: Learned, labels: str, expected: set[str]) -> None:
    found = edge_qprompt_command("classify", learned.path, TEST_BAG / "3.png", "--labels", labels, "--top", "9", "--json").json
    assert {label["label"] for label in found["images"][0]["labels"]} == expected


def test_skipped_photos_do_not_stop_the_others(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    shutil.copy(TEST_BAG / "3.png", tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no photo")
    done = edge_qprompt_command("classify", learned.path, tmp_path, "--json")
    assert [Path(row["image"]).name for row in done.json["images"]] == ["good.png"]
    assert done.json["skipped"] == 1
    assert "bad.png is not an image" in done.err
    strict = edge_qprompt_command("classify", learned.path, tmp_path, "--strict", "--json")
    assert (strict.code, strict.out) == (1, "")
    assert "bad.png is not an image" in strict.err


def test_a_file_name_that_is_not_utf8_is_printed_all_the_same(
    edge_qprompt_command: Command, learned: Learned, tmp_path: Path
) -> None:
    shutil.copy(TEST_BAG / "3.png", bytes(tmp_path) + b"/caf\xe9.png")
    for options in ((), ("--json",)):
        done = edge_qprompt_command("classify", learned.path, tmp_path, *options, env={"PYTHONIOENCODING": "utf-8:strict"})
        assert done.code == 0, done.err
        assert "caf\\udce9.png" in done.out


def test_names_that_the_terminal_cannot_show_do_no_harm(edge_qprompt_command: Command, learned: Learned) -> None:
    done = edge_qprompt_command(
        "classify", learned.path, TEST_BAG / "3.png", "--labels", "猫,bag", env={"PYTHONIOENCODING": "latin-1"}
    )
    assert done.code == 0, done.err
    assert "\\u732b" in done.out


def test_a_small_pack_is_the_same_on_one_core_and_on_several(edge_qprompt_command: Command, tmp_path: Path) -> None:
    for threads in ("1", "2"):
        command = ("adapt", DEMO, "--shots", "2", "--epochs", "60", "--method", "coop", "--out", tmp_path / threads)
        done = edge_qprompt_command(*command, env={"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads})
        assert done.code == 0, done.err
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_report_is_one_page_with_everything_in_it(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    root = tmp_path / "<b>photos & co"
    shutil.copytree(learned.photos, root)
    (root / "bag").rename(root / "<i>bag & $co$ $\\foo$")
    for split in ("", "again"):
        command = ("adapt", root, "--epochs", "12", "--shots", "3", "--method", "qcoop+qres", "--out", tmp_path / "r.qpk")
        done = edge_qprompt_command(*command, "--report", tmp_path / "report" / split, "--json")
        assert done.code == 0, done.err
    page = (tmp_path / "report" / "report.html").read_text()
    assert done.json["report"].endswith("again/report.html")
    for title in ("Learning", "Re-clustering", "Weights and codebook", "Confusion, 3 held-out photos", "most wrong", "bytes go"):
        assert title in page
    assert page.count("<svg") == 5  # loss, looks, two tensors, confusion
    assert "1 looks at a threshold of 10, clustered again 0 times" in page
    assert "mathdefault" not in page
    assert "<script" not in page
    assert "<i>bag" not in page
    assert "&lt;i&gt;bag &amp; $co$" in page
    outside = re.findall(r'(?:src|href)="(?!data:|#)([^"]+)', page)
    assert outside == []


def test_a_report_of_no_learning_has_no_curve(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    command = ("adapt", learned.photos, "--method", "zero-shot", "--out", tmp_path / "z.qpk", "--report", tmp_path)
    done = edge_qprompt_command(*command)
    assert done.code == 0, done.err
    assert f"report     {tmp_path}/report.html" in done.out
    page = (tmp_path / "report.html").read_text()
    assert "Learning" not in page
    assert page.count("<svg") == 1
