"""Does nano give the accuracies that were measured when it was trained?

    python benchmarks/nano_fidelity.py --weights ../shared/nano/nano-v0.npz --config ../shared/nano/nano-v0.json

Zero-shot accuracy on the shared test photos, and nearest class mean of the training photos: of the
towers in float32 as trained (needs the `nano` extra), of the embedded folder, and as recorded.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import with_helpers  # noqa: F401  before what it makes importable
from numpy.typing import NDArray
from reference_tower import reference_transformer

from edge_qprompt import Backbone
from edge_qprompt.photos.dataset import Photos, load_dataset
from edge_qprompt.photos.features import extract
from edge_qprompt.photos.photo import decode_photo, read_photo, to_pixels
from edge_qprompt.prompts import DEFAULT_TEMPLATE
from recipes.nano import image_tower, text_tensors

SHARED = Path(__file__).parent.parent.parent / "shared"
BATCH = 32
HEAD = "| data set | zero-shot recorded | float32 | embedded | class mean recorded | float32 | embedded |\n" + "|---" * 7 + "|"

Array = NDArray[np.float32]


def float_image_features(tower: torch.nn.Module, backbone: Backbone, photos: Photos) -> Array:
    """(N, D), without any storage in fewer bits."""
    parts = []
    for start in range(0, len(photos), BATCH):
        paths = photos.paths[start : start + BATCH]
        pixels = np.stack([to_pixels(decode_photo(read_photo(p)), backbone.manifest.preprocess) for p in paths])
        with torch.inference_mode():
            parts.append(tower(torch.from_numpy(pixels)).numpy())
    return np.concatenate(parts)


def float_text_features(tensors: dict[str, Array], backbone: Backbone, names: tuple[str, ...]) -> Array:
    """(C, D) of the hand-written prompt, by open_clip's transformer with the weights as trained."""
    config = backbone.manifest.text
    net = reference_transformer(config, backbone.manifest.embed_dim)
    state = {name: torch.from_numpy(np.float32(values)) for name, values in tensors.items()}
    state["token_embedding.weight"] = state["token_embedding.weight"] @ state.pop("token_embedding.up").T
    net.load_state_dict(state, strict=False)
    tokens = torch.zeros(len(names), config.context_length, dtype=torch.long)
    for line, name in zip(tokens, names, strict=True):
        row = [config.sot, *backbone.tokenizer.encode(DEFAULT_TEMPLATE.format(name)), config.eot]
        line[: len(row)] = torch.tensor(row)
    with torch.inference_mode():
        return torch.nn.functional.normalize(net(tokens), dim=-1).numpy()


def accuracy(features: Array, classes: Array, labels: tuple[int, ...]) -> float:
    """Per cent."""
    return 100 * float(((features @ classes.T).argmax(axis=1) == np.array(labels)).mean())


def class_means(features: Array, labels: tuple[int, ...]) -> Array:
    """(C, D) unit length."""
    means = np.stack([features[np.array(labels) == label].mean(axis=0) for label in range(max(labels) + 1)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def main() -> None:
    """Print one line a data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "datasets")
    parser.add_argument("--weights", type=Path, default=SHARED / "nano" / "nano-v0.npz")
    parser.add_argument("--config", type=Path, default=SHARED / "nano" / "nano-v0.json")
    args = parser.parse_args()
    source = dict(np.load(args.weights))
    backbone, tower, tensors = Backbone.open("nano"), image_tower(source), text_tensors(source)
    recorded = json.loads(args.config.read_text())["measured"]["sets"]
    print(HEAD)
    for name, figures in recorded.items():
        data = load_dataset(args.data / name)
        assert data.test is not None
        floats = float_image_features(tower, backbone, data.test)
        stored = extract(backbone, data.test.paths).values[:, 0]
        text = float_text_features(tensors, backbone, data.names)
        labels = data.test.labels
        cells = [
            figures["zero_shot"],
            accuracy(floats, text, labels),
            accuracy(stored, backbone.text.from_template(data.names), labels),
        ]
        if figures["nearest_class_mean_16"] is not None:
            means = [float_image_features(tower, backbone, data.train), extract(backbone, data.train.paths).values[:, 0]]
            both = [accuracy(f, class_means(m, data.train.labels), labels) for f, m in zip((floats, stored), means, strict=True)]
            cells += [figures["nearest_class_mean_16"], *both]
        print(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |" + " |" * (6 - len(cells)))


if __name__ == "__main__":
    main()
