"""P4Q against its paper on a small tower, its packs, and the whole way on a quantized copy of nano."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from common import make_photos
from reference_quantizer import one_bit
from reference_tower import VIT_B_32, Pair, random_pair
from torch import Tensor

from edge_qprompt import Backbone, Classifier
from edge_qprompt.backbone.fixed_point import Product, Quantization, Range
from edge_qprompt.backbone.manifest import FileRecord
from edge_qprompt.backbone.text import name_tokens
from edge_qprompt.classify.classifier import zero_shot
from edge_qprompt.errors import BackboneError, EdgeQPromptError
from edge_qprompt.files import sha256_of
from edge_qprompt.learn.adapt import adapt
from edge_qprompt.learn.inputs import Inputs
from edge_qprompt.learn.loop import learn
from edge_qprompt.learn.methods.registry import METHODS
from edge_qprompt.learn.problem import Problem, initial_context
from edge_qprompt.learn.settings import AdaptSettings, EngineSettings, LoopSettings, MethodSettings
from edge_qprompt.learn.step import choose
from edge_qprompt.learn.teacher import Teacher
from edge_qprompt.learn.towers.towers import Towers
from edge_qprompt.pack.pack import Pack, Precision, Role
from edge_qprompt.photos.dataset import load_dataset
from edge_qprompt.photos.features import extract

NAMES = ("cat", "golden retriever", "quokka", "ibex")
KINDS = ("p4q", "qp4q", "p4q-prompt", "p4q-adapter")
N_CTX, PHOTOS, SCALE, LR, STEPS = 4, 12, 20.0, 0.05, 3
CLOTHES = ("bag", "ankle_boot", "sandal")


class Case(NamedTuple):
    problem: Problem
    pair: Pair
    rows: list[list[int]]
    given: Tensor


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, nano: Backbone) -> Case:
    pair = random_pair(dataclasses.replace(VIT_B_32, layers=2, width=64, heads=2), tmp_path_factory.mktemp("tower"))
    rows, draws = name_tokens(pair.tokenizer, NAMES, N_CTX), torch.Generator().manual_seed(0)

    def near(x: Tensor, std: float) -> Tensor:
        return F.normalize(x + std * torch.randn(x.shape, generator=draws), dim=-1)

    start = torch.randn(N_CTX, 64, generator=draws) * 0.02
    by_hand = near(pair.reference_features(start, rows).detach(), 0.05)
    labels = torch.arange(PHOTOS) % len(NAMES)
    features = near(by_hand[labels], 0.2)
    teacher = Teacher(near(features, 0.1)[:, None], near(by_hand, 0.1))
    engine = choose(EngineSettings("float32"), pair.ours, rows, start, lambda encode, ctx: encode(ctx).sum())
    problem = Problem(start, SCALE, features[:, None], labels, by_hand, lambda: engine, Towers(nano, NAMES), teacher)
    given = Inputs.of(METHODS["p4q"](problem, MethodSettings()), problem, (), None).values[:, 0]
    return Case(problem, pair, rows, given)


def reference(case: Case, parameters: dict[str, Tensor], trusting: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """0.2 A(x) + 0.8 x with A = D -> D/4 -> ReLU -> D; cross-entropy, and the teacher's KL as a sum over classes."""
    points = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
    photos, classes = case.problem.features[:, 0], case.problem.by_hand
    if "adapter_in" in points:
        inner, outer = points["adapter_in"], points["adapter_out"]
        assert (inner.shape, outer.shape) == ((16, 65), (64, 17))
        hidden = (photos @ inner[:, :64].T + inner[:, 64]).clamp_min(0)
        photos = 0.2 * (hidden @ outer[:, :16].T + outer[:, 16]) + 0.8 * photos
    if "ctx" in points:
        classes = case.pair.reference_features(points["ctx"], case.rows)
    student = (SCALE * F.cosine_similarity(photos[:, None], classes[None], dim=-1)).softmax(dim=1)
    teacher = (SCALE * case.problem.teacher.features[:, 0] @ case.problem.teacher.classes.T).softmax(dim=1)
    trust = torch.ones(PHOTOS) if trusting else teacher[range(PHOTOS), case.problem.labels]
    assert trusting or trust.min() < 0.5 * trust.max()
    distance = (trust * (teacher * (teacher / student).log()).sum(dim=1)).mean()
    loss = -student[range(PHOTOS), case.problem.labels].log().mean() + distance
    assert distance > 0.02 * loss
    return loss, dict(zip(points, torch.autograd.grad(loss, list(points.values())), strict=True))


@pytest.mark.parametrize("trusting", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_first_steps_are_those_of_the_paper(case: Case, name: str, trusting: bool) -> None:
    """And ours, where the teacher's weight is the probability that it gives the right class."""
    method = METHODS[name](case.problem, MethodSettings(options={"trusting": trusting}))
    assert sorted(method.parameters) == sorted(
        [*(["ctx"] if name != "p4q-adapter" else []), *(["adapter_in", "adapter_out"] if name != "p4q-prompt" else [])]
    )
    for _ in range(STEPS):
        loss = method.loss(case.given, case.problem.labels)
        found = torch.autograd.grad(loss, list(method.parameters.values()))
        used = dict(method.parameters)
        if name == "qp4q":
            used["ctx"] = one_bit(case.problem.start, used["ctx"])
        wanted_loss, wanted = reference(case, used, trusting)
        assert loss.item() == pytest.approx(wanted_loss.item(), rel=1e-4)
        for (key, parameter), gradient in zip(method.parameters.items(), found, strict=True):
            assert (gradient - wanted[key]).norm() < 1e-3 * wanted[key].norm()
            parameter.data -= LR * gradient


def test_each_parameter_has_its_optimiser(case: Case) -> None:
    """One step: AdamW moves each weight of the adapter by its rate, SGD the context along the gradient."""
    method = METHODS["p4q"](case.problem, MethodSettings())
    before = {name: value.detach().clone() for name, value in method.parameters.items()}
    _, gradients = reference(case, before)
    learn(method, case.given[:, None], case.problem.labels, LoopSettings(epochs=1, lr=0.01, weight_decay=0.0))
    moved = {name: (value - before[name]).detach() for name, value in method.parameters.items()}
    rate = 0.01 * PHOTOS / 32
    assert (moved["ctx"] + rate * gradients["ctx"]).norm() < 1e-3 * moved["ctx"].norm()
    step = moved["adapter_in"] + 1e-3 * 1e-2 * before["adapter_in"]  # its own decay
    used = gradients["adapter_in"].abs() > 1e-4
    torch.testing.assert_close(step[used].abs(), torch.full_like(step[used], 1e-3), rtol=0.01, atol=1e-6)


def test_without_a_teacher_it_says_what_is_missing(case: Case) -> None:
    with pytest.raises(EdgeQPromptError, match="full precision"):
        METHODS["p4q"](dataclasses.replace(case.problem, teacher=None), MethodSettings())


@pytest.mark.parametrize("name", KINDS)
def test_names_are_those_of_the_packs(name: str) -> None:
    assert METHODS.name(METHODS[name].number) == name


def test_sizes_at_512_dimensions(nano: Backbone) -> None:
    start = torch.randn(4, 512, generator=torch.Generator().manual_seed(0))
    photos, classes = torch.zeros(5, 1, 512), torch.zeros(2, 512)
    labels = torch.zeros(5, dtype=torch.int64)
    problem = Problem(start, SCALE, photos, labels, classes, lambda: None, Towers(nano, NAMES), Teacher(photos, classes))
    (ctx, *adapter), _ = METHODS["qp4q"](problem, MethodSettings()).result()
    assert (ctx.role, [tensor.role for tensor in adapter]) == (Role.CTX, [Role.ADAPTER_IN, Role.ADAPTER_OUT])
    assert Pack(bytes(8), METHODS["qp4q"].number, Precision.W4A4, (ctx,)).size < 300
    assert sum(tensor.size for tensor in adapter) == pytest.approx(132_000, rel=0.02)


@pytest.mark.parametrize("name", KINDS)
def test_a_pack_answers_as_it_was_trained(nano: Backbone, tmp_path: Path, name: str) -> None:
    data = load_dataset(make_photos(tmp_path, *CLOTHES))
    features, labels = extract(nano, data.train.paths).values, np.array(data.train.labels)
    by_hand = zero_shot(nano, data.names).class_features
    teacher = Teacher(torch.from_numpy(features), torch.from_numpy(by_hand))
    start = initial_context(nano, N_CTX, 1)
    problem = Problem.of(nano, data.names, start, features, labels, by_hand, EngineSettings("float32"), teacher)
    method = METHODS[name](problem, MethodSettings())
    given = torch.cat([problem.features, teacher.features], dim=-1)
    learn(method, given, problem.labels, LoopSettings(epochs=20))
    tensors, sections = method.result()
    pack = Pack.decode(Pack(nano.manifest.short_fingerprint, method.number, 0, tensors, sections).encode())
    got = Classifier(nano, pack, data.names).probabilities(features[:, 0])
    wanted_teacher = (problem.logit_scale * features[:, 0] @ by_hand.T).astype(np.float64)
    wanted_teacher = np.exp(wanted_teacher - wanted_teacher.max(axis=1, keepdims=True))
    wanted_teacher /= wanted_teacher.sum(axis=1, keepdims=True)
    for i, label in enumerate(labels):  # the loss of one photo, from what the pack says of it
        distance = (wanted_teacher[i] * np.log(wanted_teacher[i] / got[i])).sum()
        loss = -np.log(got[i, label]) + wanted_teacher[i, label] * distance
        assert method.loss(given[i], problem.labels[i : i + 1]).item() == pytest.approx(loss, rel=0.03, abs=5e-3)


def quantized_nano(nano: Backbone, folder: Path) -> Path:
    """Nano, its text weights in 7 bits and softmax in 8, as the file says; the graphs are the float ones under other names."""
    shutil.copytree(nano.folder, folder)
    for tower in ("image.fp32", "text"):
        shutil.copy(folder / f"{tower}.onnx", folder / f"{tower.removesuffix('.fp32')}.int8.onnx")
    soft, plain = Range(8, 1 / 255, 0), (None,)
    inputs = (plain, (None, None), (soft, None), plain, plain, plain)
    products = tuple(Product("", 7 * (len(each) == 1), each, 0.0, 0.0) for each in inputs) * nano.manifest.text.layers
    (folder / "quantization.int8.json").write_text(Quantization((), products).to_json())
    files = {
        path.name: FileRecord(path.stat().st_size, sha256_of(path)) for path in folder.iterdir() if path.name != "manifest.json"
    }
    precisions = {**nano.manifest.precisions, "int8": nano.manifest.precisions["fp32"]}
    manifest = dataclasses.replace(nano.manifest, files=files, precisions=precisions)
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


def test_the_whole_way_on_a_quantized_backbone(nano: Backbone, tmp_path: Path) -> None:
    backbone = Backbone.open(quantized_nano(nano, tmp_path / "nano8"), "int8")
    data, stages = load_dataset(make_photos(tmp_path, *CLOTHES, each=6)), set()
    settings = AdaptSettings("qp4q", shots=4, loop=LoopSettings(epochs=30))
    found = adapt(backbone, data, settings, progress=lambda stage, *_: stages.add(stage))
    assert (found.pack.method, found.pack.precision) == (METHODS["qp4q"].number, Precision.INT8)
    assert found.engine[0] == "float32"
    assert "quantized" in found.engine[1]
    assert "encode in fp32" in stages
    assert found.run.losses[-1] < found.run.losses[0] / 1.5
    assert found.held_out.pack > found.held_out.zero_shot
    plain, quantized = Towers(nano, data.names).text, Towers(backbone, data.names).text
    away = (plain.blocks[0].fc.weight - quantized.blocks[0].fc.weight).norm() / plain.blocks[0].fc.weight.norm()
    assert 0.001 < away < 0.02
    assert backbone.in_float().quantization is None


def test_the_text_encoder_is_the_precisions_own(nano: Backbone, tmp_path: Path) -> None:
    folder = quantized_nano(nano, tmp_path / "nano8")
    size = (folder / "text.int8.onnx").stat().st_size
    (folder / "text.int8.onnx").write_bytes(bytes(size))
    assert Backbone.open(folder).text.from_template(["cat"]).shape == (1, nano.manifest.embed_dim)
    with pytest.raises(BackboneError, match=r"text\.int8\.onnx"):
        _ = Backbone.open(folder, "int8").text
    said = folder / "quantization.int8.json"
    said.write_text('{"image": [], "text": 3}'.ljust(said.stat().st_size))
    with pytest.raises(BackboneError, match="quantize the backbone again"):
        _ = Backbone.open(folder, "int8").quantization


class Stop(Exception):
    """Raised in the middle of a run."""


@pytest.mark.parametrize("batch", [0, 4])
def test_resume_gives_the_same_bytes(nano: Backbone, tmp_path: Path, batch: int) -> None:
    data = load_dataset(make_photos(tmp_path, *CLOTHES))
    settings = AdaptSettings("qp4q", loop=LoopSettings(epochs=8, batch=batch, checkpoint_seconds=0.0))
    whole = adapt(nano, data, settings).pack

    def stop(stage: str, done: int, total: int, note: str) -> None:
        if stage == "learn" and done == 5:
            raise Stop

    with pytest.raises(Stop):
        adapt(nano, data, settings, tmp_path / "checkpoint", progress=stop)
    resumed = adapt(nano, data, settings, tmp_path / "checkpoint", resume=True)
    assert resumed.run.resumed_at == 4
    assert resumed.pack.encode() == whole.encode()
