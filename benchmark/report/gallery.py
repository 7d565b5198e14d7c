"""Keeps one case of a run for a picture, so that no attack has to run twice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..harness import Scored, predict
from ..metrics import score

if TYPE_CHECKING:
    from ..harness import Plan

LARGEST = 2**23
"""Voxels of a volume whose slices and spectrum take about a second to draw."""


class FirstCase:
    """Of the first case that this process computes, the attack after which most voxels are wrong.

    Holds references to one volume and at most two images beside it. Given to :attr:`Plan.watch`.
    """

    def __init__(self) -> None:
        self.attacked: Scored | None = None
        self._clean: dict[str, Scored] = {}
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
            self._clean[_identity(scored)] = scored
            return
        wrong = int(np.count_nonzero(scored.prediction != volume.label))
        if wrong > self._wrong:
            self.attacked, self._wrong = scored, wrong

    def clean(self, plan: Plan, forward_seconds: float, patience_seconds: float = 1.0) -> Scored | None:
        """The clean prediction of the same model: kept, or computed where one forward is quick.

        Args:
            plan: knows the device and the classes.
            forward_seconds: what a forward cost during the attack, NaN where unknown.
            patience_seconds: longest forward that is worth a picture.
        """
        if self.attacked is None:
            return None
        known = self._clean.get(_identity(self.attacked))
        if known is not None or not forward_seconds <= patience_seconds or math.isnan(forward_seconds):
            return known
        volume, target = self.attacked.volume, self.attacked.target
        prediction = predict(target, torch.from_numpy(volume.image)[None].to(plan.device))
        table = score(
            prediction,
            volume.label,
            num_classes=len(plan.dataset.class_names),
            spacing_mm=volume.spacing_mm,
            nsd_tolerance_mm=plan.dataset.nsd_tolerance_mm,
        )
        return self.attacked._replace(
            image=volume.image, prediction=prediction, rows=table.to_dict("records")
        )


def _identity(scored: Scored) -> str:
    return scored.target.sha256 + scored.target.name
