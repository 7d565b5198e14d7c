"""What a model card says of a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from robustvox.datasets import Dataset, patient_of
from robustvox.models.complexity import measure

from ..metrics.statistics import shown_intervals


def validation(predictor: nn.Module, dataset: Dataset, device: str | torch.device = "cpu") -> dict[str, Any]:
    """What a card says of the ``validation`` split: mean foreground Dice with interval, and the number of cases.

    Organs missing or invented count as zero.
    """
    scores = []
    for case in dataset.splits["validation"]:
        volume = dataset.load(case)
        with torch.inference_mode():
            logits = predictor(torch.from_numpy(volume.image)[None].to(device))
        prediction = logits.argmax(1)[0].cpu().numpy()
        prediction = prediction if volume.ignore is None else np.where(volume.ignore, 0, prediction)
        scores.append(mean_dice(prediction, volume.label, len(dataset.class_names)))
    patients = [patient_of(dataset, case) for case in dataset.splits["validation"]]
    low, high = shown_intervals(np.array([scores]), patients=patients)
    return {
        "validation_dice": float(np.mean(scores)),
        "validation_interval": None if np.isnan(low[0]) else (float(low[0]), float(high[0])),
        "validation_cases": len(scores),
    }


def cost(network: nn.Module, dataset: Dataset, roi_size: Sequence[int]) -> dict[str, Any]:
    """What a card says of the cost of a network on windows of images of the dataset."""
    complexity = measure(network, dataset.in_channels, roi_size)
    return {"parameters": complexity.parameters, "flops": complexity.flops}


def mean_dice(prediction: np.ndarray, reference: np.ndarray, num_classes: int) -> float:
    """Mean Dice over the foreground classes that the reference or the prediction has; NaN where neither has any."""
    counts = np.bincount((reference * num_classes + prediction).ravel(), minlength=num_classes**2)
    confusion = counts.reshape(num_classes, num_classes)
    sizes = confusion.sum(0) + confusion.sum(1)
    present = sizes[1:] > 0
    return float((2 * confusion.diagonal()[1:][present] / sizes[1:][present]).mean())
