"""Photos in, labels out: a backbone and a pack, without torch.

    classifier = Classifier(Backbone.open("nano"), Pack.open("flowers.qpk"))
    print(classifier.classify("new.jpg")[0].label)

Many packs on one backbone are `Tasks`: a photo is encoded once, whatever their number.

Symbols: B photos, C classes, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone import ROLES as ENCODER_ROLES
from edge_qprompt.backbone import Backbone
from edge_qprompt.classify.discriminant import Discriminant, Split
from edge_qprompt.classify.head import Fixed, Head, head_of
from edge_qprompt.classify.residual import matched, with_residuals
from edge_qprompt.errors import PackError
from edge_qprompt.pack import ZERO_SHOT, Pack, Precision, Role, joined, templates_section
from edge_qprompt.photos import AnyPhoto, Decoders, Job, normalise, read, source_of
from edge_qprompt.prompts import DEFAULT_TEMPLATE, check_template

NETS = {Role.META_IN, Role.META_OUT, Role.ADAPTER_IN, Role.ADAPTER_OUT}
KNOWN = ENCODER_ROLES | NETS | {Role.CTX, Role.RESIDUAL, Role.DISCRIMINANT, Role.DISCRIMINANT_ROWS, Role.FEATURE_MEAN}
DIGITS = 6  # of a familiarity behind the point: float32 has no more, and a server writes short numbers in a third of the time

Array = NDArray[np.float32]


class Prediction(NamedTuple):
    """One label and its probability among the classifier's labels, 0 to 1.

    A named tuple, since a thousand tasks make thousands of them a photo, and a frozen dataclass takes twice the time.
    """

    label: str
    probability: float


class Answer(NamedTuple):
    """What one task says of one photo; a named tuple for the same reason.

    Attributes:
        labels: best first.
        unknown: whether the photo seems to show none of the classes, so that `labels` are only the nearest; None where the pack
            cannot tell.
        familiarity: how much the photo looks like those of the task, without a unit, the higher the more; `unknown` is what lies
            below a threshold of it. None where the pack cannot tell.
    """

    labels: list[Prediction]
    unknown: bool | None = None
    familiarity: float | None = None


class Classifier:
    """Labels photos with one pack.

    Attributes:
        labels: C class names.
        backbone: whose image features the pack is for: the one given, or one with the pack's own encoders.
        own_encoder: which of the two.
        head: what compares features with the classes.
        familiar: what photos of the labels look like; None where the pack cannot tell, or a label had no photos.
        class_features: (C, D) float32, what a photo's feature is compared with, without regard to any photo; of unit length but
            for a discriminant's.

    Args:
        backbone: the one that the pack was learned on.
        pack: what `adapt` made.
        labels: class names instead of the pack's own; the prompt works for names it never saw.
        adapter: the pack that holds the adapter, where the pack refers to one.

    Raises:
        FingerprintError: the pack belongs to another backbone.
        PackError: the pack holds no class names and none are given, or tensors that do not fit; or its adapter is missing.
        PromptError: a name does not fit the context.
    """

    def __init__(self, backbone: Backbone, pack: Pack, labels: Sequence[str] | None = None, adapter: Pack | None = None) -> None:
        backbone.check(pack)
        pack = joined(pack, adapter)
        names = tuple(labels) if labels else pack.class_names
        if not names:
            raise PackError("the pack holds no class names: give them with labels (--labels a,b,c)")
        self.labels: tuple[str, ...] = names
        self.backbone = backbone.adapted(pack)  # whose features `logits` takes
        self.own_encoder = self.backbone is not backbone
        discriminant = Discriminant.of(pack, self.backbone.manifest.embed_dim)
        all_seen = set(names) <= set(pack.class_names or ())
        self.familiar = discriminant.familiar if discriminant is not None and all_seen else None
        self.head: Head
        if discriminant is not None:
            self.head = _discriminating(discriminant, self.backbone, pack, names)
            self.class_features = self.head.text if isinstance(self.head, Split) else self.head.class_features
        else:
            fixed = Fixed(*with_residuals(pack, names, class_features(self.backbone, pack, names)))
            self.class_features = fixed.class_features
            self.head = head_of(self.backbone, pack, names, fixed)

    def logits(self, features: Array) -> Array:
        """Scaled cosine similarities, with their offsets.

        Args:
            features: (B, D) float32, unit length.

        Returns:
            (B, C) float32.
        """
        return np.asarray(np.float32(self.backbone.manifest.logit_scale) * self.head.cosines(features), np.float32)

    def probabilities(self, features: Array) -> Array:
        """Softmax of the logits, (B, C) float32."""
        return _softmax(self.logits(features))

    @property
    def tells_unknown(self) -> bool:
        """Whether it can say of a photo that it shows none of the labels."""
        return self.familiar is not None

    def knows(self, features: Array, threshold: float | None = None) -> NDArray[np.bool_]:
        """Whether photos look like those of the labels, (B,); all True where the pack cannot tell.

        Args:
            features: (B, D) float32, unit length.
            threshold: familiarity from which they do; None is the pack's, which about 3 % of its own photos miss.
        """
        if self.familiar is None:
            return np.ones(len(features), bool)
        least = self.familiar.decision.unknown if threshold is None else threshold
        return np.asarray(self.familiarity(features) >= least)

    def familiarity(self, features: Array) -> Array:
        """How much photos (B, D) look like those of the labels, (B,), the higher the more.

        Raises:
            PackError: the pack cannot tell.
        """
        if self.familiar is None:
            raise PackError(
                "the pack cannot tell what its photos look like: learn it with the method qgda, and give no new names"
            )
        return self.familiar.familiarity(features, self.logits(features))

    def answer(self, feature: Array, top: int = 3, threshold: float | None = None) -> Answer:
        """What it says of one photo.

        Args:
            feature: (D,) float32, unit length.
            top: labels; fewer if there are fewer.
            threshold: familiarity below which the photo is unknown, where the pack can tell; None is the pack's.
        """
        logits = self.logits(feature[None])
        labels = self.rank(_softmax(logits)[0], top)
        if self.familiar is None:
            return Answer(labels)
        found = round(float(self.familiar.familiarity(feature[None], logits)[0]), DIGITS)
        return Answer(labels, found < (self.familiar.decision.unknown if threshold is None else threshold), found)

    def classify(self, photo: AnyPhoto, top: int = 3) -> list[Prediction]:
        """The most probable labels of one photo, best first.

        Args:
            photo: a path, the bytes of an image file, a PIL image, or an array (H, W, 3) of uint8.
            top: how many; fewer if there are fewer labels.

        Raises:
            PhotoError: the photo cannot be read.
        """
        return self.look(photo, top).labels

    def look(self, photo: AnyPhoto, top: int = 3, threshold: float | None = None) -> Answer:
        """As `classify`, and whether the photo seems to show none of the labels; threshold as of `answer`.

        Raises:
            PhotoError: the photo cannot be read.
        """
        return self.answer(self.backbone.encode_images(pixels_of(self.backbone, photo))[0], top, threshold)

    def __repr__(self) -> str:
        shown = ", ".join(self.labels[:3]) + (" ..." if len(self.labels) > 3 else "")
        return f"<Classifier of {len(self.labels)} labels ({shown}) on {self.backbone.manifest.name}>"

    def rank(self, probabilities: Array, top: int) -> list[Prediction]:
        """The `top` labels of one row of probabilities (C,), best first."""
        order = np.argsort(-probabilities, kind="stable")[:top]
        return [Prediction(self.labels[i], float(probabilities[i])) for i in order]


def _softmax(logits: Array) -> Array:
    """Of each row, (B, C) float32."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)


def pixels_of(backbone: Backbone, photo: AnyPhoto) -> Array:
    """What the image encoder takes of one photo, (1, 3, S, S) float32.

    Args:
        backbone: whose image encoder.
        photo: a path, the bytes of an image file, a PIL image, or an array (H, W, 3) of uint8.

    Raises:
        PhotoError: the photo cannot be read.
    """
    source = source_of(photo)
    settings = backbone.manifest.preprocess
    with Decoders() as decoders:
        (view,) = decoders.views(read(source), Job(str(source), settings))
    return normalise(view, settings)[None]


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
    return backbone.text.from_templates(names, pack.templates or (DEFAULT_TEMPLATE,))


def _discriminating(discriminant: Discriminant, backbone: Backbone, pack: Pack, names: tuple[str, ...]) -> Fixed | Split:
    """A discriminant's head for labels, among which may be names without photos. Raises as `class_features`."""
    mine = pack.class_names or ()
    text = class_features(backbone, pack, names) if discriminant.needs_text(names, mine) else None
    places, own = matched(names, mine)
    if not own:
        assert text is not None  # since all labels are names alone
        return Fixed(text, np.zeros(len(names), np.float32))
    rows = discriminant.rows(own, None if text is None else text[places])
    if len(own) == len(names):
        return Fixed(*rows)
    assert text is not None
    seen = np.zeros(len(names), bool)
    seen[places] = True
    return Split(discriminant.familiar, backbone.manifest.logit_scale, *rows, text, seen)


def zero_shot(backbone: Backbone, names: Sequence[str], *templates: str) -> Classifier:
    """A hand-written prompt, or the mean of several, as a classifier: what a learned pack has to beat."""
    section = templates_section([check_template(template) for template in templates or (DEFAULT_TEMPLATE,)])
    pack = Pack(backbone.manifest.short_fingerprint, ZERO_SHOT, Precision.FP32, (), (section,))
    return Classifier(backbone, pack, names)
