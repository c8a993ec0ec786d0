"""Adapt a frozen vision-language model on the device itself, with prompts of a few hundred bytes.

from edge_qprompt import Backbone, Classifier, Pack
classifier = Classifier(Backbone.open("nano"), Pack.open("flowers.qpk"))
print(classifier.classify("new.jpg"))
"""

import os

# onnxruntime's wheels report usage to their maker unless this is set before their first import. Everything here imports this
# package first: tests/test_architecture.py. Who wants to report sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from edge_qprompt.backbone import Backbone
from edge_qprompt.classify import Classifier, Prediction, Tasks
from edge_qprompt.errors import EdgeQPromptError
from edge_qprompt.pack import Pack

__version__ = "0.1.0"
__all__ = ["Backbone", "Classifier", "EdgeQPromptError", "Pack", "Prediction", "Tasks"]
