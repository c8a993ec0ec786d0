"""The methods by name: found, asked, and refused before anything slow is done."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from common import ROOT, MakePhotos

from edge_qprompt import Backbone
from edge_qprompt.errors import BackboneError, MissingExtraError, PromptError
from edge_qprompt.learn import AdaptSettings, adapt
from edge_qprompt.learn.method import Method
from edge_qprompt.learn.methods.registry import METHODS, Methods, by_name
from edge_qprompt.learn.settings import MethodSettings
from edge_qprompt.photos import load_dataset


def plug_in(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> Methods:
    """The methods, with one more of another package."""
    (folder / "toy_method.py").write_text(code)
    info = folder / "toy_method-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-method\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edge_qprompt.methods]\ntoy = toy_method:Toy\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "toy_method", raising=False)
    found = Methods()
    monkeypatch.setattr(sys.modules["edge_qprompt.learn.adapt"], "METHODS", found)  # the face has a function of that name
    return found


@pytest.fixture
def no_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(*_: object, **__: object) -> None:
        raise AssertionError("photos were encoded, for nothing")

    monkeypatch.setattr(sys.modules["edge_qprompt.learn.adapt"], "features_of", encode)


def test_plug_ins_are_found_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plug_in(tmp_path, monkeypatch, "from edge_qprompt.learn import CoOp\nclass Toy(CoOp):\n    number = 200\n")
    assert list(found)[-1] == "toy"
    assert found["toy"].number == 200


@pytest.mark.parametrize("number", ["2", "127", "256", "None", "'x'"])
def test_a_plug_in_takes_no_number_of_ours(
    nano: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: MakePhotos, no_encoding: None, number: str
) -> None:
    """Its packs would be shown as qcoop's."""
    plug_in(tmp_path, monkeypatch, f"from edge_qprompt.learn import CoOp\nclass Toy(CoOp):\n    number = {number}\n")
    with pytest.raises(PromptError, match="from 128 to 255"):
        adapt(nano, photos("bag", "coat"), AdaptSettings(method="toy"))


def test_a_plug_in_inside_the_image_tower_is_refused_before_photos_are_encoded(
    nano: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: MakePhotos, no_encoding: None
) -> None:
    code = "from edge_qprompt.learn.methods.maple import MaPLe\nclass Toy(MaPLe):\n    number = 200\n"
    plug_in(tmp_path, monkeypatch, code)
    with pytest.raises(BackboneError, match="no vision transformer"):
        adapt(nano, photos("bag", "coat"), AdaptSettings(method="toy"))


def test_names_are_tried_behind_the_methods_own_number_of_tokens(nano: Backbone, photos: MakePhotos, no_encoding: None) -> None:
    """ProGrad's are 16, four times as many as the others'."""
    longest = nano.manifest.text.context_length - 2 - 5  # fits behind 4 tokens with its full stop, not behind 16
    data = load_dataset(photos("bag", "coat"))
    data = replace(data, names=(" ".join(["a"] * longest), "coat"))
    with pytest.raises(PromptError, match="tokens"):
        adapt(nano, data, AdaptSettings(method="prograd"))


def test_a_precision_that_no_pack_can_name_is_refused_before_photos_are_encoded(
    nano: Backbone, photos: MakePhotos, monkeypatch: pytest.MonkeyPatch, no_encoding: None
) -> None:
    monkeypatch.setattr(nano, "precision", "fp8")
    with pytest.raises(BackboneError, match="learned for fp8"):
        adapt(nano, photos("bag", "coat"), AdaptSettings(method="qres"))


def test_without_torch_adapt_says_what_to_install(nano: Backbone, photos: MakePhotos, monkeypatch: pytest.MonkeyPatch) -> None:
    find, folder = importlib.util.find_spec, photos("bag", "coat")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "torch" else find(name, *more))
    with pytest.raises(MissingExtraError, match=r"pip install 'edge-qprompt\[adapt\]'"):
        adapt(nano, folder, AdaptSettings(method="coop"))
    assert adapt(nano, folder).method == "qgda"


def test_methods_are_listed_and_asked_without_torch() -> None:
    code = (
        "import sys; from edge_qprompt.learn import METHODS; "
        "print(len([(m.takes, m.n_ctx, m.schedule, m.Options()) for m in METHODS.ours.values()]), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.split() == [str(len(METHODS.ours)), "False"]


def test_the_pack_format_names_every_method() -> None:
    said = re.findall(
        r"(\d+) `([^`]+)`", (ROOT / "docs" / "pack-format.md").read_text().partition("## Methods")[2].split("##")[0]
    )
    own = {str(method.number): name for name, method in METHODS.ours.items() if "number" in vars(method) and method.number < 128}
    assert dict(said) == own


def made(name: str, number: int, base: type[Method] = METHODS["qcoop"]) -> type[Method]:
    return type("Made", (base,), {"name": name, "number": number})


def test_names_and_numbers_that_are_taken_are_refused() -> None:
    with pytest.raises(PromptError, match="two methods have the name a"):
        by_name([made("a", 30), made("a", 31)])
    with pytest.raises(PromptError, match="the methods a and b have the number 30"):
        by_name([made("a", 30), made("b", 30)])
    same_packs = type("Same", (first := made("a", 30),), {"name": "b"})
    assert list(by_name([first, same_packs])) == ["a", "b"]


@pytest.mark.parametrize(
    ("method", "given", "wanted"),
    [
        ("clip-lora", {"lora_rank": "4"}, 4),
        ("clip-lora", {"lora_rank": 4.0}, 4),
        ("noise-coop", {"noise_std": "1e-3"}, 1e-3),
        ("noise-coop", {"noise_std": 1}, 1.0),
        ("p4q", {"trusting": "true"}, True),
        ("p4q", {"trusting": False}, False),
    ],
)
def test_options_are_read_as_what_they_are(method: str, given: dict[str, object], wanted: object) -> None:
    (name,) = given
    found = getattr(METHODS[method].read_options(given), name)
    assert (found, type(found)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("coop", {"lora_rank": 4}, "the method coop has no option lora_rank: it has none"),
        ("clip-lora", {"lora_rnk": 4}, "clip-lora has no option lora_rnk: it has lora_rank, lora_dropout"),
        ("clip-lora", {"lora_rank": "four"}, "clip-lora's lora_rank is 'four', wanted int like 2"),
        ("clip-lora", {"lora_rank": 2.5}, "wanted int like 2"),
        ("clip-lora", {"lora_rank": True}, "wanted int like 2"),
        ("p4q", {"trusting": 1}, "wanted bool like False"),
        ("noise-coop", {"noise_std": "much"}, "wanted float like 0.01"),
        ("noise-coop", {"noise_std": "nan"}, "noise_std is nan, it must be 0 or more, and finite"),
        ("qres", {"residual_bits": 9}, "the method qres: bits is 9, it can be 1 to 8"),
        ("qcoop+qres", {"residual_bits": "0"}, "bits is 0"),
        ("clip-adapter", {"adapter_width": -1}, "adapter_width is -1"),
        ("maple", {"prompt_depth": 0}, "prompt_depth is 0"),
        ("qmaple", {"prompt_depth": 0}, "prompt_depth is 0"),
        ("qmaple", {"prompt_bits": 9}, "bits is 9"),
        ("clip-lora", {"lora_rank": 0}, "lora_rank must be 1 or more"),
        ("clip-lora", {"lora_dropout": 1.0}, "lora_dropout from 0 to below 1"),
    ],
)
def test_options_that_cannot_be_are_refused_before_photos_are_encoded(
    nano: Backbone, photos: MakePhotos, no_encoding: None, method: str, given: dict[str, object], said: str
) -> None:
    with pytest.raises(PromptError, match=said):
        adapt(nano, photos("bag", "coat"), AdaptSettings(method=method, method_settings=MethodSettings(options=given)))
