"""Class residuals: what the photos of a class say beyond its name.

For a class c with photos, r_c = normalise(mean image feature) - t_c, where t_c is its text feature. A pack stores
alpha Q(r), quantized over all classes together and with alpha folded into the codebook; the class feature is
normalise(t_c + alpha Q(r)_c). Classes without photos keep t_c, so a class named later still works. Since features of
photos lie nearer to each other than to any text, classes with a residual would win against those without: where both
are labels, their cosines are lowered by a constant (calibrated stacking, Chao et al., arXiv 1605.04253).

Our own. A learned, unquantized residual is TaskRes (Yu et al., arXiv 2211.10277); the mean of photos as a class is
ProtoNet's (arXiv 1703.05175). numpy only. Symbols: N photos, C classes, D dimensions of a feature, b bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.arrays import normalised
from edge_qprompt.errors import PackError
from edge_qprompt.pack import RESIDUAL_BIAS, Pack, Role, Section

Array = NDArray[np.float32]


def class_means(features: Array, labels: NDArray[np.int64], classes: int) -> Array:
    """Directions (C, D), unit length, of the mean features of each class's photos.

    Args:
        features: (N, D), unit length.
        labels: (N,), each class at least once.
        classes: C.
    """
    sums = np.zeros((classes, features.shape[1]), np.float64)
    np.add.at(sums, labels, features)
    return normalised(sums)


def matched(names: Sequence[str], mine: Sequence[str]) -> tuple[list[int], list[int]]:
    """Places of labels that a pack has photos of: among `names`, and among the pack's own.

    Names may be equal, and are told apart only by their order: where all are the pack's own, each is its own.
    """
    if tuple(names) == tuple(mine):
        return list(range(len(mine))), list(range(len(mine)))
    own = {name: row for row, name in reversed(list(enumerate(mine)))}
    pairs = [(i, own[name]) for i, name in enumerate(names) if name in own]
    return [i for i, _ in pairs], [row for _, row in pairs]


def bias_section(bias: float) -> Section:
    """What is taken from the cosines of classes with a residual where others have none."""
    return RESIDUAL_BIAS.section(bias)


def with_residuals(pack: Pack, names: Sequence[str], text: Array) -> tuple[Array, Array]:
    """Class features and what is added to their cosines.

    Args:
        pack: with or without residuals.
        names: C labels, some of them the pack's own.
        text: (C, D) text features of these.

    Returns:
        (C, D) unit length, and (C,).

    Raises:
        PackError: residuals that do not fit the pack's class names, or the backbone.
    """
    tensor, offsets = pack.tensor(Role.RESIDUAL), np.zeros(len(names), np.float32)
    if tensor is None:
        return text, offsets
    mine, width = pack.class_names or (), text.shape[1]
    if tensor.shape != (len(mine), width):
        raise PackError(
            f"the pack has class residuals {tensor.shape} for {len(mine)} names and {width} dimensions: learn it again"
        )
    rows, own = matched(names, mine)
    moved = text.copy()
    moved[rows] += tensor.values()[own]
    if len(rows) < len(names) and (bias := pack.get(RESIDUAL_BIAS)) is not None:
        offsets[rows] = -bias
    return normalised(moved), offsets
