"""Text towers to compare with: open_clip's own transformer, run the way the published CoOp runs it.

Used by the parity tests and by the benchmarks. Symbols: C classes, T tokens of the full context, W
width, D dimensions of a feature, n learned tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edge_qprompt.backbone.backbone import Backbone
from edge_qprompt.backbone.manifest import TEXT_ONNX, TEXT_WEIGHTS, TextConfig
from edge_qprompt.backbone.session import Session
from edge_qprompt.backbone.text import TextEncoder
from edge_qprompt.backbone.tokenizer import Tokenizer
from edge_qprompt.backbone.weights import Weights
from edge_qprompt.learn.towers.text import TextTower
from exporter.folder import write_text
from exporter.source import import_open_clip

SPECIAL = ("attn_mask", "token_embedding.weight")  # not taken over tensor by tensor
VIT_B_32 = TextConfig(77, 49408, 512, 12, 8, "gelu", 1e-5, 49406, 49407)


@dataclass(frozen=True)
class Pair:
    """Our tower and open_clip's, with the same weights.

    Attributes:
        ours: torch, with a gradient to the prompt.
        reference: open_clip's TextTransformer.
        tokenizer: of both.
        encoder: ours for inference, through text.onnx.
    """

    ours: TextTower
    reference: torch.nn.Module
    tokenizer: Tokenizer
    encoder: TextEncoder

    @property
    def config(self) -> TextConfig:
        """Of both towers."""
        return self.ours.config

    def reference_features(self, ctx: Tensor, rows: list[list[int]]) -> Tensor:
        """CoOp's forward: full context length for every class, open_clip's modules; (C, D) unit length."""
        config, n = self.config, len(ctx)
        tokens = torch.zeros(len(rows), config.context_length, dtype=torch.long)
        for line, row in zip(tokens, rows, strict=True):
            full = [config.sot, *[0] * n, *row, config.eot]
            line[: len(full)] = torch.tensor(full)
        embedded = self.reference.token_embedding(tokens)
        x = torch.cat([embedded[:, :1], ctx.expand(len(rows), -1, -1), embedded[:, 1 + n :]], dim=1)  # (C, T, W)
        x = self.reference.transformer(x + self.reference.positional_embedding, attn_mask=self.reference.attn_mask)
        x = self.reference.ln_final(x)[torch.arange(len(rows)), tokens.argmax(dim=-1)] @ self.reference.text_projection
        return torch.nn.functional.normalize(x, dim=-1)  # (C, D)


def reference_transformer(config: TextConfig, embed_dim: int) -> torch.nn.Module:
    """open_clip's TextTransformer, frozen."""
    transformer = import_open_clip().transformer
    net = transformer.TextTransformer(
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        width=config.width,
        heads=config.heads,
        layers=config.layers,
        output_dim=embed_dim,
        act_layer=torch.nn.GELU if config.activation == "gelu" else transformer.QuickGELU,
        norm_layer=partial(transformer.LayerNorm, eps=config.layer_norm_eps),
    )
    return net.eval().requires_grad_(False)


def random_pair(config: TextConfig, folder: Path, seed: int = 0) -> Pair:
    """A random-weight tower of open_clip's initialisation, and ours from its exported folder."""
    torch.manual_seed(seed)
    net = reference_transformer(config, config.width)
    for name, value in net.named_parameters():
        if name.endswith("bias") or "ln_" in name:  # zeros and ones, which would hide mistakes
            value.data += 0.1 * torch.randn(value.shape)
    tensors = {name: value.numpy() for name, value in net.state_dict().items() if name != "attn_mask"}
    write_text(folder, tensors, config, config.width)
    tokenizer = Tokenizer(Backbone.open("nano").folder, config)
    weights = Weights(folder / TEXT_WEIGHTS)
    encoder = TextEncoder(tokenizer, weights, Session(folder / TEXT_ONNX, stored_low=True))
    return Pair(TextTower(weights, config), net, tokenizer, encoder)


def nano_pair() -> Pair:
    """The embedded tower, and open_clip's with the weights multiplied out."""
    backbone = Backbone.open("nano")
    config, weights = backbone.manifest.text, backbone.text_weights
    net = reference_transformer(config, backbone.manifest.embed_dim)
    state = {name: torch.from_numpy(np.array(weights.tensor(name))) for name in net.state_dict() if name not in SPECIAL}
    state["token_embedding.weight"] = torch.from_numpy(weights.token_vectors(range(config.vocab_size)))
    net.load_state_dict(state, strict=False)
    return Pair(TextTower(weights, config), net, backbone.tokenizer, backbone.text)
