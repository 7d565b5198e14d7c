"""Marked volumes as NIfTI files: voxels replaced, every other byte kept, and the seal beside the file or in its header.

A file is taken apart into the bytes before the voxels, the voxels and what follows. Marking changes the voxels alone;
a seal is bound to all three. So header, affine, scaling, dtype, byte order and extensions come through as they were,
and unlocking gives back the file's uncompressed bytes. Compression is not kept: gzip has many ways to say the same.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from robustvox.datasets import CaseError, Volume
from robustvox.datasets.geometry import axes_of, turn
from robustvox.datasets.nifti import read_array

from .seal import Deriving, SealError, Terms, seal_bytes, unseal_bytes
from .writing import replace_file

SUFFIXES = (".nii.gz", ".nii")

_PREFIX = b"robustvox seal "
_COMMENT = 6  # code of plain text among NIfTI's header extensions
_TRAILER = 1 << 20  # bytes after the voxels that are kept; more is no NIfTI file


@dataclass(frozen=True, eq=False)
class StoredVolume:
    """A NIfTI file taken apart.

    Args:
        head: bytes before the voxels: header and extensions.
        data: the voxels as stored.
        tail: bytes after them, as a rule none.
        dtype: of the voxels, with byte order.
        shape: as in the header; the first axis runs fastest.
        slope, inter: what is stored times slope plus inter is the intensity.
    """

    head: bytes
    data: bytes
    tail: bytes
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    slope: float
    inter: float

    @property
    def voxels(self) -> np.ndarray:
        """What is stored, unscaled, read-only."""
        return np.frombuffer(self.data, self.dtype).reshape(self.shape, order="F")

    @property
    def intensities(self) -> np.ndarray:
        """Scaled, float64."""
        return self.voxels.astype(np.float64) * self.slope + self.inter

    @property
    def digest(self) -> bytes:
        """SHA-256 of all of it."""
        return hashlib.sha256(self.head + self.data + self.tail).digest()

    def with_voxels(self, voxels: np.ndarray) -> StoredVolume:
        """The same file with other voxels of its dtype and shape."""
        return replace(self, data=voxels.astype(self.dtype, copy=False).tobytes(order="F"))

    def write(self, path: Path) -> None:
        """Write the file, compressed if its name says so; it is complete or not there."""
        content = self.head + self.data + self.tail
        replace_file(
            path, gzip.compress(content, 6, mtime=0) if path.name.endswith(".gz") else content, durable=True
        )


def case_name(path: Path) -> str:
    """The file's name without ``.nii`` or ``.nii.gz``."""
    return next((path.name.removesuffix(s) for s in SUFFIXES if path.name.endswith(s)), path.name)


def read_stored(path: Path) -> StoredVolume:
    """Take a NIfTI file apart.

    Raises:
        CaseError: a damaged file, one with a separate header, or voxels that are neither real nor whole numbers.
    """
    case = case_name(path)
    read_array(path, case)  # refuses all that cannot be read as a volume
    image: Any = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
        raise CaseError(
            case, "a NIfTI file that holds header and voxels", type(image).__name__, "convert it to .nii.gz"
        )
    proxy: Any = image.dataobj
    dtype, shape = np.dtype(proxy.dtype), tuple(proxy.shape)
    if dtype.kind not in "iuf" or dtype.itemsize > 8 or (dtype.kind in "iu" and dtype.itemsize > 4):
        raise CaseError(
            case, "real voxels of at most 64 bits or whole ones of at most 32", f"{dtype}", "convert the file"
        )
    offset, size = int(proxy.offset), math.prod(shape) * dtype.itemsize
    opener = gzip.open if path.read_bytes()[:2] == b"\x1f\x8b" else open
    with opener(path, "rb") as stream:
        content = stream.read(offset + size + _TRAILER + 1)
    if not offset + size <= len(content) <= offset + size + _TRAILER:
        raise CaseError(
            case, f"{offset + size} bytes", f"{len(content)} or more in {path.name}", "copy the file again"
        )
    return StoredVolume(
        content[:offset],
        content[offset : offset + size],
        content[offset + size :],
        dtype,
        shape,
        float(proxy.slope),
        float(proxy.inter),
    )


def on_stored_axes(array: np.ndarray, volume: Volume) -> np.ndarray:
    """``(C, *spatial)`` along the axes of the volume, permuted and flipped to run along those of its file."""
    return array if volume.stored is None else turn(array, volume.affine, volume.stored.axes)[0]


def only_turned(volume: Volume, image: np.ndarray, affine: np.ndarray) -> bool:
    """Whether a volume was prepared from a file by turning its axes and by nothing else that moves a voxel.

    Args:
        volume: the prepared file.
        image: the file, ``(C, *spatial)`` along its own axes.
        affine: of the file.
    """
    axes = axes_of(volume.affine) if volume.stored is None else volume.stored.axes
    back, back_affine = turn(volume.image, volume.affine, axes)
    if back.shape != image.shape or not np.allclose(back_affine, affine, rtol=0, atol=1e-4):
        return False
    return volume.original is None or np.array_equal(
        on_stored_axes(volume.original, volume), image.astype(volume.original.dtype), equal_nan=True
    )


def changeable(stored: StoredVolume, volume: Volume) -> np.ndarray:
    """Voxels ``(C, *spatial)``, bool, along the axes of the volume, whose intensity lies inside the window of the prepared volume.

    Outside, a network sees 0 or 1 whatever the file holds; a mark there could only be read after a change that is
    larger than it.
    """
    low, high = _limits(volume)
    intensities = _channels_first(stored.intensities, volume)
    if volume.stored is not None:
        intensities, _ = turn(intensities, volume.stored.affine, axes_of(volume.affine))
    return (intensities >= low) & (intensities <= high)


def embed(stored: StoredVolume, volume: Volume, marked: np.ndarray) -> StoredVolume:
    """The file with a mark in its voxels, never further from the original than the mark is.

    Args:
        stored: the original.
        volume: the same, prepared for networks; its axes may be turned, see :func:`only_turned`.
        marked: the marked image ``(C, *spatial)`` in [0, 1] along the axes of the volume.

    Raises:
        CaseError: the file's grey values are too coarse for any of the mark.
    """
    low, high = _limits(volume)
    change = (marked.astype(np.float64) - volume.image) * (high - low) / stored.slope
    change[~changeable(stored, volume)] = 0.0
    change = on_stored_axes(change, volume)
    change = change[0] if stored.voxels.ndim == change.ndim - 1 else np.moveaxis(change, 0, -1)
    change = change.reshape(stored.shape)
    before = stored.voxels
    if stored.dtype.kind == "f":
        after = (before + change).astype(stored.dtype)
        too_far = np.abs(after.astype(np.float64) - before) > np.abs(change)
        after = np.where(too_far, np.nextafter(after, before), after)
        after = np.where(change == 0, before, after)
    else:
        limits = np.iinfo(stored.dtype)
        after = np.clip(before.astype(np.int64) + np.trunc(change).astype(np.int64), limits.min, limits.max)
    result = stored.with_voxels(after)
    if result.data == stored.data and not np.array_equal(marked, volume.image):
        if not changeable(stored, volume).any():
            raise CaseError(
                volume.id, "intensities inside the window", "none", "name the dataset the file belongs to"
            )
        step, width = f"{abs(stored.slope):g}", f"{float(np.max(high - low)):g}"
        raise CaseError(
            volume.id,
            "grey values finer than the mark",
            f"steps of {step} in a window of {width}",
            "raise eps",
        )
    return result


def seal_file(
    original: StoredVolume, marked: StoredVolume, *, key: Deriving, case: str, terms: Terms
) -> bytes:
    """The seal of a marked file.

    Raises:
        SealError: if more than the voxels differ.
    """
    if (original.head, original.tail) != (marked.head, marked.tail):
        raise SealError(
            "expected a marked file that differs from the original in its voxels alone, got another header"
        )
    return seal_bytes(
        original.data, marked.data, dtype=marked.dtype, bound=marked.digest, key=key, case=case, terms=terms
    )


def unlock_file(marked: StoredVolume, seal: bytes, *, key: Deriving) -> StoredVolume:
    """The original file.

    Raises:
        WrongKey: another key, or a changed seal.
        SealError: no seal, or one of another file.
    """
    return replace(marked, data=unseal_bytes(seal, marked.data, bound=marked.digest, key=key))


def attach(marked: StoredVolume, seal: bytes) -> StoredVolume:
    """The marked file with its seal as the last extension of its header.

    Raises:
        SealError: if the header has no place where readers would find it and from where it could be taken again.
    """
    layout = _Layout.of(marked.head)
    content = _PREFIX + base64.b64encode(seal)
    size = -(-(8 + len(content)) // 16) * 16
    extension = struct.pack(f"{layout.order}ii", size, _COMMENT) + content.ljust(size - 8, b"\0")
    result = replace(
        marked, head=layout.moved(marked.head + extension, len(marked.head) + size, extended=True)
    )
    if detach(result)[1] != seal or detach(result)[0].head != marked.head:
        raise SealError(
            "expected a header that ends where its extensions end, found other bytes there; use --seal sidecar"
        )
    return result


def detach(marked: StoredVolume) -> tuple[StoredVolume, bytes | None]:
    """The marked file as it was before :func:`attach`, and the seal; None and the file itself where there is none."""
    layout = _Layout.of(marked.head)
    at = layout.extensions(marked.head)
    if not at:
        return marked, None
    text = marked.head[at[-1] + 8 :].rstrip(b"\0")
    if not text.startswith(_PREFIX):
        return marked, None
    try:
        seal = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        raise SealError(
            "expected a seal in the header extension, found damaged text; copy the file again"
        ) from None
    return replace(marked, head=layout.moved(marked.head[: at[-1]], at[-1], extended=len(at) > 1)), seal


@dataclass(frozen=True)
class _Layout:
    """Where a NIfTI-1 or NIfTI-2 header keeps what :func:`attach` has to change."""

    order: str
    size: int
    offset_at: int
    offset_format: str

    @classmethod
    def of(cls, head: bytes) -> _Layout:
        for order in "<>":
            size = struct.unpack_from(f"{order}i", head)[0]
            if size == 348:
                return cls(order, size, 108, "f")
            if size == 540:
                return cls(order, size, 168, "q")
        raise SealError("expected a NIfTI-1 or NIfTI-2 header, found another; convert the file")

    def moved(self, head: bytes, offset: int, *, extended: bool) -> bytes:
        """The header with the voxels at another offset, and the flag that says whether extensions follow."""
        changed = bytearray(head)
        struct.pack_into(f"{self.order}{self.offset_format}", changed, self.offset_at, offset)
        changed[self.size : self.size + 4] = bytes([int(extended), 0, 0, 0])
        return bytes(changed)

    def extensions(self, head: bytes) -> list[int]:
        """Where each extension starts; none if the flag or the chain says otherwise."""
        at, found = self.size + 4, []
        if len(head) < at or head[self.size] == 0:
            return []
        while at + 16 <= len(head):
            size = struct.unpack_from(f"{self.order}i", head, at)[0]
            if size < 16 or at + size > len(head):
                return []
            found.append(at)
            at += size
        return found if at == len(head) else []


def _channels_first(array: np.ndarray, volume: Volume) -> np.ndarray:
    """Stored ``(*spatial)`` or ``(*spatial, C)`` as ``(C, *spatial)``."""
    return array[None] if array.ndim == volume.image.ndim - 1 else np.moveaxis(array, -1, 0)


def _limits(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest intensity of the window per channel, float64, to be used with ``(C, *spatial)``."""
    corner = np.zeros((volume.image.shape[0], *[1] * (volume.image.ndim - 1)), np.float32)
    low, high = volume.window.invert(corner), volume.window.invert(corner + 1)
    return low.astype(np.float64), high.astype(np.float64)
