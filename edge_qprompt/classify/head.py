"""From features of photos to cosines with the classes, by what a pack holds. numpy and the text encoder only.

Most packs have the same class features for every photo. CLIP-Adapter's changes the photo's feature first; with CoCoOp's,
each photo has class features of its own, which cost a pass of the text encoder over all classes.

Symbols: B photos, C classes, D dimensions of a feature, n learned tokens, W width of the text tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.arrays import normalised
from edge_qprompt.backbone import Backbone
from edge_qprompt.classify.net import Net
from edge_qprompt.classify.residual import with_residuals
from edge_qprompt.errors import PackError
from edge_qprompt.pack import Pack, Role

Array = NDArray[np.float32]


class Head(Protocol):
    """Features to cosines."""

    @property
    def quick(self) -> bool:
        """Whether no encoder runs."""

    def cosines(self, features: Array) -> Array:
        """(B, D) float32, unit length -> (B, C) float32, offsets included."""

    @property
    def nbytes(self) -> int:
        """Bytes in memory, about."""


@dataclass(frozen=True)
class Fixed:
    """The same class features for every photo.

    Attributes:
        class_features: (C, D) float32, of unit length but for a discriminant's.
        offsets: (C,) float32, added to the products.
    """

    class_features: Array
    offsets: Array
    quick = True

    def cosines(self, features: Array) -> Array:
        """One product."""
        return np.asarray(features @ self.class_features.T + self.offsets, np.float32)

    @property
    def nbytes(self) -> int:
        """Of the class features."""
        return self.class_features.nbytes


@dataclass(frozen=True)
class Adapted:
    """A net moves the photo's feature before it is compared (CLIP-Adapter, arXiv 2110.04544).

    Attributes:
        net: D -> D.
        behind: what compares it.
    """

    net: Net
    behind: Head

    @property
    def quick(self) -> bool:
        """Whether what is behind is."""
        return self.behind.quick

    def cosines(self, features: Array) -> Array:
        """Of the moved features, unit length again."""
        return self.behind.cosines(normalised(features + self.net(features)))

    @property
    def nbytes(self) -> int:
        """Of the net, and of what is behind it."""
        return self.net.nbytes + self.behind.nbytes


@dataclass(frozen=True)
class Conditional:
    """A net adds a vector of the photo's own to each learned token (CoCoOp, arXiv 2203.05557).

    Attributes:
        backbone: whose text encoder.
        pack: for its residuals, where it has some.
        names: C labels.
        ctx: (n, W).
        net: D -> W.
    """

    backbone: Backbone
    pack: Pack
    names: tuple[str, ...]
    ctx: Array
    net: Net
    quick = False

    def cosines(self, features: Array) -> Array:
        """One photo after the other, each with a pass of the text encoder."""
        return np.concatenate([self._one(f[None], shift) for f, shift in zip(features, self.net(features), strict=True)])

    def _one(self, feature: Array, shift: Array) -> Array:
        """Cosines (1, C) of a feature (1, D) under the context moved by (W,)."""
        text = self.backbone.text.from_context(self.names, self.ctx + shift)
        return Fixed(*with_residuals(self.pack, self.names, text)).cosines(feature)

    @property
    def nbytes(self) -> int:
        """Of the net: class features are gone after each photo."""
        return self.net.nbytes


def check_adapter(backbone: Backbone, pack: Pack) -> None:
    """Make sure that a pack's adapter fits a backbone.

    Raises:
        FingerprintError: the pack belongs to another backbone.
        PackError: the shapes are of something else.
    """
    backbone.check(pack)
    Net.of(pack, Role.ADAPTER_IN, Role.ADAPTER_OUT, backbone.manifest.embed_dim, backbone.manifest.embed_dim)


def head_of(backbone: Backbone, pack: Pack, names: Sequence[str], fixed: Fixed) -> Head:
    """What a pack classifies with.

    Args:
        backbone: the pack's, see `Backbone.adapted`.
        pack: of a classifier.
        names: C labels.
        fixed: its class features, without regard to any photo.

    Raises:
        PackError: nets that do not fit.
    """
    dims, width, ctx = backbone.manifest.embed_dim, backbone.manifest.text.width, pack.tensor(Role.CTX)
    head: Head = fixed
    if meta := Net.of(pack, Role.META_IN, Role.META_OUT, dims, width):
        if ctx is None:
            raise PackError("the pack changes learned tokens by the photo, but has none: learn it again")
        head = Conditional(backbone, pack, tuple(names), ctx.values(), meta)
    if adapter := Net.of(pack, Role.ADAPTER_IN, Role.ADAPTER_OUT, dims, dims):
        head = Adapted(adapter, head)
    return head
