"""Which precision is taken, and what a pack that meets another one is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from common import DEMO, Command, Learned
from packs import SMALL, quantized
from precisions import nano_in

from edge_qprompt.backbone.manifest import PrecisionRecord
from edge_qprompt.backbone.precision import candidates, common, fastest, learned_for, mismatch, reason
from edge_qprompt.pack.pack import Pack, PackTensor, Precision, Role

BAG = DEMO / "test" / "bag" / "0.png"
RECORDS = {
    "fp32": PrecisionRecord(1.0, 1.0, 500),
    "int8": PrecisionRecord(0.99, 0.988, 500),
    "w4a8": PrecisionRecord(0.97, 0.98, 500),
    "w4a4": PrecisionRecord(0.9, 0.93, 500),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_QPROMPT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("seconds", "choice"),
    [
        ({"fp32": 0.2, "int8": 0.1}, "int8"),
        ({"fp32": 0.1, "int8": 0.2}, "fp32"),
        ({"fp32": 1.05, "int8": 1.0}, "fp32"),
        ({"fp32": 1.11, "int8": 1.0}, "int8"),
        ({"fp32": 0.3, "int8": 0.2, "w4a8": 0.1}, "w4a8"),
        ({"int8": 0.2, "w4a8": 0.19}, "w4a8"),
    ],
)
def test_another_has_to_be_clearly_faster_than_fp32(seconds: dict[str, float], choice: str) -> None:
    assert fastest(seconds) == choice


def test_the_gate() -> None:
    assert candidates(RECORDS) == ("fp32", "int8", "w4a8")
    assert candidates({"fp32": replace(RECORDS["fp32"], top1_agreement=0.5)}) == ("fp32",)
    assert candidates({"w4a4": RECORDS["w4a4"]}) == ("w4a4",)


def test_the_reason_has_the_times_and_the_loss() -> None:
    said = reason("int8", {"fp32": 0.3, "int8": 0.1, "w4a8": 0.12}, RECORDS)
    assert said == (
        "precision int8: a photo takes 100 ms in int8, 120 ms in w4a8 and 300 ms in fp32 on this machine; "
        "of 500 photos measured at export 1.2 % in int8 got another label; "
        "w4a4 left out: of 500 photos measured at export 7.0 % in w4a4 got another label, at most 2% may"
    )
    two = {name: RECORDS[name] for name in ("fp32", "int8")}
    times = "a photo takes 100 ms in fp32 and 200 ms in int8 on this machine"
    assert reason("fp32", {"fp32": 0.1, "int8": 0.2}, two) == f"precision fp32: {times}, and another has to be 1.1x faster"


def learned_on(precision: int, pack: Pack = SMALL) -> Pack:
    return replace(pack, precision=precision)


def test_a_pack_of_another_precision_is_told_what_it_loses() -> None:
    export = "of 500 photos measured at export"
    assert mismatch("task.qpk", learned_on(Precision.INT8), "fp32", RECORDS) == (
        f"task.qpk was learned for int8 and runs on fp32: {export} 1.2 % in int8 got another label; "
        "learn it again with --precision fp32, or run with --precision int8"
    )
    both = mismatch("task.qpk", learned_on(Precision.W4A4), "int8", RECORDS)
    assert both is not None
    assert f"{export} 7.0 % in w4a4 and 1.2 % in int8 got another label" in both
    for number, name in ((Precision.INT8, "int8"), (9, "precision 9")):
        unknown = mismatch("task.qpk", learned_on(number), "fp32", {"fp32": RECORDS["fp32"]})
        assert unknown == (
            f"task.qpk was learned for {name} and runs on fp32: this backbone has no {name} to compare with; "
            "learn it again with --precision fp32"
        )


def test_no_false_warnings() -> None:
    assert mismatch("p", learned_on(Precision.INT8), "int8", RECORDS) is None
    assert mismatch("p", replace(SMALL, tensors=()), "int8", RECORDS) is None  # a hand-written prompt
    visual = replace(quantized(1, (2, 5)), role=Role.VISUAL_CTX)
    assert isinstance(visual, PackTensor)
    assert mismatch("p", replace(SMALL, tensors=(visual,)), "int8", RECORDS) is None  # its own encoders run in fp32


def test_what_packs_ask_for() -> None:
    int8, fp32 = learned_on(Precision.INT8), learned_on(Precision.FP32)
    assert [learned_for(pack) for pack in (int8, fp32, learned_on(9))] == ["int8", "fp32", "precision 9"]
    assert common([int8, int8], RECORDS) == "int8"
    assert common([int8, fp32], RECORDS) == "auto"
    assert common([int8], {"fp32": RECORDS["fp32"]}) == "auto"
    assert common([fp32], RECORDS) == "fp32"


def test_classify_follows_the_pack_and_warns(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    folder = nano_in(tmp_path / "twice", "int8")
    plain = edge_qprompt_command("classify", learned.path, BAG, "--json")
    assert (plain.json["precision"], plain.err) == ("fp32", "")
    pack = tmp_path / "int8.qpk"
    learned_on(Precision.INT8, Pack.open(learned.path)).save(pack)
    own = edge_qprompt_command("classify", pack, BAG, "--backbone", folder, "--json")
    assert (own.json["precision"], own.err) == ("int8", "precision int8: int8.qpk learned for it\n")
    other = edge_qprompt_command("classify", pack, BAG, "--backbone", folder, "--precision", "fp32", "--json")
    assert other.json["precision"] == "fp32"
    assert other.err.startswith("warning: int8.qpk was learned for int8 and runs on fp32: of ")
    without = edge_qprompt_command("classify", pack, BAG, "--json")
    assert without.err.startswith("warning: int8.qpk was learned for int8 and runs on fp32: this backbone has no int8 ")


def test_evaluate_follows_the_pack_too(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    pack = tmp_path / "int8.qpk"
    learned_on(Precision.INT8, Pack.open(learned.path)).save(pack)
    done = edge_qprompt_command("evaluate", pack, learned.photos, "--json")
    assert done.json["precision"] == "fp32"
    assert "int8.qpk was learned for int8 and runs on fp32" in done.err
