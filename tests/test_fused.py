"""The hand-written step gives the numbers of the readable one: every engine, thread count, chunking and order of calls."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_tower import VIT_B_32, Pair, nano_pair, random_pair
from torch import Tensor

from edge_qprompt.backbone.text import name_tokens
from edge_qprompt.errors import EdgeQPromptError
from edge_qprompt.learn.settings import EngineSettings
from edge_qprompt.learn.step import engine as engines
from edge_qprompt.learn.step.chunk import Chunk
from edge_qprompt.learn.step.engine import choose, trial
from edge_qprompt.learn.step.frozen import LowProduct, Product
from edge_qprompt.learn.step.fused import FusedTower
from edge_qprompt.learn.step.team import Team

NAMES = Path(__file__).parent.parent / "benchmarks" / "names.txt"
LONG = ["a long name of a photograph of the umbrella", "ibex"]
SMALL = dataclasses.replace(VIT_B_32, layers=3, width=128, heads=4)


@pytest.fixture(scope="module", params=["nano", "gelu", "quick-gelu"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    if request.param == "nano":
        return nano_pair()
    activation = "gelu" if request.param == "gelu" else "quick_gelu"
    pair = random_pair(dataclasses.replace(SMALL, activation=activation), tmp_path_factory.mktemp("tower"))
    generator = torch.Generator().manual_seed(3)
    for block in pair.ours.blocks:  # a fresh tower's norms and biases are ones and zeros, which would hide mistakes
        for tensor in (block.ln_1.weight, block.ln_2.weight):
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.3)
        for tensor in (block.ln_1.bias, block.ln_2.bias, block.qkv.bias, block.out.bias, block.fc.bias, block.proj.bias):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return pair


def context(pair: Pair, n_ctx: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(n_ctx, pair.config.width, generator=torch.Generator().manual_seed(seed)) * 0.02


def names(count: int) -> list[str]:
    return (LONG + NAMES.read_text().splitlines())[:count]


def features_and_gradient(encode: engines.Encode, ctx: Tensor) -> tuple[Tensor, Tensor]:
    point = ctx.clone().requires_grad_()
    features = encode(point)
    weight = torch.randn(features.shape, generator=torch.Generator().manual_seed(5))
    return features.detach(), torch.autograd.grad((features * weight).sum(), point)[0]


def same(pair: Pair, classes: int, n_ctx: int = 4, **settings: object) -> FusedTower:
    suffixes = pair.ours.suffixes(name_tokens(pair.tokenizer, names(classes), n_ctx), n_ctx)
    fused = FusedTower(pair.ours, suffixes, n_ctx, **settings)
    ctx = context(pair, n_ctx)
    for ours, wanted in zip(
        features_and_gradient(fused, ctx), features_and_gradient(lambda c: pair.ours(c, suffixes), ctx), strict=True
    ):
        assert float((ours - wanted).norm() / wanted.norm()) < 1e-5
    return fused


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 50, 200])
def test_numbers_of_classes(pair: Pair, classes: int) -> None:
    same(pair, classes)


@pytest.mark.parametrize("n_ctx", [1, 2, 16])
def test_lengths_of_context(pair: Pair, n_ctx: int) -> None:
    same(pair, 20, n_ctx)


@pytest.mark.parametrize(("threads", "used"), [(1, 1), (2, 2), (3, 2), (4, 4), (9, 4)])
def test_threads_that_divide_the_heads(pair: Pair, threads: int, used: int) -> None:
    assert same(pair, 40, threads=threads).threads == used


@pytest.mark.parametrize("megabytes", [0, 2, 6, 1000])
def test_bounded_memory_changes_nothing(pair: Pair, megabytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chunk.cut.__func__, "__defaults__", (96,))
    fused = same(pair, 200, memory=megabytes << 20)
    chunks, kept = len(fused._chunks), len(fused._memory)
    assert chunks > 5
    assert kept == {0: 1, 1000: chunks}.get(megabytes, kept)
    assert kept * fused._memory[0].nbytes <= max(megabytes << 20, fused._memory[0].nbytes)


def test_chunks_hold_every_class_once(pair: Pair) -> None:
    rows = name_tokens(pair.tokenizer, names(150), 4)
    suffixes = pair.ours.suffixes(rows, 4)
    for columns in (1, 20, 100, 10_000):
        chunks = Chunk.cut(pair.ours, suffixes, 4, columns)
        assert sum(chunk.classes for chunk in chunks) == 150
        assert all(chunk.columns <= max(columns, 5 + max(map(len, rows)) + 1) + 8 for chunk in chunks)


def test_a_gradient_that_comes_late_is_that_of_its_own_forward(pair: Pair) -> None:
    suffixes = pair.ours.suffixes(name_tokens(pair.tokenizer, names(12), 4), 4)
    fused = FusedTower(pair.ours, suffixes, 4)
    points = [context(pair, seed=seed).requires_grad_() for seed in (1, 2, 3)]
    sums = [fused(point).sum() for point in points]
    sums[1].backward()
    sums[0].backward(retain_graph=True)
    sums[2].backward()
    first = points[0].grad.clone()
    sums[0].backward()  # the same graph again
    for point in points:
        wanted = torch.autograd.grad(pair.ours(p := point.detach().clone().requires_grad_(), suffixes).sum(), p)[0]
        got = point.grad / (2 if point is points[0] else 1)
        assert float((got - wanted).norm() / wanted.norm()) < 1e-5
    assert torch.equal(points[0].grad, 2 * first)


def test_same_bits_again_and_on_an_unused_tower(pair: Pair) -> None:
    suffixes = pair.ours.suffixes(name_tokens(pair.tokenizer, names(30), 4), 4)
    towers = [FusedTower(pair.ours, suffixes, 4, threads=2) for _ in range(2)]
    results = [features_and_gradient(tower, context(pair)) for tower in (towers[0], towers[0], towers[1])]
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_bfloat16_is_near_but_not_the_same(pair: Pair) -> None:
    """Emulated where the processor has none: slow, the same numbers."""
    suffixes = pair.ours.suffixes(name_tokens(pair.tokenizer, names(20), 4), 4)
    exact, low = (FusedTower(pair.ours, suffixes, 4, product=p) for p in (Product, LowProduct))
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(20)
    photos = F.normalize(torch.randn(20, pair.ours.projection.shape[1], generator=generator), dim=-1)
    cosine = trial(exact, low, context(pair), lambda encode, ctx: F.cross_entropy(10 * photos @ encode(ctx).T, labels))
    assert 0.998 < cosine < 0.9999999


@pytest.mark.parametrize(
    ("name", "classes", "able", "cosine", "chosen"),
    [
        ("auto", 60, False, 1.0, "fused"),
        ("auto", 60, True, 0.9999, "bfloat16"),
        ("auto", 60, True, 0.9, "fused"),
        ("auto", 2, True, 0.9999, "fused"),
        ("bfloat16", 2, True, 0.9, "bfloat16"),
        ("fused", 60, True, 0.9999, "fused"),
        ("autograd", 60, True, 0.9999, "autograd"),
    ],
)
def test_the_choice_is_by_capability_size_and_trial(
    monkeypatch: pytest.MonkeyPatch, name: str, classes: int, able: bool, cosine: float, chosen: str
) -> None:
    monkeypatch.setattr(engines, "has_bfloat16", lambda: able)
    monkeypatch.setattr(engines, "trial", lambda *_: cosine)
    nano = nano_pair()
    suffixes = nano.ours.suffixes(name_tokens(nano.tokenizer, names(classes), 4), 4)
    engine = choose(EngineSettings(name), nano.ours, suffixes, context(nano), lambda *_: torch.zeros(()))
    assert engine.name == chosen
    assert ("bfloat16 not taken" in engine.note) == (cosine == 0.9 and chosen == "fused")


def test_bfloat16_is_refused_where_it_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "has_bfloat16", lambda: False)
    nano = nano_pair()
    suffixes = nano.ours.suffixes(name_tokens(nano.tokenizer, ["cat", "dog"], 4), 4)
    with pytest.raises(EdgeQPromptError, match="--engine fused"):
        choose(EngineSettings("bfloat16"), nano.ours, suffixes, context(nano), lambda *_: torch.zeros(()))


def test_a_failing_thread_stops_the_others_and_says_why() -> None:
    team = Team(3)

    def job(rank: int) -> int:
        team.meet(rank)
        if rank == 2:
            raise MemoryError("no room")
        team.meet(rank)
        return rank

    with pytest.raises(MemoryError, match="no room"):
        team.run(job)
    assert team.run(lambda rank: rank) == 0  # fit for work again


def test_libraries_do_not_start_threads_inside_a_team() -> None:
    def threads(_: int) -> list[int]:
        from threadpoolctl import threadpool_info

        np.ones((300, 300)) @ np.ones((300, 300))
        return [torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")]

    assert set(Team(2).run(threads)) == {1}
