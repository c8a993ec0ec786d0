"""From a CLIP model to a backbone folder: ONNX encoders, text weights, tokenizer, manifest."""
