"""Packs that change the encoders: learned tokens inside the layers and low-rank weights, against open_clip's own modules."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import DEMO, make_photos
from numpy.typing import NDArray
from small_models import RESNET, TIMM, VIT, build, save

from device_agent.commands.evaluate import command as evaluate_command
from edge_qprompt.backbone import Backbone
from edge_qprompt.classifier import Classifier
from edge_qprompt.errors import BackboneError, EdgeQPromptError, ExportError, PackError
from edge_qprompt.features import extract
from edge_qprompt.manifest import Manifest, VisionConfig
from edge_qprompt.pack import Method, Pack, PackTensor, Precision, Role, Section, Tag, names_section
from edge_qprompt.photo import decode_photo, to_pixels
from edge_qprompt.session import Session
from exporter import export as export_module
from exporter.command import command
from exporter.source import import_open_clip
from exporter.vision import vision_config, vision_tensors

NAMES = ["bag", "ankle boot", "sandal"]
LAYERS, WIDTH = 3, 64  # of VIT's image tower
TEXT_LAYERS, TEXT_WIDTH = 2, 64

Array = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Exported:
    """A small vision transformer and its backbone."""

    model: Any
    backbone: Backbone
    stored: str  # the type of the weights
    arguments: list[str]

    @property
    def tolerance(self) -> float:
        """Of a feature with merged weights, which are rounded to the stored type."""
        return 5e-6 if self.stored == "float32" else 5e-4


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


def draw(seed: int, *shape: int, scale: float = 0.5) -> Array:
    """Learned values, as a pack holds them: float16."""
    values = np.random.default_rng(seed).normal(scale=scale, size=shape)
    return values.astype(np.float16).astype(np.float32)


def pack_of(backbone: Backbone, tensors: dict[Role, Array], *, template: bool = False) -> Pack:
    sections = (*([Section(Tag.TEMPLATE, b"a {}.")] if template else []), names_section(NAMES))
    raw = tuple(PackTensor.raw(role, values) for role, values in tensors.items())
    pack = Pack(backbone.manifest.short_fingerprint, Method.MAPLE, Precision.FP32, raw, sections)
    return Pack.decode(pack.encode())


def maple(depth: int, n: int, seed: int = 0) -> dict[Role, Array]:
    """What a MaPLe pack holds; a tower of two layers has at most one deeper row."""
    found = {Role.CTX: draw(seed, n, TEXT_WIDTH), Role.VISUAL_CTX: draw(seed + 1, depth, n, WIDTH)}
    if depth > 1:
        found[Role.DEEP_CTX] = draw(seed + 2, min(depth, TEXT_LAYERS) - 1, n, TEXT_WIDTH)
    return found


def lora(rank: int, seed: int = 0) -> dict[Role, Array]:
    return {
        Role.LORA_TEXT_IN: draw(seed, TEXT_LAYERS, 3, rank, TEXT_WIDTH, scale=0.2),
        Role.LORA_TEXT_OUT: draw(seed + 1, TEXT_LAYERS, 3, TEXT_WIDTH, rank, scale=0.2),
        Role.LORA_IMAGE_IN: draw(seed + 2, LAYERS, 3, rank, WIDTH, scale=0.2),
        Role.LORA_IMAGE_OUT: draw(seed + 3, LAYERS, 3, WIDTH, rank, scale=0.2),
    }


def photos() -> list[Path]:
    return sorted((DEMO / "test").glob("*/0.png"))


def pixels(backbone: Backbone) -> Array:
    return np.stack([to_pixels(decode_photo(path.read_bytes()), backbone.manifest.preprocess) for path in photos()])


# the reference: open_clip's modules, with the tokens put in by hooks, as MaPLe's code does it


@contextmanager
def hooked(model: Any, tensors: dict[Role, Array]) -> Iterator[None]:
    """The model with MaPLe's tokens in it; of text, the n tokens behind SOT are placeholders."""
    hooks = []
    if (visual := tensors.get(Role.VISUAL_CTX)) is not None:
        rows, n = torch.from_numpy(visual), visual.shape[1]

        def append(_: Any, given: Any) -> Any:
            return torch.cat([given[0], rows[0].expand(len(given[0]), -1, -1)], 1)

        hooks.append(model.visual.ln_pre.register_forward_pre_hook(append))
        for row, block in zip(rows[1:], model.visual.transformer.resblocks[1:], strict=False):

            def replace_last(_: Any, given: Any, row: torch.Tensor = row) -> Any:
                return (torch.cat([given[0][:, :-n], row.expand(len(given[0]), -1, -1)], 1), *given[1:])

            hooks.append(block.register_forward_pre_hook(replace_last))
    if (ctx := tensors.get(Role.CTX)) is not None:
        first = torch.from_numpy(ctx)

        def embed(_: Any, __: Any, embedded: torch.Tensor) -> torch.Tensor:
            return torch.cat([embedded[:, :1], first.expand(len(embedded), -1, -1), embedded[:, 1 + len(first) :]], 1)

        hooks.append(model.token_embedding.register_forward_hook(embed))
    deep = map(torch.from_numpy, tensors.get(Role.DEEP_CTX, ()))
    for row, block in zip(deep, model.transformer.resblocks[1:], strict=False):

        def replace_first(_: Any, given: Any, row: torch.Tensor = row) -> Any:
            x = given[0]
            return (torch.cat([x[:, :1], row.expand(len(x), -1, -1), x[:, 1 + len(row) :]], 1), *given[1:])

        hooks.append(block.register_forward_pre_hook(replace_first))
    yield
    for hook in hooks:
        hook.remove()


def merged(model: Any, tensors: dict[Role, Array]) -> Any:
    """A copy of the model with the low-rank changes added to its weights."""
    changed = copy.deepcopy(model)
    for tower, inner, outer in (
        (changed.transformer, Role.LORA_TEXT_IN, Role.LORA_TEXT_OUT),
        (changed.visual.transformer, Role.LORA_IMAGE_IN, Role.LORA_IMAGE_OUT),
    ):
        for layer, block in enumerate(tower.resblocks):
            for i, part in enumerate(block.attn.in_proj_weight.data.chunk(3)):  # q, k, v
                part += torch.from_numpy(tensors[outer][layer, i]) @ torch.from_numpy(tensors[inner][layer, i])
    return changed


def reference_text(model: Any, prefix: str) -> Array:
    with torch.inference_mode():
        tokens = import_open_clip().tokenize([f"{prefix}{name}." for name in NAMES])
        return model.encode_text(tokens, normalize=True).numpy()


def reference_image(model: Any, batch: Array) -> Array:
    with torch.inference_mode():
        return model.encode_image(torch.from_numpy(batch), normalize=True).numpy()


# parity


@pytest.mark.parametrize(("depth", "n"), [(1, 1), (2, 3), (3, 2), (3, 77)])
def test_learned_tokens_stand_where_maple_has_them(exported: Exported, depth: int, n: int) -> None:
    tensors, plain = maple(depth, min(n, 70)), exported.backbone
    if n > 70:  # 77 are as many as a text holds, beside a name fewer fit
        tensors[Role.VISUAL_CTX] = draw(1, depth, n, WIDTH)
    classifier, batch = Classifier(plain, pack_of(plain, tensors)), pixels(plain)
    with hooked(exported.model, tensors):
        wanted = reference_image(exported.model, batch)
        wanted_text = reference_text(exported.model, "x " * len(tensors[Role.CTX]))
    got = classifier.backbone.encode_images(batch)
    assert np.abs(got - wanted).max() < 5e-6
    assert np.abs(classifier.class_features - wanted_text).max() < 5e-6
    assert np.abs(got - plain.encode_images(batch)).max() > 0.01
    assert np.abs(classifier.backbone.encode_images(batch[:1], lane=True) - wanted[:1]).max() < 5e-6


def test_deeper_text_tokens_matter(exported: Exported) -> None:
    tensors, plain = maple(2, 2), exported.backbone
    shallow = {role: values for role, values in tensors.items() if role != Role.DEEP_CTX}
    deep, flat = (Classifier(plain, pack_of(plain, given)).class_features for given in (tensors, shallow))
    assert np.abs(deep - flat).max() > 0.01


@pytest.mark.parametrize("rank", [1, 2, 16])
def test_low_rank_weights_are_merged(exported: Exported, rank: int) -> None:
    tensors, plain = lora(rank), exported.backbone
    classifier, batch = Classifier(plain, pack_of(plain, tensors, template=True)), pixels(plain)
    model = merged(exported.model, tensors)
    wanted = reference_image(model, batch)
    got = classifier.backbone.encode_images(batch)
    assert np.abs(got - wanted).max() < exported.tolerance
    assert np.abs(classifier.class_features - reference_text(model, "a ")).max() < exported.tolerance
    assert np.abs(got - plain.encode_images(batch)).max() > 20 * exported.tolerance
    assert np.abs(plain.encode_images(batch) - reference_image(exported.model, batch)).max() < 5e-6, "the folder is unchanged"


def test_tokens_and_weights_together(exported: Exported) -> None:
    tokens, weights, plain = maple(2, 2), lora(2), exported.backbone
    classifier = Classifier(plain, pack_of(plain, tokens | weights))
    model = merged(exported.model, weights)
    with hooked(model, tokens):
        assert (
            np.abs(classifier.backbone.encode_images(pixels(plain)) - reference_image(model, pixels(plain))).max()
            < exported.tolerance
        )
        assert np.abs(classifier.class_features - reference_text(model, "x x ")).max() < exported.tolerance


@pytest.mark.parametrize(("depth", "n"), [(0, 0), (0, 3), (2, 0)])
def test_without_tokens_the_graphs_are_the_plain_ones(exported: Exported, depth: int, n: int) -> None:
    backbone = exported.backbone
    image = Session(backbone.folder / "image.prompted.onnx", stored_low=True)
    got = image.run({"pixels": pixels(backbone), "prompts": np.zeros((depth, n, WIDTH), np.float32)})
    assert np.abs(got - backbone.encode_images(pixels(backbone))).max() < 2e-6
    text = Session(backbone.folder / "text.prompted.onnx", stored_low=True)
    feeds = {"prompts": draw(0, 2, 6, TEXT_WIDTH), "eot": np.array([5, 3])}
    got = text.run({**feeds, "deep": np.zeros((depth, n, TEXT_WIDTH), np.float32)})
    assert np.abs(got - backbone.text.session.run(feeds)).max() < 2e-6


# the backbone of a pack


def test_a_plain_pack_keeps_the_backbone(exported: Exported) -> None:
    plain, own = exported.backbone, pack_of(exported.backbone, maple(2, 2))
    by_hand = pack_of(plain, {}, template=True)
    assert plain.adapted(by_hand) is plain
    batch = pixels(plain)
    back = plain.adapted(own).adapted(by_hand)
    assert np.array_equal(back.encode_images(batch), plain.encode_images(batch))
    assert back.feature_kind == plain.feature_kind


def test_each_pack_has_features_of_its_own_in_the_cache(exported: Exported, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("EDGE_QPROMPT_CACHE", str(tmp_path))
    plain = exported.backbone
    backbones = [plain, *(plain.adapted(pack_of(plain, maple(2, 2, seed))) for seed in (0, 1))]
    first = [extract(backbone, photos()) for backbone in backbones]
    again = [extract(backbone, photos()) for backbone in backbones]
    assert [found.from_cache for found in first] == [0, 0, 0]
    assert [found.from_cache for found in again] == [len(photos())] * 3
    for i, one in enumerate(again):
        assert np.array_equal(one.values, first[i].values)
        assert all(np.abs(one.values - other.values).max() > 0.01 for other in again[:i])


def test_classify_looks_through_the_packs_own_encoder(exported: Exported) -> None:
    tensors, plain = maple(3, 2), exported.backbone
    classifier = Classifier(plain, pack_of(plain, tensors))
    with hooked(exported.model, tensors):
        image, text = reference_image(exported.model, pixels(plain)[:1]), reference_text(exported.model, "x x ")
    logits = plain.manifest.logit_scale * (image @ text.T)[0]
    wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    got = {found.label: found.probability for found in classifier.classify(photos()[0])}
    assert [got[name] for name in NAMES] == pytest.approx(wanted, abs=1e-4)


def test_evaluate_measures_each_prompt_through_its_encoder(exported: Exported, tmp_path: Path) -> None:
    plain = exported.backbone
    pack = pack_of(plain, maple(3, 2))
    pack.save(tmp_path / "own.qpk")
    root = make_photos(tmp_path, "bag", "ankle_boot", "sandal", each=8)
    arguments = [str(tmp_path / "own.qpk"), str(root), "--backbone", str(plain.folder), "--json"]
    found = json.loads(CliRunner().invoke(evaluate_command, arguments, catch_exceptions=False).stdout)
    names = ("ankle boot", "bag", "sandal")
    paths, labels = sorted(root.rglob("*.png")), np.repeat(np.arange(3), 8)
    own = Classifier(plain, pack, names)
    by_hand = Classifier(plain, pack_of(plain, {}), names)
    for classifier, key in ((own, "accuracy"), (by_hand, "zero_shot_accuracy")):
        features = extract(classifier.backbone, paths).values[:, 0]
        assert found[key] == pytest.approx((classifier.logits(features).argmax(axis=1) == labels).mean())


# what does not fit


def damaged(change: dict[Role, Array | None]) -> dict[Role, Array]:
    tensors: dict[Role, Array | None] = {**maple(2, 2), **lora(2), **change}
    return {role: values for role, values in tensors.items() if values is not None}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {Role.VISUAL_CTX: draw(0, LAYERS + 1, 2, WIDTH)},
            r"image layers have shape \(4, 2, 64\), .* at most \(3, 77\) of width 64",
        ),
        ({Role.VISUAL_CTX: draw(0, 2, 78, WIDTH)}, r"shape \(2, 78, 64\)"),
        ({Role.VISUAL_CTX: draw(0, 2, 2, WIDTH + 1)}, r"shape \(2, 2, 65\)"),
        ({Role.VISUAL_CTX: draw(0, 2, WIDTH)}, r"shape \(2, 64\), wanted \(depth, n, width\)"),
        ({Role.DEEP_CTX: draw(0, TEXT_LAYERS, 2, TEXT_WIDTH)}, r"text layers have shapes \(2, 64\) and \(2, 2, 64\)"),
        ({Role.DEEP_CTX: draw(0, 1, 3, TEXT_WIDTH)}, r"shapes \(2, 64\) and \(1, 3, 64\)"),
        ({Role.CTX: None}, r"shapes None and \(1, 2, 64\)"),
        ({Role.LORA_TEXT_OUT: None}, r"shapes \(2, 3, 2, 64\) and \(\)"),
        ({Role.LORA_IMAGE_IN: None}, r"shapes \(\) and \(3, 3, 64, 2\)"),
        ({Role.LORA_IMAGE_IN: draw(0, LAYERS, 3, 1, WIDTH)}, r"shapes \(3, 3, 1, 64\) and \(3, 3, 64, 2\)"),
        ({Role.LORA_IMAGE_IN: draw(0, 3, 2, WIDTH)}, r"shapes \(3, 2, 64\)"),
        ({Role.LORA_TEXT_IN: draw(0, 1, 3, 2, TEXT_WIDTH)}, r"wanted \(2, 3, r, 64\) and \(2, 3, 64, r\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(exported: Exported, change: dict[Role, Array | None], reason: str) -> None:
    with pytest.raises(PackError, match=reason):
        exported.backbone.adapted(pack_of(exported.backbone, damaged(change)))


def test_weights_out_of_range_are_refused(exported: Exported) -> None:
    inner, outer = (np.full(shape, 60000, np.float32) for shape in ((2, 3, 1, TEXT_WIDTH), (2, 3, TEXT_WIDTH, 1)))
    pack = pack_of(exported.backbone, {Role.LORA_TEXT_IN: inner, Role.LORA_TEXT_OUT: outer}, template=True)
    if exported.stored == "float32":  # which holds the product of any two halves
        assert np.isfinite(Classifier(exported.backbone, pack).class_features).all()
    else:
        with pytest.raises(PackError, match=r"resblocks.0.attn.in_proj_weight is beyond what the tower can hold"):
            Classifier(exported.backbone, pack)


def test_a_backbone_without_a_vision_transformer_says_so(nano: Backbone) -> None:
    assert nano.manifest.vision is None
    with pytest.raises(BackboneError, match=r"backbone nano cannot take.*export it again"):
        Classifier(nano, pack_of(nano, {Role.VISUAL_CTX: draw(0, 1, 2, WIDTH)}, template=True))
    with pytest.raises(BackboneError, match=r"image tower of backbone nano is no vision transformer.*edge-qprompt export"):
        _ = nano.vision_weights


# the exporter


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
