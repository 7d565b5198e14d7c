"""Any folder in the layout of the Medical Segmentation Decathlon: ``dataset.json``, imagesTr, labelsTr."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .base import CaseError, DatasetError, IntensityWindow, Volume
from .nifti import CaseFiles, RawCase, read_case
from .prepare import PERCENTILES, percentile_windows

CT_WINDOW = IntensityWindow(-175.0, 250.0, "HU")
"""Soft-tissue window of the published benchmark (arXiv 2406.08486)."""


def split_ids(ids: Sequence[str], validation: float | int, seed: int) -> dict[str, tuple[str, ...]]:
    """Split patients by the order of ``sha256(f"{seed}:{id}")``.

    Independent of the order of the list, stable when cases are added (a patient moves only across the
    boundary), and the same on every platform.

    Args:
        ids: unique case ids, one per patient.
        validation: share (float in [0, 1]) or number (int) of cases held out.
        seed: chooses the split; recorded with the results.

    Returns:
        ``train`` and ``validation`` in alphabetical order, ``all`` being both.

    Example:
        >>> sorted(split_ids(["a", "b", "c", "d"], 0.25, seed=0)["validation"]).__len__()
        1
    """
    if len(set(ids)) != len(ids):
        twice = sorted({i for i in ids if list(ids).count(i) > 1})
        raise DatasetError(
            f"expected unique case ids, found {', '.join(twice[:5])} more than once; remove the copies"
        )
    order = sorted(ids, key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).hexdigest())
    held_out = validation if isinstance(validation, int) else round(validation * len(order))
    return {
        "train": tuple(sorted(order[held_out:])),
        "validation": tuple(sorted(order[:held_out])),
        "all": tuple(sorted(order)),
    }


@dataclass(frozen=True, kw_only=True)
class MSDFolder:
    """Labelled cases of one MSD-style folder, on the voxel grid as stored (no resampling).

    CT modalities are windowed to [-175, 250] HU, everything else by the 0.5 and 99.5 percentile of each
    volume and channel, because scanners differ by four orders of magnitude (0..255 to 0..1.7 million in
    the hippocampus task).

    Args:
        root: folder that holds ``dataset.json``.
        name: key in records and folder below ``results/``.
        roi_size: default sliding window, voxels.
        nsd_tolerance_mm: tolerance of the surface Dice, millimetres.
        validation: share of patients held out, or their number.
        split_seed: seed of :func:`split_ids`.

    Raises:
        DatasetError: if ``dataset.json`` is missing or malformed.
    """

    root: Path
    name: str
    roi_size: tuple[int, ...] = (96, 96, 96)
    nsd_tolerance_mm: float = 1.0
    validation: float = 0.2
    split_seed: int = 0
    _meta: dict[str, Any] = field(init=False, repr=False, compare=False)
    _files: dict[str, CaseFiles] = field(init=False, repr=False, compare=False)
    _splits: Mapping[str, Sequence[str]] = field(init=False, repr=False, compare=False)
    _twice: set[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        meta = read_meta(Path(self.root))
        ids = [case_id(entry["image"]) for entry in meta["training"]]
        files = {
            case: CaseFiles((e["image"],), e["label"]) for case, e in zip(ids, meta["training"], strict=True)
        }
        object.__setattr__(self, "_meta", meta)
        object.__setattr__(self, "_splits", split_ids(list(files), self.validation, self.split_seed))
        object.__setattr__(self, "_twice", {case for case in files if ids.count(case) > 1})
        object.__setattr__(self, "_files", files)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(str(self._meta["labels"][str(k)]) for k in range(len(self._meta["labels"])))

    @property
    def in_channels(self) -> int:
        return max(len(self._meta.get("modality", {})), 1)

    @property
    def splits(self) -> Mapping[str, Sequence[str]]:
        return self._splits

    @property
    def provenance(self) -> Mapping[str, str]:
        normalization = "HU window [-175, 250]" if self._is_ct else f"per-volume percentiles {PERCENTILES}"
        return {
            "source": str(self._meta.get("reference", "unknown")),
            "licence": str(self._meta.get("licence", self._meta.get("license", "unknown"))),
            "split": f"sha256 order, seed {self.split_seed}, validation share {self.validation}",
            "preprocessing": f"voxel grid as stored, {normalization}",
        }

    @property
    def _is_ct(self) -> bool:
        return any("CT" in str(m).upper().split() for m in self._meta.get("modality", {}).values())

    def load(self, case_id: str) -> Volume:
        """Read, check and normalise one case; raises :class:`CaseError` naming what is wrong with it."""
        return self.prepare(self.read(case_id))

    def prepare(self, raw: RawCase) -> Volume:
        """What networks see of a case that was read, from this folder or from elsewhere."""
        window = CT_WINDOW if self._is_ct else percentile_windows(raw.image, raw.id)
        return Volume(raw.id, window.apply(raw.image), raw.label, raw.spacing_mm, raw.affine, window)

    def read(self, case_id: str) -> RawCase:
        """Read and check one case as stored; raises :class:`CaseError` naming what is wrong with it."""
        if case_id not in self._files:
            raise CaseError(
                case_id,
                f"a case of {self.name}",
                "no such id",
                f"known ids start with {next(iter(self._files))}",
            )
        if case_id in self._twice:
            raise CaseError(
                case_id,
                "one entry per case in dataset.json",
                "more than one",
                "remove the copies or rename the files",
            )
        return read_case(
            Path(self.root),
            self._files[case_id],
            channels=self.in_channels,
            num_classes=len(self.class_names),
            case_id=case_id,
        )

    def paths(self, case_id: str) -> CaseFiles:
        """Where the files of one case are listed, relative to ``root``."""
        return self._files[case_id]


def case_id(image_name: str) -> str:
    """The file's name without folder and ``.nii`` or ``.nii.gz``."""
    return re.sub(r"\.nii(\.gz)?$", "", image_name.rsplit("/", 1)[-1])


def read_meta(root: Path) -> dict[str, Any]:
    """The checked ``dataset.json`` of an MSD folder; raises :class:`DatasetError`."""
    path = root / "dataset.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(
            f"expected {path}, found nothing; give the folder that holds dataset.json"
        ) from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"expected JSON in {path}, found {error}; repair the file") from error
    if not isinstance(meta, dict):
        raise DatasetError(f"expected a JSON object in {path}, found {type(meta).__name__}; repair the file")
    labels, training = meta.get("labels"), meta.get("training")
    if not isinstance(labels, dict) or set(labels) != {str(k) for k in range(len(labels))} or len(labels) < 2:
        raise DatasetError(
            f'expected "labels" {{"0": ..., "1": ...}} without gaps in {path}, found {labels}; repair it'
        )
    complete = isinstance(training, list) and all(
        isinstance(e, dict) and all(isinstance(e.get(k), str) for k in ("image", "label")) for e in training
    )
    if not complete or not training:
        raise DatasetError(
            f'expected a non-empty "training" list of image and label paths in {path}; repair it'
        )
    return meta
