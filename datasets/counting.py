"""What a list without metadata does not say: classes and channels, counted in its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .base import CaseError
from .nifti import CaseFiles, inside, read_array, spatial


def count_channels(root: Path, files: Mapping[str, CaseFiles]) -> int:
    """Channels of the first case that can be read; a case of another number is refused when loaded."""
    for case, entry in files.items():
        first, *further = entry.images
        if further:
            return 1 + len(further)
        try:
            array, _, _ = read_array(inside(root, first, case), case)
        except CaseError:
            continue
        array = spatial(array)
        return int(array.shape[-1]) if array.ndim == 4 else 1
    return 1


def count_classes(root: Path, files: Mapping[str, CaseFiles]) -> tuple[str, ...]:
    """Names ``class_1`` ... up to the highest id of any readable label."""
    highest = 1
    for case, entry in files.items():
        try:
            array, _, _ = read_array(inside(root, entry.label, case), case)
        except CaseError:
            continue
        if array.size and np.isfinite(array).all():
            highest = max(highest, min(int(np.rint(array.max())), 255))
    return ("background", *(f"class_{k}" for k in range(1, highest + 1)))
