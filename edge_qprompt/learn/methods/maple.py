"""MaPLe: learned tokens in several layers of both towers, those of images made from those of text.

Source: Khattak et al. (arXiv 2210.03117), section 3.2, and its released code: the first layer's tokens begin as the first words
of "a photo of a", each coupling is a linear map with a bias, and those of the deeper layers begin as copies of one. What is
stored are the tokens, since nothing in use needs the couplings; `paper_bytes` counts as the paper does, which stores the
couplings without their biases.

Symbols: n learned tokens, P layers that have them, W and U widths of text and image tower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_qprompt.learn.later import F, torch
from edge_qprompt.learn.method import Method, Result, Takes
from edge_qprompt.learn.settings import INITIAL_STD, MethodSettings, sgd
from edge_qprompt.pack import PackTensor, Role

if TYPE_CHECKING:
    from torch import Tensor

    from edge_qprompt.learn.problem import Problem

HALF = 16  # bits of a float16


@dataclass(frozen=True)
class MaPLeOptions:
    """Of MaPLe.

    Attributes:
        prompt_depth: layers that have learned tokens, at most.
    """

    prompt_depth: int = 9

    def __post_init__(self) -> None:
        if self.prompt_depth < 1:
            raise ValueError(f"prompt_depth is {self.prompt_depth}, it must be 1 or more")


class MaPLe(Method):
    """Method `maple`; the problem's start are the tokens of the first layer.

    Raises:
        BackboneError: the backbone's image tower takes no prompts.
        PromptError: class names that do not fit.
    """

    name, number = "maple", 12
    schedule = sgd(lr=0.0035, batch=4, epochs=5)
    n_ctx = 2
    takes = Takes.PIXELS
    Options = MaPLeOptions
    options: MaPLeOptions

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, settings)
        self._towers = problem.towers
        text, image = self._towers.text.config, self._towers.vision.config
        depth = min(self.options.prompt_depth, text.layers, image.layers)
        ctx = problem.start.clone()  # (n, W)
        self._suffixes = self._towers.behind(len(ctx))
        draws = torch.Generator().manual_seed(settings.seed)
        self.parameters = {"ctx": ctx}
        if depth > 1:
            self.parameters["deep"] = torch.randn(depth - 1, *ctx.shape, generator=draws) * INITIAL_STD  # (P - 1, n, W)
        self.parameters |= _couplings(depth, text.width, image.width, draws)
        for parameter in self.parameters.values():
            parameter.requires_grad_()

    def tokens(self) -> dict[Role, Tensor]:
        """What is learned, by what it is for: (n, W), (P - 1, n, W) where P > 1, (P, n, U)."""
        ctx = self.parameters["ctx"]
        tokens = {Role.CTX: ctx}
        text = ctx[None]
        if "deep" in self.parameters:
            tokens[Role.DEEP_CTX] = self.parameters["deep"]
            text = torch.cat([text, tokens[Role.DEEP_CTX]])  # (P, n, W)
        tokens[Role.VISUAL_CTX] = torch.baddbmm(
            self.parameters["coupling_bias"][:, None], text, self.parameters["coupling"].transpose(1, 2)
        )  # (P, n, U)
        return tokens

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of views (B, 3, S, S) uint8 under the tokens as they are."""
        return self.cross_entropy(self.tokens(), features, labels)

    def cross_entropy(self, tokens: dict[Role, Tensor], views: Tensor, labels: Tensor) -> Tensor:
        """Of views (B, 3, S, S) uint8 with labels (B,), under some tokens."""
        deep = tokens[Role.DEEP_CTX].unbind() if Role.DEEP_CTX in tokens else ()
        classes = self._towers.text(tokens[Role.CTX], self._suffixes, deep)  # (C, D)
        photos = self._towers.vision(self._towers.normalised(views), tokens[Role.VISUAL_CTX].unbind())  # (B, D)
        return F.cross_entropy(self.problem.scaled(photos, classes), labels)

    def result(self) -> Result:
        """The tokens as float16."""
        return tuple(PackTensor.raw(role, values.detach().numpy()) for role, values in self.tokens().items()), ()

    def facts(self) -> dict[str, Any]:
        """The size as the paper counts it."""
        return {"paper_bytes": self.paper_bytes(HALF)}

    def paper_bytes(self, bits: int) -> int:
        """Bytes of the tokens of the text tower and the couplings, at `bits` each."""
        depth, image_width, width = self.parameters["coupling"].shape
        return paper_parameters(depth, len(self.parameters["ctx"]), width, image_width) * bits // 8


def paper_parameters(depth: int, tokens: int, width: int, image_width: int) -> int:
    """How many parameters the paper counts: P couplings without biases, P n tokens of text."""
    return depth * width * (image_width + tokens)


def _couplings(depth: int, width: int, image_width: int, draws: torch.Generator) -> dict[str, Tensor]:
    """Weights (P, U, W) and biases (P, U) as nn.Linear begins, that of the first layer apart from the others."""
    bound = 1 / math.sqrt(width)
    weight = (2 * torch.rand(2, image_width, width, generator=draws) - 1) * bound
    bias = (2 * torch.rand(2, image_width, generator=draws) - 1) * bound
    which = [0, *[1] * (depth - 1)]
    return {"coupling": weight[which], "coupling_bias": bias[which]}
