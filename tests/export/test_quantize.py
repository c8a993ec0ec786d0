"""The verb `quantize`, and what follows from it: learning in few bits, a pack, classification without torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from common import DEMO, Command, fails

from edge_qprompt import Backbone, Pack
from edge_qprompt.backbone.fixed_point import Quantization, quantization_json
from edge_qprompt.errors import BackboneError
from edge_qprompt.pack.pack import Precision

pytest.importorskip("exporter.quantize.precisions", reason="needs the export extra")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, edge_qprompt_command: Command) -> Path:
    """nano with encoders of 4-bit weights, made by the command."""
    work = tmp_path_factory.mktemp("quantize")
    done = edge_qprompt_command(
        "quantize",
        "nano",
        "--precision",
        "w4a8",
        "--photos",
        DEMO / "train",
        "--out",
        work / "small",
        "--report",
        work / "layers.md",
    )
    assert done.code == 0, done.err
    assert "next: edge-qprompt adapt PHOTOS" in done.out
    assert done.out.splitlines()[0] == f"nano is in {work / 'small'}, its image encoder as:"
    return work / "small"


def test_the_command_offers_what_there_are_recipes_for() -> None:
    from exporter.commands.quantize import PRECISIONS
    from exporter.quantize.precisions import RECIPES

    assert tuple(RECIPES) == PRECISIONS


def test_the_folder_is_nano_with_more_precisions(small: Path, nano: Backbone) -> None:
    backbone = Backbone.open(small, "w4a8")
    backbone.verify()
    manifest = backbone.manifest
    assert manifest.fingerprint == nano.manifest.fingerprint
    assert manifest.files.keys() - nano.manifest.files.keys() == {"image.w4a8.onnx", "text.w4a8.onnx", quantization_json("w4a8")}
    assert manifest.files["image.w4a8.onnx"].bytes < 0.5 * manifest.files["image.fp32.onnx"].bytes
    assert manifest.precisions["w4a8"].photos == 64
    assert manifest.precisions["w4a8"].cosine < 0.99
    assert backbone.quantization == Quantization.read(small / quantization_json("w4a8"))


def test_the_report_has_a_line_for_each_layer(small: Path) -> None:
    text = (small.parent / "layers.md").read_text()
    quantization = Backbone.open(small, "w4a8").quantization
    assert quantization is not None
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) == len(quantization.image) + len(quantization.text) + 2  # and two heads
    by_name = {row[0].strip(): row for row in rows}
    assert by_name["3, scores"][2].strip() == "8 x 8"
    assert by_name["3, MLP in"][1:3] == [" 4 ", " 8 "]
    for product in quantization.image:
        assert 3 < float(by_name[product.node][3]) < 30  # dB of 4-bit weights


def test_p4q_gives_accuracy_back_and_needs_no_torch_to_run(small: Path, tmp_path: Path, edge_qprompt_command: Command) -> None:
    pack = tmp_path / "task.qpk"
    common = ["--backbone", small, "--precision", "w4a8"]
    learned = edge_qprompt_command("adapt", DEMO, *common, "--method", "qp4q", "--epochs", "60", "--out", pack, "--json").json
    assert learned["held_out_accuracy"] > learned["zero_shot_accuracy"] + 0.15
    assert Pack.decode(pack.read_bytes()).precision == Precision.W4A8
    photo = DEMO / "test" / "bag" / "3.png"
    right = edge_qprompt_command("classify", pack, photo, "--backbone", small, "--json")
    assert "w4a8" in right.err  # the pack's precision is taken, and said
    other = edge_qprompt_command("classify", pack, photo, "--backbone", small, "--precision", "fp32", "--json")
    assert "was learned for w4a8 and runs on fp32" in other.err
    assert json.loads(right.out) != json.loads(other.out)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nano", "--precision", "w4a8", "--out", "SMALL"], "exists: give another --out, or --replace"),
        (["SMALL", "--precision", "w4a8", "--out", "new"], "backbone nano has w4a8 already"),
        (["SMALL", "--precision", "int8", "--out", "SMALL", "--replace"], "is the backbone itself: give another --out"),
        (["nothing", "--out", "new"], "no backbone 'nothing'"),
        (["nano", "--out", "new", "--photos", "EMPTY"], "no photos in"),
    ],
)
def test_wrong_use_is_told_and_leaves_nothing(
    small: Path, tmp_path: Path, edge_qprompt_command: Command, arguments: list[str], error: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"SMALL": small, "EMPTY": tmp_path / "empty", "new": tmp_path / "new"}
    fails(edge_qprompt_command("quantize", *(places.get(each, each) for each in arguments)), error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]
    Backbone.open(small).verify()


def test_a_damaged_record_is_an_error(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "quantization.json"
    good = (small / quantization_json("w4a8")).read_text()
    for damaged in (
        good[:-40],
        "[]",
        good.replace('"bits": 8', '"bits": 9', 1),
        good.replace('"scale": ', '"scale": -', 1),
        good.replace('"weight_bits": 4', '"weight_bits": 99', 1),
    ):
        path.write_text(damaged)
        with pytest.raises(BackboneError, match="quantize the backbone again"):
            Quantization.read(path)
