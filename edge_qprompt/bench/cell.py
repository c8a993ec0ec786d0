"""A cell: one learning and what is measured with its pack. Finished cells are lines of JSON, and are not run again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from edge_qprompt.backbone import Backbone
from edge_qprompt.bench.measure import Among, measure, new_by_hand
from edge_qprompt.bench.regression import REGRESSION, Regressed
from edge_qprompt.classify import Classifier
from edge_qprompt.codebook import ClusterSettings
from edge_qprompt.errors import DataError
from edge_qprompt.learn import AUTO, METHODS, AdaptSettings, ClosedForm, LoopSettings, MethodSettings, adapt, check_options
from edge_qprompt.pack import RAW_BITS, Pack, Role
from edge_qprompt.photos import Dataset, load_dataset, read

Row = dict[str, Any]
Measured = Callable[[Among], dict[str, float]]
REVISION = 3  # of what settings mean where nothing is said; to be raised with a default, or with how a method learns
BINS = tuple(np.linspace(-4.0, 4.0, 33).tolist())  # edges, in standard deviations; what lies beyond counts with the last


@dataclass(frozen=True)
class Cell:
    """Everything that decides a result.

    Attributes:
        protocol: whose it is.
        variant: its line in the table, e.g. the method.
        data: folder that is learned on; its last part is its name.
        part: of its classes: all, base or new.
        targets: folders whose test photos are measured; for base-to-new it is the same one.
        backbone, precision: as of `Backbone.open`; the precision is not "auto".
        content: digest of what is behind these names, see `content_of`.
        revision: rows of another one are not of this cell, and are run again.
        settings: of `AdaptSettings`, `LoopSettings`, `MethodSettings`, `ClusterSettings` and the method's options, where they are
            not the default.
    """

    protocol: str
    variant: str
    data: str
    part: str
    targets: tuple[str, ...]
    seed: int
    backbone: str = "nano"
    precision: str = "fp32"
    content: str = ""
    revision: int = REVISION
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for the same cell, wherever its folders are."""
        names = {"data": Path(self.data).name, "targets": [Path(target).name for target in self.targets]}
        return json.dumps(asdict(self) | names | {"backbone": Path(self.backbone).name}, sort_keys=True)

    def adapt_settings(self) -> AdaptSettings:
        """As a whole.

        Raises:
            PromptError: a setting that none of them has, nor the method.
        """
        left = dict(self.settings)

        def take(kind: Any) -> dict[str, Any]:
            return {each.name: left.pop(each.name) for each in fields(kind) if each.name in left}

        loop = LoopSettings(**take(LoopSettings), seed=self.seed)
        clusters = ClusterSettings(**take(ClusterSettings))
        shared, more = take(MethodSettings), take(AdaptSettings)
        if (method := more.get("method", AdaptSettings.method)) in (AUTO, *METHODS):
            check_options(METHODS.get(method), left)
        told = MethodSettings(clusters, **shared, seed=self.seed, options=left)
        return AdaptSettings(loop=loop, method_settings=told, **more)

    def run(self) -> Row:
        """Learn and measure.

        Raises:
            EdgeQPromptError: photos, classes or settings that do not work.
        """
        backbone = Backbone.open(self.backbone, self.precision)
        settings, data = self.adapt_settings(), load_dataset(Path(self.data))
        targets = {Path(target).name: load_dataset(Path(target)) for target in self.targets}
        skipped: set[str] = set()

        def measured(among: Among) -> dict[str, float]:
            return measure(among, self.part, targets, skipped)

        learn = _regressed if settings.method == REGRESSION else _adapted
        row = json.loads(self.key) | learn(backbone, data.select(self.part), settings, measured, skipped)
        if self.part != "all":
            row["new by hand"] = new_by_hand(backbone, data, skipped)
        return {**row, "skipped": len(skipped)}


def _adapted(backbone: Backbone, data: Dataset, settings: AdaptSettings, measured: Measured, skipped: set[str]) -> Row:
    """What a method made, and what was measured of its pack."""
    if settings.method in METHODS and not issubclass(METHODS[settings.method], ClosedForm):
        from edge_qprompt.learn import Problem  # noqa: F401  loads torch, which only a process's first cell would pay for

    result = adapt(backbone, data, settings)
    skipped.update(str(path) for path, _ in result.skipped)

    def of(pack: Pack) -> dict[str, float]:
        return measured(lambda names: Classifier(backbone, pack, names))

    curve = [{"epoch": epoch, **of(pack), **_weights(pack)} for epoch, pack in result.snapshots.items()]
    return {
        "measured": of(result.pack),
        **({"curve": curve} if curve else {}),
        "train": result.train.pack,
        "prompt_bytes": sum(tensor.paper_bits for tensor in result.pack.tensors) / 8,
        "pack_bytes": result.pack.size,
        "steps": result.run.steps,
        "seconds": round(result.seconds["learn"], 3),
        "engine": result.engine[0],
        "facts": result.facts | ({"chosen": result.method} if settings.method == AUTO else {}),
    }


def _regressed(backbone: Backbone, data: Dataset, settings: AdaptSettings, measured: Measured, skipped: set[str]) -> Row:
    """The same of logistic regression, which has no pack."""
    model = Regressed.fit(backbone, data, settings, skipped)
    return {
        "measured": measured(model.among),
        "train": model.train,
        "prompt_bytes": model.nbytes,
        "pack_bytes": None,
        "steps": 0,
        "seconds": round(model.seconds, 3),
        "engine": "",
        "facts": {"C": model.model.C},
    }


def _weights(pack: Pack) -> dict[str, Any]:
    """Of the learned tokens as stored: mean, standard deviation, histogram over BINS, and how often each index stands."""
    if (ctx := pack.tensor(Role.CTX)) is None:
        return {}
    values = ctx.values().ravel()
    mean, std = float(values.mean()), float(values.std())
    counts, _ = np.histogram(np.clip((values - mean) / std, BINS[0], BINS[-1]), BINS)
    indexes = {} if ctx.bits == RAW_BITS else {"indexes": np.bincount(ctx.data, minlength=len(ctx.codebook)).tolist()}
    return {"mean": mean, "std": std, "histogram": counts.tolist()} | indexes


def content_of(backbone: Backbone, folders: Iterable[str], part: str = "all") -> str:
    """Digest of a backbone and its quantized encoders, and of the names, places and sizes of all photos of some data sets.

    Args:
        backbone: as the cell says.
        folders: of the data sets.
        part: of the classes that is learned on; where it is not all, both halves are measured.

    Raises:
        DataError: a data set that lacks test photos, or classes for two halves.
    """
    digest = hashlib.sha256(backbone.manifest.fingerprint.encode())
    digest.update("".join(backbone.manifest.encoder_kind(backbone.precision)[1:]).encode())
    for folder in map(Path, folders):
        data = load_dataset(folder)
        if data.test is None:
            raise DataError(f"a benchmark needs test photos, {folder} has none: give a data set with train/ and test/ folders")
        if part != "all" and len(data.names) < 4:
            raise DataError(f"{folder} has {len(data.names)} classes: base and new classes are two each, at least")
        for half in [data] if part == "all" else [data.select("base"), data.select("new")]:
            if not half.test:
                raise DataError(f"{folder} has no test photo of {', '.join(half.names[:5])}: put some under test/")
        photos = [*zip(data.train.paths, data.train.labels, strict=True), *zip(data.test.paths, data.test.labels, strict=True)]
        files = [(os.path.relpath(str(path), folder), len(read(path)), label) for path, label in photos]
        digest.update(json.dumps([data.names, files]).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


class Lines:
    """Rows in a file, one a line; a line that a crash cut short does not count.

    Attributes:
        path: made with the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, Row] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            with suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                self._rows[self._key(row)] = row

    def __contains__(self, cell: Cell) -> bool:
        return cell.key in self._rows

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            cut = file.read() not in (b"", b"\n")
            file.write(b"\n" * cut + json.dumps(row).encode() + b"\n")
        self._rows[self._key(row)] = row

    def of(self, cells: Iterable[Cell]) -> list[Row]:
        """Rows of those cells that are finished."""
        return [self._rows[cell.key] for cell in cells if cell in self]

    @staticmethod
    def _key(row: Row) -> str:
        return json.dumps({each.name: row[each.name] for each in fields(Cell)}, sort_keys=True)
