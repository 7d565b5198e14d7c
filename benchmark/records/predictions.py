"""Predictions as NIfTI label maps on the voxels of the case, each with the unit of the record that scored it.

They lie beside the adversarial volumes and not among them: a folder of volumes can be scored again as a whole. The
unit lies in a header extension (code 6, "comment") as JSON; ``descrip`` repeats the record key for people.
"""

from __future__ import annotations

import gzip
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from robustvox.datasets import Volume
from robustvox.datasets.entries import is_hidden
from robustvox.datasets.geometry import axes_of, turn
from robustvox.datasets.nifti import check_affine, check_label, read_array, spatial

from ..specs.spec import CLEAN
from .unit import Unit
from .volumes import PREDICTION, as_stored, attach_note, case_slug, notes_in, slug


@dataclass(frozen=True)
class SavedPrediction:
    """A file that :func:`save_prediction` wrote, and the unit it was scored as."""

    path: Path
    unit: Unit

    def load(self, volume: Volume, num_classes: int) -> np.ndarray:
        """Class ids ``(*spatial)`` int16 along the axes of the case.

        Args:
            volume: the clean case.
            num_classes: background included.

        Raises:
            CaseError: if the file is damaged, or does not lie on the voxels of ``volume``.
        """
        array, affine, _ = read_array(self.path, volume.id)
        turned, affine = turn(spatial(array), affine, axes_of(volume.affine))
        label = check_label(turned, volume.label.shape, num_classes, volume.id)
        check_affine(volume.affine, affine, volume.id, what=f"the case and {self.path.name}")
        return label


def save_prediction(folder: Path, volume: Volume, prediction: np.ndarray, unit: Unit) -> Path:
    """Write a prediction below ``folder`` and return its path; it is complete or not there.

    ``<target>/clean/<case>.nii.gz`` for the clean image, ``<target>/<surrogate>/<attack>/<case>.nii.gz`` for others.

    Args:
        folder: ``<out>/<dataset>/predictions``.
        volume: the case.
        prediction: class ids ``(*spatial)`` along its axes; stored as uint8 where they fit, else as int16.
        unit: as which it is scored.

    Example:
        >>> import tempfile
        >>> from robustvox.datasets import open_dataset
        >>> volume = open_dataset("phantom").load("val_000")
        >>> unit = Unit(dataset="phantom", case="val_000", attack="none", surrogate="unet", surrogate_sha256="ab",
        ...             target="unet", target_sha256="ab", protocol="robustvox-1", seed=0, data_sha256="cd")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_prediction(Path(folder), volume, volume.label, unit)
        ...     (found,), refused = open_predictions(Path(folder), "val_000")
        ...     path.relative_to(folder).as_posix(), bool((found.load(volume, 8) == volume.label).all())
        ('unet/clean/val_000.nii.gz', True)
    """
    stored = prediction.astype(np.uint8 if prediction.max(initial=0) < 256 else np.int16)
    nifti = as_stored(stored[None], volume, f"robustvox {unit.key} prediction")
    attach_note(nifti, PREDICTION + json.dumps(asdict(unit)).encode())
    whose = ("clean",) if unit.attack == CLEAN else (slug(unit.surrogate), slug(unit.attack))
    path = _free(folder.joinpath(slug(unit.target), *whose), unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may write one clean prediction at once, so that each has an unfinished file of its own.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    unfinished.write_bytes(gzip.compress(nifti.to_bytes(), 6, mtime=0))
    os.replace(unfinished, path)
    return path


def _free(folder: Path, unit: Unit) -> Path:
    """The file of a prediction: its own, if it was saved before, or one that is no other unit's."""
    stem = case_slug(unit.case)
    path = folder / f"{stem}.nii.gz"
    if not path.exists():
        return path
    try:
        found = read_unit(path)
    except ValueError:
        return path
    return path if found.slot == unit.slot else folder / f"{stem}-{unit.key[:8]}.nii.gz"


def read_unit(path: Path) -> Unit:
    """The unit in the header of a saved prediction; the voxels are not read.

    Raises:
        ValueError: naming the file, if it is no NIfTI file or holds no unit.
    """
    notes = [text for text in notes_in(path) if text.startswith(PREDICTION)]
    try:
        (text,) = notes
        return Unit(**json.loads(text.rstrip(b"\0").removeprefix(PREDICTION)))
    except (ValueError, TypeError, RecursionError):
        raise ValueError(
            f"{path.name}: expected the unit that `run --save-adversarial` puts into the header of a prediction, found "
            f"{'a damaged one' if notes else 'none'}; save it again with that option and --recompute"
        ) from None


def open_predictions(folder: Path, case: str) -> tuple[Sequence[SavedPrediction], Sequence[str]]:
    """The predictions of a case below ``folder``, and a line for every file with its name that holds none."""
    found: list[SavedPrediction] = []
    refused: list[str] = []
    for path in sorted(folder.rglob(f"{case_slug(case)}*.nii.gz")):
        if is_hidden(path.name) or not path.is_file():
            continue
        try:
            saved = SavedPrediction(path, read_unit(path))
        except ValueError as error:
            refused.append(str(error))
        else:
            if saved.unit.case == case:  # other ids may begin like it
                found.append(saved)
    return found, refused
