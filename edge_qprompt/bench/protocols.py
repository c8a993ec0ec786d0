"""Which cells a protocol consists of, after Quantized Prompt (arXiv 2407.10704) and CoOp (arXiv 2109.01134).

Epochs and shots are theirs, in few-shot also the tokens and their start; methods of other papers keep their own schedule. What
differs from theirs: with CoOp's and QCoOp's prompts a step is over all photos, as everywhere here, unless `batch` says otherwise
(32); photos are learned as their centre crops, unless `views` says otherwise (random crops); and the hand-written prompt of all
methods is "a photo of a {}." (a template a data set). Where single data sets are learned on, zero-shot has a second line with the
template that was written for the data set, if one was. `auto` is what `adapt` chooses by itself. Logistic regression in floating
point (`logistic-regression`) is no method: it has no pack, and knows no names without photos.

base-to-new    learn on the first half of the classes, measure both halves with the same prompt, and all classes together
few-shot       learn on all classes from 1, 2, 4, 8 and 16 photos each, or other numbers
domain         learn on the first data set, measure it and the others, which have the same classes
cross-dataset  learn on the first data set, measure the others by their own class names
ablation       variations of QCoOp, measured as base-to-new
epochs         the same for noise and bits alone, every ten epochs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_qprompt.bench.cell import Cell
from edge_qprompt.bench.regression import REGRESSION
from edge_qprompt.bench.templates import template_of
from edge_qprompt.errors import DataError
from edge_qprompt.learn import AUTO
from edge_qprompt.photos import load_dataset

Settings = Mapping[str, Any]
Make = Callable[[Sequence[str], Sequence[str], Sequence[int], Settings], list[Cell]]

SHOTS = (1, 2, 4, 8, 16)
COOPS_FEW_EPOCHS = {8: 200, 2: 100, 1: 50}  # from so many shots on
# far from any words the first gradients are steep; and CoOp's epoch of warm-up has many steps, where a full batch has one
AT_RANDOM: Settings = {"words": False, "warmup": 20}
FEW_SHOT_CTX: Settings = {"n_ctx": 16, **AT_RANDOM}  # CoOp's
# learn a prompt as CoOp does; the others have tokens and a schedule of their own, the same whatever the shots
COOPS = frozenset({"coop", "ptq-coop", "noise-coop", "qcoop", "qkgcoop", "qcoop+qres", "qkgcoop+qres"})
COOPS_EPOCHS = COOPS | {"prograd"}
# MaPLe's settings where other data sets are measured; its learning rate is for batches of 4
DEEP: Settings = {"epochs": 2, "lr": 0.0026 * 32 / 4, "prompt_depth": 3}
TRANSFER: Mapping[str, Settings] = {"maple": DEEP, "qmaple": DEEP}
OWN_TEMPLATE = "zero-shot, own template"
SHOWN = {REGRESSION: "logistic regression (float)"}  # lines of the table that are not called as they are asked for

CAC = "k-means + normalisation + CAC"
QCOOP = {"method": "qcoop"}
OFTEN = {"threshold": 1.0}  # at the default of 10, 1 bit is hardly ever clustered again: docs/adr/0015
ABLATIONS: dict[str, dict[str, Any]] = {
    "k-means": QCOOP | {"normalise": False, "interval": 0},
    "k-means + normalisation": QCOOP | {"interval": 0},
    CAC: QCOOP,
    "clustered anew every step": QCOOP | {"interval": 1, "constrained": False},
    "T_KL x 0.1": QCOOP | OFTEN,
    "T_KL x 0.1, looked at every step": QCOOP | OFTEN | {"interval": 1},
    "T_KL x 0.1, looked at every 50 steps": QCOOP | OFTEN | {"interval": 50},
    "T_KL x 0.01": QCOOP | {"threshold": 0.1},
    "b = 2": QCOOP | {"bits": 2},
    "b = 4": QCOOP | {"bits": 4},
    "PTQ, b = 1": {"method": "ptq-coop"},
    "PTQ, b = 2": {"method": "ptq-coop", "bits": 2},
    "PTQ, b = 4": {"method": "ptq-coop", "bits": 4},
    "no quantization": {"method": "coop"},
    "noise 0.001": {"method": "noise-coop", "noise_std": 0.001},
    "noise 0.01": {"method": "noise-coop", "noise_std": 0.01},
    "noise 0.1": {"method": "noise-coop", "noise_std": 0.1},
    "started at random": QCOOP | {**AT_RANDOM},
    "2 tokens": QCOOP | {"n_ctx": 2},
    "4 tokens": QCOOP | {"n_ctx": 4},
    "8 tokens": QCOOP | {"n_ctx": 8},
    "16 tokens": QCOOP | {"n_ctx": 16},
    "4 views": QCOOP | {"views": 4},
}


EPOCHS = {  # by the name of the ablation
    "no quantization": "no noise",
    "noise 0.001": "noise 0.001",
    "noise 0.01": "noise 0.01",
    "noise 0.1": "noise 0.1",
    CAC: "b = 1",
    "b = 2": "b = 2",
    "b = 4": "b = 4",
}
SNAPSHOT_EPOCHS = 10


def base_to_new(data: Sequence[str], methods: Sequence[str], seeds: Sequence[int], settings: Settings) -> list[Cell]:
    """Cells that learn the first half of the classes, and measure both halves."""
    return [
        Cell("base-to-new", variant, folder, "base", (folder,), seed, settings={**settings, **varied})
        for folder in data
        for variant, varied in _variants(methods, folder)
        for seed in seeds
    ]


def _variants(methods: Sequence[str], folder: str) -> list[tuple[str, Settings]]:
    """Lines of a data set's table, and what makes each: the methods, and zero-shot also with the data set's own template."""
    found: list[tuple[str, Settings]] = []
    for method in methods:
        found.append((SHOWN.get(method, method), {"method": method}))
        if method == "zero-shot" and (template := template_of(folder)):
            found.append((OWN_TEMPLATE, {"method": method, "templates": (template,)}))
    return found


def few_shot(data: Sequence[str], methods: Sequence[str], seeds: Sequence[int], settings: Settings) -> list[Cell]:
    """Cells that learn all classes from 1, 2, 4, 8 and 16 photos each, or from as many as the settings' `shots` say."""
    return [
        Cell(
            "few-shot",
            variant,
            folder,
            "all",
            (folder,),
            seed,
            settings={
                **({"epochs": coops_epochs(shots)} if variant in COOPS_EPOCHS else {}),
                **(FEW_SHOT_CTX if variant in COOPS else {}),
                **settings,
                **varied,
                "shots": shots,
            },
        )
        for folder in data
        for variant, varied in _variants(methods, folder)
        for shots in ([settings["shots"]] if "shots" in settings else SHOTS)
        for seed in seeds
    ]


def coops_epochs(shots: int) -> int:
    """CoOp's epochs for a number of photos a class."""
    return next(epochs for least, epochs in COOPS_FEW_EPOCHS.items() if shots >= least)


def transfer(data: Sequence[str], methods: Sequence[str], seeds: Sequence[int], settings: Settings) -> list[Cell]:
    """Learn on the first, measure all.

    Raises:
        DataError: a single data set; or logistic regression is to label others.
    """
    if len(data) < 2:
        raise DataError("give at least two data sets: the first is learned on, the others are measured")
    if REGRESSION in methods and len({load_dataset(Path(folder)).names for folder in data}) > 1:
        raise DataError(f"{REGRESSION} knows no classes but those that it has photos of: leave it out, other sets have others")
    return [
        Cell(
            "cross-dataset",
            SHOWN.get(method, method),
            data[0],
            "all",
            tuple(data),
            seed,
            settings={**TRANSFER.get(method, {}), **settings, "method": method},
        )
        for method in methods
        for seed in seeds
    ]


def domain(data: Sequence[str], methods: Sequence[str], seeds: Sequence[int], settings: Settings) -> list[Cell]:
    """Cells that learn the first data set, and measure the others, which have the same classes."""
    names = [load_dataset(Path(folder)).names for folder in data]
    for folder, theirs in zip(data, names, strict=True):
        if theirs != names[0]:
            raise DataError(f"{folder} has other classes than {data[0]}: domains differ in their photos alone; see cross-dataset")
    return [replace(cell, protocol="domain") for cell in transfer(data, methods, seeds, settings)]


def ablation(data: Sequence[str], _: Sequence[str], seeds: Sequence[int], settings: Settings) -> list[Cell]:
    """Cells of variations of QCoOp, which stand in for methods; measured as base-to-new."""
    return [
        Cell("ablation", variant, folder, "base", (folder,), seed, settings={**settings, **varied})
        for folder in data
        for variant, varied in ABLATIONS.items()
        for seed in seeds
    ]


def epochs(data: Sequence[str], methods: Sequence[str], seeds: Sequence[int], settings: Settings) -> list[Cell]:
    """Cells of QCoOp with noise and bits, measured every ten epochs."""
    cells = ablation(data, methods, seeds, {"snapshot_epochs": SNAPSHOT_EPOCHS, **settings})
    return [replace(cell, protocol="epochs", variant=EPOCHS[cell.variant]) for cell in cells if cell.variant in EPOCHS]


PROTOCOLS: dict[str, Make] = {
    "base-to-new": base_to_new,
    "few-shot": few_shot,
    "domain": domain,
    "cross-dataset": transfer,
    "ablation": ablation,
    "epochs": epochs,
}


def cells_of(
    protocol: str, data: Sequence[str], methods: Sequence[str], seeds: Sequence[int], settings: Settings, shots: Sequence[int]
) -> list[Cell]:
    """A protocol's cells, for each of some numbers of photos a class; with none, for the protocol's own.

    Args:
        protocol: a key of PROTOCOLS.
        data: folders.
        methods: their names, AUTO and REGRESSION among them.
        seeds: each is a draw.
        settings: of all cells, where they are not the protocol's.
        shots: photos a class.

    Raises:
        DataError: data sets that the protocol cannot use.
    """
    told: list[Settings] = [{**settings, "shots": each} for each in shots] or [settings]
    groups = [PROTOCOLS[protocol](data, methods, seeds, each) for each in told]
    return [cell for group in zip(*groups, strict=True) for cell in group]


MAIN = (
    "zero-shot",
    "zero-shot-ensemble",
    "coop",
    "cocoop",
    "kgcoop",
    "prograd",
    "clip-adapter",
    "clip-lora",
    "maple",
    "qmaple",
    "ptq-coop",
    "qcoop",
    "qkgcoop",
    "qres",
    "learned-qres",
    "qcoop+qres",
    "qkgcoop+qres",
    "qgda",
    AUTO,
    REGRESSION,
)
