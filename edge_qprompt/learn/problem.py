"""What a method learns from: a frozen tower, class names, image features and their labels.

Symbols: N photos, V views, C classes, n learned tokens, W width, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edge_qprompt.backbone import Backbone, name_tokens
from edge_qprompt.errors import EdgeQPromptError
from edge_qprompt.learn.settings import INITIAL_STD, EngineSettings
from edge_qprompt.learn.step import Encode, Engine, choose
from edge_qprompt.learn.teacher import Teacher
from edge_qprompt.learn.towers.towers import Towers

INITIAL_TEXT = "a photo of a"


@dataclass(frozen=True)
class Problem:
    """What a method learns from: features of photos, labels, and a frozen text tower with the class names.

    Attributes:
        start: (n, W) where learning starts.
        logit_scale: factor on the cosine similarities.
        features: (N, V, D) float32, unit length.
        labels: (N,) int64, 0 to C - 1.
        by_hand: (C, D) class features of the hand-written prompt, unit length.
        choose: opens the text tower; a method that does not learn never asks for it.
        towers: for methods that reach inside of them.
        teacher: for methods that learn from one.
    """

    start: Tensor
    logit_scale: float
    features: Tensor
    labels: Tensor
    by_hand: Tensor
    choose: Callable[[], Engine]
    towers: Towers
    teacher: Teacher | None = None

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        names: Sequence[str],
        start: Tensor,
        features: NDArray[np.float32],
        labels: NDArray[np.int64],
        by_hand: NDArray[np.float32],
        settings: EngineSettings,
        teacher: Teacher | None = None,
    ) -> Problem:
        """Check the names and put everything together.

        Raises:
            PromptError: names that do not fit behind the learned tokens.
        """
        rows = name_tokens(backbone.tokenizer, names, len(start))
        scale, photos, classes = backbone.manifest.logit_scale, torch.from_numpy(features), torch.from_numpy(labels)

        def loss(encode: Encode, ctx: Tensor) -> Tensor:
            return F.cross_entropy(scale * photos[:, 0] @ encode(ctx).T, classes)

        towers = Towers(backbone, tuple(names))

        def chosen() -> Engine:
            return choose(settings, towers.text, rows, start, loss)

        return cls(start, scale, photos, classes, torch.from_numpy(by_hand), chosen, towers, teacher)

    @cached_property
    def engine(self) -> Engine:
        """What computes class features from a context.

        Raises:
            EdgeQPromptError: an engine that this machine cannot run.
        """
        return self.choose()

    @property
    def taught(self) -> Teacher:
        """The teacher.

        Raises:
            EdgeQPromptError: there is none.
        """
        if self.teacher is None:
            raise EdgeQPromptError("this method learns from the backbone in full precision: give its features as `teacher`")
        return self.teacher

    def scaled(self, features: Tensor, classes: Tensor) -> Tensor:
        """Scaled cosine similarities (B, C) of features (B, D) to class features (C, D)."""
        return self.logit_scale * features @ classes.T

    def logits(self, ctx: Tensor, features: Tensor) -> Tensor:
        """Scaled cosine similarities (B, C) of features (B, D) under a context (n, W)."""
        return self.scaled(features, self.engine.encode(ctx))

    def cross_entropy(self, ctx: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of features (B, D) with labels (B,) under a context (n, W)."""
        return F.cross_entropy(self.logits(ctx, features), labels)


def initial_context(backbone: Backbone, n_ctx: int, seed: int, *, words: bool = True, padded: bool = False) -> Tensor:
    """Where learning starts: the words "a photo of a", repeated and cut to n_ctx tokens, or N(0, 0.02^2).

    Args:
        backbone: whose tokens.
        n_ctx: learned tokens.
        seed: of the draws.
        words: whether they are wanted.
        padded: zeros before the words where there are more tokens, in place of repeating them.

    Returns:
        (n_ctx, W) float32.
    """
    if words:
        ids = backbone.tokenizer.encode(INITIAL_TEXT)
        ids = ids[:n_ctx] if padded else list(islice(cycle(ids), n_ctx))
        vectors = torch.from_numpy(backbone.text_weights.token_vectors(ids))
        return F.pad(vectors, (0, 0, n_ctx - len(vectors), 0))  # (n, W)
    draws = np.random.default_rng(seed).normal(0.0, INITIAL_STD, (n_ctx, backbone.manifest.text.width))
    return torch.from_numpy(draws.astype(np.float32))
