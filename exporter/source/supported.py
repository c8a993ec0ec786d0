"""Which of open_clip's model configurations this project can run. Pure: a dict in, an error out.

The image tower may be anything that torch can export. The text tower must be OpenAI's, since
text.onnx and the training code spell it out: causal transformer, pooled at the highest token id,
one linear projection, OpenAI's tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_qprompt.errors import ExportError

VOCAB_SIZE = 49408
UNSET: tuple[Any, ...] = (None, False, {}, "")
REQUIRED = ("embed_dim", "vision_cfg", "text_cfg")

# key of text_cfg -> the values besides UNSET that are supported, and what any other value means
TEXT_RULES: dict[str, tuple[tuple[Any, ...], str]] = {
    "hf_model_name": ((), "a Hugging Face text model"),
    "hf_tokenizer_name": ((), "a Hugging Face tokenizer"),
    "tokenizer_mode": ((), "a tokenizer mode"),
    "tokenizer_kwargs": ((), "a tokenizer with other settings"),
    "vocab_size": ((VOCAB_SIZE,), "another vocabulary than OpenAI's"),
    "ls_init_value": ((), "layer scale"),
    "embed_cls": ((), "a class token in the text"),
    "no_causal_mask": ((), "attention without a causal mask"),
    "pool_type": (("argmax",), "another pooling than at the end of the text"),
    "proj_type": (("linear",), "no linear projection"),
    "proj_bias": ((), "a projection with a bias"),
    "output_tokens": ((), "tokens as a second output"),
    "act_kwargs": ((), "an activation with settings"),
    "block_type": (("default",), "custom attention blocks"),
    "qk_norm": ((), "normalised queries and keys"),
    "scaled_cosine_attn": ((), "cosine attention"),
    "scale_heads": ((), "scaled attention heads"),
    "scale_attn_inner": ((), "a LayerNorm inside attention"),
    "scale_attn": ((), "a LayerNorm after attention"),
    "scale_fc": ((), "a LayerNorm inside the MLP"),
}


def check_supported(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a model that could not be exported faithfully.

    Args:
        name: what to call the model in the error.
        config: as in open_clip's model_configs.

    Raises:
        ExportError: names everything that is in the way.
    """
    if missing := [key for key in REQUIRED if key not in config]:
        raise ExportError(f"the configuration of {name} lacks {', '.join(missing)}: it is not an open_clip model configuration")
    if problems := [*_model_problems(config), *_text_problems(config["text_cfg"])]:
        raise ExportError(
            f"{name} cannot be exported: it has {'; '.join(problems)}. Any image tower of open_clip will do, "
            "but the text tower must be OpenAI's (ViT-B-16, RN50, convnext_base ...)"
        )


def _model_problems(config: Mapping[str, Any]) -> list[str]:
    found = ["a text decoder (CoCa)"] if "multimodal_cfg" in config else []
    if config["vision_cfg"].get("output_tokens"):
        found.append("tokens as a second output of the image tower (output_tokens)")
    size = config["vision_cfg"].get("image_size")
    if isinstance(size, list | tuple) and len(set(size)) != 1:
        found.append(f"images that are not square ({' x '.join(map(str, size))})")
    return found


def _text_problems(text: Mapping[str, Any]) -> list[str]:
    found = []
    for key, (supported, meaning) in TEXT_RULES.items():
        value = text.get(key)
        if value not in UNSET and value not in supported:
            found.append(f"{meaning} ({key}={value!r})")
    if extra := set(text.get("norm_kwargs") or {}) - {"eps"}:
        found.append(f"a LayerNorm with settings ({', '.join(sorted(extra))})")
    return found
