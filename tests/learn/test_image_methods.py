"""Methods that learn inside both towers, on a small vision transformer: first steps against their papers, and their packs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from common import make_photos
from reference_clip import image_features, low_rank, text_features
from reference_quantizer import one_bit
from small_models import VIT, build, save
from torch import Tensor

from edge_qprompt.backbone.backbone import Backbone
from edge_qprompt.classify.classifier import Classifier, zero_shot
from edge_qprompt.codebook import ClusterSettings
from edge_qprompt.errors import BackboneError
from edge_qprompt.learn.adapt import adapt
from edge_qprompt.learn.methods.maple import paper_parameters
from edge_qprompt.learn.methods.registry import METHODS
from edge_qprompt.learn.problem import Problem, initial_context
from edge_qprompt.learn.settings import AdaptSettings, EngineSettings, LoopSettings, MethodSettings
from edge_qprompt.pack.pack import Pack, Role
from edge_qprompt.photos.dataset import Dataset, load_dataset
from edge_qprompt.photos.features import Views, extract, read_views
from edge_qprompt.photos.photo import normalise
from exporter.commands.export import command

LR, STEPS, TEMPLATE = 0.02, 4, "a photo of a {}."
ONE_BIT = MethodSettings(options={"prompt_bits": 1})
NO_DROPOUT = {"clip-lora": MethodSettings(options={"lora_dropout": 0.0})}  # what the methods are told here, by name

Tensors = dict[str, Tensor]


class Case(NamedTuple):
    """Photos, the reference model, and the same as a backbone."""

    model: Any
    backbone: Backbone
    data: Dataset
    problem: Problem
    views: Tensor

    @property
    def pixels(self) -> Tensor:
        """(N, 3, S, S)."""
        return torch.stack([torch.from_numpy(normalise(each, self.backbone.manifest.preprocess)) for each in self.views.numpy()])

    def loss(self, photos: Tensor, classes: Tensor) -> Tensor:
        logits = self.backbone.manifest.logit_scale * photos @ classes.T
        return -F.log_softmax(logits, 1)[range(len(photos)), self.problem.labels].mean()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    work = tmp_path_factory.mktemp("vit")
    model = build(VIT)
    CliRunner().invoke(command, [*save(work, VIT, model), "--no-int8", "--out", str(work / "b")], catch_exceptions=False)
    backbone, data = Backbone.open(work / "b"), load_dataset(make_photos(work, "bag", "ankle_boot", "sandal"))
    start = initial_context(backbone, METHODS["maple"].n_ctx, 1)
    by_hand = zero_shot(backbone, data.names).class_features
    features, labels = extract(backbone, data.train.paths).values, np.array(data.train.labels)
    problem = Problem.of(backbone, data.names, start, features, labels, by_hand, EngineSettings())
    views = torch.from_numpy(read_views(data.train.paths, backbone.manifest.preprocess, Views())[:, 0])
    return Case(model, backbone, data, problem, views)


def maple_tokens(point: Tensors) -> list[Tensor]:
    """Tokens of the first text layer, of the deeper ones, and of the image layers; equation 7: one map a layer."""
    text = [point["ctx"], *point["deep"]]
    visual = [F.linear(*each) for each in zip(text, point["coupling"], point["coupling_bias"], strict=True)]
    return [point["ctx"], point["deep"], torch.stack(visual)]


def under_tokens(case: Case, ctx: Tensor, deep: Tensor, visual: Tensor) -> Tensor:
    rows = case.backbone.tokenizer.fit([f"{name}." for name in case.data.names], 4)
    classes = text_features(case.model, rows, ctx, deep.unbind())
    return case.loss(image_features(case.model, case.pixels, visual.unbind()), classes)


def maple(case: Case, point: Tensors) -> float:
    loss = under_tokens(case, *maple_tokens(point))
    loss.backward()
    return loss.item()


def qmaple(case: Case, point: Tensors, starts: list[Tensor]) -> float:
    """The gradient at the tokens, quantized to 1 bit, handed on to those before the quantizer."""
    tokens = maple_tokens(point)
    starts += [each.detach().clone() for each in tokens[len(starts) :]]
    quantized = [one_bit(start, values).requires_grad_() for start, values in zip(starts, tokens, strict=True)]
    loss = under_tokens(case, *quantized)
    torch.autograd.backward(tokens, list(torch.autograd.grad(loss, quantized)))
    return loss.item()


def clip_lora(case: Case, point: Tensors) -> float:
    """Equation 3 with the released code's scale: W + alpha / sqrt(r) B A."""
    text, image = (low_rank(point[f"{side} in"], point[f"{side} out"] / math.sqrt(2)) for side in ("text", "image"))
    rows = case.backbone.tokenizer.fit([TEMPLATE.replace("{}", name) for name in case.data.names], 2)
    classes = text_features(case.model, rows, torch.zeros(0, 64), (), text)
    loss = case.loss(image_features(case.model, case.pixels, (), image), classes)
    loss.backward()
    return loss.item()


@pytest.mark.parametrize("name", ["maple", "qmaple", "clip-lora"])
def test_first_steps_are_those_of_the_paper(case: Case, name: str) -> None:
    method = METHODS[name](case.problem, {"qmaple": ONE_BIT, **NO_DROPOUT}.get(name, MethodSettings()))
    theirs = {key: value.detach().clone().requires_grad_() for key, value in method.parameters.items()}
    starts: list[Tensor] = []
    seen: set[str] = set()
    for step in range(1, STEPS + 1):
        loss = method.loss(case.views, case.problem.labels)
        loss.backward()
        wanted = (
            qmaple(case, theirs, starts) if name == "qmaple" else {"maple": maple, "clip-lora": clip_lora}[name](case, theirs)
        )
        assert loss.item() == pytest.approx(wanted, rel=1e-4)
        for key, other in theirs.items():
            ours = method.parameters[key]
            assert (ours.grad - other.grad).norm() <= 1e-3 * other.grad.norm()
            seen |= {key} if other.grad.norm() > 0 else set()
            for each in (ours, other):
                each.data -= LR * each.grad
                each.grad = None
        method.after_step(step, STEPS)
    assert seen == set(method.parameters)


def test_maple_starts_with_words_drawn_rows_and_couplings_like_the_released_code(case: Case) -> None:
    method = METHODS["maple"](case.problem, MethodSettings())
    words = case.backbone.text_weights.token_vectors(case.backbone.tokenizer.encode("a photo"))
    assert torch.equal(method.parameters["ctx"], torch.from_numpy(words))
    assert method.parameters["deep"].shape == (1, 2, 64)  # the text tower has two layers
    couplings = METHODS["maple"](case.problem, MethodSettings(options={"prompt_depth": 9})).parameters["coupling"]
    assert couplings.shape == (2, 64, 64)
    assert not torch.equal(couplings[0], couplings[1])
    assert couplings.abs().max().item() == pytest.approx(1 / 8, rel=0.01)  # uniform up to 1 / sqrt(64)
    shallow = METHODS["maple"](case.problem, MethodSettings(options={"prompt_depth": 1}))
    assert {tensor.role for tensor in shallow.result()[0]} == {Role.CTX, Role.VISUAL_CTX}
    shallow.loss(case.views, case.problem.labels).backward()
    assert all(parameter.grad.norm() > 0 for parameter in shallow.parameters.values())


def test_sizes_are_counted_as_the_paper_does(case: Case) -> None:
    of_vit_b_16 = paper_parameters(depth=9, tokens=2, width=512, image_width=768)
    assert (of_vit_b_16, of_vit_b_16 * 16 // 8, of_vit_b_16 * 4 // 8) == (3_548_160, 7_096_320, 1_774_080)
    method = METHODS["maple"](case.problem, MethodSettings())
    counted = sum(value.numel() for name, value in method.parameters.items() if name != "coupling_bias")
    assert method.facts()["paper_bytes"] == 2 * counted
    assert METHODS["qmaple"](case.problem, MethodSettings()).facts()["paper_bytes"] == counted // 2


def test_clip_lora_learns_500_steps_a_shot_and_starts_as_the_frozen_model(case: Case) -> None:
    method = METHODS["clip-lora"](case.problem, NO_DROPOUT["clip-lora"])
    assert method.schedule.epochs == 2000  # four shots, twelve photos: one step an epoch
    photos = F.normalize(case.model.encode_image(case.pixels), dim=-1)
    wanted = case.loss(photos, torch.from_numpy(zero_shot(case.backbone, case.data.names, TEMPLATE).class_features))
    assert method.loss(case.views, case.problem.labels).item() == pytest.approx(wanted.item(), rel=1e-4)


def test_dropout_goes_on_after_a_resume(case: Case) -> None:
    method = METHODS["clip-lora"](case.problem, MethodSettings())
    for side in ("text", "image"):
        method.parameters[f"{side} out"].data.fill_(0.1)
    losses = []
    state = {name: value.clone() for name, value in method.state().items()}
    for restored in (False, False, True):
        if restored:
            method.load(state)
        losses.append(method.loss(case.views, case.problem.labels).item())
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize("name", ["maple", "qmaple", "clip-lora"])
def test_a_pack_says_through_onnxruntime_what_the_towers_say(case: Case, name: str, tmp_path: Path) -> None:
    loop = LoopSettings(epochs=3, batch=4, lr=0.05, warmup_lr=0.05, optimiser="sgd")
    told = NO_DROPOUT.get(name, MethodSettings())
    result = adapt(case.backbone, case.data, AdaptSettings(name, views=2, loop=loop, method_settings=told), tmp_path / "c")
    assert result.run.steps == 9
    assert result.engine[0] == "float32"
    pack = Pack.decode(result.pack.encode())
    values = {Role(tensor.role): torch.from_numpy(tensor.values()) for tensor in pack.tensors}
    towers = case.problem.towers
    with torch.no_grad():
        if name == "clip-lora":
            photos = image_features(
                case.model, case.pixels, (), low_rank(values[Role.LORA_IMAGE_IN], values[Role.LORA_IMAGE_OUT])
            )
            rows = case.backbone.tokenizer.fit([TEMPLATE.replace("{}", name) for name in case.data.names], 2)
            change = low_rank(values[Role.LORA_TEXT_IN], values[Role.LORA_TEXT_OUT])
            classes = text_features(case.model, rows, torch.zeros(0, 64), (), change)
        else:
            photos = towers.vision(case.pixels, values[Role.VISUAL_CTX].unbind())
            classes = towers.text(values[Role.CTX], towers.behind(2), values[Role.DEEP_CTX].unbind())
        wanted = torch.softmax(case.backbone.manifest.logit_scale * photos @ classes.T, 1).numpy()
    classifier = Classifier(case.backbone, pack)
    found = classifier.probabilities(extract(classifier.backbone, case.data.train.paths).values[:, 0])
    assert np.abs(found - wanted).max() < 1e-3
    plain = zero_shot(case.backbone, case.data.names)
    assert np.abs(plain.probabilities(case.problem.features[:, 0].numpy()) - wanted).max() > 1e-2  # something was learned


@pytest.mark.parametrize("name", ["maple", "qmaple"])
def test_tokens_are_as_many_as_asked_for(case: Case, name: str) -> None:
    for asked, n_ctx in ((None, 2), (3, 3)):
        result = adapt(case.backbone, case.data, AdaptSettings(name, n_ctx=asked, loop=LoopSettings(epochs=0)))
        assert {tensor.shape[-2] for tensor in result.pack.tensors} == {n_ctx}


@pytest.mark.parametrize("name", ["qmaple", "clip-lora"])
def test_an_interrupted_run_gives_the_same_bytes(case: Case, name: str, tmp_path: Path) -> None:
    loop = LoopSettings(epochs=6, batch=4, checkpoint_seconds=0)
    settings = AdaptSettings(name, loop=loop, method_settings=MethodSettings(ClusterSettings(interval=4)))
    whole = adapt(case.backbone, case.data, settings)

    def stop(stage: str, done: int, total: int, note: str) -> None:
        if stage == "learn" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(case.backbone, case.data, settings, tmp_path / "checkpoint", progress=stop)
    resumed = adapt(case.backbone, case.data, settings, tmp_path / "checkpoint", resume=True)
    assert resumed.run.resumed_at is not None
    assert resumed.pack.encode() == whole.pack.encode()


def test_views_are_those_that_features_are_of(case: Case) -> None:
    paths, views = case.data.train.paths[:3], Views(3, seed=5)
    pixels = read_views(paths, case.backbone.manifest.preprocess, views)
    features = extract(case.backbone, paths, views=views).values
    for i in range(3):
        ours = case.problem.towers.vision(case.problem.towers.normalised(torch.from_numpy(pixels[:, i]))).numpy()
        assert np.abs(ours - features[:, i]).max() < 1e-5
    assert not np.array_equal(pixels[:, 1], pixels[:, 2])


def test_a_backbone_whose_tower_takes_no_prompts_says_what_to_do(nano: Backbone, case: Case) -> None:
    with pytest.raises(BackboneError, match="export ViT-B-16"):
        adapt(nano, case.data, AdaptSettings("maple"))
