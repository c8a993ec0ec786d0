"""Fixture of the tests of packs that change the encoders."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from encoder_changes import Exported
from small_models import VIT, build, save

from edge_qprompt.backbone.backbone import Backbone
from exporter.commands.export import command


@pytest.fixture(scope="module", params=["float32", "float16"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Stored in float32 with QuickGELU, or in float16 with the exact GELU."""
    work, halves = tmp_path_factory.mktemp("vit"), request.param == "float16"
    config = {**VIT, "quick_gelu": not halves}
    model = build(config)
    if halves:
        model.half().float()
    arguments = save(work, config, model)
    CliRunner().invoke(command, [*arguments, "--no-int8", "--out", str(work / "b")], catch_exceptions=False)
    return Exported(model, Backbone.open(work / "b"), request.param, arguments)
