"""The model to export. This is the one file that touches open_clip.

    source = load(Request("ViT-B-16-quickgelu", pretrained="openai"))
    source = load(Request("ViT-B-32", checkpoint=Path("mine.pt")))

Symbols: B photos, C texts, S pixels a side, D dimensions of a feature.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from edge_qprompt.backbone import Preprocess, TextConfig
from edge_qprompt.errors import ExportError, MissingExtraError
from edge_qprompt.files import sha256_of
from exporter.request import Request
from exporter.source.supported import check_supported
from exporter.source.tokenizer_file import clip_tokenizer
from exporter.source.torchvision_schemas import define_missing_schemas

MAX_CONFIG_BYTES = 1 << 20
MAX_REASON_CHARS = 500  # torch lists every missing key
OPENAI_MARK = "input_resolution"  # only OpenAI's archives have it
ARCHIVE_EXTRAS = (OPENAI_MARK, "context_length", "vocab_size", "attn_mask")  # beside the weights
TEXT_PREFIXES = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode", "fill_color")
REFERENCE_BATCH = 16  # bounds the memory of the reference's activations

Array = NDArray[np.float32]
Config = dict[str, Any]  # JSON of open_clip's


class Reference:
    """The source model itself, which the exported one is measured against."""

    def __init__(self, model: Any, transform: Any, tokenizer: Any) -> None:
        self._model, self._transform, self._tokenizer = model, transform, tokenizer

    def pixels(self, photo: Image.Image) -> Array:
        """open_clip's own preprocessing of an RGB photo, (3, S, S) float32."""
        return np.asarray(self._transform(photo).numpy(), np.float32)

    def image_features(self, pixels: Array) -> Array:
        """(B, 3, S, S) float32 to unit features (B, D)."""
        with torch.inference_mode():
            parts = torch.split(torch.from_numpy(pixels), REFERENCE_BATCH)
            return np.asarray(torch.cat([self._model.encode_image(part, normalize=True) for part in parts]).numpy())

    def text_features(self, texts: Sequence[str]) -> Array:
        """C whole texts to unit features (C, D)."""
        with torch.inference_mode():
            parts = self._tokenizer(list(texts)).split(REFERENCE_BATCH)
            return np.asarray(torch.cat([self._model.encode_text(part, normalize=True) for part in parts]).numpy())

    def tokens(self, text: str) -> list[int]:
        """Token ids without SOT and EOT."""
        return list(self._tokenizer.encode(text))


@dataclass(frozen=True)
class Source:
    """A loaded model and all that a backbone folder says about it.

    Attributes:
        origin: where the weights come from, for the manifest.
        visual: (B, 3, S, S) pixels to features (B, D), not normalised; in eval mode.
        text_tensors: under open_clip's names, as edge_qprompt.backbone.weights reads them.
        embed_dim: D.
        logit_scale: already exponentiated.
        tensors: all of the model, and its configuration as bytes, for the fingerprint.
        tokenizer: tokenizer.json.
    """

    name: str
    origin: str
    licence: str
    visual: torch.nn.Module
    text_tensors: Mapping[str, NDArray[Any]]
    text: TextConfig
    preprocess: Preprocess
    embed_dim: int
    logit_scale: float
    tensors: Mapping[str, NDArray[Any]]
    tokenizer: bytes
    reference: Reference


def load(request: Request) -> Source:
    """Load a model with open_clip.

    Raises:
        ExportError: unknown, unsupported or undownloadable models, weights that do not fit.
        MissingExtraError: open_clip is not installed.
    """
    open_clip = import_open_clip()
    config, preprocess = _read_config(open_clip, request)
    check_supported(request.model, config)
    if request.model_config is None:
        preprocess = _published_preprocess(open_clip, request, config)
    if request.checkpoint is None:
        weights, origin = _download(open_clip, request), f"open_clip {request.model} {request.pretrained}"
    else:
        weights = request.checkpoint
        origin = f"{request.model}, {weights.name} with SHA-256 {_digest(weights)}"
    model = _build(open_clip, request.model, config)
    _load_weights(open_clip, model, weights, quick_gelu=bool(config.get("quick_gelu")))
    return _source(open_clip, request, origin, model, config, preprocess)


def import_open_clip() -> Any:
    """The package open_clip.

    Raises:
        MissingExtraError: it is not installed.
    """
    if importlib.util.find_spec("open_clip") is None:
        raise MissingExtraError("open_clip")
    define_missing_schemas()
    import open_clip  # here, since it imports torchvision

    return open_clip


def _read_config(open_clip: Any, request: Request) -> tuple[Config, Config]:
    """Model and preprocessing configuration; the latter is empty for open_clip's own models."""
    if request.model_config is None:
        if (config := open_clip.get_model_config(request.model)) is None:
            near = ", ".join(difflib.get_close_matches(request.model, open_clip.list_models(), 5)) or "none is near"
            raise ExportError(
                f"open_clip {open_clip.__version__} has no model {request.model!r} ({near}): "
                "for a model of your own give --checkpoint and --model-config"
            )
        return config, {}
    path = request.model_config
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"larger than {MAX_CONFIG_BYTES} bytes")
        whole = json.loads(path.read_text())
        return {**whole.get("model_cfg", whole)}, {**whole.get("preprocess_cfg", {})}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ExportError(f"{path} is no model configuration ({error}): give one like open_clip's model_configs") from error


def _published_preprocess(open_clip: Any, request: Request, config: Config) -> Config:
    """How the photos were prepared for the weights that open_clip knows under this model's name."""
    model, pretrained = request.model, request.pretrained
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained is not None:
        tag: Config = open_clip.get_pretrained_cfg(model, pretrained)
        if not tag:
            known = ", ".join(tags) or "none"
            raise ExportError(f"open_clip has no weights {pretrained!r} for {model}, it has: {known}; a file: --checkpoint")
        _check_quick_gelu(request, trained=bool(tag.get("quick_gelu")), built=bool(config.get("quick_gelu")))
        return tag
    published = [open_clip.get_pretrained_cfg(model, name) for name in tags]
    ways = {json.dumps([tag.get(key) for key in PREPROCESS_KEYS]) for tag in published}
    if len(ways) > 1:  # a wrong mean or crop costs accuracy in silence
        raise ExportError(
            f"the published weights of {model} differ in how photos are prepared: name the tag that the file is or comes from "
            f"(edge-qprompt export {model} TAG --checkpoint FILE; {', '.join(tags)}), or --model-config with a preprocess_cfg"
        )
    return published[0] if published else {}


def _check_quick_gelu(request: Request, *, trained: bool, built: bool) -> None:
    """open_clip only warns about this, and then gives features that are worse in silence."""
    if trained != built:
        right = f"{request.model}-quickgelu" if trained else request.model.removesuffix("-quickgelu")
        how = "with QuickGELU" if trained else "with the exact GELU"
        raise ExportError(
            f"the weights {request.pretrained!r} were trained {how}, which the model {request.model} does not have: "
            f"use {right} (edge-qprompt export {right} {request.pretrained})"
        )


def _download(open_clip: Any, request: Request) -> Path:
    try:
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(request.model, request.pretrained)))
    except Exception as error:  # urllib's, huggingface_hub's and open_clip's own share no base class
        raise ExportError(
            f"cannot download {request.model} {request.pretrained} ({_short(error)}): fetch the weights elsewhere, "
            f"then edge-qprompt export {request.model} {request.pretrained} --checkpoint FILE"
        ) from error


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from error


def _build(open_clip: Any, name: str, config: Config) -> Any:
    """The architecture with random weights; nothing is downloaded."""
    settings = {key: value for key, value in config.items() if key != "custom_text"}
    settings["vision_cfg"] = {**config["vision_cfg"], "timm_model_pretrained": False}
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    try:
        return kind(**settings).eval().requires_grad_(False)
    except Exception as error:  # TypeError for unknown keys, and whatever open_clip and timm raise
        raise ExportError(f"open_clip cannot build {name} from its configuration: {_short(error)}") from error


def _load_weights(open_clip: Any, model: Any, path: Path, *, quick_gelu: bool) -> None:
    try:
        if not _is_torchscript(path):
            open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, OpenAI's files stay what they are
            state = torch.jit.load(str(path), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
        if OPENAI_MARK in state and not quick_gelu:
            raise ExportError(f"{path.name} is one of OpenAI's archives, trained with QuickGELU: use the model's -quickgelu name")
        model.load_state_dict({key: value for key, value in state.items() if key not in ARCHIVE_EXTRAS}, strict=True)
    except ExportError:
        raise
    except Exception as error:  # torch, safetensors, pickle and open_clip share no base class
        raise ExportError(f"the weights in {path} cannot be loaded into this model: {_short(error)}") from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_REASON_CHARS else f"{text[:MAX_REASON_CHARS]} ..."


def _source(open_clip: Any, request: Request, origin: str, model: Any, config: Config, preprocess: Config) -> Source:
    tower = getattr(model, "text", model)  # CustomTextCLIP keeps the text tower apart
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    settings = json.dumps(config, sort_keys=True).encode()  # heads, pooling ...: they change features and are no tensors
    tokenizer = open_clip.SimpleTokenizer(context_length=tower.context_length)
    settled, transform = _transform(open_clip, model.visual.image_size, preprocess)
    return Source(
        name=request.backbone_name,
        origin=origin,
        licence=request.licence,
        visual=model.visual,
        text_tensors={name: t.numpy() for name, t in tower.state_dict().items() if name.startswith(TEXT_PREFIXES)},
        text=_text_config(tower, tokenizer),
        preprocess=settled,
        embed_dim=int(config["embed_dim"]),
        logit_scale=float(model.logit_scale.exp()),
        tensors={**state, "configuration": np.frombuffer(settings, np.uint8)},
        tokenizer=clip_tokenizer(Path(open_clip.tokenizer.default_bpe())),
        reference=Reference(model, transform, tokenizer),
    )


def _text_config(tower: Any, tokenizer: Any) -> TextConfig:
    blocks = tower.transformer.resblocks
    width = tower.ln_final.weight.shape[0]
    activation = "quick_gelu" if type(blocks[0].mlp.gelu).__name__ == "QuickGELU" else "gelu"
    heads, eps = blocks[0].attn.num_heads, tower.ln_final.eps
    sot, eot = tokenizer.sot_token_id, tokenizer.eot_token_id
    return TextConfig(tower.context_length, tower.vocab_size, width, len(blocks), heads, activation, eps, sot, eot)


def _transform(open_clip: Any, size: Any, preprocess: Config) -> tuple[Preprocess, Any]:
    """open_clip's preprocessing, as our settings and as its own transform."""
    pixels = int(size[0] if isinstance(size, list | tuple) else size)
    defaults = open_clip.transform.PreprocessCfg
    cfg = defaults(**{key: preprocess[key] for key in PREPROCESS_KEYS if preprocess.get(key) is not None}, size=pixels)
    # "random" is a training augmentation, open_clip infers with bicubic
    interpolation = "bicubic" if cfg.interpolation == "random" else cfg.interpolation
    settled = Preprocess(pixels, pixels, cfg.resize_mode, interpolation, _triple(cfg.mean), _triple(cfg.std), cfg.fill_color)
    return settled, open_clip.transform.image_transform_v2(cfg, is_train=False)


def _triple(value: Any) -> tuple[float, float, float]:
    """One number a channel; open_clip allows one for all."""
    red, green, blue = value if isinstance(value, list | tuple) else (value,) * 3
    return float(red), float(green), float(blue)
