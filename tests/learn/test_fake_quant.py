"""Quantized towers against their formulas, written down once more: values, and the gradient straight through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from edge_qprompt.backbone.fixed_point import Product, Quantization, Range
from edge_qprompt.backbone.manifest import TextConfig, VisionConfig
from edge_qprompt.backbone.weights import Weights
from edge_qprompt.errors import BackboneError
from edge_qprompt.learn.settings import EngineSettings
from edge_qprompt.learn.step import choose
from edge_qprompt.learn.towers.fake_quant import rounded, rounded_weight
from edge_qprompt.learn.towers.image import VisionTower
from edge_qprompt.learn.towers.text import TextTower

W, HEADS, LAYERS, D, PATCH, SIZE, CONTEXT = 32, 2, 2, 16, 4, 12, 16
TEXT = TextConfig(CONTEXT, 50, W, LAYERS, HEADS, "quick_gelu", 1e-5, 48, 49)
VISION = VisionConfig(W, LAYERS, HEADS, PATCH, "quick_gelu", 1e-5)
ROWS = [[3, 4], [5], [6, 7, 8], [9, 10]]
KINDS = ((0,), (1, 2), (3, 4), (5,), (6,), (7,))  # the activations of each product of a layer
SCHEMES = {"int8": (8, 8), "w4a8": (4, 8), "w4a4": (4, 4)}

Act = Callable[[int, int, Tensor], Tensor]
State = dict[str, Tensor]


class Case(NamedTuple):
    """A tower with its ranges, the same by its formulas, and where the gradient is taken."""

    ours: Callable[[Tensor], Tensor]
    plain: Callable[[Tensor], Tensor]
    reference: Callable[[Tensor], Tensor]
    start: Tensor


def draw(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def weights_of(shapes: dict[str, tuple[int, ...]]) -> State:
    blocks = {
        f"transformer.resblocks.{i}.{name}": shape
        for i in range(LAYERS)
        for name, shape in {
            "ln_1.weight": (W,), "ln_1.bias": (W,), "ln_2.weight": (W,), "ln_2.bias": (W,),
            "attn.in_proj_weight": (3 * W, W), "attn.in_proj_bias": (3 * W,),
            "attn.out_proj.weight": (W, W), "attn.out_proj.bias": (W,),
            "mlp.c_fc.weight": (4 * W, W), "mlp.c_fc.bias": (4 * W,), "mlp.c_proj.weight": (W, 4 * W), "mlp.c_proj.bias": (W,),
        }.items()
    }  # fmt: skip
    return {name: draw(i, *shape, scale=0.3) for i, (name, shape) in enumerate({**shapes, **blocks}.items())}


def rounded_as_the_formula_says(x: Tensor, range_: Range) -> Tensor:
    """Identity's gradient where the integer is not clipped, none elsewhere."""
    wanted = torch.round(x / range_.scale) + range_.zero
    integer = wanted.clamp(0, 2**range_.bits - 1)
    value = range_.scale * (integer - range_.zero)
    return torch.where(wanted == integer, x + (value - x).detach(), value.detach())


def weight_as_the_formula_says(weight: Tensor, bits: int) -> Tensor:
    levels = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim=1, keepdim=True) / levels
    return torch.round(weight / scale) * scale


def layer(x: Tensor, state: State, i: int, act: Act, bits: int, mask: Tensor | None) -> Tensor:
    """One block on (..., T, W), without a shortcut."""

    def get(name: str) -> Tensor:
        value = state[f"transformer.resblocks.{i}.{name}"]
        return weight_as_the_formula_says(value, bits) if bits and value.ndim == 2 else value

    h = F.layer_norm(x, (W,), get("ln_1.weight"), get("ln_1.bias"))
    qkv = act(i, 0, h) @ get("attn.in_proj_weight").T + get("attn.in_proj_bias")
    q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(-3, -2) for part in qkv.split(W, dim=-1))  # (..., H, T, d)
    scores = act(i, 1, q / (W / HEADS) ** 0.5) @ act(i, 2, k).transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    mixed = act(i, 3, scores.softmax(-1)) @ act(i, 4, v)
    mixed = mixed.transpose(-3, -2).flatten(-2)
    x = x + act(i, 5, mixed) @ get("attn.out_proj.weight").T + get("attn.out_proj.bias")
    h = F.layer_norm(x, (W,), get("ln_2.weight"), get("ln_2.bias"))
    h = act(i, 6, h) @ get("mlp.c_fc.weight").T + get("mlp.c_fc.bias")
    return x + act(i, 7, h * torch.sigmoid(1.702 * h)) @ get("mlp.c_proj.weight").T + get("mlp.c_proj.bias")


def text_features(ctx: Tensor, state: State, act: Act, bits: int) -> Tensor:
    """All prompts at full length."""
    table, prompts = state["token_embedding.weight"], []
    for row in ROWS:
        full = torch.cat([table[[TEXT.sot]], ctx, table[[*row, TEXT.eot]]])
        prompts.append(F.pad(full, (0, 0, 0, CONTEXT - len(full))))
    x = torch.stack(prompts) + state["positional_embedding"]
    mask = torch.full((CONTEXT, CONTEXT), -torch.inf).triu(1)
    for i in range(LAYERS):
        x = layer(x, state, i, act, bits, mask)
    eot = [1 + len(ctx) + len(row) for row in ROWS]
    pooled = F.layer_norm(x[range(len(ROWS)), eot], (W,), state["ln_final.weight"], state["ln_final.bias"])
    return F.normalize(pooled @ state["text_projection"], dim=-1)


def image_features(prompt: Tensor, pixels: Tensor, state: State, act: Act, bits: int) -> Tensor:
    """With learned tokens behind the patches."""
    patches = F.conv2d(pixels, state["conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([state["class_embedding"].expand(len(pixels), 1, -1), patches], dim=1) + state["positional_embedding"]
    x = torch.cat([x, prompt.expand(len(pixels), -1, -1)], dim=1)
    x = F.layer_norm(x, (W,), state["ln_pre.weight"], state["ln_pre.bias"])
    for i in range(LAYERS):
        x = layer(x, state, i, act, bits, None)
    return F.normalize(F.layer_norm(x[:, 0], (W,), state["ln_post.weight"], state["ln_post.bias"]) @ state["proj"], dim=-1)


def ranges(features: Callable[[Act], Tensor], bits: int) -> dict[tuple[int, int], Range]:
    """Four fifths of what each activation spans, so that some of it is clipped; attention in 8 bits."""
    found: dict[tuple[int, int], Range] = {}

    def watch(i: int, place: int, x: Tensor) -> Tensor:
        own = 8 if 1 <= place <= 4 else bits
        low, high = min(0.8 * x.min().item(), 0.0), 0.8 * x.max().item()
        scale = (high - low) / (2**own - 1)
        found[i, place] = Range(own, scale, round(-low / scale))
        return x

    features(watch)
    return found


def products_of(found: dict[tuple[int, int], Range], weight_bits: int) -> list[Product]:
    return [
        Product("", weight_bits if len(places) == 1 else 0, tuple(found[i, place] for place in places), 0.0, 0.0)
        for i in range(LAYERS)
        for places in KINDS
    ]


@pytest.fixture(params=[(tower, scheme) for tower in ("text", "image") for scheme in SCHEMES], ids=lambda p: "-".join(p))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    which, scheme = request.param
    weight_bits, bits = SCHEMES[scheme]
    norms = ("ln_final",) if which == "text" else ("ln_pre", "ln_post")
    shapes = {f"{norm}.{part}": (W,) for norm in norms for part in ("weight", "bias")}
    patches = (SIZE // PATCH) ** 2
    if which == "text":
        shapes |= {"token_embedding.weight": (50, W), "positional_embedding": (CONTEXT, W), "text_projection": (W, D)}
    else:
        shapes |= {"conv1.weight": (W, 3, PATCH, PATCH), "class_embedding": (W,)}
        shapes |= {"positional_embedding": (1 + patches, W), "proj": (W, D)}
    state = weights_of(shapes)
    save_file(state, tmp_path / "tower.safetensors")
    weights, pixels, start = Weights(tmp_path / "tower.safetensors"), draw(50, 4, 3, SIZE, SIZE), draw(51, 3, W, scale=0.3)

    def reference(ctx: Tensor, act: Act, bits: int) -> Tensor:
        return text_features(ctx, state, act, bits) if which == "text" else image_features(ctx, pixels, state, act, bits)

    def ours(quantized: list[Product]) -> Callable[[Tensor], Tensor]:
        if which == "image":
            vision = VisionTower(weights, VISION, quantized)
            return lambda ctx: vision(pixels, [ctx])
        text = TextTower(weights, TEXT, quantized)
        return lambda ctx: text(ctx, text.suffixes(ROWS, len(ctx)))

    found = ranges(lambda act: reference(start, act, 0), bits)

    def by_formula(i: int, place: int, x: Tensor) -> Tensor:
        return rounded_as_the_formula_says(x, found[i, place])

    quantized = products_of(found, weight_bits)
    return Case(ours(quantized), ours([]), lambda ctx: reference(ctx, by_formula, weight_bits), start)


def features_and_gradient(tower: Callable[[Tensor], Tensor], start: Tensor) -> list[Tensor]:
    point = start.clone().requires_grad_()
    features = tower(point)
    (gradient,) = torch.autograd.grad((features * draw(60, *features.shape)).sum(), point)
    return [features.detach(), gradient]


def test_a_quantized_tower_computes_its_formulas(case: Case) -> None:
    """Sums in another order may tip a value at the edge of two integers, which the tolerance leaves room for."""
    wanted = features_and_gradient(case.reference, case.start)
    found, plain = (features_and_gradient(tower, case.start) for tower in (case.ours, case.plain))
    for reference, ours, float_ in zip(wanted, found, plain, strict=True):
        away = (float_ - reference).norm()
        assert away > 0.005 * reference.norm()
        assert (ours - reference).norm() < 0.1 * away


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_and_its_gradient(bits: int) -> None:
    range_, x = Range(bits, 0.1, 3), torch.linspace(-2, 40, 1013).requires_grad_()
    found, wanted = rounded(x, range_), rounded_as_the_formula_says(x, range_)
    torch.testing.assert_close(found, wanted)
    assert len(found.unique()) == 2**bits
    gradients = [torch.autograd.grad(each.sum(), x)[0] for each in (found, wanted)]
    assert torch.equal(*gradients)
    assert 0 < gradients[0].mean() < 1
    assert rounded(x, None) is x


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_symmetric_with_a_scale_a_row(bits: int) -> None:
    weight = draw(1, 6, 5, 2, 2)
    found = rounded_weight(weight, bits)
    torch.testing.assert_close(found.flatten(1), weight_as_the_formula_says(weight.flatten(1), bits))
    assert all(len(row.unique()) <= 2**bits - 1 for row in found)
    assert rounded_weight(weight, 0) is weight


def some_weights(folder: Path) -> Weights:
    shapes = {"token_embedding.weight": (50, W), "positional_embedding": (CONTEXT, W), "text_projection": (W, D)}
    save_file(weights_of({**shapes, "ln_final.weight": (W,), "ln_final.bias": (W,)}), folder / "text.safetensors")
    return Weights(folder / "text.safetensors")


def test_products_of_another_tower_are_refused(tmp_path: Path) -> None:
    float_ = [Product("", 0, (None,) * len(places), 0.0, 0.0) for places in KINDS] * LAYERS
    weights = some_weights(tmp_path)
    TextTower(weights, TEXT, float_)
    for wrong in (float_[1:], [*float_[1:], float_[0]], float_[: len(KINDS)]):
        with pytest.raises(BackboneError, match="quantize the backbone again"):
            TextTower(weights, TEXT, wrong)


def test_a_quantized_tower_is_computed_in_float32(tmp_path: Path) -> None:
    eight = [Product("", 8 * (len(places) == 1), (None,) * len(places), 0.0, 0.0) for places in KINDS] * LAYERS
    tower, start = TextTower(some_weights(tmp_path), TEXT, eight), draw(51, 3, W, scale=0.3)
    suffixes = tower.suffixes(ROWS, 3)
    engine = choose(EngineSettings("float32"), tower, ROWS, start, lambda encode, ctx: encode(ctx).sum())
    assert (engine.name, engine.note.split(", ")[1]) == ("float32", "the text tower is quantized")
    assert torch.equal(engine.encode(start), tower(start, suffixes))


def test_the_file_says_what_was_written(tmp_path: Path) -> None:
    both = Product("scores", 0, (Range(8, 0.1, 3), None), 0.0, 0.25)
    written = Quantization((Product("conv", 4, (Range(4, 2.0, 0),), 0.5, 0.125),), (both,))
    (tmp_path / "q.json").write_text(written.to_json())
    assert Quantization.read(tmp_path / "q.json") == written
