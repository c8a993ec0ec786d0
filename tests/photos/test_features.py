"""Features: a function of photo, view and backbone, whatever the cache holds and whatever the cache suffers."""

from __future__ import annotations

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from common import DEMO

from edge_qprompt import Backbone
from edge_qprompt.errors import PhotoError
from edge_qprompt.photos.dataset import list_photos
from edge_qprompt.photos.features import CHUNK_VIEWS, Features, Views, extract
from edge_qprompt.photos.photo import decode_photo, to_pixels


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for each test."""
    return use_cache(monkeypatch, tmp_path / "cache")


def use_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    monkeypatch.setenv("EDGE_QPROMPT_CACHE", str(folder))
    return folder


@pytest.fixture
def bags() -> list[Path]:
    return list_photos(DEMO / "train" / "bag")[:9]


def database(cache: Path) -> Path:
    (path,) = cache.glob("features/*.sqlite")
    return path


def same(a: Features, b: Features) -> bool:
    return a.values.tobytes() == b.values.tobytes() and np.array_equal(a.kept, b.kept)


def test_features_are_those_of_the_encoder(nano: Backbone, bags: list[Path]) -> None:
    found = extract(nano, bags[:2])
    pixels = np.stack([to_pixels(decode_photo(path.read_bytes()), nano.manifest.preprocess) for path in bags[:2]])
    assert found.values.shape == (2, 1, nano.manifest.embed_dim)
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values[:, 0], nano.encode_images(pixels), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.values, axis=-1), 1, atol=1e-5)


def test_cache_hits_equal_fresh_values_bit_for_bit(nano: Backbone, bags: list[Path], tmp_path: Path) -> None:
    fresh = extract(nano, bags, views=Views(2, seed=3))
    copies = [Path(shutil.copy(path, tmp_path / f"copy{i}.png")) for i, path in enumerate(bags)]
    again = extract(nano, copies, views=Views(2, seed=3))  # by content, not by name
    assert (fresh.from_cache, again.from_cache) == (0, 18)
    assert same(fresh, again)


def test_features_do_not_depend_on_what_else_is_encoded(
    nano: Backbone, bags: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    together = extract(nano, bags).values
    use_cache(monkeypatch, tmp_path / "reversed")
    assert np.array_equal(extract(nano, bags[::-1]).values[::-1], together)
    use_cache(monkeypatch, tmp_path / "one by one")
    for i in (8, 0, 3):
        assert np.array_equal(extract(nano, [bags[i]]).values[0], together[i])
    assert np.array_equal(extract(nano, bags).values, together)  # some from the cache, some not


def test_views_depend_on_content_seed_and_number_alone(nano: Backbone, bags: list[Path]) -> None:
    three = extract(nano, bags[:2], views=Views(3, seed=1)).values
    assert np.array_equal(extract(nano, bags[1::-1], views=Views(2, seed=1)).values[::-1], three[:, :2])
    other = extract(nano, bags[:2], views=Views(3, seed=2)).values
    assert np.array_equal(other[:, 0], three[:, 0])  # the centre crop has no seed
    distinct = {vector.tobytes() for values in (three, other) for row in values for vector in row}
    assert len(distinct) == 2 * (1 + 2 + 2)


def test_more_photos_than_a_chunk_keep_their_order(nano: Backbone, bags: list[Path]) -> None:
    many = [bags[i % 5] for i in range(CHUNK_VIEWS + 6)]
    seen: list[tuple[int, int]] = []
    values = extract(nano, many, progress=lambda done, total: seen.append((done, total))).values
    assert all(np.array_equal(values[i], values[i % 5]) for i in range(len(many)))
    assert seen == [(CHUNK_VIEWS, len(many)), (len(many), len(many))]


def test_skipped_photos_keep_positions_right(nano: Backbone, bags: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no photo")
    bad = [tmp_path / "text.jpg", tmp_path / "missing.jpg"]
    found = extract(nano, [bad[0], bags[0], bags[1], bad[1], bags[2], bad[0]])
    assert found.kept.tolist() == [1, 2, 4]
    assert np.array_equal(found.values, extract(nano, bags[:3]).values)
    assert [path for path, _ in found.skipped] == [bad[0], bad[1], bad[0]]
    assert "text.jpg is not an image" in found.skipped[0][1]
    assert "cannot read" in found.skipped[1][1]


def test_strict_stops_at_the_first_bad_photo(nano: Backbone, bags: list[Path], tmp_path: Path) -> None:
    (tmp_path / "b.jpg").touch()
    with pytest.raises(PhotoError, match=r"b\.jpg is empty"):
        extract(nano, [bags[0], tmp_path / "b.jpg", tmp_path / "missing.jpg"], strict=True)


def test_nothing_readable_and_nothing_asked(nano: Backbone, tmp_path: Path) -> None:
    for paths in ([tmp_path / "missing.jpg"], []):
        found = extract(nano, paths, views=Views(2))
        assert found.values.shape == (0, 2, nano.manifest.embed_dim)
        assert (len(found.kept), len(found.skipped)) == (0, len(paths))


def test_threads_may_share_a_cache(nano: Backbone, bags: list[Path]) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: extract(nano, bags[:4]), range(3)))
    assert all(same(found[0], other) for other in found)
    assert extract(nano, bags[:4]).from_cache == 4


def test_a_file_that_is_no_cache_is_replaced_with_a_warning(nano: Backbone, bags: list[Path], cache: Path) -> None:
    fresh = extract(nano, bags[:2])
    database(cache).write_bytes(b"rubbish " * 4000)
    with pytest.warns(UserWarning, match=r"feature cache .*\.sqlite: file is not a database; features are computed anew"):
        again = extract(nano, bags[:2])
    assert same(fresh, again)
    assert extract(nano, bags[:2]).from_cache == 2


def test_a_cache_with_damaged_pages_is_replaced_with_a_warning(nano: Backbone, bags: list[Path], cache: Path) -> None:
    fresh = extract(nano, bags, views=Views(3))
    path = database(cache)
    with path.open("r+b") as file:  # the first page, with the schema, stays whole
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    with pytest.warns(UserWarning, match="malformed; features are computed anew"):
        again = extract(nano, bags, views=Views(3))
    assert same(fresh, again)
    assert extract(nano, bags, views=Views(3)).from_cache == 27


@pytest.mark.parametrize("damage", [np.nan, 3.0, 0.0])
def test_damaged_rows_are_computed_anew(nano: Backbone, bags: list[Path], cache: Path, damage: float) -> None:
    fresh = extract(nano, bags[:3])
    wrong = np.full(nano.manifest.embed_dim, damage, np.float32).tobytes()
    with sqlite3.connect(database(cache)) as db:
        db.execute("UPDATE features SET vector = ?", (wrong,))
        db.execute("UPDATE features SET vector = 'text' WHERE key = (SELECT min(key) FROM features)")
    db.close()
    again = extract(nano, bags[:3])
    assert again.from_cache == 0
    assert same(fresh, again)
    assert extract(nano, bags[:3]).from_cache == 3


def test_a_cache_in_an_impossible_place_costs_only_time(
    nano: Backbone, bags: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = extract(nano, bags[:2])
    (tmp_path / "file").touch()
    use_cache(monkeypatch, tmp_path / "file" / "below")
    with pytest.warns(UserWarning, match="Not a directory: .*; features are computed anew"):
        again = extract(nano, [*bags[:2], bags[0]])
    assert np.array_equal(again.values, fresh.values[[0, 1, 0]])


def test_a_cache_that_cannot_be_opened_is_not_deleted(nano: Backbone, bags: list[Path], cache: Path) -> None:
    fresh = extract(nano, bags[:2])
    path = database(cache)
    path.unlink()
    path.mkdir()  # root may write everywhere, but not open a folder
    with pytest.warns(UserWarning, match="unable to open database file"):
        assert same(extract(nano, bags[:2]), fresh)
    assert path.is_dir()
