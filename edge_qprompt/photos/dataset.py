"""A data set: a folder of photos per class, a CSV of paths and labels, a list of photos with labels, or features with labels.

    photos/CLASS/*.jpg                   or photos/{train,test}/CLASS/*.jpg, or a CSV "path,label"
    photos/classes.txt or --names FILE   tab-separated: label, folder, name (order is the labels')

A `train` or `test` without folders inside is a class of that name.
Symbols: N photos, C classes, D dimensions of a feature.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_qprompt.errors import DataError
from edge_qprompt.photos.source import AnyPhoto, InMemory, Source, source_of
from edge_qprompt.prompts import readable

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif", ".jp2", ".avif"}
SUFFIXES |= {".heic", ".heif"}  # photos without the extra `heic` too: then somebody hears that they are skipped
MAX_SORTED_CHARS = 4096  # int() refuses more than 4300 digits
CLASSES_FILE = "classes.txt"
SPLITS = ("train", "test")
PICTURE_OF_A_FOLDER = "photos/cat/1.jpg, photos/cat/2.jpg, photos/dog/1.jpg ... (one folder per class, at least two classes)"


@dataclass(frozen=True)
class Photos:
    """Some photos with their labels.

    Attributes:
        paths: (N,) files, or photos in memory.
        labels: (N,) positions in the data set's names.
        features: (N, D) float32, unit length, where somebody has encoded them already; the paths are no more than names then.
    """

    paths: tuple[Source, ...]
    labels: tuple[int, ...]
    features: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, positions: Sequence[int]) -> Photos:
        """The photos at these positions, in this order."""
        features = None if self.features is None else self.features[list(positions)]
        return Photos(tuple(self.paths[i] for i in positions), tuple(self.labels[i] for i in positions), features)


@dataclass(frozen=True)
class Dataset:
    """Named classes and their photos.

    Attributes:
        names: (C,) class names for prompts, in the order of the labels.
        train: what is learned from.
        test: the test split, or None where the data has only one.
        notes: a sentence for each thing in the data that is left out.
    """

    names: tuple[str, ...]
    train: Photos
    test: Photos | None
    notes: tuple[str, ...] = ()

    def select(self, which: str) -> Dataset:
        """Half of the classes, relabelled from 0: base = the first ceil(C / 2), new = the rest.

        Args:
            which: all, base or new.

        Raises:
            DataError: a half would have fewer than two classes.
        """
        if which == "all":
            return self
        half = -(-len(self.names) // 2)
        start, end = (0, half) if which == "base" else (half, len(self.names))
        if end - start < 2:
            raise DataError(f"the {which} half of {len(self.names)} classes has {end - start}, two are needed: use --classes all")
        test = None if self.test is None else _between(self.test, start, end)
        return Dataset(self.names[start:end], _between(self.train, start, end), test, self.notes)

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
    found = {label for rows in splits.values() for _, label in rows}
    named = (
        _read_names(table)
        if table
        else {label: readable(label) for label in sorted(found, key=lambda label: natural(readable(label)))}
    )
    if unknown := sorted(found - set(named)):
        raise DataError(f"{table} does not list {unknown[:5]}: add a line `label<TAB>folder<TAB>name` for each, or remove them")
    folders = [label for label in named if label in found]
    _check_classes(path, folders, [named[label] for label in folders])
    index = {label: i for i, label in enumerate(folders)}
    photos = {
        split: Photos(tuple(p for p, _ in rows), tuple(index[label] for _, label in rows)) for split, rows in splits.items()
    }
    names = tuple(named[label] for label in folders)
    return Dataset(names, photos["train"], photos.get("test"), _left_out(path, [*named], found))


AnyData = Dataset | str | Path | Sequence[tuple[AnyPhoto, str]] | tuple[ArrayLike, ArrayLike]
UNIT_TOLERANCE = 1e-3


def dataset_of(data: AnyData, names: Sequence[str] | None = None) -> Dataset:
    """Whatever stands for photos with their classes, as a data set.

    Args:
        data: one of
            a data set;
            a path: the folder or CSV, as of `load_dataset`;
            a list of (photo, label): photos as of `source.source_of`, labels as class names;
            a tuple (X, y): features (N, D) of unit length, and labels, as class names or as positions in `names`.
        names: (C,) class names in the order of the labels; those of the labels, sorted, where it is not given.

    Raises:
        DataError: nothing of these, or nothing to learn from.
        PhotoError: a photo that is none.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        return load_dataset(Path(data))
    if isinstance(data, tuple) and len(data) == 2 and getattr(data[0], "ndim", 0) == 2:
        return _of_features(np.asarray(data[0]), list(np.asarray(data[1]).tolist()), names)
    rows: list[Any] = list(data)
    for i, row in enumerate(rows):
        if not isinstance(row, tuple | list) or len(row) != 2:
            raise DataError(f"number {i} of the photos is {type(row).__name__}, wanted (photo, label); {WAYS}")
    if not rows:
        raise DataError(f"there are no photos: {WAYS}")
    found, labels = _labelled([label for _, label in rows], names)
    return Dataset(found, Photos(tuple(source_of(photo, f"photo {i}") for i, (photo, _) in enumerate(rows)), labels), None)


WAYS = "give a folder, a list of (photo, label), or a tuple (X, y) of features (N, D) and labels"


def _of_features(values: NDArray[Any], labels: list[Any], names: Sequence[str] | None) -> Dataset:
    if len(values) != len(labels):
        raise DataError(f"X has {len(values)} rows and y has {len(labels)}: give a label for each row")
    features = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(features).all() or (np.abs(np.linalg.norm(features, axis=1) - 1) > UNIT_TOLERANCE).any():
        raise DataError("a row of X is no feature of length 1: take what `encode_photos` gives, or divide each row by its norm")
    found, positions = _labelled(labels, names)
    rows = tuple(InMemory(b"", f"row {i} of X") for i in range(len(features)))
    return Dataset(found, Photos(rows, positions, features), None)


def _labelled(labels: list[Any], names: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Class names, and the position of each label among them."""
    if all(isinstance(label, str) for label in labels):
        found = tuple(names) if names else tuple(sorted({readable(label) for label in labels}, key=natural))
        index = {name: i for i, name in enumerate(found)}
        given = [label if label in index else readable(label) for label in labels]
        if unknown := sorted({label for label in given if label not in index})[:5]:
            raise DataError(f"names do not have the labels {unknown}: add them, or leave these photos out")
        positions = [index[label] for label in given]
    elif names is None or not all(isinstance(label, int | np.integer) and 0 <= label < len(names) for label in labels):
        raise DataError("labels are neither class names nor positions in `names`: give names=[...] with a name for each number")
    else:
        found, positions = tuple(names), [int(label) for label in labels]
    if len(found) < 2:
        raise DataError(f"there is only one class ({found[0] if found else 'none'}), nothing to tell apart")
    if double := _doubles(list(found)):
        raise DataError(f"two classes have the same name {double[0]!r}: give them different names")
    return found, tuple(positions)


Rows = list[tuple[Path, str]]


def _from_folders(path: Path) -> dict[str, Rows]:
    splits = {split: _class_folders(path / split) for split in _splits(path)}
    return {"train": [], **splits} if splits else {"train": _class_folders(path)}


def _splits(path: Path) -> list[str]:
    return [split for split in SPLITS if (path / split).is_dir() and _subfolders(path / split)]


def _subfolders(root: Path) -> list[Path]:
    folders = (folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    return sorted(folders, key=lambda folder: folder.name)


def _class_folders(root: Path) -> Rows:
    return [(file, folder.name) for folder in _subfolders(root) for file in list_photos(folder)]


def _left_out(path: Path, named: list[str], found: set[str]) -> tuple[str, ...]:
    """What somebody may believe to be part of the data set, and is not."""
    splits = _splits(path) if path.is_dir() else []
    roots = [path / split for split in splits] or ([path] if path.is_dir() else [])
    classes = dict.fromkeys([*named, *(folder.name for root in roots for folder in _subfolders(root))])
    notes = []
    if empty := [name for name in classes if name not in found]:
        notes.append(f"classes without photos are left out: {_some(empty)}")
    if loose := [str(file) for root in roots for file in root.iterdir() if _is_photo(file)]:
        notes.append(f"photos outside of the class folders are left out: {_some(sorted(loose))}")
    if splits and (others := [folder.name for folder in _subfolders(path) if folder.name not in splits]):
        notes.append(f"of {path} only {' and '.join(splits)} are read, left out: {_some(others)}")
    return tuple(notes)


def _some(items: list[str]) -> str:
    return ", ".join(items[:5]) + (" ..." if len(items) > 5 else "")


def list_photos(folder: Path) -> list[Path]:
    """Image files anywhere below a folder, in natural order (2.jpg before 10.jpg)."""
    return sorted(filter(_is_photo, folder.rglob("*")), key=lambda f: natural(str(f.relative_to(folder))))


def _is_photo(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def _from_csv(path: Path) -> dict[str, Rows]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file of UTF-8 text ({error}); it should hold lines `path,label`") from error
    if rows and [cell.strip().lower() for cell in rows[0][1]] == ["path", "label"]:
        rows = rows[1:]
    for number, row in rows:
        if len(row) != 2 or not all(cell.strip() for cell in row):
            raise DataError(f"line {number} of {path} is {','.join(row)!r}, wanted `path,label`")
    return {"train": [(path.parent / file.strip(), label.strip()) for _, (file, label) in rows]}


def _read_names(path: Path) -> dict[str, str]:
    """Names by folder, in the order of the labels."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the class names in {path}: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line.split("\t")]
        if line.strip() and (len(cells) < 3 or not all(cells[:3])):
            raise DataError(f"line {number} of {path} is {line!r}, wanted label, folder and name with tabs between them")
        rows += [cells] if line.strip() else []
    if double := _doubles([row[1] for row in rows]):
        raise DataError(f"{path} lists the folder {double[0]!r} twice: keep one of the lines")
    return {row[1]: row[2] for row in sorted(rows, key=lambda row: natural(row[0]))}


def _check_classes(path: Path, folders: list[str], names: list[str]) -> None:
    if not folders:
        raise DataError(f"no photos in {path}; a data set looks like this: {PICTURE_OF_A_FOLDER}")
    if len(folders) == 1:
        raise DataError(f"only one class in {path} ({folders[0]}), nothing to tell apart; wanted: {PICTURE_OF_A_FOLDER}")
    if unnamed := [folder for folder, name in zip(folders, names, strict=True) if not name]:
        raise DataError(f"the class {unnamed[0]!r} has no name to put into a prompt: rename it, or give it one with --names")
    if double := _doubles(names):
        raise DataError(f"two classes have the same name {double[0]!r}: give them different names with --names")


def _doubles(names: list[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _between(photos: Photos, start: int, end: int) -> Photos:
    chosen = photos.take([i for i, label in enumerate(photos.labels) if start <= label < end])
    return replace(chosen, labels=tuple(label - start for label in chosen.labels))


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key that puts 2 before 10, and never takes two texts for one."""
    parts = re.findall(r"\d+|\D+", text[:MAX_SORTED_CHARS])
    return [*((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts), (-1, 0, text)]
