"""A backbone in full precision, which teaches its own quantized precisions.

Symbols: N photos, V views, C classes, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edge_qprompt.backbone import Backbone
from edge_qprompt.classify import zero_shot
from edge_qprompt.photos import Source, Views, extract


@dataclass(frozen=True)
class Teacher:
    """What a backbone in full precision says of the photos and of the hand-written prompt.

    Attributes:
        features: (N, V, D) float32, unit length.
        classes: (C, D) float32, class features of the hand-written prompt, the mean over its templates, unit length.
    """

    features: Tensor
    classes: Tensor

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        names: Sequence[str],
        templates: Sequence[str],
        photos: Sequence[Source],
        views: Views,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> Teacher:
        """What the float encoders of a backbone's folder say; they are closed again.

        Args:
            backbone: in any precision.
            names: of the C classes.
            templates: of the hand-written prompt.
            photos: N files that could be read a moment ago.
            views: of each.
            progress: called with photos done and photos in all.

        Raises:
            BackboneError: the folder has no float encoder.
            PhotoError: a photo that cannot be read any more.
        """
        full = backbone.in_float()
        features = extract(full, photos, views=views, strict=True, progress=progress).values
        full.close()  # one large thing in memory at a time
        classes = zero_shot(full, names, *templates).class_features
        full.close()
        return cls(torch.from_numpy(features), torch.from_numpy(classes))
