"""P4Q: a prompt and a small adapter that give a quantized backbone its accuracy back, taught by the same one in full precision.

The prompt goes through the quantized text tower, the adapter stands behind the quantized image encoder, and what is stored of
the adapter are 8 bits a weight. A method without one of the two is there to compare with; one with QCoOp's prompt
(arXiv 2407.10704) is ours.

Source: P4Q (arXiv 2409.17634). Symbols: B photos, C classes, n learned tokens, W width, D dimensions of a feature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from edge_qprompt.learn.clip_adapter import moved, stored
from edge_qprompt.learn.coop import CoOp
from edge_qprompt.learn.inputs import TEACHER
from edge_qprompt.learn.net import Net
from edge_qprompt.learn.problem import Problem
from edge_qprompt.learn.qcoop import QCoOp
from edge_qprompt.learn.settings import MethodSettings, Schedule
from edge_qprompt.pack import Method as MethodNumber
from edge_qprompt.pack import PackTensor, Role, Section, templates_section
from edge_qprompt.quantizer import Clustering, ClusterSettings
