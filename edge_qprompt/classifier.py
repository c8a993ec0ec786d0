"""Photos in, labels out: a backbone and a pack, without torch.

    classifier = Classifier(Backbone.open("nano"), Pack.open("flowers.qpk"))
    print(classifier.classify("new.jpg")[0].label)

Many packs on one backbone are `Tasks`: a photo is encoded once, whatever their number.

Symbols: B photos, C classes, D dimensions of a feature, N tasks, S classes of all tasks together.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone import Backbone
from edge_qprompt.encoder_changes import ROLES as ENCODER_ROLES
from edge_qprompt.errors import FingerprintError, PackError
from edge_qprompt.pack import Method, Pack, Precision, Role, Section, Tag
from edge_qprompt.photo import decode_photo, read_photo, to_pixels
from edge_qprompt.prompts import DEFAULT_TEMPLATE, check_template
from edge_qprompt.residual import with_residuals

KNOWN = ENCODER_ROLES | {Role.CTX, Role.RESIDUAL}

Array = NDArray[np.float32]


class Prediction(NamedTuple):
    """One label and its probability among the classifier's labels, 0 to 1.

    A named tuple, since a thousand tasks make thousands of them a photo, and a frozen dataclass takes twice the time.
    """

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
        self.backbone = backbone.adapted(pack)  # whose features `logits` takes
        text = class_features(self.backbone, pack, names)
        self.class_features, self.offsets = with_residuals(pack, names, text)  # (C, D), (C,)

    def logits(self, features: Array) -> Array:
        """Scaled cosine similarities, with their offsets.

        Args:
            features: (B, D) float32, unit length.

        Returns:
            (B, C) float32.
        """
        scale = np.float32(self.backbone.manifest.logit_scale)
        return np.asarray(scale * (features @ self.class_features.T + self.offsets), np.float32)

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
        return self.rank(self.probabilities(encode_photo(self.backbone, photo))[0], top)

    def rank(self, probabilities: Array, top: int) -> list[Prediction]:
        """The `top` labels of one row of probabilities (C,), best first."""
        order = np.argsort(-probabilities, kind="stable")[:top]
        return [Prediction(self.labels[i], float(probabilities[i])) for i in order]


@dataclass(frozen=True)
class _Stack:
    """All tasks as one matrix, each task's classes in a row of their own.

    Attributes:
        names: N tasks.
        labels: (S,) class names.
        class_features: (S, D) float32, unit length.
        offsets: (S,) float32, added to the cosines.
        starts: (N,) int64, the first class of each task.
        counts: (N,) int64, the classes of each task, at least 1.
    """

    names: tuple[str, ...]
    labels: NDArray[np.object_]
    class_features: Array
    offsets: Array
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, tasks: Mapping[str, Classifier]) -> _Stack:
        """Stack at least one task."""
        counts = np.array([len(task.labels) for task in tasks.values()], np.int64)
        labels = np.array([label for task in tasks.values() for label in task.labels], object)
        features = np.concatenate([task.class_features for task in tasks.values()])
        offsets = np.concatenate([task.offsets for task in tasks.values()])
        return cls(tuple(tasks), labels, features, offsets, np.cumsum(counts) - counts, counts)

    def softmax(self, logits: Array) -> Array:
        """Softmax of (B, S) within each task, (B, S) float32."""
        highest = np.maximum.reduceat(logits, self.starts, axis=1)  # (B, N)
        shifted = np.exp(logits - np.repeat(highest, self.counts, axis=1))
        sums = np.add.reduceat(shifted, self.starts, axis=1)  # (B, N)
        return np.asarray(shifted / np.repeat(sums, self.counts, axis=1), np.float32)

    def rank(self, probabilities: Array, top: int) -> dict[str, list[Prediction]]:
        """The `top` labels of each task for one row of probabilities (S,), best first."""
        task = np.repeat(np.arange(len(self.names)), self.counts)  # (S,)
        # by task, then best first: bits of floats from 0 on are ordered as they are; ties stay in the order of the labels
        order = np.argsort((task << 32) - probabilities.view(np.int32), kind="stable")
        best = order[np.arange(len(order)) - self.starts[task] < top]
        pairs = zip(self.labels[best].tolist(), probabilities[best].tolist(), strict=True)
        found = list(map(tuple.__new__, repeat(Prediction), pairs))  # as Prediction._make, without a Python frame each
        ends = np.cumsum(np.minimum(self.counts, top)).tolist()
        return {name: found[start:end] for name, start, end in zip(self.names, [0, *ends], ends, strict=False)}


class Tasks:
    """Labels photos with many packs of one backbone, at little more than the cost of one.

    Class features are computed once, when a task is added, and stacked at the first photo after a
    change. May be used from several threads.

        tasks = Tasks(backbone)
        tasks.add("flowers", Pack.open("flowers.qpk"))
        tasks.add("birds", Pack.open("birds.qpk"))
        tasks.classify("new.jpg")["birds"][0].label

    Args:
        backbone: of all packs.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._tasks: dict[str, Classifier] = {}
        self._stack: _Stack | None = None
        self._lock = threading.Lock()  # tasks and stack change together

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._tasks))

    def add(self, name: str, task: Classifier | Pack) -> None:
        """Add a task under a name of its own.

        Raises:
            FingerprintError: it belongs to another backbone.
            PackError: the name is taken, or the pack holds no class names: make a `Classifier` with labels.
            PromptError: a class name does not fit the context.
        """
        self._check_free(name)  # before the text tower's work, and again after it
        classifier = Classifier(self.backbone, task) if isinstance(task, Pack) else task
        theirs, mine = classifier.backbone.manifest, self.backbone.manifest
        if theirs.fingerprint != mine.fingerprint:
            raise FingerprintError(f"task {name!r} is on backbone {theirs.name}, the others are on {mine.name}: keep them apart")
        with self._lock:
            self._check_free(name)
            self._tasks[name], self._stack = classifier, None

    def remove(self, name: str) -> None:
        """Take a task away.

        Raises:
            PackError: there is no such task.
        """
        with self._lock:
            if name not in self._tasks:
                raise PackError(f"there is no task {name!r}, there are {len(self._tasks)} others: add it first")
            del self._tasks[name]
            self._stack = None

    def probabilities(self, features: Array) -> dict[str, Array]:
        """Probabilities of each task's classes, which sum to 1 within the task.

        Args:
            features: (B, D) float32, unit length.

        Returns:
            (B, C) float32 a task, in the order of its labels; C differs between tasks.
        """
        if (stack := self._stacked()) is None:
            return {}
        together = stack.softmax(self._logits(stack, features))  # (B, S)
        return dict(zip(stack.names, np.split(together, stack.starts[1:], axis=1), strict=True))

    def classify(self, photo: str | Path | bytes, top: int = 3) -> dict[str, list[Prediction]]:
        """The most probable labels of one photo for each task, best first; the photo is encoded once.

        Args:
            photo: a path, or the bytes of an image file.
            top: how many a task, at least 1; fewer if the task has fewer labels.

        Raises:
            PhotoError: the photo cannot be read.
        """
        return self.rank(encode_photo(self.backbone, photo)[0], top)

    def rank(self, feature: Array, top: int = 3) -> dict[str, list[Prediction]]:
        """The most probable labels for each task, best first, of one photo's feature (D,) float32, unit length."""
        if (stack := self._stacked()) is None:
            return {}
        return stack.rank(stack.softmax(self._logits(stack, feature[None]))[0], top)

    def _logits(self, stack: _Stack, features: Array) -> Array:
        if len(features) == 1:  # bound by memory: on a busy machine BLAS waits longer for its threads than it computes
            cosines = np.einsum("bd,sd->bs", features, stack.class_features)  # (1, S)
        else:
            cosines = features @ stack.class_features.T  # (B, S)
        return np.asarray(np.float32(self.backbone.manifest.logit_scale) * (cosines + stack.offsets), np.float32)

    def _stacked(self) -> _Stack | None:
        with self._lock:
            if self._stack is None and self._tasks:
                self._stack = _Stack.of(self._tasks)
            return self._stack

    def _check_free(self, name: str) -> None:
        if name in self._tasks:
            raise PackError(f"there is a task {name!r} already: give this one another name, or remove that one")


def encode_photo(backbone: Backbone, photo: str | Path | bytes) -> Array:
    """Image features of one photo, (1, D) float32, unit length.

    Args:
        backbone: whose image encoder.
        photo: a path, or the bytes of an image file.

    Raises:
        PhotoError: the photo cannot be read.
    """
    data, name = (photo, "photo") if isinstance(photo, bytes) else (read_photo(Path(photo)), str(photo))
    return backbone.encode_images(to_pixels(decode_photo(data, name), backbone.manifest.preprocess)[None])


def class_features(backbone: Backbone, pack: Pack, names: Sequence[str]) -> Array:
    """Class features of a pack's prompt alone, (C, D) float32, unit length.

    Raises:
        PackError: the pack holds tensors that this version does not know how to use.
    """
    if unknown := [tensor.role for tensor in pack.tensors if tensor.role not in KNOWN]:
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
