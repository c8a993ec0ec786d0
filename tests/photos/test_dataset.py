"""Folders and CSV files to a data set. No photo is opened, so empty files will do."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_qprompt.errors import DataError
from edge_qprompt.photos.dataset import Dataset, Photos, list_photos, load_dataset


def touch(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def relative(photos: Photos, root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in photos.paths]


def test_classes_and_photos_are_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "class10/1.jpg", "class2/10.JPG", "class2/9.png", "class2/deep/er/1.webp", "class1/x.tif")
    touch(tmp_path, "class2/notes.txt", "class2/.hidden.jpg", ".git/1.jpg")
    data = load_dataset(tmp_path)
    assert data.names == ("class1", "class2", "class10")
    assert relative(data.train, tmp_path) == [
        "class1/x.tif",
        "class10/1.jpg",
        "class2/9.png",
        "class2/10.JPG",
        "class2/deep/er/1.webp",
    ]
    assert data.train.labels == (0, 2, 1, 1, 1)
    assert data.test is None
    assert data.notes == ()


def test_underscore_and_hyphen_of_a_folder_become_spaces(tmp_path: Path) -> None:
    touch(tmp_path, "ankle_boot/1.jpg", "T-shirt__old/1.jpg", "été 2/1.jpg")
    assert load_dataset(tmp_path).names == ("T shirt old", "ankle boot", "été 2")


def test_train_and_test_are_honoured(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "train/dog/2.jpg", "test/dog/7.jpg")
    data = load_dataset(tmp_path)
    assert relative(data.train, tmp_path) == ["train/cat/1.jpg", "train/dog/1.jpg", "train/dog/2.jpg"]
    assert data.test is not None
    assert (relative(data.test, tmp_path), data.test.labels) == (["test/dog/7.jpg"], (1,))


def test_a_target_to_evaluate_on_has_only_test(tmp_path: Path) -> None:
    touch(tmp_path, "test/cat/1.jpg", "test/dog/1.jpg")
    data = load_dataset(tmp_path)
    assert len(data.train) == 0
    assert data.test is not None
    assert data.test.labels == (0, 1)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg", "plane/1.jpg", "test/1.jpg")
    assert load_dataset(tmp_path).names == ("plane", "test", "train")


def test_classes_txt_gives_order_and_names(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "c/1.jpg")
    write(tmp_path / "classes.txt", "10\ta\tlast one\tkey\n\n2\tb\tT-shirt\n1\tc\tfirst one\n", "utf-8-sig")
    data = load_dataset(tmp_path)
    assert data.names == ("first one", "T-shirt", "last one")
    assert relative(data.train.take([0]), tmp_path) == ["a/1.jpg"]
    assert data.train.labels == (2, 1, 0)


def test_names_file_stands_in_for_classes_txt(tmp_path: Path) -> None:
    touch(tmp_path / "photos", "a/1.jpg", "b/1.jpg")
    write(tmp_path / "photos" / "classes.txt", "0\ta\twrong\n1\tb\twrong too\n")
    names = write(tmp_path / "names.tsv", "0\tb\tbee\n1\ta\tay\n")
    assert load_dataset(tmp_path / "photos", names).names == ("bee", "ay")


@pytest.mark.parametrize("head", ["", "path,label\n", " Path , Label\r\n", "\ufeffpath,label\n"])
def test_csv_is_relative_to_itself_and_quoted(tmp_path: Path, head: str) -> None:
    file = write(tmp_path / "data.csv", head + 'a.jpg,big_cat\n\n"in, here/b.jpg", dog \n/abs/c.jpg,dog\n')
    data = load_dataset(file)
    assert data.names == ("big cat", "dog")
    assert data.train.paths == (tmp_path / "a.jpg", tmp_path / "in, here/b.jpg", Path("/abs/c.jpg"))
    assert data.train.labels == (0, 1, 1)


def test_csv_labels_take_names_and_order_from_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "data.csv", "a.jpg,n01\nb.jpg,n02\n")
    assert load_dataset(file, write(tmp_path / "names", "0\tn02\ttench\n1\tn01\tshark\n")).names == ("tench", "shark")


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "train/stray.jpg", "train/empty/readme.txt", "val/cat/1.jpg")
    write(tmp_path / "classes.txt", "0\tcat\tcat\n1\tdog\tdog\n2\tzebra\tzebra\n")
    data = load_dataset(tmp_path)
    assert data.names == ("cat", "dog")
    notes = "\n".join(data.notes)
    assert "classes without photos are left out: zebra, empty" in notes
    assert "outside of the class folders are left out: " in notes
    assert "stray.jpg" in notes
    assert "only train are read, left out: val" in notes
    assert data.select("all").notes == data.notes


def test_photos_that_cannot_be_decoded_here_are_listed_all_the_same(tmp_path: Path) -> None:
    touch(tmp_path, "IMG_1.HEIC", "IMG_2.heif", "3.avif")
    assert len(list_photos(tmp_path)) == 3


def test_base_and_new_classes_split_as_the_benchmarks_do(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{split}/c{i}/{n}.jpg" for split in ("train", "test") for i in range(5) for n in range(2)))
    data = load_dataset(tmp_path)
    base, new = data.select("base"), data.select("new")
    assert (base.names, new.names) == (("c0", "c1", "c2"), ("c3", "c4"))
    assert new.train.labels == (0, 0, 1, 1)
    assert new.test is not None
    assert new.test.labels == (0, 0, 1, 1)
    assert {path.parent.name for path in new.train.paths + new.test.paths} == {"c3", "c4"}
    assert {path.parent.name for path in base.train.paths} == {"c0", "c1", "c2"}
    assert data.select("all") == data


@pytest.mark.parametrize(("classes", "which"), [(2, "base"), (2, "new"), (3, "new")])
def test_half_of_the_classes_must_be_two(tmp_path: Path, classes: int, which: str) -> None:
    touch(tmp_path, *(f"c{i}/1.jpg" for i in range(classes)))
    with pytest.raises(DataError, match=f"the {which} half of {classes} classes has 1, two are needed: use --classes all"):
        load_dataset(tmp_path).select(which)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 8), st.integers(0, 5))
def test_few_shot_takes_at_most_so_many_a_class_and_leaves_the_rest(labels: list[int], shots: int, seed: int) -> None:
    photos = Photos(tuple(Path(str(i)) for i in range(len(labels))), tuple(labels))
    data = Dataset(tuple("abcde"), photos, None)
    chosen, rest = data.few_shot(shots, seed)
    assert Counter(chosen.labels) == {label: min(shots, count) for label, count in Counter(labels).items()}
    assert sorted(chosen.paths + rest.paths) == sorted(photos.paths)
    assert all(
        labels[int(path.name)] == label for part in (chosen, rest) for path, label in zip(part.paths, part.labels, strict=True)
    )
    assert data.few_shot(shots, seed) == (chosen, rest)


def test_seed_1_takes_the_first_and_other_seeds_draw() -> None:
    labels = [i % 3 for i in range(60)]
    data = Dataset(("a", "b", "c"), Photos(tuple(Path(str(i)) for i in range(60)), tuple(labels)), None)
    chosen = {seed: [int(path.name) for path in data.few_shot(4, seed)[0].paths] for seed in (0, 1, 2, 3)}
    assert chosen[1] == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
    assert len({tuple(numbers) for numbers in chosen.values()}) == 4
    by_class = [[n // 3 for n in chosen[2][4 * c : 4 * c + 4]] for c in range(3)]
    assert by_class[0] != by_class[1] != by_class[2]  # not the same draw for each class


BAD_FOLDERS = {
    "nothing in it": ([], "no photos in .*; a data set looks like this: photos/cat/1.jpg"),
    "photos without class folders": (["1.jpg", "2.jpg"], "no photos in .* looks like this"),
    "no photos in the folders": (["cat/1.txt", "dog/a.pdf"], "no photos in .* looks like this"),
    "one class": (["cat/1.jpg"], r"only one class in .* \(cat\), nothing to tell apart; wanted: photos/cat"),
    "two folders of one name": (["big_cat/1.jpg", "big-cat/1.jpg", "dog/1.jpg"], "same name 'big cat': .*--names"),
    "a folder without a name": (["_/1.jpg", "dog/1.jpg"], "'_' has no name to put into a prompt: .*--names"),
}


@pytest.mark.parametrize(("files", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_folders_that_are_no_data_set(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(touch(tmp_path, *files))


def test_missing_folder_says_what_one_looks_like(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist; a data set looks like this: photos/cat/1.jpg"):
        load_dataset(tmp_path / "nowhere")


BAD_CSV = {
    "no lines": (b"", "no photos in"),
    "only a head": (b"path,label\n", "no photos in"),
    "one cell": (b"path,label\na.jpg,cat\nb.jpg\n", "line 3 of .* is 'b.jpg', wanted `path,label`"),
    "three cells": (b"a.jpg,cat,x\n", "line 1 of .* is 'a.jpg,cat,x'"),
    "empty label": (b"a.jpg,cat\nb.jpg, \n", "line 2 of .* is 'b.jpg, '"),
    "one class": (b"a.jpg,cat\nb.jpg,cat\n", "only one class"),
    "Latin-1": ("a.jpg,caf\xe9\n".encode("latin-1"), "is not a CSV file of UTF-8 text .* `path,label`"),
    "an image": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not a CSV file of UTF-8 text"),
    "an endless cell": (b"a.jpg," + b"x" * 200_000, "is not a CSV file of UTF-8 text .*field larger"),
    "a label of digits": (b"a.jpg,cat\nb.jpg," + b"9" * 5000, None),
}


@pytest.mark.parametrize(("data", "message"), BAD_CSV.values(), ids=BAD_CSV)
def test_bad_csv(tmp_path: Path, data: bytes, message: str | None) -> None:
    file = tmp_path / "data.csv"
    file.write_bytes(data)
    if message is None:
        assert len(load_dataset(file).names) == 2
    else:
        with pytest.raises(DataError, match=message):
            load_dataset(file)


BAD_NAMES = {
    "two columns": ("0\tcat\tcat\n1\tdog\n", r"line 2 of .* is '1\\tdog', wanted label, folder and name with tabs"),
    "spaces for tabs": ("0 cat cat\n", "line 1 of .* with tabs between them"),
    "an empty name": ("0\tcat\t \n", "line 1 of .* wanted label, folder and name"),
    "unlisted folder": ("0\tcat\tcat\n", r"does not list \['dog'\]: add a line"),
    "a folder twice": ("0\tcat\tcat\n1\tdog\tdog\n2\tcat\tlion\n", "lists the folder 'cat' twice"),
    "a name twice": ("0\tcat\tpet\n1\tdog\tpet\n", "two classes have the same name 'pet'"),
}


@pytest.mark.parametrize(("text", "message"), BAD_NAMES.values(), ids=BAD_NAMES)
def test_bad_class_names(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    write(tmp_path / "classes.txt", text)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path)


def test_missing_or_binary_names_file(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    for name in ("nowhere.tsv", "binary", "cat"):
        with pytest.raises(DataError, match=f"cannot read the class names in .*{name}"):
            load_dataset(tmp_path, tmp_path / name)


def test_shared_data_sets_have_their_documented_sizes(shared: Path) -> None:
    for name, classes, train, test in (
        ("caltech101", 100, 1600, 1175),
        ("oxford_flowers102", 102, 1632, 1224),
        ("eurosat", 10, 160, 250),
        ("pacs_sketch", 7, 0, 175),
    ):
        data = load_dataset(shared / name)
        assert (len(data.names), len(data.train), len(data.test or ())) == (classes, train, test)
        assert data.notes == ()
        lines = (shared / name / "classes.txt").read_text().splitlines()
        assert data.names == tuple(line.split("\t")[2] for line in lines)
