"""Learning on real photos: methods, packs that are what was trained, resuming, determinism."""

from __future__ import annotations

import dataclasses
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from common import MakePhotos

import edge_qprompt
from edge_qprompt import Backbone, Classifier
from edge_qprompt.classify.classifier import zero_shot
from edge_qprompt.codebook import ClusterSettings
from edge_qprompt.errors import CheckpointError, EdgeQPromptError
from edge_qprompt.learn.adapt import adapt
from edge_qprompt.learn.loop import learn
from edge_qprompt.learn.methods.registry import METHODS
from edge_qprompt.learn.methods.straight_through import StraightThrough
from edge_qprompt.learn.problem import Problem, initial_context
from edge_qprompt.learn.settings import (
    ALL,
    AdaptSettings,
    EngineSettings,
    LoopSettings,
    MethodSettings,
    Schedule,
    default_ctx,
    sgd,
)
from edge_qprompt.pack.pack import Pack, Role
from edge_qprompt.photos.dataset import Dataset, load_dataset
from edge_qprompt.photos.features import extract

PHOTOS = Path(edge_qprompt.__file__).parent / "data" / "fashion_mnist"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.open("nano")


@pytest.fixture(scope="module")
def clothes() -> Dataset:
    data = load_dataset(PHOTOS)
    keep = [i for i, label in enumerate(data.test.labels) if label < 4][::5]
    few = [i for i, label in enumerate(data.train.labels) if label < 4]
    return Dataset(data.names[:4], data.train.take(few), data.test.take(keep))


@pytest.fixture(scope="module")
def problem(backbone: Backbone, clothes: Dataset) -> Problem:
    features = extract(backbone, clothes.train.paths)
    return Problem.of(
        backbone,
        clothes.names,
        initial_context(backbone, 4, 1),
        features.values,
        np.array(clothes.train.labels),
        zero_shot(backbone, clothes.names).class_features,
        EngineSettings(),
    )


def quick(method: str, bits: int = 1, epochs: int = 20, **more: object) -> AdaptSettings:
    settings = MethodSettings(ClusterSettings(bits=bits))
    return AdaptSettings(method=method, loop=LoopSettings(epochs=epochs, **more), method_settings=settings)


@pytest.mark.parametrize(("method", "bits"), [("qcoop", 1), ("qcoop", 2), ("qcoop", 4), ("qcoop", 8), ("coop", 16)])
def test_pack_is_the_last_training_forward(
    backbone: Backbone, problem: Problem, method: str, bits: int, clothes: Dataset
) -> None:
    learner = METHODS[method](problem, MethodSettings(ClusterSettings(bits=min(bits, 8))))
    learn(learner, problem.features, problem.labels, LoopSettings(epochs=10))
    used = learner.context()
    with torch.no_grad():
        wanted = problem.logits(used, problem.features[:, 0]).numpy()
    tensors, sections = learner.result()
    pack = Pack.decode(Pack(backbone.manifest.short_fingerprint, learner.number, 0, tensors, sections).encode())
    assert np.abs(pack.tensor(Role.CTX).values() - used.detach().numpy()).max() <= np.abs(used.detach().numpy()).max() * 2**-11
    got = Classifier(backbone, pack, clothes.names).logits(problem.features[:, 0].numpy())
    assert np.abs(got - wanted).max() < 0.02  # of a range of +-22: float16 rounding of the prompt
    assert (got.argmax(axis=1) == wanted.argmax(axis=1)).all()


@pytest.mark.parametrize("method", ["cocoop", "clip-adapter"])
def test_a_pack_with_a_net_answers_as_it_was_trained(backbone: Backbone, problem: Problem, clothes: Dataset, method: str) -> None:
    learner, few = METHODS[method](problem, MethodSettings()), slice(None, None, 8)
    learn(learner, problem.features[few], problem.labels[few], LoopSettings(epochs=2))
    tensors, sections = learner.result()
    photos, labels = problem.features[few, 0], problem.labels[few]
    pack = Pack(backbone.manifest.short_fingerprint, learner.number, 0, tensors, sections)
    got = Classifier(backbone, pack, clothes.names).logits(photos.numpy())
    with torch.no_grad():
        wanted = [float(learner.loss(photo[None], label[None])) for photo, label in zip(photos, labels, strict=True)]
    shares = F.log_softmax(torch.from_numpy(got), dim=1)
    np.testing.assert_allclose(-shares[range(len(labels)), labels].numpy(), wanted, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize(
    ("method", "epochs", "steps"), [("qcoop", 60, 60), ("coop", 60, 60), ("clip-adapter", 50, 100), ("cocoop", 3, 192)]
)
def test_learning_beats_the_hand_written_prompt(
    backbone: Backbone, clothes: Dataset, method: str, epochs: int, steps: int
) -> None:
    result = adapt(backbone, clothes, quick(method, epochs=epochs))
    assert result.held_out is not None
    assert result.held_out.pack > result.held_out.zero_shot + 0.2
    assert result.run.losses[-1] < result.run.losses[0] / 1.5
    assert result.run.steps == steps


def test_zero_shot_learns_nothing_and_equals_the_template(backbone: Backbone, clothes: Dataset) -> None:
    result = adapt(backbone, clothes, quick("zero-shot"))
    assert result.run.steps == 0
    assert result.held_out.pack == result.held_out.zero_shot
    assert result.pack.template == "a photo of a {}."


def test_zero_epochs_keep_the_initial_words(backbone: Backbone, clothes: Dataset) -> None:
    result = adapt(backbone, clothes, dataclasses.replace(quick("coop", epochs=0), n_ctx=4))
    words = backbone.text.from_template(clothes.names, "a photo of a {}.")
    learned = Classifier(backbone, result.pack).class_features
    assert (words * learned).sum(axis=1).min() > 0.9999


@pytest.mark.parametrize(("width", "tokens"), [(256, 8), (384, 5), (512, 4), (768, 4), (64, 8)])
def test_as_many_scalars_as_the_papers_prompts_where_that_is_possible(width: int, tokens: int) -> None:
    assert default_ctx(width) == tokens


def test_more_tokens_repeat_the_words_and_none_are_drawn_at_random(backbone: Backbone) -> None:
    words = torch.from_numpy(backbone.text_weights.token_vectors(backbone.tokenizer.encode("a photo of a")))
    torch.testing.assert_close(initial_context(backbone, 10, 1), torch.cat([words, words, words[:2]]), rtol=0, atol=1e-6)
    drawn = initial_context(backbone, 10, 1, words=False)
    assert drawn.std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(drawn, initial_context(backbone, 10, 1, words=False))
    assert not torch.equal(drawn, initial_context(backbone, 10, 2, words=False))


def test_prograd_starts_as_its_released_code(backbone: Backbone, clothes: Dataset) -> None:
    words = backbone.text_weights.token_vectors(backbone.tokenizer.encode("a photo of a"))

    def start(method: str, n_ctx: int | None) -> np.ndarray:
        settings = dataclasses.replace(quick(method, epochs=0), n_ctx=n_ctx)
        return adapt(backbone, clothes, settings).pack.tensor(Role.CTX).values()

    untold = start("prograd", None)
    assert untold.shape == (16, 256)
    assert not untold[:12].any()
    np.testing.assert_allclose(untold[12:], words, atol=1e-4)
    np.testing.assert_allclose(start("prograd", 2), words[:2], atol=1e-4)


@pytest.mark.parametrize(("method", "epochs", "batch"), [("kgcoop", 100, 128), ("prograd", 200, 32)])
def test_schedules_with_coops_learning_rate_at_their_own_batch(problem: Problem, method: str, epochs: int, batch: int) -> None:
    schedule = METHODS[method](problem, MethodSettings()).schedule
    assert (schedule.epochs, schedule.batch) == (epochs, batch)
    assert schedule.rate(0, 1000) == pytest.approx(1e-5)
    assert schedule.rate(epochs // 2, 1000) == pytest.approx(0.001)  # half way down the cosine


def test_straight_through_values_and_gradient() -> None:
    weights = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantizer = StraightThrough(weights, ClusterSettings(bits=2))
    out = quantizer(weights)
    assert torch.equal(out, torch.from_numpy(quantizer.quantize(weights).values()))
    assert len(out.unique()) == 4
    (out * torch.arange(128.0).view(4, 32)).sum().backward()
    assert torch.equal(weights.grad, torch.arange(128.0).view(4, 32))


def test_clustering_looks_at_the_interval_and_counts() -> None:
    weights = torch.randn(512, generator=torch.Generator().manual_seed(0))
    quantizer = StraightThrough(weights, ClusterSettings(bits=2, interval=5, constrained=False))
    for step in range(1, 21):
        quantizer.look(weights + step, step)
    assert quantizer.clustering.fired == 4
    assert [(step, again) for step, _, again in quantizer.looks] == [(5, True), (10, True), (15, True), (20, True)]
    resumed = StraightThrough(weights, ClusterSettings(bits=2, interval=5, constrained=False))
    resumed.load(quantizer.state())
    assert resumed.facts() == quantizer.facts()
    never = StraightThrough(weights, ClusterSettings(bits=2, interval=0, constrained=False))
    never.look(weights * 7, 5)
    assert never.clustering.fired == 0


def test_learning_rate_follows_the_reference_schedule() -> None:
    settings = Schedule(epochs=200, batch=32)
    assert settings.rate(0, 500) == 1e-5
    assert settings.rate(1, 500) == pytest.approx(0.002, rel=1e-4)
    assert settings.rate(100, 500) == pytest.approx(0.001)
    assert 0 < settings.rate(199, 500) < 1e-6
    slower = Schedule(epochs=200, batch=32, warmup=20)
    assert slower.rate(0, 500) == 1e-5
    assert slower.rate(5, 500) == pytest.approx(settings.rate(5, 500) / 4)
    assert [slower.rate(epoch, 500) for epoch in (20, 150)] == [settings.rate(epoch, 500) for epoch in (20, 150)]


def test_learning_rate_grows_with_the_photos_of_a_step() -> None:
    assert Schedule(lr=0.002).rate(100, 320) == pytest.approx(10 * Schedule(batch=32).rate(100, 320))
    assert Schedule().rate(100, 320) == pytest.approx(4 * Schedule(lr=0.002).rate(100, 320))
    assert Schedule(batch=16).rate(0, 320) == pytest.approx(0.5e-5)
    assert Schedule().rate(100, 10**6) == pytest.approx(64 * 0.004)


def test_a_papers_rate_for_its_own_batch() -> None:
    schedule = sgd(0.0035, batch=4, epochs=6)
    assert (schedule.rate(0, 500), schedule.rate(3, 500)) == pytest.approx((1e-5, 0.00175))
    assert LoopSettings(batch=8).over(schedule).rate(3, 500) == pytest.approx(0.0035)


def test_adamw_has_its_rate_for_any_batch_and_no_warm_up_where_none_is_wanted() -> None:
    schedule = Schedule(epochs=10, batch=4, lr=2e-4, warmup_lr=math.inf, optimiser="adamw")
    assert (schedule.rate(0, 500), schedule.rate(5, 500)) == pytest.approx((2e-4, 1e-4))


def test_what_is_said_stands_above_what_the_method_says() -> None:
    schedule = Schedule(epochs=10, batch=1, lr=0.5, momentum=0.8)
    assert LoopSettings().over(schedule) == schedule
    said = LoopSettings(epochs=0, batch=ALL, optimiser="adamw").over(schedule)
    assert said == Schedule(epochs=0, batch=ALL, lr=0.5, momentum=0.8, optimiser="adamw")
    for bad in ({"epochs": -1}, {"batch": -1}, {"lr": 0.0}, {"lr": math.inf}, {"warmup": 0}, {"optimiser": "lion"}):
        with pytest.raises(ValueError, match=r"lr above 0|one of \('sgd', 'adamw'\)"):
            LoopSettings(**bad)


class Recorder:
    """A method whose loss is the mean feature times a parameter, and that remembers what it was given."""

    schedule, schedules = Schedule(), {}

    def __init__(self) -> None:
        self.parameters = {"w": torch.ones(1, requires_grad=True)}
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def loss(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.seen.append((features, labels))
        return (self.parameters["w"] * features).mean()

    def after_step(self, step: int, steps: int) -> None:
        pass


def test_a_full_batch_is_every_view_of_every_photo_once_an_epoch() -> None:
    features, labels = torch.arange(24.0).reshape(4, 3, 2), torch.arange(4)
    method = Recorder()
    assert learn(method, features, labels, LoopSettings(epochs=5)).steps == len(method.seen) == 5
    for seen, of in method.seen:
        assert torch.equal(seen, features.reshape(12, 2))
        assert of.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_small_batches_are_one_view_of_every_photo_an_epoch() -> None:
    features, labels = torch.arange(24.0).reshape(4, 3, 2), torch.arange(4)
    method = Recorder()
    assert learn(method, features, labels, LoopSettings(epochs=2, batch=3)).steps == 4
    assert [len(of) for _, of in method.seen] == [3, 1, 3, 1]
    assert sorted(torch.cat([of for _, of in method.seen[:2]]).tolist()) == [0, 1, 2, 3]
    for seen, of in method.seen:
        assert all(any(torch.equal(row, view) for view in features[i]) for row, i in zip(seen, of, strict=True))


def test_divergence_is_an_error(problem: Problem, backbone: Backbone) -> None:
    broken = dataclasses.replace(problem, features=torch.full_like(problem.features, float("nan")))
    method = METHODS["coop"](broken, MethodSettings())
    with pytest.raises(EdgeQPromptError, match="diverged in epoch 1"):
        learn(method, broken.features, broken.labels, LoopSettings(epochs=2))


def test_same_seed_same_pack_and_another_seed_another(backbone: Backbone, clothes: Dataset) -> None:
    settings = [dataclasses.replace(quick("qcoop", epochs=20, seed=seed), shots=8) for seed in (1, 1, 2)]
    ids = [adapt(backbone, clothes, each).pack.pack_id for each in settings]
    assert ids[0] == ids[1] != ids[2]


def test_a_full_batch_of_all_photos_has_nothing_left_to_a_seed(backbone: Backbone, clothes: Dataset) -> None:
    ids = {adapt(backbone, clothes, quick("qcoop", epochs=20, seed=seed)).pack.pack_id for seed in (1, 2)}
    assert len(ids) == 1


class Stop(Exception):
    """Raised in the middle of a run."""


@pytest.mark.parametrize(("method", "loop"), [("qcoop", {}), ("coop", {}), ("coop", {"momentum": 0.0}), ("clip-adapter", {})])
def test_resume_gives_the_same_bytes(
    backbone: Backbone, clothes: Dataset, tmp_path: Path, method: str, loop: dict[str, object]
) -> None:
    settings = quick(method, bits=2, epochs=12, checkpoint_seconds=0.0, **loop)
    whole = adapt(backbone, clothes, settings).pack.pack_id
    checkpoint = tmp_path / "run.checkpoint"

    def stop(stage: str, done: int, total: int, note: str) -> None:
        if stage == "learn" and done == 7:
            raise Stop

    with pytest.raises(Stop):
        adapt(backbone, clothes, settings, checkpoint, progress=stop)
    resumed = adapt(backbone, clothes, settings, checkpoint, resume=True)
    assert resumed.run.resumed_at == 6
    assert resumed.pack.pack_id == whole
    with pytest.raises(CheckpointError, match="other settings"):
        adapt(backbone, clothes, quick(method, bits=2, epochs=13), checkpoint, resume=True)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        adapt(backbone, clothes, settings, checkpoint, resume=True)


LONG = [sys.executable, "-m", "device_agent", "adapt", str(PHOTOS), "--shots", "4", "--epochs", "200"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What LONG makes when nothing happens."""
    out = tmp_path_factory.mktemp("whole") / "whole.qpk"
    subprocess.run([*LONG, "--out", str(out)], check=True, capture_output=True, timeout=300)
    return out.read_bytes()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.timeout(600)
def test_a_killed_command_resumes_to_the_same_bytes(tmp_path: Path, whole: bytes, how: signal.Signals) -> None:
    out, checkpoint = tmp_path / "cut.qpk", tmp_path / "cut.qpk.checkpoint"
    # a shell's background jobs ignore Ctrl-C, and so would their children
    run = subprocess.Popen([*LONG, "--out", str(out)], preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    deadline = time.monotonic() + 240
    while not checkpoint.exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(how)
    code = run.wait(timeout=100)
    assert code == (-9 if how == signal.SIGKILL else 130)
    assert checkpoint.exists()
    assert not out.exists()
    done = subprocess.run(
        [*LONG, "--out", str(out), "--resume", "--json"], check=True, capture_output=True, text=True, timeout=300
    )
    assert '"resumed_at_epoch": null' not in done.stdout
    assert out.read_bytes() == whole
    assert not checkpoint.exists()


def test_learning_and_measuring_in_three_lines(nano: Backbone, photos: MakePhotos) -> None:
    folder = photos("bag", "ankle_boot", "t-shirt")
    pack = edge_qprompt.adapt(nano, folder, edge_qprompt.AdaptSettings(method="qres")).pack
    found = edge_qprompt.evaluate(nano, pack, str(folder))
    assert (found.split, found.pack.n, found.names) == ("all photos", 12, ("ankle boot", "bag", "t shirt"))
    assert found.accuracy > found.zero_shot.accuracy - 0.1
    assert found.skipped == ()
