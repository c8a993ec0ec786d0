"""When `qcoop` clusters again is an option of it: t and T_KL of constrained adaptive clustering."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from common import DEMO, Command, fails

from edge_qprompt import Adaptation, Backbone, adapt
from edge_qprompt.codebook import ClusterSettings
from edge_qprompt.learn import AdaptSettings, LoopSettings, MethodSettings
from edge_qprompt.learn.methods.qcoop import ClusterOptions


def learned(backbone: Backbone, epochs: int, settings: MethodSettings) -> Adaptation:
    told = AdaptSettings(method="qcoop", shots=8, loop=LoopSettings(epochs=epochs), method_settings=settings)
    return adapt(backbone, DEMO, told)


def test_options_that_nobody_says_change_nothing(nano: Backbone) -> None:
    said = {"cluster_interval": ClusterSettings.interval, "cluster_threshold": ClusterSettings.threshold}
    packs = [learned(nano, 20, MethodSettings(options=options)).pack for options in ({}, said)]
    assert packs[0].encode() == packs[1].encode()
    clusters = ClusterSettings(bits=2, interval=7, threshold=0.5)
    assert ClusterOptions().over(clusters, ()) == clusters
    assert ClusterOptions(cluster_threshold=3).over(clusters, ("cluster_threshold",)) == replace(clusters, threshold=3)


def test_looks_come_at_the_interval_that_is_said(nano: Backbone) -> None:
    options = {"cluster_interval": "4"}
    found = learned(nano, 9, MethodSettings(ClusterSettings(threshold=2.5), options=options)).facts
    assert [step for step, _, _ in found["looks"]] == [4, 8]
    assert found["threshold"] == 2.5  # which nobody has said anew


def test_it_fires_where_the_threshold_is_low(edge_qprompt_command: Command, tmp_path: Path) -> None:
    command = ("adapt", DEMO, "--method", "qcoop", "--shots", "8", "--bits", "4", "--epochs", "40", "--json")
    often = ("--set", "cluster_interval=1", "--set", "cluster_threshold=0")
    default, fired = (edge_qprompt_command(*command, *more, "--out", tmp_path / "p.qpk").json for more in ((), often))
    assert default["reclusterings"] == 0
    assert fired["reclusterings"] > 5  # at 1 bit it would take hundreds of steps
    assert fired["pack_id"] != default["pack_id"]


@pytest.mark.parametrize("option", ["cluster_interval=-1", "cluster_threshold=-0.5", "cluster_threshold=nan"])
def test_options_that_make_no_sense(edge_qprompt_command: Command, tmp_path: Path, option: str) -> None:
    done = edge_qprompt_command("adapt", DEMO, "--method", "qkgcoop", "--set", option, "--out", tmp_path / "p.qpk")
    fails(done, "the method qkgcoop: interval and threshold cannot be negative")
