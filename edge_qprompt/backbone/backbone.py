"""A backbone: one frozen CLIP-type model, opened from its folder.

    backbone = Backbone.open("nano")                # embedded in the package
    backbone = Backbone.open("exports/b16", precision="int8")

Encoders are loaded on first use and can be closed, since onnxruntime's and torch's threads
should not live side by side. Symbols: B photos, S pixels a side, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone.changes import EncoderChanges
from edge_qprompt.backbone.fair_lock import FairLock
from edge_qprompt.backbone.fixed_point import Quantization, quantization_json
from edge_qprompt.backbone.manifest import IMAGE_WEIGHTS, MANIFEST, TEXT_ONNX, TEXT_WEIGHTS, Manifest, VisionConfig, image_onnx
from edge_qprompt.backbone.precision import AUTO, FP32, candidates, fastest, reason
from edge_qprompt.backbone.session import CPU, Session, cores, parse_providers, runtime_version, short_name
from edge_qprompt.backbone.text import TextEncoder
from edge_qprompt.backbone.tokenizer import Tokenizer
from edge_qprompt.backbone.weights import Weights
from edge_qprompt.errors import BackboneError, FingerprintError
from edge_qprompt.files import backbones_folder, give_memory_back, sha256_of
from edge_qprompt.pack import Pack

if TYPE_CHECKING:
    from edge_qprompt.backbone.speed import Job

EMBEDDED = Path(__file__).parents[1] / "data" / "backbones"
DEFAULT = "nano"
DEFAULT_PRECISION = FP32
DEFAULT_PROVIDERS = "cpu"


class Backbone:
    """A frozen vision-language model: an image encoder, a text encoder, a tokenizer and a manifest. Use `open`.

    Attributes:
        precision: of the encoders, one of `manifest.precisions`.
        note: how that precision was chosen; empty if the caller did, or there is no other.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        precision: str,
        threads: int = 0,
        providers: Sequence[str] = CPU,
        changes: EncoderChanges | None = None,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.precision = precision
        self.threads = threads
        self.providers = tuple(providers)
        self.note = ""
        self._changes = changes
        self._text_turn = FairLock()  # one with all that are made of this one: they share the cores
        self._loading = Lock()  # two lanes that begin at once share one session

    @classmethod
    def open(
        cls,
        name: str | Path = DEFAULT,
        precision: str = DEFAULT_PRECISION,
        threads: int = 0,
        providers: str = DEFAULT_PROVIDERS,
    ) -> Backbone:
        """Open a backbone by folder or by name.

        Args:
            name: a folder with a manifest.json, an embedded backbone, or an exported one by name.
            precision: of the image encoder; see `manifest.precisions` for what there is. "auto" is
                the fastest by a short trial, of those close enough to the source model; the trial is remembered.
            threads: of onnxruntime for one call; 0 takes every core for a lone photo and one core each for `lanes`.
            providers: what runs the image encoder: names of onnxruntime's with commas, see
                `session.parse_providers`. The text encoder, which runs once a pack, stays on the CPU.

        Raises:
            BackboneError: there is no such backbone, it is damaged, or lacks the precision; or there is no such provider.
        """
        chosen = parse_providers(providers)
        folder = find_backbone(name)
        manifest = Manifest.read(folder)
        if precision not in manifest.precisions and not (precision == AUTO and manifest.precisions):
            raise BackboneError(
                f"backbone {manifest.name} has no {precision} image encoder, it has {', '.join(manifest.precisions)}"
            )
        for file_name, record in manifest.files.items():
            path = folder / file_name
            size = path.stat().st_size if path.is_file() else None
            if size != record.bytes:
                got = "missing" if size is None else f"{size} bytes"
                raise BackboneError(f"{path} is {got}, the manifest says {record.bytes} bytes: export or install again")
        backbone = cls(folder, manifest, precision, threads, chosen)
        if precision == AUTO:
            backbone._choose_precision()
        return backbone

    def __repr__(self) -> str:
        manifest = self.manifest
        return f"<Backbone {manifest.name} {manifest.short_fingerprint.hex()}: {self.precision}, {manifest.embed_dim} dimensions>"

    def verify(self) -> None:
        """Compare every file's SHA-256 with the manifest.

        Raises:
            BackboneError: names the first file that differs.
        """
        for name, record in self.manifest.files.items():
            if sha256_of(self.folder / name) != record.sha256:
                raise BackboneError(f"{self.folder / name} does not match its checksum: export or install again")

    def check(self, pack: Pack) -> None:
        """Make sure that a pack was learned on this backbone.

        Raises:
            FingerprintError: names both.
        """
        mine = self.manifest.short_fingerprint
        if pack.fingerprint != mine:
            raise FingerprintError(
                f"the pack was learned on backbone {pack.fingerprint.hex()}, this is {self.manifest.name} ({mine.hex()}): "
                "choose that one with --backbone; `edge-qprompt backbones` lists fingerprints"
            )

    def adapted(self, pack: Pack) -> Backbone:
        """The backbone with a pack's own encoders: this one, unless the pack changes them. Those run in fp32.

        Raises:
            BackboneError: the encoders cannot be changed.
            PackError: a tensor does not fit them.
        """
        changes = EncoderChanges.of(pack, self.manifest)
        return self if changes is None and self._changes is None else self.in_float(changes)

    def in_float(self, changes: EncoderChanges | None = None) -> Backbone:
        """The same in fp32, with or without changes of its encoders."""
        made = Backbone(self.folder, self.manifest, DEFAULT_PRECISION, self.threads, self.providers, changes)
        made._text_turn = self._text_turn
        return made

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The backbone's tokenizer."""
        return Tokenizer(self.folder, self.manifest.text)

    @cached_property
    def text_weights(self) -> Weights:
        """Weights of the text tower, memory-mapped."""
        return Weights(self.folder / TEXT_WEIGHTS)

    @cached_property
    def vision_weights(self) -> Weights:
        """Weights of the image tower, memory-mapped.

        Raises:
            BackboneError: it is not one that prompts and other weights can be put into.
        """
        _ = self.vision  # raises where there is none
        return Weights(self.folder / IMAGE_WEIGHTS)

    @property
    def vision(self) -> VisionConfig:
        """The image tower.

        Raises:
            BackboneError: it is not one that prompts and other weights can be put into.
        """
        if self.manifest.vision is None:
            raise BackboneError(
                f"the image tower of backbone {self.manifest.name} is no vision transformer that can be prompted: export one "
                "(edge-qprompt export ViT-B-16-quickgelu openai), again if an older version did, or choose another method"
            )
        return self.manifest.vision

    @cached_property
    def text(self) -> TextEncoder:
        """The text tower for inference."""
        if self._changes:
            session = self._changes.text_session(self.folder, self.text_weights, self.threads)
        else:
            name = self.manifest.text_encoder(self.precision)
            session = Session(self.folder / name, stored_low=name == TEXT_ONNX, threads=self.threads)
        return TextEncoder(self.tokenizer, self.text_weights, session, self._text_turn)

    @cached_property
    def quantization(self) -> Quantization | None:
        """How the encoders are quantized, where the folder says it; BackboneError where it cannot be read."""
        name = quantization_json(self.precision)
        return Quantization.read(self.folder / name) if name in self.manifest.files else None

    @property
    def feature_kind(self) -> str:
        """What besides the fingerprint decides a feature's bits: encoder, a pack's changes, providers other than the CPU."""
        changed = [self._changes.digest] if self._changes else []
        more = () if self.providers == CPU else map(short_name, self.providers)
        return "-".join([*self.manifest.encoder_kind(self.precision), *changed, *more])

    @property
    def lanes(self) -> int:
        """How many calls of `encode_images` on a lane make full use of the processor; 1 where something else computes."""
        return max(1, cores() // max(1, self.threads)) if self.providers == CPU else 1

    @cached_property
    def _image(self) -> Session:
        return self._image_session(self.precision, self.threads)

    @cached_property
    def _lane(self) -> Session:
        threads = self.threads if self.threads or self.lanes == 1 else 1
        return self._image_session(self.precision, threads, keep_memory=True)

    def _image_session(self, precision: str, threads: int, *, keep_memory: bool = False) -> Session:
        if self._changes:
            weights = self.vision_weights
            return self._changes.image_session(self.folder, weights, threads, self.providers, keep_memory=keep_memory)
        path, low = self.folder / image_onnx(precision), precision == DEFAULT_PRECISION
        return Session(path, stored_low=low, threads=threads, providers=self.providers, keep_memory=keep_memory)

    def _choose_precision(self) -> None:
        """Settle `precision` and `note`, see `precision` and `speed`."""
        from edge_qprompt.backbone.speed import remembered_trial  # milliseconds that only this choice should cost

        records = self.manifest.precisions
        names, seconds = candidates(records), {}
        if len(names) > 1:
            seconds = remembered_trial(self._facts(names), names, self._trial_job)
        self.precision = fastest(seconds) if seconds else names[0]
        self.note = reason(self.precision, seconds, records) if len(records) > 1 else ""

    def _facts(self, precisions: Sequence[str]) -> list[str]:
        """What, beside the machine, decides how long a photo takes."""
        files = [str(self.manifest.files.get(image_onnx(precision))) for precision in precisions]
        return [self.manifest.fingerprint, *files, runtime_version(), str(self.threads), *self.providers]

    def _trial_job(self, precision: str) -> Job:
        """What encodes one photo; what it shows does not matter."""
        size = self.manifest.preprocess.size
        feeds = {"pixels": np.zeros((1, 3, size, size), np.float32)}
        session = self._image_session(precision, self.threads)
        return lambda: session.run(feeds)

    def encode_images(self, pixels: NDArray[np.float32], *, lane: bool = False) -> NDArray[np.float32]:
        """Image features. May be called from several threads.

        Args:
            pixels: (B, 3, S, S) float32, as `photo.to_pixels` makes them.
            lane: one of several calls at once, see `lanes`. That encodes a third more photos than
                one call after the other on every core, whose threads wait for each other in every layer.

        Returns:
            (B, D) float32, unit length.

        Raises:
            BackboneError: pixels of another shape.
        """
        size = self.manifest.preprocess.size
        if pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
            raise BackboneError(f"pixels have shape {pixels.shape}, backbone {self.manifest.name} takes (B, 3, {size}, {size})")
        with self._loading:
            session = self._lane if lane else self._image
        features = session.run({"pixels": np.ascontiguousarray(pixels, np.float32)})
        if features.shape != (len(pixels), self.manifest.embed_dim):
            wanted = (len(pixels), self.manifest.embed_dim)
            raise BackboneError(f"the image encoder gives {features.shape}, wanted {wanted}: export the backbone again")
        return features

    def stop(self) -> None:
        """Begin no run of the text encoder any more, for good: work in other threads ends with the run that it is in."""
        self._text_turn.close()

    def close(self) -> None:
        """Let encoders and weights go, and their memory; they are loaded again when needed."""
        for name in ("text", "text_weights", "vision_weights", "_image", "_lane"):
            self.__dict__.pop(name, None)
        give_memory_back()


def find_backbone(name: str | Path) -> Path:
    """The folder of a backbone.

    Raises:
        BackboneError: lists what there is.
    """
    for folder in (Path(name), EMBEDDED / name, backbones_folder() / name):
        if (folder / MANIFEST).is_file():
            return folder
    known = ", ".join(sorted(path.name for path in list_backbones())) or "none"
    raise BackboneError(
        f"no backbone {str(name)!r}: give a folder with a {MANIFEST}, or one of: {known}; "
        "`edge-qprompt export --help` says how to make one"
    )


def list_backbones() -> list[Path]:
    """Folders of the embedded backbones and of those that `export` has put in their place."""
    places = [place for place in (EMBEDDED, backbones_folder()) if place.is_dir()]
    return [folder.parent for place in places for folder in sorted(place.glob(f"*/{MANIFEST}"))]
