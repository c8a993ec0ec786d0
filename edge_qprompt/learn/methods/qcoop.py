"""QCoOp: CoOp through a quantizer, so that the context is learned as it will be stored.

Source: Hao et al., Quantized Prompt (arXiv 2407.10704).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edge_qprompt.codebook import ClusterSettings
from edge_qprompt.learn.methods.context import QuantizedContext
from edge_qprompt.learn.methods.coop import CoOp
from edge_qprompt.learn.settings import MethodSettings

if TYPE_CHECKING:
    from edge_qprompt.learn.problem import Problem


@dataclass(frozen=True)
class ClusterOptions:
    """When a prompt is clustered again, by constrained adaptive clustering (section 4).

    Attributes:
        cluster_interval: t, steps between two looks at the histograms; 0 fits the centres once.
        cluster_threshold: T_KL in units of (K - 1) / N, what chance alone makes of two draws; 0 is any drift, "inf" never.
    """

    cluster_interval: int = ClusterSettings.interval
    cluster_threshold: float = ClusterSettings.threshold

    def __post_init__(self) -> None:
        ClusterSettings(interval=self.cluster_interval, threshold=self.cluster_threshold)  # which checks them

    def over(self, clusters: ClusterSettings, said: Collection[str]) -> ClusterSettings:
        """Settings with those options in their place that somebody has said."""
        names = {"cluster_interval": "interval", "cluster_threshold": "threshold"}
        return replace(clusters, **{names[name]: getattr(self, name) for name in said})


class QCoOp(CoOp):
    """Method `qcoop`."""

    name, number = "qcoop", 2
    stored = QuantizedContext
    Options = ClusterOptions

    def __init__(self, problem: Problem, settings: MethodSettings) -> None:
        options: ClusterOptions = self.read_options(settings.options)
        super().__init__(problem, replace(settings, clusters=options.over(settings.clusters, settings.options)))
