"""From a CLIP model to a backbone folder: ONNX encoders, text weights, tokenizer, manifest."""

import edge_qprompt  # noqa: F401  before any module here imports onnxruntime, which reads the environment that this sets
