"""Finding the saved adversarial volumes of a folder, to score them on targets they were not made on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustvox.datasets import Dataset
from robustvox.datasets.entries import is_hidden

from ..records.sources import base_name
from ..records.volumes import Note, PredictionError, SavedVolume, read_note
from ..specs.spec import UsageError

SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Folder:
    """What a folder holds: volumes that fit the run, and one line for every file that does not."""

    volumes: tuple[SavedVolume, ...]
    refused: tuple[str, ...]

    @property
    def cases(self) -> tuple[str, ...]:
        """Case ids, each once, in the order of the files."""
        return tuple(dict.fromkeys(volume.note.case for volume in self.volumes))


def open_folder(root: Path, dataset: Dataset, protocol: str, cases: Sequence[str]) -> Folder:
    """Read the notes below ``root``; the voxels are read when they are scored.

    Args:
        root: searched with its subfolders for NIfTI files.
        dataset: what the volumes must come from.
        protocol: name of the protocol they must be made and scored by.
        cases: ids that are wanted; volumes of other cases of the dataset are left out.

    Raises:
        UsageError: if there is no such folder, or no NIfTI file in it.
    """
    if not root.is_dir():
        raise UsageError(f"expected a folder of saved volumes for --adversarial, found none at {root}")
    paths = sorted(
        p
        for p in root.rglob("*")
        if p.name.lower().endswith(SUFFIXES) and p.is_file() and not is_hidden(p.name)
    )
    if not paths:
        raise UsageError(
            f"expected NIfTI files below {root} for --adversarial, found none; write some with "
            "`run --save-adversarial`"
        )
    known = {case for ids in dataset.splits.values() for case in ids}
    volumes: dict[tuple, SavedVolume] = {}
    refused: list[str] = []
    for path in paths:
        try:
            note = read_note(path)
            _check(path, note, dataset, protocol, known)
            if note.case not in cases:
                continue
            identity = (note.case, note.attack, note.surrogate, note.surrogate_sha256, note.seed)
            if identity in volumes:
                raise ValueError(
                    f"case {note.case}: expected one volume per case, attack, model and seed, found {path.name} "
                    f"beside {volumes[identity].path.relative_to(root)}; remove one"
                )
        except PredictionError:
            continue  # saved beside the volumes, by the same option
        except ValueError as error:
            refused.append(str(error))
        else:
            volumes[identity] = SavedVolume(path, note)
    return Folder(tuple(volumes.values()), tuple(refused))


def _check(path: Path, note: Note, dataset: Dataset, protocol: str, known: set[str]) -> None:
    where = f"case {note.case}: expected"
    if base_name(note.dataset) != base_name(dataset.name):
        raise ValueError(
            f"{where} a volume of {dataset.name}, found one of {note.dataset} in {path.name}; score it with "
            f"--dataset {note.dataset}"
        )
    if note.protocol != protocol:
        raise ValueError(
            f"{where} a volume made by protocol {protocol}, found {note.protocol} in {path.name}; score it with "
            f"--protocol {note.protocol}"
        )
    if note.case not in known:
        raise ValueError(
            f"{where} a case of {dataset.name} (ids like {min(known, default='none')}), found no such id "
            f"({path.name}); give the data the volume was made from"
        )
