"""A victim that needs no training and phantoms of two scanners, small enough for a theft in seconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from robustvox.benchmark.studies.stealing.scans import Scan
from robustvox.datasets import IntensityWindow, Volume

SIDE = 16


@dataclass(frozen=True)
class Blobs:
    """A dataset of two bright blobs of different brightness on texture."""

    count: int = 40
    name: str = "blobs"
    class_names: tuple[str, ...] = ("background", "grey", "white")
    in_channels: int = 1
    roi_size: tuple[int, ...] = (SIDE, SIDE, SIDE)
    nsd_tolerance_mm: float = 1.0

    @property
    def splits(self):
        ids = tuple(f"case_{i:02d}" for i in range(self.count))
        held_out = self.count // 4
        return {"train": ids[held_out:], "validation": ids[:held_out], "all": ids}

    @property
    def provenance(self):
        return {
            "source": "procedural",
            "licence": "none",
            "split": "the first quarter",
            "preprocessing": "none",
        }

    def load(self, case_id):
        rng = np.random.default_rng(int(case_id.split("_")[1]))
        label = np.zeros((SIDE, SIDE, SIDE), np.int64)
        for number in (1, 2):
            corner = rng.integers(2, 8, 3) + (number - 1) * np.array([4, 0, 0])
            label[tuple(slice(c, c + 4) for c in corner)] = number
        texture = gaussian_filter(rng.standard_normal(label.shape), 0.8)
        image = 0.25 + 0.25 * gaussian_filter(label.astype(float), 0.5) + 0.03 * texture / texture.std()
        image = np.clip(image, 0, 1).astype(np.float32)[None]
        return Volume(case_id, image, label, (1.0, 1.0, 1.0), np.eye(4), IntensityWindow(0.0, 1.0))


class Thresholds(nn.Module):
    """Segments by smoothed brightness alone; its parameters are its thresholds."""

    def __init__(self):
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([0.0, 8.0, 16.0]))
        self.offsets = nn.Parameter(torch.tensor([0.0, -3.1, -8.2]))

    def forward(self, x):
        smooth = torch.nn.functional.avg_pool3d(x, 3, 1, 1)
        shape = (1, 3, 1, 1, 1)
        return 4 * (self.levels.view(shape) * smooth + self.offsets.view(shape))


@pytest.fixture
def blobs():
    return Blobs()


@pytest.fixture
def victim():
    return Thresholds().eval()


@pytest.fixture
def scans(blobs):
    return [Scan.of(blobs.load(case)) for case in blobs.splits["train"][:12]]


@pytest.fixture
def reference(blobs):
    return [Scan.of(blobs.load(case)) for case in blobs.splits["train"][20:23]]
