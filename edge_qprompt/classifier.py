"""Photos in, labels out: a backbone and a pack, without torch.

    classifier = Classifier(Backbone.open("nano"), Pack.open("flowers.qpk"))
    print(classifier.classify("new.jpg")[0].label)

Symbols: B photos, C classes, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone import Backbone
from edge_qprompt.errors import PackError
from edge_qprompt.pack import Method, Pack, Precision, Role, Section, Tag
from edge_qprompt.photo import decode_photo, read_photo, to_pixels
from edge_qprompt.prompts import DEFAULT_TEMPLATE, check_template

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """One label and its probability among the classifier's labels, 0 to 1."""

    label: str
    probability: float


class Classifier:
    """Labels photos with one pack.

    Args:
        backbone: the one that the pack was learned on.
        pack: what `adapt` made.
        labels: class names instead of the pack's own; the prompt works for names it never saw.

    Raises:
        FingerprintError: the pack belongs to another backbone.
        PackError: the pack holds no class names and none are given.
        PromptError: a name does not fit the context.
    """

    def __init__(self, backbone: Backbone, pack: Pack, labels: Sequence[str] | None = None) -> None:
        backbone.check(pack)
        names = tuple(labels) if labels else pack.class_names
        if not names:
            raise PackError("the pack holds no class names: give them with labels (--labels a,b,c)")
        self.labels: tuple[str, ...] = names
        self.backbone = backbone
        self.class_features = class_features(backbone, pack, names)  # (C, D)

    def logits(self, features: Array) -> Array:
        """Scaled cosine similarities.

        Args:
            features: (B, D) float32, unit length.

        Returns:
            (B, C) float32.
        """
        scale = np.float32(self.backbone.manifest.logit_scale)
        return np.asarray(scale * features @ self.class_features.T, np.float32)

    def probabilities(self, features: Array) -> Array:
        """Softmax of the logits, (B, C) float32."""
        logits = self.logits(features)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)

    def classify(self, photo: str | Path | bytes, top: int = 3) -> list[Prediction]:
        """The most probable labels of one photo, best first.

        Args:
            photo: a path, or the bytes of an image file.
            top: how many; fewer if there are fewer labels.

        Raises:
            PhotoError: the photo cannot be read.
        """
        data, name = (photo, "photo") if isinstance(photo, bytes) else (read_photo(Path(photo)), str(photo))
        pixels = to_pixels(decode_photo(data, name), self.backbone.manifest.preprocess)
        return self.rank(self.probabilities(self.backbone.encode_images(pixels[None]))[0], top)

    def rank(self, probabilities: Array, top: int) -> list[Prediction]:
        """The `top` labels of one row of probabilities (C,), best first."""
        order = np.argsort(-probabilities, kind="stable")[:top]
        return [Prediction(self.labels[i], float(probabilities[i])) for i in order]


def class_features(backbone: Backbone, pack: Pack, names: Sequence[str]) -> Array:
    """Class features of a pack, (C, D) float32, unit length.

    Raises:
        PackError: the pack holds tensors that this version does not know how to use.
    """
    if unknown := [tensor.role for tensor in pack.tensors if tensor.role != Role.CTX]:
        raise PackError(f"the pack holds tensors of role {unknown[0]}, which this version cannot run: upgrade edge-qprompt")
    ctx = pack.tensor(Role.CTX)
    if ctx is not None:
        return backbone.text.from_context(names, ctx.values())
    return backbone.text.from_template(names, pack.template or DEFAULT_TEMPLATE)


def zero_shot(backbone: Backbone, names: Sequence[str], template: str = DEFAULT_TEMPLATE) -> Classifier:
    """The hand-written prompt as a classifier: what a learned pack has to beat."""
    sections = (Section(Tag.TEMPLATE, check_template(template).encode()),)
    pack = Pack(backbone.manifest.short_fingerprint, Method.ZERO_SHOT, Precision.FP32, (), sections)
    return Classifier(backbone, pack, names)
