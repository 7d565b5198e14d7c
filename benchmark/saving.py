"""Adversarial volumes as NIfTI: float32, the source's affine, the record's key in the header."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np

from robustvox.datasets import Volume

UNITS = ("unit", "original")


def save_adversarial(
    folder: Path,
    volume: Volume,
    image: np.ndarray,
    *,
    surrogate: str,
    attack: str,
    key: str,
    units: str = "unit",
) -> Path:
    """Write one adversarial image below ``folder`` and return its path.

    Args:
        folder: ``results/<dataset>/adversarial``; one folder per surrogate and attack is made in it.
        volume: the case, for affine and intensity window.
        image: ``(C, *spatial)`` float32 in [0, 1].
        surrogate: name of the attacked model.
        attack: canonical spec.
        key: record key, stored in the header's description.
        units: ``"unit"`` for [0, 1], ``"original"`` for the source's intensities (HU for CT).

    Example:
        >>> import tempfile
        >>> from robustvox.datasets import open_dataset
        >>> volume = open_dataset("phantom").load("val_000")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_adversarial(
        ...         Path(folder), volume, volume.image, surrogate="unet", attack="gn:std=0.1", key="0f"
        ...     )
        >>> path.name
        'val_000.nii.gz'
    """
    if units not in UNITS:
        raise ValueError(f"expected units among {', '.join(UNITS)}, got {units!r}")
    path = folder / slug(surrogate) / slug(attack) / f"{slug(volume.id)}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    values = volume.window.invert(image) if units == "original" else image.astype(np.float32)
    values = values[0] if values.shape[0] == 1 else np.moveaxis(values, 0, -1)
    nifti = nib.Nifti1Image(values, volume.affine)
    nifti.set_data_dtype(np.float32)
    nifti.header["descrip"] = f"robustvox {key} {units}".encode()
    nib.save(nifti, path)
    return path


def slug(text: str) -> str:
    """A file name no file system minds and nobody can climb out of a folder with."""
    return re.sub(r"[^A-Za-z0-9.=-]+", "_", text).strip("._") or "unnamed"
