"""The exporter end to end: random-weight models of each kind, through the command, against open_clip."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import numpy_helper
from PIL import Image
from small_models import RESNET, TIMM, VIT, build, save

from edge_qprompt.backbone.backbone import Backbone
from edge_qprompt.backbone.manifest import Manifest
from edge_qprompt.errors import ExportError
from edge_qprompt.photos.photo import decode_photo, to_pixels
from exporter import export as export_module
from exporter import gates
from exporter.commands.export import command
from exporter.photos import DEMO
from exporter.quantize import precisions as quantize
from exporter.source.source import import_open_clip

NAMES = ["ankle boot", "t-shirt", "sandal"]
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "resize_mode": "squash"}


def run(*arguments: str) -> Result:
    """The command, with our errors raised instead of printed."""
    return CliRunner().invoke(command, list(arguments), catch_exceptions=False)


class Exported:
    """A small model, its folder, and what the command printed."""

    def __init__(self, work: Path, config: dict[str, Any], suffix: str, *, preprocess: dict[str, Any] | None = None) -> None:
        self.model = build(config)
        self.preprocess = preprocess or {}
        settings = {"model_cfg": config, "preprocess_cfg": preprocess} if preprocess else config
        self.arguments = save(work, settings, self.model, suffix)
        self.folder = work / "backbone"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gates, "MIN_AGREEMENT", 0.5)  # labels of random weights hang by a hair
            result = run(*self.arguments, "--out", str(self.folder), "--licence", "none", "--json")
        self.printed = json.loads(result.stdout)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("vit"), VIT, ".pt")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("resnet"), RESNET, ".safetensors", preprocess=PREPROCESS)


@pytest.fixture(scope="module")
def timm(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("timm"), TIMM, ".bin")


@pytest.fixture(params=["vit", "resnet", "timm"])
def exported(request: pytest.FixtureRequest) -> Exported:
    return request.getfixturevalue(request.param)


def reference_image(model: Any, paths: list[Path], preprocess: dict[str, Any]) -> np.ndarray:
    """open_clip's own way from files to unit features."""
    size = model.visual.image_size
    transform = import_open_clip().image_transform(size[0] if isinstance(size, tuple) else size, is_train=False, **preprocess)
    with torch.inference_mode():
        return model.encode_image(torch.stack([transform(Image.open(path)) for path in paths]), normalize=True).numpy()


def pixels_of(backbone: Backbone, paths: list[Path]) -> np.ndarray:
    return np.stack([to_pixels(decode_photo(path.read_bytes()), backbone.manifest.preprocess) for path in paths])


def demo_photos(count: int) -> list[Path]:
    found = sorted(DEMO.rglob("*.png"))
    return found[:: len(found) // count][:count]


@pytest.mark.timeout(600)
def test_features_are_those_of_open_clip(exported: Exported) -> None:
    backbone, paths = Backbone.open(exported.folder), demo_photos(9)
    wanted = reference_image(exported.model, paths, exported.preprocess)
    got = backbone.encode_images(pixels_of(backbone, paths))
    assert np.abs(got - wanted).max() < 2e-6
    assert (wanted @ wanted.T).min() < 0.999, "the reference tells photos apart, or this test says nothing"


def test_class_features_are_those_of_open_clip(exported: Exported) -> None:
    backbone, open_clip = Backbone.open(exported.folder), import_open_clip()
    with torch.inference_mode():
        tokens = open_clip.tokenize([f"a photo of a {name}." for name in NAMES])
        wanted = exported.model.encode_text(tokens, normalize=True).numpy()
    assert np.abs(backbone.text.from_template(NAMES) - wanted).max() < 2e-6
    ctx = backbone.text_weights.token_vectors(backbone.tokenizer.encode("a photo of a"))
    assert np.abs(backbone.text.from_context(NAMES, ctx) - wanted).max() < 2e-6


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_any_batch_gives_the_same_features(exported: Exported, precision: str) -> None:
    backbone = Backbone.open(exported.folder, precision)
    pixels = pixels_of(backbone, demo_photos(7))
    whole = backbone.encode_images(pixels)
    assert whole.shape == (7, exported.printed["embed_dim"])
    # dynamic quantization takes one scale for a batch, so int8 features depend a little on their neighbours
    tolerance = 1e-6 if precision == "fp32" else 0.03
    for size in (1, 2):
        parts = np.concatenate([backbone.encode_images(pixels[i : i + size]) for i in range(0, 7, size)])
        assert np.abs(parts - whole).max() < tolerance


def test_the_folder_is_whole_and_keeps_secrets(exported: Exported) -> None:
    manifest = Manifest.read(exported.folder)
    names = {path.name for path in exported.folder.iterdir()}
    assert names == {*manifest.files, "manifest.json"}
    encoders, tokenizer = {"image.fp32.onnx", "image.int8.onnx", "text.onnx"}, {"tokenizer.json", "tokenizer_config.json"}
    prompted = {"image.safetensors", "image.prompted.onnx", "text.prompted.onnx"} if manifest.vision else set()
    assert bool(manifest.vision) == (exported.folder.parent.name.startswith("vit"))
    assert names - {"quantization.int8.json"} == {*encoders, *prompted, *tokenizer, "text.safetensors", "manifest.json"}
    assert ("quantization.int8.json" in names) or manifest.vision  # of a transformer, int8 may be the kind without ranges
    Backbone.open(exported.folder).verify()
    for name in ("image.fp32.onnx", "image.int8.onnx"):
        data = (exported.folder / name).read_bytes()
        assert b"stack_trace" not in data
        assert str(Path(torch.__file__).parent).encode() not in data


def test_the_result_is_one_object_and_true(exported: Exported) -> None:
    manifest = Manifest.read(exported.folder)
    assert exported.printed["folder"] == str(exported.folder)
    assert exported.printed["fingerprint"] == manifest.fingerprint
    assert exported.printed["licence"] == "none"
    assert manifest.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert manifest.precisions["fp32"].cosine >= 0.9999
    assert manifest.precisions["fp32"].top1_agreement == 1
    assert manifest.precisions["int8"].cosine >= 0.99
    assert manifest.precisions["int8"].photos == 64
    assert any("grey pictures" in line for line in exported.printed["warnings"])


def test_int8_is_smaller(exported: Exported) -> None:
    files = Manifest.read(exported.folder).files
    assert files["image.int8.onnx"].bytes < 0.6 * files["image.fp32.onnx"].bytes


def test_settings_of_the_configuration_arrive(resnet: Exported, vit: Exported) -> None:
    settled = Manifest.read(resnet.folder).preprocess
    assert (settled.size, settled.mean, settled.std) == (64, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert (settled.interpolation, settled.resize_mode) == ("bilinear", "squash")
    text = Manifest.read(vit.folder).text
    assert (text.activation, text.heads, text.layers, text.sot, text.eot) == ("quick_gelu", 2, 2, 49406, 49407)
    assert Manifest.read(resnet.folder).text.activation == "gelu"


def corrupt_image(vit: Exported, factor: float) -> Callable[..., None]:
    """A stand-in for write_image_graph: the right graph, with one block's weights off."""

    def write(folder: Path, *_: object) -> None:
        model = onnx.load(vit.folder / "image.fp32.onnx")
        tensor = next(t for t in model.graph.initializer if "out_proj.weight" in t.name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
        onnx.save(model, folder / "image.fp32.onnx")

    return write


def test_a_wrong_image_encoder_is_refused(vit: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "write_image_graph", corrupt_image(vit, 1.0))
    run(*vit.arguments, "--out", str(tmp_path / "right"), "--no-int8")  # the stand-in itself passes
    monkeypatch.setattr(export_module, "write_image_graph", corrupt_image(vit, 1.5))
    with pytest.raises(ExportError, match=r"image encoder is not the source's: smallest cosine 0\.9"):
        run(*vit.arguments, "--out", str(tmp_path / "wrong"))
    assert [path.name for path in tmp_path.iterdir()] == ["right"]


def test_not_a_number_is_refused(vit: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "write_image_graph", corrupt_image(vit, float("nan")))
    with pytest.raises(ExportError, match="smallest cosine nan"):
        run(*vit.arguments, "--out", str(tmp_path / "wrong"))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_replacement_leaves_the_old_folder(vit: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "backbone"
    monkeypatch.setattr(export_module, "write_image_graph", corrupt_image(vit, 1.0))
    run(*vit.arguments, "--out", str(target), "--no-int8")
    with pytest.raises(ExportError, match="exists: give another --out, or --replace"):
        run(*vit.arguments, "--out", str(target))
    monkeypatch.setattr(export_module, "write_image_graph", corrupt_image(vit, 1.5))
    with pytest.raises(ExportError, match="not the source's"):
        run(*vit.arguments, "--out", str(target), "--replace")
    Backbone.open(target).verify()
    assert Manifest.read(target).fingerprint == Manifest.read(vit.folder).fingerprint


def test_a_wrong_text_encoder_is_refused(vit: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text = export_module.write_text

    def spoil(folder: Path, tensors: dict[str, Any], *rest: Any) -> None:
        write_text(folder, {**tensors, "ln_final.bias": tensors["ln_final.bias"] + 0.2}, *rest)

    monkeypatch.setattr(export_module, "write_text", spoil)
    with pytest.raises(ExportError, match=r"text encoder is not the source's: smallest cosine 0\."):
        run(*vit.arguments, "--out", str(tmp_path / "wrong"))
    assert list(tmp_path.iterdir()) == []


def test_int8_that_is_too_far_off_is_not_written(vit: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "write_image_graph", corrupt_image(vit, 1.0))
    monkeypatch.setattr(gates, "MIN_COSINE_INT8", 1.01)
    printed = json.loads(run(*vit.arguments, "--out", str(tmp_path / "b"), "--json").stdout)
    assert list(printed["precisions"]) == ["fp32"]
    assert not (tmp_path / "b" / "image.int8.onnx").exists()
    (warning,) = printed["warnings"]
    assert warning.startswith("no int8 image encoder was written, the best had: smallest cosine 0.99")
    assert "wanted 1.01 and 98%" in warning
    Backbone.open(tmp_path / "b").verify()


def test_a_quantizer_that_breaks_costs_only_int8(vit: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(way: object, path: Path, nodes: object) -> None:
        path.write_bytes(b"half a graph")
        raise ValueError("no such operator")

    monkeypatch.setattr(export_module, "write_image_graph", corrupt_image(vit, 1.0))
    monkeypatch.setattr(quantize.Static, "write", broken)
    printed = json.loads(run(*vit.arguments, "--out", str(tmp_path / "b"), "--json").stdout)
    assert "cannot quantize this one (no such operator)" in printed["warnings"][0]
    Backbone.open(tmp_path / "b").verify()
    assert not (tmp_path / "b" / "image.int8.onnx").exists()


def test_unreadable_photos_are_counted(vit: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "write_image_graph", corrupt_image(vit, 1.0))
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, path in enumerate(demo_photos(3)):
        (photos / f"{i}.png").write_bytes(path.read_bytes())
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing else")
    arguments = [*vit.arguments, "--out", str(tmp_path / "b"), "--photos", str(photos), "--no-int8", "--json"]
    printed = json.loads(run(*arguments).stdout)
    assert printed["precisions"]["fp32"]["photos"] == 3
    assert printed["warnings"][0].startswith("1 of 4 photos cannot be read")
    for i in range(3):
        (photos / f"{i}.png").unlink()
    with pytest.raises(ExportError, match="none of the 1 photos can be read"):
        run(*arguments, "--replace")


def test_the_command_itself_is_light() -> None:
    code = (
        "import sys, exporter.commands.export as e; print(sorted({'torch', 'open_clip', 'onnx', 'onnxruntime'} & {*sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert found.stdout.strip() == "[]"
