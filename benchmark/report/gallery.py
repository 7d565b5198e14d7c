"""Keeps one case of a run for a picture, so that no attack has to run twice."""

from __future__ import annotations

import math

import numpy as np

from ..harness.bench import Bench
from ..harness.compute import Scored
from ..plan.plan import Job

LARGEST = 2**23
"""Voxels of a volume whose slices and spectrum take about a second to draw."""


class FirstCase:
    """Of the first case that this process computes, the attack after which most voxels are wrong.

    Holds references to one volume and at most two images beside it. Given to a bench as its ``watch``.
    """

    def __init__(self) -> None:
        self.attacked: Scored | None = None
        self._clean: dict[tuple[str, str], Scored] = {}
        self._case: str | None = None
        self._wrong = -1

    def __call__(self, scored: Scored) -> None:
        """Look at one prediction; keeps it or forgets it."""
        volume = scored.volume
        self._case = self._case or scored.job.case
        if scored.job.case != self._case or volume.label.ndim != 3 or volume.label.size > LARGEST:
            return
        if scored.job.saved is not None:
            return  # crafted elsewhere: this run knows no surrogate to describe it by
        if scored.job.clean:
            self._clean[scored.target.key] = scored
            return
        wrong = int(np.count_nonzero(scored.prediction != volume.label))
        if wrong > self._wrong:
            self.attacked, self._wrong = scored, wrong

    def clean(self, bench: Bench, forward_seconds: float, patience_seconds: float = 1.0) -> Scored | None:
        """The clean prediction of the same model: kept, or computed where one forward is quick.

        Args:
            bench: computes it.
            forward_seconds: what a forward cost during the attack, NaN where unknown.
            patience_seconds: longest forward that is worth a picture.
        """
        if self.attacked is None:
            return None
        known = self._clean.get(self.attacked.target.key)
        if known is not None or not forward_seconds <= patience_seconds or math.isnan(forward_seconds):
            return known
        job, target = self.attacked.job, self.attacked.target
        return bench.scored(Job(job.case, None, None, (target,)), target)
