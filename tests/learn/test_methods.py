"""Methods against their papers, on a small tower: losses and gradients of the first steps, from another implementation."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_quantizer import one_bit
from reference_tower import VIT_B_32, Pair, random_pair
from torch import Tensor

from edge_qprompt import Backbone
from edge_qprompt.backbone.text import name_tokens
from edge_qprompt.classify.classifier import Classifier, zero_shot
from edge_qprompt.codebook import ClusterSettings
from edge_qprompt.learn.methods.registry import METHODS
from edge_qprompt.learn.methods.zero_shot import GENERAL
from edge_qprompt.learn.problem import Problem
from edge_qprompt.learn.settings import EngineSettings, MethodSettings
from edge_qprompt.learn.step import choose
from edge_qprompt.learn.towers.towers import Towers
from edge_qprompt.pack.pack import Pack, Precision, Role

NAMES = ("cat", "golden retriever", "a photograph of the umbrella", "quokka", "ibex")
N_CTX, PHOTOS, SCALE, LR = 4, 24, 30.0, 0.05
STEPS = 4


class Case(NamedTuple):
    """A problem, and what its class features are by open_clip's tower."""

    problem: Problem
    pair: Pair
    rows: list[list[int]]

    def classes(self, ctx: Tensor) -> Tensor:
        return self.pair.reference_features(ctx, self.rows)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    small = dataclasses.replace(VIT_B_32, layers=3, width=128, heads=2)
    pair = random_pair(small, tmp_path_factory.mktemp("tower"))
    rows = name_tokens(pair.tokenizer, NAMES, N_CTX)
    draws = torch.Generator().manual_seed(0)
    start = torch.randn(N_CTX, small.width, generator=draws) * 0.02
    dims = pair.ours.projection.shape[1]
    by_hand = F.normalize(
        pair.reference_features(start, rows).detach() + 0.02 * torch.randn(len(NAMES), dims, generator=draws), dim=-1
    )
    labels = torch.arange(PHOTOS) % len(NAMES)
    features = F.normalize(by_hand[labels] + 0.05 * torch.randn(PHOTOS, dims, generator=draws), dim=-1)[:, None]
    labels[::3] = (labels[::3] + 1) % len(NAMES)  # where photos and the hand-written prompt disagree, gradients conflict
    towers = Towers(Backbone.open("nano"), NAMES)  # for methods that are not tested here
    engine = choose(EngineSettings("float32"), pair.ours, rows, start, lambda encode, ctx: encode(ctx).sum())
    return Case(Problem(start, SCALE, features, labels, by_hand, lambda: engine, towers), pair, rows)


def coop(case: Case, ctx: Tensor) -> tuple[float, Tensor]:
    logits = SCALE * case.problem.features[:, 0] @ case.classes(ctx).T
    loss = F.cross_entropy(logits, case.problem.labels)
    return loss.item(), torch.autograd.grad(loss, ctx)[0]


def kgcoop(case: Case, ctx: Tensor) -> tuple[float, Tensor]:
    """Equation 6 of the paper: cross-entropy + 8 / C sum of squared distances, which is twice one minus the cosine.

    The released code takes 1 - cosine, and so do PAPERS' settings. 8 is for CLIP's logit scale of 100.
    """
    classes = case.classes(ctx)
    logits = SCALE * case.problem.features[:, 0] @ classes.T
    distance = (1 - F.cosine_similarity(classes, case.problem.by_hand, dim=1)).mean()
    loss = -F.log_softmax(logits, 1)[range(PHOTOS), case.problem.labels].mean() + 8.0 * SCALE / 100 * distance
    return loss.item(), torch.autograd.grad(loss, ctx)[0]


def prograd(case: Case, ctx: Tensor) -> tuple[float, Tensor]:
    """Equations 4 and 5, each gradient from a forward pass of its own; the KL as cross-entropy to the teacher's softmax."""
    photos, labels = case.problem.features[:, 0], case.problem.labels
    task = F.cross_entropy(SCALE * photos @ case.classes(ctx).T, labels)
    g_task = torch.autograd.grad(task, ctx)[0].flatten()
    teacher = F.softmax(SCALE * photos @ case.problem.by_hand.T, 1)
    general = -(teacher * F.log_softmax(SCALE * photos @ case.classes(ctx).T, 1)).sum(1).mean()
    g_general = torch.autograd.grad(general, ctx)[0].flatten()
    if torch.dot(g_task, g_general) < 0:
        unit = g_general / g_general.norm()
        g_task = g_task - torch.dot(g_task, unit) * unit
    return task.item(), g_task.view_as(ctx)


def qcoop(case: Case, ctx: Tensor) -> tuple[float, Tensor]:
    """Section 3.3 of the paper at 1 bit: centres by hand, the mean of each half of the normalised weights; identity backward."""
    quantized = one_bit(case.problem.start, ctx).requires_grad_()
    loss, gradient = coop(case, quantized)
    return loss, gradient


def qkgcoop(case: Case, ctx: Tensor) -> tuple[float, Tensor]:
    """KgCoOp's loss at the quantized context."""
    return kgcoop(case, one_bit(case.problem.start, ctx).requires_grad_())


@pytest.mark.parametrize(
    ("name", "reference"),
    [("coop", coop), ("kgcoop", kgcoop), ("prograd", prograd), ("qcoop", qcoop), ("qkgcoop", qkgcoop)],
)
def test_first_steps_are_those_of_the_paper(case: Case, name: str, reference: object) -> None:
    method = METHODS[name](case.problem, MethodSettings())
    ours, theirs = method.parameters["ctx"], case.problem.start.clone().requires_grad_()
    for _ in range(STEPS):
        loss = method.loss(case.problem.features[:, 0], case.problem.labels)
        (gradient,) = torch.autograd.grad(loss, ours)
        wanted_loss, wanted = reference(case, theirs)
        assert loss.item() == pytest.approx(wanted_loss, rel=1e-4)
        assert (gradient - wanted).norm() < 1e-3 * wanted.norm()
        with torch.no_grad():
            ours -= LR * gradient
            theirs -= LR * wanted


def net_of(inner: Tensor, outer: Tensor) -> torch.nn.Module:
    """The two layers as torch has them."""
    net = torch.nn.Sequential(
        torch.nn.Linear(inner.shape[1] - 1, len(inner)), torch.nn.ReLU(), torch.nn.Linear(len(inner), len(outer))
    )
    with torch.no_grad():
        for layer, weight in ((net[0], inner), (net[2], outer)):
            layer.weight.copy_(weight[:, :-1])
            layer.bias.copy_(weight[:, -1])
    return net


def gradients(net: torch.nn.Module) -> list[Tensor]:
    """As the methods have them: of each layer, with the bias in the last column."""
    return [torch.cat([layer.weight.grad, layer.bias.grad[:, None]], dim=1) for layer in (net[0], net[2])]


def cocoop(case: Case, parameters: dict[str, Tensor], photos: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Section 3.2 of the paper, a photo at a time: v_m(x) = v_m + pi, pi = h(x), and the mean of their losses."""
    ctx = parameters["ctx"].detach().clone().requires_grad_()
    net = net_of(parameters["meta_in"], parameters["meta_out"])
    losses = []
    for photo, label in zip(photos, labels, strict=True):
        classes = case.classes(ctx + net(photo)[None, :].expand(N_CTX, -1))
        losses.append(-(SCALE * classes @ photo).log_softmax(0)[label])
    loss = sum(losses) / len(losses)
    loss.backward()
    return loss, [ctx.grad, *gradients(net)]


def clip_adapter(case: Case, parameters: dict[str, Tensor], photos: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Equations 4 and 6 of the paper with alpha = 0.2; both sides are normalised before they are compared."""
    net = net_of(parameters["adapter_in"], parameters["adapter_out"])
    mixed = 0.2 * net(photos) + 0.8 * photos
    loss = F.cross_entropy(SCALE * F.cosine_similarity(mixed[:, None], case.problem.by_hand[None], dim=-1), labels)
    loss.backward()
    return loss, gradients(net)


@pytest.mark.parametrize(("name", "reference"), [("cocoop", cocoop), ("clip-adapter", clip_adapter)])
def test_first_steps_of_nets_are_those_of_the_paper(case: Case, name: str, reference: object) -> None:
    method = METHODS[name](case.problem, MethodSettings())
    photos, labels = case.problem.features[:3, 0], case.problem.labels[:3]
    seen = []
    for _ in range(3):
        loss = method.loss(photos, labels)
        found = torch.autograd.grad(loss, list(method.parameters.values()))
        wanted_loss, wanted = reference(case, method.parameters, photos, labels)
        assert loss.item() == pytest.approx(wanted_loss.item(), rel=1e-4)
        for ours, theirs in zip(found, wanted, strict=True):
            assert (ours - theirs).norm() < 1e-3 * theirs.norm()
        with torch.no_grad():
            for parameter, gradient in zip(method.parameters.values(), found, strict=True):
                parameter -= LR * gradient
        seen.append(loss.item())
    assert seen[2] < seen[0]


@pytest.mark.parametrize(
    ("name", "tokens", "kilobytes"), [("coop", 4, 4.1), ("prograd", 16, 16.4), ("cocoop", 4, 70.7), ("clip-adapter", 4, 1050.6)]
)
def test_sizes_are_those_that_the_paper_counts(name: str, tokens: int, kilobytes: float) -> None:
    """At ViT-B/16's 512 dimensions, Quantized Prompt's table 1 (which has CoCoOp at 70.8 and the adapter at 1051)."""
    rows = torch.zeros(tokens, 512), torch.zeros(5, 1, 512), torch.zeros(2, 512)
    problem = Problem(
        rows[0], SCALE, rows[1], torch.zeros(5, dtype=torch.int64), rows[2], lambda: None, Towers(Backbone.open("nano"), NAMES)
    )
    tensors, _ = METHODS[name](problem, MethodSettings()).result()
    assert sum(tensor.paper_bits for tensor in tensors) / 8000 == pytest.approx(kilobytes, abs=0.05)


def test_prograd_meets_a_conflict_and_resolves_it(case: Case) -> None:
    """Somewhere along CoOp's way the gradients conflict, and there ProGrad's differs from CoOp's."""
    ctx = case.problem.start.clone().requires_grad_()
    differences = []
    for _ in range(12):
        (_, task), (_, projected) = coop(case, ctx), prograd(case, ctx)
        differences.append(float((task - projected).norm() / task.norm()))
        with torch.no_grad():
            ctx -= LR * task
    assert max(differences) > 0.01
    method = METHODS["prograd"](case.problem, MethodSettings())
    with torch.no_grad():
        method.parameters["ctx"].copy_(ctx)
    (gradient,) = torch.autograd.grad(method.loss(case.problem.features[:, 0], case.problem.labels), method.parameters["ctx"])
    assert (gradient - prograd(case, ctx)[1]).norm() < 1e-3 * gradient.norm()


def test_ptq_stores_coops_context_quantized(case: Case) -> None:
    errors = []
    for bits in (1, 2, 4):
        method = METHODS["ptq-coop"](case.problem, MethodSettings(ClusterSettings(bits=bits)))
        ctx, theirs = method.parameters["ctx"], case.problem.start.clone().requires_grad_()
        for _ in range(STEPS):
            loss = method.loss(case.problem.features[:, 0], case.problem.labels)
            wanted_loss, wanted = coop(case, theirs)
            assert loss.item() == pytest.approx(wanted_loss, rel=1e-4)
            with torch.no_grad():
                ctx -= LR * torch.autograd.grad(loss, ctx)[0]
                theirs -= LR * wanted
        (tensor,), _ = method.result()
        assert (tensor.role, tensor.bits) == (Role.CTX, bits)
        if bits == 1:
            np.testing.assert_allclose(tensor.values(), one_bit(ctx.detach(), ctx).numpy(), atol=1e-4)
        errors.append(float(np.square(tensor.values() - ctx.detach().numpy()).mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_noises_first_steps_are_coops_at_a_noisy_context(case: Case) -> None:
    """Section 3.2 of the paper, with the draws of torch's generator at the same seed."""
    method = METHODS["noise-coop"](case.problem, MethodSettings(options={"noise_std": 0.05}, seed=5))
    draws = torch.Generator().manual_seed(5)
    ours, theirs = method.parameters["ctx"], case.problem.start.clone()
    for _ in range(STEPS):
        loss = method.loss(case.problem.features[:, 0], case.problem.labels)
        (gradient,) = torch.autograd.grad(loss, ours)
        noisy = (theirs + 0.05 * torch.randn(theirs.shape, generator=draws)).requires_grad_()
        wanted_loss, wanted = coop(case, noisy)
        assert loss.item() == pytest.approx(wanted_loss, rel=1e-4)
        assert (gradient - wanted).norm() < 1e-3 * wanted.norm()
        with torch.no_grad():
            ours -= LR * gradient
            theirs -= LR * wanted


def test_noise_has_the_std_asked_for_and_goes_on_after_a_resume(case: Case) -> None:
    seen: list[Tensor] = []
    method = METHODS["noise-coop"](case.problem, MethodSettings(options={"noise_std": 0.3}))
    encode = method.problem.engine.encode
    method.problem = replace(case.problem, choose=lambda: replace(method.engine, encode=spy))

    def spy(ctx: Tensor) -> Tensor:
        seen.append(ctx.detach())
        return encode(ctx)

    for _ in range(50):
        method.loss(case.problem.features[:, 0], case.problem.labels)
    noise = torch.stack(seen) - case.problem.start
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    state = {name: value.clone() for name, value in method.state().items()}
    method.loss(case.problem.features[:, 0], case.problem.labels)
    method.load(state)
    method.loss(case.problem.features[:, 0], case.problem.labels)
    assert torch.equal(seen[-1], seen[-2])
    (tensor,), _ = method.result()
    np.testing.assert_allclose(tensor.values(), case.problem.start.numpy(), atol=1e-4)  # nothing was learned, no noise is stored


def test_the_ensemble_is_the_mean_of_what_its_templates_say(nano: Backbone, case: Case) -> None:
    method = METHODS["zero-shot-ensemble"](case.problem, MethodSettings())
    pack = Pack(nano.manifest.short_fingerprint, method.number, Precision.FP32, *method.result())
    each = [zero_shot(nano, NAMES, template).class_features for template in GENERAL]
    mean = np.mean(each, axis=0)
    wanted = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(Classifier(nano, pack, NAMES).class_features, wanted, atol=1e-5)
    assert np.abs(each[0] - wanted).max() > 0.01
    assert len(set(GENERAL)) == 7


def test_residuals_are_learned_as_their_formula_says(case: Case) -> None:
    """Against the closed form at the start, and its gradient by finite differences of the unquantized formula."""
    method = METHODS["learned-qres"](case.problem, MethodSettings(options={"residual_bits": 8}))
    photos, labels, text = case.problem.features[:, 0], case.problem.labels, case.problem.by_hand
    residual = method.parameters["residual"]

    def formula(values: Tensor) -> Tensor:
        classes = (text + values) / (text + values).norm(dim=1, keepdim=True)
        return -(SCALE * photos @ classes.T).log_softmax(1)[range(PHOTOS), labels].mean()

    loss = method.loss(photos, labels)
    assert loss.item() == pytest.approx(formula(residual.detach()).item(), rel=1e-2)  # 8 bits are nearly exact
    (gradient,) = torch.autograd.grad(loss, residual)
    step = 1e-2 * torch.randn(residual.shape, generator=torch.Generator().manual_seed(1))
    moved = formula(residual.detach() + step) - formula(residual.detach() - step)
    assert (2 * gradient * step).sum().item() == pytest.approx(moved.item(), rel=0.05)
