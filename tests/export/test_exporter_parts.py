"""The exporter's parts: what it takes and what it refuses, tokenizer and preprocessing parity."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from common import ROOT
from PIL import Image
from small_models import RESNET, TEXT, VIT, build, save

from edge_qprompt.backbone.manifest import Preprocess
from edge_qprompt.backbone.tokenizer import Tokenizer
from edge_qprompt.errors import ExportError, MissingExtraError
from edge_qprompt.photos.photo import decode_photo, to_pixels
from exporter.commands.export import command
from exporter.folder import fingerprint
from exporter.gates import HARD_NAMES
from exporter.photos import DEMO, EVERYDAY, find_photos
from exporter.request import Request
from exporter.source import source
from exporter.source.source import Source, import_open_clip, load
from exporter.source.supported import TEXT_RULES, check_supported
from exporter.source.tokenizer_file import write_tokenizer

DATASETS = ROOT.parent / "shared" / "datasets"
UNSUPPORTED = {
    "hf_model_name": "roberta-base", "hf_tokenizer_name": "bert-base-uncased", "tokenizer_mode": "clips",
    "tokenizer_kwargs": {"clean": "canonicalize"}, "vocab_size": 32000, "ls_init_value": 1e-4, "embed_cls": True,
    "no_causal_mask": True, "pool_type": "last", "proj_type": "none", "proj_bias": True, "output_tokens": True,
    "act_kwargs": {"approximate": "tanh"}, "block_type": "custom", "qk_norm": True, "scaled_cosine_attn": True,
    "scale_heads": True, "scale_attn_inner": True, "scale_attn": True, "scale_fc": True,
}  # fmt: skip


def loaded(folder: Path, config: dict[str, Any] = VIT, suffix: str = ".pt", seed: int = 0) -> Source:
    """A small source, through files."""
    _, _, weights, _, settings = save(folder, config, build(config, seed), suffix)
    return load(Request("tiny", checkpoint=Path(weights), model_config=Path(settings)))


# what is refused


def test_every_rule_has_a_case() -> None:
    assert set(UNSUPPORTED) == set(TEXT_RULES)
    check_supported("tiny", VIT)
    check_supported("tiny", {**VIT, "text_cfg": {**TEXT, "pool_type": "argmax", "norm_kwargs": {"eps": 1e-6}, "mlp_ratio": 3}})


@pytest.mark.parametrize("key", sorted(UNSUPPORTED))
def test_other_text_towers_are_refused(key: str) -> None:
    with pytest.raises(ExportError, match=rf"tiny cannot be exported: it has .*\({key}="):
        check_supported("tiny", {**VIT, "text_cfg": {**TEXT, key: UNSUPPORTED[key]}})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({**VIT, "multimodal_cfg": {}}, "CoCa"),
        ({**VIT, "vision_cfg": {**VIT["vision_cfg"], "image_size": [32, 64]}}, "not square .32 x 64"),
        ({**VIT, "vision_cfg": {**VIT["vision_cfg"], "output_tokens": True}}, "second output of the image tower"),
        ({"embed_dim": 32, "text_cfg": TEXT}, "lacks vision_cfg"),
    ],
)
def test_other_models_are_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        check_supported("tiny", config)


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "coca_ViT-B-32", "roberta-ViT-B-32", "MobileCLIP-S1", "ViT-L-14-CLIPA"])
def test_models_of_open_clip_that_do_not_fit_are_refused_before_a_download(name: str) -> None:
    with pytest.raises(ExportError, match=f"{name} cannot be exported"):
        load(Request(name, checkpoint=Path("nowhere.pt")))


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Request("ViT-B-32", "openai"), "trained with QuickGELU.*use ViT-B-32-quickgelu"),
        (Request("RN50", "openai", Path("nowhere.pt")), "export RN50-quickgelu openai"),
        (Request("ViT-B-32", "nonsense"), "no weights 'nonsense' for ViT-B-32, it has: .*laion2b_s34b_b79k"),
        (Request("VIT-B32", "openai"), r"no model 'VIT-B32' \(.*ViT-B-32"),
        (Request("ViT-L-14", checkpoint=Path("nowhere.pt")), "differ in how photos are prepared.*laion2b_s32b_b82k"),
        (Request("ViT-B-32", checkpoint=Path("nowhere.pt")), "cannot read nowhere.pt: No such file"),
        (Request("x", checkpoint=Path("x.pt"), model_config=Path(__file__)), "no model configuration"),
    ],
)
def test_requests_that_cannot_be_met(request_: Request, reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        load(request_)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["ViT-B-32"], "no weights for ViT-B-32"),
        (["ViT-B-32", "openai", "--model-config", "x.json"], "describes a model of your own"),
        (["ViT-B-32", "--checkpoint", "x.npz"], "not a file of weights"),
        (["ViT-B-32", "openai", "--name", "../up"], "cannot be a folder's"),
    ],
)
def test_wrong_usage(arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert reason in result.stderr


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    _, _, weights, *_ = save(tmp_path, VIT, build(VIT))
    (tmp_path / "other.json").write_text(json.dumps(RESNET))
    with pytest.raises(ExportError, match="cannot be loaded into this model"):
        load(Request("tiny", checkpoint=Path(weights), model_config=tmp_path / "other.json"))


class Trap:
    """A pickle that runs code when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_code_of_a_checkpoint_runs(tmp_path: Path) -> None:
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "weights.pt")
    (tmp_path / "config.json").write_text(json.dumps(VIT))
    with pytest.raises(ExportError, match="cannot be loaded"):
        load(Request("tiny", checkpoint=tmp_path / "weights.pt", model_config=tmp_path / "config.json"))
    assert not (tmp_path / "sprung").exists()


def test_a_missing_open_clip_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"open_clip_torch.*pip install 'edge-qprompt\[export\]'"):
        load(Request("ViT-B-32", "laion2b_s34b_b79k"))


# what is loaded


def test_an_archive_of_openai_needs_quick_gelu(tmp_path: Path) -> None:
    model = build(VIT)
    del model.context_length, model.vocab_size  # plain attributes here, tensors in the archive
    for i, key in enumerate((source.OPENAI_MARK, "context_length", "vocab_size")):
        model.register_buffer(key, torch.tensor(i))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, (torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.long)), check_trace=False)
        torch.jit.save(traced.half(), str(tmp_path / "openai.pt"))
    exact = {**VIT, "quick_gelu": False}
    for config, path in ((VIT, tmp_path / "quick.json"), (exact, tmp_path / "exact.json")):
        path.write_text(json.dumps(config))
    found = load(Request("tiny", checkpoint=tmp_path / "openai.pt", model_config=tmp_path / "quick.json"))
    assert np.array_equal(found.text_tensors["text_projection"], model.text_projection.half().float().numpy())
    with pytest.raises(ExportError, match="trained with QuickGELU: use the model's -quickgelu name"):
        load(Request("tiny", checkpoint=tmp_path / "openai.pt", model_config=tmp_path / "exact.json"))


def test_the_fingerprint_sees_what_changes_a_feature(tmp_path: Path) -> None:
    def of(config: dict[str, Any], seed: int = 0) -> str:
        s = loaded(tmp_path, config, seed=seed)
        return fingerprint(s.tensors, s.tokenizer, s.preprocess, s.text, s.logit_scale)

    heads = {**VIT, "vision_cfg": {**VIT["vision_cfg"], "head_width": 16}}  # the same weights, another function
    assert of(VIT) == of(VIT)
    assert len({of(VIT), of(VIT, seed=1), of(heads), of({**VIT, "quick_gelu": False})}) == 4


def test_photos_are_spread_and_named(tmp_path: Path) -> None:
    for name in ("green_tea", "black-tea"):
        (tmp_path / name).mkdir()
        for i in range(10):
            (tmp_path / name / f"{i}.JPG").touch()
        (tmp_path / name / "notes.txt").touch()
    found = find_photos(tmp_path, limit=4)
    assert [path.relative_to(tmp_path).as_posix() for path in found.paths] == [
        "black-tea/0.JPG", "black-tea/5.JPG", "green_tea/0.JPG", "green_tea/5.JPG"
    ]  # fmt: skip
    assert found.names == ("black tea", "green tea")
    assert find_photos(tmp_path / "green_tea").names == EVERYDAY
    assert len(find_photos(DEMO).paths) == 64
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match="no photos in"):
        find_photos(tmp_path / "empty")


# parity of the parts that need no network


def test_tokens_are_those_of_open_clip(tmp_path: Path) -> None:
    small, open_clip = loaded(tmp_path), import_open_clip()
    write_tokenizer(tmp_path, small.tokenizer)
    ours, theirs = Tokenizer(tmp_path, small.text), open_clip.SimpleTokenizer()
    odd = ["Tom &amp; Jerry", "naïve\tcafé\n", "x" * 40, "🙂 smile", "No. 5"]
    names = [*open_clip.IMAGENET_CLASSNAMES, *HARD_NAMES, *odd]
    texts = [template.replace("{}", name) for name in names for template in ("{}", "a photo of a {}.")]
    assert len(texts) > 2000
    assert [text for text in texts if ours.encode(text) != theirs.encode(text)] == []


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("place", ["demo", "datasets"])
def test_pixels_are_those_of_open_clip(mode: str, interpolation: str, place: str) -> None:
    paths = sorted(DEMO.rglob("*.png")) if place == "demo" else sorted(DATASETS.glob("*/test/*/0.jpg"))
    if not paths:
        pytest.skip(f"no photos in {DATASETS}")
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    settings = Preprocess(224, 224, mode, interpolation, mean, std, fill=30)
    transform = import_open_clip().image_transform(
        224, is_train=False, mean=mean, std=std, resize_mode=mode, interpolation=interpolation, fill_color=30
    )
    for path in paths[:: max(1, len(paths) // 24)]:
        ours = to_pixels(decode_photo(path.read_bytes()), settings)
        assert np.abs(ours - transform(Image.open(path)).numpy()).max() <= 1e-6, path
