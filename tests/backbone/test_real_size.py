"""A random vision transformer as large as people use them, from open_clip's file to an answer: structure, not accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from common import DEMO, Command, make_photos
from PIL import Image
from small_models import build

from edge_qprompt import Backbone, Classifier, Pack
from edge_qprompt.pack.pack import Precision, Role
from edge_qprompt.photos.photo import decode_photo, to_pixels

source = pytest.importorskip("exporter.source.source", reason="needs the export extra")
NAME = "ViT-B-32"
PHOTO = DEMO / "test" / "bag" / "3.png"


@pytest.mark.timeout(600)
def test_export_quantize_learn_and_classify(tmp_path: Path, edge_qprompt_command: Command) -> None:
    open_clip = source.import_open_clip()
    model = build(open_clip.get_model_config(NAME))
    transform = open_clip.image_transform(224, is_train=False)
    with torch.inference_mode():
        wanted = model.encode_image(transform(Image.open(PHOTO))[None], normalize=True).numpy()
    weights = tmp_path / f"{NAME}-random.pt"
    torch.save(model.state_dict(), weights)
    del model
    photos, base, small, pack = (
        make_photos(tmp_path, "bag", "coat", each=2),
        tmp_path / "base",
        tmp_path / "small",
        tmp_path / "task.qpk",
    )

    done = edge_qprompt_command("export", NAME, "--checkpoint", weights, "--photos", photos, "--no-int8", "--out", base)
    assert done.code == 0, done.err
    weights.unlink()  # three copies of 600 MB are enough
    full = Backbone.open(base)
    assert full.manifest.name == f"{NAME}-random"
    pixels = to_pixels(decode_photo(PHOTO.read_bytes()), full.manifest.preprocess)[None]
    assert np.abs(full.encode_images(pixels) - wanted).max() < 5e-6
    full.close()

    done = edge_qprompt_command("quantize", base, "--precision", "int8", "--photos", photos, "--out", small)
    assert done.code == 0, done.err
    backbone = Backbone.open(small, "int8")
    features = backbone.encode_images(pixels)
    assert (features * wanted).sum() > 0.999
    files = backbone.manifest.files
    assert files["image.int8.onnx"].bytes < 0.3 * files["image.fp32.onnx"].bytes
    backbone.close()

    common = ("--backbone", small, "--precision", "int8", "--method", "qp4q", "--epochs", "2", "--shots", "2")
    learned = edge_qprompt_command("adapt", photos, *common, "--out", pack, "--json").json
    made = Pack.decode(pack.read_bytes())
    assert (made.precision, learned["steps"]) == (Precision.INT8, 2)
    ctx, adapter = made.tensor(Role.CTX), made.tensor(Role.ADAPTER_IN)
    assert ctx is not None
    assert adapter is not None
    assert (ctx.shape, ctx.bits, adapter.shape, adapter.bits) == ((4, 512), 1, (128, 513), 8)
    probabilities = Classifier(backbone, made).probabilities(features)
    assert probabilities.shape == (1, 2)
    assert np.isclose(probabilities.sum(), 1)
