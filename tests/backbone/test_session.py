"""The seam to onnxruntime: providers by name, and the precision that a trial on this machine chooses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from common import DEMO, Command, Learned
from precisions import nano_in

from edge_qprompt import Backbone
from edge_qprompt.backbone import speed
from edge_qprompt.backbone.session import CPU, Session, parse_providers
from edge_qprompt.errors import BackboneError
from edge_qprompt.photos.dataset import list_photos
from edge_qprompt.photos.features import extract

BAG = DEMO / "test" / "bag" / "0.png"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for each test."""
    monkeypatch.setenv("EDGE_QPROMPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def twice(nano: Backbone, tmp_path: Path) -> Path:
    """nano with its fp32 encoder under the name of int8 too."""
    return nano_in(tmp_path / "twice", "int8")


class FakeMachine:
    """A clock that only work moves, and work that takes the seconds it is given."""

    def __init__(self, fp32: Iterator[float] | float, int8: float) -> None:
        self.now, self.prepared, self.order = 100.0, 0, ""
        self.fp32, self.int8 = fp32, int8

    def clock(self) -> float:
        return self.now

    def _job(self, name: str, seconds: Iterator[float] | float) -> None:
        self.order += name
        self.now += seconds if isinstance(seconds, float) else next(seconds)

    def job_of(self, precision: str) -> speed.Job:
        self.prepared += precision == "fp32"
        return (lambda: self._job("f", self.fp32)) if precision == "fp32" else (lambda: self._job("i", self.int8))

    def trial(self, *facts: str) -> speed.Seconds:
        return speed.remembered_trial(facts or ("model",), ("fp32", "int8"), self.job_of, self.clock)


# providers


@pytest.mark.parametrize("text", ["cpu", "CPU", " cpu ", "CPUExecutionProvider", "cpuexecutionprovider", "cpu,CPU"])
def test_the_cpu_by_any_of_its_names(text: str) -> None:
    assert parse_providers(text) == CPU == ("CPUExecutionProvider",)


def test_every_provider_of_this_onnxruntime_has_a_short_name() -> None:
    for full in ort.get_available_providers():
        assert parse_providers(full.removesuffix("ExecutionProvider").upper()) == (full,)


def test_order_is_kept_and_names_are_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "OpenVINOExecutionProvider", *CPU]
    monkeypatch.setattr(ort, "get_available_providers", lambda: names)
    assert parse_providers("tensorrt, cuda,cpu") == (names[0], names[1], names[3])
    assert parse_providers("openvino") == (names[2],)


@pytest.mark.parametrize("text", ["warp", "cpu,warp", "WarpExecutionProvider"])
def test_a_provider_that_is_not_there(text: str) -> None:
    with pytest.raises(BackboneError, match=r"no provider 'warp', it has .*\bcpu\b.*: choose one of these") as caught:
        parse_providers(text)
    for full in ort.get_available_providers():
        assert full.removesuffix("ExecutionProvider").lower() in str(caught.value)


@pytest.mark.parametrize("text", ["", "cpu,", ",", "cpu,,cpu"])
def test_a_provider_without_a_name(text: str) -> None:
    with pytest.raises(BackboneError, match="has an empty name"):
        parse_providers(text)


def test_a_provider_that_onnxruntime_leaves_out_is_an_error(nano: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the libraries of CUDA missing: onnxruntime would go on with the CPU."""
    session = ort.InferenceSession(nano.folder / "image.fp32.onnx", providers=list(CPU))
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, **__: session)
    with pytest.raises(BackboneError, match="cannot start cuda: install"):
        Session(nano.folder / "image.fp32.onnx", stored_low=True, providers=("CUDAExecutionProvider", *CPU))


def test_lanes_give_the_same_features_and_share_one_session(nano: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone.open("nano")
    monkeypatch.setattr("edge_qprompt.backbone.backbone.cores", lambda: 4)
    assert backbone.lanes == 4
    assert [Backbone.open("nano", threads=threads).lanes for threads in (1, 2, 3, 8)] == [4, 2, 1, 1]
    made = []
    monkeypatch.setattr(
        "edge_qprompt.backbone.backbone.Session", lambda *args, **named: made.append(named) or Session(*args, **named)
    )
    size = backbone.manifest.preprocess.size
    pixels = np.random.default_rng(0).standard_normal((4, 2, 3, size, size)).astype(np.float32)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: backbone.encode_images(batch, lane=True), pixels))
    assert [(each["threads"], each["keep_memory"]) for each in made] == [(1, True)]
    np.testing.assert_allclose(np.array(found), [nano.encode_images(batch) for batch in pixels], atol=2e-6)


def test_what_is_no_processor_has_one_lane(nano: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nano, "providers", ("CUDAExecutionProvider", "CPUExecutionProvider"))
    assert nano.lanes == 1


def test_every_verb_says_so(edge_qprompt_command: Command, learned: Learned, tmp_path: Path) -> None:
    for verb in (
        ["adapt", learned.photos, "--out", tmp_path / "a.qpk"],
        ["classify", learned.path, BAG],
        ["evaluate", learned.path, learned.photos],
    ):
        done = edge_qprompt_command(*verb, "--providers", "warp")
        assert (done.code, done.out) == (1, "")
        assert "no provider 'warp', it has" in done.err


def test_features_of_other_providers_are_kept_apart(cache: Path) -> None:
    """AzureExecutionProvider, which is in every build, leaves all work to the CPU."""
    if "AzureExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this onnxruntime has no second provider that runs everywhere")
    photo = list_photos(DEMO / "train" / "bag")[:1]
    backbones = [Backbone.open("nano"), Backbone.open("nano", providers="azure,cpu")]
    assert [extract(backbone, photo).from_cache for backbone in backbones] == [0, 0]
    assert [extract(backbone, photo).from_cache for backbone in backbones] == [1, 1]
    assert len(list((cache / "features").glob("*.sqlite"))) == 2


# the trial


def test_both_take_turns_and_one_hiccup_does_not_count() -> None:
    slow_start_and_hiccup = iter([9.0, 0.1, 0.3, 50.0, 0.2, 0.1])
    machine = FakeMachine(slow_start_and_hiccup, 0.1)
    assert machine.trial() == pytest.approx({"fp32": 0.2, "int8": 0.1})
    assert machine.order == "fi" * (speed.ROUNDS + 1)


def test_a_trial_is_remembered_by_what_could_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first = FakeMachine(0.2, 0.1).trial("nano", "1.20")
    later = FakeMachine(0.1, 0.2)
    assert later.trial("nano", "1.20") == first
    assert (later.prepared, later.trial("nano", "1.21")["int8"], later.prepared) == (0, pytest.approx(0.2), 1)
    assert FakeMachine(0.3, 0.3).trial("nano", "1.20") == first  # the second trial has not replaced it
    monkeypatch.setattr(speed, "machine", lambda: "another processor")
    assert later.trial("nano", "1.20")["int8"] == pytest.approx(0.2)


DAMAGES = {
    "nothing": b"",
    "no JSON": b"\xff\xfe{",
    "cut short": b'{"a": {"fp32": 0.1, "int',
    "no object": b"[1, 2]",
    "no trial": b'{"a": 3}',
    "a field missing": b'{"a": {"fp32": 0.1}}',
    "a field too many": b'{"a": {"fp32": 0.1, "int8": 0.1, "int4": 0.1}}',
    "a time that is text": b'{"a": {"fp32": "0.1", "int8": 0.1}}',
    "a time of nothing": b'{"a": {"fp32": 0.0, "int8": 0.1}}',
    "no number": b'{"a": {"fp32": NaN, "int8": 0.1}}',
    "no end": b'{"a": {"fp32": Infinity, "int8": 0.1}}',
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_means_measuring_again(cache: Path, damage: str) -> None:
    FakeMachine(0.2, 0.1).trial()
    key = next(iter(json.loads((cache / speed.FILE_NAME).read_text())))
    (cache / speed.FILE_NAME).write_bytes(DAMAGES[damage].replace(b'"a"', json.dumps(key).encode()))
    again = FakeMachine(0.1, 0.2)
    for _ in range(2):  # the second time the file is whole again
        assert (again.trial(), again.prepared) == (pytest.approx({"fp32": 0.1, "int8": 0.2}), 1)


def test_a_cache_that_cannot_be_written_means_measuring_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGE_QPROMPT_CACHE", str(tmp_path / "file" / "below"))
    machine = FakeMachine(0.2, 0.1)
    assert machine.trial() == pytest.approx(machine.trial())
    assert machine.prepared == 2


def test_only_the_newest_trials_are_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MAX_TRIALS", 3)
    machine = FakeMachine(0.2, 0.1)
    for i in range(speed.MAX_TRIALS + 1):
        machine.trial(str(i))
    assert len(json.loads((cache / speed.FILE_NAME).read_text())) == speed.MAX_TRIALS
    for i, measured in ((speed.MAX_TRIALS, 0), (1, 0), (0, 1)):  # the newest, the oldest that is left, the one that went
        before = machine.prepared
        machine.trial(str(i))
        assert machine.prepared - before == measured, i


def test_a_machine_is_known_by_its_processor(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    facts = []
    for flags, hertz in (("fpu avx2", 1), ("fpu avx2", 2), ("fpu avx2 avx512_vnni", 1)):
        info.write_text(
            f"processor : 0\nmodel name : Some CPU\ncpu MHz : {hertz}\nflags : {flags}\n\nprocessor : 1\nflags : {flags}\n"
        )
        facts.append(speed.machine(info))
    assert facts[0] == facts[1] != facts[2]
    assert "Some CPU" in facts[0]
    assert speed.machine(tmp_path / "missing")


# the precision of a backbone


def test_auto_without_a_choice_is_fp32_and_says_nothing(cache: Path) -> None:
    backbone = Backbone.open("nano", "auto")
    assert (backbone.precision, backbone.note) == ("fp32", "")
    assert not (cache / speed.FILE_NAME).exists()


def test_auto_without_any_encoder(twice: Path) -> None:
    manifest = json.loads((twice / "manifest.json").read_text())
    (twice / "manifest.json").write_text(json.dumps(manifest | {"precisions": {}}))
    with pytest.raises(BackboneError, match="has no auto image encoder"):
        Backbone.open(twice, "auto")


def remember(cache: Path, **seconds: float) -> None:
    stored = json.loads((cache / speed.FILE_NAME).read_text())
    (cache / speed.FILE_NAME).write_text(json.dumps(dict.fromkeys(stored, seconds)))


def test_auto_takes_what_the_trial_found(twice: Path, cache: Path) -> None:
    Backbone.open(twice, "auto")
    stored: dict[str, Any] = json.loads((cache / speed.FILE_NAME).read_text())
    assert [sorted(trial) for trial in stored.values()] == [["fp32", "int8"]]  # really measured, once
    remember(cache, fp32=0.3, int8=0.1)
    fast = Backbone.open(twice, "auto")
    assert (fast.precision, fast.feature_kind[:4]) == ("int8", "int8")
    assert fast.note.startswith("precision int8: a photo takes 100 ms in int8 and 300 ms in fp32 on this machine; of ")
    remember(cache, fp32=0.1, int8=0.3)
    slow = Backbone.open(twice, "auto")
    assert (slow.precision, slow.note[:16]) == ("fp32", "precision fp32: ")
    size = slow.manifest.preprocess.size
    assert slow.encode_images(np.zeros((1, 3, size, size), np.float32)).shape == (1, slow.manifest.embed_dim)


def test_without_auto_nothing_is_tried_nor_said(twice: Path, cache: Path) -> None:
    for precision in ("fp32", "int8"):
        backbone = Backbone.open(twice, precision)
        assert (backbone.precision, backbone.note) == (precision, "")
    assert not (cache / speed.FILE_NAME).exists()


def test_another_encoder_file_is_another_trial(twice: Path, cache: Path) -> None:
    """int8 exported again has the fingerprint of the source model, and other layers in float."""
    Backbone.open(twice, "auto")
    manifest = json.loads((twice / "manifest.json").read_text())
    manifest["files"]["image.int8.onnx"]["sha256"] = "0" * 64
    (twice / "manifest.json").write_text(json.dumps(manifest))
    Backbone.open(twice, "auto")
    assert len(json.loads((cache / speed.FILE_NAME).read_text())) == 2


def test_a_precision_that_fails_the_gate_is_not_even_tried(nano: Backbone, tmp_path: Path, cache: Path) -> None:
    folder = nano_in(tmp_path / "gated", "int8", "w4a4", agreement={"w4a4": 0.9})
    Backbone.open(folder, "auto")
    assert [sorted(trial) for trial in json.loads((cache / speed.FILE_NAME).read_text()).values()] == [["fp32", "int8"]]
    remember(cache, fp32=0.3, int8=0.1)
    note = Backbone.open(folder, "auto").note
    assert "w4a4 left out: of" in note
    assert "10.0 % in w4a4 got another label, at most 2% may" in note
