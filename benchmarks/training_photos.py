"""Problems made of training photos alone, to choose defaults by without a look at test photos.

    python benchmarks/training_photos.py --photos ../shared/datasets --out problems/
    edge-qprompt bench base-to-new --data problems/caltech101-50-0 --data problems/... --methods coop,qcoop --out chosen/

Ten problems for `bench base-to-new`: random classes of a data set are learned from some of their training photos and measured
on the others, as many other classes on all of theirs. And three, NAME-all, for `bench few-shot`. Photos are links.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edge_qprompt.photos.dataset import CLASSES_FILE, Dataset, load_dataset

BASE_TO_NEW = (  # data set, base classes, how many problems
    ("caltech101", 50, 2),
    ("caltech101", 12, 2),
    ("eurosat", 5, 2),
    ("dtd10", 5, 2),
    ("pacs_photo", 4, 1),
    ("oxford_flowers102", 51, 1),
)
FEW_SHOT = ("caltech101", "eurosat", "dtd10")


def write(data: Dataset, base: Sequence[int], new: Sequence[int], shots: int, target: Path) -> None:
    """A data set folder: `shots` photos of each base class under train/, its others and all of the new classes under test/."""
    lines = []
    for label, source in enumerate((*base, *new)):
        mine = [path for path, other in zip(data.train.paths, data.train.labels, strict=True) if other == source]
        order = np.random.default_rng([1, source, 77]).permutation(len(mine))
        for place, i in enumerate(order):
            split = "train" if label < len(base) and place < shots else "test"
            link = target / split / f"{label:03}" / f"{place:02}{mine[i].suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(mine[i].absolute())
        lines.append(f"{label}\t{label:03}\t{data.names[source]}\n")
    (target / CLASSES_FILE).write_text("".join(lines))


def problems(photos: Path) -> Iterator[tuple[str, Dataset, list[int], list[int]]]:
    """Name, data set, base and new classes of each."""
    for name, size, count in BASE_TO_NEW:
        data = load_dataset(photos / name)
        for k in range(count):
            order = np.random.default_rng([k, size]).permutation(len(data.names)).tolist()
            yield f"{name}-{size}-{k}", data, order[:size], order[size : 2 * size]
    for name in FEW_SHOT:
        data = load_dataset(photos / name)
        yield f"{name}-all", data, list(range(len(data.names))), []


def main() -> None:
    """Command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of the data sets; train folders alone are read")
    parser.add_argument("--shots", type=int, default=12, help="training photos of a class to learn from")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    for name, data, base, new in problems(args.photos):
        write(data, base, new, args.shots, args.out / name)
        print(args.out / name)


if __name__ == "__main__":
    main()
