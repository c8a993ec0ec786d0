"""A step in bounded memory, in bfloat16 and on any number of threads; which of these is chosen."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from common import ROOT
from reference_tower import VIT_B_32, Pair, nano_pair, random_pair
from torch import Tensor

from edge_qprompt.backbone.text import name_tokens
from edge_qprompt.errors import EdgeQPromptError
from edge_qprompt.learn import step as engines
from edge_qprompt.learn.settings import EngineSettings
from edge_qprompt.learn.step import ParallelTower, choose, trial
from edge_qprompt.learn.towers.text import Suffixes

NAMES = ROOT / "benchmarks" / "names.txt"
LONG = ["a long name of a photograph of the umbrella", "ibex"]
SMALL = dataclasses.replace(VIT_B_32, layers=3, width=128, heads=4)


@pytest.fixture(scope="module", params=["nano", "gelu", "quick-gelu"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    if request.param == "nano":
        return nano_pair()
    activation = "gelu" if request.param == "gelu" else "quick_gelu"
    return random_pair(dataclasses.replace(SMALL, activation=activation), tmp_path_factory.mktemp("tower"))


def context(pair: Pair, n_ctx: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(n_ctx, pair.config.width, generator=torch.Generator().manual_seed(seed)) * 0.02


def token_rows(pair: Pair, count: int, n_ctx: int = 4) -> list[list[int]]:
    return name_tokens(pair.tokenizer, (LONG + NAMES.read_text().splitlines())[:count], n_ctx)


def classes(pair: Pair, count: int, n_ctx: int = 4, multiple: int = 1) -> Suffixes:
    return pair.ours.suffixes(token_rows(pair, count, n_ctx), n_ctx, multiple)


def features_and_gradient(encode: engines.Encode, ctx: Tensor) -> tuple[Tensor, Tensor]:
    point = ctx.clone().requires_grad_()
    features = encode(point)
    weight = torch.randn(features.shape, generator=torch.Generator().manual_seed(5))
    return features.detach(), torch.autograd.grad((features * weight).sum(), point)[0]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_threads_and_bounded_memory_change_nothing(pair: Pair, threads: int, share: float) -> None:
    suffixes = classes(pair, 200, multiple=threads)
    assert len(suffixes) % threads == 0
    memory = int(share * pair.ours.kept_bytes(suffixes) * len(suffixes))
    tower = ParallelTower(pair.ours, suffixes, threads, memory)
    for ours, wanted in zip(
        features_and_gradient(tower, context(pair)),
        features_and_gradient(lambda ctx: pair.ours(ctx, suffixes), context(pair)),
        strict=True,
    ):
        assert float((ours - wanted).norm() / wanted.norm()) < 1e-5


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_what_is_kept_for_the_gradient_is_bounded(pair: Pair, share: float) -> None:
    suffixes = classes(pair, 200)
    memory, kept, saved = int(share * pair.ours.kept_bytes(suffixes) * len(suffixes)), {}, []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)  # alive: an address would be used again
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {
        tensor.untyped_storage().data_ptr()
        for block in pair.ours.blocks
        for linear in (block.qkv, block.out, block.fc, block.proj)
        for tensor in (linear.weight, linear.bias)
    }
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ParallelTower(pair.ours, suffixes, 1, memory)(context(pair).requires_grad_())
    ours = sum(size for address, size in kept.items() if address not in weights)
    assert ours < memory + pair.ours.projection.nbytes + suffixes.mask.nbytes * 2
    assert ours > 0.2 * memory  # and is made use of


def test_sequences_hold_every_class_once(pair: Pair) -> None:
    suffixes = classes(pair, 150)
    assert len(suffixes.classes) == len(set(suffixes.classes.tolist())) == 150
    parts = [suffixes.part(i, i + 1) for i in range(len(suffixes))]
    assert sum(len(part.classes) for part in parts) == 150
    features = torch.cat([pair.ours(context(pair), part) for part in parts])
    torch.testing.assert_close(features, pair.ours(context(pair), suffixes), rtol=0, atol=1e-6)


@pytest.mark.parametrize("memory", [0, 1 << 40])
def test_a_gradient_that_comes_late_is_that_of_its_own_forward(pair: Pair, memory: int) -> None:
    suffixes = classes(pair, 60)
    tower = ParallelTower(pair.ours, suffixes, 1, memory)
    points = [context(pair, seed=seed).requires_grad_() for seed in (1, 2)]
    sums = [tower(point).sum() for point in points]
    sums[0].backward(retain_graph=True)
    sums[1].backward()
    first = points[0].grad.clone()
    sums[0].backward()  # the same graph again
    for point, count in zip(points, (2, 1), strict=True):
        wanted = torch.autograd.grad(pair.ours(p := point.detach().clone().requires_grad_(), suffixes).sum(), p)[0]
        assert float((point.grad / count - wanted).norm() / wanted.norm()) < 1e-5
    assert torch.equal(points[0].grad, 2 * first)


@pytest.mark.parametrize("threads", [1, 2])
def test_same_bits_again(pair: Pair, threads: int) -> None:
    suffixes = classes(pair, 30, multiple=threads)
    results = [features_and_gradient(ParallelTower(pair.ours, suffixes, threads), context(pair)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_bfloat16_is_near_but_not_the_same(pair: Pair) -> None:
    """Emulated where the processor has none: slow, the same numbers."""
    suffixes = classes(pair, 20)
    exact, low = (ParallelTower(tower, suffixes) for tower in (pair.ours, pair.ours.in_bfloat16()))
    labels = torch.arange(20)
    photos = torch.randn(20, pair.ours.projection.shape[1], generator=torch.Generator().manual_seed(7))
    unit = F.normalize(photos, dim=-1)
    cosine = trial(exact, low, context(pair), lambda encode, ctx: F.cross_entropy(10 * unit @ encode(ctx).T, labels))
    assert 0.998 < cosine < 0.9999999


@pytest.mark.parametrize(
    ("name", "count", "able", "cosine", "chosen"),
    [
        ("auto", 60, False, 1.0, "float32"),
        ("auto", 60, True, 0.9999, "bfloat16"),
        ("auto", 60, True, 0.9, "float32"),
        ("auto", 2, True, 0.9999, "float32"),
        ("bfloat16", 2, True, 0.9, "bfloat16"),
        ("float32", 60, True, 0.9999, "float32"),
    ],
)
def test_the_choice_is_by_capability_size_and_trial(
    monkeypatch: pytest.MonkeyPatch, name: str, count: int, able: bool, cosine: float, chosen: str
) -> None:
    monkeypatch.setattr(engines, "has_bfloat16", lambda: able)
    monkeypatch.setattr(engines, "trial", lambda *_: cosine)
    nano = nano_pair()
    engine = choose(EngineSettings(name), nano.ours, token_rows(nano, count), context(nano), lambda *_: torch.zeros(()))
    assert engine.name == chosen
    assert ("bfloat16 not taken" in engine.note) == (cosine == 0.9 and chosen == "float32")


def test_bfloat16_is_refused_where_it_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "has_bfloat16", lambda: False)
    nano = nano_pair()
    with pytest.raises(EdgeQPromptError, match="--engine float32"):
        choose(EngineSettings("bfloat16"), nano.ours, token_rows(nano, 2), context(nano), lambda *_: torch.zeros(()))


def test_a_failing_thread_says_why_and_the_tower_works_on(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = ParallelTower(pair.ours, classes(pair, 60, multiple=2), 2)
    with monkeypatch.context() as patch:
        patch.setattr(tower, "_tower", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
        with pytest.raises(MemoryError, match="no room"):
            tower(context(pair))
    assert tower(context(pair)).shape[0] == 60


def test_torch_starts_no_threads_inside_of_ours(pair: Pair) -> None:
    counts = []

    class Counted:
        def __getattr__(self, name: str) -> object:
            return getattr(pair.ours, name)

        def __call__(self, *args: object) -> Tensor:
            counts.append(torch.get_num_threads())
            return pair.ours(*args)

    ParallelTower(Counted(), classes(pair, 60, multiple=2), 2)(context(pair))
    assert counts == [1, 1]
