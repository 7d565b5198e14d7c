"""Adversarial volumes as NIfTI files that can be scored again: float32, the source's affine, a note in the header.

The note says which record the volume belongs to and what it cost, so that scoring the file on any target gives
the row that crafting it live would have given. It lies in a header extension (code 6, "comment") as JSON; the
80 bytes of ``descrip`` repeat the record key and the units for people.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Extension

from robustvox.datasets import CaseError, ChannelWindows, Volume
from robustvox.datasets.geometry import axes_of, turn
from robustvox.datasets.nifti import check_affine, check_image, read_array
from robustvox.datasets.nifti_file import read_header, read_image

from ..specs.crossing import UNITS
from ..specs.names import is_reserved

_PREFIX = b"robustvox "
PREDICTION = b"robustvox prediction "
"""Begins the note of what is no volume, see :mod:`robustvox.benchmark.records.predictions`."""

_COMMENT = 6  # code of plain text among NIfTI's header extensions


_IDENTITY = ("dataset", "case", "attack", "surrogate", "surrogate_sha256", "protocol", "seed")
_TOLERANCE = 1e-3  # share of the window by which original intensities may leave it


@dataclass(frozen=True, kw_only=True)
class Note:
    """What a saved volume is: the identity of its records but for the target, and what crafting it cost.

    Args:
        key: record key, :attr:`robustvox.benchmark.records.unit.Unit.key`, of the first target it was scored on.
        units: ``"unit"`` for [0, 1], ``"original"`` for the source's intensities.
        dataset, case, attack, surrogate, surrogate_sha256, protocol, seed, data_sha256: as in
            :class:`~robustvox.benchmark.records.unit.Unit`.
        forwards, backwards, seconds, flags: as in the record.
    """

    key: str
    units: str
    dataset: str
    case: str
    attack: str
    surrogate: str
    surrogate_sha256: str
    protocol: str
    seed: int
    data_sha256: str
    forwards: int
    backwards: int
    seconds: float
    flags: tuple[str, ...]

    @property
    def cost(self) -> dict[str, Any]:
        """Forwards, backwards and seconds of crafting."""
        return {"forwards": self.forwards, "backwards": self.backwards, "seconds": self.seconds}

    @classmethod
    def parse(cls, text: bytes) -> Note | None:
        """The note a header extension holds, None for anything else."""
        try:
            entry = json.loads(text.rstrip(b"\0").removeprefix(_PREFIX))
            note = cls(**{**entry, "flags": tuple(entry["flags"])})
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        words = [getattr(note, f.name) for f in fields(cls) if f.type == "str"]
        numbers = (note.seed, note.forwards, note.backwards, note.seconds)
        good = all(isinstance(w, str) for w in (*words, *note.flags)) and note.units in UNITS
        return note if good and all(type(n) in (int, float) for n in numbers) else None


class PredictionError(ValueError):
    """A file holds a saved prediction where a volume was expected."""


@dataclass(frozen=True)
class SavedVolume:
    """A file that :func:`save_adversarial` wrote, and its note."""

    path: Path
    note: Note

    def load(self, volume: Volume, data_sha256: str) -> np.ndarray:
        """The adversarial image ``(C, *spatial)`` in [0, 1], bit by bit as it was scored.

        Args:
            volume: the clean case.
            data_sha256: its fingerprint, which must be that of the case that was attacked.

        Raises:
            CaseError: if the file is damaged, or does not belong to ``volume`` as it is now.
        """
        image, affine = self._read(volume)
        if image.shape != volume.image.shape:
            raise self._refuse(
                volume,
                f"the shape {volume.image.shape[1:]} of the case",
                f"{image.shape[1:]}",
                "save it again",
            )
        check_affine(volume.affine, affine, volume.id, what=f"the case and {self.path.name}")
        if self.note.data_sha256 != data_sha256:
            raise self._refuse(
                volume,
                f"a volume made from this image and label ({data_sha256[:8]})",
                f"one made from others ({self.note.data_sha256[:8]})",
                "use the files and preprocessing it was made with, or attack again",
            )
        return self._to_unit(image, volume)

    def _read(self, volume: Volume, *, unscaled: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The values of the file ``(C, *spatial)`` along the axes of the case, and their affine."""
        array, affine, _ = read_array(self.path, volume.id)
        if unscaled:
            array = read_image(self.path, volume.id).dataobj.get_unscaled()
        image = check_image(array, volume.image.shape[0], volume.id)
        return turn(image, affine, axes_of(volume.affine))

    def _to_unit(self, image: np.ndarray, volume: Volume) -> np.ndarray:
        low, high, unit = 0.0, 1.0, "unit"
        if self.note.units == "original":
            stored = read_header(self.path, volume.id)
            if stored.dataobj.slope != 1.0 or stored.dataobj.inter != 0.0:
                # The header scales to original intensities; what lies beneath is what was scored.
                image, _ = self._read(volume, unscaled=True)
            else:
                corner = np.zeros((image.shape[0], *[1] * (image.ndim - 1)), np.float32)
                low, high = volume.window.invert(corner), volume.window.invert(corner + 1)
                unit = volume.window.unit
        slack = _TOLERANCE * (high - low)
        if (image < low - slack).any() or (image > high + slack).any():
            raise self._refuse(
                volume,
                f"intensities in {np.min(low):g}..{np.max(high):g} {unit}",
                f"{image.min():g}..{image.max():g}",
                "attack again; clipping would change what is scored",
            )
        if unit != "unit":
            return volume.window.apply(image)
        return np.clip(image, 0.0, 1.0)

    def _refuse(self, volume: Volume, expected: str, found: str, remedy: str) -> CaseError:
        return CaseError(volume.id, expected, f"{found} in {self.path.name}", remedy)


def save_adversarial(folder: Path, volume: Volume, image: np.ndarray, note: Note) -> Path:
    """Write one adversarial image below ``folder`` and return its path.

    In original units the file holds the values of [0, 1] and the header the slope and intercept of the intensity
    window, which every NIfTI reader applies: people see HU, and reading back loses not one bit. Where channels
    have a window each, which one slope cannot say, intensities are stored as they are, rounded to float32.

    Axes run as in the file the case was read from, so that both lie on top of each other in any viewer.

    Args:
        folder: ``results/<dataset>/adversarial``; one folder per surrogate and attack is made in it.
        volume: the case, for affine and intensity window.
        image: ``(C, *spatial)`` float32 in [0, 1].
        note: what it is; its ``units`` decide the intensities of the file.

    Example:
        >>> import tempfile
        >>> from robustvox.datasets import open_dataset
        >>> volume = open_dataset("phantom").load("val_000")
        >>> note = Note(key="0f", units="original", dataset="phantom", case="val_000", attack="gn:std=0.1",
        ...             surrogate="unet", surrogate_sha256="ab", protocol="robustvox-1", seed=0, data_sha256="cd",
        ...             forwards=0, backwards=0, seconds=0.0, flags=())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_adversarial(Path(folder), volume, volume.image, note)
        ...     path.name, bool((SavedVolume(path, read_note(path)).load(volume, "cd") == volume.image).all())
        ('val_000.nii.gz', True)
    """
    path = _free(folder / slug(note.surrogate) / slug(note.attack), case_slug(volume.id), note)
    path.parent.mkdir(parents=True, exist_ok=True)
    values, scaling = image.astype(np.float32), None
    if note.units == "original":
        if isinstance(volume.window, ChannelWindows):
            values = volume.window.invert(image)
        else:
            scaling = (volume.window.high - volume.window.low, volume.window.low)
    nifti = as_stored(values, volume, f"robustvox {note.key} {note.units}")
    if scaling is not None:
        nifti.header.set_slope_inter(*scaling)
    attach_note(nifti, _PREFIX + json.dumps(asdict(note), allow_nan=False).encode())
    nib.save(nifti, path)
    return path


def as_stored(values: np.ndarray, volume: Volume, description: str) -> nib.Nifti1Image:
    """Values of a case as NIfTI, along the axes of the file it was read from.

    Args:
        values: ``(C, *spatial)`` along the axes of the case; their dtype is that of the file.
        volume: the case.
        description: the 80 bytes of ``descrip``, for people.
    """
    values, affine = turn(
        values, volume.affine, (volume.stored.axes if volume.stored else "") or axes_of(volume.affine)
    )
    nifti = nib.Nifti1Image(values[0] if values.shape[0] == 1 else np.moveaxis(values, 0, -1), affine)
    nifti.set_data_dtype(values.dtype)
    nifti.header.set_xyzt_units("mm")
    nifti.header["descrip"] = description.encode()
    return nifti


def attach_note(nifti: nib.Nifti1Image, text: bytes) -> None:
    """Put a note, its prefix included, into the header."""
    extensions: Any = nifti.header.extensions
    extensions.append(Nifti1Extension(_COMMENT, text))


def notes_in(path: Path) -> list[bytes]:
    """The header extensions of a file that are notes of ours; the voxels are not read.

    Raises:
        ValueError: naming the file, if it is no NIfTI file.
    """
    try:
        extensions = read_header(path, path.name).header.extensions
    except Exception as error:  # nibabel and gzip raise a dozen types on damaged headers
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path.name}: expected a complete NIfTI file, found {reason}; save or copy it again"
        ) from error
    contents: list[Any] = [extension.get_content() for extension in extensions]
    return [c for c in contents if isinstance(c, bytes) and c.startswith(_PREFIX)]


def _free(folder: Path, stem: str, note: Note) -> Path:
    """The file of a volume: its own, if it was saved before, or one that is no other volume's."""
    path = folder / f"{stem}.nii.gz"
    if not path.exists():
        return path
    try:
        found = read_note(path)
    except ValueError:  # a torn write, which is replaced
        return path
    same = all(getattr(found, name) == getattr(note, name) for name in _IDENTITY)
    return path if same else folder / f"{stem}-{note.key[:8]}.nii.gz"


def read_note(path: Path) -> Note:
    """The note in the header of a saved volume; the voxels are not read.

    Raises:
        ValueError: naming the file, if it is no NIfTI file or holds no note.
        PredictionError: it is a saved prediction.
    """
    texts = notes_in(path)
    if any(text.startswith(PREDICTION) for text in texts):
        raise PredictionError(
            f"{path.name}: expected an adversarial volume, found a prediction; leave it out"
        )
    notes = [Note.parse(text) for text in texts]
    if len(notes) != 1 or notes[0] is None:
        found = "none" if not notes else f"{len(notes)}" if len(notes) > 1 else "a damaged one"
        raise ValueError(
            f"{path.name}: expected the note that `run --save-adversarial` puts into the header, found {found}; "
            "save the volume again with that option (other tools drop or cut header extensions)"
        )
    return notes[0]


def case_slug(case: str) -> str:
    """A case id as part of a file name; ids that differ only in what file names lose keep names of their own.

    Some file systems lose the case of letters, so an id with capitals gets a hash.

    Example:
        >>> case_slug("case_001"), case_slug("a b") != case_slug("a/b"), case_slug("Case_001")
        ('case_001', True, 'Case_001-63d21512')
    """
    plain = slug(case)
    if plain == case.lower() and not is_reserved(case):
        return plain
    return f"{plain[:80]}-{hashlib.sha256(case.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def slug(text: str) -> str:
    """A file name no file system minds and nobody can climb out of a folder with."""
    plain = re.sub(r"[^A-Za-z0-9.=-]+", "_", text).strip("._") or "unnamed"
    return (
        plain
        if len(plain) <= 120
        else f"{plain[:110]}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    )
