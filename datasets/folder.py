"""Cases whose files, splits and preparation are known before a file is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from .base import CaseError, DatasetError, Volume
from .entries import FOLD
from .nifti import CaseFiles, RawCase, read_case
from .prepare import Preparation
from .windows import check_hounsfield


@dataclass(frozen=True, kw_only=True)
class CaseFolder:
    """Labelled cases below one folder: files by case id, splits by name, one preparation per split.

    A case that is in two splits, or one with an entry in ``faults``, stays listed and is refused when it is
    loaded, so that it becomes a failed row and nobody overlooks it.

    Args:
        root: every path is inside it.
        name: key in records and folder below ``results/``.
        class_names: by class id, background first.
        files: by case id.
        splits: case ids per split; ``train`` and ``validation`` at least.
        preparation: of all cases.
        train_preparation: of the cases of ``train``, where the published code treats them otherwise.
        channels: names of the image's channels.
        notes: source, licence, split rule and how to obtain the files.
        faults: ids that cannot be used whatever their files hold.
        ignore: id in the label files of voxels that are neither trained on nor scored.
        relabel: ids of the label files to class ids; every other id is background. None keeps ids as they are.
        path: of the folder or list that was opened by its path, which is its identity; ``None`` for a dataset of
            the registry.
        patients: patient by case id, where a patient has several cases; a case that is not named is its own.

    Raises:
        DatasetError: a split names a case without files, or there are fewer than two classes.
    """

    root: Path
    name: str
    class_names: tuple[str, ...]
    files: Mapping[str, CaseFiles]
    splits: Mapping[str, Sequence[str]]
    preparation: Preparation
    train_preparation: Preparation | None = None
    channels: tuple[str, ...] = ("CT",)
    roi_size: tuple[int, ...] = (96, 96, 96)
    nsd_tolerance_mm: float = 2.0
    notes: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, CaseError] = field(default_factory=dict)
    ignore: int | None = None
    relabel: Mapping[int, int] | None = None
    path: Path | None = None
    patients: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise DatasetError(
                f"expected background and a class in {self.name}, found {self.class_names}; list the classes"
            )
        lost = {case for ids in self.splits.values() for case in ids} - set(self.files)
        if lost or not {"train", "validation"} <= set(self.splits):
            raise DatasetError(
                f"expected splits train and validation of known cases in {self.name}, found {list(self.splits)} "
                f"with unknown {', '.join(sorted(lost)[:5]) or 'none'}; correct the lists"
            )
        object.__setattr__(self, "faults", {**_overlaps(self.splits, self.patients), **self.faults})

    @property
    def in_channels(self) -> int:
        return len(self.channels)

    @property
    def provenance(self) -> Mapping[str, str]:
        text = self.preparation.describe()
        if self.train_preparation is not None:
            text = f"{text} (train: {self.train_preparation.describe()})"
        return {"source": "unknown", "licence": "unknown", **self.notes, "preprocessing": text}

    def renamed(self, name: str, path: Path) -> CaseFolder:
        """The same dataset under the name that results know the path by."""
        twin = copy(self)
        object.__setattr__(twin, "name", name)
        object.__setattr__(twin, "path", path)
        return twin

    def paths(self, case_id: str) -> CaseFiles:
        """Where the files of one case are expected, relative to ``root``."""
        return self.files[case_id]

    def read(self, case_id: str) -> RawCase:
        """Read and check one case on the grid as stored; raises :class:`CaseError`."""
        if case_id not in self.files:
            raise CaseError(
                case_id,
                f"a case of {self.name}",
                "no such id",
                f"known ids start with {next(iter(self.files), 'none')}",
            )
        if case_id in self.faults:
            raise self.faults[case_id]
        raw = read_case(
            Path(self.root),
            self.files[case_id],
            channels=self.in_channels,
            num_classes=len(self.class_names),
            case_id=case_id,
            ignore=self.ignore,
            relabel=self.relabel,
        )
        check_hounsfield(raw.image, self.channels, case_id)
        return raw

    def load(self, case_id: str) -> Volume:
        """Read, check and prepare one case; raises :class:`CaseError` naming what is wrong with it."""
        raw = self.read(case_id)
        if self.train_preparation is not None and case_id in self.splits["train"]:
            return self.train_preparation(raw)
        return self.prepare(raw)

    def prepare(self, raw: RawCase) -> Volume:
        """What networks see of a case that was read, from this folder or from elsewhere."""
        return self.preparation(raw)


def _overlaps(splits: Mapping[str, Sequence[str]], patients: Mapping[str, str]) -> dict[str, CaseError]:
    """Cases that two splits share, or whose patient they share, which no result may rest on."""
    faults = {}
    own = {name: ids for name, ids in splits.items() if name != "all" and not name.startswith(FOLD)}
    for (one, first), (other, second) in combinations(own.items(), 2):
        whose = [{patients.get(case, case) for case in ids} for ids in (first, second)]
        shared = whose[0] & whose[1]
        for case in sorted(case for case in {*first, *second} if patients.get(case, case) in shared):
            what = "case" if case in first and case in second else f"patient {patients.get(case, case)}"
            found = f"{'it' if what == 'case' else 'that patient'} in {one} and {other}"
            faults[case] = CaseError(case, f"a {what} of one split", found, "correct the lists")
    return faults
