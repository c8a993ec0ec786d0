"""`auto`: what it tries, what it takes, and what it makes expect."""

from __future__ import annotations

from pathlib import Path

import pytest
from common import DEMO, Command, MakePhotos

from edge_qprompt import Backbone, evaluate, teach
from edge_qprompt.errors import PromptError, StateError
from edge_qprompt.learn import AUTO, METHODS, AdaptSettings, LoopSettings, MethodSettings, adapt
from edge_qprompt.learn.candidates import TRIED, Candidate, Expected, _best, budget_of
from edge_qprompt.learn.with_prompts import OPTIONS, PROMPTS
from edge_qprompt.photos import load_dataset


def candidate(method: str, bits: int, accuracy: float | None, fits: bool = True, n: int = 100) -> Candidate:
    seen = None if accuracy is None else Expected(accuracy, 0.1, n)
    return Candidate(method, {"bits": bits}, 100 * bits, fits, seen, 0.0)


@pytest.mark.parametrize(
    ("found", "few", "wanted"),
    [
        (
            [candidate("zero-shot", 0, 0.3), candidate("qres", 2, 0.7), candidate("qgda", 1, 0.75), candidate("qgda", 2, 0.74)],
            False,
            3,
        ),
        ([candidate("zero-shot", 0, 0.3), candidate("qres", 2, 0.75), candidate("qgda", 1, 0.74)], False, 2),  # within chance
        ([candidate("zero-shot", 0, 0.9), candidate("qres", 2, 0.75), candidate("qgda", 1, 0.74)], False, 0),
        ([candidate("zero-shot", 0, 0.9), candidate("qres", 2, None), candidate("qgda", 1, None)], False, 2),
        ([candidate("zero-shot", 0, 0.9), candidate("qres", 2, 0.8), candidate("qgda", 1, 0.1)], True, 2),
        ([candidate("zero-shot", 0, 0.3), candidate("qres", 2, 0.7), candidate("qgda", 1, None, fits=False)], False, 1),
        ([candidate("zero-shot", 0, None), candidate("qgda", 1, None, fits=False)], False, 0),
    ],
)
def test_the_best_that_fits_is_taken(found: list[Candidate], few: bool, wanted: int) -> None:
    assert _best(found, few) == wanted


def test_the_candidates_are_told_and_the_best_is_level_with_what_it_promises(nano: Backbone) -> None:
    data = load_dataset(DEMO)
    result = adapt(nano, data)
    assert [(each.method, each.bits) for each in result.candidates] == [
        (name, next(iter(options.values()), None)) for name, options in TRIED
    ]
    assert (result.method, result.pack.size) == ("qgda", 924)
    assert [each.fits for each in result.candidates] == [each.bytes <= 1000 for each in result.candidates]
    assert [each.expected is None for each in result.candidates] == [not each.fits for each in result.candidates]
    chosen = next(each for each in result.candidates if each.bytes == result.pack.size)
    assert chosen.expected == result.expected
    assert result.expected
    assert result.expected.n == 160
    accuracy = evaluate(nano, result.pack, data).accuracy
    assert accuracy > 0.75
    assert abs(accuracy - result.expected.accuracy) <= result.expected.margin
    assert "qgda" in repr(result)


def test_more_bytes_are_used_and_fewer_are_kept_to(nano: Backbone) -> None:
    data = load_dataset(DEMO)
    sizes = {budget: adapt(nano, data, AdaptSettings(budget=budget)) for budget in (700, 1300, 5000)}
    assert [(r.method, r.candidates[i].bits) for r, i in zip(sizes.values(), (2, 4, 5), strict=True)] == [
        ("qgda", 1),
        ("qgda", 3),
        ("qgda", 4),
    ]
    assert all(result.pack.size <= budget for budget, result in sizes.items())


def test_what_is_noted_in_the_pack_is_in_the_budget(nano: Backbone) -> None:
    data = load_dataset(DEMO)
    for budget in (1000, 700):
        result = adapt(nano, data, AdaptSettings(budget=budget, provenance=True))
        assert result.pack.size <= budget
        assert result.pack.size in {each.bytes for each in result.candidates}


@pytest.mark.parametrize(
    ("budget", "method"), [(124, None), (125, "zero-shot"), (371, "zero-shot"), (372, "qcoop"), (466, "learned-qres")]
)
def test_where_nothing_that_is_computed_at_once_fits(nano: Backbone, budget: int, method: str | None) -> None:
    settings, data = AdaptSettings(budget=budget, loop=LoopSettings(epochs=1)), load_dataset(DEMO)
    if method is None:
        with pytest.raises(PromptError, match="no pack of 10 classes fits"):
            adapt(nano, data, settings)
        return
    result = adapt(nano, data, settings)
    assert (result.method, result.run.steps) == (method, int(method != "zero-shot"))
    assert result.pack.size <= budget
    assert result.pack.size in {each.bytes for each in result.candidates if each.method == method}
    assert (result.expected is None) == (method != "zero-shot")  # what learns step by step was not measured
    with pytest.raises(StateError, match="nothing that is learned at once fits the budget"):
        teach(nano, result.state, [(data.train.paths[0], "bag")])


def test_prompts_are_measured_where_there_is_time(nano: Backbone) -> None:
    data = load_dataset(DEMO).select("base")
    settings = AdaptSettings(budget=360, seconds=100, provenance=True, loop=LoopSettings(epochs=3))
    result = adapt(nano, data, settings)
    steps = {each.method: each for each in result.candidates if each.method in PROMPTS}
    assert set(steps) == set(PROMPTS)
    assert steps["learned-qres"].expected
    assert steps["learned-qres"].expected.n == 80
    assert not steps["qcoop"].fits
    assert steps["qcoop"].expected is None
    assert (result.method, result.expected) == ("learned-qres", steps["learned-qres"].expected)
    assert result.pack.size == steps["learned-qres"].bytes <= 360
    best = adapt(nano, data, AdaptSettings(seconds=100, loop=LoopSettings(epochs=1)))
    assert best.method == "qgda"  # a prompt of one step is worse
    assert all(each.expected for each in best.candidates if each.method in PROMPTS)


def test_there_is_no_time_left(nano: Backbone) -> None:
    result = adapt(nano, load_dataset(DEMO).select("base"), AdaptSettings(seconds=1e-9))
    assert [each.expected for each in result.candidates if each.method in PROMPTS] == [None] * len(PROMPTS)
    assert result.method == "qgda"


def test_a_budget_that_not_even_the_names_fit_is_an_error(nano: Backbone) -> None:
    with pytest.raises(PromptError, match="no pack of 10 classes fits 60 bytes"):
        adapt(nano, load_dataset(DEMO), AdaptSettings(budget=60))


def test_the_budget_grows_with_the_classes() -> None:
    assert [budget_of(AdaptSettings(), classes) for classes in (2, 10, 102)] == [1000, 1000, 10200]
    assert budget_of(AdaptSettings(budget=7), 102) == 7


def test_auto_has_no_options(nano: Backbone) -> None:
    settings = AdaptSettings(AUTO, method_settings=MethodSettings(options={"discriminant_bits": 3}))
    with pytest.raises(PromptError, match="auto has no option discriminant_bits"):
        adapt(nano, load_dataset(DEMO), settings)


def test_all_that_is_tried_exists() -> None:
    for name, options in (*TRIED, *OPTIONS.items()):
        METHODS[name].read_options(options)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (5, 10), (160, 160)])
def test_a_margin_is_wide_for_few_and_never_nothing(hits: int, n: int) -> None:
    wide, narrow = Expected.of(hits, n, 1), Expected.of(100 * hits, 100 * n, 100)
    assert wide.margin > narrow.margin > 0


def test_the_command_tells_what_to_expect_where_no_photo_is_held_out(
    edge_qprompt_command: Command, photos: MakePhotos, tmp_path: Path
) -> None:
    root = photos("bag", "coat", "dress", each=4)
    done = edge_qprompt_command("adapt", root, "--out", "a.qpk", cwd=tmp_path)
    assert done.code == 0, done.err
    *tried, first, accuracy, _ = done.out.splitlines()
    assert len(tried) == len(TRIED)
    assert sum("*" in line for line in tried) == 1
    assert ", qgda on nano fp32" in first
    assert accuracy.startswith("accuracy   expected on new photos: ")
    found = edge_qprompt_command("adapt", root, "--out", "b.qpk", "--json", cwd=tmp_path).json
    assert 0 < found["expected_margin"] < 1
    assert found["held_out_accuracy"] is None
    assert {each["method"] for each in found["candidates"] if each["chosen"]} == {found["method"]} == {"qgda"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "auto", "--bits", "2"), "--bits says how a prompt is learned"),
        (("--set", "lora_rank=4"), "name one with --method"),
        (("--residual-bits", "2"), "name one with --method"),
        (("--budget", "0"), "0 is not in the range"),
        (("--budget", "50"), "no pack of 2 classes fits 50 bytes"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    edge_qprompt_command: Command, photos: MakePhotos, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = edge_qprompt_command("adapt", photos("bag", "coat"), "--out", tmp_path / "a.qpk", *words)
    assert done.code in (1, 2)
    assert said in done.err
    assert not (tmp_path / "a.qpk").exists()


def test_a_photo_of_nothing_known_is_unknown_unless_told_otherwise(
    edge_qprompt_command: Command, photos: MakePhotos, tmp_path: Path
) -> None:
    assert edge_qprompt_command("adapt", DEMO, "--out", "a.qpk", "--classes", "base", cwd=tmp_path).code == 0
    strange = DEMO.parent / "fashion_mnist" / "test" / "bag" / "0.png"
    own = DEMO / "test" / "trouser" / "0.png"
    found = edge_qprompt_command("classify", "a.qpk", strange, own, "--json", cwd=tmp_path).json
    assert [row["unknown"] for row in found["images"]] == [True, False]
    shown = edge_qprompt_command("classify", "a.qpk", strange, cwd=tmp_path).out
    assert "unknown (nearest: " in shown
    assert "unknown (nearest" not in edge_qprompt_command("classify", "a.qpk", strange, "--no-unknown", cwd=tmp_path).out
