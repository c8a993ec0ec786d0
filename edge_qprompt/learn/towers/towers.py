"""The frozen towers themselves, for methods that reach inside of them, and what these are given.

Symbols: N photos, V views, B photos of a batch, C classes, S pixels a side, n learned tokens, W width of the text tower.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

import torch
from torch import Tensor

from edge_qprompt.backbone import Backbone, name_tokens
from edge_qprompt.learn.towers.image import VisionTower
from edge_qprompt.learn.towers.text import Suffixes, TextTower
from edge_qprompt.prompts import check_template


@dataclass(frozen=True)
class Prompts:
    """A prompt of each class.

    Attributes:
        ctx: (n, W), the tokens that all of them begin with, without positions.
        suffixes: what follows.
    """

    ctx: Tensor
    suffixes: Suffixes


@dataclass(frozen=True)
class Towers:
    """The towers of a backbone, opened when they are asked for.

    Attributes:
        backbone: whose.
        names: of the C classes.
    """

    backbone: Backbone
    names: tuple[str, ...]

    @cached_property
    def text(self) -> TextTower:
        """The text tower, quantized as the backbone's is."""
        quantization = self.backbone.quantization
        products = quantization.text if quantization else ()
        return TextTower(self.backbone.text_weights, self.backbone.manifest.text, products)

    @cached_property
    def vision(self) -> VisionTower:
        """The image tower, quantized as the backbone's is.

        Raises:
            BackboneError: the backbone has none that prompts and other weights can be put into.
        """
        quantization = self.backbone.quantization
        products = quantization.image if quantization else ()
        return VisionTower(self.backbone.vision_weights, self.backbone.vision, products)

    def behind(self, n_ctx: int) -> Suffixes:
        """The class names behind `n_ctx` learned tokens.

        Raises:
            PromptError: names that do not fit.
        """
        return self.text.suffixes(name_tokens(self.backbone.tokenizer, self.names, n_ctx), n_ctx)

    def written(self, template: str) -> Prompts:
        """A hand-written prompt, cut where the classes begin to differ.

        Raises:
            PromptError: a bad template, or names that do not fit.
        """
        texts = [check_template(template).replace("{}", name) for name in self.names]
        rows = self.backbone.tokenizer.fit(texts, reserved=2)
        columns = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
        shared = [column[0] for column in columns]
        ctx = self.text.token_vectors(shared)  # (n, W)
        return Prompts(ctx, self.text.suffixes([row[len(shared) :] for row in rows], len(shared)))

    def normalised(self, views: Tensor) -> Tensor:
        """What the image tower takes, (B, 3, S, S) float32, of views (B, 3, S, S) uint8."""
        settings = self.backbone.manifest.preprocess
        mean, std = (torch.tensor(each)[:, None, None] for each in (settings.mean, settings.std))
        return (views.float() / 255 - mean) / std
