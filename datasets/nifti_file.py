"""The bytes of a NIfTI file: read to the end, checked, and bounded before anything is allocated for them.

A gzip stream says at its end whether it is what was written; nibabel stops reading where the voxels end, before that.
So the whole file is read here, once, and handed to nibabel from memory.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np

from .base import CaseError
from .limits import require_memory

GZIP = b"\x1f\x8b"
CHUNK = 1 << 20
MAX_VOXELS = 2**31
"""Headers that claim more than this are refused before a byte of the data is read."""

TRAILER = 1 << 20
"""Bytes after the voxels that are kept; more is no NIfTI file."""

HEADER_BYTES = 16 << 20
"""Header and extensions take at most this; the voxels begin before."""

PER_VOXEL = 40
"""Bytes that reading and preparing a voxel takes at the most, of image and label together; measured for every type, one
channel: 37.7 to 39.8."""

LOOKS = (
    (b"<?xml", "XML, as GIFTI is"),
    (b"CDF", "MINC"),
    (b"\x89HDF", "HDF5, as MINC 2 is"),
    (b"# === DATA DESCRIPTION", "the header of a Philips PAR/REC pair"),
    (b"type", "text, as the header of AFNI is"),
    (b"NRRD", "NRRD"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself"),
    (b"<!doctype html", "a web page; the download was not of the file"),
    (b"<html", "a web page; the download was not of the file"),
)


def read_image(path: Path, case_id: str) -> Any:
    """A NIfTI image of nibabel over the whole, checked content of a file.

    Raises:
        CaseError: no NIfTI file of one piece, a header that claims what cannot be, more memory than
            :func:`~.limits.require_memory` allows, or bytes that are missing, too many or not those that were compressed.
    """
    image = read_header(path, case_id)
    offset, shape, itemsize = _layout(image)
    pair = header_beside(path) is not None
    size = math.prod(shape) * itemsize
    size_text = " x ".join(map(str, shape))
    require_memory(math.prod(shape) * PER_VOXEL, f"reading {path.name} ({size_text} voxels)", case_id)
    with _opened(path, case_id) as stream:
        content = _read(stream, offset + size + TRAILER + 1)
        if not offset + size <= len(content) <= offset + size + TRAILER:
            found = f"{len(content)}" if len(content) < offset + size else "more"
            raise CaseError(
                case_id,
                f"a complete NIfTI file of {offset + size} bytes",
                f"{found} in {path.name}",
                "download or convert it again",
            )
    if not pair:
        return type(image).from_bytes(content)
    image.file_map["image"].fileobj = io.BytesIO(content)
    return type(image).from_file_map(image.file_map)


def read_header(path: Path, case_id: str) -> Any:
    """A NIfTI image of nibabel whose voxels were not read; its header, affine and shape are those of the file.

    Raises:
        CaseError: no NIfTI file of one piece, or a header that cannot be read.
    """
    beside = header_beside(path)
    if beside is not None:
        return _read_pair(beside, case_id)
    with _opened(path, case_id) as stream:
        head = _read(stream, 540)
        kind = _kind(head, path, case_id)
        _check_claim(kind, head, path, case_id)
        offset = _offset(head, path, case_id)
        head += _read(stream, offset - len(head)) if offset > len(head) else b""
    if len(head) < offset:
        raise CaseError(
            case_id, f"a header of {offset} bytes", f"{len(head)} in {path.name}", "download it again"
        )
    # Nibabel reads extensions up to the offset; voxels are asked for nowhere below.
    return kind.from_bytes(head)


def header_beside(path: Path) -> Path | None:
    """The header of a file of bare voxels, ``a.hdr`` of ``a.img``; None for a file that has its own."""
    found = re.fullmatch(r"(.+)\.img(\.gz)?", path.name)
    return path.with_name(f"{found[1]}.hdr{found[2] or ''}") if found else None


def _read_pair(path: Path, case_id: str) -> Any:
    """The image of a header in a file of its own; the voxels are not there yet."""
    with _opened(path, case_id) as stream:
        head = _read(stream, HEADER_BYTES)
    kinds = {b"ni1\0": nib.Nifti1Pair, b"ni2\0": nib.Nifti2Pair}
    kind = kinds.get(head[344:348]) or kinds.get(head[4:8])
    if kind is None:
        raise CaseError(
            case_id, "the header of a NIfTI pair", f"another format in {path.name}", "convert it to .nii.gz"
        )
    _check_claim(kind, head, path, case_id)
    header, voxels = (nib.FileHolder(fileobj=io.BytesIO(content)) for content in (head, b""))
    return kind.from_file_map({"header": header, "image": voxels})


def _check_claim(kind: Any, head: bytes, path: Path, case_id: str) -> None:
    """The sides and bits a header has, before anything else is believed of it."""
    header = kind.header_class
    # As stored: nibabel quietly mends what contradicts itself when it loads.
    stored = header(head[: header.template_dtype.itemsize], check=False)
    shape, bits = stored.get_data_shape(), int(stored["bitpix"])
    if not shape or any(side < 1 for side in shape):
        found = f"shape {tuple(map(int, shape))} in {path.name}"
        raise CaseError(case_id, "an image with voxels", found, "convert the file again")
    if math.prod(map(int, shape)) > MAX_VOXELS:
        found = f"a header claiming {tuple(map(int, shape))}"
        raise CaseError(case_id, f"at most {MAX_VOXELS} voxels", found, f"replace {path.name}")
    # NaN is how some programs say that nothing is scaled; infinity is nothing that anybody means.
    scale = float(stored["scl_slope"]), float(stored["scl_inter"])
    if any(map(math.isinf, scale)):
        found = f"{scale[0]:g} and {scale[1]:g} in {path.name}"
        raise CaseError(case_id, "a finite slope and intercept", found, "convert the file again")
    wanted = 8 * np.dtype(stored.get_data_dtype()).itemsize
    if bits != wanted:
        found = f"{bits} in the header of {path.name}"
        raise CaseError(case_id, f"{wanted} bits per voxel of its type", found, "convert the file again")


def _layout(image: Any) -> tuple[int, tuple[int, ...], int]:
    """Offset, shape and bytes per voxel of a file, as the header has them."""
    shape = tuple(int(side) for side in image.shape)
    return int(image.dataobj.offset), shape, np.dtype(image.get_data_dtype()).itemsize


def _kind(head: bytes, path: Path, case_id: str) -> Any:
    """The class of nibabel for a single file of NIfTI-1 or NIfTI-2.

    Raises:
        CaseError: it is neither; says what it looks like.
    """
    sizes = {int.from_bytes(head[:4], order) for order in ("little", "big")}  # type: ignore[arg-type]
    if 348 in sizes and head[344:348] == b"n+1\0":
        return nib.Nifti1Image
    if 540 in sizes and head[4:8] == b"n+2\0":
        return nib.Nifti2Image
    looks = next((what for start, what in LOOKS if head.lower().startswith(start.lower())), "")
    if head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0":
        looks = "a header whose voxels lie in another file"
    elif not looks:
        looks = (
            "a file of 0 bytes"
            if not head
            else "another format"
            if len(head) >= 348
            else f"{len(head)} bytes"
        )
    raise CaseError(
        case_id,
        "a complete NIfTI file that holds header and voxels",
        f"{looks} in {path.name}",
        "convert it to .nii.gz",
    )


def _offset(head: bytes, path: Path, case_id: str) -> int:
    """Where the voxels begin; 0 would take the header for voxels."""
    order = "<" if int.from_bytes(head[:4], "little") in (348, 540) else ">"
    first = head[4:8] != b"n+2\0"
    at, kind, least = (108, "f4", 352) if first else (168, "i8", 544)
    value = float(np.frombuffer(head, f"{order}{kind}", 1, at)[0])
    if not (math.isfinite(value) and least <= value <= HEADER_BYTES and value == int(value)):
        raise CaseError(
            case_id,
            f"voxels that begin at a byte from {least} to {HEADER_BYTES}",
            f"vox_offset {value:g} in {path.name}",
            "convert the file again",
        )
    return int(value)


@contextmanager
def _opened(path: Path, case_id: str) -> Iterator[BinaryIO]:
    """The uncompressed content of a file; every way in which reading it fails is a refusal."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CaseError(case_id, "a file", f"something else at {path.name}", "put the file there")
        with path.open("rb") as file:
            packed = file.read(2) == GZIP
            file.seek(0)
            if not packed:
                yield file
                return
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream  # type: ignore[misc]
    except (OSError, EOFError, zlib.error, ValueError) as error:
        if isinstance(error, CaseError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CaseError(
            case_id, "a complete NIfTI file", f"{path.name}: {reason}", "download or convert it again"
        ) from error


def _read(stream: BinaryIO, most: int) -> bytes:
    """Up to ``most`` bytes; less means that the stream has ended, and with it that gzip has compared its checksum."""
    pieces, left = [], most
    while left > 0 and (piece := stream.read(min(left, CHUNK))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
