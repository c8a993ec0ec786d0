"""Which code computes the class features and the prompt's gradient, chosen by name, never silently.

autograd   `tower.TextTower`, the readable reference, differentiated by torch
fused      `fused.FusedTower`, the same numbers by hand
bfloat16   the same with products in bfloat16, for processors that compute in it
auto       bfloat16 for large steps on a processor that computes in it, if a trial against float32 passes, else fused

Nothing here looks at a clock: the same command must give the same bytes.

A quantized tower is computed by autograd whatever the name: what is written by hand has no rounding in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_qprompt.errors import EdgeQPromptError
from edge_qprompt.learn.settings import EngineSettings
from edge_qprompt.learn.step.frozen import LowProduct
from edge_qprompt.learn.step.fused import FusedTower
from edge_qprompt.learn.step.threads import SMALL_STEP, threads_for
from edge_qprompt.learn.towers.text import Suffixes, TextTower

TRIAL_STEPS = 10
LEAST_COSINE = 0.999  # of every gradient of the trial to float32's

Encode = Callable[[Tensor], Tensor]
Loss = Callable[[Encode, Tensor], Tensor]


@dataclass(frozen=True)
class Engine:
    """What was chosen.

    Attributes:
        name: autograd, fused or bfloat16.
        encode: ctx (n, W) -> class features (C, D) with a gradient to ctx.
        torch_threads: how many threads torch should have while it is used.
        note: one line for people: threads, and why this one.
    """

    name: str
    encode: Encode
    torch_threads: int
    note: str


def choose(settings: EngineSettings, tower: TextTower, suffixes: Suffixes, start: Tensor, loss: Loss) -> Engine:
    """The engine for a list of classes.

    Args:
        settings: what is wanted.
        tower, suffixes: weights and classes.
        start: (n, W), where learning begins; the trial begins there too.
        loss: of an encode function at a ctx; for the trial.

    Raises:
        EdgeQPromptError: bfloat16 is demanded of a processor that does not compute in it.
    """
    work = tower.work(suffixes, len(start))
    threads = threads_for(work)
    if tower.is_quantized:
        return Engine("autograd", lambda ctx: tower(ctx, suffixes), threads, f"{threads} threads, the text tower is quantized")
    if settings.name == "autograd" or len(tower.blocks) < 2:
        return Engine("autograd", lambda ctx: tower(ctx, suffixes), threads, f"{threads} threads")
    fused = FusedTower(tower, suffixes, len(start), threads, settings.memory)
    float32 = Engine("fused", fused, 1, f"float32, {_count(fused)}")
    if settings.name == "fused" or (settings.name == "auto" and (work < SMALL_STEP or not has_bfloat16())):
        return float32
    if not has_bfloat16():
        raise EdgeQPromptError("this processor does not compute in bfloat16: use --engine fused")
    low = FusedTower(tower, suffixes, len(start), threads, settings.memory, LowProduct)
    cosine = trial(fused, low, start, loss)
    found = f"least cosine {cosine:.5f} to float32's gradients over {TRIAL_STEPS} steps"
    if settings.name == "bfloat16" or cosine >= LEAST_COSINE:
        return Engine("bfloat16", low, 1, f"bfloat16, {_count(low)}, {found}")
    return Engine("fused", fused, 1, f"float32, {_count(fused)}; bfloat16 not taken: {found}")


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; what is emulated is slower than float32."""
    if torch.backends.cpu.get_cpu_capability().startswith(("AVX", "DEFAULT")):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def trial(float32: Encode, low: Encode, start: Tensor, loss: Loss) -> float:
    """Walk down float32's gradients; least cosine of the low gradients to them."""
    ctx, least = start.clone(), 1.0
    for _ in range(TRIAL_STEPS):
        gradients: list[Tensor] = []
        for encode in (float32, low):
            point = ctx.clone().requires_grad_()
            gradients += torch.autograd.grad(loss(encode, point), point)
        least = min(least, float(F.cosine_similarity(gradients[0].flatten(), gradients[1].flatten(), dim=0)))
        ctx -= 0.05 * ctx.norm() * gradients[0] / gradients[0].norm().clamp_min(1e-12)
    return least


def _count(fused: FusedTower) -> str:
    return f"{fused.threads} thread{'s' * (fused.threads > 1)}"
