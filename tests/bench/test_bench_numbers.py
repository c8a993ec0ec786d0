"""`bench` with what is no paper's method: auto, the discriminant and logistic regression, from several numbers of photos."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from common import DEMO, Command, Done, fails
from sklearn.linear_model import LogisticRegression

from edge_qprompt import Backbone
from edge_qprompt.bench import MAIN, REGRESSION, cells_of
from edge_qprompt.bench.protocols import PROTOCOLS, SHOWN, coops_epochs
from edge_qprompt.bench.regression import Regressed, regression
from edge_qprompt.errors import DataError
from edge_qprompt.learn import AUTO, AdaptSettings, Shots
from edge_qprompt.photos import features_of, load_dataset

LOGISTIC = SHOWN[REGRESSION]
METHODS = ("zero-shot", "qgda", AUTO, REGRESSION)
RUN = ("bench", "base-to-new", "--data", DEMO, "--methods", ",".join(METHODS))


@pytest.fixture(scope="module")
def done(edge_qprompt_command: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    """Base-to-new from 2 and 8 photos, and its folder."""
    out = tmp_path_factory.mktemp("numbers")
    return edge_qprompt_command(*RUN, "--shots", "2,8", "--out", out, "--json"), out


def test_each_number_of_photos_is_learned_once(done: tuple[Done, Path], edge_qprompt_command: Command, tmp_path: Path) -> None:
    rows = done[0].json["rows"]
    assert [(row["variant"], row["settings"]["shots"]) for row in rows] == [
        (name, shots) for name in ("zero-shot", "qgda", AUTO, LOGISTIC) for shots in (2, 8)
    ]
    shutil.copy(done[1] / "base-to-new.jsonl", tmp_path)
    again = edge_qprompt_command(*RUN, "--shots", "8", "--out", tmp_path)
    assert "4 of 4 cells are finished" in again.err
    learned = {(row["variant"], row["settings"]["shots"]): row for row in rows}
    assert learned[AUTO, 8]["facts"]["chosen"] in ("qgda", "qres")
    for name in ("qgda", AUTO, LOGISTIC):
        assert learned[name, 8]["measured"]["base"] > learned[name, 2]["measured"]["base"]
    chance = learned["qgda", 8]["new by hand"]
    assert (chance["photos"], chance["classes"]) == (250, 5)
    assert chance["accuracy"] == learned["zero-shot", 8]["measured"]["new"]


def test_openworld_auc_is_in_the_table_beside_joint_h(done: tuple[Done, Path]) -> None:
    found, out = done
    head, _, *lines = (out / "base-to-new.md").read_text().splitlines()[2:10]
    assert [cell.strip() for cell in head.split("|")][-3:-1] == ["joint H", "OpenworldAUC"]
    for row, line in zip(found.json["rows"], lines, strict=False):
        measured = row["measured"]
        if row["variant"] != LOGISTIC:
            assert 0 < measured["openworld"] <= measured["base"] * measured["new"]
            assert line.split("|")[-2].strip() == f"{100 * measured['openworld']:.1f}"
    assert "New names above chance: fashion_mnist; near chance: none." in (out / "base-to-new.md").read_text()


def test_logistic_regression_is_that_of_scikit_learn(done: tuple[Done, Path], nano: Backbone) -> None:
    (row,) = [row for row in done[0].json["rows"] if row["variant"] == LOGISTIC and row["settings"]["shots"] == 8]
    base = load_dataset(DEMO).select("base")
    photos, _ = base.few_shot(8, 1)
    assert base.test
    train, test = (features_of(nano, each).values[:, 0] for each in (photos, base.test))
    model = LogisticRegression(C=row["facts"]["C"], max_iter=500).fit(train, photos.labels)
    assert row["measured"] == {"base": pytest.approx(model.score(test, base.test.labels))}
    assert row["facts"]["C"] in (1, 10, 100, 1000)
    assert (row["pack_bytes"], row["prompt_bytes"]) == (None, 4 * 5 * (256 + 1))
    assert 0 < row["seconds"] < 60


def test_pictures_are_of_seconds_and_of_photos(done: tuple[Done, Path]) -> None:
    made = [Path(each) for each in done[0].json["pictures"]]
    assert [path.name for path in made] == ["base-to-new.png", "base-to-new-seconds.png", "base-to-new-photos.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)


def test_few_shot_takes_other_numbers_of_photos(edge_qprompt_command: Command, tmp_path: Path) -> None:
    command = ("bench", "few-shot", "--data", DEMO, "--methods", f"qgda,{REGRESSION}", "--shots", "3,6", "--out", tmp_path)
    done = edge_qprompt_command(*command)
    assert done.code == 0, done.err
    head, _, ours, theirs = done.out.splitlines()[:4]
    assert [part.strip() for part in head.split("|")][4:-1] == ["3 shots", "6 shots"]
    for line in (ours, theirs):
        three, six = map(float, line.split("|")[4:-1])
        assert 40 < three < six
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["few-shot-seconds.png", "few-shot.png"]


def test_numbers_of_photos_have_the_nearest_of_coops_epochs() -> None:
    assert [coops_epochs(shots) for shots in (1, 2, 3, 4, 7, 8, 16, 100)] == [50, 100, 100, 100, 100, 200, 200, 200]
    cells = cells_of("few-shot", ["a"], ["coop"], [1, 2], {}, [3, 8])
    assert [(cell.seed, cell.settings["shots"], cell.settings["epochs"]) for cell in cells] == [
        (1, 3, 100),
        (1, 8, 200),
        (2, 3, 100),
        (2, 8, 200),
    ]


def test_without_numbers_the_cells_are_the_protocols() -> None:
    for protocol in ("base-to-new", "few-shot", "ablation"):
        assert cells_of(protocol, ["a"], MAIN, [1], {}, []) == PROTOCOLS[protocol](["a"], MAIN, [1], {})


def test_logistic_regression_labels_no_classes_that_it_has_no_photos_of(edge_qprompt_command: Command, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(DEMO, other)
    rows = [line.split("\t")[:2] for line in (other / "classes.txt").read_text().splitlines()]
    (other / "classes.txt").write_text("".join(f"{label}\t{folder}\tred {folder}\n" for label, folder in rows))
    sets = ("--data", DEMO, "--data", other)
    refused = edge_qprompt_command("bench", "cross-dataset", *sets, "--methods", f"qres,{REGRESSION}", "--out", tmp_path / "out")
    fails(refused, "knows no classes but those that it has photos of", "leave it out")
    twin = tmp_path / "twin"
    twin.symlink_to(DEMO)
    sets = ("--data", DEMO, "--data", twin)
    done = edge_qprompt_command("bench", "domain", *sets, "--methods", REGRESSION, "--out", tmp_path / "out", "--json")
    (row,) = done.json["rows"]
    assert row["measured"]["twin"] == row["measured"]["fashion_mnist"] > 0.6


def test_a_class_without_a_readable_photo_is_no_regression(nano: Backbone, tmp_path: Path) -> None:
    data = tmp_path / "clothes"
    shutil.copytree(DEMO, data)
    for path in (data / "train" / "dress").iterdir():
        path.write_bytes(b"no photo")
    skipped: set[str] = set()
    with pytest.raises(DataError, match="no readable training photo of dress"):
        Regressed.fit(nano, load_dataset(data), AdaptSettings(method=REGRESSION, shots=2), skipped)
    assert len(skipped) == 2


def test_one_photo_a_class_and_views_are_regressed_too(nano: Backbone) -> None:
    data = load_dataset(DEMO)
    settings = AdaptSettings(method=REGRESSION, shots=1)
    one, views = (Regressed.fit(nano, data, dataclasses.replace(settings, views=count), set()) for count in (1, 3))
    assert one.model.C == 100  # no photo can be left out
    assert one.train == 1.0
    assert not np.array_equal(one.model.coef_, views.model.coef_)


def test_how_strongly_is_chosen_on_photos_left_out() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(4), 12)
    values = rng.standard_normal((4, 24))[labels] + 2.5 * rng.standard_normal((48, 24))  # a weak fit is best
    features = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)[:, None]
    shots = Shots(features, labels, features[:4, 0], 100.0)
    hits = dict.fromkeys((1.0, 10.0, 100.0, 1000.0), 0)
    for kept, left in shots.folds(3):
        for strength in hits:
            model = LogisticRegression(C=strength, max_iter=5000).fit(shots.centre[kept], labels[kept])
            hits[strength] += int((model.predict(shots.centre[left]) == labels[left]).sum())
    assert len(set(hits.values())) > 1
    assert hits[regression(shots).C] == max(hits.values())


def test_rows_are_lines_of_json(done: tuple[Done, Path]) -> None:
    lines = [json.loads(line) for line in (done[1] / "base-to-new.jsonl").read_text().splitlines()]
    assert {line["settings"]["method"] for line in lines} == set(METHODS)
