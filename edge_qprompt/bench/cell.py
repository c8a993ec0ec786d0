"""A cell: one learning and what is measured with its pack. Finished cells are lines of JSON, and are not run again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_qprompt.backbone import Backbone
from edge_qprompt.classify import Classifier, score
from edge_qprompt.codebook import ClusterSettings
from edge_qprompt.errors import DataError
from edge_qprompt.learn import AUTO, METHODS, AdaptSettings, LoopSettings, MethodSettings, adapt, check_options
from edge_qprompt.pack import RAW_BITS, Pack, Role
from edge_qprompt.photos import Dataset, features_of, load_dataset, read

Row = dict[str, Any]
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
        data = load_dataset(Path(self.data))
        result = adapt(backbone, data.select(self.part), self.adapt_settings())
        targets = {Path(target).name: load_dataset(Path(target)) for target in self.targets}
        skipped = {str(path) for path, _ in result.skipped}
        measured = self._measure(backbone, result.pack, targets, skipped)
        curve = [
            {"epoch": epoch, **self._measure(backbone, pack, targets, skipped), **_weights(pack)}
            for epoch, pack in result.snapshots.items()
        ]
        return {
            **json.loads(self.key),
            "measured": measured,
            **({"curve": curve} if curve else {}),
            "train": result.train.pack,
            "prompt_bytes": sum(tensor.paper_bits for tensor in result.pack.tensors) / 8,
            "pack_bytes": result.pack.size,
            "steps": result.run.steps,
            "seconds": round(result.seconds["learn"], 3),
            "engine": result.engine[0],
            "skipped": len(skipped),
            "facts": result.facts,
        }

    def _measure(self, backbone: Backbone, pack: Pack, targets: dict[str, Dataset], skipped: set[str]) -> dict[str, float]:
        """Accuracies on test photos; of base and new classes also among all of them; what cannot be read joins `skipped`."""

        def accuracy(data: Dataset, names: tuple[str, ...], first: int = 0) -> float:
            """Of the test photos of `data`, among `names`; its classes are those from `first` on."""
            assert data.test is not None  # checked by content_of
            classifier = Classifier(backbone, pack, names)
            features = features_of(classifier.backbone, data.test)
            skipped.update(str(path) for path, _ in features.skipped)
            photos = replace(data.test, labels=tuple(label + first for label in data.test.labels))
            return score(classifier, photos, features).accuracy

        if self.part == "all":
            return {name: accuracy(data, data.names) for name, data in targets.items()}
        (data,) = targets.values()
        base, new = data.select("base"), data.select("new")
        both = (*base.names, *new.names)
        return {
            "base": accuracy(base, base.names),
            "new": accuracy(new, new.names),
            "joint base": accuracy(base, both),
            "joint new": accuracy(new, both, len(base.names)),
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
