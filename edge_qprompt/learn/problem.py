"""What a method learns from: a frozen tower, class names, image features and their labels.

Symbols: N photos, V views, C classes, n learned tokens, W width, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edge_qprompt.backbone import Backbone
from edge_qprompt.learn.tower import Suffixes, TextTower
from edge_qprompt.prompts import name_tokens

INITIAL_TEXT = "a photo of a"
INITIAL_STD = 0.02  # CoOp's, for lengths that the text does not have


@dataclass(frozen=True)
class Problem:
    """See the module.

    Attributes:
        tower: of the backbone.
        suffixes: the class names, packed for the tower.
        logit_scale: factor on the cosine similarities.
        features: (N, V, D) float32, unit length.
        labels: (N,) int64, 0 to C - 1.
    """

    tower: TextTower
    suffixes: Suffixes
    logit_scale: float
    features: Tensor
    labels: Tensor

    @classmethod
    def of(
        cls, backbone: Backbone, names: Sequence[str], n_ctx: int, features: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> Problem:
        """Open the tower and pack the names.

        Raises:
            PromptError: names that do not fit behind n_ctx learned tokens.
        """
        rows = name_tokens(backbone.tokenizer, names, n_ctx)
        tower = TextTower(backbone.text_weights, backbone.manifest.text)
        scale = backbone.manifest.logit_scale
        return cls(tower, tower.suffixes(rows, n_ctx), scale, torch.from_numpy(features), torch.from_numpy(labels))

    def logits(self, ctx: Tensor, features: Tensor) -> Tensor:
        """Scaled cosine similarities (B, C) of features (B, D) under a context (n, W)."""
        return self.logit_scale * features @ self.tower(ctx, self.suffixes).T

    def cross_entropy(self, ctx: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of features (B, D) with labels (B,) under a context (n, W)."""
        return F.cross_entropy(self.logits(ctx, features), labels)


def initial_context(backbone: Backbone, n_ctx: int, seed: int) -> Tensor:
    """Where learning starts: the words "a photo of a" if they are n_ctx tokens, else N(0, 0.02^2).

    Returns:
        (n_ctx, W) float32.
    """
    ids = backbone.tokenizer.encode(INITIAL_TEXT)
    if len(ids) == n_ctx:
        return torch.from_numpy(backbone.text_weights.token_vectors(ids))
    draws = np.random.default_rng(seed).normal(0.0, INITIAL_STD, (n_ctx, backbone.manifest.text.width))
    return torch.from_numpy(draws.astype(np.float32))
