"""Protocols: cells that are run once, tables that say what the cells say, and a method of one file used by every command."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from common import DEMO, ROOT, Command, MakePhotos
from servers import LiveServer, token

from device_agent.commands.bench import PROTOCOLS as COMMAND_PROTOCOLS
from edge_qprompt import Backbone
from edge_qprompt.bench import REGRESSION, pictures, report
from edge_qprompt.bench.cell import Cell, Lines, content_of
from edge_qprompt.bench.protocols import ABLATIONS, MAIN, PROTOCOLS
from edge_qprompt.classify.scores import harmonic_mean
from edge_qprompt.errors import DataError, PromptError
from edge_qprompt.learn import AUTO
from edge_qprompt.learn.methods.registry import METHODS
from edge_qprompt.learn.settings import MethodSettings
from edge_qprompt.photos.dataset import load_dataset

TOY = '''
from edge_qprompt.learn import CoOp

class Toy(CoOp):
    """CoOp that learns from the first token alone."""

    name, number = "toy", 200

    def loss(self, features, labels):
        import torch
        ctx = torch.cat([self.context()[:1], self.problem.start[1:]])
        return self.problem.cross_entropy(ctx, features, labels)
'''


@pytest.fixture
def toy(tmp_path: Path) -> Mapping[str, str]:
    """The environment of a command that finds one more package: a file with a method, and its entry point."""
    place = tmp_path / "toy"
    info = place / "toy_method-1.0.dist-info"
    info.mkdir(parents=True)
    (place / "toy_method.py").write_text(TOY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-method\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edge_qprompt.methods]\ntoy = toy_method:Toy\n")
    paths = [str(place), *filter(None, [os.environ.get("PYTHONPATH")])]
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(paths)}


def test_a_method_of_one_file_is_learned_packed_served_and_measured(
    edge_qprompt_command: Command, toy: Mapping[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "toy.qpk"
    learn = ("adapt", DEMO, "--method", "toy", "--epochs", "5", "--out", out, "--json")
    learned = edge_qprompt_command(*learn, env=toy)
    assert learned.code == 0, learned.err
    assert (learned.json["method"], learned.json["steps"]) == ("toy", 5)
    shown = edge_qprompt_command("inspect", out, "--json")
    assert shown.json["method"] == "unknown (200)"

    store, photo = tmp_path / "store", DEMO / "test" / "bag" / "3.png"
    server = LiveServer.start(store, tmp_path)
    try:
        secret = token(store, "publish", "promote")
        pushed = edge_qprompt_command("push", out, "--server", server.url, "--token", secret, "--task", "clothes", "--no-promote")
        assert pushed.code == 0, pushed.err
        channel, bearer = f"{server.url}/v1/tasks/clothes/channels/stable", {"Authorization": f"Bearer {secret}"}
        assert httpx.put(channel, headers=bearer, json={"version": 1}).status_code == 200
        there = httpx.post(f"{server.url}/v1/classify?task=clothes", content=photo.read_bytes(), timeout=30).json()
        here = edge_qprompt_command("classify", out, photo, "--json").json["images"][0]["labels"]
        assert there["images"][0]["tasks"]["clothes"]["labels"][0]["label"] == here[0]["label"]
    finally:
        server.stop()

    results = tmp_path / "results"
    measure = ("bench", "base-to-new", "--data", DEMO, "--methods", "toy,zero-shot", "--epochs", "5", "--out", results)
    measured = edge_qprompt_command(*measure, env=toy)
    assert measured.code == 0, measured.err
    assert "| toy |" in measured.out


def test_finished_cells_are_not_run_again(edge_qprompt_command: Command, tmp_path: Path) -> None:
    results = tmp_path / "results"
    command = ("bench", "base-to-new", "--data", DEMO, "--methods", "zero-shot,qres", "--out", results)
    first = edge_qprompt_command(*command, "--jobs", "2")
    assert first.code == 0, first.err
    assert "0 of 2 cells are finished" in first.err
    lines = (results / "base-to-new.jsonl").read_text().splitlines()
    (results / "base-to-new.jsonl").write_text(lines[0] + "\n" + lines[1][:50])  # as a crash would leave it
    again = edge_qprompt_command(*command, "--json")
    assert "1 of 2 cells are finished" in again.err
    assert "2 of 2 cells are finished" in edge_qprompt_command(*command).err
    assert [row["measured"] for row in again.json["rows"]] == [
        row["measured"] for row in sorted(map(json.loads, lines), key=lambda row: row["variant"] != "zero-shot")
    ]
    assert (results / "base-to-new.png").read_bytes().startswith(b"\x89PNG")
    assert (results / "base-to-new.md").read_text().startswith("`edge-qprompt bench base-to-new")
    rows = list(csv.DictReader((results / "base-to-new.csv").read_text().splitlines()))
    measured = again.json["rows"][1]["measured"]
    assert float(rows[1]["base mean"]) == pytest.approx(100 * measured["base"])
    assert float(rows[1]["joint H mean"]) == pytest.approx(100 * harmonic_mean(measured["joint base"], measured["joint new"]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("base-to-new", "--data", DEMO, "--methods", "magic"), "no method 'magic'"),
        (("base-to-new", "--data", DEMO, "--data", DEMO), "called fashion_mnist"),
        (("base-to-new", "--data", DEMO, "--seeds", "1;2"), "commas"),
        (("cross-dataset", "--data", DEMO), "at least two data sets"),
        (("ablation", "--data", DEMO, "--methods", "coop"), "leave --methods out"),
        (("epochs", "--data", DEMO, "--methods", "coop"), "leave --methods out"),
        (("epochs", "--data", DEMO, "--epochs", "9"), "--epochs 10 or more"),
        (("base-to-new", "--data", DEMO, "--methods", "coop,maple"), "no vision"),
        (("epochs", "--data", DEMO, "--shots", "4,8"), "give one to --shots"),
        (("few-shot", "--data", DEMO, "--shots", "4,0"), "a photo at least"),
        (("base-to-new", "--data", DEMO / "train", "--methods", "coop"), "needs test photos"),
    ],
)
def test_what_cannot_be_measured_is_said(
    edge_qprompt_command: Command, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = edge_qprompt_command("bench", *arguments, "--out", tmp_path / "results")
    assert done.code != 0
    assert said in done.err


def test_both_halves_need_classes_and_test_photos(edge_qprompt_command: Command, tmp_path: Path) -> None:
    data = tmp_path / "clothes"
    shutil.copytree(DEMO, data)
    (data / "classes.txt").unlink(missing_ok=True)
    names = sorted(folder.name for folder in (data / "test").iterdir())
    bench = ("bench", "base-to-new", "--data", data, "--methods", "zero-shot", "--out", tmp_path / "out")
    for name in names[5:]:
        shutil.rmtree(data / "test" / name)
    done = edge_qprompt_command(*bench)
    assert done.code != 0
    assert "no test photo of" in done.err
    for name in names[3:]:
        shutil.rmtree(data / "train" / name)
        shutil.rmtree(data / "test" / name, ignore_errors=True)
    done = edge_qprompt_command(*bench)
    assert done.code != 0
    assert "has 3 classes" in done.err
    assert not (tmp_path / "out" / "base-to-new.jsonl").exists()


def test_photos_that_cannot_be_read_are_counted(edge_qprompt_command: Command, tmp_path: Path) -> None:
    data = tmp_path / "clothes"
    shutil.copytree(DEMO, data)
    found = load_dataset(data)
    for path in (found.select("base").train.paths[0], *found.test.paths[:2]):
        path.write_bytes(b"no photo")
    command = ("bench", "base-to-new", "--data", data, "--methods", "qres,qres", "--out", tmp_path / "out", "--json")
    done = edge_qprompt_command(*command)
    assert [row["skipped"] for row in done.json["rows"]] == [3]
    assert "3 in all cells together" in done.err
    assert done.json["rows"][0]["engine"] == ""  # nothing was learned


def test_every_variation_is_one_that_settings_know() -> None:
    for protocol, data in (("base-to-new", "a"), ("few-shot", "a"), ("ablation", "a"), ("epochs", "a")):
        for cell in PROTOCOLS[protocol]([data], MAIN, (1,), {}):
            assert cell.adapt_settings().method in (AUTO, REGRESSION, *METHODS)
    clustered = {
        name: cell.adapt_settings() for name, cell in zip(ABLATIONS, PROTOCOLS["ablation"](["a"], (), (3,), {}), strict=True)
    }
    assert clustered["b = 4"].method_settings.clusters.bits == 4
    assert clustered["k-means"].method_settings.clusters.normalise is False
    assert clustered["noise 0.1"].method_settings.options == {"noise_std": 0.1}
    assert clustered["noise 0.1"].method_settings.seed == clustered["noise 0.1"].loop.seed == 3
    assert clustered["started at random"].words is False
    with pytest.raises(PromptError, match="no option methd"):
        Cell("x", "x", "a", "all", ("a",), 1, settings={"methd": "coop"}).adapt_settings()


def test_what_is_finished_stays_finished() -> None:
    """The first rows that were ever kept are still those of the cells that are made now."""
    kept = ROOT / "benchmarks" / "results"
    for protocol in ("base-to-new", "few-shot", "epochs"):
        row = json.loads((kept / f"{protocol}.jsonl").read_text().splitlines()[0])
        cells = PROTOCOLS[protocol]([row["data"]], (row["settings"]["method"],), (row["seed"],), {})
        again = [dataclasses.replace(cell, content=row["content"]) for cell in cells if cell.variant == row["variant"]]
        assert any(cell in Lines(kept / f"{protocol}.jsonl") for cell in again)


def test_few_shot_gives_coops_epochs_to_methods_that_follow_coop() -> None:
    cells = PROTOCOLS["few-shot"](["a"], ("coop", "cocoop", "prograd", "a plug-in"), (1,), {})
    epochs = [cell.adapt_settings().loop.epochs for cell in cells]
    assert epochs == [50, 100, 100, 200, 200, *[None] * 5, 50, 100, 100, 200, 200, *[None] * 5]
    said = PROTOCOLS["few-shot"](["a"], ("cocoop",), (1,), {"epochs": 3})
    assert {cell.adapt_settings().loop.epochs for cell in said} == {3}


def test_few_shot_gives_coops_tokens_to_text_prompts_alone() -> None:
    cells = PROTOCOLS["few-shot"](["a"], ("coop", "maple", "cocoop"), (1,), {})
    assert [cell.adapt_settings().n_ctx for cell in cells] == [16] * 5 + [None] * 10
    assert [cell.adapt_settings().words for cell in cells] == [False] * 5 + [True] * 10


def test_maple_has_its_own_settings_across_data_sets() -> None:
    maple, coop = (cell.adapt_settings() for cell in PROTOCOLS["cross-dataset"](["a", "b"], ("maple", "coop"), (1,), {}))
    assert (maple.loop.epochs, maple.method_settings.options) == (2, {"prompt_depth": 3})
    schedule = maple.loop.over(METHODS["maple"].schedule)
    assert schedule.rate(1, 100) == pytest.approx(0.0026 / 2)  # for its batches of 4, half way down the cosine
    assert (coop.loop.epochs, coop.method_settings.options) == (None, {})


@pytest.mark.parametrize(
    ("folder", "template"),
    [
        ("here/eurosat", "a centered satellite photo of {}."),
        ("dtd10", "{} texture."),
        ("Oxford_Flowers102", "a photo of a {}, a type of flower."),
    ],
)
def test_zero_shot_is_also_measured_with_the_template_of_its_data_set(folder: str, template: str) -> None:
    for protocol in ("base-to-new", "few-shot"):
        cells = PROTOCOLS[protocol]([folder, "my_dtd"], ("zero-shot", "coop"), (1,), {})
        found = {(cell.data, cell.variant): cell.adapt_settings().method_settings.templates for cell in cells}
        general = MethodSettings().templates
        assert found == {
            (folder, "zero-shot"): general,
            (folder, "zero-shot, own template"): (template,),
            (folder, "coop"): general,
            ("my_dtd", "zero-shot"): general,
            ("my_dtd", "coop"): general,
        }


def test_the_command_and_the_library_know_the_same_protocols() -> None:
    assert tuple(PROTOCOLS) == COMMAND_PROTOCOLS
    assert report.COLUMNS.keys() == PROTOCOLS.keys()


def test_other_photos_under_the_same_name_are_another_cell(nano: Backbone, tmp_path: Path) -> None:
    one, other = tmp_path / "one" / "clothes", tmp_path / "other" / "clothes"
    for folder in (one, other):
        shutil.copytree(DEMO, folder)
    before = content_of(nano, [str(one)])
    assert content_of(nano, [str(other)]) == before
    (other / "test" / "bag" / "3.png").unlink()
    assert content_of(nano, [str(other)]) != before
    cell = Cell("base-to-new", "coop", str(one), "base", (str(one),), 1, content=before)
    assert dataclasses.replace(cell, content=content_of(nano, [str(other)])).key != cell.key


@pytest.mark.parametrize(("methods", "said"), [("zero-shot,qres", "no readable training photo"), ("toy,qres", "out of luck")])
def test_a_cell_that_fails_among_several_loses_no_other(
    edge_qprompt_command: Command, tmp_path: Path, toy: Mapping[str, str], methods: str, said: str
) -> None:
    data = tmp_path / "clothes"
    shutil.copytree(DEMO, data)
    for path in (data / "train" / "dress").iterdir():
        path.write_bytes(b"no photo")
    (tmp_path / "toy" / "toy_method.py").write_text(TOY.replace("return self", "raise ValueError('out of luck') or self"))
    sets = ("--data", DEMO) if "toy" in methods else ("--data", DEMO, "--data", data)
    command = ("bench", "base-to-new", *sets, "--methods", methods, "--out", tmp_path / "out", "--jobs", "2")
    done = edge_qprompt_command(*command, env=toy)
    assert done.code == 1
    assert said in done.err
    assert ("Traceback" in done.err) == ("toy" in methods)  # an error of somebody's own method wants one
    kept = [json.loads(line) for line in (tmp_path / "out" / "base-to-new.jsonl").read_text().splitlines()]
    assert {(row["data"], row["variant"]) for row in kept} == {
        ("fashion_mnist", name) for name in methods.split(",") if name != "toy"
    }


def test_domains_have_the_same_classes(photos: MakePhotos) -> None:
    one, other = photos("bag", "coat", into="one"), photos("bag", "dress", into="other")
    with pytest.raises(DataError, match="other classes"):
        PROTOCOLS["domain"]([str(one), str(other)], MAIN, (1,), {})


def test_a_cell_is_the_same_wherever_its_folders_are(tmp_path: Path) -> None:
    cell = Cell("base-to-new", "coop", "/here/pets", "base", ("/here/pets",), 1)
    moved = dataclasses.replace(cell, data="/there/pets", targets=("/there/pets",))
    assert cell.key == moved.key
    assert dataclasses.replace(cell, seed=2).key != cell.key
    lines = Lines(tmp_path / "new" / "lines.jsonl")
    lines.add(json.loads(cell.key) | {"measured": {}})
    assert moved in Lines(tmp_path / "new" / "lines.jsonl")


def row(data: str, variant: str, seed: int, base: float, new: float, size: float = 10.0) -> dict[str, object]:
    measured = {"base": base, "new": new, "joint base": base / 2, "joint new": new / 2}
    return {
        "data": data,
        "variant": variant,
        "seed": seed,
        "settings": {},
        "measured": measured,
        "prompt_bytes": size,
        "seconds": 1.0,
        "facts": {},
    }


def test_tables_have_means_and_spreads() -> None:
    rows = [row("a", "coop", 1, 0.6, 0.2), row("a", "coop", 2, 0.8, 0.4), row("b", "coop", 1, 0.9, 0.3, 20.0)]
    found = report.lines("base-to-new", rows)
    assert [(line.data, line.variant) for line in found] == [("a", "coop"), ("b", "coop"), ("mean", "coop")]
    assert found[0].values["base"] == pytest.approx((70, 60, 80))
    assert found[2].values["base"][0] == pytest.approx(80)
    assert found[2].values["H"][0] == pytest.approx(harmonic_mean(80, 30))
    table = report.markdown(found)
    assert "70.0 (60.0 to 80.0)" in table[2]
    assert "by classes" in table[4]


def test_the_mean_is_of_each_seed_where_all_data_sets_have_the_same() -> None:
    rows = [
        row("a", "coop", 1, 0.6, 0.2),
        row("a", "coop", 2, 0.8, 0.4),
        row("b", "coop", 1, 0.8, 0.6),
        row("b", "coop", 2, 0.4, 0.2),
    ]
    mean = report.lines("base-to-new", rows)[-1]
    assert mean.by_seed["base"] == pytest.approx({1: 70, 2: 60})
    assert mean.by_seed["H"] == pytest.approx({1: harmonic_mean(70, 40), 2: harmonic_mean(60, 30)})
    assert mean.values["new"] == pytest.approx((35, 30, 40))


def test_a_method_that_some_data_sets_lack_has_no_mean() -> None:
    rows = [row("a", "coop", 1, 0.6, 0.2), row("a", "cocoop", 1, 0.6, 0.2), row("b", "coop", 1, 0.9, 0.3)]
    assert [line.variant for line in report.lines("base-to-new", rows) if line.data == "mean"] == ["coop"]


def test_the_mean_of_transfer_leaves_the_source_out() -> None:
    rows = [row("a", "coop", 1, 0.0, 0.0) | {"measured": {"a": 0.9, "b": 0.2, "c": 0.4}}]
    assert report.lines("cross-dataset", rows)[0].values["mean of the others"][0] == pytest.approx(30)


def test_learned_on_the_first_and_measured_on_all(edge_qprompt_command: Command, tmp_path: Path) -> None:
    twin, other = tmp_path / "twin", tmp_path / "other"
    twin.symlink_to(DEMO)
    shutil.copytree(DEMO, other)
    rows = [line.split("\t")[1:] for line in (DEMO / "classes.txt").read_text().splitlines()]
    table = ["\t".join([str(label), *row]) for label, row in enumerate(reversed(rows))]
    (other / "classes.txt").write_text("\n".join(table))  # labels mean other classes than the source's
    for protocol, last in (("domain", twin), ("cross-dataset", twin), ("cross-dataset", other)):
        sets = ("--data", DEMO, "--data", last)
        done = edge_qprompt_command("bench", protocol, *sets, "--methods", "zero-shot,qres", "--out", tmp_path, "--json")
        assert done.code == 0, done.err
        zero_shot, residuals = (each["measured"] for each in done.json["rows"])
        assert zero_shot[last.name] == zero_shot["fashion_mnist"] > 0.2
        assert residuals[last.name] > zero_shot[last.name] + 0.05
        assert residuals[last.name] == pytest.approx(residuals["fashion_mnist"])


def test_shots_and_views_are_those_that_were_asked_for(edge_qprompt_command: Command, tmp_path: Path) -> None:
    command = ("bench", "base-to-new", "--data", DEMO, "--methods", "qres", "--shots", "2", "--out", tmp_path, "--json")
    one, two = (edge_qprompt_command(*command, *more).json["rows"] for more in ((), ("--views", "2")))
    assert [row["settings"] for row in one + two] == [{"shots": 2, "method": "qres"}, {"shots": 2, "views": 2, "method": "qres"}]
    assert one[0]["measured"] != two[0]["measured"]


def test_few_shot_has_a_column_for_each_number(edge_qprompt_command: Command, tmp_path: Path) -> None:
    done = edge_qprompt_command("bench", "few-shot", "--data", DEMO, "--methods", "zero-shot,qres", "--out", tmp_path)
    assert done.code == 0, done.err
    head, _, zero, residual = done.out.splitlines()
    assert [part.strip() for part in head.split("|")][4:-1] == ["1 shot", "2 shots", "4 shots", "8 shots", "16 shots"]
    assert len(set(zero.split("|")[4:-1])) == 1
    assert float(residual.split("|")[-2]) > float(residual.split("|")[4])


def test_curves_are_those_of_the_run(tmp_path: Path) -> None:
    settings = {"method": "qcoop", "epochs": 20, "snapshot_epochs": 10}
    row = Cell("epochs", "b = 1", str(DEMO), "base", (str(DEMO),), 1, settings=settings).run()
    first, last = row["curve"]
    assert (first["epoch"], last["epoch"]) == (10, 20)
    assert {part: last[part] for part in row["measured"]} == row["measured"]  # the last snapshot is the result
    assert first["histogram"] != last["histogram"] or first["std"] != last["std"]
    assert sum(last["histogram"]) == sum(last["indexes"]) == 8 * 256
    assert sum(count > 0 for count in last["histogram"]) == 2  # 1 bit
    (line,) = report.lines("epochs", [row])
    assert line.values["base at 20"][0] == pytest.approx(100 * row["measured"]["base"])
    pictures.plot("epochs", [row], tmp_path / "epochs.png")
    assert (tmp_path / "epochs.png").read_bytes().startswith(b"\x89PNG")
