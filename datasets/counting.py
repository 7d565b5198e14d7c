"""What a list without metadata does not say: classes and channels, counted in its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .base import CaseError, DatasetError
from .nifti import CaseFiles, inside, read_array, spatial

MOST = 255
"""Ids above are refused case by case."""


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


def count_classes(root: Path, files: Mapping[str, CaseFiles], where: str) -> tuple[str, ...]:
    """Names ``class_1`` ... up to the highest id of any readable label.

    Args:
        root: every path is inside it.
        files: by case.
        where: the list, for messages.

    Raises:
        DatasetError: most ids up to the highest occur nowhere, as in masks of 0 and 255: these are no class ids.
    """
    found: set[int] = set()
    for case, entry in files.items():
        try:
            array, _, _ = read_array(inside(root, entry.label, case), case)
        except CaseError:
            continue
        if array.size and np.isfinite(array).all():
            found.update(int(k) for k in np.unique(np.rint(array)) if 0 < k <= MOST)
    highest = max(found, default=1)
    if 2 * len(found) < highest > 2:
        ids = ", ".join(map(str, sorted(found)[:8]))
        raise DatasetError(
            f"expected class ids 1..K in the labels of {where}, found {ids}; name those that count in the JSON beside a CSV "
            f'of the same name, {{"keep": {{"{highest}": "tumor"}}}}, or renumber the labels'
        )
    return ("background", *(f"class_{k}" for k in range(1, highest + 1)))
