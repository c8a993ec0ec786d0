"""CLIP-LoRA: low-rank additions to q, k and v of every layer of both towers, under a hand-written prompt.

Source: Zanella and Ben Ayed (arXiv 2405.18541) and its released code, whose scale is alpha / sqrt(r). The cosine of the
learning rate goes down by epochs, not by steps, and a prefix is dropped out once for all classes behind it.

Symbols: r rank, W width of a tower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge_qprompt.backbone import TextConfig, VisionConfig
from edge_qprompt.learn.later import F, torch
from edge_qprompt.learn.method import Method, Result, Takes
from edge_qprompt.learn.settings import MethodSettings, Schedule
from edge_qprompt.pack import PackTensor, Role, templates_section

if TYPE_CHECKING:
    from torch import Tensor

    from edge_qprompt.learn.problem import Problem
    from edge_qprompt.learn.towers.block import LowRankQKV

ALPHA = 1.0
BATCH = 32
STEPS_A_SHOT = 500
SIDES = {"text": (Role.LORA_TEXT_IN, Role.LORA_TEXT_OUT), "image": (Role.LORA_IMAGE_IN, Role.LORA_IMAGE_OUT)}


@dataclass(frozen=True)
class LoRAOptions:
    """Of CLIP-LoRA.

    Attributes:
        lora_rank: r.
        lora_dropout: share of the input of its additions that is dropped.
    """

    lora_rank: int = 2
    lora_dropout: float = 0.25

    def __post_init__(self) -> None:
        if self.lora_rank < 1 or not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_rank must be 1 or more, lora_dropout from 0 to below 1: {self}")


class CLIPLoRA(Method):
    """Method `clip-lora`.

    Raises:
        BackboneError: the backbone's image tower takes no additions.
        PromptError: class names that do not fit.
    """

    name, number = "clip-lora", 11
    takes = Takes.PIXELS
    Options = LoRAOptions
    options: LoRAOptions

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        super().__init__(problem, settings)
        self._towers = problem.towers
        self._prompts = [self._towers.written(template) for template in settings.templates]
        self._scale = ALPHA / math.sqrt(self.options.lora_rank)
        self._draws = torch.Generator().manual_seed(settings.seed)
        configs: tuple[TextConfig | VisionConfig, ...] = (self._towers.text.config, self._towers.vision.config)
        for side, config in zip(SIDES, configs, strict=True):
            bound = 1 / math.sqrt(config.width)  # as nn.Linear begins
            down = torch.rand(config.layers, 3, self.options.lora_rank, config.width, generator=self._draws)
            self.parameters[f"{side} in"] = ((2 * down - 1) * bound).requires_grad_()
            self.parameters[f"{side} out"] = torch.zeros_like(down.transpose(2, 3)).contiguous().requires_grad_()
        self.schedule = _schedule(problem.labels.numpy())

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of views (B, 3, S, S) uint8."""
        low = self._additions("text")
        found = [self._towers.text(prompts.ctx, prompts.suffixes, low=low) for prompts in self._prompts]  # (C, D) a template
        classes = F.normalize(torch.stack(found).mean(dim=0), dim=-1)  # (C, D)
        photos = self._towers.vision(self._towers.normalised(features), low=self._additions("image"))  # (B, D)
        return F.cross_entropy(self.problem.scaled(photos, classes), labels)

    def result(self) -> Result:
        """The additions as float16, and the templates."""
        tensors = []
        for side, (role_in, role_out) in SIDES.items():
            down, up = (self.parameters[f"{side} {end}"].detach() for end in ("in", "out"))
            tensors += [PackTensor.raw(role_in, down.numpy()), PackTensor.raw(role_out, (self._scale * up).numpy())]
        return tuple(tensors), (templates_section(self.settings.templates),)

    def state(self) -> dict[str, Tensor]:
        """Where the dropout is."""
        return {"draws": self._draws.get_state()}

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._draws.set_state(state["draws"])

    def _additions(self, side: str) -> list[LowRankQKV]:
        """One a layer."""
        from edge_qprompt.learn.towers.block import LowRankQKV

        down, up = self.parameters[f"{side} in"], self._scale * self.parameters[f"{side} out"]
        return [LowRankQKV(*pair, self.options.lora_dropout, self._draws) for pair in zip(down, up, strict=True)]


def _schedule(labels: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Schedule:
    """500 steps a shot, in whole epochs."""
    steps_an_epoch = math.ceil(len(labels) / BATCH)
    epochs = math.ceil(STEPS_A_SHOT * int(np.bincount(labels).max()) / steps_an_epoch)
    return Schedule(epochs, BATCH, lr=2e-4, warmup_lr=math.inf, weight_decay=1e-2, optimiser="adamw")
