"""Parity of the text tower with open_clip's: values, gradients, and through text.onnx."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_tower import VIT_B_32, Pair, nano_pair, random_pair

from edge_qprompt.backbone.text import name_tokens
from edge_qprompt.errors import PromptError

VALUE, GRADIENT = 1e-5, 1e-4  # relative errors in float32
WORDS = ("cat", "hound", "retriever", "satellite", "photograph", "zygote", "of", "the", "umbrella", "quokka", "xylophone", "ibex")


@pytest.fixture(scope="module", params=["vit-b-32", "nano", "quick-gelu"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    if request.param == "nano":
        return nano_pair()
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "vit-b-32":
        return random_pair(VIT_B_32, folder)
    return random_pair(dataclasses.replace(VIT_B_32, layers=2, width=128, heads=2, activation="quick_gelu"), folder)


def names_of_length(pair: Pair, tokens: int, count: int) -> list[str]:
    """`count` different names of exactly `tokens` tokens before the full stop."""
    rng, found = np.random.default_rng(tokens), set[str]()
    while len(found) < count:
        words = " ".join(rng.choice(WORDS, size=rng.integers(1, tokens + 1)))
        if len(pair.tokenizer.encode(f"{words}.")) == tokens + 1:
            found.add(words)
    return sorted(found)


def compare(pair: Pair, names: list[str], n_ctx: int = 4) -> None:
    rows = name_tokens(pair.tokenizer, names, n_ctx)
    generator = torch.Generator().manual_seed(len(names))
    start = torch.randn(n_ctx, pair.config.width, generator=generator) * 0.02
    weight = torch.randn(len(names), pair.ours.projection.shape[1], generator=generator)
    features, gradients = [], []
    for tower in (lambda ctx: pair.ours(ctx, pair.ours.suffixes(rows, n_ctx)), lambda ctx: pair.reference_features(ctx, rows)):
        ctx = start.clone().requires_grad_()
        out = tower(ctx)
        (out * weight).sum().backward()
        features.append(out.detach())
        gradients.append(ctx.grad)
    assert error(*features) < VALUE
    assert error(*gradients) < GRADIENT


def error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return float((ours - reference).norm() / reference.norm())


@pytest.mark.parametrize("tokens", range(1, 13))
def test_names_of_every_length(pair: Pair, tokens: int) -> None:
    compare(pair, names_of_length(pair, tokens, 3))


@pytest.mark.parametrize("classes", [1, 2, 10, 100])
@pytest.mark.timeout(600)
def test_numbers_of_classes(pair: Pair, classes: int) -> None:
    mixed = [name for tokens in range(1, 9) for name in names_of_length(pair, tokens, 4 if tokens == 1 else 40)]
    rng = np.random.default_rng(classes)
    compare(pair, [mixed[i] for i in rng.permutation(len(mixed))[:classes]])


@pytest.mark.parametrize("n_ctx", [1, 2, 16])
def test_lengths_of_context(pair: Pair, n_ctx: int) -> None:
    compare(pair, ["cat", "golden retriever", "a very long name of a photograph"], n_ctx)


def test_order_of_classes_does_not_matter(pair: Pair) -> None:
    names = ["hound", "a photograph of the umbrella", "cat"]
    ctx = torch.randn(4, pair.config.width, generator=torch.Generator().manual_seed(1)) * 0.02
    rows = name_tokens(pair.tokenizer, names, 4)
    forward = pair.ours(ctx, pair.ours.suffixes(rows, 4))
    backward = pair.ours(ctx, pair.ours.suffixes(rows[::-1], 4))
    torch.testing.assert_close(forward, backward.flip(0), rtol=0, atol=1e-6)


def test_inference_graph_gives_the_same_features(pair: Pair) -> None:
    names = [name for tokens in (1, 3, 7, 12) for name in names_of_length(pair, tokens, 4)] * 5  # two runs of the graph
    ctx = torch.randn(4, pair.config.width, generator=torch.Generator().manual_seed(2)) * 0.02
    rows = name_tokens(pair.tokenizer, names, 4)
    reference = pair.reference_features(ctx, rows).numpy()
    assert np.abs(pair.encoder.from_context(names, ctx.numpy()) - reference).max() < 1e-5
    torch_features = pair.ours(ctx, pair.ours.suffixes(rows, 4)).numpy()
    assert np.abs(torch_features - reference).max() < 1e-5


def test_a_context_of_another_width_is_refused(pair: Pair) -> None:
    with pytest.raises(PromptError, match=r"shape \(4, 7\)"):
        pair.encoder.from_context(["cat"], np.zeros((4, 7), np.float32))


def test_only_the_prompt_gets_a_gradient(tmp_path: Path) -> None:
    pair = random_pair(dataclasses.replace(VIT_B_32, layers=1, width=64, heads=1), tmp_path)
    assert not any(t.requires_grad for block in pair.ours.blocks for t in (block.qkv.weight, block.fc.weight, block.ln_1.weight))
