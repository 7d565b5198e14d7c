"""A window that an architecture suggests is one it takes."""

from __future__ import annotations

import re

import pytest
import torch

from robustvox.models import MODELS, build_model
from robustvox.models.bring.foreign import check_window


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("roi_size", [(5, 6, 7), (17, 23, 40)])
def test_suggested_windows_work(name, roi_size):
    """Tried on shapes alone; (5, 6, 7) rounds to a single voxel at the coarsest level of most networks."""
    classes = {"in_channels": 1, "num_classes": 3}
    try:
        build_model(name, **classes, roi_size=roi_size, size="small")
    except ValueError as error:
        suggested = re.findall(r"\((\d+, \d+, \d+)\)", str(error).partition("nearest")[2])
        assert suggested
        for text in suggested:
            window = tuple(map(int, text.split(", ")))
            torch.manual_seed(0)
            network = build_model(name, **classes, roi_size=window, size="small").eval()
            check_window(network, name, **classes, roi_size=window)
