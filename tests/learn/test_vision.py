"""Parity of the image tower, and of the text tower's inner layers, with open_clip's: values and gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from click.testing import CliRunner
from reference_clip import image_features, low_rank, text_features
from small_models import VIT, build, save
from torch import Tensor

from edge_qprompt.backbone.backbone import Backbone
from edge_qprompt.errors import BackboneError
from edge_qprompt.learn.towers.block import LowRankQKV
from edge_qprompt.learn.towers.towers import Towers
from exporter.commands.export import command

VALUE, GRADIENT = 1e-5, 1e-4  # relative errors in float32
NAMES = ("cat", "golden retriever", "quokka", "a photograph of the umbrella")
LAYERS, WIDTH, TEXT_LAYERS = 3, 64, 2


class Case(NamedTuple):
    model: Any
    towers: Towers
    pixels: Tensor


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    work, config = tmp_path_factory.mktemp("vit"), {**VIT, "quick_gelu": request.param == "quick_gelu"}
    model = build(config)
    CliRunner().invoke(command, [*save(work, config, model), "--no-int8", "--out", str(work / "b")], catch_exceptions=False)
    return Case(model, Towers(Backbone.open(work / "b"), NAMES), draw(0, 5, 3, 32, 32))


def draw(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def compare(ours: Any, theirs: Any, *leaves: Tensor) -> None:
    """Same features, same gradients of a weighted sum of them."""
    found = []
    for tower in (ours, theirs):
        points = [leaf.clone().requires_grad_() for leaf in leaves]
        features = tower(*points)
        weighted = (features * draw(9, *features.shape)).sum()
        found.append([features.detach(), *torch.autograd.grad(weighted, points)])
    for i, (mine, wanted) in enumerate(zip(*found, strict=True)):
        assert wanted.norm() > 0
        assert (mine - wanted).norm() < (GRADIENT if i else VALUE) * wanted.norm()


def test_photos_without_prompts(case: Case) -> None:
    features = case.towers.vision(case.pixels)
    assert not features.requires_grad
    wanted = case.model.encode_image(case.pixels, normalize=True)
    assert (features - wanted).norm() < VALUE * wanted.norm()
    assert torch.equal(features, case.towers.vision(case.pixels, draw(1, 2, 0, WIDTH).unbind()))


@pytest.mark.parametrize("depth", range(1, LAYERS + 1))
@pytest.mark.parametrize("n", [1, 4])
def test_photos_with_prompts(case: Case, depth: int, n: int) -> None:
    compare(
        lambda prompts: case.towers.vision(case.pixels, prompts.unbind()),
        lambda prompts: image_features(case.model, case.pixels, prompts.unbind()),
        draw(1, depth, n, WIDTH),
    )


@pytest.mark.parametrize("n", [1, 2])
def test_text_with_deep_prompts(case: Case, n: int) -> None:
    rows, suffixes = case.towers.backbone.tokenizer.fit([f"{name}." for name in NAMES], 2 + n), case.towers.behind(n)
    compare(
        lambda ctx, deep: case.towers.text(ctx, suffixes, deep.unbind()),
        lambda ctx, deep: text_features(case.model, rows, ctx, deep.unbind()),
        draw(1, n, WIDTH, scale=0.1),
        draw(2, TEXT_LAYERS - 1, n, WIDTH),
    )


def test_low_rank_additions(case: Case) -> None:
    rows = case.towers.backbone.tokenizer.fit([f"a blurry {name} indeed." for name in NAMES], 2)
    prompts = case.towers.written("a blurry {} indeed.")
    assert len(prompts.ctx) == 2
    empty = torch.zeros(0, WIDTH)
    for layers, ours, theirs in (
        (LAYERS, lambda low: case.towers.vision(case.pixels, low=low), lambda c: image_features(case.model, case.pixels, (), c)),
        (
            TEXT_LAYERS,
            lambda low: case.towers.text(prompts.ctx, prompts.suffixes, low=low),
            lambda c: text_features(case.model, rows, empty, (), c),
        ),
    ):
        compare(
            lambda down, up, ours=ours: ours([LowRankQKV(*pair) for pair in zip(down, up, strict=True)]),
            lambda down, up, theirs=theirs: theirs(low_rank(down, up)),
            draw(1, layers, 3, 2, WIDTH, scale=0.2),
            draw(2, layers, 3, WIDTH, 2, scale=0.2),
        )


def test_a_prompt_shared_by_all_classes_is_that_class_alone(case: Case) -> None:
    alone = Towers(case.towers.backbone, NAMES[1:2]).written("a {}.")
    together = case.towers.written("a {}.")
    features = [case.towers.text(each.ctx, each.suffixes) for each in (alone, together)]
    assert (len(alone.ctx), len(together.ctx)) == (4, 1)  # all of it, and "a"
    torch.testing.assert_close(features[0][0], features[1][1], rtol=0, atol=1e-5)


def test_dropout_drops_its_share_of_the_input_for_q_k_and_v_apart() -> None:
    eye, share = torch.eye(50).expand(3, 50, 50), 0.25
    draws = torch.Generator().manual_seed(0)
    out = LowRankQKV(eye, eye, share, draws)(torch.ones(400, 50), range(3)).view(400, 3, 50)
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (out == 0).float().mean().item() == pytest.approx(share, abs=0.01)
    both = ((out[:, 0] == 0) & (out[:, 1] == 0)).float().mean().item()
    assert both == pytest.approx(share**2, abs=0.01)


def test_a_backbone_without_such_a_tower_says_what_to_do(nano: Backbone) -> None:
    with pytest.raises(BackboneError, match="edge-qprompt export ViT-B-16"):
        _ = Towers(nano, NAMES).vision


def test_only_prompts_get_a_gradient(case: Case) -> None:
    tower = case.towers.vision
    frozen = [tower.patches, tower.positions, tower.projection, *(b.qkv.weight for b in tower.blocks)]
    assert not any(t.requires_grad for t in frozen)
