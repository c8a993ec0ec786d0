"""Class names through the text tower to class features, with onnxruntime and without torch.

Two kinds of prompt: a hand-written template ("a photo of a {}.") and a learned context, which
stands before the name: "<ctx> name.". Symbols: C classes, T tokens of the longest prompt, W
width of the tower, D dimensions of a feature, n learned tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.arrays import normalised
from edge_qprompt.backbone.fair_lock import FairLock
from edge_qprompt.backbone.session import Session
from edge_qprompt.backbone.tokenizer import Tokenizer
from edge_qprompt.backbone.weights import Weights
from edge_qprompt.errors import PromptError
from edge_qprompt.prompts import DEFAULT_TEMPLATE, check_template

PROMPTS_A_RUN = 64  # bounds the attention's memory: 64 x 77 x 768 floats are 15 MB a layer

Array = NDArray[np.float32]


@dataclass(frozen=True)
class TextEncoder:
    """The text tower for inference.

    Attributes:
        turn: held for each run; closed where none shall begin any more.

    May be used from several threads: they take turns, PROMPTS_A_RUN prompts each, so thousands of names hold up nobody.
    """

    tokenizer: Tokenizer
    weights: Weights
    session: Session
    turn: FairLock = field(default_factory=FairLock, compare=False)

    def from_template(self, names: Sequence[str], template: str = DEFAULT_TEMPLATE) -> Array:
        """Class features (C, D), unit length, of a hand-written prompt.

        Raises:
            PromptError: a bad template, or names that do not fit.
        """
        texts = [check_template(template).replace("{}", name) for name in names]
        return self._encode(self.tokenizer.fit(texts, reserved=2), self._vectors)

    def from_templates(self, names: Sequence[str], templates: Sequence[str]) -> Array:
        """Class features (C, D), unit length: the mean over at least one template (CLIP, arXiv 2103.00020, section 3.1.4).

        Raises:
            PromptError: as `from_template`.
        """
        found = [self.from_template(names, template) for template in templates]
        return found[0] if len(found) == 1 else normalised(np.mean(found, axis=0))

    def from_context(self, names: Sequence[str], ctx: Array) -> Array:
        """Class features (C, D), unit length, of a learned context.

        Args:
            names: C class names.
            ctx: (n, W) float32, the learned tokens.

        Raises:
            PromptError: names that do not fit, or a context of another width.
        """
        rows = name_tokens(self.tokenizer, names, len(ctx))
        width = self.tokenizer.config.width
        if ctx.ndim != 2 or ctx.shape[1] != width:
            raise PromptError(f"the learned context has shape {ctx.shape}, this backbone takes (n, {width})")
        return self._encode(rows, lambda row: np.concatenate([ctx, self._vectors(row)]))

    def _vectors(self, ids: Sequence[int]) -> Array:
        return self.weights.token_vectors(ids)  # (len, W)

    def _encode(self, rows: Sequence[list[int]], body: Callable[[list[int]], Array]) -> Array:
        """Features of prompts.

        Args:
            rows: token ids of each, checked.
            body: their token vectors (len, W), without SOT and EOT; made run by run, since those of all prompts may be large.
        """
        config = self.tokenizer.config
        sot, eot = self._vectors([config.sot]), self._vectors([config.eot])
        found = []
        for start in range(0, len(rows), PROMPTS_A_RUN):
            prompts = [np.concatenate([sot, body(row), eot]) for row in rows[start : start + PROMPTS_A_RUN]]
            with self.turn:
                found.append(self._run(prompts))
        return np.concatenate(found)

    def _run(self, prompts: Sequence[Array]) -> Array:
        lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        # the tower is causal, so nothing after EOT matters and the longest prompt sets T
        batch = np.zeros((len(prompts), int(lengths.max()), prompts[0].shape[1]), np.float32)  # (C, T, W)
        for row, prompt in zip(batch, prompts, strict=True):
            row[: len(prompt)] = prompt
        return self.session.run({"prompts": batch, "eot": lengths - 1})


def name_tokens(tokenizer: Tokenizer, names: Sequence[str], n_ctx: int) -> list[list[int]]:
    """Token ids of "name." for each class, checked to fit behind SOT and n_ctx learned tokens.

    Raises:
        PromptError: names every class that does not fit.
    """
    return tokenizer.fit([f"{name}." for name in names], reserved=n_ctx + 2)
