"""The whole export: a loaded model in, a checked backbone folder out, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edge_qprompt.backbone import Backbone, Manifest, PrecisionRecord, VisionConfig, image_onnx
from exporter import gates
from exporter.folder import fingerprint, new_folder, write_manifest, write_prompted, write_text
from exporter.gates import Sample
from exporter.graphs import write_image_graph
from exporter.quantize import INT8, add_precisions, tell
from exporter.source import Source, vision_config, vision_tensors, write_tokenizer

Report = Callable[[str], None]


def export(
    source: Source,
    target: Path,
    photos: Sequence[Path],
    names: Sequence[str],
    *,
    int8: bool,
    replace: bool,
    report: Report,
    warn: Report,
) -> Manifest:
    """Write a backbone folder.

    Args:
        source: of `source.load`.
        target: the folder; it appears when all is written and checked.
        photos: to calibrate and to measure on.
        names: class names to measure with.
        int8: also write the image encoder in int8, if it passes its gate.
        replace: an older backbone folder at `target` goes.
        report: takes lines of progress.
        warn: takes what the user must know.

    Raises:
        ExportError: the model cannot be exported, or the exported one is not the same model.
    """
    with new_folder(target, replace=replace) as work:
        report(f"{source.name}: running the source model on {len(photos)} photos")
        sample = gates.take_sample(source, photos, names, warn)
        report("text encoder")
        write_tokenizer(work, source.tokenizer)
        write_text(work, source.text_tensors, source.text, source.embed_dim)
        report(f"text encoder: smallest cosine {gates.check_text(work, source, names):.6f}")
        report("image encoder")
        write_image_graph(work, source.visual, source.preprocess.size, source.embed_dim)
        precisions = {"fp32": gates.measure(work, "fp32", sample)}
        gates.check_image(precisions["fp32"])
        report(f"image encoder: {gates.describe(precisions['fp32'])}")
        vision = vision_config(source.visual)
        if vision:
            report("image and text encoder that take prompts")
            tensors, size = vision_tensors(source.visual), source.preprocess.size
            write_prompted(work, tensors, vision, source.text, size, source.embed_dim)
            gates.check_prompted(work, vision, sample, source, names)
        manifest = _manifest(work, source, precisions, vision)
        if int8:
            manifest = _with_int8(work, manifest, sample, report, warn)
        Backbone.open(work).verify()
        return manifest


def _with_int8(folder: Path, manifest: Manifest, sample: Sample, report: Report, warn: Report) -> Manifest:
    """The manifest with an int8 image encoder, if there can be one."""
    try:
        both, done = add_precisions(folder, manifest, [INT8], sample, (), report)
    except Exception as error:  # onnxruntime's quantizer raises what it likes, and the backbone is whole without int8
        (folder / image_onnx(INT8)).unlink(missing_ok=True)
        warn(f"no int8 image encoder was written, onnxruntime cannot quantize this one ({error}). The backbone works in fp32")
        return manifest
    tell(INT8, done[INT8], report, warn)
    return both


def _manifest(folder: Path, source: Source, precisions: dict[str, PrecisionRecord], vision: VisionConfig | None) -> Manifest:
    return write_manifest(
        folder,
        name=source.name,
        source=source.origin,
        licence=source.licence,
        fingerprint=fingerprint(source.tensors, source.tokenizer, source.preprocess, source.text, source.logit_scale),
        embed_dim=source.embed_dim,
        logit_scale=source.logit_scale,
        preprocess=source.preprocess,
        text=source.text,
        precisions=precisions,
        vision=vision,
    )
