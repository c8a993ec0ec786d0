"""What `diagnose` finds: wrong labels, twins, blank and small photos, overlaps, rare classes, and what more would bring."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from common import DEMO, MakePhotos
from PIL import Image, ImageOps

from edge_qprompt import Backbone, diagnose, encode_photos
from edge_qprompt.errors import DataError
from edge_qprompt.learn.doctor.growth import Growth
from edge_qprompt.learn.doctor.left_out import Discriminant
from edge_qprompt.learn.doctor.suspects import NAMED, Suspects
from edge_qprompt.learn.doctor.twins import exact, near
from edge_qprompt.learn.methods.gaussian import Gaussian
from edge_qprompt.learn.shots import Shots
from edge_qprompt.photos import glances, load_dataset


def drawn(counts: list[int], dims: int = 24, apart: float = 1.0, seed: int = 0) -> Shots:
    """Features about one mean a class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    features = apart * rng.normal(size=(len(counts), dims))[labels] + rng.normal(size=(len(labels), dims))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    text = rng.normal(size=(len(counts), dims))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    return Shots(features[:, None].astype(np.float32), labels, text.astype(np.float32), 100.0)


@pytest.fixture(scope="module")
def demo(nano: Backbone) -> Shots:
    data = load_dataset(DEMO)
    assert data.test
    paths = [str(path) for path in data.train.paths + data.test.paths]
    features = encode_photos(nano, paths)
    labels = np.array(data.train.labels + data.test.labels)
    flat = np.full((len(data.names), features.shape[1]), features.shape[1] ** -0.5, np.float32)  # names that say nothing
    return Shots(features[:, None], labels, flat, 100.0)


@pytest.mark.parametrize("counts", [[5, 5, 5], [1, 7, 3, 12], [2, 2]])
def test_leaving_out_is_what_learning_without_the_photo_gives(counts: list[int]) -> None:
    shots = drawn(counts)
    whole = Discriminant.fit(shots)
    said = whole.left_out(shots)
    assert np.allclose(np.linalg.inv(whole.precision), np.linalg.inv(whole.precision).T)
    for i, label in enumerate(shots.labels):
        others = np.delete(np.arange(len(shots.labels)), i)
        if not (shots.labels[others] == label).any():
            assert np.allclose(said[i], whole.scores(shots.centre[i : i + 1])[0])
            continue
        every = shots.centre.astype(float)
        features, labels = every[others], shots.labels[others]
        means = np.array([features[labels == c].mean(axis=0) for c in range(shots.classes)])
        here, there = every[i] - every[shots.labels == label].mean(axis=0), np.bincount(shots.labels)[label]
        ridge = np.linalg.inv(whole.precision) - whole.factor * there / (there - 1) * np.outer(here, here)
        precision, about = np.linalg.inv(ridge), whole.centre
        means, counted = means - about, np.bincount(labels)
        wanted = (every[i] - about) @ precision @ means.T - (means @ precision * means).sum(axis=1) / 2
        wanted += whole.excess / counted / 2
        assert np.allclose(said[i], wanted, rtol=1e-6, atol=1e-8)


def test_it_is_the_discriminant_of_qgda() -> None:
    shots = drawn([5, 9, 3, 1])
    ours, theirs = Discriminant.fit(shots).scores(shots.centre), Gaussian.fit(shots).scores(shots.centre)
    assert np.allclose(ours - ours.mean(axis=1, keepdims=True), theirs - theirs.mean(axis=1, keepdims=True), rtol=1e-5)


def test_swapped_labels_are_found_among_the_built_in_photos(demo: Shots) -> None:
    found = named = others = 0
    for seed in range(3):
        rng, labels = np.random.default_rng(seed), demo.labels.copy()
        moved = rng.permutation(len(labels))[:33]  # one in twenty
        labels[moved] = (labels[moved] + rng.integers(1, 10, 33)) % 10
        seen = Suspects.among(Shots(demo.features, labels, demo.by_hand, demo.logit_scale))
        assert 0.03 <= seen.share <= 0.07
        wrong = np.isin(np.arange(len(labels)), moved)
        found += (wrong & (seen.wrong >= NAMED)).sum()
        named += (seen.wrong >= NAMED).sum()
        others += (seen.likely == demo.labels)[wrong & (seen.wrong >= NAMED)].sum()
    assert found / 99 > 0.8
    assert found / named > 0.7  # a fifth of the photos named by mistake, about
    assert others / found > 0.8  # what they really show


def test_right_labels_are_left_alone(demo: Shots) -> None:
    seen = Suspects.among(demo)
    assert seen.share <= 0.01
    assert (seen.wrong >= NAMED).mean() < 0.01
    assert (seen.answers == demo.labels).mean() > 0.8


def test_the_only_photo_of_a_class_is_not_judged() -> None:
    shots = drawn([1, 8, 8], apart=3.0)
    seen = Suspects.among(shots)
    assert seen.wrong[0] == 0
    assert (seen.wrong < 0.5).all()


def test_the_curve_rises_and_says_what_a_doubling_brings(demo: Shots) -> None:
    shots = demo.of(np.concatenate([np.flatnonzero(demo.labels == c)[:16] for c in range(10)]))
    growth = Growth.of(shots, tuple("abcdefghij"))
    assert [point.photos for point in growth.curve] == [1, 2, 4, 8, 16]
    accuracies = [point.accuracy for point in growth.curve]
    assert accuracies == sorted(accuracies)
    assert accuracies[0] < 0.65 < 0.75 < accuracies[-1]
    assert growth.doubled is not None
    assert accuracies[-1] < growth.doubled < accuracies[-1] + (accuracies[-1] - accuracies[-2])
    assert growth == Growth.of(shots, tuple("abcdefghij"))
    left = Discriminant.fit(shots).left_out(shots).argmax(axis=1) == shots.labels
    assert accuracies[-1] == pytest.approx(left.mean())


@pytest.mark.parametrize(
    ("counts", "photos"),
    [([17, 16, 15, 16], [1, 2, 4, 7.75, 16]), ([2, 2, 2], [1, 2]), ([1, 1, 2], [4 / 3]), ([3, 40, 4], [1, 7.67, 15.67])],
)
def test_the_curve_of_unequal_classes(counts: list[int], photos: list[float]) -> None:
    growth = Growth.of(drawn(counts, apart=3.0), tuple("abcd"[: len(counts)]))
    assert [point.photos for point in growth.curve] == pytest.approx(photos, abs=0.01)
    assert (growth.doubled is None) == (len(photos) == 1)
    assert [gain.name for gain in growth.gains if gain.photos == 1] == []


def test_a_class_with_few_photos_comes_first_and_like_ones_do_not_stand_out() -> None:
    first, out = [], 0
    for seed in range(4):
        names = tuple("abcdef")
        growth = Growth.of(drawn([20] + [60] * 5, dims=64, apart=0.35, seed=seed), names)
        first.append(growth.gains[0].name)
        assert growth.gains == tuple(sorted(growth.gains, key=lambda gain: -gain.ten_more))
        raw = [gain.gain * 10 / (gain.photos + 10) for gain in growth.gains]
        assert np.mean([gain.ten_more for gain in growth.gains]) == pytest.approx(np.mean(raw))
        assert growth.gains[0].ten_more <= max(raw)
        assert growth.gains[0].error > 0
        out += sum(gain.stands_out for gain in Growth.of(drawn([40] * 6, dims=64, apart=0.35, seed=seed), names).gains)
    assert first.count("a") >= 3
    assert out == 0


def jpeg(image: Image.Image, quality: int = 60) -> bytes:
    with io.BytesIO() as file:
        image.convert("RGB").save(file, "JPEG", quality=quality)
        return file.getvalue()


def test_copies_are_near_twins_and_neighbours_are_not(nano: Backbone, tmp_path: Path) -> None:
    paths = [DEMO / "train" / name / "0.png" for name in ("bag", "coat", "dress", "sandal")]
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            large = image.convert("RGB").resize((120, 120))
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(large, 95))
        (tmp_path / f"{i + 4}.jpg").write_bytes(jpeg(ImageOps.mirror(large), 80))
    copies = [tmp_path / f"{i}.jpg" for i in range(8)]
    groups = near(encode_photos(nano, [str(path) for path in copies]), glances(copies))
    assert groups == [[0, 4], [1, 5], [2, 6], [3, 7]]
    flat = [tmp_path / f"flat{i}.png" for i in range(2)]
    for path, level in zip(flat, (100, 101), strict=True):
        Image.new("L", (64, 64), level).save(path)
    assert near(encode_photos(nano, [str(path) for path in flat]), glances(flat)) == []
    same = np.eye(3, dtype=np.float32)[[0, 1, 0]]
    assert near(same, [None] * 3) == [[0, 2]]
    assert exact([b"a", b"b", b"a", b"c", b"b", b"a"]) == [[0, 2, 5], [1, 4]]


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven classes of twelve photos, one of three, with everything wrong that can be."""
    root = tmp_path_factory.mktemp("sick") / "photos"
    names = ("ankle_boot", "bag", "dress", "sandal", "trouser", "coat", "sneaker")
    for name in names:
        (root / "train" / name).mkdir(parents=True)
        for i in range(12):
            shutil.copy(DEMO / "train" / name / f"{i}.png", root / "train" / name)
    (root / "train" / "pullover").mkdir()
    for i in range(3):
        shutil.copy(DEMO / "train" / "pullover" / f"{i}.png", root / "train" / "pullover")
    (root / "train" / "bag" / "0.png").rename(root / "train" / "dress" / "really a bag.png")
    (root / "train" / "trouser" / "3.png").rename(root / "train" / "sandal" / "really trousers.png")
    shutil.copy(root / "train" / "coat" / "5.png", root / "train" / "sneaker" / "coat.png")
    shutil.copy(root / "train" / "coat" / "6.png", root / "train" / "coat" / "once more.png")
    (root / "test" / "bag").mkdir(parents=True)
    shutil.copy(root / "train" / "bag" / "7.png", root / "test" / "bag" / "seen.png")
    Image.new("RGB", (50, 40), (90, 90, 90)).save(root / "train" / "bag" / "grey.png")
    with Image.open(DEMO / "train" / "bag" / "8.png") as image:
        image.resize((9, 9)).save(root / "train" / "bag" / "tiny.png")
    (root / "train" / "bag" / "cut.jpg").write_bytes(jpeg(Image.effect_noise((60, 60), 50))[:300])
    return root


def test_all_that_is_wrong_is_named(nano: Backbone, sick: Path) -> None:
    found = diagnose(nano, sick)
    assert found.photos == 7 * 12 + 3 + 5  # less two, and those two in other classes
    ((broken, reason),) = found.unreadable
    assert str(broken).endswith("bag/cut.jpg")
    assert "damaged or cut short" in reason
    wrong = {Path(str(each.photo.path)).name: each for each in found.mislabelled}
    assert wrong["really a bag.png"].photo.label == "dress"
    assert wrong["really trousers.png"].likely == "trouser"
    assert wrong["coat.png"].likely == "coat"
    assert [each.probability for each in found.mislabelled] == sorted((e.probability for e in found.mislabelled), reverse=True)
    same = {each.harm: [Path(str(p.path)).name for p in each.photos] for each in found.twins if each.exact}
    assert same == {
        "two classes": ["5.png", "coat.png"],
        "train and test": ["7.png", "seen.png"],
        "twice": ["6.png", "once more.png"],
    }
    assert next(each.harm for each in found.twins) == "two classes"
    assert all(each.photos[0].digest == each.photos[1].digest for each in found.twins if each.exact)
    poor = {(each.fault, Path(str(each.photo.path)).name) for each in found.poor}
    assert poor == {("blank", "grey.png"), ("small", "tiny.png")}
    assert [(each.name, each.photos, each.usual) for each in found.rare] == [("pullover", 3, 13.0)]
    assert found.growth
    assert found.accuracy
    assert 0.5 < found.accuracy < 1
    assert found.unknown == ()
    assert "3 twins" in repr(found)


def test_classes_that_overlap_are_named(nano: Backbone, demo: Shots) -> None:
    names = load_dataset(DEMO).names
    some = [names.index(name) for name in ("coat", "pullover", "sandal")]
    mine = np.flatnonzero(np.isin(demo.labels, some))
    found = diagnose(nano, (demo.centre[mine], [names[i] for i in demo.labels[mine]]))
    assert found.overlaps
    assert set(found.overlaps[0].names) == {"coat", "pullover"}
    assert 0.05 < found.overlaps[0].share < 0.4
    assert len(found.overlaps) == 1
    assert any("size and blankness" in each for each in found.unknown)


def test_one_photo_a_class_says_what_cannot_be_known(nano: Backbone, photos: MakePhotos) -> None:
    found = diagnose(nano, photos("bag", "coat", each=1))
    assert (found.photos, found.mislabelled, found.overlaps, found.growth, found.accuracy) == (2, (), (), None, None)
    assert found.wrong_share is None
    assert "one photo" in found.unknown[0]


def test_two_photos_a_class_are_not_called_wrong_on_a_guess(nano: Backbone, photos: MakePhotos) -> None:
    found = diagnose(nano, photos(each=2))
    assert all(each.probability >= 0.5 for each in found.mislabelled)
    assert any("fewer than" in each for each in found.unknown)


def test_a_class_that_cannot_be_read_is_told_of(nano: Backbone, photos: MakePhotos) -> None:
    root = photos("bag", "coat", "dress")
    for file in (root / "dress").iterdir():
        file.write_bytes(b"nothing")
    found = diagnose(nano, root)
    assert (found.photos, len(found.unreadable)) == (8, 4)
    assert found.unknown[0].startswith("no photo of dress can be read")
    assert found.growth
    for file in (root / "bag", root / "coat"):
        for each in file.iterdir():
            each.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"none of the 12 photos can be read; of the first: .*not an image"):
        diagnose(nano, root)


def test_photos_that_are_all_the_same_are_no_trouble(nano: Backbone, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            shutil.copy(DEMO / "train" / "bag" / "0.png", tmp_path / name / f"{i}.png")
    found = diagnose(nano, tmp_path)
    ((twins),) = found.twins
    assert (len(twins.photos), twins.harm) == (6, "two classes")


def test_a_plain_class_is_not_blank_and_small_ones_among_small_ones_are_not_small(nano: Backbone, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, spread in (("sea", 1.0), ("town", 60.0)):
        (tmp_path / name).mkdir()
        for i in range(4):
            pixels = (128 + spread * rng.normal(size=(24, 24, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    assert diagnose(nano, tmp_path).poor == ()
