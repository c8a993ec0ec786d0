"""Cuts the demo's photos out of Fashion-MNIST (MIT licence; Debian package dataset-fashion-mnist).

    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb fm
    python -m recipes.demo_data fm/usr/share/datasets/fashion-mnist edge_qprompt/data/fashion_mnist

The first 16 training and the first 50 test photos of each class, in the data set's order, as
grey PNG of 28 x 28 pixels. Nothing is chosen by hand.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 28
IMAGES_HEAD, LABELS_HEAD = 16, 8  # bytes before the data in an IDX file
SPLITS = {"train": ("train", 16), "test": ("t10k", 50)}  # our name: the file's prefix, photos a class
CLASSES = {  # folder: the name in a prompt, in the data set's order
    "t-shirt": "t-shirt",
    "trouser": "trouser",
    "pullover": "pullover",
    "dress": "dress",
    "coat": "coat",
    "sandal": "sandal",
    "shirt": "shirt",
    "sneaker": "sneaker",
    "bag": "bag",
    "ankle_boot": "ankle boot",
}


def _read(path: Path, head: int) -> NDArray[np.uint8]:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=head)


def main(source: Path, target: Path) -> None:
    """Write `target/{train,test}/CLASS/i.png` and `target/classes.txt`."""
    for split, (prefix, count) in SPLITS.items():
        images = _read(source / f"{prefix}-images-idx3-ubyte.gz", IMAGES_HEAD).reshape(-1, SIDE, SIDE)  # (N, 28, 28)
        labels = _read(source / f"{prefix}-labels-idx1-ubyte.gz", LABELS_HEAD)
        for label, folder in enumerate(CLASSES):
            place = target / split / folder
            place.mkdir(parents=True, exist_ok=True)
            for i, image in enumerate(images[labels == label][:count]):
                Image.fromarray(image).save(place / f"{i}.png", optimize=True)
    lines = [f"{label}\t{folder}\t{name}\n" for label, (folder, name) in enumerate(CLASSES.items())]
    (target / "classes.txt").write_text("".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
