"""How good are backbones as they are? Accuracy on test photos, zero-shot and by nearest class mean.

    python benchmarks/backbones.py nano vit-mini/ --data ../shared/datasets/caltech101 ../shared/datasets/eurosat

Zero-shot is "a photo of a {}."; the class means are those of all training photos. With `--classes base` or `new` only that
half of the classes is measured, among itself.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np

from edge_qprompt import Backbone
from edge_qprompt.classify.residual import class_means
from edge_qprompt.photos.dataset import Photos, load_dataset
from edge_qprompt.photos.features import extract

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def encoded(backbone: Backbone, photos: Photos) -> tuple[Array, Array]:
    """Features (N, D) and labels (N,)."""
    features = extract(backbone, photos.paths)
    return features.values[:, 0], np.array(photos.labels)[features.kept]


def accuracies(backbone: Backbone, folder: Path, part: str) -> tuple[float, float | None]:
    """Per cent: zero-shot, and nearest class mean where there are training photos."""
    data = load_dataset(folder).select(part)
    if data.test is None:
        raise SystemExit(f"{folder} has no test photos")
    features, labels = encoded(backbone, data.test)

    def hits(classes: Array) -> float:
        return 100 * float(((features @ classes.T).argmax(axis=1) == labels).mean())

    by_name = hits(backbone.text.from_template(data.names))
    return by_name, hits(class_means(*encoded(backbone, data.train), len(data.names))) if len(data.train) else None


def main() -> None:
    """A line a data set, and their mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="+")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--classes", choices=("all", "base", "new"), default="all")
    args = parser.parse_args()
    models = [Backbone.open(name) for name in args.backbones]
    columns = [f"{model.manifest.name} {what}" for model in models for what in ("zero-shot", "class mean")]
    print("| data set | " + " | ".join(columns) + " |\n" + "|---" * (1 + len(columns)) + "|")
    table = {folder.name: [cell for model in models for cell in accuracies(model, folder, args.classes)] for folder in args.data}
    whole = [[cell for cell in column if cell is not None] for column in zip(*table.values(), strict=True)]
    table["**mean**"] = [statistics.mean(column) if len(column) == len(args.data) else None for column in whole]
    for name, cells in table.items():
        print(f"| {name} | " + " | ".join("" if cell is None else f"{cell:.1f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
