"""How good are backbones as they are? Accuracy on test photos, zero-shot and by nearest class mean.

    python benchmarks/backbones.py nano vit-mini/ --data ../shared/datasets/caltech101 ../shared/datasets/eurosat

Zero-shot is "a photo of a {}."; the class means are those of all training photos.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from edge_qprompt import Backbone
from edge_qprompt.dataset import Photos, load_dataset
from edge_qprompt.features import extract
from edge_qprompt.residual import class_means

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def encoded(backbone: Backbone, photos: Photos) -> tuple[Array, Array]:
    """Features (N, D) and labels (N,)."""
    features = extract(backbone, photos.paths)
    return features.values[:, 0], np.array(photos.labels)[features.kept]


def accuracies(backbone: Backbone, folder: Path) -> tuple[float, float | None]:
    """Per cent: zero-shot, and nearest class mean where there are training photos."""
    data = load_dataset(folder)
    if data.test is None:
        raise SystemExit(f"{folder} has no test photos")
    features, labels = encoded(backbone, data.test)

    def hits(classes: Array) -> float:
        return 100 * float(((features @ classes.T).argmax(axis=1) == labels).mean())

    by_name = hits(backbone.text.from_template(data.names))
    return by_name, hits(class_means(*encoded(backbone, data.train), len(data.names))) if len(data.train) else None


def main() -> None:
    """A line a data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="+")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    args = parser.parse_args()
    models = [Backbone.open(name) for name in args.backbones]
    columns = [f"{model.manifest.name} {what}" for model in models for what in ("zero-shot", "class mean")]
    print("| data set | " + " | ".join(columns) + " |\n" + "|---" * (1 + len(columns)) + "|")
    for folder in args.data:
        cells = [cell for model in models for cell in accuracies(model, folder)]
        print(f"| {folder.name} | " + " | ".join("" if cell is None else f"{cell:.1f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
