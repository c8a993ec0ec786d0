"""What the loop hands to a method, features or the photos themselves, and what computes its steps.

Symbols: N photos, V views, D dimensions of a feature, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edge_qprompt.learn.method import Method, Takes
from edge_qprompt.learn.problem import Problem
from edge_qprompt.photos import Source, Views, read_views


@dataclass(frozen=True)
class Inputs:
    """What the loop hands to a method, and what computes its steps.

    Attributes:
        values: (N, V, D) float32; (N, V, 3, S, S) uint8 for methods that take pixels, and (N, V, 2D) float32, the teacher's
            behind the others, for those that take a teacher's.
        threads: of torch; 1 where a step has threads of its own.
        engine: its name, and a note about it; empty where there is none.
    """

    values: Tensor
    threads: int
    engine: tuple[str, str]

    @classmethod
    def of(cls, method: Method, problem: Problem, photos: Sequence[Source], views: Views) -> Inputs:
        """What `method` takes.

        Args:
            method: made for `problem`.
            problem: whose photos these are.
            photos: the N files, all of them readable.
            views: those that the problem's features are of.

        Raises:
            PhotoError: a photo that cannot be read any more.
        """
        if method.takes is not Takes.PIXELS:
            engine = method.engine
            named = (engine.name, engine.note) if engine else ("", "")
            features = [problem.features, *([problem.taught.features] if method.takes is Takes.TEACHER else [])]
            return cls(torch.cat(features, dim=-1), 1, named)
        pixels = torch.from_numpy(read_views(photos, problem.towers.backbone.manifest.preprocess, views))
        threads = torch.get_num_threads()  # a step through the image tower is worth all of them
        return cls(pixels, threads, ("float32", f"{threads} thread{'s' * (threads > 1)}"))
