"""Classifying: image features and a pack in, labels out, and how right they are.

`Classifier` has one pack, `Tasks` any number of them on the same features; `evaluate` measures. numpy alone. May import
`backbone`, `pack`, `photos`, `arrays`, `prompts` and `errors`.
"""

from edge_qprompt.classify.classifier import Classifier, Prediction, zero_shot
from edge_qprompt.classify.discriminant import FAR, NEAR, familiarity
from edge_qprompt.classify.evaluate import LEARNED_FROM, Evaluation, evaluate, score
from edge_qprompt.classify.head import check_adapter
from edge_qprompt.classify.residual import bias_section, class_means
from edge_qprompt.classify.scores import Scores, harmonic_mean
from edge_qprompt.classify.tasks import Own, Tasks
from edge_qprompt.classify.unknown import COVERAGES, Unknown, auroc

__all__ = [
    "COVERAGES",
    "FAR",
    "LEARNED_FROM",
    "NEAR",
    "Evaluation",
    "evaluate",
    "score",
    "Classifier",
    "Own",
    "Prediction",
    "Scores",
    "Tasks",
    "Unknown",
    "auroc",
    "bias_section",
    "check_adapter",
    "class_means",
    "familiarity",
    "harmonic_mean",
    "zero_shot",
]
