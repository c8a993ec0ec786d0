"""Which towers the exporter writes prompted graphs for, and what it holds them against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from encoder_changes import LAYERS, WIDTH, Exported
from small_models import RESNET, TIMM, VIT, build

from edge_qprompt.backbone.manifest import Manifest, VisionConfig
from edge_qprompt.errors import EdgeQPromptError, ExportError
from exporter import export as export_module
from exporter.commands.export import command
from exporter.source.vision import vision_config, vision_tensors


@pytest.mark.parametrize(
    "more",
    [
        {"pool_type": "avg"},
        {"no_ln_pre": True},
        {"ls_init_value": 0.1},
        {"attentional_pool": True},
        {"qk_norm": True},
        {"act_kwargs": {"approximate": "tanh"}},
    ],
)
def test_other_towers_get_no_prompts(more: dict[str, Any]) -> None:
    config = {**VIT, "quick_gelu": False}
    assert vision_config(build(config).visual) == VisionConfig(WIDTH, LAYERS, 2, 8, "gelu", 1e-5)
    assert vision_config(build({**config, "vision_cfg": {**VIT["vision_cfg"], **more}}).visual) is None


@pytest.mark.parametrize("config", [RESNET, TIMM])
def test_other_kinds_of_towers_get_no_prompts(config: dict[str, Any]) -> None:
    assert vision_config(build(config).visual) is None


def test_the_weights_are_whole(exported: Exported) -> None:
    tensors, weights = vision_tensors(exported.model.visual), exported.backbone.vision_weights
    assert set(tensors) == set(exported.model.visual.state_dict())
    assert all(np.array_equal(weights.tensor(name), values) for name, values in tensors.items())


def test_wrong_prompted_encoders_are_refused(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = export_module.write_prompted

    def spoil(folder: Path, tensors: dict[str, Any], *rest: Any) -> None:
        write(folder, {**tensors, "ln_post.bias": tensors["ln_post.bias"] + 0.5}, *rest)

    monkeypatch.setattr(export_module, "write_prompted", spoil)
    with pytest.raises(ExportError, match=r"image encoder is not the source's: smallest cosine 0\."):
        CliRunner().invoke(command, [*exported.arguments, "--out", str(tmp_path / "b")], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_of_an_older_version_has_no_vision(exported: Exported, tmp_path: Path) -> None:
    manifest = json.loads((exported.backbone.folder / "manifest.json").read_text())
    assert Manifest.read(exported.backbone.folder).vision == VisionConfig(**manifest["vision"])
    older = {key: value for key, value in manifest.items() if key != "vision"}
    for content, wanted in ((older, None), (manifest | {"vision": None}, None)):
        (tmp_path / "manifest.json").write_text(json.dumps(content))
        assert Manifest.read(tmp_path).vision is wanted
    for damage in ({"heads": 3}, {"patch": 0}, {"width": "64"}, {"activation": "relu"}):
        (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"vision": manifest["vision"] | damage}))
        with pytest.raises(EdgeQPromptError):
            Manifest.read(tmp_path)
