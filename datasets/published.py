"""BTCV, ACDC, HECKTOR and FLARE22 with the splits and the preprocessing of arXiv 2406.08486.

The default is the published preparation with two corrections: MRI is mapped by percentiles instead of a CT window,
and the steps run in one order for training and validation, padding last, so that padding is 0 and not water.
``as_published=True`` keeps the published order and window, defects included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nibabel.filebasedimages import ImageFileError

from . import split_lists
from .base import DatasetError
from .folder import CaseFolder
from .msd import CT_WINDOW
from .nifti import CaseFiles
from .prepare import Preparation

SPACING = (1.5, 1.5, 2.0)

NOMINAL = "millimetres are nominal: every header of this copy says the same spacing, so distances are not in true mm"
"""Of a copy whose true spacing is lost."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is known of a registered dataset before any file is there.

    Args:
        name: registry key.
        title: as people know it.
        folders: names of the dataset's folder below the data root.
        layouts: patterns of image and label; ``{id}`` is the case, ``{patient}`` its patient, ``{number}`` its
            number, ``{half}`` Tr or Val. The first layout whose image exists is taken, case by case; the first is also the expected one.
        access: where to register and what goes where.
        frames: whether cases are frames of patients, ``PATIENT_frameNN``, and so several of one.
        roi_size: default window in voxels.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    layouts: tuple[tuple[str, str], ...]
    access: str
    licence: str
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[str, ...]]
    channels: tuple[str, ...]
    preparation: Preparation
    published: Preparation
    published_train: Preparation | None = None
    frames: bool = False
    roi_size: tuple[int, int, int] = (96, 96, 96)

    def open(self, data_root: Path | None, *, as_published: bool = False) -> CaseFolder:
        """Find the files below ``data_root``.

        Raises:
            DatasetError: not one case is there; the message says where to register and what goes where.
        """
        root = self._root(data_root)
        ids = dict.fromkeys(case for group in self.splits.values() for case in group)
        found = {case: self._find(root, case) for case in ids}
        preparation = self.published if as_published else self.preparation
        return CaseFolder(
            root=root,
            name=self.name,
            class_names=self.class_names,
            files=found,
            splits={**self.splits, "all": tuple(ids)},
            preparation=preparation,
            train_preparation=self.published_train if as_published else None,
            channels=self.channels,
            roi_size=self.roi_size,
            patients={case: case.split("_")[0] for case in ids} if self.frames else {},
            notes={
                "source": self.title,
                "licence": self.licence,
                "split": "lists of arXiv 2406.08486",
                **({"note": NOMINAL} if self.frames and _same_spacing(root, found.values()) else {}),
            },
        )

    def missing(self, data_root: Path | None) -> DatasetError:
        """What to say when nothing is there."""
        where = "none" if data_root is None else f"no case of it below {data_root}"
        root = "" if data_root is not None else "; then give --data-root DIR or set ROBUSTVOX_DATA"
        return DatasetError(f"expected {self.title}, found {where}; {self.access}{root}")

    def _root(self, data_root: Path | None) -> Path:
        if data_root is None:
            raise self.missing(None)
        candidates = [*(data_root / folder for folder in self.folders), data_root]
        for candidate in candidates:
            if any((candidate / self._fill(image, case)).is_file() for image, case in self._images()):
                return candidate
        raise self.missing(data_root)

    def _images(self) -> list[tuple[str, str]]:
        return [
            (image, case) for group in self.splits.values() for case in group for image, _ in self.layouts
        ]

    def _find(self, root: Path, case: str) -> CaseFiles:
        layouts = [(self._fill(image, case), self._fill(label, case)) for image, label in self.layouts]
        image, label = next((pair for pair in layouts if (root / pair[0]).is_file()), layouts[0])
        return CaseFiles((image,), label)

    @staticmethod
    def _fill(pattern: str, case: str) -> str:
        patient, number = case.split("_")[0], case.removeprefix("img")
        return pattern.format(
            id=case, patient=patient, number=number, half="Val" if patient == "FLARETs" else "Tr"
        )


def _btcv() -> Published:
    split = {
        "train": tuple(f"img{n:04d}" for n in split_lists.numbers(split_lists.BTCV_TRAIN)),
        "validation": tuple(f"img{n:04d}" for n in split_lists.numbers(split_lists.BTCV_VALIDATION)),
    }
    recipe = Preparation(spacing_mm=SPACING, window=CT_WINDOW, crop_foreground=True)
    return Published(
        name="btcv",
        title="BTCV, abdominal CT of MICCAI 2015 Multi-Atlas Labeling Beyond the Cranial Vault",
        folders=("BTCV", "btcv", "Synapse", "Abdomen"),
        layouts=(
            ("imagesTr/img{number}.nii.gz", "labelsTr/label{number}.nii.gz"),
            ("RawData/Training/img/img{number}.nii.gz", "RawData/Training/label/label{number}.nii.gz"),
            ("Training/img/img{number}.nii.gz", "Training/label/label{number}.nii.gz"),
        ),
        access="register at synapse.org, project syn3193805, and put img0001.nii.gz ... into BTCV/imagesTr and "
        "label0001.nii.gz ... into BTCV/labelsTr, or keep the archive's RawData/Training/img and label",
        licence="terms of Synapse project syn3193805",
        class_names=(
            "background", "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach",
            "aorta", "inferior vena cava", "portal and splenic veins", "pancreas", "right adrenal gland",
            "left adrenal gland",
        ),
        splits=split,
        channels=("CT",),
        preparation=recipe,
        published=recipe,
    )  # fmt: skip


def _acdc() -> Published:
    recipe = Preparation(spacing_mm=SPACING, fit_to=(96, 96, 96))
    published = replace(recipe, window=CT_WINDOW, crop_foreground=True)
    return Published(
        name="acdc",
        title="ACDC, cardiac cine MRI of MICCAI 2017 Automated Cardiac Diagnosis Challenge",
        folders=("ACDC", "acdc"),
        layouts=(
            ("imagesTr/{id}.nii.gz", "labelsTr/{id}_gt.nii.gz"),
            ("imagesTs/{id}.nii.gz", "labelsTs/{id}_gt.nii.gz"),
            ("training/{patient}/{id}.nii.gz", "training/{patient}/{id}_gt.nii.gz"),
            ("database/training/{patient}/{id}.nii.gz", "database/training/{patient}/{id}_gt.nii.gz"),
        ),
        access="register at the CREATIS ACDC site (Human Heart Project) and put patient001_frame01.nii.gz ... into "
        "ACDC/imagesTr and patient001_frame01_gt.nii.gz ... into ACDC/labelsTr, or keep the archive's "
        "training/patient001/ folders",
        licence="CC BY-NC-SA 4.0: not for commercial use, and what is made of it carries the same licence",
        class_names=("background", "right ventricular cavity", "myocardium", "left ventricular cavity"),
        splits={
            "train": split_lists.acdc_frames(split_lists.ACDC_TRAIN),
            "validation": split_lists.acdc_frames(split_lists.ACDC_VALIDATION),
            "test": split_lists.acdc_frames(split_lists.ACDC_TEST),
        },
        channels=("MRI",),
        frames=True,
        preparation=recipe,
        published=replace(published, order=("orient", "resample", "pad", "window", "crop")),
        published_train=replace(published, order=("orient", "resample", "window", "crop", "pad")),
    )


def _acdc_light() -> Published:
    """ACDC for a CPU: a quarter of the voxels in the plane, slices halved instead of fifths, a seventh of the window."""
    return replace(
        _acdc(),
        name="acdc_light",
        title="ACDC, cardiac cine MRI of MICCAI 2017, light preparation for CPUs",
        preparation=Preparation(spacing_mm=(2.5, 2.5, 5.0), fit_to=(64, 64, 32)),
        roi_size=(64, 64, 32),
    )


def _hecktor() -> Published:
    recipe = Preparation(orientation="PLS", window=CT_WINDOW, pad_to=(176, 176, 176))
    return Published(
        name="hecktor",
        title="HECKTOR 2022, CT of head and neck tumors",
        folders=("HECKTOR", "hecktor", "1_1_1_s176v2"),
        layouts=(("ct/{id}_ct_trans.nii.gz", "gtvt/{id}_gtvt_trans.nii.gz"),),
        access="register at hecktor.grand-challenge.org (approval by the organizers), resample CT and labels to 1 mm "
        "(a cube of 176 voxels in the benchmark, whose script is not published) and put CHUM-001_ct_trans.nii.gz "
        "... into HECKTOR/ct and CHUM-001_gtvt_trans.nii.gz ... into HECKTOR/gtvt",
        licence="terms of the HECKTOR challenge",
        class_names=("background", "primary tumor", "lymph nodes"),
        splits={
            "train": split_lists.hecktor_ids(split_lists.HECKTOR_TRAIN),
            "validation": split_lists.hecktor_ids(split_lists.HECKTOR_TEST),
        },
        channels=("CT",),
        preparation=recipe,
        published=replace(recipe, order=("pad", "orient", "window")),
    )


def _flare22() -> Published:
    recipe = Preparation(window=CT_WINDOW, crop_foreground=True, pad_to=(-1, -1, 96))
    return Published(
        name="flare22",
        title="FLARE22, abdominal CT (the subset called AbdomenCT-1k in arXiv 2406.08486)",
        folders=("FLARE22", "flare22", "abdomen", "Dataset701_AbdomenCT"),
        layouts=(
            ("images{half}/{id}_0000_resampled.nii.gz", "labels{half}/{id}_resampled.nii.gz"),
            ("images{half}/{id}_0000.nii.gz", "labels{half}/{id}.nii.gz"),
        ),
        access="register at flare22.grand-challenge.org and put FLARE22_Tr_0001_0000.nii.gz ... into "
        "FLARE22/imagesTr, FLARETs_0001_0000.nii.gz ... into FLARE22/imagesVal and the labels without _0000 into "
        "labelsTr and labelsVal; names ending in _resampled are taken first",
        licence="terms of the FLARE22 challenge",
        class_names=(
            "background", "liver", "right kidney", "spleen", "pancreas", "aorta", "inferior vena cava",
            "right adrenal gland", "left adrenal gland", "gallbladder", "esophagus", "stomach", "duodenum",
            "left kidney",
        ),
        splits={
            "train": tuple(f"FLARE22_Tr_{n:04d}" for n in range(1, 51)),
            "validation": tuple(f"FLARETs_{n:04d}" for n in range(1, 51)),
        },
        channels=("CT",),
        preparation=recipe,
        published=recipe,
        published_train=replace(recipe, pad_to=(-1, -1, 245)),
    )  # fmt: skip


SAMPLED = 12
"""Patients whose headers are read to tell a copy that lost its spacing."""


def _same_spacing(root: Path, files: Iterable[CaseFiles]) -> bool:
    """Whether the headers of several patients all say one spacing, which no clinic's scans do."""
    import nibabel as nib

    patients: dict[str, tuple[float, ...]] = {}
    for case in files:
        patient = case.images[0].rsplit("/", 1)[-1].split("_")[0]
        path = root / case.images[0]
        if patient in patients or not path.is_file():
            continue
        try:
            header: Any = nib.load(path).header  # type: ignore[attr-defined]
        except (OSError, ValueError, ImageFileError):
            continue  # a damaged file is the case's own fault, said when it is read
        patients[patient] = tuple(round(float(side), 4) for side in header.get_zooms()[:3])
        if len(patients) == SAMPLED:
            break
    return len(patients) == SAMPLED and len(set(patients.values())) == 1


PUBLISHED: Mapping[str, Callable[[], Published]] = {
    "btcv": _btcv,
    "acdc": _acdc,
    "hecktor": _hecktor,
    "flare22": _flare22,
}

VARIANTS: Mapping[str, Callable[[], Published]] = {"acdc_light": _acdc_light}
"""The same cases and splits under another preparation, which is another dataset with a name of its own."""
