"""CLIP-LoRA: low-rank additions to q, k and v of every layer of both towers, under a hand-written prompt.

Source: Zanella and Ben Ayed (arXiv 2405.18541) and its released code, whose scale is alpha / sqrt(r). The cosine of the
learning rate goes down by epochs, not by steps, and a class's prefix is dropped out once for all classes.

Symbols: r rank, W width of a tower.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_qprompt.backbone import TextConfig, VisionConfig
from edge_qprompt.learn.problem import Problem
from edge_qprompt.learn.settings import MethodSettings, Schedule
from edge_qprompt.learn.towers.block import LowRank
from edge_qprompt.pack import Method as MethodNumber
from edge_qprompt.pack import PackTensor, Role, Section, templates_section

ALPHA = 1.0
BATCH = 32
STEPS_A_SHOT = 500
SIDES = {"text": (Role.LORA_TEXT_IN, Role.LORA_TEXT_OUT), "image": (Role.LORA_IMAGE_IN, Role.LORA_IMAGE_OUT)}


class CLIPLoRA:
    """Method `clip-lora`.

    Args:
        problem: what to learn from.
        settings: `templates`, `lora_rank`, `lora_dropout`, `seed`.

    Raises:
        BackboneError: the backbone's image tower takes no additions.
        PromptError: class names that do not fit.
    """

    number = MethodNumber.CLIP_LORA
    takes = "pixels"
    engine = None

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        self._problem, self._towers, self._templates = problem, problem.towers, settings.templates
        self._prompts = [self._towers.written(template) for template in settings.templates]
        self._scale, self._dropout = ALPHA / math.sqrt(settings.lora_rank), settings.lora_dropout
        self._draws = torch.Generator().manual_seed(settings.seed)
        self.parameters: dict[str, Tensor] = {}
        configs: tuple[TextConfig | VisionConfig, ...] = (self._towers.text.config, self._towers.vision.config)
        for side, config in zip(SIDES, configs, strict=True):
            bound = 1 / math.sqrt(config.width)  # as nn.Linear begins
            down = torch.rand(config.layers, 3, settings.lora_rank, config.width, generator=self._draws)
            self.parameters[f"{side} in"] = ((2 * down - 1) * bound).requires_grad_()
            self.parameters[f"{side} out"] = torch.zeros_like(down.transpose(2, 3)).contiguous().requires_grad_()
        self.schedule = _schedule(problem.labels.numpy())

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of views (B, 3, S, S) uint8."""
        low = self._additions("text")
        found = [self._towers.text(prompts.ctx, prompts.suffixes, low=low) for prompts in self._prompts]  # (C, D) a template
        classes = F.normalize(torch.stack(found).mean(dim=0), dim=-1)  # (C, D)
        photos = self._towers.vision(self._towers.normalised(features), low=self._additions("image"))  # (B, D)
        return F.cross_entropy(self._problem.scaled(photos, classes), labels)

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do."""

    def result(self) -> tuple[tuple[PackTensor, ...], tuple[Section, ...]]:
        """The additions as float16, and the templates."""
        tensors = []
        for side, (role_in, role_out) in SIDES.items():
            down, up = (self.parameters[f"{side} {end}"].detach() for end in ("in", "out"))
            tensors += [PackTensor.raw(role_in, down.numpy()), PackTensor.raw(role_out, (self._scale * up).numpy())]
        return tuple(tensors), (templates_section(self._templates),)

    def state(self) -> dict[str, Tensor]:
        """Where the dropout is."""
        return {"draws": self._draws.get_state()}

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._draws.set_state(state["draws"])

    def facts(self) -> dict[str, Any]:
        """Nothing to report."""
        return {}

    def _additions(self, side: str) -> list[LowRank]:
        """One a layer."""
        down, up = self.parameters[f"{side} in"], self._scale * self.parameters[f"{side} out"]
        return [LowRank(*pair, self._dropout, self._draws) for pair in zip(down, up, strict=True)]


def _schedule(labels: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Schedule:
    """500 steps a shot, in whole epochs."""
    steps_an_epoch = math.ceil(len(labels) / BATCH)
    epochs = math.ceil(STEPS_A_SHOT * int(np.bincount(labels).max()) / steps_an_epoch)
    return Schedule(epochs, BATCH, lr=2e-4, warmup_lr=math.inf, weight_decay=1e-2, optimiser="adamw")
