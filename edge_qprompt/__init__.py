"""Adapt a frozen vision-language model on the device itself, with prompts of a few hundred bytes.

from edge_qprompt import Backbone, Classifier, adapt, evaluate

backbone = Backbone.open("nano")
pack = adapt(backbone, "photos/").pack                     # learns; needs torch
print(evaluate(backbone, pack, "photos/").accuracy)        # this and what follows does not
print(Classifier(backbone, pack).classify("new.jpg")[0].label)
"""

import os

# onnxruntime's wheels report usage to their maker unless this is set before their first import. Everything here imports this
# package first: tests/project/test_architecture.py. Who wants to report sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from edge_qprompt.backbone import Backbone
from edge_qprompt.classify import Answer, Classifier, Evaluation, Prediction, Tasks, evaluate
from edge_qprompt.errors import EdgeQPromptError
from edge_qprompt.learn import Adaptation, AdaptSettings, Diagnosis, State, adapt, diagnose, forget, rename, teach, undo
from edge_qprompt.pack import Pack
from edge_qprompt.photos import encode_photos

__version__ = "0.1.0"
__all__ = [
    "AdaptSettings",
    "Adaptation",
    "Answer",
    "Backbone",
    "Classifier",
    "Diagnosis",
    "EdgeQPromptError",
    "Evaluation",
    "Pack",
    "Prediction",
    "State",
    "Tasks",
    "adapt",
    "diagnose",
    "encode_photos",
    "evaluate",
    "forget",
    "rename",
    "teach",
    "undo",
]
