"""A data set of photos on disk: a folder per class, or a CSV of paths and labels.

    photos/CLASS/*.jpg                   or photos/{train,test}/CLASS/*.jpg, or a CSV "path,label"
    photos/classes.txt or --names FILE   tab-separated: label, folder, name (order is the labels')

Symbols: N photos, C classes.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_qprompt.errors import DataError
from edge_qprompt.prompts import readable

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif", ".jp2"}
CLASSES_FILE = "classes.txt"
SPLITS = ("train", "test")
PICTURE_OF_A_FOLDER = "photos/cat/1.jpg, photos/cat/2.jpg, photos/dog/1.jpg ... (one folder per class, at least two classes)"


@dataclass(frozen=True)
class Photos:
    """Some photos with their labels.

    Attributes:
        paths: (N,) files.
        labels: (N,) positions in the data set's names.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, positions: Sequence[int]) -> Photos:
        """The photos at these positions, in this order."""
        return Photos(tuple(self.paths[i] for i in positions), tuple(self.labels[i] for i in positions))


@dataclass(frozen=True)
class Dataset:
    """Named classes and their photos.

    Attributes:
        names: (C,) class names for prompts, in the order of the labels.
        train: what is learned from.
        test: the test split, or None where the data has only one.
    """

    names: tuple[str, ...]
    train: Photos
    test: Photos | None

    def select(self, which: str) -> Dataset:
        """Half of the classes, relabelled from 0: base = the first ceil(C / 2), new = the rest.

        Args:
            which: all, base or new.

        Raises:
            DataError: a half would have no class.
        """
        if which == "all":
            return self
        half = -(-len(self.names) // 2)
        start, end = (0, half) if which == "base" else (half, len(self.names))
        if start == end:
            raise DataError(f"{len(self.names)} classes cannot be split into base and new: use --classes all")
        test = None if self.test is None else _between(self.test, start, end)
        return Dataset(self.names[start:end], _between(self.train, start, end), test)

    def few_shot(self, shots: int, seed: int) -> tuple[Photos, Photos]:
        """At most `shots` training photos a class, and the training photos that are left over.

        Seed 1 takes the first photos of each class, as the shared few-shot lists do; any other
        seed draws them.
        """
        chosen: list[int] = []
        for label in range(len(self.names)):
            mine = [i for i, other in enumerate(self.train.labels) if other == label]
            if seed != 1:
                mine = [mine[i] for i in np.random.default_rng([seed, label]).permutation(len(mine))]
            chosen += sorted(mine[:shots])
        rest = sorted(set(range(len(self.train))) - set(chosen))
        return self.train.take(chosen), self.train.take(rest)


def load_dataset(path: Path, names_file: Path | None = None) -> Dataset:
    """Read a data set's structure; no photo is opened.

    Args:
        path: a folder or a CSV file.
        names_file: instead of the folder's classes.txt.

    Raises:
        DataError: nothing there to learn from; says what a photo folder looks like.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; a data set looks like this: {PICTURE_OF_A_FOLDER}")
    splits = _from_csv(path) if path.is_file() else _from_folders(path)
    default = path / CLASSES_FILE
    table = names_file or (default if default.is_file() else None)
    found = sorted({label for rows in splits.values() for _, label in rows}, key=_natural)
    named = _read_names(table) if table else {label: readable(label) for label in found}
    if unknown := [label for label in found if label not in named]:
        raise DataError(f"{table} does not list {unknown[:5]}: add a line `label<TAB>folder<TAB>name` for each, or remove them")
    folders = [label for label in named if label in found]
    _check_classes(path, folders, [named[label] for label in folders])
    index = {label: i for i, label in enumerate(folders)}
    photos = {
        split: Photos(tuple(p for p, _ in rows), tuple(index[label] for _, label in rows)) for split, rows in splits.items()
    }
    return Dataset(tuple(named[label] for label in folders), photos["train"], photos.get("test"))


Rows = list[tuple[Path, str]]


def _from_folders(path: Path) -> dict[str, Rows]:
    if (path / "train").is_dir():
        return {split: _class_folders(path / split) for split in SPLITS if (path / split).is_dir()}
    if (path / "test").is_dir():  # a target to evaluate on
        return {"train": [], "test": _class_folders(path / "test")}
    return {"train": _class_folders(path)}


def _class_folders(root: Path) -> Rows:
    folders = sorted((f for f in root.iterdir() if f.is_dir() and not f.name.startswith(".")), key=lambda f: _natural(f.name))
    return [(file, folder.name) for folder in folders for file in list_photos(folder)]


def list_photos(folder: Path) -> list[Path]:
    """Image files anywhere below a folder, in natural order (2.jpg before 10.jpg)."""
    files = (f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and not f.name.startswith(".") and f.is_file())
    return sorted(files, key=lambda f: _natural(str(f.relative_to(folder))))


def _from_csv(path: Path) -> dict[str, Rows]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file of UTF-8 text ({error}); it should hold lines `path,label`") from error
    if rows and rows[0][:2] == ["path", "label"]:
        rows = rows[1:]
    if bad := next((row for row in rows if len(row) != 2 or not all(cell.strip() for cell in row)), None):
        raise DataError(f"{path} has the line {','.join(bad)!r}, wanted `path,label`")
    return {"train": [((path.parent / file.strip()), label.strip()) for file, label in rows]}


def _read_names(path: Path) -> dict[str, str]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the class names in {path}: {error}") from error
    cells = [line.split("\t") for line in lines]
    if bad := next((line for line, row in zip(lines, cells, strict=True) if len(row) < 3 or not row[2].strip()), None):
        raise DataError(f"{path} has the line {bad!r}, wanted label, folder and name with tabs between them")
    return {row[1].strip(): row[2].strip() for row in cells}


def _check_classes(path: Path, folders: list[str], names: list[str]) -> None:
    if not folders:
        raise DataError(f"no photos in {path}; a data set looks like this: {PICTURE_OF_A_FOLDER}")
    if len(folders) == 1:
        raise DataError(f"only one class in {path} ({folders[0]}), nothing to tell apart; wanted: {PICTURE_OF_A_FOLDER}")
    if double := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"two classes have the same name {double[0]!r}: give them different names with --names")


def _between(photos: Photos, start: int, end: int) -> Photos:
    chosen = photos.take([i for i, label in enumerate(photos.labels) if start <= label < end])
    return Photos(chosen.paths, tuple(label - start for label in chosen.labels))


def _natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key that puts 2 before 10."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
